//! Who speaks for a pod: nobody who has its address, and nobody who knows where the agent listens.

use std::io::{Read, Write};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpStream};
use std::sync::Arc;

use anyhow::ensure;
use mesh_tests::forged;
use mesh_tests::h2raw::{END_HEADERS, PREFACE, block, frame, kind};
use mesh_tests::http1::{Client, echo_server};
use mesh_tests::lab::{Netns, eventually};
use mesh_tests::nodes::Nodes;
use mesh_tests::pki::Claims;
use mesh_tests::server::Server;
use mesh_tests::sockets::{self, Host};
use mesh_tests::{PATIENCE, SOON};
use rustls::version::TLS13;
use socket2::{Domain, Socket, Type};

use crate::scene::{counted, guard, id, need_scene, rest};
use crate::{ask, echo};

/// connect(2) from the node itself.
fn from_node(nodes: &Nodes, from: Option<SocketAddr>, to: SocketAddr) -> std::io::Result<TcpStream> {
    let dial = || {
        let socket = Socket::new(Domain::for_address(to), Type::STREAM, None)?;
        if let Some(from) = from {
            socket.bind(&from.into())?;
        }
        sockets::connect(socket, to, PATIENCE)
    };
    nodes.topology.fabric().run(dial).map_err(std::io::Error::other)?
}

#[test]
fn whoever_takes_a_pods_address_is_not_that_pod() {
    let scene = need_scene!();
    let nodes = &scene.nodes;
    let (ghost, vault) = (scene.pod(0, "ghost"), scene.pod(1, "vault"));
    let (requests, bytes) = (nodes.port(), nodes.port());
    let (_http, seen) = echo_server(vault.listen(requests).unwrap(), "vault");
    let echoed = Server::new(vault.listen(bytes).unwrap(), |stream, _| echo(stream));
    let rules = ", rules: [{from: [{source: {principals: [cluster.local/ns/shop/sa/ghost]}}]}]";
    guard(scene, "AuthorizationPolicy", "vault", rules);
    assert_eq!(Client::new(ghost.connect(vault.at(requests)).unwrap()).get("v", "/").unwrap().status(), 200);
    assert_eq!(ask(&mut ghost.connect(vault.at(bytes)).unwrap(), b"it is me"), b"it is me");
    let (heard, opened) = (seen.count(), echoed.accepted());

    // The pod has gone, and its object hasn't been taken back yet.
    let address = ghost.v4();
    nodes.topology.fabric().ip(&format!("link set {} down\n", ghost.veth())).unwrap();
    drop(ghost);
    let stranger = Host::new(&nodes.topology, nodes.nodes[1].pod("stranger").unwrap()).unwrap();
    let from = SocketAddr::new(address.into(), 0);
    let by = |host: &Host, to| host.connect_as(from, to);
    let attempt = |what: &str,
                   netns: &Netns,
                   device: &str,
                   enrolled: bool,
                   dial: &dyn Fn(SocketAddr) -> std::io::Result<TcpStream>| {
        netns.ip(&format!("addr add {address}/32 dev {device}\n")).unwrap();
        vault.netns().ip("neigh flush dev eth0\n").unwrap();
        // Where nothing that a client could ask for would let it in it is reset, and else answered with 403.
        let answer = dial(vault.at(requests)).and_then(|stream| Client::new(stream).get("v", "/"));
        assert!(answer.as_ref().map_or(true, |answer| answer.status() == 403), "{what}: {answer:?}");
        let said = dial(vault.at(bytes)).map(|mut stream| {
            let _ = stream.write_all(b"it is me");
            rest(&mut stream)
        });
        assert_eq!(said.unwrap_or_default(), b"", "{what}");
        if !enrolled {
            let before = Nodes::handshakes(&nodes.far, "inbound", "no_certificate");
            let config = Arc::new(forged::client(None, &TLS13).unwrap());
            assert!(forged::ask(&config, dial(vault.at(requests)).unwrap()).is_err(), "{what}");
            counted(&nodes.far, "inbound", "no_certificate", before);
        }
        netns.ip(&format!("addr del {address}/32 dev {device}\n")).unwrap();
    };
    attempt("another host", nodes.outside.netns(), "eth0", false, &|to| by(&nodes.outside, to));
    attempt("the node", nodes.topology.fabric(), "br0", false, &|to| from_node(nodes, Some(from), to));
    attempt("a stranger on the node", stranger.netns(), "eth0", false, &|to| by(&stranger, to));
    attempt("an enrolled neighbour", nodes.till.netns(), "eth0", true, &|to| by(&nodes.till, to));
    attempt("an enrolled pod elsewhere", nodes.web.netns(), "eth0", true, &|to| by(&nodes.web, to));
    assert_eq!((seen.count(), echoed.accepted()), (heard, opened), "the application heard of one of them");
}

#[test]
fn the_agents_own_ports_lead_past_no_policy() {
    let scene = need_scene!();
    let nodes = &scene.nodes;
    let keep = scene.pod(1, "keep");
    let stranger = Host::new(&nodes.topology, nodes.nodes[1].pod("prowler").unwrap()).unwrap();
    let port = nodes.port();
    let (server, seen) = echo_server(keep.listen(port).unwrap(), "keep");
    guard(scene, "PeerAuthentication", "keep", ", mtls: {mode: STRICT}");
    guard(scene, "AuthorizationPolicy", "keep", "");
    let web = scene.root.forge(&Claims::of(&[&id("web")])).unwrap();
    let (proven, unproven) =
        (forged::client(Some(&web), &TLS13).unwrap(), forged::client(None, &TLS13).unwrap());
    let (proven, unproven) = (Arc::new(proven), Arc::new(unproven));
    let target = keep.at(port);
    let connect = block(&[(":method", "CONNECT"), (":authority", &target.to_string())]);
    let words: [&[u8]; 4] = [
        format!("GET / HTTP/1.1\r\nHost: {target}\r\nConnection: close\r\n\r\n").as_bytes().to_vec().leak(),
        format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\nGET / HTTP/1.1\r\nHost: k\r\n\r\n")
            .into_bytes()
            .leak(),
        [PREFACE, &frame(kind::SETTINGS, 0, 0, &[]), &frame(kind::HEADERS, END_HEADERS, 1, &connect)]
            .concat()
            .leak(),
        b"hello",
    ];
    type Dial<'d> = &'d (dyn Fn(SocketAddr) -> std::io::Result<TcpStream> + Sync);
    let own: [IpAddr; 4] =
        [keep.v4().into(), keep.v6().into(), [127, 0, 0, 1].into(), std::net::Ipv6Addr::LOCALHOST.into()];
    let ways: [(&str, Dial<'_>, &[IpAddr]); 6] = [
        ("another host", &|to| nodes.outside.connect(to), &own[..2]),
        ("the node", &|to| from_node(nodes, None, to), &own[..1]),
        ("a stranger on the node", &|to| stranger.connect(to), &own[..2]),
        ("an enrolled neighbour", &|to| nodes.till.connect(to), &own[..2]),
        ("an enrolled pod elsewhere", &|to| nodes.web.connect(to), &own[..2]),
        ("the pod itself", &|to| keep.connect(to), &own),
    ];
    // At the same time: where TLS is expected, what is none is waited for.
    let attempt = &|what: &str, dial: Dial<'_>, to: SocketAddr| {
        for words in words {
            let Ok(mut stream) = dial(to) else { continue };
            let _ = stream.set_read_timeout(Some(PATIENCE));
            let _ = stream.write_all(words).and_then(|()| stream.shutdown(Shutdown::Write));
            let answer = rest(&mut stream);
            let text = String::from_utf8_lossy(&answer);
            assert!(!text.contains(" 200 ") && !text.contains("keep"), "{what} to {to}: {text}");
        }
        for config in [&proven, &unproven] {
            let asked = dial(to).map_err(Into::into).and_then(|stream| forged::ask(config, stream));
            assert!(!matches!(asked, Ok(true)), "{what} was answered at {to}");
        }
    };
    std::thread::scope(|scope| {
        for (what, dial, addresses) in ways {
            for to in addresses.iter().flat_map(|ip| [15001, 15006, 15008].map(|port| (*ip, port).into())) {
                scope.spawn(move || attempt(what, dial, to));
            }
        }
    });
    assert_eq!((seen.count(), server.accepted()), (0, 0), "the application heard of one of them");
    // The policies are what holds: without them it would have.
    guard(scene, "AuthorizationPolicy", "keep", ", rules: [{}]");
    eventually(SOON, || {
        let answer = Client::new(nodes.web.connect(target)?).get("k", "/")?;
        ensure!(answer.status() == 200, "{}", answer.head);
        Ok(())
    })
    .unwrap();
    let mut plain = nodes.outside.connect(target).unwrap();
    let _ = plain.write_all(b"GET / HTTP/1.1\r\n\r\n");
    assert!(!matches!(plain.read(&mut [0]), Ok(1..)));
}

//! The kernel programs, seen from outside: what applications are told, what is let through, what is left in the maps.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use anyhow::ensure;
use mesh_tests::http1::{Client, echo_server};
use mesh_tests::lab::{PodObject, eventually};
use mesh_tests::server::Server;
use mesh_tests::shop::{NAMESPACE, Shop};
use mesh_tests::sockets::Host;
use mesh_tests::{PATIENCE, SOON, need_agent, need_shop, peers, shared_shop};
use nix::libc::{ECONNREFUSED, EHOSTUNREACH};

shared_shop!("kernel");

fn get_at(host: &Host, address: SocketAddr) -> String {
    Client::new(host.connect(address).unwrap()).get("k", "/").unwrap().text()
}

#[test]
fn connections_to_a_service_are_captured_in_every_address_form() {
    let shop = need_shop!();
    let service = shop.http("forms", "http", 1).unwrap();
    let (captured, published) = (shop.reason("captured"), shop.reason("published"));
    assert_eq!(get_at(&shop.web, service.at()), "cart-1");
    assert_eq!(get_at(&shop.web, service.at6()), "cart-1");
    let mapped = shop.web.connect_mapped(service.v4, 80).unwrap();
    assert_eq!(Client::new(mapped).get("k", "/").unwrap().text(), "cart-1");
    shop.reason_grows("captured", captured, 3.0).unwrap();
    shop.reason_grows("published", published, 3.0).unwrap();
}

#[test]
fn getpeername_answers_with_the_address_that_was_dialled() {
    let shop = need_shop!();
    let service = shop.http("peername", "http", 1).unwrap();
    let before = shop.reason("peer_original");
    for address in [service.at(), service.at6()] {
        assert_eq!(shop.web.connect(address).unwrap().peer_addr().unwrap(), address);
    }
    let mapped = shop.web.connect_mapped(service.v4, 80).unwrap().peer_addr().unwrap();
    assert_eq!((mapped.ip(), mapped.port()), (service.v4.to_ipv6_mapped().into(), 80));
    shop.reason_grows("peer_original", before, 3.0).unwrap();
}

#[test]
fn accept_and_getpeername_tell_the_server_its_true_client() {
    let shop = need_shop!();
    let port = shop.port();
    let (report, peers) = std::sync::mpsc::channel();
    let report = std::sync::Mutex::new(report);
    let _server = Server::new(shop.carts[0].listen(port).unwrap(), move |mut stream, accepted| {
        let _ = report.lock().unwrap().send((accepted, stream.peer_addr().unwrap()));
        let _ = stream.write_all(b"x");
    });
    let service = shop.expose("trueclient", "tcp", port, &[&shop.carts[0]]).unwrap();
    for address in [service.at(), service.at6()] {
        let mut stream = shop.web.connect(address).unwrap();
        stream.read_exact(&mut [0]).unwrap();
        let (accepted, asked) = peers.recv_timeout(PATIENCE).unwrap();
        assert_eq!(accepted.ip(), asked.ip().to_canonical());
        let own: [IpAddr; 2] = shop.web.addresses();
        assert!(own.contains(&accepted.ip()), "accept(2) said {accepted}, the client is {own:?}");
    }
}

#[test]
fn a_client_outside_the_mesh_is_shown_to_the_server_with_address_and_port() {
    let shop = need_shop!();
    let port = shop.port();
    let (server, _seen) = echo_server(shop.carts[0].listen(port).unwrap(), "cart-1");
    let before = (shop.reason("inbound_captured"), shop.reason("peer_client"));
    let stream = shop.outside.connect(shop.carts[0].at(port)).unwrap();
    let local = stream.local_addr().unwrap();
    assert_eq!(Client::new(stream).get("o", "/").unwrap().status(), 200);
    assert_eq!(server.peers(), [local]);
    let stream = shop.outside.connect(shop.carts[0].at6(port)).unwrap();
    let local6 = stream.local_addr().unwrap();
    assert_eq!(Client::new(stream).get("o", "/").unwrap().status(), 200);
    assert_eq!(server.peers(), [local, local6]);
    shop.reason_grows("inbound_captured", before.0, 2.0).unwrap();
    shop.reason_grows("peer_client", before.1, 2.0).unwrap();
}

#[test]
fn an_application_cannot_bind_the_in_pod_ports_not_even_by_sharing_them() {
    let shop = need_shop!();
    let before = shop.reason("agent_port_bound");
    let script = "import socket, sys\n\
        for family, ip in [(socket.AF_INET, '127.0.0.1'), (socket.AF_INET, '0.0.0.0'), (socket.AF_INET6, '::')]:\n\
        \x20for port in (15001, 15006, 15008):\n\
        \x20 s = socket.socket(family)\n\
        \x20 s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)\n\
        \x20 try: s.bind((ip, port)); sys.exit(f'{ip} {port} was bound')\n\
        \x20 except OSError as e: assert e.errno == 98, e\n";
    shop.web.command("python3").args(["-c", script]).run(PATIENCE).unwrap();
    shop.reason_grows("agent_port_bound", before, 9.0).unwrap();
}

#[test]
fn the_in_pod_ports_are_refused_to_applications() {
    let shop = need_shop!();
    let before = shop.reason("dialled_agent_port");
    let locals: [IpAddr; 4] = [
        Ipv4Addr::LOCALHOST.into(),
        Ipv4Addr::new(127, 8, 9, 10).into(),
        Ipv6Addr::LOCALHOST.into(),
        Ipv4Addr::LOCALHOST.to_ipv6_mapped().into(),
    ];
    let mut dials = 0.0;
    for ip in locals {
        for port in [15001, 15006, 15008] {
            let error = shop.web.connect(SocketAddr::new(ip, port)).expect_err("dialled the agent itself");
            assert_eq!(error.raw_os_error(), Some(ECONNREFUSED), "{ip} {port}: {error}");
            dials += 1.0;
        }
    }
    for ip in [IpAddr::from(Ipv4Addr::UNSPECIFIED), Ipv6Addr::UNSPECIFIED.into()] {
        let error = shop.web.connect(SocketAddr::new(ip, 15001)).expect_err("dialled the agent itself");
        assert_eq!(error.raw_os_error(), Some(ECONNREFUSED), "{ip}: {error}");
        dials += 1.0;
    }
    shop.reason_grows("dialled_agent_port", before, dials).unwrap();
}

#[test]
fn the_in_pod_ports_are_closed_to_other_hosts() {
    let shop = need_shop!();
    let before = shop.reason("inbound_agent_port");
    for port in [15001, 15006] {
        for address in [shop.web.at(port), shop.web.at6(port)] {
            let got = shop.outside.connect(address);
            assert!(got.is_err(), "{address} let an outsider in");
        }
    }
    shop.reason_grows("inbound_agent_port", before, 4.0).unwrap();
    // From a pod, by the pod's own address: captured, carried, and nothing of the agent behind it answers.
    let mut dialled = match shop.web.connect(shop.carts[0].at(15006)) {
        Ok(stream) => stream,
        Err(_) => return,
    };
    let _ = dialled.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n");
    let mut answer = Vec::new();
    let _ = dialled.read_to_end(&mut answer);
    assert!(!answer.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&answer));
}

#[test]
fn a_service_without_endpoints_is_ehostunreach() {
    let shop = need_shop!();
    let service = shop.expose("empty", "tcp", 1, &[]).unwrap();
    let before = shop.reason("no_endpoint");
    for address in [service.at(), service.at6()] {
        eventually(SOON, || {
            let error = shop.web.connect(address).map(drop).unwrap_err();
            ensure!(error.raw_os_error() == Some(EHOSTUNREACH), "{address}: {error}");
            Ok(())
        })
        .unwrap();
    }
    shop.reason_grows("no_endpoint", before, 2.0).unwrap();
}

#[test]
fn loopback_stays_the_pods_own() {
    let shop = need_shop!();
    let port = shop.port();
    let (server, seen) = echo_server(shop.web.listen(port).unwrap(), "itself");
    let before = shop.reason("loopback");
    for ip in
        [IpAddr::from(Ipv4Addr::LOCALHOST), Ipv6Addr::LOCALHOST.into(), Ipv4Addr::new(127, 1, 2, 3).into()]
    {
        assert_eq!(get_at(&shop.web, SocketAddr::new(ip, port)), "itself");
    }
    assert_eq!(seen.count(), 3);
    assert!(server.peers().iter().all(|peer| peer.ip().is_loopback()), "{:?}", server.peers());
    shop.reason_grows("loopback", before, 3.0).unwrap();
}

#[test]
fn a_pod_reaches_itself_by_its_own_address() {
    let shop = need_shop!();
    let port = shop.port();
    let (_server, _seen) = echo_server(shop.web.listen(port).unwrap(), "itself");
    assert_eq!(get_at(&shop.web, shop.web.at(port)), "itself");
    assert_eq!(get_at(&shop.web, shop.web.at6(port)), "itself");
}

#[test]
fn a_pod_that_is_not_enrolled_is_not_touched() {
    let shop = need_shop!();
    let plain = Host::new(&shop.topology, shop.node.pod("plain").unwrap()).unwrap();
    let object = PodObject::of(&plain, NAMESPACE).enabled(false);
    shop.topology.mesh().write("plain.yaml", [object.into()]).unwrap();
    let port = shop.port();
    let (server, _seen) = echo_server(plain.listen(port).unwrap(), "plain");
    let stream = shop.outside.connect(plain.at(port)).unwrap();
    let local = stream.local_addr().unwrap();
    assert_eq!(Client::new(stream).get("p", "/").unwrap().text(), "plain");
    assert_eq!(server.peers(), [local]);

    // Outwards: the very connection arrives, source port and all, and no agent's log knows it.
    let (far, _seen) = echo_server(shop.outside.listen(port).unwrap(), "outside");
    let stream = plain.connect(shop.outside.at(port)).unwrap();
    let local = stream.local_addr().unwrap();
    assert_eq!(local.ip(), IpAddr::from(plain.v4()));
    assert_eq!(Client::new(stream).get("p", "/from-plain").unwrap().text(), "outside");
    assert_eq!(far.peers(), [local]);
    assert!(!shop.agent.access_log().iter().any(|line| line["path"] == "/from-plain"));
}

#[test]
fn nothing_an_application_sets_on_its_socket_takes_it_out() {
    let shop = need_shop!();
    let service = shop.http("evasive", "http", 1).unwrap();
    let before = shop.reason("captured");
    for mark in [1, 0x539, 0xf00, u32::MAX] {
        let socket = shop.web.socket(socket2::Domain::IPV4).unwrap();
        socket.set_mark(mark).unwrap();
        socket.set_reuse_address(true).unwrap();
        socket.bind(&SocketAddr::from((shop.web.v4(), 0)).into()).unwrap();
        socket.connect_timeout(&service.at().into(), PATIENCE).unwrap();
        assert_eq!(Client::new(socket.into()).get("e", "/").unwrap().status(), 200);
    }
    shop.reason_grows("captured", before, 4.0).unwrap();
}

#[test]
fn two_pods_with_the_same_source_port_are_told_apart() {
    let shop = need_shop!();
    let (one, two) =
        (shop.http("sourceport1", "http", 1).unwrap(), shop.http("sourceport2", "http", 2).unwrap());
    for round in 0..5 {
        let port = 41000 + round;
        let a = shop.web.connect_from(port, one.at()).unwrap();
        let b = shop.batch.connect_from(port, two.at()).unwrap();
        let peer_a = Client::new(a).get("a", "/peer").unwrap().text();
        let peer_b = Client::new(b).get("b", "/peer").unwrap().text();
        assert!(peer_a.starts_with(&format!("{}:", shop.web.v4())), "{peer_a}");
        assert!(peer_b.starts_with(&format!("{}:", shop.batch.v4())), "{peer_b}");
    }
    assert_eq!(one.seen().count(), 5);
    assert_eq!(two.counts().iter().sum::<usize>(), 5);
}

#[test]
fn a_namespace_of_a_pods_own_making_is_not_enrolled() {
    let shop = need_shop!();
    let before = shop.reason("captured");
    let service = shop.http("nested", "http", 1).unwrap();
    // A fresh namespace has no route; captured it would have been answered.
    let inside = shop.web.command("unshare").args(["--net", "sh", "-c"]);
    let script = format!("ip link set lo up; curl -s --max-time 3 {}; echo $?", service.url("/"));
    let output = inside.arg(script).run(PATIENCE).unwrap();
    assert_eq!(output.stdout.trim(), "7", "{output:?}");
    assert_eq!(service.seen().count(), 0);
    assert!(shop.reason("captured") >= before);
}

#[test]
fn udp_is_left_alone() {
    let shop = need_shop!();
    let port = shop.port().to_string();
    let server = shop.carts[0].v4().to_string();
    let _echo = peers::python_server(&shop.topology, &shop.carts[0], "udp.py", &["server", &port]).unwrap();
    let client =
        peers::python_script(&shop.topology, &shop.web, "udp.py").unwrap().args(["client", &server, &port]);
    assert_eq!(client.run(PATIENCE).unwrap().success().unwrap().stdout.trim(), "datagram");
}

#[test]
fn the_agents_own_sockets_are_never_captured() {
    let options = need_agent!().inside_node();
    // The agent's process is below the cgroup that its hooks are attached to, and its upstream sockets are made in the
    // enrolled pods' namespaces: captured, they would come back to itself for ever.
    let shop = Shop::start("ownsockets", options).unwrap();
    let service = shop.http("own", "http", 3).unwrap();
    for _ in 0..20 {
        assert_eq!(shop.get(&service, "/").unwrap().status(), 200);
    }
    assert_eq!(service.counts().iter().sum::<usize>(), 20);
    let captured = shop.reason("captured");
    assert!((20.0..40.0).contains(&captured), "20 connections were captured {captured} times");
    assert!(shop.reason("agent_socket") >= 1.0);
}

#[test]
fn a_flow_of_the_agent_passes_the_destination_pod_once() {
    let shop = need_shop!();
    let service = shop.http("onepass", "http", 1).unwrap();
    let before = shop.reason("inbound_agent_flow");
    assert_eq!(shop.get(&service, "/once").unwrap().status(), 200);
    shop.reason_grows("inbound_agent_flow", before, 1.0).unwrap();
    let line = shop.log_shows("/once", |line| line["path"] == "/once").unwrap();
    assert!(line["source_workload"] == "shop/web", "{line}");
}

#[test]
fn no_entry_is_left_after_connections_close() {
    let options = need_agent!();
    let shop = Shop::start("leftovers", options).unwrap();
    let service = shop.http("leftovers", "tcp", 3).unwrap();
    for i in 0..100 {
        let mut client = shop.client(&service).unwrap();
        match i % 3 {
            0 => assert_eq!(client.get("l", "/").unwrap().status(), 200),
            1 => drop(client),
            _ => mesh_tests::server::reset(client.stream().try_clone().unwrap()),
        }
    }
    shop.agent
        .wait_metrics(PATIENCE, |metrics| {
            let entries: Vec<_> = metrics.find("mesh_agent_bpf_map_entries", &[]).collect();
            for map in ["original_dst", "agent_flows"] {
                let of = entries.iter().find(|s| s.labels["map"].to_ascii_lowercase().starts_with(map));
                let left = of.map(|sample| sample.value);
                ensure!(left == Some(0.0), "{map}: {left:?} of {entries:?}");
            }
            Ok(())
        })
        .unwrap();
}

#[test]
fn every_reason_is_a_series() {
    let shop = need_shop!();
    let metrics = shop.agent.metrics().unwrap();
    let found: BTreeSet<&str> =
        metrics.find("mesh_agent_kernel_decisions_total", &[]).map(|s| s.labels["reason"].as_str()).collect();
    let expected: BTreeSet<&str> = mesh_common::Reason::ALL.iter().map(|reason| reason.label()).collect();
    assert_eq!(found, expected);
}

#[test]
fn links_and_maps_are_pinned_and_outlive_the_agent() {
    let options = need_agent!();
    let mut shop = Shop::start("pins", options).unwrap();
    let pins = |kind: &str| -> BTreeSet<String> {
        let dir = shop.agent.bpffs_dir().join(kind);
        std::fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect()
    };
    let (maps, links) = (pins("maps"), pins("links"));
    assert!(maps.iter().any(|map| map.to_ascii_lowercase().contains("v1")), "no layout version in {maps:?}");
    assert!(links.len() > 4, "{links:?}");
    shop.agent.kill();
    let pins = |kind: &str| std::fs::read_dir(shop.agent.bpffs_dir().join(kind)).unwrap().count();
    assert_eq!((pins("maps"), pins("links")), (maps.len(), links.len()));
    let service_counts = {
        shop.agent.restart().unwrap();
        let service = shop.http("pins", "http", 1).unwrap();
        assert_eq!(shop.get(&service, "/").unwrap().status(), 200);
        service.counts()
    };
    assert_eq!(service_counts, [1]);
    let pins = |kind: &str| std::fs::read_dir(shop.agent.bpffs_dir().join(kind)).unwrap().count();
    assert_eq!((pins("maps"), pins("links")), (maps.len(), links.len()), "adopted, not doubled");
}

#[test]
fn two_agents_on_one_machine_do_not_meet() {
    let options = need_agent!();
    let (one, two) =
        (Shop::start("agents1", options.clone()).unwrap(), Shop::start("agents2", options).unwrap());
    let service = one.http("mine", "http", 1).unwrap();
    let captured = two.reason("captured");
    assert_eq!(one.get(&service, "/").unwrap().status(), 200);
    assert_eq!(two.reason("captured"), captured);
    assert_eq!(two.agent.access_log().len(), 0);
    // The other topology has the same addresses and doesn't know the service.
    let other = two.web.connect_within(service.at(), std::time::Duration::from_millis(500));
    assert!(other.is_err() || Client::new(other.unwrap()).get("m", "/").is_err());
}

#[test]
fn a_link_local_destination_is_reached_by_the_pods_device() {
    let shop = need_shop!();
    let port = shop.port();
    let (_server, seen) = echo_server(shop.outside.listen(port).unwrap(), "neighbour");
    let ip = |host: &Host, args: &[&str]| {
        let output = host.command("ip").args(args).args(["dev", "eth0"]).run(PATIENCE)?.success()?;
        anyhow::Ok(output.stdout)
    };
    let index = ip(&shop.web, &["-o", "link", "show"]).unwrap();
    let index: u32 = index.split(':').next().unwrap().trim().parse().unwrap();
    // Not before duplicates were looked for, on either side.
    let link_local = |host: &Host| {
        let shown = ip(host, &["-6", "-o", "addr", "show", "scope", "link"])?;
        ensure!(!shown.contains("tentative"), "{shown}");
        let address = shown.split_whitespace().find_map(|word| word.split_once("/64"));
        Ok(address.ok_or_else(|| anyhow::anyhow!("no address in {shown:?}"))?.0.parse::<Ipv6Addr>()?)
    };
    eventually(SOON, || link_local(&shop.web)).unwrap();
    let neighbour = eventually(SOON, || link_local(&shop.outside)).unwrap();
    let captured = shop.reason("captured");
    let to = std::net::SocketAddrV6::new(neighbour, port, 0, index);
    assert_eq!(get_at(&shop.web, to.into()), "neighbour");
    assert_eq!(seen.count(), 1);
    shop.reason_grows("captured", captured, 1.0).unwrap();
}

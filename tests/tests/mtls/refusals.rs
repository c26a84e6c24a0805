//! Who isn't believed: certificates with anything wrong, on the wire, to an agent as the server and to an agent as the client.

use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use mesh_tests::PATIENCE;
use mesh_tests::forged::{self, Impostor};
use mesh_tests::http2::{H2Server, answer};
use mesh_tests::lab::{Object, PodObject, eventually};
use mesh_tests::nodes::{Nodes, Wire};
use mesh_tests::pki::{Claims, MeshAuthority, Svid};
use mesh_tests::shop::NAMESPACE;
use mesh_tests::sockets::Host;
use rustls::version::{TLS12, TLS13};

use crate::scene::{Scene, counted, id, knows, log_has, need_scene, rest};

const SECRET: &[u8] = b"3782-8224-secret-of-refusals";

/// An application that speaks HTTP/2, and how many requests it had.
pub fn application(host: &Host, port: u16) -> (H2Server, Arc<AtomicUsize>) {
    let count = Arc::<AtomicUsize>::default();
    let requests = count.clone();
    let server = H2Server::new(host.listen(port).unwrap(), None, move |_, mut respond| {
        requests.fetch_add(1, Ordering::Relaxed);
        async move { answer(&mut respond, &b"inside"[..], None) }
    });
    (server, count)
}

/// Certificates with one thing wrong each, for a peer whose right name is `own`, and the result that each is counted as.
fn wrong(scene: &Scene, own: &str) -> Vec<(&'static str, Svid, &'static str)> {
    let stranger = MeshAuthority::named("mesh").unwrap();
    let forge = |claims: Claims<'_>| scene.root.forge(&claims).unwrap();
    let elsewhere = own.replace("cluster.local", "elsewhere");
    vec![
        // Of the same name: names prove nothing.
        ("another root", stranger.forge(&Claims::of(&[own])).unwrap(), "unknown_root"),
        ("another trust domain", forge(Claims::of(&[&elsewhere])), "trust_domain"),
        ("expired", forge(Claims::of(&[own]).within(-3600, -5)), "expired"),
        ("not yet valid", forge(Claims::of(&[own]).within(3600, 7200)), "not_yet_valid"),
        ("two identities", forge(Claims::of(&[own, &id("other")])), "no_identity"),
        ("the same twice", forge(Claims::of(&[own, own])), "no_identity"),
        ("no identity", forge(Claims::of(&[])), "no_identity"),
        (
            "a name that is no SPIFFE id",
            forge(Claims::of(&["https://cluster.local/ns/shop/sa/web"])),
            "no_identity",
        ),
        ("the authority itself", scene.root.papers(), "no_identity"),
    ]
}

#[test]
fn a_client_with_anything_wrong_is_refused_counted_and_told() {
    let scene = need_scene!();
    let nodes = &scene.nodes;
    let pod = scene.pod(1, "judge");
    let port = nodes.port();
    let (_server, requests) = application(&pod, port);
    let dial = || nodes.outside.connect(pod.at(port)).unwrap();
    let refused = |what: &str, config: rustls::ClientConfig, result: &str| {
        let before = Nodes::handshakes(&nodes.far, "inbound", result);
        let asked = forged::ask(&Arc::new(config), dial());
        assert!(asked.is_err(), "{what} was answered: {asked:?}");
        counted(&nodes.far, "inbound", result, before);
        log_has(
            &nodes.far,
            &["a client that speaks as an agent is refused", "shop/judge", &format!("\"{result}\"")],
        );
    };
    for (what, papers, result) in wrong(scene, &id("web")) {
        refused(what, forged::client(Some(&papers), &TLS13).unwrap(), result);
    }
    refused("no certificate", forged::client(None, &TLS13).unwrap(), "no_certificate");
    let right = scene.root.forge(&Claims::of(&[&id("web")])).unwrap();
    refused("TLS 1.2", forged::client(Some(&right), &TLS12).unwrap(), "incompatible");
    assert_eq!(requests.load(Ordering::Relaxed), 0, "the application heard of one of them");
    // And nothing else was wrong with any of them.
    let before = Nodes::handshakes(&nodes.far, "inbound", "ok");
    assert!(forged::ask(&Arc::new(forged::client(Some(&right), &TLS13).unwrap()), dial()).unwrap());
    counted(&nodes.far, "inbound", "ok", before);
    assert_eq!(requests.load(Ordering::Relaxed), 1);
}

/// A pod of a node without an agent that the configuration says is enrolled.
pub fn unguarded(scene: &Scene, name: &str) -> Host {
    let nodes = &scene.nodes;
    let node = nodes.topology.node(&format!("node-{name}")).unwrap();
    let pod = Host::new(&nodes.topology, node.pod(name).unwrap()).unwrap();
    let object = PodObject::of(&pod, NAMESPACE).service_account(name);
    nodes.topology.mesh().write(&format!("pod-{name}.yaml"), [Object::from(object)]).unwrap();
    knows(&nodes.near, name);
    pod
}

#[test]
fn a_server_with_anything_wrong_hears_nothing_and_is_counted_and_told() {
    let scene = need_scene!();
    let nodes = &scene.nodes;
    let pod = unguarded(scene, "fake");
    let wire = Wire::listen(&nodes.topology).unwrap();
    let attempt = |what: &str, config: rustls::ServerConfig, result: &str| {
        let port = nodes.port();
        let impostor = Impostor::new(pod.listen(port).unwrap(), config);
        let before = Nodes::handshakes(&nodes.near, "outbound", result);
        // The reset may come before connect(2) has returned.
        if let Ok(mut stream) = nodes.web.connect(pod.at(port)) {
            let _ = stream.write_all(SECRET);
            assert_eq!(rest(&mut stream), b"", "{what}");
        }
        counted(&nodes.near, "outbound", result, before);
        let met = eventually(PATIENCE, || {
            impostor.met().pop().ok_or_else(|| anyhow::anyhow!("{what}: it was never dialled"))
        });
        (port, met.unwrap())
    };
    let own = id("fake");
    let mut all = wrong(scene, &own);
    for (what, name) in [
        ("another pod of its node", id("neighbour")),
        ("the client's own", id("web")),
        ("the same account elsewhere", own.replace("/ns/shop/", "/ns/market/")),
    ] {
        all.push((what, scene.root.forge(&Claims::of(&[&name])).unwrap(), "other_identity"));
    }
    let refused = |what: &str, config: rustls::ServerConfig, result: &str| {
        let (port, met) = attempt(what, config, result);
        assert_eq!(met.heard, b"", "{what} heard something");
        let endpoint = pod.at(port).to_string();
        let told = format!("\"{result}\"");
        log_has(&nodes.near, &["no mutual TLS", "shop/web", "shop/fake", &endpoint, &told]);
        let line =
            Nodes::log_shows(&nodes.near, what, |line| line["destination_address"] == endpoint.as_str());
        assert_eq!(line.unwrap()["response_flags"], "UF", "{what}");
    };
    for (what, papers, result) in &all {
        refused(what, forged::server(papers, &TLS13).unwrap(), result);
    }
    let right = scene.root.forge(&Claims::of(&[&own])).unwrap();
    refused("TLS 1.2", forged::server(&right, &TLS12).unwrap(), "incompatible");
    // With nothing wrong it hears an agent begin to speak, and only then is found to have no answer.
    let (_, met) = attempt("a right one", forged::server(&right, &TLS13).unwrap(), "broken_off");
    assert!(met.heard.starts_with(b"PRI * HTTP/2.0"), "{met:?}");
    assert!(wire.frames() > 50 && wire.count(SECRET) == 0);
}

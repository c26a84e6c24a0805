//! The network between pods: a NetworkPolicy goes on meaning what it says, and a node that vanishes holds nobody up.

use std::io::{Read, Write};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::scope;
use std::time::{Duration, Instant};

use anyhow::ensure;
use mesh_tests::filter::Filter;
use mesh_tests::http1::{Client, echo_server};
use mesh_tests::lab::eventually;
use mesh_tests::nodes::{Nodes, Wire};
use mesh_tests::server::Server;
use mesh_tests::sockets::Host;
use mesh_tests::{AT_ONCE, PATIENCE};

use crate::scene::{need_scene, rest};
use crate::{ask, echo};

const SECRET: &[u8] = b"6011-0009-secret-of-policies";

/// A connection that gets nowhere: it isn't made, or ends with nothing said.
fn gets_nowhere(from: &Host, to: SocketAddr) {
    // An agent takes it, and finds no way on within its connect timeout; without one it gets no answer at all.
    let Ok(mut stream) = from.connect_within(to, Duration::from_secs(2)) else { return };
    let _ = stream.write_all(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
    let got = rest(&mut stream);
    let text = String::from_utf8_lossy(&got);
    assert!(text.is_empty() || text.starts_with("HTTP/1.1 503 "), "{to}: {text}");
}

#[test]
fn a_network_policy_for_the_applications_port_means_that_port_and_that_source() {
    let scene = need_scene!();
    let nodes = &scene.nodes;
    for (node, name) in [(1, "walled-far"), (0, "walled-near")] {
        let pod = scene.pod(node, name);
        let (port, other) = (nodes.port(), nodes.port());
        let (_server, seen) = echo_server(pod.listen(port).unwrap(), name);
        let shut = Server::new(pod.listen(other).unwrap(), |stream, _| echo(stream));
        let _filter = Filter::allow_only(&nodes.topology, &pod, nodes.web.v4(), port).unwrap();
        let wire = Wire::listen(&nodes.topology).unwrap();
        let secret = String::from_utf8_lossy(SECRET);
        for _ in 0..3 {
            let mut client = Client::new(nodes.web.connect(pod.at(port)).unwrap());
            let answer = client.get("w", &format!("/{secret}")).unwrap();
            assert_eq!(answer.status(), 200, "{name}");
        }
        // Between nodes in secret, through the same hole in the wall.
        if node == 1 {
            assert!(wire.frames() > 10 && wire.count(SECRET) == 0, "{name}");
        }
        scope(|scope| {
            scope.spawn(|| gets_nowhere(&nodes.web, pod.at(other)));
            scope.spawn(|| gets_nowhere(&nodes.shelf, pod.at(port)));
            scope.spawn(|| gets_nowhere(&nodes.till, pod.at(port)));
            scope.spawn(|| gets_nowhere(&nodes.outside, pod.at(port)));
        });
        assert_eq!((seen.count(), shut.accepted()), (3, 0), "{name}");
    }
}

/// The longest that anything waits for a node that is gone: agents ask each other for a sign of life every 10 s, and wait
/// 10 s for it.
const GONE: Duration = Duration::from_secs(25);
/// Of agents, to one endpoint.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Tries that went to another endpoint since the connection of the first had ended.
fn retries(nodes: &Nodes) -> f64 {
    let reason = [("reason", "upstream_closed")];
    nodes.near.metrics().unwrap().sum("mesh_agent_upstream_retries_total", &reason)
}

#[test]
fn a_node_that_vanishes_is_noticed_and_holds_nobody_up() {
    let scene = need_scene!();
    let nodes = &scene.nodes;
    let (lost, kept) = (scene.pod(1, "lost"), scene.pod(1, "kept"));
    let (port, bytes) = (nodes.port(), nodes.port());
    let _lost = echo_server(lost.listen(port).unwrap(), "lost");
    let _kept = echo_server(kept.listen(port).unwrap(), "kept");
    let _bytes = Server::new(lost.listen(bytes).unwrap(), |stream, _| echo(stream));
    let service = nodes.expose("vanishing", "http", port, &[&lost, &kept]).unwrap();
    let get = || Client::new(nodes.web.connect(service)?).get("v", "/");
    let mut stream = nodes.web.connect(lost.at(bytes)).unwrap();
    assert_eq!(ask(&mut stream, b"there?"), b"there?");
    let idle = nodes.web.connect(lost.at(bytes)).unwrap();
    // Both endpoints have a connection that requests go on.
    for _ in 0..40 {
        assert_eq!(get().unwrap().status(), 200);
    }
    let (timeouts, retried) = (Nodes::handshakes(&nodes.near, "outbound", "timeout"), retries(nodes));
    let filter = Filter::nothing(&nodes.topology, &lost).unwrap();
    let begun = Instant::now();
    let over = AtomicBool::new(false);
    let statuses = scope(|scope| {
        let clients: Vec<_> = (0..8)
            .map(|_| {
                scope.spawn(|| {
                    let mut statuses = Vec::new();
                    while !over.load(Ordering::Relaxed) && begun.elapsed() < GONE {
                        let asked = Instant::now();
                        let status = get().expect("an answer, whatever it is").status();
                        statuses.push((status, asked.elapsed()));
                        assert!(asked.elapsed() < GONE, "it hung for {:?}", asked.elapsed());
                    }
                    statuses
                })
            })
            .collect();
        // What carries bytes is reset, whether anybody waits for an answer or not.
        for (mut stream, word) in [(stream, &b"there?"[..]), (idle, b"")] {
            let _ = stream.write_all(word);
            stream.set_read_timeout(Some(GONE.saturating_sub(begun.elapsed()))).unwrap();
            let error = stream.read(&mut [0]).expect_err("it was answered");
            assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset, "after {:?}", begun.elapsed());
        }
        over.store(true, Ordering::Relaxed);
        clients.into_iter().flat_map(|client| client.join().unwrap()).collect::<Vec<_>>()
    });
    let slowest = statuses.iter().map(|(_, took)| *took).max();
    let (answered, refused): (Vec<u16>, Vec<u16>) =
        statuses.iter().map(|(s, _)| s).partition(|status| **status == 200);
    assert!(refused.iter().all(|status| *status == 503), "{refused:?}");
    // As many as were on the connection may be lost; the rest went elsewhere.
    assert!(!answered.is_empty() && refused.len() <= 8, "{} answered, {}", answered.len(), refused.len());
    // From now on whoever dials it takes the connect timeout to find out, and goes elsewhere.
    eventually(PATIENCE, || {
        let asked = Instant::now();
        assert_eq!(get()?.status(), 200);
        assert!(asked.elapsed() < CONNECT_TIMEOUT + AT_ONCE, "{:?}", asked.elapsed());
        ensure!(Nodes::handshakes(&nodes.near, "outbound", "timeout") > timeouts, "it isn't dialled");
        Ok(())
    })
    .unwrap();
    let address = lost.at(bytes).to_string();
    let line = Nodes::log_shows(&nodes.near, "the lost stream", |line| {
        line["destination_address"] == address.as_str() && line["response_flags"] == "UC"
    });
    assert_eq!(line.unwrap()["response_code_details"], "upstream_closed");
    println!("{} answered, {} refused, the slowest after {slowest:?}", answered.len(), refused.len());
    assert!(retries(nodes) > retried);
    // It comes back, and is used again.
    drop(filter);
    eventually(PATIENCE, || {
        let mut stream = nodes.web.connect(lost.at(bytes))?;
        stream.write_all(b"x")?;
        ensure!(stream.read(&mut [0])? == 1);
        Ok(())
    })
    .unwrap();
}

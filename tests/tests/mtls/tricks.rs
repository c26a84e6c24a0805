//! Ways around a handshake: tickets of earlier sessions, early data, renegotiation, and words out of turn.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use anyhow::ensure;
use mesh_tests::forged::{
    self, Impostor, ask, ask_on, send_out_of_turn, shake_hands, shake_hands_with_early_data,
};
use mesh_tests::h2raw::{END_HEADERS, END_STREAM, PREFACE, RawClient, frame, get, kind};
use mesh_tests::lab::eventually;
use mesh_tests::nodes::Nodes;
use mesh_tests::pki::Claims;
use mesh_tests::server::Server;
use mesh_tests::{PATIENCE, SOON};
use rustls::client::Resumption;
use rustls::version::TLS13;
use rustls::{ClientConfig, HandshakeKind, ServerConfig, ServerConnection, StreamOwned};

use crate::refusals::{application, unguarded};
use crate::scene::{counted, id, log_has, need_scene, rest};

/// All that an agent would have to hear for one request.
fn request() -> Vec<u8> {
    let head = frame(kind::HEADERS, END_STREAM | END_HEADERS, 1, &get("/"));
    [PREFACE, &frame(kind::SETTINGS, 0, 0, &[]), &head].concat()
}

/// A server that gives tickets with early data to whoever comes, and how it met each client.
fn generous(mut config: ServerConfig) -> (Server, std::net::SocketAddr) {
    config.max_early_data_size = 16 * 1024;
    let config = Arc::new(config);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let server = Server::new(listener, move |stream, _| {
        let mut tls = StreamOwned::new(ServerConnection::new(config.clone()).unwrap(), stream);
        let _ = tls.write_all(b"ticket").and_then(|()| tls.flush());
        let _ = tls.read(&mut [0; 1024]);
    });
    (server, address)
}

fn remembering(mut config: ClientConfig) -> Arc<ClientConfig> {
    config.resumption = Resumption::in_memory_sessions(8);
    config.enable_early_data = true;
    Arc::new(config)
}

#[test]
fn no_ticket_is_given_to_a_client() {
    let scene = need_scene!();
    let pod = scene.pod(1, "ticketless");
    let port = scene.nodes.port();
    let (_server, requests) = application(&pod, port);
    let right = scene.root.forge(&Claims::of(&[&id("web")])).unwrap();
    let config = remembering(forged::client(Some(&right), &TLS13).unwrap());
    for _ in 0..3 {
        let tls = shake_hands(&config, scene.nodes.outside.connect(pod.at(port)).unwrap()).unwrap();
        assert_eq!(tls.conn.handshake_kind(), Some(HandshakeKind::Full));
        // What comes with the answer, a ticket among it, has been read by then.
        assert!(ask_on(&mut RawClient::start(tls).unwrap()).unwrap());
    }
    assert_eq!(requests.load(Ordering::Relaxed), 3);
}

#[test]
fn a_ticket_and_early_data_prove_nothing() {
    let scene = need_scene!();
    let nodes = &scene.nodes;
    let pod = scene.pod(1, "replayed");
    let port = nodes.port();
    let (_server, requests) = application(&pod, port);
    // Under no certificate, but with a session that a server of the same name has taken up again before.
    let config = remembering(forged::client(None, &TLS13).unwrap());
    let papers = scene.root.forge(&Claims::of(&[&id("replayed")])).unwrap();
    let (_generous, elsewhere) = generous(forged::server_for_anybody(&papers, &TLS13).unwrap());
    for expected in [HandshakeKind::Full, HandshakeKind::Resumed] {
        let mut tls = shake_hands(&config, TcpStream::connect(elsewhere).unwrap()).unwrap();
        assert_eq!(tls.conn.handshake_kind(), Some(expected));
        tls.read_exact(&mut [0; 6]).unwrap();
    }
    let before = Nodes::handshakes(&nodes.far, "inbound", "no_certificate");
    let stream = nodes.outside.connect(pod.at(port)).unwrap();
    let (mut tls, sent) = shake_hands_with_early_data(&config, stream, &request()).unwrap();
    assert!(sent, "there was no ticket that allows early data");
    assert_eq!(tls.conn.handshake_kind(), Some(HandshakeKind::Full));
    assert!(!tls.conn.is_early_data_accepted());
    assert!(!matches!(tls.read(&mut [0; 64]), Ok(1..)), "it was spoken to");
    counted(&nodes.far, "inbound", "no_certificate", before);
    assert_eq!(requests.load(Ordering::Relaxed), 0);
}

#[test]
fn an_agent_as_the_client_takes_up_no_session_and_sends_nothing_early() {
    let scene = need_scene!();
    let nodes = &scene.nodes;
    let pod = unguarded(scene, "forgetful");
    let right = scene.root.forge(&Claims::of(&[&id("forgetful")])).unwrap();
    let mut config = forged::server(&right, &TLS13).unwrap();
    config.max_early_data_size = 16 * 1024;
    let port = nodes.port();
    let impostor = Impostor::new(pod.listen(port).unwrap(), config);
    for count in 1..=3 {
        // The reset may come before connect(2) has returned.
        if let Ok(mut stream) = nodes.web.connect(pod.at(port)) {
            let _ = stream.write_all(b"hello");
            rest(&mut stream);
        }
        let met = eventually(PATIENCE, || {
            let met = impostor.met();
            ensure!(met.len() >= count, "{met:?}");
            Ok(met)
        });
        for met in met.unwrap() {
            assert_eq!(met.handshake, Some(HandshakeKind::Full), "{met:?}");
        }
    }
    // It could have: the tickets were there.
    let config = remembering(forged::client(Some(&right), &TLS13).unwrap());
    for expected in [HandshakeKind::Full, HandshakeKind::Resumed] {
        let mut tls = shake_hands(&config, nodes.outside.connect(pod.at(port)).unwrap()).unwrap();
        assert_eq!(tls.conn.handshake_kind(), Some(expected));
        tls.write_all(b"hello").unwrap();
        let _ = tls.read(&mut [0]);
    }
}

#[test]
fn what_comes_out_of_turn_ends_the_connection() {
    let scene = need_scene!();
    let nodes = &scene.nodes;
    let pod = scene.pod(1, "orderly");
    let port = nodes.port();
    let (_server, requests) = application(&pod, port);
    let right = scene.root.forge(&Claims::of(&[&id("web")])).unwrap();
    let config = Arc::new(forged::client(Some(&right), &TLS13).unwrap());
    let dial = || nodes.outside.connect(pod.at(port)).unwrap();
    let broken = || {
        let labels = [("reason", "bad_tls")];
        nodes.far.metrics().unwrap().sum("mesh_agent_protocol_errors_total", &labels)
    };
    // A ClientHello that would be fit to begin with, of TLS 1.2 and of 1.3 alike.
    let hello = client_hello(&config);
    let attempts: [(&str, u8, &[u8]); 4] = [
        ("another ClientHello", 22, &hello),
        ("a HelloRequest of TLS 1.2", 22, &[0, 0, 0, 0]),
        ("a ChangeCipherSpec", 20, &[1]),
        ("a type that there isn't", 99, b"?"),
    ];
    for (index, (what, kind, content)) in attempts.into_iter().enumerate() {
        let before = broken();
        let mut client = RawClient::start(shake_hands(&config, dial()).unwrap()).unwrap();
        assert!(ask_on(&mut client).unwrap(), "{what}");
        let mut socket = send_out_of_turn(client.into_stream(), kind, content).unwrap();
        // Nothing but its alert and its end, and no more requests on it.
        assert!(rest(&mut socket).len() < 128, "{what} was answered");
        assert_eq!(requests.load(Ordering::Relaxed), index + 1);
        eventually(SOON, || {
            ensure!(broken() > before, "{what} isn't counted");
            Ok(())
        })
        .unwrap();
    }
    log_has(&nodes.far, &["a client that speaks as an agent is refused", "shop/orderly", "\"bad_tls\""]);
    // In the clear, once all is encrypted.
    let mut tls = shake_hands(&config, dial()).unwrap();
    let record = [&[22, 3, 1][..], &u16::try_from(hello.len()).unwrap().to_be_bytes(), &hello].concat();
    tls.sock.write_all(&record).unwrap();
    let _ = tls.write_all(&request());
    rest(&mut tls.sock);
    assert_eq!(requests.load(Ordering::Relaxed), attempts.len());
    assert!(ask(&config, dial()).unwrap(), "and others are served");
}

/// The message without its record.
fn client_hello(config: &Arc<ClientConfig>) -> Vec<u8> {
    let name = "agent.test".try_into().unwrap();
    let mut session = rustls::ClientConnection::new(config.clone(), name).unwrap();
    let mut record = Vec::new();
    session.write_tls(&mut record).unwrap();
    record.split_off(5)
}

//! How the ends of connections show through TLS, who is believed, and what happens when files change.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use rustls::ServerConfig;
use socket2::SockRef;
use tokio::io::{AsyncReadExt, AsyncWriteExt, Interest};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, LocalSet, spawn_local};
use tokio::time::timeout;

use super::testing::{Authority, accept, origination, replace};
use super::*;
use crate::addr::EndpointAddr;
use crate::policy::PoolLimits;
use crate::proxy::edges::Edges;
use crate::proxy::{Backends, Connection, ErrorKind, Limits, Reach, Stream, Upstream, tcp, testing};

const HOST: &str = "api.example.com";

/// A client in plain text, a server under TLS, and the tunnel between them.
struct Lab {
    client: TcpStream,
    server: Stream,
    conn: Rc<Connection>,
    served: JoinHandle<()>,
}

fn over_tls(
    endpoint: &TcpListener,
    tls: &Arc<Origination>,
    limits: Limits,
) -> (Rc<Connection>, Rc<Upstream>) {
    let addr = endpoint.local_addr().unwrap();
    let conn = testing::connection_with(addr, limits);
    let edges = Edges::outbound(&conn.pod, None, None, &Reach::Plain);
    let upstream = Upstream::paired(EndpointAddr::from(addr), None, edges).over(Reach::Tls(tls.clone()));
    let upstream = Rc::new(upstream);
    conn.set_backends(Backends::Single(upstream.clone()));
    (Rc::new(conn), upstream)
}

async fn lab() -> Lab {
    let authority = Authority::new();
    let config = authority.server(&[HOST], false);
    let endpoint = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (conn, _) = over_tls(&endpoint, &origination(authority.spec(HOST)), Limits::default());
    let front = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let client = TcpStream::connect(front.local_addr().unwrap()).await.unwrap();
    let (stream, _) = front.accept().await.unwrap();
    let carried = conn.clone();
    let served = spawn_local(async move { tcp::serve(&carried, stream.into(), Bytes::new(), None).await });
    let (socket, _) = endpoint.accept().await.unwrap();
    let server = accept(&config, socket).await.unwrap().into();
    Lab { client, server, conn, served }
}

fn run(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let limit = async { timeout(Duration::from_secs(30), test).await.expect("test hangs") };
    LocalSet::new().block_on(&runtime, limit);
}

fn closed_with(conn: &Connection, flag: &str) -> bool {
    let text = conn.pod.worker.telemetry.metrics.text();
    let flag = format!("response_flags=\"{flag}\"");
    text.lines().any(|line| line.starts_with("istio_tcp_connections_closed_total") && line.contains(&flag))
}

/// The end as the client sees it: everything up to it, and whether it was a clean one.
async fn rest(client: &mut TcpStream) -> (Vec<u8>, bool) {
    let mut bytes = Vec::new();
    let clean = client.read_to_end(&mut bytes).await.is_ok();
    (bytes, clean)
}

#[test]
fn half_closes_are_carried_as_close_notify_both_ways() {
    run(async {
        let mut lab = lab().await;
        lab.client.write_all(b"ping").await.unwrap();
        lab.client.shutdown().await.unwrap();
        let mut heard = Vec::new();
        lab.server.read_to_end(&mut heard).await.expect("a clean end");
        assert_eq!(heard, b"ping");
        lab.server.write_all(b"pong").await.unwrap();
        lab.server.shutdown().await.unwrap();
        assert_eq!(rest(&mut lab.client).await, (b"pong".to_vec(), true));
        lab.served.await.unwrap();
        assert!(closed_with(&lab.conn, "-"), "{}", lab.conn.pod.worker.telemetry.metrics.text());
    });
}

#[test]
fn the_servers_half_close_leaves_the_way_there_open() {
    run(async {
        let mut lab = lab().await;
        lab.server.write_all(b"bye").await.unwrap();
        lab.server.shutdown().await.unwrap();
        assert_eq!(rest(&mut lab.client).await, (b"bye".to_vec(), true));
        lab.client.write_all(b"still here").await.unwrap();
        lab.client.shutdown().await.unwrap();
        let mut heard = Vec::new();
        lab.server.read_to_end(&mut heard).await.unwrap();
        assert_eq!(heard, b"still here");
        lab.served.await.unwrap();
    });
}

#[test]
fn a_stream_cut_short_is_never_a_clean_end() {
    run(async {
        let mut lab = lab().await;
        lab.server.write_all(b"half of it").await.unwrap();
        // FIN without close_notify: what anybody on the way can forge.
        SockRef::from(lab.server.tcp().unwrap()).shutdown(std::net::Shutdown::Write).unwrap();
        let (bytes, clean) = rest(&mut lab.client).await;
        assert!(!clean, "{bytes:?}");
        lab.served.await.unwrap();
        assert!(closed_with(&lab.conn, "UC"), "{}", lab.conn.pod.worker.telemetry.metrics.text());
    });
}

#[test]
fn resets_are_carried_to_either_side() {
    run(async {
        let mut lab = lab().await;
        crate::proxy::upstream::reset(lab.server);
        assert!(!rest(&mut lab.client).await.1);
        lab.served.await.unwrap();
        assert!(closed_with(&lab.conn, "UC"));
    });
    run(async {
        let mut lab = lab().await;
        SockRef::from(&lab.client).set_linger(Some(Duration::ZERO)).unwrap();
        drop(lab.client);
        assert!(lab.server.read(&mut [0]).await.is_err(), "no clean end");
        lab.served.await.unwrap();
        assert!(closed_with(&lab.conn, "DC"));
    });
}

#[test]
fn a_reset_is_noticed_while_nothing_is_taken() {
    run(async {
        let mut lab = lab().await;
        // Real sockets: time in which a kernel that has room for more would say so.
        while timeout(Duration::from_millis(300), lab.client.writable()).await.is_ok() {
            let _ = lab.client.try_write(&[7; 64 * 1024]);
        }
        SockRef::from(&lab.client).set_linger(Some(Duration::ZERO)).unwrap();
        drop(lab.client);
        lab.served.await.unwrap();
        lab.server.tcp().unwrap().ready(Interest::ERROR).await.unwrap();
        let mut heard = Vec::new();
        assert!(lab.server.read_to_end(&mut heard).await.is_err());
        assert!(closed_with(&lab.conn, "DC"));
    });
}

#[test]
fn slow_readers_hold_their_senders_back_and_lose_nothing() {
    const SIZE: usize = 3 * 1024 * 1024 + 7;
    let bytes = || (0..SIZE).map(|at| (at * 31 % 251) as u8).collect::<Vec<u8>>();
    run(async {
        let Lab { client, server, served, .. } = lab().await;
        let (mut from_client, mut to_server) = client.into_split();
        let (mut from_server, mut to_client) = tokio::io::split(server);
        // Both directions at once, read in small pieces and with pauses.
        let slowly = async |reader: &mut (dyn tokio::io::AsyncRead + Unpin)| {
            let (mut all, mut piece) = (Vec::new(), vec![0; 70_000]);
            loop {
                tokio::task::yield_now().await;
                match reader.read(&mut piece).await.unwrap() {
                    0 => return all,
                    read => all.extend_from_slice(&piece[..read]),
                }
            }
        };
        let sent = bytes();
        let write_there = async {
            to_server.write_all(&sent).await.unwrap();
            to_server.shutdown().await.unwrap();
        };
        let write_back = async {
            to_client.write_all(&sent).await.unwrap();
            to_client.shutdown().await.unwrap();
        };
        let ((), (), there, back) =
            tokio::join!(write_there, write_back, slowly(&mut from_server), slowly(&mut from_client));
        assert!(there == sent && back == sent, "{} {}", there.len(), back.len());
        served.await.unwrap();
    });
}

/// Tries to connect with `tls` to a server with `config`; what the client and the server make of it.
async fn connect(
    tls: &Arc<Origination>,
    config: &Arc<ServerConfig>,
    alpn: Alpn,
) -> (Result<Stream, ErrorKind>, Option<TlsStream>) {
    let endpoint = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (conn, upstream) = over_tls(&endpoint, tls, Limits::default());
    let limits = PoolLimits::default();
    let (made, accepted) = tokio::join!(upstream.connect(&conn.pod, None, &limits, alpn), async {
        let (socket, _) = endpoint.accept().await.unwrap();
        accept(config, socket).await.ok()
    });
    (made.map_err(|error| error.kind), accepted)
}

#[test]
fn only_a_certificate_that_the_rule_accepts_is_believed() {
    let authority = Authority::new();
    let stranger = Authority::new();
    let uri = "spiffe://cluster.local/ns/shop/sa/api";
    let check = |spec: Spec, names: &[&str], server: &Authority, want: Option<ErrorKind>| {
        let shown = format!("{spec:?} {names:?}");
        let (tls, config) = (origination(spec), server.server(names, false));
        run(async {
            let (made, _) = connect(&tls, &config, Alpn::None).await;
            assert_eq!(made.err(), want, "{shown}");
        });
    };
    let refused = Some(ErrorKind::CertificateRefused);
    let named = |names: &[&str]| Spec {
        names: names.iter().map(ToString::to_string).collect(),
        ..authority.spec(HOST)
    };
    check(authority.spec(HOST), &[HOST], &authority, None);
    check(authority.spec(HOST), &["*.example.com"], &authority, None);
    check(authority.spec(HOST), &["other.example.com"], &authority, refused);
    check(authority.spec(HOST), &[HOST], &stranger, refused);
    check(named(&["other.example.com", uri]), &[HOST], &authority, refused);
    check(named(&["other.example.com"]), &["other.example.com"], &authority, None);
    check(named(&["other.example.com"]), &["other.example.com"], &stranger, refused);
    check(named(&[uri]), &[HOST, uri], &authority, None);
    check(named(&[&uri[..uri.len() - 1]]), &[uri], &authority, refused);
    check(Spec { trust: Trust::Anybody, ..authority.spec(HOST) }, &["other.example.com"], &stranger, None);
}

#[test]
fn mutual_shows_the_clients_certificate_and_a_new_file_is_taken_up() {
    let authority = Authority::new();
    let config = authority.server(&[HOST], true);
    let (first, second) = (authority.issue("first", &["first"]), authority.issue("second", &["second"]));
    let store = Store::default();
    let tls = store.get(Spec { identity: Some(first.clone()), ..authority.spec(HOST) });
    store.refresh();
    let seen = async || {
        let (made, accepted) = connect(&tls, &config, Alpn::None).await;
        made.unwrap();
        accepted.unwrap().peer_certificate().unwrap()
    };
    let certificate =
        |identity: &Identity| files::certificates(&identity.certificate).unwrap().remove(0).to_vec();
    let old = certificate(&first);
    run(async { assert_eq!(seen().await, old) });
    replace(&second.certificate, &first.certificate);
    store.refresh();
    assert_eq!(store.problems().len(), 1, "a certificate without its key is no pair");
    assert!(store.problems()[0].former);
    run(async { assert_eq!(seen().await, old, "the former pair stays in force") });
    replace(&second.key, &first.key);
    store.refresh();
    assert_eq!(store.problems(), []);
    run(async { assert_eq!(seen().await, certificate(&second)) });
}

#[test]
fn a_server_that_wants_a_certificate_is_not_content_without() {
    let authority = Authority::new();
    let (tls, config) = (origination(authority.spec(HOST)), authority.server(&[HOST], true));
    run(async {
        let (made, accepted) = connect(&tls, &config, Alpn::None).await;
        assert!(accepted.is_none());
        // In TLS 1.3 the client's part is over before the server has looked at it.
        if let Ok(mut stream) = made {
            assert!(stream.read(&mut [0]).await.is_err());
        }
    });
}

#[test]
fn what_is_offered_is_what_is_spoken_and_sessions_are_resumed() {
    let authority = Authority::new();
    let (tls, config) = (origination(authority.spec(HOST)), authority.server(&[HOST], false));
    run(async {
        for (alpn, want) in [(Alpn::None, None), (Alpn::Http1, Some("http/1.1")), (Alpn::Http2, Some("h2"))] {
            let (made, accepted) = connect(&tls, &config, alpn).await;
            let Ok(Stream::Tls(made)) = made else { panic!("not TLS") };
            assert_eq!(made.alpn().as_deref(), want.map(str::as_bytes));
            assert_eq!(made.is_resumed(), alpn != Alpn::None, "{alpn:?}");
            // Tickets come behind the handshake and are no news to whoever waits for a byte.
            assert!(!made.idle_is_closed(true), "{alpn:?}");
            // Time in which a ticket that is under way arrives.
            assert!(timeout(Duration::from_millis(50), Stream::Tls(made).peek(&mut [0])).await.is_err());
            drop(accepted);
        }
    });
}

#[test]
fn an_idle_connection_that_was_closed_is_known_for_it() {
    run(async {
        let authority = Authority::new();
        let (tls, config) = (origination(authority.spec(HOST)), authority.server(&[HOST], false));
        for clean in [true, false] {
            let (made, accepted) = connect(&tls, &config, Alpn::Http1).await;
            let (made, mut accepted) = (made.unwrap(), Stream::from(accepted.unwrap()));
            assert!(!made.idle_is_closed() && !made.is_closed_now());
            if clean {
                accepted.shutdown().await.unwrap();
            }
            drop(accepted);
            let peeked = timeout(Duration::from_secs(10), made.peek(&mut [0])).await.unwrap();
            assert_eq!(peeked.ok(), clean.then_some(0));
            assert!(made.is_closed_now() && made.idle_is_closed());
        }
    });
}

#[test]
fn a_handshake_that_never_ends_counts_towards_the_connect_timeout() {
    run(async {
        let authority = Authority::new();
        let endpoint = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (conn, upstream) = over_tls(&endpoint, &origination(authority.spec(HOST)), Limits::default());
        let limits =
            PoolLimits { connect_timeout: Some(Duration::from_millis(200)), ..PoolLimits::default() };
        let made = upstream.connect(&conn.pod, None, &limits, Alpn::None).await;
        assert_eq!(made.err().map(|error| error.kind), Some(ErrorKind::ConnectTimeout));
    });
}

#[test]
fn what_is_not_tls_is_a_failed_handshake() {
    run(async {
        let authority = Authority::new();
        let endpoint = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (conn, upstream) = over_tls(&endpoint, &origination(authority.spec(HOST)), Limits::default());
        let limits = PoolLimits::default();
        let (made, _server) = tokio::join!(upstream.connect(&conn.pod, None, &limits, Alpn::None), async {
            let (mut socket, _) = endpoint.accept().await.unwrap();
            socket.write_all(b"220 mail.example.com ESMTP\r\n").await.unwrap();
            socket
        });
        assert_eq!(made.err().map(|error| error.kind), Some(ErrorKind::TlsFailed));
    });
}

#[test]
fn files_that_are_missing_are_told_and_used_once_they_are_there() {
    let authority = Authority::new();
    let missing = authority.file().with_file_name("later.pem");
    let store = Store::default();
    let tls = store.get(Spec { trust: Trust::File(missing.clone()), ..authority.spec(HOST) });
    store.refresh();
    let problem = store.problems().remove(0);
    assert_eq!((problem.field, problem.former, tls.is_ready()), ("caCertificates", false, false));
    assert!(problem.message.contains("later.pem"), "{}", problem.message);
    std::fs::write(&missing, "no certificate").unwrap();
    store.refresh();
    assert!(store.problems()[0].message.contains("has no certificate"), "{:?}", store.problems());
    replace(&authority.file(), &missing);
    store.refresh();
    assert!(tls.is_ready() && store.problems().is_empty());
    assert!(Arc::ptr_eq(&tls, &store.get(tls.spec().clone())), "equal wishes share one");
    drop(tls);
    store.refresh();
    assert_eq!(store.problems(), []);
}

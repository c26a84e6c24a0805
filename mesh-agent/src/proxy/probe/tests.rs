//! What plain text may where mutual TLS is required: nothing, but a declared probe from the node itself.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{LocalSet, spawn_local};
use tokio::time::timeout;

use super::*;
use crate::addr::ClientAddr;
use crate::model::{Decided, Modes, PortProbe, Security, Snapshot};
use crate::proxy::limits::Limits;
use crate::proxy::node::NodeAddresses;
use crate::proxy::{Pod, inbound, testing};
use crate::telemetry::Telemetry;

/// Where clients and application are in these tests.
const HERE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

/// An application, and in front of it the pod's listener at an address that isn't loopback's.
struct Lab {
    application: TcpListener,
    pod: Rc<Pod>,
}

fn set_mode(pod: &Pod, mode: MtlsMode) {
    let snapshot = &pod.worker.snapshot;
    let mut next = Snapshot::clone(&snapshot.load());
    let peers = Arc::new(Modes { all: Decided { mode, by: None }, ports: Vec::new() });
    next.security.insert_mut(pod.workload().name.clone(), Arc::new(Security { peers }));
    next.generation += 1;
    snapshot.store(Arc::new(next));
}

impl Lab {
    async fn new(mode: MtlsMode, probes: &[Probe], from_node: bool) -> Self {
        let application = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = application.local_addr().unwrap().port();
        let mut pod = testing::pod(Limits::default(), Telemetry::quiet());
        let node: &[IpAddr] = if from_node { &[HERE] } else { &[] };
        let inner = Rc::get_mut(&mut pod).unwrap();
        Rc::get_mut(&mut inner.worker).unwrap().node = NodeAddresses::of(node);
        let mut workload = testing::workload();
        workload.probes = probes.iter().map(|probe| PortProbe { port, probe: probe.clone() }).collect();
        inner.workload.replace(Arc::new(workload));
        set_mode(&pod, mode);
        Self { application, pod }
    }

    /// A client's connection, as if sk_lookup had handed it over.
    async fn client(&self) -> TcpStream {
        let front = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = TcpStream::connect(front.local_addr().unwrap()).await.unwrap();
        let (stream, from) = front.accept().await.unwrap();
        let (pod, dst) = (self.pod.clone(), self.application.local_addr().unwrap());
        spawn_local(async move { inbound::serve_at(pod, stream, ClientAddr::from(from), dst.into()).await });
        client
    }

    fn refused(&self) -> u64 {
        let counter = &self.pod.worker.telemetry.metrics.agent().connections_refused;
        counter.with_label_values(&["plain_text_refused"]).get()
    }

    /// Fails if the application was connected to.
    async fn assert_untouched(&self) {
        assert!(timeout(Duration::from_millis(50), self.application.accept()).await.is_err());
    }

    /// Answers one request as the application would.
    async fn answer(&self) -> String {
        let (mut stream, _) = self.application.accept().await.unwrap();
        let mut asked = Vec::new();
        while !asked.ends_with(b"\r\n\r\n") {
            assert!(stream.read_buf(&mut asked).await.unwrap() > 0);
        }
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await.unwrap();
        String::from_utf8(asked).unwrap()
    }
}

fn run(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let limit = async { timeout(Duration::from_secs(30), test).await.expect("test hangs") };
    LocalSet::new().block_on(&runtime, limit);
}

/// All that comes until the end; None for a reset.
async fn read_to_end(mut client: TcpStream) -> Option<String> {
    let mut got = Vec::new();
    client.read_to_end(&mut got).await.ok()?;
    Some(String::from_utf8(got).unwrap())
}

fn live() -> Probe {
    Probe::Http { target: "/live?full=1".into() }
}

#[test]
fn plain_text_to_a_strict_port_is_reset_and_counted_before_the_application_hears_of_it() {
    run(async {
        // A probe that is declared lets nobody in who isn't the node, nor the node in where none is declared.
        for (probes, from_node) in [(&[][..], false), (&[], true), (&[live()], false)] {
            let lab = Lab::new(MtlsMode::Strict, probes, from_node).await;
            let mut client = lab.client().await;
            let _ = client.write_all(b"GET /live?full=1 HTTP/1.1\r\nHost: a\r\n\r\n").await;
            assert_eq!(read_to_end(client).await, None);
            assert_eq!(lab.refused(), 1);
            lab.assert_untouched().await;
        }
    });
}

#[test]
fn other_modes_let_plain_text_in() {
    run(async {
        for mode in [MtlsMode::Permissive, MtlsMode::Disable] {
            let lab = Lab::new(mode, &[], false).await;
            let mut client = lab.client().await;
            client.write_all(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").await.unwrap();
            lab.answer().await;
            assert!(read_to_end(client).await.unwrap().starts_with("HTTP/1.1 200"));
            assert_eq!(lab.refused(), 0);
        }
    });
}

#[test]
fn a_probe_of_the_node_passes_a_strict_port() {
    run(async {
        let lab = Lab::new(MtlsMode::Strict, &[live()], true).await;
        let mut client = lab.client().await;
        client.write_all(b"GET /live?full=1 HTTP/1.1\r\nHost: a\r\nUser-Agent: kube-probe/1.33\r\nConnection: close\r\n\r\n").await.unwrap();
        assert!(lab.answer().await.starts_with("GET /live?full=1 HTTP/1.1\r\n"));
        assert!(read_to_end(client).await.unwrap().starts_with("HTTP/1.1 200"));
        assert_eq!(lab.refused(), 0);
    });
}

#[test]
fn the_exemption_is_no_wider_than_the_probe() {
    run(async {
        for request in [
            "GET /live HTTP/1.1\r\nHost: a\r\n\r\n",
            "GET /live?full=2 HTTP/1.1\r\nHost: a\r\n\r\n",
            "GET /live?full=1&x HTTP/1.1\r\nHost: a\r\n\r\n",
            "GET /Live?full=1 HTTP/1.1\r\nHost: a\r\n\r\n",
            "GET //live?full=1 HTTP/1.1\r\nHost: a\r\n\r\n",
            "GET /./live?full=1 HTTP/1.1\r\nHost: a\r\n\r\n",
            "GET http://a/live?full=1 HTTP/1.1\r\nHost: a\r\n\r\n",
            "POST /live?full=1 HTTP/1.1\r\nHost: a\r\n\r\n",
            "HEAD /live?full=1 HTTP/1.1\r\nHost: a\r\n\r\n",
            "GET /live?full=1 HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\nx",
            "GET /live?full=1 HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            "GET /live?full=1 HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
        ] {
            let lab = Lab::new(MtlsMode::Strict, &[live(), Probe::Tcp], true).await;
            let mut client = lab.client().await;
            client.write_all(request.as_bytes()).await.unwrap();
            let answer = read_to_end(client).await.unwrap();
            assert!(answer.starts_with("HTTP/1.1 403 "), "{request}: {answer}");
            assert!(answer.contains("connection: close\r\n"), "{request}: {answer}");
            assert_eq!(lab.refused(), 1, "{request}");
            lab.assert_untouched().await;
        }
    });
}

#[test]
fn what_follows_a_probe_on_its_connection_is_judged_by_itself() {
    run(async {
        let lab = Lab::new(MtlsMode::Strict, &[live()], true).await;
        let mut client = lab.client().await;
        client
            .write_all(b"GET /live?full=1 HTTP/1.1\r\nHost: a\r\n\r\nGET /admin HTTP/1.1\r\nHost: a\r\n\r\n")
            .await
            .unwrap();
        lab.answer().await;
        let answers = read_to_end(client).await.unwrap();
        assert!(answers.starts_with("HTTP/1.1 200") && answers.contains("HTTP/1.1 403"), "{answers}");
        assert_eq!(lab.refused(), 1);
    });
}

#[test]
fn a_connection_that_says_nothing_is_a_probe_of_the_port_and_no_more() {
    run(async {
        let lab = Lab::new(MtlsMode::Strict, &[Probe::Tcp], true).await;
        drop(lab.client().await);
        lab.assert_untouched().await;
        assert_eq!(lab.refused(), 0);
        for words in [
            b"hello\n".as_slice(),
            b"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
            detect::H2_PREFACE,
            b"\x16\x03\x01\x00\x01\x01",
        ] {
            let lab = Lab::new(MtlsMode::Strict, &[Probe::Tcp], true).await;
            let mut client = lab.client().await;
            let _ = client.write_all(words).await;
            assert_eq!(read_to_end(client).await, None, "{words:?}");
            assert_eq!(lab.refused(), 1, "{words:?}");
            lab.assert_untouched().await;
        }
    });
}

#[test]
fn a_policy_that_comes_later_holds_for_open_connections() {
    run(async {
        let lab = Lab::new(MtlsMode::Permissive, &[], false).await;
        let mut client = lab.client().await;
        client.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
        lab.answer().await;
        let mut first = vec![0; 200];
        assert!(client.read(&mut first).await.unwrap() > 0);
        set_mode(&lab.pod, MtlsMode::Strict);
        client.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
        assert!(read_to_end(client).await.unwrap().contains("HTTP/1.1 403"));
        assert_eq!(lab.refused(), 1);
    });
}

/// What any client of TLS begins with.
fn client_hello() -> Vec<u8> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let config = config.unwrap().with_root_certificates(rustls::RootCertStore::empty()).with_no_client_auth();
    let mut session = rustls::ClientConnection::new(Arc::new(config), "a.test".try_into().unwrap()).unwrap();
    let mut hello = Vec::new();
    session.write_tls(&mut hello).unwrap();
    hello
}

#[test]
fn open_bytes_end_when_a_policy_comes_but_for_what_a_probe_may_be() {
    run(async {
        let hello = client_hello();
        for (probe, words, stays) in [
            (Probe::Tcp, &b"hello"[..], false),
            (Probe::Tcp, &hello, false),
            (Probe::Https, b"hello", false),
            (Probe::Https, &hello, true),
        ] {
            let lab = Lab::new(MtlsMode::Permissive, &[probe], true).await;
            let mut client = lab.client().await;
            client.write_all(words).await.unwrap();
            let (mut server, _) = lab.application.accept().await.unwrap();
            server.read_exact(&mut vec![0; words.len()]).await.unwrap();
            server.write_all(b"welcome").await.unwrap();
            client.read_exact(&mut [0; 7]).await.unwrap();
            set_mode(&lab.pod, MtlsMode::Strict);
            lab.pod.worker.changed.send_modify(|generation| *generation += 1);
            if stays {
                client.write_all(b"more").await.unwrap();
                server.read_exact(&mut [0; 4]).await.unwrap();
            } else {
                assert!(client.read(&mut [0]).await.is_err());
                assert!(!matches!(server.read(&mut [0]).await, Ok(1..)));
            }
            assert_eq!(lab.refused(), u64::from(!stays));
        }
    });
}

#[test]
fn an_address_of_the_node_object_counts_as_the_nodes() {
    run(async {
        let lab = Lab::new(MtlsMode::Strict, &[live()], false).await;
        let mut next = Snapshot::clone(&lab.pod.worker.snapshot.load());
        next.node_addresses = Arc::from([HERE]);
        lab.pod.worker.snapshot.store(Arc::new(next));
        let mut client = lab.client().await;
        client.write_all(b"GET /live?full=1 HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").await.unwrap();
        lab.answer().await;
        assert!(read_to_end(client).await.unwrap().starts_with("HTTP/1.1 200"));
    });
}

#[test]
fn only_the_health_check_of_grpc_is_let_in() {
    run(async {
        let lab = Lab::new(MtlsMode::Strict, &[Probe::Grpc], true).await;
        let front: SocketAddr = lab.application.local_addr().unwrap();
        let conn = Connection::open(
            &lab.pod,
            Direction::Inbound,
            ClientAddr::new(HERE, 1),
            front.into(),
            &crate::model::Target::Unknown,
        );
        let head = |method: &str, uri: &str, version: Version| {
            http::Request::builder().method(method).uri(uri).version(version).body(()).unwrap().into_parts().0
        };
        let check = "http://a/grpc.health.v1.Health/Check";
        assert!(conn.admit_plain_text(&head("POST", check, Version::HTTP_2), false).is_ok());
        for (method, uri, version) in [
            ("GET", check, Version::HTTP_2),
            ("POST", "/grpc.health.v1.Health/Check", Version::HTTP_11),
            ("POST", "http://a/grpc.health.v1.Health/Watch", Version::HTTP_2),
            ("POST", "http://a/grpc.health.v1.Health/Check?x", Version::HTTP_2),
        ] {
            let refused = conn.admit_plain_text(&head(method, uri, version), false).unwrap_err();
            assert_eq!((refused.status.as_u16(), refused.grpc_status), (403, 7), "{method} {uri}");
        }
    });
}

//! Two agents over loopback: how each end of an opaque connection shows on the other, and who is refused.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;
use socket2::SockRef;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpListener;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::task::{JoinHandle, LocalSet, spawn_local, yield_now};

use super::*;
use crate::addr::{EndpointAddr, OrigDst};
use crate::identity::Identities;
use crate::identity::testing::Root;
use crate::model::Target;
use crate::proxy::edges::Edges;
use crate::proxy::{Direction, Limits, Pod, Reach, Upstream, testing};
use crate::telemetry::Telemetry;

/// A pod's two neighbours: its own agent and its peer's. What the far agent connects to is the listener that it was
/// accepted on: its application.
struct Lab {
    /// From the near pod.
    conn: Rc<Connection>,
    upstream: Rc<Upstream>,
    far: Rc<Pod>,
    addr: SocketAddr,
    applications: UnboundedReceiver<TcpStream>,
    /// TLS connections accepted so far.
    agents: UnboundedReceiver<()>,
}

/// One opaque connection through both agents.
struct Ends {
    client: TcpStream,
    application: TcpStream,
    served: JoinHandle<()>,
}

/// What the far agent is like.
struct Far {
    identities: Identities,
    limits: Limits,
    /// It is asked for another address than it was dialled at.
    elsewhere: bool,
}

impl Default for Far {
    fn default() -> Self {
        let identities = Root::shared().identities();
        Self { identities, limits: Limits::default(), elsewhere: false }
    }
}

fn pod(identities: &Identities, limits: Limits) -> Rc<Pod> {
    let pod = testing::pod(limits, Telemetry::quiet());
    pod.identity.replace(identities.of_pod(&testing::workload()));
    pod
}

async fn lab() -> Lab {
    lab_with(&Root::shared().identities(), "default", Far::default()).await
}

/// The near pod expects the far one to run as `account`.
async fn lab_with(near: &Identities, account: &str, far: Far) -> Lab {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let near = pod(near, Limits::default());
    let client = ClientAddr::from(SocketAddr::from(([127, 0, 0, 1], 40000)));
    let conn = Connection::open(&near, Direction::Outbound, client, OrigDst::from(addr), &Target::Unknown);
    let reach = Reach::Mesh(SpiffeId::new("cluster.local", "test", account));
    let endpoint = Upstream::endpoint_at(EndpointAddr::from(addr), Some(Arc::new(testing::workload())));
    let edges = Edges::outbound(&conn.pod, None, None, &reach);
    let upstream = Rc::new(Upstream::pooled(endpoint, edges, reach));
    conn.set_backends(Backends::Single(upstream.clone()));
    let (to_application, applications) = unbounded_channel();
    let (accepted, agents) = unbounded_channel();
    let pod = pod(&far.identities, far.limits.clone());
    spawn_local(accept(listener, pod.clone(), far.elsewhere, to_application, accepted));
    Lab { conn: Rc::new(conn), upstream, far: pod, addr, applications, agents }
}

/// Agents say ClientHello at once; applications in these tests are never spoken to with such a byte.
async fn accept(
    listener: TcpListener,
    pod: Rc<Pod>,
    elsewhere: bool,
    applications: UnboundedSender<TcpStream>,
    agents: UnboundedSender<()>,
) {
    while let Ok((stream, from)) = listener.accept().await {
        // The far agent dials from within this process too; whoever speaks TLS is the near one.
        let (pod, applications, agents) = (pod.clone(), applications.clone(), agents.clone());
        spawn_local(async move {
            let mut byte = [0];
            let peeked = timeout(Duration::from_millis(200), stream.peek(&mut byte)).await;
            if !matches!(peeked, Ok(Ok(1))) || byte[0] != detect::TLS_HANDSHAKE {
                return applications.send(stream).unwrap();
            }
            agents.send(()).unwrap();
            let mut dst = stream.local_addr().unwrap();
            if elsewhere {
                dst.set_port(1);
            }
            let from = ClientAddr::from(from);
            let conn = Connection::open(&pod, Direction::Inbound, from, OrigDst::from(dst), &Target::Unknown);
            let (mut client, mut first) = (Stream::from(stream), BytesMut::new());
            assert!(hello(&mut client, &mut first, conn.limits().detect_timeout).await);
            serve_agent(&conn, client, first).await;
        });
    }
}

impl Lab {
    /// A client's connection, and the task that carries it.
    async fn client(&self) -> (TcpStream, JoinHandle<()>) {
        let front = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = TcpStream::connect(front.local_addr().unwrap()).await.unwrap();
        let (stream, _) = front.accept().await.unwrap();
        let carried = testing::another(&self.conn);
        let served = async move { tcp::serve(&carried, stream.into(), Bytes::new(), None).await };
        (client, spawn_local(served))
    }

    async fn connect(&mut self) -> Ends {
        let (client, served) = self.client().await;
        let application = self.applications.recv().await.unwrap();
        Ends { client, application, served }
    }

    fn handshakes(&self, pod: &Pod, direction: &str, result: &str) -> u64 {
        let metrics = pod.worker.telemetry.metrics.agent();
        metrics.mesh_handshakes.with_label_values(&[direction, "mesh", result]).get()
    }

    /// Waits until this was counted, and holds that nothing else was.
    async fn counts(&self, pod: &Pod, direction: &str, result: &str) {
        let total = || {
            let text = pod.worker.telemetry.metrics.text();
            let of_it = |line: &&str| line.starts_with("mesh_agent_mesh_handshakes_total{");
            text.lines().filter(of_it).map(str::to_owned).collect::<Vec<_>>()
        };
        let soon = async {
            while self.handshakes(pod, direction, result) == 0 {
                yield_now().await;
            }
        };
        let counted = timeout(Duration::from_secs(5), soon).await;
        assert!(counted.is_ok() && total().len() == 1, "{direction} {result}: {:?}", total());
    }

    /// True if a connection of this pod ended with this flag.
    fn closed_with(&self, pod: &Pod, flag: &str) -> bool {
        let text = pod.worker.telemetry.metrics.text();
        let flag = format!("response_flags=\"{flag}\"");
        text.lines()
            .any(|line| line.starts_with("istio_tcp_connections_closed_total") && line.contains(&flag))
    }
}

fn run(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let limit = async { timeout(Duration::from_secs(30), test).await.expect("test hangs") };
    LocalSet::new().block_on(&runtime, limit);
}

async fn was_reset(mut stream: TcpStream) -> bool {
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest).await.is_err_and(|error| error.kind() == io::ErrorKind::ConnectionReset)
}

#[test]
fn both_directions_end_by_themselves() {
    run(async {
        let mut lab = lab().await;
        let Ends { mut client, mut application, served } = lab.connect().await;
        client.write_all(b"ping").await.unwrap();
        client.shutdown().await.unwrap();
        let mut asked = Vec::new();
        application.read_to_end(&mut asked).await.unwrap();
        assert_eq!(asked, b"ping");
        application.write_all(b"pong").await.unwrap();
        drop(application);
        let mut answer = Vec::new();
        client.read_to_end(&mut answer).await.unwrap();
        assert_eq!(answer, b"pong");
        served.await.unwrap();
        for pod in [&lab.conn.pod, &lab.far] {
            assert!(
                lab.closed_with(pod, "-") || {
                    yield_now().await;
                    lab.closed_with(pod, "-")
                }
            );
            let text = pod.worker.telemetry.metrics.text();
            let line = text.lines().find(|line| line.starts_with("istio_tcp_sent_bytes_total")).unwrap();
            assert!(
                line.ends_with(" 4") && line.contains("spiffe://cluster.local/ns/test/sa/default"),
                "{line}"
            );
        }
        assert_eq!(lab.handshakes(&lab.conn.pod, "outbound", "ok"), 1);
        assert_eq!(lab.handshakes(&lab.far, "inbound", "ok"), 1);
    });
}

#[test]
fn a_server_may_speak_first_and_the_clients_port_is_known_there() {
    run(async {
        let mut lab = lab().await;
        let Ends { mut client, mut application, .. } = lab.connect().await;
        application.write_all(b"220 hello\r\n").await.unwrap();
        let mut greeting = [0; 11];
        client.read_exact(&mut greeting).await.unwrap();
        assert_eq!(&greeting, b"220 hello\r\n");
        let list = lab.far.worker.telemetry.connections.list();
        let carried = list.iter().find(|view| view.protocol != crate::telemetry::L7::Mesh).unwrap();
        assert_eq!(carried.info.client.port(), 40000);
        assert_eq!(carried.peer, "spiffe://cluster.local/ns/test/sa/default");
    });
}

#[test]
fn a_reset_of_either_end_is_one_at_the_other() {
    run(async {
        let mut lab = lab().await;
        let Ends { client, application, served } = lab.connect().await;
        SockRef::from(&client).set_linger(Some(Duration::ZERO)).unwrap();
        drop(client);
        assert!(was_reset(application).await);
        served.await.unwrap();
        assert!(lab.closed_with(&lab.conn.pod, "DC"));
        let Ends { client, application, served } = lab.connect().await;
        SockRef::from(&application).set_linger(Some(Duration::ZERO)).unwrap();
        drop(application);
        assert!(was_reset(client).await);
        served.await.unwrap();
        assert!(lab.closed_with(&lab.conn.pod, "UC"));
    });
}

#[test]
fn a_reset_after_a_half_close_is_noticed() {
    run(async {
        let mut lab = lab().await;
        let Ends { client, mut application, served } = lab.connect().await;
        application.shutdown().await.unwrap();
        let mut client = client;
        assert_eq!(client.read(&mut [0]).await.unwrap(), 0, "one direction has ended");
        SockRef::from(&client).set_linger(Some(Duration::ZERO)).unwrap();
        drop(client);
        assert!(was_reset(application).await);
        served.await.unwrap();
    });
}

#[test]
fn an_agent_that_is_gone_is_never_a_clean_end() {
    run(async {
        let mut lab = lab().await;
        let Ends { mut client, mut application, served } = lab.connect().await;
        application.write_all(b"a part").await.unwrap();
        client.read_exact(&mut [0; 6]).await.unwrap();
        lab.far.worker.drain.begin();
        // Draining ends nothing that is under way.
        application.write_all(b"another").await.unwrap();
        client.read_exact(&mut [0; 7]).await.unwrap();
        served.abort();
        assert!(was_reset(client).await);
        assert!(was_reset(application).await);
    });
}

#[test]
fn whoever_does_not_read_holds_the_sender_back_and_loses_nothing() {
    run(async {
        let mut lab = lab().await;
        let Ends { client, mut application, .. } = lab.connect().await;
        let mut sent = 0;
        // What both sockets and the stream's window hold, and no more.
        while timeout(Duration::from_millis(500), client.writable()).await.is_ok() {
            sent += client.try_write(&[7; 64 * 1024]).unwrap_or(0);
            assert!(sent < 64 * 1024 * 1024, "nothing held it back");
        }
        // Others on the same connection don't wait for it.
        let Ends { client: mut other, application: mut answers, .. } = lab.connect().await;
        other.write_all(b"x").await.unwrap();
        answers.read_exact(&mut [0]).await.unwrap();
        let mut client = client;
        client.shutdown().await.unwrap();
        let mut got = Vec::new();
        application.read_to_end(&mut got).await.unwrap();
        assert_eq!(got.len(), sent);
    });
}

#[test]
fn many_share_few_connections_and_bulk_keeps_to_itself() {
    run(async {
        let mut lab = lab().await;
        let mut all = Vec::new();
        for number in 0..40_u8 {
            let mut ends = lab.connect().await;
            ends.client.write_all(&[number]).await.unwrap();
            let mut got = [0];
            ends.application.read_exact(&mut got).await.unwrap();
            assert_eq!(got, [number]);
            all.push(ends);
        }
        let connections = |lab: &mut Lab| std::iter::from_fn(|| lab.agents.try_recv().ok()).count();
        assert_eq!(connections(&mut lab), 3, "sixteen on each");
        all.clear();
        let Ends { mut client, mut application, .. } = lab.connect().await;
        let moves = async { client.write_all(&vec![1; 8 * 1024 * 1024]).await.unwrap() };
        let takes = async { application.read_exact(&mut vec![0; 8 * 1024 * 1024]).await.unwrap() };
        tokio::join!(moves, takes);
        assert_eq!(connections(&mut lab), 0, "those that are there are used again");
        let kept = lab.upstream.idle_count();
        let _beside = lab.connect().await;
        assert_eq!(lab.upstream.idle_count(), kept - 1, "not on the one with bulk on it");
    });
}

#[test]
fn a_client_whose_agent_has_no_place_or_other_address_for_it_is_refused() {
    run(async {
        let full =
            Far { limits: Limits { max_connections_per_pod: 0, ..Limits::default() }, ..Far::default() };
        let lab = lab_with(&Root::shared().identities(), "default", full).await;
        let (client, served) = lab.client().await;
        assert!(was_reset(client).await);
        served.await.unwrap();
        let refused = &lab.far.worker.telemetry.metrics.agent().connections_refused;
        assert_eq!(refused.with_label_values(&["too_many_connections"]).get(), 1);
        let confused = Far { elsewhere: true, ..Far::default() };
        let lab = lab_with(&Root::shared().identities(), "default", confused).await;
        let (client, served) = lab.client().await;
        assert!(was_reset(client).await);
        served.await.unwrap();
        let errors = &lab.far.worker.telemetry.metrics.agent().protocol_errors;
        assert_eq!(errors.with_label_values(&["wrong_authority"]).get(), 1);
    });
}

/// What both sides count when nothing may pass.
async fn refused(near: &Identities, account: &str, far: Identities, outbound: &str, inbound: &str) {
    let mut lab = lab_with(near, account, Far { identities: far, ..Far::default() }).await;
    let (client, served) = lab.client().await;
    assert!(was_reset(client).await);
    served.await.unwrap();
    lab.counts(&lab.conn.pod, "outbound", outbound).await;
    lab.counts(&lab.far, "inbound", inbound).await;
    assert!(lab.closed_with(&lab.conn.pod, "UF"));
    assert!(lab.applications.try_recv().is_err(), "the application was never connected to");
    assert_ne!(lab.addr.port(), 0);
}

#[test]
fn whoever_cannot_prove_who_it_is_reaches_nothing() {
    run(async {
        let own = Root::shared().identities();
        refused(&own, "other", Root::shared().identities(), "other_identity", "refused_by_peer").await;
        let stranger = Root::new();
        refused(&own, "default", stranger.identities(), "unknown_root", "refused_by_peer").await;
        // Two that trust both roots, of which one is of another trust domain, and takes the other's for its own.
        let alias = &["cluster.local"];
        let foreign = stranger.identities_of("other.test", alias, &[Root::shared(), &stranger], None);
        let trusting = Root::shared().identities_of("cluster.local", &[], &[Root::shared(), &stranger], None);
        refused(&foreign, "default", trusting, "refused_by_peer", "trust_domain").await;
        let strange = stranger.identities_of("cluster.local", &[], &[Root::shared()], None);
        refused(&strange, "default", Root::shared().identities(), "refused_by_peer", "unknown_root").await;
    });
}

/// Says hello to the far agent with a certificate of these URIs and life, and counts why it is refused.
async fn knocks(uris: &[&str], from: i64, until: i64, result: &str) {
    let lab = lab().await;
    let root = Root::shared();
    let at = |minutes: i64| {
        let by = Duration::from_secs(minutes.unsigned_abs() * 60);
        if minutes < 0 { SystemTime::now() - by } else { SystemTime::now() + by }
    };
    let life = crate::identity::authority::Life { not_before: at(from), not_after: at(until) };
    let trust = crate::identity::testing::trust("cluster.local", &[], &[root]);
    let config = root.svid(uris, life, &trust).client(&SpiffeId::new("cluster.local", "test", "default"));
    let tcp = TcpStream::connect(lab.addr).await.unwrap();
    let name = rustls::pki_types::ServerName::IpAddress(lab.addr.ip().into());
    let session =
        rustls::client::ClientConnection::new_with_alpn(config, name, vec![ALPN_MESH.to_vec()]).unwrap();
    // The client's part of the handshake is done before the server judges.
    let mut stream = Stream::from(TlsStream::client(tcp, session).await.unwrap());
    let refused = stream.read(&mut [0]).await;
    if result == "ok" {
        // The server's SETTINGS.
        assert!(matches!(refused, Ok(1)), "{refused:?}");
    } else {
        assert!(refused.is_err(), "{uris:?}: {refused:?}");
    }
    drop(stream);
    lab.counts(&lab.far, "inbound", result).await;
    while lab.closed_with(&lab.far, "DPE") != (result != "ok") {
        yield_now().await;
    }
}

#[test]
fn a_certificate_with_anything_wrong_is_refused_for_what_it_is() {
    const WEB: &str = "spiffe://cluster.local/ns/test/sa/web";
    run(async {
        knocks(&[WEB], -1, 60, "ok").await;
        knocks(&[], -1, 60, "no_identity").await;
        knocks(&[WEB, "spiffe://cluster.local/ns/test/sa/cart"], -1, 60, "no_identity").await;
        knocks(&["https://cluster.local/ns/test/sa/web"], -1, 60, "no_identity").await;
        knocks(&["spiffe://other.test/ns/test/sa/web"], -1, 60, "trust_domain").await;
        knocks(&[WEB], -60, -1, "expired").await;
        knocks(&[WEB], 10, 60, "not_yet_valid").await;
    });
}

//! Tunnels over loopback: how each side's end shows on the other.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::rc::Rc;

use socket2::SockRef;
use tokio::io::{AsyncReadExt, Interest};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, LocalSet, spawn_local};
use tokio::time::timeout;

use super::*;
use crate::policy::PoolLimits;
use crate::proxy::{Backends, testing};

/// Both ends of a tunnel, and the tunnel's task.
struct Lab {
    client: TcpStream,
    server: TcpStream,
    conn: Rc<Connection>,
    served: JoinHandle<()>,
}

async fn lab() -> Lab {
    let endpoint = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let conn = Rc::new(testing::connection(endpoint.local_addr().unwrap()));
    let front = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let client = TcpStream::connect(front.local_addr().unwrap()).await.unwrap();
    let (stream, _) = front.accept().await.unwrap();
    let carried = conn.clone();
    let served = spawn_local(async move { serve(&carried, stream.into(), Bytes::new(), None).await });
    let (server, _) = endpoint.accept().await.unwrap();
    Lab { client, server, conn, served }
}

fn run(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let limit = async { timeout(Duration::from_secs(10), test).await.expect("test hangs") };
    LocalSet::new().block_on(&runtime, limit);
}

/// Writes until nobody takes any more.
async fn fill(stream: &TcpStream) {
    // Real sockets: time in which a kernel that has room for more would say so.
    while timeout(Duration::from_millis(300), stream.writable()).await.is_ok() {
        let _ = stream.try_write(&[7; 64 * 1024]);
    }
}

fn closed_with(conn: &Connection, flag: &str) -> bool {
    let text = conn.pod.worker.telemetry.metrics.text();
    let flag = format!("response_flags=\"{flag}\"");
    text.lines().any(|line| line.starts_with("istio_tcp_connections_closed_total") && line.contains(&flag))
}

async fn check(
    lab: impl AsyncFnOnce() -> (TcpStream, TcpStream, Rc<Connection>, JoinHandle<()>),
    flag: &str,
) {
    let (resets, other, conn, served) = lab().await;
    SockRef::from(&resets).set_linger(Some(Duration::ZERO)).unwrap();
    drop(resets);
    served.await.unwrap();
    // Only a reset is an error; an end of the stream isn't.
    other.ready(Interest::ERROR).await.unwrap();
    assert!(closed_with(&conn, flag), "{}", conn.pod.worker.telemetry.metrics.text());
}

#[test]
fn a_clients_reset_is_passed_on_while_the_server_takes_nothing() {
    run(check(
        async || {
            let lab = lab().await;
            fill(&lab.client).await;
            (lab.client, lab.server, lab.conn, lab.served)
        },
        "DC",
    ));
}

#[test]
fn a_servers_reset_is_passed_on_while_the_client_takes_nothing() {
    run(check(
        async || {
            let lab = lab().await;
            fill(&lab.server).await;
            (lab.server, lab.client, lab.conn, lab.served)
        },
        "UC",
    ));
}

#[test]
fn a_reset_after_a_half_close_is_passed_on() {
    run(check(
        async || {
            let mut lab = lab().await;
            lab.client.shutdown().await.unwrap();
            assert_eq!(lab.server.read(&mut [0]).await.unwrap(), 0, "the half-close came through");
            (lab.client, lab.server, lab.conn, lab.served)
        },
        "DC",
    ));
}

#[test]
fn a_half_close_is_no_reset_while_nothing_is_taken() {
    run(async {
        let mut lab = lab().await;
        fill(&lab.client).await;
        lab.client.shutdown().await.unwrap();
        let taken = lab.server.read_to_end(&mut Vec::new()).await.unwrap();
        assert!(taken > 0);
        drop(lab.server);
        assert_eq!(lab.client.read(&mut [0]).await.unwrap(), 0);
        lab.served.await.unwrap();
        assert!(closed_with(&lab.conn, "-"));
    });
}

#[test]
fn a_connection_ends_at_its_age_whatever_moves() {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
    LocalSet::new().block_on(&runtime, async {
        let mut lab = lab().await;
        drop((lab.client, lab.server));
        lab.served.await.unwrap();
        let endpoint = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let longest = Duration::from_secs(600);
        let limits = PoolLimits { max_connection_duration: Some(longest), ..PoolLimits::default() };
        let port = testing::limited_port(&[endpoint.local_addr().unwrap()], limits);
        lab.conn.set_backends(Backends::Service(port));
        let front = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut client = TcpStream::connect(front.local_addr().unwrap()).await.unwrap();
        let (stream, _) = front.accept().await.unwrap();
        let carried = lab.conn.clone();
        let begun = tokio::time::Instant::now();
        lab.served = spawn_local(async move { serve(&carried, stream.into(), Bytes::new(), None).await });
        let (mut server, _) = endpoint.accept().await.unwrap();
        for _ in 0..9 {
            // Paused time: traffic all along.
            tokio::time::sleep(Duration::from_secs(60)).await;
            client.write_all(b"x").await.unwrap();
            assert_eq!(server.read_u8().await.unwrap(), b'x');
        }
        lab.served.await.unwrap();
        assert!(
            (longest..longest + Duration::from_secs(1)).contains(&begun.elapsed()),
            "{:?}",
            begun.elapsed()
        );
        assert!(client.read_u8().await.is_err_and(|e| e.kind() == std::io::ErrorKind::ConnectionReset));
        assert!(closed_with(&lab.conn, "DT"));
    });
}

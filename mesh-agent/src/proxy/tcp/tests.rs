//! Tunnels over loopback: how each side's end shows on the other.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::rc::Rc;

use socket2::SockRef;
use tokio::io::{AsyncReadExt, Interest};
use tokio::net::TcpListener;
use tokio::task::{JoinHandle, LocalSet, spawn_local};
use tokio::time::timeout;

use super::*;
use crate::proxy::testing;

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
    let served = spawn_local(async move { serve(&carried, stream, Bytes::new(), None).await });
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

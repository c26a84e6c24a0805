//! Not a test: a bare proxy for wrk and perf, this module's or hyper's, in release mode.
//!
//! `UPSTREAM=127.0.0.1:8080 LISTEN=127.0.0.1:8081 cargo test --release -p mesh-agent --lib -- --ignored bench_serve`

#![allow(clippy::unwrap_used)]
use std::net::SocketAddr;

use bytes::BytesMut;
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{LocalSet, spawn_local};

use super::*;
use crate::proxy::testing;

fn addr(name: &str) -> SocketAddr {
    std::env::var(name).unwrap().parse().unwrap()
}

fn listen(accepted: impl AsyncFn(TcpStream, SocketAddr)) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    LocalSet::new().block_on(&runtime, async {
        let listener = TcpListener::bind(addr("LISTEN")).await.unwrap();
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            accepted(stream, addr("UPSTREAM")).await;
        }
    });
}

#[test]
#[ignore = "runs until killed"]
fn bench_serve() {
    listen(async |stream, upstream| {
        drop(spawn_local(async move {
            serve(Conn::new(stream, BytesMut::new()), &testing::connection(upstream)).await
        }));
    });
}

#[test]
#[ignore = "runs until killed"]
fn bench_hyper() {
    listen(async |stream, upstream| {
        stream.set_nodelay(true).unwrap();
        let to = TcpStream::connect(upstream).await.unwrap();
        to.set_nodelay(true).unwrap();
        let (sender, connection) =
            hyper::client::conn::http1::handshake::<_, Incoming>(TokioIo::new(to)).await.unwrap();
        spawn_local(connection);
        let sender = std::rc::Rc::new(tokio::sync::Mutex::new(sender));
        let service = hyper::service::service_fn(move |request| {
            let sender = sender.clone();
            async move { sender.lock().await.send_request(request).await }
        });
        spawn_local(
            hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service),
        );
    });
}

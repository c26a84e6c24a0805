//! HTTP/2 through `serve` on loopback: the h2 crate as client and as endpoint, and raw frames for what it won't send.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod account;
mod deadlines;
mod ends;
mod forward;
mod hedges;
mod hostile;
mod mirrors;
mod pooling;
mod quotas;
mod raw;
mod retries;

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use h2::client::{ResponseFuture, SendRequest};
use h2::server::SendResponse;
use h2::{RecvStream, SendStream};
use http::{HeaderMap, Request, Response};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio::task::{LocalSet, spawn_local};

use crate::policy::PoolLimits;
use crate::proxy::testing::{connection_with, limited_port};
use crate::proxy::{Backends, Connection, Hostile, Limits};

/// Runs a test on one thread; fails it after a while.
fn run(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let timed =
        async { tokio::time::timeout(Duration::from_secs(60), test).await.expect("test took too long") };
    LocalSet::new().block_on(&runtime, timed);
}

pub(crate) async fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while Instant::now() < deadline {
        if holds() {
            return;
        }
        // The pause between two looks.
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("never: {what}");
}

/// An endpoint: every request goes to `answer`.
pub(crate) struct Endpoint {
    pub(crate) addr: SocketAddr,
    pub(crate) connections: Rc<Cell<usize>>,
    pub(crate) requests: Rc<Cell<usize>>,
}

impl Endpoint {
    pub(crate) async fn start<F, A>(answer: F) -> Self
    where
        F: Fn(Request<RecvStream>, SendResponse<Bytes>) -> A + 'static,
        A: Future<Output = ()> + 'static,
    {
        Self::start_with(h2::server::Builder::new(), answer).await
    }

    async fn start_with<F, A>(builder: h2::server::Builder, answer: F) -> Self
    where
        F: Fn(Request<RecvStream>, SendResponse<Bytes>) -> A + 'static,
        A: Future<Output = ()> + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let connections = Rc::new(Cell::new(0));
        let requests = Rc::new(Cell::new(0));
        let (seen, came) = (connections.clone(), requests.clone());
        let answer = Rc::new(answer);
        spawn_local(async move {
            while let Ok((stream, _)) = listener.accept().await {
                seen.set(seen.get() + 1);
                let (builder, answer, came) = (builder.clone(), answer.clone(), came.clone());
                spawn_local(async move {
                    let Ok(mut h2) = builder.handshake(stream).await else { return };
                    while let Some(Ok((request, respond))) = h2.accept().await {
                        came.set(came.get() + 1);
                        spawn_local(answer(request, respond));
                    }
                });
            }
        });
        Self { addr, connections, requests }
    }

    /// Waits until it has `count` requests.
    pub(crate) async fn has(&self, count: usize) {
        eventually("requests at the endpoint", || self.requests.get() == count).await;
    }
}

/// The agent in between, for any number of client connections.
struct Proxy {
    addr: SocketAddr,
    conns: Rc<RefCell<Vec<Rc<Connection>>>>,
    ended: Rc<Cell<usize>>,
}

impl Proxy {
    async fn to(endpoint: SocketAddr) -> Self {
        Self::with(endpoint, Limits::default()).await
    }

    async fn with(endpoint: SocketAddr, limits: Limits) -> Self {
        Self::of(move || connection_with(endpoint, limits.clone())).await
    }

    /// To a service port under these limits.
    async fn limited(endpoint: SocketAddr, limits: PoolLimits) -> Self {
        let port = limited_port(&[endpoint], limits);
        Self::of(move || {
            let conn = connection_with(endpoint, Limits::default());
            conn.set_backends(Backends::Service(port.clone()));
            conn
        })
        .await
    }

    async fn of(make: impl Fn() -> Connection + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let proxy = Self { addr, conns: Rc::default(), ended: Rc::default() };
        let (conns, ended) = (proxy.conns.clone(), proxy.ended.clone());
        spawn_local(async move {
            while let Ok((stream, _)) = listener.accept().await {
                stream.set_nodelay(true).unwrap();
                let conn = Rc::new(make());
                conns.borrow_mut().push(conn.clone());
                let ended = ended.clone();
                spawn_local(async move {
                    super::serve(stream.into(), BytesMut::new(), &conn).await;
                    ended.set(ended.get() + 1);
                });
            }
        });
        proxy
    }

    async fn client(&self) -> SendRequest<Bytes> {
        self.client_with(&h2::client::Builder::new()).await
    }

    async fn client_with(&self, builder: &h2::client::Builder) -> SendRequest<Bytes> {
        let stream = TcpStream::connect(self.addr).await.unwrap();
        let (send, connection) = builder.handshake(stream).await.unwrap();
        spawn_local(async move {
            let _ = connection.await;
        });
        send
    }

    fn conn(&self) -> Rc<Connection> {
        self.conns.borrow()[0].clone()
    }

    /// How often a kind of hostile input was counted.
    fn hostile(&self, kind: Hostile) -> u64 {
        let count = |conn: &Rc<Connection>| {
            let agent = conn.pod.worker.telemetry.metrics.agent();
            agent.protocol_errors.with_label_values(&[kind.label()]).get()
        };
        self.conns.borrow().iter().map(count).sum()
    }
}

fn get(path: &str) -> Request<()> {
    Request::get(format!("http://service.test{path}")).body(()).unwrap()
}

fn post(path: &str) -> Request<()> {
    Request::post(format!("http://service.test{path}")).body(()).unwrap()
}

fn grpc(path: &str) -> Request<()> {
    let request = Request::post(format!("http://service.test{path}"));
    request.header("content-type", "application/grpc").header("te", "trailers").body(()).unwrap()
}

async fn send(
    client: &SendRequest<Bytes>,
    request: Request<()>,
    end: bool,
) -> (ResponseFuture, SendStream<Bytes>) {
    client.clone().ready().await.unwrap().send_request(request, end).unwrap()
}

/// A whole body with its trailers.
pub(crate) async fn collect(body: &mut RecvStream) -> Result<(Vec<u8>, Option<HeaderMap>), h2::Error> {
    let mut all = Vec::new();
    while let Some(part) = body.data().await {
        let part = part?;
        body.flow_control().release_capacity(part.len()).unwrap();
        all.extend_from_slice(&part);
    }
    Ok((all, body.trailers().await?))
}

/// A response with a short body.
pub(crate) fn reply(mut respond: SendResponse<Bytes>, body: &'static str) {
    if let Ok(mut stream) = respond.send_response(Response::new(()), body.is_empty()) {
        let _ = body.is_empty() || stream.send_data(Bytes::from_static(body.as_bytes()), true).is_ok();
    }
}

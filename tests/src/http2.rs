//! HTTP/2 with the `h2` crate on both ends: a server that runs a handler a request, and a client connection.

use std::future::Future;
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::JoinHandle;

use anyhow::{Context, Result};
use bytes::Bytes;
use h2::client::SendRequest;
use h2::server::SendResponse;
use h2::{Reason, RecvStream, SendStream};
use http::{HeaderMap, Request, Response};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::oneshot;
use tokio::task::LocalSet;

use crate::PATIENCE;

/// A server on a thread of its own; ends with the guard.
pub struct H2Server {
    accepted: Arc<AtomicUsize>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl H2Server {
    /// Serves every request with `handle`. With `goaway_after`, a connection that has taken so many requests sends
    /// GOAWAY and closes when they are answered.
    pub fn new<F, R>(listener: TcpListener, goaway_after: Option<usize>, handle: F) -> Self
    where
        F: Fn(Request<RecvStream>, SendResponse<Bytes>) -> R + Clone + Send + 'static,
        R: Future<Output = ()> + 'static,
    {
        let (stop, stopped) = oneshot::channel();
        let accepted = Arc::<AtomicUsize>::default();
        let count = accepted.clone();
        let thread = std::thread::spawn(move || {
            let runtime = runtime();
            LocalSet::new().block_on(&runtime, async move {
                tokio::select! {
                    _ = stopped => {}
                    _ = accept(listener, goaway_after, handle, count) => {}
                }
            });
        });
        Self { accepted, stop: Some(stop), thread: Some(thread) }
    }

    /// How many connections it has accepted.
    pub fn accepted(&self) -> usize {
        self.accepted.load(Ordering::Relaxed)
    }
}

impl Drop for H2Server {
    fn drop(&mut self) {
        let _ = self.stop.take().map(|stop| stop.send(()));
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

async fn accept<F, R>(
    listener: TcpListener,
    goaway_after: Option<usize>,
    handle: F,
    count: Arc<AtomicUsize>,
) -> Result<()>
where
    F: Fn(Request<RecvStream>, SendResponse<Bytes>) -> R + Clone + 'static,
    R: Future<Output = ()> + 'static,
{
    listener.set_nonblocking(true)?;
    let listener = tokio::net::TcpListener::from_std(listener)?;
    loop {
        let (stream, _) = listener.accept().await?;
        count.fetch_add(1, Ordering::Relaxed);
        let handle = handle.clone();
        tokio::task::spawn_local(async move {
            let Ok(mut connection) = h2::server::handshake(stream).await else { return };
            let mut taken = 0;
            while let Some(Ok((request, respond))) = connection.accept().await {
                taken += 1;
                tokio::task::spawn_local(handle(request, respond));
                if Some(taken) == goaway_after {
                    connection.graceful_shutdown();
                }
            }
        });
    }
}

fn runtime() -> Runtime {
    Builder::new_current_thread().enable_all().build().expect("a runtime")
}

/// Runs `work` with a client on `stream`; the connection is driven beside it. Fails when it takes too long.
pub fn with_client<T, R>(stream: TcpStream, work: impl FnOnce(SendRequest<Bytes>) -> R) -> Result<T>
where
    R: Future<Output = Result<T>>,
{
    let runtime = runtime();
    LocalSet::new().block_on(&runtime, async move {
        stream.set_nonblocking(true)?;
        let stream = tokio::net::TcpStream::from_std(stream)?;
        let all = async {
            let (client, connection) = h2::client::handshake(stream).await?;
            tokio::task::spawn_local(async move {
                let _ = connection.await;
            });
            work(client).await
        };
        tokio::time::timeout(PATIENCE * 2, all).await.context("took too long")?
    })
}

/// A whole response.
#[derive(Debug)]
pub struct Answer {
    /// Head.
    pub head: http::response::Parts,
    /// Body.
    pub body: Vec<u8>,
    /// Trailers.
    pub trailers: Option<HeaderMap>,
}

/// Sends a request without a body and reads the whole response.
pub async fn get(client: &SendRequest<Bytes>, authority: &str, path: &str) -> Result<Answer> {
    let request = Request::get(format!("http://{authority}{path}")).body(())?;
    let (answer, _) = client.clone().ready().await?.send_request(request, true)?;
    whole(answer.await?).await
}

/// Reads the whole response.
pub async fn whole(response: Response<RecvStream>) -> Result<Answer> {
    let (head, body) = response.into_parts();
    let (body, trailers) = collect(body).await?;
    Ok(Answer { head, body, trailers })
}

/// Reads a body and its trailers, releasing capacity as it goes.
pub async fn collect(mut body: RecvStream) -> Result<(Vec<u8>, Option<HeaderMap>)> {
    let mut all = Vec::new();
    while let Some(data) = body.data().await {
        let data = data?;
        body.flow_control().release_capacity(data.len())?;
        all.extend_from_slice(&data);
    }
    Ok((all, body.trailers().await?))
}

/// Answers 200 with a body and trailers.
pub fn answer(respond: &mut SendResponse<Bytes>, body: impl Into<Bytes>, trailers: Option<HeaderMap>) {
    let Ok(mut stream) = respond.send_response(Response::new(()), false) else { return };
    let _ = stream.send_data(body.into(), trailers.is_none());
    if let Some(trailers) = trailers {
        let _ = stream.send_trailers(trailers);
    }
}

/// The code with which the other side reset the stream.
pub async fn reset_of(stream: &mut SendStream<Bytes>) -> Option<Reason> {
    std::future::poll_fn(|context| stream.poll_reset(context)).await.ok()
}

//! A bare hyper reverse proxy with a connection pool: the floor for HTTP. It routes nothing, counts nothing and checks
//! nothing.

use std::cell::RefCell;
use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context as Task, Poll};

use anyhow::{Context, Result};
use bytes::Bytes;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use hyper::client::conn::{http1, http2};
use hyper::service::service_fn;
use hyper::{Request, Response, Uri};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::task::spawn_local;

use super::{block_on, listen, say_ready};

#[derive(clap::Args)]
pub struct Args {
    /// Where to listen
    #[arg(long)]
    listen: SocketAddr,
    /// Where every request goes
    #[arg(long)]
    to: SocketAddr,
    /// HTTP/2 with prior knowledge on both sides instead of HTTP/1.1
    #[arg(long)]
    http2: bool,
}

pub fn run(args: &Args) -> Result<()> {
    block_on(async {
        let listener = listen(args.listen)?;
        say_ready();
        let upstream2 = Rc::new(RefCell::new(None));
        let pool1 = Rc::new(Pool { to: args.to, idle: RefCell::default() });
        loop {
            let Ok((stream, _)) = listener.accept().await else { continue };
            let _ = stream.set_nodelay(true);
            if args.http2 {
                spawn_local(serve2(stream, upstream2.clone(), args.to));
            } else {
                spawn_local(serve1(stream, pool1.clone()));
            }
        }
    })
}

/// Spawns on the one thread.
#[derive(Clone, Copy)]
pub struct LocalExecutor;

impl<F: Future<Output: 'static> + 'static> hyper::rt::Executor<F> for LocalExecutor {
    fn execute(&self, future: F) {
        spawn_local(future);
    }
}

/// Idle upstream connections, the one used last on top.
struct Pool {
    to: SocketAddr,
    idle: RefCell<Vec<http1::SendRequest<Incoming>>>,
}

impl Pool {
    async fn take(&self) -> Result<http1::SendRequest<Incoming>> {
        loop {
            let Some(mut sender) = self.idle.borrow_mut().pop() else { break };
            if sender.ready().await.is_ok() {
                return Ok(sender);
            }
        }
        let stream = connect(self.to).await?;
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        spawn_local(connection);
        Ok(sender)
    }
}

async fn connect(to: SocketAddr) -> Result<TcpStream> {
    let stream = TcpStream::connect(to).await.with_context(|| format!("could not connect to {to}"))?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

async fn serve1(stream: TcpStream, pool: Rc<Pool>) {
    let service = service_fn(move |request: Request<Incoming>| {
        let pool = pool.clone();
        async move {
            let mut sender = pool.take().await?;
            let response = sender.send_request(request).await?;
            anyhow::Ok(response.map(|body| Returning { body, sender: Some(sender), pool }))
        }
    });
    // A client that goes away ends it.
    let _ = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
}

/// A response's body that gives its connection back to the pool when it has ended.
struct Returning {
    body: Incoming,
    sender: Option<http1::SendRequest<Incoming>>,
    pool: Rc<Pool>,
}

impl Body for Returning {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        task: &mut Task<'_>,
    ) -> Poll<Option<hyper::Result<Frame<Bytes>>>> {
        Pin::new(&mut self.body).poll_frame(task)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for Returning {
    fn drop(&mut self) {
        // hyper drops a body it has sent; one that was cut short makes its connection not ready, which `take` sees.
        if let Some(sender) = self.sender.take() {
            self.pool.idle.borrow_mut().push(sender);
        }
    }
}

type Upstream2 = Rc<RefCell<Option<http2::SendRequest<Incoming>>>>;

async fn serve2(stream: TcpStream, upstream: Upstream2, to: SocketAddr) {
    let service = service_fn(move |request: Request<Incoming>| {
        let upstream = upstream.clone();
        async move { forward2(request, upstream, to).await }
    });
    let builder = hyper::server::conn::http2::Builder::new(LocalExecutor);
    let _ = builder.serve_connection(TokioIo::new(stream), service).await;
}

/// One upstream connection carries every stream.
async fn forward2(
    mut request: Request<Incoming>,
    upstream: Upstream2,
    to: SocketAddr,
) -> Result<Response<Incoming>> {
    let path = request.uri().path_and_query().map_or("/", |path| path.as_str());
    *request.uri_mut() =
        Uri::builder().scheme("http").authority(to.to_string()).path_and_query(path).build()?;
    let open = upstream.borrow().clone().filter(|sender| !sender.is_closed());
    let mut sender = match open {
        Some(sender) => sender,
        None => {
            let (sender, connection) =
                http2::handshake(LocalExecutor, TokioIo::new(connect(to).await?)).await?;
            spawn_local(connection);
            upstream.borrow_mut().replace(sender.clone());
            sender
        }
    };
    Ok(sender.send_request(request).await?)
}

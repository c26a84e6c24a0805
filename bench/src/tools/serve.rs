//! The server behind every row: 1 KiB for every request, as cheaply as it can be, so that it isn't what is measured.
//!
//! HTTP/1 is answered without being understood: every blank line is a request's end, and the answer is one write. HTTP/2
//! needs a real implementation and is hyper's. The body begins with the address that was connected to.

use std::convert::Infallible;
use std::fmt::Write as _;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use anyhow::Result;
use bytes::Bytes;
use http_body_util::Full;
use hyper::Response;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::spawn_local;

use super::http_proxy::LocalExecutor;
use super::{block_on, listen, say_ready};

/// Bytes of the body.
pub const BODY: usize = 1024;

#[derive(clap::Args)]
pub struct Args {
    /// Ports for HTTP/1
    #[arg(long, value_delimiter = ',')]
    http1: Vec<u16>,
    /// Port for HTTP/2 with prior knowledge
    #[arg(long)]
    http2: u16,
    /// Port of a server that sends without end, once it has heard something
    #[arg(long)]
    bulk: u16,
    /// Milliseconds before each answer over HTTP/1
    #[arg(long, default_value_t)]
    delay: u64,
}

pub fn run(args: &Args) -> Result<()> {
    let delay = Duration::from_millis(args.delay);
    block_on(async {
        for port in &args.http1 {
            let listener = listen(SocketAddr::from((Ipv4Addr::UNSPECIFIED, *port)))?;
            spawn_local(async move {
                loop {
                    // An error of accept is a client that went away; nothing to do about it.
                    if let Ok((stream, _)) = listener.accept().await {
                        spawn_local(serve_http1(stream, delay));
                    }
                }
            });
        }
        let bulk = listen(SocketAddr::from((Ipv4Addr::UNSPECIFIED, args.bulk)))?;
        spawn_local(async move {
            loop {
                if let Ok((stream, _)) = bulk.accept().await {
                    spawn_local(serve_bulk(stream));
                }
            }
        });
        let http2 = listen(SocketAddr::from((Ipv4Addr::UNSPECIFIED, args.http2)))?;
        say_ready();
        loop {
            if let Ok((stream, _)) = http2.accept().await {
                spawn_local(serve_http2(stream));
            }
        }
    })
}

fn body(stream: &TcpStream) -> String {
    let mut body = String::with_capacity(BODY);
    let address =
        stream.local_addr().map_or_else(|_| "unknown".to_owned(), |address| address.ip().to_string());
    // A String takes whatever is written.
    let _ = writeln!(body, "{address}");
    while body.len() < BODY {
        body.push('x');
    }
    body
}

async fn serve_http1(mut stream: TcpStream, delay: Duration) {
    let _ = stream.set_nodelay(true);
    let answer = format!(
        "HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: {BODY}\r\n\r\n{}",
        body(&stream)
    );
    let (mut buffer, mut matched) = ([0_u8; 4096], 0);
    loop {
        let Ok(read @ 1..) = stream.read(&mut buffer).await else { return };
        let mut requests = 0;
        for byte in &buffer[..read] {
            matched = match (matched, byte) {
                (0 | 2, b'\r') | (1, b'\n') => matched + 1,
                (3, b'\n') => {
                    requests += 1;
                    0
                }
                (_, b'\r') => 1,
                _ => 0,
            };
        }
        if !delay.is_zero() {
            tokio::time::sleep(delay).await;
        }
        for _ in 0..requests {
            if stream.write_all(answer.as_bytes()).await.is_err() {
                return;
            }
        }
    }
}

async fn serve_bulk(mut stream: TcpStream) {
    let part = vec![b'x'; 256 * 1024];
    if matches!(stream.read(&mut [0; 16]).await, Ok(1..)) {
        while stream.write_all(&part).await.is_ok() {}
    }
}

async fn serve_http2(stream: TcpStream) {
    let _ = stream.set_nodelay(true);
    let body = Bytes::from(body(&stream));
    let service = service_fn(move |_| {
        let body = body.clone();
        async move { Ok::<_, Infallible>(Response::new(Full::new(body))) }
    });
    // The client's going away ends the connection; that is no failure of the server.
    let _ = hyper::server::conn::http2::Builder::new(LocalExecutor)
        .serve_connection(TokioIo::new(stream), service)
        .await;
}

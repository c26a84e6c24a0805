//! Carries one connection by its protocol: declared, or found out by its first bytes.
//!
//! Comes after `outbound` and `inbound`; goes on in `tcp`, `crate::http1` or `crate::http2`. Where nothing is
//! declared the endpoint is dialled at once and whoever speaks first decides, so that no protocol waits for a timer.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, timeout, timeout_at};

use super::context::Connection;
use super::detect::{self, MAX_PEEK, Verdict};
use super::error::ErrorKind;
use super::tcp::{self, Dialled};
use crate::http1;
use crate::http2;
use crate::model::AppProtocol;
use crate::telemetry::L7;

/// Room for the first bytes: most request heads fit.
const FIRST_READ: usize = 4096;
/// A client that has connected and sent nothing when the agent begins to drain may be about to send its first request,
/// and unlike one with a used connection it doesn't expect to find it closed.
const FIRST_REQUEST_GRACE: Duration = Duration::from_secs(1);

/// Carries `client` until it ends.
pub async fn serve(conn: &Connection, client: TcpStream) {
    match conn.protocol {
        AppProtocol::Tcp => opaque(conn, client, Bytes::new(), None).await,
        AppProtocol::Tls => tls(conn, client).await,
        AppProtocol::Http | AppProtocol::Http2 | AppProtocol::Grpc => http(conn, client).await,
        AppProtocol::Detect => unknown(conn, client).await,
    }
}

/// Ends a connection that may not go on, with its line in log and metrics.
pub fn refuse(conn: &Connection, client: TcpStream, why: ErrorKind) {
    tcp::refused(conn, client, why);
}

async fn opaque(conn: &Connection, client: TcpStream, prefix: Bytes, ready: Option<Dialled>) {
    conn.detected(L7::Tcp);
    tcp::serve(conn, client, prefix, ready).await;
}

/// TLS of the application's own is passed through; its server name is noted.
async fn tls(conn: &Connection, mut client: TcpStream) {
    let mut first = BytesMut::with_capacity(FIRST_READ);
    let verdict = read_until_clear(
        &mut client,
        &mut first,
        conn.limits().tcp_idle,
        conn.limits().detect_timeout,
        |bytes| Some(detect::classify(bytes)).filter(|verdict| *verdict != Verdict::Unclear),
    )
    .await;
    match verdict {
        Some(Verdict::Tls(sni)) => through(conn, client, first.freeze(), sni, None).await,
        _ => opaque(conn, client, first.freeze(), None).await,
    }
}

async fn through(
    conn: &Connection,
    client: TcpStream,
    prefix: Bytes,
    sni: Option<String>,
    ready: Option<Dialled>,
) {
    conn.detected(L7::Tls);
    conn.sni.replace(sni);
    tcp::serve(conn, client, prefix, ready).await;
}

/// HTTP is declared: only its version is open.
async fn http(conn: &Connection, mut client: TcpStream) {
    let mut first = BytesMut::with_capacity(FIRST_READ);
    if !begins(conn, &mut client, &mut first).await {
        return;
    }
    let mut is_http2 = detect::is_http2(&first);
    if is_http2.is_none() {
        let patience = conn.limits().head_timeout;
        is_http2 = read_until_clear(&mut client, &mut first, patience, patience, detect::is_http2).await;
    }
    match is_http2 {
        Some(true) => serve_http2(conn, client, first).await,
        // An unfinished preface is not HTTP/1 either; its own parser says so and counts it.
        Some(false) | None => serve_http1(conn, client, first).await,
    }
}

/// Reads the first bytes; false if there are none.
async fn begins(conn: &Connection, client: &mut TcpStream, first: &mut BytesMut) -> bool {
    let drained = async {
        conn.pod.worker.drain.begun().await;
        sleep(FIRST_REQUEST_GRACE).await;
    };
    tokio::select! {
        biased;
        read = timeout(conn.limits().keepalive_idle, client.read_buf(first)) => matches!(read, Ok(Ok(1..))),
        () = drained => false,
    }
}

/// Nothing is declared. A server that speaks first makes it opaque; a client that does is looked at.
async fn unknown(conn: &Connection, mut client: TcpStream) {
    let dialled = match tcp::dial(conn, &client).await {
        Ok(dialled) => dialled,
        Err(error) => return refuse(conn, client, error.kind),
    };
    let mut first = BytesMut::new();
    let verdict = tokio::select! {
        biased;
        verdict = async {
            // The client's first byte may take as long as it likes: the server hears of it the moment it comes.
            let _ = timeout_at(Instant::now() + conn.limits().tcp_idle, client.readable()).await.ok()?;
            first.reserve(FIRST_READ);
            read_until_clear(&mut client, &mut first, conn.limits().tcp_idle, conn.limits().detect_timeout, |bytes| {
                Some(detect::classify(bytes)).filter(|verdict| *verdict != Verdict::Unclear)
            }).await
        } => verdict.unwrap_or(Verdict::Opaque),
        () = dialled.stream.readable() => Verdict::Opaque,
    };
    match verdict {
        Verdict::Http1 => {
            dialled.keep_for_requests(conn);
            serve_http1(conn, client, first).await;
        }
        Verdict::Http2 => {
            dialled.keep_for_requests(conn);
            serve_http2(conn, client, first).await;
        }
        Verdict::Tls(sni) => through(conn, client, first.freeze(), sni, Some(dialled)).await,
        Verdict::Opaque | Verdict::Unclear => opaque(conn, client, first.freeze(), Some(dialled)).await,
    }
}

async fn serve_http1(conn: &Connection, client: TcpStream, first: BytesMut) {
    conn.detected(L7::Http1);
    http1::serve(http1::Conn::new(client, first), conn).await;
}

async fn serve_http2(conn: &Connection, client: TcpStream, first: BytesMut) {
    conn.detected(L7::Http2);
    http2::serve(client, first, conn).await;
}

/// Reads until `clear` has an answer. None if the client ended, sent nothing for `idle`, took longer than `patience`
/// after its first byte, or sent more than is looked at.
async fn read_until_clear<T>(
    client: &mut TcpStream,
    first: &mut BytesMut,
    idle: Duration,
    patience: Duration,
    clear: impl Fn(&[u8]) -> Option<T>,
) -> Option<T> {
    let mut deadline = Instant::now() + idle;
    loop {
        let begins = first.is_empty();
        let read = timeout_at(deadline, client.read_buf(first)).await.ok()?.ok()?;
        let answer = clear(first);
        if answer.is_some() || read == 0 || first.len() >= MAX_PEEK {
            return answer;
        }
        if begins {
            deadline = Instant::now() + patience;
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use std::rc::Rc;

    use tokio::io::AsyncWriteExt;
    use tokio::net::TcpListener;
    use tokio::task::{LocalSet, spawn_local, yield_now};

    use super::*;
    use crate::proxy::testing;

    /// A client on a port that is declared HTTP, the endpoint, and the connection between them.
    async fn lab() -> (TcpStream, TcpListener, Rc<Connection>) {
        let endpoint = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut conn = testing::connection(endpoint.local_addr().unwrap());
        conn.protocol = AppProtocol::Http;
        let conn = Rc::new(conn);
        let front = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = TcpStream::connect(front.local_addr().unwrap()).await.unwrap();
        let (stream, _) = front.accept().await.unwrap();
        let served = conn.clone();
        spawn_local(async move { serve(&served, stream).await });
        (client, endpoint, conn)
    }

    fn run(test: impl Future<Output = ()>) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let limit = async { timeout(Duration::from_secs(10), test).await.expect("test hangs") };
        LocalSet::new().block_on(&runtime, limit);
    }

    async fn answered_with_close(mut client: TcpStream, endpoint: TcpListener) {
        let (mut server, _) = endpoint.accept().await.unwrap();
        let mut asked = Vec::new();
        while !asked.ends_with(b"\r\n\r\n") {
            server.read_buf(&mut asked).await.unwrap();
        }
        server.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").await.unwrap();
        let mut answer = String::new();
        client.read_to_string(&mut answer).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 204 ") && answer.contains("Connection: close"), "{answer}");
    }

    #[test]
    fn a_first_request_that_comes_soon_after_the_drain_began_is_answered() {
        run(async {
            let (mut client, endpoint, conn) = lab().await;
            conn.pod.worker.drain.begin();
            for _ in 0..100 {
                yield_now().await;
            }
            client.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
            answered_with_close(client, endpoint).await;
        });
    }

    #[test]
    fn a_first_request_that_has_begun_when_the_drain_does_is_answered() {
        run(async {
            let (mut client, endpoint, conn) = lab().await;
            // Could still become a preface: nothing is decided by it.
            client.write_all(b"P").await.unwrap();
            for _ in 0..100 {
                yield_now().await;
            }
            conn.pod.worker.drain.begin();
            sleep(FIRST_REQUEST_GRACE + Duration::from_millis(100)).await;
            client.write_all(b"UT / HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
            answered_with_close(client, endpoint).await;
        });
    }

    #[test]
    fn a_connection_without_a_request_does_not_hold_the_drain_up() {
        run(async {
            let (mut client, _endpoint, conn) = lab().await;
            conn.pod.worker.drain.begin();
            assert_eq!(client.read(&mut [0]).await.unwrap(), 0);
        });
    }
}

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
use super::stream::Stream;
use super::tcp::{self, Dialled, Purpose};
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

/// Nothing is declared. A server that speaks first makes it opaque; a client that does is looked at. What goes to where
/// nothing is known of stays as it is: odd HTTP that outside servers take is no business of the mesh.
async fn unknown(conn: &Connection, mut client: TcpStream) {
    let dialled = match tcp::dial(conn, &client, Purpose::Detection).await {
        Ok(dialled) => dialled,
        Err(error) if error.kind == ErrorKind::Overflow => return crowded(conn, client).await,
        Err(error) if error.kind == ErrorKind::Denied && conn.may_carry_requests() => {
            conn.forget_refusal();
            return guarded(conn, client).await;
        }
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
        () = speaks_first(conn, &dialled.stream) => Verdict::Opaque,
    };
    match verdict {
        Verdict::Http1 | Verdict::Http2 if conn.untouched => {
            opaque(conn, client, first.freeze(), Some(dialled)).await;
        }
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

/// There is no place for another connection now. Requests wait for one; what doesn't turn out to be any is refused.
async fn crowded(conn: &Connection, mut client: TcpStream) {
    let mut first = BytesMut::with_capacity(FIRST_READ);
    let patience = conn.limits().connect_timeout;
    let clear = |bytes: &[u8]| Some(detect::classify(bytes)).filter(|verdict| *verdict != Verdict::Unclear);
    match read_until_clear(&mut client, &mut first, patience, conn.limits().detect_timeout, clear).await {
        Some(Verdict::Http1) => serve_http1(conn, client, first).await,
        Some(Verdict::Http2) => serve_http2(conn, client, first).await,
        _ => refuse(conn, client, ErrorKind::Overflow),
    }
}

/// Bytes aren't let in, as far as is known, but requests may be: the application hears of nothing before the client has said
/// which they are.
async fn guarded(conn: &Connection, mut client: TcpStream) {
    let mut first = BytesMut::with_capacity(FIRST_READ);
    let patience = conn.limits().keepalive_idle;
    let clear = |bytes: &[u8]| Some(detect::classify(bytes)).filter(|verdict| *verdict != Verdict::Unclear);
    match read_until_clear(&mut client, &mut first, patience, conn.limits().detect_timeout, clear).await {
        Some(Verdict::Http1) => serve_http1(conn, client, first).await,
        Some(Verdict::Http2) => serve_http2(conn, client, first).await,
        Some(Verdict::Tls(sni)) => through(conn, client, first.freeze(), sni, None).await,
        _ => refuse(conn, client, ErrorKind::Denied),
    }
}

/// Until the server spoke or ended before its client did. What an HTTP/2 server begins with, its SETTINGS, leaves the
/// verdict to the client, for as long as one that speaks HTTP/2 may take: they needn't wait for its preface (RFC 9113, 3.4).
async fn speaks_first(conn: &Connection, server: &Stream) {
    let mut head = [0; detect::FRAME_HEAD];
    if let Ok(read) = server.peek(&mut head).await
        && detect::is_settings(&head[..read])
    {
        sleep(conn.limits().detect_timeout).await;
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
    use crate::addr::EndpointAddr;
    use crate::proxy::upstream::{Edges, Upstream};
    use crate::proxy::{Backends, testing};
    use crate::tls::testing::{Authority, accept, origination};

    /// A client, the endpoint, and the connection between them, on a port that is declared HTTP.
    async fn lab() -> (TcpStream, TcpListener, Rc<Connection>) {
        lab_of(AppProtocol::Http, None).await
    }

    async fn lab_of(
        protocol: AppProtocol,
        tls: Option<&Authority>,
    ) -> (TcpStream, TcpListener, Rc<Connection>) {
        let endpoint = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = endpoint.local_addr().unwrap();
        let mut conn = testing::connection(addr);
        (conn.protocol, conn.untouched) = (protocol, false);
        if let Some(authority) = tls {
            let upstream =
                Upstream::paired(EndpointAddr::from(addr), None, Edges::outbound(&conn.pod, None, None));
            let upstream = upstream.over_tls(Some(origination(authority.spec("outside.test"))));
            conn.set_backends(Backends::Single(Rc::new(upstream)));
        }
        let conn = Rc::new(conn);
        let front = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = TcpStream::connect(front.local_addr().unwrap()).await.unwrap();
        let (stream, _) = front.accept().await.unwrap();
        let served = conn.clone();
        spawn_local(async move { serve(&served, stream).await });
        (client, endpoint, conn)
    }

    /// SETTINGS of the server, then the client's preface; what the connection was found to speak.
    async fn found_after(first: &[u8], tls: Option<&Authority>) -> &'static str {
        let (mut client, endpoint, conn) = lab_of(AppProtocol::Detect, tls).await;
        let (tcp, _) = endpoint.accept().await.unwrap();
        let mut server = match tls {
            Some(authority) => {
                Stream::from(accept(&authority.server(&["outside.test"], false), tcp).await.unwrap())
            }
            None => tcp.into(),
        };
        server.write_all(first).await.unwrap();
        if detect::is_settings(first) {
            // Seen by the agent or still on their way: the client decides either way.
            for _ in 0..100 {
                yield_now().await;
            }
        } else {
            client.read_exact(&mut vec![0; first.len()]).await.unwrap();
        }
        client.write_all(detect::H2_PREFACE).await.unwrap();
        client.write_all(&[0, 0, 0, 4, 0, 0, 0, 0, 0]).await.unwrap();
        let found = |label: &str| {
            conn.pod.worker.telemetry.metrics.agent().detect.with_label_values(&[label]).get() > 0
        };
        loop {
            if let Some(label) = ["http2", "tcp"].into_iter().find(|label| found(label)) {
                return label;
            }
            yield_now().await;
        }
    }

    #[test]
    fn settings_of_a_server_leave_the_verdict_to_the_client_and_other_bytes_do_not() {
        run(async {
            let settings = [0, 0, 6, 4, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 100];
            let authority = Authority::new();
            for tls in [None, Some(&authority)] {
                assert_eq!(found_after(&settings, tls).await, "http2");
                assert_eq!(found_after(b"220 mail.example ESMTP\r\n", tls).await, "tcp");
            }
        });
    }

    #[test]
    fn the_end_of_a_server_that_sent_settings_reaches_a_client_that_is_silent() {
        run_with(true, async {
            let (mut client, endpoint, _conn) = lab_of(AppProtocol::Detect, None).await;
            let (mut server, _) = endpoint.accept().await.unwrap();
            server.write_all(&[0, 0, 0, 4, 0, 0, 0, 0, 0]).await.unwrap();
            drop(server);
            let mut got = Vec::new();
            client.read_to_end(&mut got).await.unwrap();
            assert_eq!(got, [0, 0, 0, 4, 0, 0, 0, 0, 0]);
        });
    }

    fn run(test: impl Future<Output = ()>) {
        run_with(false, test);
    }

    fn run_with(paused: bool, test: impl Future<Output = ()>) {
        let mut runtime = tokio::runtime::Builder::new_current_thread();
        let runtime = runtime.enable_all().start_paused(paused).build().unwrap();
        let limit = async { timeout(Duration::from_secs(60), test).await.expect("test hangs") };
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

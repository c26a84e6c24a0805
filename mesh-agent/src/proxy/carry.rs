//! Carries one connection by its protocol: declared, or found out by its first bytes.
//!
//! Comes after `outbound` and `inbound`; goes on in `tcp`, `crate::http1` or `crate::http2`. Where nothing is
//! declared the endpoint is dialled at once and whoever speaks first decides, so that no protocol waits for a timer.

use std::future::pending;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::io::AsyncReadExt;
use tokio::time::{Instant, sleep, timeout, timeout_at};

use super::context::{Connection, Direction};
use super::detect::{self, MAX_PEEK, Verdict};
use super::error::ErrorKind;
use super::inbound;
use super::stream::Stream;
use super::tcp::{self, Dialled};
use crate::http1;
use crate::http2;
use crate::model::{AppProtocol, MtlsMode};
use crate::telemetry::L7;

/// Room for the first bytes: most request heads fit.
const FIRST_READ: usize = 4096;
/// Where an endpoint is behind another agent and nothing is declared, a client that speaks first is heard for so long before
/// the application is connected to: it has been connected, and says what it has to say at once. Long enough for a busy
/// machine, and nothing to a client that waits for its server, once in a connection.
const FIRST_WORD: Duration = Duration::from_millis(5);
/// A client that has connected and sent nothing when the agent begins to drain may be about to send its first request,
/// and unlike one with a used connection it doesn't expect to find it closed.
const FIRST_REQUEST_GRACE: Duration = Duration::from_secs(1);

/// Carries `client` until it ends. `first` was read from it already.
///
/// What another agent sends to a pod is not carried here but handed to `inbound`, before the application sees a byte.
pub async fn serve(conn: &Connection, client: Stream, first: BytesMut) {
    match conn.protocol {
        AppProtocol::Tcp if conn.may_be_an_agents() => unknown(conn, client, first).await,
        AppProtocol::Tcp => opaque(conn, client, first.freeze(), None).await,
        AppProtocol::Tls => tls(conn, client, first, None).await,
        AppProtocol::Http | AppProtocol::Http2 | AppProtocol::Grpc => http(conn, client, first).await,
        AppProtocol::Detect => unknown(conn, client, first).await,
    }
}

/// Carries a connection that its peer asked for and wants to be answered about: whether the application, or a policy, takes it is
/// found out before the client is read from.
pub async fn serve_asked(conn: &Connection, client: Stream) {
    let is_http = match conn.protocol {
        AppProtocol::Http | AppProtocol::Http2 | AppProtocol::Grpc => true,
        AppProtocol::Tls => false,
        AppProtocol::Tcp | AppProtocol::Detect => return serve(conn, client, BytesMut::new()).await,
    };
    let dialled = match tcp::dial_or_hear(conn, &client, None).await {
        Ok(dialled) => dialled,
        // Requests may wait for a place, and may be let in where their connection isn't.
        Err(error) if is_http && error.kind == ErrorKind::Overflow => None,
        Err(error) if is_http && error.kind == ErrorKind::Denied && conn.may_carry_requests() => {
            conn.forget_refusal();
            None
        }
        Err(error) => return refuse(conn, client, error.kind),
    };
    if is_http {
        keep_for_requests(dialled, conn);
        http(conn, client, BytesMut::new()).await;
    } else {
        tls(conn, client, BytesMut::new(), dialled).await;
    }
}

/// Ends a connection that may not go on, with its line in log and metrics.
pub fn refuse(conn: &Connection, client: impl Into<Stream>, why: ErrorKind) {
    tcp::refused(conn, client, why);
}

async fn opaque(conn: &Connection, client: Stream, prefix: Bytes, ready: Option<Dialled>) {
    conn.detected(L7::Tcp);
    tcp::serve(conn, client, prefix, ready).await;
}

/// TLS of the application's own is passed through; its server name is noted.
async fn tls(conn: &Connection, mut client: Stream, mut first: BytesMut, ready: Option<Dialled>) {
    let (idle, patience) = (conn.limits().tcp_idle, conn.limits().detect_timeout);
    match read_until_clear(&mut client, &mut first, idle, patience, is_clear).await {
        Some(Verdict::Tls(hello)) if hello.is_agents && conn.may_be_an_agents() => {
            agent(conn, client, first).await;
        }
        Some(Verdict::Tls(hello)) => through(conn, client, first.freeze(), hello.server_name, ready).await,
        _ => opaque(conn, client, first.freeze(), ready).await,
    }
}

pub(super) async fn through(
    conn: &Connection,
    client: Stream,
    prefix: Bytes,
    sni: Option<String>,
    ready: Option<Dialled>,
) {
    conn.detected(L7::Tls);
    conn.sni.replace(sni);
    tcp::serve(conn, client, prefix, ready).await;
}

/// HTTP is declared: only its version is open, and whether an agent says so.
async fn http(conn: &Connection, mut client: Stream, mut first: BytesMut) {
    if first.is_empty() && !begins(conn, &mut client, &mut first).await {
        return;
    }
    let patience = conn.limits().head_timeout;
    if conn.may_be_an_agents() && first.starts_with(&[detect::TLS_HANDSHAKE]) {
        let verdict = read_until_clear(&mut client, &mut first, patience, patience, is_clear).await;
        if matches!(verdict, Some(Verdict::Tls(hello)) if hello.is_agents) {
            return agent(conn, client, first).await;
        }
    }
    match read_until_clear(&mut client, &mut first, patience, patience, detect::is_http2).await {
        Some(true) => serve_http2(conn, client, first).await,
        // An unfinished preface is not HTTP/1 either; its own parser says so and counts it.
        Some(false) | None => serve_http1(conn, client, first).await,
    }
}

/// Reads the first bytes; false if there are none.
async fn begins(conn: &Connection, client: &mut Stream, first: &mut BytesMut) -> bool {
    let drained = async {
        conn.pod.worker.drain.begun().await;
        sleep(FIRST_REQUEST_GRACE).await;
    };
    first.reserve(FIRST_READ);
    tokio::select! {
        biased;
        read = timeout(conn.limits().keepalive_idle, client.read_buf(first)) => matches!(read, Ok(Ok(1..))),
        () = drained => false,
    }
}

/// Nothing is declared, or nothing that says who speaks first. A server that does makes it opaque; a client that does is
/// looked at. What goes to where nothing is known of stays as it is: odd HTTP that outside servers take is no business of
/// the mesh.
async fn unknown(conn: &Connection, mut client: Stream, mut first: BytesMut) {
    let patience = first.is_empty().then_some(FIRST_WORD);
    let dialled = match tcp::dial_or_hear(conn, &client, patience).await {
        Ok(dialled) => dialled,
        Err(error) if error.kind == ErrorKind::Overflow => return crowded(conn, client, first).await,
        // Who comes in plain text may not: an agent may still follow, or requests that may.
        Err(error)
            if error.kind == ErrorKind::Denied && (conn.may_carry_requests() || conn.may_be_an_agents()) =>
        {
            conn.forget_refusal();
            return guarded(conn, client, first).await;
        }
        Err(error) => return refuse(conn, client, error.kind),
    };
    let verdict = tokio::select! {
        biased;
        verdict = first_bytes(conn, &mut client, &mut first) => verdict,
        () = speaks_first(conn, dialled.as_ref()) => Verdict::Opaque,
    };
    match verdict {
        Verdict::Tls(hello) if hello.is_agents && conn.may_be_an_agents() => {
            drop(dialled);
            agent(conn, client, first).await;
        }
        Verdict::Http1 | Verdict::Http2 if conn.untouched || conn.protocol == AppProtocol::Tcp => {
            opaque(conn, client, first.freeze(), dialled).await;
        }
        Verdict::Http1 => {
            keep_for_requests(dialled, conn);
            serve_http1(conn, client, first).await;
        }
        Verdict::Http2 => {
            keep_for_requests(dialled, conn);
            serve_http2(conn, client, first).await;
        }
        Verdict::Tls(hello) if conn.protocol != AppProtocol::Tcp => {
            through(conn, client, first.freeze(), hello.server_name, dialled).await;
        }
        Verdict::Tls(_) | Verdict::Opaque | Verdict::Unclear => {
            opaque(conn, client, first.freeze(), dialled).await;
        }
    }
}

/// What the client's first bytes say, whenever they come. Until then it holds no buffer.
async fn first_bytes(conn: &Connection, client: &mut Stream, first: &mut BytesMut) -> Verdict {
    let limits = conn.limits();
    if first.is_empty() {
        // The client's first byte may take as long as it likes: the server hears of it the moment it comes.
        if timeout(limits.tcp_idle, client.readable()).await.is_err() {
            return Verdict::Opaque;
        }
        first.reserve(FIRST_READ);
    }
    let verdict = read_until_clear(client, first, limits.tcp_idle, limits.detect_timeout, is_clear).await;
    verdict.unwrap_or(Verdict::Opaque)
}

fn is_clear(bytes: &[u8]) -> Option<Verdict> {
    Some(detect::classify(bytes)).filter(|verdict| *verdict != Verdict::Unclear)
}

fn keep_for_requests(dialled: Option<Dialled>, conn: &Connection) {
    if let Some(dialled) = dialled {
        dialled.keep_for_requests(conn);
    }
}

/// Another agent, or who says so.
async fn agent(conn: &Connection, client: Stream, hello: BytesMut) {
    // Boxed: what comes in plain text makes no room for it.
    Box::pin(inbound::serve_agent(conn, client, hello)).await;
}

/// There is no place for another connection now. Requests wait for one; what doesn't turn out to be any is refused.
async fn crowded(conn: &Connection, mut client: Stream, mut first: BytesMut) {
    first.reserve(FIRST_READ);
    let (idle, patience) = (conn.limits().connect_timeout, conn.limits().detect_timeout);
    match read_until_clear(&mut client, &mut first, idle, patience, is_clear).await {
        Some(Verdict::Http1) => serve_http1(conn, client, first).await,
        Some(Verdict::Http2) => serve_http2(conn, client, first).await,
        _ => refuse(conn, client, ErrorKind::Overflow),
    }
}

/// Bytes aren't let in, as far as is known, but requests or another agent may be: the application hears of nothing before the
/// client has said which they are.
async fn guarded(conn: &Connection, mut client: Stream, mut first: BytesMut) {
    first.reserve(FIRST_READ);
    let (idle, patience) = (conn.limits().keepalive_idle, conn.limits().detect_timeout);
    match read_until_clear(&mut client, &mut first, idle, patience, is_clear).await {
        Some(Verdict::Tls(hello)) if hello.is_agents && conn.may_be_an_agents() => {
            agent(conn, client, first).await;
        }
        // What is declared to be bytes is never read as requests.
        Some(_) if conn.protocol == AppProtocol::Tcp => opaque(conn, client, first.freeze(), None).await,
        Some(Verdict::Http1) => serve_http1(conn, client, first).await,
        Some(Verdict::Http2) => serve_http2(conn, client, first).await,
        Some(Verdict::Tls(hello)) => through(conn, client, first.freeze(), hello.server_name, None).await,
        _ => refuse(conn, client, ErrorKind::Denied),
    }
}

/// Until the server spoke or ended before its client did. What an HTTP/2 server begins with, its SETTINGS, leaves the
/// verdict to the client, for as long as one that speaks HTTP/2 may take: they needn't wait for its preface (RFC 9113, 3.4).
async fn speaks_first(conn: &Connection, server: Option<&Dialled>) {
    let Some(server) = server else { return pending().await };
    let mut head = [0; detect::FRAME_HEAD];
    if let Ok(read) = server.stream.peek(&mut head).await
        && detect::is_settings(&head[..read])
    {
        sleep(conn.limits().detect_timeout).await;
    }
}

pub(super) async fn serve_http1(conn: &Connection, client: Stream, first: BytesMut) {
    conn.detected(L7::Http1);
    http1::serve(http1::Conn::new(client, first), conn).await;
}

pub(super) async fn serve_http2(conn: &Connection, client: Stream, first: BytesMut) {
    conn.detected(L7::Http2);
    http2::serve(client, first, conn).await;
}

/// Reads until `clear` has an answer. None if the client ended, sent nothing for `idle`, took longer than `patience`
/// after its first byte, or sent more than is looked at.
async fn read_until_clear<T>(
    client: &mut Stream,
    first: &mut BytesMut,
    idle: Duration,
    patience: Duration,
    clear: impl Fn(&[u8]) -> Option<T>,
) -> Option<T> {
    if let Some(answer) = clear(first) {
        return Some(answer);
    }
    let mut deadline = Instant::now() + if first.is_empty() { idle } else { patience };
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

impl Connection {
    /// True if the client may turn out to be another agent: it dialled the pod itself, and hasn't proven who it is. Where
    /// mutual TLS is disabled what looks like an agent's is the application's.
    pub(super) fn may_be_an_agents(&self) -> bool {
        self.direction == Direction::Inbound
            && self.peer.get().is_none()
            && self.mtls_mode() != MtlsMode::Disable
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use std::rc::Rc;

    use tokio::io::AsyncWriteExt;
    use tokio::net::{TcpListener, TcpStream};
    use tokio::task::{LocalSet, spawn_local, yield_now};

    use super::*;
    use crate::addr::EndpointAddr;
    use crate::proxy::edges::Edges;
    use crate::proxy::{Backends, Reach, Upstream, testing};
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
            let upstream = Upstream::paired(
                EndpointAddr::from(addr),
                None,
                Edges::outbound(&conn.pod, None, None, &Reach::Plain),
            );
            let upstream = upstream.over(Reach::Tls(origination(authority.spec("outside.test"))));
            conn.set_backends(Backends::Single(Rc::new(upstream)));
        }
        let conn = Rc::new(conn);
        let front = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = TcpStream::connect(front.local_addr().unwrap()).await.unwrap();
        let (stream, _) = front.accept().await.unwrap();
        let served = conn.clone();
        spawn_local(async move { serve(&served, stream.into(), BytesMut::new()).await });
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

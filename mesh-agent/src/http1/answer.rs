//! What the agent itself says to a client, and how it takes leave so that the client sees it.

use std::pin::pin;
use std::time::Duration;

use bytes::{BufMut, BytesMut};
use http::StatusCode;

use super::body::Body;
use super::conn::Conn;
use super::message::RequestHead;
use super::timer::Timer;
use crate::proxy::LocalAnswer;

/// How long, and how much, a client that is being refused may go on sending. Closing while its bytes are unread would
/// reset the connection, and the answer with it.
const LINGER: Duration = Duration::from_secs(1);
const LINGER_BYTES: usize = 1024 * 1024;
/// The longest body that is read, and thrown away, to spare its client a new connection.
const SKIPPED_BYTES: usize = 64 * 1024;
/// For a client that doesn't read its answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// Puts a complete answer. A HEAD request gets no body.
pub fn put(answer: &LocalAnswer, close: bool, head: bool, out: &mut BytesMut) {
    let status = answer.status;
    for part in ["HTTP/1.1 ", status.as_str(), " ", status.canonical_reason().unwrap_or_default(), "\r\n"] {
        out.put_slice(part.as_bytes());
    }
    for (name, value) in &answer.headers {
        for part in [name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"] {
            out.put_slice(part);
        }
    }
    // RFC 9110, 8.6: a length is said for every status but those that have no content.
    if status != StatusCode::NO_CONTENT {
        if !answer.body.is_empty() && !answer.has_content_type() {
            out.put_slice(b"content-type: text/plain\r\n");
        }
        out.put_slice(b"content-length: ");
        out.put_slice(answer.body.len().to_string().as_bytes());
        out.put_slice(b"\r\n");
    }
    out.put_slice(if close { b"connection: close\r\n\r\n" } else { b"\r\n" });
    if !head {
        out.put_slice(answer.body.as_bytes());
    }
}

/// Sends an answer. False if the client can't be reached any more.
pub async fn send(down: &mut Conn, answer: &LocalAnswer, close: bool, head: bool, timer: &mut Timer) -> bool {
    let (_, mut writer) = down.split();
    put(answer, close, head, writer.stage());
    matches!(timer.within(PATIENCE, pin!(writer.send(&[]))).await, Some(Ok(())))
}

/// True if the connection can go on behind the request's body without anybody taking it: there is none, or it is short
/// and not held back (RFC 9110, 10.1.1: a client that was refused without `100 Continue` may never send it).
pub fn is_skippable(request: &RequestHead) -> bool {
    match request.body {
        Body::Length(length) => length <= SKIPPED_BYTES as u64 && !request.expects_continue,
        Body::Chunked(_) => !request.expects_continue,
        Body::Empty => true,
        Body::UntilClose => false,
    }
}

/// Reads to the end of a body, and throws it away. False if it is too long, too slow, or no body at all.
pub async fn skip(down: &mut Conn, mut body: Body, timer: &mut Timer) -> bool {
    let (mut reader, _) = down.split();
    let skip = async {
        let mut left = SKIPPED_BYTES;
        loop {
            let Ok(run) = body.advance(reader.buffered(), false) else { return false };
            reader.consume(run.len);
            if run.end {
                return true;
            }
            left = left.saturating_sub(run.len);
            if left == 0 || !matches!(reader.fill().await, Ok(1..)) {
                return false;
            }
        }
    };
    timer.within(LINGER, pin!(skip)).await == Some(true)
}

/// Ends our direction and reads on for a moment, so that what was sent arrives.
pub async fn linger(mut down: Conn, timer: &mut Timer) {
    let (mut reader, mut writer) = down.split();
    if writer.shutdown().await.is_err() {
        return;
    }
    let drain = async {
        let mut left = LINGER_BYTES;
        loop {
            let len = reader.buffered().len();
            reader.consume(len);
            left = left.saturating_sub(len);
            if left == 0 || !matches!(reader.fill().await, Ok(1..)) {
                return;
            }
        }
    };
    timer.within(LINGER, pin!(drain)).await;
}

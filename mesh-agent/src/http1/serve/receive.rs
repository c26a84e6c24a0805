//! The head of a client's next request, within its deadlines.
//!
//! Used by `serve`; what is read here is judged in `message`. Never reads ahead of a drain: a client whose request hasn't
//! begun is let go.

use std::pin::{Pin, pin};

use bytes::Bytes;

use crate::http1::conn::{Conn, Reader};
use crate::http1::head::HeadError;
use crate::http1::message::{self, RequestHead};
use crate::http1::timer::Timer;
use crate::proxy::Connection;
use crate::proxy::error::ErrorKind;

/// Reads the next request head. None once there won't be one.
pub(super) async fn next_request(
    down: &mut Conn,
    conn: &Connection,
    timer: &mut Timer,
    mut draining: Pin<&mut impl Future<Output = ()>>,
    first: bool,
) -> Result<Option<RequestHead>, ErrorKind> {
    let limits = conn.limits();
    down.release();
    let (mut reader, _) = down.split();
    let mut blank = false;
    loop {
        // Old clients end a body with an empty line (RFC 9112, 2.2): no request has begun with it.
        if !blank && reader.buffered() == b"\r\n" {
            reader.consume(2);
            blank = true;
        }
        if !reader.buffered().is_empty() {
            break;
        }
        if blank && conn.pod.worker.drain.is_draining() {
            return Ok(None);
        }
        let patience = if first { limits.head_timeout } else { limits.keepalive_idle };
        let filled = timer.within(patience, pin!(fill_unless(&mut reader, draining.as_mut()))).await;
        if !matches!(filled, Some(Some(1..))) {
            return Ok(None);
        }
    }
    let head = match read_head(&mut reader, limits.max_head_bytes, limits.max_uri) {
        // The usual case: no deadline for what is there already.
        Ok(None) => {
            let reading = pin!(rest_of_head(&mut reader, limits.max_head_bytes, limits.max_uri));
            match timer.within(limits.head_timeout, reading).await {
                Some(head) => head,
                None => return Err(ErrorKind::HeadTimeout),
            }
        }
        head => head,
    };
    let parsed = match head {
        Ok(Some(bytes)) => RequestHead::parse(bytes, limits.max_headers, limits.max_uri).map(Some),
        Ok(None) => Ok(None),
        Err(error) => Err(error),
    };
    parsed.map_err(refused_head)
}

/// Reads once; None if the agent begins to drain before a byte has come.
async fn fill_unless(
    reader: &mut Reader<'_>,
    mut draining: Pin<&mut impl Future<Output = ()>>,
) -> Option<usize> {
    tokio::select! {
        biased;
        filled = reader.fill() => return filled.ok(),
        () = draining.as_mut() => {}
    }
    // What has arrived without this thread having heard of it yet is a request that has begun.
    if reader.has_more_now() { reader.fill().await.ok() } else { None }
}

/// Reads until the head is complete; None if the client went away before.
async fn rest_of_head(
    reader: &mut Reader<'_>,
    max: usize,
    max_uri: usize,
) -> Result<Option<Bytes>, HeadError> {
    while let Ok(1..) = reader.fill().await {
        if let Some(head) = read_head(reader, max, max_uri)? {
            return Ok(Some(head));
        }
    }
    Ok(None)
}

fn read_head(reader: &mut Reader<'_>, max: usize, max_uri: usize) -> Result<Option<Bytes>, HeadError> {
    // RFC 9112, 2.2: an empty line before a request is overlooked. One; a row of them is somebody's trick.
    if reader.buffered().starts_with(b"\r\n") {
        reader.consume(2);
    }
    let line = reader.buffered();
    if !line.is_empty() && !b"\r\n".starts_with(line) {
        let line = &line[..memchr::memchr(b'\n', line).unwrap_or(line.len())];
        // The method, two spaces and the version besides the target.
        if line.len() > max_uri + 64 {
            return Err(HeadError::UriTooLong);
        }
        message::check_method(line)?;
    }
    reader.take_head(max)
}

fn refused_head(error: HeadError) -> ErrorKind {
    match error {
        HeadError::Hostile(hostile) => ErrorKind::DownstreamProtocol(hostile),
        HeadError::TooLarge => ErrorKind::HeadTooLarge,
        HeadError::UriTooLong => ErrorKind::UriTooLong,
    }
}

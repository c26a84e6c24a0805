//! A try of an HTTP/1 request beside its own one, on a connection or stream of its own, as far as the head of an answer.
//!
//! Started by `serve`, `forward` and `over_http2` when `proxy::hedge` says so; the latter two pass the winner's answer on.
//! Which of them doesn't depend on the request's own try: endpoints of one service may be spoken to in either version.
//! Interim answers of hedges are left out. One that is given up is reset, so that the server stops at once.

use bytes::BytesMut;
use http::Version;
use tokio::time::timeout;

use super::conn::Conn;
use super::forward::final_head_of;
use super::message::{RequestHead, ResponseHead};
use super::over_http2;
use super::serve::connection_to;
use super::upload::Sent;
use super::write;
use crate::http2::Outgoing;
use crate::proxy::error::{ErrorKind, ProxyError};
use crate::proxy::hedge::{self, Granted, Run};
use crate::proxy::upstream::reset;
use crate::proxy::{Connection, Picked};

/// The hedges of a request.
pub(super) type Hedges<'h> = hedge::Hedges<'h, Won>;
/// One that has an answer.
pub(super) type Ahead = hedge::Ahead<Won>;

/// The way to an answer.
pub(crate) enum Won {
    /// Its connection, and its head.
    Http1(Conn, Box<ResponseHead>),
    /// Its stream, which has the answer.
    Http2(Box<Outgoing>),
}

/// Sends `request` with its body once more.
pub(super) fn start<'h>(
    conn: &'h Connection,
    request: &'h RequestHead,
    sent: &Sent,
    mut granted: Granted,
) -> Run<'h, Won> {
    let head = granted.head.take();
    if over_http2::carries(request, &granted.picked) {
        let body = sent.again();
        return Box::pin(granted.run(async move |picked| {
            let patience = conn.limits().body_idle_timeout;
            let answered = over_http2::answered(conn, request, head.as_deref(), body, picked);
            let answered = timeout(patience, answered).await;
            let (stream, status) = answered.unwrap_or(Err(ErrorKind::UpstreamTimeout.into()))?;
            Ok((status, None, Won::Http2(stream)))
        }));
    }
    let mut bytes = BytesMut::new();
    let head = head.as_deref().unwrap_or(&request.parts);
    write::put_request_as(request, head, request.retargeted, &mut bytes);
    sent.put(&mut bytes);
    let bytes = bytes.freeze();
    Box::pin(granted.run(async move |picked| {
        let (up, head) = to_head(conn, request, &bytes, picked).await?;
        Ok((head.status, None, Won::Http1(up, Box::new(head))))
    }))
}

async fn to_head(
    conn: &Connection,
    request: &RequestHead,
    bytes: &[u8],
    picked: &Picked,
) -> Result<(Conn, ResponseHead), ProxyError> {
    let mut fresh = request.parts.version == Version::HTTP_10;
    loop {
        let (up, reused) = connection_to(picked, conn, request, fresh).await?;
        let mut up = Cut(Some(up));
        let result = timeout(conn.limits().body_idle_timeout, up.ask(conn, request, bytes)).await;
        match result.unwrap_or(Err((ErrorKind::UpstreamTimeout, true))) {
            Ok(head) => return up.0.take().map(|up| (up, head)).ok_or(ErrorKind::Internal.into()),
            // It was closed while it lay idle.
            Err((ErrorKind::UpstreamClosed, false)) if reused => fresh = true,
            Err((kind, _)) => return Err(kind.into()),
        }
    }
}

/// Resets the connection unless it is taken out.
struct Cut(Option<Conn>);

impl Cut {
    /// The head of the answer. A failure comes with whether anything was heard before.
    async fn ask(
        &mut self,
        conn: &Connection,
        request: &RequestHead,
        bytes: &[u8],
    ) -> Result<ResponseHead, (ErrorKind, bool)> {
        let Some(up) = &mut self.0 else { return Err((ErrorKind::Internal, false)) };
        let (mut from, mut to) = up.split();
        // A server that takes no more may have answered all the same.
        let _ = to.send(bytes).await;
        final_head_of(conn, request.asked(), &mut from).await
    }
}

impl Drop for Cut {
    fn drop(&mut self) {
        if let Some(up) = self.0.take() {
            reset(up.into_parts().0);
        }
    }
}

//! A try of an HTTP/2 request beside its own one, on a stream of its own, as far as the head of an answer.
//!
//! Started by `stream` and `pass` when `proxy::hedge` says so; `pass` passes the winner's answer on. One that is given up
//! is dropped, which resets its stream (CANCEL).

use std::collections::VecDeque;
use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use h2::client::ResponseFuture;
use h2::{RecvStream, SendStream};
use http::{Request, Response, request};
use tokio::time::timeout;

use super::link::Lease;
use super::pass::kind_of;
use super::{grpc, pool};
use crate::proxy::hedge::{self, Granted, Run};
use crate::proxy::{Connection, ErrorKind, Picked, Plan, ProxyError, headers};

/// The hedges of a request.
pub(super) type Hedges<'h> = hedge::Hedges<'h, Won>;
/// One that has an answer.
pub(super) type Ahead = hedge::Ahead<Won>;

/// The way to an answer.
pub(super) struct Won {
    pub(super) lease: Lease,
    /// Spent, but it keeps the stream.
    pub(super) response: ResponseFuture,
    pub(super) send: SendStream<Bytes>,
    /// What of the request's body wasn't sent before the answer came.
    pub(super) unsent: VecDeque<Bytes>,
    pub(super) answer: Response<RecvStream>,
}

/// Sends the request with this `head` and `body` once more.
pub(super) fn start<'h>(
    conn: &'h Connection,
    plan: &Plan,
    head: &request::Parts,
    body: &[Bytes],
    granted: Granted,
) -> Run<'h, Won> {
    let head = grpc::telling(granted.head.as_deref().unwrap_or(head), plan.time_to_tell());
    let body = body.iter().cloned().collect();
    let is_grpc = headers::is_grpc(&head.headers);
    Box::pin(granted.run(async move |picked| {
        let asking = to_head(conn, picked, head, body);
        let won = if is_grpc {
            // It may be silent for as long as both sides like.
            asking.await?
        } else {
            let patience = conn.limits().body_idle_timeout;
            timeout(patience, asking).await.unwrap_or(Err(ErrorKind::UpstreamTimeout.into()))?
        };
        let ended = is_grpc && won.answer.body().is_end_stream();
        let grpc = if ended { grpc::status_in(won.answer.headers()) } else { None };
        Ok((won.answer.status(), grpc, won))
    }))
}

async fn to_head(
    conn: &Connection,
    picked: &Picked,
    head: request::Parts,
    mut unsent: VecDeque<Bytes>,
) -> Result<Won, ProxyError> {
    let mut lease = pool::lease(picked, &conn.pod, conn.client).await?;
    let sent = lease.send(Request::from_parts(head, ()), unsent.is_empty()).await?;
    let (mut response, mut send) = sent.ok_or(ErrorKind::UpstreamClosed)?;
    let answer = poll_fn(|cx| {
        // Whether a stream that takes no more has failed, the answer says.
        let _ = poll_send(&mut send, &mut unsent, cx);
        Pin::new(&mut response).poll(cx)
    });
    let answer = answer.await.map_err(|error| kind_of(&error))?;
    Ok(Won { lease, response, send, unsent, answer })
}

/// Sends what the endpoint's window has room for.
fn poll_send(
    send: &mut SendStream<Bytes>,
    unsent: &mut VecDeque<Bytes>,
    cx: &mut Context<'_>,
) -> Poll<Result<(), h2::Error>> {
    while let Some(part) = unsent.front_mut() {
        send.reserve_capacity(part.len());
        if send.capacity() == 0 {
            match ready!(send.poll_capacity(cx)) {
                Some(capacity) => drop(capacity?),
                None => return Poll::Ready(Ok(())),
            }
            continue;
        }
        let now = part.split_to(send.capacity().min(part.len()));
        if part.is_empty() {
            unsent.pop_front();
        }
        send.send_data(now, unsent.is_empty())?;
    }
    Poll::Ready(Ok(()))
}

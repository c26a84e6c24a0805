//! A request of HTTP/1 carried over a stream of HTTP/2: what the client sends and reads is HTTP/1, what its endpoint does
//! HTTP/2.
//!
//! One try, in place of `forward`'s, on a stream that `http2::Outgoing` opened; how many tries there are is `serve`'s to
//! say. `head` says heads anew, `upload` and `download` move both bodies at the same time in one task, `chunks` is their
//! framing; `beside` is a hedge's way to an answer. The endpoint speaks HTTP/2, as a DestinationRule's `h2UpgradePolicy` says, or its agent makes HTTP/1 of it again: then
//! `http1::mark` says what is needed for that, and the response is what the application said. Never collects a body, never
//! carries what leaves HTTP behind.

mod beside;
pub(crate) mod chunks;
mod download;
mod head;
mod upload;

use std::cell::Cell;
use std::pin::pin;

use http::{Request, request};

use self::download::{Answering, Heads};
use self::upload::Sending;
use super::conn::Conn;
use super::forward::{Ask, Done, Failure, Forward, State, join};
use super::mark;
use super::message::RequestHead;
use super::mirror::Mirrored;
use super::timer::Timer;
use super::upload::Upload;
use crate::http2::{self, Outgoing};
use crate::proxy::Copied;
use crate::proxy::{Connection, Picked, Plan, ProxyError};

pub(super) use self::beside::answered;
pub(super) use self::chunks::whole;
pub(super) use self::head::carries;

/// Of a request's body this much is kept until the response begins, for an endpoint that didn't take the request up.
pub(super) const KEPT: usize = 64 * 1024;

/// A stream for the request on a connection to the endpoint that was picked.
pub(super) async fn open(
    request: &RequestHead,
    plan: &Plan,
    picked: &Picked,
    conn: &Connection,
) -> Result<Outgoing, ProxyError> {
    let departing = plan.departing();
    let departing = departing.as_ref().and_then(|departing| departing.head.as_deref());
    let head = head_for(picked, request, departing);
    Outgoing::open(picked, conn, head, request.body.is_done()).await
}

/// The head for this endpoint, `departing` being how it leaves for one of this node, if that is otherwise than it came.
fn head_for(picked: &Picked, request: &RequestHead, departing: Option<&request::Parts>) -> Request<()> {
    if picked.restores_http1() {
        // Another agent is told what the client sent: it is the one that changes it on arrival.
        mark::request(request)
    } else {
        head::request(departing.unwrap_or(&request.parts))
    }
}

/// The request's head as HTTP/2 says it.
pub(crate) fn head(request: &RequestHead) -> Request<()> {
    head::request(&request.parts)
}

/// Carries the exchange over `stream` to its end.
pub(super) async fn run<'c: 'h, 'h>(
    forward: Forward<'_, 'c, '_, 'h>,
    down: &mut Conn,
    stream: &mut Outgoing,
    timer: &mut Timer,
) -> Result<Done, Failure> {
    let Forward { conn, request, plan, picked, until, account, upload, tries, hedges, head: _ } = forward;
    let Outgoing { lease, response, body, answered } = stream;
    let answered = answered.take();
    let (state, ask, untaken) = (State::of(request), Ask::of(request), Cell::new(false));
    let restored = picked.restores_http1();
    let (mut from_client, mut to_client) = down.split();
    let result = {
        let Upload { flow, sent } = upload;
        let whole = || conn.mirror(plan, &request.parts, || Mirrored::of(request, sent).map(Copied::Http1));
        let (state, ask, lease, untaken) = (&state, &ask, &*lease, &untaken);
        let sending = Sending {
            conn,
            state,
            body: request.body,
            flow,
            sent,
            from: &mut from_client,
            to: body,
            restored,
            is_sent: answered.is_some(),
        };
        let sending = pin!(sending.run(whole));
        let heads = Heads { limits: conn.limits(), sent, ask, state, lease, untaken, restored };
        let answering = Answering { conn, request, plan, picked, account, tries, hedges, heads };
        let answering = pin!(answering.relay(response, answered, &mut to_client));
        let both = pin!(join(sending, answering, state));
        let idle = conn.limits().body_idle_timeout;
        timer.while_moving(idle, until.at(), || state.moved.get(), both).await
    };
    account.request_bytes += state.request_bytes.get();
    account.response_bytes += state.response_bytes.get();
    result.unwrap_or_else(|| Err(until.passed().unwrap_or_else(|| state.stalled()))).map_err(|kind| {
        body.send_reset(http2::reset_code(kind));
        let failure = state.failure(kind, &request.parts.method);
        Failure { replayable: false, untaken: untaken.get(), ..failure }
    })
}

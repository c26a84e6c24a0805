//! A request that another agent carries for a client of HTTP/1: made HTTP/1 again for the application, its answer carried back.
//!
//! The mirror image of `crate::http1::over_http2`. `stream` hands over what came marked from an agent (`crate::http1::mark`); what is
//! made of it went through the parser of HTTP/1 and is planned, limited and judged as if it had come so. The application's
//! connections are those of the paired upstream, kept for the next request. `upload` and `download` move both bodies at the
//! same time in one task. An end that isn't clean is never passed on as one that is.

mod download;
mod upload;

use std::cell::Cell;
use std::future::poll_fn;
use std::pin::pin;
use std::task::Poll;

use bytes::Bytes;
use h2::server::SendResponse;
use h2::{Reason, RecvStream};
use http::{HeaderValue, Version, request};
use tokio::time::{Instant, sleep_until};

use self::download::Answering;
use self::upload::Sending;
use super::answer;
use super::stall::Stall;
use super::stream::{End, HeadBytes, Shared, unless_reset};
use crate::http1::conn::Conn;
use crate::http1::forward::{Ask, Done, Failure, State, join};
use crate::http1::head::HeadError;
use crate::http1::message::RequestHead;
use crate::http1::{self, mark, write};
use crate::proxy::hedge::Places;
use crate::proxy::upstream::reset;
use crate::proxy::{
    Connection, ErrorKind, Exchange, Hostile, LocalAnswer, Picked, Plan, Side, Tries, TryDeadline,
};

/// Of a response that can't be ended in a better way (RFC 9113, 8.5, has it for what ends abnormally).
const RESET: Reason = Reason::CONNECT_ERROR;

/// Takes one request from its head to its end.
pub(super) async fn serve(
    shared: &Shared<'_>,
    parts: request::Parts,
    mark: &HeaderValue,
    body: RecvStream,
    mut respond: SendResponse<Bytes>,
    stall: &Stall,
) -> End {
    let conn = shared.conn;
    let mut request = match restore(parts, mark, &body, conn) {
        Ok(request) => request,
        Err(kind) => {
            let mut exchange = Exchange::unreadable(conn, Version::HTTP_11);
            answer::fail(&mut respond, &mut exchange, kind, LocalAnswer::to(kind));
            return End::Ended;
        }
    };
    let held = HeadBytes::take(&shared.head_bytes, request.raw.bytes.len());
    let mut exchange = Exchange::begin(conn, &mut request.parts);
    let planned = match held {
        Ok(_) => {
            let bodyless = request.body.is_done();
            match conn.admit_arrival(&mut request.parts, bodyless).await {
                Ok(arrived) => {
                    let plan = conn.plan(&mut request.parts, &mut exchange);
                    plan.map(|plan| plan.with_arrival(arrived))
                }
                Err(answer) => Err(answer),
            }
        }
        Err(kind) => Err(LocalAnswer::refusing(kind)),
    };
    let plan = match planned {
        Ok(plan) => plan,
        Err(answer) => {
            answer::send(&mut respond, &mut exchange, &answer);
            return End::Ended;
        }
    };
    request.retargeted = plan.retargeted;
    let told = Cell::new(false);
    let mut way = Way {
        conn,
        plan: &plan,
        request: &request,
        exchange: &mut exchange,
        respond: &mut respond,
        stall,
        told: &told,
    };
    let Err(failure) = way.go(body).await else { return End::Ended };
    let kind = failure.kind;
    if failure.started {
        exchange.fail(kind);
        if !told.get() {
            respond.send_reset(match kind {
                ErrorKind::DownstreamReset(reason) => reason,
                _ => RESET,
            });
        }
    } else {
        answer::fail(&mut respond, &mut exchange, kind, plan.answer_to(conn, kind));
    }
    if matches!(kind, ErrorKind::DownstreamReset(_)) { End::TakenBack } else { End::Ended }
}

/// The request as the client's agent read it.
fn restore(
    parts: request::Parts,
    mark: &HeaderValue,
    body: &RecvStream,
    conn: &Connection,
) -> Result<RequestHead, ErrorKind> {
    let request = mark::restore_request(&parts, mark, conn.limits()).map_err(|error| match error {
        HeadError::Hostile(hostile) => ErrorKind::DownstreamProtocol(hostile),
        HeadError::TooLarge => ErrorKind::HeadTooLarge,
        HeadError::UriTooLong => ErrorKind::UriTooLong,
    })?;
    // What the application would take for its next request.
    if request.body.is_done() && !body.is_end_stream() {
        return Err(ErrorKind::DownstreamProtocol(Hostile::BadLength));
    }
    Ok(request)
}

/// The way of one request.
struct Way<'w, 'c> {
    conn: &'c Connection,
    plan: &'w Plan,
    request: &'w RequestHead,
    exchange: &'w mut Exchange<'c>,
    respond: &'w mut SendResponse<Bytes>,
    stall: &'w Stall,
    /// The client's agent knows how the response ended.
    told: &'w Cell<bool>,
}

impl Way<'_, '_> {
    async fn go(&mut self, mut body: RecvStream) -> Result<(), Failure> {
        let (conn, plan, request) = (self.conn, self.plan, self.request);
        if plan.may_wait() {
            let entered = async {
                plan.within_global_limits(conn, &request.parts).await?;
                plan.await_endpoint(conn).await?;
                plan.suffer(conn).await
            };
            let entered = Box::pin(unless_reset(self.respond, entered)).await;
            if let Err(answer) = entered.map_err(Failure::before_sending)? {
                answer::send(self.respond, self.exchange, &answer);
                return Ok(());
            }
        }
        let mut tries = Tries::new(conn, plan);
        // Version 1.0 ends its connection with the response.
        let mut fresh = request.parts.version == Version::HTTP_10;
        loop {
            let picked = tries.pick(Some(&request.parts)).await.map_err(Failure::before_sending)?;
            self.exchange.sent_to(&picked);
            let _places = Places::of(picked.request().map_err(Failure::before_sending)?);
            let until = plan.try_deadline(Instant::now());
            let (mut up, reused) =
                self.connect(&picked, until, fresh).await.map_err(Failure::before_sending)?;
            match self.carry(&mut body, &mut up, &picked, until).await {
                Ok(done) => {
                    http1::keep(&picked, conn, up, done);
                    return Ok(());
                }
                // It was closed while it lay idle: not this request's failure.
                Err(failure) if failure.replayable && reused && failure.kind == ErrorKind::UpstreamClosed => {
                    conn.count_retry(failure.kind.label());
                    fresh = true;
                }
                Err(failure) => {
                    if failure.kind.side() == Side::Upstream {
                        self.exchange.endpoint_failed(&picked);
                    }
                    if failure.kind.side() == Side::Downstream {
                        // The application learns that its client is gone the way we learned it.
                        reset(up.into_parts().0);
                    }
                    return Err(failure);
                }
            }
        }
    }

    /// A connection to the application; true if it isn't new.
    async fn connect(
        &mut self,
        picked: &Picked,
        until: TryDeadline,
        fresh: bool,
    ) -> Result<(Conn, bool), ErrorKind> {
        let connecting = until.bound(http1::connection_to(picked, self.conn, self.request, fresh));
        let connected = unless_reset(self.respond, connecting).await?;
        connected.map_err(|error| {
            if error.kind.side() == Side::Upstream {
                self.exchange.endpoint_failed(picked);
            }
            error.kind
        })
    }

    /// Carries the exchange to its end.
    async fn carry(
        &mut self,
        body: &mut RecvStream,
        up: &mut Conn,
        picked: &Picked,
        until: TryDeadline,
    ) -> Result<Done, Failure> {
        let Self { conn, plan, request, exchange, respond, stall, told } = self;
        let (state, ask) = (State::of(request), Ask::of(request));
        let (mut from, mut to) = up.split();
        write::put_request(request, to.stage());
        let result = {
            let state = &state;
            let sending = pin!(Sending { state, framing: &request.body, from: body, to: &mut to }.run());
            let account = &mut **exchange;
            let answering = Answering { conn, plan, picked, account, ask: &ask, state, respond, told };
            let answering = pin!(answering.relay(&mut from));
            let mut both = pin!(join(sending, answering, state));
            let mut deadline = until.at().map(|at| Box::pin(sleep_until(at)));
            let mut moved = None;
            poll_fn(|cx| {
                if let Some(kind) = stall.over() {
                    return Poll::Ready(Err(kind));
                }
                if let Poll::Ready(result) = both.as_mut().poll(cx) {
                    return Poll::Ready(result);
                }
                if deadline.as_mut().is_some_and(|deadline| deadline.as_mut().poll(cx).is_ready()) {
                    return Poll::Ready(Err(until.passed().unwrap_or(ErrorKind::UpstreamTimeout)));
                }
                if moved.replace(state.moved.get()) != Some(state.moved.get()) {
                    stall.moved();
                }
                stall.wait_for(Some(state.stalled()), cx);
                Poll::Pending
            })
            .await
        };
        stall.wait_for_nothing();
        exchange.request_bytes += state.request_bytes.get();
        exchange.response_bytes += state.response_bytes.get();
        let usable = ask.version == Version::HTTP_11 && state.sent.get() && up.is_clear();
        match result {
            Ok(done) => Ok(Done { keep_upstream: done.keep_upstream && usable, ..done }),
            Err(kind) => Err(state.failure(kind, &request.parts.method)),
        }
    }
}

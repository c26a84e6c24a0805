//! The loop of one client connection: request, exchange, next request.
//!
//! Comes after `proxy::carry`. `receive` reads a head, `proxy::plan` decides about it, `attempt` tries it; here is what the
//! client is told when nothing helps, and whether its connection goes on.

mod attempt;
mod receive;

use std::pin::pin;
use std::sync::Arc;

use http::{StatusCode, Version, request};

use self::attempt::{Carried, carry};
pub(crate) use self::attempt::{connection_to, keep};
use self::receive::next_request;
use super::answer;
use super::conn::Conn;
use super::forward::{Failure, READ_AHEAD};
use super::message::RequestHead;
use super::timer::Timer;
use crate::jwt::Claims;
use crate::proxy::error::ErrorKind;
use crate::proxy::tcp::{self, Early, Lifetime};
use crate::proxy::upstream::reset;
use crate::proxy::{Connection, Exchange, LocalAnswer, Picked, Plan};

/// Serves requests until the client or the agent ends the connection.
pub async fn serve(mut down: Conn, conn: &Connection) {
    let mut timer = Timer::default();
    let drain = conn.pod.worker.drain.clone();
    let mut draining = pin!(drain.begun());
    let mut first = true;
    down.set_nodelay();
    loop {
        let after = match next_request(&mut down, conn, &mut timer, draining.as_mut(), first).await {
            Ok(Some(mut request)) => handle(&mut down, conn, &mut request, &mut timer).await,
            Ok(None) => return,
            Err(kind) => refuse(&mut down, conn, kind, &mut timer).await,
        };
        match after {
            After::Next => first = false,
            After::Linger => return answer::linger(down, &mut timer).await,
            After::Reset => return reset(down.into_parts().0),
            // On the heap, so that connections that stay with HTTP make no room for it.
            After::Switched(tunnel) => return Box::pin(tunnel.run(conn, down)).await,
        }
    }
}

/// What follows an exchange.
enum After<'c> {
    /// Another request may come.
    Next,
    /// Nothing more; the client is given time to read.
    Linger,
    /// The client must see that what it got isn't whole.
    Reset,
    /// Bytes go both ways from here.
    Switched(Box<Tunnel<'c>>),
}

/// Answers what isn't a request. It is accounted as one all the same, with `-` where nothing is known.
async fn refuse<'c>(down: &mut Conn, conn: &'c Connection, kind: ErrorKind, timer: &mut Timer) -> After<'c> {
    let mut account = Exchange::unreadable(conn, Version::HTTP_11);
    account.fail(kind);
    tell(down, &mut account, LocalAnswer::to(kind), true, false, timer).await
}

/// Says to the client what the agent has to say; None: it sees a reset.
async fn tell<'c>(
    down: &mut Conn,
    account: &mut Exchange<'_>,
    answer: Option<LocalAnswer>,
    close: bool,
    head: bool,
    timer: &mut Timer,
) -> After<'c> {
    let Some(answer) = answer else { return After::Reset };
    account.answered_locally(answer.status);
    account.answered_with(&answer);
    match answer::send(down, &answer, close, head, timer).await {
        true if close => After::Linger,
        true => After::Next,
        false => After::Reset,
    }
}

async fn handle<'c>(
    down: &mut Conn,
    conn: &'c Connection,
    request: &mut RequestHead,
    timer: &mut Timer,
) -> After<'c> {
    let mut account = Exchange::begin(conn, &mut request.parts);
    // What few requests come to is on the heap, so that a connection makes no room for it.
    let bodyless = request.body.is_done();
    let arrived = match conn.admit_arrival(&mut request.parts, bodyless).await {
        Ok(arrived) => arrived,
        Err(answer) => return Box::pin(not_sent(down, conn, request, &mut account, answer, timer)).await,
    };
    let plan = match conn.plan(&mut request.parts, &mut account) {
        Ok(plan) => plan.with_arrival(arrived),
        Err(answer) => return Box::pin(not_sent(down, conn, request, &mut account, answer, timer)).await,
    };
    if plan.may_wait()
        && let Some(after) = Box::pin(hold_back(down, conn, request, &plan, &mut account, timer)).await
    {
        return after;
    }
    request.retargeted = plan.retargeted;
    match carry(down, conn, request, &plan, &mut account, timer).await {
        Ok(Carried::Switched(up, picked)) => {
            let head = request.parts.clone();
            After::Switched(Box::new(Tunnel { account, up, picked, head, claims: plan.claims() }))
        }
        Ok(Carried::Settled(true)) => After::Next,
        Ok(Carried::Settled(false)) => After::Linger,
        Err(failure) => {
            account.fail(failure.kind);
            Box::pin(failed(down, conn, request, &plan, &mut account, failure, timer)).await
        }
    }
}

/// Waits for the limits that agents share, for a first endpoint, then for a fault. None: the request goes on.
async fn hold_back<'c>(
    down: &mut Conn,
    conn: &Connection,
    request: &RequestHead,
    plan: &Plan,
    account: &mut Exchange<'_>,
    timer: &mut Timer,
) -> Option<After<'c>> {
    let mut waited = Some(plan.within_global_limits(conn, &request.parts).await);
    if let Some(Ok(())) = waited {
        waited = unless_reset(down, plan.await_endpoint(conn)).await;
    }
    if let Some(Ok(())) = waited {
        waited = unless_gone(down, plan.suffer(conn)).await;
    }
    match waited {
        Some(Ok(())) => {
            if plan.waited() {
                account.sent_after_waiting();
            }
            if plan.was_delayed() {
                account.delayed();
            }
            if plan.has_fallen() {
                account.fell_back(ErrorKind::NoHealthyUpstream);
            }
            None
        }
        Some(Err(answer)) => Some(not_sent(down, conn, request, account, answer, timer).await),
        None => {
            account.fail(ErrorKind::DownstreamClosed);
            Some(After::Reset)
        }
    }
}

/// None if the client resets its connection meanwhile. One that only ends its side may still read the answer.
async fn unless_reset<T>(down: &mut Conn, work: impl Future<Output = T>) -> Option<T> {
    let (reader, _) = down.split();
    tokio::select! {
        biased;
        done = work => Some(done),
        _ = reader.reset() => None,
    }
}

/// None if the client goes away meanwhile. One that only ends its side counts as gone: it can't be told from one that
/// gave up waiting, which is what delays are for.
async fn unless_gone<T>(down: &mut Conn, work: impl Future<Output = T>) -> Option<T> {
    let (mut reader, _) = down.split();
    let gone = async {
        while reader.buffered().len() < READ_AHEAD {
            if !matches!(reader.fill().await, Ok(1..)) {
                return;
            }
        }
        let _ = reader.reset().await;
    };
    tokio::select! {
        biased;
        done = work => Some(done),
        () = gone => None,
    }
}

/// A request that was answered without being sent.
async fn not_sent<'c>(
    down: &mut Conn,
    conn: &Connection,
    request: &RequestHead,
    account: &mut Exchange<'_>,
    answer: LocalAnswer,
    timer: &mut Timer,
) -> After<'c> {
    if let Some(kind) = answer.why {
        account.fail(kind);
    }
    let refused = answer.why == Some(ErrorKind::PlainTextRefused);
    let keep = answer::is_skippable(request) && stays(conn, request) && !refused;
    let after = tell(down, account, Some(answer), !keep, request.asked().head, timer).await;
    past_body(down, request, after, timer).await
}

/// Goes on behind a body that nobody wants.
async fn past_body<'c>(
    down: &mut Conn,
    request: &RequestHead,
    after: After<'c>,
    timer: &mut Timer,
) -> After<'c> {
    match after {
        After::Next if !request.body.is_done() => {
            if answer::skip(down, request.body, timer).await {
                After::Next
            } else {
                After::Linger
            }
        }
        after => after,
    }
}

/// True if the client means to keep its connection, and so do we. What follows a CONNECT is meant for the tunnel.
fn stays(conn: &Connection, request: &RequestHead) -> bool {
    let version = request.parts.version;
    let draining = conn.pod.worker.drain.is_draining();
    let persistent = version == Version::HTTP_11 && request.options.persistent(version);
    persistent && !request.asked().connect && !draining
}

/// What is done about a failure depends on how much the client has seen.
async fn failed<'c>(
    down: &mut Conn,
    conn: &Connection,
    request: &RequestHead,
    plan: &Plan,
    account: &mut Exchange<'_>,
    failure: Failure,
    timer: &mut Timer,
) -> After<'c> {
    if failure.started {
        // Without its last bytes the body's framing says that something is missing; a reset is passed on as one, and
        // is all that tells where the framing is the end of the connection, as it may be for a client of version 1.0.
        let framed = request.parts.version == Version::HTTP_11;
        return if failure.reset || !framed || failure.kind != ErrorKind::UpstreamClosed {
            After::Reset
        } else {
            After::Linger
        };
    }
    let unread = !failure.sent && account.request_bytes == 0 && answer::is_skippable(request);
    let keep = (failure.sent || unread) && stays(conn, request) && may_go_on(failure.kind);
    let answer = plan.answer_to(conn, failure.kind).or_else(|| match failure.kind {
        // HTTP/1 has no reset of a request to pass on (Envoy: 503 with UR).
        kind @ ErrorKind::UpstreamReset(_) => LocalAnswer::to(kind),
        _ => None,
    });
    let after = tell(down, account, answer, !keep, request.asked().head, timer).await;
    if unread { past_body(down, request, after, timer).await } else { after }
}

/// True if the failure says nothing about the client's connection.
fn may_go_on(kind: ErrorKind) -> bool {
    !matches!(kind.status(), None | Some(StatusCode::BAD_REQUEST | StatusCode::REQUEST_TIMEOUT))
        && kind != ErrorKind::Draining
}

/// Two connections that left HTTP behind, and the request that made them.
struct Tunnel<'c> {
    account: Exchange<'c>,
    up: Conn,
    picked: Picked,
    /// As it was admitted.
    head: request::Parts,
    /// Of its token.
    claims: Option<Arc<Claims>>,
}

impl Tunnel<'_> {
    /// Carries bytes both ways until both ended; the request's account ends with them.
    async fn run(mut self, conn: &Connection, down: Conn) {
        let _place = self.up.take_place();
        let mut unsent = self.up.take_unsent();
        let (client, mut from_client) = down.into_parts();
        let (upstream, from_upstream) = self.up.into_parts();
        if !unsent.is_empty() {
            // The server switched before it had taken the whole head.
            unsent.extend_from_slice(&from_client);
            from_client = unsent.freeze();
        }
        let early = Early { from_client, from_upstream };
        // It was a request, which the age of its connection doesn't end.
        let lifetime = Lifetime { idle: self.picked.limits().tcp_idle, longest: None };
        let account = &mut self.account;
        let carrying = tcp::tunnel(&conn.pod.worker, client, upstream, early, lifetime, |moved| {
            account.request_bytes += moved.from_client;
            account.response_bytes += moved.from_upstream;
            conn.live.received(moved.from_client);
            conn.live.sent(moved.from_upstream);
        });
        let ended = tokio::select! {
            biased;
            ended = carrying => ended,
            denied = conn.until_request_denied(&self.picked, &self.head, self.claims.as_deref()) => Err(denied),
        };
        if let Err(kind) = ended {
            if kind == ErrorKind::Denied {
                self.account.ended_for(conn.tell_refusal());
            }
            self.account.fail(kind);
        }
    }
}

#[cfg(test)]
mod tests;

#[cfg(test)]
mod bench;

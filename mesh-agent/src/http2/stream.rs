//! One request: head checked, endpoint picked, request and response passed on at the same time, ended with its cause.
//!
//! Comes after `server`, which drives it, and uses `pool` for the way to the endpoint and `copy` for the bodies. A
//! reset on one side becomes a reset with the same code on the other. A request that an endpoint certainly didn't take
//! up (REFUSED_STREAM, GOAWAY) is sent once more, to another endpoint where there is one.

use std::cell::Cell;
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use h2::server::SendResponse;
use h2::{Reason, RecvStream};
use http::{Request, request};
use tokio::time::{Instant, sleep_until};

use super::copy::Copy;
use super::hedge::Hedges;
use super::mirror::Mirrored;
use super::pass::{Fault, Pass, Passed, ToEndpoint};
use super::stall::{Stall, Ticks};
use super::upload::{Opened, Upload};
use super::{answer, grpc, hedge, over_http1, pool, request as head};
use crate::http1::mark::MARK;
use crate::proxy::hedge::{Asking, Places, Race};
use crate::proxy::{Connection, Copied, ErrorKind, Exchange, Plan, Side, Tries};

/// Connections that turn out to be going away before one request is given up.
const MOST_CONNECTIONS_TRIED: usize = 8;
/// Bytes of request heads that one connection may have under way. A header table entry is sent once and named by one
/// byte, so that heads can be far larger here than on the wire.
const MOST_HEAD_BYTES: usize = 4 * 1024 * 1024;

/// What the streams of one connection share.
pub(super) struct Shared<'c> {
    pub(super) conn: &'c Connection,
    /// Another agent is at the other end.
    pub(super) agent: bool,
    pub(super) ticks: Ticks,
    pub(super) head_bytes: Cell<usize>,
    /// PROTOCOL_ERROR resets of ours that only carry an endpoint's.
    pub(super) resets_sent: Cell<u64>,
}

/// How a stream ended, for the connection's own account.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// In whatever way, but not by the client.
    Ended,
    /// The client took its request back.
    TakenBack,
}

/// Takes one request from its head to its end.
pub(super) async fn serve(
    shared: &Shared<'_>,
    request: Request<RecvStream>,
    mut respond: SendResponse<Bytes>,
    stall: Rc<Stall>,
) -> End {
    let (mut parts, body) = request.into_parts();
    // Nobody but another agent is believed.
    if let Some(mark) = parts.headers.remove(MARK)
        && shared.agent
    {
        return Box::pin(over_http1::serve(shared, parts, &mark, body, respond, &stall)).await;
    }
    let checked = head::check(&mut parts, shared.conn.limits());
    let mut exchange = Exchange::begin(shared.conn, &mut parts);
    let held = checked.and_then(|size| HeadBytes::take(&shared.head_bytes, size));
    let planned = match &held {
        Ok(_) => match shared.conn.admit_arrival(&mut parts, body.is_end_stream()).await {
            Ok(arrived) => {
                let plan = shared.conn.plan(&mut parts, &mut exchange);
                plan.map(|plan| plan.with_arrival(arrived))
            }
            Err(answer) => Err(answer),
        },
        Err(_) => Ok(Plan::default()),
    };
    let plan = match planned {
        Ok(plan) => plan,
        Err(answer) => {
            answer::send(&mut respond, &mut exchange, &answer);
            return End::Ended;
        }
    };
    let result = match held {
        Ok(_) => {
            let mut way = Way {
                conn: shared.conn,
                plan: &plan,
                exchange: &mut exchange,
                respond: &mut respond,
                stall: &stall,
            };
            way.go(parts, body).await
        }
        Err(kind) => Err(kind),
    };
    if let Err(kind) = result {
        let answer = plan.answer_to(shared.conn, kind);
        answer::fail(&mut respond, &mut exchange, kind, answer);
    }
    match result {
        Err(ErrorKind::DownstreamReset(_)) => End::TakenBack,
        Err(ErrorKind::UpstreamReset(Reason::PROTOCOL_ERROR)) => {
            shared.resets_sent.set(shared.resets_sent.get() + 1);
            End::Ended
        }
        Ok(()) | Err(_) => End::Ended,
    }
}

/// A head's share of what one connection may hold.
pub(super) struct HeadBytes<'a> {
    total: &'a Cell<usize>,
    size: usize,
}

impl<'a> HeadBytes<'a> {
    pub(super) fn take(total: &'a Cell<usize>, size: usize) -> Result<Self, ErrorKind> {
        if total.get() + size > MOST_HEAD_BYTES {
            return Err(ErrorKind::Overflow);
        }
        total.set(total.get() + size);
        Ok(Self { total, size })
    }
}

impl Drop for HeadBytes<'_> {
    fn drop(&mut self) {
        self.total.set(self.total.get() - self.size);
    }
}

/// The way of one request.
struct Way<'w, 'c: 'w> {
    conn: &'c Connection,
    plan: &'w Plan,
    exchange: &'w mut Exchange<'c>,
    respond: &'w mut SendResponse<Bytes>,
    stall: &'w Stall,
}

impl<'w> Way<'w, '_> {
    async fn go(&mut self, parts: request::Parts, body: RecvStream) -> Result<(), ErrorKind> {
        let entered = async {
            self.plan.within_global_limits(self.conn, &parts).await?;
            self.plan.await_endpoint(self.conn).await?;
            self.plan.suffer(self.conn).await
        };
        if let Err(answer) = unless_reset(self.respond, entered).await? {
            answer::send(self.respond, self.exchange, &answer);
            return Ok(());
        }
        if self.plan.waited() {
            self.exchange.sent_after_waiting();
        }
        if self.plan.was_delayed() {
            self.exchange.delayed();
        }
        if self.plan.has_fallen() {
            self.exchange.fell_back(ErrorKind::NoHealthyUpstream);
        }
        let mut upload = Upload::new(body, self.exchange.is_grpc(), self.plan.keeps_body());
        let mut tries = Tries::new(self.conn, self.plan);
        loop {
            match self.try_out(&parts, &mut upload, &mut tries).await {
                Err(why) if self.falls_back(&upload, why) => tries = Tries::elsewhere(self.conn, self.plan),
                result => {
                    if let Some(why) = tries.refused() {
                        self.exchange.not_retried(why);
                    }
                    return result;
                }
            }
        }
    }

    /// Turns to the fallback's service after a failure that it is for.
    fn falls_back(&mut self, upload: &Upload, why: ErrorKind) -> bool {
        let may = upload.is_kept() && !self.exchange.is_answered();
        may && self.plan.falls_back_after(self.exchange, why)
    }

    /// Tries until one settles it.
    async fn try_out(
        &mut self,
        parts: &request::Parts,
        upload: &mut Upload,
        tries: &mut Tries<'w>,
    ) -> Result<(), ErrorKind> {
        let mut hedges: Option<Box<Hedges<'w>>> = Hedges::of(self.plan, parts);
        let mut opened = self.open(parts, upload, tries, hedges.as_deref_mut()).await?;
        let mut taken_up = false;
        loop {
            // Moved as one, so that a stream makes no room for it twice.
            let (mut to_endpoint, send, unsent) = opened.into_parts();
            let copy = upload.reach(send, unsent)?;
            let passed = self.pass(parts, &mut to_endpoint, copy, tries, hedges.as_deref_mut()).await;
            let others = hedges.as_ref().is_some_and(|hedges| hedges.are_under_way());
            let wait = match passed {
                Ok(Passed::Done) => return Ok(()),
                Ok(Passed::Again(wait)) => Some(wait),
                Ok(Passed::Outrun) => {
                    copy.reset(Reason::CANCEL);
                    if hedges.as_ref().is_some_and(|hedges| hedges.have_won()) {
                        to_endpoint.picked.outrun();
                    }
                    None
                }
                Err(fault) if others && fault.leaves_others() => None,
                Err(fault) if !fault.again => return Err(fault.kind),
                // What no endpoint took up may be sent once more whatever the route says.
                Err(fault) if fault.untaken && !taken_up && !tries.is_too_late(Duration::ZERO) => {
                    taken_up = true;
                    tries.untaken(&to_endpoint.picked, fault.kind);
                    Some(Duration::ZERO)
                }
                Err(fault) => Some(tries.failed(&to_endpoint.picked, fault.kind).ok_or(fault.kind)?),
            };
            drop(to_endpoint);
            let ahead = match (wait, hedges.as_deref_mut()) {
                (None, Some(hedges)) => Box::pin(self.rest(parts, upload, tries, hedges)).await?,
                (wait, _) => {
                    unless_reset(self.respond, Tries::pause(wait.unwrap_or_default())).await?;
                    None
                }
            };
            opened = match ahead {
                Some(opened) => opened,
                None => self.open(parts, upload, tries, hedges.as_deref_mut()).await?,
            };
        }
    }

    /// Sends the head to an endpoint, one after the other until one can be reached.
    async fn open(
        &mut self,
        parts: &request::Parts,
        upload: &Upload,
        tries: &mut Tries<'w>,
        mut hedges: Option<&mut Hedges<'w>>,
    ) -> Result<Opened, ErrorKind> {
        for _ in 0..MOST_CONNECTIONS_TRIED {
            let picked = match tries.pick(Some(parts)).await {
                Ok(picked) => picked,
                Err(kind) => {
                    self.exchange.refused_at(tries.take_refused_at());
                    return Err(kind);
                }
            };
            self.exchange.sent_to(&picked);
            let places = Places::of(picked.request()?);
            let until = self.plan.try_deadline(Instant::now());
            let leasing = until.bound(pool::lease(&picked, &self.conn.pod, self.conn.client));
            let leased = match hedges.as_deref_mut() {
                None => Some(unless_reset(self.respond, leasing).await?),
                Some(hedges) => Box::pin(self.beside(leasing, parts, upload, tries, hedges)).await?,
            };
            let others = hedges.as_deref_mut().filter(|hedges| hedges.are_under_way());
            let mut lease = match (leased, others) {
                (Some(Ok(lease)), _) => lease,
                (None, Some(others)) => {
                    picked.outrun();
                    match Box::pin(self.rest(parts, upload, tries, others)).await? {
                        Some(opened) => return Ok(opened),
                        None => continue,
                    }
                }
                (None, None) => continue,
                (Some(Err(error)), others) => {
                    if error.kind.side() == Side::Upstream {
                        self.exchange.endpoint_failed(&picked);
                    }
                    match others.filter(|_| error.kind != ErrorKind::RequestTimeout) {
                        Some(others) => match Box::pin(self.rest(parts, upload, tries, others)).await? {
                            Some(opened) => return Ok(opened),
                            None => continue,
                        },
                        None => {
                            let wait = tries.pass_over(&picked, error.kind).ok_or(error.kind)?;
                            unless_reset(self.respond, Tries::pause(wait)).await?;
                            continue;
                        }
                    }
                }
            };
            let departing = self.plan.departing();
            let sent = departing.as_ref().and_then(|departing| departing.head.as_deref()).unwrap_or(parts);
            let head = grpc::telling(sent, self.plan.time_to_tell());
            if let Some((response, send)) =
                lease.send(Request::from_parts(head, ()), upload.is_empty()).await?
            {
                let to_endpoint =
                    ToEndpoint { picked, lease, response, answer: None, _places: places, until };
                return Ok(Opened { to_endpoint, send, unsent: None });
            }
            self.conn.count_retry(ErrorKind::UpstreamClosed.label());
        }
        Err(ErrorKind::UpstreamClosed)
    }

    /// What `leasing` comes to. None if a hedge has won before.
    async fn beside<T>(
        &mut self,
        leasing: impl Future<Output = T>,
        parts: &request::Parts,
        upload: &Upload,
        tries: &mut Tries<'w>,
        hedges: &mut Hedges<'w>,
    ) -> Result<Option<T>, ErrorKind> {
        hedges.begin();
        let (conn, plan) = (self.conn, self.plan);
        let whole = upload.is_complete();
        let mut asking = Asking { tries, account: self.exchange, head: parts, whole, own: true };
        let start = |granted| hedge::start(conn, plan, parts, upload.parts(), granted);
        unless_reset(self.respond, hedges.beside(leasing, &mut asking, start)).await
    }

    /// What comes of the hedges, the request's own try being over. None: the last of them failed, and there is to be
    /// another try.
    async fn rest(
        &mut self,
        parts: &request::Parts,
        upload: &Upload,
        tries: &mut Tries<'w>,
        hedges: &mut Hedges<'w>,
    ) -> Result<Option<Opened>, ErrorKind> {
        let (conn, plan) = (self.conn, self.plan);
        let whole = upload.is_complete();
        let mut asking = Asking { tries, account: self.exchange, head: parts, whole, own: false };
        let start = |granted| hedge::start(conn, plan, parts, upload.parts(), granted);
        // What a hedge waits for is for itself to say.
        self.stall.wait_for_nothing();
        match unless_reset(self.respond, hedges.rest(&mut asking, start)).await? {
            Race::Won(ahead) => Ok(Some(ahead.into())),
            Race::Lost(behind) => {
                let wait = tries.pass_over(&behind.picked, behind.why).ok_or(behind.why)?;
                unless_reset(self.respond, Tries::pause(wait)).await?;
                Ok(None)
            }
        }
    }

    async fn pass(
        &mut self,
        parts: &request::Parts,
        to_endpoint: &mut ToEndpoint,
        copy: &mut Copy,
        tries: &mut Tries<'w>,
        mut hedges: Option<&mut Hedges<'w>>,
    ) -> Result<Passed, Fault> {
        let mut deadline = to_endpoint.until.0.map(|(at, kind)| (Box::pin(sleep_until(at)), kind));
        let (conn, plan) = (self.conn, self.plan);
        let mut pass = Pass::new(plan, tries, self.exchange, self.respond, self.stall, to_endpoint, copy);
        let result = poll_fn(|cx| {
            let polled = match hedges.as_deref_mut() {
                None => pass.poll(cx),
                Some(hedges) => pass.poll_among(cx, hedges, parts),
            };
            if plan.is_mirrored() && pass.upload().is_whole() {
                conn.mirror(plan, parts, || {
                    Some(Copied::Http2(Box::new(Mirrored::of(parts, pass.upload().parts()?))))
                });
            }
            match (polled, &mut deadline) {
                (Poll::Pending, Some((sleep, kind))) => sleep.as_mut().poll(cx).map(|()| Err((*kind).into())),
                (result, _) => result,
            }
        })
        .await;
        result.map_err(|kind| pass.broken(kind))
    }
}

/// Ends early if the client takes the request back.
pub(super) async fn unless_reset<T>(
    respond: &mut SendResponse<Bytes>,
    work: impl Future<Output = T>,
) -> Result<T, ErrorKind> {
    let mut work = pin!(work);
    poll_fn(|cx| match work.as_mut().poll(cx) {
        Poll::Ready(done) => Poll::Ready(Ok(done)),
        Poll::Pending => respond
            .poll_reset(cx)
            .map(|reset| Err(reset.map_or(ErrorKind::DownstreamClosed, ErrorKind::DownstreamReset))),
    })
    .await
}

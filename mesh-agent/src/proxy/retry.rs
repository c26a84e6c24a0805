//! The tries of one request: which endpoints it was at, and whether it may be sent once more.
//!
//! Used by `crate::http1` and `crate::http2` alike. An endpoint that can't be connected to is passed over at no charge;
//! everything else needs the route's retry policy, a try left, budget left, time left, and a request that can be said
//! again from its beginning. Envoy's conditions (router filter, `x-envoy-retry-on`), Gateway API's retry (GEP-1731).
//! `hedge` asks here too: a hedge is a retry that doesn't wait for the failure.

use std::rc::Rc;
use std::time::Duration;

use http::{StatusCode, request};
use tokio::time::Instant;

use super::backend::Picked;
use super::context::Connection;
use super::error::ErrorKind;
use super::hedge::{Granted, Places};
use super::plan::Plan;
use super::upstream::Upstream;
use crate::addr::EndpointAddr;
use crate::balance::usage::Place;
use crate::clock;
use crate::policy::backoff;
use crate::policy::budget::Budget;
use crate::route::RetryPolicy;

/// Why a request that its policy would have sent once more wasn't.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoRetry {
    /// It had as many tries as the policy gives it.
    Exhausted,
    /// The budget, or the number of retries at a time, that it shares with others is used up.
    Overflow,
}

/// One request's tries.
pub struct Tries<'p> {
    conn: &'p Connection,
    plan: &'p Plan,
    policy: Option<&'p RetryPolicy>,
    /// Of the service that the request goes to.
    budget: Option<&'p Budget>,
    tried: Vec<EndpointAddr>,
    /// Where the last one is.
    last: Option<EndpointAddr>,
    passed_over: usize,
    /// Why the last one was.
    passed_over_for: Option<ErrorKind>,
    retries: u32,
    /// Any endpoint may be asked again.
    retries_free: bool,
    refused: Option<NoRetry>,
    /// Why the request is sent once more, for the next try.
    after: Option<&'static str>,
    /// The request was counted against rate limits.
    counted: bool,
    /// Among the retries under way, where their number is limited.
    place: Option<Place>,
    /// Whoever guards this endpoint refused the request.
    refused_at: Option<Rc<Upstream>>,
}

impl<'p> Tries<'p> {
    /// None made yet.
    pub fn new(conn: &'p Connection, plan: &'p Plan) -> Self {
        let tries = Self::elsewhere(conn, plan);
        if let Some(budget) = tries.budget {
            budget.request(clock::now_ns());
        }
        Self { counted: false, ..tries }
    }

    /// Of a request that was counted before, and goes to another service now.
    pub fn elsewhere(conn: &'p Connection, plan: &'p Plan) -> Self {
        Self {
            conn,
            plan,
            policy: plan.retry(),
            budget: plan.retry_budget(),
            tried: Vec::new(),
            last: None,
            passed_over: 0,
            passed_over_for: None,
            retries: 0,
            retries_free: false,
            refused: None,
            after: None,
            counted: true,
            place: None,
            refused_at: None,
        }
    }

    /// The endpoint that would have got the request, had it been let in.
    pub fn take_refused_at(&mut self) -> Option<Rc<Upstream>> {
        self.refused_at.take()
    }

    /// True once nobody waits for the response, or won't after `wait`.
    pub fn is_too_late(&self, wait: Duration) -> bool {
        self.plan.deadline().is_some_and(|deadline| Instant::now() + wait >= deadline)
    }

    /// The next endpoint: the client's own, else one that wasn't tried, or once all were, any of them if it was a retry that
    /// was granted.
    ///
    /// # Errors
    /// If there is none, or the request may not go there: [`Plan::answer_to`] has the answer then.
    pub async fn pick(&mut self, head: Option<&request::Parts>) -> Result<Picked, ErrorKind> {
        if self.is_too_late(Duration::ZERO) {
            return Err(ErrorKind::RequestTimeout);
        }
        let mut picked = self.next(head)?;
        picked.after = self.after.take();
        self.last = Some(picked.upstream.endpoint.addr);
        // Before anything is counted: who may not come in uses up nobody's share.
        if let Some(head) = head {
            match self.conn.admit_departure(&picked, head).await {
                Ok(admitted) => self.plan.departs(admitted),
                Err(answer) => {
                    self.refused_at = Some(picked.upstream);
                    return Err(self.plan.refused(answer));
                }
            }
        }
        if let Some(head) = head.filter(|_| !self.counted) {
            self.counted = true;
            self.plan.within_limits(self.conn, head, &picked)?;
        }
        Ok(picked)
    }

    fn next(&self, head: Option<&request::Parts>) -> Result<Picked, ErrorKind> {
        if self.tried.is_empty()
            && let Some(kept) = self.conn.pick_kept(self.plan)
        {
            return Ok(kept);
        }
        match self.conn.pick(self.plan, &self.tried, head) {
            Ok(picked) => Ok(picked),
            Err(_) if self.retries > 0 || self.retries_free => {
                self.conn.pick(self.plan, &[], head).map_err(|error| error.kind)
            }
            // What the last endpoint said is truer than "none left".
            Err(_) if !self.tried.is_empty() => Err(self.passed_over_for.unwrap_or(ErrorKind::ConnectFailed)),
            Err(error) => Err(error.kind),
        }
    }

    /// What to wait for before another endpoint is asked, after one that couldn't be reached or certainly didn't take the
    /// request up. The first few of these cost no retry.
    pub fn pass_over(&mut self, picked: &Picked, why: ErrorKind) -> Option<Duration> {
        self.passed_over += 1;
        self.passed_over_for = Some(why);
        self.note(picked);
        let others =
            self.passed_over < self.conn.attempts(self.plan) && self.conn.has_other(self.plan, &self.tried);
        if !why.retryable() || !others {
            return self.failed(picked, why);
        }
        if self.is_too_late(Duration::ZERO) {
            return None;
        }
        self.again(why.label());
        Some(Duration::ZERO)
    }

    /// An endpoint let the request go without taking it up, and another is asked at no charge.
    pub fn untaken(&mut self, picked: &Picked, why: ErrorKind) {
        self.again(why.label());
        self.retries_free = true;
        self.note(picked);
    }

    /// What to wait for before the request is sent again, after a try that ended without a response. None: it isn't.
    pub fn failed(&mut self, picked: &Picked, why: ErrorKind) -> Option<Duration> {
        let on = &self.policy?.on;
        let asked = match why {
            ErrorKind::ConnectFailed
            | ErrorKind::ConnectTimeout
            | ErrorKind::TlsFailed
            | ErrorKind::CertificateRefused
            | ErrorKind::NotHttp2 => on.connect_failure || on.server_error || on.gateway_error,
            ErrorKind::UpstreamClosed
            | ErrorKind::UpstreamReset(_)
            | ErrorKind::UpstreamTimeout
            | ErrorKind::UpstreamProtocol(_)
            | ErrorKind::TryTimeout => on.reset || on.server_error,
            _ => false,
        };
        self.claim(picked, asked, why.label())
    }

    /// The same after a response's head, of which the client hasn't seen anything.
    pub fn answered(&mut self, picked: &Picked, status: StatusCode, grpc: Option<u16>) -> Option<Duration> {
        self.claim(picked, self.is_retriable(status, grpc), "status")
    }

    /// True if the policy calls this answer worth another try.
    pub fn is_retriable(&self, status: StatusCode, grpc: Option<u16>) -> bool {
        let Some(RetryPolicy { on, .. }) = self.policy else { return false };
        on.server_error && status.is_server_error()
            || on.gateway_error && matches!(status.as_u16(), 502..=504)
            || on.statuses.contains(&status)
            || grpc.is_some_and(|grpc| on.grpc.contains(&grpc))
    }

    /// True if this answer doesn't win while another try is under way: it would be retried, or a fallback replaces it.
    pub fn is_unwanted(&self, status: StatusCode, grpc: Option<u16>) -> bool {
        self.is_retriable(status, grpc) || self.plan.replaces(self.conn, status, grpc, true)
    }

    /// Where the request is sent as well, now that it is slow: to an endpoint that it wasn't at, if there is one, a place
    /// among those under way and budget. The label says why not.
    pub fn hedge(&mut self, head: &request::Parts) -> Result<Granted, &'static str> {
        if self.is_too_late(Duration::ZERO) {
            return Err("too_late");
        }
        if let Some(last) = self.last.filter(|last| !self.tried.contains(last)) {
            self.tried.push(last);
        }
        let picked = self.conn.pick(self.plan, &self.tried, Some(head)).map_err(|_| "no_endpoint")?;
        let sent = self.conn.admit_at_once(&picked, head).map_err(|_| "denied")?;
        let place = picked.request().map_err(|_| "overflow")?;
        let slot = self.plan.place_for_hedge().ok_or("overflow")?;
        let retry = picked.retry();
        if retry.is_err() || self.budget.is_some_and(|budget| !budget.retry(clock::now_ns())) {
            self.conn.pod.worker.telemetry.metrics.agent().retry_budget_exhausted.inc();
            return Err("budget");
        }
        self.note(&picked);
        let until = self.plan.try_deadline(Instant::now());
        let places = Places::of_hedge([place, retry.unwrap_or_default()], slot);
        Ok(Granted::new(picked, until, places).with_head(sent))
    }

    /// Waits before the request is sent again.
    pub async fn pause(wait: Duration) {
        if !wait.is_zero() {
            tokio::time::sleep(wait).await;
        }
    }

    /// Why there was no other try, though the policy asked for one.
    pub fn refused(&self) -> Option<NoRetry> {
        self.refused
    }

    fn claim(&mut self, picked: &Picked, asked: bool, why: &'static str) -> Option<Duration> {
        let policy = self.policy.filter(|_| asked)?;
        if self.retries >= policy.attempts {
            self.refused = Some(NoRetry::Exhausted);
            return None;
        }
        let wait = backoff::wait(policy, self.retries + 1, fastrand::u64(..));
        if self.is_too_late(wait) {
            return None;
        }
        // The place of the retry that failed is free for this one (Envoy, `max_retries`).
        self.place = None;
        let place = picked.retry().ok();
        if place.is_none() || self.budget.is_some_and(|budget| !budget.retry(clock::now_ns())) {
            self.conn.pod.worker.telemetry.metrics.agent().retry_budget_exhausted.inc();
            self.refused = Some(NoRetry::Overflow);
            return None;
        }
        self.place = place.flatten();
        self.retries += 1;
        self.again(why);
        self.note(picked);
        Some(wait)
    }

    fn again(&mut self, why: &'static str) {
        self.conn.count_retry(why);
        self.after = Some(why);
    }

    fn note(&mut self, picked: &Picked) {
        let addr = picked.upstream.endpoint.addr;
        if !self.tried.contains(&addr) {
            self.tried.push(addr);
        }
    }
}

#[cfg(test)]
impl Tries<'_> {
    /// [`Self::pick`] where nobody is asked who takes time.
    #[expect(clippy::unwrap_used, reason = "test support")]
    pub fn pick_now(&mut self, head: &request::Parts) -> Result<Picked, ErrorKind> {
        use futures_util::FutureExt;
        self.pick(Some(head)).now_or_never().unwrap()
    }
}

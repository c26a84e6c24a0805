//! What is decided about a request before it is sent: its route, what that changes, where it may go and for how long.
//!
//! Made once per request by `crate::http1` and `crate::http2`, after the head was checked and before an endpoint is
//! picked; `decide` makes it. What it says is asked at every step of the request's way.

mod deadline;
mod decide;
mod fallback;

use std::cell::{Cell, OnceCell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use http::header::{HeaderMap, SET_COOKIE, UPGRADE};
use http::{HeaderValue, Method, StatusCode, Uri, request};
use tokio::time::{Instant, sleep_until};

use self::deadline::ClientDeadline;
pub use self::deadline::TryDeadline;
use self::fallback::Fallen;
use super::access::Admitted;
use super::answer::LocalAnswer;
use super::backend::{Backends, Picked};
use super::context::Connection;
use super::error::ErrorKind;
use super::gate;
use super::session::Sticky;
use crate::jwt::Claims;
use crate::model::ServicePort;
use crate::policy::breaker::State;
use crate::policy::budget::Budget;
use crate::policy::concurrency::Slot;
use crate::policy::fault::Injected;
use crate::policy::hash::HashInput;
use crate::policy::traffic::{self, Fallback, Hedge, Layers, Retry, TrafficPolicy};
use crate::route::{HeaderEdits, RetryPolicy, Rule};

/// A request with a longer body is sent once (Envoy's default for `per_request_buffer_limit_bytes` is of this size).
const REPLAY_BUFFER: usize = 64 * 1024;

/// The service ports that get copies of a request.
type Mirrors = Vec<Option<Arc<ServicePort>>>;

/// What holds for one request.
#[derive(Default)]
pub struct Plan {
    /// Where it may go as it was planned; None: wherever the connection's requests go.
    pub backends: Option<Backends>,
    /// End of the whole request by its route and policies, tries included.
    limit: Option<Instant>,
    /// The client waits no longer than this.
    client: Option<ClientDeadline>,
    /// The target isn't the one that the client sent.
    pub retargeted: bool,
    /// Keeps the client at its endpoint.
    pub session: Option<Box<Sticky>>,
    routed: Option<Routed>,
    /// Where copies go as well; None for a mirror that isn't there.
    mirrors: Option<Box<RefCell<Mirrors>>>,
    policed: Option<Box<Policed>>,
    /// What whoever guards the pod where it arrives had to say of it; most requests meet nobody.
    guarded: OnceCell<Box<Guarded>>,
    /// A cookie that keeps the client at its endpoint from here on, made when an endpoint was chosen by it.
    cookie: OnceCell<Box<NewCookie>>,
}

/// A cookie for a client that brought none, and what it is hashed to.
struct NewCookie {
    hash: u64,
    told: HeaderEdits,
}

/// What TrafficPolicies say; most requests meet none.
#[derive(Default)]
struct Policed {
    layers: Layers,
    /// The request as the client sent it, where a route changed what its limits tell requests apart by.
    asked: Option<Box<Asked>>,
    fault: Option<Injected>,
    /// A service port without an endpoint, for which one is waited for.
    empty: Option<Arc<ServicePort>>,
    /// Where it goes after waiting.
    awaited: OnceCell<Backends>,
    waited: Cell<bool>,
    /// Because a fault made it.
    delayed: Cell<bool>,
    /// How long the request may take; a fallback has as much once more.
    time: Option<Duration>,
    /// It went to the service that answers instead.
    fallen: OnceCell<Fallen>,
    /// The answer that says more than the kind of failure; few requests have one.
    refusal: RefCell<Option<Box<LocalAnswer>>>,
}

/// What was found out about a request where it arrives.
#[derive(Default)]
struct Guarded {
    /// In this connection's own pod.
    arrived: OnceCell<Rc<Admitted>>,
    /// At the endpoint that was picked last.
    departing: RefCell<Option<Rc<Admitted>>>,
    /// What changes in the response; the first answer counts.
    told: OnceCell<Box<HeaderEdits>>,
    /// What is answered instead of the endpoint.
    refused: RefCell<Option<Box<LocalAnswer>>>,
}

/// A request before its route changed it.
struct Asked {
    uri: Uri,
    headers: HeaderMap,
}

/// The rule that a request goes by, and the backend that was drawn.
struct Routed {
    rule: Arc<Rule>,
    backend: usize,
    /// What CORS adds to the response.
    cors: Option<Box<HeaderEdits>>,
}

impl Plan {
    /// Where the request may go; None: wherever the connection's requests go.
    pub fn backends(&self) -> Option<&Backends> {
        let Some(policed) = &self.policed else { return self.backends.as_ref() };
        let fallen = policed.fallen.get().map(|fallen| &fallen.backends);
        fallen.or_else(|| policed.awaited.get()).or(self.backends.as_ref())
    }

    /// End of the whole request, tries included, whoever set it.
    pub fn deadline(&self) -> Option<Instant> {
        let fallen = self.policed.as_ref().and_then(|policed| policed.fallen.get());
        let limit = fallen.map_or(self.limit, |fallen| fallen.limit);
        match (limit, self.client) {
            (Some(limit), Some(client)) => Some(limit.min(client.at)),
            (limit, client) => limit.or_else(|| client.map(|client| client.at)),
        }
    }

    /// What an endpoint is told now of the client's deadline; None: what the client said still holds, or it said nothing.
    pub fn time_to_tell(&self) -> Option<Duration> {
        self.client?.left(self.deadline()?, Instant::now())
    }

    /// True if it did wait, so that no endpoint is charged for that time.
    pub fn waited(&self) -> bool {
        self.policed.as_ref().is_some_and(|policed| policed.waited.get())
    }

    /// True if a fault made it wait.
    pub fn was_delayed(&self) -> bool {
        self.policed.as_ref().is_some_and(|policed| policed.delayed.get())
    }

    /// What is changed in the response's head, in this order.
    pub fn response_edits(&self) -> impl DoubleEndedIterator<Item = &HeaderEdits> + Clone {
        let of_rule = self.routed.as_ref().map(|routed| {
            [&routed.rule.filters.response, &routed.rule.backends[routed.backend].filters.response]
        });
        let cors = self.routed.as_ref().and_then(|routed| routed.cors.as_deref());
        let told = self.session.as_deref().and_then(Sticky::told);
        let cookie = self.cookie.get().map(|cookie| &cookie.told);
        let of_guards = self.guarded.get().and_then(|guarded| guarded.told.get()).map(|edits| &**edits);
        let edits = of_rule.into_iter().flatten().chain(of_guards).chain(cors).chain(told).chain(cookie);
        edits.filter(|edits| !edits.is_empty())
    }

    /// Settles what the response's head says of the session, now that `picked` has answered.
    pub fn settle(&self, picked: &Picked) {
        if let Some(session) = self.session.as_ref().filter(|_| !self.has_fallen()) {
            session.settle(picked);
        }
    }

    /// What the request is hashed to by `input`. A cookie that the client is given is the same for every try.
    pub(super) fn hash_of(&self, input: HashInput) -> Option<u64> {
        match input {
            HashInput::Value(hash) => Some(hash),
            HashInput::Missing => None,
            // The one cookie is that of the service that it was meant for.
            HashInput::NewCookie { hash, .. } if self.has_fallen() => Some(hash),
            HashInput::NewCookie { hash, set_cookie } => {
                let made = || {
                    let line = HeaderValue::try_from(set_cookie).map(|line| (SET_COOKIE, line));
                    let told = HeaderEdits { add: line.into_iter().collect(), ..HeaderEdits::default() };
                    Box::new(NewCookie { hash, told })
                };
                Some(self.cookie.get_or_init(made).hash)
            }
        }
    }

    /// The rule, if the service has routes.
    pub fn rule(&self) -> Option<&Arc<Rule>> {
        self.routed.as_ref().map(|routed| &routed.rule)
    }

    /// When it may be sent again.
    pub fn retry(&self) -> Option<&RetryPolicy> {
        self.layers().retry_by(self.rule().map(|rule| &**rule))
    }

    /// What bounds its retries together with those of others.
    pub fn retry_budget(&self) -> Option<&Budget> {
        let port = match self.backends() {
            Some(Backends::Service(port)) => Some(&**port),
            _ => None,
        };
        self.layers().budget_by(self.rule().map(|rule| &**rule), port)
    }

    fn layers(&self) -> &Layers {
        self.policed.as_ref().map_or(&traffic::NONE, |policed| &policed.layers)
    }

    fn traffic_retry(&self) -> Option<&Arc<Retry>> {
        self.policed.as_ref()?.layers.retry()
    }

    /// True if a policy asks for hedges of requests like it.
    pub(super) fn may_hedge(&self) -> bool {
        self.policed.as_ref().is_some_and(|policed| policed.layers.hedge().is_some())
    }

    /// Whether it is sent to another endpoint as well, if it is slow. What leaves HTTP behind isn't, nor is the request of a
    /// session, which one endpoint alone knows.
    pub fn hedge(&self, head: &request::Parts) -> Option<Hedge> {
        let hedge = self.policed.as_ref()?.layers.hedge()?;
        let kept = self.session.as_ref().is_some_and(|session| session.endpoint().is_some());
        let tunnel = head.method == Method::CONNECT || head.headers.contains_key(UPGRADE);
        (!kept && !tunnel).then_some(**hedge)
    }

    /// A place for a hedge among the requests under way; None: there is none. Nothing is added to the probes of a breaker.
    pub(super) fn place_for_hedge(&self) -> Option<Option<Slot>> {
        let Some(policed) = self.policed.as_ref().filter(|_| !self.has_fallen()) else { return Some(None) };
        if policed.layers.breaker().is_some_and(|breaker| breaker.state() != State::Closed) {
            return None;
        }
        match policed.layers.concurrency() {
            Some(concurrency) => concurrency.enter().map(Some),
            None => Some(None),
        }
    }

    fn fallback(&self) -> Option<&Arc<Fallback>> {
        self.policed.as_ref()?.layers.fallback()
    }

    /// Takes what was found out where the request arrived.
    #[must_use]
    pub fn with_arrival(mut self, arrived: Option<Rc<Admitted>>) -> Self {
        if let Some(arrived) = arrived {
            self.retargeted |= arrived.retargeted;
            self.note_told(&arrived);
            let _ = self.guarded().arrived.set(arrived);
        }
        self
    }

    /// Takes what was found out about the request as it goes to the endpoint that was picked.
    pub(super) fn departs(&self, departing: Option<Rc<Admitted>>) {
        if let Some(departing) = &departing {
            self.note_told(departing);
        }
        if departing.is_some() || self.guarded.get().is_some() {
            self.guarded().departing.replace(departing);
        }
    }

    fn guarded(&self) -> &Guarded {
        self.guarded.get_or_init(Box::default)
    }

    fn note_told(&self, admitted: &Admitted) {
        if let Some(told) = admitted.told.clone() {
            // The client gets one response: what was asked about it first is asked about the same request.
            let _ = self.guarded().told.set(told);
        }
    }

    /// What was found out about the request as it goes to the endpoint that was picked last; its head is for that one alone.
    pub fn departing(&self) -> Option<Rc<Admitted>> {
        self.guarded.get()?.departing.borrow().clone()
    }

    /// Of the token that the request came with.
    pub fn claims(&self) -> Option<Arc<Claims>> {
        let guarded = self.guarded.get()?;
        let of = |admitted: &Rc<Admitted>| admitted.claims.clone();
        guarded.arrived.get().and_then(of).or_else(|| guarded.departing.borrow().as_ref().and_then(of))
    }

    /// Takes the answer of whoever guards an endpoint, and tells the kind of failure that it is.
    pub(super) fn refused(&self, answer: LocalAnswer) -> ErrorKind {
        let kind = answer.why.unwrap_or(ErrorKind::Denied);
        self.guarded().refused.replace(Some(Box::new(answer)));
        kind
    }

    /// The answer to a failure: a limit's, a fallback's, or what the failure's kind says. None: nobody is left to be told,
    /// or a reset says it.
    pub fn answer_to(&self, conn: &Connection, why: ErrorKind) -> Option<LocalAnswer> {
        if why == ErrorKind::RateLimited
            && let Some(answer) = self.policed.as_ref().and_then(|policed| policed.refusal.take())
        {
            conn.count_policy("rate_limited");
            return Some(self.marked(*answer));
        }
        if let Some(guarded) = self.guarded.get()
            && let Some(answer) = guarded.refused.borrow_mut().take_if(|answer| answer.why == Some(why))
        {
            return Some(self.marked(*answer));
        }
        let fallback = self.fallback().and_then(|fallback| gate::fallback_answer(fallback, why));
        if fallback.is_some() {
            conn.count_policy("fallback_answer");
        }
        let answer = fallback.or_else(|| match why {
            // A reset is passed on with its code.
            ErrorKind::UpstreamReset(_) => None,
            why => LocalAnswer::to(why),
        });
        answer.map(|answer| self.marked(answer))
    }

    /// The answer with what CORS says of every response: a page may read why its request failed, as behind Envoy, whose
    /// filter marks local replies too.
    fn marked(&self, answer: LocalAnswer) -> LocalAnswer {
        match self.routed.as_ref().and_then(|routed| routed.cors.as_deref()) {
            Some(cors) => answer.edited(cors),
            None => answer,
        }
    }

    fn refusal(&self, conn: &Connection, why: ErrorKind) -> LocalAnswer {
        self.answer_to(conn, why).unwrap_or_else(|| refuse(why))
    }

    /// Counts the request against the limits that agents share.
    ///
    /// # Errors
    /// With the answer to give instead.
    pub async fn within_global_limits(
        &self,
        conn: &Connection,
        head: &request::Parts,
    ) -> Result<(), LocalAnswer> {
        let Some(policed) = &self.policed else { return Ok(()) };
        let (uri, headers) = policed.told_by(head);
        let within = conn.within_global_limits(&policed.layers, uri.path(), headers).await;
        within.map_err(|answer| self.marked(answer))
    }

    /// True if something is to be waited for before the request is sent.
    pub fn may_wait(&self) -> bool {
        let is_shared = |policy: &Arc<TrafficPolicy>| {
            policy.rate_limits.as_ref().is_some_and(|limits| !limits.global.is_empty())
        };
        self.policed.as_ref().is_some_and(|policed| {
            let Layers { rule, service } = &policed.layers;
            policed.fault.is_some() || policed.empty.is_some() || rule.iter().chain(service).any(is_shared)
        })
    }

    /// Waits for a first endpoint of a service that has none, where a policy asks for it.
    ///
    /// # Errors
    /// With the answer to give instead, once the request's deadline has passed.
    pub async fn await_endpoint(&self, conn: &Connection) -> Result<(), LocalAnswer> {
        let Some(policed) = &self.policed else { return Ok(()) };
        let (Some(activation), Some(port)) = (policed.layers.activation(), &policed.empty) else {
            return Ok(());
        };
        policed.waited.set(true);
        let deadline = self.deadline();
        let found = conn.await_endpoint(activation, port, deadline).await;
        if found.is_none() && deadline.is_some_and(|at| at <= Instant::now()) {
            let why = ErrorKind::RequestTimeout;
            return if self.fall_back(conn, why) { Ok(()) } else { Err(self.refusal(conn, why)) };
        }
        if let Some(port) = found {
            // Set here alone, and a request waits once.
            let _ = policed.awaited.set(Backends::Service(port));
        } else {
            self.fall_back(conn, ErrorKind::NoHealthyUpstream);
        }
        Ok(())
    }

    /// Lets the request suffer its fault, if it has one. It waits no longer than its deadline.
    ///
    /// # Errors
    /// With the answer to give instead.
    pub async fn suffer(&self, conn: &Connection) -> Result<(), LocalAnswer> {
        let Some(fault) = self.policed.as_ref().and_then(|policed| policed.fault.as_ref()) else {
            return Ok(());
        };
        if let Some(delay) = fault.delay {
            conn.count_policy("fault_delay");
            if let Some(policed) = &self.policed {
                policed.waited.set(true);
                policed.delayed.set(true);
            }
            let end = Instant::now() + delay;
            match self.deadline().filter(|deadline| *deadline < end) {
                Some(deadline) => {
                    sleep_until(deadline).await;
                    return Err(self.refusal(conn, ErrorKind::RequestTimeout));
                }
                None => sleep_until(end).await,
            }
        }
        let Some(abort) = fault.abort else { return Ok(()) };
        conn.count_policy("fault_abort");
        Err(self.marked(gate::aborted(abort)))
    }

    /// Counts the request against the limits that hold at the endpoint it goes to.
    pub(super) fn within_limits(
        &self,
        conn: &Connection,
        head: &request::Parts,
        picked: &Picked,
    ) -> Result<(), ErrorKind> {
        let Some(policed) = &self.policed else { return Ok(()) };
        let (uri, headers) = policed.told_by(head);
        conn.within_limits(&policed.layers, uri.path(), headers, picked).map_err(|answer| {
            policed.refusal.replace(Some(Box::new(answer)));
            ErrorKind::RateLimited
        })
    }

    /// Bytes of the request's body to keep, so that it can be sent again or elsewhere too. None: nothing asks for it.
    pub fn keeps_body(&self) -> Option<usize> {
        if let Some(retry) = self.traffic_retry() {
            return Some(retry.buffer_limit);
        }
        let policed = self.may_hedge() || self.fallback().is_some_and(|fallback| fallback.sends_again());
        let routed = || self.rule().is_some_and(|rule| rule.retry.is_some() || self.is_mirrored());
        (policed || routed()).then_some(REPLAY_BUFFER)
    }

    /// True if copies of it are still to be sent.
    pub fn is_mirrored(&self) -> bool {
        self.mirrors.as_ref().is_some_and(|mirrors| !mirrors.borrow().is_empty())
    }

    /// Where copies of it go; nothing the second time.
    pub fn take_mirrors(&self) -> Vec<Option<Arc<ServicePort>>> {
        self.mirrors.as_ref().map(|mirrors| mirrors.take()).unwrap_or_default()
    }

    /// When a try that begins now has to end. It begins before its endpoint is connected to.
    pub fn try_deadline(&self, now: Instant) -> TryDeadline {
        let whole = self.deadline().map(|at| (at, ErrorKind::RequestTimeout));
        let limit = self.layers().try_limit_by(self.rule().map(|rule| &**rule));
        let one = limit.map(|limit| (now + limit, ErrorKind::TryTimeout));
        match (whole, one) {
            (Some(whole), Some(one)) if one.0 < whole.0 => TryDeadline(Some(one)),
            (whole, one) => TryDeadline(whole.or(one)),
        }
    }
}

impl Policed {
    /// What limits tell requests apart by: the client's own target and headers, as in Envoy, whose rate limit filter comes
    /// before its router.
    fn told_by<'r>(&'r self, head: &'r request::Parts) -> (&'r Uri, &'r HeaderMap) {
        match &self.asked {
            Some(asked) => (&asked.uri, &asked.headers),
            None => (&head.uri, &head.headers),
        }
    }

    /// True if a limit tells requests apart by what a route can change.
    fn tells_by_head(&self) -> bool {
        let Layers { rule, service } = &self.layers;
        let mut limits = rule.iter().chain(service).filter_map(|policy| policy.rate_limits.as_ref());
        limits.any(|limits| limits.keys().any(|key| key.path || !key.headers.is_empty()))
    }
}

/// The answer to a failure of deciding. Each of them has a status.
fn refuse(why: ErrorKind) -> LocalAnswer {
    LocalAnswer::to(why).unwrap_or_else(|| LocalAnswer::new(StatusCode::INTERNAL_SERVER_ERROR, Vec::new()))
}

//! One rule of a route, compiled: what it is called, where its requests go, what is done to them, how long they may take.

use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;

use super::filter::Filters;
use super::session::Scope;
use super::weights::Backends;
use crate::model::ObjectName;
use crate::telemetry::{RuleAbout, RuleCounters};

/// A rule of an HTTPRoute or GRPCRoute.
#[derive(Debug)]
pub struct Rule {
    /// Which one it is.
    pub name: RuleName,
    /// What is done to a request that matched.
    pub filters: Filters,
    /// Where it goes; empty for a rule that only redirects, and for one without backendRefs (500).
    pub backends: Backends,
    /// Deadlines.
    pub timeouts: Timeouts,
    /// When it is tried again; None: only where it can't have reached an application.
    pub retry: Option<RetryPolicy>,
    /// Keeps a client at its endpoint.
    pub session: Option<Arc<SessionPersistence>>,
    /// How many requests went by it.
    pub counters: RuleCounters,
}

/// Names a rule to people and in the access log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RuleName {
    /// `HTTPRoute`, `GRPCRoute`, `TCPRoute` or `TLSRoute`.
    pub kind: &'static str,
    /// The route.
    pub route: ObjectName,
    /// Place of the rule in the route, from 0.
    pub index: usize,
    /// `rules[].name`, if it has one.
    pub name: Option<String>,
    /// `NAMESPACE/ROUTE/RULE`, the rule by its name or else its index: the access log's `route`.
    pub label: String,
    /// Tells the sessions of rules apart; the same in every agent.
    pub scope: Scope,
}

impl RuleName {
    /// With its label made from the parts.
    pub fn new(kind: &'static str, route: ObjectName, index: usize, name: Option<String>) -> Self {
        let label = match &name {
            Some(name) => format!("{route}/{name}"),
            None => format!("{route}/{index}"),
        };
        let scope = Scope::default().with(kind.as_bytes()).with(label.as_bytes());
        Self { kind, route, index, name, label, scope }
    }

    /// The same for the counters of requests to `service`.
    pub fn about(&self, service: &ObjectName) -> RuleAbout {
        RuleAbout {
            kind: self.kind,
            route: self.route.clone(),
            rule: self.name.clone().unwrap_or_else(|| self.index.to_string()),
            service: service.clone(),
        }
    }
}

/// One of a rule's backends.
#[derive(Debug)]
pub struct Backend {
    /// What it stands for.
    pub target: BackendTarget,
    /// Its share of the requests is `weight` of the sum of all weights; 0 gets none.
    pub weight: u32,
    /// Filters of this backend alone, beside the rule's.
    pub filters: Filters,
}

/// What a backendRef stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BackendTarget {
    /// Index into `Routes::targets`.
    Service(usize),
    /// It names nothing that may be used (kind, missing ReferenceGrant): its share is answered with 500.
    Invalid,
}

/// HTTPRouteTimeouts (GEP-1742). None: no deadline of the route's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Timeouts {
    /// From the request's head to the end of the response, tries included.
    pub request: Option<Duration>,
    /// One try, to the end of its response.
    pub backend_request: Option<Duration>,
}

/// When and how a request is sent again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RetryPolicy {
    /// Tries after the first one.
    pub attempts: u32,
    /// What is worth another try.
    pub on: RetryOn,
    /// What every wait is longer than (HTTPRouteRetry.backoff).
    pub least_wait: Duration,
    /// Base of the exponential back-off with full jitter; Envoy's default is 25 ms.
    pub backoff: Duration,
    /// The longest back-off.
    pub max_backoff: Duration,
    /// Deadline of one try, where the rule's `backendRequest` doesn't give one.
    pub per_try: Option<Duration>,
}

/// Envoy's retry conditions (`x-envoy-retry-on`, `x-envoy-retry-grpc-on`).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RetryOn {
    /// `connect-failure`: the endpoint couldn't be connected to.
    pub connect_failure: bool,
    /// `reset`: the endpoint closed or reset before it answered, or a try timed out.
    pub reset: bool,
    /// `5xx`: any 5xx, or no answer at all.
    pub server_error: bool,
    /// `gateway-error`: 502, 503 or 504.
    pub gateway_error: bool,
    /// `retriable-status-codes`.
    pub statuses: Vec<StatusCode>,
    /// `retriable-grpc`: statuses in the head of a trailers-only answer.
    pub grpc: Vec<u16>,
}

/// Retry budget (GEP-3388): bounds retries to a share of the requests of an interval.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RetryBudget {
    /// Percent of the requests of `interval` that may be retries, 0 to 100; default 20.
    pub percent: u32,
    /// Default 10 s.
    pub interval: Duration,
    /// So many retries in `min_interval` are allowed in any case; default 10 in 1 s.
    pub min_count: u32,
    /// See `min_count`.
    pub min_interval: Duration,
}

impl Default for RetryBudget {
    fn default() -> Self {
        let (interval, min_interval) = (Duration::from_secs(10), Duration::from_secs(1));
        Self { percent: 20, interval, min_count: 10, min_interval }
    }
}

/// SessionPersistence (GEP-1619).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionPersistence {
    /// Where the session is kept.
    pub kind: SessionKind,
    /// Name of the cookie or header.
    pub name: String,
    /// Nobody gave the name, and each rule has one that is made of it: a client carries the sessions of all.
    pub per_rule: bool,
    /// The session ends so long after it began.
    pub absolute_timeout: Option<Duration>,
    /// The session ends after so long without a request.
    pub idle_timeout: Option<Duration>,
}

/// Where a session is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SessionKind {
    /// In a cookie that ends with the client's session, or lives as long as the absolute timeout.
    Cookie {
        /// `lifetimeType: Permanent`.
        permanent: bool,
        /// `Path` of the cookie: requests below it carry it.
        path: String,
    },
    /// In a header that the client sends back.
    Header,
}

//! What holds for a service's traffic: compiled policies, and the mechanisms behind them. Immutable but for the state that
//! requests share; no I/O, time and chance are arguments.
//!
//! `compile` makes a [`ClusterPolicy`] from a DestinationRule and the Service when one of them changes, for `balance` and
//! `proxy`; `traffic` is TrafficPolicies compiled: a connection finds those of its service port once, a request those of
//! its rule. State that requests share (buckets, breakers, limits) is atomics behind an `Arc` that outlives configuration
//! changes which leave its part alone. Nothing here is looked up by name per request.

pub mod backoff;
pub mod breaker;
pub mod budget;
pub mod chance;
mod compile;
pub mod concurrency;
pub mod fair;
pub mod fault;
pub mod gcra;
pub mod hash;
pub mod limiter;
mod locality;
pub mod traffic;
mod window;

use std::sync::Arc;
use std::time::Duration;

pub use compile::{Defaults, asked_at, compile, origination, speaks_of_tls, warnings};
pub use locality::{Localities, Locality, Pattern};

use crate::model::{LoadBalancer, ObjectName};
use crate::objects::Warmup;
use crate::tls::Origination;

/// What holds for one service port, for one kind of client.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ClusterPolicy {
    /// The DestinationRule that it comes from.
    pub rule: Option<ObjectName>,
    /// How an endpoint is chosen.
    pub load_balancer: LoadBalancer,
    /// The rule says so; else it is the Service's word, or the agent's.
    pub rule_balances: bool,
    /// It isn't: connections go to the address that the client dialled (Istio, `PASSTHROUGH`).
    pub passthrough: bool,
    /// Entries of the ring or of Maglev's table.
    pub table_size: u32,
    /// What a ring or Maglev hashes. None: every request by chance.
    pub hash: Option<HashKey>,
    /// `sessionAffinity: ClientIP` with its timeout; not in force where the load balancer hashes.
    pub client_ip_affinity: Option<Duration>,
    /// Nearness, where it matters.
    pub localities: Option<Localities>,
    /// For endpoints that came up.
    pub warmup: Option<Warmup>,
    /// When endpoints are left alone.
    pub outlier: Option<OutlierDetection>,
    /// Bounds on connections and requests.
    pub limits: PoolLimits,
    /// What connections are wrapped in.
    pub tls: Option<Arc<Origination>>,
    /// The BackendTLSPolicy that says so, if it is one.
    pub tls_policy: Option<ObjectName>,
    /// Whether the mesh's own mutual TLS is used, where `tls` isn't given.
    pub mesh_tls: MeshTls,
    /// Requests of HTTP/1 go to endpoints over HTTP/2.
    pub over_http2: bool,
    /// Connections must not be made: why.
    pub unusable: Option<Unusable>,
}

/// What a rule says of the mesh's own mutual TLS.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum MeshTls {
    /// Nothing: it is used where an agent stands before the endpoint (Istio, automatic mutual TLS).
    #[default]
    Auto,
    /// `DISABLE`.
    Never,
    /// `ISTIO_MUTUAL`: nothing else will do.
    Always,
}

/// Why connections are refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unusable {
    /// The rule asks for TLS in a way that isn't supported; plain text would give away what it protects.
    TlsNotOriginated,
    /// A route names a subset that the rule of these clients doesn't have.
    NoSuchSubset,
}

/// What consistent hashing goes by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HashKey {
    /// A header's value.
    Header(http::HeaderName),
    /// A cookie's value.
    Cookie(Cookie),
    /// The client's address.
    SourceIp,
    /// The value of a parameter in the query.
    Query(String),
}

/// A cookie that is hashed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cookie {
    /// Name.
    pub name: String,
    /// What is put behind `NAME=VALUE` when the agent gives one out. None: it gives none out.
    pub attributes: Option<String>,
}

/// Envoy's consecutive-errors detectors (Envoy, "Outlier detection"), with Istio's defaults.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OutlierDetection {
    /// 5xx in a row until ejection; 0 for never. Default 5.
    pub consecutive_5xx: u32,
    /// 502, 503 and 504 in a row until ejection; 0 for never. Default 0.
    pub consecutive_gateway: u32,
    /// Failures to reach it in a row until ejection, where they are counted by themselves; 0 for never. Default 5.
    pub consecutive_local_origin: u32,
    /// Failures to reach it don't count as 5xx.
    pub split: bool,
    /// Statuses that count in place of 5xx; empty for 5xx.
    pub codes: Vec<u16>,
    /// A healthy time that makes good for one ejection. Default 10 s.
    pub interval: Duration,
    /// Of the first ejection in a row. Default 30 s.
    pub base_ejection: Duration,
    /// Of the endpoints, 1 to 100, rounded down, yet always one. Default 10.
    pub max_ejection_percent: u32,
    /// Below this share of healthy ones every endpoint is used (Envoy's panic threshold). Default 0: never.
    pub min_health_percent: u32,
}

/// Bounds of a DestinationRule's `connectionPool`. None: the agent's own default.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PoolLimits {
    /// HTTP/1 and opaque connections of the agent to the service port.
    pub max_connections: Option<u32>,
    /// Requests that wait for one of them; Envoy's 1024 where it isn't given.
    pub max_pending: Option<u32>,
    /// Requests under way.
    pub max_requests: Option<u32>,
    /// Requests after which a connection is closed.
    pub max_requests_per_connection: Option<u32>,
    /// Requests at a time on one HTTP/2 connection.
    pub max_streams: Option<u32>,
    /// Retries under way.
    pub max_retries: Option<u32>,
    /// In their place: a share of the requests under way.
    pub retry_share: Option<RetryShare>,
    /// Age at which a connection is closed, one for requests between two of them.
    pub max_connection_duration: Option<Duration>,
    /// For the TCP handshake.
    pub connect_timeout: Option<Duration>,
    /// An opaque connection without a byte; zero for ever.
    pub tcp_idle: Option<Duration>,
    /// A kept connection without a request.
    pub http_idle: Option<Duration>,
    /// Probes of silent connections.
    pub keepalive: Option<Keepalive>,
}

/// How many retries may be under way (Envoy, `CircuitBreakers.Thresholds.RetryBudget`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RetryShare {
    /// Of the requests under way.
    pub thousandths: u32,
    /// In any case.
    pub least: u32,
}

/// TCP keep-alive; None for the operating system's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Keepalive {
    /// Silence before the first probe.
    pub time: Option<Duration>,
    /// Between two.
    pub interval: Option<Duration>,
    /// Unanswered ones until the connection counts as dead.
    pub probes: Option<u32>,
}

impl PoolLimits {
    /// Where there is no policy.
    pub const NONE: &'static Self = &Self {
        max_connections: None,
        max_pending: None,
        max_requests: None,
        max_requests_per_connection: None,
        max_streams: None,
        max_retries: None,
        retry_share: None,
        max_connection_duration: None,
        connect_timeout: None,
        tcp_idle: None,
        http_idle: None,
        keepalive: None,
    };

    /// How many retries may be under way beside `requests`. A budget goes before a number (Envoy, retry budget).
    pub fn retries(&self, requests: u32) -> Option<u32> {
        let Some(share) = self.retry_share else { return self.max_retries };
        let allowed = u64::from(requests) * u64::from(share.thousandths) / 1000;
        Some(u32::try_from(allowed).unwrap_or(u32::MAX).max(share.least))
    }

    /// True if it matters how many requests are under way.
    pub fn counts_requests(&self) -> bool {
        self.max_requests.is_some() || self.retry_share.is_some()
    }
}

impl ClusterPolicy {
    /// True if nothing may be sent: what must be encrypted can't be.
    pub fn is_unusable(&self) -> bool {
        self.unusable.is_some() || self.tls.as_ref().is_some_and(|tls| !tls.is_ready())
    }

    /// True if an endpoint is chosen for what goes to the port. False if it goes where it was dialled, or nowhere.
    pub fn chooses(&self) -> bool {
        !self.passthrough && !self.is_unusable()
    }

    /// True if the choice of an endpoint depends on who asks.
    pub fn is_hashed(&self) -> bool {
        self.hash.is_some() || self.client_ip_affinity.is_some()
    }
}

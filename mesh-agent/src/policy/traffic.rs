//! TrafficPolicies, compiled: what `model::build` attaches to service ports and route rules, and the data path reads.
//!
//! Each group of fields is an `Arc` that a new version of the policy takes over where that group stayed the same, so that
//! buckets, breakers and budgets live through changes of everything else. Where several policies meet, the most specific
//! one that has a group decides that group: rule, route, service port, service.

mod answer;
mod compile;
mod holds;
mod limit;

use std::collections::BTreeMap;
use std::fmt;
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

pub use answer::{Answer, Fallback, FallbackTo};
pub use holds::NONE;
pub use limit::{Counted, GlobalLimit, KeySource, LimitKey, LocalLimit, Quota, RateLimits};

use super::ClusterPolicy;
use super::breaker::Breaker;
use super::budget::Budget;
use super::chance::Chance;
use super::concurrency::Concurrency;
use super::fault::Fault;
use crate::model::ObjectName;
use crate::route::RetryPolicy;

macro_rules! groups {
    ($( $(#[doc = $doc:literal])+ $name:ident: $type:ty, $field:literal; )+) => {
        /// What holds for a service port, or for a rule of a route. None: no policy says anything.
        #[derive(Clone, Debug, Default)]
        pub struct TrafficPolicy {
            $( $(#[doc = $doc])+ pub $name: Option<Arc<$type>>, )+
            /// The object that each group comes from, by the group's field; for people.
            pub from: BTreeMap<&'static str, ObjectName>,
        }

        impl TrafficPolicy {
            /// Takes the groups that it lacks from `other`, a less specific or younger policy. Returns the fields that both
            /// have.
            pub fn fill(&mut self, other: &Self) -> Vec<&'static str> {
                let mut both = Vec::new();
                $( match (&self.$name, &other.$name) {
                    (Some(_), Some(_)) => both.push($field),
                    (None, Some(group)) => {
                        self.$name = Some(group.clone());
                        self.from.extend(other.from.get_key_value($field).map(|(field, name)| (*field, name.clone())));
                    }
                    (_, None) => {}
                } )+
                both
            }

            /// True if every group is the very same, state included.
            pub fn same(&self, other: &Self) -> bool {
                true $( && match (&self.$name, &other.$name) {
                    (Some(one), Some(other)) => Arc::ptr_eq(one, other),
                    (None, None) => true,
                    _ => false,
                } )+
            }

            /// True if no policy says anything.
            pub fn is_empty(&self) -> bool {
                true $( && self.$name.is_none() )+
            }
        }

        impl Layers {
            $( $(#[doc = $doc])+ pub fn $name(&self) -> Option<&Arc<$type>> {
                let of_rule = self.rule.as_ref().and_then(|policy| policy.$name.as_ref());
                of_rule.or_else(|| self.service.as_ref()?.$name.as_ref())
            } )+
        }
    };
}

groups! {
    /// Limits on requests in a time; a request must pass all of them.
    rate_limits: RateLimits, "rateLimit";
    /// Delays and errors on purpose.
    fault: Fault, "faultInjection";
    /// Refuses for a while what mostly fails.
    breaker: Breaker, "circuitBreaker";
    /// Limits on requests at a time.
    concurrency: Concurrency, "concurrency";
    /// What is answered where the service can't.
    fallback: Fallback, "fallback";
    /// Requests wait for a first endpoint. Of a service port alone.
    activation: Activation, "activation";
    /// How endpoints are asked how they are. Of a service port alone.
    health_check: HealthCheck, "healthCheck";
    /// With a smaller share of healthy endpoints health is ignored. Of a service port alone.
    panic_threshold: Chance, "panicThreshold";
    /// Requests are sent again.
    retry: Retry, "retry";
    /// Slow requests are sent once more.
    hedge: Hedge, "hedge";
    /// From the request's head to the end of its response.
    timeout: Duration, "timeout";
}

impl TrafficPolicy {
    /// What of it the agent of the endpoint's node applies. None: nothing.
    pub fn limits_alone(&self) -> Option<Arc<Self>> {
        let rate_limits = self.rate_limits.clone()?;
        Some(Arc::new(Self { rate_limits: Some(rate_limits), ..Self::default() }))
    }
}

/// The policies that a request meets, found by the connection and by its rule. Asking costs no look-up.
#[derive(Clone, Debug, Default)]
pub struct Layers {
    /// Of its rule, the route's included.
    pub rule: Option<Arc<TrafficPolicy>>,
    /// Of the service port.
    pub service: Option<Arc<TrafficPolicy>>,
}

impl Layers {
    /// The policy that decides a group, by the group's field. None: no policy gives it.
    pub fn source(&self, field: &str) -> Option<&ObjectName> {
        [&self.rule, &self.service].into_iter().flatten().find_map(|policy| policy.from.get(field))
    }
}

/// The policies of a route.
#[derive(Clone, Debug, Default)]
pub struct RouteTraffic {
    /// Of rules that no policy names.
    pub route: Option<Arc<TrafficPolicy>>,
    /// Of the rules that policies name, the route's included.
    pub rules: BTreeMap<String, Arc<TrafficPolicy>>,
}

impl RouteTraffic {
    /// What holds for the rule with this name.
    pub fn rule(&self, name: Option<&str>) -> Option<&Arc<TrafficPolicy>> {
        name.and_then(|name| self.rules.get(name)).or(self.route.as_ref())
    }
}

/// When and how requests are sent again, with what bounds it.
#[derive(Debug)]
pub struct Retry {
    /// `attempts` is 0 where retries are turned off.
    pub policy: RetryPolicy,
    /// Shared by all requests of the target.
    pub budget: Arc<Budget>,
    /// A request whose body is longer, in bytes, is sent once.
    pub buffer_limit: usize,
}

/// Slow requests are sent a second time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hedge {
    /// After so long without an answer.
    pub after: Duration,
    /// So many more at most.
    pub max: u32,
}

/// Requests to a service without endpoints wait for one.
#[derive(Debug)]
pub struct Activation {
    /// The longest wait.
    pub timeout: Duration,
    /// Who is told that somebody waits.
    pub hook: Option<Hook>,
    max_waiting: u32,
    waiting: AtomicU32,
}

/// How often [`Activation::hook`] is told while requests wait.
pub const HOOK_EVERY: Duration = Duration::from_secs(10);

/// Who scales a service up.
#[derive(Debug)]
pub struct Hook {
    /// Where it listens: `http` with a host.
    pub url: http::Uri,
    /// When it was told last, in nanoseconds of the process's clock; 0 for never.
    told_ns: AtomicU64,
}

impl Hook {
    /// Told nothing yet.
    pub fn new(url: http::Uri) -> Self {
        Self { url, told_ns: AtomicU64::new(0) }
    }

    /// True for one of all that ask within [`HOOK_EVERY`], however many wait and on whichever worker.
    pub fn is_due(&self, now_ns: u64) -> bool {
        let every = HOOK_EVERY.as_nanos() as u64;
        // Timers fire a little early or late.
        let due = |told: u64| (told == 0 || now_ns.saturating_sub(told) >= every / 10 * 9).then_some(now_ns);
        self.told_ns.fetch_update(Relaxed, Relaxed, due).is_ok()
    }
}

/// A request that waits. Leaves when it is dropped.
#[derive(Debug)]
pub struct Waiting(Arc<Activation>);

impl Activation {
    /// Nobody waits yet.
    pub fn new(max_waiting: u32, timeout: Duration, hook: Option<Hook>) -> Self {
        Self { timeout, hook, max_waiting, waiting: AtomicU32::new(0) }
    }

    /// Lets a request wait. None: too many do.
    pub fn wait(self: &Arc<Self>) -> Option<Waiting> {
        let one_more = |waiting| (waiting < self.max_waiting).then(|| waiting + 1);
        self.waiting.fetch_update(Relaxed, Relaxed, one_more).ok()?;
        Some(Waiting(self.clone()))
    }

    /// So many may wait at a time.
    pub fn max_waiting(&self) -> u32 {
        self.max_waiting
    }

    /// Requests that wait now.
    pub fn waiting(&self) -> u32 {
        self.waiting.load(Relaxed)
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Relaxed);
    }
}

/// How the agent asks endpoints how they are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HealthCheck {
    /// What is asked.
    pub probe: Probe,
    /// Between two checks of an endpoint.
    pub interval: Duration,
    /// What takes longer has failed.
    pub timeout: Duration,
    /// So many successes in a row make an endpoint healthy.
    pub healthy_threshold: u32,
    /// So many failures in a row make it unhealthy.
    pub unhealthy_threshold: u32,
    /// Port of the endpoint; None: the one that requests go to.
    pub port: Option<u16>,
}

/// What is asked of an endpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Probe {
    /// GET over HTTP/1.1.
    Http {
        /// Path with query.
        path: String,
        /// Host; None: the service's host name.
        host: Option<String>,
        /// Statuses of a healthy endpoint.
        statuses: Vec<RangeInclusive<u16>>,
    },
    /// grpc.health.v1.Health/Check for this service; empty for the server.
    Grpc(String),
    /// A connection is made.
    Tcp,
}

impl fmt::Display for Probe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Http { path, .. } => write!(f, "GET {path}"),
            Self::Grpc(service) if service.is_empty() => f.write_str("gRPC"),
            Self::Grpc(service) => write!(f, "gRPC {service}"),
            Self::Tcp => f.write_str("TCP"),
        }
    }
}

impl HealthCheck {
    /// False for a check that would say in plain text what the port's DestinationRule wants encrypted in a way that isn't
    /// supported.
    pub fn is_sendable(&self, port: &ClusterPolicy) -> bool {
        port.unusable.is_none() || self.probe == Probe::Tcp
    }

    /// True if a healthy endpoint answers so.
    pub fn expects(&self, status: u16) -> bool {
        match &self.probe {
            Probe::Http { statuses, .. } => statuses.iter().any(|range| range.contains(&status)),
            Probe::Grpc(_) | Probe::Tcp => false,
        }
    }
}

#[cfg(test)]
mod tests;

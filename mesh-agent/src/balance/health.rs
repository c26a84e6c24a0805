//! Active health as the balancer sees it: an atomic an endpoint and a few a service port. Pure; `crate::health` checks.
//!
//! Read by `balance` for every choice, written by `crate::health` when a verdict changes. As Envoy's active health checking: an
//! endpoint that failed its checks gets no new requests, nor does one that came to a service under check before its first
//! check has passed. Where nothing is checked, nothing of it is looked at.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64};

use crate::model::Endpoint;
use crate::policy::chance::Chance;

/// What checks say of an endpoint.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing: it isn't checked, or wasn't yet and serves meanwhile.
    #[default]
    Unchecked,
    /// It came to a service under check, and its first check isn't over.
    Pending,
    /// It passed.
    Healthy,
    /// It failed.
    Unhealthy(Failure),
}

/// How a check failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// No connection could be made.
    Connect,
    /// Its DestinationRule asks for TLS, and the handshake failed.
    Tls,
    /// It took longer than the check's timeout.
    Timeout,
    /// The connection broke off before an answer.
    Closed,
    /// What came isn't what the protocol says.
    Protocol,
    /// A status that isn't expected.
    Status(u16),
    /// A gRPC status other than OK.
    Grpc(u16),
    /// A serving status other than SERVING, by its number in grpc.health.v1.
    NotServing(u16),
}

impl Verdict {
    /// True if it gets no new requests.
    pub const fn is_avoided(self) -> bool {
        matches!(self, Self::Pending | Self::Unhealthy(_))
    }

    /// The kind in the upper half, what more there is to say in the lower.
    fn to_bits(self) -> u32 {
        let (kind, detail) = match self {
            Self::Unchecked => (0, 0),
            Self::Healthy => (1, 0),
            Self::Pending => (AVOIDED, 0),
            Self::Unhealthy(Failure::Connect) => (AVOIDED + 1, 0),
            Self::Unhealthy(Failure::Timeout) => (AVOIDED + 2, 0),
            Self::Unhealthy(Failure::Closed) => (AVOIDED + 3, 0),
            Self::Unhealthy(Failure::Protocol) => (AVOIDED + 4, 0),
            Self::Unhealthy(Failure::Status(status)) => (AVOIDED + 5, status),
            Self::Unhealthy(Failure::Grpc(status)) => (AVOIDED + 6, status),
            Self::Unhealthy(Failure::NotServing(status)) => (AVOIDED + 7, status),
            Self::Unhealthy(Failure::Tls) => (AVOIDED + 8, 0),
        };
        kind << 16 | u32::from(detail)
    }

    fn from_bits(bits: u32) -> Self {
        let detail = (bits & 0xffff) as u16;
        match (bits >> 16).checked_sub(AVOIDED) {
            None if bits == 0 => Self::Unchecked,
            None => Self::Healthy,
            Some(0) => Self::Pending,
            Some(1) => Self::Unhealthy(Failure::Connect),
            Some(2) => Self::Unhealthy(Failure::Timeout),
            Some(3) => Self::Unhealthy(Failure::Closed),
            Some(5) => Self::Unhealthy(Failure::Status(detail)),
            Some(6) => Self::Unhealthy(Failure::Grpc(detail)),
            Some(7) => Self::Unhealthy(Failure::NotServing(detail)),
            Some(8) => Self::Unhealthy(Failure::Tls),
            Some(_) => Self::Unhealthy(Failure::Protocol),
        }
    }
}

/// Kinds from here on get no new requests.
const AVOIDED: u32 = 16;

impl Failure {
    /// The metric label.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Connect => "connect",
            Self::Tls => "tls",
            Self::Timeout => "timeout",
            Self::Closed => "closed",
            Self::Protocol => "protocol",
            Self::Status(_) => "status",
            Self::Grpc(_) => "grpc_status",
            Self::NotServing(_) => "not_serving",
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Connect => f.write_str("no connection"),
            Self::Tls => f.write_str("no TLS connection"),
            Self::Timeout => f.write_str("timeout"),
            Self::Closed => f.write_str("closed without an answer"),
            Self::Protocol => f.write_str("not an answer of the check's protocol"),
            Self::Status(status) => write!(f, "status {status}"),
            Self::Grpc(status) => write!(f, "gRPC status {status}"),
            // grpc.health.v1.HealthCheckResponse.ServingStatus
            Self::NotServing(0) => f.write_str("UNKNOWN"),
            Self::NotServing(2) => f.write_str("NOT_SERVING"),
            Self::NotServing(3) => f.write_str("SERVICE_UNKNOWN"),
            Self::NotServing(other) => write!(f, "serving status {other}"),
        }
    }
}

/// What checks know of one endpoint.
#[derive(Debug, Default)]
pub struct State {
    verdict: AtomicU32,
    /// Network namespace of the pod that last got a connection to it.
    reached_from: AtomicU64,
}

impl State {
    /// The verdict now.
    pub fn verdict(&self) -> Verdict {
        Verdict::from_bits(self.verdict.load(Relaxed))
    }

    /// Says it anew.
    pub fn set(&self, verdict: Verdict) {
        self.verdict.store(verdict.to_bits(), Relaxed);
    }

    /// True if it gets no new requests; one load, for every choice.
    pub(super) fn is_avoided(&self) -> bool {
        self.verdict.load(Relaxed) >> 16 >= AVOIDED
    }

    /// A pod, by the cookie of its network namespace, got a connection: from there it can be checked.
    pub fn reached(&self, cookie: u64) {
        self.reached_from.store(cookie, Relaxed);
    }

    /// The pod that last got a connection; 0 for none.
    pub fn reached_from(&self) -> u64 {
        self.reached_from.load(Relaxed)
    }
}

/// What holds for all endpoints of a service port together. Lives on while the port does.
#[derive(Debug)]
pub struct Health {
    checked: AtomicBool,
    avoided: AtomicU32,
    /// Millionths; [`NO_THRESHOLD`] where no policy says any.
    panic_below: AtomicU32,
    panicking: AtomicBool,
}

const NO_THRESHOLD: u32 = u32::MAX;

impl Default for Health {
    fn default() -> Self {
        Self {
            checked: AtomicBool::new(false),
            avoided: AtomicU32::new(0),
            panic_below: AtomicU32::new(NO_THRESHOLD),
            panicking: AtomicBool::new(false),
        }
    }
}

impl Health {
    /// True if its endpoints are checked.
    pub fn is_checked(&self) -> bool {
        self.checked.load(Relaxed)
    }

    /// Its endpoints are checked from now on, or no more: then what was found doesn't count.
    pub fn check(&self, checked: bool) {
        self.checked.store(checked, Relaxed);
    }

    /// How many of its endpoints get no new requests for their health.
    pub fn avoided(&self) -> u32 {
        if self.is_checked() { self.avoided.load(Relaxed) } else { 0 }
    }

    /// Counts them anew.
    pub fn count(&self, endpoints: &[Arc<Endpoint>]) {
        let avoided = endpoints.iter().filter(|endpoint| endpoint.load.health.is_avoided()).count();
        self.avoided.store(u32::try_from(avoided).unwrap_or(u32::MAX), Relaxed);
    }

    /// An endpoint comes to a service under check: it gets no requests before its first check has passed.
    pub fn admit(&self, state: &State) {
        if self.is_checked() {
            state.set(Verdict::Pending);
            self.avoided.fetch_add(1, Relaxed);
        }
    }

    /// Sets `panicThreshold`; None where no policy says any.
    pub fn set_panic_threshold(&self, below: Option<Chance>) {
        self.panic_below.store(below.map_or(NO_THRESHOLD, Chance::millionths), Relaxed);
    }

    /// `panicThreshold`, where a policy says any.
    pub fn panic_threshold(&self) -> Option<Chance> {
        match self.panic_below.load(Relaxed) {
            NO_THRESHOLD => None,
            millionths => Some(Chance::of_millionths(millionths)),
        }
    }

    /// Takes note of whether it panics; true if that is news.
    pub fn turn(&self, panics: bool) -> bool {
        self.panicking.swap(panics, Relaxed) != panics
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_verdict_survives_being_an_atomic() {
        use Failure::{Closed, Connect, Grpc, NotServing, Protocol, Status, Timeout};
        let failures =
            [Connect, Timeout, Closed, Protocol, Status(503), Status(u16::MAX), Grpc(14), NotServing(2)];
        let unhealthy = failures.into_iter().map(Verdict::Unhealthy);
        for verdict in unhealthy.chain([Verdict::Unchecked, Verdict::Pending, Verdict::Healthy]) {
            let state = State::default();
            state.set(verdict);
            assert_eq!(state.verdict(), verdict);
            assert_eq!(state.is_avoided(), verdict.is_avoided(), "{verdict:?}");
        }
    }

    #[test]
    fn who_comes_waits_for_its_first_check_only_where_there_are_checks() {
        let (health, state) = (Health::default(), State::default());
        health.admit(&state);
        assert_eq!((state.verdict(), health.avoided()), (Verdict::Unchecked, 0));
        health.check(true);
        health.admit(&state);
        assert_eq!((state.verdict(), health.avoided()), (Verdict::Pending, 1));
        health.check(false);
        assert_eq!(health.avoided(), 0, "what was found doesn't count any more");
    }

    #[test]
    fn a_threshold_of_nothing_differs_from_none() {
        let health = Health::default();
        assert_eq!(health.panic_threshold(), None);
        health.set_panic_threshold(Some(Chance::percent(0.0)));
        assert_eq!(health.panic_threshold(), Some(Chance::default()));
        health.set_panic_threshold(Some(Chance::percent(33.3)));
        assert_eq!(health.panic_threshold(), Some(Chance::percent(33.3)));
        health.set_panic_threshold(None);
        assert_eq!(health.panic_threshold(), None);
        assert!(health.turn(true) && !health.turn(true) && health.turn(false));
    }
}

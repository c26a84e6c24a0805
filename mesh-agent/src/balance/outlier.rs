//! Outlier detection: endpoints that keep failing are left alone for a while. Pure: time is an argument.
//!
//! Envoy's consecutive-errors detectors ("Outlier detection"), without its sweeps: an endpoint is ejected at the moment
//! when a threshold is reached, and is back when its time is over. `proxy` reports outcomes, `balance` passes over what
//! is ejected. Reporting and choosing are atomics; only an ejection takes a lock, so that two workers don't eject
//! past the limit together.

use std::sync::atomic::Ordering::{AcqRel, Relaxed};
use std::sync::atomic::{AtomicU32, AtomicU64};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use crate::model::{Endpoint, EndpointSet};
use crate::policy::{ClusterPolicy, OutlierDetection};

/// The longest ejection, unless the base time is longer (Envoy, `max_ejection_time`).
const LONGEST: Duration = Duration::from_secs(300);

/// How something sent to an endpoint ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// An HTTP response with this status.
    Status(u16),
    /// A gRPC response with this status.
    Grpc(u16),
    /// It couldn't be connected to, broke off, or let time run out.
    LocalOrigin,
    /// A connection was made that carries no requests.
    Connected,
}

/// What detection knows of one endpoint.
#[derive(Debug, Default)]
pub struct State {
    errors: AtomicU32,
    gateway: AtomicU32,
    local_origin: AtomicU32,
    /// Ejected while the clock is below; 0 for never.
    until_ns: AtomicU64,
    /// Ejections in a row.
    times: AtomicU32,
}

/// What detection knows of all endpoints of a service port together.
#[derive(Debug, Default)]
pub struct Ejections {
    /// When the last of them is over.
    latest_ns: AtomicU64,
    ejecting: Mutex<()>,
}

/// One ejection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ejection {
    /// Which threshold was reached.
    pub reason: Reason,
    /// For how long.
    pub time: Duration,
}

/// Which threshold was reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// `consecutive5xxErrors`
    Errors,
    /// `consecutiveGatewayErrors`
    Gateway,
    /// `consecutiveLocalOriginFailures`
    LocalOrigin,
}

impl Reason {
    /// The metric label.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Errors => "consecutive_5xx",
            Self::Gateway => "consecutive_gateway_errors",
            Self::LocalOrigin => "consecutive_local_origin_failures",
        }
    }
}

impl State {
    /// True if it is left alone at `now_ns`.
    pub fn is_ejected(&self, now_ns: u64) -> bool {
        now_ns < self.until_ns.load(Relaxed)
    }

    /// An active health check found it healthy: its failures in a row are forgotten, and its ejection, if it is ejected, is
    /// over at `now_ns` (Envoy, `successful_active_health_check_uneject_host`). True if it was ejected.
    pub fn reinstate(&self, now_ns: u64) -> bool {
        self.forget();
        self.until_ns.fetch_update(Relaxed, Relaxed, |until| (now_ns < until).then_some(now_ns)).is_ok()
    }

    fn forget(&self) {
        for counter in [&self.errors, &self.gateway, &self.local_origin] {
            counter.store(0, Relaxed);
        }
    }
}

impl Ejections {
    /// True if any endpoint may be ejected at `now_ns`.
    pub(super) fn any(&self, now_ns: u64) -> bool {
        now_ns < self.latest_ns.load(Relaxed)
    }
}

/// Takes note of how something sent to `endpoint`, one of `set`, ended; tells if that ejects it.
pub fn report(
    policy: &ClusterPolicy,
    set: &EndpointSet,
    endpoint: &Endpoint,
    outcome: Outcome,
    now_ns: u64,
) -> Option<Ejection> {
    let rules = policy.outlier.as_ref()?;
    let state = &endpoint.load.outlier;
    // What was under way when it was ejected doesn't count against it once it is back.
    if state.is_ejected(now_ns) {
        return None;
    }
    let reason = count(rules, state, outcome)?;
    state.forget();
    let time = eject(rules, set, state, now_ns)?;
    Some(Ejection { reason, time })
}

/// How many of `set` are ejected at `now_ns`.
pub fn ejected(set: &EndpointSet, now_ns: u64) -> usize {
    if !set.ejections.any(now_ns) {
        return 0;
    }
    set.available.iter().filter(|endpoint| endpoint.load.outlier.is_ejected(now_ns)).count()
}

/// The threshold that is reached, if one is.
fn count(rules: &OutlierDetection, state: &State, outcome: Outcome) -> Option<Reason> {
    let (error, gateway) = match outcome {
        Outcome::LocalOrigin if rules.split => {
            return reached(&state.local_origin, rules.consecutive_local_origin)
                .then_some(Reason::LocalOrigin);
        }
        Outcome::Connected if rules.split => {
            state.local_origin.store(0, Relaxed);
            return None;
        }
        // Without a split Envoy takes them for 503 and 504.
        Outcome::LocalOrigin => (true, true),
        Outcome::Connected => (false, false),
        Outcome::Status(status) => judge(rules, status),
        Outcome::Grpc(status) => judge(rules, status_of_grpc(status)),
    };
    if rules.split {
        state.local_origin.store(0, Relaxed);
    }
    if !gateway {
        state.gateway.store(0, Relaxed);
    }
    if !error {
        state.errors.store(0, Relaxed);
        return None;
    }
    // Both count before either decides.
    let by_gateway = gateway && reached(&state.gateway, rules.consecutive_gateway);
    let by_errors = reached(&state.errors, rules.consecutive_5xx);
    match (by_errors, by_gateway) {
        (_, true) => Some(Reason::Gateway),
        (true, false) => Some(Reason::Errors),
        (false, false) => None,
    }
}

/// Whether a status is an error, and a gateway error.
fn judge(rules: &OutlierDetection, status: u16) -> (bool, bool) {
    let error = match rules.codes.as_slice() {
        [] => (500..600).contains(&status),
        codes => codes.contains(&status),
    };
    (error, error && matches!(status, 502..=504))
}

fn reached(counter: &AtomicU32, threshold: u32) -> bool {
    // Off by configuration; the count says nothing then.
    threshold > 0 && counter.fetch_add(1, AcqRel) + 1 >= threshold
}

/// Ejects unless too many are ejected already; for how long.
fn eject(rules: &OutlierDetection, set: &EndpointSet, state: &State, now_ns: u64) -> Option<Duration> {
    let _one_at_a_time = set.ejections.ejecting.lock().unwrap_or_else(PoisonError::into_inner);
    let most = set.available.len() * rules.max_ejection_percent as usize / 100;
    if state.is_ejected(now_ns) || ejected(set, now_ns) >= most.max(1) {
        return None;
    }
    let over = state.until_ns.load(Relaxed);
    let interval = nanoseconds(rules.interval).max(1);
    let forgiven = u32::try_from(now_ns.saturating_sub(over) / interval).unwrap_or(u32::MAX);
    let times = state.times.load(Relaxed).saturating_sub(forgiven).saturating_add(1);
    let time = rules.base_ejection.saturating_mul(times).min(LONGEST.max(rules.base_ejection));
    let until = now_ns.saturating_add(nanoseconds(time));
    state.times.store(times, Relaxed);
    state.until_ns.store(until, Relaxed);
    set.ejections.latest_ns.fetch_max(until, Relaxed);
    Some(time)
}

fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// A gRPC status in HTTP's terms, as Envoy maps them for its detectors (`Grpc::Utility::grpcToHttpStatus`).
pub fn status_of_grpc(status: u16) -> u16 {
    match status {
        0 => 200,
        1 => 499,
        3 | 9 | 11 => 400,
        4 => 504,
        5 => 404,
        6 | 10 => 409,
        7 => 403,
        8 => 429,
        12 => 501,
        14 => 503,
        16 => 401,
        _ => 500,
    }
}

#[cfg(test)]
mod tests;

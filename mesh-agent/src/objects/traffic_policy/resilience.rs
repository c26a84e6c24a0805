//! `circuitBreaker`, `concurrency` and `panicThreshold`: what protects a service that doesn't keep up.

use serde::Deserialize;

use super::value::{Percent, Span};
use super::{FieldError, refuse, within};

/// `circuitBreaker`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CircuitBreaker {
    /// Opens on failures: 5xx, or no answer.
    pub error_rate: Option<ErrorRate>,
    /// Opens on slow answers.
    pub latency: Option<LatencyTrip>,
    /// How long it refuses before it probes; 30s.
    pub open_for: Option<Span>,
    /// Probes that must all succeed before it closes; 3.
    pub half_open_requests: Option<u32>,
}

/// `errorRate`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ErrorRate {
    /// From this share on.
    pub percent: Percent,
    /// Not before so many requests in the window; 20.
    pub minimum_requests: Option<u32>,
    /// How far back; 10s.
    pub window: Option<Span>,
}

/// `latency`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LatencyTrip {
    /// What takes longer is slow: from the request's head to the response's.
    pub threshold: Span,
    /// From this share on.
    pub percent: Percent,
    /// Not before so many requests in the window; 20.
    pub minimum_requests: Option<u32>,
    /// How far back; 10s.
    pub window: Option<Span>,
}

/// `concurrency`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Concurrency {
    /// So many at a time.
    pub max_requests: Option<u32>,
    /// As many as the service can do without becoming slow.
    pub adaptive: Option<AdaptiveConcurrency>,
}

/// `adaptive`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AdaptiveConcurrency {
    /// Never lower; 4.
    pub min_limit: Option<u32>,
    /// Never higher; 1000.
    pub max_limit: Option<u32>,
    /// So many percent slower than unloaded is no reason to lower the limit; 50.
    pub tolerance_percent: Option<u32>,
    /// The limit changes at most once in this time; 100ms.
    pub window: Option<Span>,
}

/// `panicThreshold`: with fewer healthy endpoints than this, requests go to all of them (Envoy's panic threshold).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub struct PanicThreshold {
    /// Share of healthy endpoints; 0 turns it off.
    pub percent: Percent,
}

impl CircuitBreaker {
    pub(super) fn validate(&self, at: &str) -> Result<(), FieldError> {
        if self.error_rate.is_none() && self.latency.is_none() {
            return refuse(at, "has no reason to open: give errorRate, latency or both");
        }
        if let Some(rate) = &self.error_rate {
            trip(&format!("{at}.errorRate"), rate.percent, rate.minimum_requests, rate.window)?;
        }
        if let Some(latency) = &self.latency {
            let at = format!("{at}.latency");
            latency.threshold.positive(format!("{at}.threshold"))?;
            trip(&at, latency.percent, latency.minimum_requests, latency.window)?;
        }
        if let Some(open_for) = self.open_for {
            open_for.positive(format!("{at}.openFor"))?;
        }
        within(at, "halfOpenRequests", self.half_open_requests, 1..=10_000)
    }
}

fn trip(at: &str, percent: Percent, minimum: Option<u32>, window: Option<Span>) -> Result<(), FieldError> {
    percent.positive(format!("{at}.percent"))?;
    within(at, "minimumRequests", minimum, 1..=1_000_000)?;
    window.map_or(Ok(()), |window| window.positive(format!("{at}.window")))
}

impl Concurrency {
    pub(super) fn validate(&self, at: &str) -> Result<(), FieldError> {
        if self.max_requests.is_none() && self.adaptive.is_none() {
            return refuse(at, "has no limit: give maxRequests, adaptive or both");
        }
        within(at, "maxRequests", self.max_requests, 1..=u32::MAX)?;
        let Some(adaptive) = &self.adaptive else { return Ok(()) };
        let at = format!("{at}.adaptive");
        within(&at, "minLimit", adaptive.min_limit, 1..=1_000_000)?;
        within(&at, "maxLimit", adaptive.max_limit, 1..=1_000_000)?;
        if adaptive.min_limit.unwrap_or(4) > adaptive.max_limit.unwrap_or(1000) {
            return refuse(format!("{at}.minLimit"), "is above maxLimit");
        }
        within(&at, "tolerancePercent", adaptive.tolerance_percent, 1..=10_000)?;
        adaptive.window.map_or(Ok(()), |window| window.positive(format!("{at}.window")))
    }
}

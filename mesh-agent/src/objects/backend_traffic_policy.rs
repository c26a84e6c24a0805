//! XBackendTrafficPolicy: a service's retry budget (GEP-3388) and session persistence (GEP-1619).

use std::time::Duration;

use serde::Deserialize;

use super::field::nullable;
use super::gateway::{GatewayDuration, List, ObjectRef, SessionPersistence, given, unique};
use super::{FieldError, Metadata};

/// What is read of an XBackendTrafficPolicy.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct BackendTrafficPolicy {
    /// Metadata.
    pub metadata: Metadata,
    /// `spec`.
    pub spec: BackendTrafficPolicySpec,
}

/// What is read of `spec`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BackendTrafficPolicySpec {
    /// Services of its own namespace.
    pub target_refs: List<ObjectRef, 1, 16>,
    /// Retry budget.
    #[serde(default)]
    pub retry_constraint: Option<RetryConstraint>,
    /// Stickiness.
    #[serde(default)]
    pub session_persistence: Option<SessionPersistence>,
}

/// `retryConstraint`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RetryConstraint {
    /// Share of requests that may be retries.
    #[serde(default, deserialize_with = "nullable")]
    pub budget: BudgetSpec,
    /// What is allowed in any case.
    #[serde(default, deserialize_with = "nullable")]
    pub min_retry_rate: RequestRate,
}

/// `budget`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub struct BudgetSpec {
    /// Percent, 0 to 100; default 20.
    #[serde(default = "twenty")]
    pub percent: u32,
    /// Over so long, 1 s to 1 h; default 10 s.
    #[serde(default = "ten_seconds")]
    pub interval: GatewayDuration,
}

/// `minRetryRate`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub struct RequestRate {
    /// So many, 1 to 1000000; default 10 ...
    #[serde(default = "ten")]
    pub count: u32,
    /// ... in so long, at most 1 h; default 1 s.
    #[serde(default = "one_second")]
    pub interval: GatewayDuration,
}

fn twenty() -> u32 {
    20
}

fn ten() -> u32 {
    10
}

fn ten_seconds() -> GatewayDuration {
    GatewayDuration(Duration::from_secs(10))
}

fn one_second() -> GatewayDuration {
    GatewayDuration(Duration::from_secs(1))
}

impl Default for BudgetSpec {
    fn default() -> Self {
        Self { percent: twenty(), interval: ten_seconds() }
    }
}

impl Default for RequestRate {
    fn default() -> Self {
        Self { count: ten(), interval: one_second() }
    }
}

const HOUR: Duration = Duration::from_secs(3600);

impl BackendTrafficPolicy {
    /// The CRD's rules between fields.
    pub fn validate(&self) -> Result<(), FieldError> {
        self.spec.validate().map_err(|error| error.within("spec"))
    }
}

impl BackendTrafficPolicySpec {
    fn validate(&self) -> Result<(), FieldError> {
        unique("targetRefs", &self.target_refs, "", |target| {
            Some((target.group.to_string(), target.kind.to_string(), target.name.to_string()))
        })?;
        given("retryConstraint", self.retry_constraint.as_ref(), RetryConstraint::validate)?;
        given("sessionPersistence", self.session_persistence.as_ref(), SessionPersistence::validate)
    }
}

impl RetryConstraint {
    fn validate(&self) -> Result<(), FieldError> {
        let Self { budget, min_retry_rate } = self;
        let refuse = |field: &str, message: String| Err(FieldError::new(field, message));
        if budget.percent > 100 {
            return refuse(
                "budget.percent",
                format!("{} isn't a percentage: expected 0 to 100", budget.percent),
            );
        }
        if !(Duration::from_secs(1)..=HOUR).contains(&budget.interval.0) {
            return refuse("budget.interval", format!("{:?}: expected 1s to 1h", budget.interval.0));
        }
        if !(1..=1_000_000).contains(&min_retry_rate.count) {
            return refuse("minRetryRate.count", format!("{}: expected 1 to 1000000", min_retry_rate.count));
        }
        if min_retry_rate.interval.0.is_zero() || min_retry_rate.interval.0 > HOUR {
            return refuse(
                "minRetryRate.interval",
                format!("{:?}: expected 1ms to 1h", min_retry_rate.interval.0),
            );
        }
        Ok(())
    }
}

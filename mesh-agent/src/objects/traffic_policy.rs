//! TrafficPolicy (mesh-agent.dev/v1alpha1): the project's own policy for what no other API has.
//!
//! One file for each group of fields. What stands for itself is refused while it is parsed (`value`), what needs a look at
//! several fields in `validate`; `crate::policy::traffic` compiles the result. docs/trafficpolicy.md is the reference.

mod availability;
mod fault;
mod rate_limit;
mod resilience;
mod retry;
mod value;

use serde::Deserialize;

pub use availability::{
    Activation, Answer, Fallback, FallbackOn, FallbackService, GrpcCheck, HeaderValue, HealthCheck,
    HttpCheck, StatusRange, TcpCheck,
};
pub use fault::{FaultAbort, FaultDelay, FaultInjection, FaultMatch, HeaderMatch, HeaderMatchType};
pub use rate_limit::{
    GlobalLimit, KeyPart, KeyType, LimitResponse, LimitScope, LocalLimit, OnUnavailable, RateLimit, Redis,
    SecretRef,
};
pub use resilience::{
    AdaptiveConcurrency, CircuitBreaker, Concurrency, ErrorRate, LatencyTrip, PanicThreshold,
};
pub use retry::{Hedge, Retry, RetryBackoff, RetryBudget, RetryCondition};
pub use value::{Percent, Span, Status};

use super::field::{PortNumber, nullable};
use super::{FieldError, Metadata};

/// `apiVersion` of the project's own kinds.
pub const API_VERSION: &str = "mesh-agent.dev/v1alpha1";

/// What is read of a TrafficPolicy.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct TrafficPolicy {
    /// Metadata.
    pub metadata: Metadata,
    /// `spec`.
    pub spec: TrafficPolicySpec,
}

/// `spec`. Each field but the first is a group that holds or doesn't hold as a whole.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TrafficPolicySpec {
    /// What it holds for; each target has limits, breakers and so on of its own.
    #[serde(default, deserialize_with = "nullable")]
    pub target_refs: Vec<TargetRef>,
    /// Limits on requests in a time.
    pub rate_limit: Option<RateLimit>,
    /// Delays and errors on purpose.
    pub fault_injection: Option<FaultInjection>,
    /// Refuses for a while what mostly fails.
    pub circuit_breaker: Option<CircuitBreaker>,
    /// Limits on requests at a time.
    pub concurrency: Option<Concurrency>,
    /// What is answered where the service can't.
    pub fallback: Option<Fallback>,
    /// Requests wait for a first endpoint.
    pub activation: Option<Activation>,
    /// The agent asks endpoints how they are.
    pub health_check: Option<HealthCheck>,
    /// Below which share of healthy endpoints health is ignored.
    pub panic_threshold: Option<PanicThreshold>,
    /// Requests are sent again.
    pub retry: Option<Retry>,
    /// Slow requests are sent a second time, and the first answer wins.
    pub hedge: Option<Hedge>,
    /// From the request's head to the end of its response.
    pub timeout: Option<Span>,
}

/// One of `targetRefs`, in the policy's own namespace.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TargetRef {
    /// Empty for a Service, `gateway.networking.k8s.io` for routes.
    #[serde(default, deserialize_with = "nullable")]
    pub group: String,
    /// What it is.
    pub kind: TargetKind,
    /// Its name.
    pub name: String,
    /// A port of the Service by name or number, or a rule of the route by name.
    pub section_name: Option<String>,
}

/// Kinds that a TrafficPolicy may be attached to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Deserialize)]
pub enum TargetKind {
    /// A Service.
    Service,
    /// An HTTPRoute.
    #[serde(rename = "HTTPRoute")]
    HttpRoute,
    /// A GRPCRoute.
    #[serde(rename = "GRPCRoute")]
    GrpcRoute,
}

/// API group of routes.
const GATEWAY: &str = "gateway.networking.k8s.io";
/// As many as Gateway API allows for its own policies.
const MOST_TARGETS: usize = 16;

impl TargetKind {
    /// As in `kind:`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Service => "Service",
            Self::HttpRoute => "HTTPRoute",
            Self::GrpcRoute => "GRPCRoute",
        }
    }
}

impl TrafficPolicy {
    /// What parsing field by field can't see.
    pub fn validate(&self) -> Result<(), FieldError> {
        let spec = &self.spec;
        if spec.target_refs.is_empty() || spec.target_refs.len() > MOST_TARGETS {
            return refuse("spec.targetRefs", format!("needs 1 to {MOST_TARGETS} targets"));
        }
        for (i, target) in spec.target_refs.iter().enumerate() {
            target.validate(&format!("spec.targetRefs[{i}]"))?;
            if spec.target_refs[..i].contains(target) {
                return refuse(format!("spec.targetRefs[{i}]"), "is given twice");
            }
        }
        self.validate_reach()?;
        let part = |part: Option<Result<(), FieldError>>| part.unwrap_or(Ok(()));
        part(spec.rate_limit.as_ref().map(|it| it.validate("spec.rateLimit")))?;
        part(spec.fault_injection.as_ref().map(|it| it.validate("spec.faultInjection")))?;
        part(spec.circuit_breaker.as_ref().map(|it| it.validate("spec.circuitBreaker")))?;
        part(spec.concurrency.as_ref().map(|it| it.validate("spec.concurrency")))?;
        let namespace = self.metadata.namespace.as_deref().unwrap_or("default");
        part(spec.fallback.as_ref().map(|it| it.validate("spec.fallback", namespace)))?;
        part(spec.activation.as_ref().map(|it| it.validate("spec.activation")))?;
        part(spec.health_check.as_ref().map(|it| it.validate("spec.healthCheck")))?;
        part(spec.retry.as_ref().map(|it| it.validate("spec.retry")))?;
        part(spec.hedge.as_ref().map(|it| it.validate("spec.hedge")))?;
        part(spec.timeout.map(|it| it.positive("spec.timeout")))
    }

    /// Endpoints belong to a service, not to a route: what is about them can't be said of a route.
    fn validate_reach(&self) -> Result<(), FieldError> {
        let spec = &self.spec;
        if spec.target_refs.iter().all(|target| target.kind == TargetKind::Service) {
            return Ok(());
        }
        let endpoint_fields = [
            ("activation", spec.activation.is_some()),
            ("healthCheck", spec.health_check.is_some()),
            ("panicThreshold", spec.panic_threshold.is_some()),
        ];
        match endpoint_fields.into_iter().find(|(_, given)| *given) {
            Some((field, _)) => refuse(
                format!("spec.{field}"),
                "is about endpoints and needs targets of kind Service alone: put it into a policy of its own",
            ),
            None => Ok(()),
        }
    }
}

impl TargetRef {
    fn validate(&self, at: &str) -> Result<(), FieldError> {
        let group = if self.kind == TargetKind::Service { "" } else { GATEWAY };
        let core = self.kind == TargetKind::Service && self.group == "core";
        if self.group != group && !core {
            return refuse(
                format!("{at}.group"),
                format!("{:?} isn't the group of {}: expected {group:?}", self.group, self.kind.name()),
            );
        }
        if self.name.is_empty() {
            return refuse(format!("{at}.name"), "is empty");
        }
        match self.section_name.as_deref() {
            Some("") => {
                refuse(format!("{at}.sectionName"), "is empty: leave it out to mean the whole object")
            }
            _ => Ok(()),
        }
    }
}

impl TrafficPolicySpec {
    /// The groups that are given, by their field's name.
    pub fn given(&self) -> impl Iterator<Item = &'static str> {
        let groups = [
            ("rateLimit", self.rate_limit.is_some()),
            ("faultInjection", self.fault_injection.is_some()),
            ("circuitBreaker", self.circuit_breaker.is_some()),
            ("concurrency", self.concurrency.is_some()),
            ("fallback", self.fallback.is_some()),
            ("activation", self.activation.is_some()),
            ("healthCheck", self.health_check.is_some()),
            ("panicThreshold", self.panic_threshold.is_some()),
            ("retry", self.retry.is_some()),
            ("hedge", self.hedge.is_some()),
            ("timeout", self.timeout.is_some()),
        ];
        groups.into_iter().filter(|(_, given)| *given).map(|(field, _)| field)
    }
}

fn refuse(field: impl Into<String>, message: impl Into<String>) -> Result<(), FieldError> {
    Err(FieldError::new(field, message))
}

/// Refuses a number that isn't in `range`.
fn within(
    at: &str,
    field: &str,
    value: Option<u32>,
    range: std::ops::RangeInclusive<u32>,
) -> Result<(), FieldError> {
    match value {
        Some(value) if !range.contains(&value) => refuse(
            format!("{at}.{field}"),
            format!("{value} is out of range: expected {} to {}", range.start(), range.end()),
        ),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests;

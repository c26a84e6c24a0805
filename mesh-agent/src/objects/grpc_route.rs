//! GRPCRoute: which gRPC calls go where, and what is done to them.

use serde::Deserialize;

use super::field::nullable;
use super::gateway::{
    BackendRef, Bounded, FilterKind, HeaderMatch, HostPattern, List, MatchKind, ParentRef, RouteFilter,
    SectionName, SessionPersistence, check_filters, check_headers, check_parents, check_pattern, each, given,
    unique,
};
use super::http_route::{DefaultGateways, MOST_MATCHES};
use super::{FieldError, Metadata};

/// What is read of a GRPCRoute.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct GrpcRoute {
    /// Metadata.
    pub metadata: Metadata,
    /// `spec`.
    #[serde(default, deserialize_with = "nullable")]
    pub spec: GrpcRouteSpec,
}

/// What is read of `spec`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct GrpcRouteSpec {
    /// What it attaches to.
    #[serde(default, deserialize_with = "nullable")]
    pub parent_refs: List<ParentRef, 0, 32>,
    /// Have no meaning for a Service (GEP-1294).
    #[serde(default, deserialize_with = "nullable")]
    pub hostnames: List<HostPattern, 0, 16>,
    /// Rules.
    #[serde(default, deserialize_with = "nullable")]
    pub rules: List<GrpcRule, 0, 16>,
    /// For Gateways.
    #[serde(default)]
    pub use_default_gateways: Option<DefaultGateways>,
}

/// One of `rules`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct GrpcRule {
    /// Name.
    #[serde(default)]
    pub name: Option<SectionName>,
    /// Any of these; empty matches every call.
    #[serde(default, deserialize_with = "nullable")]
    pub matches: List<GrpcMatch, 0, 64>,
    /// What is done to a call.
    #[serde(default, deserialize_with = "nullable")]
    pub filters: List<RouteFilter, 0, 16>,
    /// Where it goes.
    #[serde(default, deserialize_with = "nullable")]
    pub backend_refs: List<BackendRef, 0, 16>,
    /// Stickiness.
    #[serde(default)]
    pub session_persistence: Option<SessionPersistence>,
}

/// One of `matches`: all of its conditions.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct GrpcMatch {
    /// Service and method.
    #[serde(default)]
    pub method: Option<GrpcMethodMatch>,
    /// Headers.
    #[serde(default, deserialize_with = "nullable")]
    pub headers: List<HeaderMatch<Bounded<1, 4096>>, 0, 16>,
}

/// GRPCMethodMatch.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct GrpcMethodMatch {
    /// `type`.
    #[serde(rename = "type", default, deserialize_with = "nullable")]
    pub kind: MatchKind,
    /// Service, with its package.
    #[serde(default)]
    pub service: Option<Bounded<0, 1024>>,
    /// Method.
    #[serde(default)]
    pub method: Option<Bounded<0, 1024>>,
}

const FILTERS: &[FilterKind] = &[
    FilterKind::RequestHeaderModifier,
    FilterKind::ResponseHeaderModifier,
    FilterKind::RequestMirror,
    FilterKind::ExtensionRef,
];

impl GrpcRoute {
    /// The CRD's rules between fields.
    pub fn validate(&self) -> Result<(), FieldError> {
        self.spec.validate().map_err(|error| error.within("spec"))
    }
}

impl GrpcRouteSpec {
    fn validate(&self) -> Result<(), FieldError> {
        check_parents(&self.parent_refs)?;
        unique("rules", &self.rules, ".name", |rule| rule.name.as_deref().map(str::to_owned))?;
        let matches: usize = self.rules.iter().map(|rule| rule.matches.len()).sum();
        if matches > MOST_MATCHES {
            let message = format!("{matches} matches in all rules together: expected at most {MOST_MATCHES}");
            return Err(FieldError::new("rules", message));
        }
        each("rules", &self.rules, GrpcRule::validate)
    }
}

impl GrpcRule {
    fn validate(&self) -> Result<(), FieldError> {
        each("matches", &self.matches, |one| {
            given("method", one.method.as_ref(), GrpcMethodMatch::validate)?;
            check_headers(&one.headers)
        })?;
        check_filters(&self.filters, FILTERS)?;
        each("backendRefs", &self.backend_refs, |backend| {
            backend.validate(|filters| check_filters(filters, FILTERS))
        })?;
        given("sessionPersistence", self.session_persistence.as_ref(), SessionPersistence::validate)
    }
}

impl GrpcMethodMatch {
    fn validate(&self) -> Result<(), FieldError> {
        if self.service.is_none() && self.method.is_none() {
            return Err(FieldError::new("", "names neither service nor method: add one of the two"));
        }
        if self.kind == MatchKind::RegularExpression {
            given("service", self.service.as_ref(), |text| check_pattern(self.kind, "", text))?;
            return given("method", self.method.as_ref(), |text| check_pattern(self.kind, "", text));
        }
        let refuse = |field: &str, value: &str| {
            let message =
                format!("{value:?} can't be the name of a gRPC {field}: expected letters, digits and '_'");
            Err(FieldError::new(field, message))
        };
        match (self.service.as_deref(), self.method.as_deref()) {
            (Some(service), _) if !is_service(service) => refuse("service", service),
            (_, Some(method)) if !is_identifier(method) => refuse("method", method),
            _ => Ok(()),
        }
    }
}

fn is_service(text: &str) -> bool {
    text.strip_prefix('.').unwrap_or(text).split('.').all(is_identifier)
}

fn is_identifier(text: &str) -> bool {
    text.bytes().next().is_some_and(|b| b.is_ascii_alphabetic() || b == b'_')
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
}

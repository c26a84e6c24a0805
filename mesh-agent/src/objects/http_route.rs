//! HTTPRoute: which HTTP requests go where, and what is done to them.

use std::time::Duration;

use http::Method;
use serde::Deserialize;

use super::field::nullable;
use super::gateway::{
    BackendRef, FieldValue, FilterKind, GatewayDuration, HeaderMatch, HostPattern, List, ParentRef,
    PathMatch, PathMatchKind, QueryMatch, RouteFilter, SectionName, SessionPersistence, check_filters,
    check_headers, check_parents, check_query, each, given, unique,
};
use super::{FieldError, Metadata};

/// What is read of an HTTPRoute.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct HttpRoute {
    /// Metadata.
    pub metadata: Metadata,
    /// `spec`.
    pub spec: HttpRouteSpec,
}

/// What is read of `spec`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct HttpRouteSpec {
    /// What it attaches to.
    #[serde(default, deserialize_with = "nullable")]
    pub parent_refs: List<ParentRef, 0, 32>,
    /// Have no meaning for a Service (GEP-1294).
    #[serde(default, deserialize_with = "nullable")]
    pub hostnames: List<HostPattern, 0, 16>,
    /// Rules; one that matches everything where absent.
    #[serde(default = "one_rule")]
    pub rules: List<HttpRule, 1, 16>,
    /// For Gateways.
    #[serde(default)]
    pub use_default_gateways: Option<DefaultGateways>,
}

/// `useDefaultGateways`; nothing to a mesh.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub enum DefaultGateways {
    /// Attach to them.
    All,
    /// Don't.
    None,
}

/// One of `rules`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct HttpRule {
    /// Name.
    #[serde(default)]
    pub name: Option<SectionName>,
    /// Any of these; one that matches everything where absent.
    #[serde(default = "one_match")]
    pub matches: List<HttpMatch, 0, 64>,
    /// What is done to a request.
    #[serde(default, deserialize_with = "nullable")]
    pub filters: List<RouteFilter, 0, 16>,
    /// Where it goes.
    #[serde(default, deserialize_with = "nullable")]
    pub backend_refs: List<BackendRef, 0, 16>,
    /// Deadlines.
    #[serde(default, deserialize_with = "nullable")]
    pub timeouts: HttpTimeouts,
    /// Retries.
    #[serde(default)]
    pub retry: Option<HttpRetry>,
    /// Stickiness.
    #[serde(default)]
    pub session_persistence: Option<SessionPersistence>,
}

/// One of `matches`: all of its conditions.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct HttpMatch {
    /// Path.
    #[serde(default, deserialize_with = "nullable")]
    pub path: PathMatch,
    /// Headers.
    #[serde(default, deserialize_with = "nullable")]
    pub headers: List<HeaderMatch<FieldValue>, 0, 16>,
    /// Query parameters.
    #[serde(default, deserialize_with = "nullable")]
    pub query_params: List<QueryMatch, 0, 16>,
    /// Method.
    #[serde(default)]
    pub method: Option<HttpMethod>,
}

/// A method that a rule can match.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
#[expect(missing_docs, reason = "methods by their names")]
pub enum HttpMethod {
    Get,
    Head,
    Post,
    Put,
    Delete,
    Connect,
    Options,
    Trace,
    Patch,
}

impl From<HttpMethod> for Method {
    fn from(method: HttpMethod) -> Self {
        match method {
            HttpMethod::Get => Self::GET,
            HttpMethod::Head => Self::HEAD,
            HttpMethod::Post => Self::POST,
            HttpMethod::Put => Self::PUT,
            HttpMethod::Delete => Self::DELETE,
            HttpMethod::Connect => Self::CONNECT,
            HttpMethod::Options => Self::OPTIONS,
            HttpMethod::Trace => Self::TRACE,
            HttpMethod::Patch => Self::PATCH,
        }
    }
}

/// `timeouts` (GEP-1742).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct HttpTimeouts {
    /// Of the whole request; zero for none.
    #[serde(default)]
    pub request: Option<GatewayDuration>,
    /// Of one try; zero for none.
    #[serde(default)]
    pub backend_request: Option<GatewayDuration>,
}

/// `retry` (GEP-1731).
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct HttpRetry {
    /// Statuses worth another try.
    #[serde(default, deserialize_with = "nullable")]
    pub codes: List<RetryCode, 0, 200>,
    /// Tries after the first.
    #[serde(default)]
    pub attempts: Option<u32>,
    /// Least wait between two tries.
    #[serde(default)]
    pub backoff: Option<GatewayDuration>,
}

/// A status, 400 to 599.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub struct RetryCode(pub u16);

const FILTERS: &[FilterKind] = &[
    FilterKind::RequestHeaderModifier,
    FilterKind::ResponseHeaderModifier,
    FilterKind::RequestMirror,
    FilterKind::RequestRedirect,
    FilterKind::UrlRewrite,
    FilterKind::ExtensionRef,
    FilterKind::Cors,
    FilterKind::ExternalAuth,
];

/// The most matches of all rules together.
pub(super) const MOST_MATCHES: usize = 128;

fn one_match() -> List<HttpMatch, 0, 64> {
    vec![HttpMatch::default()].into()
}

fn one_rule() -> List<HttpRule, 1, 16> {
    vec![HttpRule {
        name: None,
        matches: one_match(),
        filters: List::default(),
        backend_refs: List::default(),
        timeouts: HttpTimeouts::default(),
        retry: None,
        session_persistence: None,
    }]
    .into()
}

impl HttpRoute {
    /// The CRD's rules between fields.
    pub fn validate(&self) -> Result<(), FieldError> {
        self.spec.validate().map_err(|error| error.within("spec"))
    }
}

impl HttpRouteSpec {
    fn validate(&self) -> Result<(), FieldError> {
        check_parents(&self.parent_refs)?;
        unique("rules", &self.rules, ".name", |rule| rule.name.as_deref().map(str::to_owned))?;
        let matches: usize = self.rules.iter().map(|rule| rule.matches.len()).sum();
        if matches > MOST_MATCHES {
            let message = format!("{matches} matches in all rules together: expected at most {MOST_MATCHES}");
            return Err(FieldError::new("rules", message));
        }
        each("rules", &self.rules, HttpRule::validate)
    }
}

impl HttpRule {
    fn validate(&self) -> Result<(), FieldError> {
        each("matches", &self.matches, HttpMatch::validate)?;
        check_filters(&self.filters, FILTERS)?;
        self.check_prefix(&self.filters)?;
        each("backendRefs", &self.backend_refs, |backend| {
            backend.validate(|filters| {
                check_filters(filters, FILTERS)?;
                self.check_prefix(filters)
            })
        })?;
        let redirects = |filter: &RouteFilter| filter.kind == FilterKind::RequestRedirect;
        if let Some(index) = self.filters.iter().position(redirects)
            && !self.backend_refs.is_empty()
        {
            let message = "a redirected request goes to no backend: remove this filter, or backendRefs";
            return Err(FieldError::new(format!("filters[{index}]"), message));
        }
        given("timeouts", Some(&self.timeouts), HttpTimeouts::validate)?;
        given("retry", self.retry.as_ref(), HttpRetry::validate)?;
        given("sessionPersistence", self.session_persistence.as_ref(), SessionPersistence::validate)
    }

    /// What replaces a prefix needs one.
    fn check_prefix(&self, filters: &[RouteFilter]) -> Result<(), FieldError> {
        let one_prefix = matches!(&self.matches[..], [one] if one.path.kind == PathMatchKind::PathPrefix);
        for (index, filter) in filters.iter().enumerate() {
            if let Some((field, path)) = filter.path_modifier()
                && path.needs_prefix()
                && !one_prefix
            {
                let message = "needs a prefix to replace: give the rule exactly one match, with a path of type PathPrefix";
                return Err(FieldError::new(format!("filters[{index}].{field}.replacePrefixMatch"), message));
            }
        }
        Ok(())
    }
}

impl HttpMatch {
    fn validate(&self) -> Result<(), FieldError> {
        given("path", Some(&self.path), PathMatch::validate)?;
        check_headers(&self.headers)?;
        check_query(&self.query_params)
    }
}

impl HttpTimeouts {
    fn validate(&self) -> Result<(), FieldError> {
        match (self.request.and_then(GatewayDuration::limit), self.backend_request) {
            (Some(request), Some(GatewayDuration(backend))) if backend > request => Err(FieldError::new(
                "backendRequest",
                format!("{backend:?} is longer than request, {request:?}: expected at most that"),
            )),
            _ => Ok(()),
        }
    }
}

impl HttpRetry {
    fn validate(&self) -> Result<(), FieldError> {
        each("codes", &self.codes, |code| match code.0 {
            400..=599 => Ok(()),
            code => {
                Err(FieldError::new("", format!("{code} isn't a status to retry on: expected 400 to 599")))
            }
        })?;
        unique("codes", &self.codes, "", |code| Some(code.0))?;
        match self.attempts {
            Some(0) => Err(FieldError::new(
                "attempts",
                "0 isn't a number of retries: expected 1 or more, or no retry",
            )),
            _ => Ok(()),
        }
    }

    /// Least wait between two tries, if one is given.
    pub fn backoff(&self) -> Option<Duration> {
        self.backoff.map(|backoff| backoff.0)
    }
}

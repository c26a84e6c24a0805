//! Filters of HTTPRoute and GRPCRoute, of a rule or of a backend.

use std::fmt;

use serde::Deserialize;

use super::super::field::{PortNumber, nullable};
use super::cors::Cors;
use super::header::HeaderModifier;
use super::list::{Bounded, List};
use super::path::{PathModifier, is_path};
use super::reference::{BackendTargetRef, ObjectRef};
use super::text::Hostname;
use super::{FieldError, given};

/// HTTPRouteFilter, GRPCRouteFilter: the type, and the one part that belongs to it.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RouteFilter {
    /// `type`.
    #[serde(rename = "type")]
    pub kind: FilterKind,
    /// With RequestHeaderModifier.
    #[serde(default)]
    pub request_header_modifier: Option<HeaderModifier>,
    /// With ResponseHeaderModifier.
    #[serde(default)]
    pub response_header_modifier: Option<HeaderModifier>,
    /// With RequestMirror.
    #[serde(default)]
    pub request_mirror: Option<RequestMirror>,
    /// With RequestRedirect.
    #[serde(default)]
    pub request_redirect: Option<RequestRedirect>,
    /// With URLRewrite.
    #[serde(default)]
    pub url_rewrite: Option<UrlRewrite>,
    /// With CORS.
    #[serde(default)]
    pub cors: Option<Cors>,
    /// With ExtensionRef.
    #[serde(default)]
    pub extension_ref: Option<ObjectRef>,
    /// With ExternalAuth.
    #[serde(default)]
    pub external_auth: Option<ExternalAuth>,
}

/// Which filter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[expect(missing_docs, reason = "filters by the names that the API gives them")]
pub enum FilterKind {
    RequestHeaderModifier,
    ResponseHeaderModifier,
    RequestMirror,
    RequestRedirect,
    #[serde(rename = "URLRewrite")]
    UrlRewrite,
    ExtensionRef,
    #[serde(rename = "CORS")]
    Cors,
    ExternalAuth,
}

impl fmt::Display for FilterKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UrlRewrite => f.write_str("URLRewrite"),
            Self::Cors => f.write_str("CORS"),
            other => write!(f, "{other:?}"),
        }
    }
}

/// HTTPRequestMirrorFilter.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RequestMirror {
    /// Where copies go.
    pub backend_ref: BackendTargetRef,
    /// 0 to 100 of a hundred requests.
    #[serde(default)]
    pub percent: Option<i32>,
    /// A finer share.
    #[serde(default)]
    pub fraction: Option<Fraction>,
}

/// A share of requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub struct Fraction {
    /// So many ...
    pub numerator: i32,
    /// ... of so many; default 100.
    #[serde(default = "hundred")]
    pub denominator: i32,
}

fn hundred() -> i32 {
    100
}

/// HTTPRequestRedirectFilter.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RequestRedirect {
    /// Scheme.
    #[serde(default)]
    pub scheme: Option<RedirectScheme>,
    /// Host.
    #[serde(default)]
    pub hostname: Option<Hostname>,
    /// Path.
    #[serde(default)]
    pub path: Option<PathModifier>,
    /// Port.
    #[serde(default)]
    pub port: Option<PortNumber>,
    /// Status.
    #[serde(default, deserialize_with = "nullable")]
    pub status_code: RedirectStatus,
}

/// Scheme of a Location.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RedirectScheme {
    /// http
    Http,
    /// https
    Https,
}

/// 301, 302, 303, 307 or 308.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub struct RedirectStatus(pub u16);

impl Default for RedirectStatus {
    fn default() -> Self {
        Self(302)
    }
}

/// HTTPURLRewriteFilter.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct UrlRewrite {
    /// Replaces Host.
    #[serde(default)]
    pub hostname: Option<Hostname>,
    /// Replaces the path.
    #[serde(default)]
    pub path: Option<PathModifier>,
}

/// HTTPExternalAuthFilter. Only checked: the agent doesn't support it.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ExternalAuth {
    protocol: ExternalAuthProtocol,
    backend_ref: BackendTargetRef,
    #[serde(default)]
    grpc: Option<ExternalAuthGrpc>,
    #[serde(default)]
    http: Option<ExternalAuthHttp>,
    #[serde(rename = "forwardBody", default)]
    body: Option<ForwardBody>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
enum ExternalAuthProtocol {
    Http,
    Grpc,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
struct ExternalAuthGrpc {
    #[serde(rename = "allowedHeaders", default, deserialize_with = "nullable")]
    _allowed_headers: List<String, 0, 64>,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
struct ExternalAuthHttp {
    #[serde(default)]
    path: Option<Bounded<0, 1024>>,
    #[serde(rename = "allowedHeaders", default, deserialize_with = "nullable")]
    _allowed_headers: List<String, 0, 64>,
    #[serde(rename = "allowedResponseHeaders", default, deserialize_with = "nullable")]
    _allowed_response_headers: List<String, 0, 64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
struct ForwardBody {
    #[serde(rename = "maxSize", default)]
    _max_size: Option<u32>,
}

impl RouteFilter {
    /// Exactly the part that belongs to the type, and valid.
    pub fn validate(&self) -> Result<(), FieldError> {
        for (kind, field, present) in [
            (
                FilterKind::RequestHeaderModifier,
                "requestHeaderModifier",
                self.request_header_modifier.is_some(),
            ),
            (
                FilterKind::ResponseHeaderModifier,
                "responseHeaderModifier",
                self.response_header_modifier.is_some(),
            ),
            (FilterKind::RequestMirror, "requestMirror", self.request_mirror.is_some()),
            (FilterKind::RequestRedirect, "requestRedirect", self.request_redirect.is_some()),
            (FilterKind::UrlRewrite, "urlRewrite", self.url_rewrite.is_some()),
            (FilterKind::Cors, "cors", self.cors.is_some()),
            (FilterKind::ExtensionRef, "extensionRef", self.extension_ref.is_some()),
            (FilterKind::ExternalAuth, "externalAuth", self.external_auth.is_some()),
        ] {
            if present && kind != self.kind {
                let message = format!("doesn't go with type {}: remove it or change the type", self.kind);
                return Err(FieldError::new(field, message));
            }
            if !present && kind == self.kind {
                return Err(FieldError::new(field, format!("missing for type {kind}: add it")));
            }
        }
        given("requestHeaderModifier", self.request_header_modifier.as_ref(), HeaderModifier::validate)?;
        given("responseHeaderModifier", self.response_header_modifier.as_ref(), HeaderModifier::validate)?;
        given("requestMirror", self.request_mirror.as_ref(), RequestMirror::validate)?;
        given("requestRedirect.statusCode", self.request_redirect.as_ref(), |redirect| {
            match redirect.status_code.0 {
                301 | 302 | 303 | 307 | 308 => Ok(()),
                code => Err(FieldError::new(
                    "",
                    format!("{code} isn't a redirect: expected 301, 302, 303, 307 or 308"),
                )),
            }
        })?;
        given(
            "requestRedirect.path",
            self.request_redirect.as_ref().and_then(|r| r.path.as_ref()),
            PathModifier::validate,
        )?;
        given(
            "urlRewrite.path",
            self.url_rewrite.as_ref().and_then(|r| r.path.as_ref()),
            PathModifier::validate,
        )?;
        given("cors", self.cors.as_ref(), Cors::validate)?;
        given("externalAuth", self.external_auth.as_ref(), ExternalAuth::validate)
    }

    /// The path that it replaces, with the path of the field.
    pub fn path_modifier(&self) -> Option<(&'static str, &PathModifier)> {
        let redirect = self.request_redirect.as_ref().and_then(|redirect| redirect.path.as_ref());
        let rewrite = self.url_rewrite.as_ref().and_then(|rewrite| rewrite.path.as_ref());
        redirect
            .map(|path| ("requestRedirect.path", path))
            .or_else(|| rewrite.map(|path| ("urlRewrite.path", path)))
    }
}

impl RequestMirror {
    fn validate(&self) -> Result<(), FieldError> {
        given("backendRef", Some(&self.backend_ref), BackendTargetRef::validate)?;
        let refuse = |field: &str, message: String| Err(FieldError::new(field, message));
        match (self.percent, self.fraction) {
            (Some(_), Some(_)) => refuse("percent", "stands beside fraction: remove one of the two".into()),
            (Some(percent), None) if !(0..=100).contains(&percent) => {
                refuse("percent", format!("{percent} isn't a percentage: expected 0 to 100"))
            }
            (None, Some(Fraction { numerator, denominator })) => {
                if denominator < 1 {
                    return refuse(
                        "fraction.denominator",
                        format!("{denominator} is too small: expected 1 or more"),
                    );
                }
                if !(0..=denominator).contains(&numerator) {
                    let message =
                        format!("{numerator} isn't part of {denominator}: expected 0 to {denominator}");
                    return refuse("fraction.numerator", message);
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }
}

impl ExternalAuth {
    fn validate(&self) -> Result<(), FieldError> {
        given("backendRef", Some(&self.backend_ref), BackendTargetRef::validate)?;
        let http = self.protocol == ExternalAuthProtocol::Http;
        for (field, present, wanted) in
            [("http", self.http.is_some(), http), ("grpc", self.grpc.is_some(), !http)]
        {
            if present != wanted {
                let message = if wanted {
                    "missing for this protocol: add it"
                } else {
                    "doesn't go with this protocol: remove it"
                };
                return Err(FieldError::new(field, message));
            }
        }
        match self.http.as_ref().and_then(|http| http.path.as_deref()) {
            Some(path) if !is_path(path) => Err(FieldError::new(
                "http.path",
                format!("{path:?} contains a character that no path has: write it as %XX"),
            )),
            _ => Ok(()),
        }
    }
}

/// What holds of the filters of one rule or backend: each valid, of a kind in `allowed`, most kinds once at most.
pub(in crate::objects) fn check_filters(
    filters: &[RouteFilter],
    allowed: &[FilterKind],
) -> Result<(), FieldError> {
    let repeatable = [FilterKind::RequestMirror, FilterKind::ExtensionRef, FilterKind::ExternalAuth];
    for (index, filter) in filters.iter().enumerate() {
        let at = |field: &str| format!("filters[{index}]{field}");
        if !allowed.contains(&filter.kind) {
            let message = format!("this route can't have a {} filter: remove it", filter.kind);
            return Err(FieldError::new(at(".type"), message));
        }
        filter.validate().map_err(|error| error.within(&at("")))?;
        let earlier = |kind| filters[..index].iter().any(|other| other.kind == kind);
        if !repeatable.contains(&filter.kind) && earlier(filter.kind) {
            let message = format!("{} stands here twice: put both into one filter", filter.kind);
            return Err(FieldError::new(at(".type"), message));
        }
        let other = match filter.kind {
            FilterKind::RequestRedirect => FilterKind::UrlRewrite,
            FilterKind::UrlRewrite => FilterKind::RequestRedirect,
            _ => continue,
        };
        if earlier(other) {
            let message = format!("{} can't stand beside {other}: remove one of the two", filter.kind);
            return Err(FieldError::new(at(".type"), message));
        }
    }
    Ok(())
}

//! What a route asks of a request: path, headers, query parameters, method; of a gRPC call, service and method.
//!
//! The compiler fills these types from HTTPRouteMatch and GRPCRouteMatch; `super::table` puts them in order and asks
//! them of each request. Nothing here allocates while a request is matched, but for a regular expression on a header
//! that came in several lines.

use std::fmt;

use http::Method;
use http::header::HeaderName;

use super::pattern::Pattern;

/// HTTPRouteMatch or GRPCRouteMatch: all of it must hold. The default is the Gateway API's: PathPrefix `/`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Match {
    /// Of the path, or of the gRPC service and method that it names.
    pub path: PathMatch,
    /// Of header fields; of several for one name only the first counts (HTTPRouteMatch.headers).
    pub headers: Vec<HeaderMatch>,
    /// Of query parameters; of several for one name only the first counts (HTTPRouteMatch.queryParams).
    pub query: Vec<QueryMatch>,
    /// None: any.
    pub method: Option<Method>,
}

impl Default for Match {
    fn default() -> Self {
        Self { path: PathMatch::prefix("/"), headers: Vec::new(), query: Vec::new(), method: None }
    }
}

/// HTTPPathMatch, or GRPCMethodMatch. Paths are compared as they came, without decoding, as Envoy does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PathMatch {
    /// The path is this.
    Exact(String),
    /// The path's first segments are these; see [`PathMatch::prefix`].
    Prefix(String),
    /// The whole path matches.
    Regex(Pattern),
    /// The path is `/SERVICE/METHOD` (gRPC over HTTP/2, "Requests").
    Grpc(GrpcMatch),
}

impl PathMatch {
    /// PathPrefix of `value`: kept without slashes at its end, which don't count (`/foo/` is `/foo`, `/` is empty).
    pub fn prefix(value: &str) -> Self {
        Self::Prefix(value.trim_end_matches('/').to_owned())
    }
}

/// GRPCMethodMatch. None: any.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GrpcMatch {
    /// The service with its package, as `com.example.Greeter`.
    pub service: Option<ValueMatch>,
    /// The method.
    pub method: Option<ValueMatch>,
}

/// HTTPHeaderMatch or GRPCHeaderMatch. A field in several lines is matched as one, joined by `,` as Envoy does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeaderMatch {
    /// In any case.
    pub name: HeaderName,
    /// Of its value.
    pub value: ValueMatch,
}

/// HTTPQueryParamMatch. Names and values are compared as they came, without decoding, as Envoy does and since the
/// Gateway API says "exact string match"; the first parameter of the name counts, as HTTPQueryParamMatch recommends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QueryMatch {
    /// In this case.
    pub name: String,
    /// Of its value; of a name without `=`, the empty one.
    pub value: ValueMatch,
}

/// Exact or RegularExpression.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ValueMatch {
    /// It is this, byte by byte.
    Exact(String),
    /// All of it matches.
    Regex(Pattern),
}

impl ValueMatch {
    /// True if `value` is what is asked.
    pub fn matches(&self, value: &[u8]) -> bool {
        match self {
            Self::Exact(exact) => exact.as_bytes() == value,
            Self::Regex(pattern) => pattern.matches(value),
        }
    }

    /// How much was written: what GRPCRouteRule counts as the characters of a matching service or method.
    pub fn characters(&self) -> usize {
        match self {
            Self::Exact(exact) => exact.chars().count(),
            Self::Regex(pattern) => pattern.as_str().chars().count(),
        }
    }
}

/// In one line: `PathPrefix /cart, POST, header x-beta=yes, query debug~[01]`; `~` stands before an expression.
impl fmt::Display for Match {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.path)?;
        if let Some(method) = &self.method {
            write!(f, ", {method}")?;
        }
        for HeaderMatch { name, value } in &self.headers {
            write!(f, ", header {name}{}{value}", value.sign())?;
        }
        for QueryMatch { name, value } in &self.query {
            write!(f, ", query {name}{}{value}", value.sign())?;
        }
        Ok(())
    }
}

impl fmt::Display for PathMatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(path) => write!(f, "Exact {path}"),
            Self::Prefix(path) if path.is_empty() => f.write_str("PathPrefix /"),
            Self::Prefix(path) => write!(f, "PathPrefix {path}"),
            Self::Regex(pattern) => write!(f, "RegularExpression {}", pattern.as_str()),
            Self::Grpc(GrpcMatch { service, method }) => {
                let part = |part: &Option<ValueMatch>| match part {
                    None => "*".to_owned(),
                    Some(ValueMatch::Exact(name)) => name.clone(),
                    Some(ValueMatch::Regex(pattern)) => format!("~{}", pattern.as_str()),
                };
                write!(f, "call {}/{}", part(service), part(method))
            }
        }
    }
}

impl fmt::Display for ValueMatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Exact(exact) => exact,
            Self::Regex(pattern) => pattern.as_str(),
        })
    }
}

impl ValueMatch {
    fn sign(&self) -> char {
        match self {
            Self::Exact(_) => '=',
            Self::Regex(_) => '~',
        }
    }
}

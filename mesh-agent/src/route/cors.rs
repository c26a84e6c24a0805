//! Cross-origin requests: what a preflight is answered with, and what a response says to the page that asked.
//!
//! HTTPCORSFilter (GEP-1767) decides in the application's place: a preflight never reaches it, and what it says itself
//! about origins and credentials doesn't get past the filter. What a preflight is comes from the Fetch standard
//! ("CORS-preflight request"), as does Vary ("CORS protocol and HTTP caches").

use http::header::{
    ACCESS_CONTROL_ALLOW_CREDENTIALS, ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS,
    ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE,
    ACCESS_CONTROL_REQUEST_HEADERS, ACCESS_CONTROL_REQUEST_METHOD, HeaderMap, HeaderName, HeaderValue,
    ORIGIN, VARY,
};
use http::{Method, request};

use super::edit::HeaderEdits;

/// CORS filter (GEP-1767).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cors {
    /// Origins that may ask.
    pub origins: Vec<OriginPattern>,
    /// Access-Control-Allow-Credentials.
    pub credentials: bool,
    /// Methods; `*` is [`None`].
    pub methods: Option<Vec<Method>>,
    /// Request headers; `*` is [`None`].
    pub headers: Option<Vec<HeaderName>>,
    /// Access-Control-Expose-Headers, ready to be sent.
    pub expose: Option<HeaderValue>,
    /// Access-Control-Max-Age in seconds.
    pub max_age: u32,
}

/// One of `allowOrigins`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OriginPattern {
    /// `*`
    Any,
    /// As it is; without a port, that of its scheme.
    Exact(String),
    /// `scheme://*.rest[:port]`: any host that ends in `.rest`; `scheme://*[:port]`: any host.
    Suffix {
        /// With `://`.
        scheme: String,
        /// With the dot, and the port if there is one.
        rest: String,
    },
}

impl Cors {
    /// The headers of the answer to a preflight, whose status is 200 or 204; none of them if the origin isn't allowed.
    /// None: this is no preflight (OPTIONS with Origin and Access-Control-Request-Method).
    pub fn preflight(&self, head: &request::Parts) -> Option<HeaderMap> {
        let origin = head.headers.get(ORIGIN)?;
        let method = head.headers.get(ACCESS_CONTROL_REQUEST_METHOD)?;
        if head.method != Method::OPTIONS {
            return None;
        }
        let mut answer = HeaderMap::new();
        if self.varies() {
            answer.insert(VARY, HeaderValue::from_name(ORIGIN));
        }
        if self.allows(origin) {
            self.allow(&mut answer, origin, method, head.headers.get(ACCESS_CONTROL_REQUEST_HEADERS));
        }
        Some(answer)
    }

    /// What changes in the response to any other request with these headers.
    pub fn actual(&self, request: &HeaderMap) -> HeaderEdits {
        let mut edits = HeaderEdits::default();
        if self.varies() {
            edits.add.push((VARY, HeaderValue::from_name(ORIGIN)));
        }
        let Some(origin) = request.get(ORIGIN) else {
            return edits;
        };
        if !self.allows(origin) {
            edits.remove = vec![
                ACCESS_CONTROL_ALLOW_ORIGIN,
                ACCESS_CONTROL_ALLOW_CREDENTIALS,
                ACCESS_CONTROL_EXPOSE_HEADERS,
            ];
            return edits;
        }
        edits.set.push((ACCESS_CONTROL_ALLOW_ORIGIN, self.allowed(origin)));
        if self.credentials {
            edits.set.push((ACCESS_CONTROL_ALLOW_CREDENTIALS, HeaderValue::from_static("true")));
        } else {
            edits.remove.push(ACCESS_CONTROL_ALLOW_CREDENTIALS);
        }
        edits.set.extend(self.exposed().map(|expose| (ACCESS_CONTROL_EXPOSE_HEADERS, expose)));
        edits
    }

    /// A wildcard means nothing beside credentials (Fetch, "CORS protocol and credentials").
    fn exposed(&self) -> Option<HeaderValue> {
        self.expose.clone().filter(|expose| !self.credentials || expose != "*")
    }

    /// Wildcards are answered with what was asked for: right beside credentials too, and `*` wouldn't mean Authorization
    /// (Fetch, "CORS non-wildcard request-header name").
    fn allow(
        &self,
        answer: &mut HeaderMap,
        origin: &HeaderValue,
        method: &HeaderValue,
        headers: Option<&HeaderValue>,
    ) {
        answer.insert(ACCESS_CONTROL_ALLOW_ORIGIN, self.allowed(origin));
        if self.credentials {
            answer.insert(ACCESS_CONTROL_ALLOW_CREDENTIALS, HeaderValue::from_static("true"));
        }
        let methods = match &self.methods {
            Some(methods) => list(methods.iter().map(Method::as_str)),
            None => Some(method.clone()),
        };
        let headers = match &self.headers {
            Some(headers) => list(headers.iter().map(HeaderName::as_str)),
            None => headers.cloned(),
        };
        answer.extend(methods.map(|methods| (ACCESS_CONTROL_ALLOW_METHODS, methods)));
        answer.extend(headers.map(|headers| (ACCESS_CONTROL_ALLOW_HEADERS, headers)));
        // No browser asks for it here, but the API has it in the answers to preflights too (HTTPCORSFilter.exposeHeaders).
        answer.extend(self.exposed().map(|expose| (ACCESS_CONTROL_EXPOSE_HEADERS, expose)));
        answer.insert(ACCESS_CONTROL_MAX_AGE, self.max_age.into());
    }

    fn allows(&self, origin: &HeaderValue) -> bool {
        origin.to_str().is_ok_and(|origin| self.origins.iter().any(|pattern| pattern.matches(origin)))
    }

    fn allowed(&self, origin: &HeaderValue) -> HeaderValue {
        if self.varies() { origin.clone() } else { HeaderValue::from_static("*") }
    }

    /// True if the answer depends on the origin, which caches have to be told.
    fn varies(&self) -> bool {
        self.credentials || !self.origins.contains(&OriginPattern::Any)
    }
}

fn list<'a>(names: impl Iterator<Item = &'a str>) -> Option<HeaderValue> {
    let names: Vec<&str> = names.collect();
    HeaderValue::try_from(names.join(", ")).ok().filter(|names| !names.is_empty())
}

impl OriginPattern {
    /// True if a page of `origin` may ask.
    fn matches(&self, origin: &str) -> bool {
        match self {
            Self::Any => true,
            Self::Exact(exact) => match (split(exact), split(origin)) {
                (Some(exact), Some(origin)) => same(exact, origin, str::eq_ignore_ascii_case),
                _ => exact == origin,
            },
            Self::Suffix { scheme, rest } => {
                let pattern = scheme.strip_suffix("://").map(|scheme| (scheme, rest.as_str()));
                matches!((pattern, split(origin)), (Some(pattern), Some(origin)) if same(pattern, origin, ends_with))
            }
        }
    }
}

/// Scheme, and host with port.
fn split(origin: &str) -> Option<(&str, &str)> {
    origin.split_once("://")
}

fn same(one: (&str, &str), other: (&str, &str), hosts: impl Fn(&str, &str) -> bool) -> bool {
    let (host, port) = host_and_port(one);
    let (other_host, other_port) = host_and_port(other);
    one.0.eq_ignore_ascii_case(other.0) && port == other_port && hosts(host, other_host)
}

/// True if something, and then `suffix`, is `host`.
fn ends_with(suffix: &str, host: &str) -> bool {
    let start = host.len().checked_sub(suffix.len()).filter(|start| *start > 0);
    start.and_then(|start| host.get(start..)).is_some_and(|end| end.eq_ignore_ascii_case(suffix))
}

/// The port as text: what isn't there is the scheme's (HTTPCORSFilter.allowOrigins).
fn host_and_port<'a>((scheme, authority): (&'a str, &'a str)) -> (&'a str, &'a str) {
    let default = if scheme.eq_ignore_ascii_case("https") { "443" } else { "80" };
    match authority.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => (host, port),
        _ => (authority, default),
    }
}

#[cfg(test)]
mod tests;

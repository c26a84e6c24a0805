//! RequestRedirect and URLRewrite: where a redirect points, and the path that a request is forwarded with.
//!
//! Pure; `proxy` answers with the Location or puts the path into the request that it forwards.

use http::header::{self, HeaderValue};
use http::{StatusCode, Uri, request};

/// RequestRedirect. What is None stays as the request has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Redirect {
    /// `http` or `https`.
    pub scheme: Option<String>,
    /// Hostname of the Location.
    pub hostname: Option<String>,
    /// Path of the Location.
    pub path: Option<PathRewrite>,
    /// Port of the Location. None: the well-known port of a scheme that is given, else the port that was dialled.
    pub port: Option<u16>,
    /// 301, 302 (default), 303, 307 or 308.
    pub status: StatusCode,
}

/// URLRewrite.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rewrite {
    /// Replaces Host.
    pub hostname: Option<HeaderValue>,
    /// Replaces the path; the query stays.
    pub path: Option<PathRewrite>,
}

/// HTTPPathModifier.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PathRewrite {
    /// ReplaceFullPath.
    Full(String),
    /// ReplacePrefixMatch: put in the place of what the rule's PathPrefix matched, [`super::Found::prefix`].
    Prefix(String),
}

impl Redirect {
    /// The Location for a request whose first `prefix` bytes of path the rule matched, as HTTPRequestRedirectFilter says.
    ///
    /// `dialled` and `scheme` are of the connection: the mesh's counterparts of a Gateway's listener. A request that names
    /// no host (HTTP/1.0) gets a Location without one, unless the filter has a hostname (RFC 9110, 10.2.2).
    pub fn location(&self, head: &request::Parts, prefix: usize, dialled: u16, scheme: &str) -> String {
        let path = match &self.path {
            Some(path) => path.apply(&head.uri, prefix),
            // A Location for `OPTIONS *` can only name the server.
            None if head.uri.path() == "*" => "/".to_owned(),
            None => with_query(head.uri.path().to_owned(), &head.uri),
        };
        let Some(host) = self.hostname.as_deref().or_else(|| requested_host(head)) else {
            return path;
        };
        let own = self.scheme.as_deref();
        let port = self.port.or_else(|| well_known(own?)).unwrap_or(dialled);
        let scheme = own.unwrap_or(scheme);
        if well_known(scheme) == Some(port) {
            format!("{scheme}://{host}{path}")
        } else {
            format!("{scheme}://{host}:{port}{path}")
        }
    }
}

impl PathRewrite {
    /// The new path, with the query of `uri`; the rule matched the first `prefix` bytes of its path.
    pub fn apply(&self, uri: &Uri, prefix: usize) -> String {
        let path = match self {
            Self::Full(path) => path.clone(),
            Self::Prefix(replacement) => {
                let rest = uri.path().get(prefix..).unwrap_or_default();
                format!("{}{rest}", replacement.trim_end_matches('/'))
            }
        };
        let path = if path.starts_with('/') { path } else { format!("/{path}") };
        with_query(path, uri)
    }
}

fn with_query(path: String, uri: &Uri) -> String {
    match uri.query() {
        Some(query) => format!("{path}?{query}"),
        None => path,
    }
}

fn well_known(scheme: &str) -> Option<u16> {
    match scheme {
        "http" => Some(80),
        "https" => Some(443),
        _ => None,
    }
}

/// Of `:authority` or Host, without the port; an IPv6 address with its brackets.
fn requested_host(head: &request::Parts) -> Option<&str> {
    let host = match head.uri.authority() {
        Some(authority) => authority.as_str(),
        None => head.headers.get(header::HOST)?.to_str().ok()?,
    };
    let end = host.rfind(']').map_or_else(|| host.find(':'), |bracket| Some(bracket + 1));
    end.map_or(Some(host), |end| host.get(..end)).filter(|host| !host.is_empty())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn head(uri: &str, host: Option<&str>) -> request::Parts {
        let mut request = http::Request::builder().uri(uri);
        if let Some(host) = host {
            request = request.header(header::HOST, host);
        }
        request.body(()).unwrap().into_parts().0
    }

    /// The table in HTTPPathModifier's documentation, and what it implies for queries and for `/`.
    #[test]
    fn a_prefix_is_replaced_as_documented() {
        let check = |path: &str, prefix: &str, replacement: &str, expected: &str| {
            let rewrite = PathRewrite::Prefix(replacement.to_owned());
            let matched = prefix.trim_end_matches('/').len();
            assert_eq!(
                rewrite.apply(&path.parse().unwrap(), matched),
                expected,
                "{path} {prefix} {replacement}"
            );
        };
        check("/foo/bar", "/foo", "/xyz", "/xyz/bar");
        check("/foo/bar", "/foo", "/xyz/", "/xyz/bar");
        check("/foo/bar", "/foo/", "/xyz", "/xyz/bar");
        check("/foo/bar", "/foo/", "/xyz/", "/xyz/bar");
        check("/foo", "/foo", "/xyz", "/xyz");
        check("/foo/", "/foo", "/xyz", "/xyz/");
        check("/foo/bar", "/foo", "", "/bar");
        check("/foo/", "/foo", "", "/");
        check("/foo", "/foo", "", "/");
        check("/foo/", "/foo", "/", "/");
        check("/foo", "/foo", "/", "/");
        check("/foo?a=/foo", "/foo", "", "/?a=/foo");
        check("/foo/bar?a=1&b", "/foo", "/xyz", "/xyz/bar?a=1&b");
        check("/a", "/", "/xyz", "/xyz/a");
        check("/foo/bar", "/foo", "xyz", "/xyz/bar");
    }

    #[test]
    fn a_full_path_is_replaced_and_the_query_stays() {
        let check = |path: &str, replacement: &str, expected: &str| {
            let rewrite = PathRewrite::Full(replacement.to_owned());
            assert_eq!(rewrite.apply(&path.parse().unwrap(), 0), expected, "{path} {replacement}");
        };
        check("/foo/bar", "/x/", "/x/");
        check("/foo?q=1", "/x", "/x?q=1");
        check("/foo?", "/x", "/x?");
        check("/foo", "", "/");
    }

    #[test]
    fn a_location_takes_its_parts_from_filter_request_and_connection() {
        let check =
            |scheme: Option<&str>, hostname: Option<&str>, port: Option<u16>, dialled, expected: &str| {
                let redirect = Redirect {
                    scheme: scheme.map(str::to_owned),
                    hostname: hostname.map(str::to_owned),
                    path: None,
                    port,
                    status: StatusCode::FOUND,
                };
                let head = head("/a?q=1", Some("shop.test:9999"));
                assert_eq!(redirect.location(&head, 0, dialled, "http"), expected);
            };
        check(None, None, None, 80, "http://shop.test/a?q=1");
        check(None, None, None, 8080, "http://shop.test:8080/a?q=1");
        check(None, Some("other.test"), None, 8080, "http://other.test:8080/a?q=1");
        check(Some("https"), None, None, 8080, "https://shop.test/a?q=1");
        check(Some("http"), None, None, 8080, "http://shop.test/a?q=1");
        check(Some("https"), None, Some(80), 8080, "https://shop.test:80/a?q=1");
        check(Some("https"), None, Some(443), 8080, "https://shop.test/a?q=1");
        check(None, None, Some(80), 8080, "http://shop.test/a?q=1");
        check(None, None, Some(8443), 80, "http://shop.test:8443/a?q=1");
        check(None, None, None, 443, "http://shop.test:443/a?q=1");
    }

    #[test]
    fn a_location_names_the_host_that_the_request_named() {
        let check = |uri: &str, host: Option<&str>, expected: &str| {
            let path = Some(PathRewrite::Prefix("/new".into()));
            let redirect =
                Redirect { scheme: None, hostname: None, path, port: None, status: StatusCode::FOUND };
            assert_eq!(redirect.location(&head(uri, host), 4, 80, "http"), expected, "{uri} {host:?}");
        };
        check("/old/x", Some("a.test"), "http://a.test/new/x");
        check("/old", Some("[::1]:8080"), "http://[::1]/new");
        check("/old", Some("[::1]"), "http://[::1]/new");
        check("http://b.test:81/old?q", Some("a.test"), "http://b.test/new?q");
        check("/old/", None, "/new/");
        check("/old/", Some(""), "/new/");
    }
}

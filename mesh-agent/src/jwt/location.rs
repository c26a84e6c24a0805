//! Where a request carries its token: header, query parameter or cookie, and how it is taken out of there.
//!
//! Used by `authenticate`. Every value at a place counts, not only the first: an application that reads the last one would
//! otherwise take a token that nobody verified. Tokens are found as they were sent; one that needs decoding isn't one.

use http::header::{AUTHORIZATION, COOKIE, HeaderMap, HeaderName, HeaderValue};
use http::request;
use http::uri::{PathAndQuery, Uri};

/// A place in a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Location {
    /// `Authorization: Bearer TOKEN`; the scheme in any case (RFC 9110, 11.1).
    Bearer,
    /// A header; what comes after the prefix.
    Header {
        /// Its name.
        name: HeaderName,
        /// A line that doesn't begin with it carries no token.
        prefix: String,
    },
    /// A query parameter.
    Param(String),
    /// A cookie.
    Cookie(String),
}

impl Location {
    /// Where a token is looked for unless the rule says otherwise (Istio, JWTRule; Envoy, JwtProvider).
    pub fn defaults() -> Vec<Self> {
        vec![Self::Bearer, Self::Param("access_token".to_owned())]
    }

    /// Calls `found` with every token at this place.
    pub(super) fn tokens<'h>(&self, head: &'h request::Parts, mut found: impl FnMut(&'h str)) {
        match self {
            Self::Bearer => lines(&head.headers, &AUTHORIZATION, |line| after_scheme(line), &mut found),
            Self::Header { name, prefix } => {
                lines(&head.headers, name, |line| line.strip_prefix(prefix.as_bytes()), &mut found);
            }
            Self::Param(name) => {
                let params = head.uri.query().into_iter().flat_map(|query| query.split('&'));
                let values = params.filter_map(|param| value_of(param, name));
                values.for_each(found);
            }
            Self::Cookie(name) => {
                let crumbs = head.headers.get_all(COOKIE).iter().flat_map(crumbs);
                crumbs.filter_map(|crumb| cookie(crumb, name)).for_each(|value| found(text(value)));
            }
        }
    }

    /// The header that carries it, if a header of its own does.
    pub(super) fn header(&self) -> Option<&HeaderName> {
        match self {
            Self::Bearer => Some(&AUTHORIZATION),
            Self::Header { name, .. } => Some(name),
            Self::Param(_) | Self::Cookie(_) => None,
        }
    }
}

/// What is no text is no token; it is refused as one that is broken.
fn text(value: &[u8]) -> &str {
    std::str::from_utf8(value).unwrap_or("")
}

fn lines<'h>(
    headers: &'h HeaderMap,
    name: &HeaderName,
    token: impl Fn(&'h [u8]) -> Option<&'h [u8]>,
    found: &mut impl FnMut(&'h str),
) {
    let values = headers.get_all(name).iter().filter_map(|line| token(line.as_bytes()));
    values.for_each(|value| found(text(value)));
}

fn after_scheme(line: &[u8]) -> Option<&[u8]> {
    let (scheme, rest) = line.split_at_checked(6)?;
    let rest = rest.strip_prefix(b" ").filter(|_| scheme.eq_ignore_ascii_case(b"Bearer"))?;
    Some(rest.trim_ascii_start())
}

/// The value of a parameter whose name, once decoded, is `name`.
fn value_of<'p>(param: &'p str, name: &str) -> Option<&'p str> {
    let (own, value) = param.split_once('=').unwrap_or((param, ""));
    decodes_to(own, name).then_some(value)
}

/// True if `encoded` stands for `plain` in a query (WHATWG URL, application/x-www-form-urlencoded). An application decodes
/// names, and would find there what the agent overlooked.
fn decodes_to(encoded: &str, plain: &str) -> bool {
    let (mut encoded, mut plain) = (encoded.bytes(), plain.bytes());
    loop {
        let byte = match encoded.next() {
            None => return plain.next().is_none(),
            Some(b'+') => b' ',
            Some(b'%') => {
                let mut ahead = encoded.clone();
                let digit = |byte: Option<u8>| byte.and_then(|byte| char::from(byte).to_digit(16));
                match (digit(ahead.next()), digit(ahead.next())) {
                    (Some(high), Some(low)) => {
                        encoded = ahead;
                        (high * 16 + low) as u8
                    }
                    _ => b'%',
                }
            }
            Some(byte) => byte,
        };
        if plain.next() != Some(byte) {
            return false;
        }
    }
}

fn crumbs(line: &HeaderValue) -> impl Iterator<Item = &[u8]> {
    line.as_bytes().split(|byte| *byte == b';').map(<[u8]>::trim_ascii)
}

/// The value of a cookie of this name, without the quotes that may be around it (RFC 6265, 4.1.1).
fn cookie<'c>(crumb: &'c [u8], name: &str) -> Option<&'c [u8]> {
    let at = memchr::memchr(b'=', crumb)?;
    let (own, value) = (crumb[..at].trim_ascii(), crumb[at + 1..].trim_ascii());
    let unquoted = value.strip_prefix(b"\"").and_then(|rest| rest.strip_suffix(b"\""));
    (own == name.as_bytes()).then_some(unquoted.unwrap_or(value))
}

/// The Cookie lines without these cookies.
pub(super) fn without_cookies(headers: &HeaderMap, names: &[&str]) -> Vec<HeaderValue> {
    let mut lines = Vec::new();
    for line in headers.get_all(COOKIE) {
        let gone = |crumb: &&[u8]| names.iter().any(|name| cookie(crumb, name).is_some());
        let stays: Vec<_> = crumbs(line).filter(|crumb| !gone(crumb) && !crumb.is_empty()).collect();
        if let Ok(line) = HeaderValue::from_bytes(&stays.join(&b"; "[..]))
            && !line.is_empty()
        {
            lines.push(line);
        }
    }
    lines
}

/// The target without these parameters; None if it can't be made, which doesn't happen for a part of one that was valid.
pub(super) fn without_params(uri: &Uri, names: &[&str]) -> Option<Uri> {
    let gone = |param: &&str| names.iter().any(|name| value_of(param, name).is_some());
    let stays: Vec<&str> = uri.query()?.split('&').filter(|param| !gone(param)).collect();
    let target = match &*stays.join("&") {
        "" => uri.path().to_owned(),
        query => format!("{}?{query}", uri.path()),
    };
    let mut parts = uri.clone().into_parts();
    parts.path_and_query = Some(PathAndQuery::try_from(target).ok()?);
    Uri::from_parts(parts).ok()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use http::Request;

    use super::*;

    fn head(uri: &str, headers: &[(&str, &str)]) -> request::Parts {
        let mut request = Request::builder().uri(uri);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.body(()).unwrap().into_parts().0
    }

    fn at(location: &Location, head: &request::Parts) -> Vec<String> {
        let mut found = Vec::new();
        location.tokens(head, |token| found.push(token.to_owned()));
        found
    }

    #[test]
    fn bearer_tokens_are_found_whatever_the_case_of_the_scheme() {
        fn check(line: &str, want: &[&str]) {
            assert_eq!(at(&Location::Bearer, &head("/", &[("authorization", line)])), want, "{line}");
        }
        check("Bearer a.b.c", &["a.b.c"]);
        check("bearer a.b.c", &["a.b.c"]);
        check("BEARER   a.b.c", &["a.b.c"]);
        check("Bearer ", &[""]);
        for none in ["Bearer", "Bearera.b.c", "Basic a.b.c", "", "a.b.c", "Token Bearer a.b.c"] {
            check(none, &[]);
        }
        let two = head("/", &[("authorization", "Bearer a"), ("authorization", "Bearer b")]);
        assert_eq!(at(&Location::Bearer, &two), ["a", "b"]);
    }

    #[test]
    fn headers_have_the_prefix_of_the_rule_exactly() {
        let location = |prefix: &str| Location::Header {
            name: HeaderName::from_static("x-token"),
            prefix: prefix.to_owned(),
        };
        fn check(location: &Location, line: &str, want: &[&str]) {
            assert_eq!(at(location, &head("/", &[("X-Token", line)])), want, "{line}");
        }
        check(&location(""), "a.b.c", &["a.b.c"]);
        check(&location("JWT "), "JWT a.b.c", &["a.b.c"]);
        check(&location("JWT "), "jwt a.b.c", &[]);
        check(&location("JWT "), "a.b.c", &[]);
    }

    #[test]
    fn every_parameter_of_the_name_counts_however_it_is_spelled() {
        let location = Location::Param("access_token".to_owned());
        fn check(location: &Location, query: &str, want: &[&str]) {
            assert_eq!(at(location, &head(&format!("/p?{query}"), &[])), want, "{query}");
        }
        check(&location, "access_token=a.b.c", &["a.b.c"]);
        check(&location, "x=1&access_token=a&y&access_token=b", &["a", "b"]);
        check(&location, "access%5Ftoken=a", &["a"]);
        check(&location, "%61ccess%5ftoken=a", &["a"]);
        check(&location, "access_token", &[""]);
        check(&location, "access_token=a=b", &["a=b"]);
        for none in [
            "",
            "access_token2=a",
            "Access_Token=a",
            "xaccess_token=a",
            "access+token=a",
            "%=a",
            "access%5=a",
        ] {
            check(&location, none, &[]);
        }
        assert_eq!(at(&location, &head("/p", &[])), [""; 0]);
    }

    #[test]
    fn cookies_are_found_in_every_line() {
        let location = Location::Cookie("session".to_owned());
        fn check(location: &Location, lines: &[&str], want: &[&str]) {
            let headers: Vec<_> = lines.iter().map(|line| ("cookie", *line)).collect();
            assert_eq!(at(location, &head("/", &headers)), want, "{lines:?}");
        }
        check(&location, &["session=a.b.c"], &["a.b.c"]);
        check(&location, &["x=1; session=a; y=2", "session=\"b\""], &["a", "b"]);
        check(&location, &["x=1;session = a "], &["a"]);
        check(&location, &["session="], &[""]);
        check(&location, &["Session=a; sessions=b; xsession=c; session"], &[]);
    }

    #[test]
    fn what_is_taken_out_leaves_the_rest_as_it_was() {
        fn params(uri: &str, want: &str) {
            let got = without_params(&uri.parse().unwrap(), &["t", "u"]).unwrap();
            assert_eq!(got.to_string(), want, "{uri}");
        }
        params("/p?t=1", "/p");
        params("/p?a=%20&t=1&b&t=2&u=3", "/p?a=%20&b");
        params("http://h:1/p?%74=1&c=3", "http://h:1/p?c=3");
        fn cookies(lines: &[&str], want: &[&str]) {
            let headers: Vec<_> = lines.iter().map(|line| ("cookie", *line)).collect();
            assert_eq!(without_cookies(&head("/", &headers).headers, &["t"]), want, "{lines:?}");
        }
        cookies(&["t=1"], &[]);
        cookies(&["a=1; t=1;b=2", "c=3; "], &["a=1; b=2", "c=3"]);
    }
}

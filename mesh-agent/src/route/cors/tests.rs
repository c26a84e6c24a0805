//! Preflights and responses, by the words of HTTPCORSFilter.
#![allow(clippy::unwrap_used)]

use super::*;

fn cors() -> Cors {
    Cors {
        origins: vec![
            OriginPattern::Exact("https://www.foo.com".into()),
            OriginPattern::Suffix { scheme: "http://".into(), rest: ".bar.com".into() },
        ],
        credentials: false,
        methods: Some(vec![Method::GET, Method::PUT]),
        headers: Some(vec![HeaderName::from_static("x-header-1"), HeaderName::from_static("x-header-2")]),
        expose: Some(HeaderValue::from_static("x-header-3")),
        max_age: 1728,
    }
}

fn wildcards(credentials: bool) -> Cors {
    Cors {
        origins: vec![OriginPattern::Any],
        credentials,
        methods: None,
        headers: None,
        expose: Some(HeaderValue::from_static("*")),
        max_age: 5,
    }
}

fn head(method: Method, headers: &[(&str, &str)]) -> request::Parts {
    let request = http::Request::builder().method(method).uri("/");
    let request = headers.iter().fold(request, |request, (name, value)| request.header(*name, *value));
    request.body(()).unwrap().into_parts().0
}

fn lines(headers: &HeaderMap) -> Vec<String> {
    let mut lines: Vec<String> =
        headers.iter().map(|(name, value)| format!("{name}: {}", value.to_str().unwrap())).collect();
    lines.sort();
    lines
}

#[test]
fn a_preflight_is_answered_by_the_filter() {
    let check = |cors: &Cors, origin: &str, expected: &[&str]| {
        let asked = [
            ("origin", origin),
            ("access-control-request-method", "DELETE"),
            ("access-control-request-headers", "authorization, x-a"),
        ];
        let answer = cors.preflight(&head(Method::OPTIONS, &asked)).unwrap();
        assert_eq!(lines(&answer), expected, "{origin} {cors:?}");
    };
    check(
        &cors(),
        "https://www.foo.com",
        &[
            "access-control-allow-headers: x-header-1, x-header-2",
            "access-control-allow-methods: GET, PUT",
            "access-control-allow-origin: https://www.foo.com",
            "access-control-expose-headers: x-header-3",
            "access-control-max-age: 1728",
            "vary: origin",
        ],
    );
    check(&cors(), "https://evil.test", &["vary: origin"]);
    check(
        &wildcards(true),
        "https://a.test",
        &[
            "access-control-allow-credentials: true",
            "access-control-allow-headers: authorization, x-a",
            "access-control-allow-methods: DELETE",
            "access-control-allow-origin: https://a.test",
            "access-control-max-age: 5",
            "vary: origin",
        ],
    );
    check(
        &wildcards(false),
        "null",
        &[
            "access-control-allow-headers: authorization, x-a",
            "access-control-allow-methods: DELETE",
            "access-control-allow-origin: *",
            "access-control-expose-headers: *",
            "access-control-max-age: 5",
        ],
    );
    let nothing = Cors { methods: Some(vec![]), headers: Some(vec![]), expose: None, ..wildcards(false) };
    check(&nothing, "null", &["access-control-allow-origin: *", "access-control-max-age: 5"]);
}

#[test]
fn what_is_no_preflight_goes_on() {
    let check = |method: Method, headers: &[(&str, &str)], expected: bool| {
        let preflight = cors().preflight(&head(method.clone(), headers)).is_some();
        assert_eq!(preflight, expected, "{method} {headers:?}");
    };
    let origin = ("origin", "https://www.foo.com");
    let asks = ("access-control-request-method", "PUT");
    check(Method::OPTIONS, &[origin, asks], true);
    check(Method::OPTIONS, &[origin], false);
    check(Method::OPTIONS, &[asks], false);
    check(Method::GET, &[origin, asks], false);
}

#[test]
fn a_response_says_what_the_filter_says_in_the_applications_place() {
    let check = |cors: &Cors, origin: Option<&str>, expected: &[&str]| {
        let request: Vec<_> = origin.map(|origin| ("origin", origin)).into_iter().collect();
        let mut response = HeaderMap::new();
        response.insert(ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("from-application"));
        response.insert(ACCESS_CONTROL_ALLOW_CREDENTIALS, HeaderValue::from_static("true"));
        cors.actual(&head(Method::GET, &request).headers).apply(&mut response);
        assert_eq!(lines(&response), expected, "{origin:?} {cors:?}");
    };
    check(
        &cors(),
        Some("http://a.bar.com"),
        &[
            "access-control-allow-origin: http://a.bar.com",
            "access-control-expose-headers: x-header-3",
            "vary: origin",
        ],
    );
    check(&cors(), Some("http://bar.com"), &["vary: origin"]);
    check(
        &cors(),
        None,
        &[
            "access-control-allow-credentials: true",
            "access-control-allow-origin: from-application",
            "vary: origin",
        ],
    );
    check(
        &wildcards(true),
        Some("https://a.test"),
        &[
            "access-control-allow-credentials: true",
            "access-control-allow-origin: https://a.test",
            "vary: origin",
        ],
    );
    check(
        &wildcards(false),
        Some("https://a.test"),
        &["access-control-allow-origin: *", "access-control-expose-headers: *"],
    );
}

#[test]
fn origins_are_compared_by_scheme_host_and_port() {
    let exact = |origin: &str| OriginPattern::Exact(origin.into());
    let suffix = |rest: &str| OriginPattern::Suffix { scheme: "https://".into(), rest: rest.into() };
    let check = |pattern: OriginPattern, origin: &str, expected: bool| {
        assert_eq!(pattern.matches(origin), expected, "{pattern:?} {origin}");
    };
    check(OriginPattern::Any, "null", true);
    check(exact("https://a.com"), "https://a.com", true);
    check(exact("https://a.com"), "https://A.com:443", true);
    check(exact("https://a.com:443"), "https://a.com", true);
    check(exact("http://a.com:80"), "http://a.com", true);
    check(exact("https://a.com"), "https://a.com:80", false);
    check(exact("https://a.com"), "http://a.com", false);
    check(exact("https://a.com"), "https://b.com", false);
    check(exact("http://[::1]"), "http://[::1]:80", true);
    check(exact("https://a.com"), "null", false);
    check(suffix(".a.com"), "https://x.a.com", true);
    check(suffix(".a.com"), "https://y.x.a.com:443", true);
    check(suffix(".a.com"), "https://x.a.com:8443", false);
    check(suffix(".a.com:8443"), "https://x.a.com:8443", true);
    check(suffix(".a.com:8443"), "https://x.a.com", false);
    check(suffix(".a.com"), "https://a.com", false);
    check(suffix(".a.com"), "https://.a.com", false);
    check(suffix(".a.com"), "https://xa.com", false);
    check(suffix(".a.com"), "http://x.a.com", false);
    check(suffix(""), "https://any", true);
    check(suffix(""), "https://any:8443", false);
    check(suffix(":8443"), "https://any:8443", true);
}

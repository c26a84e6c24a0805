//! What filters of a rule and of a backend come to together.
#![allow(clippy::unwrap_used)]

use std::sync::Arc;

use http::Method;

use super::*;
use crate::proxy::testing;
use crate::route::{Cors, OriginPattern, PathRewrite, Rewrite};

fn head(method: Method, uri: &str, headers: &[(&str, &str)]) -> request::Parts {
    let request = http::Request::builder().method(method).uri(uri).header(HOST, "shop.test");
    let request = headers.iter().fold(request, |request, (name, value)| request.header(*name, *value));
    request.body(()).unwrap().into_parts().0
}

fn edits(set: &[(&'static str, &'static str)]) -> HeaderEdits {
    let line = |(name, value): &(&'static str, &'static str)| {
        (HeaderName::from_static(name), HeaderValue::from_static(value))
    };
    HeaderEdits { set: set.iter().map(line).collect(), ..HeaderEdits::default() }
}

fn cors(origin: &str) -> Option<Arc<Cors>> {
    Some(Arc::new(Cors {
        origins: vec![OriginPattern::Exact(origin.into())],
        credentials: true,
        methods: None,
        headers: None,
        expose: None,
        max_age: 5,
    }))
}

fn redirect(path: PathRewrite) -> Option<Redirect> {
    let (scheme, hostname, port) = (None, None, None);
    Some(Redirect { scheme, hostname, path: Some(path), port, status: StatusCode::FOUND })
}

fn rewrite(hostname: Option<&'static str>, path: Option<PathRewrite>) -> Filters {
    let hostname = hostname.map(HeaderValue::from_static);
    Filters { rewrite: Some(Rewrite { hostname, path }), ..Filters::default() }
}

fn rule(filters: Filters) -> Rule {
    Rule { filters, ..testing::rule(&[0]) }
}

fn backend(filters: Filters) -> Backend {
    Backend { filters, ..testing::backend(0, 1) }
}

/// The status, and one header of an answer.
fn answered(before: Before, name: &str) -> (u16, Option<String>) {
    let Before::Answer(status, headers) = before else { return (0, None) };
    let found = headers.iter().find(|(other, _)| other == name);
    (status.as_u16(), found.map(|(_, value)| value.to_str().unwrap().to_owned()))
}

#[test]
fn a_redirect_is_a_response_of_the_rules() {
    let response = edits(&[("strict-transport-security", "max-age=60")]);
    let redirect = redirect(PathRewrite::Full("/b".into()));
    let filters = Filters { response, redirect, cors: cors("http://page.test"), ..Filters::default() };
    let head = head(Method::GET, "/a", &[("origin", "http://page.test")]);
    let before = rule(filters).before(None, &head, 0, 80).unwrap();
    for (name, value) in [
        ("location", "http://shop.test/b"),
        ("strict-transport-security", "max-age=60"),
        ("access-control-allow-origin", "http://page.test"),
        ("vary", "origin"),
    ] {
        assert_eq!(answered(before.clone(), name), (302, Some(value.to_owned())), "{name}");
    }
}

#[test]
fn a_backends_redirect_answers_what_would_be_forwarded_there() {
    let response = edits(&[("x-by", "backend")]);
    let redirect = redirect(PathRewrite::Prefix("/n".into()));
    let drawn = backend(Filters { response, redirect, ..Filters::default() });
    let rule = rule(Filters { response: edits(&[("x-by", "rule"), ("x-of", "rule")]), ..Filters::default() });
    let head = head(Method::GET, "/a/x?q", &[]);
    let before = rule.before(Some(&drawn), &head, 2, 8080).unwrap();
    assert_eq!(
        answered(before.clone(), "location"),
        (302, Some("http://shop.test:8080/n/x?q".into())),
        "by what the rule's prefix matched, and by the port that was dialled"
    );
    assert_eq!(answered(before.clone(), "x-by"), (302, Some("backend".into())));
    assert_eq!(answered(before, "x-of"), (302, Some("rule".into())));
    let other = rule.before(Some(&backend(Filters::default())), &head, 2, 8080).unwrap();
    assert_eq!(other, Before::Forward(HeaderEdits::default()));
}

#[test]
fn a_backends_cors_goes_before_the_rules() {
    let rule = rule(Filters { cors: cors("http://rule.test"), ..Filters::default() });
    let own = backend(Filters { cors: cors("http://backend.test"), ..Filters::default() });
    let allowed = |backend: Option<&Backend>, method: Method, origin: &str| {
        let asked = [("origin", origin), ("access-control-request-method", "PUT")];
        match rule.before(backend, &head(method, "/", &asked), 0, 80).unwrap() {
            Before::Forward(edits) => edits.set.iter().any(|(_, value)| value == origin),
            answer => answered(answer, "access-control-allow-origin") == (200, Some(origin.to_owned())),
        }
    };
    for method in [Method::OPTIONS, Method::GET] {
        assert!(allowed(None, method.clone(), "http://rule.test"), "{method}");
        assert!(allowed(Some(&own), method.clone(), "http://backend.test"), "{method}");
        assert!(!allowed(Some(&own), method.clone(), "http://rule.test"), "{method}");
        assert!(allowed(Some(&backend(Filters::default())), method, "http://rule.test"));
    }
}

#[test]
fn a_backends_rewrite_takes_the_place_of_the_rules() {
    let full = |path: &str| Some(PathRewrite::Full(path.into()));
    let prefix = |path: &str| Some(PathRewrite::Prefix(path.into()));
    let check = |of_rule: Filters, of_backend: Filters, target: &str, host: &str| {
        let mut head = head(Method::GET, "/api/v1/users?q", &[]);
        let changed = rule(of_rule).change(&of_backend, &mut head, "/api/v1".len()).unwrap();
        assert_eq!((head.uri.to_string().as_str(), head.headers[HOST].to_str().unwrap()), (target, host));
        assert_eq!(changed, target != "/api/v1/users?q" || host != "shop.test");
    };
    let none = Filters::default;
    check(none(), none(), "/api/v1/users?q", "shop.test");
    check(rewrite(None, prefix("/")), none(), "/users?q", "shop.test");
    check(none(), rewrite(None, prefix("/x")), "/x/users?q", "shop.test");
    check(rewrite(None, prefix("/")), rewrite(None, prefix("/x")), "/x/users?q", "shop.test");
    check(rewrite(None, full("/one")), rewrite(None, prefix("/x")), "/x/users?q", "shop.test");
    check(rewrite(None, prefix("/x")), rewrite(None, full("/one")), "/one?q", "shop.test");
    check(rewrite(Some("a.test"), prefix("/x")), rewrite(Some("b.test"), None), "/x/users?q", "b.test");
    check(rewrite(Some("a.test"), None), rewrite(None, full("/one")), "/one?q", "a.test");
}

#[test]
fn a_question_about_the_server_has_no_path_to_change() {
    for path in [PathRewrite::Full("/one".into()), PathRewrite::Prefix("/new".into())] {
        let mut head = head(Method::OPTIONS, "*", &[]);
        let rule = rule(rewrite(Some("in.test"), Some(path)));
        assert_eq!(rule.change(&Filters::default(), &mut head, 0), Ok(true));
        assert_eq!((head.uri.to_string().as_str(), head.headers[HOST].to_str().unwrap()), ("*", "in.test"));
    }
}

#[test]
fn what_a_request_is_told_by_is_known_to_change() {
    let header = Filters { request: edits(&[("x-user", "a")]), ..Filters::default() };
    let check = |of_rule: &Filters, of_backend: &Filters, expected: bool| {
        assert_eq!(rule(of_rule.clone()).changes(of_backend), expected);
    };
    let (none, target) = (Filters::default(), rewrite(Some("a.test"), None));
    check(&none, &none, false);
    check(&header, &none, true);
    check(&none, &header, true);
    check(&target, &none, true);
    check(&none, &Filters { response: edits(&[("x-a", "b")]), ..Filters::default() }, false);
}

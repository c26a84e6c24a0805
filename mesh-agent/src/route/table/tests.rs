//! Routes as the Gateway API documents them: what a match takes, and which of several goes first.
#![allow(clippy::unwrap_used)]

use http::{Method, Request};

use super::*;
use crate::route::{Backends, Filters, HeaderMatch, Pattern, QueryMatch, RuleName, Timeouts};
use crate::telemetry::RuleCounters;

mod properties;
mod speed;

fn rule(route: &ObjectName, index: usize) -> Arc<Rule> {
    Arc::new(Rule {
        name: RuleName::new("HTTPRoute", route.clone(), index, None),
        filters: Filters::default(),
        backends: Backends::default(),
        timeouts: Timeouts::default(),
        retry: None,
        session: None,
        counters: RuleCounters::default(),
    })
}

/// A rule of the route `ns/NAME`.
pub(in crate::route) fn entry(name: &str, rule_index: usize, matches: Vec<Match>) -> RouteEntry {
    let route = ObjectName::new("ns", name);
    RouteEntry {
        matches,
        preflights: vec![],
        rule: rule(&route, rule_index),
        created: None,
        route,
        rule_index,
    }
}

/// `METHOD PATH`, and header fields.
pub(in crate::route) fn head(line: &str, headers: &[(&str, &str)]) -> request::Parts {
    let (method, uri) = line.split_once(' ').unwrap();
    let request = Request::builder().method(method).uri(uri);
    let request = headers.iter().fold(request, |request, (name, value)| request.header(*name, *value));
    request.body(()).unwrap().into_parts().0
}

/// Words: `=/exact`, `/prefix`, `~regex`, `grpc:SERVICE/METHOD`, `METHOD`, `h:NAME=VALUE`, `?NAME=VALUE`; a value or a
/// gRPC name that begins with `~` is an expression.
pub(in crate::route) fn asks(words: &str) -> Match {
    let mut asks = Match::default();
    let pair = |word: &str| {
        let (name, wanted) = word.split_once('=').unwrap();
        (name.to_owned(), value(wanted))
    };
    for word in words.split_whitespace() {
        if let Some(path) = word.strip_prefix('=') {
            asks.path = PathMatch::Exact(path.to_owned());
        } else if let Some(pattern) = word.strip_prefix('~') {
            asks.path = PathMatch::Regex(Pattern::new(pattern).unwrap());
        } else if let Some(call) = word.strip_prefix("grpc:") {
            let (service, method) = call.split_once('/').unwrap();
            let some = |name: &str| (!name.is_empty()).then(|| value(name));
            asks.path = PathMatch::Grpc(GrpcMatch { service: some(service), method: some(method) });
        } else if let Some(header) = word.strip_prefix("h:") {
            let (name, value) = pair(header);
            asks.headers.push(HeaderMatch { name: name.parse().unwrap(), value });
        } else if let Some(param) = word.strip_prefix('?') {
            let (name, value) = pair(param);
            asks.query.push(QueryMatch { name, value });
        } else if word.starts_with('/') {
            asks.path = PathMatch::prefix(word);
        } else {
            asks.method = Some(Method::from_bytes(word.as_bytes()).unwrap());
        }
    }
    asks
}

fn value(value: &str) -> ValueMatch {
    match value.strip_prefix('~') {
        Some(pattern) => ValueMatch::Regex(Pattern::new(pattern).unwrap()),
        None => ValueMatch::Exact(value.to_owned()),
    }
}

fn takes(words: &str, line: &str, headers: &[(&str, &str)], expected: bool) {
    let table = RouteTable::new(vec![entry("route", 0, vec![asks(words)])]);
    let found = table.find(&head(line, headers)).is_some();
    assert_eq!(found, expected, "{words:?} on {line} {headers:?}");
}

#[test]
fn a_path_is_matched_whole_or_by_its_segments() {
    let check = |words: &str, line: &str, expected: bool| takes(words, line, &[], expected);
    check("/foo", "GET /foo", true);
    check("/foo", "GET /foo/", true);
    check("/foo", "GET /foo/bar", true);
    check("/foo", "GET /foo?x", true);
    check("/foo", "GET /foobar", false);
    check("/foo", "GET /fo", false);
    check("/foo", "GET /FOO", false);
    check("/foo", "GET /%66oo", false);
    check("/foo/", "GET /foo", true);
    check("/foo/", "GET /foobar", false);
    check("/", "GET /", true);
    check("/", "GET /foo", true);
    check("/", "OPTIONS *", true);
    check("=/foo", "GET /foo", true);
    check("=/foo", "GET /foo?a=b", true);
    check("=/foo", "GET /foo/", false);
    check("=/foo/", "GET /foo", false);
    check("~/v[0-9]+/.*", "GET /v1/x", true);
    check("~/v[0-9]+", "GET /v1/x", false);
    check("~/v[0-9]+", "GET /a/v1", false);
    check("POST /foo", "GET /foo", false);
    check("POST /foo", "POST /foo", true);
}

#[test]
fn headers_are_matched_by_name_in_any_case_and_by_their_joined_lines() {
    let check = |words: &str, headers: &[(&str, &str)], expected: bool| {
        takes(words, "GET /", headers, expected);
    };
    check("h:version=v1", &[("version", "v1")], true);
    check("h:Version=v1", &[("VERSION", "v1")], true);
    check("h:version=v1", &[("version", "V1")], false);
    check("h:version=v1", &[("version", "v1x")], false);
    check("h:version=v1", &[], false);
    check("h:version=", &[("version", "")], true);
    check("h:version=~v[12]", &[("version", "v2")], true);
    check("h:version=~v[12]", &[("version", "v22")], false);
    check("h:version=~.*", &[], false);
    check("h:a=1 h:b=2", &[("a", "1"), ("b", "2")], true);
    check("h:a=1 h:b=2", &[("a", "1")], false);
    check("h:a=1,2", &[("a", "1"), ("a", "2")], true);
    check("h:a=1", &[("a", "1"), ("a", "2")], false);
    check("h:a=1,2,3", &[("a", "1"), ("a", "2")], false);
    check("h:a=~1,.", &[("a", "1"), ("a", "2")], true);
    check("h:cookie=a=1;", &[("cookie", "a=1;")], true);
    check("h:cookie=~a=1;\\x20b=2", &[("cookie", "a=1"), ("cookie", "b=2")], true);
    // The first of several matches for a name is the one that counts.
    check("h:a=1 h:A=2", &[("a", "1")], true);
    check("h:a=1 h:A=2", &[("a", "2")], false);
    takes("h:host=x.test", "GET /", &[("host", "x.test")], true);
    takes("h:host=x.test", "GET http://x.test/", &[], true);
}

#[test]
fn query_parameters_are_matched_as_they_came_and_by_the_first_of_a_name() {
    let check = |words: &str, line: &str, expected: bool| takes(words, line, &[], expected);
    check("?animal=whale", "GET /?animal=whale", true);
    check("?animal=whale", "GET /?a=b&animal=whale&c", true);
    check("?animal=whale", "GET /?Animal=whale", false);
    check("?animal=whale", "GET /?animal=whal%65", false);
    check("?animal=whale", "GET /", false);
    check("?animal=whale", "GET /?animal=dog&animal=whale", false);
    check("?animal=whale", "GET /?animal=whale&animal=dog", true);
    check("?animal=", "GET /?animal", true);
    check("?animal=", "GET /?animal=", true);
    check("?animal=a=b", "GET /?animal=a=b", true);
    check("?animal=~wh.*", "GET /?animal=whale", true);
    check("?animal=~wh", "GET /?animal=whale", false);
    check("?a=1 ?b=2", "GET /?b=2&a=1", true);
    check("?a=1 ?b=2", "GET /?a=1", false);
    check("?a=1 ?a=2", "GET /?a=1", true);
}

#[test]
fn a_grpc_call_is_matched_by_service_and_method() {
    let check = |words: &str, line: &str, expected: bool| takes(words, line, &[], expected);
    check("grpc:com.example.User/Login", "POST /com.example.User/Login", true);
    check("grpc:com.example.User/Login", "POST /com.example.User/LoginX", false);
    check("grpc:com.example.User/Login", "POST /com.example.User", false);
    check("grpc:com.example.User/", "POST /com.example.User/Any", true);
    check("grpc:com.example.User/", "POST /com.example.UserX/Any", false);
    check("grpc:com.example.User/", "POST /com.example.User", false);
    check("grpc:com.example.User/", "POST /com.example.User/a/b", false);
    check("grpc:/Login", "POST /any/Login", true);
    check("grpc:/Login", "POST /any/login", false);
    check(r"grpc:~com\..*/", "POST /com.example/X", true);
    check(r"grpc:~com\..*/~Log.*", "POST /com.example/Login", true);
    check(r"grpc:com.example.User/~Log.*", "POST /com.example.User/Logout", true);
    check(r"grpc:com.example.User/~Log", "POST /com.example.User/Logout", false);
    check("grpc:/", "POST /a/b", true);
    check("grpc:a/b h:x=1", "POST /a/b", false);
}

#[test]
fn the_more_specific_match_goes_first_whatever_the_routes_order() {
    let check = |first: &str, second: &str, line: &str, headers: &[(&str, &str)]| {
        for swapped in [false, true] {
            let (one, other) = if swapped { (second, first) } else { (first, second) };
            let table =
                RouteTable::new(vec![entry("a", 0, vec![asks(one)]), entry("a", 1, vec![asks(other)])]);
            let found = table.find(&head(line, headers)).unwrap().rule.name.index;
            assert_eq!(found, usize::from(swapped), "{first:?} before {second:?} on {line}");
        }
    };
    let x = &[("x", "1"), ("y", "1"), ("z", "1")];
    check("=/foo", "/foo GET h:x=1 ?q=1", "GET /foo?q=1", x);
    check("=/foo", "~/foo GET h:x=1", "GET /foo", x);
    check("~/f.*", "/foo GET h:x=1", "GET /foo", x);
    check("~/fo.*", "~/f.* GET", "GET /foo", x);
    check("/foo/bar", "/foo GET h:x=1 ?q=1", "GET /foo/bar?q=1", x);
    check("/foo", "/ GET h:x=1", "GET /foo", x);
    check("/foo GET", "/foo h:x=1 h:y=1 ?q=1", "GET /foo?q=1", x);
    check("/foo h:x=1 h:y=1", "/foo h:z=1 ?q=1 ?r=1", "GET /foo?q=1&r=1", x);
    check("/foo h:x=1 ?q=1", "/foo h:y=1", "GET /foo?q=1", x);
    check("/foo ?q=1 ?r=1", "/foo ?q=1", "GET /foo?q=1&r=1", x);
    // Of conditions for one name only the first counts, so this has one.
    check("/foo h:x=1 h:y=1", "/foo h:x=1 h:X=2 h:X=3", "GET /foo", x);
    check("grpc:ab/", "grpc:/LongMethod h:x=1", "POST /ab/LongMethod", x);
    check("grpc:a/b", "grpc:a/ h:x=1 h:y=1", "POST /a/b", x);
    check("grpc:a/ h:x=1", "grpc:a/", "POST /a/b", x);
    check("grpc:~a.*/", "grpc:a/b", "POST /a/b", x);
    check("grpc:/b", "/ h:x=1", "POST /a/b", x);
    check("/ h:x=1", "grpc:/", "POST /a/b", x);
}

#[test]
fn what_does_not_match_leaves_the_request_to_the_next() {
    let table = RouteTable::new(vec![
        entry("a", 0, vec![asks("=/foo POST"), asks("/foo/bar h:x=1")]),
        entry("a", 1, vec![asks("/foo")]),
        entry("b", 0, vec![]),
    ]);
    let check = |line: &str, headers: &[(&str, &str)], expected: &str, prefix: usize| {
        let found = table.find(&head(line, headers)).unwrap();
        assert_eq!((found.rule.name.label.as_str(), found.prefix), (expected, prefix), "{line}");
    };
    check("POST /foo", &[], "ns/a/0", 0);
    check("GET /foo", &[], "ns/a/1", 4);
    check("GET /foo/bar/", &[("x", "1")], "ns/a/0", 8);
    check("GET /foo/bar/", &[], "ns/a/1", 4);
    check("GET /foobar", &[("x", "1")], "ns/b/0", 0);
    assert!(RouteTable::default().find(&head("GET /", &[])).is_none());
}

#[test]
fn ties_go_to_the_oldest_route_then_by_name_then_to_the_first_rule() {
    let check = |first: (&str, &str, usize), second: (&str, &str, usize)| {
        let entry = |(route, created, rule_index): (&str, &str, usize)| {
            let (namespace, name) = route.split_once('/').unwrap();
            let route = ObjectName::new(namespace, name);
            let created = (!created.is_empty()).then(|| created.to_owned());
            RouteEntry {
                matches: vec![],
                preflights: vec![],
                rule: rule(&route, rule_index),
                created,
                route,
                rule_index,
            }
        };
        for entries in [vec![entry(first), entry(second)], vec![entry(second), entry(first)]] {
            let table = RouteTable::new(entries);
            let found = &table.find(&head("GET /", &[])).unwrap().rule.name;
            assert_eq!((found.route.to_string().as_str(), found.index), (first.0, first.2));
        }
    };
    check(("z/z", "2020-09-08T01:02:03Z", 9), ("a/a", "2020-09-08T01:02:04Z", 0));
    check(("z/z", "2020-09-08T01:02:03Z", 0), ("a/a", "", 0));
    check(("foo/bar", "", 1), ("foo/baz", "", 0));
    check(("a-b/x", "", 0), ("a/x", "", 0));
    check(("foo/bar", "", 0), ("foo/bar", "", 1));
}

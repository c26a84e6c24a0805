//! What an explanation says of each match, and that it is what the look-up does.

#![allow(clippy::unwrap_used)]
use super::*;
use crate::model::ObjectName;
use crate::route::table::tests::{asks, entry, head};
use crate::route::{Backends, RuleName};

/// A line for each match: `RULE MATCH: VERDICT`.
fn lines(explanation: &Explanation<'_>) -> Vec<String> {
    let line = |one: &Considered<'_>| {
        let verdict = match &one.verdict {
            Verdict::Taken => "taken".to_owned(),
            Verdict::Later => "later".to_owned(),
            Verdict::Failed(parts) => parts.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "),
        };
        format!("{} {}: {verdict}", one.rule.name.label, one.asks)
    };
    explanation.considered.iter().map(line).collect()
}

#[test]
fn every_match_is_there_in_order_with_what_does_not_hold() {
    let table = RouteTable::new(vec![
        entry("b", 0, vec![asks("/"), asks("=/cart POST h:x-beta=yes ?debug=1")]),
        entry("a", 0, vec![asks("/cart h:x-beta=~y.*"), asks("~/c.*")]),
    ]);
    let check = |line: &str, headers: &[(&str, &str)], expected: [&str; 4]| {
        let head = head(line, headers);
        let found = table.explain(&head);
        assert_eq!(lines(&found), expected, "{line} {headers:?}");
        let rule = |found: Option<Found<'_>>| found.map(|found| found.rule.name.label.clone());
        assert_eq!(rule(found.found), rule(table.find(&head)));
    };
    check(
        "GET /cart",
        &[("x-beta", "no")],
        [
            "ns/b/0 Exact /cart, POST, header x-beta=yes, query debug=1: method, header x-beta, query parameter debug (absent)",
            "ns/a/0 RegularExpression /c.*: taken",
            "ns/a/0 PathPrefix /cart, header x-beta~y.*: header x-beta",
            "ns/b/0 PathPrefix /: later",
        ],
    );
    check(
        "POST /cart?debug=2",
        &[("x-beta", "yes")],
        [
            "ns/b/0 Exact /cart, POST, header x-beta=yes, query debug=1: query parameter debug",
            "ns/a/0 RegularExpression /c.*: taken",
            "ns/a/0 PathPrefix /cart, header x-beta~y.*: later",
            "ns/b/0 PathPrefix /: later",
        ],
    );
    check(
        "POST /cart?debug=1",
        &[("x-beta", "yes")],
        [
            "ns/b/0 Exact /cart, POST, header x-beta=yes, query debug=1: taken",
            "ns/a/0 RegularExpression /c.*: later",
            "ns/a/0 PathPrefix /cart, header x-beta~y.*: later",
            "ns/b/0 PathPrefix /: later",
        ],
    );
    check(
        "GET /x",
        &[],
        [
            "ns/b/0 Exact /cart, POST, header x-beta=yes, query debug=1: path, method, header x-beta (absent), query parameter debug (absent)",
            "ns/a/0 RegularExpression /c.*: path",
            "ns/a/0 PathPrefix /cart, header x-beta~y.*: path, header x-beta (absent)",
            "ns/b/0 PathPrefix /: taken",
        ],
    );
}

#[test]
fn calls_are_explained_by_service_and_method() {
    let table = RouteTable::new(vec![
        entry("a", 0, vec![asks("grpc:shop.Cart/Get")]),
        entry("a", 1, vec![asks("grpc:shop.Cart/")]),
        entry("a", 2, vec![asks("grpc:~other.*/")]),
    ]);
    let found = table.explain(&head("POST /shop.Cart/Put", &[]));
    let expected = ["ns/a/0 call shop.Cart/Get: path", "ns/a/1 call shop.Cart/*: taken"];
    assert_eq!(lines(&found)[..2], expected[..]);
    assert_eq!(lines(&found)[2], "ns/a/2 call ~other.*/*: path");
    assert!(table.explain(&head("POST /none/Put", &[])).found.is_none());
}

#[test]
fn connections_are_explained_by_server_name() {
    let entry = |route: &str, hostnames: &[&str]| {
        let route = ObjectName::new("ns", route);
        let name = RuleName::new("TLSRoute", route.clone(), 0, None);
        let rule = Arc::new(StreamRule { name, backends: Backends::default() });
        let hostnames = hostnames.iter().map(|name| (*name).to_owned()).collect();
        StreamEntry { hostnames, rule, created: None, route, rule_index: 0 }
    };
    let table =
        StreamTable::new(vec![entry("exact", &["a.b.c"]), entry("wild", &["*.b.c"]), entry("old", &["*.c"])]);
    let check = |sni: Option<&str>, expected: [Verdict<'_>; 3]| {
        let found: Vec<_> = table.explain(sni).into_iter().map(|one| one.verdict).collect();
        assert_eq!(found, expected, "{sni:?}");
    };
    let failed = || Verdict::Failed(vec![Misfit::ServerName]);
    // In the order in which ties are broken: by the routes' names.
    check(Some("a.b.c"), [Verdict::Taken, Verdict::Later, Verdict::Later]);
    check(Some("x.b.c"), [failed(), Verdict::Later, Verdict::Taken]);
    check(Some("x.c"), [failed(), Verdict::Taken, failed()]);
    check(None, [failed(), failed(), failed()]);
}

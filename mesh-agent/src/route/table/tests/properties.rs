//! The order and the look-up against a plain reading of HTTPRouteRule and GRPCRouteRule, on random routes and requests.

use std::cmp::Ordering;

use proptest::prelude::*;
use proptest::sample::select;

use super::*;
use crate::route::{Considered, Verdict};

const VALUES: [&str; 5] = ["1", "2", "1,2", "~[12]", "~.*2"];

fn http_match() -> impl Strategy<Value = Match> {
    let path = ["=/a", "=/a/b", "=/a/", "/", "/a", "/a/", "/a/b", "/ab", "/a/b/c", "~/a.*", "~/a/b", "~/.*b"];
    let method = select(vec!["", "", "GET", "POST"]);
    (
        select(path.to_vec()),
        method,
        conditions("h:x="),
        conditions("h:y="),
        conditions("?p="),
        conditions("?q="),
    )
        .prop_map(|(path, method, x, y, p, q)| asks(&format!("{path} {method} {x} {y} {p} {q}")))
}

fn grpc_match() -> impl Strategy<Value = Match> {
    let service = select(vec!["", "s", "ss", "~s+", "~s"]);
    let method = select(vec!["", "m", "mm", "~m+"]);
    (service, method, conditions("h:x="), conditions("h:y="))
        .prop_map(|(service, method, x, y)| asks(&format!("grpc:{service}/{method} {x} {y}")))
}

/// Mostly none.
fn conditions(name: &'static str) -> impl Strategy<Value = String> {
    prop_oneof![3 => Just(String::new()), 1 => select(VALUES.to_vec()).prop_map(move |value| format!("{name}{value}"))]
}

fn entries(asks: impl Strategy<Value = Match>, most: usize) -> impl Strategy<Value = Vec<RouteEntry>> {
    let created = select(vec![None, Some("2024-01-01T00:00:00Z"), Some("2024-01-02T00:00:00Z")]);
    let route = select(vec![("a-b", "x"), ("a", "x"), ("a", "y")]);
    let entry = (prop::collection::vec(asks, 0..3), created, route);
    prop::collection::vec(entry, 0..most).prop_map(|entries| {
        let entry = |(rule_index, (matches, created, (namespace, name)))| {
            let route = ObjectName::new(namespace, name);
            let created = Option::<&str>::map(created, str::to_owned);
            RouteEntry {
                matches,
                preflights: vec![],
                rule: rule(&route, rule_index),
                created,
                route,
                rule_index,
            }
        };
        entries.into_iter().enumerate().map(entry).collect()
    })
}

fn request(paths: &[&'static str]) -> impl Strategy<Value = request::Parts> {
    let lines = |name: &'static str| {
        prop::collection::vec(select(vec!["1", "2", "3"]).prop_map(move |value| (name, value)), 0..3)
    };
    let query = select(vec!["", "?p=1", "?p=1&q=2", "?q=2&p=3&p=1", "?x&p=2&q"]);
    (select(vec!["GET", "POST", "PUT"]), select(paths.to_vec()), query, lines("x"), lines("y")).prop_map(
        |(method, path, query, x, y)| {
            let headers: Vec<(&str, &str)> = x.into_iter().chain(y).collect();
            head(&format!("{method} {path}{query}"), &headers)
        },
    )
}

fn http_request() -> impl Strategy<Value = request::Parts> {
    request(&["/", "/a", "/a/", "/a/b", "/a/b/", "/a/b/c", "/a/b/c/d", "/ab", "/ab/c", "/b"])
}

fn grpc_request() -> impl Strategy<Value = request::Parts> {
    request(&["/s/m", "/s/mm", "/ss/m", "/ss/mmm", "/sss/m", "/t/m", "/s/n", "/s", "/"])
}

/// What the documentation says of one match, word for word and without haste.
mod spec {
    use super::*;

    pub fn matches(asks: &Match, head: &request::Parts) -> bool {
        let is = |value: &ValueMatch, text: &str| match value {
            ValueMatch::Exact(exact) => exact == text,
            ValueMatch::Regex(pattern) => pattern.matches(text.as_bytes()),
        };
        let path = head.uri.path();
        let path_matches = match &asks.path {
            PathMatch::Exact(exact) => exact == path,
            PathMatch::Prefix(prefix) => {
                let elements = |path: &str| -> Vec<String> {
                    path.split('/').filter(|element| !element.is_empty()).map(str::to_owned).collect()
                };
                elements(path).starts_with(&elements(prefix))
            }
            PathMatch::Regex(pattern) => pattern.matches(path.as_bytes()),
            PathMatch::Grpc(grpc) => {
                let parts: Vec<&str> = path.split('/').collect();
                let any =
                    |asked: &Option<ValueMatch>, text| asked.as_ref().is_none_or(|asked| is(asked, text));
                parts.len() == 3 && any(&grpc.service, parts[1]) && any(&grpc.method, parts[2])
            }
        };
        let headers_match = asks.headers.iter().all(|header| {
            let lines: Vec<&str> =
                head.headers.get_all(&header.name).iter().map(|line| line.to_str().unwrap()).collect();
            !lines.is_empty() && is(&header.value, &lines.join(","))
        });
        let query = head.uri.query().unwrap_or("");
        let query_matches = asks.query.iter().all(|param| {
            for pair in query.split('&') {
                let mut halves = pair.splitn(2, '=');
                if halves.next() == Some(&param.name) {
                    return is(&param.value, halves.next().unwrap_or(""));
                }
            }
            false
        });
        let method_matches = asks.method.is_none() || asks.method.as_ref() == Some(&head.method);
        path_matches && headers_match && query_matches && method_matches
    }

    /// Which one "precedence must be given to"; Equal only for a match and itself.
    pub fn precedence(one: &Ranked<'_>, other: &Ranked<'_>) -> Ordering {
        // Each criterion only if the ones before it are level; larger goes first.
        for criterion in CRITERIA {
            match criterion(one.asks).cmp(&criterion(other.asks)) {
                Ordering::Greater => return Ordering::Less,
                Ordering::Less => return Ordering::Greater,
                Ordering::Equal => {}
            }
        }
        let created = |ranked: &Ranked<'_>| ranked.origin.created.unwrap_or("9999").to_owned();
        let name = |ranked: &Ranked<'_>| ranked.origin.route.to_string();
        match (created(one).cmp(&created(other)), name(one).cmp(&name(other))) {
            (Ordering::Equal, Ordering::Equal) => one.origin.place.cmp(&other.origin.place),
            (Ordering::Equal, by_name) => by_name,
            (by_age, _) => by_age,
        }
    }

    const CRITERIA: [fn(&Match) -> usize; 8] = [
        |asks| service(asks).chars().count(),
        |asks| method(asks).chars().count(),
        |asks| usize::from(matches!(asks.path, PathMatch::Exact(_))),
        |asks| if let PathMatch::Regex(pattern) = &asks.path { pattern.as_str().len() } else { 0 },
        |asks| if let PathMatch::Exact(path) | PathMatch::Prefix(path) = &asks.path { path.len() } else { 0 },
        |asks| usize::from(asks.method.is_some()),
        |asks| asks.headers.len(),
        |asks| asks.query.len(),
    ];

    fn service(asks: &Match) -> &str {
        if let PathMatch::Grpc(grpc) = &asks.path { written(&grpc.service) } else { "" }
    }

    fn method(asks: &Match) -> &str {
        if let PathMatch::Grpc(grpc) = &asks.path { written(&grpc.method) } else { "" }
    }

    fn written(value: &Option<ValueMatch>) -> &str {
        match value {
            Some(ValueMatch::Exact(exact)) => exact,
            Some(ValueMatch::Regex(pattern)) => pattern.as_str(),
            None => "",
        }
    }
}

fn check_order(entries: Vec<RouteEntry>) -> Result<(), TestCaseError> {
    let expanded: Vec<_> = entries.into_iter().map(expand).collect();
    let all: Vec<Ranked<'_>> = expanded.iter().flat_map(ranks).map(|(ranked, _)| ranked).collect();
    for (index, one) in all.iter().enumerate() {
        for (other_index, other) in all.iter().enumerate() {
            let order = one.order(other);
            prop_assert_eq!(order, spec::precedence(one, other), "{:?} {:?}", one.asks, other.asks);
            prop_assert_eq!(order, other.order(one).reverse());
            prop_assert_eq!(order == Ordering::Equal, index == other_index);
            for third in &all {
                let chained = order == Ordering::Less && other.order(third) == Ordering::Less;
                prop_assert!(!chained || one.order(third) == Ordering::Less);
            }
        }
    }
    Ok(())
}

fn check_find(entries: &[RouteEntry], head: &request::Parts) -> Result<(), TestCaseError> {
    let table = RouteTable::new(entries.to_vec());
    let found = table.find(head);
    let expanded: Vec<_> = entries.iter().cloned().map(expand).collect();
    let matching = expanded.iter().flat_map(ranks).filter(|(ranked, _)| spec::matches(ranked.asks, head));
    let expected = matching.min_by(|(one, _), (other, _)| spec::precedence(one, other));
    let label = |rule: &Arc<Rule>| rule.name.label.clone();
    prop_assert_eq!(found.map(|found| label(found.rule)), expected.map(|(_, rule)| label(rule)));
    if let (Some(found), Some((ranked, _))) = (found, expected) {
        let prefix = if let PathMatch::Prefix(prefix) = &ranked.asks.path { prefix.len() } else { 0 };
        prop_assert_eq!(found.prefix, prefix);
    }
    check_explanation(&table, head)
}

/// What is said of each match holds of it by itself, and the first that holds is the one that `find` takes.
fn check_explanation(table: &RouteTable, head: &request::Parts) -> Result<(), TestCaseError> {
    let explained = table.explain(head);
    let holds = |verdict: &Verdict<'_>| !matches!(verdict, Verdict::Failed(_));
    for one in &explained.considered {
        prop_assert_eq!(holds(&one.verdict), spec::matches(one.asks, head), "{} {:?}", one.asks, one.verdict);
    }
    let first = explained.considered.iter().find(|one| holds(&one.verdict));
    let taken = explained.considered.iter().find(|one| one.verdict == Verdict::Taken);
    let rule = |one: Option<&Considered<'_>>| one.map(|one| Arc::as_ptr(one.rule));
    prop_assert_eq!(rule(first), rule(taken));
    prop_assert_eq!(rule(taken), table.find(head).map(|found| Arc::as_ptr(found.rule)));
    Ok(())
}

proptest! {
    #[test]
    fn precedence_is_a_total_order_and_the_documented_one(
        http in entries(http_match(), 8),
        grpc in entries(grpc_match(), 8),
    ) {
        check_order(http)?;
        check_order(grpc)?;
    }

    #[test]
    fn a_request_goes_by_the_first_of_all_that_match(
        entries in entries(http_match(), 24),
        requests in prop::collection::vec(http_request(), 8),
    ) {
        for head in &requests {
            check_find(&entries, head)?;
        }
    }

    #[test]
    fn a_call_goes_by_the_first_of_all_that_match(
        entries in entries(grpc_match(), 24),
        requests in prop::collection::vec(grpc_request(), 8),
    ) {
        for head in &requests {
            check_find(&entries, head)?;
        }
    }
}

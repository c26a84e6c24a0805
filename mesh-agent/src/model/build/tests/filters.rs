//! What becomes of a route's filters, matches and sessions that the API takes and that don't mean what they seem to.

use http::{Method, Request, request};

use super::*;
use crate::route::{BackendTarget, Before, PathRewrite, Routes, SessionKind};

fn route(rules: &str) -> String {
    format!(
        "---\napiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {{name: r, namespace: shop}}\nspec: {{parentRefs: [{{group: \"\", kind: Service, name: cart}}], rules: [{rules}]}}\n"
    )
}

fn world(rules: &str) -> (World, Arc<Routes>) {
    let (world, snapshot) = World::new(&(service("cart", "10.96.0.10", HTTP) + &route(rules)));
    let routes = snapshot.routes.get(&(ObjectName::new("shop", "cart"), 80)).unwrap().producer.clone();
    (world, routes.unwrap())
}

fn head(method: Method, path: &str, headers: &[(&str, &str)]) -> request::Parts {
    let request = Request::builder().method(method).uri(path);
    let request = headers.iter().fold(request, |request, (name, value)| request.header(*name, *value));
    request.body(()).unwrap().into_parts().0
}

/// Place of the rule that a request goes by.
fn found(routes: &Routes, head: &request::Parts) -> Option<usize> {
    routes.requests.as_ref().unwrap().find(head).map(|found| found.rule.name.index)
}

const CORS: &str = "filters: [{type: CORS, cors: {allowOrigins: ['http://page.test']}}]";
const CART: &str = "backendRefs: [{name: cart, port: 80}]";

#[test]
fn a_preflight_goes_by_the_rule_of_the_request_that_it_is_for() {
    let rule = |method: &str, filters: &str| {
        format!("{{matches: [{{path: {{value: /api}}, method: {method}}}], {filters}, {CART}}}")
    };
    let plain = "filters: [{type: RequestHeaderModifier, requestHeaderModifier: {remove: [x-a]}}]";
    let rules = [rule("GET", CORS), rule("PUT", CORS), rule("DELETE", plain), format!("{{{CART}}}")];
    let (world, routes) = world(&rules.join(", "));
    assert_eq!(world.warnings(), Vec::<String>::new(), "matches that nobody wrote are nobody's mistake");
    let preflight = |asked: &str| {
        let headers = [("origin", "http://page.test"), ("access-control-request-method", asked)];
        found(&routes, &head(Method::OPTIONS, "/api/x", &headers))
    };
    assert_eq!(["GET", "PUT", "DELETE"].map(preflight), [Some(0), Some(1), Some(3)]);
    let other = |headers: &[(&str, &str)]| found(&routes, &head(Method::OPTIONS, "/api", headers));
    assert_eq!(other(&[]), Some(3), "no preflight");
    assert_eq!(other(&[("access-control-request-method", "GET")]), Some(3), "of no page");
    let backend = format!("{{matches: [{{method: GET}}], backendRefs: [{{name: cart, port: 80, {CORS}}}]}}");
    let (_, routes) = self::world(&backend);
    let headers = [("origin", "http://page.test"), ("access-control-request-method", "GET")];
    let preflight = head(Method::OPTIONS, "/", &headers);
    let rule = routes.requests.as_ref().unwrap().find(&preflight).unwrap().rule.clone();
    let before = rule.before(Some(&rule.backends[0]), &preflight, 0, 80).unwrap();
    assert!(matches!(before, Before::Answer(http::StatusCode::OK, _)), "{before:?}");
}

#[test]
fn a_backend_with_a_filter_that_is_not_supported_has_none() {
    let filters = "filters: [{type: RequestRedirect, requestRedirect: {port: 1}}, {type: ExtensionRef, extensionRef: {group: a.b, kind: C, name: d}}]";
    let (_, routes) = world(&format!("{{backendRefs: [{{name: cart, port: 80, {filters}}}]}}"));
    let rule = routes.requests.as_ref().unwrap().find(&head(Method::GET, "/", &[])).unwrap().rule.clone();
    assert_eq!(rule.backends[0].target, BackendTarget::Invalid);
    assert!(rule.backends[0].filters.redirect.is_none(), "it isn't served without the other");
}

#[test]
fn of_header_names_that_differ_in_case_the_first_counts_and_the_later_are_said() {
    let rules = format!(
        "{{matches: [{{headers: [{{name: x-a, value: one}}, {{name: X-A, value: two}}]}}], filters: [{{type: RequestHeaderModifier, requestHeaderModifier: {{set: [{{name: x-b, value: one}}, {{name: X-B, value: two}}], add: [{{name: x-c, value: one}}, {{name: X-c, value: two}}]}}}}], {CART}}}"
    );
    let (world, routes) = world(&rules);
    let places =
        ["matches[0].headers[1].name", "filters[0].requestHeaderModifier.set[1].name", "add[1].name"];
    for place in places {
        let said = |warning: &String| warning.starts_with("MESH0132") && warning.contains(place);
        assert!(world.warnings().iter().any(said), "{place}: {:?}", world.warnings());
    }
    assert_eq!(world.warnings().len(), places.len(), "{:?}", world.warnings());
    assert_eq!(found(&routes, &head(Method::GET, "/", &[("x-a", "two")])), None);
    let mut head = head(Method::GET, "/", &[("x-a", "one"), ("x-c", "zero")]);
    let rule = routes.requests.as_ref().unwrap().find(&head).unwrap().rule.clone();
    rule.change(&rule.backends[0].filters, &mut head, 0).unwrap();
    assert_eq!(head.headers["x-b"], "one");
    assert_eq!(head.headers.get_all("x-c").iter().collect::<Vec<_>>(), ["zero", "one"]);
}

#[test]
fn a_replacement_that_is_no_path_is_sent_encoded_and_said() {
    fn check(kind: &str, replacement: &str, sent: &str, warned: bool) {
        let field = format!("{}{}", kind[..1].to_lowercase(), &kind[1..]);
        let filters = format!(
            "filters: [{{type: URLRewrite, urlRewrite: {{path: {{type: {kind}, {field}: \"{replacement}\"}}}}}}]"
        );
        let (world, routes) = world(&format!("{{{filters}, {CART}}}"));
        let rule = routes.requests.as_ref().unwrap().find(&head(Method::GET, "/", &[])).unwrap().rule.clone();
        let path = rule.filters.rewrite.as_ref().unwrap().path.clone().unwrap();
        let (PathRewrite::Full(path) | PathRewrite::Prefix(path)) = path;
        assert_eq!(path, sent, "{replacement}");
        assert_eq!(world.warnings().len(), usize::from(warned), "{replacement}: {:?}", world.warnings());
        let place = format!("filters[0].urlRewrite.path.{field}");
        assert!(world.warnings().iter().all(|warning| warning.contains(&place)), "{:?}", world.warnings());
    }
    for kind in ["ReplaceFullPath", "ReplacePrefixMatch"] {
        check(kind, "/x", "/x", false);
        check(kind, "", "", false);
        check(kind, "/a%20b", "/a%20b", false);
        check(kind, "/x?y=1", "/x%3Fy=1", true);
        check(kind, "/a b#c", "/a%20b%23c", true);
        check(kind, "/100%", "/100%25", true);
        check(kind, "/a\\nb", "/a%0Ab", true);
        check(kind, "/ä", "/%C3%A4", true);
    }
}

#[test]
fn a_match_that_no_request_can_have_is_said() {
    for (name, warned) in [("Keep-Alive", true), ("connection", true), ("te", false), ("x-a", false)] {
        let (world, _) = world(&format!("{{matches: [{{headers: [{{name: {name}, value: a}}]}}], {CART}}}"));
        assert_eq!(world.warnings().len(), usize::from(warned), "{name}: {:?}", world.warnings());
    }
}

#[test]
fn sessions_have_the_root_as_path_and_a_name_of_their_rules_own() {
    let session = |session: &str| {
        let matches = "matches: [{path: {value: /api}}]";
        let (world, routes) = world(&format!("{{{matches}, sessionPersistence: {{{session}}}, {CART}}}"));
        assert_eq!(world.warnings(), Vec::<String>::new(), "{session}");
        let rule =
            routes.requests.as_ref().unwrap().find(&head(Method::GET, "/api", &[])).unwrap().rule.clone();
        let session = rule.session.clone().unwrap();
        let path = match &session.kind {
            SessionKind::Cookie { path, .. } => Some(path.clone()),
            SessionKind::Header => None,
        };
        (session.name.clone(), path)
    };
    let cookie = |name: &str, path: &str| (name.to_owned(), Some(path.to_owned()));
    let made = "mesh-session-shop-r-0";
    for (text, expected) in [
        ("cookie: {}", cookie(made, "/")),
        ("type: Cookie", cookie(made, "/")),
        ("absoluteTimeout: 1h", cookie(made, "/")),
        ("sessionName: a", cookie("a", "/")),
        ("cookie: {name: a, path: /x}", cookie("a", "/x")),
        ("type: Header", (made.to_owned(), None)),
        ("type: Header, sessionName: x-a", ("x-a".to_owned(), None)),
    ] {
        assert_eq!(session(text), expected, "{text}");
    }
}

#[test]
fn two_rules_with_one_name_for_their_sessions_are_said() {
    let rules = |first: &str, second: &str| {
        let rule = |path: &str, session: &str| {
            format!("{{matches: [{{path: {{value: {path}}}}}], sessionPersistence: {{{session}}}, {CART}}}")
        };
        let (world, _) = world(&format!("{}, {}", rule("/a", first), rule("/b", second)));
        world.warnings()
    };
    let warned = rules("cookie: {name: s}", "cookie: {name: s}");
    let told = |warned: &[String]| {
        warned.len() == 1
            && warned[0].starts_with("MESH0138")
            && warned[0].contains("spec.rules[1].sessionPersistence")
    };
    assert!(told(&warned), "{warned:?}");
    for (first, second) in [
        ("cookie: {name: s}", "cookie: {name: t}"),
        ("cookie: {}", "cookie: {}"),
        ("cookie: {name: s, path: /a}", "cookie: {name: s, path: /b}"),
        ("cookie: {name: s}", "type: Header, header: {name: s}"),
    ] {
        assert_eq!(rules(first, second), Vec::<String>::new(), "{first} {second}");
    }
}

#[test]
fn a_back_off_that_is_given_is_the_least_wait() {
    let policy = |retry: &str| {
        let (_, routes) = world(&format!("{{retry: {{{retry}}}, {CART}}}"));
        let rule = routes.requests.as_ref().unwrap().find(&head(Method::GET, "/", &[])).unwrap().rule.clone();
        let policy = rule.retry.clone().unwrap();
        [policy.least_wait, policy.backoff, policy.max_backoff].map(|time| time.as_millis())
    };
    assert_eq!(policy("attempts: 2"), [0, 25, 250]);
    assert_eq!(policy("backoff: 1s"), [1000, 1000, 10_000]);
}

//! What is said of requests to services with and without routes, to pods, and to what nothing knows.
#![allow(clippy::unwrap_used, clippy::panic)]

use super::*;
use crate::model::build::BuildOptions;
use crate::source::{self, Report};

const ROUTED: &str = include_str!("../../cli/tests/routed.yaml");

fn world(more: &str) -> Report {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("a.yaml"), format!("{ROUTED}---\n{more}")).unwrap();
    source::validate(dir.path(), BuildOptions { node: "a".into(), ..BuildOptions::default() }).unwrap()
}

fn question(from: &str, url: &str) -> RouteQuestion {
    let headers = Vec::new();
    RouteQuestion { from: from.to_owned(), url: url.to_owned(), method: None, headers, grpc: false }
}

fn ask(world: &Report, question: &RouteQuestion) -> RouteAnswer {
    answer(&world.snapshot, false, &world.warnings, question).unwrap()
}

#[test]
fn a_host_is_what_the_pod_would_dial() {
    let world = world("");
    let check = |from: &str, url: &str, address: &str, outcome: RouteOutcome| {
        let found = ask(&world, &question(from, url));
        assert_eq!((found.address.as_str(), found.outcome), (address, outcome), "{from} {url}");
    };
    use RouteOutcome::{Balanced, Direct, NoMatch, PassedThrough, Routed};
    let web = "pod/shop/web-1";
    check(web, "http://plain/", "10.96.0.12:80", Balanced);
    check(web, "plain.shop", "10.96.0.12:80", Balanced);
    check(web, "http://PLAIN.shop.svc", "10.96.0.12:80", Balanced);
    check(web, "http://plain.shop.svc.cluster.local.", "10.96.0.12:80", Balanced);
    check(web, "http://plain.shop.svc.example.com", "", PassedThrough);
    check(web, "http://plain.web", "", PassedThrough);
    check(web, "http://10.96.0.12", "10.96.0.12:80", Balanced);
    check(web, "http://10.96.0.12:81", "10.96.0.12:81", PassedThrough);
    check(web, "http://[fd00::1]:8080/x", "[fd00::1]:8080", PassedThrough);
    check(web, "http://10.1.0.8:8080/", "10.1.0.8:8080", Direct);
    check("shop/web-1", "http://cart/api", "10.96.0.10:80", Routed);
    check("shop/web-1", "http://cart/", "10.96.0.10:80", NoMatch);
    check("pod/out", "http://cart/", "", PassedThrough);
    check("out", "http://cart.shop/api", "10.96.0.10:80", Routed);
}

#[test]
fn unknown_destinations_are_refused_under_registry_only() {
    let world = world("");
    for (url, expected) in [
        ("http://nowhere.test/", RouteOutcome::Refused),
        ("http://192.0.2.1/", RouteOutcome::Refused),
        ("http://plain/", RouteOutcome::Balanced),
    ] {
        let found = answer(&world.snapshot, true, &[], &question("pod/shop/web-1", url)).unwrap();
        assert_eq!(found.outcome, expected, "{url}: {}", found.message);
    }
}

#[test]
fn each_backend_is_shown_with_the_request_that_it_would_get() {
    let world = world("");
    let mut asked = question("pod/shop/web-1", "http://cart/api/x?a=1");
    asked.headers = vec!["x-beta: yes".to_owned()];
    let found = ask(&world, &asked);
    assert_eq!(found.outcome, RouteOutcome::Routed);
    let rule = found.rule.unwrap();
    assert_eq!(
        (rule.route.as_str(), rule.rule.as_str(), rule.role.as_str()),
        ("shop/cart", "beta", "producer")
    );
    assert_eq!(rule.timeouts, ["request 10s", "backendRequest 2s"]);
    assert_eq!(
        rule.retry,
        "3 on connect-failure, reset, 502, 503; back-off at least 100ms, and up to 100ms to 1s more"
    );
    let backends: Vec<_> = found.backends.iter().map(|one| (one.service.as_str(), one.weight)).collect();
    assert_eq!(backends, [("shop/cart", 90), ("shop/cart-v2", 10)]);
    for backend in &found.backends {
        let sent = backend.request.as_ref().unwrap();
        assert_eq!((sent.method.as_str(), sent.path.as_str()), ("GET", "/v2/x?a=1"));
        let mut headers = sent.headers.clone();
        headers.sort();
        assert_eq!(headers, ["host: cart", "x-env: prod"]);
    }
    assert_eq!(found.backends[0].endpoints.len(), 2);
}

/// `WHAT: HOW (FROM)` of the backend with this place.
fn in_force(answer: &RouteAnswer, backend: usize) -> Vec<String> {
    let lines = answer.backends[backend].in_force.iter();
    lines.map(|line| format!("{}: {} ({})", line.what, line.how, line.from)).collect()
}

#[test]
fn what_holds_is_shown_with_the_object_that_says_so_and_never_the_rules_own_word_alone() {
    let policy = |name: &str, target: &str, groups: &str| {
        format!(
            "apiVersion: mesh-agent.dev/v1alpha1\nkind: TrafficPolicy\nmetadata: {{name: {name}, namespace: shop}}\nspec: {{targetRefs: [{target}], {groups}}}\n---\n"
        )
    };
    let rule = "{group: gateway.networking.k8s.io, kind: HTTPRoute, name: cart, sectionName: beta}";
    let more = [
        policy("once", rule, "retry: {attempts: 1, statusCodes: [503], budget: {percent: 7}}, timeout: 3s, rateLimit: {local: [{requests: 5}]}"),
        policy(
            "cart",
            "{kind: Service, name: cart}",
            "timeout: 1s, rateLimit: {local: [{requests: 100, per: 1m, fairShare: true, key: [{type: header, name: x-user}]}]}, faultInjection: {delay: {fixed: 2s, percent: 10}, match: {headers: [{name: x-chaos, value: chaos}]}}, circuitBreaker: {errorRate: {percent: 50}}, concurrency: {maxRequests: 9}, fallback: {answer: {status: 299}}, activation: {maxWaiting: 4, hook: {url: \"http://10.0.0.9/up\"}}, healthCheck: {http: {path: /ready}, interval: 3s}, panicThreshold: {percent: 30}",
        ),
        "apiVersion: gateway.networking.x-k8s.io/v1alpha1\nkind: XBackendTrafficPolicy\nmetadata: {name: budget, namespace: shop}\nspec: {targetRefs: [{group: \"\", kind: Service, name: cart}, {group: \"\", kind: Service, name: plain}], sessionPersistence: {cookie: {name: s}}}\n---\n".to_owned(),
        "apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {name: cart, namespace: shop}\nspec: {host: cart, trafficPolicy: {loadBalancer: {simple: RANDOM}, outlierDetection: {consecutive5xxErrors: 3}, connectionPool: {http: {http2MaxRequests: 10}}}}\n".to_owned(),
    ];
    let with = world(&more.concat());
    let mut asked = question("pod/shop/web-1", "http://cart/api/x");
    asked.headers = vec!["x-beta: yes".to_owned()];
    let found = ask(&with, &asked);
    insta::assert_snapshot!(in_force(&found, 0).join("\n"), @r"
    fault: delay 2s for 10 % of those with x-chaos=chaos (TrafficPolicy shop/cart)
    circuit breaker: opens for 30s when 50 % of at least 20 in 10s fail, then 3 probes; now closed (TrafficPolicy shop/cart)
    concurrency: at most 9 at a time (TrafficPolicy shop/cart)
    rate limit: 5 in 1s, burst 5, else 429 (TrafficPolicy shop/once)
    rate limit: 100 in 60s, burst 100 for each header x-user, else 429, shared fairly (TrafficPolicy shop/cart)
    fallback: answer 299 on noEndpoint, circuitOpen (TrafficPolicy shop/cart)
    activation: waits 30s for a first endpoint, at most 4 at a time; http://10.0.0.9/up is told (TrafficPolicy shop/cart)
    timeout: 3s for the request, tries included (TrafficPolicy shop/once)
    try timeout: 2s for one try (HTTPRoute shop/cart)
    retry: 1 on 503; back-off 25ms to 250ms (TrafficPolicy shop/once)
    retry budget: 7 % of the requests of 10s, or 10 in 1s if that is more (TrafficPolicy shop/once)
    session: cookie s (XBackendTrafficPolicy shop/budget)
    health check: GET /ready every 3s, within 1s; healthy after 1, unhealthy after 3 in a row; not now, for want of a captured pod (TrafficPolicy shop/cart)
    panic threshold: all endpoints are used below 30 % healthy ones (TrafficPolicy shop/cart)
    balancer: random (DestinationRule shop/cart)
    outliers: ejects after 3 5xx in a row, for 30s at first, at most 10 % (DestinationRule shop/cart)
    connections: at most 10 requests (DestinationRule shop/cart)
    ");
    insta::assert_snapshot!(in_force(&found, 1).join("\n"), @r"
    rate limit: 5 in 1s, burst 5, else 429 (TrafficPolicy shop/once)
    timeout: 3s for the request, tries included (TrafficPolicy shop/once)
    try timeout: 2s for one try (HTTPRoute shop/cart)
    retry: 1 on 503; back-off 25ms to 250ms (TrafficPolicy shop/once)
    retry budget: 7 % of the requests of 10s, or 10 in 1s if that is more (TrafficPolicy shop/once)
    ");
    // The rule's own word, where nothing else is said.
    let without = world("");
    insta::assert_snapshot!(in_force(&ask(&without, &asked), 0).join("\n"), @r"
    timeout: 10s for the request, tries included (HTTPRoute shop/cart)
    try timeout: 2s for one try (HTTPRoute shop/cart)
    retry: 3 on connect-failure, reset, 502, 503; back-off at least 100ms, and up to 100ms to 1s more (HTTPRoute shop/cart)
    ");
    let plain = ask(&with, &question("pod/shop/web-1", "http://plain/"));
    assert_eq!(in_force(&plain, 0), ["session: cookie s (XBackendTrafficPolicy shop/budget)"]);
    // Without a policy's budget the attempts alone bound retries.
    let budget = "apiVersion: gateway.networking.x-k8s.io/v1alpha1\nkind: XBackendTrafficPolicy\nmetadata: {name: b, namespace: shop}\nspec: {targetRefs: [{group: \"\", kind: Service, name: cart}], retryConstraint: {budget: {percent: 3}}}\n";
    let with_budget = ask(&world(budget), &asked);
    let told = "retry budget: 3 % of the requests of 10s, or 10 in 1s if that is more (XBackendTrafficPolicy shop/b)";
    assert_eq!(in_force(&with_budget, 0)[3], told);
    assert_eq!(in_force(&with_budget, 1).len(), 3, "{:?}", in_force(&with_budget, 1));
    // A rule that answers itself meets no policy; what can't be served neither.
    let moved = ask(&with, &question("pod/shop/web-1", "http://cart/old"));
    assert!(moved.backends.is_empty());
    let gone = ask(&with, &question("pod/shop/web-1", "http://cart/api/x"));
    assert_eq!(gone.backends[1].service, "shop/gone");
    assert_eq!(in_force(&gone, 1), Vec::<String>::new());
}

#[test]
fn consumer_routes_hold_for_the_pods_of_their_namespace() {
    let world = world("");
    let role = |from: &str| {
        let found = ask(&world, &question(from, "http://cart.shop/api"));
        let rule = found.rule.unwrap();
        (rule.route, rule.role, rule.clients)
    };
    assert_eq!(role("pod/web/other"), ("web/mine".into(), "consumer".into(), "web".into()));
    assert_eq!(role("pod/shop/web-1"), ("shop/cart".into(), "producer".into(), String::new()));
}

#[test]
fn redirects_preflights_and_dead_ends_are_answered_by_the_agent() {
    let more = r#"
{apiVersion: v1, kind: Service, metadata: {name: edge, namespace: shop}, spec: {clusterIP: 10.96.0.20, ports: [{name: http, port: 8080}]}}
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: edge, namespace: shop}
spec:
  parentRefs: [{group: "", kind: Service, name: edge}]
  rules:
  - matches: [{path: {value: /moved}}]
    filters: [{type: RequestRedirect, requestRedirect: {statusCode: 301, path: {type: ReplacePrefixMatch, replacePrefixMatch: /new}}}]
  - matches: [{path: {value: /cors}}]
    filters: [{type: CORS, cors: {allowOrigins: ["https://a.test"], allowMethods: [PUT]}}]
    backendRefs: [{name: cart, port: 80}]
  - matches: [{path: {value: /none}}]
    backendRefs: [{name: cart, port: 80, weight: 0}]
  - matches: [{path: {value: /gone}}]
    backendRefs: [{name: gone, port: 80}]
"#;
    let world = world(more);
    let check = |url: &str, method: &str, headers: &[&str], status: Option<u16>, header: &str| {
        let mut asked = question("pod/shop/web-1", url);
        asked.method = Some(method.to_owned());
        asked.headers = headers.iter().map(|header| (*header).to_owned()).collect();
        let found = ask(&world, &asked);
        let answer = found.answer.as_ref();
        assert_eq!(answer.map(|answer| answer.status), status, "{url}: {}", found.message);
        let said = answer.is_some_and(|answer| answer.headers.iter().any(|line| line == header));
        assert!(said || header.is_empty(), "{url}: {answer:?}");
    };
    check("http://edge:8080/moved/x?y", "GET", &[], Some(301), "location: http://edge:8080/new/x?y");
    let asked = ["origin: https://a.test", "access-control-request-method: PUT"];
    check(
        "http://edge:8080/cors",
        "OPTIONS",
        &asked,
        Some(200),
        "access-control-allow-origin: https://a.test",
    );
    check("http://edge:8080/cors", "OPTIONS", &[], None, "");
    check("http://edge:8080/none", "GET", &[], Some(500), "");
    check("http://edge:8080/other", "GET", &[], Some(404), "");
    check("https://edge:8080/other", "GET", &[], Some(400), "");
    let gone = ask(&world, &question("pod/shop/web-1", "http://edge:8080/gone"));
    assert_eq!(gone.backends[0].problem, "there is no such Service or port: answered with 500");
    let warned: Vec<_> = gone.warnings.iter().map(|warning| warning.code.as_str()).collect();
    assert_eq!(warned, ["MESH0124", "MESH0128"]);
}

#[test]
fn calls_and_connections_are_matched_by_what_they_are() {
    let world = world("");
    let mut call = question("pod/shop/web-1", "http://calls/shop.Cart/Get");
    assert_eq!(ask(&world, &call).outcome, RouteOutcome::Routed);
    call.grpc = true;
    let found = ask(&world, &call);
    assert_eq!(found.outcome, RouteOutcome::Routed);
    assert_eq!(found.request.method, "POST");
    assert_eq!(found.request.headers, [":authority: calls", "content-type: application/grpc"]);
    call.url = "http://calls/other/Get".to_owned();
    assert_eq!(ask(&world, &call).outcome, RouteOutcome::NoMatch);

    let check = |url: &str, outcome: RouteOutcome| {
        let found = ask(&world, &question("pod/shop/web-1", url));
        assert_eq!(found.outcome, outcome, "{url}: {}", found.message);
    };
    check("https://db.shop.svc:5432", RouteOutcome::Routed);
    check("https://db.shop:5432", RouteOutcome::NoMatch);
    check("tcp://db.shop.svc:5432", RouteOutcome::NoMatch);
}

#[test]
fn a_pod_that_meets_no_agent_or_another_one_is_said() {
    let world = world(
        "{apiVersion: v1, kind: Pod, metadata: {name: far, namespace: shop}, spec: {nodeName: b}, status: {podIP: 10.1.9.9}}\n",
    );
    let check = |from: &str, part: &str| {
        let found = ask(&world, &question(from, "http://plain.shop/"));
        assert!(found.notes.iter().any(|note| note.contains(part)), "{from}: {:?}", found.notes);
    };
    check("pod/out", "pod default/out isn't captured");
    check("pod/shop/far", "pod shop/far is on node b, whose agent decides");
    assert_eq!(ask(&world, &question("pod/shop/web-1", "http://plain/")).notes, Vec::<String>::new());
}

#[test]
fn what_makes_no_sense_is_refused_with_what_was_expected() {
    let world = world("");
    let check = |from: &str, url: &str, header: Option<&str>, part: &str| {
        let mut asked = question(from, url);
        asked.headers = header.into_iter().map(str::to_owned).collect();
        let refused = answer(&world.snapshot, false, &[], &asked).unwrap_err().to_string();
        assert!(refused.contains(part), "{from} {url}: {refused}");
    };
    let web = "pod/shop/web-1";
    check("pod/shop/none", "http://cart", None, "there is no pod shop/none");
    check("a/b/c/d", "http://cart", None, "names no pod");
    check(web, "ftp://cart", None, "expected http://");
    check(web, "http://", None, "is no URL");
    check(web, "tcp://db", None, "needs a port");
    check(web, "tcp://cart:80", None, "ask with http://");
    check(web, "http://cart", Some("nonsense"), "expected 'name: value'");
}

#[test]
fn a_backend_that_redirects_says_so_and_is_sent_nothing() {
    let world = world(
        "apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: away, namespace: shop}
spec:
  parentRefs: [{group: \"\", kind: Service, name: plain}]
  rules:
  - backendRefs:
    - name: cart
      port: 80
      filters: [{type: RequestRedirect, requestRedirect: {hostname: o.test}}]
    - {name: cart-v2, port: 80}
",
    );
    let found = ask(&world, &question("pod/shop/web-1", "http://plain/a"));
    let [away, stays] = &found.backends[..] else { panic!("{:?}", found.backends) };
    assert_eq!(away.problem, "its filters answer with 302 Found, location: http://o.test/a");
    assert!(away.request.is_none() && stays.request.is_some());
}

#[test]
fn policies_say_who_else_is_asked() {
    let policy = |name: &str, target: &str, groups: &str| {
        format!(
            "{{apiVersion: mesh-agent.dev/v1alpha1, kind: TrafficPolicy, metadata: {{name: {name}, namespace: shop}}, spec: {{targetRefs: [{target}], {groups}}}}}\n---\n"
        )
    };
    let world = world(
        &[
            policy("plain", "{kind: Service, name: plain}", "hedge: {after: 300ms, max: 2}, fallback: {service: {name: cart, port: 80}, on: [error5xx, timeout]}"),
            policy("v2", "{kind: Service, name: cart-v2}", "fallback: {answer: {status: 204}}"),
            policy("all", "{group: gateway.networking.k8s.io, kind: HTTPRoute, name: cart}", "hedge: {after: 1s}, retry: {attempts: 1, on: [5xx]}"),
        ]
        .concat(),
    );
    let plain = ask(&world, &question("pod/shop/web-1", "http://plain/"));
    assert_eq!(
        in_force(&plain, 0),
        [
            "fallback: Service shop/cart port 80 on error5xx, timeout (TrafficPolicy shop/plain)",
            "hedge: after 300ms, at most 2 more (TrafficPolicy shop/plain)"
        ]
    );
    let mut asked = question("pod/shop/web-1", "http://cart/api/x");
    asked.headers = vec!["x-beta: yes".to_owned()];
    let routed = ask(&world, &asked);
    let by_rule = [
        "retry: 1 on 5xx; back-off 25ms to 250ms (TrafficPolicy shop/all)",
        "hedge: after 1s, at most 1 more (TrafficPolicy shop/all)",
    ];
    let fallback = "fallback: answer 204 on noEndpoint, circuitOpen (TrafficPolicy shop/v2)";
    for (backend, falls) in [(0, false), (1, true)] {
        let said = in_force(&routed, backend);
        assert!(by_rule.iter().all(|line| said.iter().any(|other| other == line)), "{said:?}");
        assert_eq!(said.iter().any(|line| line == fallback), falls, "{said:?}");
        assert!(!said.iter().any(|line| line.contains("HTTPRoute") && line.starts_with("retry")), "{said:?}");
    }
}

#[test]
fn what_the_kernel_balances_is_said() {
    let service = |name: &str, address: u8, port: &str| {
        format!(
            "apiVersion: v1\nkind: Service\nmetadata: {{name: {name}, namespace: shop}}\n\
             spec: {{clusterIP: 10.96.7.{address}, ports: [{{name: {port}, port: 80}}]}}\n"
        )
    };
    let world = world(&format!("{}---\n{}", service("opaque", 1, "tcp"), service("asked", 2, "http")));
    let notes = |url: &str| ask(&world, &question("pod/shop/web-1", url)).notes.join("\n");
    assert!(notes("tcp://opaque:80").contains("the kernel balances"), "{}", notes("tcp://opaque:80"));
    assert!(!notes("http://asked/").contains("the kernel balances"), "{}", notes("http://asked/"));
}

//! Mirrors and sessions of a route, and the budget of a policy, as a client of an enrolled pod sees them.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use anyhow::ensure;
use mesh_tests::http1::{Client, Message};
use mesh_tests::lab::eventually;
use mesh_tests::shop::{HttpService, NAMESPACE, Shop};
use mesh_tests::{SOON, need_shop, shared_shop};

shared_shop!("routing-sessions");

/// Attaches a route with this one rule to `service` and waits until it is in force.
fn route(shop: &Shop, service: &str, rule: &str) {
    let text = format!(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {{name: {service}, namespace: {NAMESPACE}}}\nspec: {{parentRefs: [{{group: \"\", kind: Service, name: {service}}}], rules: [{rule}]}}\n"
    );
    shop.topology.mesh().write_text(&format!("route-{service}.yaml"), &text).unwrap();
    in_force(shop, "routes", service);
}

fn in_force(shop: &Shop, what: &str, name: &str) {
    eventually(SOON, || {
        let listed = shop.agent.cli(&["get", what])?.success()?.stdout;
        ensure!(listed.lines().any(|line| line.split_whitespace().nth(1) == Some(name)), "{name}: {listed}");
        Ok(())
    })
    .unwrap();
}

fn get(client: &mut Client, header: &str) -> Message {
    let answer = client.ask(format!("GET / HTTP/1.1\r\nHost: any\r\n{header}\r\n")).unwrap();
    assert_eq!(answer.status(), 200, "{answer:?}");
    answer
}

#[test]
fn mesh_request_mirror_gets_a_copy_and_a_dead_one_is_not_noticed() {
    let shop = need_shop!();
    let main = shop.http("mirrored", "http", 1).unwrap();
    let mut shadow = shop.http("shadow", "http", 1).unwrap();
    let filter = "{type: RequestMirror, requestMirror: {backendRef: {name: shadow, port: 80}}}";
    let rule = format!("{{filters: [{filter}], backendRefs: [{{name: mirrored, port: 80}}]}}");
    route(shop, "mirrored", &rule);
    let mut client = shop.client(&main).unwrap();
    let request = "POST /echo?x=1 HTTP/1.1\r\nHost: any\r\nX-Seen: 1\r\nContent-Length: 5\r\n\r\nhello";
    assert_eq!(client.ask(request).unwrap().text(), "hello");
    eventually(SOON, || {
        let copies = shadow.seen().of("/echo?x=1");
        ensure!(copies.len() == 1, "{copies:?}");
        ensure!(copies[0].text() == "hello" && copies[0].header("x-seen") == Some("1"), "{copies:?}");
        Ok(())
    })
    .unwrap();
    shadow.backends[0].server.die();
    for _ in 0..20 {
        assert_eq!(client.ask(request).unwrap().text(), "hello");
    }
    assert_eq!(main.seen().of("/echo?x=1").len(), 21);
    shop.metrics_show(|metrics| {
        let failed = metrics.sum("mesh_agent_mirrored_requests_total", &[("outcome", "failed")]);
        ensure!(failed == 20.0, "{failed} failed");
        Ok(())
    })
    .unwrap();
}

#[test]
fn mesh_request_mirror_gets_its_share_of_the_requests() {
    let shop = need_shop!();
    let main = shop.http("shared", "http", 1).unwrap();
    for (name, share, expected) in [
        ("fifth", "percent: 20", 137..=263),
        ("half", "fraction: {numerator: 1, denominator: 2}", 421..=579),
        ("none", "percent: 0", 0..=0),
        ("whole", "fraction: {numerator: 7, denominator: 7}", 1000..=1000),
    ] {
        let shadow = shop.http(&format!("share-{name}"), "http", 1).unwrap();
        let filter = format!(
            "{{type: RequestMirror, requestMirror: {{backendRef: {{name: share-{name}, port: 80}}, {share}}}}}"
        );
        let path = format!("/{name}");
        let matches = format!("matches: [{{path: {{value: {path}}}}}]");
        let rule = format!("{{{matches}, filters: [{filter}], backendRefs: [{{name: shared, port: 80}}]}}");
        shop.route(&main, &rule).unwrap();
        let mut client = shop.client(&main).unwrap();
        for _ in 0..1000 {
            assert_eq!(client.get("shared", &path).unwrap().status(), 200);
        }
        let mut before = usize::MAX;
        // Copies come after their requests: counted once there are no more of them.
        let copies = eventually(SOON, || {
            let count = shadow.seen().count();
            ensure!(std::mem::replace(&mut before, count) == count, "{count} copies, and more to come");
            ensure!(expected.contains(&count), "{share}: {count} copies of 1000");
            Ok(count)
        });
        assert_eq!(main.seen().of(&path).len(), 1000, "{share}: {copies:?}");
        copies.unwrap();
    }
}

/// A client that sends back what it is told stays at one endpoint, over connections of its own.
fn stays(shop: &Shop, service: &HttpService, told: &str, send_back: impl Fn(&str) -> String) {
    let first = get(&mut shop.client(service).unwrap(), "");
    let carried = send_back(first.header(told).unwrap());
    for _ in 0..20 {
        let answer = get(&mut shop.client(service).unwrap(), &carried);
        assert_eq!((answer.text(), answer.header(told)), (first.text(), None));
    }
    let mut others = shop.client(service).unwrap();
    assert!((0..100).any(|_| get(&mut others, "").text() != first.text()), "without it a client is spread");
}

#[test]
fn a_session_of_a_route_keeps_its_endpoint() {
    let shop = need_shop!();
    for (name, persistence, told) in [
        ("cookie", "{type: Cookie, cookie: {name: sess}}", "set-cookie"),
        ("header", "{type: Header, header: {name: x-sess}}", "x-sess"),
    ] {
        let service = shop.http(name, "http", 3).unwrap();
        let rule =
            format!("{{sessionPersistence: {persistence}, backendRefs: [{{name: {name}, port: 80}}]}}");
        route(shop, name, &rule);
        stays(shop, &service, told, |value| match told {
            "set-cookie" => format!("Cookie: {}\r\n", value.split(';').next().unwrap()),
            _ => format!("x-sess: {value}\r\n"),
        });
    }
}

#[test]
fn a_session_of_a_policy_needs_no_route() {
    let shop = need_shop!();
    let service = shop.http("policy", "http", 3).unwrap();
    let policy = format!(
        "apiVersion: gateway.networking.x-k8s.io/v1alpha1\nkind: XBackendTrafficPolicy\nmetadata: {{name: policy, namespace: {NAMESPACE}}}\nspec: {{targetRefs: [{{group: \"\", kind: Service, name: policy}}], sessionPersistence: {{type: Header, header: {{name: x-sess}}}}}}\n"
    );
    shop.topology.mesh().write_text("policy.yaml", &policy).unwrap();
    let mut client = shop.client(&service).unwrap();
    eventually(SOON, || {
        let answer = get(&mut client, "");
        ensure!(answer.header("x-sess").is_some(), "{answer:?}");
        Ok(())
    })
    .unwrap();
    stays(shop, &service, "x-sess", |value| format!("x-sess: {value}\r\n"));
}

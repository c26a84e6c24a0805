//! Mirrors and sessions of a route, and the budget of a policy, as a client of an enrolled pod sees them.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use anyhow::ensure;
use mesh_tests::http1::{Client, Message};
use mesh_tests::lab::{ServiceObject, eventually};
use mesh_tests::routes::to;
use mesh_tests::shop::{HttpService, NAMESPACE, Shop, slice};
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

/// The only route of `service` as `get routes` lists it.
fn listed(shop: &Shop, service: &str) -> serde_json::Value {
    let json = shop.agent.cli(&["get", "routes", "-o", "json"]).unwrap().success().unwrap().stdout;
    let all: Vec<serde_json::Value> = serde_json::from_str(&json).unwrap();
    let of_it = all.into_iter().filter(|route| route["parent"] == format!("{NAMESPACE}/{service}"));
    let of_it: Vec<_> = of_it.collect();
    assert_eq!(of_it.len(), 1, "{of_it:?}");
    of_it[0].clone()
}

#[test]
fn sessions_on_a_service_that_keeps_clients_by_address_are_refused_by_name() {
    let shop = need_shop!();
    let service = shop.http_with("pinned", "http", 2, ServiceObject::client_ip_affinity).unwrap();
    let session = "sessionPersistence: {type: Header, header: {name: x-sess}}";
    shop.route(&service, &format!("{{{session}, {}}}", to("pinned"))).unwrap();
    let accepted = &listed(shop, "pinned")["accepted"];
    assert_eq!((&accepted["status"], &accepted["reason"]), (&false.into(), &"UnsupportedValue".into()));
    let analyzed = shop.agent.cli(&["analyze"]).unwrap().stdout;
    assert!(analyzed.contains("MESH0139 HTTPRoute shop/pinned-r"), "{analyzed}");
    assert!(analyzed.contains("spec.rules[0].sessionPersistence"), "{analyzed}");
    // It isn't attached: the Service goes on as without it.
    let answer = get(&mut shop.client(&service).unwrap(), "");
    assert_eq!(answer.header("x-sess"), None, "{answer:?}");
    shop.rewrite_endpoints(&service, slice("pinned", "http", service.target, &[&shop.carts[0]])).unwrap();
    eventually(SOON, || {
        let answer = get(&mut shop.client(&service)?, "");
        ensure!(answer.header("x-sess").is_some(), "the affinity is gone, and the route isn't attached yet");
        Ok(())
    })
    .unwrap();
    assert_eq!(listed(shop, "pinned")["accepted"]["status"], true);
}

#[test]
fn of_a_route_some_of_whose_rules_cannot_be_served_the_others_are() {
    let shop = need_shop!();
    let v = shop.versions("partly", "http").unwrap();
    let filter = "{type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: Host, value: x}]}}";
    let bad = format!("{{matches: [{{path: {{value: /bad}}}}], filters: [{filter}], {}}}", to("partly-v1"));
    shop.route(&v, &format!("{bad}, {{{}}}", to("partly-v2"))).unwrap();
    let mut client = shop.client(&v).unwrap();
    assert_eq!(client.get("p", "/bad").unwrap().status(), 500);
    let answer = client.get("p", "/good").unwrap();
    assert_eq!((answer.status(), answer.text().as_str()), (200, "v2"));
    let route = listed(shop, "partly");
    assert_eq!(route["accepted"]["status"], true, "{route}");
    let partly = &route["partiallyInvalid"];
    assert_eq!((&partly["status"], &partly["reason"]), (&true.into(), &"UnsupportedValue".into()), "{route}");
    assert!(partly["message"].as_str().unwrap().starts_with("Dropped Rule 0"), "{route}");
    let table = shop.agent.cli(&["get", "routes"]).unwrap().stdout;
    let row = table.lines().find(|line| line.contains("partly-r")).unwrap();
    assert!(row.contains("True(PartiallyInvalid)"), "{row}");
    // All of its rules: it isn't accepted any more.
    shop.route(&v, &bad).unwrap();
    let accepted = &listed(shop, "partly")["accepted"];
    assert_eq!((&accepted["status"], &accepted["reason"]), (&false.into(), &"UnsupportedValue".into()));
    assert_eq!(shop.get(&v, "/bad").unwrap().status(), 500);
}

#[test]
fn a_session_ends_with_its_timeouts() {
    let shop = need_shop!();
    for (name, timeouts, each) in
        [("oldage", "absoluteTimeout: 2s", false), ("idling", "idleTimeout: 2s", true)]
    {
        let service = shop.http(name, "http", 3).unwrap();
        let session = format!("sessionPersistence: {{type: Header, {timeouts}, header: {{name: x-sess}}}}");
        shop.route(&service, &format!("{{{session}, {}}}", to(name))).unwrap();
        let first = get(&mut shop.client(&service).unwrap(), "");
        let value = first.header("x-sess").unwrap().to_owned();
        let carried = format!("x-sess: {value}\r\n");
        let mut client = shop.client(&service).unwrap();
        let again = get(&mut client, &carried);
        assert_eq!((again.text(), again.header("x-sess").is_some()), (first.text(), each), "{timeouts}");
        // What it carries is over once it leads elsewhere: while it holds it never does.
        eventually(SOON, || {
            ensure!(get(&mut client, &carried).text() != first.text(), "{timeouts}: still kept");
            Ok(())
        })
        .unwrap();
    }
    // The first is told how long by the cookie itself.
    let service = shop.http("maxage", "http", 1).unwrap();
    let cookie = "{type: Cookie, absoluteTimeout: 1h, cookie: {name: sess, lifetimeType: Permanent}}";
    shop.route(&service, &format!("{{sessionPersistence: {cookie}, {}}}", to("maxage"))).unwrap();
    let told = get(&mut shop.client(&service).unwrap(), "").header("set-cookie").unwrap().to_owned();
    assert!(told.ends_with("; Max-Age=3600"), "{told}");
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

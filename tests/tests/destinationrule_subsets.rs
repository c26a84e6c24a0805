//! Subsets of a DestinationRule, named by a route's backends: who gets the requests, under which policy, and what is said.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::ensure;
use http::Request;
use mesh_tests::http1::Client;
use mesh_tests::http2::{H2Server, answer, whole, with_client};
use mesh_tests::lab::{Object, eventually};
use mesh_tests::shop::{NAMESPACE, Shop};
use mesh_tests::{SOON, need_shop, shared_shop};
use serde_json::json;

shared_shop!("drsubsets");

/// A rule with subsets for the two versions of the shop's carts, `v1` (two pods) and `v2` (one), and others.
fn rule(name: &str, policy: &str, subsets: &str) -> Object {
    let value = |text: &str| serde_yaml_ng::from_str::<serde_json::Value>(text).unwrap();
    let spec = json!({"host": name, "trafficPolicy": value(policy), "subsets": value(subsets)});
    let metadata = json!({"name": name, "namespace": NAMESPACE});
    let api = "networking.istio.io/v1";
    Object(json!({"apiVersion": api, "kind": "DestinationRule", "metadata": metadata, "spec": spec}))
}

const VERSIONS: &str = "[{name: v1, labels: {version: v1}}, {name: v2, labels: {version: v2}}, {name: none, labels: {version: v9}}]";

fn apply(shop: &Shop, name: &str, policy: &str, subsets: &str) {
    shop.topology.mesh().write(&format!("policy-{name}.yaml"), [rule(name, policy, subsets)]).unwrap();
}

fn backend(name: &str, subset: &str, weight: u32) -> String {
    format!(
        "{{name: {name}, port: 80, weight: {weight}, filters: [{{type: ExtensionRef, extensionRef: {{group: mesh-agent.dev, kind: Subset, name: {subset}}}}}]}}"
    )
}

fn cli(shop: &Shop, args: &[&str]) -> String {
    let done = shop.agent.cli(args).unwrap();
    format!("{}{}", done.stdout, done.stderr)
}

#[test]
fn a_routes_backends_are_subsets_by_their_weights() {
    let shop = need_shop!();
    apply(shop, "split", "{}", VERSIONS);
    let service = shop.http("split", "http", 3).unwrap();
    let mut client = shop.client(&service).unwrap();
    let rule = format!(
        "{{matches: [{{path: {{value: /only}}}}], backendRefs: [{}]}}, {{backendRefs: [{}, {}]}}",
        backend("split", "v2", 1),
        backend("split", "v1", 1),
        backend("split", "v2", 3)
    );
    shop.route(&service, &rule).unwrap();
    (0..20).for_each(|_| assert_eq!(client.get("s", "/only").unwrap().status(), 200));
    assert_eq!(service.counts(), [0, 0, 20]);
    (0..400).for_each(|_| assert_eq!(client.get("s", "/").unwrap().status(), 200));
    let counts = service.counts();
    let share = counts[0] + counts[1];
    assert!((60..=140).contains(&share) && counts[0] > 0 && counts[1] > 0, "{counts:?}");
}

#[test]
fn a_subset_has_a_policy_of_its_own_and_what_it_leaves_out_of_the_rule() {
    let shop = need_shop!();
    let subsets = "[{name: v1, labels: {version: v1}, trafficPolicy: {loadBalancer: {simple: ROUND_ROBIN}}}]";
    let policy = "{loadBalancer: {consistentHash: {useSourceIp: true}}, connectionPool: {http: {http2MaxRequests: 1}}}";
    apply(shop, "own", policy, subsets);
    let service = shop.http("own", "http", 3).unwrap();
    shop.route(&service, &format!("{{backendRefs: [{}]}}", backend("own", "v1", 1))).unwrap();
    let mut client = shop.client(&service).unwrap();
    (0..20).for_each(|_| assert_eq!(client.get("o", "/").unwrap().status(), 200));
    assert_eq!(service.counts(), [10, 10, 0], "the subset's round robin, not the rule's hash");
    // The last of these may count as under way for a moment yet, and what comes meanwhile is refused.
    let mut hanging = Vec::new();
    eventually(SOON, || {
        let mut another = shop.client(&service)?;
        another.send("GET /hang HTTP/1.1\r\nHost: o\r\n\r\n")?;
        hanging.push(another);
        ensure!(service.request("/hang").is_some());
        Ok(())
    })
    .unwrap();
    assert_eq!(client.get("o", "/over").unwrap().status(), 503, "the rule's limit of requests");
}

#[test]
fn a_subset_that_is_unknown_or_empty_is_told_apart() {
    let shop = need_shop!();
    apply(shop, "missing", "{}", VERSIONS);
    let service = shop.http("missing", "http", 3).unwrap();
    let rules = format!(
        "{{matches: [{{path: {{value: /empty}}}}], backendRefs: [{}]}}, {{matches: [{{path: {{value: /unknown}}}}], backendRefs: [{}]}}",
        backend("missing", "none", 1),
        backend("missing", "v7", 1)
    );
    let route = shop.route(&service, &rules).unwrap();
    let mut client = shop.client(&service).unwrap();
    let flag = |path: &str| {
        let line = shop.log_shows(path, |line| line["path"] == path).unwrap();
        line["response_flags"].as_str().unwrap().to_owned()
    };
    assert_eq!(client.get("m", "/empty/1").unwrap().status(), 503);
    assert_eq!(flag("/empty/1"), "UH");
    assert_eq!(client.get("m", "/unknown/1").unwrap().status(), 500);
    assert_eq!(flag("/unknown/1"), "NC");
    let routes = cli(shop, &["get", "routes", "-o", "wide"]);
    let line = routes.lines().find(|line| line.contains(&route)).unwrap();
    assert!(line.contains("BackendNotFound") && line.contains("\"v7\""), "{line}");
    let analyzed = cli(shop, &["analyze"]);
    assert!(analyzed.contains("MESH0124") && analyzed.contains("subset \"v7\""), "{analyzed}");
    assert!(analyzed.contains("spec.subsets[1]"), "v2 is named by nothing: {analyzed}");
    apply(shop, "missing", "{}", "[{name: v7, labels: {version: v2}}, {name: none, labels: {version: v9}}]");
    eventually(SOON, || {
        ensure!(client.get("m", "/unknown/2")?.status() == 200);
        Ok(())
    })
    .unwrap();
    assert_eq!(service.counts(), [0, 0, 1]);
}

#[test]
fn the_cli_shows_the_subset_and_its_endpoints() {
    let shop = need_shop!();
    apply(shop, "shown", "{}", VERSIONS);
    let service = shop.http("shown", "http", 3).unwrap();
    shop.route(&service, &format!("{{backendRefs: [{}]}}", backend("shown", "v2", 1))).unwrap();
    let url = service.url("/");
    let tested = cli(shop, &["route", "test", "--from", "pod/shop/web", &url]);
    let [v1, v2] = [&shop.carts[0], &shop.carts[2]].map(|cart| cart.v4().to_string());
    assert!(tested.contains("subset v2") && tested.contains(&format!("{v2}:")), "{tested}");
    assert!(!tested.contains(&format!("{v1}:")), "{tested}");
    let described = cli(shop, &["describe", "service", "shop/shown"]);
    assert!(described.contains("subset v2"), "{described}");
}

#[test]
fn a_grpc_route_names_subsets_too() {
    let shop = need_shop!();
    apply(shop, "rpc", "{}", VERSIONS);
    let port = shop.port();
    let asked: [Arc<AtomicUsize>; 3] = Default::default();
    let _servers: Vec<H2Server> = asked
        .iter()
        .zip(&shop.carts)
        .map(|(asked, host)| {
            let asked = asked.clone();
            H2Server::new(host.listen(port).unwrap(), None, move |_, mut respond| {
                asked.fetch_add(1, Ordering::Relaxed);
                async move {
                    let ok = ("grpc-status".parse().unwrap(), "0".parse().unwrap());
                    answer(&mut respond, "", Some([ok].into_iter().collect()));
                }
            })
        })
        .collect();
    let [a, b, c] = &shop.carts;
    let service = shop.expose("rpc", "grpc", port, &[a, b, c]).unwrap();
    shop.route_of("GRPCRoute", &service, &format!("{{backendRefs: [{}]}}", backend("rpc", "v2", 1))).unwrap();
    with_client(shop.web.connect(service.at()).unwrap(), async |client| {
        for _ in 0..10 {
            let request =
                Request::post("http://g/a.B/C").header("content-type", "application/grpc").body(())?;
            let (response, _) = client.clone().ready().await?.send_request(request, true)?;
            let answer = whole(response.await?).await?;
            ensure!(answer.trailers.is_some_and(|trailers| trailers["grpc-status"] == "0"));
        }
        Ok(())
    })
    .unwrap();
    assert_eq!(asked.each_ref().map(|count| count.load(Ordering::Relaxed)), [0, 0, 10]);
}

#[test]
fn a_pods_labels_decide_and_their_change_is_followed() {
    let shop = need_shop!();
    let pod = mesh_tests::sockets::Host::new(&shop.topology, shop.node.pod("changing").unwrap()).unwrap();
    let object = |version: &str| {
        let object = mesh_tests::lab::PodObject::of(&pod, NAMESPACE).label("version", version);
        [Object::from(object)]
    };
    shop.topology.mesh().write("changing.yaml", object("v1")).unwrap();
    apply(shop, "changes", "{}", VERSIONS);
    let port = shop.port();
    let (_server, seen) = mesh_tests::http1::echo_server(pod.listen(port).unwrap(), "changing");
    let service = shop.expose("changes", "http", port, &[&pod]).unwrap();
    shop.route(&service, &format!("{{backendRefs: [{}]}}", backend("changes", "v2", 1))).unwrap();
    let mut client = Client::new(shop.web.connect(service.at()).unwrap());
    assert_eq!(client.get("c", "/").unwrap().status(), 503);
    shop.topology.mesh().write("changing.yaml", object("v2")).unwrap();
    eventually(SOON, || {
        ensure!(client.get("c", "/")?.status() == 200);
        Ok(())
    })
    .unwrap();
    assert!(seen.count() >= 1);
}

//! TrafficPolicy: active health checks, where they come from, what they do to requests; the panic threshold.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::collections::BTreeSet;
use std::net::IpAddr;

use anyhow::ensure;
use mesh_tests::http1::{Client, Seen, echo_server};
use mesh_tests::lab::{Object, PodObject, eventually};
use mesh_tests::peers::python_server;
use mesh_tests::policy::traffic_policy;
use mesh_tests::server::Server;
use mesh_tests::shop::{HttpService, NAMESPACE, Shop};
use mesh_tests::sockets::Host;
use mesh_tests::{PATIENCE, need_agent, need_shop, shared_shop};
use serde_json::Value;

shared_shop!("health");

/// A service whose endpoints have their health asked at a port of its own, by a server of their own.
struct Checked {
    service: HttpService,
    health: Vec<(Server, Seen)>,
}

impl std::ops::Deref for Checked {
    type Target = HttpService;
    fn deref(&self) -> &HttpService {
        &self.service
    }
}

/// Such a service; `more` are further lines of the policy.
fn checked(shop: &Shop, name: &str, count: usize, more: &str) -> Checked {
    let port = shop.port();
    let carts = shop.carts.iter().take(count);
    let health = carts.map(|cart| echo_server(cart.listen(port).unwrap(), cart.name())).collect();
    let spec = format!(
        "healthCheck: {{http: {{path: /healthz}}, port: {port}, interval: 50ms, timeout: 10s, unhealthyThreshold: 2}}\n{more}"
    );
    shop.topology
        .mesh()
        .write(&format!("policy-{name}.yaml"), [traffic_policy(name, &spec).unwrap()])
        .unwrap();
    // In turn: latencies on a busy machine shall not decide who gets a request.
    let service =
        shop.http_with(name, "http", count, |service| service.load_balancer("ROUND_ROBIN")).unwrap();
    Checked { service, health }
}

/// Endpoints of a service as `get endpoints` has them, in the order of the carts.
fn endpoints(shop: &Shop, service: &str) -> Vec<Value> {
    let listed = shop.agent.cli_json(&["get", "endpoints", "--service", service]).unwrap();
    let mut endpoints = listed.as_array().unwrap().clone();
    endpoints.sort_by_key(|endpoint| endpoint["workload"].to_string());
    endpoints
}

/// Waits until an endpoint's state is this.
fn becomes(shop: &Shop, service: &str, index: usize, state: &str) -> Value {
    eventually(PATIENCE, || {
        let endpoint = endpoints(shop, service)[index].clone();
        ensure!(endpoint["state"] == state, "{endpoint}");
        Ok(endpoint)
    })
    .unwrap()
}

/// Endpoints that answer these many requests, each of which must be answered with 200.
fn answer(client: &mut Client, requests: usize) -> BTreeSet<String> {
    let ask = |i| {
        let answer = client.get("h", "/").unwrap();
        assert_eq!(answer.status(), 200, "request {i}");
        answer.text()
    };
    (0..requests).map(ask).collect()
}

fn metric(shop: &Shop, name: &str, labels: &[(&str, &str)]) -> f64 {
    shop.agent.metrics().unwrap().sum(name, labels)
}

#[test]
fn an_unhealthy_endpoint_gets_no_request_and_comes_back() {
    let shop = need_shop!();
    let service = checked(shop, "sick", 3, "");
    let mut client = shop.client(&service.service).unwrap();
    eventually(PATIENCE, || {
        ensure!(answer(&mut client, 30).len() == 3);
        Ok(())
    })
    .unwrap();
    service.health[1].1.answer_with(503);
    let endpoint = becomes(shop, "sick", 1, "unhealthy");
    assert_eq!((&endpoint["unhealthy"], &endpoint["available"]), (&"status 503".into(), &false.into()));
    let before = service.counts()[1];
    let others = answer(&mut client, 60);
    assert_eq!((service.counts()[1] - before, others.len()), (0, 2), "{others:?}");
    shown(shop, &service);
    // A connection that was open to it before takes no request either; a new one goes elsewhere.
    assert_eq!(answer(&mut shop.client(&service.service).unwrap(), 20).len(), 2);
    service.health[1].1.answer_with(0);
    becomes(shop, "sick", 1, "ready");
    eventually(PATIENCE, || {
        ensure!(answer(&mut client, 30).len() == 3);
        Ok(())
    })
    .unwrap();
    let log = shop.agent.log();
    let line = log.lines().find(|line| line.contains("endpoint healthy") && line.contains("sick.shop"));
    assert!(line.is_some(), "{}", shop.log_tail());
}

/// What people see while the second endpoint of `sick` is unhealthy.
fn shown(shop: &Shop, service: &Checked) {
    let table = shop.agent.cli(&["get", "endpoints", "--service", "sick"]).unwrap().success().unwrap().stdout;
    assert!(table.contains("unhealthy: status 503"), "{table}");
    let page = shop.agent.cli(&["describe", "service", "shop/sick"]).unwrap().success().unwrap().stdout;
    for part in ["Health:", "GET /healthz at port", "50ms", "after 2", "unhealthy: status 503", "2/3"] {
        assert!(page.contains(part), "{part:?} is missing: {page}");
    }
    shop.metrics_show(|metrics| {
        ensure!(metrics.sum("mesh_agent_unhealthy_endpoints", &[]) >= 1.0);
        ensure!(metrics.sum("mesh_agent_health_checks_total", &[("result", "status")]) >= 2.0);
        ensure!(metrics.sum("mesh_agent_health_checks_total", &[("result", "passed")]) >= 2.0);
        Ok(())
    })
    .unwrap();
    let endpoint = shop.carts[1].at(service.target).to_string();
    let told = |line: &str| {
        ["endpoint unhealthy", "sick.shop", &endpoint, "status 503"].iter().all(|part| line.contains(part))
    };
    assert!(shop.agent.log().lines().any(told), "{}", shop.log_tail());
    let asked = service.health[0].1.of("/healthz");
    assert!(asked[0].header("user-agent") == Some("mesh-agent/health"), "{}", asked[0].head);
    assert!(asked[0].header("host") == Some("sick.shop.svc.cluster.local"), "{}", asked[0].head);
}

#[test]
fn an_endpoint_that_cannot_be_connected_to_gets_no_connection() {
    let shop = need_shop!();
    let port = shop.port();
    let mut health: Vec<_> =
        shop.carts.iter().take(2).map(|cart| echo_server(cart.listen(port).unwrap(), cart.name())).collect();
    let spec = format!(
        "healthCheck: {{tcp: {{}}, port: {port}, interval: 50ms, timeout: 10s, unhealthyThreshold: 2}}"
    );
    let policy = traffic_policy("downtcp", &spec).unwrap();
    shop.topology.mesh().write("policy-downtcp.yaml", [policy]).unwrap();
    let service = shop.http("downtcp", "tcp", 2).unwrap();
    becomes(shop, "downtcp", 0, "ready");
    health[0].0.die();
    assert_eq!(becomes(shop, "downtcp", 0, "unhealthy")["unhealthy"], "no connection");
    let before = service.backends[0].server.accepted();
    for i in 0..20 {
        assert_eq!(shop.get(&service, "/").unwrap().status(), 200, "connection {i}");
    }
    assert_eq!(service.backends[0].server.accepted(), before);
}

#[test]
fn a_grpc_server_is_asked_for_its_health() {
    let shop = need_shop!();
    let (port, answers) = (shop.port(), shop.topology.scratch().join("health-answers"));
    let say = |text: &str| std::fs::write(&answers, text).unwrap();
    say("shop.Cart SERVING\n");
    let args = [port.to_string(), answers.display().to_string()];
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let _server = python_server(&shop.topology, &shop.carts[0], "health_server.py", &args).unwrap();
    let spec =
        "healthCheck: {grpc: {service: shop.Cart}, interval: 100ms, timeout: 10s, unhealthyThreshold: 1}";
    let policy = traffic_policy("grpchealth", spec).unwrap();
    shop.topology.mesh().write("policy-grpchealth.yaml", [policy]).unwrap();
    let passed = metric(shop, "mesh_agent_health_checks_total", &[("result", "passed")]);
    shop.expose("grpchealth", "grpc", port, &[&shop.carts[0]]).unwrap();
    shop.metrics_show(|metrics| {
        ensure!(metrics.sum("mesh_agent_health_checks_total", &[("result", "passed")]) > passed);
        Ok(())
    })
    .unwrap();
    becomes(shop, "grpchealth", 0, "ready");
    say("shop.Cart NOT_SERVING\n");
    assert_eq!(becomes(shop, "grpchealth", 0, "unhealthy")["unhealthy"], "NOT_SERVING");
    say("shop.Cart SERVING\n");
    becomes(shop, "grpchealth", 0, "ready");
    say("- SERVING\n");
    assert_eq!(becomes(shop, "grpchealth", 0, "unhealthy")["unhealthy"], "gRPC status 5");
}

#[test]
fn checks_come_from_captured_pods_and_from_where_requests_do() {
    let shop = need_shop!();
    let service = checked(shop, "whence", 1, "");
    let captured: BTreeSet<IpAddr> = [&shop.web, &shop.batch, &shop.carts[1], &shop.carts[2]]
        .into_iter()
        .flat_map(|pod| pod.addresses())
        .collect();
    let server = &service.health[0].0;
    eventually(PATIENCE, || {
        ensure!(server.accepted() >= 5, "{} checks", server.accepted());
        Ok(())
    })
    .unwrap();
    let peers = server.peers();
    assert!(peers.iter().all(|peer| captured.contains(&peer.ip())), "{peers:?}");
    for client in [&shop.batch, &shop.web] {
        let stream = client.connect(service.at()).unwrap();
        assert_eq!(Client::new(stream).get("w", "/").unwrap().status(), 200);
        eventually(PATIENCE, || {
            let last = server.peers().last().copied().unwrap();
            ensure!(last.ip() == client.v4(), "{last} instead of {}", client.name());
            Ok(())
        })
        .unwrap();
    }
}

#[test]
fn without_a_captured_pod_no_check_is_sent() {
    let options = need_agent!();
    let shop = Shop::start_with("uncaptured", options, |pod| pod.enabled(false)).unwrap();
    let service = checked(&shop, "alone", 1, "");
    let describe =
        || shop.agent.cli(&["describe", "service", "shop/alone"]).unwrap().success().unwrap().stdout;
    // Each takes longer than the interval.
    for _ in 0..8 {
        let page = describe();
        assert!(page.contains("no captured pod here"), "{page}");
    }
    let server = &service.health[0].0;
    assert_eq!(server.accepted(), 0);
    let web = |enabled: bool| {
        let object = PodObject::of(&shop.web, NAMESPACE).service_account("web").enabled(enabled);
        let batch = PodObject::of(&shop.batch, NAMESPACE).service_account("batch").enabled(false);
        let carts = shop.carts.iter().map(|cart| PodObject::of(cart, NAMESPACE).enabled(false).into());
        let namespace = mesh_tests::lab::NamespaceObject::new(NAMESPACE).enabled().into();
        let objects: Vec<Object> =
            [namespace, object.into(), batch.into()].into_iter().chain(carts).collect();
        shop.topology.mesh().write("00-shop.yaml", objects).unwrap();
    };
    web(true);
    eventually(PATIENCE, || {
        ensure!(server.accepted() > 0 && !describe().contains("no captured pod here"));
        Ok(())
    })
    .unwrap();
    assert!(server.peers().iter().all(|peer| peer.ip() == shop.web.v4()), "{:?}", server.peers());
    service.health[0].1.answer_with(500);
    becomes(&shop, "alone", 0, "unhealthy");
    web(false);
    eventually(PATIENCE, || {
        ensure!(describe().contains("no captured pod here"));
        Ok(())
    })
    .unwrap();
    assert_eq!(endpoints(&shop, "alone")[0]["state"], "ready", "what isn't checked isn't unhealthy");
    let sent = server.accepted();
    for _ in 0..8 {
        describe();
    }
    assert_eq!(server.accepted(), sent);
}

#[test]
fn with_too_few_healthy_endpoints_all_are_used() {
    let shop = need_shop!();
    let service = checked(shop, "panic", 3, "panicThreshold: {percent: 50}");
    let mut client = shop.client(&service.service).unwrap();
    service.health[0].1.answer_with(503);
    becomes(shop, "panic", 0, "unhealthy");
    assert_eq!(answer(&mut client, 60).len(), 2, "two thirds are healthy, half is wanted");
    let panicked = || metric(shop, "mesh_agent_panic_choices_total", &[]);
    assert_eq!(panicked(), 0.0);
    service.health[1].1.answer_with(503);
    becomes(shop, "panic", 1, "unhealthy");
    assert_eq!(answer(&mut client, 60).len(), 3, "a third is");
    assert!(panicked() >= 60.0);
    shop.metrics_show(|metrics| {
        ensure!(metrics.sum("mesh_agent_panicking_service_ports", &[]) == 1.0);
        Ok(())
    })
    .unwrap();
    let log = shop.agent.log();
    assert!(log.contains("too few endpoints are healthy, all are used"), "{}", shop.log_tail());
    service.health[0].1.answer_with(0);
    becomes(shop, "panic", 0, "ready");
    assert_eq!(answer(&mut client, 60).len(), 2);
}

#[test]
fn with_all_endpoints_unhealthy_a_request_is_refused_and_with_activation_it_waits() {
    let shop = need_shop!();
    let refused = checked(shop, "allsick", 2, "");
    let waits = checked(shop, "allwait", 1, "activation: {timeout: 120s}");
    for (service, name, count) in [(&refused, "allsick", 2), (&waits, "allwait", 1)] {
        for index in 0..count {
            service.health[index].1.answer_with(500);
            becomes(shop, name, index, "unhealthy");
        }
    }
    assert_eq!(shop.get(&refused.service, "/nobody").unwrap().status(), 503);
    let line = shop.log_shows("/nobody", |line| line["path"] == "/nobody").unwrap();
    assert_eq!(line["response_flags"], "UH", "{line}");
    let mut client = shop.client(&waits.service).unwrap();
    let asks = std::thread::spawn(move || client.get("w", "/waited").unwrap().status());
    shop.metrics_show(|metrics| {
        let host = [("service", "allwait.shop.svc.cluster.local")];
        ensure!(metrics.sum("mesh_agent_activation_waiting_requests", &host) == 1.0);
        Ok(())
    })
    .unwrap();
    waits.health[0].1.answer_with(0);
    assert_eq!(asks.join().unwrap(), 200);
    assert_eq!(waits.counts(), [1]);
}

#[test]
fn the_examples_checks_are_made_and_their_first_one_decides() {
    let shop = need_shop!();
    let example = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/examples/trafficpolicy-health.yaml");
    let text = std::fs::read_to_string(example).unwrap();
    shop.topology.mesh().write_text("example-health.yaml", &text).unwrap();
    let port = shop.port();
    let servers: Vec<(Server, Seen)> =
        shop.carts.iter().map(|cart| echo_server(cart.listen(port).unwrap(), cart.name())).collect();
    servers[1].1.answer_with(204);
    servers[2].1.answer_with(404);
    let hosts: Vec<&Host> = shop.carts.iter().collect();
    shop.expose("cart", "http", port, &hosts).unwrap();
    assert_eq!(becomes(shop, "cart", 2, "unhealthy")["unhealthy"], "status 404");
    assert!(servers.iter().all(|(_, seen)| !seen.of("/healthz").is_empty()));
    shop.expose("db", "tcp", port, &hosts).unwrap();
    shop.expose("checkout", "grpc", port, &hosts).unwrap();
    becomes(shop, "checkout", 0, "unhealthy");
    becomes(shop, "db", 0, "ready");
    let warnings = shop.agent.cli(&["config", "warnings"]).unwrap().stdout;
    assert!(!warnings.contains("MESH0119"), "{warnings}");
}

//! TrafficPolicy: waiting for a first endpoint.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::io::{ErrorKind, Read, Write};
use std::time::Instant;

use anyhow::ensure;
use mesh_tests::http1::echo_server;
use mesh_tests::lab::{eventually, own_address};
use mesh_tests::server::Server;
use mesh_tests::shop::{Service, Shop, slice};
use mesh_tests::{AT_ONCE, SOON, need_shop, shared_shop};

shared_shop!("availability");

/// Puts a policy for the service in force, before there is one.
fn policy(shop: &Shop, service: &str, groups: &str) {
    let text = format!(
        "apiVersion: mesh-agent.dev/v1alpha1\nkind: TrafficPolicy\nmetadata: {{name: {service}, namespace: shop}}\n\
         spec:\n  targetRefs: [{{kind: Service, name: {service}}}]\n{groups}\n"
    );
    shop.topology.mesh().write_text(&format!("policy-{service}.yaml"), &text).unwrap();
}

/// Waits until so many wait for an endpoint of the service.
fn waiting(shop: &Shop, service: &str, want: f64) {
    let host = format!("{service}.shop.svc.cluster.local");
    shop.metrics_show(|metrics| {
        let now = metrics.sum("mesh_agent_activation_waiting_requests", &[("service", &host)]);
        ensure!(now == want, "{now} wait");
        Ok(())
    })
    .unwrap();
}

#[test]
fn a_request_to_an_empty_service_is_answered_once_an_endpoint_appears() {
    let shop = need_shop!();
    policy(shop, "asleep", "  activation: {maxWaiting: 1, timeout: 60s}");
    let service = shop.expose("asleep", "http", shop.port(), &[]).unwrap();
    let mut client = shop.client(&service).unwrap();
    let asks = std::thread::spawn(move || client.get("asleep", "/first").unwrap());
    waiting(shop, "asleep", 1.0);
    // There is no room for a second one.
    assert_eq!(shop.get(&service, "/second").unwrap().status(), 503);
    let (_server, seen) = echo_server(shop.carts[0].listen(service.target).unwrap(), "cart-1");
    assert!(!asks.is_finished());
    let endpoints = slice(&service.name, "http", service.target, &[&shop.carts[0]]);
    shop.rewrite_endpoints(&service, endpoints).unwrap();
    assert_eq!(asks.join().unwrap().status(), 200);
    assert_eq!((seen.of("/first").len(), seen.of("/second").len()), (1, 0));
    waiting(shop, "asleep", 0.0);
    assert!(shop.agent.log().contains("service has waiting requests and no endpoint"));
}

#[test]
fn a_hook_is_told_once_that_requests_wait_for_an_empty_service() {
    let shop = need_shop!();
    let listener = std::net::TcpListener::bind(own_address()).unwrap();
    let url = format!("http://{}/wake?by=mesh", listener.local_addr().unwrap());
    let (_scaler, told) = echo_server(listener, "scaler");
    policy(shop, "woken", &format!("  activation: {{timeout: 60s, hook: {{url: '{url}'}}}}"));
    let service = shop.expose("woken", "http", shop.port(), &[]).unwrap();
    let asks: Vec<_> = (0..3)
        .map(|_| {
            let mut client = shop.client(&service).unwrap();
            std::thread::spawn(move || client.get("woken", "/").unwrap())
        })
        .collect();
    waiting(shop, "woken", 3.0);
    shop.metrics_show(|metrics| {
        let host = "woken.shop.svc.cluster.local";
        let sent = metrics.sum("mesh_agent_activation_hooks_total", &[("service", host), ("result", "ok")]);
        ensure!(sent == 1.0, "{sent} were sent");
        Ok(())
    })
    .unwrap();
    let [post] = &told.of("/wake?by=mesh")[..] else { panic!("{:?}", told.all()) };
    let said: serde_json::Value = serde_json::from_slice(&post.body).unwrap();
    assert_eq!(
        (&said["namespace"], &said["name"], &said["node"]),
        (&"shop".into(), &"woken".into(), &"node-a".into())
    );
    assert!((1..=3).contains(&said["waiting"].as_u64().unwrap()), "{said}");
    let (_server, _) = echo_server(shop.carts[0].listen(service.target).unwrap(), "cart-1");
    let endpoints = slice(&service.name, "http", service.target, &[&shop.carts[0]]);
    shop.rewrite_endpoints(&service, endpoints).unwrap();
    assert!(asks.into_iter().all(|ask| ask.join().unwrap().status() == 200));
}

#[test]
fn a_connection_to_an_empty_service_is_carried_once_an_endpoint_appears_and_refused_without_the_policy() {
    let shop = need_shop!();
    policy(shop, "tcpasleep", "  activation: {timeout: 60s}");
    let service = shop.expose("tcpasleep", "tcp", shop.port(), &[]).unwrap();
    let empty = shop.expose("tcpempty", "tcp", shop.port(), &[]).unwrap();
    // The kernel hears of services after the agent does.
    let refused = |service: &Service| {
        let error = shop.web.connect(service.at()).err();
        error.is_some_and(|error| error.kind() == ErrorKind::HostUnreachable)
    };
    eventually(SOON, || {
        ensure!(refused(&empty) && !refused(&service));
        Ok(())
    })
    .unwrap();
    let mut client = shop.web.connect(service.at()).unwrap();
    let listener = shop.carts[0].listen(service.target).unwrap();
    let _server = Server::new(listener, |mut stream, _| {
        let mut byte = [0];
        while stream.read_exact(&mut byte).is_ok() && stream.write_all(&byte).is_ok() {}
    });
    let endpoints = slice(&service.name, "tcp", service.target, &[&shop.carts[0]]);
    shop.rewrite_endpoints(&service, endpoints).unwrap();
    client.write_all(b"!").unwrap();
    let mut answer = [0];
    client.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"!");
}

#[test]
fn a_request_that_waited_in_vain_is_answered_as_without_waiting() {
    let shop = need_shop!();
    policy(shop, "vain", "  activation: {timeout: 500ms}");
    let service = shop.expose("vain", "http", 1, &[]).unwrap();
    let started = Instant::now();
    assert_eq!(shop.get(&service, "/vain").unwrap().status(), 503);
    assert!(started.elapsed().as_millis() >= 500 && started.elapsed() < AT_ONCE, "{:?}", started.elapsed());
    let line = shop.log_shows("/vain", |line| line["path"] == "/vain").unwrap();
    assert_eq!(line["response_flags"], "UH", "{line}");
}

//! The DestinationRules below docs/examples: each is read without a warning and in force as its first line says.

#![allow(clippy::unwrap_used, clippy::panic)]

use std::path::Path;
use std::sync::Arc;

use crate::model::build::BuildOptions;
use crate::model::{ObjectName, ServicePort, Snapshot};
use crate::policy::{HashKey, RetryShare};
use crate::source;

/// The service that the examples are about, with a pod of each version.
const WORLD: &str = "
apiVersion: v1
kind: Service
metadata: {name: cart, namespace: shop}
spec: {clusterIP: 10.96.0.1, ports: [{name: http, port: 80}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: cart-1, namespace: shop, labels: {kubernetes.io/service-name: cart}}
addressType: IPv4
ports: [{name: http, port: 8080}]
endpoints: [{addresses: [10.1.0.1]}, {addresses: [10.1.0.2]}]
---
apiVersion: v1
kind: Pod
metadata: {name: one, namespace: shop, labels: {version: v1}}
status: {podIP: 10.1.0.1}
---
apiVersion: v1
kind: Pod
metadata: {name: two, namespace: shop, labels: {version: v2}}
status: {podIP: 10.1.0.2}
---
";

fn snapshot(example: &str) -> Arc<Snapshot> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/examples").join(example);
    let dir = tempfile::tempdir().unwrap();
    let text = WORLD.to_owned() + &std::fs::read_to_string(path).unwrap();
    std::fs::write(dir.path().join("a.yaml"), &text).unwrap();
    let report = source::validate(dir.path(), BuildOptions::default()).unwrap();
    assert_eq!(report.warnings, [], "{example}");
    assert_eq!(report.objects, text.split("---\n").count(), "{example}");
    report.snapshot
}

fn port(snapshot: &Snapshot) -> &Arc<ServicePort> {
    &snapshot.services.get(&ObjectName::new("shop", "cart")).unwrap().ports[0]
}

#[test]
fn the_pools_example_limits_what_it_says() {
    let snapshot = snapshot("destinationrule-pool.yaml");
    let limits = &port(&snapshot).policy.limits;
    assert_eq!((limits.max_connections, limits.max_pending), (Some(100), Some(50)));
    assert_eq!((limits.max_requests_per_connection, limits.max_streams), (Some(1000), Some(100)));
    assert_eq!(limits.max_connection_duration.unwrap().as_secs(), 3600);
    assert_eq!(limits.retry_share, Some(RetryShare { thousandths: 200, least: 3 }));
}

#[test]
fn the_cookies_example_gives_one_out() {
    let snapshot = snapshot("destinationrule-cookie.yaml");
    let Some(HashKey::Cookie(cookie)) = &port(&snapshot).policy.hash else { panic!("no cookie is hashed") };
    assert_eq!(cookie.attributes.as_deref(), Some("; Max-Age=3600; Path=/; HttpOnly; SameSite=Lax"));
}

#[test]
fn the_passthrough_example_leaves_the_choice() {
    assert!(port(&snapshot("destinationrule-passthrough.yaml")).policy.passthrough);
}

#[test]
fn the_subsets_example_splits_by_version() {
    let snapshot = snapshot("destinationrule-subsets.yaml");
    let routes = snapshot.routes_for(port(&snapshot), "shop").unwrap();
    let ends: Vec<Vec<String>> = routes
        .targets
        .iter()
        .map(|target| {
            let port = target.at("10.96.0.1".parse().unwrap()).unwrap();
            port.endpoints.available.iter().map(|endpoint| endpoint.addr.to_string()).collect()
        })
        .collect();
    assert_eq!(ends, [["10.1.0.1:8080"], ["10.1.0.2:8080"]]);
    let v2 = port(&snapshot).subset("v2").unwrap();
    assert_eq!(v2.policy.limits.max_requests, Some(20));
    assert!(v2.policy.outlier.is_some(), "what it leaves out is the rule's");
}

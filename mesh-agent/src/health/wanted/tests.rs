//! What is checked, how often, and from where.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;

use super::*;
use crate::model::build::BuildOptions;
use crate::proxy::testing::workload;
use crate::source;

const SHOP: &str = "
{apiVersion: v1, kind: Service, metadata: {name: cart, namespace: shop},
 spec: {clusterIP: 10.96.0.1, ports: [{name: http, port: 80}, {name: admin, port: 81}]}}
---
{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, metadata: {name: cart, namespace: shop, labels: {kubernetes.io/service-name: cart}},
 addressType: IPv4, ports: [{name: http, port: 8080}, {name: admin, port: 8081}],
 endpoints: [{addresses: [10.0.0.1]}, {addresses: [10.0.0.2]},
  {addresses: [10.0.0.3], conditions: {ready: false}}, {addresses: [10.0.0.4], conditions: {ready: false, serving: true, terminating: true}}]}
---
{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, metadata: {name: cart-6, namespace: shop, labels: {kubernetes.io/service-name: cart}},
 addressType: IPv6, ports: [{name: http, port: 8080}, {name: admin, port: 8081}], endpoints: [{addresses: ['fd00::1']}]}
";

fn snapshot(more: &str) -> Arc<Snapshot> {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("a.yaml"), format!("{SHOP}---\n{more}")).unwrap();
    source::validate(dir.path(), BuildOptions::default()).unwrap().snapshot
}

fn policy(target: &str, groups: &str) -> String {
    format!(
        "{{apiVersion: mesh-agent.dev/v1alpha1, kind: TrafficPolicy, metadata: {{name: p, namespace: shop}}, \
         spec: {{targetRefs: [{{kind: Service, name: cart{target}}}], {groups}}}}}\n"
    )
}

/// A captured pod with these addresses.
fn pod(namespace: &str, name: &str, cookie: u64, addresses: &[&str]) -> Captured {
    let addresses = addresses.iter().map(|ip| ip.parse().unwrap()).collect();
    let workload = Workload { name: ObjectName::new(namespace, name), addresses, ..workload() };
    let netns = Arc::new(std::fs::File::open("/proc/self/ns/net").unwrap().into());
    Captured { cookie, workload: Arc::new(workload), netns }
}

fn web() -> Captured {
    pod("shop", "web", 1, &["10.0.1.1"])
}

fn wanted(snapshot: &Snapshot, pods: Vec<Captured>) -> (Vec<String>, usize) {
    let wanted = Wanted::new(snapshot, pods, false);
    let mut to: Vec<_> = wanted.checks.values().map(|check| check.to.to_string()).collect();
    to.sort();
    let targets = wanted.checks.values().map(|check| check.targets.len()).sum();
    (to, targets)
}

#[test]
fn each_serving_endpoint_of_a_family_that_a_pod_has_is_checked_once() {
    let snapshot = snapshot(&policy(", sectionName: http", "healthCheck: {tcp: {}}"));
    let four = ["10.0.0.1:8080", "10.0.0.2:8080", "10.0.0.4:8080"];
    assert_eq!(wanted(&snapshot, vec![web()]), (four.map(str::to_owned).to_vec(), 3));
    let both = vec![web(), pod("shop", "six", 2, &["fd00::9"])];
    assert_eq!(wanted(&snapshot, both).0.last().unwrap(), "[fd00::1]:8080");
    assert_eq!(wanted(&snapshot, Vec::new()), (Vec::new(), 0), "without a captured pod none is sent");
}

#[test]
fn ports_that_are_checked_at_one_port_share_the_check() {
    let snapshot = snapshot(&policy("", "healthCheck: {tcp: {}, port: 9090}"));
    let (to, targets) = wanted(&snapshot, vec![web()]);
    assert_eq!(to, ["10.0.0.1:9090", "10.0.0.2:9090", "10.0.0.4:9090"]);
    assert_eq!(targets, 6, "of both ports");
    let apart = self::snapshot(&policy("", "healthCheck: {tcp: {}}"));
    assert_eq!(wanted(&apart, vec![web()]).0.len(), 6);
}

#[test]
fn clients_under_a_rule_of_their_own_share_the_check_too() {
    let rule = "{apiVersion: networking.istio.io/v1, kind: DestinationRule, metadata: {name: r, namespace: other}, \
                spec: {host: cart.shop.svc.cluster.local, trafficPolicy: {loadBalancer: {simple: RANDOM}}}}\n---\n";
    let snapshot = snapshot(&(rule.to_owned() + &policy(", sectionName: http", "healthCheck: {tcp: {}}")));
    let wanted = Wanted::new(&snapshot, vec![web()], false);
    assert_eq!(wanted.checks.len(), 3);
    let sets: BTreeMap<_, _> = wanted.sets.iter().map(|set| (Arc::as_ptr(&set.health), set)).collect();
    assert_eq!(sets.len(), 2, "each with a state of its own");
    assert!(wanted.checks.values().all(|check| check.targets.len() == 2));
}

#[test]
fn subsets_share_the_check_too_with_a_verdict_and_a_threshold_of_their_own() {
    let rule = "{apiVersion: networking.istio.io/v1, kind: DestinationRule, metadata: {name: r, namespace: shop}, \
                spec: {host: cart, subsets: [{name: all}]}}\n---\n";
    let groups = "panicThreshold: {percent: 50}, healthCheck: {tcp: {}}";
    let snapshot = snapshot(&(rule.to_owned() + &policy(", sectionName: http", groups)));
    let wanted = Wanted::new(&snapshot, vec![web()], false);
    assert_eq!(wanted.checks.len(), 3);
    assert!(wanted.checks.values().all(|check| check.targets.len() == 2));
    assert_eq!(wanted.sets.len(), 2);
    assert!(wanted.sets.iter().all(|set| set.health.panic_threshold().is_some()));
}

#[test]
fn what_a_rule_wants_encrypted_is_never_asked_in_plain_text() {
    let rule = "{apiVersion: networking.istio.io/v1, kind: DestinationRule, metadata: {name: r, namespace: shop}, \
                spec: {host: cart, trafficPolicy: {tls: {mode: SIMPLE, HOW}}}}\n---\n";
    let checks = |tls: &str, how: &str| {
        let snapshot = snapshot(&(rule.replace("HOW", tls) + &policy(", sectionName: http", how)));
        let wanted = Wanted::new(&snapshot, vec![web()], false);
        assert!(
            wanted
                .checks
                .values()
                .all(|check| matches!(check.wrapped, Wrapped::Tls(_)) == tls.starts_with("insecure")),
            "{tls}"
        );
        wanted.checks.len()
    };
    let unsupported = "credentialName: files";
    assert_eq!(checks(unsupported, "healthCheck: {http: {}}"), 0);
    assert_eq!(checks(unsupported, "healthCheck: {grpc: {}}"), 0);
    assert_eq!(checks(unsupported, "healthCheck: {tcp: {}}"), 3);
    for how in ["healthCheck: {http: {}}", "healthCheck: {grpc: {}}", "healthCheck: {tcp: {}}"] {
        assert_eq!(checks("insecureSkipVerify: true", how), 3, "over TLS");
    }
}

#[test]
fn clients_whose_rules_differ_in_tls_share_no_check() {
    let rule = "{apiVersion: networking.istio.io/v1, kind: DestinationRule, metadata: {name: r, namespace: other}, \
                spec: {host: cart.shop.svc.cluster.local, trafficPolicy: {tls: {mode: SIMPLE, insecureSkipVerify: true}}}}\n---\n";
    let snapshot = snapshot(&(rule.to_owned() + &policy(", sectionName: http", "healthCheck: {tcp: {}}")));
    let wanted = Wanted::new(&snapshot, vec![web()], false);
    assert_eq!(wanted.checks.values().filter(|check| matches!(check.wrapped, Wrapped::Tls(_))).count(), 3);
    assert!(wanted.checks.len() == 6 && wanted.checks.values().all(|check| check.targets.len() == 1));
}

#[test]
fn a_check_comes_from_where_requests_come_from_and_from_elsewhere_after_a_miss() {
    let snapshot = snapshot(&policy(", sectionName: http", "healthCheck: {tcp: {}}"));
    let own = pod("shop", "cart-1", 9, &["10.0.0.1"]);
    let pods =
        [own.clone(), pod("abroad", "far", 5, &["10.0.1.5"]), web(), pod("shop", "x6", 6, &["fd00::6"])];
    let wanted = Wanted::new(&snapshot, pods.to_vec(), false);
    let check = wanted.checks.values().find(|check| check.to.to_string() == "10.0.0.1:8080").unwrap();
    let (targets, target) = (&check.targets, &check.targets[0]);
    let from = |misses| origin(&pods, targets, misses).unwrap().workload.name.name.clone();
    assert_eq!([0, 1, 2, 3].map(from), ["web", "far", "web", "far"], "the service's own namespace first");
    target.endpoint.load.health.reached(5);
    assert_eq!([0, 1, 2, 3, 4].map(from), ["far", "web", "far", "far", "far"]);
    target.endpoint.load.health.reached(77);
    assert_eq!(from(0), "web", "that pod isn't captured any more");
    let alone = |pods: &[Captured]| origin(pods, targets, 0).map(|pod| pod.cookie);
    assert_eq!(alone(&[own]), Some(9), "from itself rather than not at all");
    assert_eq!(alone(&pods[3..]), None, "no pod of its family");
}

#[test]
fn what_is_behind_another_agent_is_asked_in_mutual_tls_as_requests_are() {
    const FAR: &str = "
{apiVersion: v1, kind: Namespace, metadata: {name: shop, labels: {mesh-agent.dev/dataplane-mode: enabled}}}
---
{apiVersion: v1, kind: Pod, metadata: {name: cart-1, namespace: shop},
 spec: {nodeName: far, serviceAccountName: seller, containers: []}, status: {podIP: 10.0.0.1, podIPs: [{ip: 10.0.0.1}]}}
---
";
    const DISABLED: &str = "{apiVersion: security.istio.io/v1, kind: PeerAuthentication, metadata: {name: d, namespace: shop}, \
                            spec: {mtls: {mode: DISABLE}}}\n---\n";
    const PLAIN: &str = "{apiVersion: networking.istio.io/v1, kind: DestinationRule, metadata: {name: r, namespace: shop}, \
                         spec: {host: cart, trafficPolicy: {tls: {mode: DISABLE}}}}\n---\n";
    let asked = |more: &str, same_node_mtls| {
        let checks = policy(", sectionName: http", "healthCheck: {http: {}}");
        let wanted = Wanted::new(&snapshot(&format!("{FAR}{more}{checks}")), vec![web()], same_node_mtls);
        assert_eq!(wanted.checks.len(), 3);
        let as_whom = |check: &Check| match &check.wrapped {
            Wrapped::Mesh(account) => Some((check.to.to_string(), account.to_string())),
            Wrapped::Plain | Wrapped::Tls(_) | Wrapped::Hbone(_) => None,
        };
        wanted.checks.values().filter_map(as_whom).collect::<Vec<_>>()
    };
    let cart = [("10.0.0.1:8080".to_owned(), "shop/seller".to_owned())];
    assert_eq!(asked("", false), cart);
    assert_eq!(asked(DISABLED, false), [], "it takes none");
    assert_eq!(asked(PLAIN, false), [], "the rule wants none");
}

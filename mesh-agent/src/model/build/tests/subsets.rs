//! Subsets of DestinationRules as routes name them: which endpoints, under which policy, for whom, and what is said of those
//! that aren't there.

use super::routes::{producer, reasons, route, warned};
use super::rules::{cart, client, rule};
use super::*;
use crate::policy::Unusable;

const NAMED: &str = "{backendRefs: [{name: cart, port: 80, weight: 9}, {name: cart, port: 80, filters: [{type: ExtensionRef, extensionRef: {group: mesh-agent.dev, kind: Subset, name: v2}}]}]}";

fn world(rules: &str, rule_spec: &str) -> String {
    [
        cart(),
        pod("one", "10.1.0.1", "").replace("app: one", "version: v1"),
        pod("two", "10.1.0.2", "").replace("app: two", "version: v2"),
        rule("shop", "cart", rule_spec),
        route("HTTPRoute", "shop", "r", "{name: cart}", rules),
    ]
    .concat()
}

const SUBSETS: &str = "subsets: [{name: v1, labels: {version: v1}}, {name: v2, labels: {version: v2}, trafficPolicy: {loadBalancer: {simple: RANDOM}}}]";

fn second(snapshot: &Snapshot) -> Option<Arc<ServicePort>> {
    let routes = producer(snapshot, "cart", 80);
    routes.targets[1].at("10.96.0.10".parse().unwrap()).cloned()
}

#[test]
fn a_route_names_a_subset_by_a_filter_of_its_backend() {
    let policy =
        "trafficPolicy: {loadBalancer: {simple: ROUND_ROBIN}, connectionPool: {tcp: {maxConnections: 7}}}";
    let text = world(NAMED, &format!("host: cart, {policy}, {SUBSETS}"));
    let (mut world, before) = World::new(&text);
    assert_eq!(reasons(&before, Kind::HttpRoute, "shop", "r"), "Accepted ResolvedRefs");
    let warnings = world.warnings();
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    assert!(warnings[0].contains("spec.subsets[0]") && warnings[0].contains("name: v1"), "{warnings:?}");
    let (whole, part) = (vip(&before, "10.96.0.10:80"), second(&before).unwrap());
    assert_eq!(addresses(&part.endpoints.available), ["10.1.0.2:8080"]);
    assert_eq!(whole.endpoints.available.len(), 2);
    assert_eq!(part.policy.load_balancer, LoadBalancer::Random, "the subset's own");
    assert_eq!(part.policy.limits.max_connections, Some(7), "the rule's");
    assert!(!Arc::ptr_eq(&part.endpoints.usage, &whole.endpoints.usage), "limits of its own");
    // A pod that changes its labels changes sides, and nothing is compiled anew.
    let changed = text.replacen("  labels: {version: v1}", "  labels: {version: v2}", 1);
    let after = world.write(&changed);
    assert_eq!(second(&after).unwrap().endpoints.available.len(), 2);
    let table = |snapshot: &Snapshot| producer(snapshot, "cart", 80).requests.clone().unwrap();
    assert!(Arc::ptr_eq(&table(&before), &table(&after)));
    assert!(Arc::ptr_eq(&part.endpoints.all[0].load, &second(&after).unwrap().endpoints.all[1].load));
}

#[test]
fn a_subset_has_tls_of_its_own_or_that_of_its_rule() {
    let tls = |of_rule: &str, of_subset: &str| {
        let subset = format!("{{name: v2, labels: {{version: v2}}, trafficPolicy: {{{of_subset}}}}}");
        let text = world(NAMED, &format!("host: cart, trafficPolicy: {{{of_rule}}}, subsets: [{subset}]"));
        let (_, snapshot) = World::new(&text);
        let (whole, part) = (vip(&snapshot, "10.96.0.10:80"), second(&snapshot).unwrap());
        let refused = part.policy.unusable == Some(Unusable::TlsNotOriginated);
        ((whole.policy.tls.is_some(), part.policy.tls.is_some(), refused), whole.wants_encryption())
    };
    const SIMPLE: &str = "tls: {mode: SIMPLE, insecureSkipVerify: true}";
    const RANDOM: &str = "loadBalancer: {simple: RANDOM}";
    assert_eq!(tls(SIMPLE, RANDOM), ((true, true, false), true));
    assert_eq!(tls(RANDOM, SIMPLE), ((false, true, false), true), "nobody goes there without the agent");
    assert_eq!(tls(SIMPLE, "tls: {mode: DISABLE}"), ((true, false, false), true));
    assert_eq!(tls(RANDOM, "tls: {mode: SIMPLE, credentialName: a}"), ((false, false, true), true));
    assert_eq!(tls(RANDOM, RANDOM), ((false, false, false), false));
}

#[test]
fn a_subset_that_is_not_there_is_said_and_comes_with_its_rule() {
    let text = world(NAMED, "host: cart, subsets: [{name: v3}]");
    let (mut world, snapshot) = World::new(&text);
    assert_eq!(reasons(&snapshot, Kind::HttpRoute, "shop", "r"), "Accepted BackendNotFound");
    assert!(warned(&world, "MESH0124", "subset \"v2\""), "{:?}", world.warnings());
    assert!(second(&snapshot).is_none());
    let snapshot = world.write(&text.replace("name: v3", "name: v2"));
    assert_eq!(reasons(&snapshot, Kind::HttpRoute, "shop", "r"), "Accepted ResolvedRefs");
    assert_eq!(
        second(&snapshot).unwrap().endpoints.available.len(),
        2,
        "a subset without labels is everything"
    );
}

#[test]
fn clients_under_another_rule_have_its_subset_or_none() {
    let host = "host: cart.shop.svc.cluster.local";
    let others = [
        rule("web", "a", &format!("{host}, subsets: [{{name: v2, labels: {{version: v1}}}}]")),
        rule("bare", "a", host),
    ];
    let text = world(NAMED, &format!("host: cart, {SUBSETS}")) + &others.concat();
    let (_world, snapshot) = World::new(&text);
    let part = second(&snapshot).unwrap();
    let of = |namespace: &str| part.for_client(&client(namespace, "web")).clone();
    assert_eq!(addresses(&of("shop").endpoints.available), ["10.1.0.2:8080"]);
    assert_eq!(addresses(&of("web").endpoints.available), ["10.1.0.1:8080"]);
    assert_eq!(of("bare").policy.unusable, Some(Unusable::NoSuchSubset));
    assert_eq!(of("shop").policy.unusable, None);
}

#[test]
fn subsets_of_all_rules_for_a_host_count() {
    let text = world(NAMED, "host: cart, trafficPolicy: {loadBalancer: {simple: RANDOM}}")
        + &rule("shop", "subsets", "host: cart, subsets: [{name: v2, labels: {version: v2}}]");
    let (_world, snapshot) = World::new(&text);
    let part = second(&snapshot).unwrap();
    assert_eq!(addresses(&part.endpoints.available), ["10.1.0.2:8080"]);
    assert_eq!(part.policy.load_balancer, LoadBalancer::Random);
}

#[test]
fn a_subset_filter_elsewhere_or_twice_makes_its_rule_unusable() {
    fn check(rules: &str, part: &str) {
        let (world, snapshot) = World::new(&world(rules, &format!("host: cart, {SUBSETS}")));
        assert_eq!(reasons(&snapshot, Kind::HttpRoute, "shop", "r"), "Accepted InvalidKind", "{rules}");
        assert!(warned(&world, "MESH0127", part), "{rules}: {:?}", world.warnings());
    }
    let filter = |name: &str| {
        format!("{{type: ExtensionRef, extensionRef: {{group: mesh-agent.dev, kind: Subset, name: {name}}}}}")
    };
    let backend = "name: cart, port: 80";
    check(&format!("{{filters: [{}], backendRefs: [{{{backend}}}]}}", filter("v2")), "below backendRefs");
    let twice = format!("{}, {}", filter("v1"), filter("v2"));
    check(&format!("{{backendRefs: [{{{backend}, filters: [{twice}]}}]}}"), "a backendRef of its own");
}

#[test]
fn limits_of_a_changed_rule_reach_what_waits() {
    let limited = |most: u32| {
        let pool = format!("trafficPolicy: {{connectionPool: {{tcp: {{maxConnections: {most}}}}}}}");
        [cart(), rule("shop", "cart", &format!("host: cart, {pool}"))].concat()
    };
    let (mut world, before) = World::new(&limited(1));
    let places = vip(&before, "10.96.0.10:80").endpoints.usage.connections.clone();
    let _first = places.take().unwrap();
    assert!(matches!(places.ask(0), crate::balance::queue::Asked::Waiting(_)));
    world.write(&limited(2));
    assert!(places.take().is_some());
    world.write(&cart());
    assert_eq!((0..9).filter_map(|_| places.take().map(std::mem::forget)).count(), 9);
}

//! Whether policies are said to hold exactly where they do.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;

use super::*;
use crate::model::build::{BuildOptions, Builder};
use crate::source::{Directory, Touched};

struct World {
    dir: tempfile::TempDir,
    directory: Directory,
    builder: Builder,
}

impl World {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let directory = Directory::new(dir.path());
        Self { dir, directory, builder: Builder::new(BuildOptions::default()) }
    }

    fn write(&mut self, documents: &[String]) -> Vec<api::Policy> {
        std::fs::write(self.dir.path().join("a.yaml"), documents.concat()).unwrap();
        let snapshot = self.builder.apply(&self.directory.scan(&Touched::All, &BTreeSet::new()));
        let mut warnings = self.directory.warnings();
        warnings.extend(self.builder.warnings(|_| None));
        list(&snapshot, &warnings)
    }

    /// `NAME TARGET STATE BY`.
    fn states(&mut self, documents: &[String]) -> Vec<String> {
        let rows = self.write(documents);
        rows.iter()
            .map(|row| {
                format!("{} {} {} {}", row.name, row.target, row.state.label(), row.by.join(","))
                    .trim()
                    .to_owned()
            })
            .collect()
    }
}

fn service(name: &str, more: &str) -> String {
    format!(
        "---\napiVersion: v1\nkind: Service\nmetadata: {{name: {name}, namespace: shop}}\nspec: {{clusterIP: 10.96.0.1, {more}ports: [{{name: http, port: 80}}, {{name: admin, port: 81}}]}}\n"
    )
}

fn object(api: &str, kind: &str, name: &str, created: u32, spec: &str) -> String {
    format!(
        "---\napiVersion: {api}\nkind: {kind}\nmetadata: {{name: {name}, namespace: shop, creationTimestamp: \"{created}-01-01T00:00:00Z\"}}\nspec: {{{spec}}}\n"
    )
}

fn traffic(name: &str, created: u32, target: &str, groups: &str) -> String {
    let spec = format!("targetRefs: [{target}], {groups}");
    object("mesh-agent.dev/v1alpha1", "TrafficPolicy", name, created, &spec)
}

fn backend(name: &str, created: u32, groups: &str) -> String {
    let spec = format!("targetRefs: [{{group: \"\", kind: Service, name: cart}}], {groups}");
    object("gateway.networking.x-k8s.io/v1alpha1", "XBackendTrafficPolicy", name, created, &spec)
}

fn rule(name: &str, created: u32, host: &str) -> String {
    let spec = format!("host: {host}, trafficPolicy: {{loadBalancer: {{simple: RANDOM}}}}");
    object("networking.istio.io/v1", "DestinationRule", name, created, &spec)
}

fn route(rules: &str) -> String {
    let spec = format!("parentRefs: [{{group: \"\", kind: Service, name: cart}}], rules: [{rules}]");
    object("gateway.networking.k8s.io/v1", "HTTPRoute", "cart", 2020, &spec)
}

const CART: &str = "{kind: Service, name: cart}";
const ADMIN: &str = "{kind: Service, name: cart, sectionName: admin}";
const ROUTE: &str = "{group: gateway.networking.k8s.io, kind: HTTPRoute, name: cart}";
const SLOW: &str = "{group: gateway.networking.k8s.io, kind: HTTPRoute, name: cart, sectionName: slow}";

#[test]
fn a_traffic_policy_holds_in_full_in_part_or_not_at_all() {
    let mut world = World::new();
    let old = traffic("old", 2020, CART, "timeout: 1s");
    let young = |groups: &str| traffic("young", 2025, CART, groups);
    let states = world.states(&[service("cart", ""), old.clone(), young("timeout: 2s, retry: {}")]);
    assert_eq!(
        states,
        ["old Service shop/cart attached", "young Service shop/cart partly TrafficPolicy shop/old"]
    );
    let rows = world.write(&[service("cart", ""), old.clone(), young("timeout: 2s, retry: {}")]);
    assert_eq!(rows[1].groups, ["retry", "timeout"]);
    assert_eq!(rows[1].message, "doesn't hold: timeout");
    let states = world.states(&[service("cart", ""), old.clone(), young("timeout: 2s")]);
    assert_eq!(states[1], "young Service shop/cart shadowed TrafficPolicy shop/old");
    // More specific ones for every port leave nothing of the Service's.
    let port = traffic("port", 2025, ADMIN, "timeout: 2s");
    let states = world.states(&[service("cart", ""), old.clone(), port]);
    assert_eq!(states, ["old Service shop/cart attached", "port Service shop/cart:admin attached"]);
    let states = world.states(&[old, traffic("port", 2025, ADMIN, "timeout: 2s")]);
    assert_eq!(
        states,
        ["old Service shop/cart target-missing", "port Service shop/cart:admin target-missing"]
    );
}

#[test]
fn a_policy_of_a_route_follows_the_route_and_its_rules() {
    let mut world = World::new();
    let both = [traffic("all", 2020, ROUTE, "timeout: 1s"), traffic("one", 2020, SLOW, "timeout: 2s")];
    let with = |rules: Option<&str>| {
        [service("cart", "")].into_iter().chain(rules.map(route)).chain(both.clone()).collect::<Vec<_>>()
    };
    let missing = ["all HTTPRoute shop/cart target-missing", "one HTTPRoute shop/cart:slow target-missing"];
    assert_eq!(world.states(&with(None)), missing);
    let other = with(Some("{name: fast, backendRefs: [{name: cart, port: 80}]}"));
    assert_eq!(world.states(&other), ["all HTTPRoute shop/cart attached", missing[1]]);
    assert_eq!(world.write(&other)[1].message, "HTTPRoute shop/cart has no rule that is named slow");
    let there = with(Some("{name: slow, backendRefs: [{name: cart, port: 80}]}"));
    assert_eq!(
        world.states(&there),
        ["all HTTPRoute shop/cart attached", "one HTTPRoute shop/cart:slow attached"]
    );
}

#[test]
fn of_backend_policies_the_oldest_holds_and_sessions_not_beside_affinity() {
    let mut world = World::new();
    let session = "sessionPersistence: {type: Cookie, cookie: {}}, retryConstraint: {}";
    let (old, young) = (backend("old", 2020, session), backend("young", 2025, "retryConstraint: {}"));
    let states = world.states(&[service("cart", ""), old.clone(), young.clone()]);
    let shadowed = "young Service shop/cart shadowed XBackendTrafficPolicy shop/old";
    assert_eq!(states, ["old Service shop/cart attached", shadowed]);
    let states = world.states(&[service("cart", "sessionAffinity: ClientIP, "), old.clone(), young]);
    assert_eq!(states[0], "old Service shop/cart partly sessionAffinity of the Service");
    assert_eq!(world.states(&[old]), ["old Service shop/cart target-missing"]);
}

#[test]
fn a_destination_rule_holds_where_a_service_is_under_it() {
    let mut world = World::new();
    let wild = rule("wild", 2020, "\"*.shop.svc.cluster.local\"");
    let states =
        world.states(&[service("cart", ""), rule("a", 2025, "cart"), rule("b", 2020, "cart"), wild.clone()]);
    let by = "DestinationRule shop/b";
    let wanted = [
        format!("a host cart.shop.svc.cluster.local shadowed {by}"),
        "b host cart.shop.svc.cluster.local attached".to_owned(),
        format!("wild host *.shop.svc.cluster.local shadowed {by}"),
    ];
    assert_eq!(states, wanted);
    let states = world.states(&[service("cart", ""), service("till", ""), rule("b", 2020, "cart"), wild]);
    assert_eq!(states[1], "wild host *.shop.svc.cluster.local attached");
    assert_eq!(
        world.states(&[rule("b", 2020, "cart")]),
        ["b host cart.shop.svc.cluster.local target-missing"]
    );
}

#[test]
fn the_last_valid_version_of_a_policy_is_told_from_its_newest() {
    let mut world = World::new();
    let policy = |timeout: &str| traffic("a", 2020, CART, &format!("timeout: {timeout}"));
    let found = |rows: Vec<api::Policy>| rows.iter().map(|row| row.last_valid).collect::<Vec<_>>();
    assert_eq!(found(world.write(&[service("cart", ""), policy("1s")])), [false]);
    let rows = world.write(&[service("cart", ""), policy("soon")]);
    assert!(rows[0].message.contains("the last valid one is in force"), "{rows:?}");
    assert_eq!(found(rows), [true]);
    assert_eq!(found(world.write(&[service("cart", ""), policy("2s")])), [false]);
    assert_eq!(found(world.write(&[service("cart", "")])), [] as [bool; 0]);
    assert_eq!(
        found(world.write(&[service("cart", ""), traffic("b", 2020, CART, "timeout: soon")])),
        [] as [bool; 0]
    );
}

#[test]
fn policies_of_what_arrives_hold_for_the_pods_that_they_select() {
    let pod = "---\napiVersion: v1\nkind: Pod\nmetadata: {name: cart, namespace: shop, labels: {app: cart}}\nstatus: {podIP: 10.0.0.1}\n";
    let tokens = |name: &str, spec: &str| {
        object(
            "security.istio.io/v1",
            "RequestAuthentication",
            name,
            2020,
            &format!("{spec}jwtRules: [{{issuer: a, jwks: '{{\"keys\":[]}}'}}]"),
        )
    };
    let allow =
        |name: &str, spec: &str| object("security.istio.io/v1", "AuthorizationPolicy", name, 2020, spec);
    let states = World::new().states(&[
        pod.to_owned(),
        service("cart", ""),
        tokens("a-all", ""),
        tokens("b-labels", "selector: {matchLabels: {app: cart}}, "),
        tokens("c-nobody", "selector: {matchLabels: {app: till}}, "),
        tokens("d-service", "targetRefs: [{kind: Service, name: cart}], "),
        tokens("e-none", "targetRefs: [{kind: Service, name: gone}], "),
        allow("f-labels", "selector: {matchLabels: {app: cart}}"),
        allow("g-nobody", "selector: {matchLabels: {app: till}}"),
    ]);
    assert_eq!(
        states,
        [
            "a-all pods of shop attached",
            "b-labels pods of shop with app=cart attached",
            "c-nobody pods of shop with app=till target-missing",
            "d-service Service shop/cart attached",
            "e-none Service shop/gone target-missing",
            "f-labels pods of shop with app=cart attached",
            "g-nobody pods of shop with app=till target-missing",
        ]
    );
}

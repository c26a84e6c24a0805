//! AuthorizationPolicies: whom they select, what shares tables, what a change leaves alone, and what is said of them.

use super::*;
use crate::authz::{Compiled, WorkloadPolicies};

fn policy(namespace: &str, name: &str, spec: &str) -> String {
    format!(
        "---\napiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {{name: {name}, namespace: {namespace}}}\nspec: {spec}\n"
    )
}

/// Two pods, of which `cart` is behind a Service at port 8080.
fn shop() -> String {
    [
        namespace("shop", "enabled"),
        pod("web", "10.1.0.1", ""),
        pod("cart", "10.1.0.2", ", serviceAccountName: cart"),
        service("cart", "10.96.0.10", HTTP),
        slice("cart-1", "cart", &[("10.1.0.2", "ready: true")]),
    ]
    .concat()
}

fn of<'s>(snapshot: &'s Snapshot, name: &str) -> Option<&'s Arc<WorkloadPolicies>> {
    snapshot.authorization_of(workload(snapshot, name))
}

fn names(compiled: &Compiled) -> Vec<String> {
    compiled.policies().iter().map(|policy| policy.name.to_string()).collect()
}

#[test]
fn policies_of_root_namespace_and_labels_add_up_for_pods_of_this_node() {
    let text = shop()
        + &policy("shop", "all", "{}")
        + &policy("shop", "cart", "{selector: {matchLabels: {app: cart}}, rules: [{}]}")
        + &policy("istio-system", "mesh", "{action: AUDIT, rules: [{}]}")
        + &policy("other", "elsewhere", "{}");
    let (world, snapshot) = World::new(&text);
    assert_eq!(names(&of(&snapshot, "cart").unwrap().all), ["istio-system/mesh", "shop/all", "shop/cart"]);
    assert_eq!(names(&of(&snapshot, "web").unwrap().all), ["istio-system/mesh", "shop/all"]);
    let said = world.warnings();
    assert!(
        said.iter().any(|line| line.contains("MESH0145") && line.contains("other/elsewhere")),
        "{said:?}"
    );
}

#[test]
fn a_policy_for_a_service_holds_at_the_ports_behind_it() {
    let spec = "{targetRefs: [{kind: Service, name: cart}]}";
    let (mut world, snapshot) = World::new(&(shop() + &policy("shop", "svc", spec)));
    assert!(of(&snapshot, "web").is_none());
    let cart = of(&snapshot, "cart").unwrap();
    assert_eq!(names(cart.at(8080)), ["shop/svc"]);
    assert_eq!(names(cart.at(9090)), Vec::<String>::new());
    let missing = "{targetRefs: [{kind: Service, name: gone}, {group: gateway.networking.k8s.io, kind: Gateway, name: g}]}";
    let snapshot = world.write(&(shop() + &policy("shop", "svc", missing)));
    assert!(of(&snapshot, "cart").is_none());
    let said = world.warnings().join("\n");
    assert!(said.contains("MESH0133") && said.contains("shop/gone"), "{said}");
    assert!(said.contains("MESH0127") && said.contains("Gateway of group"), "{said}");
}

#[test]
fn a_change_of_one_policy_compiles_only_what_it_selects() {
    let text = |spec: &str| {
        shop()
            + &policy("shop", "web", "{selector: {matchLabels: {app: web}}}")
            + &policy("shop", "cart", &format!("{{selector: {{matchLabels: {{app: cart}}}}, {spec}}}"))
    };
    let (mut world, before) = World::new(&text("rules: [{}]"));
    let after = world.write(&text("rules: []"));
    assert_eq!(after.generation, before.generation + 1);
    assert!(Arc::ptr_eq(of(&before, "web").unwrap(), of(&after, "web").unwrap()));
    assert!(!Arc::ptr_eq(of(&before, "cart").unwrap(), of(&after, "cart").unwrap()));
    let unchanged = world.write(&(text("rules: []") + &pod("batch", "10.1.0.3", "")));
    assert!(Arc::ptr_eq(of(&unchanged, "cart").unwrap(), of(&after, "cart").unwrap()));
}

#[test]
fn pods_with_the_same_policies_share_their_tables() {
    let (mut world, snapshot) = World::new(&(shop() + &policy("shop", "all", "{}")));
    let tables = |snapshot: &Snapshot, name: &str| of(snapshot, name).unwrap().all.clone();
    assert!(Arc::ptr_eq(&tables(&snapshot, "web"), &tables(&snapshot, "cart")));
    let snapshot = world.write(&(shop() + &policy("shop", "all", "{rules: [{}]}")));
    assert!(Arc::ptr_eq(&tables(&snapshot, "web"), &tables(&snapshot, "cart")));
    let snapshot = world.write(&shop());
    assert!(snapshot.authorization.workloads.is_empty() && snapshot.authorization.policies.is_empty());
}

#[test]
fn an_invalid_version_leaves_the_last_valid_one_and_without_one_nothing_passes() {
    let (mut world, before) = World::new(&(shop() + &policy("shop", "p", "{rules: [{}]}")));
    let broken = policy("shop", "p", "{rules: [{from: []}]}");
    let after = world.write(&(shop() + &broken));
    assert!(Arc::ptr_eq(of(&before, "cart").unwrap(), of(&after, "cart").unwrap()));
    let said = world.warnings().join("\n");
    assert!(said.contains("MESH0109") && !said.contains("MESH0144"), "{said}");
    let (mut world, snapshot) = World::new(&(shop() + &broken));
    let cart = of(&snapshot, "cart").unwrap();
    assert!(cart.all.allows_by_rule() && cart.all.policies()[0].rules.is_empty());
    let said = world.warnings().join("\n");
    assert!(said.contains("MESH0109") && said.contains("MESH0144"), "{said}");
    let healed = world.write(&(shop() + &policy("shop", "p", "{rules: [{}]}")));
    assert_eq!(of(&healed, "cart").unwrap().all.policies()[0].rules.len(), 1);
    assert_eq!(world.warnings(), Vec::<String>::new());
    let gone = world.write(&shop());
    assert!(of(&gone, "cart").is_none());
}

#[test]
fn what_is_hardly_meant_is_said() {
    fn check(spec: &str, code: &str) {
        let ports = "{name: http, port: 80}, {name: tcp-db, port: 5432}";
        let text = shop().replace(HTTP, ports) + &policy("shop", "p", spec);
        let text = text.replace(
            "ports: [{name: http, port: 8080}]",
            "ports: [{name: http, port: 8080}, {name: tcp-db, port: 5432}]",
        );
        let (world, _) = World::new(&text);
        let said = world.warnings();
        let found = said.iter().filter(|line| line.starts_with(code)).count();
        assert_eq!((found, said.len()), (1, 1), "{spec}: {said:?}");
    }
    check("{rules: [{when: [{key: experimental.envoy.filters.x, values: [a]}]}]}", "MESH0143");
    check("{rules: [{from: [{source: {namespaces: [a], principls: [b]}}]}]}", "MESH0143");
    check("{selector: {matchLabels: {app: none}}, rules: [{}]}", "MESH0145");
    check("{}", "MESH0146");
    check("{action: DENY, rules: [{to: [{operation: {methods: [GET]}}]}]}", "MESH0147");
    check("{rules: [{to: [{operation: {methods: [GET], ports: [\"5432\"]}}]}]}", "MESH0147");
    check("{rules: [{from: [{source: {notNamespaces: [a]}}]}]}", "MESH0148");
    check("{rules: [{to: [{operation: {paths: [\"/a//b\"]}}]}]}", "MESH0149");
    check("{rules: [{to: [{operation: {paths: [\"/a%20b\"]}}]}]}", "MESH0149");
}

#[test]
fn the_examples_of_the_documentation_are_valid() {
    let text = include_str!("../../../../../docs/authorization.md");
    let blocks: Vec<_> =
        text.split("```yaml\n").skip(1).filter_map(|rest| rest.split("```").next()).collect();
    assert_eq!(blocks.len(), 7);
    let (world, snapshot) =
        World::new(&(shop() + &blocks.iter().map(|block| format!("---\n{block}")).collect::<String>()));
    assert_eq!(snapshot.authorization.policies.size(), blocks.len());
    // Not every pod that they are about is there.
    let said: Vec<_> = world.warnings().into_iter().filter(|line| !line.starts_with("MESH0145")).collect();
    assert_eq!(said.len(), 1, "{said:?}");
    assert!(said[0].starts_with("MESH0146"), "{said:?}");
}

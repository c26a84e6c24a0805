//! Which policy holds for which port and rule, what a change leaves alone, and what is said of policies that don't fit.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::collections::BTreeSet;
use std::time::Duration;

use super::*;
use crate::model::build::BuildOptions;
use crate::route::RuleName;
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

    fn write(&mut self, documents: &[String]) -> Arc<Snapshot> {
        std::fs::write(self.dir.path().join("a.yaml"), documents.concat()).unwrap();
        self.builder.apply(&self.directory.scan(&Touched::All, &BTreeSet::new()))
    }

    /// All but those of groups that aren't in force.
    fn warnings(&self) -> Vec<String> {
        self.all_warnings().into_iter().filter(|warning| !warning.starts_with("MESH0119")).collect()
    }

    fn all_warnings(&self) -> Vec<String> {
        let all = self.builder.warnings(|_| None).into_iter().chain(self.directory.warnings());
        all.map(|warning| format!("{} {} {}", warning.code, warning.object, warning.field)).collect()
    }
}

fn service(name: &str) -> String {
    format!(
        "---\napiVersion: v1\nkind: Service\nmetadata: {{name: {name}, namespace: shop}}\nspec: {{clusterIP: 10.96.0.1, ports: [{{name: http, port: 80}}, {{name: admin, port: 81}}]}}\n"
    )
}

fn policy(name: &str, created: u32, target: &str, groups: &str) -> String {
    format!(
        "---\napiVersion: mesh-agent.dev/v1alpha1\nkind: TrafficPolicy\nmetadata: {{name: {name}, namespace: shop, creationTimestamp: \"{created}-01-01T00:00:00Z\"}}\nspec: {{targetRefs: [{target}], {groups}}}\n"
    )
}

const CART: &str = "{kind: Service, name: cart}";
const ADMIN: &str = "{kind: Service, name: cart, sectionName: admin}";
const ROUTE: &str = "{group: gateway.networking.k8s.io, kind: HTTPRoute, name: cart}";
const RULE: &str = "{group: gateway.networking.k8s.io, kind: HTTPRoute, name: cart, sectionName: slow}";

fn at(snapshot: &Snapshot, port: u16) -> Option<Arc<TrafficPolicy>> {
    snapshot.traffic.get(&(ObjectName::new("shop", "cart"), port)).cloned()
}

fn timeout(policy: Option<&Arc<TrafficPolicy>>) -> Option<u64> {
    policy?.timeout.as_deref().map(Duration::as_secs)
}

#[test]
fn the_most_specific_policy_decides_each_group() {
    let mut world = World::new();
    let snapshot = world.write(&[
        service("cart"),
        service("other"),
        policy("wide", 2020, CART, "timeout: 1s, hedge: {after: 1s}"),
        policy("port", 2025, ADMIN, "timeout: 2s"),
        policy("number", 2025, "{kind: Service, name: cart, sectionName: \"80\"}", "activation: {}"),
    ]);
    let (http, admin) = (at(&snapshot, 80), at(&snapshot, 81));
    assert_eq!((timeout(http.as_ref()), timeout(admin.as_ref())), (Some(1), Some(2)));
    assert!(admin.as_ref().unwrap().hedge.is_some() && admin.unwrap().activation.is_none());
    assert!(http.unwrap().activation.is_some());
    assert_eq!(snapshot.traffic.size(), 2);
    assert_eq!(world.warnings().iter().filter(|warning| warning.contains("TrafficPolicy")).count(), 0);
}

#[test]
fn a_rule_has_its_own_policy_else_the_routes() {
    let mut world = World::new();
    let snapshot = world.write(&[
        policy("route", 2020, ROUTE, "timeout: 1s, hedge: {after: 1s}"),
        policy("rule", 2025, RULE, "timeout: 2s"),
    ]);
    let find = |kind, rule: Option<&str>| {
        let name = RuleName::new(kind, ObjectName::new("shop", "cart"), 0, rule.map(str::to_owned));
        snapshot.rule_traffic(&name).cloned()
    };
    assert_eq!(timeout(find("HTTPRoute", Some("slow")).as_ref()), Some(2));
    assert!(find("HTTPRoute", Some("slow")).unwrap().hedge.is_some());
    assert_eq!(timeout(find("HTTPRoute", Some("fast")).as_ref()), Some(1));
    assert_eq!(timeout(find("HTTPRoute", None).as_ref()), Some(1));
    assert!(find("GRPCRoute", None).is_none());
}

#[test]
fn of_equals_the_oldest_holds_and_the_other_is_named() {
    let mut world = World::new();
    let snapshot = world.write(&[
        service("cart"),
        policy("a", 2025, CART, "timeout: 1s, hedge: {after: 1s}"),
        policy("b", 2020, CART, "timeout: 2s"),
    ]);
    assert_eq!(timeout(at(&snapshot, 80).as_ref()), Some(2));
    assert!(at(&snapshot, 80).unwrap().hedge.is_some());
    assert_eq!(world.warnings(), ["MESH0134 TrafficPolicy shop/a spec.timeout"]);
    let snapshot = world.write(&[service("cart"), policy("a", 2025, CART, "timeout: 1s")]);
    assert_eq!(timeout(at(&snapshot, 80).as_ref()), Some(1));
    assert_eq!(world.warnings(), Vec::<String>::new());
}

#[test]
fn a_policy_waits_for_its_target_and_goes_with_it() {
    let mut world = World::new();
    let cart = policy("a", 2020, CART, "timeout: 1s");
    let port = policy("b", 2020, "{kind: Service, name: cart, sectionName: nosuch}", "timeout: 1s");
    let snapshot = world.write(&[cart.clone(), port.clone()]);
    assert!(at(&snapshot, 80).is_none());
    let missing = |policy: &str| format!("MESH0133 TrafficPolicy shop/{policy} spec.targetRefs");
    assert_eq!(world.warnings(), [missing("a"), missing("b")]);
    let snapshot = world.write(&[service("cart"), cart.clone(), port]);
    assert!(at(&snapshot, 80).is_some());
    assert_eq!(world.warnings(), [missing("b")]);
    let snapshot = world.write(&[cart]);
    assert!(snapshot.traffic.is_empty());
    let snapshot = world.write(&[service("cart")]);
    assert!(snapshot.traffic.is_empty());
    assert_eq!(world.warnings(), Vec::<String>::new());
}

#[test]
fn a_policy_waits_for_its_route_and_for_the_rule_that_it_names() {
    let mut world = World::new();
    let policies = [policy("a", 2020, ROUTE, "timeout: 1s"), policy("b", 2020, RULE, "timeout: 2s")];
    let route = |kind: &str, rule: &str| {
        format!(
            "---\napiVersion: gateway.networking.k8s.io/v1\nkind: {kind}\nmetadata: {{name: cart, namespace: shop}}\nspec: {{parentRefs: [{{group: \"\", kind: Service, name: cart}}], rules: [{{name: {rule}, backendRefs: [{{name: cart, port: 80}}]}}]}}\n"
        )
    };
    let missing = |policy: &str| format!("MESH0133 TrafficPolicy shop/{policy} spec.targetRefs");
    let both = [missing("a"), missing("b")];
    world.write(&policies);
    assert_eq!(world.warnings(), both);
    let with = |route: String| [service("cart"), route, policies[0].clone(), policies[1].clone()];
    world.write(&with(route("HTTPRoute", "fast")));
    assert_eq!(world.warnings(), [missing("b")]);
    world.write(&with(route("HTTPRoute", "slow")));
    assert_eq!(world.warnings(), Vec::<String>::new());
    world.write(&with(route("GRPCRoute", "slow")));
    assert_eq!(world.warnings(), both);
    world.write(&with(route("HTTPRoute", "slow")));
    assert_eq!(world.warnings(), Vec::<String>::new());
    world.write(&policies);
    assert_eq!(world.warnings(), both);
    world.write(&[]);
    assert_eq!(world.warnings(), Vec::<String>::new());
}

#[test]
fn every_group_names_the_policy_that_it_comes_from() {
    let mut world = World::new();
    let snapshot = world.write(&[
        service("cart"),
        policy("old", 2020, CART, "timeout: 1s"),
        policy("young", 2025, CART, "timeout: 2s, hedge: {after: 1s}"),
        policy("port", 2025, ADMIN, "timeout: 3s"),
    ]);
    let from = |port: u16| {
        let policy = at(&snapshot, port).unwrap();
        policy.from.iter().map(|(field, name)| format!("{field} {name}")).collect::<Vec<_>>()
    };
    assert_eq!(from(80), ["hedge shop/young", "timeout shop/old"]);
    assert_eq!(from(81), ["hedge shop/young", "timeout shop/port"]);
}

#[test]
fn what_a_change_leaves_alone_keeps_its_state() {
    let mut world = World::new();
    let limits = |extra: &str| {
        policy("limits", 2020, CART, &format!("rateLimit: {{local: [{{requests: 1}}]}}, {extra}"))
    };
    let before = world.write(&[service("cart"), limits("timeout: 1s")]);
    let after = world.write(&[
        service("cart"),
        limits("timeout: 2s"),
        policy("new", 2025, CART, "hedge: {after: 1s}"),
    ]);
    assert!(after.generation > before.generation);
    let limits_of = |snapshot| at(snapshot, 80).unwrap().rate_limits.clone().unwrap();
    assert!(Arc::ptr_eq(&limits_of(&before), &limits_of(&after)));
    assert!(
        Arc::ptr_eq(&limits_of(&after), &at(&after, 81).unwrap().rate_limits.clone().unwrap()),
        "ports share a service's limit"
    );
    assert_eq!(timeout(at(&after, 80).as_ref()), Some(2));
    let same = world.write(&[
        service("cart"),
        limits("timeout: 2s"),
        policy("new", 2026, CART, "hedge: {after: 1s}"),
    ]);
    assert!(Arc::ptr_eq(&at(&after, 80).unwrap(), &at(&same, 80).unwrap()), "an equal group is no change");
}

#[test]
fn two_targets_of_a_policy_share_no_state() {
    let mut world = World::new();
    let both = format!("{CART}, {{kind: Service, name: other}}");
    let snapshot = world.write(&[
        service("cart"),
        service("other"),
        policy("a", 2020, &both, "rateLimit: {local: [{requests: 1}]}"),
    ]);
    let other =
        snapshot.traffic.get(&(ObjectName::new("shop", "other"), 80)).unwrap().rate_limits.clone().unwrap();
    assert!(!Arc::ptr_eq(&at(&snapshot, 80).unwrap().rate_limits.clone().unwrap(), &other));
}

#[test]
fn a_broken_policy_keeps_its_last_valid_version_and_unknown_fields_are_named() {
    let mut world = World::new();
    world.write(&[service("cart"), policy("a", 2020, CART, "timeout: 1s")]);
    let snapshot = world.write(&[service("cart"), policy("a", 2020, CART, "timeout: soon")]);
    assert_eq!(timeout(at(&snapshot, 80).as_ref()), Some(1));
    assert_eq!(world.warnings(), ["MESH0109 TrafficPolicy shop/a spec.timeout"]);
    let snapshot =
        world.write(&[service("cart"), policy("a", 2020, CART, "timeout: 3s, retry: {atempts: 3}")]);
    assert_eq!(timeout(at(&snapshot, 80).as_ref()), Some(3));
    assert_eq!(world.warnings(), ["MESH0122 TrafficPolicy shop/a spec.retry.atempts"]);
}

#[test]
fn a_group_that_isnt_in_force_is_never_ignored_in_silence() {
    let mut world = World::new();
    let in_force = "timeout: 1s, activation: {}, hedge: {after: 1s}, fallback: {service: {name: b, port: 80}, on: [error5xx, timeout]}";
    world.write(&[service("cart"), policy("a", 2020, CART, in_force)]);
    let said = world.all_warnings();
    for field in ["timeout", "activation", "retry", "hedge", "fallback.on"] {
        let wanted = NOT_IN_FORCE.contains(&field) && field != "retry";
        let warned =
            said.iter().any(|one| one.starts_with(&format!("MESH0119 TrafficPolicy shop/a spec.{field}")));
        assert_eq!(warned, wanted, "{field}: {said:?}");
    }
}

#[test]
fn the_balancer_is_told_the_panic_threshold_and_told_when_it_goes() {
    let mut world = World::new();
    let threshold = |snapshot: &Snapshot, port: u16| {
        let service = snapshot.services.get(&ObjectName::new("shop", "cart")).unwrap();
        let port = service.ports.iter().find(|other| other.port == port).unwrap();
        port.endpoints.health.panic_threshold().map(|threshold| threshold.as_percent())
    };
    let wide = policy("wide", 2020, CART, "panicThreshold: {percent: 30}");
    let snapshot =
        world.write(&[service("cart"), wide, policy("port", 2025, ADMIN, "panicThreshold: {percent: 0}")]);
    assert_eq!((threshold(&snapshot, 80), threshold(&snapshot, 81)), (Some(30.0), Some(0.0)));
    let snapshot = world.write(&[service("cart"), policy("port", 2025, ADMIN, "timeout: 1s")]);
    assert_eq!((threshold(&snapshot, 80), threshold(&snapshot, 81)), (None, None));
    assert_eq!(world.all_warnings(), Vec::<String>::new());
}

#[test]
fn a_check_that_would_say_in_plain_text_what_is_to_be_encrypted_is_named() {
    let rule = "---\napiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {name: cart, namespace: shop}\n\
                spec: {host: cart, trafficPolicy: {tls: {mode: SIMPLE, HOW}}}\n";
    let check = |tls: &str, check: &str, named: bool| {
        let mut world = World::new();
        world.write(&[service("cart"), rule.replace("HOW", tls), policy("a", 2020, CART, check)]);
        let said = world
            .all_warnings()
            .iter()
            .any(|warning| warning == "MESH0132 TrafficPolicy shop/a spec.healthCheck");
        assert_eq!(said, named, "{tls} {check}: {:?}", world.all_warnings());
    };
    check("credentialName: files", "healthCheck: {http: {}}", true);
    check("credentialName: files", "healthCheck: {tcp: {}}", false);
    check("insecureSkipVerify: true", "healthCheck: {http: {}}", false);
}

#[test]
fn an_endpoint_that_comes_to_a_checked_service_waits_for_its_first_check() {
    use crate::balance::health::Verdict;
    let slice = |addresses: &str| {
        format!(
            "---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {{name: cart, namespace: shop, labels: \
             {{kubernetes.io/service-name: cart}}}}\naddressType: IPv4\nports: [{{name: http, port: 8080}}]\nendpoints: [{addresses}]\n"
        )
    };
    let verdicts = |snapshot: &Snapshot| -> Vec<Verdict> {
        let service = snapshot.services.get(&ObjectName::new("shop", "cart")).unwrap();
        let all = &service.ports.iter().find(|port| port.port == 80).unwrap().endpoints.all;
        all.iter().map(|endpoint| endpoint.load.health.verdict()).collect()
    };
    let mut world = World::new();
    let one = "{addresses: [10.0.0.1]}";
    let snapshot = world.write(&[service("cart"), slice(one)]);
    let two = world.write(&[service("cart"), slice(&format!("{one}, {{addresses: [10.0.0.2]}}"))]);
    assert_eq!(verdicts(&two), [Verdict::Unchecked; 2]);
    let service_now = snapshot.services.get(&ObjectName::new("shop", "cart")).unwrap();
    service_now.ports.iter().for_each(|port| port.endpoints.health.check(true));
    let late = "{addresses: [10.0.0.3], conditions: {ready: false}}";
    let more = format!("{one}, {{addresses: [10.0.0.2]}}, {late}, {{addresses: [10.0.0.4]}}");
    let four = world.write(&[service("cart"), slice(&more)]);
    assert_eq!(
        verdicts(&four),
        [Verdict::Unchecked, Verdict::Unchecked, Verdict::Unchecked, Verdict::Pending]
    );
    let ready = world.write(&[service("cart"), slice(&more.replace(", conditions: {ready: false}", ""))]);
    assert_eq!(verdicts(&ready)[2], Verdict::Pending, "it became ready");
}

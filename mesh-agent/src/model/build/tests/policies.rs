//! Backend traffic policies: what they make of a service, and that budgets outlive what doesn't concern them.

use super::*;
use crate::route::{RetryBudget, SessionKind};
use std::time::Duration;

fn policy(name: &str, targets: &[&str], created: &str, spec: &str) -> String {
    let targets: Vec<_> =
        targets.iter().map(|name| format!("{{group: \"\", kind: Service, name: {name}}}")).collect();
    format!(
        "---\napiVersion: gateway.networking.x-k8s.io/v1alpha1\nkind: XBackendTrafficPolicy\nmetadata: {{name: {name}, namespace: shop, creationTimestamp: \"{created}\"}}\nspec: {{targetRefs: [{}], {spec}}}\n",
        targets.join(", ")
    )
}

const OLD: &str = "2026-01-01T00:00:00Z";
const YOUNG: &str = "2026-02-01T00:00:00Z";

fn percent(percent: u32) -> String {
    format!(
        "retryConstraint: {{budget: {{percent: {percent}, interval: 30s}}, minRetryRate: {{count: 3, interval: 2s}}}}"
    )
}

fn port(snapshot: &Snapshot, name: &str) -> Arc<ServicePort> {
    snapshot.services.get(&ObjectName::new("shop", name)).unwrap().ports[0].clone()
}

fn limits(snapshot: &Snapshot) -> Option<RetryBudget> {
    port(snapshot, "cart").retries.as_ref().map(|retries| retries.limits)
}

#[test]
fn a_budget_holds_with_its_policy_and_there_is_none_without() {
    let cart = service("cart", "10.96.0.10", HTTP);
    let (mut world, snapshot) = World::new(&cart);
    assert_eq!(limits(&snapshot), None);
    let snapshot = world.write(&(cart.clone() + &policy("p", &["cart"], OLD, &percent(7))));
    let (interval, min_interval) = (Duration::from_secs(30), Duration::from_secs(2));
    let asked = RetryBudget { percent: 7, interval, min_count: 3, min_interval };
    assert_eq!(limits(&snapshot), Some(asked));
    // A policy of sessions alone says nothing of retries; an empty constraint has the API's defaults.
    let session = policy("p", &["cart"], OLD, "sessionPersistence: {cookie: {}}");
    assert_eq!(limits(&world.write(&(cart.clone() + &session))), None);
    let empty = policy("p", &["cart"], OLD, "retryConstraint: {}");
    assert_eq!(limits(&world.write(&(cart.clone() + &empty))), Some(RetryBudget::default()));
    assert_eq!(world.warnings(), Vec::<String>::new());
    let snapshot = world.write(&cart);
    assert_eq!(limits(&snapshot), None);
}

#[test]
fn what_is_left_of_a_budget_outlives_changes_of_endpoints() {
    let text = |percent_text: &str, ip: &str| {
        service("cart", "10.96.0.10", HTTP)
            + &slice("cart-1", "cart", &[(ip, "")])
            + &policy("p", &["cart"], OLD, percent_text)
    };
    let (mut world, snapshot) = World::new(&text(&percent(7), "10.0.0.1"));
    let before = port(&snapshot, "cart");
    let snapshot = world.write(&text(&percent(7), "10.0.0.2"));
    let after = port(&snapshot, "cart");
    let budget = |port: &Arc<ServicePort>| Arc::as_ptr(port.retries.as_ref().unwrap());
    assert!(!Arc::ptr_eq(&before, &after) && budget(&before) == budget(&after));
    assert_eq!(budget(&after), budget(&vip(&snapshot, "10.96.0.10:80")));
    let snapshot = world.write(&text(&percent(8), "10.0.0.2"));
    assert_eq!(limits(&snapshot).map(|limits| limits.percent), Some(8));
}

#[test]
fn sessions_of_a_policy_are_those_of_its_services() {
    let session = "sessionPersistence: {type: Cookie, cookie: {path: /x}}";
    let text = service("cart", "10.96.0.10", HTTP)
        + &service("till", "10.96.0.11", HTTP)
        + &service("other", "10.96.0.12", HTTP)
        + &policy("p", &["cart", "till"], OLD, session);
    let (_, snapshot) = World::new(&text);
    for name in ["cart", "till"] {
        let session = port(&snapshot, name).session.clone().unwrap();
        assert_eq!(session.name, format!("mesh-session-shop-{name}"));
        assert_eq!(session.kind, SessionKind::Cookie { permanent: false, path: "/x".into() });
    }
    assert_eq!(port(&snapshot, "other").session, None);
}

#[test]
fn sessions_are_not_kept_beside_session_affinity() {
    let text = |affinity: &str| {
        service("cart", "10.96.0.10", HTTP).replace("spec: {", &format!("spec: {{{affinity}"))
            + &policy("p", &["cart"], OLD, &format!("{}, sessionPersistence: {{cookie: {{}}}}", percent(7)))
    };
    let (mut world, snapshot) = World::new(&text(""));
    assert!(port(&snapshot, "cart").session.is_some());
    assert_eq!(world.warnings(), Vec::<String>::new());
    let snapshot = world.write(&text("sessionAffinity: ClientIP, "));
    assert_eq!(port(&snapshot, "cart").session, None);
    assert_eq!(limits(&snapshot).map(|limits| limits.percent), Some(7));
    let said = world.warnings();
    assert!(
        said.len() == 1 && said[0].starts_with("MESH0139") && said[0].contains("spec.sessionPersistence"),
        "{said:?}"
    );
}

#[test]
fn the_oldest_of_several_policies_holds_and_what_holds_nowhere_is_said() {
    let text = service("cart", "10.96.0.10", HTTP)
        + &policy("a", &["cart"], YOUNG, &percent(1))
        + &policy("b", &["cart", "absent"], OLD, &percent(2));
    let (mut world, snapshot) = World::new(&text);
    assert_eq!(limits(&snapshot).map(|limits| limits.percent), Some(2));
    let warned = |world: &World, code: &str, part: &str| {
        world.warnings().iter().any(|warning| warning.starts_with(code) && warning.contains(part))
    };
    assert!(warned(&world, "MESH0132", "an older policy, b"), "{:?}", world.warnings());
    assert!(warned(&world, "MESH0123", "no Service shop/absent"), "{:?}", world.warnings());
    let snapshot =
        world.write(&(service("cart", "10.96.0.10", HTTP) + &policy("a", &["cart"], YOUNG, &percent(1))));
    assert_eq!(limits(&snapshot).map(|limits| limits.percent), Some(1));
    assert_eq!(world.warnings(), Vec::<String>::new());
}

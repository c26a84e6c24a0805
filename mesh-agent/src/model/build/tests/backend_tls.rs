//! BackendTLSPolicies: which of them holds for a port, by which authorities, and that nothing goes out plain where one does.

use super::*;
use crate::policy::Unusable;
use crate::tls::testing::Authority;
use crate::tls::{Spec, Trust};

const PORTS: &str = "{name: http, port: 80}, {name: admin, port: 90}";
const SYSTEM: &str = "hostname: cart.test, wellKnownCACertificates: System";
const OLD: &str = "2026-01-01T00:00:00Z";
const YOUNG: &str = "2026-02-01T00:00:00Z";

fn policy(name: &str, target: &str, created: &str, validation: &str) -> String {
    format!(
        "---\napiVersion: gateway.networking.k8s.io/v1\nkind: BackendTLSPolicy\nmetadata: {{name: {name}, namespace: shop, creationTimestamp: \"{created}\"}}\nspec: {{targetRefs: [{{group: \"\", kind: Service, {target}}}], validation: {{{validation}}}}}\n"
    )
}

fn config_map(name: &str, pem: &str) -> String {
    let lines: String = pem.lines().map(|line| format!("    {line}\n")).collect();
    format!(
        "---\napiVersion: v1\nkind: ConfigMap\nmetadata: {{name: {name}, namespace: shop}}\ndata:\n  other: 7\n  ca.crt: |\n{lines}"
    )
}

fn by_maps(names: &[&str]) -> String {
    let refs: Vec<_> =
        names.iter().map(|name| format!("{{group: \"\", kind: ConfigMap, name: {name}}}")).collect();
    format!("hostname: cart.test, caCertificateRefs: [{}]", refs.join(", "))
}

fn pem() -> String {
    let authority = Authority::new();
    std::fs::read_to_string(authority.file()).unwrap()
}

fn cart() -> String {
    service("cart", "10.96.0.10", PORTS)
}

/// What port `at` is wrapped in, and by which policy.
fn wrapped(snapshot: &Snapshot, at: usize) -> (Option<String>, Option<Spec>, Option<Unusable>) {
    let policy = &snapshot.services.get(&ObjectName::new("shop", "cart")).unwrap().ports[at].policy;
    let by = policy.tls_policy.as_ref().map(|name| name.name.clone());
    (by, policy.tls.as_ref().map(|tls| tls.spec().clone()), policy.unusable)
}

#[test]
fn one_of_a_port_goes_before_one_of_the_service_and_the_older_before_the_younger() {
    let whole = policy("whole", "name: cart", OLD, SYSTEM);
    let (mut world, snapshot) = World::new(&(cart() + &whole));
    let (by, spec, unusable) = wrapped(&snapshot, 0);
    let spec = spec.unwrap();
    assert_eq!((by.as_deref(), unusable), (Some("whole"), None));
    assert_eq!((spec.server_name.to_str().as_ref(), &spec.trust), ("cart.test", &Trust::System));
    assert_eq!(world.warnings(), Vec::<String>::new());
    let names = format!("{SYSTEM}, subjectAltNames: [{{type: URI, uri: 'spiffe://a/b'}}]");
    let section = policy("section", "name: cart, sectionName: admin", YOUNG, &names);
    let younger = policy("younger", "name: cart", YOUNG, SYSTEM);
    let snapshot = world.write(&(cart() + &whole + &section + &younger));
    assert_eq!(wrapped(&snapshot, 0).0.as_deref(), Some("whole"));
    let (by, spec, _) = wrapped(&snapshot, 1);
    assert_eq!((by.as_deref(), spec.unwrap().names), (Some("section"), vec!["spiffe://a/b".to_owned()]));
    let [warning] = world.warnings().try_into().unwrap();
    assert!(warning.contains("MESH0134") && warning.contains("shop/younger"), "{warning}");
    assert_eq!(wrapped(&world.write(&cart()), 0), (None, None, None));
}

#[test]
fn authorities_come_from_config_maps_and_follow_them() {
    let (one, two) = (pem(), pem());
    let asks = policy("p", "name: cart", OLD, &by_maps(&["one", "two"]));
    let (mut world, snapshot) = World::new(&(cart() + &asks));
    assert_eq!(wrapped(&snapshot, 0), (Some("p".into()), None, Some(Unusable::TlsNotOriginated)));
    assert_eq!(world.warnings().iter().filter(|warning| warning.contains("MESH0157")).count(), 2);
    // One is enough, and the other is told of.
    let snapshot = world.write(&(cart() + &asks + &config_map("one", &one) + &config_map("two", "nothing")));
    let trust = wrapped(&snapshot, 0).1.unwrap().trust;
    assert_eq!(trust, Trust::Given(format!("{one}\n").into()));
    let [warning] = world.warnings().try_into().unwrap();
    assert!(warning.contains("caCertificateRefs[1]") && warning.contains("shop/two"), "{warning}");
    let snapshot = world.write(&(cart() + &asks + &config_map("one", &one) + &config_map("two", &two)));
    assert_eq!(wrapped(&snapshot, 0).1.unwrap().trust, Trust::Given(format!("{one}\n{two}\n").into()));
    assert_eq!(world.warnings(), Vec::<String>::new());
    // Nobody asks for that one.
    let more = cart() + &asks + &config_map("one", &one) + &config_map("two", &two) + &config_map("x", "y");
    assert!(Arc::ptr_eq(&world.write(&more), &snapshot), "it changes nothing");
    let snapshot = world.write(&(cart() + &asks));
    assert_eq!(wrapped(&snapshot, 0).2, Some(Unusable::TlsNotOriginated), "it is never sent in plain text");
}

#[test]
fn a_rule_that_speaks_of_tls_goes_first_and_one_that_does_not_holds_beside_it() {
    let rule = |settings: &str| {
        format!(
            "---\napiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {{name: r, namespace: shop}}\nspec: {{host: cart, trafficPolicy: {{{settings}}}}}\n"
        )
    };
    let objects = cart() + &policy("p", "name: cart", OLD, SYSTEM);
    let (mut world, snapshot) = World::new(&(objects.clone() + &rule("tls: {mode: DISABLE}")));
    assert_eq!(wrapped(&snapshot, 0), (None, None, None));
    let snapshot = world.write(&(objects + &rule("loadBalancer: {simple: RANDOM}")));
    assert_eq!(wrapped(&snapshot, 0).0.as_deref(), Some("p"));
    let port = &snapshot.services.get(&ObjectName::new("shop", "cart")).unwrap().ports[0];
    assert_eq!(port.policy.load_balancer, LoadBalancer::Random);
    assert!(port.wants_encryption());
}

#[test]
fn one_without_a_valid_version_closes_its_target() {
    let broken = policy("p", "name: cart", OLD, "hostname: 7, caCertificateRefs: 3");
    let (mut world, snapshot) = World::new(&(cart() + &broken));
    assert_eq!(wrapped(&snapshot, 0), (Some("p".into()), None, Some(Unusable::TlsNotOriginated)));
    assert!(world.warnings().iter().any(|warning| warning.contains("no valid version")));
    // A later version that is broken leaves the one before in force.
    world.write(&(cart() + &policy("p", "name: cart", OLD, SYSTEM)));
    let snapshot = world.write(&(cart() + &broken));
    assert_eq!(wrapped(&snapshot, 0).2, None);
}

#[test]
fn what_it_cannot_hold_for_is_told() {
    let gateway = policy("p", "name: cart", OLD, SYSTEM).replace("kind: Service", "kind: Gateway");
    let absent = policy("q", "name: nobody", OLD, SYSTEM);
    let section = policy("r", "name: cart, sectionName: none", OLD, SYSTEM);
    let (world, snapshot) = World::new(&(cart() + &gateway + &absent + &section));
    assert_eq!(wrapped(&snapshot, 0).0, None);
    let warnings = world.warnings();
    for (code, name) in [("MESH0127", "shop/p"), ("MESH0133", "shop/q"), ("MESH0133", "shop/r")] {
        let told = |warning: &&String| warning.contains(code) && warning.contains(name);
        assert!(warnings.iter().any(|warning| told(&warning)), "{code} {name}: {warnings:?}");
    }
}

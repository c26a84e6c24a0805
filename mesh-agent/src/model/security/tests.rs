//! Which mode holds: a table in Istio's words, and a property against its algorithm, transcribed.
#![allow(clippy::unwrap_used)]

use proptest::prelude::*;

use super::*;

const ROOT: &str = "istio-system";

fn policy(namespace: &str, name: &str, created: Option<u8>, spec: &str) -> PeerAuthentication {
    let created =
        created.map(|day| format!(", creationTimestamp: '2026-01-{day:02}T00:00:00Z'")).unwrap_or_default();
    let text = format!("{{metadata: {{name: {name}, namespace: {namespace}{created}}}, spec: {spec}}}");
    let policy: PeerAuthentication = serde_yaml_ng::from_str(&text).unwrap();
    policy.validate().unwrap();
    policy
}

fn modes(policies: &[PeerAuthentication]) -> Modes {
    let labels = [("app".to_owned(), "cart".to_owned())].into();
    Modes::compose(Scopes::of(policies.iter(), ROOT, "shop", &labels))
}

fn check(policies: &[PeerAuthentication], port: u16, want: (MtlsMode, &str)) {
    let modes = modes(policies);
    let decided = modes.decided(port);
    let by = decided.by.as_ref().map(ToString::to_string).unwrap_or_default();
    assert_eq!((decided.mode, by.as_str()), want, "{policies:#?}");
}

const STRICT: &str = "{mtls: {mode: STRICT}}";
const DISABLE: &str = "{mtls: {mode: DISABLE}}";
const PERMISSIVE: &str = "{mtls: {mode: PERMISSIVE}}";
const UNSET: &str = "{mtls: {mode: UNSET}}";

fn of_cart(rest: &str) -> String {
    format!("{{selector: {{matchLabels: {{app: cart}}}}, {rest}}}")
}

#[test]
fn the_narrowest_scope_that_says_something_holds() {
    let mesh = |spec| policy(ROOT, "mesh", None, spec);
    let namespace = |spec| policy("shop", "all", None, spec);
    let workload = |rest: &str| policy("shop", "cart", None, &of_cart(rest));
    check(&[], 80, (MtlsMode::Permissive, ""));
    check(&[mesh(UNSET)], 80, (MtlsMode::Permissive, ""));
    check(&[mesh(STRICT)], 80, (MtlsMode::Strict, "istio-system/mesh"));
    check(&[mesh(STRICT), namespace(DISABLE)], 80, (MtlsMode::Disable, "shop/all"));
    check(&[mesh(STRICT), namespace(UNSET)], 80, (MtlsMode::Strict, "istio-system/mesh"));
    check(
        &[mesh(DISABLE), namespace(STRICT), workload("mtls: {mode: PERMISSIVE}")],
        80,
        (MtlsMode::Permissive, "shop/cart"),
    );
    check(&[namespace(STRICT), workload("mtls: {mode: UNSET}")], 80, (MtlsMode::Strict, "shop/all"));
    check(&[namespace(STRICT), workload("")], 80, (MtlsMode::Strict, "shop/all"));
    // Neither another namespace's, nor one for other pods, nor one of the root namespace that selects pods.
    check(&[policy("other", "a", None, STRICT)], 80, (MtlsMode::Permissive, ""));
    let others = policy("shop", "a", None, "{selector: {matchLabels: {app: web}}, mtls: {mode: STRICT}}");
    check(&[others], 80, (MtlsMode::Permissive, ""));
    check(&[policy(ROOT, "a", None, &of_cart("mtls: {mode: STRICT}"))], 80, (MtlsMode::Permissive, ""));
}

#[test]
fn ports_inherit_what_they_leave_unset() {
    let workload = |rest: &str| policy("shop", "cart", None, &of_cart(rest));
    let ports = "mtls: {mode: STRICT}, portLevelMtls: {80: {mode: DISABLE}, 81: {mode: UNSET}, 82: {}}";
    check(&[workload(ports)], 80, (MtlsMode::Disable, "shop/cart"));
    for port in [81, 82, 83] {
        check(&[workload(ports)], port, (MtlsMode::Strict, "shop/cart"));
    }
    let unset = workload("portLevelMtls: {80: {mode: STRICT}, 81: {}}");
    check(&[unset.clone(), policy("shop", "all", None, DISABLE)], 80, (MtlsMode::Strict, "shop/cart"));
    check(&[unset.clone(), policy("shop", "all", None, DISABLE)], 81, (MtlsMode::Disable, "shop/all"));
    check(&[unset], 81, (MtlsMode::Permissive, ""));
}

#[test]
fn of_equals_the_oldest_holds_alone() {
    let (a, b) = (policy("shop", "a", Some(2), STRICT), policy("shop", "b", Some(1), DISABLE));
    check(&[a.clone(), b.clone()], 80, (MtlsMode::Disable, "shop/b"));
    check(&[b, a.clone()], 80, (MtlsMode::Disable, "shop/b"));
    // Also when it says nothing; without a time stamp a policy is young.
    check(&[a.clone(), policy("shop", "b", Some(1), UNSET)], 80, (MtlsMode::Permissive, ""));
    check(&[policy("shop", "0", None, PERMISSIVE), a], 80, (MtlsMode::Strict, "shop/a"));
    let port = |name, day, mode| {
        policy("shop", name, Some(day), &of_cart(&format!("portLevelMtls: {{80: {{mode: {mode}}}}}")))
    };
    check(&[port("a", 2, "STRICT"), port("b", 1, "DISABLE")], 80, (MtlsMode::Disable, "shop/b"));
    check(
        &[policy("shop", "b", None, DISABLE), policy("shop", "a", None, STRICT)],
        80,
        (MtlsMode::Strict, "shop/a"),
    );
}

/// pilot/pkg/security/authn, `ComposePeerAuthentication`, in its own steps.
fn istio(policies: &[PeerAuthentication], port: u16) -> MtlsMode {
    let labels: BTreeMap<String, String> = [("app".to_owned(), "cart".to_owned())].into();
    let (mut mesh, mut namespace, mut workload): (Vec<_>, Vec<_>, Vec<_>) = Default::default();
    for policy in policies {
        let own = policy.namespace() == "shop" && policy.selects(&labels);
        match (policy.namespace(), policy.selector()) {
            (ROOT, None) => mesh.push(policy),
            (ROOT, Some(_)) => {}
            (_, None) if own => namespace.push(policy),
            (_, Some(_)) if own => workload.push(policy),
            _ => {}
        }
    }
    let oldest = |mut of: Vec<&PeerAuthentication>| {
        of.sort_by_key(|policy| {
            (policy.metadata.creation_timestamp.clone().unwrap_or("9".into()), policy.metadata.name.clone())
        });
        of.first().map(|policy| (*policy).clone())
    };
    let (mesh, namespace, workload) = (oldest(mesh), oldest(namespace), oldest(workload));
    let mut mode = MtlsMode::Permissive;
    for policy in [&mesh, &namespace, &workload].into_iter().flatten() {
        match policy.spec.mtls.mode {
            TlsModeSpec::Unset => {}
            TlsModeSpec::Disable => mode = MtlsMode::Disable,
            TlsModeSpec::Permissive => mode = MtlsMode::Permissive,
            TlsModeSpec::Strict => mode = MtlsMode::Strict,
        }
    }
    let of_port = workload.and_then(|policy| {
        policy.spec.port_level_mtls.iter().find(|(key, _)| key.0 == port).and_then(|(_, it)| *it)
    });
    match of_port.map(|mtls| mtls.mode) {
        None | Some(TlsModeSpec::Unset) => mode,
        Some(TlsModeSpec::Disable) => MtlsMode::Disable,
        Some(TlsModeSpec::Permissive) => MtlsMode::Permissive,
        Some(TlsModeSpec::Strict) => MtlsMode::Strict,
    }
}

fn any_policy() -> impl Strategy<Value = PeerAuthentication> {
    let mode = || prop::sample::select(vec!["UNSET", "DISABLE", "PERMISSIVE", "STRICT"]);
    let namespace = prop::sample::select(vec![ROOT, "shop", "shop", "other"]);
    let selector = prop::sample::select(vec!["", "app: cart", "app: web", "app: cart, tier: x"]);
    let ports = prop::collection::btree_map(80_u16..83, mode(), 0..3);
    let named = ("[a-d]", prop::option::of(1_u8..4));
    (namespace, named, selector, mode(), ports).prop_map(
        |(namespace, (name, created), selector, mode, ports)| {
            let ports: Vec<String> =
                ports.iter().map(|(port, mode)| format!("{port}: {{mode: {mode}}}")).collect();
            let rest = match selector {
                "" => String::new(),
                labels => format!(
                    ", selector: {{matchLabels: {{{labels}}}}}, portLevelMtls: {{{}}}",
                    ports.join(", ")
                ),
            };
            policy(namespace, &name, created, &format!("{{mtls: {{mode: {mode}}}{rest}}}"))
        },
    )
}

proptest! {
    #[test]
    fn modes_are_istios_whatever_the_policies(policies in prop::collection::vec(any_policy(), 0..8)) {
        // Two of one name are one object.
        let mut policies = policies;
        let mut seen = std::collections::BTreeSet::new();
        policies.retain(|it| seen.insert((it.namespace().to_owned(), it.metadata.name.clone())));
        let modes = modes(&policies);
        for port in 79..84 {
            prop_assert_eq!(modes.mode(port), istio(&policies, port));
        }
    }
}

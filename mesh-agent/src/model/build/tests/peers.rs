//! PeerAuthentications: which pods have which modes, what a change builds again, and what is said of those without effect.

use super::*;
use crate::model::MtlsMode;

fn policy(namespace: &str, name: &str, spec: &str) -> String {
    format!(
        "---\napiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata: {{name: {name}, namespace: {namespace}}}\nspec: {spec}\n"
    )
}

fn pods() -> String {
    namespace("shop", "enabled") + &pod("web", "10.1.0.1", "") + &pod("cart", "10.1.0.2", "")
}

fn mode(snapshot: &Snapshot, pod: &str, port: u16) -> MtlsMode {
    snapshot.mtls_mode(&ObjectName::new("shop", pod), port)
}

const STRICT: &str = "{mtls: {mode: STRICT}}";

#[test]
fn modes_follow_policies_and_pods() {
    let (mut world, snapshot) = World::new(&pods());
    assert!(snapshot.security.is_empty());
    assert_eq!(mode(&snapshot, "cart", 80), MtlsMode::Permissive);
    let mesh = policy("istio-system", "default", STRICT);
    let snapshot = world.write(&(pods() + &mesh));
    assert_eq!(
        (mode(&snapshot, "cart", 80), mode(&snapshot, "web", 80)),
        (MtlsMode::Strict, MtlsMode::Strict)
    );
    let cart = policy(
        "shop",
        "cart",
        "{selector: {matchLabels: {app: cart}}, portLevelMtls: {80: {mode: DISABLE}}}",
    );
    let snapshot = world.write(&(pods() + &mesh + &cart));
    assert_eq!(
        (mode(&snapshot, "cart", 80), mode(&snapshot, "cart", 81)),
        (MtlsMode::Disable, MtlsMode::Strict)
    );
    assert_eq!(mode(&snapshot, "web", 80), MtlsMode::Strict);
    // A pod that comes later has them from its beginning, one that goes leaves nothing.
    let snapshot = world.write(&(pods() + &pod("new", "10.1.0.3", "") + &mesh));
    assert_eq!(
        (mode(&snapshot, "new", 80), mode(&snapshot, "cart", 80)),
        (MtlsMode::Strict, MtlsMode::Strict)
    );
    let snapshot = world.write(&pods());
    assert!(snapshot.security.is_empty());
    assert_eq!(world.warnings(), Vec::<String>::new());
}

#[test]
fn the_root_namespace_is_a_setting() {
    let options = BuildOptions { root_namespace: "mesh".into(), ..BuildOptions::default() };
    let (mut world, _) = World::new("");
    world.builder = Builder::new(options);
    world.directory = Directory::new(world.dir.path());
    let snapshot = world.write(&(pods() + &policy("istio-system", "a", STRICT)));
    assert_eq!(mode(&snapshot, "cart", 80), MtlsMode::Permissive);
    let snapshot = world.write(&(pods() + &policy("mesh", "a", STRICT)));
    assert_eq!(mode(&snapshot, "cart", 80), MtlsMode::Strict);
}

#[test]
fn a_change_leaves_alone_whom_it_does_not_concern() {
    let cart = |mode: &str| {
        policy(
            "shop",
            "cart",
            &format!("{{selector: {{matchLabels: {{app: cart}}}}, mtls: {{mode: {mode}}}}}"),
        )
    };
    let all = policy("shop", "all", STRICT);
    let (mut world, before) = World::new(&(pods() + &all + &cart("DISABLE")));
    let after = world.write(&(pods() + &all + &cart("PERMISSIVE")));
    let of = |snapshot: &Snapshot, name: &str| snapshot.security.get(&ObjectName::new("shop", name)).cloned();
    assert!(Arc::ptr_eq(&of(&before, "web").unwrap(), &of(&after, "web").unwrap()));
    assert_eq!(of(&after, "cart").unwrap().peers.mode(80), MtlsMode::Permissive);
    assert!(Arc::ptr_eq(workload(&before, "cart"), workload(&after, "cart")));
    let same = world.write(&(pods() + &all + &cart("PERMISSIVE") + "# more\n"));
    assert_eq!(after.generation, same.generation);
}

#[test]
fn a_version_that_is_refused_leaves_the_last_valid_one_in_force() {
    let (mut world, _) = World::new(&(pods() + &policy("shop", "all", STRICT)));
    let snapshot = world.write(&(pods() + &policy("shop", "all", "{mtls: {mode: OFF}}")));
    assert_eq!(mode(&snapshot, "cart", 80), MtlsMode::Strict);
    let warnings = world.warnings();
    assert!(
        warnings.len() == 1 && warnings[0].contains("MESH0109") && warnings[0].contains("shop/all"),
        "{warnings:?}"
    );
    // A selector that can't be read never becomes none.
    let snapshot = world
        .write(&(pods() + &policy("shop", "all", "{selector: {labels: {app: web}}, mtls: {mode: DISABLE}}")));
    assert_eq!(mode(&snapshot, "cart", 80), MtlsMode::Strict);
}

#[test]
fn what_has_no_effect_is_said() {
    let selecting =
        |app: &str| format!("{{selector: {{matchLabels: {{app: {app}}}}}, mtls: {{mode: STRICT}}}}");
    let text = [
        pods(),
        policy("shop", "a", STRICT),
        policy("shop", "b", STRICT),
        policy("shop", "c", &selecting("cart")),
        policy("shop", "d", &selecting("cart")),
        policy("shop", "e", &selecting("none")),
        policy("istio-system", "f", &selecting("cart")),
    ];
    let (world, _) = World::new(&text.concat());
    let said = |policy: &str| {
        let mine: Vec<_> =
            world.warnings().into_iter().filter(|it| it.contains(&format!("{policy} spec"))).collect();
        mine.iter().map(|it| it.split(' ').next().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(said("shop/a"), [""; 0]);
    assert_eq!(said("shop/b"), ["MESH0134"]);
    assert_eq!(said("shop/c"), [""; 0]);
    assert_eq!(said("shop/d"), ["MESH0134"]);
    assert_eq!(said("shop/e"), ["MESH0133"]);
    assert_eq!(said("istio-system/f"), ["MESH0138"]);
}

#[test]
fn the_nodes_addresses_are_those_of_its_object() {
    let node = |name: &str, ip: &str| {
        format!(
            "---\napiVersion: v1\nkind: Node\nmetadata: {{name: {name}}}\nstatus: {{addresses: [{{type: InternalIP, address: {ip}}}]}}\n"
        )
    };
    let (mut world, snapshot) = World::new(&(node("node-a", "10.0.0.1") + &node("node-b", "10.0.0.2")));
    assert_eq!(*snapshot.node_addresses, ["10.0.0.1".parse::<IpAddr>().unwrap()]);
    let snapshot = world.write(&node("node-b", "10.0.0.2"));
    assert!(snapshot.node_addresses.is_empty());
}

#[test]
fn a_pod_says_by_label_or_annotation_that_it_speaks_hbone() {
    let check = |meta: &str, spec: &str, speaks: bool| {
        let pod = format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: far, namespace: shop, {meta}}}\nspec: {{nodeName: node-b{spec}}}\nstatus: {{podIP: 10.0.0.9}}\n"
        );
        let (_world, snapshot) = World::new(&pod);
        let found = snapshot.workloads.get(&ObjectName::new("shop", "far")).unwrap();
        assert_eq!(found.speaks_hbone(), speaks, "{meta}{spec}");
    };
    check("labels: {networking.istio.io/tunnel: http}", "", true);
    check("labels: {networking.istio.io/tunnel: 'none,http'}", "", true);
    check("annotations: {ambient.istio.io/redirection: enabled}", "", true);
    check("labels: {networking.istio.io/tunnel: none}", "", false);
    check("annotations: {ambient.istio.io/redirection: disabled}", "", false);
    check("labels: {istio.io/dataplane-mode: ambient}", "", false);
    check("labels: {networking.istio.io/tunnel: http}", ", hostNetwork: true", false);
    check("labels: {networking.istio.io/tunnel: http, mesh-agent.dev/dataplane-mode: enabled}", "", false);
}

#[test]
fn where_the_node_is_is_its_labels() {
    let node = |zone: &str| {
        format!(
            "apiVersion: v1\nkind: Node\nmetadata: {{name: node-a, labels: {{topology.kubernetes.io/zone: {zone}}}}}\n"
        )
    };
    let (mut world, snapshot) = World::new(&node("a"));
    assert_eq!(snapshot.locality.zone, "a");
    assert_eq!(world.write(&node("b")).locality.zone, "b");
}

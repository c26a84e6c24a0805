//! Which clients of a service are under which DestinationRule, what changes with one, and what is said about those at odds.

use super::*;
use crate::policy::Unusable;

pub(super) fn rule(namespace: &str, name: &str, spec: &str) -> String {
    format!(
        "---\napiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {{name: {name}, namespace: {namespace}}}\nspec: {{{spec}}}\n"
    )
}

const HOST: &str = "host: cart.shop.svc.cluster.local";

fn simple(value: &str) -> String {
    format!("trafficPolicy: {{loadBalancer: {{simple: {value}}}}}")
}

pub(super) fn cart() -> String {
    [service("cart", "10.96.0.10", HTTP), slice("cart-1", "cart", &[("10.1.0.1", ""), ("10.1.0.2", "")])]
        .concat()
}

pub(super) fn client(namespace: &str, app: &str) -> Workload {
    let text = pod("web", "10.9.0.1", "").replace("namespace: shop", &format!("namespace: {namespace}"));
    let (_world, snapshot) = World::new(&text.replace("app: web", &format!("app: {app}")));
    Workload::clone(snapshot.workload_at("10.9.0.1".parse().unwrap()).unwrap())
}

#[test]
fn the_clients_namespace_comes_before_the_services_and_that_before_the_root() {
    fn check(rules: &[(&str, &str)], want: [LoadBalancer; 2]) {
        let rules: Vec<_> = rules
            .iter()
            .enumerate()
            .map(|(n, (namespace, lb))| rule(namespace, &format!("r{n}"), &format!("{HOST}, {}", simple(lb))))
            .collect();
        let (world, snapshot) = World::new(&[cart(), rules.concat()].concat());
        assert_eq!(world.warnings(), Vec::<String>::new());
        let port = vip(&snapshot, "10.96.0.10:80");
        let got =
            ["web", "other"].map(|namespace| port.for_client(&client(namespace, "web")).policy.load_balancer);
        assert_eq!(got, want, "{rules:?}");
    }
    use LoadBalancer::{LeastRequest, PeakEwma, Random, RoundRobin};
    check(&[], [PeakEwma, PeakEwma]);
    check(&[("istio-system", "RANDOM")], [Random, Random]);
    check(&[("istio-system", "RANDOM"), ("shop", "ROUND_ROBIN")], [RoundRobin, RoundRobin]);
    check(&[("shop", "ROUND_ROBIN"), ("web", "LEAST_REQUEST")], [LeastRequest, RoundRobin]);
    check(&[("web", "LEAST_CONN")], [LeastRequest, PeakEwma]);
}

#[test]
fn export_selectors_wildcards_and_ports_decide_who_is_under_a_rule() {
    fn check(rules: &[String], namespace: &str, app: &str, want: LoadBalancer) {
        let (_world, snapshot) = World::new(&[cart(), rules.concat()].concat());
        let port = vip(&snapshot, "10.96.0.10:80");
        assert_eq!(
            port.for_client(&client(namespace, app)).policy.load_balancer,
            want,
            "{namespace} {app} {rules:?}"
        );
    }
    use LoadBalancer::{LeastRequest, PeakEwma, Random, RoundRobin};
    let own = [rule("shop", "a", &format!("host: cart, exportTo: [\".\"], {}", simple("RANDOM")))];
    check(&own, "shop", "web", Random);
    check(&own, "web", "web", PeakEwma);
    let some = [rule("shop", "a", &format!("host: cart, exportTo: [web], {}", simple("RANDOM")))];
    check(&some, "web", "web", Random);
    check(&some, "other", "web", PeakEwma);
    let select = |label: &str| format!("workloadSelector: {{matchLabels: {{app: {label}}}}}");
    let selected = [
        rule("web", "a", &format!("{HOST}, {}, {}", select("front"), simple("RANDOM"))),
        rule("web", "b", &format!("{HOST}, {}", simple("ROUND_ROBIN"))),
    ];
    check(&selected, "web", "front", Random);
    check(&selected, "web", "back", RoundRobin);
    check(&selected, "other", "front", PeakEwma);
    let wild = [
        rule("shop", "a", &format!("host: \"*.shop.svc.cluster.local\", {}", simple("RANDOM"))),
        rule("shop", "b", &format!("host: \"*\", {}", simple("ROUND_ROBIN"))),
    ];
    check(&wild, "web", "web", Random);
    check(
        &[wild.concat(), rule("shop", "c", &format!("host: cart, {}", simple("LEAST_REQUEST")))],
        "web",
        "web",
        LeastRequest,
    );
    let port = "portLevelSettings: [{port: {number: 80}, loadBalancer: {simple: RANDOM}}]";
    let ports = [rule(
        "shop",
        "a",
        &format!("host: cart, trafficPolicy: {{loadBalancer: {{simple: ROUND_ROBIN}}, {port}}}"),
    )];
    check(&ports, "web", "web", Random);
}

#[test]
fn a_rule_rebuilds_only_the_services_that_it_names() {
    let other =
        [service("other", "10.96.0.11", HTTP), slice("other-1", "other", &[("10.1.0.3", "")])].concat();
    let base = [cart(), other].concat();
    let (mut world, before) = World::new(&base);
    let after = world
        .write(&[base.clone(), rule("shop", "a", &format!("host: cart, {}", simple("RANDOM")))].concat());
    let (old, new) = (vip(&before, "10.96.0.10:80"), vip(&after, "10.96.0.10:80"));
    assert_eq!(new.policy.load_balancer, LoadBalancer::Random);
    assert!(Arc::ptr_eq(&old.endpoints.all[0], &new.endpoints.all[0]), "endpoints and their figures stay");
    assert!(Arc::ptr_eq(&vip(&before, "10.96.0.11:80"), &vip(&after, "10.96.0.11:80")));
    let broken = rule("shop", "a", "host: cart, trafficPolicy: {loadBalancer: {simple: BEST}}");
    let after = world.write(&[base.clone(), broken].concat());
    assert_eq!(
        vip(&after, "10.96.0.10:80").policy.load_balancer,
        LoadBalancer::Random,
        "the last valid version stays"
    );
    let after = world.write(&base);
    assert_eq!(vip(&after, "10.96.0.10:80").policy.load_balancer, LoadBalancer::PeakEwma);
}

#[test]
fn clients_under_a_rule_of_their_own_have_figures_of_their_own() {
    let text = [cart(), rule("web", "a", &format!("{HOST}, {}", simple("RANDOM")))].concat();
    let (_world, snapshot) = World::new(&text);
    let port = vip(&snapshot, "10.96.0.10:80");
    let own = port.for_client(&client("web", "web"));
    assert_eq!(addresses(&own.endpoints.available), addresses(&port.endpoints.available));
    assert!(!Arc::ptr_eq(&own.endpoints.all[0].load, &port.endpoints.all[0].load));
}

#[test]
fn rules_that_say_nothing_or_too_much_are_named() {
    fn check(rules: &[String], want: &[&str]) {
        let (world, _snapshot) = World::new(&[cart(), rules.concat()].concat());
        let warnings = world.warnings();
        assert_eq!(warnings.len(), 1, "{warnings:?}");
        for part in want {
            assert!(warnings[0].contains(part), "{:?} lacks {part:?}", warnings[0]);
        }
    }
    let in_shop = |name: &str, spec: &str| rule("shop", name, spec);
    check(
        &[in_shop("a", "host: cart.shop")],
        &["MESH0135", "DestinationRule shop/a", "spec.host", "cart.shop"],
    );
    check(&[in_shop("a", "host: \"*.other.svc.cluster.local\"")], &["MESH0135", "spec.host"]);
    let both = [
        in_shop("b", &format!("{HOST}, {}", simple("RANDOM"))),
        in_shop("a", &format!("host: cart, {}", simple("ROUND_ROBIN"))),
    ];
    check(&both, &["MESH0136", "DestinationRule shop/b", "DestinationRule shop/a"]);
    check(
        &[in_shop("a", "host: cart, trafficPolicy: {loadbalancer: {}}")],
        &["MESH0122", "spec.trafficPolicy.loadbalancer"],
    );
    check(
        &[in_shop("a", "host: cart, trafficPolicy: {tunnel: {}}")],
        &["MESH0119", "spec.trafficPolicy.tunnel", "without a tunnel"],
    );
    let subset = "host: cart, subsets: [{name: v1}]";
    check(&[in_shop("a", subset)], &["MESH0119", "spec.subsets[0]", "no route names it", "name: v1"]);
    let upgrade = "host: cart, trafficPolicy: {connectionPool: {http: {h2UpgradePolicy: UPGRADE, useClientProtocol: true}}}";
    check(&[in_shop("a", upgrade)], &["MESH0132", "spec.trafficPolicy.connectionPool.http.h2UpgradePolicy"]);
    let priority = "localityLbSetting: {failoverPriority: [version]}";
    let text = format!("host: cart, trafficPolicy: {{loadBalancer: {{{priority}}}}}");
    check(&[in_shop("a", &text)], &["MESH0119", "failoverPriority", "version"]);
}

#[test]
fn tls_that_is_not_supported_fails_closed_and_says_so() {
    fn check(tls: &str, refused: bool, wrapped: bool) {
        let spec = format!("host: cart, trafficPolicy: {{tls: {{{tls}}}}}");
        let (world, snapshot) = World::new(&[cart(), rule("shop", "a", &spec)].concat());
        let policy = vip(&snapshot, "10.96.0.10:80").policy.clone();
        assert_eq!(policy.unusable, refused.then_some(Unusable::TlsNotOriginated), "{tls}");
        assert_eq!(policy.tls.is_some(), wrapped, "{tls}");
        assert_eq!(world.warnings().iter().any(|w| w.contains("REFUSED")), refused, "{tls}");
    }
    let files = "clientCertificate: /a, privateKey: /b";
    check("mode: DISABLE", false, false);
    check("mode: ISTIO_MUTUAL", false, false);
    check("mode: SIMPLE", false, true);
    check(&format!("mode: MUTUAL, {files}"), false, true);
    check("mode: SIMPLE, credentialName: a", true, false);
    check("mode: MUTUAL, credentialName: a", true, false);
    check("mode: SIMPLE, caCrl: /crl.pem", true, false);
}

#[test]
fn a_rule_that_says_the_same_of_tls_keeps_its_sessions() {
    let spec = |more: &str| {
        rule("shop", "a", &format!("host: cart, trafficPolicy: {{tls: {{mode: SIMPLE}}{more}}}"))
    };
    let (mut world, before) = World::new(&[cart(), spec("")].concat());
    let pool = ", connectionPool: {tcp: {connectTimeout: 1s}}";
    let after = world.write(&[cart(), spec(pool)].concat());
    let tls = |snapshot: &Snapshot| vip(snapshot, "10.96.0.10:80").policy.tls.clone().unwrap();
    assert!(Arc::ptr_eq(&tls(&before), &tls(&after)));
    assert!(!Arc::ptr_eq(&vip(&before, "10.96.0.10:80").policy, &vip(&after, "10.96.0.10:80").policy));
}

#[test]
fn nearness_follows_nodes_and_slices() {
    fn node(name: &str, region: &str, zone: &str) -> String {
        format!(
            "---\napiVersion: v1\nkind: Node\nmetadata: {{name: {name}, labels: {{topology.kubernetes.io/region: {region}, topology.kubernetes.io/zone: {zone}}}}}\n"
        )
    }
    let cart = cart()
        .replace("{addresses: [10.1.0.1]", "{addresses: [10.1.0.1], nodeName: node-b")
        .replace("{addresses: [10.1.0.2]", "{addresses: [10.1.0.2], nodeName: node-a");
    let nodes = |zone: &str| [node("node-a", "eu", "a"), node("node-b", "eu", zone)].concat();
    let detect =
        rule("shop", "a", "host: cart, trafficPolicy: {outlierDetection: {consecutive5xxErrors: 3}}");
    let (mut world, snapshot) = World::new(&[cart.clone(), nodes("b"), detect.clone()].concat());
    let tiers = |snapshot: &Snapshot| -> Vec<_> {
        vip(snapshot, "10.96.0.10:80").endpoints.tiers.iter().map(|tier| addresses(&tier.endpoints)).collect()
    };
    assert_eq!(tiers(&snapshot), [["10.1.0.2:8080"], ["10.1.0.1:8080"]]);
    let snapshot = world.write(&[cart.clone(), nodes("a"), detect].concat());
    assert_eq!(tiers(&snapshot), [["10.1.0.1:8080", "10.1.0.2:8080"]], "a node that moved is followed");
    let close = cart.replace("spec: {clusterIP", "spec: {trafficDistribution: PreferClose, clusterIP");
    let snapshot = world.write(&[close, nodes("b")].concat());
    assert_eq!(world.warnings(), Vec::<String>::new());
    assert_eq!(tiers(&snapshot), [["10.1.0.2:8080"], ["10.1.0.1:8080"]]);
    let off = "trafficPolicy: {outlierDetection: {}, loadBalancer: {localityLbSetting: {enabled: false}}}";
    let snapshot =
        world.write(&[cart, nodes("b"), rule("shop", "a", &format!("host: cart, {off}"))].concat());
    assert!(vip(&snapshot, "10.96.0.10:80").policy.localities.is_none());
}

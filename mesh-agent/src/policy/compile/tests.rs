//! What a rule comes to: Istio's defaults, what is left to the Service, what nearness needs.
#![allow(clippy::unwrap_used)]

use super::*;

fn rule(policy: &str) -> DestinationRule {
    serde_yaml_ng::from_str(&format!(
        "{{metadata: {{name: cart, namespace: shop}}, spec: {{host: cart, trafficPolicy: {{{policy}}}}}}}"
    ))
    .unwrap()
}

fn at(region: &str, zone: &str) -> Defaults<'static> {
    let here = Locality { region: region.into(), zone: zone.into(), subzone: String::new() };
    Defaults { here, node: "node-a", ..Defaults::default() }
}

fn policy(text: &str) -> ClusterPolicy {
    compile(Some(&rule(text)), None, 80, &at("eu", "a"))
}

#[test]
fn outlier_detection_has_istios_defaults() {
    let outlier = policy("outlierDetection: {}").outlier.unwrap();
    assert_eq!(
        (outlier.consecutive_5xx, outlier.consecutive_gateway, outlier.consecutive_local_origin),
        (5, 0, 5)
    );
    assert_eq!((outlier.interval.as_secs(), outlier.base_ejection.as_secs()), (10, 30));
    assert_eq!((outlier.max_ejection_percent, outlier.min_health_percent, outlier.split), (10, 0, false));
    assert_eq!(policy("loadBalancer: {simple: RANDOM}").outlier, None);
}

#[test]
fn limits_that_are_zero_or_not_given_are_the_agents_own() {
    assert_eq!(policy("connectionPool: {tcp: {maxConnections: 0}}").limits, PoolLimits::default());
    let limits =
        policy("connectionPool: {tcp: {maxConnections: 7, idleTimeout: 0s}, http: {http2MaxRequests: 9}}")
            .limits;
    assert_eq!((limits.max_connections, limits.max_requests), (Some(7), Some(9)));
    assert_eq!(limits.tcp_idle, Some(Duration::ZERO));
}

#[test]
fn only_upgrade_upgrades_and_the_clients_protocol_goes_before_it() {
    fn check(http: &str, want: bool) {
        let text = format!("connectionPool: {{http: {{{http}}}}}");
        assert_eq!(policy(&text).over_http2, want, "{http}");
        let both = http.contains(": UPGRADE") && http.contains("true");
        assert_eq!(warnings(&rule(&text)).len(), usize::from(both), "{http}");
    }
    check("", false);
    check("h2UpgradePolicy: DEFAULT", false);
    check("h2UpgradePolicy: DO_NOT_UPGRADE", false);
    check("h2UpgradePolicy: UPGRADE", true);
    check("h2UpgradePolicy: UPGRADE, useClientProtocol: false", true);
    check("h2UpgradePolicy: UPGRADE, useClientProtocol: true", false);
    check("useClientProtocol: true", false);
    let of_port =
        "connectionPool: {http: {h2UpgradePolicy: UPGRADE}}, portLevelSettings: [{port: {number: 81}}]";
    let upgrades = |port| compile(Some(&rule(of_port)), None, port, &Defaults::default()).over_http2;
    assert_eq!((upgrades(80), upgrades(81)), (true, false));
}

#[test]
fn hashing_takes_the_place_of_the_services_affinity_and_nothing_else_does() {
    fn check(text: &str, want: LoadBalancer, affinity: bool) {
        let defaults = Defaults { client_ip_affinity: Some(Duration::from_secs(9)), ..Defaults::default() };
        let policy = compile(Some(&rule(text)), None, 80, &defaults);
        assert_eq!((policy.load_balancer, policy.client_ip_affinity.is_some()), (want, affinity), "{text}");
    }
    check("", LoadBalancer::PeakEwma, true);
    check("loadBalancer: {simple: UNSPECIFIED}", LoadBalancer::PeakEwma, true);
    check("loadBalancer: {simple: ROUND_ROBIN}", LoadBalancer::RoundRobin, true);
    check("loadBalancer: {consistentHash: {useSourceIp: true}}", LoadBalancer::RingHash, false);
    check("loadBalancer: {consistentHash: {useSourceIp: true, maglev: {}}}", LoadBalancer::Maglev, false);
}

#[test]
fn cookies_are_given_out_with_their_lifetime() {
    fn check(cookie: &str, want: Option<&str>) {
        let policy = policy(&format!("loadBalancer: {{consistentHash: {{httpCookie: {{{cookie}}}}}}}"));
        let Some(HashKey::Cookie(cookie)) = policy.hash else { unreachable!("a cookie is hashed") };
        assert_eq!(cookie.attributes.as_deref(), want);
    }
    check("name: user", None);
    check("name: user, ttl: 0s", Some("; HttpOnly"));
    check("name: user, ttl: 60s, path: /", Some("; Max-Age=60; Path=/; HttpOnly"));
    check("name: user, ttl: 0s, attributes: [{name: Secure}]", Some("; HttpOnly; Secure"));
}

#[test]
fn nearness_needs_outlier_detection_or_shares() {
    fn check(text: &str, want: &str) {
        let got = format!("{:?}", policy(text).localities);
        assert!(got.starts_with(want), "{text}: {got}");
    }
    let detect = "outlierDetection: {}";
    let locality = |setting: &str| format!("loadBalancer: {{localityLbSetting: {{{setting}}}}}");
    check("", "None");
    check(&locality("failover: [{from: eu, to: us}]"), "None");
    check(&locality("failoverPriority: [topology.kubernetes.io/zone]"), "None");
    check(detect, "Some(Failover");
    check(&format!("{detect}, {}", locality("enabled: false")), "None");
    check(
        &format!("{detect}, {}", locality("failoverPriority: [topology.kubernetes.io/zone]")),
        "Some(Labels([Zone(\"a\")",
    );
    check(&locality("distribute: [{from: eu/*, to: {eu/a: 100}}]"), "Some(Distribute");
    check(&locality("distribute: [{from: us/*, to: {eu/a: 100}}]"), "None");
}

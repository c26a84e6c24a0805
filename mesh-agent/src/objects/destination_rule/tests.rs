//! What a DestinationRule may say, what is refused, and what is said about fields without effect.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use super::*;

/// Every field that is parsed.
const FULL: &str = "
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: cart, namespace: shop}
spec:
  host: cart
  exportTo: [\".\", other]
  workloadSelector: {matchLabels: {app: web}}
  trafficPolicy:
    loadBalancer:
      consistentHash:
        httpCookie: {name: user, path: /, ttl: 0s, attributes: [{name: SameSite, value: Lax}]}
        ringHash: {minimumRingSize: 2048}
      localityLbSetting:
        enabled: true
        distribute: [{from: eu/a/*, to: {eu/a/*: 80, eu/b/*: 20}}]
      warmup: {duration: 30s, minimumPercent: 12.5, aggression: 2}
    connectionPool:
      tcp:
        maxConnections: 100
        connectTimeout: 30ms
        tcpKeepalive: {probes: 3, time: 7200s, interval: 75s}
        maxConnectionDuration: 1h
        idleTimeout: 0s
      http:
        http1MaxPendingRequests: 1
        http2MaxRequests: 1000
        maxRequestsPerConnection: 10
        maxRetries: 3
        maxConcurrentStreams: 100
        idleTimeout: 1.5s
        h2UpgradePolicy: DO_NOT_UPGRADE
        useClientProtocol: true
    outlierDetection:
      consecutive5xxErrors: 7
      consecutiveGatewayErrors: 0
      splitExternalLocalOriginErrors: true
      consecutiveLocalOriginFailures: 2
      interval: 5m
      baseEjectionTime: 15m
      maxEjectionPercent: 50
      minHealthPercent: 20
      outlierDetectionHttpErrorCodes: [429, 500]
    tls: {mode: ISTIO_MUTUAL}
    retryBudget: {percent: 12.5, minRetryConcurrency: 7}
    portLevelSettings:
    - port: {number: 9080}
      loadBalancer: {simple: ROUND_ROBIN, warmupDurationSecs: 10s}
  subsets:
  - name: v1
    labels: {version: v1}
    trafficPolicy: {loadBalancer: {simple: RANDOM}}
";

fn rule(text: &str) -> Result<DestinationRule, String> {
    let mut rule: DestinationRule = serde_yaml_ng::from_str(text).map_err(|error| error.to_string())?;
    rule.note_fields(&serde_yaml_ng::from_str(text).unwrap());
    rule.validate().map_err(|error| format!("{}: {}", error.field, error.message))?;
    Ok(rule)
}

fn with_policy(policy: &str) -> Result<DestinationRule, String> {
    rule(&format!(
        "{{metadata: {{name: cart, namespace: shop}}, spec: {{host: cart, trafficPolicy: {{{policy}}}}}}}"
    ))
}

#[test]
fn every_field_is_taken_as_it_was_written_or_noted() {
    let rule = rule(FULL).unwrap();
    assert_eq!(rule.notes, []);
    let settings = rule.settings(80).unwrap();
    let load_balancer = settings.load_balancer.unwrap();
    let hash = load_balancer.consistent_hash.as_ref().unwrap();
    assert_eq!((hash.ring_size(), hash.maglev_size()), (2048, None));
    let warmup = load_balancer.warmup().unwrap();
    assert_eq!((warmup.duration.as_secs(), warmup.minimum, warmup.aggression), (30, 0.125, 2.0));
    let pool = settings.connection_pool.unwrap();
    assert_eq!(pool.tcp.connect_timeout.unwrap().0.as_millis(), 30);
    assert_eq!(pool.http.idle_timeout.unwrap().0.as_millis(), 1500);
    let budget = settings.retry_budget.unwrap();
    assert_eq!((budget.thousandths(), budget.least()), (125, 7));
    assert_eq!(settings.outlier_detection.unwrap().consecutive_5xx_errors, Some(7));
    assert_eq!(settings.tls.unwrap().mode, TlsMode::IstioMutual);
}

#[test]
fn settings_of_a_port_replace_the_destinations_as_a_whole() {
    let rule = rule(FULL).unwrap();
    let settings = rule.settings(9080).unwrap();
    assert_eq!(settings.load_balancer.unwrap().simple, Some(SimpleLb::RoundRobin));
    assert!(
        settings.connection_pool.is_none() && settings.outlier_detection.is_none() && settings.tls.is_none()
    );
}

#[test]
fn a_subset_has_its_own_sections_in_place_of_the_rules() {
    let text = "{metadata: {name: x}, spec: {host: cart, trafficPolicy: {loadBalancer: {simple: RANDOM}, outlierDetection: {}}, subsets: [\
                {name: plain}, \
                {name: own, trafficPolicy: {loadBalancer: {simple: ROUND_ROBIN}, portLevelSettings: [{port: {number: 9080}, connectionPool: {}}]}}]}}";
    let rule = rule(text).unwrap();
    let of = |subset: usize, port| rule.subset_settings(&rule.spec.subsets[subset], port).unwrap();
    let simple = |settings: Settings<'_>| settings.load_balancer.and_then(|balancer| balancer.simple);
    assert_eq!(simple(of(0, 80)), Some(SimpleLb::Random));
    assert_eq!(simple(of(1, 80)), Some(SimpleLb::RoundRobin));
    assert!(of(1, 80).outlier_detection.is_some(), "what the subset leaves out is the rule's");
    let port = of(1, 9080);
    assert!(
        port.connection_pool.is_some() && port.load_balancer.is_none() && port.outlier_detection.is_none()
    );
}

#[test]
fn a_short_host_is_one_of_the_rules_own_namespace() {
    fn check(host: &str, want: &str) {
        let text = format!("{{metadata: {{name: x, namespace: shop}}, spec: {{host: \"{host}\"}}}}");
        assert_eq!(rule(&text).unwrap().host("cluster.local"), want);
    }
    check("cart", "cart.shop.svc.cluster.local");
    check("Cart.Other.svc.cluster.local", "cart.other.svc.cluster.local");
    check("cart.other", "cart.other");
    check("*.other.svc.cluster.local", "*.other.svc.cluster.local");
    check("*", "*");
}

#[test]
fn a_rule_is_seen_where_it_is_exported_to() {
    fn check(export_to: &str, seen: [bool; 3]) {
        let text = format!(
            "{{metadata: {{name: x, namespace: shop}}, spec: {{host: cart, exportTo: {export_to}}}}}"
        );
        let rule = rule(&text).unwrap();
        assert_eq!([Some("shop"), Some("web"), None].map(|ns| rule.is_exported_to(ns)), seen, "{export_to}");
    }
    check("[]", [true, true, true]);
    check("[\"*\"]", [true, true, true]);
    check("[\".\"]", [true, false, false]);
    check("[web]", [false, true, false]);
}

#[test]
fn values_that_istio_does_not_allow_are_refused_with_their_path() {
    fn check(policy: &str, want: &[&str]) {
        let error = with_policy(policy).expect_err(policy);
        for part in want {
            assert!(error.contains(part), "{policy}: {error:?} lacks {part:?}");
        }
    }
    check("loadBalancer: {simple: BEST}", &["spec.trafficPolicy.loadBalancer.simple", "BEST"]);
    check("loadBalancer: {simple: RANDOM, consistentHash: {useSourceIp: true}}", &["loadBalancer", "one of"]);
    check("loadBalancer: {consistentHash: {}}", &["consistentHash", "one of httpHeaderName"]);
    check("loadBalancer: {consistentHash: {useSourceIp: true, httpHeaderName: x}}", &["one of"]);
    check("loadBalancer: {consistentHash: {httpHeaderName: \"a b\"}}", &["httpHeaderName"]);
    check("loadBalancer: {consistentHash: {httpCookie: {name: \"a=b\"}}}", &["httpCookie.name"]);
    check("loadBalancer: {consistentHash: {httpCookie: {name: a, path: \"/;x\"}}}", &["httpCookie"]);
    check("loadBalancer: {consistentHash: {useSourceIp: true, maglev: {tableSize: 100}}}", &["prime"]);
    check("loadBalancer: {consistentHash: {useSourceIp: true, maglev: {tableSize: 5000077}}}", &["prime"]);
    check(
        "loadBalancer: {consistentHash: {useSourceIp: true, ringHash: {}, maglev: {}}}",
        &["one of ringHash"],
    );
    check("loadBalancer: {consistentHash: {useSourceIp: true, minimumRingSize: 9000000}}", &["8388608"]);
    check("loadBalancer: {warmup: {duration: 1s}, warmupDurationSecs: 1s}", &["one of warmup"]);
    check("loadBalancer: {warmup: {}}", &["warmup", "duration"]);
    check("loadBalancer: {warmup: {duration: 1s, minimumPercent: 101}}", &["minimumPercent"]);
    check("loadBalancer: {warmup: {duration: 1s, aggression: 0}}", &["aggression"]);
    check("loadBalancer: {warmupDurationSecs: 30}", &["warmupDurationSecs", "duration"]);
    check(
        "loadBalancer: {localityLbSetting: {distribute: [{from: a, to: {a: 99}}]}}",
        &["distribute[0].to", "99"],
    );
    check("loadBalancer: {localityLbSetting: {distribute: [{from: a/*/c, to: {a: 100}}]}}", &["a/*/c"]);
    check("loadBalancer: {localityLbSetting: {failover: [{from: a, to: a}]}}", &["failover[0]"]);
    check(
        "loadBalancer: {localityLbSetting: {failover: [{from: a, to: b}], failoverPriority: [x]}}",
        &["one of"],
    );
    let labels = vec!["a=b"; 32].join(", ");
    check(
        &format!("loadBalancer: {{localityLbSetting: {{failoverPriority: [{labels}]}}}}"),
        &["failoverPriority", "31"],
    );
    check("connectionPool: {tcp: {connectTimeout: 1us}}", &["connectTimeout", "1ms"]);
    check("connectionPool: {tcp: {connectTimeout: -1s}}", &["connectTimeout", "isn't a duration"]);
    check("connectionPool: {tcp: {maxConnections: -1}}", &["maxConnections"]);
    check("connectionPool: {tcp: {maxConnections: 4000000000}}", &["maxConnections"]);
    check("connectionPool: {tcp: {tcpKeepalive: {time: 10ms}}}", &["tcpKeepalive.time"]);
    check("connectionPool: {http: {maxConcurrentStreams: 4000000000}}", &["maxConcurrentStreams"]);
    check("retryBudget: {percent: 101}", &["spec.trafficPolicy.retryBudget.percent", "100"]);
    check("outlierDetection: {maxEjectionPercent: 101}", &["maxEjectionPercent"]);
    check("outlierDetection: {interval: 0s}", &["interval"]);
    check("outlierDetection: {outlierDetectionHttpErrorCodes: [600]}", &["600"]);
    check("tls: {mode: MUTUAL}", &["tls", "clientCertificate"]);
    check("tls: {mode: SIMPLE, caCertificates: ca.pem}", &["tls", "whole path"]);
    check("tls: {mode: SIMPLE, sni: 'a b'}", &["tls.sni", "isn't a host name"]);
    check("tls: {mode: SIMPLE, insecureSkipVerify: true, subjectAltNames: [a]}", &["tls.insecureSkipVerify"]);
    check("tls: {mode: SIMPLE, credentialName: a, caCertificates: /ca.pem}", &["tls.credentialName"]);
    check("portLevelSettings: [{port: {number: 0}}]", &["portLevelSettings[0].port.number"]);
    check(
        "portLevelSettings: [{port: {number: 80}, outlierDetection: {interval: 0s}}]",
        &["portLevelSettings[0]"],
    );
    for host in ["\"\"", "a..b", "a.*.b", "*a", "\"a b\""] {
        let text = format!("{{metadata: {{name: x}}, spec: {{host: {host}}}}}")
            .replace("host: *", "host: \"*")
            .replace("*a", "*a\"");
        assert!(rule(&text).is_err(), "{text}");
    }
}

#[test]
fn fields_without_effect_are_noted_and_the_rest_is_used() {
    fn check(policy: &str, field: &str, known: bool) {
        let rule = with_policy(policy).unwrap();
        let notes: Vec<_> = rule.notes.iter().map(|n| (n.field.as_str(), n.consequence.is_some())).collect();
        assert_eq!(notes, [(field, known)], "{policy}");
    }
    check("tunnel: {targetHost: x, targetPort: 1}", "spec.trafficPolicy.tunnel", true);
    check(
        "outlierDetection: {consecutiveErrors: 5}",
        "spec.trafficPolicy.outlierDetection.consecutiveErrors",
        true,
    );
    check(
        "outlierDetection: {consecutive5xx: 5}",
        "spec.trafficPolicy.outlierDetection.consecutive5xx",
        false,
    );
    check(
        "loadBalancer: {zoneAwareLbSetting: {enabled: true}}",
        "spec.trafficPolicy.loadBalancer.zoneAwareLbSetting",
        true,
    );
}

#[test]
fn examples_are_valid_and_every_field_of_theirs_has_an_effect() {
    let examples = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/examples");
    let mut seen = 0;
    for entry in std::fs::read_dir(examples).unwrap() {
        let path = entry.unwrap().path();
        if !path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("destinationrule")) {
            continue;
        }
        let text = std::fs::read_to_string(&path).unwrap();
        for document in text.split("\n---\n").filter(|document| document.contains("kind: DestinationRule")) {
            let rule = rule(document).unwrap_or_else(|error| panic!("{path:?}: {error}"));
            assert_eq!(crate::policy::warnings(&rule), [], "{path:?}");
            seen += 1;
        }
    }
    assert!(seen > 0, "no example");
}

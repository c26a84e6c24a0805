//! Every YAML example of docs/routing.md, docs/destinationrule.md and docs/peer-authentication.md, in the place in an object that it is a fragment of,
//! and every file of docs/examples: in force without a warning.

#![allow(clippy::unwrap_used, clippy::panic)]

use std::fmt::Write;
use std::sync::Arc;

use crate::model::build::BuildOptions;
use crate::model::{MtlsMode, ObjectName, Snapshot};
use crate::source;

const PAGE: &str = include_str!("../../../docs/routing.md");
const RULES: &str = include_str!("../../../docs/destinationrule.md");
const PEERS: &str = include_str!("../../../docs/peer-authentication.md");
const API: &str = "apiVersion: gateway.networking.k8s.io/v1";

const SUBSET: &str = "
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: example, namespace: shop}
spec: {host: cart, subsets: [{name: v2, labels: {version: v2}}]}
";

/// What policies of the examples select.
const POD: &str = "
apiVersion: v1
kind: Pod
metadata: {name: cart-0, namespace: shop, labels: {app: cart}}
spec: {nodeName: node-a}
status: {podIP: 10.1.0.1}
";

/// What the examples' parents and backends are.
fn world() -> String {
    let services = [
        ("shop", "cart", "http", 80),
        ("shop", "till", "grpc", 9000),
        ("shop", "till-v2", "grpc", 9000),
        ("shop", "queue", "", 5672),
        ("shop", "queue-v1", "", 5672),
        ("shop", "queue-v2", "", 5672),
        ("shop", "cart-v1", "http", 80),
        ("shop", "cart-v2", "http", 80),
        ("shop", "shadow", "http", 80),
        ("shop", "db", "tls", 5432),
        ("shop", "db-v2", "tls", 5432),
        ("data", "store", "http", 80),
    ];
    let mut text = POD.to_owned();
    for (place, (namespace, name, port_name, port)) in services.into_iter().enumerate() {
        let more = if name == "cart" { ", {name: http-admin, port: 9090}" } else { "" };
        write!(
            text,
            "---\napiVersion: v1\nkind: Service\nmetadata: {{name: {name}, namespace: {namespace}}}\nspec: {{clusterIP: 10.96.0.{}, ports: [{{name: '{port_name}', port: {port}}}{more}]}}\n",
            place + 1
        )
        .unwrap();
    }
    text
}

fn blocks(page: &'static str) -> Vec<&'static str> {
    let parts = page.split("```yaml\n").skip(1);
    parts.map(|part| part.split_once("```").unwrap().0).collect()
}

fn indented(text: &str, by: usize) -> String {
    text.lines().fold(String::new(), |out, line| out + &" ".repeat(by) + line + "\n")
}

/// A whole object of a fragment: the rules of an HTTPRoute, or parts of one rule.
fn object(block: &str) -> String {
    let head = format!(
        "{API}\nkind: HTTPRoute\nmetadata: {{name: example, namespace: shop}}\nspec:\n  parentRefs: [{{group: \"\", kind: Service, name: cart}}]\n"
    );
    let one = "  rules:\n  - matches: [{path: {type: PathPrefix, value: /example}}]\n";
    let backend = "    backendRefs: [{name: cart, port: 80}]\n";
    match block.split(':').next().unwrap() {
        "apiVersion" => block.to_owned(),
        "rules" => head + &indented(block, 2),
        "filters" if block.contains("type: RequestRedirect") => head + one + &indented(block, 4),
        "filters" | "timeouts" | "sessionPersistence" => head + one + backend + &indented(block, 4),
        "  trafficPolicy" => {
            "apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {name: cart, namespace: shop}\nspec:\n  host: cart\n".to_owned() + block
        }
        // The only one there is names the subset of a rule.
        "backendRefs" => head + one + &indented(block, 4) + "---\n" + SUBSET,
        other => panic!("nothing is known of a fragment that begins with {other}:\n{block}"),
    }
}

/// What is in force with these objects, and all of them, without a warning.
fn in_force(objects: &str) -> Arc<Snapshot> {
    let dir = tempfile::tempdir().unwrap();
    let text = world() + "---\n" + objects;
    std::fs::write(dir.path().join("a.yaml"), &text).unwrap();
    let report = source::validate(dir.path(), BuildOptions::default()).unwrap();
    assert_eq!(report.warnings, [], "{objects}");
    // Not within a certificate in PEM.
    let wanted = format!("\n{text}").split("\n---\n").filter(|part| !part.trim().is_empty()).count();
    assert_eq!(report.objects, wanted, "{objects}");
    report.snapshot
}

#[test]
fn every_example_of_the_pages_is_valid() {
    for (page, at_least) in [(PAGE, 7), (RULES, 1), (PEERS, 1)] {
        let blocks = blocks(page);
        assert!(blocks.len() >= at_least, "examples are missing: {}", blocks.len());
        for block in blocks {
            in_force(&object(block));
        }
    }
}

#[test]
fn every_example_file_of_routes_and_rules_is_in_force() {
    let mut seen = Vec::new();
    for entry in std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/examples")).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_stem().unwrap().to_string_lossy().into_owned();
        // Those have a test of their own, beside the schema.
        if name.starts_with("trafficpolicy") {
            continue;
        }
        let snapshot = in_force(&std::fs::read_to_string(&path).unwrap());
        match name.as_str() {
            "destinationrule" => {
                let cart = &snapshot.services.get(&ObjectName::new("shop", "cart")).unwrap().ports;
                assert!(cart[0].policy.hash.is_some() && cart[1].policy.hash.is_none(), "{name}");
            }
            name if name.starts_with("egress") => {
                let host =
                    if name == "egress-tls-mutual" { "partner.example.com" } else { "api.example.com" };
                let ports = &snapshot.services.get(&ObjectName::new("shop", host)).unwrap().ports;
                assert_eq!(ports[0].policy.tls.is_some(), name != "egress-plain", "{name}");
            }
            "backendtlspolicy" => {
                let cart = &snapshot.services.get(&ObjectName::new("shop", "cart")).unwrap().ports;
                assert_eq!(cart.iter().filter(|port| port.policy.tls.is_some()).count(), 1, "{name}");
            }
            "peerauthentication" => {
                let mode = |port| snapshot.mtls_mode(&ObjectName::new("shop", "cart-0"), port);
                assert_eq!((mode(80), mode(9090)), (MtlsMode::Strict, MtlsMode::Permissive));
            }
            "requestauthentication" => {
                assert!(!snapshot.authentication.policies.is_empty(), "{name} isn't in force");
            }
            "externalauthorization" => {
                assert!(!snapshot.authorization.policies.is_empty(), "{name} isn't in force");
            }
            rule if !rule.contains("route") => {
                let mut ports = snapshot.services.values().flat_map(|service| &service.ports);
                assert!(ports.any(|port| port.policy.rule.is_some()), "{name} holds for nobody");
            }
            _ => {
                assert_eq!(snapshot.route_status.size(), 1, "{name}");
                let (_, status) = snapshot.route_status.iter().next().unwrap();
                assert!(status.parents.iter().all(|parent| parent.accepted.status), "{name}");
                let producer = snapshot.routes.values().all(|port| port.producer.is_some());
                assert_eq!(producer, name != "httproute-consumer", "{name}");
            }
        }
        seen.push(name);
    }
    seen.sort();
    for name in [
        "destinationrule",
        "egress-tls-simple",
        "grpcroute",
        "httproute-consumer",
        "httproute-cors",
        "peerauthentication",
        "requestauthentication",
        "tcproute",
    ] {
        assert!(seen.iter().any(|other| other == name), "{name} isn't among {seen:?}");
    }
}

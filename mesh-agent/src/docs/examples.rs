//! Every YAML example of docs/routing.md, in the place in an object that it is a fragment of, and the files of docs/examples
//! about egress, without a warning.

#![allow(clippy::unwrap_used, clippy::panic)]

use std::fmt::Write;

use crate::model::build::BuildOptions;
use crate::source;

const PAGE: &str = include_str!("../../../docs/routing.md");
const API: &str = "apiVersion: gateway.networking.k8s.io/v1";

/// What the examples' parents and backends are.
fn world() -> String {
    let services = [
        ("shop", "cart", "http", 80),
        ("shop", "cart-v1", "http", 80),
        ("shop", "cart-v2", "http", 80),
        ("shop", "shadow", "http", 80),
        ("shop", "db", "tls", 5432),
        ("shop", "db-v2", "tls", 5432),
        ("data", "store", "http", 80),
    ];
    let mut text = String::new();
    for (place, (namespace, name, port_name, port)) in services.into_iter().enumerate() {
        write!(
            text,
            "---\napiVersion: v1\nkind: Service\nmetadata: {{name: {name}, namespace: {namespace}}}\nspec: {{clusterIP: 10.96.0.{}, ports: [{{name: {port_name}, port: {port}}}]}}\n",
            place + 1
        )
        .unwrap();
    }
    text
}

fn blocks() -> Vec<&'static str> {
    let parts = PAGE.split("```yaml\n").skip(1);
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
        other => panic!("nothing is known of a fragment that begins with {other}:\n{block}"),
    }
}

#[test]
fn every_example_of_the_routing_page_is_valid() {
    let blocks = blocks();
    assert!(blocks.len() >= 7, "examples are missing: {}", blocks.len());
    for block in blocks {
        let dir = tempfile::tempdir().unwrap();
        let text = world() + "---\n" + &object(block);
        std::fs::write(dir.path().join("a.yaml"), &text).unwrap();
        let report = source::validate(dir.path(), BuildOptions::default()).unwrap();
        assert_eq!(report.warnings, [], "{block}");
        let wanted = text.split("---\n").filter(|part| !part.is_empty()).count();
        assert_eq!(report.objects, wanted, "{block}");
    }
}

#[test]
fn every_example_of_egress_is_valid() {
    let examples = [
        (include_str!("../../../docs/examples/egress-plain.yaml"), 1),
        (include_str!("../../../docs/examples/egress-tls-simple.yaml"), 2),
        (include_str!("../../../docs/examples/egress-tls-mutual.yaml"), 2),
    ];
    for (text, objects) in examples {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("a.yaml"), text).unwrap();
        let report = source::validate(dir.path(), BuildOptions::default()).unwrap();
        assert_eq!((report.objects, report.warnings), (objects, Vec::new()), "{text}");
    }
}

//! The alert rules of deploy/alerts: each has its test and its runbook, and names what exists.

use std::collections::BTreeSet;

use mesh_tests::prometheus::promtool;
use serde_json::Value;

use super::dashboards;
use super::queries::{file, text};

/// Where they are.
pub const RULES: &str = "deploy/alerts/mesh-agent.rules.yaml";
const TESTS: &str = "tests/promql/alerts.test.yaml";

/// Every rule.
pub fn all() -> Vec<Value> {
    let rules: Value = serde_yaml_ng::from_str(&text(RULES)).unwrap();
    let groups = rules["groups"].as_array().unwrap().clone();
    groups.into_iter().flat_map(|group| group["rules"].as_array().unwrap().clone()).collect()
}

#[test]
fn rules_fire_for_what_they_are_about_and_for_nothing_beside_it() {
    promtool(&["check", "rules"], &file(RULES)).unwrap();
    promtool(&["test", "rules"], &file(TESTS)).unwrap();
    let tests: Value = serde_yaml_ng::from_str(&text(TESTS)).unwrap();
    let tested: Vec<&Value> = tests["tests"].as_array().unwrap().iter().map(|test| &test["name"]).collect();
    let rules = all();
    let known: Vec<&Value> = rules.iter().map(|rule| &rule["alert"]).collect();
    assert_eq!(tested, known, "each rule has its test");
}

#[test]
fn every_alert_has_its_runbook_and_every_runbook_its_alert() {
    let documented = text("docs/runbooks.md");
    let sections: BTreeSet<&str> =
        documented.lines().filter_map(|line| line.strip_prefix("## MeshAgent")).collect();
    let rules = all();
    let alerts: BTreeSet<&str> =
        rules.iter().filter_map(|rule| rule["alert"].as_str()?.strip_prefix("MeshAgent")).collect();
    assert_eq!(sections, alerts);
    for rule in &rules {
        let alert = rule["alert"].as_str().unwrap();
        let link = rule["annotations"]["runbook_url"].as_str().unwrap();
        assert!(link.ends_with(&format!("/docs/runbooks.md#{}", alert.to_lowercase())), "{alert}: {link}");
        assert!(
            rule["labels"]["severity"].is_string() && rule["annotations"]["summary"].is_string(),
            "{alert}"
        );
    }
}

#[test]
fn rules_and_dashboards_name_metrics_that_exist() {
    let documented = text("docs/metrics.md");
    let known: BTreeSet<&str> =
        documented.lines().filter_map(|line| line.strip_prefix("| `")?.split('`').next()).collect();
    let rules = all();
    let dashboards = dashboards::all();
    let panels = dashboards.iter().flat_map(|(_, dashboard)| dashboards::panels(dashboard));
    let expressions = panels.flat_map(dashboards::expressions);
    let mut named = 0;
    for expr in expressions.chain(rules.iter().map(|rule| rule["expr"].as_str().unwrap())) {
        for word in expr.split(|c: char| !c.is_ascii_alphanumeric() && c != '_') {
            if ["istio_", "mesh_agent_", "process_"].iter().any(|start| word.starts_with(start)) {
                let name = ["_bucket", "_sum", "_count"]
                    .iter()
                    .find_map(|end| word.strip_suffix(end))
                    .unwrap_or(word);
                assert!(known.contains(name), "{word} of {expr} isn't in docs/metrics.md");
                named += 1;
            }
        }
    }
    assert!(named > 100, "{named}");
}

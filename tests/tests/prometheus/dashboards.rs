//! The dashboards of deploy/dashboards: what Grafana needs of them, and their queries.

use std::collections::BTreeSet;
use std::fs;

use anyhow::Result;
use mesh_tests::prometheus::Prometheus;
use serde_json::{Value, json};

use super::queries::{file, text};

/// Of dashboards that stand in the mesh of [`super::scene`]: what there is no traffic for, by the panel's title.
const QUIET: [&str; 15] = [
    "API server: age of what was said",
    "API server: resources not watched",
    "API server: errors",
    "Configuration warnings",
    "Pods refused connections",
    "Connections refused",
    "Protocol errors",
    "In force after, captured after",
    "Wait for a limited connection",
    "Waiting for a first endpoint",
    "TrafficPolicy decisions",
    "Denied",
    "Would be denied (dry run)",
    "Tokens",
    "Retries",
];

/// Every dashboard, by its file.
pub fn all() -> Vec<(String, Value)> {
    let mut all: Vec<_> = fs::read_dir(file("deploy/dashboards"))
        .unwrap()
        .map(|entry| {
            let name = format!("deploy/dashboards/{}", entry.unwrap().file_name().display());
            let dashboard = serde_json::from_str(&text(&name)).unwrap();
            (name, dashboard)
        })
        .collect();
    all.sort_by(|a, b| a.0.cmp(&b.0));
    all
}

/// Panels that show something.
pub fn panels(dashboard: &Value) -> impl Iterator<Item = &Value> {
    dashboard["panels"].as_array().unwrap().iter().filter(|panel| panel["type"] != "row")
}

/// The expressions of a panel.
pub fn expressions(panel: &Value) -> impl Iterator<Item = &str> {
    panel["targets"].as_array().unwrap().iter().map(|target| target["expr"].as_str().unwrap())
}

fn variables(dashboard: &Value) -> &Vec<Value> {
    dashboard["templating"]["list"].as_array().unwrap()
}

/// A variable's query as Prometheus is asked it.
fn of_variable(query: &str) -> &str {
    let inner = |name: &str| query.strip_prefix(name)?.strip_prefix('(')?.strip_suffix(')');
    match inner("label_values") {
        Some(arguments) => arguments.split(", ").next().unwrap_or_default(),
        None => inner("query_result").unwrap_or(query),
    }
}

/// Cells of the grid that a panel covers.
fn cells(panel: &Value) -> impl Iterator<Item = (u64, u64)> {
    let at = |name: &str| panel["gridPos"][name].as_u64().unwrap();
    let (x, y, w, h) = (at("x"), at("y"), at("w"), at("h"));
    assert!(w > 0 && h > 0 && x + w <= 24, "{}", panel["title"]);
    (x..x + w).flat_map(move |x| (y..y + h).map(move |y| (x, y)))
}

#[test]
fn dashboards_have_what_grafana_needs() {
    let mut uids = BTreeSet::new();
    for (name, dashboard) in all() {
        let uid = dashboard["uid"].as_str().unwrap();
        assert!(uids.insert(uid.to_owned()) && uid.len() <= 40, "{name}: {uid}");
        assert!(dashboard["schemaVersion"].as_u64().unwrap() >= 36, "{name}: of Grafana 9 or older");
        assert!(dashboard["title"].is_string() && dashboard["id"].is_null(), "{name}");
        let first = &variables(&dashboard)[0];
        assert_eq!(
            (&first["name"], &first["type"], &first["query"]),
            (&json!("datasource"), &json!("datasource"), &json!("prometheus"))
        );
        let source = json!({"type": "prometheus", "uid": "${datasource}"});
        let known: Vec<&str> =
            variables(&dashboard).iter().map(|variable| variable["name"].as_str().unwrap()).collect();
        for variable in &variables(&dashboard)[1..] {
            assert_eq!(variable["datasource"], source, "{name}: {}", variable["name"]);
        }
        let (mut ids, mut taken) = (BTreeSet::new(), BTreeSet::new());
        for panel in dashboard["panels"].as_array().unwrap() {
            assert!(ids.insert(panel["id"].as_u64().unwrap()), "{name}: {}", panel["id"]);
            assert!(
                cells(panel).all(|cell| taken.insert(cell)),
                "{name}: {} covers another panel",
                panel["title"]
            );
        }
        for panel in panels(&dashboard) {
            let title = panel["title"].as_str().unwrap();
            assert_eq!(panel["datasource"], source, "{name}: {title}");
            assert!(panel["fieldConfig"]["defaults"]["unit"].is_string(), "{name}: {title} has no unit");
            let refs: BTreeSet<&str> = panel["targets"]
                .as_array()
                .unwrap()
                .iter()
                .map(|target| target["refId"].as_str().unwrap())
                .collect();
            assert_eq!(refs.len(), expressions(panel).count(), "{name}: {title}");
            for word in expressions(panel).flat_map(|expr| expr.split('$').skip(1)) {
                let used: String = word.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
                assert!(
                    used == "__rate_interval" || known.contains(&used.as_str()),
                    "{name}: {title}: ${used}"
                );
            }
        }
    }
    assert!(uids.len() >= 3);
}

/// Every expression with the variables filled in, and whether there is traffic for it.
pub fn questions() -> Vec<(String, String, bool)> {
    let mut questions = Vec::new();
    let mut quiet: BTreeSet<&str> = QUIET.into();
    for (name, dashboard) in all() {
        for variable in &variables(&dashboard)[1..] {
            let query = variable["query"]["query"].as_str().unwrap();
            questions.push((format!("{name}: ${}", variable["name"]), of_variable(query).to_owned(), true));
        }
        for panel in panels(&dashboard) {
            let title = panel["title"].as_str().unwrap();
            let has_traffic = !QUIET.contains(&title);
            quiet.remove(title);
            let filled = expressions(panel).map(|expr| fill(expr, service(expr)));
            questions.extend(filled.map(|expr| (format!("{name}: {title}"), expr, has_traffic)));
        }
    }
    assert!(quiet.is_empty(), "no panels have these titles: {quiet:?}");
    questions
}

/// Who of the scene has what an expression asks for.
fn service(expr: &str) -> &'static str {
    match expr {
        _ if expr.contains("istio_tcp") => "till",
        _ if expr.contains("_messages_") || expr.contains("grpc_response_status!=\"\"") => "rpc",
        _ if expr.contains("response_flags!=\"-\"") => "closed",
        _ => "cart",
    }
}

fn fill(expr: &str, service: &str) -> String {
    [
        ("$__rate_interval", "20s"),
        ("$service", &format!("{service}.shop.svc.cluster.local")),
        ("$namespace", ".*"),
        ("$instance", ".*"),
    ]
    .iter()
    .fold(expr.to_owned(), |expr, (name, value)| expr.replace(name, value))
}

/// What isn't answered yet.
pub fn ask(prometheus: &Prometheus, (what, expr, has_traffic): &(String, String, bool)) -> Result<()> {
    let series = prometheus.query(expr)?;
    anyhow::ensure!(
        !has_traffic || series.iter().any(|one| !one.value.is_nan()),
        "{what}: {expr}: {series:?}"
    );
    Ok(())
}

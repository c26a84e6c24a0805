//! What others ask Prometheus, from tests/promql, with this scene's names filled in, and what the answer has to be.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use mesh_tests::prometheus::{Prometheus, Series};
use serde::Deserialize;

/// One query.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Query {
    /// Whose.
    pub what: String,
    /// PromQL.
    pub expr: String,
    /// Every value lies within.
    #[serde(default)]
    pub within: Option<(f64, f64)>,
    /// A value is above 0.
    #[serde(default)]
    pub positive: bool,
    /// A series has these labels.
    #[serde(default)]
    pub has: BTreeMap<String, String>,
    /// Istio's own proxies have nothing for it either.
    #[serde(default)]
    pub empty: bool,
    /// Kiali makes an edge of each series, so that it needs what Kiali needs.
    #[serde(default)]
    pub edges: bool,
}

/// A file of this repository.
pub fn file(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path)
}

/// Its text.
pub fn text(path: &str) -> String {
    fs::read_to_string(file(path)).expect(path)
}

impl Query {
    /// As long as the answer isn't right, why.
    pub fn check(&self, prometheus: &Prometheus) -> Result<()> {
        let series = prometheus.query(&self.expr)?;
        self.judge(&series).with_context(|| format!("{}: {}: {series:#?}", self.what, self.expr))
    }

    fn judge(&self, series: &[Series]) -> Result<()> {
        ensure!(series.is_empty() == self.empty, "nothing, or something where nothing should be");
        if let Some((low, high)) = self.within {
            ensure!(
                series.iter().all(|one| (low..=high).contains(&one.value)),
                "not within {low} and {high}"
            );
        }
        ensure!(self.empty || !self.positive || series.iter().any(|one| one.value > 0.0), "nothing above 0");
        let has = || self.has.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        ensure!(self.empty || series.iter().any(|one| one.has(has())), "nothing has {:?}", self.has);
        ensure!(!self.edges || series.iter().all(takes), "Kiali would leave some out");
        Ok(())
    }

    fn filled(&self, names: &[(&str, &str)]) -> Self {
        let fill =
            |text: &str| names.iter().fold(text.to_owned(), |text, (name, value)| text.replace(name, value));
        let has = self.has.iter().map(|(name, value)| (name.clone(), fill(value))).collect();
        Self { expr: fill(&self.expr), has, ..self.clone() }
    }

    fn with_quantiles(self) -> Vec<Self> {
        if !self.expr.contains("$q,") {
            return vec![self];
        }
        ["0.50", "0.90", "0.95", "0.99"].iter().map(|q| self.filled(&[("$q,", &format!("{q},"))])).collect()
    }
}

/// What Kiali takes for a sound edge (its checks of telemetry): every label of the edge, and of who is in a namespace the
/// workload and the cluster. An unknown cluster of a destination is taken to be the source's.
fn takes(series: &Series) -> bool {
    let known =
        |name: &str| series.labels.get(name).is_some_and(|value| !value.is_empty() && value != "unknown");
    let needed = [
        "source_workload_namespace",
        "source_workload",
        "source_canonical_service",
        "source_canonical_revision",
        "destination_service_namespace",
        "destination_service_name",
        "destination_workload_namespace",
        "destination_workload",
        "destination_canonical_service",
        "destination_canonical_revision",
    ];
    let source = !known("source_workload_namespace") || known("source_workload") && known("source_cluster");
    needed.iter().all(|name| series.labels.contains_key(*name)) && source
}

/// Those of Istio's dashboards. Its variables take the values that a user would choose: once a service whose clients come by
/// mutual TLS, once one whose clients don't.
pub fn istio() -> Vec<Query> {
    let all: BTreeMap<String, Vec<Query>> =
        serde_yaml_ng::from_str(&text("tests/promql/istio.yaml")).unwrap();
    let mut queries = Vec::new();
    for (dashboard, query) in all.iter().flat_map(|(name, of)| of.iter().map(move |query| (name, query))) {
        for is_mutual in [true, false] {
            let tcp = query.expr.contains("istio_tcp_") && !query.expr.contains("istio_requests");
            let outgoing = query.expr.contains("source_workload=~\"$workload\"");
            let (service, server) = match (is_mutual, tcp) {
                (true, false) => ("cart", "cart"),
                (true, true) => ("till", "till"),
                (false, false) => ("shelf", "shelf"),
                (false, true) => ("drawer", "shelf"),
            };
            let (workload, namespace) = if outgoing { ("web", "front") } else { (server, "shop") };
            let mut filled = query.filled(&[
                ("$is", if is_mutual { "=" } else { "!=" }),
                ("$like", if is_mutual { "=~" } else { "!~" }),
                ("$service", &format!("{service}.shop.svc.cluster.local")),
                ("$workload", workload),
                ("$namespace", namespace),
                ("$qrep", "source|destination"),
                ("$srccluster", ".*"),
                ("$srcns", ".*"),
                ("$srcwl", ".*"),
                ("$dstcluster", ".*"),
                ("$dstns", ".*"),
                ("$dstwl", ".*"),
                ("$dstsvc", ".*"),
            ]);
            filled.what = format!("Istio, {dashboard}: {}", query.what);
            // How a connection is secured is the server's side to say; the client's says `unknown`.
            filled.empty =
                is_mutual && query.expr.contains("$is") && query.expr.contains("reporter=\"source\"");
            queries.extend(filled.with_quantiles());
        }
    }
    queries
}

/// Those of Kiali's graph.
pub fn kiali() -> Vec<Query> {
    #[derive(Deserialize)]
    struct Kiali {
        edge: String,
        queries: Vec<Query>,
    }
    let all: Kiali = serde_yaml_ng::from_str(&text("tests/promql/kiali.yaml")).unwrap();
    let filled = all.queries.iter().map(|query| {
        let edges = query.expr.contains("$edge");
        Query { what: format!("Kiali: {}", query.what), edges, ..query.filled(&[("$edge", &all.edge)]) }
    });
    filled.flat_map(Query::with_quantiles).collect()
}

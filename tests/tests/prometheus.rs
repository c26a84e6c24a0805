//! A real Prometheus scrapes two agents: Istio's dashboards, Kiali's graph and our own dashboards find what they ask for,
//! figures are those of the clients, and alerts have no false alarm.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

#[path = "prometheus/alerts.rs"]
mod alerts;
#[path = "prometheus/dashboards.rs"]
mod dashboards;
#[path = "prometheus/queries.rs"]
mod queries;
#[path = "prometheus/scene.rs"]
mod scene;

use std::sync::Arc;

use anyhow::{Result, ensure};
use mesh_tests::need_agent;
use mesh_tests::prometheus::Prometheus;
use scene::{BODY, SLOW_MS, Scene, Sent, by_and_by};

/// Asks until everything is answered; what was answered isn't asked again.
fn ask_all<Q>(what: &str, mut questions: Vec<Q>, ask: impl Fn(&Q) -> Result<()>) {
    let all = questions.len();
    assert!(all > 0, "{what}");
    by_and_by(|| {
        let mut first = None;
        questions.retain(|question| match ask(question) {
            Ok(()) => false,
            Err(error) => {
                first.get_or_insert(error);
                true
            }
        });
        first.map_or(Ok(()), |error| {
            Err(error.context(format!("{what}: {} of {all} aren't answered", questions.len())))
        })
    })
    .unwrap();
}

/// Alerts that the scene is about, each with who it is for.
const FIRING: [(&str, &str); 2] =
    [("MeshAgentRequestsFail", "closed"), ("MeshAgentEndpointsUnreachable", "closed")];

/// What the expression of a rule comes to in a mesh where one endpoint doesn't listen, and an application fails now and then.
fn alert(prometheus: &Prometheus, rule: &serde_json::Value) -> Result<()> {
    let alert = rule["alert"].as_str().unwrap();
    let found = prometheus.query(rule["expr"].as_str().unwrap())?;
    match FIRING.iter().find(|(name, _)| *name == alert) {
        Some((_, service)) => {
            let host = format!("{service}.shop.svc.cluster.local");
            ensure!(
                found.iter().any(|one| one.has([("destination_service", host.as_str())])),
                "{alert}: {found:?}"
            );
        }
        None => ensure!(found.is_empty(), "{alert}: {found:?}"),
    }
    Ok(())
}

/// Requests with these labels, as one side reports them.
fn requests(reporter: &str, service: &str, more: &str) -> String {
    format!(
        "sum(istio_requests_total{{reporter=\"{reporter}\",destination_service=\"{service}.shop.svc.cluster.local\",{more}}})"
    )
}

/// Each figure that clients know, with the query for it.
fn totals(sent: &Sent) -> Vec<(String, f64)> {
    let mut totals: Vec<(String, u64)> = vec![
        (requests("source", "lost", "response_code=\"404\",response_flags=\"NR\""), sent.lost),
        // The server's agent is the one that can't connect; to the client's it is an answer like any other, as with sidecars.
        (requests("source", "closed", "response_code=\"503\",response_flags=\"-\""), sent.closed),
        (requests("destination", "closed", "response_code=\"503\",response_flags=\"UF\""), sent.closed),
    ];
    let fine = "response_flags=\"-\",destination_workload_namespace=\"shop\",source_workload=\"web\"";
    for side in ["source", "destination"] {
        let http = |code: u16| format!("response_code=\"{code}\",request_protocol=\"http\",{fine}");
        let grpc = |status: u8| {
            format!(
                "response_code=\"200\",grpc_response_status=\"{status}\",request_protocol=\"grpc\",{fine}"
            )
        };
        totals.extend([
            (requests(side, "cart", &http(200)), sent.cart),
            (requests(side, "cart", &http(503)), sent.cart_fails),
            (requests(side, "cart", ""), sent.cart + sent.cart_fails),
            (requests(side, "shelf", &http(200)), sent.shelf),
            (requests(side, "slow", &http(200)), sent.slow),
            (requests(side, "rpc", &grpc(0)), sent.rpc),
            (requests(side, "rpc", &grpc(14)), sent.rpc_fails),
        ]);
        let of = |metric: &str, service: &str| {
            format!("sum({metric}{{reporter=\"{side}\",destination_service_name=\"{service}\"}})")
        };
        let (bytes, calls) = (BODY as u64, sent.rpc + sent.rpc_fails);
        totals.extend([
            (of("istio_request_bytes_sum", "cart"), sent.cart / 5 * bytes),
            (of("istio_request_duration_milliseconds_count", "cart"), sent.cart + sent.cart_fails),
            (of("istio_request_messages_total", "rpc"), calls),
            (of("istio_response_messages_total", "rpc"), calls),
        ]);
        for (service, connections) in [("till", sent.till), ("drawer", sent.drawer)] {
            totals.extend([
                (of("istio_tcp_connections_opened_total", service), connections),
                (of("istio_tcp_connections_closed_total", service), connections),
                (of("istio_tcp_received_bytes_total", service), connections * bytes),
                (of("istio_tcp_sent_bytes_total", service), connections * bytes),
            ]);
        }
    }
    totals.into_iter().map(|(expr, count)| (expr, count as f64)).collect()
}

/// A bound of the buckets, the first at or above a value.
fn bound_above(prometheus: &Prometheus, value: f64) -> f64 {
    let buckets = prometheus.query("sum by (le) (istio_request_duration_milliseconds_bucket)").unwrap();
    let bounds = buckets.iter().filter_map(|bucket| bucket.labels["le"].parse::<f64>().ok());
    bounds.filter(|bound| *bound >= value).fold(f64::INFINITY, f64::min)
}

#[test]
fn prometheus_has_what_istios_dashboards_kialis_graph_and_ours_ask_for() {
    let options = need_agent!();
    let scene = Arc::new(Scene::start(&options).unwrap());
    let agents = [&scene.near, &scene.far];
    let dir = scene.topology.scratch().join("prometheus");
    let mut prometheus =
        Prometheus::start(&dir, "mesh/mesh-agent", &agents, &queries::file(alerts::RULES)).unwrap();
    let work = scene.clone().work();
    let up = |prometheus: &Prometheus| {
        let up = prometheus.value("sum(up{job=\"mesh/mesh-agent\"})")?;
        ensure!(up == 2.0, "{up} of 2 agents are scraped");
        Ok(())
    };
    by_and_by(|| up(&prometheus)).unwrap();
    ask_all("Istio", queries::istio(), |query| query.check(&prometheus));
    ask_all("Kiali", queries::kiali(), |query| query.check(&prometheus));
    ask_all("dashboards", dashboards::questions(), |question| dashboards::ask(&prometheus, question));
    ask_all("alerts", alerts::all(), |rule| alert(&prometheus, rule));
    let before = prometheus.value("sum(istio_requests_total)").unwrap();
    prometheus.restart().unwrap();
    by_and_by(|| up(&prometheus)).unwrap();
    by_and_by(|| {
        let now = prometheus.value("sum(istio_requests_total)")?;
        ensure!(now > before, "{before}, then {now}");
        Ok(())
    })
    .unwrap();
    assert!(work.goes_on(), "nobody on the way notices whether Prometheus is there");
    let sent = work.stop().unwrap();
    ask_all("figures", totals(&sent), |(expr, count)| {
        let found = prometheus.value(expr)?;
        ensure!(found == *count, "{found} instead of {count}: {expr} ({sent:?})");
        Ok(())
    });
    let slow = "sum by (le) (istio_request_duration_milliseconds_bucket{reporter=\"source\",destination_service_name=\"slow\"})";
    let p99 = prometheus.value(&format!("histogram_quantile(0.99, {slow})")).unwrap();
    let above = bound_above(&prometheus, sent.slowest_ms);
    assert!(p99 > 50.0 && SLOW_MS > 50 && p99 <= above, "50 < {p99} <= {above}: {sent:?}");
}

//! The live commands against an admin socket behind which traffic was counted.

use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;
use std::time::Duration;

use super::{Printed, cli, good};
use crate::admin::testing::Fixture;
use crate::cli::Exit;
use crate::flags::Flag;
use crate::model::{ObjectName, ServiceMeta};
use crate::telemetry::{EdgeKey, Protocol, Reporter, RequestReport, RuleAbout, RuleCounters, Security};

/// Ten requests from web to cart, of which one failed, reported by both.
pub(super) fn busy() -> Fixture {
    let fixture = Fixture::start();
    let snapshot = fixture.state.snapshot.load();
    let pod = |name: &str| snapshot.workloads.get(&ObjectName::new("shop", name)).cloned();
    let cart =
        ServiceMeta { name: ObjectName::new("shop", "cart"), host: "cart.shop.svc.cluster.local".into() };
    let metrics = &fixture.state.telemetry.metrics;
    let (about, counters) = (
        RuleAbout {
            kind: "HTTPRoute",
            route: ObjectName::new("shop", "cart"),
            rule: "0".into(),
            service: cart.name.clone(),
        },
        RuleCounters::default(),
    );
    for reporter in [Reporter::Source, Reporter::Destination] {
        let edge = metrics.edge(&EdgeKey {
            reporter,
            source: pod("web-1"),
            destination: pod("cart-1"),
            service: Some(Arc::new(cart.clone())),
            fallback_service: "unknown",
            security: Security::MutualTls,
            proven: None,
        });
        for n in 0..10 {
            let report = RequestReport {
                protocol: Protocol::Http,
                status: if n == 0 { 503 } else { 200 },
                grpc_status: None,
                flag: if n == 0 { Flag::UpstreamConnectionFailure } else { Flag::None },
                duration: Duration::from_millis(7),
                request_bytes: 10,
                response_bytes: 100,
                request_messages: 0,
                response_messages: 0,
                retries: 0,
            };
            edge.request(&report);
            if reporter == Reporter::Source {
                counters.count(&cart.name, &report, metrics, || about.clone());
            }
        }
    }
    drop(snapshot);
    fixture
}

/// Without rates, which depend on when it is asked.
fn steady(text: &str) -> String {
    let words = |line: &str| {
        line.split_whitespace().filter(|word| !word.ends_with("rps")).collect::<Vec<_>>().join(" ")
    };
    text.lines().map(|line| words(line) + "\n").collect()
}

#[test]
fn stat_edges_and_routes_say_what_was_counted_once() {
    let fixture = busy();
    insta::assert_snapshot!(steady(&good(&fixture, "stat")), @r"
    NAMESPACE NAME MESHED SUCCESS RPS LATENCY_P50 LATENCY_P95 LATENCY_P99 TCP_CONN
    shop cart 2/2 90.00% 7.5ms 9.8ms 10ms 0
    ");
    insta::assert_snapshot!(steady(&good(&fixture, "stat workload shop/cart -t 10m")), @r"
    NAMESPACE NAME MESHED SUCCESS RPS LATENCY_P50 LATENCY_P95 LATENCY_P99 TCP_CONN
    shop cart 2/2 90.00% 7.5ms 9.8ms 10ms 0
    ");
    insta::assert_snapshot!(steady(&good(&fixture, "edges -o wide")), @r"
    SRC DST SRC_NS DST_NS SECURED CLIENT_ID SERVER_ID SERVICES PROTOCOLS RPS SUCCESS LATENCY_P99
    web cart shop shop yes spiffe://cluster.local/ns/shop/sa/web spiffe://cluster.local/ns/shop/sa/cart shop/cart http 90.00% 10ms
    ");
    insta::assert_snapshot!(steady(&good(&fixture, "routes")), @r"
    ROUTE RULE SERVICE SUCCESS RPS LATENCY_P50 LATENCY_P95 LATENCY_P99
    shop/cart 0 shop/cart 90.00% 7.5ms 9.8ms 10ms
    ");
    assert!(good(&fixture, "edges -o dot").contains("digraph"));
    let json: serde_json::Value = serde_json::from_str(&good(&fixture, "stat svc cart -o json")).unwrap();
    assert_eq!((&json[0]["requests"], &json[0]["failures"]), (&10.into(), &1.into()));
    assert_eq!(json[0]["flags"], serde_json::json!({"UF": 1}));
    assert_eq!(json[0]["success"], 0.9);
    let raw: serde_json::Value = fixture_get(&fixture, "/v1/live/edges?window=60");
    assert_eq!(raw["edges"].as_array().map(Vec::len), Some(2), "each reporter by itself: {raw}");
    let history: serde_json::Value = fixture_get(&fixture, "/v1/live/history?window=600");
    assert_eq!(history["edges"][0]["buckets"][0]["requests"], 10, "{history}");
}

fn fixture_get(fixture: &Fixture, path: &str) -> serde_json::Value {
    use crate::cli::client::{Client, Door};
    let socket = fixture.dir.path().join(crate::admin::SOCKET_NAME);
    Client::new(Door::Socket(socket)).unwrap().get(path).unwrap()
}

#[test]
fn a_window_that_is_none_is_refused() {
    let fixture = Fixture::start();
    let Printed { exit, stderr, .. } = cli(&fixture, "stat -t soon");
    assert_eq!(exit, Exit::Usage, "{stderr}");
    let Printed { exit, stderr, .. } = cli(&fixture, "routes --from web");
    assert!(exit == Exit::Usage && stderr.contains("mesh-agent edges --from"), "{stderr}");
    let Printed { exit, stderr, .. } = cli(&fixture, "top");
    assert!(exit == Exit::Usage && stderr.contains("stat -w"), "{stderr}");
}

#[test]
fn families_are_listed_by_their_series() {
    let fixture = busy();
    let all = good(&fixture, "metrics");
    let first = all.lines().nth(1).unwrap_or_default();
    assert!(first.starts_with("istio_re") && first.contains("histogram"), "{all}");
    insta::assert_snapshot!(good(&fixture, "metrics --filter ^istio_requests"), @r"
    FAMILY                 TYPE      SERIES   LABELS
    istio_requests_total   counter   4        connection_security_policy=2,reporter=2,response_code=2
    ");
    let labels = good(&fixture, "metrics --filter ^istio_requests --cardinality");
    let line = labels.lines().find(|line| line.contains("response_code ")).unwrap_or_default();
    assert!(line.contains("200=2") && line.contains("503=2"), "{labels}");
    assert_eq!(cli(&fixture, "metrics --filter (").exit, Exit::Usage);
}

#[test]
fn a_bug_report_is_its_owners_and_has_every_part() {
    let fixture = busy();
    // The log of a test has no filter to tell of.
    let Printed { exit, stdout, stderr } = cli(&fixture, "bugreport --directory DIR");
    assert!(exit == Exit::Failed && stderr.contains("no log-filter.json"), "{stderr}");
    let path = stdout.trim().replace("DIR", &fixture.dir.path().display().to_string());
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    let mut archive = tar::Archive::new(flate2::read::GzDecoder::new(std::fs::File::open(&path).unwrap()));
    let mut files = Vec::new();
    for entry in archive.entries().unwrap() {
        let mut entry = entry.unwrap();
        let name = entry.path().unwrap().file_name().unwrap().to_string_lossy().into_owned();
        let mut text = String::new();
        entry.read_to_string(&mut text).unwrap();
        assert!(text.len() > 1, "{name} is empty");
        files.push(name);
    }
    files.sort();
    insta::assert_snapshot!(files.join("\n"), @r"
    bpf.json
    certificates.json
    config-history.json
    config.json
    connections.json
    live-edges.json
    live-history.json
    live-routes.json
    metrics.txt
    report.json
    status.json
    warnings.json
    ");
}

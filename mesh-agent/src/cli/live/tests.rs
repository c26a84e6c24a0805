//! What several agents say, put together and shown.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::BTreeMap;

use clap::Parser;

use super::*;
use crate::admin::api::{
    Capture, LiveDestination, LiveEdge, LiveEdgeKey, LiveEdges, LiveFigures, LiveRoute, LiveRoutes,
    LiveSource,
};
use crate::cli::output::{Format, list};
use crate::cli::stat::{Kind, Seen, stats};
use crate::cli::{edges, routes};
use crate::telemetry::{Reporter, quantile};

#[derive(Parser)]
struct Line {
    #[command(flatten)]
    live: LiveArgs,
}

fn args(line: &str) -> LiveArgs {
    let words = line.split(' ').filter(|word| !word.is_empty());
    Line::try_parse_from(std::iter::once("x").chain(words)).unwrap().live
}

/// Requests from `web` to `cart` of `shop`, in mutual TLS.
fn edge(reporter: Reporter, requests: u64) -> LiveEdge {
    // All of 5 to 10 ms.
    let latency = vec![0, 0, 0, requests];
    let id = |account: &str| format!("spiffe://cluster.local/ns/shop/sa/{account}");
    LiveEdge {
        key: LiveEdgeKey {
            reporter,
            source: LiveSource {
                namespace: "shop".into(),
                workload: "web".into(),
                service: "web".into(),
                principal: id("web"),
            },
            destination: LiveDestination {
                namespace: "shop".into(),
                workload: "cart-v1".into(),
                service: "cart".into(),
                service_namespace: "shop".into(),
                principal: id("cart"),
            },
            security: "mutual_tls".into(),
            protocol: "http".into(),
        },
        figures: LiveFigures {
            requests,
            failures: 0,
            rps: requests as f64 / 60.0,
            success: (requests > 0).then_some(1.0),
            p50_ms: quantile(&latency, 0.5),
            p95_ms: quantile(&latency, 0.95),
            p99_ms: quantile(&latency, 0.99),
            latency,
            flags: BTreeMap::new(),
            retries: 0,
            timeouts: 0,
            connections_open: 1,
            connections_opened: 0,
            sent_bytes: 6000,
            received_bytes: 600,
        },
    }
}

fn node(name: &str, edges: Vec<LiveEdge>) -> LiveEdges {
    LiveEdges {
        window_seconds: 60,
        covered_seconds: 60.0,
        bucket_seconds: 10,
        at: "2026-11-30T16:00:00Z".into(),
        node: name.into(),
        edges,
    }
}

fn requests(nodes: &[LiveEdges]) -> Vec<(String, u64)> {
    let merged = merge::edges(nodes);
    merged.into_iter().map(|edge| (edge.key.destination.service, edge.sum.requests)).collect()
}

#[test]
fn an_edge_that_both_sides_report_is_counted_once() {
    let (mine, theirs) = (edge(Reporter::Source, 30), edge(Reporter::Destination, 30));
    let apart = [node("a", vec![mine.clone()]), node("b", vec![theirs.clone()])];
    assert_eq!(requests(&apart), [("cart".into(), 30)]);
    let together = [node("a", vec![mine, theirs])];
    assert_eq!(requests(&together), [("cart".into(), 30)]);
}

#[test]
fn clients_on_two_nodes_are_added_up() {
    let nodes = [
        node("a", vec![edge(Reporter::Source, 30)]),
        node("b", vec![edge(Reporter::Source, 12), edge(Reporter::Destination, 42)]),
    ];
    let merged = merge::edges(&nodes);
    assert_eq!((merged.len(), merged[0].sum.requests, merged[0].sum.open), (1, 42, 2));
    assert!((merged[0].sum.rps - 0.7).abs() < 1e-9);
    assert_eq!(merged[0].sum.quantile(0.5), Some(7.5));
}

#[test]
fn a_server_is_believed_where_it_has_seen_more() {
    // A client outside of the mesh, or one whose agent isn't asked.
    assert_eq!(requests(&[node("b", vec![edge(Reporter::Destination, 5)])]), [("cart".into(), 5)]);
    let half = [node("a", vec![edge(Reporter::Source, 3)]), node("b", vec![edge(Reporter::Destination, 9)])];
    assert_eq!(requests(&half), [("cart".into(), 9)]);
    // But tries of the client's agent are requests at the server, and one request to the client.
    let mut tried = edge(Reporter::Source, 3);
    tried.figures.retries = 2;
    let tries = [node("a", vec![tried, edge(Reporter::Destination, 5)])];
    assert_eq!(requests(&tries), [("cart".into(), 3)]);
}

#[test]
fn what_the_server_calls_the_service_otherwise_is_no_second_edge() {
    let mut theirs = edge(Reporter::Destination, 30);
    theirs.key.destination.service = "InboundPassthroughCluster".into();
    assert_eq!(requests(&[node("a", vec![edge(Reporter::Source, 30), theirs])]), [("cart".into(), 30)]);
}

#[test]
fn only_mutual_tls_proves_who_somebody_is() {
    let mut mine = edge(Reporter::Source, 30);
    mine.key.security = "none".into();
    let unknown = "unknown".to_owned();
    (mine.key.source.principal, mine.key.destination.principal) = (unknown.clone(), unknown);
    let pairs = edges::pairs(&args(""), &[node("a", vec![mine, edge(Reporter::Destination, 1)])]);
    assert_eq!((pairs[0].client_id.as_str(), pairs[0].is_secured()), ("unknown", false));
}

#[test]
fn edges_are_linkerds_columns() {
    let mut plain = edge(Reporter::Source, 0);
    plain.key.destination.workload = "unknown".into();
    plain.key.destination.service = "PassthroughCluster".into();
    plain.key.destination.service_namespace = "unknown".into();
    plain.key.destination.principal = "unknown".into();
    plain.key.source.principal = "unknown".into();
    (plain.key.security, plain.key.protocol) = ("none".into(), "tcp".into());
    let nodes = [node("a", vec![edge(Reporter::Source, 30), plain])];
    let pairs = edges::pairs(&args(""), &nodes);
    insta::assert_snapshot!(list(Format::Table, &pairs).unwrap().unwrap(), @r"
    SRC   DST                  SRC_NS   DST_NS    SECURED
    web   cart-v1              shop     shop      yes
    web   PassthroughCluster   shop     unknown   no
    ");
    insta::assert_snapshot!(list(Format::Wide, &pairs).unwrap().unwrap(), @r"
    SRC   DST                  SRC_NS   DST_NS    SECURED   CLIENT_ID                               SERVER_ID                                SERVICES                     PROTOCOLS   RPS      SUCCESS   LATENCY_P99
    web   cart-v1              shop     shop      yes       spiffe://cluster.local/ns/shop/sa/web   spiffe://cluster.local/ns/shop/sa/cart   shop/cart                    http        0.5rps   100.00%   10ms
    web   PassthroughCluster   shop     unknown   no        -                                       -                                        unknown/PassthroughCluster   tcp         -        -         -
    ");
    assert_eq!(
        list(Format::Name, &pairs).unwrap().unwrap(),
        "shop/web:shop/cart-v1\nshop/web:unknown/PassthroughCluster\n"
    );
    assert_eq!(edges::pairs(&args("--to cart"), &nodes).len(), 1);
    assert_eq!(edges::pairs(&args("--to other/cart"), &nodes).len(), 0);
    assert_eq!(edges::pairs(&args("--from shop/web"), &nodes).len(), 2);
    assert_eq!(edges::pairs(&args("-n elsewhere"), &nodes).len(), 0);
}

fn seen(nodes: Vec<LiveEdges>) -> Seen {
    let fixture = crate::admin::testing::state(std::path::Path::new("/nowhere")).0;
    let dump = crate::admin::testing::dump(&fixture);
    Seen { edges: nodes, services: dump.services, workloads: dump.workloads, endpoints: dump.endpoints }
}

#[test]
fn stat_is_linkerds_columns() {
    let mut failing = edge(Reporter::Source, 60);
    failing.key.source.workload = "batch".into();
    (failing.figures.failures, failing.figures.retries, failing.figures.timeouts) = (3, 2, 1);
    failing.figures.flags = BTreeMap::from([("UT".into(), 1), ("URX".into(), 2)]);
    failing.figures.latency = vec![0, 0, 0, 50, 0, 0, 0, 0, 10];
    let seen = seen(vec![node("a", vec![edge(Reporter::Source, 30), failing])]);
    let services = stats(Kind::Service, &args(""), &seen);
    insta::assert_snapshot!(list(Format::Table, &services).unwrap().unwrap(), @r"
    NAMESPACE   NAME   MESHED   SUCCESS   RPS      LATENCY_P50   LATENCY_P95   LATENCY_P99   TCP_CONN
    shop        cart   2/2      96.66%    1.5rps   7.8ms         388ms         477ms         2
    ");
    insta::assert_snapshot!(list(Format::Wide, &services).unwrap().unwrap(), @r"
    NAMESPACE   NAME   MESHED   SUCCESS   RPS      LATENCY_P50   LATENCY_P95   LATENCY_P99   TCP_CONN   READ_BYTES/SEC   WRITE_BYTES/SEC   RETRIES   TIMEOUTS   FLAGS
    shop        cart   2/2      96.66%    1.5rps   7.8ms         388ms         477ms         2          20B              200B              2         1          URX=2,UT=1
    ");
    let workloads = stats(Kind::Workload, &args(""), &seen);
    insta::assert_snapshot!(list(Format::Table, &workloads).unwrap().unwrap(), @r"
    NAMESPACE   NAME      MESHED   SUCCESS   RPS      LATENCY_P50   LATENCY_P95   LATENCY_P99   TCP_CONN
    shop        cart      2/2      -         -        -             -             -             0
    shop        cart-v1   -        96.66%    1.5rps   7.8ms         388ms         477ms         2
    shop        web       1/1      -         -        -             -             -             0
    ");
    // What each sends there.
    let senders = stats(Kind::Workload, &args("--to cart"), &seen);
    insta::assert_snapshot!(list(Format::Table, &senders).unwrap().unwrap(), @r"
    NAMESPACE   NAME    MESHED   SUCCESS   RPS      LATENCY_P50   LATENCY_P95   LATENCY_P99   TCP_CONN
    shop        batch   -        95.00%    1.0rps   8.0ms         425ms         485ms         1
    shop        web     1/1      100.00%   0.5rps   7.5ms         9.8ms         10ms          1
    ");
    let from = stats(Kind::Service, &args("--from batch"), &seen);
    assert_eq!((from.len(), from[0].figures.requests, from[0].figures.failures), (1, 60, 3));
    assert!(seen.workloads.iter().any(|pod| pod.capture == Capture::Captured));
}

#[test]
fn rules_of_all_nodes_are_added_up() {
    let rule = |requests| LiveRoute {
        kind: "HTTPRoute".into(),
        route: "shop/split".into(),
        rule: "canary".into(),
        service_namespace: "shop".into(),
        service: "cart".into(),
        requests,
        failures: 1,
        rps: requests as f64 / 60.0,
        success: None,
        p50_ms: None,
        p95_ms: None,
        p99_ms: None,
        latency: vec![0, requests],
    };
    let node = |node: &str, requests| LiveRoutes {
        window_seconds: 60,
        covered_seconds: 60.0,
        bucket_seconds: 10,
        at: String::new(),
        node: node.into(),
        routes: vec![rule(requests)],
    };
    let rows = routes::rules(&args(""), &[node("a", 10), node("b", 10)]);
    insta::assert_snapshot!(list(Format::Wide, &rows).unwrap().unwrap(), @r"
    ROUTE        RULE     SERVICE     SUCCESS   RPS      LATENCY_P50   LATENCY_P95   LATENCY_P99   KIND        REQUESTS
    shop/split   canary   shop/cart   90.00%    0.3rps   0.8ms         1.0ms         1.0ms         HTTPRoute   20
    ");
    assert!(routes::rules(&args("--to till"), &[node("a", 10)]).is_empty());
}

#[test]
fn shares_are_never_rounded_up_to_all() {
    for (share, text) in
        [(1.0, "100.00%"), (0.999_99, "99.99%"), (0.5, "50.00%"), (0.0, "0.00%"), (0.9995, "99.95%")]
    {
        assert_eq!(sum::percent(Some(share)), text);
    }
    assert_eq!(sum::percent(None), "");
    for (ms, text) in [(0.25, "0.2ms"), (7.5, "7.5ms"), (9.96, "10ms"), (700.4, "700ms"), (1250.0, "1.2s")] {
        assert_eq!(sum::latency(Some(ms)), text);
    }
}

#[test]
fn windows_are_said_in_seconds_minutes_or_hours() {
    for (text, seconds) in [("30s", 30), ("1m", 60), ("1h", 3600), ("45", 45)] {
        assert_eq!(duration(text), Ok(Duration::from_secs(seconds)));
    }
    for bad in ["", "m", "1d", "-1s", "1.5m"] {
        assert!(duration(bad).is_err(), "{bad}");
    }
}

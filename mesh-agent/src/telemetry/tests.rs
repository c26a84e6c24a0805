//! What Prometheus, log readers and `get connections` see.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::sync::Arc;
use std::time::{Duration, Instant, UNIX_EPOCH};

use super::*;
use crate::addr::{ClientAddr, EndpointAddr, OrigDst};
use crate::flags::Flag;
use crate::model::{Enrolment, FailMode, ObjectName, ServiceMeta, Workload};
use crate::proxy::testing;

fn workload(name: &str, app: &str, version: &str) -> Arc<Workload> {
    Arc::new(Workload {
        name: ObjectName::new("shop", name),
        uid: None,
        node: "node-a".into(),
        service_account: app.into(),
        workload_name: format!("{app}-{version}"),
        app: app.into(),
        version: version.into(),
        canonical_name: app.into(),
        canonical_revision: version.into(),
        labels: Default::default(),
        addresses: vec![],
        netns: None,
        enrolment: Enrolment::Enrolled,
        hbone: false,
        redirected: false,
        host_network: false,
        fail_mode: FailMode::Closed,
        ports: vec![],
        probes: vec![],
    })
}

fn cart() -> Arc<ServiceMeta> {
    let host = "cart.shop.svc.cluster.local".to_owned();
    Arc::new(ServiceMeta { name: ObjectName::new("shop", "cart"), host, trace_sampling: None })
}

fn key(reporter: Reporter) -> EdgeKey {
    EdgeKey {
        reporter,
        source: Some(workload("web-1", "web", "v1")),
        destination: Some(workload("cart-1", "cart", "v2")),
        service: Some(cart()),
        fallback_service: "unknown",
        security: Security::None,
        proven: None,
    }
}

fn report(status: u16) -> RequestReport {
    RequestReport {
        protocol: Protocol::Http,
        status,
        grpc_status: None,
        flag: Flag::None,
        duration: Duration::from_micros(7_250),
        request_bytes: 0,
        response_bytes: 1_200,
        request_messages: 0,
        response_messages: 0,
        retries: 0,
    }
}

/// Lines of `text` that start with `name`, without its labels from `source_workload` on.
fn lines<'t>(text: &'t str, name: &str) -> Vec<&'t str> {
    text.lines().filter(|line| line.starts_with(name)).collect()
}

#[test]
fn a_request_has_istio_s_full_label_set() {
    let telemetry = Telemetry::quiet();
    telemetry.metrics.edge(&key(Reporter::Source)).request(&report(200));
    let text = telemetry.metrics.text();
    insta::assert_snapshot!(lines(&text, "istio_requests_total").join("\n").replace(',', "\n"), @r#"
    istio_requests_total{reporter="source"
    source_workload="web-v1"
    source_workload_namespace="shop"
    source_principal="unknown"
    source_app="web"
    source_version="v1"
    source_cluster="Kubernetes"
    source_canonical_service="web"
    source_canonical_revision="v1"
    destination_workload="cart-v2"
    destination_workload_namespace="shop"
    destination_principal="unknown"
    destination_app="cart"
    destination_version="v2"
    destination_cluster="Kubernetes"
    destination_canonical_service="cart"
    destination_canonical_revision="v2"
    destination_service="cart.shop.svc.cluster.local"
    destination_service_name="cart"
    destination_service_namespace="shop"
    connection_security_policy="unknown"
    request_protocol="http"
    response_code="200"
    grpc_response_status=""
    response_flags="-"} 1
    "#);
}

#[test]
fn what_is_unknown_says_so() {
    let telemetry = Telemetry::quiet();
    let key = EdgeKey {
        source: None,
        destination: None,
        service: None,
        fallback_service: "PassthroughCluster",
        ..key(Reporter::Destination)
    };
    telemetry.metrics.edge(&key).tcp().opened();
    let text = telemetry.metrics.text();
    let line = lines(&text, "istio_tcp_connections_opened_total").join("\n");
    assert_eq!(line.matches("=\"unknown\"").count(), 18, "{line}");
    assert!(line.contains("destination_service_name=\"PassthroughCluster\""), "{line}");
    assert!(
        line.contains("connection_security_policy=\"none\",request_protocol=\"tcp\",response_flags=\"-\"} 1")
    );
}

#[test]
fn mutual_tls_shows_both_principals() {
    let telemetry = Telemetry::quiet();
    let key = EdgeKey { security: Security::MutualTls, ..key(Reporter::Destination) };
    telemetry.metrics.edge(&key).request(&report(200));
    let text = telemetry.metrics.text();
    let line = lines(&text, "istio_requests_total").join("\n");
    assert!(line.contains("source_principal=\"spiffe://cluster.local/ns/shop/sa/web\""), "{line}");
    assert!(line.contains("destination_principal=\"spiffe://cluster.local/ns/shop/sa/cart\""), "{line}");
    assert!(line.contains("connection_security_policy=\"mutual_tls\""), "{line}");
}

/// Everything behind the labels, which other tests show.
fn without_labels(text: &str) -> String {
    let short = |line: &str| match (line.find('{'), line.rfind("request_protocol")) {
        (Some(open), Some(protocol)) => format!("{}{{{}", &line[..open], &line[protocol..]),
        _ => line.to_owned(),
    };
    text.lines()
        .filter(|l| l.contains("istio_") && !l.contains("istio_build"))
        .map(|l| short(l) + "\n")
        .collect()
}

#[test]
fn a_worker_s_time_counts_up_whatever_it_is_told() {
    let telemetry = Telemetry::quiet();
    let agent = telemetry.metrics.agent();
    for millis in [250, 500, 400] {
        agent.worker_busy_so_far("0", Duration::from_millis(millis));
    }
    assert_eq!(agent.worker_busy.with_label_values(&["0"]).get(), 0.5);
}

#[test]
fn the_documentation_lists_every_metric() {
    let row = |(name, kind, labels, help): &(&str, &str, &[&str], &str)| {
        let kind =
            ["counter", "gauge", "histogram"].into_iter().find(|k| kind.to_lowercase().contains(k)).unwrap();
        let labels: Vec<_> = labels.iter().map(|label| format!("`{label}`")).collect();
        format!("| `{name}` | {kind} | {} | {help} |", labels.join(", "))
    };
    let (agent, controller) = (agent::TABLE.iter().map(row), crate::controller::METRICS.iter().map(row));
    let process = process::ProcessCollector::new();
    let process = prometheus::core::Collector::collect(&process).into_iter().map(|family| {
        let kind = format!("{:?}", family.get_field_type()).to_lowercase();
        format!("| `{}` | {kind} |  | {} |", family.name(), family.help())
    });
    let istio = exposition::families().map(|(name, kind, help)| format!("| `{name}` | {kind} | {help} |"));
    crate::docs::check(
        "metrics.md",
        &istio.chain(agent).chain(process).chain(controller).collect::<Vec<_>>(),
    );
}

#[test]
fn metrics_text() {
    let telemetry = Telemetry::quiet();
    let edge = telemetry.metrics.edge(&key(Reporter::Source));
    let grpc = RequestReport {
        protocol: Protocol::Grpc,
        grpc_status: Some(14),
        flag: Flag::UpstreamConnectionTermination,
        request_messages: 3,
        response_messages: 2,
        ..report(200)
    };
    edge.request(&grpc);
    let tcp = edge.tcp();
    tcp.opened();
    tcp.carried(10, 2_000);
    tcp.closed(Flag::None);
    tcp.closed(Flag::UpstreamReset);
    let text = without_labels(&telemetry.metrics.text());
    let few: String = text
        .lines()
        .filter(|l| !l.contains("bytes_bucket") && !l.contains("le=\"1") && !l.contains("le=\"6"))
        .map(|l| format!("{l}\n"))
        .collect();
    insta::assert_snapshot!(few, @r#"
    # HELP istio_requests_total Requests, by how they ended.
    # TYPE istio_requests_total counter
    istio_requests_total{request_protocol="grpc",response_code="200",grpc_response_status="14",response_flags="UC"} 1
    # HELP istio_request_duration_milliseconds From the request's first byte to the response's last.
    # TYPE istio_request_duration_milliseconds histogram
    istio_request_duration_milliseconds_bucket{request_protocol="grpc",response_code="200",grpc_response_status="14",response_flags="UC",le="0.5"} 0
    istio_request_duration_milliseconds_bucket{request_protocol="grpc",response_code="200",grpc_response_status="14",response_flags="UC",le="5"} 0
    istio_request_duration_milliseconds_bucket{request_protocol="grpc",response_code="200",grpc_response_status="14",response_flags="UC",le="25"} 1
    istio_request_duration_milliseconds_bucket{request_protocol="grpc",response_code="200",grpc_response_status="14",response_flags="UC",le="50"} 1
    istio_request_duration_milliseconds_bucket{request_protocol="grpc",response_code="200",grpc_response_status="14",response_flags="UC",le="250"} 1
    istio_request_duration_milliseconds_bucket{request_protocol="grpc",response_code="200",grpc_response_status="14",response_flags="UC",le="500"} 1
    istio_request_duration_milliseconds_bucket{request_protocol="grpc",response_code="200",grpc_response_status="14",response_flags="UC",le="2500"} 1
    istio_request_duration_milliseconds_bucket{request_protocol="grpc",response_code="200",grpc_response_status="14",response_flags="UC",le="5000"} 1
    istio_request_duration_milliseconds_bucket{request_protocol="grpc",response_code="200",grpc_response_status="14",response_flags="UC",le="30000"} 1
    istio_request_duration_milliseconds_bucket{request_protocol="grpc",response_code="200",grpc_response_status="14",response_flags="UC",le="300000"} 1
    istio_request_duration_milliseconds_bucket{request_protocol="grpc",response_code="200",grpc_response_status="14",response_flags="UC",le="3600000"} 1
    istio_request_duration_milliseconds_bucket{request_protocol="grpc",response_code="200",grpc_response_status="14",response_flags="UC",le="+Inf"} 1
    istio_request_duration_milliseconds_sum{request_protocol="grpc",response_code="200",grpc_response_status="14",response_flags="UC"} 7.250
    istio_request_duration_milliseconds_count{request_protocol="grpc",response_code="200",grpc_response_status="14",response_flags="UC"} 1
    # HELP istio_request_bytes Body bytes of requests.
    # TYPE istio_request_bytes histogram
    istio_request_bytes_sum{request_protocol="grpc",response_code="200",grpc_response_status="14",response_flags="UC"} 0
    istio_request_bytes_count{request_protocol="grpc",response_code="200",grpc_response_status="14",response_flags="UC"} 1
    # HELP istio_response_bytes Body bytes of responses.
    # TYPE istio_response_bytes histogram
    istio_response_bytes_sum{request_protocol="grpc",response_code="200",grpc_response_status="14",response_flags="UC"} 1200
    istio_response_bytes_count{request_protocol="grpc",response_code="200",grpc_response_status="14",response_flags="UC"} 1
    # HELP istio_request_messages_total gRPC messages from clients.
    # TYPE istio_request_messages_total counter
    istio_request_messages_total{request_protocol="grpc",response_code="200",grpc_response_status="14",response_flags="UC"} 3
    # HELP istio_response_messages_total gRPC messages from servers.
    # TYPE istio_response_messages_total counter
    istio_response_messages_total{request_protocol="grpc",response_code="200",grpc_response_status="14",response_flags="UC"} 2
    # HELP istio_tcp_sent_bytes_total Bytes from server to client on opaque connections.
    # TYPE istio_tcp_sent_bytes_total counter
    istio_tcp_sent_bytes_total{request_protocol="tcp",response_flags="-"} 2000
    # HELP istio_tcp_received_bytes_total Bytes from client to server on opaque connections.
    # TYPE istio_tcp_received_bytes_total counter
    istio_tcp_received_bytes_total{request_protocol="tcp",response_flags="-"} 10
    # HELP istio_tcp_connections_opened_total Opaque connections opened.
    # TYPE istio_tcp_connections_opened_total counter
    istio_tcp_connections_opened_total{request_protocol="tcp",response_flags="-"} 1
    # HELP istio_tcp_connections_closed_total Opaque connections closed, by how they ended.
    # TYPE istio_tcp_connections_closed_total counter
    istio_tcp_connections_closed_total{request_protocol="tcp",response_flags="-"} 1
    istio_tcp_connections_closed_total{request_protocol="tcp",response_flags="UR"} 1
    "#);
}

#[test]
fn families_stand_together_and_the_agent_s_own_come_first() {
    let telemetry = Telemetry::quiet();
    for reporter in [Reporter::Source, Reporter::Destination] {
        telemetry.metrics.edge(&key(reporter)).request(&report(200));
    }
    let text = telemetry.metrics.text();
    for family in ["istio_requests_total", "istio_request_bytes", "mesh_agent_build_info", "process_open_fds"]
    {
        assert_eq!(lines(&text, &format!("# TYPE {family} ")).len(), 1, "{family}");
    }
    assert!(
        text.find("mesh_agent_kernel_decisions_total").unwrap() < text.find("istio_requests_total").unwrap()
    );
}

#[test]
fn two_pods_of_one_workload_share_an_edge() {
    let telemetry = Telemetry::quiet();
    let a = telemetry.metrics.edge(&key(Reporter::Source));
    let other = EdgeKey { destination: Some(workload("cart-2", "cart", "v2")), ..key(Reporter::Source) };
    assert!(Arc::ptr_eq(&a, &telemetry.metrics.edge(&other)));
}

#[test]
fn made_up_statuses_end_up_in_their_class() {
    let telemetry = Telemetry::quiet();
    let edge = telemetry.metrics.edge(&key(Reporter::Source));
    (100..600).for_each(|status| edge.request(&report(status)));
    let text = telemetry.metrics.text();
    let requests = lines(&text, "istio_requests_total");
    assert!(requests.len() < 60, "{}", requests.len());
    let total: u64 = requests.iter().map(|l| l.rsplit(' ').next().unwrap().parse::<u64>().unwrap()).sum();
    assert_eq!(total, 500);
    assert!(requests.iter().any(|l| l.contains("response_code=\"500\"") && l.ends_with(" 100")));
}

#[test]
fn edges_beyond_the_cap_share_one_per_reporter() {
    let limits = Limits { edges: 1, ..Limits::default() };
    let telemetry = Telemetry::new(Options { limits, ..Options::default() }).unwrap();
    telemetry.metrics.edge(&key(Reporter::Source)).request(&report(200));
    for version in ["v3", "v4"] {
        let key = EdgeKey { destination: Some(workload("c", "cart", version)), ..key(Reporter::Source) };
        telemetry.metrics.edge(&key).request(&report(200));
    }
    let text = telemetry.metrics.text();
    let overflow: Vec<_> =
        lines(&text, "istio_requests_total").into_iter().filter(|l| l.contains("=\"overflow\"")).collect();
    assert!(overflow.len() == 1 && overflow[0].ends_with(" 2"), "{overflow:?}");
    assert!(text.contains("mesh_agent_metrics_overflow_total 2\n"));
}

#[test]
fn idle_edges_go_unless_something_holds_them() {
    let telemetry = Telemetry::quiet();
    let metrics = &telemetry.metrics;
    let start = Instant::now();
    let later = |minutes: u64| start + Duration::from_secs(60 * minutes);
    let edge = metrics.edge(&key(Reporter::Source));
    edge.request(&report(200));
    assert_eq!(metrics.expire(later(20)), 0, "held");
    drop(edge);
    assert_eq!(metrics.expire(later(29)), 0, "held nine minutes ago");
    metrics.edge(&key(Reporter::Source)).request(&report(200));
    assert_eq!(metrics.expire(later(31)), 0, "used since");
    assert_eq!(metrics.expire(later(41)), 1);
    assert!(lines(&metrics.text(), "istio_requests_total").is_empty());
}

#[test]
fn threads_that_meet_at_a_new_series_lose_nothing() {
    let telemetry = Telemetry::quiet();
    let edge = telemetry.metrics.edge(&key(Reporter::Source));
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| (0..20_000u16).for_each(|i| edge.request(&report(200 + i % 8))));
        }
    });
    let text = telemetry.metrics.text();
    let requests = lines(&text, "istio_requests_total");
    assert_eq!(requests.len(), 8);
    assert!(requests.iter().all(|l| l.ends_with(" 10000")), "{requests:#?}");
}

#[test]
fn connections_are_listed_while_their_guard_lives() {
    let telemetry = Telemetry::quiet();
    let guard = telemetry.connections.open(ConnectionInfo {
        reporter: Reporter::Source,
        workload: workload("web-1", "web", "v1"),
        client: ClientAddr::from("10.0.0.1:4242".parse::<std::net::SocketAddr>().unwrap()),
        destination: OrigDst::from("10.96.0.10:80".parse::<std::net::SocketAddr>().unwrap()),
        service: Some(cart()),
    });
    guard.set_protocol(L7::Http1);
    guard.set_endpoint(EndpointAddr::from("10.0.0.7:8080".parse::<std::net::SocketAddr>().unwrap()));
    guard.request();
    guard.carried(5, 7);
    let list = telemetry.connections.list();
    let [view] = list.as_slice() else { panic!("{list:?}") };
    assert_eq!((view.protocol, view.requests, view.received, view.sent), (L7::Http1, 1, 5, 7));
    assert_eq!(view.endpoint.unwrap().to_string(), "10.0.0.7:8080");
    assert_eq!(telemetry.connections.active(), 1);
    drop(guard);
    assert!(telemetry.connections.list().is_empty() && telemetry.connections.active() == 0);
}

fn peers<'a>(source: &'a Workload, destination: &'a Workload, service: &'a ServiceMeta) -> Peers<'a> {
    Peers {
        pod: testing::some_workload(),
        reporter: Reporter::Source,
        source: Some(source),
        client: ClientAddr::from("10.0.0.1:4242".parse::<std::net::SocketAddr>().unwrap()),
        destination: OrigDst::from("10.96.0.10:80".parse::<std::net::SocketAddr>().unwrap()),
        service: Some(service),
        endpoint: Some(EndpointAddr::from("[fd00::7]:8080".parse::<std::net::SocketAddr>().unwrap())),
        destination_workload: Some(destination),
        principals: None,
        hbone: false,
    }
}

/// Logs a good request, a hostile one and an opaque connection, and returns the lines.
fn logged(format: &str) -> String {
    let file = tempfile::NamedTempFile::new().unwrap();
    let access_log = format!("{format}:{}", file.path().display()).parse().unwrap();
    let telemetry = Telemetry::new(Options { access_log, ..Options::default() }).unwrap();
    let (web, cart_1, cart) = (workload("web-1", "web", "v1"), workload("cart-1", "cart", "v2"), cart());
    let good = RequestEntry {
        start: UNIX_EPOCH + Duration::from_millis(1_795_240_000_123),
        peers: peers(&web, &cart_1, &cart),
        method: b"POST",
        path: b"/buy?item=7",
        protocol: "HTTP/2",
        status: 200,
        grpc_status: Some(0),
        flag: Flag::None,
        details: "",
        bytes_received: 12,
        bytes_sent: 3_400,
        duration: Duration::from_micros(7_900),
        upstream_time: Some(Duration::from_millis(6)),
        attempts: 2,
        request_id: b"0b5c",
        trace_id: b"4bf92f",
        user_agent: b"grpc-rust/1",
        authority: b"cart",
        route: "",
        span: None,
        grpc: true,
        kept: None,
    };
    let hostile = RequestEntry {
        path: b"/\"\r\n[2026-01-01T00:00:00.000Z] \"GET /forged\x1b[2J\xff",
        user_agent: "\u{202e}".as_bytes(),
        status: 503,
        grpc_status: None,
        flag: Flag::NoHealthyUpstream,
        details: "no_healthy_upstream",
        upstream_time: None,
        attempts: 0,
        peers: Peers {
            source: None,
            endpoint: None,
            destination_workload: None,
            principals: None,
            hbone: false,
            ..good.peers
        },
        ..good
    };
    telemetry.access_log.request(&good);
    telemetry.access_log.request(&hostile);
    telemetry.access_log.connection(&ConnectionEntry {
        start: good.start,
        peers: good.peers,
        protocol: "tls",
        server_name: b"db.example",
        flag: Flag::UpstreamReset,
        details: "upstream_reset",
        bytes_received: 1,
        bytes_sent: 2,
        duration: Duration::from_secs(61),
        route: "shop/db/0",
        span: None,
    });
    telemetry.access_log.flush();
    std::fs::read_to_string(file.path()).unwrap()
}

#[test]
fn text_log_has_envoy_s_order_and_one_line_an_entry() {
    insta::assert_snapshot!(logged("text"), @r#"
    [2026-11-21T05:46:40.123Z] "POST /buy?item=7 HTTP/2" 200 - 12 3400 7 6 "-" "grpc-rust/1" "0b5c" "cart" "[fd00::7]:8080" outbound src=shop/web-1 client=10.0.0.1:4242 dst=10.96.0.10:80 service=cart.shop.svc.cluster.local workload=shop/cart-1 grpc=0 attempts=2 trace=4bf92f
    [2026-11-21T05:46:40.123Z] "POST /\"\x0d\x0a[2026-01-01T00:00:00.000Z] \"GET /forged\x1b[2J\xff HTTP/2" 503 UH 12 3400 7 - "-" "\xe2\x80\xae" "0b5c" "cart" "-" outbound client=10.0.0.1:4242 dst=10.96.0.10:80 service=cart.shop.svc.cluster.local details=no_healthy_upstream trace=4bf92f
    [2026-11-21T05:46:40.123Z] "- - tls" 0 UR 1 2 61000 - "-" "-" "-" "db.example" "[fd00::7]:8080" outbound src=shop/web-1 client=10.0.0.1:4242 dst=10.96.0.10:80 service=cart.shop.svc.cluster.local workload=shop/cart-1 details=upstream_reset route=shop/db/0
    "#);
}

#[test]
fn json_log_is_json_and_one_line_an_entry() {
    let log = logged("json");
    for line in log.lines() {
        let value: serde_json::Value = serde_json::from_str(line).unwrap();
        assert_eq!(value["reporter"], "source");
    }
    insta::assert_snapshot!(log, @r#"
    {"start_time":"2026-11-21T05:46:40.123Z","reporter":"source","source_workload":"shop/web-1","source_address":"10.0.0.1:4242","destination_address":"10.96.0.10:80","destination_service":"cart.shop.svc.cluster.local","upstream_host":"[fd00::7]:8080","destination_workload":"shop/cart-1","method":"POST","path":"/buy?item=7","protocol":"HTTP/2","response_code":200,"grpc_status":0,"response_flags":"-","bytes_received":12,"bytes_sent":3400,"duration":7,"upstream_service_time":6,"upstream_request_attempt_count":2,"request_id":"0b5c","trace_id":"4bf92f","user_agent":"grpc-rust/1","authority":"cart"}
    {"start_time":"2026-11-21T05:46:40.123Z","reporter":"source","source_address":"10.0.0.1:4242","destination_address":"10.96.0.10:80","destination_service":"cart.shop.svc.cluster.local","method":"POST","path":"/\"\u000d\u000a[2026-01-01T00:00:00.000Z] \"GET /forged\u001b[2J\ufffd","protocol":"HTTP/2","response_code":503,"response_flags":"UH","response_code_details":"no_healthy_upstream","bytes_received":12,"bytes_sent":3400,"duration":7,"request_id":"0b5c","trace_id":"4bf92f","user_agent":"\u202e","authority":"cart"}
    {"start_time":"2026-11-21T05:46:40.123Z","reporter":"source","source_workload":"shop/web-1","source_address":"10.0.0.1:4242","destination_address":"10.96.0.10:80","destination_service":"cart.shop.svc.cluster.local","upstream_host":"[fd00::7]:8080","destination_workload":"shop/cart-1","protocol":"tls","requested_server_name":"db.example","response_flags":"UR","response_code_details":"upstream_reset","bytes_received":1,"bytes_sent":2,"duration":61000,"route_name":"shop/db/0"}
    "#);
}

#[test]
fn lines_that_nobody_reads_are_dropped_and_counted() {
    let dir = tempfile::tempdir().unwrap();
    let pipe = dir.path().join("pipe");
    nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).unwrap();
    // Open, and never read.
    let _reader = std::fs::OpenOptions::new().read(true).write(true).open(&pipe).unwrap();
    let access_log = format!("text:{}", pipe.display()).parse().unwrap();
    let telemetry = Telemetry::new(Options { access_log, ..Options::default() }).unwrap();
    let (web, cart_1, cart) = (workload("web-1", "web", "v1"), workload("cart-1", "cart", "v2"), cart());
    let path = vec![b'a'; 8192];
    let entry = RequestEntry {
        start: UNIX_EPOCH,
        peers: peers(&web, &cart_1, &cart),
        method: b"GET",
        path: &path,
        protocol: "HTTP/1.1",
        status: 200,
        grpc_status: None,
        flag: Flag::None,
        details: "",
        bytes_received: 0,
        bytes_sent: 0,
        duration: Duration::ZERO,
        upstream_time: None,
        attempts: 1,
        request_id: b"",
        trace_id: b"",
        user_agent: b"",
        authority: b"",
        route: "",
        span: None,
        grpc: true,
        kept: None,
    };
    let begun = Instant::now();
    (0..400).for_each(|_| telemetry.access_log.request(&entry));
    assert!(begun.elapsed() < Duration::from_secs(20), "a worker waited for the log");
    assert!(telemetry.metrics.agent().access_log_dropped.get() > 0);
    // Let the writer go, so that the test ends.
    drop(_reader);
}

#[test]
fn lean_labels_keep_apart_what_full_ones_do_and_no_series_is_there_twice() {
    let metrics = Metrics::new(&Options { labels: LabelProfile::Lean, ..Options::default() });
    for reporter in [Reporter::Source, Reporter::Destination] {
        for security in [Security::None, Security::MutualTls] {
            metrics.edge(&EdgeKey { security, ..key(reporter) }).request(&report(200));
        }
    }
    let text = metrics.text();
    for gone in ["principal", "istio_request_bytes", "istio_response_bytes"] {
        assert!(!text.contains(gone), "{gone} is in {text}");
    }
    let requests = lines(&text, "istio_requests_total");
    assert_eq!(requests.len(), 4, "{requests:?}");
    for policy in ["none", "mutual_tls"] {
        let of = |line: &&&str| line.contains(&format!("connection_security_policy=\"{policy}\""));
        assert_eq!(requests.iter().filter(of).count(), 2, "{requests:?}");
    }
    let series: std::collections::HashSet<_> =
        text.lines().map(|line| line.rsplit_once(' ').unwrap().0).collect();
    assert_eq!(series.len(), text.lines().filter(|line| !line.is_empty()).count());
}

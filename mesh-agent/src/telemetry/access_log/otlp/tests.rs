//! What a collector reads of a request, a connection and a failure.

#![allow(clippy::unwrap_used)]

use super::*;
use crate::addr::{ClientAddr, EndpointAddr, OrigDst};
use crate::proxy::testing::some_workload;
use crate::telemetry::Reporter;
use crate::trace::testing::{ReadRecord, read_record, shown};
use crate::trace::{SpanId, TraceId};

fn addr(text: &str) -> std::net::SocketAddr {
    text.parse().unwrap()
}

fn peers() -> Peers<'static> {
    Peers {
        pod: some_workload(),
        reporter: Reporter::Source,
        source: Some(some_workload()),
        client: ClientAddr::from(addr("10.0.0.1:4242")),
        destination: OrigDst::from(addr("10.96.0.10:80")),
        service: None,
        endpoint: Some(EndpointAddr::from(addr("[fd00::7]:8080"))),
        destination_workload: None,
        principals: Some(["spiffe://d/ns/a/sa/b", "spiffe://d/ns/c/sa/d"]),
        hbone: true,
    }
}

fn entry() -> RequestEntry<'static> {
    RequestEntry {
        start: UNIX_EPOCH + Duration::from_secs(7),
        peers: peers(),
        method: b"BREW",
        path: b"/pot?token=[redacted]",
        protocol: "HTTP/2",
        status: 200,
        grpc_status: Some(14),
        flag: Flag::None,
        details: "",
        bytes_received: 0,
        bytes_sent: 3,
        duration: Duration::from_micros(7_900),
        upstream_time: Some(Duration::from_millis(6)),
        attempts: 2,
        request_id: b"0b5c",
        trace_id: b"",
        user_agent: b"me",
        authority: b"user:password@cart:81",
        route: "shop/cart/0",
        span: Some(SpanContext { trace: TraceId(1), span: SpanId(2), flags: 1 }),
        grpc: true,
        kept: None,
    }
}

/// The one record that comes of it, and the pod that it is of.
fn record(log: impl FnOnce(&Pipeline)) -> ReadRecord {
    let (pipeline, _) = Pipeline::for_tests();
    log(&pipeline);
    let mut taken = pipeline.taken();
    let (of, bytes) = taken.pop().unwrap();
    assert!(taken.is_empty() && std::sync::Arc::ptr_eq(&of, some_workload()));
    read_record(&bytes)
}

#[test]
fn a_request_is_told_by_opentelemetrys_names_and_envoys() {
    let read = record(|pipeline| request(pipeline, &entry()));
    let want = [
        ("http.request.method", "_OTHER"),
        ("http.request.method_original", "BREW"),
        ("url.path", "/pot"),
        ("url.query", "token=[redacted]"),
        ("http.response.status_code", "200"),
        ("rpc.system.name", "grpc"),
        ("rpc.response.status_code", "UNAVAILABLE"),
        ("network.protocol.name", "http"),
        ("network.protocol.version", "2"),
        ("user_agent.original", "me"),
        ("http.request.header.x-request-id", "[0b5c]"),
        ("http.request.body.size", "0"),
        ("http.response.body.size", "3"),
        ("server.address", "cart"),
        ("server.port", "81"),
        ("upstream_service_time", "6"),
        ("upstream_request_attempt_count", "2"),
        ("response_flags", "-"),
        ("duration", "7"),
        ("route_name", "shop/cart/0"),
        ("reporter", "source"),
        ("client.address", "10.0.0.1"),
        ("client.port", "4242"),
        ("source_workload", "test/client"),
        ("destination_address", "10.96.0.10:80"),
        ("upstream_host", "[fd00::7]:8080"),
        ("connection_security_policy", "mutual_tls"),
        ("source_principal", "spiffe://d/ns/a/sa/b"),
        ("destination_principal", "spiffe://d/ns/c/sa/d"),
        ("connection_transport", "hbone"),
    ];
    assert_eq!(shown(&read.attributes), want.map(|(key, value)| (key.into(), value.into())));
    assert_eq!(read.time_unix_nano, 7_000_000_000);
    assert_eq!(read.observed_time_unix_nano, 7_007_900_000);
    assert_eq!((read.severity_text.as_str(), read.flags), ("INFO", 1));
    assert_eq!((read.trace_id.len(), &read.span_id[..]), (16, &2_u64.to_be_bytes()[..]));
    let mut line = Vec::new();
    text::request(&mut line, &entry());
    assert_eq!(read.body().as_bytes(), line);
}

#[test]
fn what_has_failed_is_an_error() {
    let severity = |entry: RequestEntry<'_>| record(|pipeline| request(pipeline, &entry)).severity_text;
    assert_eq!(severity(RequestEntry { status: 404, ..entry() }), "INFO");
    assert_eq!(severity(RequestEntry { status: 500, ..entry() }), "ERROR");
    assert_eq!(severity(RequestEntry { status: 403, flag: Flag::Denied, ..entry() }), "ERROR");
}

#[test]
fn a_connection_is_told_too() {
    let read = record(|pipeline| {
        connection(
            pipeline,
            &ConnectionEntry {
                start: UNIX_EPOCH,
                peers: Peers { principals: None, source: None, endpoint: None, ..peers() },
                protocol: "tls",
                server_name: b"db.example",
                flag: Flag::UpstreamReset,
                details: "upstream_reset",
                bytes_received: 1,
                bytes_sent: 2,
                duration: Duration::from_secs(61),
                route: "",
                span: None,
            },
        );
    });
    let want = [
        ("network.transport", "tcp"),
        ("network.protocol.name", "tls"),
        ("tls.client.server_name", "db.example"),
        ("server.address", "10.96.0.10"),
        ("server.port", "80"),
        ("bytes_received", "1"),
        ("bytes_sent", "2"),
        ("response_flags", "UR"),
        ("response_code_details", "upstream_reset"),
        ("duration", "61000"),
        ("reporter", "source"),
        ("client.address", "10.0.0.1"),
        ("client.port", "4242"),
        ("destination_address", "10.96.0.10:80"),
    ];
    assert_eq!(shown(&read.attributes), want.map(|(key, value)| (key.into(), value.into())));
    assert_eq!((read.severity_text.as_str(), read.trace_id.len()), ("ERROR", 0));
    assert!(read.body().contains("\"- - tls\" 0 UR 1 2 61000"), "{}", read.body());
}

#[test]
fn what_the_queue_has_no_room_for_is_dropped_and_counted() {
    let (pipeline, counters) = Pipeline::for_tests();
    let path = vec![b'a'; 64 * 1024];
    (0..200).for_each(|_| request(&pipeline, &RequestEntry { path: &path, ..entry() }));
    let kept = pipeline.taken().len() as u64;
    assert!(kept > 0 && kept < 200, "{kept}");
    assert_eq!(counters.items.with_label_values(&["queue_full"]).get(), 200 - kept);
}

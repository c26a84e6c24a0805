//! What a collector is told of requests, whichever way they went and however they ended.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::net::SocketAddr;

use http::{Request, StatusCode, request};

use super::*;
use crate::addr::{ClientAddr, EndpointAddr, OrigDst};
use crate::model::{ObjectName, Target};
use crate::proxy::edges::Edges;
use crate::proxy::plan::Plan;
use crate::proxy::{Backends, Exchange, Limits, LocalAnswer, Reach, testing};
use crate::telemetry::Telemetry;
use crate::trace::testing::ReadSpan;
use crate::trace::{Keep, Ratio};

const KEEP: Keep = Keep { errors: true, slow: None };
const PARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

fn addr(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

/// A connection of a traced pod, to an endpoint that is this pod, if it is one.
fn connection(ratio: Ratio, keep: Keep, direction: Direction, to: Option<Workload>) -> Connection {
    let pod = testing::pod(Limits::default(), Telemetry::traced(Tracer::for_tests(ratio, keep)));
    let (client, dst) = (ClientAddr::from(addr("10.0.0.1:4000")), OrigDst::from(addr("10.96.0.1:80")));
    let conn = Connection::open(&pod, direction, client, dst, &Target::Unknown);
    let to = to.map(Arc::new);
    let edges = match direction {
        Direction::Outbound => Edges::outbound(&pod, None, to.as_ref(), &Reach::Plain),
        Direction::Inbound => Edges::inbound(&conn, None),
    };
    let upstream = Upstream::paired(EndpointAddr::from(addr("10.0.0.9:8080")), to, edges);
    conn.set_backends(Backends::Single(Rc::new(upstream)));
    conn
}

fn head(lines: &[(&str, &str)]) -> request::Parts {
    let request = Request::post("/cart/pay?card=4711&token").header("host", "cart.shop:8080");
    let request = lines.iter().fold(request, |request, (name, value)| request.header(*name, *value));
    request.body(()).unwrap().into_parts().0
}

fn spans(conn: &Connection) -> Vec<(String, ReadSpan)> {
    let tracer = conn.pod.worker.telemetry.tracer.as_ref().unwrap();
    tracer.spans().into_iter().map(|(pod, span)| (pod.name.name.clone(), span)).collect()
}

fn check(span: &ReadSpan, want: &[(&str, &str)]) {
    for (key, value) in want {
        assert_eq!(span.attribute(key).as_deref(), Some(*value), "{key} of {span:#?}");
    }
}

fn events(span: &ReadSpan) -> Vec<String> {
    let event = |event: &crate::trace::testing::ReadEvent| {
        let told: Vec<_> =
            crate::trace::testing::shown(&event.attributes).into_iter().map(|(_, value)| value).collect();
        format!("{} {}", event.name, told.join(" "))
    };
    span.events.iter().map(event).collect()
}

/// Answers a request that had this head.
fn answer(conn: &Connection, head: &mut request::Parts, status: u16) {
    let mut account = Exchange::begin(conn, head);
    let picked = conn.pick(&Plan::default(), &[], None).unwrap();
    account.sent_to(&picked);
    account.answered(&picked, StatusCode::from_u16(status).unwrap());
}

fn server() -> Workload {
    Workload { name: ObjectName::new("test", "server"), ..testing::workload() }
}

#[test]
fn a_request_to_a_stranger_is_a_client_span_whose_id_goes_on() {
    let conn = connection(Ratio::NONE, KEEP, Direction::Outbound, None);
    let mut head = head(&[
        ("traceparent", PARENT),
        ("tracestate", "a=b"),
        ("user-agent", "me"),
        ("x-request-id", "r-1"),
    ]);
    answer(&conn, &mut head, 200);
    let all = spans(&conn);
    let (pod, span) = &all[0];
    assert_eq!((all.len(), pod.as_str(), span.kind, span.name.as_str()), (1, "client", 3, "POST"));
    let (trace, id, parent) = span.ids();
    let goes_on = head.headers["traceparent"].to_str().unwrap().to_owned();
    assert_eq!(goes_on, format!("00-{trace:?}-{id:?}-01"));
    assert_eq!(format!("00-{trace:?}-{:?}-01", parent.unwrap()), PARENT);
    assert_eq!((span.trace_state.as_str(), span.flags, span.is_error()), ("a=b", 0x301, false));
    assert!(span.end_time_unix_nano >= span.start_time_unix_nano && span.start_time_unix_nano > 1 << 60);
    check(
        span,
        &[
            ("http.request.method", "POST"),
            ("http.response.status_code", "200"),
            ("url.full", "http://cart.shop:8080/cart/pay?card=REDACTED&REDACTED"),
            ("server.address", "cart.shop"),
            ("server.port", "8080"),
            ("network.peer.address", "10.0.0.9"),
            ("network.peer.port", "8080"),
            ("network.protocol.version", "1.1"),
            ("user_agent.original", "me"),
            ("http.request.header.x-request-id", "[r-1]"),
        ],
    );
    assert!(span.attribute("error.type").is_none() && span.attribute("client.address").is_none());
}

#[test]
fn on_one_node_both_sides_have_a_span_and_the_servers_id_goes_on() {
    let conn = connection(Ratio::ALL, KEEP, Direction::Outbound, Some(server()));
    let mut head = head(&[]);
    answer(&conn, &mut head, 404);
    let all = spans(&conn);
    let [(client, first), (server, second)] = &all[..] else { panic!("{all:#?}") };
    assert_eq!((client.as_str(), first.kind, server.as_str(), second.kind), ("client", 3, "server", 2));
    let ((trace, id, none), (same, last, parent)) = (first.ids(), second.ids());
    assert_eq!((trace, none, Some(id)), (same, None, parent));
    assert_eq!(head.headers["traceparent"], format!("00-{trace:?}-{last:?}-01"));
    assert_eq!((first.flags, second.flags), (0x101, 0x101));
    // The client's mistake, which is no failure of the server's.
    assert_eq!((first.is_error(), second.is_error()), (true, false));
    check(first, &[("error.type", "404")]);
    check(
        second,
        &[
            ("url.path", "/cart/pay"),
            ("url.query", "card=REDACTED&REDACTED"),
            ("url.scheme", "http"),
            ("client.address", "10.0.0.1"),
            ("network.peer.port", "4000"),
        ],
    );
}

#[test]
fn what_arrives_is_a_server_span_below_the_one_that_sent_it() {
    let conn = connection(Ratio::NONE, KEEP, Direction::Inbound, None);
    let mut head = head(&[("b3", "4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-1")]);
    answer(&conn, &mut head, 500);
    let all = spans(&conn);
    let (trace, id, parent) = all[0].1.ids();
    assert_eq!((all.len(), all[0].1.kind, parent), (1, 2, Some(SpanId(0x00f0_67aa_0ba9_02b7))));
    assert_eq!(head.headers["b3"], format!("{trace:?}-{id:?}-1-00f067aa0ba902b7"));
    assert!(all[0].1.is_error() && !head.headers.contains_key("traceparent"));
}

#[test]
fn a_record_names_the_span_of_its_own_side() {
    for (direction, to) in
        [(Direction::Outbound, Some(server())), (Direction::Outbound, None), (Direction::Inbound, None)]
    {
        let conn = connection(Ratio::ALL, KEEP, direction, to);
        let trace = conn.trace_request(&mut HeaderMap::new()).unwrap();
        let picked = conn.pick(&Plan::default(), &[], None).unwrap();
        let told = context(&conn, &trace, Some(&picked.upstream));
        let own = views(&conn, &trace, Some(&picked.upstream)).next().unwrap();
        assert_eq!(
            (told.trace, told.span, told.flags),
            (trace.trace, own.id, trace.flags()),
            "{direction:?}"
        );
        assert_eq!(own.pod.name, conn.pod.workload().name);
    }
}

#[test]
fn of_what_isnt_sampled_only_failures_are_kept_and_only_where_nobody_else_decided() {
    let exported = |keep: Keep, lines: &[(&str, &str)], status: u16| {
        let conn = connection(Ratio::NONE, keep, Direction::Outbound, None);
        answer(&conn, &mut head(lines), status);
        spans(&conn).len()
    };
    let refused = ("traceparent", &*PARENT.replace("-01", "-00"));
    assert_eq!(exported(KEEP, &[], 200), 0);
    assert_eq!(exported(KEEP, &[], 503), 1);
    assert_eq!(exported(KEEP, &[], 404), 0);
    assert_eq!(exported(KEEP, &[refused], 503), 0);
    assert_eq!(exported(KEEP, &[refused, ("tracestate", "mesh-agent=keep")], 503), 1);
    assert_eq!(exported(Keep::default(), &[], 503), 0);
    let slow = Keep { errors: false, slow: Some(Duration::ZERO) };
    assert_eq!(exported(slow, &[], 200), 1);
}

#[test]
fn what_happened_on_the_way_is_told_as_events() {
    let conn = connection(Ratio::ALL, KEEP, Direction::Outbound, None);
    {
        let mut head = head(&[]);
        let mut account = Exchange::begin(&conn, &mut head);
        account.delayed();
        let mut picked = conn.pick(&Plan::default(), &[], None).unwrap();
        account.sent_to(&picked);
        account.tried(&picked, StatusCode::SERVICE_UNAVAILABLE, None);
        picked.after = Some("status");
        account.sent_to(&picked);
        account.hedged();
        account.fell_back(ErrorKind::UpstreamTimeout);
        account.fail(ErrorKind::RateLimited);
        account.answered_locally(StatusCode::TOO_MANY_REQUESTS);
    }
    let all = spans(&conn);
    let want = [
        "fault fault_delay",
        "retry 2 status 10.0.0.9:8080",
        "hedge 3",
        "fallback upstream_timeout",
        "limit rate_limited",
    ];
    assert_eq!(events(&all[0].1), want);
    let times: Vec<_> = all[0].1.events.iter().map(|event| event.time_unix_nano).collect();
    assert!(times.is_sorted() && times[0] >= all[0].1.start_time_unix_nano, "{times:?}");
    assert!(times[4] <= all[0].1.end_time_unix_nano);
    check(
        &all[0].1,
        &[
            ("http.request.resend_count", "2"),
            ("mesh_agent.response_flags", "RL"),
            ("error.type", "rate_limited"),
            ("http.response.status_code", "429"),
        ],
    );
}

#[test]
fn a_policys_decision_is_an_event_with_its_reasons() {
    let conn = connection(Ratio::ALL, KEEP, Direction::Inbound, None);
    {
        let mut head = head(&[]);
        let mut account = Exchange::begin(&conn, &mut head);
        account.fail(ErrorKind::Denied);
        let answer = LocalAnswer::refusing(ErrorKind::Denied);
        account.answered_with(&LocalAnswer { details: Some("rbac shop/deny".into()), ..answer });
        account.answered_locally(StatusCode::FORBIDDEN);
    }
    let all = spans(&conn);
    let denied = format!("policy {} rbac shop/deny", ErrorKind::Denied.label());
    assert_eq!(events(&all[0].1), [denied]);
    assert!(!all[0].1.is_error());
}

#[test]
fn grpc_is_told_as_rpc() {
    let conn = connection(Ratio::ALL, KEEP, Direction::Outbound, None);
    {
        let request = Request::post("/shop.Cart/Add").header("content-type", "application/grpc");
        let mut head = request.version(http::Version::HTTP_2).body(()).unwrap().into_parts().0;
        let mut account = Exchange::begin(&conn, &mut head);
        let picked = conn.pick(&Plan::default(), &[], None).unwrap();
        account.sent_to(&picked);
        account.answered(&picked, StatusCode::OK);
        account.grpc_status(14);
    }
    let all = spans(&conn);
    assert_eq!(all[0].1.name, "shop.Cart/Add");
    assert!(all[0].1.is_error() && all[0].1.attribute("http.request.method").is_none());
    check(
        &all[0].1,
        &[
            ("rpc.system.name", "grpc"),
            ("rpc.method", "shop.Cart/Add"),
            ("rpc.response.status_code", "UNAVAILABLE"),
            ("error.type", "UNAVAILABLE"),
            ("network.protocol.version", "2"),
        ],
    );
}

#[test]
fn a_method_that_nobody_knows_is_no_name() {
    let conn = connection(Ratio::ALL, KEEP, Direction::Outbound, None);
    drop(Exchange::unreadable(&conn, http::Version::HTTP_11));
    let all = spans(&conn);
    assert_eq!(all[0].1.name, "HTTP");
    check(&all[0].1, &[("http.request.method", "_OTHER"), ("http.request.method_original", "-")]);
}

#[test]
fn nobody_reads_names_and_passwords_of_an_authority() {
    let conn = connection(Ratio::ALL, KEEP, Direction::Outbound, None);
    {
        let mut head = Request::get("/").header("host", "me:secret@cart:1").body(()).unwrap().into_parts().0;
        drop(Exchange::begin(&conn, &mut head));
    }
    let all = spans(&conn);
    check(&all[0].1, &[("server.address", "cart"), ("url.full", "http://cart:1/")]);
}

#[test]
fn a_connection_is_traced_as_one_and_another_agents_word_holds() {
    let conn = connection(Ratio::ALL, KEEP, Direction::Outbound, None);
    let told = conn.trace_header().unwrap();
    conn.goes_elsewhere(&[EndpointAddr::from(addr("10.0.0.9:8080"))], ErrorKind::ConnectTimeout);
    crate::proxy::tcp::note_refused(&conn, ErrorKind::ConnectFailed);
    let all = spans(&conn);
    let (trace, id, parent) = all[0].1.ids();
    assert_eq!((all.len(), all[0].1.name.as_str(), all[0].1.kind, parent), (1, "tcp", 3, None));
    assert_eq!(told, format!("00-{trace:?}-{id:?}-01"));
    assert_eq!(events(&all[0].1), ["retry 2 connect_timeout 10.0.0.9:8080"]);
    check(
        &all[0].1,
        &[("network.transport", "tcp"), ("server.address", "10.96.0.1"), ("error.type", "connect_failed")],
    );
    let far = connection(Ratio::NONE, KEEP, Direction::Inbound, None);
    far.continue_trace(&HeaderMap::from_iter([(TRACEPARENT, told)]));
    crate::proxy::tcp::note_refused(&far, ErrorKind::ConnectFailed);
    let far = spans(&far);
    assert_eq!((far[0].1.ids().0, far[0].1.ids().2, far[0].1.kind), (trace, Some(id), 2));
}

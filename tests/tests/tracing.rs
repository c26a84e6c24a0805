//! Traces: what applications and a collector of OpenTelemetry's own messages see of them, and that a collector costs no request anything.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::io::{Read, Write};
use std::net::Shutdown;
use std::sync::OnceLock;

use anyhow::ensure;
use http::Request;
use mesh_tests::collector::Collector;
use mesh_tests::http1::Message;
use mesh_tests::http2::{H2Server, answer, whole, with_client};
use mesh_tests::server::Server;
use mesh_tests::shop::{HttpService, Shop};
use mesh_tests::{SOON, agent_options};
use serde_json::Value;

/// A trace that an application has begun.
const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const PARENT: &str = "00f067aa0ba902b7";

/// One shop for all, where every trace is recorded.
struct Scene {
    shop: Shop,
    collector: Collector,
}

fn scene() -> Option<&'static Scene> {
    static SCENE: OnceLock<Option<Scene>> = OnceLock::new();
    let start = || {
        let options = agent_options()?.flag("trace-sampling", "1").flag("trace-limit", "0");
        let collector = Collector::start().expect("a collector");
        let shop = Shop::start("tracing", collector.flags(options, "grpc")).expect("a shop");
        Some(Scene { shop, collector })
    };
    SCENE.get_or_init(start).as_ref()
}

macro_rules! need_scene {
    () => {
        match scene() {
            Some(scene) => scene,
            None => return,
        }
    };
}

// Behind the macro, which they use.
#[path = "tracing/events.rs"]
mod events;
#[path = "tracing/logs.rs"]
mod logs;
#[path = "tracing/nodes.rs"]
mod nodes;
#[path = "tracing/trouble.rs"]
mod trouble;

/// Asks for `/` with these lines in the head, and with `id` as x-request-id, and returns what the application got.
fn ask(shop: &Shop, service: &HttpService, id: &str, lines: &str) -> Message {
    let head =
        format!("GET /head HTTP/1.1\r\nHost: {}.shop\r\nX-Request-Id: {id}\r\n{lines}\r\n", service.name);
    assert_eq!(shop.client(service).unwrap().ask(head).unwrap().status(), 200);
    let mut got = service.backends.iter().flat_map(|backend| backend.seen.all());
    got.rfind(|message| message.header("x-request-id") == Some(id)).unwrap()
}

fn text<'v>(span: &'v Value, key: &str) -> &'v str {
    span[key].as_str().unwrap_or_default()
}

/// Holds attributes of a span against what they should be.
fn check(span: &Value, want: &[(&str, Value)]) {
    for (key, value) in want {
        assert_eq!(span["attributes"][key], *value, "{key} of {span:#}");
    }
}

#[test]
fn a_request_of_http1_is_a_client_and_a_server_span_and_the_application_is_below_them() {
    let Scene { shop, collector } = need_scene!();
    let service = shop.http("plain", "http", 1).unwrap();
    let got = ask(shop, &service, "http1", "User-Agent: me\r\n");
    let [client, server] = &collector.wait("http1", 2).unwrap()[..] else { panic!() };
    assert_eq!((client["kind"].as_u64(), server["kind"].as_u64()), (Some(3), Some(2)));
    assert_eq!((text(client, "parent"), text(server, "parent")), ("", text(client, "id")));
    assert_eq!(text(client, "trace"), text(server, "trace"));
    let want = format!("00-{}-{}-01", text(server, "trace"), text(server, "id"));
    assert_eq!(got.header("traceparent"), Some(&*want));
    assert_eq!((text(client, "name"), text(client, "scope")), ("GET", "mesh-agent"));
    for (span, pod) in [(client, &shop.web), (server, &shop.carts[0])] {
        let app = if pod.name() == "web" { "web" } else { "cart" };
        for (key, value) in [
            ("service.name", app),
            ("service.namespace", "shop"),
            ("k8s.namespace.name", "shop"),
            ("k8s.pod.name", pod.name()),
            ("k8s.node.name", "node-a"),
        ] {
            assert_eq!(span["resource"][key], value, "{key} of {span:#}");
        }
        assert!(span["nanos"].as_u64().unwrap() > 0 && span["age"].as_f64().unwrap() < 300.0, "{span:#}");
        check(
            span,
            &[
                ("http.request.method", "GET".into()),
                ("http.response.status_code", 200.into()),
                ("network.protocol.version", "1.1".into()),
                ("server.address", "plain.shop".into()),
                ("user_agent.original", "me".into()),
                ("mesh_agent.destination.service", "plain.shop.svc.cluster.local".into()),
            ],
        );
    }
    check(
        client,
        &[
            ("url.full", "http://plain.shop/head".into()),
            ("network.peer.address", shop.carts[0].v4().to_string().into()),
        ],
    );
    check(server, &[("url.path", "/head".into()), ("client.address", shop.web.v4().to_string().into())]);
    let line = shop.log_shows("http1", |line| line["request_id"] == "http1").unwrap();
    assert_eq!(line["trace_id"], client["trace"]);
}

#[test]
fn an_applications_context_is_continued_in_the_form_that_it_came_in() {
    let Scene { shop, collector } = need_scene!();
    let service = shop.http("forms", "http", 1).unwrap();
    let short = &TRACE[16..];
    let forms = [
        ("w3c", format!("TraceParent: 00-{TRACE}-{PARENT}-01\r\nTracestate: a=b\r\n"), TRACE),
        ("single", format!("b3: {TRACE}-{PARENT}-1\r\n"), TRACE),
        ("multi", format!("X-B3-TraceId: {short}\r\nX-B3-SpanId: {PARENT}\r\nX-B3-Sampled: 1\r\n"), short),
    ];
    for (id, lines, trace) in &forms {
        let got = ask(shop, &service, id, lines);
        let spans = collector.wait(id, 2).unwrap();
        let [client, server] = &spans[..] else { panic!() };
        assert_eq!(
            (text(client, "trace"), text(client, "parent")),
            (&*format!("{trace:0>32}"), PARENT),
            "{id}"
        );
        let (below, above) = (text(server, "id"), text(client, "parent"));
        let want: &[(&str, String)] = &match *id {
            "w3c" => vec![("traceparent", format!("00-{TRACE}-{below}-01")), ("tracestate", "a=b".into())],
            "single" => vec![("b3", format!("{TRACE}-{below}-1-{above}"))],
            _ => vec![
                ("x-b3-traceid", short.into()),
                ("x-b3-spanid", below.into()),
                ("x-b3-parentspanid", above.into()),
                ("x-b3-sampled", "1".into()),
            ],
        };
        for (name, value) in want {
            assert_eq!(got.headers(name), [value], "{id}: {name}");
        }
        assert_eq!(got.header("traceparent").is_some(), *id == "w3c", "{id}");
    }
    assert_eq!(text(&collector.wait("w3c", 2).unwrap()[0], "state"), "a=b");
}

#[test]
fn what_an_application_doesnt_want_recorded_isnt_though_it_fails() {
    let Scene { shop, collector } = need_scene!();
    let service = shop.http("unsampled", "http", 1).unwrap();
    let refusals = [
        ("not-w3c", format!("traceparent: 00-{TRACE}-{PARENT}-00\r\n")),
        ("not-single", "b3: 0\r\n".into()),
        ("not-multi", format!("X-B3-TraceId: {TRACE}\r\nX-B3-SpanId: {PARENT}\r\nX-B3-Sampled: 0\r\n")),
    ];
    for (id, lines) in &refusals {
        let got = ask(shop, &service, id, lines);
        let decision = match *id {
            "not-w3c" => got.header("traceparent").unwrap().rsplit('-').next(),
            "not-single" => got.header("b3").unwrap().split('-').nth(2),
            _ => got.header("x-b3-sampled"),
        };
        assert!(matches!(decision, Some("00" | "0")), "{id}: {}", got.head);
        assert!(!got.head.contains(PARENT) || *id == "not-multi", "{}", got.head);
    }
    service.seen().answer_with(503);
    let lines = format!("X-Request-Id: failed\r\ntraceparent: 00-{TRACE}-{PARENT}-00\r\n");
    let request = format!("GET / HTTP/1.1\r\nHost: a\r\n{lines}\r\n");
    assert_eq!(shop.client(&service).unwrap().ask(request).unwrap().status(), 503);
    // What comes later is exported later.
    service.seen().answer_with(0);
    ask(shop, &service, "afterwards", "");
    collector.wait("afterwards", 2).unwrap();
    for id in ["not-w3c", "not-single", "not-multi", "failed"] {
        assert_eq!(collector.spans(id).unwrap(), [Value::Null; 0], "{id}");
    }
}

#[test]
fn grpc_is_told_by_its_method_and_continued_from_binary_metadata() {
    let Scene { shop, collector } = need_scene!();
    let port = shop.port();
    let (seen, got) = std::sync::mpsc::channel();
    let _server = H2Server::new(shop.carts[0].listen(port).unwrap(), None, move |request, mut respond| {
        let _ = seen.send(request.headers().clone());
        async move {
            let status = [("grpc-status".parse().unwrap(), "14".parse().unwrap())];
            answer(&mut respond, "", Some(status.into_iter().collect()));
        }
    });
    let service = shop.expose("rpc", "grpc", port, &[&shop.carts[0]]).unwrap();
    let bytes: Vec<u8> = [&[0, 0][..], &[0x40; 16], &[1], &[0x61; 8], &[2, 1]].concat();
    let binary = data_encoding::BASE64_NOPAD.encode(&bytes);
    with_client(shop.web.connect(service.at()).unwrap(), async |client| {
        let request = Request::post("http://rpc/shop.Cart/Add").header("content-type", "application/grpc");
        let request = request.header("x-request-id", "rpc").header("grpc-trace-bin", &binary).body(())?;
        let (response, _) = client.clone().ready().await?.send_request(request, true)?;
        whole(response.await?).await
    })
    .unwrap();
    let [client, server] = &collector.wait("rpc", 2).unwrap()[..] else { panic!() };
    assert_eq!((text(client, "trace"), text(client, "parent")), (&*"40".repeat(16), &*"61".repeat(8)));
    let headers = got.recv_timeout(SOON).unwrap();
    let on = data_encoding::BASE64_NOPAD.decode(headers["grpc-trace-bin"].as_bytes()).unwrap();
    let id: String = on[19..27].iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!((&on[..19], text(server, "id")), (&bytes[..19], &*id));
    assert!(!headers.contains_key("traceparent"));
    for span in [client, server] {
        assert_eq!((text(span, "name"), &span["error"]), ("shop.Cart/Add", &true.into()));
        check(
            span,
            &[
                ("rpc.system.name", "grpc".into()),
                ("rpc.method", "shop.Cart/Add".into()),
                ("rpc.response.status_code", "UNAVAILABLE".into()),
                ("network.protocol.version", "2".into()),
                ("error.type", "UNAVAILABLE".into()),
            ],
        );
    }
}

#[test]
fn an_opaque_connection_is_two_spans() {
    let Scene { shop, collector } = need_scene!();
    let port = shop.port();
    let _server = Server::new(shop.carts[0].listen(port).unwrap(), |mut stream, _| {
        let mut all = Vec::new();
        let _ = stream.read_to_end(&mut all);
        let _ = stream.write_all(&all);
    });
    let service = shop.expose("opaque", "tcp", port, &[&shop.carts[0]]).unwrap();
    let mut stream = shop.web.connect(service.at()).unwrap();
    stream.write_all(b"hello").unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    let mut all = Vec::new();
    stream.read_to_end(&mut all).unwrap();
    assert_eq!(all, b"hello");
    let of = |span: &Value| span["name"] == "tcp opaque.shop.svc.cluster.local";
    let [client, server] = &collector.wait_with("opaque", 2, of).unwrap()[..] else { panic!() };
    assert_eq!((text(server, "parent"), text(client, "parent")), (text(client, "id"), ""));
    assert_eq!((client["kind"].as_u64(), server["kind"].as_u64()), (Some(3), Some(2)));
    for span in [client, server] {
        let want = [
            ("network.transport", "tcp".into()),
            ("mesh_agent.bytes_received", 5.into()),
            ("mesh_agent.bytes_sent", 5.into()),
            ("server.address", "opaque.shop.svc.cluster.local".into()),
        ];
        check(span, &want);
    }
}

#[test]
fn no_secret_is_told() {
    let Scene { shop, collector } = need_scene!();
    let service = shop.http("secrets", "http", 1).unwrap();
    let marker = "s3cr3t-marker";
    let head = format!(
        "POST /echo?card={marker}&{marker} HTTP/1.1\r\nHost: a\r\nX-Request-Id: secret\r\nAuthorization: Bearer {marker}\r\n\
         Cookie: id={marker}\r\nX-Api-Key: {marker}\r\nContent-Length: {}\r\n\r\n{marker}",
        marker.len()
    );
    assert_eq!(shop.client(&service).unwrap().ask(head).unwrap().status(), 200);
    let spans = collector.wait("secret", 2).unwrap();
    assert!(!serde_json::to_string(&spans).unwrap().contains(marker), "{spans:#?}");
    check(&spans[1], &[("url.query", "card=REDACTED&REDACTED".into())]);
}

#[test]
fn of_a_service_as_many_are_recorded_as_it_says_and_elsewhere_failures_alone() {
    let options = mesh_tests::need_agent!().flag("trace-sampling", "0").flag("trace-keep", "errors,1s");
    let collector = Collector::start().unwrap();
    let shop = Shop::start("tracesome", collector.flags(options, "http")).unwrap();
    let with =
        |service: mesh_tests::lab::ServiceObject| service.annotation("mesh-agent.dev/trace-sampling", "1.0");
    let all = shop.http_with("all", "http", 1, with).unwrap();
    let none = shop.http("none", "http", 1).unwrap();
    let got = ask(&shop, &none, "fine", "");
    assert!(got.header("traceparent").unwrap().ends_with("-00"), "{}", got.head);
    assert_eq!(got.header("tracestate"), Some("mesh-agent=keep"));
    let fails = |id: &str, path: &str| {
        let head = format!("GET {path} HTTP/1.1\r\nHost: a\r\nX-Request-Id: {id}\r\n\r\n");
        shop.client(&none).unwrap().ask(head).unwrap().status()
    };
    assert_eq!((fails("failed", "/status/500"), fails("mistaken", "/status/404")), (500, 404));
    assert_eq!(fails("slow", "/slow/1000"), 200);
    assert!(ask(&shop, &all, "sampled", "").header("traceparent").unwrap().ends_with("-01"));
    for id in ["failed", "slow", "sampled"] {
        let spans = collector.wait(id, 2).unwrap();
        assert_eq!(text(&spans[1], "parent"), text(&spans[0], "id"), "{id}");
    }
    for id in ["fine", "mistaken"] {
        assert_eq!(collector.spans(id).unwrap(), [Value::Null; 0], "{id}");
    }
    shop.metrics_show(|metrics| {
        let exported = metrics.sum("mesh_agent_trace_spans_total", &[("result", "exported")]);
        ensure!(exported == 6.0, "{exported}");
        Ok(())
    })
    .unwrap();
}

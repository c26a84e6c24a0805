//! Templates: what is one, and what lines come of it.

#![allow(clippy::unwrap_used)]

use std::time::{Duration, UNIX_EPOCH};

use http::HeaderMap;

use super::*;
use crate::addr::{ClientAddr, EndpointAddr, OrigDst};
use crate::flags::Flag;
use crate::model::{ObjectName, ServiceMeta};
use crate::proxy::testing;
use crate::telemetry::access_log::entry::{ConnectionEntry, Peers, RequestEntry};
use crate::telemetry::headers::Keeper;
use crate::telemetry::{Kept, Reporter};

/// Envoy's own default format.
const DEFAULT: &str = "[%START_TIME%] \"%REQ(:METHOD)% %REQ(X-ENVOY-ORIGINAL-PATH?:PATH)% %PROTOCOL%\" \
    %RESPONSE_CODE% %RESPONSE_FLAGS% %BYTES_RECEIVED% %BYTES_SENT% %DURATION% \
    %RESP(X-ENVOY-UPSTREAM-SERVICE-TIME)% \"%REQ(X-FORWARDED-FOR)%\" \"%REQ(USER-AGENT)%\" \
    \"%REQ(X-REQUEST-ID)%\" \"%REQ(:AUTHORITY)%\" \"%UPSTREAM_HOST%\"\n";

fn addr(text: &str) -> std::net::SocketAddr {
    text.parse().unwrap()
}

fn peers<'a>(service: &'a ServiceMeta, reporter: Reporter) -> Peers<'a> {
    Peers {
        pod: testing::some_workload(),
        reporter,
        source: None,
        client: ClientAddr::from(addr("10.0.0.1:4242")),
        destination: OrigDst::from(addr("10.96.0.10:80")),
        service: Some(service),
        endpoint: Some(EndpointAddr::from(addr("[fd00::7]:8080"))),
        destination_workload: None,
        principals: Some(["spiffe://d/ns/a/sa/b", "spiffe://d/ns/c/sa/d"]),
        hbone: false,
    }
}

fn cart() -> ServiceMeta {
    ServiceMeta {
        name: ObjectName::new("shop", "cart"),
        host: "cart.shop.svc.cluster.local".into(),
        trace_sampling: None,
    }
}

fn kept(template: &Template) -> Box<Kept> {
    let mut headers = HeaderMap::new();
    for (name, value) in
        [("user-agent", "me \"1\""), ("x-request-id", "0b5c"), ("x-a", "abcdef"), ("server", "s")]
    {
        headers.append(name, value.parse().unwrap());
    }
    let keeper = Keeper {
        request: template.request_headers(),
        response: template.response_headers(),
        ..Keeper::default()
    };
    let mut kept = keeper.begin(true, &headers).unwrap();
    keeper.answered(&mut kept, &headers);
    kept
}

fn line(template: &str, reporter: Reporter) -> String {
    let (template, service) = (template.parse::<Template>().unwrap(), cart());
    let kept = kept(&template);
    let entry = RequestEntry {
        start: UNIX_EPOCH + Duration::from_millis(1_795_240_000_123),
        peers: peers(&service, reporter),
        method: b"POST",
        path: b"/buy?item=7",
        protocol: "HTTP/2",
        status: 200,
        grpc_status: Some(3),
        flag: Flag::None,
        details: "",
        bytes_received: 12,
        bytes_sent: 3_400,
        duration: Duration::from_micros(7_900),
        upstream_time: Some(Duration::from_millis(6)),
        attempts: 2,
        request_id: b"0b5c",
        trace_id: b"4bf92f",
        user_agent: b"me",
        authority: b"cart",
        route: "shop/cart/0",
        span: None,
        grpc: true,
        kept: Some(&kept),
    };
    let mut out = Vec::new();
    request(&mut out, &template, &entry);
    String::from_utf8(out).unwrap()
}

fn connection_line(template: &str) -> String {
    let (template, service) = (template.parse::<Template>().unwrap(), cart());
    let entry = ConnectionEntry {
        start: UNIX_EPOCH,
        peers: peers(&service, Reporter::Source),
        protocol: "tls",
        server_name: b"db.example",
        flag: Flag::UpstreamReset,
        details: "upstream_reset",
        bytes_received: 1,
        bytes_sent: 2,
        duration: Duration::from_secs(61),
        route: "",
        span: None,
    };
    let mut out = Vec::new();
    connection(&mut out, &template, &entry);
    String::from_utf8(out).unwrap()
}

#[test]
fn envoys_default_format_is_filled_in_as_envoy_does() {
    let want = "[2026-11-21T05:46:40.123Z] \"POST /buy?item=7 HTTP/2\" 200 - 12 3400 7 6 \"-\" \
                \"me \\\"1\\\"\" \"0b5c\" \"cart\" \"[fd00::7]:8080\"";
    assert_eq!(line(DEFAULT, Reporter::Source), want);
    let want =
        "[1970-01-01T00:00:00.000Z] \"- - -\" - UR 1 2 61000 - \"-\" \"-\" \"-\" \"-\" \"[fd00::7]:8080\"";
    assert_eq!(connection_line(DEFAULT), want);
}

#[test]
fn every_operator_has_its_value() {
    use Reporter::{Destination, Source};
    fn check(template: &str, reporter: Reporter, want: &str) {
        assert_eq!(line(template, reporter), want, "{template}");
    }
    check("100%%", Source, "100%");
    check("%START_TIME(%s.%3f)%", Source, "1795240000.123");
    check("%REQ(X-A):3%|%REQ(X-NONE?X-A):2%|%REQ(X-NONE)%", Source, "abc|ab|-");
    check("%REQ_WITHOUT_QUERY(:PATH)%", Source, "/buy");
    check("%RESP(SERVER)%|%RESP(X-NONE?SERVER)%", Source, "s|s");
    check(
        "%GRPC_STATUS%|%GRPC_STATUS(SNAKE_STRING)%|%GRPC_STATUS(NUMBER)%|%GRPC_STATUS_NUMBER%",
        Source,
        "InvalidArgument|INVALID_ARGUMENT|3|3",
    );
    check("%UPSTREAM_CLUSTER%", Source, "outbound|80||cart.shop.svc.cluster.local");
    check("%UPSTREAM_CLUSTER%", Destination, "inbound|80||");
    check("%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%|%DOWNSTREAM_REMOTE_PORT%", Source, "10.0.0.1|4242");
    check("%DOWNSTREAM_LOCAL_ADDRESS%|%UPSTREAM_REMOTE_PORT%", Source, "10.96.0.10:80|8080");
    check("%UPSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%", Source, "fd00::7");
    let principals = "%DOWNSTREAM_PEER_URI_SAN%|%DOWNSTREAM_LOCAL_URI_SAN%|%UPSTREAM_PEER_URI_SAN%|%UPSTREAM_LOCAL_URI_SAN%";
    check(principals, Source, "-|-|spiffe://d/ns/c/sa/d|spiffe://d/ns/a/sa/b");
    check(principals, Destination, "spiffe://d/ns/a/sa/b|spiffe://d/ns/c/sa/d|-|-");
    check("%ROUTE_NAME% %TRACE_ID% %UPSTREAM_REQUEST_ATTEMPT_COUNT%", Source, "shop/cart/0 4bf92f 2");
    check(
        "%MESH_REPORTER% %MESH_SERVICE% %MESH_SOURCE_POD%",
        Destination,
        "destination cart.shop.svc.cluster.local -",
    );
    assert_eq!(
        connection_line("%REQUESTED_SERVER_NAME% %CONNECTION_TERMINATION_DETAILS%"),
        "db.example upstream_reset"
    );
    // All that are listed are there, and none is empty.
    for (name, _) in PLAIN {
        assert!(!line(&format!("%{name}%"), Source).is_empty(), "{name}");
        assert!(!connection_line(&format!("%{name}%")).is_empty(), "{name}");
    }
}

#[test]
fn in_json_no_value_leaves_its_string() {
    let line = line("{\"agent\": \"%REQ(USER-AGENT)%\", \"ms\": %DURATION%}", Reporter::Source);
    let value: serde_json::Value = serde_json::from_str(&line).unwrap();
    assert_eq!((&value["agent"], &value["ms"]), (&"me \"1\"".into(), &7.into()));
}

#[test]
fn what_is_no_template_says_why() {
    fn check(template: &str, want: &str) {
        let error = template.parse::<Template>().unwrap_err().to_string();
        assert!(error.contains(want), "{template}: {error}");
    }
    check("", "empty");
    check("a\nb", "one line");
    check("%", "is no operator");
    check("50% of", "\"% of\" of the access-log template is no operator");
    check("%req(:PATH)%", "is no operator");
    check("%REQ(:PATH%", "is no operator");
    check("%REQ(:PATH):x%", "is no operator");
    check(
        "%FILTER_STATE(a)%",
        "%FILTER_STATE% of the access-log template isn't known; there are BYTES_RECEIVED, ",
    );
    check("%DURATION(ms)%", "expected no argument");
    check("%REQ()%", "expected a header");
    check("%RESP(:PATH)%", "expected a header");
    check("%GRPC_STATUS(x)%", "CAMEL_STRING");
    check("%START_TIME(%q)%", "%Y");
    for secret in ["AUTHORIZATION", "Cookie", "X-API-KEY", "X-A?X-AUTH-TOKEN", "x-forwarded-client-cert"] {
        check(&format!("%REQ({secret})%"), "is a secret and is never logged");
    }
    check("%RESP(SET-COOKIE)%", "is a secret");
    let extra = Redact::new(vec![HeaderName::from_static("x-plan")]);
    let plan: Template = "%REQ(X-PLAN)%".parse().unwrap();
    assert!(plan.check(&extra).is_err());
}

//! What flows are wanted by which terms.

#![allow(clippy::unwrap_used)]

use super::*;
use crate::admin::api::flow::{FlowL7, FlowService};
use crate::telemetry::Reporter;

fn peer(namespace: &str, pod: &str, ip: &str, port: u16) -> FlowPeer {
    FlowPeer {
        namespace: namespace.into(),
        pod: pod.into(),
        ip: ip.parse().ok(),
        port,
        ..FlowPeer::default()
    }
}

fn flow() -> Flow {
    Flow {
        verdict: Verdict::Dropped,
        reporter: Some(Reporter::Source),
        protocol: "grpc".into(),
        source: peer("shop", "web-1", "10.1.0.1", 4242),
        destination: peer("shop", "cart-1", "fd00::2", 8080),
        dialled: "10.96.0.10:80".parse().ok(),
        service: Some(FlowService {
            namespace: "shop".into(),
            name: "cart".into(),
            ..FlowService::default()
        }),
        l7: Some(FlowL7 {
            method: "POST".into(),
            path: "/a.B/C?x=/never".into(),
            status: 503,
            ..FlowL7::default()
        }),
        flag: "UF".into(),
        trace_id: "4bf9".into(),
        request_id: "r-1".into(),
        ..Flow::default()
    }
}

#[test]
fn each_term_matches_what_it_says() {
    fn check(terms: &[(&str, &str)], want: bool) {
        let filter = Filter::parse(terms.iter().copied()).unwrap();
        assert_eq!(filter.matches(&flow()), want, "{terms:?}");
    }
    check(&[], true);
    for (term, yes, no) in [
        ("pod", "shop/cart", "cart"),
        ("from-pod", "shop/web-1", "shop/cart-1"),
        ("to-pod", "shop/cart-1", "shop/web-1"),
        ("namespace", "shop", "default"),
        ("from-namespace", "shop", "sho"),
        ("to-namespace", "shop", "x"),
        ("to-service", "shop/ca", "shop/cart-2"),
        ("ip", "10.0.0.0/8", "10.2.0.0/16"),
        ("from-ip", "10.1.0.1", "10.96.0.10"),
        ("to-ip", "10.96.0.0/12", "10.1.0.1"),
        ("to-ip", "fd00::/8", "::/128"),
        ("ip", "0.0.0.0/0", "11.0.0.0/8"),
        ("port", "4242", "1"),
        ("from-port", "4242", "8080"),
        ("to-port", "80", "4242"),
        ("to-port", "8080", "81"),
        ("verdict", "dropped", "FORWARDED"),
        ("verdict", "DENIED", "ERROR"),
        ("flag", "UF", "UH"),
        ("reporter", "source", "destination"),
        ("protocol", "http", "tcp"),
        ("protocol", "grpc", "tls"),
        ("http-status", "503", "500"),
        ("http-status", "5+", "4+"),
        ("http-status", "50+", "51+"),
        ("http-method", "post", "GET"),
        ("http-path", "^/a\\.[A-Z]/", "never"),
        ("trace-id", "4BF9", "4bf"),
        ("request-id", "r-1", "r"),
    ] {
        check(&[(term, yes)], true);
        check(&[(term, no)], false);
        check(&[(term, no), (term, yes)], true);
        check(&[(&format!("{NOT}{term}"), yes)], false);
        check(&[(&format!("{NOT}{term}"), no)], true);
    }
    check(&[("protocol", "grpc"), ("verdict", "ERROR")], false);
    // What is negated is one filter: only what matches all of it is left out.
    check(&[("not-protocol", "grpc"), ("not-verdict", "ERROR")], true);
    check(&[("not-protocol", "grpc"), ("not-verdict", "DROPPED")], false);
}

#[test]
fn every_term_of_the_table_is_known_and_what_is_none_says_so() {
    fn check(term: &str, value: &str, want: &str) {
        let error = Filter::parse([(term, value)]).unwrap_err().to_string();
        assert!(error.contains(want), "{error}");
    }
    for term in TERMS {
        // None panics, whatever it makes of that.
        let _ = Filter::parse([(term.name, "x")]);
    }
    check("colour", "x", "\"colour\" is nothing");
    check("not-not-pod", "x", "is nothing");
    check("verdict", "x", "expected FORWARDED, DROPPED, DENIED or ERROR");
    check("http-status", "5xx", "404 or 5+");
    check("http-status", "6000", "404 or 5+");
    check("http-status", "+", "404 or 5+");
    check("http-path", "(", "a regular expression");
    check("ip", "10.0.0.0/33", "an address");
    check("port", "http", "a port");
    check("protocol", "udp", "http, grpc, tcp or tls");
    check("reporter", "both", "source or destination");
}

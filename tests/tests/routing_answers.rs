//! What the agent answers in a server's place because a route's filters say so, and what CORS makes of such answers.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::net::{IpAddr, SocketAddr};

use mesh_tests::http1::{Client, Message};
use mesh_tests::lab::{Object, ServiceObject};
use mesh_tests::routes::{Versions, to};
use mesh_tests::shop::{NAMESPACE, Service, Shop};
use mesh_tests::{need_shop, shared_shop};

shared_shop!("answers");

/// What comes back for a request with these lines, on a connection of its own.
fn ask(shop: &Shop, v: &Versions, line: &str, lines: &[&str]) -> Message {
    let lines: String = lines.iter().map(|line| format!("{line}\r\n")).collect();
    shop.client(v).unwrap().ask(format!("{line} HTTP/1.1\r\nHost: shop.test\r\n{lines}\r\n")).unwrap()
}

const CORS: &str = "{type: CORS, cors: {allowOrigins: ['http://page.test'], allowMethods: [GET, PUT], exposeHeaders: [X-Kept], allowCredentials: true}}";
const HSTS: &str = "{type: ResponseHeaderModifier, responseHeaderModifier: {set: [{name: x-by, value: rule}, {name: cache-control, value: no-store}]}}";
const PAGE: &str = "Origin: http://page.test";

#[test]
fn mesh_http_route_backend_request_redirect() {
    let shop = need_shop!();
    let v = shop.versions("backredirect", "http").unwrap();
    let away = "{type: RequestRedirect, requestRedirect: {hostname: o.test, path: {type: ReplacePrefixMatch, replacePrefixMatch: /n}}}";
    let by = "{type: ResponseHeaderModifier, responseHeaderModifier: {set: [{name: x-by, value: backend}]}}";
    let rule = format!(
        "{{matches: [{{path: {{value: /a}}}}], filters: [{HSTS}], backendRefs: [{{name: backredirect-v1, port: 80, filters: [{away}, {by}]}}, {{name: backredirect-v2, port: 80}}]}}"
    );
    shop.route(&v, &rule).unwrap();
    let mut client = shop.client(&v).unwrap();
    let mut redirected = 0;
    for _ in 0..100 {
        let answer = client.get("shop.test", "/a/x?q").unwrap();
        assert_eq!(answer.header("cache-control"), Some("no-store"), "{}", answer.head);
        match answer.status() {
            302 => {
                redirected += 1;
                assert_eq!(answer.header("location"), Some("http://o.test/n/x?q"));
                assert_eq!(answer.headers("x-by"), ["backend"]);
            }
            _ => assert_eq!((answer.text().as_str(), answer.headers("x-by")), ("v2", vec!["rule"])),
        }
    }
    assert!((25..=75).contains(&redirected), "{redirected} of 100");
    assert_eq!((v.v1.seen().count(), v.v2.seen().count()), (0, 100 - redirected), "none is forwarded");
}

#[test]
fn a_redirect_has_the_rules_response_headers() {
    let shop = need_shop!();
    let v = shop.versions("redirhead", "http").unwrap();
    let redirect = "{type: RequestRedirect, requestRedirect: {scheme: https, statusCode: 301}}";
    shop.route(&v, &format!("{{filters: [{redirect}, {HSTS}, {CORS}]}}")).unwrap();
    let answer = ask(shop, &v, "GET /a", &[PAGE]);
    assert_eq!((answer.status(), answer.header("location")), (301, Some("https://shop.test/a")));
    assert_eq!((answer.headers("x-by"), answer.headers("cache-control")), (vec!["rule"], vec!["no-store"]));
    assert_eq!(answer.header("access-control-allow-origin"), Some("http://page.test"));
}

#[test]
fn a_redirect_without_a_port_names_the_one_that_was_dialled() {
    let shop = need_shop!();
    let (v4, v6) = shop.vips();
    let object = ServiceObject::new(NAMESPACE, "elsewhere").vip(v4).vip(v6).port("http", 8080);
    shop.topology.mesh().write("svc-elsewhere.yaml", [Object::from(object)]).unwrap();
    shop.wait_known("elsewhere").unwrap();
    let service = Service { name: "elsewhere".into(), port_name: "http".into(), target: 0, v4, v6 };
    for (redirect, location) in [
        ("hostname: o.test", "http://o.test:8080/a"),
        ("statusCode: 301", "http://shop.test:8080/a"),
        ("scheme: https", "https://shop.test/a"),
        ("port: 80", "http://shop.test/a"),
    ] {
        let filter = format!("{{type: RequestRedirect, requestRedirect: {{{redirect}}}}}");
        shop.route(&service, &format!("{{filters: [{filter}]}}")).unwrap();
        for ip in [IpAddr::from(v4), IpAddr::from(v6)] {
            let stream = shop.web.connect(SocketAddr::new(ip, 8080)).unwrap();
            let answer = Client::new(stream).get("shop.test:9999", "/a").unwrap();
            assert_eq!(answer.header("location"), Some(location), "{redirect} at {ip}: {}", answer.head);
        }
    }
}

#[test]
fn a_preflight_is_answered_by_the_rule_of_the_request_that_it_is_for() {
    let shop = need_shop!();
    let v = shop.versions("preflight", "http").unwrap();
    let rule = format!(
        "{{matches: [{{path: {{value: /api}}, method: PUT}}], filters: [{CORS}], {}}}",
        to("preflight-v1")
    );
    let backend = format!(
        "{{matches: [{{path: {{value: /back}}, method: GET}}], backendRefs: [{{name: preflight-v1, port: 80, filters: [{CORS}]}}]}}"
    );
    shop.route(&v, &format!("{rule}, {backend}, {{{}}}", to("preflight-v2"))).unwrap();
    let preflight = |path: &str, method: &str| {
        let asks = format!("Access-Control-Request-Method: {method}");
        ask(shop, &v, &format!("OPTIONS {path}"), &[PAGE, &asks])
    };
    for (path, method) in [("/api/x", "PUT"), ("/back", "GET")] {
        let answer = preflight(path, method);
        assert_eq!(
            (answer.status(), answer.header("access-control-allow-origin")),
            (200, Some("http://page.test")),
            "{path}: {}",
            answer.head
        );
        assert_eq!(answer.header("access-control-allow-methods"), Some("GET, PUT"));
        assert_eq!(answer.header("access-control-expose-headers"), Some("X-Kept"));
    }
    assert_eq!([v.own.seen().count(), v.v1.seen().count(), v.v2.seen().count()], [0, 0, 0]);
    // What the rule isn't for, it doesn't answer.
    assert_eq!(preflight("/api/x", "DELETE").text(), "v2");
    let actual = ask(shop, &v, "PUT /api/x", &[PAGE, "Content-Length: 0"]);
    assert_eq!(
        (actual.text().as_str(), actual.header("access-control-allow-origin")),
        ("v1", Some("http://page.test"))
    );
    assert_eq!(ask(shop, &v, "GET /api/x", &[PAGE]).text(), "v2");
}

#[test]
fn a_page_may_read_why_its_request_failed() {
    let shop = need_shop!();
    let v = shop.versions("corsfail", "http").unwrap();
    let port = shop.port();
    shop.expose("corsfail-none", "http", port, &[]).unwrap();
    let rule = |path: &str, more: &str| {
        format!("{{matches: [{{path: {{value: {path}}}}}], filters: [{CORS}], {more}}}")
    };
    let rules = [
        rule("/missing", &to("nowhere")),
        rule("/empty", &to("corsfail-none")),
        rule("/hang", &format!("timeouts: {{request: 300ms}}, {}", to("corsfail-v1"))),
    ];
    shop.route(&v, &rules.join(", ")).unwrap();
    for (path, status) in [("/missing", 500), ("/empty", 503), ("/hang", 504)] {
        let answer = ask(shop, &v, &format!("GET {path}"), &[PAGE]);
        assert_eq!(
            (
                answer.status(),
                answer.header("access-control-allow-origin"),
                answer.header("access-control-allow-credentials")
            ),
            (status, Some("http://page.test"), Some("true")),
            "{path}: {}",
            answer.head
        );
        let foreign = ask(shop, &v, &format!("GET {path}"), &["Origin: http://evil.test"]);
        assert_eq!(
            (foreign.status(), foreign.header("access-control-allow-origin")),
            (status, None),
            "{path}: {}",
            foreign.head
        );
    }
}

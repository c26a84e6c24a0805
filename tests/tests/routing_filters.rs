//! What a route's filters do to a request and its response: as the server received it, and as the client saw it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use mesh_tests::http1::Message;
use mesh_tests::routes::{Versions, to};
use mesh_tests::shop::Shop;
use mesh_tests::{need_shop, shared_shop};

shared_shop!("filters");

/// A service whose only rule has this match and these filters and leads to v1.
fn filtered(shop: &Shop, name: &str, matches: &str, filters: &str) -> Versions {
    let v = shop.versions(name, "http").unwrap();
    let rule = format!("{{matches: [{matches}], filters: [{filters}], {}}}", to(&format!("{name}-v1")));
    shop.route(&v, &rule).unwrap();
    v
}

/// What comes back for a request with these lines, on a connection of its own.
fn ask(shop: &Shop, v: &Versions, line: &str, lines: &[&str]) -> Message {
    let lines: String = lines.iter().map(|line| format!("{line}\r\n")).collect();
    shop.client(v).unwrap().ask(format!("{line} HTTP/1.1\r\nHost: shop.test\r\n{lines}\r\n")).unwrap()
}

const REQUEST: &str = "{type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: X-Set, value: new}, {name: x-made, value: made}], add: [{name: x-add, value: more}], remove: [X-Gone]}}";

#[test]
fn mesh_http_route_request_header_modifier_sets_adds_and_removes_in_any_case() {
    let shop = need_shop!();
    let v = filtered(shop, "reqhead", "{path: {value: /}}", REQUEST);
    ask(
        shop,
        &v,
        "GET /rh",
        &["X-SET: old", "x-set: older", "x-ADD: one", "x-gone: a", "X-GONE: b", "X-Kept: k"],
    );
    let seen = v.received("/rh").unwrap();
    assert_eq!(seen.headers("x-set"), ["new"]);
    assert_eq!(seen.headers("x-made"), ["made"]);
    assert_eq!(seen.headers("x-add"), ["one", "more"]);
    assert_eq!(seen.headers("x-gone"), Vec::<&str>::new());
    assert!(
        seen.head.contains("\r\nX-Kept: k\r\n") && seen.head.contains("\r\nHost: shop.test\r\n"),
        "{}",
        seen.head
    );
    ask(shop, &v, "GET /rh-bare", &[]);
    let bare = v.received("/rh-bare").unwrap();
    assert_eq!((bare.headers("x-set"), bare.headers("x-add")), (vec!["new"], vec!["more"]));
}

#[test]
fn mesh_http_route_request_header_modifier_of_a_backend_is_for_that_backend() {
    let shop = need_shop!();
    let v = shop.versions("backhead", "http").unwrap();
    let backend = |to: &str| {
        format!(
            "{{name: backhead-{to}, port: 80, filters: [{{type: RequestHeaderModifier, requestHeaderModifier: {{set: [{{name: x-for, value: {to}}}], remove: [x-add]}}}}]}}"
        )
    };
    shop.route(&v, &format!("{{filters: [{REQUEST}], backendRefs: [{}, {}]}}", backend("v1"), backend("v2")))
        .unwrap();
    for _ in 0..40 {
        ask(shop, &v, "GET /bh", &["x-add: one"]);
    }
    for (service, name) in [(&v.v1, "v1"), (&v.v2, "v2")] {
        let seen = service.seen().of("/bh");
        assert!(!seen.is_empty());
        for message in seen {
            assert_eq!(message.headers("x-for"), [name]);
            assert_eq!(
                (message.headers("x-set"), message.headers("x-add")),
                (vec!["new"], vec![]),
                "the rule's come first"
            );
        }
    }
}

#[test]
fn mesh_http_route_response_header_modifier_on_rule_and_backend() {
    let shop = need_shop!();
    let v = shop.versions("resphead", "http").unwrap();
    let modifier = |edits: &str| {
        format!("filters: [{{type: ResponseHeaderModifier, responseHeaderModifier: {{{edits}}}}}]")
    };
    let rule = |path: &str, rule: &str, backend: &str| {
        format!(
            "{{matches: [{{path: {{value: {path}}}}}], {}, backendRefs: [{{name: resphead-v1, port: 80, {}}}]}}",
            modifier(rule),
            modifier(backend)
        )
    };
    // The servers say `X-Kept: As-Is`.
    shop.route(
        &v,
        &[
            rule("/set", "set: [{name: X-KEPT, value: new}]", "add: [{name: x-more, value: a}]"),
            rule("/add", "add: [{name: x-kept, value: second}]", "remove: [x-other]"),
            rule("/remove", "remove: [x-kept]", "set: [{name: x-set, value: b}]"),
            rule("/both", "set: [{name: x-kept, value: rule}]", "set: [{name: x-kept, value: backend}]"),
        ]
        .join(","),
    )
    .unwrap();
    for (path, kept, other) in [
        ("/set", vec!["new"], ("x-more", vec!["a"])),
        ("/add", vec!["As-Is", "second"], ("x-other", vec![])),
        ("/remove", vec![], ("x-set", vec!["b"])),
        ("/both", vec!["backend"], ("x-set", vec![])),
    ] {
        let answer = ask(shop, &v, &format!("GET {path}"), &[]);
        assert_eq!(
            (answer.headers("x-kept"), answer.headers(other.0)),
            (kept, other.1),
            "{path}: {}",
            answer.head
        );
        assert_eq!(answer.text(), "v1");
    }
}

#[test]
fn mesh_http_route_redirect_says_where_to_and_reaches_no_server() {
    let shop = need_shop!();
    let v = shop.versions("redirect", "http").unwrap();
    for (path, redirect, status, location) in [
        ("/a", "hostname: other.test", 302, "http://other.test/a"),
        ("/a?q=1&r", "scheme: https, statusCode: 301", 301, "https://shop.test/a?q=1&r"),
        ("/a", "port: 8443, statusCode: 303", 303, "http://shop.test:8443/a"),
        ("/a", "scheme: https, port: 8443, statusCode: 307", 307, "https://shop.test:8443/a"),
        (
            "/a?q",
            "path: {type: ReplaceFullPath, replaceFullPath: /b}, statusCode: 308",
            308,
            "http://shop.test/b?q",
        ),
        (
            "/a/x/?q",
            "path: {type: ReplacePrefixMatch, replacePrefixMatch: /n/}",
            302,
            "http://shop.test/n/x/?q",
        ),
        ("/a", "path: {type: ReplacePrefixMatch, replacePrefixMatch: /}", 302, "http://shop.test/"),
        (
            "/a/",
            "hostname: o.test, scheme: https, path: {type: ReplacePrefixMatch, replacePrefixMatch: /z}",
            302,
            "https://o.test/z/",
        ),
    ] {
        let rule = format!(
            "{{matches: [{{path: {{value: /a}}}}], filters: [{{type: RequestRedirect, requestRedirect: {{{redirect}}}}}]}}"
        );
        shop.route(&v, &rule).unwrap();
        let mut client = shop.client(&v).unwrap();
        let answer = client.ask(format!("GET {path} HTTP/1.1\r\nHost: shop.test:80\r\n\r\n")).unwrap();
        assert_eq!(
            (answer.status(), answer.header("location")),
            (status, Some(location)),
            "{redirect}: {}",
            answer.head
        );
        let head = client
            .send(format!("HEAD {path} HTTP/1.1\r\nHost: shop.test\r\n\r\n"))
            .and_then(|()| client.read_bodiless());
        assert_eq!(
            head.unwrap().unwrap().header("location"),
            Some(location),
            "the connection stays: {redirect}"
        );
        let old =
            shop.client(&v).unwrap().ask(format!("GET {path} HTTP/1.0\r\nHost: shop.test\r\n\r\n")).unwrap();
        assert_eq!(old.header("location"), Some(location), "{redirect}");
    }
    assert_eq!([&v.own, &v.v1, &v.v2].map(|service| service.seen().count()), [0, 0, 0]);
    // A body that is sent along is no request of its own.
    let answer = ask(shop, &v, "POST /a/", &["Content-Length: 30", "", "GET /smuggled HTTP/1.1\r\n\r\n..."]);
    assert_eq!(answer.status(), 302);
    assert_eq!([&v.own, &v.v1, &v.v2].map(|service| service.seen().count()), [0, 0, 0]);
}

/// A rewriting rule: what the client asks for, and the request line and Host that the server saw.
fn check_rewrite(shop: &Shop, name: &str, prefix: &str, rewrite: &str, rows: &[(&str, &str, &str)]) {
    let filter = format!("{{type: URLRewrite, urlRewrite: {{{rewrite}}}}}");
    let v = filtered(shop, name, &format!("{{path: {{value: {prefix}}}}}"), &filter);
    for (asked, target, host) in rows {
        let before = v.v1.seen().count();
        let answer = ask(shop, &v, &format!("GET {asked}"), &["X-Kept: As-Is"]);
        assert_eq!(answer.status(), 200, "{asked}: {}", answer.head);
        let seen = v.v1.seen().all()[before..].to_vec();
        assert_eq!(seen.len(), 1, "{asked}");
        assert_eq!(seen[0].start_line(), format!("GET {target} HTTP/1.1"), "{asked}");
        assert_eq!(seen[0].headers("host"), [*host], "{asked}");
        assert!(seen[0].head.contains("\r\nX-Kept: As-Is\r\n"), "{}", seen[0].head);
    }
}

#[test]
fn mesh_http_route_rewrite_path() {
    let shop = need_shop!();
    check_rewrite(
        shop,
        "rwprefix",
        "/old",
        "path: {type: ReplacePrefixMatch, replacePrefixMatch: /new}",
        &[
            ("/old", "/new", "shop.test"),
            ("/old/", "/new/", "shop.test"),
            ("/old/a/b?q=/old&r", "/new/a/b?q=/old&r", "shop.test"),
            ("/old/old", "/new/old", "shop.test"),
            ("/old?", "/new?", "shop.test"),
            ("/old/%2Fx%20y", "/new/%2Fx%20y", "shop.test"),
            ("http://shop.test/old/abs", "/new/abs", "shop.test"),
        ],
    );
    check_rewrite(
        shop,
        "rwroot",
        "/old/",
        "path: {type: ReplacePrefixMatch, replacePrefixMatch: /}",
        &[("/old", "/", "shop.test"), ("/old/", "/", "shop.test"), ("/old/x/", "/x/", "shop.test")],
    );
    check_rewrite(
        shop,
        "rwfull",
        "/",
        "path: {type: ReplaceFullPath, replaceFullPath: /one}",
        &[("/", "/one", "shop.test"), ("/a/b/?x=y", "/one?x=y", "shop.test")],
    );
}

#[test]
fn mesh_http_route_rewrite_host() {
    let shop = need_shop!();
    check_rewrite(
        shop,
        "rwhost",
        "/",
        "hostname: inside.test",
        &[("/h", "/h", "inside.test"), ("http://shop.test/abs?q", "/abs?q", "inside.test")],
    );
    check_rewrite(
        shop,
        "rwall",
        "/a",
        "hostname: inside.test, path: {type: ReplacePrefixMatch, replacePrefixMatch: /b}",
        &[("/a/c?q", "/b/c?q", "inside.test")],
    );
}

#[test]
fn the_access_log_has_the_path_that_the_client_sent() {
    let shop = need_shop!();
    let filter = "{type: URLRewrite, urlRewrite: {hostname: in.test, path: {type: ReplacePrefixMatch, replacePrefixMatch: /logged-new}}}";
    let v = filtered(shop, "rwlog", "{path: {value: /logged-old}}", filter);
    ask(shop, &v, "GET /logged-old/x", &[]);
    let line = shop.log_shows("/logged-old/x", |line| line["path"] == "/logged-old/x").unwrap();
    assert_eq!(line["authority"], "shop.test", "{line}");
}

#[test]
fn other_versions_and_methods_go_through_a_rewriting_rule() {
    let shop = need_shop!();
    let filters = format!(
        "{REQUEST}, {{type: ResponseHeaderModifier, responseHeaderModifier: {{add: [{{name: x-by, value: route}}]}}}}, {{type: URLRewrite, urlRewrite: {{hostname: in.test, path: {{type: ReplacePrefixMatch, replacePrefixMatch: /}}}}}}"
    );
    let v = filtered(shop, "rwother", "{path: {value: /old}}", &filters);
    // HTTP/1.0, without Host.
    let mut client = shop.client(&v).unwrap();
    client.send("GET /old/one.zero HTTP/1.0\r\nX-Gone: 1\r\n\r\n").unwrap();
    let answer = String::from_utf8(client.read_all().unwrap()).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 ") && answer.ends_with("\r\n\r\nv1"), "{answer}");
    let seen = v.received("/one.zero").unwrap();
    assert_eq!(
        (seen.start_line(), seen.header("host"), seen.header("x-gone")),
        ("GET /one.zero HTTP/1.0", Some("in.test"), None)
    );
    // HEAD.
    let mut client = shop.client(&v).unwrap();
    client.send("HEAD /old/bytes/9 HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
    let answer = client.read_bodiless().unwrap().unwrap();
    assert_eq!((answer.header("content-length"), answer.header("x-by")), (Some("9"), Some("route")));
    // Chunks and trailers, both ways.
    let body = "5\r\nhello\r\n6\r\n world\r\n0\r\nX-Sum: 11\r\n\r\n";
    let answer = client
        .ask(format!("POST /old/echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n{body}"))
        .unwrap();
    assert_eq!(
        (answer.text().as_str(), answer.trailers.as_slice()),
        ("hello world", &["X-Sum: 11".to_owned()][..])
    );
    assert_eq!(answer.header("x-by"), Some("route"));
    let seen = v.received("/echo").unwrap();
    assert_eq!(
        (seen.chunks.as_slice(), seen.trailers.len(), seen.headers("transfer-encoding")),
        (&[5, 6][..], 1, vec!["chunked"])
    );
    // A response without length.
    let answer = shop.get(&v, "/old/close").unwrap();
    assert_eq!((answer.text().as_str(), answer.header("x-by")), ("until the end", Some("route")));
    // Interim responses are passed on as they are.
    let mut client = shop.client(&v).unwrap();
    let early = client.get("a", "/old/early").unwrap();
    assert_eq!((early.status(), early.header("x-by")), (103, None));
    assert_eq!(client.read().unwrap().unwrap().header("x-by"), Some("route"));
}

#[test]
fn an_upgrade_goes_through_a_rewriting_rule() {
    let shop = need_shop!();
    let filters = format!(
        "{REQUEST}, {{type: URLRewrite, urlRewrite: {{path: {{type: ReplacePrefixMatch, replacePrefixMatch: /upgrade}}}}}}, {{type: ResponseHeaderModifier, responseHeaderModifier: {{add: [{{name: x-by, value: route}}]}}}}"
    );
    let v = filtered(shop, "rwupgrade", "{path: {value: /ws}}", &filters);
    let mut client = shop.client(&v).unwrap();
    let answer = client
        .ask("GET /ws HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
        .unwrap();
    assert_eq!(
        (answer.status(), answer.headers("upgrade"), answer.headers("connection")),
        (101, vec!["websocket"], vec!["Upgrade"])
    );
    assert_eq!(answer.header("x-by"), Some("route"));
    client.send("both ways").unwrap();
    assert_eq!(client.read_bytes(9).unwrap(), b"both ways");
    let seen = v.received("/upgrade").unwrap();
    assert_eq!(
        (seen.header("upgrade"), seen.header("connection"), seen.header("x-set")),
        (Some("websocket"), Some("Upgrade"), Some("new"))
    );
}

#[test]
fn cors_answers_preflights_and_marks_actual_responses() {
    let shop = need_shop!();
    let cors = "{type: CORS, cors: {allowOrigins: ['https://*.example.com', 'http://plain.test:8080'], allowMethods: [GET, PUT], allowHeaders: [x-token], exposeHeaders: [X-Kept], allowCredentials: true, maxAge: 600}}";
    let v = filtered(shop, "cors", "{path: {value: /}}", cors);
    let preflight = |origin: &str| {
        ask(
            shop,
            &v,
            "OPTIONS /c",
            &[
                &format!("Origin: {origin}"),
                "Access-Control-Request-Method: PUT",
                "Access-Control-Request-Headers: x-token",
            ],
        )
    };
    for origin in ["https://a.example.com", "http://plain.test:8080"] {
        let answer = preflight(origin);
        assert_eq!(
            (answer.status(), answer.header("access-control-allow-origin")),
            (200, Some(origin)),
            "{}",
            answer.head
        );
        assert_eq!(
            answer.header("access-control-allow-methods").map(|methods| methods.contains("PUT")),
            Some(true),
            "{}",
            answer.head
        );
        assert_eq!(
            answer.header("access-control-allow-headers").map(str::to_lowercase).as_deref(),
            Some("x-token")
        );
        assert_eq!(answer.header("access-control-max-age"), Some("600"));
        assert_eq!(answer.header("access-control-allow-credentials"), Some("true"));
    }
    for origin in ["https://example.org", "http://a.example.com", "http://plain.test"] {
        assert_eq!(preflight(origin).header("access-control-allow-origin"), None, "{origin}");
    }
    assert_eq!(v.v1.seen().count(), 0, "no preflight reaches the server");
    let actual = ask(shop, &v, "GET /c", &["Origin: https://a.example.com"]);
    assert_eq!(
        (actual.text().as_str(), actual.header("access-control-allow-origin")),
        ("v1", Some("https://a.example.com"))
    );
    assert_eq!(actual.header("access-control-expose-headers"), Some("X-Kept"));
    let foreign = ask(shop, &v, "GET /c", &["Origin: https://example.org"]);
    assert_eq!((foreign.text().as_str(), foreign.header("access-control-allow-origin")), ("v1", None));
    // OPTIONS that is no preflight is the server's.
    assert_eq!(ask(shop, &v, "OPTIONS /c", &["Origin: https://a.example.com"]).text(), "v1");
}

#[test]
fn a_rule_that_would_edit_framing_answers_500() {
    let shop = need_shop!();
    let v = filtered(
        shop,
        "framing",
        "{path: {value: /}}",
        "{type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: Content-Length, value: '5'}]}}",
    );
    assert_eq!(ask(shop, &v, "GET /", &[]).status(), 500);
    assert_eq!(v.v1.seen().count(), 0);
}

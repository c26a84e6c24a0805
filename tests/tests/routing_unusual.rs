//! Routes as people seldom write them, that the Gateway API allows or forbids all the same.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::ensure;
use mesh_tests::http1::{Client, Message};
use mesh_tests::lab::{ServiceObject, SliceObject, eventually};
use mesh_tests::routes::{Versions, to};
use mesh_tests::shop::{NAMESPACE, Shop};
use mesh_tests::{SOON, need_shop, shared_shop};

shared_shop!("unusual");

/// What comes back for a request with these lines, on a connection of its own.
fn ask(shop: &Shop, v: &Versions, line: &str, lines: &[&str]) -> Message {
    let lines: String = lines.iter().map(|line| format!("{line}\r\n")).collect();
    shop.client(v).unwrap().ask(format!("{line} HTTP/1.1\r\nHost: shop.test\r\n{lines}\r\n")).unwrap()
}

#[test]
fn a_section_name_is_the_services_port_of_that_name() {
    let shop = need_shop!();
    let v = shop.versions("sections", "http").unwrap();
    let service =
        ServiceObject::new(NAMESPACE, "sections").vip(v.v4).vip(v.v6).port("http", 80).port("http-b", 81);
    let slice =
        SliceObject::new(NAMESPACE, "sections", "sections-4").port("http", v.target).port("http-b", v.target);
    let slice = slice.pods(NAMESPACE, [&*shop.carts[0]]);
    shop.topology.mesh().write("svc-sections.yaml", [service.into(), slice.into()]).unwrap();
    eventually(SOON, || {
        ensure!(shop.web.connect_within((v.v4, 81).into(), Duration::from_millis(300)).is_ok());
        Ok(())
    })
    .unwrap();
    let at = |port: u16| {
        let stream = shop.web.connect(SocketAddr::new(v.v4.into(), port)).unwrap();
        Client::new(stream).get("a", "/").unwrap().text()
    };
    let attach = |parent: &str| {
        let parent = format!("parentRefs: [{{group: \"\", kind: Service, name: sections, {parent}}}]");
        shop.attach(
            "sections",
            "HTTPRoute",
            NAMESPACE,
            &format!("{parent}, rules: [{{{}}}]", to("sections-v1")),
        )
        .unwrap();
        [at(80), at(81)]
    };
    assert_eq!(attach("sectionName: http-b"), ["own", "v1"]);
    assert_eq!(attach("sectionName: http, port: 80"), ["v1", "own"]);
    assert_eq!(attach("sectionName: http, port: 81"), ["own", "own"], "not both of the same port");
    assert_eq!(attach("sectionName: admin"), ["own", "own"]);
    let listed = shop.agent.cli(&["get", "routes"]).unwrap().stdout;
    let row = listed.lines().find(|line| line.contains("sections-r")).unwrap();
    assert!(row.contains("shop/sections:admin") && row.contains("False(NoMatchingParent)"), "{row}");
}

#[test]
fn every_mirror_of_a_rule_gets_the_request_as_its_filters_make_it() {
    let shop = need_shop!();
    let v = shop.versions("mirrors", "http").unwrap();
    let shadow = shop.http("mirrors-shadow", "http", 1).unwrap();
    let mirror = |name: &str| {
        format!("{{type: RequestMirror, requestMirror: {{backendRef: {{name: {name}, port: 80}}}}}}")
    };
    let modifier = "{type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: x-set, value: new}], remove: [x-gone]}}";
    let filters = format!("{modifier}, {}, {}", mirror("mirrors-v2"), mirror("mirrors-shadow"));
    shop.route(&v, &format!("{{filters: [{filters}], {}}}", to("mirrors-v1"))).unwrap();
    let answer = ask(shop, &v, "GET /copied?a=1", &["X-Set: old", "X-Gone: 1"]);
    assert_eq!((answer.status(), answer.text().as_str()), (200, "v1"));
    for copies in [v.v1.seen(), v.v2.seen(), shadow.seen()] {
        eventually(SOON, || {
            let seen = copies.of("/copied?a=1");
            ensure!(seen.len() == 1, "{seen:?}");
            ensure!(seen[0].headers("x-set") == ["new"] && seen[0].header("x-gone").is_none(), "{seen:?}");
            Ok(())
        })
        .unwrap();
    }
}

#[test]
fn a_route_that_is_not_valid_leaves_its_last_valid_version_in_force() {
    let shop = need_shop!();
    let v = shop.versions("lastvalid", "http").unwrap();
    let text = |rules: &str| {
        format!(
            "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {{name: lastvalid, namespace: {NAMESPACE}}}\n\
             spec: {{parentRefs: [{{group: \"\", kind: Service, name: lastvalid}}], rules: [{rules}]}}\n"
        )
    };
    let write = |rules: &str| shop.topology.mesh().write_text("lastvalid.yaml", &text(rules)).unwrap();
    let goes_to = |name: &str| {
        eventually(SOON, || {
            let answer = ask(shop, &v, "GET /", &[]).text();
            ensure!(answer == name, "{answer}");
            Ok(())
        })
        .unwrap();
    };
    write(&format!("{{{}}}", to("lastvalid-v1")));
    goes_to("v1");
    let v2 = to("lastvalid-v2");
    for (rules, field) in [
        (format!("{{name: one, {v2}}}, {{name: one, {v2}}}"), "spec.rules[1].name"),
        (
            format!("{{matches: [{{path: {{type: RegularExpression, value: '/(a'}}}}], {v2}}}"),
            "spec.rules[0].matches[0].path",
        ),
        (
            format!(
                "{{matches: [{{headers: [{{name: a, type: RegularExpression, value: '(?=x)'}}]}}], {v2}}}"
            ),
            "spec.rules[0].matches[0].headers[0]",
        ),
        (format!("{{retry: {{codes: [399]}}, {v2}}}"), "spec.rules[0].retry.codes[0]"),
        (format!("{{retry: {{codes: [600]}}, {v2}}}"), "spec.rules[0].retry.codes[0]"),
        (format!("{{timeouts: {{request: 1s, backendRequest: 2s}}, {v2}}}"), "spec.rules[0].timeouts"),
        (
            format!("{{filters: [{{type: RequestRedirect, requestRedirect: {{statusCode: 304}}}}], {v2}}}"),
            "spec.rules[0].filters[0]",
        ),
    ] {
        write(&rules);
        eventually(SOON, || {
            let analyzed = shop.agent.cli(&["analyze"])?.stdout;
            let told = analyzed.lines().any(|line| {
                line.contains("MESH0109") && line.contains("shop/lastvalid") && line.contains(field)
            });
            ensure!(told, "{field}: {analyzed}");
            Ok(())
        })
        .unwrap();
        assert_eq!(ask(shop, &v, "GET /", &[]).text(), "v1", "{rules}");
    }
    write(&format!("{{{v2}}}"));
    goes_to("v2");
}

#[test]
fn a_timeout_of_zero_is_none() {
    let shop = need_shop!();
    let v = shop.versions("zero", "http").unwrap();
    let timeouts = "timeouts: {request: 0s, backendRequest: 0ms}";
    shop.route(&v, &format!("{{{timeouts}, {}}}", to("zero-v1"))).unwrap();
    assert_eq!(ask(shop, &v, "GET /slow/300", &[]).text(), "v1");
}

#[test]
fn a_rule_without_matches_takes_everything_and_one_without_backends_answers_500() {
    let shop = need_shop!();
    let v = shop.versions("bare", "http").unwrap();
    let rules = [
        format!("{{matches: [], {}}}", to("bare-v1")),
        "{matches: [{path: {value: /omitted}}]}".to_owned(),
        "{matches: [{path: {value: /empty}}], backendRefs: []}".to_owned(),
    ];
    shop.route(&v, &rules.join(", ")).unwrap();
    assert_eq!(ask(shop, &v, "DELETE /any?x", &["Content-Length: 0"]).text(), "v1");
    for path in ["/omitted", "/empty"] {
        assert_eq!(ask(shop, &v, &format!("GET {path}"), &[]).status(), 500, "{path}");
    }
}

#[test]
fn wildcards_of_cors_are_answered_with_what_was_asked_for() {
    let shop = need_shop!();
    let v = shop.versions("corsany", "http").unwrap();
    let rule = |path: &str, cors: &str| {
        format!(
            "{{matches: [{{path: {{value: {path}}}}}], filters: [{{type: CORS, cors: {{{cors}}}}}], {}}}",
            to("corsany-v1")
        )
    };
    let all = "allowOrigins: ['*'], allowMethods: ['*'], allowHeaders: ['*'], exposeHeaders: ['*']";
    let rules = [
        rule("/any", all),
        rule("/with", &format!("{all}, allowCredentials: true")),
        rule("/least", "allowOrigins: ['https://*:8443']"),
    ];
    shop.route(&v, &rules.join(", ")).unwrap();
    let preflight = |path: &str, origin: &str| {
        let lines = [
            &format!("Origin: {origin}"),
            "Access-Control-Request-Method: PATCH",
            "Access-Control-Request-Headers: x-one, authorization",
        ];
        ask(shop, &v, &format!("OPTIONS {path}"), &lines)
    };
    let field = |answer: &Message, name: &str| {
        answer.header(&format!("access-control-{name}")).map(str::to_owned).unwrap_or_default()
    };
    for (path, origin, credentials) in [("/any", "*", ""), ("/with", "https://page.test", "true")] {
        let answer = preflight(path, "https://page.test");
        let of = |name: &str| field(&answer, name);
        assert_eq!(
            [of("allow-origin"), of("allow-methods"), of("allow-headers"), of("allow-credentials")],
            [origin, "PATCH", "x-one, authorization", credentials],
            "{path}: {}",
            answer.head
        );
    }
    assert_eq!(field(&preflight("/least", "https://a.test:8443"), "allow-origin"), "https://a.test:8443");
    for other in ["https://a.test", "http://a.test:8443", "https://a.test:84430"] {
        assert_eq!(field(&preflight("/least", other), "allow-origin"), "", "{other}");
    }
}

#[test]
fn redirects_of_every_status_name_the_port_of_their_scheme() {
    let shop = need_shop!();
    let v = shop.versions("statuses", "http").unwrap();
    for status in [301, 302, 303, 307, 308] {
        for (redirect, location) in [
            ("scheme: https", "https://shop.test/p/a?q=%20"),
            ("scheme: https, port: 443", "https://shop.test/p/a?q=%20"),
            ("scheme: http", "http://shop.test/p/a?q=%20"),
            ("port: 80", "http://shop.test/p/a?q=%20"),
            ("scheme: https, port: 80", "https://shop.test:80/p/a?q=%20"),
            ("hostname: o.test, port: 8080", "http://o.test:8080/p/a?q=%20"),
        ] {
            let filter =
                format!("{{type: RequestRedirect, requestRedirect: {{{redirect}, statusCode: {status}}}}}");
            shop.route(&v, &format!("{{filters: [{filter}]}}")).unwrap();
            let answer = ask(shop, &v, "GET /p/a?q=%20", &[]);
            assert_eq!((answer.status(), answer.header("location")), (status, Some(location)), "{redirect}");
        }
    }
}

//! Gateway API routes of a Service in force: who is matched, where it goes, and who isn't routed at all.
//!
//! Names follow the Gateway API's mesh conformance tests where there is one.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::net::SocketAddr;

use anyhow::ensure;
use mesh_tests::http1::Client;
use mesh_tests::lab::{NamespaceObject, Object, PodObject, ServiceObject, SliceObject, eventually};
use mesh_tests::routes::{Versions, to};
use mesh_tests::shop::{NAMESPACE, Service, Shop};
use mesh_tests::sockets::Host;
use mesh_tests::{SOON, need_shop, shared_shop};

shared_shop!("routing");

/// Who answers a GET of `path`, or the status if that isn't 200.
fn who(shop: &Shop, service: &Service, path: &str) -> String {
    asked(&mut shop.client(service).unwrap(), &format!("GET {path} HTTP/1.1\r\nHost: any\r\n\r\n"))
}

fn asked(client: &mut Client, request: &str) -> String {
    let answer = client.ask(request).unwrap();
    if answer.status() == 200 { answer.text() } else { answer.status().to_string() }
}

/// Two versions by weight.
fn weighted(name: &str, v1: u32, v2: u32) -> String {
    format!(
        "{{backendRefs: [{{name: {name}-v1, port: 80, weight: {v1}}}, {{name: {name}-v2, port: 80, weight: {v2}}}]}}"
    )
}

/// True if `part` of 2000 is `percent`, give or take 5.
fn is_about(part: usize, percent: usize) -> bool {
    part.abs_diff(percent * 20) <= 100
}

#[test]
fn mesh_basic_a_service_with_a_route_is_what_the_route_says() {
    let shop = need_shop!();
    let v = shop.versions("basic", "http").unwrap();
    assert_eq!(who(shop, &v, "/"), "own", "no route: plain balancing");
    shop.route(&v, &format!("{{{}}}", to("basic-v1"))).unwrap();
    for client in [&shop.web, &shop.batch] {
        let mut client = Client::new(client.connect(v.at()).unwrap());
        assert_eq!(v.shares(&mut client, "/", 20).unwrap(), [0, 20, 0, 0]);
    }
    shop.route(&v, &format!("{{{}}}", to("basic"))).unwrap();
    assert_eq!(who(shop, &v, "/"), "own", "a route to the service itself isn't followed again");
    shop.detach("basic").unwrap();
    assert_eq!(who(shop, &v, "/"), "own");
}

#[test]
fn mesh_traffic_split_gives_each_backend_its_share() {
    let shop = need_shop!();
    let v = shop.versions("split", "http").unwrap();
    // Kept: a change of weights holds for the next request.
    let mut client = shop.client(&v).unwrap();
    for (one, two, percent) in [(90, 10, 90), (1, 1, 50), (0, 1, 0), (3, 0, 100)] {
        shop.route(&v, &weighted("split", one, two)).unwrap();
        let [own, v1, v2, failed] = v.shares(&mut client, "/", 2000).unwrap();
        assert!(
            own == 0 && failed == 0 && is_about(v1, percent),
            "{one}:{two} is {v1}:{v2}, {own}, {failed}"
        );
        assert!((one > 0 || v1 == 0) && (two > 0 || v2 == 0), "{one}:{two} is {v1}:{v2}");
    }
    assert_eq!(v.own.seen().count(), 0);
}

#[test]
fn mesh_split_what_cannot_be_used_answers_500_for_its_share() {
    let shop = need_shop!();
    let v = shop.versions("fiftyfifty", "http").unwrap();
    let mut client = shop.client(&v).unwrap();
    for broken in [
        "{name: nowhere, port: 80}",
        "{name: fiftyfifty-v2, port: 81}",
        "{name: x, kind: Gadget, group: a.b}",
    ] {
        shop.route(&v, &format!("{{backendRefs: [{{name: fiftyfifty-v1, port: 80}}, {broken}]}}")).unwrap();
        let [own, v1, v2, failed] = v.shares(&mut client, "/", 2000).unwrap();
        assert!(own == 0 && v2 == 0 && is_about(v1, 50), "{broken}: {v1} of 2000, {failed} failed");
    }
    for rule in [&weighted("fiftyfifty", 0, 0), "{}", &format!("{{{}}}", to("nowhere"))] {
        shop.route(&v, rule).unwrap();
        assert_eq!(v.shares(&mut client, "/", 5).unwrap(), [0, 0, 0, 5], "{rule}");
    }
    let line = shop
        .log_shows("a 500", |line| {
            line["destination_service"] == "fiftyfifty.shop.svc.cluster.local" && line["response_code"] == 500
        })
        .unwrap();
    assert_eq!(
        (line["response_flags"].as_str(), line["upstream_host"].as_str()),
        (Some("NC"), None),
        "{line}"
    );
}

#[test]
fn mesh_http_route_matching_by_path() {
    let shop = need_shop!();
    let v = shop.versions("bypath", "http").unwrap();
    let rule = |path: &str, to: &str| {
        format!("{{matches: [{{path: {path}}}], backendRefs: [{{name: bypath-{to}, port: 80}}]}}")
    };
    shop.route(
        &v,
        &[
            rule("{type: Exact, value: /exact}", "v1"),
            rule("{value: /pre}", "v1"),
            rule("{value: /pre/two/}", "v2"),
            rule("{type: RegularExpression, value: '/r[0-9]+/.*x'}", "v2"),
        ]
        .join(","),
    )
    .unwrap();
    let mut client = shop.client(&v).unwrap();
    for (path, expected) in [
        ("/exact", "v1"),
        ("/exact?a=b", "v1"),
        ("/exact/", "404"),
        ("/Exact", "404"),
        ("/pre", "v1"),
        ("/pre/", "v1"),
        ("/pre/one", "v1"),
        ("/prefix", "404"),
        ("/pre/two", "v2"),
        ("/pre/two/x?q", "v2"),
        ("/pre/twofold", "v1"),
        ("/r12/ax", "v2"),
        ("/r12/ay", "404"),
        ("/a/r12/ax", "404"),
        ("/", "404"),
    ] {
        assert_eq!(
            asked(&mut client, &format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n")),
            expected,
            "{path}"
        );
    }
}

#[test]
fn mesh_http_route_matching_by_headers_query_parameters_and_method() {
    let shop = need_shop!();
    let v = shop.versions("bymore", "http").unwrap();
    let rule = |asks: &str, to: &str| {
        format!("{{matches: [{asks}], backendRefs: [{{name: bymore-{to}, port: 80}}]}}")
    };
    shop.route(
        &v,
        &[
            rule("{headers: [{name: X-Version, value: two}]}", "v2"),
            rule("{headers: [{name: x-version, type: RegularExpression, value: 'o.e'}]}", "v1"),
            rule(
                "{queryParams: [{name: v, value: '2'}, {name: w, type: RegularExpression, value: '[a-c]'}]}",
                "v2",
            ),
            rule(
                "{method: DELETE}, {path: {value: /both}, method: POST, headers: [{name: a, value: b}]}",
                "v1",
            ),
        ]
        .join(","),
    )
    .unwrap();
    let mut client = shop.client(&v).unwrap();
    for (line, headers, expected) in [
        ("GET /", "x-version: two", "v2"),
        ("GET /", "X-VERSION: two", "v2"),
        ("GET /", "x-version: Two", "404"),
        ("GET /", "x-version: one", "v1"),
        ("GET /", "x-version: oone", "404"),
        ("GET /?v=2&w=b", "a: b", "v2"),
        ("GET /?w=b&v=2", "a: b", "v2"),
        ("GET /?v=2&w=d", "a: b", "404"),
        ("GET /?v=1&v=2&w=a", "a: b", "404"),
        ("DELETE /any", "a: b", "v1"),
        ("POST /both/x", "A: b", "v1"),
        ("POST /both/x", "a: c", "404"),
        ("PUT /both/x", "a: b", "404"),
    ] {
        let request = format!("{line} HTTP/1.1\r\nHost: a\r\n{headers}\r\nContent-Length: 0\r\n\r\n");
        assert_eq!(asked(&mut client, &request), expected, "{line} {headers}");
    }
}

#[test]
fn of_two_routes_the_more_specific_match_wins_wherever_it_stands() {
    let shop = need_shop!();
    let v = shop.versions("precedence", "http").unwrap();
    let spec = |rules: &str| {
        format!("parentRefs: [{{group: \"\", kind: Service, name: precedence}}], rules: [{rules}]")
    };
    let rule = |asks: &str, to: &str| {
        format!("{{matches: [{asks}], backendRefs: [{{name: precedence-{to}, port: 80}}]}}")
    };
    let one = [
        rule("{path: {value: /}}", "v1"),
        rule("{path: {value: /a}, headers: [{name: x, value: y}]}", "v1"),
        rule("{path: {value: /m}, headers: [{name: x, value: y}]}", "v1"),
        rule("{path: {type: Exact, value: /e}}", "v1"),
    ];
    let two = [
        rule("{path: {value: /a/b}}", "v2"),
        rule("{path: {value: /m}, method: GET}", "v2"),
        rule("{path: {value: /e}, method: GET, headers: [{name: x, value: y}]}", "v2"),
    ];
    shop.attach("precedence-1", "HTTPRoute", NAMESPACE, &spec(&one.join(","))).unwrap();
    shop.attach("precedence-2", "HTTPRoute", NAMESPACE, &spec(&two.join(","))).unwrap();
    let mut client = shop.client(&v).unwrap();
    for (path, expected) in
        [("/", "v1"), ("/a", "v1"), ("/a/b", "v2"), ("/m", "v2"), ("/e", "v1"), ("/e/f", "v2")]
    {
        let request = format!("GET {path} HTTP/1.1\r\nHost: a\r\nx: y\r\n\r\n");
        assert_eq!(asked(&mut client, &request), expected, "{path}");
    }
}

#[test]
fn a_request_that_no_rule_matches_is_404_with_flag_nr_and_the_connection_stays() {
    let shop = need_shop!();
    let v = shop.versions("norule", "http").unwrap();
    shop.route(&v, &format!("{{name: only, matches: [{{path: {{value: /yes}}}}], {}}}", to("norule-v1")))
        .unwrap();
    let mut client = shop.client(&v).unwrap();
    let answer = client.get("a", "/norule-no").unwrap();
    assert_eq!((answer.status(), answer.text().as_str()), (404, "no route\n"));
    assert_eq!(client.get("a", "/yes").unwrap().text(), "v1");
    let line = shop.log_shows("/norule-no", |line| line["path"] == "/norule-no").unwrap();
    assert_eq!((line["response_flags"].as_str(), line["route_name"].as_str()), (Some("NR"), None), "{line}");
}

#[test]
fn a_named_rule_is_named_in_the_access_log_and_another_by_its_place() {
    let shop = need_shop!();
    let v = shop.versions("named", "http").unwrap();
    let rules =
        format!("{{name: checkout, matches: [{{path: {{value: /named-1}}}}], {0}}}, {{{0}}}", to("named-v1"));
    let route = shop.route(&v, &rules).unwrap();
    for (path, rule) in [("/named-1", "checkout"), ("/named-2", "1")] {
        assert_eq!(who(shop, &v, path), "v1");
        let of = |line: &serde_json::Value| line["path"] == path && line["reporter"] == "source";
        let line = shop.log_shows(path, of).unwrap();
        assert_eq!(line["route_name"], format!("shop/{route}/{rule}"));
        assert_eq!(line["upstream_host"], v.v1.backends[0].host.at(v.v1.target).to_string());
    }
}

#[test]
fn mesh_ports_a_parent_ref_with_a_port_affects_that_port_only() {
    let shop = need_shop!();
    let v = shop.versions("ports", "http").unwrap();
    let service =
        ServiceObject::new(NAMESPACE, "ports").vip(v.v4).vip(v.v6).port("http", 80).port("http-b", 81);
    let slice =
        SliceObject::new(NAMESPACE, "ports", "ports-4").port("http", v.target).port("http-b", v.target);
    let slice = slice.pods(NAMESPACE, [&*shop.carts[0]]);
    shop.topology.mesh().write("svc-ports.yaml", [service.into(), slice.into()]).unwrap();
    let at = |port: u16| {
        asked(
            &mut Client::new(shop.web.connect(SocketAddr::new(v.v4.into(), port)).unwrap()),
            "GET / HTTP/1.1\r\nHost: a\r\n\r\n",
        )
    };
    eventually(SOON, || {
        ensure!(shop.web.connect_within((v.v4, 81).into(), std::time::Duration::from_millis(300)).is_ok());
        Ok(())
    })
    .unwrap();
    let spec = |port: &str| {
        format!(
            "parentRefs: [{{group: \"\", kind: Service, name: ports{port}}}], rules: [{{{}}}]",
            to("ports-v1")
        )
    };
    shop.attach("ports", "HTTPRoute", NAMESPACE, &spec(", port: 81")).unwrap();
    assert_eq!([at(80), at(81)], ["own", "v1"]);
    shop.attach("ports", "HTTPRoute", NAMESPACE, &spec("")).unwrap();
    assert_eq!([at(80), at(81)], ["v1", "v1"]);
}

#[test]
fn mesh_frontend_a_service_without_endpoints_only_routes() {
    let shop = need_shop!();
    let v = shop.versions("frontend", "http").unwrap();
    for port_name in ["http", ""] {
        let name = format!("front{port_name}");
        let front = shop.bare(&name, port_name).unwrap();
        shop.route(&front, &format!("{{{}}}", to("frontend-v1"))).unwrap();
        for host in ["front", "front.shop.svc.cluster.local", "frontend-v2", "frontend-v2.shop:80"] {
            assert_eq!(shop.client(&front).unwrap().get(host, "/").unwrap().text(), "v1", "{host}");
        }
        for at in [front.at6(), v.v2.at()] {
            let expected = if at.is_ipv6() { "v1" } else { "v2" };
            assert_eq!(
                Client::new(shop.web.connect(at).unwrap()).get("front", "/").unwrap().text(),
                expected,
                "{at}"
            );
        }
        shop.detach(&name).unwrap();
        if port_name.is_empty() {
            shop.is_unreachable(&front).unwrap();
        }
    }
}

#[test]
fn mesh_frontend_hostname_a_rule_that_matches_host_goes_by_it() {
    let shop = need_shop!();
    let v = shop.versions("hosts", "http").unwrap();
    let rules = format!(
        "{{matches: [{{headers: [{{name: Host, value: beta.example}}]}}], {}}}, {{{}}}",
        to("hosts-v2"),
        to("hosts-v1")
    );
    shop.route(&v, &rules).unwrap();
    for (host, expected) in [("beta.example", "v2"), ("other.example", "v1"), ("hosts-v2", "v1")] {
        assert_eq!(shop.client(&v).unwrap().get(host, "/").unwrap().text(), expected, "{host}");
    }
}

#[test]
fn a_pod_called_by_its_own_address_is_not_routed() {
    let shop = need_shop!();
    let v = shop.versions("direct", "http").unwrap();
    shop.route(&v, &format!("{{{}}}", to("direct-v1"))).unwrap();
    let mut pod = Client::new(shop.web.connect(shop.carts[0].at(v.target)).unwrap());
    assert_eq!(pod.get("direct", "/").unwrap().text(), "own");
    assert_eq!(who(shop, &v, "/"), "v1");
    // Nor is one routed twice: what the route leads to has a route of its own.
    shop.route(&v.v1, &format!("{{{}}}", to("direct-v2"))).unwrap();
    assert_eq!(who(shop, &v, "/"), "v1");
    assert_eq!(who(shop, &v.v1, "/"), "v2");
}

#[test]
fn an_ipv6_address_is_routed_too() {
    let shop = need_shop!();
    let v = shop.versions("sixth", "http").unwrap();
    shop.route(&v, &weighted("sixth", 0, 1)).unwrap();
    let mut client = Client::new(shop.web.connect(v.at6()).unwrap());
    assert_eq!(v.shares(&mut client, "/", 3).unwrap(), [0, 0, 3, 0]);
}

#[test]
fn mesh_consumer_route_holds_for_clients_of_its_namespace_and_wins_over_the_producers() {
    let shop = need_shop!();
    let v = shop.versions("consumed", "http").unwrap();
    let guest = Host::new(&shop.topology, shop.node.pod("guest").unwrap()).unwrap();
    let objects =
        [Object::from(NamespaceObject::new("guests").enabled()), PodObject::of(&guest, "guests").into()];
    shop.topology.mesh().write("guests.yaml", objects).unwrap();
    eventually(SOON, || shop.reaches(&guest, &v)).unwrap();
    let asks = |from: &Host| v.shares(&mut Client::new(from.connect(v.at()).unwrap()), "/", 5).unwrap();
    let spec = |to: &str| {
        format!(
            "parentRefs: [{{group: \"\", kind: Service, name: consumed, namespace: shop}}], \
             rules: [{{backendRefs: [{{name: consumed-{to}, namespace: shop, port: 80}}]}}]"
        )
    };
    shop.attach("consumer", "HTTPRoute", "guests", &spec("v2")).unwrap();
    assert_eq!((asks(&guest), asks(&shop.web)), ([0, 0, 5, 0], [5, 0, 0, 0]));
    shop.attach("consumed", "HTTPRoute", NAMESPACE, &spec("v1")).unwrap();
    assert_eq!((asks(&guest), asks(&shop.web)), ([0, 0, 5, 0], [0, 5, 0, 0]));
    shop.detach("consumer").unwrap();
    assert_eq!((asks(&guest), asks(&shop.web)), ([0, 5, 0, 0], [0, 5, 0, 0]));
}

#[test]
fn a_route_that_comes_changes_or_goes_holds_for_the_next_request_of_a_kept_connection() {
    let shop = need_shop!();
    for port_name in ["http", ""] {
        let name = format!("kept{port_name}");
        let v: Versions = shop.versions(&name, port_name).unwrap();
        let mut client = shop.client(&v).unwrap();
        let mut next = || asked(&mut client, "GET / HTTP/1.1\r\nHost: a\r\n\r\n");
        assert_eq!(next(), "own");
        shop.route(&v, &format!("{{{}}}", to(&format!("{name}-v1")))).unwrap();
        assert_eq!(next(), "v1");
        shop.route(&v, &weighted(&name, 0, 1)).unwrap();
        assert_eq!(next(), "v2");
        shop.detach(&name).unwrap();
        assert_eq!(next(), "own");
    }
}

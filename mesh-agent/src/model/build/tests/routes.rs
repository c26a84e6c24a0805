//! What routes are attached to, what they lead to, what becomes of them when anything around them comes or goes.

use super::*;
use crate::model::RouteStatus;
use crate::objects::ObjectKey;
use crate::route::{PortRoutes, RouteTable, Routes};

const API: &str = "gateway.networking.k8s.io/v1";

fn named_service(namespace: &str, name: &str, vip: &str, ports: &str) -> String {
    format!(
        "---\napiVersion: v1\nkind: Service\nmetadata: {{name: {name}, namespace: {namespace}}}\nspec: {{clusterIP: {vip}, ports: [{ports}]}}\n"
    )
}

/// A route whose parentRefs are Services; `rules` is the list.
pub(super) fn route(kind: &str, namespace: &str, name: &str, parents: &str, rules: &str) -> String {
    let parents = parents.replace('{', "{group: \"\", kind: Service, ");
    format!(
        "---\napiVersion: {API}\nkind: {kind}\nmetadata: {{name: {name}, namespace: {namespace}}}\nspec: {{parentRefs: [{parents}], rules: [{rules}]}}\n"
    )
}

fn grant(namespace: &str, kind: &str, from: &str) -> String {
    format!(
        "---\napiVersion: {API}\nkind: ReferenceGrant\nmetadata: {{name: g, namespace: {namespace}}}\nspec: {{from: [{{group: gateway.networking.k8s.io, kind: {kind}, namespace: {from}}}], to: [{{group: \"\", kind: Service}}]}}\n"
    )
}

fn to(name: &str) -> String {
    format!("{{backendRefs: [{{name: {name}, port: 80}}]}}")
}

fn bound(snapshot: &Snapshot, service: &str, port: u16) -> Option<Arc<PortRoutes>> {
    snapshot.routes.get(&(ObjectName::new("shop", service), port)).cloned()
}

pub(super) fn producer(snapshot: &Snapshot, service: &str, port: u16) -> Arc<Routes> {
    bound(snapshot, service, port).unwrap().producer.clone().unwrap()
}

fn table(routes: &Routes) -> &Arc<RouteTable> {
    routes.requests.as_ref().unwrap()
}

/// Label of the rule that a plain request goes by.
fn rule_of(routes: &Routes) -> String {
    let (head, ()) = http::Request::get("/").body(()).unwrap().into_parts();
    table(routes).find(&head).map(|found| found.rule.name.label.clone()).unwrap_or_default()
}

fn status(snapshot: &Snapshot, kind: Kind, namespace: &str, name: &str) -> Arc<RouteStatus> {
    snapshot.route_status.get(&ObjectKey::new(kind, Some(namespace), name)).unwrap().clone()
}

/// `ACCEPTED-REASON RESOLVED-REASON` of the first parent.
pub(super) fn reasons(snapshot: &Snapshot, kind: Kind, namespace: &str, name: &str) -> String {
    let status = status(snapshot, kind, namespace, name);
    let parent = &status.parents[0];
    format!("{} {}", parent.accepted.reason, parent.resolved_refs.reason)
}

pub(super) fn warned(world: &World, code: &str, part: &str) -> bool {
    world.warnings().iter().any(|warning| warning.starts_with(code) && warning.contains(part))
}

#[test]
fn producer_routes_hold_for_everybody_and_consumer_routes_for_their_own_namespace() {
    let text = [
        service("cart", "10.96.0.10", HTTP),
        route("HTTPRoute", "shop", "own", "{name: cart}", &to("cart")),
        route(
            "HTTPRoute",
            "web",
            "mine",
            "{name: cart, namespace: shop}",
            "{backendRefs: [{name: cart, namespace: shop, port: 80}]}",
        ),
    ];
    let (world, snapshot) = World::new(&text.concat());
    assert_eq!(world.warnings(), Vec::<String>::new());
    let routes = bound(&snapshot, "cart", 80).unwrap();
    assert_eq!(rule_of(routes.for_client("shop").unwrap()), "shop/own/0");
    assert_eq!(rule_of(routes.for_client("other").unwrap()), "shop/own/0");
    assert_eq!(rule_of(routes.for_client("web").unwrap()), "web/mine/0");
    assert!(!status(&snapshot, Kind::HttpRoute, "web", "mine").parents[0].producer);
    assert_eq!(reasons(&snapshot, Kind::HttpRoute, "web", "mine"), "Accepted ResolvedRefs");
}

#[test]
fn a_parent_without_port_stands_for_every_port() {
    let text = |parent: &str| {
        service("cart", "10.96.0.10", "{name: a, port: 80}, {name: b, port: 81}")
            + &route("HTTPRoute", "shop", "r", parent, &to("cart"))
    };
    let (mut world, snapshot) = World::new(&text("{name: cart}"));
    assert!(bound(&snapshot, "cart", 80).is_some() && bound(&snapshot, "cart", 81).is_some());
    let snapshot = world.write(&text("{name: cart, port: 81}"));
    assert!(bound(&snapshot, "cart", 80).is_none() && bound(&snapshot, "cart", 81).is_some());
    let snapshot = world.write(&text("{name: cart, port: 82}"));
    assert_eq!(snapshot.routes.size(), 0);
    assert_eq!(reasons(&snapshot, Kind::HttpRoute, "shop", "r"), "NoMatchingParent ResolvedRefs");
    assert!(warned(&world, "MESH0123", "spec.parentRefs[0].port"), "{:?}", world.warnings());
}

#[test]
fn a_section_of_a_parent_is_its_port_of_that_name() {
    const PORTS: &str = "{name: http-a, port: 80}, {name: http-b, port: 81}";
    let text = |ports: &str, parent: &str| {
        service("cart", "10.96.0.10", ports) + &route("HTTPRoute", "shop", "r", parent, &to("cart"))
    };
    let mut world = World::new(&text(PORTS, "{name: cart}")).0;
    let mut check = |ports: &str, parent: &str, on: [bool; 2]| {
        let snapshot = world.write(&text(ports, parent));
        let found = [80, 81].map(|port| bound(&snapshot, "cart", port).is_some());
        assert_eq!(found, on, "{parent}");
        let none = on == [false, false];
        let reason = if none { "NoMatchingParent ResolvedRefs" } else { "Accepted ResolvedRefs" };
        assert_eq!(reasons(&snapshot, Kind::HttpRoute, "shop", "r"), reason, "{parent}");
        assert_eq!(warned(&world, "MESH0123", "spec.parentRefs[0].sectionName"), none, "{parent}");
    };
    check(PORTS, "{name: cart, sectionName: http-a}", [true, false]);
    check(PORTS, "{name: cart, sectionName: http-b, port: 81}", [false, true]);
    check(PORTS, "{name: cart, sectionName: http-b, port: 80}", [false, false]);
    check(PORTS, "{name: cart, sectionName: http-c}", [false, false]);
    check(PORTS, "{name: cart, sectionName: http-a}, {name: cart, sectionName: http-b}", [true, true]);
    // The name alone changes.
    check(
        "{name: http-b, port: 80}, {name: http-a, port: 81}",
        "{name: cart, sectionName: http-a}",
        [false, true],
    );
}

#[test]
fn a_route_waits_for_its_parent_and_leaves_with_it() {
    let alone = route("HTTPRoute", "shop", "r", "{name: cart}", &to("cart"));
    let (mut world, snapshot) = World::new(&alone);
    assert_eq!(snapshot.routes.size(), 0);
    assert!(warned(&world, "MESH0123", "there is no Service shop/cart"), "{:?}", world.warnings());
    let snapshot = world.write(&(service("cart", "10.96.0.10", HTTP) + &alone));
    assert_eq!(world.warnings(), Vec::<String>::new());
    assert_eq!(rule_of(&producer(&snapshot, "cart", 80)), "shop/r/0");
    let snapshot = world.write(&(service("cart", "None", HTTP) + &alone));
    assert_eq!(snapshot.routes.size(), 0);
    assert!(warned(&world, "MESH0123", "headless"), "{:?}", world.warnings());
    let snapshot = world.write(&service("cart", "10.96.0.10", HTTP));
    assert_eq!((snapshot.routes.size(), snapshot.route_status.size()), (0, 0));
    assert_eq!(world.warnings(), Vec::<String>::new());
}

#[test]
fn a_backend_of_a_third_namespace_needs_a_grant_that_comes_and_goes() {
    let rule = "{backendRefs: [{name: store, namespace: data, port: 80}]}";
    let base = service("cart", "10.96.0.10", HTTP)
        + &named_service("data", "store", "10.96.0.11", HTTP)
        + &route("HTTPRoute", "shop", "r", "{name: cart}", rule);
    let (mut world, snapshot) = World::new(&base);
    let refused = producer(&snapshot, "cart", 80);
    assert_eq!(refused.targets.len(), 0);
    assert_eq!(reasons(&snapshot, Kind::HttpRoute, "shop", "r"), "Accepted RefNotPermitted");
    assert!(warned(&world, "MESH0126", "spec.rules[0].backendRefs[0]"), "{:?}", world.warnings());
    for other in [
        grant("data", "GRPCRoute", "shop"),
        grant("data", "HTTPRoute", "web"),
        grant("shop", "HTTPRoute", "shop"),
    ] {
        let snapshot = world.write(&(base.clone() + &other));
        assert_eq!(reasons(&snapshot, Kind::HttpRoute, "shop", "r"), "Accepted RefNotPermitted", "{other}");
    }
    let snapshot = world.write(&(base.clone() + &grant("data", "HTTPRoute", "shop")));
    assert_eq!(reasons(&snapshot, Kind::HttpRoute, "shop", "r"), "Accepted ResolvedRefs");
    let granted = producer(&snapshot, "cart", 80);
    assert_eq!(granted.targets[0].v4.as_ref().unwrap().service.name, ObjectName::new("data", "store"));
    assert_eq!(world.warnings(), Vec::<String>::new());
    let snapshot = world.write(&base);
    assert_eq!(producer(&snapshot, "cart", 80).targets.len(), 0);
}

#[test]
fn backends_come_and_go_and_only_their_pointers_change_with_endpoints() {
    let base = |more: &str| {
        service("cart", "10.96.0.10", HTTP)
            + &service("other", "10.96.0.12", HTTP)
            + &route("HTTPRoute", "shop", "r", "{name: cart}", &to("v2"))
            + &route("HTTPRoute", "shop", "s", "{name: other}", &to("other"))
            + more
    };
    let (mut world, first) = World::new(&base(""));
    let routes = producer(&first, "cart", 80);
    assert!(routes.targets[0].v4.is_none() && routes.targets[0].v6.is_none());
    assert_eq!(reasons(&first, Kind::HttpRoute, "shop", "r"), "Accepted BackendNotFound");
    assert!(warned(&world, "MESH0124", "no Service shop/v2"), "{:?}", world.warnings());

    let v2 = service("v2", "10.96.0.11", HTTP);
    let second = world.write(&base(&v2));
    let found = producer(&second, "cart", 80);
    let backend = found.targets[0].v4.as_ref().unwrap();
    assert!(Arc::ptr_eq(backend, &vip(&second, "10.96.0.11:80")));
    assert_eq!(reasons(&second, Kind::HttpRoute, "shop", "r"), "Accepted ResolvedRefs");

    let third = world.write(&base(&(v2.clone() + &slice("v2-a", "v2", &[("10.1.0.9", "ready: true")]))));
    let moved = producer(&third, "cart", 80);
    assert!(!Arc::ptr_eq(&found, &moved) && Arc::ptr_eq(table(&found), table(&moved)));
    assert_eq!(addresses(&moved.targets[0].v4.as_ref().unwrap().endpoints.available), ["10.1.0.9:8080"]);
    assert!(Arc::ptr_eq(&bound(&first, "other", 80).unwrap(), &bound(&third, "other", 80).unwrap()));

    let wrong = service("v2", "10.96.0.11", "{name: http, port: 8080}");
    let fourth = world.write(&base(&wrong));
    assert!(producer(&fourth, "cart", 80).targets[0].v4.is_none());
    assert!(warned(&world, "MESH0125", "no TCP port 80"), "{:?}", world.warnings());
    let headless = world.write(&base(&service("v2", "None", HTTP)));
    assert!(producer(&headless, "cart", 80).targets[0].v4.is_some());
}

#[test]
fn a_consumers_change_leaves_the_producers_table_alone() {
    let base =
        service("cart", "10.96.0.10", HTTP) + &route("HTTPRoute", "shop", "own", "{name: cart}", &to("cart"));
    let (mut world, first) = World::new(&base);
    let consumer = route("HTTPRoute", "web", "mine", "{name: cart, namespace: shop}", &to("web"));
    let second = world.write(&(base + &consumer));
    assert!(bound(&second, "cart", 80).unwrap().consumers.contains_key("web"));
    assert!(Arc::ptr_eq(&producer(&first, "cart", 80), &producer(&second, "cart", 80)));
}

#[test]
fn the_most_specific_kind_of_a_port_wins() {
    let all = [("TCPRoute", Kind::TcpRoute), ("HTTPRoute", Kind::HttpRoute), ("GRPCRoute", Kind::GrpcRoute)];
    let mut text = service("cart", "10.96.0.10", "{name: main, port: 80}");
    let (mut world, _) = World::new(&text);
    for (place, (kind, key)) in all.iter().enumerate() {
        text += &route(kind, "shop", "r", "{name: cart}", &to("cart"));
        let snapshot = world.write(&text);
        let routes = producer(&snapshot, "cart", 80);
        assert_eq!((routes.streams.is_some(), routes.requests.is_some()), (place == 0, place > 0), "{kind}");
        assert_eq!(reasons(&snapshot, *key, "shop", "r"), "Accepted ResolvedRefs");
        for (_, loser) in &all[..place] {
            assert_eq!(reasons(&snapshot, *loser, "shop", "r"), "Conflicted ResolvedRefs", "{kind}");
        }
    }
    assert!(warned(&world, "MESH0131", "GRPCRoute shop/r is attached"), "{:?}", world.warnings());
}

#[test]
fn a_route_holds_only_on_ports_of_a_protocol_that_it_decides_about() {
    let check = |kind: Kind, declared: &str, holds: bool| {
        let (key, kind) = (kind, kind.name());
        let hosts = if kind == "TLSRoute" { "hostnames: [a.b], " } else { "" };
        let text = service("cart", "10.96.0.10", &format!("{{name: {declared}, port: 80}}"))
            + &service("other", "10.96.0.11", "{name: main, port: 80}")
            + &route(kind, "shop", "r", "{name: cart}", &to("other"))
                .replace("spec: {", &format!("spec: {{{hosts}"));
        let (world, snapshot) = World::new(&text);
        let expected = if holds { "Accepted ResolvedRefs" } else { "UnsupportedProtocol ResolvedRefs" };
        assert_eq!(reasons(&snapshot, key, "shop", "r"), expected, "{kind} on {declared}");
        assert_eq!(bound(&snapshot, "cart", 80).is_some(), holds, "{kind} on {declared}");
        let said = warned(&world, "MESH0123", &format!("80 ({declared})"));
        assert_eq!(said, !holds, "{kind} on {declared}: {:?}", world.warnings());
    };
    for (kind, fit) in [
        (Kind::HttpRoute, &["http", "http2", "grpc", "main"][..]),
        (Kind::GrpcRoute, &["http", "http2", "grpc", "main"]),
        (Kind::TlsRoute, &["tls", "main"]),
        (Kind::TcpRoute, &["tcp", "tls", "main"]),
    ] {
        for declared in ["http", "http2", "grpc", "tls", "tcp", "main"] {
            check(kind, declared, fit.contains(&declared));
        }
    }
}

#[test]
fn a_route_holds_on_the_ports_that_suit_it_and_follows_what_they_declare() {
    let text = |second: &str| {
        service("cart", "10.96.0.10", &format!("{{name: http, port: 80}}, {{name: {second}, port: 81}}"))
            + &route("HTTPRoute", "shop", "r", "{name: cart}", &to("cart"))
            + &route("TCPRoute", "shop", "r", "{name: cart, port: 81}", &to("cart"))
    };
    let (mut world, snapshot) = World::new(&text("tcp"));
    assert!(producer(&snapshot, "cart", 80).requests.is_some());
    assert!(producer(&snapshot, "cart", 81).streams.is_some());
    assert_eq!(reasons(&snapshot, Kind::HttpRoute, "shop", "r"), "Accepted ResolvedRefs");
    assert_eq!(reasons(&snapshot, Kind::TcpRoute, "shop", "r"), "Accepted ResolvedRefs");
    assert_eq!(
        world.warnings(),
        Vec::<String>::new(),
        "a port that doesn't suit is no mistake where none is named"
    );
    let snapshot = world.write(&text("http2"));
    assert!(producer(&snapshot, "cart", 81).requests.is_some());
    assert_eq!(reasons(&snapshot, Kind::TcpRoute, "shop", "r"), "UnsupportedProtocol ResolvedRefs");
    assert!(warned(&world, "MESH0123", "port 81 (http2)"), "{:?}", world.warnings());
}

#[test]
fn requests_are_not_sent_in_plain_text_to_a_port_that_declares_tls() {
    let text = |name: &str| {
        service("cart", "10.96.0.10", HTTP)
            + &service("v2", "10.96.0.11", &format!("{{name: {name}, port: 80}}"))
            + &route("HTTPRoute", "shop", "r", "{name: cart}", &to("v2"))
    };
    let (mut world, snapshot) = World::new(&text("https"));
    assert_eq!(reasons(&snapshot, Kind::HttpRoute, "shop", "r"), "Accepted UnsupportedProtocol");
    assert_eq!(producer(&snapshot, "cart", 80).targets.len(), 0);
    assert!(warned(&world, "MESH0127", "to speak TLS"), "{:?}", world.warnings());
    let snapshot = world.write(&text("http"));
    assert_eq!(reasons(&snapshot, Kind::HttpRoute, "shop", "r"), "Accepted ResolvedRefs");
    assert_eq!(producer(&snapshot, "cart", 80).targets.len(), 1);
    assert_eq!(world.warnings(), Vec::<String>::new());
}

#[test]
fn what_an_author_will_not_have_meant_is_said() {
    fn check(rules: &str, code: &str, part: &str) {
        let text =
            service("cart", "10.96.0.10", HTTP) + &route("HTTPRoute", "shop", "r", "{name: cart}", rules);
        let (world, _) = World::new(&text);
        assert!(warned(&world, code, part), "{rules}: {:?}", world.warnings());
        assert_eq!(world.warnings().len(), 1, "{rules}: {:?}", world.warnings());
    }
    let cart = "backendRefs: [{name: cart, port: 80}]";
    check("{}", "MESH0128", "spec.rules[0].backendRefs: is empty");
    check("{backendRefs: [{name: cart, port: 80, weight: 0}]}", "MESH0128", "weight above 0");
    check(&format!("{{{cart}}}, {{name: b, {cart}}}"), "MESH0129", "spec.rules[1]");
    let one = format!("{{matches: [{{path: {{value: /a}}}}], {cart}}}");
    let two = format!("{{matches: [{{path: {{value: /b}}}}, {{path: {{value: /a}}}}], {cart}}}");
    check(&format!("{one}, {two}"), "MESH0130", "spec.rules[1].matches[1]");
    check("{backendRefs: [{name: cart, port: 80, kind: Gadget, group: a.b}]}", "MESH0127", "Gadget (a.b)");
    let custom = "filters: [{type: ExtensionRef, extensionRef: {group: a.b, kind: C, name: d}}]";
    check(&format!("{{{custom}, {cart}}}"), "MESH0127", "answered with 500");
}

#[test]
fn hostnames_and_parents_that_are_none_are_said() {
    fn check(spec: &str, code: &str, part: &str) {
        let text = service("cart", "10.96.0.10", HTTP)
            + &format!(
                "---\napiVersion: {API}\nkind: HTTPRoute\nmetadata: {{name: r, namespace: shop}}\nspec: {{{spec}, rules: [{}]}}\n",
                to("cart")
            );
        let (world, _) = World::new(&text);
        assert!(warned(&world, code, part), "{spec}: {:?}", world.warnings());
    }
    check(
        "hostnames: [a.b], parentRefs: [{group: \"\", kind: Service, name: cart}]",
        "MESH0132",
        "spec.hostnames",
    );
    check("parentRefs: [{kind: Service, name: cart}]", "MESH0127", "write group: \"\"");
    check(
        "parentRefs: [{group: \"\", kind: Service, name: cart, sectionName: nothing}]",
        "MESH0123",
        "has no TCP port called \"nothing\"",
    );
    check("parentRefs: [{group: a.b, kind: C, name: cart}]", "MESH0127", "can't be a parent");
}

#[test]
fn a_rule_with_a_filter_that_is_not_supported_has_no_usable_backend() {
    let custom = "{filters: [{type: ExtensionRef, extensionRef: {group: a.b, kind: C, name: d}}], backendRefs: [{name: cart, port: 80}]}";
    let text = service("cart", "10.96.0.10", HTTP) + &route("HTTPRoute", "shop", "r", "{name: cart}", custom);
    let (_, snapshot) = World::new(&text);
    let (head, ()) = http::Request::get("/").body(()).unwrap().into_parts();
    let routes = producer(&snapshot, "cart", 80);
    let rule = table(&routes).find(&head).unwrap().rule.clone();
    assert_eq!(rule.backends.len(), 1);
    assert_eq!(rule.backends[0].target, crate::route::BackendTarget::Invalid);
    assert_eq!(reasons(&snapshot, Kind::HttpRoute, "shop", "r"), "Accepted InvalidKind");
}

#[test]
fn a_rule_that_would_change_framing_or_hop_by_hop_fields_has_no_usable_backend() {
    fn check(modifier: &str, edits: &str, expected: Option<&str>) {
        let field = format!("{}{}", modifier[..1].to_lowercase(), &modifier[1..]);
        let filters = format!("filters: [{{type: {modifier}, {field}: {{{edits}}}}}]");
        for (rule, path) in [
            (format!("{{{filters}, backendRefs: [{{name: cart, port: 80}}]}}"), "spec.rules[0].filters[0]"),
            (
                format!("{{backendRefs: [{{name: cart, port: 80, {filters}}}]}}"),
                "spec.rules[0].backendRefs[0].filters[0]",
            ),
        ] {
            let text =
                service("cart", "10.96.0.10", HTTP) + &route("HTTPRoute", "shop", "r", "{name: cart}", &rule);
            let (world, snapshot) = World::new(&text);
            let (head, ()) = http::Request::get("/").body(()).unwrap().into_parts();
            let routes = producer(&snapshot, "cart", 80);
            let found = table(&routes).find(&head).unwrap().rule.clone();
            let refused = found.backends[0].target == crate::route::BackendTarget::Invalid;
            assert_eq!(refused, expected.is_some(), "{rule}");
            let warnings = world.warnings();
            assert_eq!(warnings.len(), usize::from(refused), "{rule}: {warnings:?}");
            let reason = reasons(&snapshot, Kind::HttpRoute, "shop", "r");
            assert_eq!(reason.starts_with("UnsupportedValue "), refused, "{rule}: {reason}");
            if let Some(line) = expected {
                assert!(
                    warned(&world, "MESH0132", &format!("{path}.{field}.{line}")),
                    "{rule}: {warnings:?}"
                );
            }
        }
    }
    let (request, response) = ("RequestHeaderModifier", "ResponseHeaderModifier");
    check(request, "set: [{name: x-a, value: b}], remove: [x-c]", None);
    check(request, "set: [{name: x-a, value: b}, {name: Content-Length, value: '1'}]", Some("set[1].name"));
    check(request, "add: [{name: Host, value: a.b}]", Some("add[0].name: \"Host\""));
    check(request, "remove: [te]", Some("remove[0]"));
    check(response, "remove: [x-a, Transfer-Encoding]", Some("remove[1]"));
    check(response, "set: [{name: connection, value: close}]", Some("set[0].name"));
    for name in ["keep-alive", "proxy-connection", "trailer", "upgrade"] {
        check(response, &format!("add: [{{name: {name}, value: x}}]"), Some("add[0].name"));
    }
}

mod verdicts;

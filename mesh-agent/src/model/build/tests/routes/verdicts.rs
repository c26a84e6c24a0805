//! Routes that are valid and can't be had as they ask, in part or whole: whether they are accepted, and what is said.

use super::*;

#[test]
fn a_route_of_which_one_rule_cannot_be_served_is_accepted_and_says_which() {
    fn check(rules: &[&str], accepted: &str, partly: Option<&str>) {
        let text = service("cart", "10.96.0.10", HTTP)
            + &route("HTTPRoute", "shop", "r", "{name: cart}", &rules.join(", "));
        let (_, snapshot) = World::new(&text);
        let parent = status(&snapshot, Kind::HttpRoute, "shop", "r").parents[0].clone();
        assert_eq!(parent.accepted.reason, accepted, "{rules:?}");
        assert_eq!(parent.accepted.status, accepted == "Accepted", "{rules:?}");
        let said =
            parent.partially_invalid.as_ref().map(|it| (it.status, it.reason.as_str(), it.message.as_str()));
        let begins = said.is_some_and(|(status, reason, message)| {
            status && reason == "UnsupportedValue" && partly.is_some_and(|part| message.starts_with(part))
        });
        assert_eq!((said.is_some(), begins), (partly.is_some(), partly.is_some()), "{rules:?}: {said:?}");
    }
    let good = "{name: a, matches: [{path: {value: /a}}], backendRefs: [{name: cart, port: 80}]}";
    let filter = "filters: [{type: RequestHeaderModifier, requestHeaderModifier: {remove: [host]}}]";
    let auth = "filters: [{type: ExternalAuth, externalAuth: {protocol: GRPC, grpc: {}, backendRef: {name: cart, port: 80}}}]";
    let bad = |filter: &str| format!("{{{filter}, backendRefs: [{{name: cart, port: 80}}]}}");
    let half = format!("{{backendRefs: [{{name: cart, port: 80, {filter}}}, {{name: cart, port: 80}}]}}");
    let idle =
        format!("{{backendRefs: [{{name: cart, port: 80, {filter}}}, {{name: cart, port: 80, weight: 0}}]}}");
    check(&[good], "Accepted", None);
    check(
        &[good, &bad(filter)],
        "Accepted",
        Some("Dropped Rule 1: spec.rules[1].filters[0].requestHeaderModifier"),
    );
    check(&[good, &bad(auth)], "Accepted", Some("Dropped Rule 1: spec.rules[1].filters[0]: ExternalAuth"));
    check(&[&bad(filter)], "UnsupportedValue", None);
    check(&[&bad(auth)], "UnsupportedValue", None);
    check(&[&half], "Accepted", Some("Dropped Rule 0: spec.rules[0].backendRefs[0]"));
    check(&[&idle], "UnsupportedValue", None);
}

#[test]
fn a_route_with_sessions_is_rejected_where_a_service_keeps_clients_by_address() {
    let affine = |how: &str| {
        service("cart", "10.96.0.10", HTTP)
            + &service("store", "10.96.0.11", HTTP).replace("spec: {", &format!("spec: {{{how}"))
            + &route(
                "HTTPRoute",
                "shop",
                "r",
                "{name: cart}",
                "{sessionPersistence: {cookie: {}}, backendRefs: [{name: store, port: 80}]}",
            )
            + &route(
                "HTTPRoute",
                "shop",
                "s",
                "{name: cart}",
                "{matches: [{path: {value: /s}}], backendRefs: [{name: store, port: 80}]}",
            )
    };
    let (mut world, snapshot) = World::new(&affine(""));
    assert_eq!(reasons(&snapshot, Kind::HttpRoute, "shop", "r"), "Accepted ResolvedRefs");
    assert_eq!(rule_of(&producer(&snapshot, "cart", 80)), "shop/r/0");
    assert_eq!(world.warnings(), Vec::<String>::new());
    let snapshot = world.write(&affine("sessionAffinity: ClientIP, "));
    assert_eq!(reasons(&snapshot, Kind::HttpRoute, "shop", "r"), "UnsupportedValue ResolvedRefs");
    assert_eq!(reasons(&snapshot, Kind::HttpRoute, "shop", "s"), "Accepted ResolvedRefs");
    assert_eq!(rule_of(&producer(&snapshot, "cart", 80)), "", "it isn't attached");
    assert!(warned(&world, "MESH0139", "spec.rules[0].sessionPersistence"), "{:?}", world.warnings());
    let snapshot = world.write(&affine(""));
    assert_eq!(rule_of(&producer(&snapshot, "cart", 80)), "shop/r/0");
    assert_eq!(world.warnings(), Vec::<String>::new());
}

#[test]
fn sessions_of_one_name_for_one_service_are_told_of_each_other() {
    fn check(sessions: [&str; 2], services: [&str; 2], policy: &str, want: &[&str]) {
        let rule = |path: &str, session: &str, service: &str| {
            format!(
                "{{matches: [{{path: {{value: {path}}}}}], sessionPersistence: {{{session}}}, backendRefs: [{{name: {service}, port: 80}}]}}"
            )
        };
        let policy = match policy {
            "" => String::new(),
            name => format!(
                "---\napiVersion: gateway.networking.x-k8s.io/v1alpha1\nkind: XBackendTrafficPolicy\nmetadata: {{name: p, namespace: shop}}\nspec: {{targetRefs: [{{group: \"\", kind: Service, name: cart}}], sessionPersistence: {{cookie: {{name: {name}}}}}}}\n"
            ),
        };
        let text = service("cart", "10.96.0.10", HTTP)
            + &service("till", "10.96.0.11", HTTP)
            + &route("HTTPRoute", "shop", "a", "{name: cart}", &rule("/a", sessions[0], services[0]))
            + &route("HTTPRoute", "shop", "b", "{name: till}", &rule("/b", sessions[1], services[1]))
            + &policy;
        let (world, _) = World::new(&text);
        let said: Vec<String> = world.warnings();
        assert_eq!(said.len(), want.len(), "{sessions:?}: {said:?}");
        for part in want {
            assert!(
                said.iter().any(|it| it.starts_with("MESH0138") && it.contains(part)),
                "{part}: {said:?}"
            );
        }
    }
    let (s, t) = ("cookie: {name: s}", "cookie: {name: t}");
    let told = "HTTPRoute shop/b spec.rules[0].sessionPersistence: cookie s is the session of HTTPRoute shop/a, rule 0";
    check([s, s], ["cart", "cart"], "", &[told]);
    check([s, t], ["cart", "cart"], "", &[]);
    check([s, s], ["cart", "till"], "", &[]);
    check([s, "type: Header, header: {name: s}"], ["cart", "cart"], "", &[]);
    check(["cookie: {name: s, path: /a}", "cookie: {name: s, path: /b}"], ["cart", "cart"], "", &[]);
    check(["cookie: {}", "cookie: {}"], ["cart", "cart"], "", &[]);
    check(
        [t, s],
        ["cart", "cart"],
        "s",
        &["is the session of XBackendTrafficPolicy shop/p for Service shop/cart"],
    );
}

#[test]
fn rules_of_one_route_that_give_their_sessions_one_name_are_told_whatever_is_behind_them() {
    let rule = |path: &str, service: &str| {
        format!(
            "{{matches: [{{path: {{value: {path}}}}}], sessionPersistence: {{cookie: {{name: s}}}}, backendRefs: [{{name: {service}, port: 80}}]}}"
        )
    };
    let rules = [rule("/a", "cart"), rule("/b", "till")].join(", ");
    let text = service("cart", "10.96.0.10", HTTP)
        + &service("till", "10.96.0.11", HTTP)
        + &route("HTTPRoute", "shop", "r", "{name: cart}", &rules);
    let (world, _) = World::new(&text);
    let told = "HTTPRoute shop/r spec.rules[1].sessionPersistence: cookie s is the session of rule 0 too";
    let said = world.warnings();
    assert!(said.len() == 1 && said[0].starts_with("MESH0138") && said[0].contains(told), "{said:?}");
}

#[test]
fn filters_that_are_valid_and_cannot_be_had_are_said() {
    fn check(filter: &str, code: &str, part: &str) {
        let rule = format!(
            "{{matches: [{{path: {{value: /a}}}}], filters: [{filter}], backendRefs: [{{name: cart, port: 80}}]}}"
        );
        let text =
            service("cart", "10.96.0.10", HTTP) + &route("HTTPRoute", "shop", "r", "{name: cart}", &rule);
        let (world, snapshot) = World::new(&text);
        assert_eq!(reasons(&snapshot, Kind::HttpRoute, "shop", "r"), "Accepted ResolvedRefs");
        match code {
            "" => assert_eq!(world.warnings(), Vec::<String>::new(), "{filter}"),
            code => {
                assert!(warned(&world, code, part), "{filter}: {:?}", world.warnings());
                assert_eq!(world.warnings().len(), 1, "{filter}: {:?}", world.warnings());
            }
        }
    }
    let edit = |edits: &str| format!("{{type: RequestHeaderModifier, requestHeaderModifier: {{{edits}}}}}");
    check(
        &edit("set: [{name: X-A, value: b}], remove: [x-a]"),
        "MESH0138",
        "filters[0].requestHeaderModifier.remove[0]",
    );
    check(
        &edit("set: [{name: x-a, value: b}], add: [{name: x-b, value: c}, {name: x-a, value: c}]"),
        "MESH0138",
        "add[1].name",
    );
    check(&edit("set: [{name: x-a, value: b}], remove: [x-b]"), "", "");
    let full = |path: &str| {
        format!(
            "{{type: URLRewrite, urlRewrite: {{path: {{type: ReplaceFullPath, replaceFullPath: \"{path}\"}}}}}}"
        )
    };
    let prefix = |path: &str| {
        format!(
            "{{type: URLRewrite, urlRewrite: {{path: {{type: ReplacePrefixMatch, replacePrefixMatch: \"{path}\"}}}}}}"
        )
    };
    for bad in ["/a b", "/a?x=1", "/a#b", "/a\\tb", "/ä"] {
        check(&full(bad), "MESH0132", "filters[0].urlRewrite.path.replaceFullPath");
        check(&prefix(bad), "MESH0132", "filters[0].urlRewrite.path.replacePrefixMatch");
    }
    check(&full("/a%20b"), "", "");
    check(&prefix(""), "", "");
}

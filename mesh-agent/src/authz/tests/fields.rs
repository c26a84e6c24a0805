//! Every field, its negation, and every key of `when`, on traffic that has it, has another, and has none.

use serde_json::json;

use super::*;

const WEB: &str = "cluster.local/ns/shop/sa/web";

fn by(identity: Option<&str>) -> Traffic {
    request("GET /a", &[]).from(identity)
}

/// The field fits by each of these patterns or doesn't, and its negation the other way round.
fn table(place: &str, field: &str, not_field: &str, rows: &[(&str, &Traffic, bool)]) {
    for (pattern, traffic, want) in rows {
        let rule = |field: &str| match place {
            "source" => format!("{{from: [{{source: {{{field}: [{pattern:?}]}}}}]}}"),
            "operation" => format!("{{to: [{{operation: {{{field}: [{pattern:?}]}}}}]}}"),
            key => format!("{{when: [{{key: {key:?}, {field}: [{pattern:?}]}}]}}"),
        };
        assert_eq!(fits(&rule(field), traffic), *want, "{field} {pattern} {traffic:?}");
        assert_eq!(fits(&rule(not_field), traffic), !want, "{not_field} {pattern} {traffic:?}");
    }
}

#[test]
fn principals() {
    let (web, nobody) = (by(Some(WEB)), by(None));
    let rows: &[(&str, &Traffic, bool)] = &[
        (WEB, &web, true),
        ("cluster.local/ns/shop/sa/we", &web, false),
        ("cluster.local/ns/shop/*", &web, true),
        ("*/sa/web", &web, true),
        ("*/sa/we", &web, false),
        ("*", &web, true),
        ("*", &nobody, false),
        (WEB, &nobody, false),
        ("*web", &nobody, false),
    ];
    table("source", "principals", "notPrincipals", rows);
    table("source.principal", "values", "notValues", rows);
}

#[test]
fn namespaces() {
    let (web, nobody) = (by(Some(WEB)), by(None));
    let (odd, other) = (by(Some("cluster.local/x")), by(Some("cluster.local/ns/shop-eu/sa/web")));
    let rows: &[(&str, &Traffic, bool)] = &[
        ("shop", &web, true),
        ("sho", &web, false),
        ("web", &web, false),
        ("sh*", &web, true),
        ("*op", &web, true),
        ("s*p", &web, true),
        ("s*-*u", &other, true),
        ("s*-*x", &other, false),
        ("*", &web, true),
        ("shop", &other, false),
        ("shop*", &other, true),
        ("*", &nobody, false),
        ("shop", &nobody, false),
        ("*", &odd, false),
    ];
    table("source", "namespaces", "notNamespaces", rows);
    table("source.namespace", "values", "notValues", rows);
}

#[test]
fn service_accounts() {
    let (web, nobody) = (by(Some(WEB)), by(None));
    let other = by(Some("cluster.local/ns/test/sa/web"));
    let foreign = by(Some("other.test/ns/shop/sa/web"));
    let rows: &[(&str, &Traffic, bool)] = &[
        ("web", &web, true),
        ("shop/web", &web, true),
        ("test/web", &web, false),
        ("web", &other, false),
        ("test/web", &other, true),
        ("we", &web, false),
        // Any trust domain, as in Istio.
        ("web", &foreign, true),
        ("web", &nobody, false),
    ];
    table("source", "serviceAccounts", "notServiceAccounts", rows);
    table("source.serviceAccount", "values", "notValues", rows);
}

#[test]
fn addresses() {
    let here = by(None);
    let rows: &[(&str, &Traffic, bool)] = &[
        ("10.1.0.1", &here, true),
        ("10.1.0.0/24", &here, true),
        ("10.2.0.0/24", &here, false),
        ("0.0.0.0/0", &here, true),
        ("::/0", &here, false),
    ];
    table("source", "ipBlocks", "notIpBlocks", rows);
    table("source.ip", "values", "notValues", rows);
    let behind = Traffic { remote: "1.2.3.4".into(), ..by(None) };
    let rows: &[(&str, &Traffic, bool)] =
        &[("1.2.3.4", &behind, true), ("1.2.0.0/16", &behind, true), ("10.1.0.1", &behind, false)];
    table("source", "remoteIpBlocks", "notRemoteIpBlocks", rows);
    table("remote.ip", "values", "notValues", rows);
    let rows: &[(&str, &Traffic, bool)] =
        &[("10.1.0.2", &here, true), ("10.1.0.0/16", &here, true), ("10.1.0.1", &here, false)];
    table("destination.ip", "values", "notValues", rows);
}

#[test]
fn ports() {
    let here = by(None);
    let rows: &[(&str, &Traffic, bool)] = &[("8080", &here, true), ("80", &here, false)];
    table("operation", "ports", "notPorts", rows);
    table("destination.port", "values", "notValues", rows);
}

#[test]
fn methods() {
    let get = request("GET /a", &[]);
    table(
        "operation",
        "methods",
        "notMethods",
        &[
            ("GET", &get, true),
            ("POST", &get, false),
            ("G*", &get, true),
            ("*T", &get, true),
            ("*", &get, true),
            ("get", &get, false),
        ],
    );
}

#[test]
fn a_method_in_another_case_never_opens() {
    let lower = request("post /a", &[]);
    let deny = "{action: DENY, rules: [{to: [{operation: {methods: [POST]}}]}]}";
    assert!(lower.is_denied(&compile(&[policy("p", deny)])));
    let allow = "{rules: [{to: [{operation: {methods: [POST]}}]}]}";
    assert!(lower.is_denied(&compile(&[policy("p", allow)])));
    let all_but = "{rules: [{to: [{operation: {notMethods: [POST]}}]}]}";
    assert!(lower.is_denied(&compile(&[policy("p", all_but)])));
}

#[test]
fn hosts() {
    let asked = |host: &str| request("GET /a", &[&format!("host: {host}")]);
    let (plain, upper, other) = (asked("shop.test"), asked("Shop.TEST"), asked("a.shop.test"));
    table(
        "operation",
        "hosts",
        "notHosts",
        &[
            ("shop.test", &plain, true),
            ("shop.test", &upper, true),
            ("SHOP.test", &plain, true),
            ("shop.test", &other, false),
            ("*.shop.test", &other, true),
            ("*.SHOP.test", &other, true),
            ("shop.*", &plain, true),
            ("*", &plain, true),
        ],
    );
    let port = asked("shop.test:8080");
    table("operation", "hosts", "notHosts", &[("shop.test:8080", &port, true), ("shop.test:*", &port, true)]);
}

#[test]
fn a_host_with_a_port_or_a_last_dot_never_gets_past_its_name() {
    for host in ["shop.test:8080", "shop.test:", "shop.test.", "SHOP.test.:80"] {
        let asked = request("GET /a", &[&format!("host: {host}")]);
        let deny = "{action: DENY, rules: [{to: [{operation: {hosts: [shop.test]}}]}]}";
        assert!(asked.is_denied(&compile(&[policy("p", deny)])), "{host}");
        let deny = "{action: DENY, rules: [{to: [{operation: {hosts: [\"*.test\"]}}]}]}";
        assert!(asked.is_denied(&compile(&[policy("p", deny)])), "{host}");
        let all_but = "{rules: [{to: [{operation: {notHosts: [shop.test]}}]}]}";
        assert!(asked.is_denied(&compile(&[policy("p", all_but)])), "{host}");
        // As in Istio, a name alone allows no port.
        let allow = "{rules: [{to: [{operation: {hosts: [shop.test]}}]}]}";
        assert!(asked.is_denied(&compile(&[policy("p", allow)])), "{host}");
    }
}

#[test]
fn paths() {
    let at = |path: &str| request(&format!("GET {path}"), &[]);
    let (info, data, query) = (at("/info/v1"), at("/data"), at("/data?x=/info"));
    table(
        "operation",
        "paths",
        "notPaths",
        &[
            ("/data", &data, true),
            ("/data", &query, true),
            ("/data", &info, false),
            ("/info*", &info, true),
            ("*/v1", &info, true),
            ("*", &info, true),
            ("/info/{*}", &info, true),
            ("/{*}", &info, false),
            ("/{**}", &info, true),
            ("/data/", &data, false),
        ],
    );
}

#[test]
fn headers() {
    let one = request("GET /a", &["x-user: ann"]);
    let (none, two) = (request("GET /a", &[]), request("GET /a", &["x-user: ann", "x-user: bob"]));
    let empty = request("GET /a", &["x-user: "]);
    let rows: &[(&str, &Traffic, bool)] = &[
        ("ann", &one, true),
        ("an*", &one, true),
        ("*nn", &one, true),
        ("bob", &one, false),
        ("*", &one, true),
        ("*", &none, false),
        ("*", &empty, true),
        ("ann", &none, false),
        ("ann,bob", &two, true),
    ];
    table("request.headers[X-User]", "values", "notValues", rows);
}

#[test]
fn a_header_sent_twice_never_gets_past_one_of_its_values() {
    let two = request("GET /a", &["x-user: ann", "x-user: bob"]);
    let deny = "{action: DENY, rules: [{when: [{key: \"request.headers[x-user]\", values: [bob]}]}]}";
    assert!(two.is_denied(&compile(&[policy("p", deny)])));
    let all_but = "{rules: [{when: [{key: \"request.headers[x-user]\", notValues: [bob]}]}]}";
    assert!(two.is_denied(&compile(&[policy("p", all_but)])));
    let allow = "{rules: [{when: [{key: \"request.headers[x-user]\", values: [ann]}]}]}";
    assert!(two.is_denied(&compile(&[policy("p", allow)])));
}

#[test]
fn principals_of_tokens() {
    let token = |issuer: &str| request("GET /a", &[]).with_token(json!({"iss": issuer, "sub": "ann"}));
    let (plain, url) = (token("issuer.test"), token("https://issuer.test/x"));
    let none = request("GET /a", &[]);
    let nobody = request("GET /a", &[]).with_token(json!({"iss": "issuer.test"}));
    let rows: &[(&str, &Traffic, bool)] = &[
        ("issuer.test/ann", &plain, true),
        ("issuer.test/bob", &plain, false),
        ("https://issuer.test/x/ann", &url, true),
        ("https://issuer.test/x/*", &url, true),
        ("issuer.test/*", &plain, true),
        ("issuer.test/a*", &plain, true),
        ("*/ann", &plain, true),
        ("*/ann", &url, true),
        ("*/bob", &plain, false),
        ("*.test/ann", &plain, true),
        ("*nn", &plain, true),
        ("issuer*", &plain, true),
        ("issuer.test", &plain, false),
        ("*", &plain, true),
        ("*", &none, false),
        ("*", &nobody, false),
        ("issuer.test/ann", &none, false),
    ];
    table("source", "requestPrincipals", "notRequestPrincipals", rows);
    table("request.auth.principal", "values", "notValues", rows);
}

#[test]
fn claims() {
    let token = request("GET /a", &[]).with_token(json!({
        "iss": "i", "sub": "s", "aud": ["a.test", "b.test"], "azp": "app", "groups": ["dev", "ops"], "level": 3,
        "nested": {"role": "admin", "list": ["x"]}, "scope": ["read", "write"],
    }));
    let single = request("GET /a", &[]).with_token(json!({"aud": "a.test"}));
    let none = request("GET /a", &[]);
    let key = |key: &str, rows: &[(&str, &Traffic, bool)]| table(key, "values", "notValues", rows);
    key(
        "request.auth.audiences",
        &[
            ("a.test", &token, true),
            ("b.*", &token, true),
            ("c.test", &token, false),
            ("a.test", &single, true),
            ("a.test", &none, false),
            ("*", &none, false),
        ],
    );
    key(
        "request.auth.presenter",
        &[("app", &token, true), ("ap", &token, false), ("*", &single, false), ("*", &none, false)],
    );
    key(
        "request.auth.claims[groups]",
        &[("dev", &token, true), ("o*", &token, true), ("x", &token, false), ("dev", &none, false)],
    );
    key("request.auth.claims[iss]", &[("i", &token, true), ("*", &token, true), ("*", &single, false)]);
    key("request.auth.claims[level]", &[("3", &token, false)]);
    key("request.auth.claims[nested][role]", &[("admin", &token, true), ("user", &token, false)]);
    key("request.auth.claims[nested][list]", &[("x", &token, true)]);
    key("request.auth.claims[nested]", &[("admin", &token, false), ("*", &token, false)]);
    key("request.auth.claims[scope]", &[("read", &token, true), ("read write", &token, false)]);
    key("request.auth.claims[none][role]", &[("admin", &token, false)]);
}

#[test]
fn server_names() {
    let named = Traffic { sni: Some("db.test".into()), ..Traffic::default() };
    let unnamed = Traffic::default();
    table(
        "connection.sni",
        "values",
        "notValues",
        &[
            ("db.test", &named, true),
            ("*.test", &named, true),
            ("DB.test", &named, true),
            ("web.test", &named, false),
            ("db.test", &unnamed, false),
            ("*", &unnamed, false),
        ],
    );
}

#[test]
fn lists_are_alternatives_and_fields_add_up() {
    let get = request("GET /a", &[]);
    let check = |rule: &str, want: bool| assert_eq!(fits(rule, &get), want, "{rule}");
    check("{to: [{operation: {methods: [POST, GET], paths: [/b, /a]}}]}", true);
    check("{to: [{operation: {methods: [GET], paths: [/b]}}]}", false);
    check("{to: [{operation: {methods: [POST]}}, {operation: {paths: [/a]}}]}", true);
    check("{from: [{source: {namespaces: [x]}}, {source: {ipBlocks: [10.1.0.1]}}]}", true);
    check("{from: [{source: {namespaces: [shop], ipBlocks: [10.9.0.1]}}]}", false);
    check("{from: [{source: {namespaces: [shop], notPrincipals: [\"*/sa/web\"]}}]}", false);
    check("{from: [{source: {namespaces: [shop]}}], to: [{operation: {methods: [POST]}}]}", false);
    check("{to: [{operation: {paths: [\"/*\"], notPaths: [/a]}}]}", false);
    check("{when: [{key: source.ip, values: [10.1.0.1]}, {key: destination.port, values: [\"80\"]}]}", false);
    check("{when: [{key: source.ip, values: [10.1.0.0/16], notValues: [10.1.0.1]}]}", false);
    check("{}", true);
}

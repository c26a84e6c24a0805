//! Routes and grants that the API server would refuse are refused here too, each by field; those that it takes are taken.

use super::*;

const GATEWAY: &str = "gateway.networking.k8s.io";

fn object(version: &str, kind: &str, spec: &str) -> String {
    format!("apiVersion: {version}\nkind: {kind}\nmetadata: {{name: r, namespace: shop}}\nspec: {spec}\n")
}

/// One rule of an HTTPRoute.
fn http(rule: &str) -> String {
    object(&format!("{GATEWAY}/v1"), "HTTPRoute", &format!("{{rules: [{{{rule}}}]}}"))
}

fn grpc(rule: &str) -> String {
    object(&format!("{GATEWAY}/v1"), "GRPCRoute", &format!("{{rules: [{{{rule}}}]}}"))
}

fn accepted(text: &str) {
    assert_eq!(warnings(text), Vec::<String>::new(), "{text}");
    assert_eq!(parse(text, Format::Yaml).objects.len(), 1, "{text}");
}

/// Refused with MESH0109 (or MESH0110 for a port), by the field's path.
fn check(text: &str, field: &str) {
    let parsed = parse(text, Format::Yaml);
    assert!(parsed.objects.is_empty(), "taken: {text}");
    assert_eq!(parsed.problems.len(), 1, "{text}: {:?}", parsed.problems);
    let warning = &parsed.problems[0].0;
    assert!(["MESH0109", "MESH0110"].contains(&warning.code.as_str()), "{text}: {warning}");
    assert!(warning.object.ends_with("shop/r"), "{warning}");
    assert!(warning.message.contains("last valid version"), "{warning}");
    assert_eq!(warning.field, field, "{text}: {warning}");
}

#[test]
fn matches_of_an_http_route_that_no_request_can_have_are_refused() {
    fn refused(one: &str, field: &str) {
        check(&http(&format!("matches: [{{{one}}}]")), &format!("spec.rules[0].matches[0].{field}"));
    }
    for bad in [
        "a", "/a//b", "/a/./b", "/a/../b", "/a%2fb", "/a%2Fb", "/a#b", "/a/..", "/a/.", "/a[b]", "/ä",
        "/a%zz", "",
    ] {
        for kind in ["Exact", "PathPrefix"] {
            refused(&format!("path: {{type: {kind}, value: \"{bad}\"}}"), "path.value");
        }
    }
    refused(&format!("path: {{value: /{}}}", "a".repeat(1024)), "path.value");
    refused("path: {type: Prefix, value: /a}", "path.type");
    refused("path: {type: RegularExpression, value: \"(\"}", "path.value");
    refused("path: {type: RegularExpression, value: \"((a{100}){100}){100}\"}", "path.value");
    refused("headers: [{name: x-a, value: b}, {name: x-a, value: c}]", "headers[1].name");
    accepted(&http("matches: [{headers: [{name: x-a, value: b}, {name: X-A, value: c}]}]"));
    refused("headers: [{name: \"a/b\", value: b}]", "headers[0].name");
    refused("headers: [{name: \":path\", value: b}]", "headers[0].name");
    refused("headers: [{name: a, value: \"\"}]", "headers[0].value");
    refused("headers: [{name: a, type: Regex, value: b}]", "headers[0].type");
    refused("headers: [{name: a, type: RegularExpression, value: \"[\"}]", "headers[0].value");
    refused("headers: [{name: a}]", "headers[0]");
    refused("queryParams: [{name: a, value: b}, {name: a, value: c}]", "queryParams[1].name");
    refused("queryParams: [{name: a, value: \"\"}]", "queryParams[0].value");
    refused("queryParams: [{name: a, type: RegularExpression, value: \"*\"}]", "queryParams[0].value");
    refused("method: FETCH", "method");
    refused("method: get", "method");
}

#[test]
fn filters_that_contradict_themselves_or_each_other_are_refused() {
    fn refused(filters: &str, field: &str) {
        check(&http(&format!("filters: [{filters}]")), &format!("spec.rules[0].filters{field}"));
        let backend = format!("backendRefs: [{{name: a, port: 80, filters: [{filters}]}}]");
        check(&http(&backend), &format!("spec.rules[0].backendRefs[0].filters{field}"));
    }
    refused("{type: RequestHeaderModifier}", "[0].requestHeaderModifier");
    refused("{type: URLRewrite}", "[0].urlRewrite");
    refused("{type: CORS}", "[0].cors");
    refused("{type: RequestMirror}", "[0].requestMirror");
    refused("{type: ExtensionRef}", "[0].extensionRef");
    refused("{type: Other}", "[0].type");
    refused("{requestRedirect: {port: 443}}", "[0]");
    refused("{type: RequestHeaderModifier, requestRedirect: {port: 443}}", "[0].requestHeaderModifier");
    refused(
        "{type: RequestHeaderModifier, requestHeaderModifier: {remove: [a]}, requestRedirect: {port: 443}}",
        "[0].requestRedirect",
    );
    for twice in [
        "{type: RequestHeaderModifier, requestHeaderModifier: {remove: [a]}}",
        "{type: ResponseHeaderModifier, responseHeaderModifier: {remove: [a]}}",
        "{type: RequestRedirect, requestRedirect: {port: 443}}",
        "{type: URLRewrite, urlRewrite: {hostname: a.b}}",
        "{type: CORS, cors: {}}",
    ] {
        refused(&format!("{twice}, {twice}"), "[1].type");
    }
    let redirect = "{type: RequestRedirect, requestRedirect: {port: 443}}";
    let rewrite = "{type: URLRewrite, urlRewrite: {hostname: a.b}}";
    refused(&format!("{redirect}, {rewrite}"), "[1].type");
    refused(&format!("{rewrite}, {redirect}"), "[1].type");
    let edit = |edit: &str| format!("{{type: ResponseHeaderModifier, responseHeaderModifier: {{{edit}}}}}");
    refused(&edit("remove: [a, a]"), "[0].responseHeaderModifier.remove[1]");
    accepted(&http(&format!(
        "filters: [{}]",
        edit("remove: [a, A], set: [{name: b, value: c}, {name: B, value: d}]")
    )));
    refused(
        &edit("set: [{name: a, value: b}, {name: a, value: c}]"),
        "[0].responseHeaderModifier.set[1].name",
    );
    refused(&edit("add: [{name: a, value: \"x\\ny\"}]"), "[0].responseHeaderModifier.add[0].value");
    refused(&edit("add: [{name: \"a b\", value: c}]"), "[0].responseHeaderModifier.add[0].name");
    refused(&edit("remove: [\"a b\"]"), "[0].responseHeaderModifier.remove[0]");
    let path = |path: &str| format!("{{type: URLRewrite, urlRewrite: {{path: {{{path}}}}}}}");
    refused(&path("type: ReplaceFullPath"), "[0].urlRewrite.path.replaceFullPath");
    refused(&path("type: ReplaceFullPath, replacePrefixMatch: /"), "[0].urlRewrite.path.replaceFullPath");
    refused(&path("type: ReplacePrefixMatch"), "[0].urlRewrite.path.replacePrefixMatch");
    refused(
        &path("type: ReplacePrefixMatch, replacePrefixMatch: /, replaceFullPath: /"),
        "[0].urlRewrite.path.replaceFullPath",
    );
    refused(&path("replaceFullPath: /"), "[0].urlRewrite.path");
    let redirect = |redirect: &str| format!("{{type: RequestRedirect, requestRedirect: {{{redirect}}}}}");
    refused(&redirect("hostname: \"*.b.c\""), "[0].requestRedirect.hostname");
    refused(&redirect("scheme: ftp"), "[0].requestRedirect.scheme");
    refused(&redirect("statusCode: 200"), "[0].requestRedirect.statusCode");
    refused(&redirect("port: 0"), "[0].requestRedirect.port");
    let mirror = |rest: &str| {
        format!("{{type: RequestMirror, requestMirror: {{backendRef: {{name: a, port: 80}}, {rest}}}}}")
    };
    refused(&mirror("percent: 101"), "[0].requestMirror.percent");
    refused(&mirror("percent: 1, fraction: {numerator: 1}"), "[0].requestMirror.percent");
    refused(&mirror("fraction: {numerator: 101}"), "[0].requestMirror.fraction.numerator");
    refused(&mirror("fraction: {numerator: 0, denominator: 0}"), "[0].requestMirror.fraction.denominator");
    refused(
        "{type: RequestMirror, requestMirror: {backendRef: {name: a}}}",
        "[0].requestMirror.backendRef.port",
    );
    let cors = |cors: &str| format!("{{type: CORS, cors: {{{cors}}}}}");
    refused(&cors("allowOrigins: [\"*\", \"https://a.b\"]"), "[0].cors.allowOrigins");
    refused(&cors("allowOrigins: [a.b]"), "[0].cors.allowOrigins[0]");
    refused(&cors("allowOrigins: [\"https://a.b/\"]"), "[0].cors.allowOrigins[0]");
    refused(&cors("allowMethods: [GET, \"*\"]"), "[0].cors.allowMethods");
    refused(&cors("allowMethods: [FETCH]"), "[0].cors.allowMethods[0]");
    refused(&cors("allowHeaders: [a, \"*\"]"), "[0].cors.allowHeaders");
    refused(&cors("maxAge: 0"), "[0].cors.maxAge");
    let auth = |auth: &str| format!("{{type: ExternalAuth, externalAuth: {{{auth}}}}}");
    refused("{type: ExternalAuth}", "[0].externalAuth");
    refused(&auth(""), "[0].externalAuth");
    refused(
        &auth("protocol: HTTP, http: {path: \"/[\"}, backendRef: {name: a, port: 1}"),
        "[0].externalAuth.http.path",
    );
    refused(&auth("protocol: GRPC, backendRef: {name: a, port: 1}"), "[0].externalAuth.grpc");
}

#[test]
fn rules_whose_parts_do_not_fit_together_are_refused() {
    fn refused(rule: &str, field: &str) {
        check(&http(rule), &format!("spec.rules[0]{field}"));
    }
    let prefix = "type: ReplacePrefixMatch, replacePrefixMatch: /b";
    let rewrite = format!("{{type: URLRewrite, urlRewrite: {{path: {{{prefix}}}}}}}");
    let redirect = format!("{{type: RequestRedirect, requestRedirect: {{path: {{{prefix}}}}}}}");
    for (filter, part) in [(&rewrite, "urlRewrite"), (&redirect, "requestRedirect")] {
        for matches in
            ["[{path: {value: /a}}, {path: {value: /b}}]", "[{path: {type: Exact, value: /a}}]", "[]"]
        {
            let field = format!(".filters[0].{part}.path.replacePrefixMatch");
            refused(&format!("matches: {matches}, filters: [{filter}]"), &field);
            let backend = format!("backendRefs: [{{name: a, port: 80, filters: [{filter}]}}]");
            refused(&format!("matches: {matches}, {backend}"), &format!(".backendRefs[0]{field}"));
        }
        accepted(&http(&format!("filters: [{filter}]")));
    }
    let plain = "{type: RequestRedirect, requestRedirect: {scheme: https, statusCode: 301}}";
    refused(&format!("filters: [{plain}], backendRefs: [{{name: a, port: 80}}]"), ".filters[0]");
    refused("timeouts: {request: 1s, backendRequest: 2s}", ".timeouts.backendRequest");
    refused("timeouts: {request: 1}", ".timeouts.request");
    refused("timeouts: {request: 1d}", ".timeouts.request");
    accepted(&http("timeouts: {request: 0s, backendRequest: 2s}"));
    refused("retry: {attempts: 0}", ".retry.attempts");
    refused("retry: {codes: [200]}", ".retry.codes[0]");
    refused("retry: {codes: [500, 500]}", ".retry.codes[1]");
    refused("retry: {backoff: 1}", ".retry.backoff");
    refused("backendRefs: [{name: a}]", ".backendRefs[0].port");
    refused("backendRefs: [{name: a, kind: Service, group: \"\"}]", ".backendRefs[0].port");
    refused("backendRefs: [{name: a, port: 800080}]", ".backendRefs[0].port");
    refused("backendRefs: [{name: a, port: 80, group: \"*\"}]", ".backendRefs[0].group");
    refused("backendRefs: [{name: a, port: 80, kind: \"*\"}]", ".backendRefs[0].kind");
    refused("backendRefs: [{name: a, port: 80, namespace: A}]", ".backendRefs[0].namespace");
    refused("backendRefs: [{name: a, port: 80, weight: -1}]", ".backendRefs[0].weight");
    refused("backendRefs: [{name: a, port: 80, weight: 1000001}]", ".backendRefs[0].weight");
    refused("name: A", ".name");
    let many = vec!["{name: a, port: 80}"; 17].join(", ");
    refused(&format!("backendRefs: [{many}]"), ".backendRefs");
    let many = vec!["{}"; 65].join(", ");
    refused(&format!("matches: [{many}]"), ".matches");
}

#[test]
fn sessions_need_what_their_type_needs() {
    fn refused(session: &str, field: &str) {
        for rule in [http, grpc] {
            let field = format!("spec.rules[0].sessionPersistence{field}");
            check(&rule(&format!("sessionPersistence: {{{session}}}")), &field);
        }
    }
    refused("type: Header, header: {}", ".header");
    refused("type: Header, header: {name: a}, cookie: {name: b}", ".cookie");
    refused("type: Cookie, cookie: {}, header: {name: a}", ".header");
    refused("type: Cookie, cookie: {lifetimeType: Permanent}", ".absoluteTimeout");
    refused("sessionName: a, cookieConfig: {lifetimeType: Permanent}", ".absoluteTimeout");
    refused("cookie: {name: \"a b\"}", ".cookie.name");
    refused("cookie: {lifetimeType: Ever}", ".cookie.lifetimeType");
    for good in [
        "",
        "cookie: {}",
        "type: Cookie",
        "type: Header",
        "absoluteTimeout: 1h",
        "sessionName: a, absoluteTimeout: 1h, cookieConfig: {lifetimeType: Permanent}",
        "cookie: {name: a, path: /, lifetimeType: Permanent}, absoluteTimeout: 1h",
        "type: Header, header: {name: x-session}",
        "sessionName: a, idleTimeout: 10m, cookieConfig: {lifetimeType: Session}",
    ] {
        accepted(&http(&format!("sessionPersistence: {{{good}}}")));
    }
}

#[test]
fn parents_and_rules_are_counted_and_told_apart() {
    fn refused(spec: &str, field: &str) {
        for kind in ["HTTPRoute", "GRPCRoute"] {
            check(&object(&format!("{GATEWAY}/v1"), kind, spec), &format!("spec.{field}"));
        }
    }
    let parents = |parents: &str| format!("{{parentRefs: [{parents}]}}");
    let one = "group: \"\", kind: Service, name: a";
    refused(&parents(&format!("{{{one}}}, {{{one}}}")), "parentRefs[1]");
    refused(&parents(&format!("{{{one}, port: 80}}, {{{one}, port: 80}}")), "parentRefs[1]");
    refused(&parents(&format!("{{{one}, port: 80}}, {{{one}}}")), "parentRefs[1]");
    refused(&parents(&format!("{{{one}, port: 80}}, {{{one}, sectionName: b}}")), "parentRefs[1]");
    refused(&parents("{kind: Service}"), "parentRefs[0]");
    refused(&parents("{name: a, port: 65536}"), "parentRefs[0].port");
    refused("{hostnames: [\"http://a<\"]}", "hostnames[0]");
    refused("{hostnames: [\"a.*.b\"]}", "hostnames[0]");
    refused("{rules: [{name: a}, {name: a}]}", "rules[1].name");
    let many = vec!["{}"; 17].join(", ");
    refused(&format!("{{rules: [{many}]}}"), "rules");
    let rule = format!("{{matches: [{}]}}", vec!["{}"; 43].join(", "));
    refused(&format!("{{rules: [{rule}, {rule}, {rule}]}}"), "rules");
    check(&object(&format!("{GATEWAY}/v1"), "HTTPRoute", "{rules: []}"), "spec.rules");
    accepted(&object(
        &format!("{GATEWAY}/v1beta1"),
        "HTTPRoute",
        &parents(&format!("{{{one}, port: 80}}, {{{one}, port: 81}}, {{name: a}}")),
    ));
}

#[test]
fn grpc_routes_take_names_and_filters_of_their_own_only() {
    fn refused(rule: &str, field: &str) {
        check(&grpc(rule), &format!("spec.rules[0].{field}"));
    }
    refused("matches: [{method: {}}]", "matches[0].method");
    refused("matches: [{method: {type: RegularExpression}}]", "matches[0].method");
    refused("matches: [{method: {service: \"a-b\"}}]", "matches[0].method.service");
    refused("matches: [{method: {service: \"a..b\"}}]", "matches[0].method.service");
    refused("matches: [{method: {service: /a}}]", "matches[0].method.service");
    refused("matches: [{method: {method: \"1a\"}}]", "matches[0].method.method");
    refused("matches: [{method: {type: RegularExpression, method: \"(\"}}]", "matches[0].method.method");
    refused("matches: [{headers: [{name: a, value: b}, {name: a, value: c}]}]", "matches[0].headers[1].name");
    refused("filters: [{type: URLRewrite, urlRewrite: {hostname: a}}]", "filters[0].type");
    refused("filters: [{type: RequestRedirect, requestRedirect: {port: 1}}]", "filters[0].type");
    refused("filters: [{type: CORS, cors: {}}]", "filters[0].type");
    refused("backendRefs: [{name: a}]", "backendRefs[0].port");
    accepted(&grpc(
        "matches: [{method: {service: .shop.v1.Cart, method: Get_1}}, {method: {type: RegularExpression, service: \"shop[.].*\"}}]",
    ));
}

#[test]
fn stream_routes_and_grants_need_all_that_makes_them_one() {
    let check_kind = |version: &str, kind: &str, spec: &str, field: &str| {
        check(&object(&format!("{GATEWAY}/{version}"), kind, spec), field);
    };
    let rule = "rules: [{backendRefs: [{name: a, port: 80}]}]";
    check_kind("v1", "TLSRoute", &format!("{{hostnames: [\"http://a<\"], {rule}}}"), "spec.hostnames[0]");
    check_kind("v1", "TLSRoute", &format!("{{{rule}}}"), "spec.hostnames");
    check_kind("v1alpha3", "TLSRoute", &format!("{{hostnames: [], {rule}}}"), "spec.hostnames");
    check_kind("v1", "TLSRoute", &format!("{{hostnames: [10.0.0.1], {rule}}}"), "spec.hostnames[0]");
    check_kind("v1", "TLSRoute", &format!("{{hostnames: [\"a.*\"], {rule}}}"), "spec.hostnames[0]");
    check_kind(
        "v1",
        "TLSRoute",
        "{hostnames: [a.b], rules: [{backendRefs: []}]}",
        "spec.rules[0].backendRefs",
    );
    check_kind("v1", "TLSRoute", "{hostnames: [a.b], rules: [{}]}", "spec.rules[0]");
    accepted(&object(&format!("{GATEWAY}/v1alpha2"), "TLSRoute", &format!("{{{rule}}}")));
    let two = "{rules: [{backendRefs: [{name: a, port: 80}]}, {backendRefs: [{name: b, port: 80}]}]}";
    check_kind("v1", "TCPRoute", two, "spec.rules");
    accepted(&object(&format!("{GATEWAY}/v1alpha2"), "TCPRoute", two));
    check_kind("v1", "TCPRoute", "{rules: []}", "spec.rules");
    check_kind(
        "v1",
        "TCPRoute",
        "{rules: [{backendRefs: [{name: a}]}]}",
        "spec.rules[0].backendRefs[0].port",
    );
    let (from, to) = (
        "from: [{group: gateway.networking.k8s.io, kind: HTTPRoute, namespace: a}]",
        "to: [{group: \"\", kind: Service}]",
    );
    check_kind("v1", "ReferenceGrant", &format!("{{{from}}}"), "spec");
    check_kind("v1", "ReferenceGrant", &format!("{{{to}}}"), "spec");
    check_kind("v1beta1", "ReferenceGrant", &format!("{{from: [], {to}}}"), "spec.from");
    let nobody = "from: [{group: gateway.networking.k8s.io, kind: HTTPRoute}]";
    check_kind("v1beta1", "ReferenceGrant", &format!("{{{nobody}, {to}}}"), "spec.from[0]");
    accepted(&object(&format!("{GATEWAY}/v1beta1"), "ReferenceGrant", &format!("{{{from}, {to}}}")));
}

#[test]
fn budgets_keep_their_ranges() {
    fn policy(spec: &str) -> String {
        let target = "targetRefs: [{group: \"\", kind: Service, name: a}]";
        object(
            "gateway.networking.x-k8s.io/v1alpha1",
            "XBackendTrafficPolicy",
            &format!("{{{target}, {spec}}}"),
        )
    }
    fn refused(constraint: &str, field: &str) {
        let text = policy(&format!("retryConstraint: {{{constraint}}}"));
        check(&text, &format!("spec.retryConstraint.{field}"));
    }
    refused("budget: {percent: 101}", "budget.percent");
    refused("budget: {interval: 500ms}", "budget.interval");
    refused("budget: {interval: 61m}", "budget.interval");
    refused("minRetryRate: {count: 0}", "minRetryRate.count");
    refused("minRetryRate: {interval: 0s}", "minRetryRate.interval");
    accepted(&policy("retryConstraint: {budget: {percent: 50}}"));
}

#[test]
fn a_field_that_a_route_has_not_is_named_and_the_rest_serves() {
    let text = "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {name: r, namespace: shop, uid: x, managedFields: []}\nspec:\n  rules:\n  - match: []\n    backendRefs: [{name: a, port: 80, wieght: 3}]\nstatus: {parents: []}\n";
    for format in [Format::Yaml, Format::Json] {
        let text = match format {
            Format::Yaml => text.to_owned(),
            Format::Json => {
                serde_json::to_string(&serde_yaml_ng::from_str::<serde_json::Value>(text).unwrap()).unwrap()
            }
        };
        let parsed = parse(&text, format);
        assert_eq!(parsed.objects.len(), 1);
        let mut fields: Vec<_> =
            parsed.problems.iter().map(|(w, _)| (w.code.as_str(), w.field.as_str())).collect();
        fields.sort_unstable();
        assert_eq!(
            fields,
            [("MESH0122", "spec.rules[0].backendRefs[0].wieght"), ("MESH0122", "spec.rules[0].match")]
        );
    }
}

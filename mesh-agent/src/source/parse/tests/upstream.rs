//! The mistakes of the Gateway API's own invalid examples, each in words of our own: every one is refused by a warning that
//! names the field. Of Gateways and GatewayClasses only that they are another controller's.

use super::*;

/// Mistake (named as upstream names it), kind, spec; the code and field of the warning.
const EXAMPLES: &[(&str, &str, &str, &str, &str)] = &[
    (
        "duplicate-header-match",
        "HTTPRoute",
        "{rules: [{matches: [{headers: [{name: x-tenant, value: a}, {name: x-tenant, value: b}]}]}]}",
        "MESH0109",
        "spec.rules[0].matches[0].headers[1].name",
    ),
    (
        "duplicate-query-match",
        "HTTPRoute",
        "{rules: [{matches: [{queryParams: [{name: page, value: one}, {name: page, value: two}]}]}]}",
        "MESH0109",
        "spec.rules[0].matches[0].queryParams[1].name",
    ),
    (
        "httproute-portless-backend",
        "HTTPRoute",
        "{parentRefs: [{name: edge}], rules: [{backendRefs: [{name: till}]}]}",
        "MESH0109",
        "spec.rules[0].backendRefs[0].port",
    ),
    (
        "httproute-portless-service",
        "HTTPRoute",
        "{parentRefs: [{name: edge}], rules: [{backendRefs: [{name: till, kind: Service}]}]}",
        "MESH0109",
        "spec.rules[0].backendRefs[0].port",
    ),
    (
        "invalid-backend-group",
        "HTTPRoute",
        "{rules: [{backendRefs: [{group: \"?\", name: till, port: 80}]}]}",
        "MESH0109",
        "spec.rules[0].backendRefs[0].group",
    ),
    (
        "invalid-backend-kind",
        "HTTPRoute",
        "{rules: [{backendRefs: [{kind: \"?\", name: till, port: 80}]}]}",
        "MESH0109",
        "spec.rules[0].backendRefs[0].kind",
    ),
    (
        "invalid-backend-port",
        "HTTPRoute",
        "{rules: [{backendRefs: [{name: till, port: 99999}]}]}",
        "MESH0110",
        "spec.rules[0].backendRefs[0].port",
    ),
    (
        "invalid-filter-duplicate-header",
        "HTTPRoute",
        "{rules: [{filters: [{type: RequestHeaderModifier, requestHeaderModifier: {remove: [x-old, x-old]}}]}]}",
        "MESH0109",
        "spec.rules[0].filters[0].requestHeaderModifier.remove[1]",
    ),
    (
        "invalid-filter-duplicate",
        "HTTPRoute",
        "{rules: [{filters: [{type: RequestHeaderModifier, requestHeaderModifier: {remove: [x-a]}}, {type: RequestHeaderModifier, requestHeaderModifier: {remove: [x-b]}}]}]}",
        "MESH0109",
        "spec.rules[0].filters[1].type",
    ),
    (
        "invalid-filter-empty",
        "HTTPRoute",
        "{rules: [{filters: [{type: URLRewrite}]}]}",
        "MESH0109",
        "spec.rules[0].filters[0].urlRewrite",
    ),
    (
        "invalid-filter-wrong-field",
        "HTTPRoute",
        "{rules: [{filters: [{type: RequestHeaderModifier, requestRedirect: {port: 8443}}]}]}",
        "MESH0109",
        "spec.rules[0].filters[0].requestHeaderModifier",
    ),
    (
        "invalid-header-name",
        "HTTPRoute",
        "{rules: [{matches: [{headers: [{name: \"x/tenant\", value: a}]}]}]}",
        "MESH0109",
        "spec.rules[0].matches[0].headers[0].name",
    ),
    ("invalid-hostname", "HTTPRoute", "{hostnames: [\"shop_one.*.test\"]}", "MESH0109", "spec.hostnames[0]"),
    (
        "invalid-httpredirect-hostname",
        "HTTPRoute",
        "{rules: [{filters: [{type: RequestRedirect, requestRedirect: {hostname: \"*.shop.test\"}}]}]}",
        "MESH0109",
        "spec.rules[0].filters[0].requestRedirect.hostname",
    ),
    (
        "invalid-method",
        "HTTPRoute",
        "{rules: [{matches: [{method: ORDER}]}]}",
        "MESH0109",
        "spec.rules[0].matches[0].method",
    ),
    (
        "invalid-path-alphanum-specialchars-mix",
        "HTTPRoute",
        "{rules: [{matches: [{path: {type: PathPrefix, value: \"/cart[7]\"}}]}]}",
        "MESH0109",
        "spec.rules[0].matches[0].path.value",
    ),
    (
        "invalid-path-specialchars",
        "HTTPRoute",
        "{rules: [{matches: [{path: {type: PathPrefix, value: \"/[]\"}}]}]}",
        "MESH0109",
        "spec.rules[0].matches[0].path.value",
    ),
    (
        "invalid-request-redirect-with-backendref",
        "HTTPRoute",
        "{rules: [{filters: [{type: RequestRedirect, requestRedirect: {scheme: https}}], backendRefs: [{name: till, port: 80}]}]}",
        "MESH0109",
        "spec.rules[0].filters[0]",
    ),
    (
        "invalid-filter-externalauth-bad-http-path",
        "HTTPRoute",
        "{rules: [{filters: [{type: ExternalAuth, externalAuth: {protocol: HTTP, backendRef: {name: a, port: 80}, http: {path: \"/[\"}}}]}]}",
        "MESH0109",
        "spec.rules[0].filters[0].externalAuth.http.path",
    ),
    (
        "invalid-filter-externalauth-empty",
        "HTTPRoute",
        "{rules: [{filters: [{type: ExternalAuth}]}]}",
        "MESH0109",
        "spec.rules[0].filters[0].externalAuth",
    ),
    (
        "invalid-filter-externalauth-no-protocol",
        "HTTPRoute",
        "{rules: [{filters: [{type: ExternalAuth, externalAuth: {backendRef: {name: a, port: 80}}}]}]}",
        "MESH0109",
        "spec.rules[0].filters[0].externalAuth",
    ),
    (
        "invalid-header-value",
        "HTTPRoute",
        "{rules: [{filters: [{type: ResponseHeaderModifier, responseHeaderModifier: {add: [{name: x-note, value: \"one\\r\\ntwo\"}]}}]}]}",
        "MESH0109",
        "spec.rules[0].filters[0].responseHeaderModifier.add[0].value",
    ),
    (
        "grpcroute/invalid-service",
        "GRPCRoute",
        "{rules: [{matches: [{method: {service: ../}}], backendRefs: [{name: till, port: 80}]}]}",
        "MESH0109",
        "spec.rules[0].matches[0].method.service",
    ),
    (
        "referencegrant/missing-from",
        "ReferenceGrant",
        "{to: [{group: \"\", kind: Service}]}",
        "MESH0109",
        "spec",
    ),
    (
        "referencegrant/missing-ns",
        "ReferenceGrant",
        "{from: [{group: gateway.networking.k8s.io, kind: HTTPRoute}], to: [{group: \"\", kind: Service}]}",
        "MESH0109",
        "spec.from[0]",
    ),
    (
        "referencegrant/missing-to",
        "ReferenceGrant",
        "{from: [{group: gateway.networking.k8s.io, kind: HTTPRoute, namespace: web}]}",
        "MESH0109",
        "spec",
    ),
    (
        "tlsroute/invalid-hostname",
        "TLSRoute",
        "{hostnames: [\"shop.*\"], rules: [{backendRefs: [{name: till, port: 443}]}]}",
        "MESH0109",
        "spec.hostnames[0]",
    ),
    (
        "tlsroute/no-hostname",
        "TLSRoute",
        "{rules: [{backendRefs: [{name: till, port: 443}]}]}",
        "MESH0109",
        "spec.hostnames",
    ),
];

/// Upstream's of Gateway and GatewayClass: whatever is wrong in them isn't the agent's to say.
const FOREIGN: &[(&str, &str, &str)] = &[
    (
        "duplicate-listeners",
        "Gateway",
        "{listeners: [{name: a, port: 80, protocol: HTTP}, {name: a, port: 81, protocol: HTTP}]}",
    ),
    ("hostname-tcp", "Gateway", "{listeners: [{name: a, hostname: shop.test, port: 80, protocol: TCP}]}"),
    ("hostname-udp", "Gateway", "{listeners: [{name: a, hostname: shop.test, port: 80, protocol: UDP}]}"),
    (
        "invalid-addresses",
        "Gateway",
        "{addresses: [{value: nowhere}], listeners: [{name: a, port: 80, protocol: HTTP}]}",
    ),
    ("invalid-listener-name", "Gateway", "{listeners: [{name: \"a b\", port: 80, protocol: HTTP}]}"),
    ("invalid-listener-port", "Gateway", "{listeners: [{name: a, port: 99999, protocol: HTTP}]}"),
    (
        "invalid-tls-mode",
        "Gateway",
        "{listeners: [{name: a, port: 443, protocol: HTTPS, tls: {mode: Peek}}]}",
    ),
    (
        "tlsconfig-tcp",
        "Gateway",
        "{listeners: [{name: a, port: 443, protocol: TCP, tls: {mode: Terminate}}]}",
    ),
    ("invalid-controller", "GatewayClass", "{controllerName: nobody}"),
];

fn object(kind: &str, spec: &str) -> String {
    format!(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: {kind}\nmetadata: {{name: example, namespace: shop}}\nspec: {spec}\n"
    )
}

#[test]
fn every_mistake_of_the_gateway_apis_invalid_examples_is_refused_by_its_field() {
    for (mistake, kind, spec, code, field) in EXAMPLES {
        let parsed = parse(&object(kind, spec), Format::Yaml);
        assert!(parsed.objects.is_empty(), "{mistake} is taken");
        let said: Vec<_> = parsed.problems.iter().map(|(w, _)| (w.code.as_str(), w.field.as_str())).collect();
        assert_eq!(said, [(*code, *field)], "{mistake}: {:?}", parsed.problems);
        assert_eq!(parsed.problems[0].0.object, format!("{kind} shop/example"), "{mistake}");
    }
}

#[test]
fn gateways_and_their_classes_are_left_to_their_controller_with_a_note() {
    for (mistake, kind, spec) in FOREIGN {
        let parsed = parse(&object(kind, spec), Format::Yaml);
        assert!(parsed.objects.is_empty() && parsed.broken.is_empty(), "{mistake}");
        assert_eq!(parsed.problems.len(), 1, "{mistake}: {:?}", parsed.problems);
        let warning = &parsed.problems[0].0;
        assert_eq!((warning.code.as_str(), warning.field.as_str()), ("MESH0137", "kind"), "{mistake}");
        assert!(warning.message.contains("another controller's kind"), "{mistake}: {warning}");
        assert_eq!(WarningCode::ForeignKind.severity(), crate::model::Severity::Info);
    }
}

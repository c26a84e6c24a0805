//! Which RequestAuthentications are valid, and what is said of the others.
#![allow(clippy::unwrap_used)]
use super::*;

const JWKS: &str =
    r#"{"keys":[{"kty":"OKP","crv":"Ed25519","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}]}"#;

fn read(spec: &str) -> RequestAuthentication {
    let text = format!("metadata: {{name: a}}\nspec:\n{spec}");
    let value: serde_yaml_ng::Value = serde_yaml_ng::from_str(&text).unwrap();
    let mut policy: RequestAuthentication = serde_yaml_ng::from_value(value.clone()).unwrap();
    policy.note_fields(&value);
    policy
}

fn check(spec: &str, want: Option<&str>) {
    let got = read(spec).validate().err().map(|error| error.field);
    assert_eq!(got.as_deref(), want, "{spec}");
}

#[test]
fn every_field_is_read() {
    let policy = read(&format!(
        r#"
  selector: {{matchLabels: {{app: cart}}}}
  jwtRules:
  - issuer: https://idp
    audiences: [a]
    jwks: '{JWKS}'
    fromHeaders: [{{name: X-Jwt, prefix: "JWT "}}]
    fromParams: [t]
    fromCookies: [c]
    outputPayloadToHeader: x-payload
    outputClaimToHeaders: [{{header: x-sub, claim: sub}}]
    forwardOriginalToken: true
    timeout: 2s
    spaceDelimitedClaims: [roles]
"#
    ));
    assert_eq!(policy.validate(), Ok(()));
    assert_eq!(policy.notes, []);
    assert!(policy.is_understood(0));
    assert_eq!(policy.labels().unwrap()["app"], "cart");
    let rule = &policy.spec.jwt_rules[0];
    assert_eq!((&*rule.issuer, &*rule.audiences[0], rule.jwks.len()), ("https://idp", "a", JWKS.len()));
    assert_eq!(rule.from_headers, [JwtHeader { name: "X-Jwt".into(), prefix: "JWT ".into() }]);
    assert_eq!((&*rule.from_params[0], &*rule.from_cookies[0]), ("t", "c"));
    assert_eq!(rule.output_claim_to_headers, [ClaimToHeader { header: "x-sub".into(), claim: "sub".into() }]);
    assert!(rule.forward_original_token);
    assert_eq!(rule.timeout, Some(GoDuration(std::time::Duration::from_secs(2))));
    assert_eq!(rule.space_delimited_claims, ["roles"]);
}

#[test]
fn what_istio_refuses_is_refused_with_its_field() {
    check("  jwtRules: []", None);
    check("  {}", None);
    check("  jwtRules: [{issuer: a}]", None);
    check("  jwtRules: [{jwksUri: 'https://a/keys'}]", None);
    check("  jwtRules: [{issuer: a, jwks_uri: 'http://a.b:80/keys'}]", None);
    check("  jwtRules: [{}]", Some("spec.jwtRules[0].issuer"));
    check(&format!("  jwtRules: [{{jwks: '{JWKS}'}}]"), Some("spec.jwtRules[0].issuer"));
    check(
        &format!("  jwtRules: [{{issuer: a, jwks: '{JWKS}', jwksUri: 'https://a'}}]"),
        Some("spec.jwtRules[0].jwks"),
    );
    for url in ["ftp://a", "a", "/keys", "https://", "https://u:p@a/", "https://a b"] {
        check(&format!("  jwtRules: [{{issuer: a, jwksUri: '{url}'}}]"), Some("spec.jwtRules[0].jwksUri"));
    }
    for jwks in ["x", "{}", r#"{"keys":[]}"#, r#"{"keys":[{"kty":"oct","k":"AAAA"}]}"#] {
        check(&format!("  jwtRules: [{{issuer: a, jwks: '{jwks}'}}]"), Some("spec.jwtRules[0].jwks"));
    }
    check("  jwtRules: [{issuer: a, audiences: ['']}]", Some("spec.jwtRules[0].audiences[0]"));
    check(
        "  jwtRules: [{issuer: a, fromHeaders: [{name: ''}]}]",
        Some("spec.jwtRules[0].fromHeaders[0].name"),
    );
    check(
        "  jwtRules: [{issuer: a, fromHeaders: [{name: Host}]}]",
        Some("spec.jwtRules[0].fromHeaders[0].name"),
    );
    check("  jwtRules: [{issuer: a, fromParams: ['']}]", Some("spec.jwtRules[0].fromParams[0]"));
    check("  jwtRules: [{issuer: a, fromCookies: ['']}]", Some("spec.jwtRules[0].fromCookies[0]"));
    for header in ["content-length", "Transfer-Encoding", ":path", "a b"] {
        check(
            &format!("  jwtRules: [{{issuer: a, outputPayloadToHeader: '{header}'}}]"),
            Some("spec.jwtRules[0].outputPayloadToHeader"),
        );
        check(
            &format!("  jwtRules: [{{issuer: a, outputClaimToHeaders: [{{header: '{header}', claim: a}}]}}]"),
            Some("spec.jwtRules[0].outputClaimToHeaders[0].header"),
        );
    }
    check(
        "  jwtRules: [{issuer: a, outputClaimToHeaders: [{header: x, claim: ''}]}]",
        Some("spec.jwtRules[0].outputClaimToHeaders[0].claim"),
    );
    check("  jwtRules: [{issuer: a, timeout: 0s}]", Some("spec.jwtRules[0].timeout"));
    check("  jwtRules: [{issuer: a, timeout: 2m}]", Some("spec.jwtRules[0].timeout"));
    check("  selector: {}\n  targetRefs: [{kind: Service, name: a}]", Some("spec.selector"));
    check("  targetRefs: [{kind: Service, name: ''}]", Some("spec.targetRefs[0]"));
    check("  targetRefs: [{kind: Service, name: a, namespace: b}]", Some("spec.targetRefs[0].namespace"));
    check("  selector: {matchLabels: {'': a}}", Some("spec.selector.matchLabels"));
}

#[test]
fn a_rule_with_a_field_that_nobody_knows_is_not_understood() {
    let policy = read("  jwtRules: [{issuer: a}, {issuer: b, audience: [x]}]");
    assert_eq!(policy.notes.len(), 1);
    assert_eq!(policy.notes[0].field, "spec.jwtRules[1].audience");
    assert!(policy.is_understood(0) && !policy.is_understood(1));
    // One beside the rules may have been meant for each of them.
    let policy = read("  jwtRules: [{issuer: a}]\n  mode: strict");
    assert!(!policy.is_understood(0));
}

#[test]
fn what_stands_in_for_a_broken_policy_knows_its_pods_and_its_headers() {
    let document = r#"
metadata: {name: a, namespace: shop}
spec:
  selector: {matchLabels: {app: cart}}
  jwtRules:
  - issuer: 7
    outputPayloadToHeader: x-payload
    outputClaimToHeaders: [{header: x-sub, claim: sub}, {header: 3}]
    fromCookies: [c]
"#;
    let policy = RequestAuthentication::stand_in(&serde_yaml_ng::from_str(document).unwrap()).unwrap();
    assert!(policy.stands_in && policy.validate().is_ok() && !policy.is_understood(0));
    assert_eq!(policy.labels().unwrap()["app"], "cart");
    let rule = &policy.spec.jwt_rules[0];
    assert_eq!((&*rule.output_payload_to_header, &*rule.from_cookies[0]), ("x-payload", "c"));
    assert_eq!(rule.output_claim_to_headers.len(), 1);
    let nameless = serde_yaml_ng::from_str("{metadata: {}, spec: {}}").unwrap();
    assert_eq!(RequestAuthentication::stand_in(&nameless), None);
}

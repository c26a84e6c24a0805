//! Which objects are refused, and with which field.
#![allow(clippy::unwrap_used, clippy::panic)]

use super::*;

fn check(spec: &str, want: Option<&str>) {
    let text = format!("{{metadata: {{name: p}}, spec: {spec}}}");
    let got = match serde_yaml_ng::from_str::<AuthorizationPolicy>(&text) {
        Ok(policy) => policy.validate().err().map(|error| error.field),
        Err(error) => Some(format!("! {error}")),
    };
    match (&got, want) {
        (Some(got), Some("!")) => assert!(got.starts_with('!'), "{spec}: {got}"),
        (got, want) => assert_eq!(got.as_deref(), want, "{spec}"),
    }
}

#[test]
fn what_istio_refuses_is_refused() {
    check("{}", None);
    check("{rules: [{}]}", None);
    check("{rules: [{from: []}]}", Some("spec.rules[0].from"));
    check("{rules: [{to: []}]}", Some("spec.rules[0].to"));
    check("{rules: [{from: [{source: {}}]}]}", Some("spec.rules[0].from[0].source"));
    check("{rules: [{from: [{}]}]}", Some("!"));
    check("{rules: [null]}", Some("!"));
    check("{rules: [{to: [{operation: {}}]}]}", Some("spec.rules[0].to[0].operation"));
    check(
        "{rules: [{from: [{source: {principals: [\"\"]}}]}]}",
        Some("spec.rules[0].from[0].source.principals[0]"),
    );
    check("{rules: [{from: [{source: {ipBlocks: [x]}}]}]}", Some("spec.rules[0].from[0].source.ipBlocks[0]"));
    check(
        "{rules: [{from: [{source: {notRemoteIpBlocks: [10.0.0.1, 10.0.0.0/40]}}]}]}",
        Some("spec.rules[0].from[0].source.notRemoteIpBlocks[1]"),
    );
    check(
        "{rules: [{to: [{operation: {ports: [\"70000\"]}}]}]}",
        Some("spec.rules[0].to[0].operation.ports[0]"),
    );
    check("{rules: [{to: [{operation: {ports: [[80]]}}]}]}", Some("!"));
    check(
        "{rules: [{to: [{operation: {paths: [\"/{x}\"]}}]}]}",
        Some("spec.rules[0].to[0].operation.paths[0]"),
    );
    for account in ["\"*\"", "a/b/c", "/a", "a/"] {
        let spec = format!("{{rules: [{{from: [{{source: {{serviceAccounts: [{account}]}}}}]}}]}}");
        check(&spec, Some("spec.rules[0].from[0].source.serviceAccounts[0]"));
    }
    check(
        "{rules: [{from: [{source: {serviceAccounts: [a], namespaces: [b]}}]}]}",
        Some("spec.rules[0].from[0].source.serviceAccounts"),
    );
    check("{rules: [{when: [{key: source.ip}]}]}", Some("spec.rules[0].when[0].values"));
    check("{rules: [{when: [{key: \"\", values: [a]}]}]}", Some("spec.rules[0].when[0].key"));
    check("{rules: [{when: [{key: source.ip, values: [a]}]}]}", Some("spec.rules[0].when[0].values[0]"));
    check(
        "{rules: [{when: [{key: destination.port, notValues: [a]}]}]}",
        Some("spec.rules[0].when[0].notValues[0]"),
    );
    check("{rules: [{when: [{key: some.thing, values: [a]}]}]}", None);
    check("{action: DENNY, rules: [{}]}", Some("!"));
    check("{action: DENY}", Some("spec.rules"));
    check("{action: CUSTOM, rules: [{}]}", Some("spec.provider"));
    check("{action: CUSTOM, provider: {name: x}, rules: [{}]}", None);
    check(
        "{action: CUSTOM, provider: {name: x}, rules: [{from: [{source: {namespaces: [a]}}]}]}",
        Some("spec.rules[0].from[0].source.namespaces"),
    );
    check(
        "{action: CUSTOM, provider: {name: x}, rules: [{when: [{key: request.auth.principal, values: [a]}]}]}",
        Some("spec.rules[0].when[0].key"),
    );
    check("{provider: {name: x}, rules: [{}]}", Some("spec.provider"));
    check("{selector: {matchLabels: {app: \"a*\"}}}", Some("spec.selector.matchLabels"));
    check("{selector: {}, targetRefs: [{kind: Service, name: a}]}", Some("spec.selector"));
    check("{targetRefs: [{kind: Service, name: a, namespace: b}]}", Some("spec.targetRefs[0].namespace"));
    check("{targetRefs: [{kind: Service, name: \"\"}]}", Some("spec.targetRefs[0]"));
    check("{targetRefs: [{kind: Gateway, group: gateway.networking.k8s.io, name: a}]}", None);
}

#[test]
fn every_field_of_the_type_is_known_as_one() {
    let text = "
metadata: {name: p}
spec:
  selector: {matchLabels: {a: b}}
  targetRef: {group: '', kind: Service, name: x, namespace: y}
  targetRefs: [{group: '', kind: Service, name: x, namespace: y}]
  action: CUSTOM
  provider: {name: x}
  rules:
  - from:
    - source: {principals: [a], notPrincipals: [a], requestPrincipals: [a], notRequestPrincipals: [a], namespaces: [a],
        notNamespaces: [a], serviceAccounts: [a], notServiceAccounts: [a], ipBlocks: [a], notIpBlocks: [a],
        remoteIpBlocks: [a], notRemoteIpBlocks: [a]}
    to:
    - operation: {hosts: [a], notHosts: [a], ports: [a], notPorts: [a], methods: [a], notMethods: [a], paths: [a], notPaths: [a]}
    when: [{key: a, values: [a], notValues: [a]}]
";
    let mut policy: AuthorizationPolicy = serde_yaml_ng::from_str(text).unwrap();
    policy.note_fields(&serde_yaml_ng::from_str(text).unwrap());
    assert_eq!(policy.notes, []);
    let rule = &policy.spec.rules[0];
    let all = |mut lists: Box<dyn Iterator<Item = (&'static str, &[String])> + '_>| {
        lists.all(|(_, list)| list == ["a"])
    };
    assert!(all(Box::new(rule.from.as_ref().unwrap()[0].source.lists())));
    assert!(all(Box::new(rule.to.as_ref().unwrap()[0].operation.lists())));
    let odd = text.replace("notPrincipals", "notprincipals");
    policy.note_fields(&serde_yaml_ng::from_str(&odd).unwrap());
    assert_eq!(policy.notes[0].field, "spec.rules[0].from[0].source.notprincipals");
}

//! In which order actions decide, what empty policies mean, what becomes of rules for requests on connections, and how what
//! can't be judged fails.

use super::*;

#[derive(Debug, PartialEq, Eq)]
enum Decided {
    Passes,
    Denied,
}
use Decided::{Denied, Passes};

fn decided(specs: &[&str], traffic: &Traffic) -> Decided {
    let policies: Vec<_> =
        specs.iter().enumerate().map(|(at, spec)| policy(&format!("p{at}"), spec)).collect();
    if traffic.is_denied(&compile(&policies)) { Denied } else { Passes }
}

const ALLOW_GET: &str = "{rules: [{to: [{operation: {methods: [GET]}}]}]}";
const ALLOW_ALL: &str = "{rules: [{}]}";
const ALLOW_NOTHING: &str = "{}";
const DENY_GET: &str = "{action: DENY, rules: [{to: [{operation: {methods: [GET]}}]}]}";
const DENY_ALL: &str = "{action: DENY, rules: [{}]}";
const AUDIT_ALL: &str = "{action: AUDIT, rules: [{}]}";

#[test]
fn deny_goes_before_allow_and_without_allow_everything_is_allowed() {
    let get = request("GET /", &[]);
    let post = request("POST /", &[]);
    fn check(specs: &[&str], traffic: &Traffic, want: Decided) {
        assert_eq!(decided(specs, traffic), want, "{specs:?} {traffic:?}");
    }
    check(&[], &get, Passes);
    check(&[ALLOW_GET], &get, Passes);
    check(&[ALLOW_GET], &post, Denied);
    check(&[ALLOW_GET, ALLOW_ALL], &post, Passes);
    check(&[ALLOW_ALL, DENY_GET], &get, Denied);
    check(&[DENY_GET, ALLOW_ALL], &get, Denied);
    check(&[DENY_GET], &post, Passes);
    check(&[DENY_GET, ALLOW_GET], &post, Denied);
    check(&[AUDIT_ALL], &get, Passes);
    check(&[AUDIT_ALL, DENY_ALL], &get, Denied);
}

#[test]
fn a_policy_without_rules_matches_nothing_and_an_empty_rule_everything() {
    let get = request("GET /", &[]);
    for spec in [ALLOW_NOTHING, "{rules: []}", "{action: ALLOW}", "{rules: null}"] {
        assert_eq!(decided(&[spec], &get), Denied, "{spec}");
    }
    assert_eq!(decided(&[ALLOW_NOTHING, ALLOW_ALL], &get), Passes);
    assert_eq!(decided(&[ALLOW_ALL], &get), Passes);
    assert_eq!(decided(&[DENY_ALL], &get), Denied);
    // Istio's validation refuses what would never do anything.
    for spec in ["{action: DENY}", "{action: CUSTOM, provider: {name: x}}", "{action: CUSTOM, rules: [{}]}"] {
        let object: AuthorizationPolicy =
            serde_yaml_ng::from_str(&format!("{{metadata: {{name: p}}, spec: {spec}}}")).unwrap();
        assert!(object.validate().is_err(), "{spec}");
    }
}

#[test]
fn who_is_to_be_asked_besides_is_told_with_the_verdict() {
    let custom = "{action: CUSTOM, provider: {name: opa}, rules: [{to: [{operation: {paths: [/asked*]}}]}]}";
    let compiled = compile(&[policy("c", custom), policy("d", DENY_GET)]);
    let judged = |line: &str| {
        request(line, &[])
            .judged(|facts| {
                let judged = compiled.judge(facts);
                let provider = judged.custom.and_then(|rule| rule.provider.as_deref().map(str::to_owned));
                (provider, judged.verdict.is_denied())
            })
            .unwrap()
    };
    assert_eq!(judged("GET /asked"), (Some("opa".into()), true));
    assert_eq!(judged("POST /asked/x"), (Some("opa".into()), false));
    assert_eq!(judged("POST /asked%2fx"), (Some("opa".into()), false));
    assert_eq!(judged("POST /x/..%2fasked"), (Some("opa".into()), false));
    assert_eq!(judged("POST /"), (None, false));
}

#[test]
fn audits_and_dry_runs_are_told_and_decide_nothing() {
    let dry = |spec: &str| {
        let mut object = policy("dry", spec);
        object.metadata.annotations.insert("istio.io/dry-run".into(), "true".into());
        object
    };
    let told = |policies: &[AuthorizationPolicy]| {
        let compiled = compile(policies);
        request("GET /", &[])
            .judged(|facts| {
                let judged = compiled.judge(facts);
                (judged.verdict.is_denied(), judged.audit.is_some(), judged.dry_run.map(Verdict::is_denied))
            })
            .unwrap()
    };
    assert_eq!(told(&[policy("a", AUDIT_ALL)]), (false, true, None));
    assert_eq!(told(&[dry(DENY_GET)]), (false, false, Some(true)));
    assert_eq!(told(&[dry(ALLOW_NOTHING)]), (false, false, Some(true)));
    assert_eq!(told(&[dry(ALLOW_GET)]), (false, false, Some(false)));
    // As if all were enforced: what another policy allows isn't denied.
    assert_eq!(told(&[dry(ALLOW_NOTHING), policy("a", ALLOW_GET)]), (false, false, Some(false)));
    assert_eq!(told(&[dry(ALLOW_GET), policy("a", ALLOW_NOTHING)]), (true, false, Some(false)));
    let mut off = dry(DENY_GET);
    off.metadata.annotations.insert("istio.io/dry-run".into(), "false".into());
    assert_eq!(told(&[off]), (true, false, None));
}

#[test]
fn on_connections_rules_for_requests_never_allow_and_deny_without_that_part() {
    let connection = Traffic::default();
    let other = Traffic { destination: ("10.1.0.2".into(), 5432), ..Traffic::default() };
    fn check(spec: &str, traffic: &Traffic, want: Decided) {
        assert_eq!(decided(&[spec], traffic), want, "{spec}");
    }
    check(ALLOW_GET, &connection, Denied);
    check("{rules: [{to: [{operation: {ports: [\"8080\"]}}]}]}", &connection, Passes);
    check("{rules: [{to: [{operation: {ports: [\"8080\"], methods: [GET]}}]}]}", &connection, Denied);
    // Istio leaves out the whole rule, whichever part of it is for requests.
    check(
        "{rules: [{to: [{operation: {ports: [\"8080\"]}}, {operation: {methods: [GET]}}]}]}",
        &connection,
        Denied,
    );
    check("{rules: [{from: [{source: {notRequestPrincipals: [\"*\"]}}]}]}", &connection, Denied);
    check("{rules: [{when: [{key: \"request.headers[x]\", notValues: [y]}]}]}", &connection, Denied);
    check(DENY_GET, &connection, Denied);
    check(
        "{action: DENY, rules: [{to: [{operation: {methods: [POST], ports: [\"8080\"]}}]}]}",
        &connection,
        Denied,
    );
    check(
        "{action: DENY, rules: [{to: [{operation: {methods: [POST], ports: [\"8080\"]}}]}]}",
        &other,
        Passes,
    );
    check("{action: DENY, rules: [{from: [{source: {requestPrincipals: [x/y]}}]}]}", &connection, Denied);
    check(
        "{action: DENY, rules: [{from: [{source: {namespaces: [other]}}], to: [{operation: {paths: [/x]}}]}]}",
        &connection,
        Passes,
    );
}

#[test]
fn before_a_word_is_said_only_what_nothing_can_change_is_denied() {
    fn check(spec: &str, want: bool) {
        let compiled = compile(&[policy("p", spec)]);
        let denied = Traffic::default().judged(|facts| compiled.denies_for_good(facts)).unwrap();
        assert_eq!(denied, want, "{spec}");
    }
    check(ALLOW_GET, false);
    check(DENY_GET, false);
    check(ALLOW_NOTHING, true);
    check(DENY_ALL, true);
    check("{rules: [{from: [{source: {namespaces: [other]}}], to: [{operation: {methods: [GET]}}]}]}", true);
    check("{rules: [{from: [{source: {namespaces: [shop]}}], to: [{operation: {methods: [GET]}}]}]}", false);
    check("{action: DENY, rules: [{from: [{source: {namespaces: [shop]}}]}]}", true);
    check(
        "{action: DENY, rules: [{from: [{source: {namespaces: [shop]}}], when: [{key: connection.sni, values: [x]}]}]}",
        false,
    );
    check("{rules: [{when: [{key: connection.sni, values: [x]}]}]}", false);
    check(
        "{action: DENY, rules: [{to: [{operation: {ports: [\"8080\"]}}, {operation: {methods: [GET]}}]}]}",
        true,
    );
    check(
        "{action: DENY, rules: [{to: [{operation: {ports: [\"80\"]}}, {operation: {methods: [GET]}}]}]}",
        false,
    );
}

#[test]
fn what_is_not_known_fails_closed() {
    let get = request("GET /", &[]);
    fn check(spec: &str, traffic: &Traffic, want: Decided) {
        assert_eq!(decided(&[spec], traffic), want, "{spec}");
    }
    let unknown = "{when: [{key: \"experimental.envoy.filters.x[y]\", values: [z]}]}";
    check(&format!("{{rules: [{unknown}]}}"), &get, Denied);
    check(&format!("{{action: DENY, rules: [{unknown}]}}"), &get, Denied);
    // The other rules hold all the same.
    check(&format!("{{rules: [{unknown}, {{}}]}}"), &get, Passes);
    let misspelt = "{from: [{source: {namespaces: [shop], notPrincpals: [x]}}]}";
    check(&format!("{{rules: [{misspelt}]}}"), &get, Denied);
    check(&format!("{{action: DENY, rules: [{misspelt}]}}"), &get, Denied);
    check(&format!("{{rules: [{misspelt}, {{}}]}}"), &get, Passes);
    // A selector that isn't one selects more than was meant.
    check("{selctor: {matchLabels: {app: x}}, rules: [{}]}", &get, Denied);
    check("{selctor: {matchLabels: {app: x}}, action: DENY, rules: [{}]}", &get, Denied);
}

#[test]
fn what_has_no_valid_version_is_stood_in_for_by_what_allows_nothing() {
    let get = request("GET /", &[]);
    fn check(document: &str, want: Option<(Decided, bool)>, get: &Traffic) {
        let stand_in = AuthorizationPolicy::stand_in(&serde_yaml_ng::from_str(document).unwrap());
        let got = stand_in.map(|policy| {
            let selective = policy.labels().is_some_and(|labels| !labels.is_empty());
            (if get.is_denied(&compile(&[policy])) { Denied } else { Passes }, selective)
        });
        assert_eq!(got, want, "{document}");
    }
    let labels = "selector: {matchLabels: {app: x}}";
    check(
        &format!("{{metadata: {{name: p}}, spec: {{{labels}, rules: [{{from: []}}]}}}}"),
        Some((Denied, true)),
        &get,
    );
    check(
        &format!("{{metadata: {{name: p}}, spec: {{{labels}, action: DENNY}}}}"),
        Some((Denied, true)),
        &get,
    );
    check("{metadata: {name: p}, spec: {selector: 3, action: DENY}}", Some((Denied, false)), &get);
    check("{metadata: {name: p}, spec: {action: CUSTOM}}", Some((Denied, false)), &get);
    check("{metadata: {name: p}, spec: {action: AUDIT, rules: 3}}", Some((Passes, false)), &get);
    check("{metadata: {name: p}, spec: 3}", Some((Denied, false)), &get);
    check("{metadata: {name: p}}", Some((Denied, false)), &get);
    check("{metadata: {name: P}}", None, &get);
    check("{metadata: 3}", None, &get);
}

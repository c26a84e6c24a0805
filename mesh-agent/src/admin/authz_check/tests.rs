//! Questions to a small shop and what they are answered.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use super::*;
use crate::model::build::BuildOptions;
use crate::source;

const SHOP: &str = "
apiVersion: v1
kind: Namespace
metadata: {name: shop, labels: {mesh-agent.dev/dataplane-mode: enabled}}
---
apiVersion: v1
kind: Pod
metadata: {name: web, namespace: shop, labels: {app: web}, annotations: {mesh-agent.dev/netns: /run/netns/web}}
spec: {nodeName: node-a, serviceAccountName: web}
status: {podIP: 10.1.0.1}
---
apiVersion: v1
kind: Pod
metadata: {name: cart, namespace: shop, labels: {app: cart}, annotations: {mesh-agent.dev/netns: /run/netns/cart}}
spec: {nodeName: node-a, serviceAccountName: cart}
status: {podIP: 10.1.0.2}
---
apiVersion: v1
kind: Pod
metadata: {name: stranger, namespace: other}
spec: {nodeName: node-b}
status: {podIP: 10.2.0.1}
---
apiVersion: v1
kind: Service
metadata: {name: cart, namespace: shop}
spec: {clusterIP: 10.96.0.10, ports: [{name: http, port: 80}, {name: tcp-db, port: 5432}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: cart-1, namespace: shop, labels: {kubernetes.io/service-name: cart}}
addressType: IPv4
ports: [{name: http, port: 8080}, {name: tcp-db, port: 5432}]
endpoints: [{addresses: [10.1.0.2]}]
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: cart, namespace: shop}
spec:
  selector: {matchLabels: {app: cart}}
  rules:
  - from: [{source: {serviceAccounts: [web]}}]
    to: [{operation: {methods: [GET]}}]
  - to: [{operation: {ports: ['5432']}}]
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: admin, namespace: shop}
spec:
  action: DENY
  selector: {matchLabels: {app: cart}}
  rules: [{to: [{operation: {paths: ['/admin*'], ports: ['8080']}}]}]
";

fn ask(from: &str, to: &str, more: impl Fn(&mut AuthzQuestion)) -> Result<AuthzAnswer, Refusal> {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("shop.yaml"), SHOP).unwrap();
    let options = BuildOptions { node: "node-a".into(), ..BuildOptions::default() };
    let report = source::validate(dir.path(), options).unwrap();
    assert_eq!(report.warnings, []);
    let mut question = AuthzQuestion {
        from: from.into(),
        to: to.into(),
        port: None,
        method: None,
        path: None,
        host: None,
        headers: Vec::new(),
        jwt: None,
    };
    more(&mut question);
    answer(&report.snapshot, &question)
}

#[test]
fn the_deciding_rule_is_named_and_the_others_with_what_does_not_hold() {
    let answer = ask("pod/shop/web", "svc/shop/cart", |it| it.port = Some(80)).unwrap();
    assert!(answer.allowed);
    assert_eq!(answer.identity, "spiffe://cluster.local/ns/shop/sa/web");
    assert_eq!((answer.address.as_str(), answer.asked.as_str()), ("10.1.0.1", "GET / of cart"));
    let target = &answer.targets[0];
    assert_eq!((target.workload.as_str(), target.address.as_str()), ("shop/cart", "10.1.0.2:8080"));
    assert_eq!(target.reason, "ALLOW by AuthorizationPolicy shop/cart, rule 0");
    let rules: Vec<_> =
        target.rules.iter().map(|it| (it.policy.as_str(), it.rule, it.fits, it.decides)).collect();
    assert_eq!(
        rules,
        [("shop/admin", 0, false, false), ("shop/cart", 0, true, true), ("shop/cart", 1, false, false)]
    );
    assert_eq!(target.rules[0].why_not, ["to: \"/\" isn't one of its paths"]);
    assert_eq!(target.rules[2].why_not, ["to: \"8080\" isn't one of its ports"]);
}

#[test]
fn what_is_denied_is_said_with_its_reason() {
    let denied = |from: &str, more: &dyn Fn(&mut AuthzQuestion)| {
        let answer = ask(from, "pod/shop/cart", |it| {
            it.port = Some(8080);
            more(it);
        });
        let answer = answer.unwrap();
        assert!(!answer.allowed);
        answer.targets[0].reason.clone()
    };
    let by_none = "no rule of the policies that allow matches (shop/cart)";
    assert_eq!(
        denied("pod/shop/web", &|it| it.path = Some("/x/..%2fadmin".into())),
        "DENY by AuthorizationPolicy shop/admin, rule 0"
    );
    assert_eq!(denied("pod/shop/web", &|it| it.method = Some("POST".into())), by_none);
    assert_eq!(denied("pod/other/stranger", &|_| {}), by_none);
    assert_eq!(denied("10.2.0.1", &|_| {}), by_none);
    assert_eq!(denied("10.9.9.9", &|_| {}), by_none);
    assert_eq!(denied("sa/shop/cart", &|_| {}), by_none);
}

#[test]
fn bytes_are_judged_as_a_connection_where_nothing_is_said_of_a_request() {
    let answer = ask("pod/other/stranger", "svc/shop/cart", |it| it.port = Some(5432)).unwrap();
    assert_eq!((answer.allowed, answer.asked.as_str()), (true, "a connection that carries no requests"));
    assert!(answer.notes[0].starts_with("nothing proves who pod other/stranger is"), "{:?}", answer.notes);
    let web = ask("pod/shop/cart", "pod/shop/web", |it| it.port = Some(1)).unwrap();
    assert_eq!((web.allowed, web.targets[0].reason.as_str()), (true, "no policy selects it"));
}

#[test]
fn questions_that_make_no_sense_are_refused() {
    assert!(matches!(ask("web", "pod/shop/cart", |_| {}), Err(Refusal::Question(_))));
    assert!(matches!(
        ask("pod/shop/nobody", "pod/shop/cart", |it| it.port = Some(1)),
        Err(Refusal::Unknown(_))
    ));
    assert!(matches!(ask("pod/shop/web", "pod/shop/nobody", |_| {}), Err(Refusal::Unknown(_))));
    assert!(matches!(ask("pod/shop/web", "svc/shop/cart", |_| {}), Err(Refusal::Question(_))), "two ports");
    assert!(matches!(ask("pod/shop/web", "cart", |_| {}), Err(Refusal::Question(_))));
    let bad = |more: fn(&mut AuthzQuestion)| {
        ask("pod/shop/web", "pod/shop/cart", |it| {
            it.port = Some(8080);
            more(it);
        })
        .is_err()
    };
    assert!(bad(|it| it.method = Some("G E T".into())));
    assert!(bad(|it| it.headers = vec!["x".into()]));
    assert!(bad(|it| it.path = Some("/%00".into())));
    assert!(bad(|it| it.jwt = Some("{x".into())));
}

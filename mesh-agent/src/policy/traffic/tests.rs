//! What a policy compiles to, what a new version takes over, and what a refusal says.
#![allow(clippy::unwrap_used, clippy::panic)]

use http::{HeaderMap, StatusCode};

use super::*;
use crate::model::{ObjectName, RetryAllowance};
use crate::objects::traffic_policy::TrafficPolicySpec;
use crate::policy::breaker::State;
use crate::route::RetryBudget;

const SECOND: u64 = 1_000_000_000;

fn spec(groups: &str) -> TrafficPolicySpec {
    serde_yaml_ng::from_str(&format!("{{targetRefs: [{{kind: Service, name: cart}}], {groups}}}")).unwrap()
}

fn name() -> ObjectName {
    ObjectName::new("shop", "limits")
}

fn compile(groups: &str) -> TrafficPolicy {
    TrafficPolicy::compile(&name(), &spec(groups), None)
}

fn source(headers: &HeaderMap) -> KeySource<'_> {
    KeySource { identity: "unproven", address: [10, 0, 0, 1].into(), path: "/", headers, endpoint: None }
}

fn user(name: &str) -> HeaderMap {
    [(http::HeaderName::from_static("x-user"), name.parse().unwrap())].into_iter().collect()
}

#[test]
fn defaults_are_those_of_the_documentation() {
    let policy = compile(
        "rateLimit: {local: [{requests: 7}], global: [{requests: 5, redis: {address: \"redis:6379\"}}]}, concurrency: {adaptive: {}}, fallback: {answer: {}}, activation: {}, healthCheck: {http: {}}, retry: {}, hedge: {after: 1s}",
    );
    let limits = policy.rate_limits.unwrap();
    let quota = &limits.local[0].quota;
    assert_eq!((quota.requests, quota.burst, quota.per), (7, 7, Duration::from_secs(1)));
    assert_eq!((quota.name.as_str(), quota.status), ("limits-0", StatusCode::TOO_MANY_REQUESTS));
    assert_eq!(limits.global[0].timeout, Duration::from_millis(20));
    let fallback = policy.fallback.unwrap();
    assert_eq!(
        (fallback.no_endpoint, fallback.circuit_open, fallback.error_5xx, fallback.timeout),
        (true, true, false, false)
    );
    assert_eq!(fallback.to, FallbackTo::Answer(Answer::default()));
    assert_eq!(policy.activation.unwrap().timeout, Duration::from_secs(30));
    let check = policy.health_check.unwrap();
    assert!(check.expects(204) && !check.expects(301));
    assert_eq!((check.interval, check.timeout), (Duration::from_secs(10), Duration::from_secs(1)));
    assert_eq!((check.healthy_threshold, check.unhealthy_threshold), (1, 3));
    let retry = policy.retry.unwrap();
    assert_eq!((retry.policy.attempts, retry.buffer_limit), (2, 65536));
    assert_eq!(
        (retry.policy.backoff, retry.policy.max_backoff),
        (Duration::from_millis(25), Duration::from_millis(250))
    );
    assert!(retry.policy.on.connect_failure && retry.policy.on.grpc == [1, 14] && !retry.policy.on.reset);
    assert_eq!(policy.hedge.unwrap().max, 1);
    assert!(policy.timeout.is_none() && policy.fault.is_none() && policy.breaker.is_none());
}

#[test]
fn retry_conditions_become_what_is_tested() {
    let check = |fields: &str, want: crate::route::RetryOn| {
        assert_eq!(compile(&format!("retry: {{{fields}}}")).retry.unwrap().policy.on, want, "{fields}");
    };
    let none = crate::route::RetryOn::default;
    check("on: [5xx]", crate::route::RetryOn { server_error: true, ..none() });
    check("on: [gateway-error, reset]", crate::route::RetryOn { gateway_error: true, reset: true, ..none() });
    check("statusCodes: [409]", crate::route::RetryOn { statuses: vec![StatusCode::CONFLICT], ..none() });
    check(
        "on: [internal, unavailable], grpcCodes: [14, 10]",
        crate::route::RetryOn { grpc: vec![10, 13, 14], ..none() },
    );
}

#[test]
fn keys_are_counted_apart_by_what_the_policy_names() {
    let limit = |key: &str| {
        compile(&format!("rateLimit: {{local: [{{requests: 1, per: 1h, key: [{key}]}}]}}"))
            .rate_limits
            .unwrap()
            .local[0]
            .clone()
    };
    let check = |key: &str, first: KeySource<'_>, second: KeySource<'_>, apart: bool| {
        let limit = limit(key);
        assert!(limit.take(&first, SECOND).passes());
        assert!(!limit.take(&first, SECOND).passes(), "{key}: the same key again");
        assert_eq!(limit.take(&second, SECOND).passes(), apart, "{key}: {second:?}");
    };
    let (ann, bob, none) = (user("ann"), user("bob"), HeaderMap::new());
    check("", source(&ann), source(&bob), false);
    check("{type: total}", source(&ann), source(&bob), false);
    check("{type: header, name: X-User}", source(&ann), source(&bob), true);
    check("{type: header, name: x-user}", source(&ann), source(&none), true);
    check("{type: path}", source(&none), KeySource { path: "/a", ..source(&none) }, true);
    check("{type: path}", source(&ann), source(&bob), false);
    check(
        "{type: sourceAddress}",
        source(&none),
        KeySource { address: [10, 0, 0, 2].into(), ..source(&none) },
        true,
    );
    check(
        "{type: sourceIdentity}",
        source(&none),
        KeySource { identity: "spiffe://a/ns/b/sa/c", ..source(&none) },
        true,
    );
    check(
        "{type: sourceIdentity}",
        source(&ann),
        KeySource { address: [10, 0, 0, 2].into(), ..source(&bob) },
        false,
    );
}

#[test]
fn scope_endpoint_counts_each_endpoint_by_itself() {
    let none = HeaderMap::new();
    let at = |port: u16| KeySource { endpoint: Some(([10, 0, 0, 9], port).into()), ..source(&none) };
    for (scope, apart) in [("node", false), ("endpoint", true)] {
        let limits =
            compile(&format!("rateLimit: {{local: [{{requests: 1, scope: {scope}}}]}}")).rate_limits.unwrap();
        assert!(limits.local[0].take(&at(1), SECOND).passes());
        assert_eq!(limits.local[0].take(&at(2), SECOND).passes(), apart, "{scope}");
    }
}

#[test]
fn a_refusal_says_when_to_come_back() {
    let check = |groups: &str, retry_after_ms: u64, want: &[(&str, &str)]| {
        let limits = compile(groups).rate_limits.unwrap();
        let mut headers = HeaderMap::new();
        limits.local[0].quota.refuse(Duration::from_millis(retry_after_ms), &mut headers);
        for (name, value) in want {
            assert_eq!(headers.get(*name).unwrap(), value, "{groups}: {name}");
        }
    };
    check(
        "rateLimit: {local: [{name: api, requests: 100, per: 1m}]}",
        1_001,
        &[
            ("retry-after", "2"),
            ("ratelimit-policy", "\"api\";q=100;w=60"),
            ("ratelimit", "\"api\";r=0;t=2"),
            ("x-ratelimit-limit", "100"),
            ("x-ratelimit-remaining", "0"),
            ("x-ratelimit-reset", "2"),
        ],
    );
    check(
        "rateLimit: {local: [{requests: 5, per: 100ms}]}",
        1,
        &[("retry-after", "1"), ("ratelimit-policy", "\"limits-0\";q=5")],
    );
}

#[test]
fn a_group_that_stays_keeps_its_state() {
    let first = "circuitBreaker: {errorRate: {percent: 1, minimumRequests: 1}}, rateLimit: {local: [{requests: 1, per: 1h}, {requests: 2, per: 1h}]}, timeout: 1s";
    let second = "circuitBreaker: {errorRate: {percent: 1, minimumRequests: 1}}, rateLimit: {local: [{requests: 1, per: 1h}, {requests: 3, per: 1h}]}, timeout: 2s";
    let old = compile(first);
    old.breaker.as_ref().unwrap().admit(SECOND).unwrap().settle(true, Duration::ZERO, SECOND);
    let none = HeaderMap::new();
    let take = |policy: &TrafficPolicy, limit: usize| {
        policy.rate_limits.as_ref().unwrap().local[limit].take(&source(&none), SECOND).passes()
    };
    assert!(take(&old, 0) && take(&old, 1) && take(&old, 1) && !take(&old, 1));

    let new = TrafficPolicy::compile(&name(), &spec(second), Some((&spec(first), &old)));
    assert!(matches!(new.breaker.as_ref().unwrap().state(), State::Open { .. }));
    assert!(!take(&new, 0), "an unchanged limit keeps its count beside a changed one");
    assert!(take(&new, 1), "a changed limit begins anew");
    assert_eq!(new.timeout.as_deref(), Some(&Duration::from_secs(2)));
    assert!(
        !new.same(&old)
            && new.same(&TrafficPolicy::compile(&name(), &spec(second), Some((&spec(second), &new))))
    );
}

#[test]
fn the_rules_group_goes_before_the_services() {
    let of = |groups: &str| Some(Arc::new(compile(groups)));
    let layers = Layers { rule: of("timeout: 1s"), service: of("timeout: 2s, hedge: {after: 1s}") };
    assert_eq!(layers.timeout().map(|timeout| timeout.as_secs()), Some(1));
    assert!(layers.hedge().is_some() && layers.retry().is_none());
    assert_eq!(Layers { rule: None, ..layers }.timeout().map(|timeout| timeout.as_secs()), Some(2));
}

#[test]
fn a_rule_and_its_policies_decide_together_about_tries_and_time() {
    fn check(groups: &str, request: u64, want: [Option<u64>; 4]) {
        let mut rule = crate::proxy::testing::rule(&[1]);
        rule.timeouts.request = (request > 0).then(|| Duration::from_millis(request));
        rule.retry = Some(compile("retry: {attempts: 5}").retry.unwrap().policy.clone());
        let layers = Layers { rule: Some(Arc::new(compile(groups))), service: None };
        let mut port = crate::proxy::testing::service_port("any", &[]);
        assert!(NONE.budget_by(Some(&rule), Some(&port)).is_none(), "its attempts alone");
        Arc::get_mut(&mut port).unwrap().retries =
            Some(Arc::new(RetryAllowance::new(RetryBudget::default())));
        let ms = |time: Option<Duration>| time.map(|time| u64::try_from(time.as_millis()).unwrap());
        let found = [
            layers.retry_by(Some(&rule)).map(|retry| u64::from(retry.attempts)),
            layers.budget_by(Some(&rule), Some(&port)).map(|budget| u64::from(budget.limits().percent)),
            ms(layers.limit_by(Some(&rule))),
            ms(layers.try_limit_by(Some(&rule))),
        ];
        assert_eq!(found, want, "{groups}, {request}");
    }
    check("", 0, [Some(5), Some(20), None, None]);
    check("", 900, [Some(5), Some(20), Some(900), None]);
    check("timeout: 1s", 900, [Some(5), Some(20), Some(900), None]);
    check("timeout: 1s", 2000, [Some(5), Some(20), Some(1000), None]);
    check("timeout: 1s", 0, [Some(5), Some(20), Some(1000), None]);
    let retry = "retry: {attempts: 1, perTryTimeout: 250ms, budget: {percent: 7}}";
    check(retry, 900, [Some(1), Some(7), Some(900), Some(250)]);
    let mut port = crate::proxy::testing::service_port("any", &[]);
    Arc::get_mut(&mut port).unwrap().retries = Some(Arc::new(RetryAllowance::new(RetryBudget::default())));
    let none = crate::proxy::testing::rule(&[1]);
    assert!(NONE.retry_by(Some(&none)).is_none() && NONE.budget_by(Some(&none), Some(&port)).is_none());
    let hedged = Layers { rule: None, service: Some(Arc::new(compile("hedge: {after: 1s}"))) };
    assert!(hedged.budget_by(Some(&none), Some(&port)).is_some(), "hedges cost what retries cost");
    assert!(hedged.budget_by(Some(&none), None).is_none());
}

#[test]
fn no_more_than_max_waiting_wait() {
    let activation = compile("activation: {maxWaiting: 2}").activation.unwrap();
    let (first, _second) = (activation.wait().unwrap(), activation.wait().unwrap());
    assert!(activation.wait().is_none());
    drop(first);
    assert!(activation.wait().is_some());
    assert_eq!(activation.waiting(), 1);
}

#[test]
fn a_global_limits_keys_are_spelt_alike_on_every_node_and_never_meet() {
    let check = |key: &str, headers: &HeaderMap, want: &str| {
        let groups = format!(
            "rateLimit: {{global: [{{name: q, requests: 1, key: [{key}], redis: {{address: \"redis:6379\"}}}}]}}"
        );
        let limits = compile(&groups).rate_limits.unwrap();
        let got = limits.global[0].redis_key(&source(headers));
        assert_eq!(String::from_utf8(got).unwrap(), want, "{key}");
    };
    check("", &user("ann"), "mesh-agent:shop/limits:q");
    check("{type: header, name: x-user}, {type: path}", &user("ann"), "mesh-agent:shop/limits:q:1:/:3:ann");
    check("{type: header, name: x-user}", &HeaderMap::new(), "mesh-agent:shop/limits:q:-");
    check("{type: header, name: x-user}", &user("-"), "mesh-agent:shop/limits:q:1:-");
    check("{type: sourceAddress}", &HeaderMap::new(), "mesh-agent:shop/limits:q:8:10.0.0.1");
}

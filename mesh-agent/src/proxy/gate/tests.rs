//! What a request is counted against, and what breakers and limits learn of it, however it ends.
#![allow(clippy::unwrap_used)]

use super::super::exchange::Exchange;
use super::super::plan::Plan;
use super::super::retry::Tries;
use super::*;
use crate::balance::testing;
use crate::model::{AppProtocol, ObjectName, ProtocolFrom, ServiceMeta, Snapshot};
use crate::policy::ClusterPolicy;
use crate::policy::breaker::State;
use crate::proxy::testing::connection;

fn policy(groups: &str) -> Arc<TrafficPolicy> {
    let spec = format!("{{targetRefs: [{{kind: Service, name: cart}}], {groups}}}");
    let name = ObjectName::new("shop", "policy");
    Arc::new(TrafficPolicy::compile(&name, &serde_yaml_ng::from_str(&spec).unwrap(), None))
}

/// A connection to a service port under this policy.
fn under(policy: &Arc<TrafficPolicy>) -> Connection {
    let name = ObjectName::new("shop", "cart");
    let port = ServicePort {
        service: Arc::new(ServiceMeta { name: name.clone(), host: "cart.shop.svc.cluster.local".into() }),
        name: String::new(),
        port: 80,
        protocol: AppProtocol::Http,
        protocol_from: ProtocolFrom::default(),
        policy: Arc::new(ClusterPolicy::default()),
        variants: Vec::new(),
        retries: Default::default(),
        session: None,
        external: None,
        endpoints: testing::set(2, 0),
    };
    let conn = connection("127.0.0.1:80".parse().unwrap());
    let mut snapshot = Snapshot::default();
    snapshot.traffic.insert_mut((name, 80), policy.clone());
    conn.pod.worker.snapshot.store(Arc::new(snapshot));
    conn.set_backends(Backends::Service(Arc::new(port)));
    conn
}

fn head(content: &str) -> request::Parts {
    http::Request::builder().uri("/").header("content-type", content).body(()).unwrap().into_parts().0
}

const GUARDED: &str = "circuitBreaker: {errorRate: {percent: 50, minimumRequests: 1}, openFor: 1h, halfOpenRequests: 1}, \
                       concurrency: {maxRequests: 1}";

#[test]
fn every_end_of_a_request_gives_its_place_back_and_only_the_services_failures_count() {
    fn check(what: &str, content: &str, end: impl Fn(&mut Exchange<'_>, &Picked), opens: bool) {
        let policy = policy(GUARDED);
        let (breaker, concurrency) = (policy.breaker.clone().unwrap(), policy.concurrency.clone().unwrap());
        let conn = under(&policy);
        let mut head = head(content);
        let mut account = Exchange::begin(&conn, &mut head);
        let plan = conn.plan(&mut head, &mut account).unwrap();
        assert_eq!(concurrency.in_flight(), 1, "{what}");
        end(&mut account, &conn.pick(&plan, &[], None).unwrap());
        assert_eq!(concurrency.in_flight(), 1, "{what}");
        drop(account);
        assert_eq!(concurrency.in_flight(), 0, "{what}");
        assert_eq!(matches!(breaker.state(), State::Open { .. }), opens, "{what}: {:?}", breaker.state());
    }
    let http = |what: &str, status: u16, error: Option<ErrorKind>, opens: bool| {
        let end = |account: &mut Exchange<'_>, picked: &Picked| {
            if status > 0 {
                account.answered(picked, StatusCode::from_u16(status).unwrap());
            }
            error.into_iter().for_each(|error| account.fail(error));
        };
        check(what, "text/plain", end, opens);
    };
    http("fine", 200, None, false);
    http("upgraded", 101, None, false);
    http("the client's mistake", 404, None, false);
    http("an error", 500, None, true);
    http("no answer", 0, Some(ErrorKind::UpstreamClosed), true);
    http("an answer cut short", 200, Some(ErrorKind::UpstreamClosed), true);
    http("too late", 0, Some(ErrorKind::RequestTimeout), true);
    http("dropped", 0, None, false);
    http("the client went away", 0, Some(ErrorKind::DownstreamClosed), false);
    http("the client reset it", 200, Some(ErrorKind::DownstreamReset(h2::Reason::CANCEL)), false);
    http("never sent", 0, Some(ErrorKind::RateLimited), false);
    http("a fault", 0, Some(ErrorKind::FaultInjected), false);
    for (grpc, opens) in [(0, false), (5, false), (14, true), (4, true)] {
        let end = |account: &mut Exchange<'_>, picked: &Picked| {
            account.answered(picked, StatusCode::OK);
            account.grpc_status(grpc);
        };
        check(&format!("gRPC status {grpc}"), "application/grpc", end, opens);
    }
}

#[test]
fn a_probe_is_over_with_the_head_of_its_response() {
    let policy = policy(&GUARDED.replace("1h", "1ms"));
    let breaker = policy.breaker.clone().unwrap();
    breaker.admit(0).unwrap().settle(true, Duration::ZERO, 0);
    assert!(matches!(breaker.state(), State::Open { .. }));
    let conn = under(&policy);
    let mut head = head("text/plain");
    let mut account = Exchange::begin(&conn, &mut head);
    let plan = conn.plan(&mut head, &mut account).unwrap();
    assert!(matches!(breaker.state(), State::HalfOpen { admitted: 1, .. }), "{:?}", breaker.state());
    account.answered(&conn.pick(&plan, &[], None).unwrap(), StatusCode::SWITCHING_PROTOCOLS);
    assert_eq!(breaker.state(), State::Closed, "while the tunnel is open");
    assert_eq!(policy.concurrency.as_ref().unwrap().in_flight(), 1, "which is under way all the same");
}

#[test]
fn a_request_is_counted_once_however_often_it_is_tried() {
    let policy = policy("rateLimit: {local: [{requests: 1, per: 1h, burst: 2}]}, retry: {attempts: 3}");
    let conn = under(&policy);
    let mut head = head("text/plain");
    let mut account = Exchange::begin(&conn, &mut head);
    let plan = conn.plan(&mut head, &mut account).unwrap();
    for _ in 0..2 {
        let mut tries = Tries::new(&conn, &plan);
        let first = tries.pick(Some(&head)).unwrap();
        assert!(tries.failed(&first, ErrorKind::ConnectFailed).is_some());
        let second = tries.pick(Some(&head)).unwrap();
        assert_ne!(first.upstream.endpoint.addr, second.upstream.endpoint.addr);
    }
    let refused = Tries::new(&conn, &plan).pick(Some(&head)).map(|_| ());
    assert_eq!(refused, Err(ErrorKind::RateLimited));
    let answer = plan.answer_to(&conn, ErrorKind::RateLimited).unwrap();
    assert_eq!((answer.status, answer.grpc_status), (StatusCode::TOO_MANY_REQUESTS, 8));
    assert!(answer.headers.iter().any(|(name, _)| name == "retry-after"));
}

#[test]
fn limits_of_the_rule_and_of_the_service_both_count() {
    let limit = |burst| policy(&format!("rateLimit: {{local: [{{requests: 1, per: 1h, burst: {burst}}}]}}"));
    let conn = under(&limit(1));
    let picked = conn.pick(&Plan::default(), &[], None).unwrap();
    let passes = |layers: &Layers| {
        (0..5).take_while(|_| conn.within_limits(layers, &head("text/plain"), &picked).is_ok()).count()
    };
    assert_eq!(passes(&Layers { rule: Some(limit(2)), service: Some(limit(3)) }), 2);
    assert_eq!(passes(&Layers { rule: Some(limit(4)), service: Some(limit(3)) }), 3);
}

#[test]
fn without_policies_nothing_is_held() {
    let conn = connection("127.0.0.1:80".parse().unwrap());
    assert!(!conn.has_traffic_policies());
    let layers = conn.layers(None, None);
    let (held, fault) = conn.enter(&layers, &head("text/plain")).unwrap();
    assert!(held.pass.is_none() && held.slot.is_none() && fault.is_none());
}

#[test]
fn a_fallback_answers_what_it_is_for() {
    let group = policy("fallback: {answer: {status: 200, body: calm}, on: [error5xx, timeout]}");
    let fallback = group.fallback.as_ref().unwrap();
    let check = |why: ErrorKind, answers: bool| {
        let answer = fallback_answer(fallback, why);
        assert_eq!(
            answer.map(|answer| (answer.status, answer.why)),
            answers.then_some((StatusCode::OK, Some(why)))
        );
    };
    check(ErrorKind::UpstreamErrorStatus, true);
    check(ErrorKind::UpstreamReset(h2::Reason::INTERNAL_ERROR), true);
    check(ErrorKind::ConnectFailed, true);
    check(ErrorKind::ConnectTimeout, true);
    check(ErrorKind::RequestTimeout, true);
    check(ErrorKind::NoHealthyUpstream, false);
    check(ErrorKind::CircuitOpen, false);
    check(ErrorKind::DownstreamClosed, false);
}

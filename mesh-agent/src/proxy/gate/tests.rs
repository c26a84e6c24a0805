//! What a request is counted against, and what breakers and limits learn of it, however it ends.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::net::SocketAddr;

use super::super::exchange::Exchange;
use super::super::plan::Plan;
use super::super::retry::Tries;
use super::*;
use crate::balance::testing;
use crate::model::{AppProtocol, ObjectName, ProtocolFrom, Service, ServiceMeta, Snapshot, Target, Workload};
use crate::policy::ClusterPolicy;
use crate::policy::breaker::State;
use crate::policy::chance::Chance;
use crate::proxy::testing::{connection, pod as testing_pod, service_port, workload};
use crate::route::{Cors, OriginPattern, PathRewrite, Rewrite};
use crate::telemetry::Telemetry;

fn policy(groups: &str) -> Arc<TrafficPolicy> {
    let spec = format!("{{targetRefs: [{{kind: Service, name: cart}}], {groups}}}");
    let name = ObjectName::new("shop", "policy");
    Arc::new(TrafficPolicy::compile(&name, &serde_yaml_ng::from_str(&spec).unwrap(), None))
}

/// A connection to a service port under this policy.
fn under(policy: &Arc<TrafficPolicy>) -> Connection {
    let name = ObjectName::new("shop", "cart");
    let port = ServicePort {
        service: Arc::new(ServiceMeta {
            name: name.clone(),
            host: "cart.shop.svc.cluster.local".into(),
            trace_sampling: None,
        }),
        name: String::new(),
        port: 80,
        protocol: AppProtocol::Http,
        protocol_from: ProtocolFrom::default(),
        policy: Arc::new(ClusterPolicy::default()),
        variants: Vec::new(),
        subset_name: None,
        subsets: Vec::new(),
        retries: Default::default(),
        session: None,
        external: None,
        backend_policy: None,
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
        let first = tries.pick_now(&head).unwrap();
        assert!(tries.failed(&first, ErrorKind::ConnectFailed).is_some());
        let second = tries.pick_now(&head).unwrap();
        assert_ne!(first.upstream.endpoint.addr, second.upstream.endpoint.addr);
    }
    let refused = Tries::new(&conn, &plan).pick_now(&head).map(|_| ());
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
        (0..5)
            .take_while(|_| conn.within_limits(layers, "/", &head("text/plain").headers, &picked).is_ok())
            .count()
    };
    assert_eq!(passes(&Layers { rule: Some(limit(2)), service: Some(limit(3)) }), 2);
    assert_eq!(passes(&Layers { rule: Some(limit(4)), service: Some(limit(3)) }), 3);
}

/// Under a policy, by a rule that hides from the endpoint which user asks, and for what.
#[test]
fn limits_and_faults_see_the_request_as_the_client_sent_it() {
    let keys = "rateLimit: {local: [{requests: 1, per: 1h, burst: 1, key: [{type: path}, {type: header, name: x-user}]}]}";
    let fault =
        "faultInjection: {abort: {httpStatus: 418}, match: {headers: [{name: x-chaos, value: \"yes\"}]}}";
    let conn = under(&policy(&format!("{keys}, {fault}")));
    let mut rule = crate::proxy::testing::rule(&[0]);
    rule.filters.request.remove = vec!["x-user".parse().unwrap(), "x-chaos".parse().unwrap()];
    rule.filters.rewrite = Some(Rewrite { hostname: None, path: Some(PathRewrite::Full("/one".to_owned())) });
    let Backends::Service(port) = conn.backends.borrow().clone() else { panic!("a service") };
    crate::proxy::testing::route(&conn, rule, &[port]);
    let ask = |path: &str, user: &str, chaos: &str| {
        let request = http::Request::get(path).header("x-user", user).header("x-chaos", chaos);
        let (mut head, ()) = request.body(()).unwrap().into_parts();
        let mut account = Exchange::begin(&conn, &mut head);
        let plan = conn.plan(&mut head, &mut account).unwrap();
        assert_eq!((head.uri.path(), head.headers.contains_key("x-user")), ("/one", false));
        let passes = Tries::new(&conn, &plan).pick_now(&head).is_ok();
        (passes, plan.may_wait())
    };
    assert_eq!(ask("/a", "ann", "no"), (true, false));
    assert_eq!(ask("/a", "ann", "no"), (false, false), "the same path and user");
    assert_eq!(ask("/b", "ann", "no"), (true, false), "another path");
    assert_eq!(ask("/a", "bob", "no"), (true, false), "another user");
    assert_eq!(ask("/c", "ann", "yes"), (true, true), "suffers the fault");
}

/// A page is told why its request failed, whoever says it.
#[test]
fn answers_of_the_agents_own_are_marked_for_the_page_that_asked() {
    let conn = under(&policy("fallback: {when: [noEndpoint], response: {status: 503, body: later}}"));
    let mut rule = crate::proxy::testing::rule(&[0]);
    let cors = Cors {
        origins: vec![OriginPattern::Any],
        credentials: false,
        methods: None,
        headers: None,
        expose: None,
        max_age: 5,
    };
    rule.filters.cors = Some(Arc::new(cors));
    let Backends::Service(port) = conn.backends.borrow().clone() else { panic!("a service") };
    crate::proxy::testing::route(&conn, rule, &[port]);
    let plan = |origin: Option<&str>| {
        let mut request = http::Request::get("/");
        if let Some(origin) = origin {
            request = request.header("origin", origin);
        }
        let (mut head, ()) = request.body(()).unwrap().into_parts();
        let mut account = Exchange::begin(&conn, &mut head);
        conn.plan(&mut head, &mut account).unwrap()
    };
    let allowed = |plan: &Plan, why: ErrorKind| {
        let answer = plan.answer_to(&conn, why).unwrap();
        answer.headers.iter().any(|(name, value)| name == "access-control-allow-origin" && value == "*")
    };
    let (page, other) = (plan(Some("http://page.test")), plan(None));
    for why in [ErrorKind::NoHealthyUpstream, ErrorKind::RequestTimeout, ErrorKind::CircuitOpen] {
        assert!(allowed(&page, why) && !allowed(&other, why), "{why:?}");
    }
}

/// A client that dialled an IPv6 address is sent to a service that has only an IPv4 one.
#[test]
fn a_fallback_is_reached_from_either_address_family() {
    let conn = connection("[fd00::1]:80".parse().unwrap());
    let port = crate::proxy::testing::service_port("other", &["10.0.0.1:80".parse().unwrap()]);
    let service = Service {
        udp: Vec::new(),
        meta: port.service.clone(),
        vips: vec!["10.96.0.1".parse().unwrap()],
        headless: false,
        ports: vec![port.clone()],
        ports_v4: vec![port.clone()],
        ports_v6: Vec::new(),
        ranges: Vec::new(),
    };
    let mut snapshot = Snapshot::default();
    snapshot.services.insert_mut(port.service.name.clone(), Arc::new(service));
    conn.pod.worker.snapshot.store(Arc::new(snapshot));
    let fallback =
        policy("fallback: {when: [noEndpoint], service: {name: other, namespace: test, port: 80}}");
    let found = conn.fallback_service(fallback.fallback.as_ref().unwrap());
    assert!(matches!(found, Some(Backends::Service(found)) if Arc::ptr_eq(&found, &port)));
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

#[test]
fn all_endpoints_unhealthy_is_as_none_for_a_fallback_service() {
    let policy = policy("fallback: {service: {name: spare, port: 80}}");
    let conn = under(&policy);
    let spare = service_port("spare", &["10.0.0.9:80".parse().unwrap()]);
    let name = spare.service.name.clone();
    let mut snapshot = Snapshot::clone(&conn.snapshot());
    let service = Service {
        udp: Vec::new(),
        meta: spare.service.clone(),
        vips: Vec::new(),
        headless: true,
        ports: vec![spare],
        ports_v4: Vec::new(),
        ports_v6: Vec::new(),
        ranges: Vec::new(),
    };
    snapshot.services.insert_mut(ObjectName { namespace: "shop".into(), ..name }, Arc::new(service));
    conn.pod.worker.snapshot.store(Arc::new(snapshot));
    let goes_to = || {
        let mut head = head("text/plain");
        let mut account = Exchange::begin(&conn, &mut head);
        let plan = conn.plan(&mut head, &mut account).unwrap();
        conn.port_of(&plan).unwrap().service.name.name.clone()
    };
    assert_eq!(goes_to(), "cart");
    let Backends::Service(port) = conn.backends.borrow().clone() else { panic!("to a service") };
    port.endpoints.health.check(true);
    port.endpoints.all.iter().for_each(|endpoint| port.endpoints.health.admit(&endpoint.load.health));
    assert_eq!(goes_to(), "spare");
    port.endpoints.health.set_panic_threshold(Some(Chance::percent(50.0)));
    assert_eq!(goes_to(), "cart", "all are used");
}

/// A connection into or out of the test's pod, whose client's service account is `account`.
fn of_account(direction: Direction, account: &str) -> Connection {
    let pod = testing_pod(Default::default(), Telemetry::quiet());
    pod.workload.replace(Arc::new(Workload { service_account: account.to_owned(), ..workload() }));
    let client = SocketAddr::from(([10, 0, 0, 7], 40000)).into();
    let dst = SocketAddr::from(([10, 0, 0, 1], 80)).into();
    Connection::open(&pod, direction, client, dst, &Target::Unknown)
}

#[test]
fn an_identity_is_proven_by_the_pods_own_namespace_and_never_by_an_address() {
    let out = of_account(Direction::Outbound, "web");
    assert_eq!(out.proven_identity(), Some("spiffe://cluster.local/ns/test/sa/web"));
    assert_eq!(of_account(Direction::Inbound, "web").proven_identity(), None);
}

#[test]
fn identities_are_counted_apart_and_clients_without_a_proven_one_together() {
    let limits =
        policy("rateLimit: {local: [{requests: 1, per: 1h, burst: 2, key: [{type: sourceIdentity}]}]}");
    let layers = Layers { rule: None, service: Some(limits) };
    let conn = under(&policy("timeout: 1s"));
    let picked = conn.pick(&Plan::default(), &[], None).unwrap();
    let passes = |conn: &Connection, most: usize| {
        let head = head("text/plain");
        (0..most)
            .filter(|_| conn.within_limits(&layers, head.uri.path(), &head.headers, &picked).is_ok())
            .count()
    };
    let out = |account: &str| of_account(Direction::Outbound, account);
    assert_eq!(passes(&out("web"), 5), 2);
    assert_eq!(passes(&out("web"), 5), 0, "another connection of the same identity");
    assert_eq!(passes(&out("batch"), 5), 2);
    let inbound = || of_account(Direction::Inbound, "cart");
    assert_eq!(passes(&inbound(), 1) + passes(&inbound(), 5), 2, "they share a bucket");
    assert_eq!(passes(&inbound(), 5), 0);
}

#[test]
fn the_agent_of_the_endpoint_applies_limits_and_nothing_else() {
    let policy = policy(&format!(
        "{GUARDED}, rateLimit: {{local: [{{requests: 1, per: 1h}}]}}, timeout: 1s, retry: {{}}, hedge: {{after: 1s}}, \
         fallback: {{answer: {{}}}}, faultInjection: {{abort: {{httpStatus: 500}}}}, activation: {{}}"
    ));
    let mut conn = under(&policy);
    let port = conn.port_of(&Plan::default()).unwrap();
    let layers = conn.layers(None, Some(&port));
    assert!(layers.hedge().is_some() && layers.retry().is_some() && layers.timeout().is_some());
    conn.direction = Direction::Inbound;
    conn.traffic.borrow_mut().clear();
    let inbound = conn.layers(None, Some(&port)).service.unwrap();
    assert!(
        inbound.same(&TrafficPolicy { rate_limits: policy.rate_limits.clone(), ..TrafficPolicy::default() })
    );
}

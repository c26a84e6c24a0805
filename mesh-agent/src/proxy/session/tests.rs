//! Where requests of a session go, by what they carry and what has become of the endpoint.
#![allow(clippy::unwrap_used)]
use std::net::SocketAddr;
use std::time::Duration;

use http::header::{COOKIE, HeaderMap, HeaderValue};
use http::{Request, Version};

use super::*;
use crate::model::{ObjectName, ServicePort};
use crate::proxy::{Backends, Connection, Exchange, Plan, testing};
use crate::route::{Rule, RuleName, SessionKind};

fn addr(last: u8) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, last], 8080))
}

fn cookie() -> Arc<SessionPersistence> {
    how(SessionKind::Cookie { permanent: false, path: "/".into() })
}

fn how(kind: SessionKind) -> Arc<SessionPersistence> {
    let (absolute_timeout, idle_timeout) = (Some(Duration::from_secs(60)), None);
    Arc::new(SessionPersistence { kind, name: "s".into(), per_rule: false, absolute_timeout, idle_timeout })
}

/// The header that a client of a session of the test's rule sends.
fn carried(port: &ServicePort, last: u8) -> HeaderMap {
    carried_by(testing::rule(&[]).name.scope, port, last)
}

fn carried_by(scope: Scope, port: &ServicePort, last: u8) -> HeaderMap {
    let (now, endpoint) = (now_ms(), EndpointAddr::from(addr(last)));
    let session = Session { endpoint, backend: tag(scope, port), begun_ms: now, used_ms: now };
    let edits = cookie().tell(scope, &session, now);
    let line = edits.lines().next().unwrap().1.to_str().unwrap();
    let pair = HeaderValue::from_str(line.split(';').next().unwrap()).unwrap();
    HeaderMap::from_iter([(COOKIE, pair)])
}

fn plan(conn: &Connection, headers: &HeaderMap) -> Plan {
    let (mut head, ()) = Request::get("/").version(Version::HTTP_11).body(()).unwrap().into_parts();
    head.headers = headers.clone();
    let mut account = Exchange::begin(conn, &mut head);
    conn.plan(&mut head, &mut account).ok().unwrap()
}

/// The endpoint that a request is kept at, and its service.
fn kept(conn: &Connection, headers: &HeaderMap) -> Option<(String, u8)> {
    let plan = plan(conn, headers);
    let picked = conn.pick_kept(&plan)?;
    let Some(Backends::Service(port)) = &plan.backends else { return None };
    let std::net::IpAddr::V4(ip) = picked.upstream.endpoint.addr.ip() else { return None };
    Some((port.service.name.name.clone(), ip.octets()[3]))
}

fn sticky(backends: &[usize]) -> Rule {
    Rule { session: Some(cookie()), ..testing::rule(backends) }
}

#[test]
fn a_session_stays_with_its_backend_and_endpoint_whatever_the_weights() {
    let conn = testing::connection(addr(1));
    let ports = [
        testing::service_port("one", &[addr(1), addr(2)]),
        testing::service_port("two", &[addr(2), addr(3)]),
        testing::service_port("drained", &[addr(4)]),
    ];
    let mut backends: Vec<_> = (0..3).map(|at| testing::backend(at, 1)).collect();
    backends[2].weight = 0;
    testing::route(&conn, Rule { backends: backends.into(), ..sticky(&[]) }, &ports);
    for _ in 0..20 {
        assert_eq!(kept(&conn, &carried(&ports[0], 2)), Some(("one".into(), 2)));
        assert_eq!(kept(&conn, &carried(&ports[1], 2)), Some(("two".into(), 2)));
        assert_eq!(kept(&conn, &carried(&ports[2], 4)), Some(("drained".into(), 4)));
    }
    assert_eq!(kept(&conn, &HeaderMap::new()), None);
}

#[test]
fn only_an_endpoint_of_the_rule_that_serves_keeps_a_session() {
    fn check(last: u8, serving: bool, terminating: bool, available: bool, expected: bool) {
        let conn = testing::connection(addr(1));
        let mut port = testing::service_port("one", &[addr(1), addr(2)]);
        let set = &mut Arc::get_mut(&mut port).unwrap().endpoints;
        set.available.clear();
        for endpoint in &mut set.all {
            let endpoint = Arc::get_mut(endpoint).unwrap();
            (endpoint.serving, endpoint.terminating) = (serving, terminating);
        }
        if available {
            set.available = set.all.clone();
        }
        testing::route(&conn, sticky(&[0]), std::slice::from_ref(&port));
        let found = kept(&conn, &carried(&port, last)).is_some();
        assert_eq!(found, expected, "{last}: {serving} {terminating} {available}");
    }
    check(2, true, false, true, true);
    // It drains: no new requests, but those of its sessions.
    check(2, true, true, false, true);
    check(2, false, true, false, false);
    // Not ready, or of another node where only this one's serve.
    check(2, true, false, false, false);
    // What a client made up.
    check(9, true, false, true, false);
}

#[test]
fn a_session_of_another_service_is_none_of_this_one() {
    let conn = testing::connection(addr(1));
    let (one, other) = (testing::service_port("one", &[addr(1)]), testing::service_port("other", &[addr(1)]));
    testing::route(&conn, sticky(&[0]), &[one]);
    assert_eq!(kept(&conn, &carried(&other, 1)), None);
}

#[test]
fn a_service_without_routes_keeps_the_sessions_of_its_policy() {
    let conn = testing::connection(addr(1));
    let mut port = testing::service_port("one", &[addr(1), addr(2)]);
    Arc::get_mut(&mut port).unwrap().session = Some(cookie());
    conn.set_backends(Backends::Service(port.clone()));
    assert_eq!(kept(&conn, &carried_by(Scope::default(), &port, 2)), Some(("one".into(), 2)));
    let new = plan(&conn, &HeaderMap::new());
    assert!(new.session.is_some() && new.backends.is_none());
}

#[test]
fn rules_share_no_sessions_not_even_those_of_a_policy() {
    for of_rule in [true, false] {
        let conn = testing::connection(addr(1));
        let mut port = testing::service_port("one", &[addr(1), addr(2)]);
        Arc::get_mut(&mut port).unwrap().session = Some(cookie());
        let rule = |index: usize| {
            let name = RuleName::new("HTTPRoute", ObjectName::new("test", "route"), index, None);
            Rule { name, session: of_rule.then(cookie), ..testing::rule(&[0]) }
        };
        let carried = |index: usize| carried_by(rule(index).name.scope, &port, 2);
        for index in [0, 1] {
            testing::route(&conn, rule(index), std::slice::from_ref(&port));
            assert_eq!(kept(&conn, &carried(index)), Some(("one".into(), 2)), "{of_rule} {index}");
            assert_eq!(kept(&conn, &carried(1 - index)), None, "{of_rule} {index}");
        }
    }
}

#[test]
fn a_client_is_told_of_a_new_session_a_moved_one_and_every_use_that_counts() {
    fn check(last: Option<u8>, idle: bool, told: bool) {
        let conn = testing::connection(addr(1));
        let port = testing::service_port("one", &[addr(1)]);
        let mut how = SessionPersistence::clone(&cookie());
        how.idle_timeout = idle.then_some(Duration::from_secs(5));
        testing::route(
            &conn,
            Rule { session: Some(Arc::new(how)), ..sticky(&[0]) },
            std::slice::from_ref(&port),
        );
        let headers = last.map(|last| carried(&port, last)).unwrap_or_default();
        let plan = plan(&conn, &headers);
        plan.settle(&conn.pick(&plan, &[], None).unwrap());
        let lines = plan.response_edits().map(|edits| edits.lines().count()).sum::<usize>();
        assert_eq!(lines, usize::from(told), "{last:?} {idle}");
    }
    check(None, false, true);
    check(Some(1), false, false);
    check(Some(2), false, true);
    check(Some(1), true, true);
}

#[test]
fn a_session_leaves_an_endpoint_that_its_checks_found_unhealthy() {
    let conn = testing::connection(addr(1));
    let port = testing::service_port("cart", &[addr(1), addr(2), addr(3), addr(4)]);
    testing::route(&conn, sticky(&[0]), std::slice::from_ref(&port));
    let headers = carried(&port, 2);
    let home = Some(("cart".to_owned(), 2));
    assert_eq!(kept(&conn, &headers), home);
    let health = &port.endpoints.health;
    health.check(true);
    health.admit(&port.endpoints.all[1].load.health);
    assert_eq!(kept(&conn, &headers), None);
    health.set_panic_threshold(Some(crate::policy::chance::Chance::percent(80.0)));
    assert_eq!(kept(&conn, &headers), home, "too few are healthy: all are used");
    health.set_panic_threshold(None);
    health.check(false);
    assert_eq!(kept(&conn, &headers), home);
}

//! What a policy does to the choice of an endpoint: refusal, hashing, ejection, limits, clients under a rule of their own.
#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, HashSet};
use std::time::Duration;

use super::*;
use crate::balance::testing;
use crate::model::{AppProtocol, LoadBalancer, ObjectName, ProtocolFrom, ServiceMeta, Variant};
use crate::policy::{OutlierDetection, Unusable};
use crate::proxy::Reach;
use crate::proxy::testing::connection;

fn port(policy: ClusterPolicy, variants: Vec<Variant>) -> Arc<ServicePort> {
    let name = ObjectName::new("shop", "cart");
    Arc::new(ServicePort {
        service: Arc::new(ServiceMeta {
            name,
            host: "cart.shop.svc.cluster.local".into(),
            trace_sampling: None,
        }),
        name: String::new(),
        port: 80,
        protocol: AppProtocol::Http,
        protocol_from: ProtocolFrom::default(),
        policy: Arc::new(policy),
        variants,
        subset_name: None,
        subsets: Vec::new(),
        retries: None,
        session: None,
        external: None,
        backend_policy: None,
        endpoints: testing::set(5, 0),
    })
}

fn to(port: Arc<ServicePort>) -> Connection {
    let conn = connection("127.0.0.1:80".parse().unwrap());
    conn.set_backends(Backends::Service(port));
    conn
}

fn head(user: &str) -> request::Parts {
    http::Request::builder().uri("/").header("x-user", user).body(()).unwrap().into_parts().0
}

fn addresses(conn: &Connection, picks: usize, head: Option<&request::Parts>) -> HashSet<EndpointAddr> {
    (0..picks).map(|_| conn.pick(&Plan::default(), &[], head).unwrap().upstream.endpoint.addr).collect()
}

fn ring(key: HashKey) -> ClusterPolicy {
    ClusterPolicy {
        load_balancer: LoadBalancer::RingHash,
        table_size: 1024,
        hash: Some(key),
        ..ClusterPolicy::default()
    }
}

fn detection() -> OutlierDetection {
    OutlierDetection {
        consecutive_5xx: 3,
        consecutive_gateway: 0,
        consecutive_local_origin: 0,
        split: false,
        codes: Vec::new(),
        interval: Duration::from_secs(10),
        base_ejection: Duration::from_secs(3000),
        max_ejection_percent: 100,
        min_health_percent: 0,
    }
}

#[test]
fn what_needs_tls_is_refused_by_name_and_not_sent_in_plain_text() {
    let unusable = Some(Unusable::TlsNotOriginated);
    let conn = to(port(ClusterPolicy { unusable, ..ClusterPolicy::default() }, Vec::new()));
    assert!(
        conn.pick(&Plan::default(), &[], None).is_err_and(|error| error.kind == ErrorKind::TlsNotOriginated)
    );
}

#[test]
fn a_header_decides_the_endpoint_of_each_request() {
    let conn = to(port(ring(HashKey::Header(http::HeaderName::from_static("x-user"))), Vec::new()));
    let of_user = |user: &str| addresses(&conn, 20, Some(&head(user)));
    assert!((0..20).all(|user| of_user(&user.to_string()).len() == 1));
    let all: HashSet<_> = (0..50).flat_map(|user| of_user(&user.to_string())).collect();
    assert_eq!(all.len(), 5, "users are spread");
    assert!(addresses(&conn, 100, None).len() > 1, "a connection without a request goes by chance");
}

#[test]
fn what_detection_chose_is_kept_unless_the_request_belongs_elsewhere() {
    let check = |key: HashKey, kept: bool| {
        let conn = to(port(ring(key), Vec::new()));
        let first = conn.pick(&Plan::default(), &[], None).unwrap();
        let addr = first.upstream.endpoint.addr;
        let user = (0..).map(|user: u32| head(&user.to_string()));
        let elsewhere = |head: &request::Parts| {
            conn.pick(&Plan::default(), &[], Some(head)).unwrap().upstream.endpoint.addr != addr
        };
        let head = if kept { head("a") } else { user.into_iter().find(elsewhere).unwrap() };
        conn.pick_first(first);
        assert_eq!(
            conn.pick(&Plan::default(), &[], Some(&head)).unwrap().upstream.endpoint.addr == addr,
            kept
        );
    };
    check(HashKey::SourceIp, true);
    check(HashKey::Header(http::HeaderName::from_static("x-user")), false);
}

#[test]
fn an_endpoint_that_keeps_failing_is_counted_and_passed_over() {
    let load_balancer = LoadBalancer::Random;
    let policy = ClusterPolicy { load_balancer, outlier: Some(detection()), ..ClusterPolicy::default() };
    let conn = to(port(policy, Vec::new()));
    let picked = conn.pick(&Plan::default(), &[], None).unwrap();
    let addr = picked.upstream.endpoint.addr;
    assert!(addresses(&conn, 200, None).contains(&addr));
    picked.outcome(&conn, Outcome::Status(500));
    picked.fail(&conn);
    picked.outcome(&conn, Outcome::Grpc(14));
    assert!(!addresses(&conn, 200, None).contains(&addr));
    let ejections = &conn.pod.worker.telemetry.metrics.agent().outlier_ejections;
    assert_eq!(ejections.with_label_values(&["consecutive_5xx"]).get(), 1);
}

#[test]
fn requests_and_connections_beyond_the_limit_overflow_until_one_ends() {
    let limits = PoolLimits { max_requests: Some(2), max_connections: Some(1), ..PoolLimits::default() };
    let port = port(ClusterPolicy { limits, ..ClusterPolicy::default() }, Vec::new());
    port.endpoints.usage.connections.set_limits(limits.max_connections, limits.max_pending);
    let conn = to(port);
    let picked = conn.pick(&Plan::default(), &[], None).unwrap();
    let places = [picked.request().unwrap(), picked.request().unwrap()];
    assert!(picked.request().is_err_and(|kind| kind == ErrorKind::Overflow));
    drop(places);
    assert!(picked.request().unwrap().is_some());
    let open = picked.connection().unwrap();
    assert!(picked.connection().is_err_and(|kind| kind == ErrorKind::Overflow));
    drop(open);
    assert!(picked.connection().is_ok());
}

#[test]
fn a_client_under_a_rule_of_its_own_has_its_policy() {
    let variant = |namespace: &str| {
        let unusable = Some(Unusable::TlsNotOriginated);
        let port = port(ClusterPolicy { unusable, ..ClusterPolicy::default() }, Vec::new());
        vec![Variant { namespace: namespace.into(), labels: BTreeMap::new(), port }]
    };
    // The client of the tests is in the namespace `test`.
    assert!(to(port(ClusterPolicy::default(), variant("test"))).pick(&Plan::default(), &[], None).is_err());
    assert!(to(port(ClusterPolicy::default(), variant("other"))).pick(&Plan::default(), &[], None).is_ok());
}

#[test]
fn nothing_connected_before_a_rule_asked_for_tls_is_used_under_it() {
    let plain = port(ClusterPolicy::default(), Vec::new());
    let conn = to(plain.clone());
    let first = conn.pick(&Plan::default(), &[], None).unwrap();
    let before = first.upstream.clone();
    conn.pick_first(first);
    let authority = crate::tls::testing::Authority::new();
    let tls = Some(crate::tls::testing::origination(authority.spec("api.example.com")));
    let (available, all) = (plain.endpoints.available.clone(), plain.endpoints.all.clone());
    let endpoints = crate::model::EndpointSet { available, all, ..Default::default() };
    let wrapped = port(ClusterPolicy { tls, ..ClusterPolicy::default() }, Vec::new());
    let wrapped = ServicePort {
        service: wrapped.service.clone(),
        name: String::new(),
        policy: wrapped.policy.clone(),
        variants: Vec::new(),
        retries: None,
        session: None,
        external: None,
        backend_policy: None,
        subset_name: None,
        subsets: Vec::new(),
        endpoints,
        ..*wrapped
    };
    conn.set_backends(Backends::Service(Arc::new(wrapped)));
    for _ in 0..50 {
        let picked = conn.pick(&Plan::default(), &[], None).unwrap();
        assert!(matches!(picked.upstream.reach(), Reach::Tls(_)) && !Rc::ptr_eq(&picked.upstream, &before));
    }
    conn.set_backends(Backends::Service(plain));
    let picked = conn.pick(&Plan::default(), &[], None).unwrap();
    assert!(matches!(picked.upstream.reach(), Reach::Plain));
}

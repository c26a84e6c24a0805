//! How long a request waits for an endpoint, what ends the wait, and what is left behind.
#![allow(clippy::unwrap_used)]

use std::time::Duration;

use http::request;

use tokio::net::TcpStream;

use super::*;
use crate::addr::EndpointAddr;
use crate::balance::health::Verdict;
use crate::balance::testing;
use crate::model::{
    AppProtocol, EndpointSet, ObjectName, ProtocolFrom, Service, ServiceMeta, Snapshot, Subset,
};
use crate::policy::ClusterPolicy;
use crate::policy::chance::Chance;
use crate::policy::traffic::TrafficPolicy;
use crate::proxy::testing::connection;
use crate::proxy::{ErrorKind, Exchange};

const HOST: &str = "cart.shop.svc.cluster.local";
const PATIENCE: Duration = Duration::from_secs(20);

/// A service with so many endpoints.
fn snapshot(endpoints: u8, policy: TrafficPolicy) -> Snapshot {
    snapshot_of(u64::from(endpoints), port(testing::set(endpoints, 0)), policy)
}

fn port(endpoints: EndpointSet) -> ServicePort {
    ServicePort {
        service: Arc::new(ServiceMeta {
            name: ObjectName::new("shop", "cart"),
            host: HOST.into(),
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
        endpoints,
    }
}

fn snapshot_of(generation: u64, port: ServicePort, policy: TrafficPolicy) -> Snapshot {
    let meta = port.service.clone();
    let (name, ports) = (meta.name.clone(), vec![Arc::new(port)]);
    let (vips, ports_v6) = (vec!["127.0.0.1".parse().unwrap()], Vec::new());
    let service = Arc::new(Service {
        udp: Vec::new(),
        meta,
        vips,
        ranges: Vec::new(),
        headless: false,
        ports: ports.clone(),
        ports_v4: ports,
        ports_v6,
    });
    let mut snapshot = Snapshot { generation, ..Snapshot::default() };
    snapshot.services.insert_mut(name.clone(), service);
    snapshot.traffic.insert_mut((name, 80), Arc::new(policy));
    snapshot
}

/// A connection to the service, which has no endpoint yet.
fn to_nowhere(policy: &TrafficPolicy) -> Connection {
    let conn = connection("127.0.0.1:80".parse().unwrap());
    let empty = snapshot(0, policy.clone());
    conn.set_backends(Backends::Service(empty.services.values().next().unwrap().ports[0].clone()));
    conn.pod.worker.snapshot.store(Arc::new(empty));
    conn
}

fn policy(most: u32) -> TrafficPolicy {
    let activation = Some(Arc::new(Activation::new(most, PATIENCE, None)));
    TrafficPolicy { activation, ..TrafficPolicy::default() }
}

fn head() -> request::Parts {
    http::Request::new(()).into_parts().0
}

fn planned(conn: &Connection) -> Plan {
    let mut head = head();
    let mut account = Exchange::begin(conn, &mut head);
    conn.plan(&mut head, &mut account).unwrap()
}

fn picked(conn: &Connection, plan: &Plan) -> Result<EndpointAddr, ErrorKind> {
    conn.pick(plan, &[], None).map(|picked| picked.upstream.endpoint.addr).map_err(|error| error.kind)
}

/// How many wait, and how many waits ended so.
fn shown(conn: &Connection, result: &str) -> (i64, u64) {
    let metrics = conn.pod.worker.telemetry.metrics.agent();
    (
        metrics.activation_waiting.with_label_values(&[HOST]).get(),
        metrics.activation_requests.with_label_values(&[HOST, result]).get(),
    )
}

#[tokio::test(start_paused = true)]
async fn a_request_goes_on_when_an_endpoint_appears_and_not_before() {
    let policy = policy(1);
    let conn = to_nowhere(&policy);
    let plan = planned(&conn);
    assert!(matches!(picked(&conn, &plan), Err(ErrorKind::NoHealthyUpstream)));
    let (began, worker) = (Instant::now(), &conn.pod.worker);
    let appears = async {
        // Paused time: it stands for however long the endpoint takes to come up.
        tokio::time::sleep(Duration::from_secs(5)).await;
        assert_eq!(shown(&conn, "activated"), (1, 0));
        // A change that brings nothing.
        worker.changed.send_replace(1);
        // Paused time: it stands for however long the endpoint takes to come up.
        tokio::time::sleep(Duration::from_secs(5)).await;
        worker.snapshot.store(Arc::new(snapshot(1, policy.clone())));
        worker.changed.send_replace(2);
    };
    let (waited, ()) = tokio::join!(plan.await_endpoint(&conn), appears);
    assert!(waited.is_ok() && plan.waited());
    assert_eq!(began.elapsed(), Duration::from_secs(10));
    assert_eq!(picked(&conn, &plan), Ok(testing::endpoint(0).addr));
    assert_eq!(shown(&conn, "activated"), (0, 1));
}

#[tokio::test(start_paused = true)]
async fn without_an_endpoint_in_time_the_answer_is_as_without_waiting() {
    let conn = to_nowhere(&policy(1));
    let (plan, began) = (planned(&conn), Instant::now());
    assert!(plan.await_endpoint(&conn).await.is_ok());
    assert!(began.elapsed() >= PATIENCE && began.elapsed() < PATIENCE + Duration::from_secs(1));
    assert_eq!(picked(&conn, &plan), Err(ErrorKind::NoHealthyUpstream));
    assert_eq!(shown(&conn, "timeout"), (0, 1));
}

#[tokio::test(start_paused = true)]
async fn no_request_waits_past_its_own_deadline() {
    let timeout = Some(Arc::new(Duration::from_secs(3)));
    let conn = to_nowhere(&TrafficPolicy { timeout, ..policy(1) });
    let (plan, began) = (planned(&conn), Instant::now());
    let answer = plan.await_endpoint(&conn).await.unwrap_err();
    assert_eq!(answer.why, Some(ErrorKind::RequestTimeout));
    assert!(began.elapsed() >= Duration::from_secs(3) && began.elapsed() < Duration::from_secs(4));
}

#[tokio::test(start_paused = true)]
async fn only_so_many_wait_and_who_goes_away_makes_room() {
    let conn = to_nowhere(&policy(1));
    let (first, second, third) = (planned(&conn), planned(&conn), planned(&conn));
    let began = Instant::now();
    let gone = tokio::time::timeout(Duration::from_secs(1), first.await_endpoint(&conn));
    let (gone, refused) = tokio::join!(biased; gone, async {
        let refused = second.await_endpoint(&conn).await;
        (refused, began.elapsed())
    });
    assert!(gone.is_err());
    assert!(refused.0.is_ok() && refused.1 < Duration::from_secs(1), "it went on at once");
    assert_eq!(shown(&conn, "too_many"), (0, 1));
    assert_eq!(shown(&conn, "gone"), (0, 1));
    assert!(third.await_endpoint(&conn).await.is_ok());
    assert_eq!(shown(&conn, "timeout"), (0, 1));
}

#[tokio::test(start_paused = true)]
async fn a_connection_waits_too_unless_its_client_resets_it() {
    let policy = policy(1);
    let conn = to_nowhere(&policy);
    let front = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (client, accepted) = tokio::join!(TcpStream::connect(front.local_addr().unwrap()), front.accept());
    let (client, stream) = (client.unwrap(), Stream::from(accepted.unwrap().0));
    let (began, mut plan) = (Instant::now(), Plan::default());
    let leaves = async {
        tokio::task::yield_now().await;
        assert_eq!(shown(&conn, "gone"), (1, 0));
        crate::proxy::upstream::reset(client);
    };
    tokio::join!(conn.activate(&mut plan, &stream), leaves);
    assert!(began.elapsed() < PATIENCE && plan.backends.is_none());
    assert_eq!(shown(&conn, "gone"), (0, 1));
    let (_client, accepted) = tokio::join!(TcpStream::connect(front.local_addr().unwrap()), front.accept());
    let stream = Stream::from(accepted.unwrap().0);
    let appears = async {
        tokio::task::yield_now().await;
        conn.pod.worker.snapshot.store(Arc::new(snapshot(1, policy.clone())));
        conn.pod.worker.changed.send_replace(2);
    };
    tokio::join!(conn.activate(&mut plan, &stream), appears);
    assert_eq!(picked(&conn, &plan), Ok(testing::endpoint(0).addr));
}

#[tokio::test(start_paused = true)]
async fn an_endpoint_counts_once_its_health_check_has_passed() {
    let policy = policy(1);
    let conn = to_nowhere(&policy);
    let sick = snapshot(2, policy.clone());
    let port = sick.services.values().next().unwrap().ports[0].clone();
    let (set, health) = (port.endpoints.all.clone(), port.endpoints.health.clone());
    conn.set_backends(Backends::Service(port));
    health.check(true);
    set.iter().for_each(|endpoint| health.admit(&endpoint.load.health));
    conn.pod.worker.snapshot.store(Arc::new(sick));
    let (plan, began) = (planned(&conn), Instant::now());
    assert!(matches!(picked(&conn, &plan), Err(ErrorKind::NoHealthyUpstream)));
    let passes = async {
        // Paused time: it stands for however long the first check takes.
        tokio::time::sleep(Duration::from_secs(5)).await;
        assert_eq!(shown(&conn, "activated"), (1, 0));
        set[1].load.health.set(Verdict::Healthy);
        health.count(&set);
        conn.pod.worker.changed.send_modify(|_| ());
    };
    let (waited, ()) = tokio::join!(plan.await_endpoint(&conn), passes);
    assert!(waited.is_ok() && began.elapsed() == Duration::from_secs(5));
    assert_eq!(picked(&conn, &plan), Ok(set[1].addr));
}

#[tokio::test(start_paused = true)]
async fn nobody_waits_for_health_where_the_panic_threshold_uses_all() {
    let policy = policy(1);
    let conn = to_nowhere(&policy);
    let sick = snapshot(2, policy.clone());
    let port = sick.services.values().next().unwrap().ports[0].clone();
    port.endpoints.health.check(true);
    port.endpoints.health.set_panic_threshold(Some(Chance::percent(1.0)));
    port.endpoints.all.iter().for_each(|endpoint| port.endpoints.health.admit(&endpoint.load.health));
    conn.pod.worker.snapshot.store(Arc::new(sick));
    conn.set_backends(Backends::Service(port));
    let (plan, began) = (planned(&conn), Instant::now());
    assert!(plan.await_endpoint(&conn).await.is_ok() && !plan.waited());
    assert_eq!(began.elapsed(), Duration::ZERO);
    assert!(picked(&conn, &plan).is_ok());
    assert_eq!(conn.pod.worker.telemetry.metrics.agent().panic_choices.get(), 1);
}

#[tokio::test(start_paused = true)]
async fn what_waits_for_a_subset_gets_an_endpoint_of_it_and_no_other() {
    let policy = policy(1);
    // The service has endpoints all the time.
    let of = |endpoints: u8, generation: u64| {
        let name = "v2".to_owned();
        let part = ServicePort { subset_name: Some(name.clone()), ..port(testing::set(endpoints, 0)) };
        let subsets = vec![Subset { name, port: Arc::new(part) }];
        snapshot_of(generation, ServicePort { subsets, ..port(testing::set(9, 0)) }, policy.clone())
    };
    let conn = connection("127.0.0.1:80".parse().unwrap());
    let empty = of(0, 0);
    let part = empty.services.values().next().unwrap().ports[0].subset("v2").unwrap().clone();
    conn.set_backends(Backends::Service(part));
    conn.pod.worker.snapshot.store(Arc::new(empty));
    let (plan, began) = (planned(&conn), Instant::now());
    let appears = async {
        // Paused time: it stands for however long the endpoint takes to come up.
        tokio::time::sleep(Duration::from_secs(5)).await;
        conn.pod.worker.snapshot.store(Arc::new(of(1, 1)));
        conn.pod.worker.changed.send_replace(1);
    };
    let (waited, ()) = tokio::join!(plan.await_endpoint(&conn), appears);
    assert!(waited.is_ok() && plan.waited());
    assert_eq!(began.elapsed(), Duration::from_secs(5));
    assert_eq!(picked(&conn, &plan), Ok(testing::endpoint(0).addr));
}

#[tokio::test(start_paused = true)]
async fn what_goes_where_it_was_dialled_waits_for_no_endpoint() {
    let policy = policy(1);
    let passthrough = Arc::new(ClusterPolicy { passthrough: true, ..ClusterPolicy::default() });
    let conn = connection("127.0.0.1:80".parse().unwrap());
    let port = ServicePort { policy: passthrough, ..port(testing::set(0, 0)) };
    let snapshot = snapshot_of(0, port, policy);
    conn.set_backends(Backends::Service(snapshot.services.values().next().unwrap().ports[0].clone()));
    conn.pod.worker.snapshot.store(Arc::new(snapshot));
    let (plan, began) = (planned(&conn), Instant::now());
    assert!(plan.await_endpoint(&conn).await.is_ok() && began.elapsed().is_zero());
    assert_eq!(picked(&conn, &plan), Ok("127.0.0.1:80".parse::<std::net::SocketAddr>().unwrap().into()));
}

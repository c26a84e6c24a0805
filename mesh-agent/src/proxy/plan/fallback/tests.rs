//! When a request goes to the fallback's service, for how long, and that it does so once.
#![allow(clippy::unwrap_used)]

use std::sync::Arc;
use std::time::Duration;

use http::request;

use super::*;
use crate::model::{ObjectName, Service, ServicePort, Snapshot};
use crate::policy::traffic::TrafficPolicy;
use crate::proxy::testing::{connection, service_port};

/// Services `one` and `two` that fall back to each other, and a connection to `one`.
fn world(groups: &str, endpoints: usize) -> (Connection, Arc<ServicePort>) {
    let mut snapshot = Snapshot::default();
    let port = |name: &str, endpoints: usize| {
        let addresses: Vec<_> = (0..endpoints).map(|at| ([10, 0, 0, at as u8], 8080).into()).collect();
        service_port(name, &addresses)
    };
    let (one, two) = (port("one", 2), port("two", endpoints));
    for (port, other) in [(&one, "two"), (&two, "one")] {
        let name = port.service.name.clone();
        let spec =
            format!("{{targetRefs: [{{kind: Service, name: any}}], {}}}", groups.replace("OTHER", other));
        let policy = TrafficPolicy::compile(&name, &serde_yaml_ng::from_str(&spec).unwrap(), None);
        snapshot.traffic.insert_mut((name.clone(), 80), Arc::new(policy));
        let ports = vec![port.clone()];
        let service = Service {
            udp: Vec::new(),
            meta: port.service.clone(),
            vips: vec!["127.0.0.1".parse().unwrap()],
            headless: false,
            ports: ports.clone(),
            ports_v4: ports,
            ports_v6: Vec::new(),
            ranges: Vec::new(),
        };
        snapshot.services.insert_mut(name, Arc::new(service));
    }
    let conn = connection("127.0.0.1:80".parse().unwrap());
    conn.pod.worker.snapshot.store(Arc::new(snapshot));
    conn.set_backends(Backends::Service(one));
    (conn, two)
}

fn head(timeout: &str) -> request::Parts {
    let request = http::Request::builder().header("content-type", "application/grpc");
    request.header("grpc-timeout", timeout).body(()).unwrap().into_parts().0
}

fn goes_to(plan: &Plan) -> Option<ObjectName> {
    match plan.backends() {
        Some(Backends::Service(port)) => Some(port.service.name.clone()),
        _ => None,
    }
}

const ALL: &str = "timeout: 2s, fallback: {service: {name: OTHER, namespace: test, port: 80}, on: [error5xx, timeout, noEndpoint, circuitOpen]}";

#[tokio::test(start_paused = true)]
async fn each_failure_goes_to_the_other_service_once() {
    for why in [
        ErrorKind::UpstreamErrorStatus,
        ErrorKind::UpstreamClosed,
        ErrorKind::ConnectFailed,
        ErrorKind::RequestTimeout,
        ErrorKind::TryTimeout,
        ErrorKind::NoHealthyUpstream,
        ErrorKind::CircuitOpen,
    ] {
        let (conn, two) = world(ALL, 1);
        let mut head = head("1H");
        let mut account = Exchange::begin(&conn, &mut head);
        let plan = conn.plan(&mut head, &mut account).unwrap();
        assert!(plan.falls_back_after(&mut account, why), "{why:?}");
        assert_eq!(goes_to(&plan), Some(two.service.name.clone()), "{why:?}");
        // The other service falls back to the first: not for this request.
        assert!(!plan.fall_back(&conn, why) && !plan.replaces(&conn, StatusCode::BAD_GATEWAY, None, true));
        let counted = &conn.pod.worker.telemetry.metrics.agent().traffic_policy;
        assert_eq!(counted.with_label_values(&["fallback_service"]).get(), 1, "{why:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn what_it_isnt_for_stays_where_it_is() {
    fn check(groups: &str, endpoints: usize, why: ErrorKind) {
        let (conn, _) = world(groups, endpoints);
        let mut head = head("1H");
        let mut account = Exchange::begin(&conn, &mut head);
        let plan = conn.plan(&mut head, &mut account).unwrap();
        assert!(!plan.fall_back(&conn, why) && goes_to(&plan).is_none(), "{groups} {endpoints} {why:?}");
    }
    check(ALL, 0, ErrorKind::UpstreamErrorStatus);
    check(ALL, 1, ErrorKind::DownstreamClosed);
    check(ALL, 1, ErrorKind::RateLimited);
    check(&ALL.replace("error5xx, ", ""), 1, ErrorKind::UpstreamErrorStatus);
    check(&ALL.replace("timeout, ", ""), 1, ErrorKind::RequestTimeout);
    check("timeout: 2s", 1, ErrorKind::RequestTimeout);
}

#[tokio::test(start_paused = true)]
async fn after_a_timeout_there_is_as_much_time_again_and_never_more_than_the_client_has() {
    async fn check(client: &str, why: ErrorKind, after: u64, left_ms: Option<u64>) {
        let (conn, _) = world(ALL, 1);
        let mut head = head(client);
        let mut account = Exchange::begin(&conn, &mut head);
        let plan = conn.plan(&mut head, &mut account).unwrap();
        tokio::time::advance(Duration::from_millis(after)).await;
        let falls = plan.fall_back(&conn, why);
        let left = plan.deadline().unwrap().saturating_duration_since(Instant::now());
        let want = left_ms.map(Duration::from_millis);
        assert_eq!(falls.then_some(left), want, "{client} {why:?} after {after} ms");
    }
    check("1H", ErrorKind::UpstreamErrorStatus, 500, Some(1500)).await;
    check("1H", ErrorKind::RequestTimeout, 2000, Some(2000)).await;
    check("1H", ErrorKind::TryTimeout, 500, Some(2000)).await;
    check("3S", ErrorKind::RequestTimeout, 2000, Some(1000)).await;
    check("1S", ErrorKind::RequestTimeout, 1000, None).await;
    check("1H", ErrorKind::UpstreamErrorStatus, 2000, None).await;
}

#[tokio::test(start_paused = true)]
async fn an_answer_is_replaced_by_what_it_is_in_http_if_the_request_can_be_sent_again() {
    let (conn, _) = world(ALL, 1);
    let mut head = head("1H");
    let mut account = Exchange::begin(&conn, &mut head);
    let plan = conn.plan(&mut head, &mut account).unwrap();
    let check = |status: u16, grpc: Option<u16>, again: bool, replaced: bool| {
        let status = StatusCode::from_u16(status).unwrap();
        assert_eq!(plan.replaces(&conn, status, grpc, again), replaced, "{status} {grpc:?} {again}");
    };
    check(500, None, true, true);
    check(503, None, false, false);
    check(404, None, true, false);
    check(200, Some(14), true, true);
    check(200, Some(14), false, false);
    check(200, Some(5), true, false);
    check(200, Some(0), true, false);
}

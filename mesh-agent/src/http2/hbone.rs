//! What HBONE says in a CONNECT beyond its address, both ways: written for ztunnels and waypoints, judged where one arrives.
//!
//! `tunnels` and `connect` use it. `forwarded`, `baggage` and `traceparent` tell the peer's telemetry whom the connection is from;
//! what a peer tells us so is believed as far as its address and certificate prove it.

use std::fmt::Write;
use std::net::{IpAddr, SocketAddr};

use h2::RecvStream;
use http::header::FORWARDED;
use http::{HeaderValue, Request};

use super::server::is_connect;
use crate::addr::{ClientAddr, OrigDst};
use crate::kernel::Ports;
use crate::proxy::headers::TRACEPARENT;
use crate::proxy::{Connection, Hostile, Pod, Upstream, baggage};

/// Adds what ztunnel says too: for whom and for which service, what the pod is, and a trace of the connection's own.
pub(super) fn describe(head: &mut Request<()>, upstream: &Upstream, pod: &Pod, client: Option<ClientAddr>) {
    let headers = head.headers_mut();
    let mut forwarded = client.map(|client| format!("for=\"{client}\"")).unwrap_or_default();
    if let Some(service) = &upstream.service {
        let _ = write!(forwarded, "{}host={}", if forwarded.is_empty() { "" } else { ";" }, service.host);
    }
    if let Ok(value) = HeaderValue::try_from(forwarded)
        && !value.is_empty()
    {
        headers.insert(FORWARDED, value);
    }
    let cluster = pod.worker.telemetry.metrics.cluster();
    let place = pod.worker.snapshot.load().locality.clone();
    if let Some(value) = baggage::value(&pod.workload.borrow(), cluster, &place) {
        headers.insert(baggage::BAGGAGE, value);
    }
    if let Ok(value) = HeaderValue::try_from(traceparent()) {
        headers.insert(TRACEPARENT, value);
    }
}

/// A new trace, not sampled (W3C Trace Context, 3.2): a connection has no parent.
fn traceparent() -> String {
    format!("00-{:032x}-{:016x}-00", fastrand::u128(1..), fastrand::u64(1..))
}

/// Where a peer wants to be connected to: an address of this pod, and a port that isn't the agent's.
///
/// # Errors
/// Anything else, so that nobody is taken for another pod, or comes to the agent's ports past the kernel.
pub(super) fn asked(request: &Request<RecvStream>, conn: &Connection) -> Result<OrigDst, Hostile> {
    if !is_connect(request) {
        return Err(Hostile::NotConnect);
    }
    let authority = request.uri().authority().map(|authority| authority.as_str()).unwrap_or_default();
    let pod = conn.pod.workload.borrow();
    destination(authority, conn.dst, &pod.addresses, conn.pod.worker.ports).ok_or(Hostile::WrongAuthority)
}

/// What `authority` names, if that is an address of the pod that has these, and a port that isn't one of the agent's. `dialled` is where
/// the connection came to.
pub(crate) fn destination(
    authority: &str,
    dialled: OrigDst,
    addresses: &[IpAddr],
    ports: Ports,
) -> Option<OrigDst> {
    let asked = OrigDst::from(authority.parse::<SocketAddr>().ok()?);
    // What it came to is the pod's own too: the kernel hands over nothing else.
    let is_own = asked.ip() == dialled.ip() || addresses.iter().any(|ip| ip.to_canonical() == asked.ip());
    let is_agents = [0, ports.outbound, ports.inbound, ports.hbone].contains(&asked.port());
    (is_own && !is_agents).then_some(asked)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::rc::Rc;
    use std::sync::Arc;

    use super::*;
    use crate::addr::EndpointAddr;
    use crate::model::{ObjectName, ServiceMeta, Target, Workload};
    use crate::proxy::{Direction, Limits, headers, testing};
    use crate::telemetry::Telemetry;

    fn pod(addresses: &[&str]) -> Rc<Pod> {
        let pod = testing::pod(Limits::default(), Telemetry::quiet());
        let addresses = addresses.iter().map(|ip| ip.parse().unwrap()).collect();
        pod.workload.replace(Arc::new(Workload { addresses, ..testing::workload() }));
        pod
    }

    #[test]
    fn only_the_pods_own_addresses_and_no_port_of_the_agents_can_be_asked_for() {
        let pod = pod(&["10.1.0.1", "fd00::1"]);
        let addr = |text: &str| text.parse::<SocketAddr>().unwrap();
        let (from, to) = (ClientAddr::from(addr("10.1.0.7:4000")), OrigDst::from(addr("10.1.0.5:15008")));
        let conn = Connection::open(&pod, Direction::Inbound, from, to, &Target::Unknown);
        for (authority, good) in [
            ("10.1.0.1:80", true),
            ("[fd00::1]:80", true),
            ("[::ffff:10.1.0.1]:80", true),
            ("10.1.0.5:80", true),
            ("10.1.0.2:80", false),
            ("127.0.0.1:80", false),
            ("[::1]:80", false),
            ("0.0.0.0:80", false),
            ("10.1.0.1:15001", false),
            ("10.1.0.1:15006", false),
            ("10.1.0.1:15008", false),
            ("[fd00::1]:15008", false),
            ("10.1.0.1:0", false),
            ("10.1.0.1", false),
            ("cart.shop.svc.cluster.local:80", false),
            ("user@10.1.0.1:80", false),
            ("", false),
        ] {
            let (own, ports) = (conn.pod.workload(), conn.pod.worker.ports);
            let found = destination(authority, conn.dst, &own.addresses, ports);
            assert_eq!(found.is_some(), good, "{authority}");
        }
    }

    #[test]
    fn a_connect_says_for_whom_to_which_service_and_from_what_it_is() {
        let pod = pod(&["10.1.0.1"]);
        let conn = testing::connection("10.1.0.9:80".parse().unwrap());
        let edges = conn.edges_without_endpoint();
        let host = "cart.shop.svc.cluster.local";
        let service = Arc::new(ServiceMeta {
            name: ObjectName::new("shop", "cart"),
            host: host.into(),
            trace_sampling: None,
        });
        let addr = EndpointAddr::from("10.1.0.9:80".parse::<SocketAddr>().unwrap());
        let upstream = Upstream::paired(addr, None, edges).of_service(Some(&service));
        let describe = |client: Option<&str>| {
            let mut head = Request::new(());
            let client = client.map(|client| ClientAddr::from(client.parse::<SocketAddr>().unwrap()));
            describe(&mut head, &upstream, &pod, client);
            head.into_parts().0.headers
        };
        let headers = describe(Some("10.1.0.1:4000"));
        assert_eq!(headers[FORWARDED], format!("for=\"10.1.0.1:4000\";host={host}"));
        let trace = headers[TRACEPARENT].to_str().unwrap();
        assert!(headers::trace_id_of(trace).is_some() && trace.len() == 55, "{trace}");
        let said = baggage::read(&headers);
        assert_eq!((said.namespace.as_deref(), said.workload.as_deref()), (Some("test"), Some("client")));
        let shared = describe(None);
        assert_eq!(shared[FORWARDED], format!("host={host}"));
        assert_ne!(shared[TRACEPARENT], headers[TRACEPARENT]);
    }
}

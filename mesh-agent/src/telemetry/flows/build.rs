//! Makes flows of what the access log's lines are made of. What came off the wire is bounded here, as nothing else is
//! that waits for a reader.

use std::collections::BTreeMap;
use std::time::Duration;

use http::HeaderMap;

use crate::admin::api::flow::{Flow, FlowL7, FlowPeer, FlowService, Verdict};
use crate::balance::outlier::status_of_grpc;
use crate::flags::Flag;
use crate::model::Workload;
use crate::telemetry::{ConnectionEntry, Kept, Peers, RequestEntry, utc_millis};

/// Of a text that a client or server chose, at most so many bytes.
const LONGEST: usize = 2048;

/// True of what the ring of failures keeps: all that is flagged, but for a delay that was asked for, and what a server says
/// of a failure of its own.
pub(in crate::telemetry) fn has_failed(flag: Flag, status: u16, grpc: Option<u16>) -> bool {
    let is_flagged = !matches!(flag, Flag::None | Flag::DelayInjected);
    is_flagged || grpc.map_or(status, status_of_grpc) >= 500
}

fn verdict(flag: Flag) -> Verdict {
    match flag {
        Flag::None | Flag::DelayInjected => Verdict::Forwarded,
        Flag::Denied | Flag::UnauthorizedExternal | Flag::RateLimited | Flag::NoCluster => Verdict::Dropped,
        _ => Verdict::Error,
    }
}

pub(super) fn request(node: &str, e: &RequestEntry<'_>) -> Flow {
    let headers = |of: fn(&Kept) -> &HeaderMap| e.kept.map(of).map(headers).unwrap_or_default();
    let l7 = FlowL7 {
        version: e.protocol.to_owned(),
        method: text(e.method),
        path: text(e.path),
        authority: text(e.authority),
        status: e.status,
        grpc_status: e.grpc_status,
        upstream_ms: e.upstream_time.map(millis),
        attempts: e.attempts,
        request_headers: headers(|kept| &kept.request),
        response_headers: headers(|kept| &kept.response),
    };
    Flow {
        time: utc_millis(e.start),
        verdict: verdict(e.flag),
        protocol: if e.grpc { "grpc" } else { "http" }.to_owned(),
        l7: Some(l7),
        flag: e.flag.label().to_owned(),
        details: e.details.to_owned(),
        policy: policy_of(e.details),
        route: e.route.to_owned(),
        duration_ms: millis(e.duration),
        bytes_received: e.bytes_received,
        bytes_sent: e.bytes_sent,
        trace_id: text(e.trace_id),
        request_id: text(e.request_id),
        ..between(node, &e.peers)
    }
}

pub(super) fn connection(node: &str, e: &ConnectionEntry<'_>) -> Flow {
    Flow {
        time: utc_millis(e.start),
        verdict: verdict(e.flag),
        protocol: e.protocol.to_owned(),
        server_name: text(e.server_name),
        flag: e.flag.label().to_owned(),
        details: e.details.to_owned(),
        policy: policy_of(e.details),
        route: e.route.to_owned(),
        duration_ms: millis(e.duration),
        bytes_received: e.bytes_received,
        bytes_sent: e.bytes_sent,
        ..between(node, &e.peers)
    }
}

fn between(node: &str, peers: &Peers<'_>) -> Flow {
    let [client, server] = peers.principals.unwrap_or_default();
    let (from, dialled) = (peers.client.socket_addr(), peers.destination.socket_addr());
    let endpoint = peers.endpoint.map(|endpoint| endpoint.socket_addr());
    let to = endpoint.unwrap_or(dialled);
    Flow {
        node: node.to_owned(),
        reporter: Some(peers.reporter),
        source: peer(peers.source, from, client),
        destination: peer(peers.destination_workload, to, server),
        dialled: Some(dialled),
        service: peers.service.map(|service| FlowService {
            namespace: service.name.namespace.clone(),
            name: service.name.name.clone(),
            host: service.host.clone(),
        }),
        endpoint,
        security: if peers.principals.is_some() { "mutual_tls" } else { "none" }.to_owned(),
        transport: if peers.hbone { "hbone" } else { "" }.to_owned(),
        ..Flow::default()
    }
}

fn peer(pod: Option<&Workload>, at: std::net::SocketAddr, principal: &str) -> FlowPeer {
    let of = |field: fn(&Workload) -> &String| pod.map(field).cloned().unwrap_or_default();
    FlowPeer {
        namespace: of(|pod| &pod.name.namespace),
        pod: of(|pod| &pod.name.name),
        workload: of(|pod| &pod.workload_name),
        ip: Some(at.ip()),
        port: at.port(),
        principal: principal.to_owned(),
    }
}

/// The policy in `rbac_access_denied_matched_policy[ns[NAMESPACE]-policy[NAME]-rule[N]]`, Envoy's words for it.
fn policy_of(details: &str) -> String {
    let found = || {
        let (namespace, rest) = details.split_once("[ns[")?.1.split_once("]-policy[")?;
        let (name, _) = rest.split_once(']')?;
        Some(format!("{namespace}/{name}"))
    };
    found().unwrap_or_default()
}

fn headers(headers: &HeaderMap) -> BTreeMap<String, Vec<String>> {
    let names = headers.keys();
    names
        .map(|name| (name.to_string(), headers.get_all(name).iter().map(|it| text(it.as_bytes())).collect()))
        .collect()
}

fn text(bytes: &[u8]) -> String {
    let cut = bytes.get(..LONGEST).unwrap_or(bytes);
    String::from_utf8_lossy(cut).into_owned()
}

fn millis(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 1e6).round() / 1e3
}

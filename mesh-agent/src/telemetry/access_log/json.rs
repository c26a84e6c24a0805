//! The JSON format: one flat object a line, keys in snake case as Envoy's and Istio's JSON logs name them; a field
//! without a value is left out.

use super::clock::{push_millis, push_time, push_u64};
use super::entry::{ConnectionEntry, Peers, RequestEntry};
use super::escape::push_json;
use super::text::push_addr;
use crate::model::Workload;

pub(super) fn request(out: &mut Vec<u8>, e: &RequestEntry<'_>) {
    start(out, e.start, &e.peers);
    string(out, "method", e.method);
    string(out, "path", e.path);
    string(out, "protocol", e.protocol.as_bytes());
    number(out, "response_code", u64::from(e.status));
    if let Some(code) = e.grpc_status {
        number(out, "grpc_status", u64::from(code));
    }
    outcome(out, e.flag.label(), e.details);
    volume(out, e.bytes_received, e.bytes_sent, e.duration);
    if let Some(time) = e.upstream_time {
        key(out, "upstream_service_time");
        push_millis(out, time);
    }
    if e.attempts > 1 {
        number(out, "upstream_request_attempt_count", u64::from(e.attempts));
    }
    string(out, "request_id", e.request_id);
    string(out, "trace_id", e.trace_id);
    string(out, "user_agent", e.user_agent);
    string(out, "authority", e.authority);
    string(out, "route_name", e.route.as_bytes());
    out.push(b'}');
}

pub(super) fn connection(out: &mut Vec<u8>, e: &ConnectionEntry<'_>) {
    start(out, e.start, &e.peers);
    string(out, "protocol", e.protocol.as_bytes());
    string(out, "requested_server_name", e.server_name);
    outcome(out, e.flag.label(), e.details);
    volume(out, e.bytes_received, e.bytes_sent, e.duration);
    string(out, "route_name", e.route.as_bytes());
    out.push(b'}');
}

fn start(out: &mut Vec<u8>, time: std::time::SystemTime, peers: &Peers<'_>) {
    out.extend_from_slice(b"{\"start_time\":\"");
    push_time(out, time);
    out.push(b'"');
    string(out, "reporter", peers.reporter.label().as_bytes());
    workload(out, "source_workload", peers.source);
    address(out, "source_address", Some(peers.client.socket_addr()));
    address(out, "destination_address", Some(peers.destination.socket_addr()));
    if let Some(service) = peers.service {
        string(out, "destination_service", service.host.as_bytes());
    }
    address(out, "upstream_host", peers.endpoint.map(|e| e.socket_addr()));
    workload(out, "destination_workload", peers.destination_workload);
    if let Some([source, destination]) = peers.principals {
        string(out, "connection_security_policy", b"mutual_tls");
        string(out, "source_principal", source.as_bytes());
        string(out, "destination_principal", destination.as_bytes());
        if peers.hbone {
            string(out, "connection_transport", b"hbone");
        }
    }
}

fn outcome(out: &mut Vec<u8>, flag: &str, details: &str) {
    string(out, "response_flags", flag.as_bytes());
    string(out, "response_code_details", details.as_bytes());
}

fn volume(out: &mut Vec<u8>, received: u64, sent: u64, duration: std::time::Duration) {
    number(out, "bytes_received", received);
    number(out, "bytes_sent", sent);
    key(out, "duration");
    push_millis(out, duration);
}

fn workload(out: &mut Vec<u8>, name: &str, workload: Option<&Workload>) {
    let Some(workload) = workload else { return };
    key(out, name);
    out.push(b'"');
    push_json(out, workload.name.namespace.as_bytes());
    out.push(b'/');
    push_json(out, workload.name.name.as_bytes());
    out.push(b'"');
}

fn address(out: &mut Vec<u8>, name: &str, addr: Option<std::net::SocketAddr>) {
    let Some(addr) = addr else { return };
    key(out, name);
    out.push(b'"');
    push_addr(out, addr);
    out.push(b'"');
}

fn string(out: &mut Vec<u8>, name: &str, value: &[u8]) {
    if value.is_empty() {
        return;
    }
    key(out, name);
    out.push(b'"');
    push_json(out, value);
    out.push(b'"');
}

fn number(out: &mut Vec<u8>, name: &str, value: u64) {
    key(out, name);
    push_u64(out, value);
}

fn key(out: &mut Vec<u8>, name: &str) {
    out.extend_from_slice(b",\"");
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b"\":");
}

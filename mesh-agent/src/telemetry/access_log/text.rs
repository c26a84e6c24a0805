//! The text format. The first fields are Envoy's default format in Envoy's order, so that existing parsers work; what
//! Envoy doesn't know follows as `key=value`.

use super::clock::{push_millis, push_time, push_u64};
use super::entry::{ConnectionEntry, Peers, RequestEntry};
use super::escape::push_text;
use crate::model::Workload;

/// `[time] "METHOD PATH PROTOCOL" status flags bytes-in bytes-out ms upstream-ms "forwarded-for" "agent" "id"
/// "authority" "endpoint" key=value...`
pub(super) fn request(out: &mut Vec<u8>, e: &RequestEntry<'_>) {
    start(out, e.start);
    out.push(b'"');
    push_text(out, e.method);
    out.push(b' ');
    push_text(out, e.path);
    out.push(b' ');
    push_text(out, e.protocol.as_bytes());
    out.extend_from_slice(b"\" ");
    push_u64(out, u64::from(e.status));
    out.push(b' ');
    out.extend_from_slice(e.flag.label().as_bytes());
    bytes_and_time(out, e.bytes_received, e.bytes_sent, e.duration);
    out.push(b' ');
    match e.upstream_time {
        Some(time) => push_millis(out, time),
        None => out.push(b'-'),
    }
    // x-forwarded-for: a mesh hop adds none, and a client's own claim is not worth a field.
    out.extend_from_slice(b" \"-\"");
    for field in [e.user_agent, e.request_id, e.authority] {
        out.push(b' ');
        quoted(out, field);
    }
    endpoint(out, &e.peers);
    peers(out, &e.peers);
    if let Some(code) = e.grpc_status {
        out.extend_from_slice(b" grpc=");
        push_u64(out, u64::from(code));
    }
    if e.attempts > 1 {
        out.extend_from_slice(b" attempts=");
        push_u64(out, u64::from(e.attempts));
    }
    pair(out, " details=", e.details.as_bytes());
    pair(out, " trace=", e.trace_id);
    pair(out, " route=", e.route.as_bytes());
}

/// `[time] "- - tcp" 0 flags bytes-in bytes-out ms - "-" "-" "-" "server name" "endpoint" key=value...`: Envoy's form
/// of a TCP connection, but for the protocol, `tcp` or `tls`, where Envoy has a third dash.
pub(super) fn connection(out: &mut Vec<u8>, e: &ConnectionEntry<'_>) {
    start(out, e.start);
    out.extend_from_slice(b"\"- - ");
    push_text(out, e.protocol.as_bytes());
    out.extend_from_slice(b"\" 0 ");
    out.extend_from_slice(e.flag.label().as_bytes());
    bytes_and_time(out, e.bytes_received, e.bytes_sent, e.duration);
    out.extend_from_slice(b" - \"-\" \"-\" \"-\" ");
    quoted(out, e.server_name);
    endpoint(out, &e.peers);
    peers(out, &e.peers);
    pair(out, " details=", e.details.as_bytes());
    pair(out, " route=", e.route.as_bytes());
}

fn start(out: &mut Vec<u8>, time: std::time::SystemTime) {
    out.push(b'[');
    push_time(out, time);
    out.extend_from_slice(b"] ");
}

fn bytes_and_time(out: &mut Vec<u8>, received: u64, sent: u64, duration: std::time::Duration) {
    out.push(b' ');
    push_u64(out, received);
    out.push(b' ');
    push_u64(out, sent);
    out.push(b' ');
    push_millis(out, duration);
}

fn quoted(out: &mut Vec<u8>, value: &[u8]) {
    out.push(b'"');
    push_text(out, if value.is_empty() { b"-" } else { value });
    out.push(b'"');
}

fn endpoint(out: &mut Vec<u8>, peers: &Peers<'_>) {
    out.extend_from_slice(b" \"");
    match peers.endpoint {
        Some(endpoint) => push_addr(out, endpoint.socket_addr()),
        None => out.push(b'-'),
    }
    out.push(b'"');
}

fn peers(out: &mut Vec<u8>, peers: &Peers<'_>) {
    out.push(b' ');
    out.extend_from_slice(peers.reporter.direction().as_bytes());
    workload(out, " src=", peers.source);
    out.extend_from_slice(b" client=");
    push_addr(out, peers.client.socket_addr());
    out.extend_from_slice(b" dst=");
    push_addr(out, peers.destination.socket_addr());
    if let Some(service) = peers.service {
        pair(out, " service=", service.host.as_bytes());
    }
    workload(out, " workload=", peers.destination_workload);
    if let Some([source, destination]) = peers.principals {
        out.extend_from_slice(b" tls=mutual");
        pair(out, " from=", source.as_bytes());
        pair(out, " as=", destination.as_bytes());
        if peers.hbone {
            out.extend_from_slice(b" via=hbone");
        }
    }
}

fn workload(out: &mut Vec<u8>, key: &str, workload: Option<&Workload>) {
    let Some(workload) = workload else { return };
    out.extend_from_slice(key.as_bytes());
    push_text(out, workload.name.namespace.as_bytes());
    out.push(b'/');
    push_text(out, workload.name.name.as_bytes());
}

/// Nothing for an empty value; quotes only around what could be taken for two fields.
fn pair(out: &mut Vec<u8>, key: &str, value: &[u8]) {
    if value.is_empty() {
        return;
    }
    out.extend_from_slice(key.as_bytes());
    if value.iter().all(|b| b.is_ascii_graphic() && !matches!(b, b'"' | b'\\' | b'=')) {
        out.extend_from_slice(value);
    } else {
        quoted(out, value);
    }
}

/// Also used by the JSON format: an address needs no escapes.
pub(super) fn push_addr(out: &mut Vec<u8>, addr: std::net::SocketAddr) {
    use std::io::Write;
    match addr {
        std::net::SocketAddr::V4(v4) => {
            for (i, octet) in v4.ip().octets().into_iter().enumerate() {
                if i > 0 {
                    out.push(b'.');
                }
                push_u64(out, u64::from(octet));
            }
            out.push(b':');
            push_u64(out, u64::from(v4.port()));
        }
        // Writing to memory can't fail.
        std::net::SocketAddr::V6(v6) => drop(write!(out, "{v6}")),
    }
}

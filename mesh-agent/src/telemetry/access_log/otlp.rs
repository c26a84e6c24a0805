//! The form of OTLP: one log record an entry, its body the line of text, its attributes by OpenTelemetry's conventions.
//!
//! What those have no name for is called as in the JSON log, which is what Envoy calls it. Of `trace` are encoding and way out.

use std::cell::RefCell;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::entry::{ConnectionEntry, Peers, RequestEntry};
use super::text;
use crate::flags::Flag;
use crate::grpc::Code;
use crate::model::Workload;
use crate::telemetry::conventions;
use crate::trace::{Attributes, Pipeline, Record, SpanContext, encode_record};

thread_local! {
    /// The line, and the record that has it.
    static BUFFERS: RefCell<[Vec<u8>; 2]> = const { RefCell::new([Vec::new(), Vec::new()]) };
}

pub(super) fn request(pipeline: &Pipeline, e: &RequestEntry<'_>) {
    let about =
        About { start: e.start, duration: e.duration, failed: has_failed(e.flag, e.status), span: e.span };
    send(pipeline, &e.peers, &about, |line| text::request(line, e), |attributes| of_request(e, attributes));
}

pub(super) fn connection(pipeline: &Pipeline, e: &ConnectionEntry<'_>) {
    let about = About { start: e.start, duration: e.duration, failed: has_failed(e.flag, 0), span: e.span };
    send(
        pipeline,
        &e.peers,
        &about,
        |line| text::connection(line, e),
        |attributes| of_connection(e, attributes),
    );
}

/// What a record has beside body and attributes.
struct About {
    start: SystemTime,
    duration: Duration,
    failed: bool,
    span: Option<SpanContext>,
}

fn send(
    pipeline: &Pipeline,
    peers: &Peers<'_>,
    about: &About,
    body: impl FnOnce(&mut Vec<u8>),
    attributes: impl FnOnce(&mut Attributes<'_>),
) {
    BUFFERS.with_borrow_mut(|[line, out]| {
        line.clear();
        out.clear();
        body(line);
        let time_ns = nanos(about.start.duration_since(UNIX_EPOCH).unwrap_or_default());
        let observed_ns = time_ns.saturating_add(nanos(about.duration));
        let record = Record { time_ns, observed_ns, failed: about.failed, body: line, span: about.span };
        encode_record(out, &record, attributes);
        pipeline.push(peers.pod, out);
    });
}

/// The same that sampling takes for a failure.
fn has_failed(flag: Flag, status: u16) -> bool {
    flag != Flag::None || status >= 500
}

fn of_request(e: &RequestEntry<'_>, attributes: &mut Attributes<'_>) {
    conventions::method(e.method, attributes);
    let query = e.path.iter().position(|byte| *byte == b'?');
    attributes.text("url.path", &e.path[..query.unwrap_or(e.path.len())]);
    attributes.text("url.query", query.map_or(&b""[..], |at| &e.path[at + 1..]));
    if e.status != 0 {
        attributes.number("http.response.status_code", e.status.into());
    }
    if e.grpc {
        attributes.text("rpc.system.name", "grpc");
    }
    if let Some(status) = e.grpc_status {
        attributes.text("rpc.response.status_code", Code(status.into()).name());
    }
    attributes.text("network.protocol.name", "http");
    attributes.text("network.protocol.version", e.protocol.strip_prefix("HTTP/").unwrap_or_default());
    attributes.text("user_agent.original", e.user_agent);
    attributes.list("http.request.header.x-request-id", e.request_id);
    attributes.number("http.request.body.size", e.bytes_received);
    attributes.number("http.response.body.size", e.bytes_sent);
    conventions::server(conventions::without_user(e.authority), &e.peers, attributes);
    if let Some(time) = e.upstream_time {
        attributes.number("upstream_service_time", millis(time));
    }
    if e.attempts > 1 {
        attributes.number("upstream_request_attempt_count", e.attempts.into());
    }
    ended(e.flag, e.details, e.duration, e.route, attributes);
    ends(&e.peers, attributes);
}

fn of_connection(e: &ConnectionEntry<'_>, attributes: &mut Attributes<'_>) {
    attributes.text("network.transport", "tcp");
    attributes.text("network.protocol.name", if e.protocol == "tcp" { "" } else { e.protocol });
    attributes.text("tls.client.server_name", e.server_name);
    conventions::server(b"", &e.peers, attributes);
    attributes.number("bytes_received", e.bytes_received);
    attributes.number("bytes_sent", e.bytes_sent);
    ended(e.flag, e.details, e.duration, e.route, attributes);
    ends(&e.peers, attributes);
}

fn ended(flag: Flag, details: &str, duration: Duration, route: &str, attributes: &mut Attributes<'_>) {
    attributes.text("response_flags", flag.label());
    attributes.text("response_code_details", details);
    attributes.number("duration", millis(duration));
    attributes.text("route_name", route);
}

fn ends(peers: &Peers<'_>, attributes: &mut Attributes<'_>) {
    attributes.text("reporter", peers.reporter.label());
    attributes.address("client.address", peers.client.ip());
    attributes.number("client.port", peers.client.port().into());
    workload("source_workload", peers.source, attributes);
    attributes.text("destination_address", peers.destination.to_string());
    attributes.text("destination_service", peers.service.map_or("", |service| &*service.host));
    attributes.text("upstream_host", peers.endpoint.map(|to| to.to_string()).unwrap_or_default());
    workload("destination_workload", peers.destination_workload, attributes);
    if let Some([source, destination]) = peers.principals {
        attributes.text("connection_security_policy", "mutual_tls");
        attributes.text("source_principal", source);
        attributes.text("destination_principal", destination);
        attributes.text("connection_transport", if peers.hbone { "hbone" } else { "" });
    }
}

fn workload(key: &str, workload: Option<&Workload>, attributes: &mut Attributes<'_>) {
    if let Some(workload) = workload {
        attributes.text(key, workload.name.to_string());
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;

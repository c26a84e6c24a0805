//! A template filled in. A value that isn't there is `-`, as Envoy writes it; operators of requests have none in the line
//! of a connection.

use std::net::SocketAddr;
use std::sync::LazyLock;

use http::{HeaderMap, HeaderName};

use super::{Field, GrpcForm, Header, Part, Plain, Template};
use crate::model::Workload;
use crate::telemetry::Reporter;
use crate::telemetry::access_log::clock::{push_millis, push_u64};
use crate::telemetry::access_log::entry::{ConnectionEntry, Peers, RequestEntry};
use crate::telemetry::access_log::escape::{push_json, push_text};
use crate::telemetry::access_log::text::push_addr;
use crate::telemetry::grpc_code;

/// This machine's name, or the pod's.
static HOST: LazyLock<String> = LazyLock::new(|| {
    nix::unistd::gethostname().ok().and_then(|name| name.into_string().ok()).unwrap_or_default()
});

/// One of both.
#[derive(Clone, Copy)]
enum Entry<'a> {
    Request(&'a RequestEntry<'a>),
    Connection(&'a ConnectionEntry<'a>),
}

pub(in crate::telemetry::access_log) fn request(
    out: &mut Vec<u8>,
    template: &Template,
    entry: &RequestEntry<'_>,
) {
    fill(out, template, Entry::Request(entry));
}

pub(in crate::telemetry::access_log) fn connection(
    out: &mut Vec<u8>,
    template: &Template,
    entry: &ConnectionEntry<'_>,
) {
    fill(out, template, Entry::Connection(entry));
}

fn fill(out: &mut Vec<u8>, template: &Template, entry: Entry<'_>) {
    for part in &template.parts {
        match part {
            Part::Text(text) => out.extend_from_slice(text.as_bytes()),
            Part::Field(field, most) => {
                let start = out.len();
                push(out, field, entry);
                if let Some(most) = most {
                    shorten(out, start, *most);
                }
                if out.len() == start {
                    out.push(b'-');
                }
                escape(out, start, template.is_json);
            }
        }
    }
}

/// Leaves the first `most` characters behind `start`.
fn shorten(out: &mut Vec<u8>, start: usize, most: usize) {
    let value = out.get(start..).unwrap_or_default();
    let end = match std::str::from_utf8(value) {
        Ok(text) => text.char_indices().nth(most).map(|(at, _)| at),
        Err(_) => Some(most.min(value.len())),
    };
    if let Some(end) = end {
        out.truncate(start + end);
    }
}

/// Nothing behind `start` can end the field or the line.
fn escape(out: &mut Vec<u8>, start: usize, is_json: bool) {
    let harmless = |b: &u8| matches!(b, 0x20..=0x7e) && !matches!(b, b'"' | b'\\');
    if out.get(start..).is_none_or(|value| value.iter().all(harmless)) {
        return;
    }
    let value = out.split_off(start);
    if is_json { push_json(out, &value) } else { push_text(out, &value) }
}

fn push(out: &mut Vec<u8>, field: &Field, entry: Entry<'_>) {
    match (field, entry) {
        (Field::StartTime(format), Entry::Request(e)) => format.push(out, e.start),
        (Field::StartTime(format), Entry::Connection(e)) => format.push(out, e.start),
        (Field::Request(one, other), Entry::Request(e)) => {
            out.extend_from_slice(request_header(e, one, other.as_ref()));
        }
        (Field::RequestWithoutQuery(one, other), Entry::Request(e)) => {
            let value = request_header(e, one, other.as_ref());
            out.extend(value.iter().take_while(|b| **b != b'?'));
        }
        (Field::Response(one, other), Entry::Request(e)) => {
            let kept = e.kept.map(|kept| &kept.response);
            let value = |name: &HeaderName| {
                if name.as_str() == "x-envoy-upstream-service-time" { None } else { named(kept, name) }
            };
            match (value(one).or_else(|| other.as_ref().and_then(value)), e.upstream_time) {
                (Some(value), _) => out.extend_from_slice(value),
                // Envoy puts it into a header; the agent adds none, and knows.
                (None, Some(time)) if one.as_str() == "x-envoy-upstream-service-time" => {
                    push_millis(out, time)
                }
                (None, _) => {}
            }
        }
        (Field::Grpc(form), Entry::Request(e)) => match (e.grpc_status, form) {
            (Some(code), GrpcForm::Number) => push_u64(out, u64::from(code)),
            (Some(code), GrpcForm::Camel) => out.extend_from_slice(grpc_code::camel(code).as_bytes()),
            (Some(code), GrpcForm::Snake) => out.extend_from_slice(grpc_code::snake(code).as_bytes()),
            (None, _) => {}
        },
        (Field::Plain(plain), Entry::Request(e)) => of_request(out, *plain, e),
        (Field::Plain(plain), Entry::Connection(e)) => of_connection(out, *plain, e),
        (_, Entry::Connection(_)) => {}
    }
}

fn request_header<'a>(e: &'a RequestEntry<'_>, one: &Header, other: Option<&Header>) -> &'a [u8] {
    let kept = e.kept.map(|kept| &kept.request);
    let value = |header: &Header| match header {
        Header::Method => Some(e.method),
        Header::Path => Some(e.path),
        Header::Authority => Some(e.authority),
        Header::Named(name) => named(kept, name),
    };
    let value = |header| value(header).filter(|value| !value.is_empty());
    value(one).or_else(|| other.and_then(value)).unwrap_or_default()
}

fn named<'a>(headers: Option<&'a HeaderMap>, name: &HeaderName) -> Option<&'a [u8]> {
    headers?.get(name).map(http::HeaderValue::as_bytes)
}

fn of_request(out: &mut Vec<u8>, plain: Plain, e: &RequestEntry<'_>) {
    match plain {
        Plain::BytesReceived => push_u64(out, e.bytes_received),
        Plain::BytesSent => push_u64(out, e.bytes_sent),
        Plain::Duration => push_millis(out, e.duration),
        Plain::GrpcStatusNumber => e.grpc_status.into_iter().for_each(|code| push_u64(out, code.into())),
        Plain::Protocol => out.extend_from_slice(e.protocol.as_bytes()),
        Plain::ResponseCode => push_u64(out, u64::from(e.status)),
        Plain::ResponseCodeDetails => out.extend_from_slice(e.details.as_bytes()),
        Plain::ResponseFlags => out.extend_from_slice(e.flag.label().as_bytes()),
        Plain::RouteName => out.extend_from_slice(e.route.as_bytes()),
        Plain::TraceId => out.extend_from_slice(e.trace_id),
        Plain::UpstreamAttempts => push_u64(out, u64::from(e.attempts)),
        Plain::ConnectionTerminationDetails | Plain::RequestedServerName => {}
        _ => of_peers(out, plain, &e.peers),
    }
}

fn of_connection(out: &mut Vec<u8>, plain: Plain, e: &ConnectionEntry<'_>) {
    match plain {
        Plain::BytesReceived => push_u64(out, e.bytes_received),
        Plain::BytesSent => push_u64(out, e.bytes_sent),
        Plain::ConnectionTerminationDetails => out.extend_from_slice(e.details.as_bytes()),
        Plain::Duration => push_millis(out, e.duration),
        Plain::RequestedServerName => out.extend_from_slice(e.server_name),
        Plain::ResponseFlags => out.extend_from_slice(e.flag.label().as_bytes()),
        Plain::RouteName => out.extend_from_slice(e.route.as_bytes()),
        Plain::GrpcStatusNumber
        | Plain::Protocol
        | Plain::ResponseCode
        | Plain::ResponseCodeDetails
        | Plain::TraceId
        | Plain::UpstreamAttempts => {}
        _ => of_peers(out, plain, &e.peers),
    }
}

fn of_peers(out: &mut Vec<u8>, plain: Plain, peers: &Peers<'_>) {
    let (client, dialled) = (peers.client.socket_addr(), peers.destination.socket_addr());
    let endpoint = peers.endpoint.map(|endpoint| endpoint.socket_addr());
    match plain {
        Plain::DownstreamRemote | Plain::DownstreamDirectRemote => push_addr(out, client),
        Plain::DownstreamRemoteIp | Plain::DownstreamDirectRemoteIp => push_ip(out, client),
        Plain::DownstreamRemotePort | Plain::DownstreamDirectRemotePort => {
            push_u64(out, client.port().into())
        }
        Plain::DownstreamLocal => push_addr(out, dialled),
        Plain::DownstreamLocalIp => push_ip(out, dialled),
        Plain::DownstreamLocalPort => push_u64(out, dialled.port().into()),
        Plain::UpstreamHost | Plain::UpstreamRemote => endpoint.into_iter().for_each(|at| push_addr(out, at)),
        Plain::UpstreamRemoteIp => endpoint.into_iter().for_each(|at| push_ip(out, at)),
        Plain::UpstreamRemotePort => endpoint.into_iter().for_each(|at| push_u64(out, at.port().into())),
        Plain::UpstreamCluster => cluster(out, peers),
        Plain::DownstreamPeerUriSan => principal(out, peers, Reporter::Destination, 0),
        Plain::DownstreamLocalUriSan => principal(out, peers, Reporter::Destination, 1),
        Plain::UpstreamLocalUriSan => principal(out, peers, Reporter::Source, 0),
        Plain::UpstreamPeerUriSan => principal(out, peers, Reporter::Source, 1),
        Plain::Hostname => out.extend_from_slice(HOST.as_bytes()),
        Plain::MeshReporter => out.extend_from_slice(peers.reporter.label().as_bytes()),
        Plain::MeshService => {
            peers.service.into_iter().for_each(|service| out.extend_from_slice(service.host.as_bytes()));
        }
        Plain::MeshSourcePod => pod(out, peers.source),
        Plain::MeshDestinationPod => pod(out, peers.destination_workload),
        _ => {}
    }
}

/// Istio's name of it: `outbound|80||cart.shop.svc.cluster.local`, `inbound|8080||`, `PassthroughCluster`.
fn cluster(out: &mut Vec<u8>, peers: &Peers<'_>) {
    let port = u64::from(peers.destination.port());
    match (peers.reporter, peers.service) {
        (Reporter::Source, Some(service)) => {
            out.extend_from_slice(b"outbound|");
            push_u64(out, port);
            out.extend_from_slice(b"||");
            out.extend_from_slice(service.host.as_bytes());
        }
        (Reporter::Source, None) => out.extend_from_slice(b"PassthroughCluster"),
        (Reporter::Destination, _) => {
            out.extend_from_slice(b"inbound|");
            push_u64(out, port);
            out.extend_from_slice(b"||");
        }
    }
}

/// The mesh's mutual TLS is the upstream's at the source, and the downstream's at the destination.
fn principal(out: &mut Vec<u8>, peers: &Peers<'_>, at: Reporter, which: usize) {
    if let Some(id) =
        peers.principals.as_ref().filter(|_| peers.reporter == at).and_then(|both| both.get(which))
    {
        out.extend_from_slice(id.as_bytes());
    }
}

fn pod(out: &mut Vec<u8>, pod: Option<&Workload>) {
    let Some(pod) = pod else { return };
    out.extend_from_slice(pod.name.namespace.as_bytes());
    out.push(b'/');
    out.extend_from_slice(pod.name.name.as_bytes());
}

fn push_ip(out: &mut Vec<u8>, addr: SocketAddr) {
    out.extend_from_slice(addr.ip().to_string().as_bytes());
}

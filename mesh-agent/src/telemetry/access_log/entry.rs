//! What one line tells. Bytes that came off the wire stay bytes; the formats escape them.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use crate::addr::{ClientAddr, EndpointAddr, OrigDst};
use crate::flags::Flag;
use crate::model::{ServiceMeta, Workload};
use crate::telemetry::{Kept, Reporter};
use crate::trace::SpanContext;

/// Who talks to whom; the same for requests and connections.
#[derive(Clone, Copy, Debug)]
pub struct Peers<'a> {
    /// Whose view.
    pub pod: &'a Arc<Workload>,
    /// Which side that is.
    pub reporter: Reporter,
    /// The client, if it is a known pod.
    pub source: Option<&'a Workload>,
    /// The client's address.
    pub client: ClientAddr,
    /// What the client dialled.
    pub destination: OrigDst,
    /// The service that this stands for.
    pub service: Option<&'a ServiceMeta>,
    /// Where it was sent, if it came so far.
    pub endpoint: Option<EndpointAddr>,
    /// The server, if it is a known pod.
    pub destination_workload: Option<&'a Workload>,
    /// SPIFFE ids of client and server, where mutual TLS of the mesh proved both.
    pub principals: Option<[&'a str; 2]>,
    /// That was HBONE.
    pub hbone: bool,
}

/// One request. Secrets are gone from what it has of target and headers.
#[derive(Clone, Copy, Debug)]
pub struct RequestEntry<'a> {
    /// When its first byte came.
    pub start: SystemTime,
    /// Who and where to.
    pub peers: Peers<'a>,
    /// Request method.
    pub method: &'a [u8],
    /// Request target as sent, query included (as Envoy logs it).
    pub path: &'a [u8],
    /// `HTTP/1.1`, `HTTP/2`, ...
    pub protocol: &'static str,
    /// Status sent to the client; 0 for none.
    pub status: u16,
    /// `grpc-status`, for gRPC.
    pub grpc_status: Option<u16>,
    /// How it ended.
    pub flag: Flag,
    /// Why, in a word of ours (`connect_failed`); empty for nothing to say.
    pub details: &'a str,
    /// Body bytes from the client.
    pub bytes_received: u64,
    /// Body bytes to the client.
    pub bytes_sent: u64,
    /// First byte of the request to last of the response.
    pub duration: Duration,
    /// From the request's being sent to the response's head.
    pub upstream_time: Option<Duration>,
    /// How often it was sent: the first try, retries and hedges; 0 for never.
    pub attempts: u32,
    /// `x-request-id`.
    pub request_id: &'a [u8],
    /// Trace id of `traceparent`.
    pub trace_id: &'a [u8],
    /// `user-agent`.
    pub user_agent: &'a [u8],
    /// `Host` or `:authority`.
    pub authority: &'a [u8],
    /// The route that matched; empty for none.
    pub route: &'a str,
    /// It is a gRPC call.
    pub grpc: bool,
    /// The span that tells of it, if it is part of a trace that the agent knows, recorded or not.
    pub span: Option<SpanContext>,
    /// Headers that somebody wants to see; none for most.
    pub kept: Option<&'a Kept>,
}

/// One opaque connection.
#[derive(Clone, Copy, Debug)]
pub struct ConnectionEntry<'a> {
    /// When it was accepted.
    pub start: SystemTime,
    /// Who and where to.
    pub peers: Peers<'a>,
    /// `tcp` or `tls`.
    pub protocol: &'static str,
    /// Server name of the ClientHello; empty for none.
    pub server_name: &'a [u8],
    /// How it ended.
    pub flag: Flag,
    /// Why, in a word of ours.
    pub details: &'a str,
    /// Bytes from the client.
    pub bytes_received: u64,
    /// Bytes to the client.
    pub bytes_sent: u64,
    /// How long it was open.
    pub duration: Duration,
    /// The rule of a TCPRoute or TLSRoute that matched; empty for none.
    pub route: &'a str,
    /// The span that tells of it, as of a request.
    pub span: Option<SpanContext>,
}

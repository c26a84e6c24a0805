//! What is in the spans of a request or connection, by OpenTelemetry's semantic conventions for HTTP, RPC and network.
//!
//! Comes last on a request's way: `exchange` and `tcp` hand over what they tell the access log. The client's agent makes a client span,
//! the server's a server span, one that is both makes both. No header but those of the log gets here, and no query's values.

mod describe;
#[cfg(test)]
mod tests;

use std::borrow::Cow;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use http::{HeaderMap, HeaderValue, Uri};

use self::describe::Request;
use super::context::{Connection, Direction};
use super::error::{ErrorKind, Side};
use super::upstream::Upstream;
use crate::addr::EndpointAddr;
use crate::clock;
use crate::model::Workload;
use crate::telemetry::{ConnectionEntry, Peers, RequestEntry};
use crate::trace::{
    Attributes, Events, Kind, Notes, Span, SpanContext, SpanId, TRACEPARENT, TRACESTATE, Traced, Tracer, What,
};

/// How a request or connection ended.
pub(super) struct Ended<'e> {
    /// Its part in a trace.
    pub(super) trace: &'e Traced,
    /// On the process's clock.
    pub(super) started_ns: u64,
    /// What went wrong, if anything did.
    pub(super) error: Option<ErrorKind>,
    /// It was answered with a failure of the server's.
    pub(super) failed: bool,
    /// The request's client speaks gRPC.
    pub(super) is_grpc: bool,
    /// Where it was sent.
    pub(super) upstream: Option<&'e Rc<Upstream>>,
}

impl Ended<'_> {
    /// True if it counts as an error where those are kept: the client's own doing doesn't.
    pub(super) fn has_failed(&self) -> bool {
        self.failed || self.error.is_some_and(|error| error.side() != Side::Downstream)
    }
}

impl Connection {
    /// Begins a request's part in a trace, and has its head say so; None where tracing is off.
    pub(super) fn trace_request(&self, headers: &mut HeaderMap) -> Option<Traced> {
        let tracer = self.pod.worker.telemetry.tracer.as_ref()?;
        Some(tracer.begin(headers, self.service.as_ref().and_then(|service| service.trace_sampling)))
    }

    /// The connection's own part in a trace, for one that carries bytes.
    pub(super) fn trace(&self) -> Option<&Traced> {
        self.pod.worker.telemetry.tracer.as_ref()?;
        if self.trace.get().is_none() {
            self.continue_trace(&HeaderMap::new());
        }
        self.trace.get().map(|trace| &**trace)
    }

    /// Takes up the trace that another agent's CONNECT names.
    pub(super) fn continue_trace(&self, said: &HeaderMap) {
        let mut headers = HeaderMap::new();
        if self.pod.worker.telemetry.tracer.is_some() {
            for name in [TRACEPARENT, TRACESTATE] {
                said.get(&name).cloned().map(|value| headers.insert(name, value));
            }
        }
        if let Some(trace) = self.trace_request(&mut headers) {
            let _ = self.trace.set(Box::new(trace));
        }
    }

    /// Notes that another endpoint is connected to, after the last of `tried`.
    pub(super) fn goes_elsewhere(&self, tried: &[EndpointAddr], why: ErrorKind) {
        if let Some(trace) = self.trace() {
            let attempt = u32::try_from(tried.len() + 1).unwrap_or(u32::MAX);
            let what = What::Retry { attempt, why: why.label(), before: tried.last().copied() };
            trace.note(clock::now_ns(), what);
        }
    }

    /// What the agent of the endpoint is told of it.
    pub(super) fn trace_header(&self) -> Option<HeaderValue> {
        self.trace().and_then(Traced::traceparent)
    }
}

/// A pod's view of it.
struct View {
    pod: Arc<Workload>,
    kind: Kind,
    id: SpanId,
    parent: Option<SpanId>,
    parent_is_remote: bool,
}

/// Whose spans there are. What goes on carries one id: that of the last span before whoever gets it.
fn views(conn: &Connection, trace: &Traced, upstream: Option<&Rc<Upstream>>) -> impl Iterator<Item = View> {
    let own = conn.pod.workload();
    let remote = trace.parent.is_some();
    let view = |pod, kind, id, parent, parent_is_remote| View { pod, kind, id, parent, parent_is_remote };
    let views = match (conn.direction, far(upstream).cloned()) {
        (Direction::Inbound, _) => [Some(view(own, Kind::Server, trace.span, trace.parent, remote)), None],
        (Direction::Outbound, None) => {
            [Some(view(own, Kind::Client, trace.span, trace.parent, remote)), None]
        }
        (Direction::Outbound, Some(far)) => {
            let first = first(trace);
            [
                Some(view(own, Kind::Client, first, trace.parent, remote)),
                Some(view(far, Kind::Server, trace.span, Some(first), false)),
            ]
        }
    };
    views.into_iter().flatten()
}

/// The server's pod, if this agent's inbound side is passed over for it: one agent tells both sides then.
fn far(upstream: Option<&Rc<Upstream>>) -> Option<&Arc<Workload>> {
    let far = upstream.filter(|upstream| upstream.edges.destination.is_some());
    far.and_then(|upstream| upstream.endpoint.workload.as_ref())
}

/// Of two spans the one above.
fn first(trace: &Traced) -> SpanId {
    trace.span.sibling()
}

/// The span of the connection's own pod, for what else tells of the request.
pub(super) fn context(conn: &Connection, trace: &Traced, upstream: Option<&Rc<Upstream>>) -> SpanContext {
    let both = conn.direction == Direction::Outbound && far(upstream).is_some();
    let span = if both { first(trace) } else { trace.span };
    SpanContext { trace: trace.trace, span, flags: trace.flags() }
}

/// Exports a request's spans.
pub(super) fn request(
    tracer: &Tracer,
    conn: &Connection,
    ended: &Ended<'_>,
    entry: &RequestEntry<'_>,
    uri: &Uri,
) {
    let request = Request::of(ended, entry, uri);
    let times = Times::of(ended, entry.start, entry.duration);
    let name = request.name();
    let told = |view: &View, attributes: &mut Attributes<'_>| request.describe(view.kind, attributes);
    let failed = |kind| request.is_failure(kind);
    export(tracer, conn, ended, &times, &name, (failed, told), entry.details);
}

/// A connection that is over, if it is recorded.
pub(super) fn of_connection<'c>(
    conn: &'c Connection,
    error: Option<ErrorKind>,
    upstream: Option<&'c Rc<Upstream>>,
) -> Option<(&'c Tracer, Ended<'c>)> {
    let tracer = conn.pod.worker.telemetry.tracer.as_ref()?;
    let open = conn.started.elapsed().unwrap_or_default();
    let started_ns = clock::now_ns().saturating_sub(nanos(open));
    let ended = Ended { trace: conn.trace()?, started_ns, error, failed: false, is_grpc: false, upstream };
    // How long a connection is open says nothing of how fast it is.
    tracer.takes(ended.trace, ended.has_failed(), Duration::ZERO).then_some((tracer, ended))
}

/// Exports a connection's spans.
pub(super) fn connection(tracer: &Tracer, conn: &Connection, ended: &Ended<'_>, entry: &ConnectionEntry<'_>) {
    let times = Times::of(ended, entry.start, entry.duration);
    let name = match entry.peers.service {
        Some(service) => Cow::Owned(format!("{} {}", entry.protocol, service.host)),
        None => Cow::Borrowed(entry.protocol),
    };
    let told = |view: &View, attributes: &mut Attributes<'_>| {
        describe::connection(entry, ended.error, view.kind, attributes);
    };
    export(tracer, conn, ended, &times, name.as_bytes(), (|_| ended.error.is_some(), told), entry.details);
}

/// When it was, in Unix time of nanoseconds.
struct Times {
    start_ns: u64,
    end_ns: u64,
    /// To add to the process's clock.
    shift_ns: u64,
}

impl Times {
    fn of(ended: &Ended<'_>, start: SystemTime, duration: Duration) -> Self {
        let start_ns = start.duration_since(UNIX_EPOCH).map(nanos).unwrap_or_default();
        let end_ns = start_ns.saturating_add(nanos(duration));
        Self { start_ns, end_ns, shift_ns: start_ns.wrapping_sub(ended.started_ns) }
    }
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

fn export(
    tracer: &Tracer,
    conn: &Connection,
    ended: &Ended<'_>,
    times: &Times,
    name: &[u8],
    (failed, told): (impl Fn(Kind) -> bool, impl Fn(&View, &mut Attributes<'_>)),
    details: &str,
) {
    let (trace, notes) = (ended.trace, ended.trace.take_notes());
    for view in views(conn, trace, ended.upstream) {
        let span = Span {
            trace: trace.trace,
            id: view.id,
            parent: view.parent,
            parent_is_remote: view.parent_is_remote,
            flags: trace.flags(),
            state: notes.state.as_ref().map(HeaderValue::as_bytes).unwrap_or_default(),
            name,
            kind: view.kind,
            start_ns: times.start_ns,
            end_ns: times.end_ns,
            failed: failed(view.kind),
        };
        let happened = |events: &mut Events<'_>| {
            // The server's agent tries nothing twice, and what it has noted is the client's side of it.
            if view.kind == Kind::Client || conn.direction == Direction::Inbound {
                noted(&notes, times.shift_ns, events);
            }
            decided(ended.error, details, times.end_ns, events);
        };
        tracer.add(&view.pod, &span, |attributes| told(&view, attributes), happened);
    }
}

/// What happened on the way.
fn noted(notes: &Notes, shift_ns: u64, events: &mut Events<'_>) {
    for event in &notes.events {
        let at_ns = event.at_ns.wrapping_add(shift_ns);
        match &event.what {
            What::Retry { attempt, why, before } => events.add(at_ns, "retry", |attributes| {
                attributes.number("mesh_agent.attempt", (*attempt).into());
                attributes.text("mesh_agent.reason", why);
                if let Some(before) = before {
                    attributes.text("mesh_agent.endpoint", before.to_string());
                }
            }),
            What::Hedge { attempt } => events.add(at_ns, "hedge", |attributes| {
                attributes.number("mesh_agent.attempt", (*attempt).into());
            }),
            What::Fallback { why } => {
                events.add(at_ns, "fallback", |attributes| attributes.text("mesh_agent.reason", why));
            }
            What::Ejection { endpoint, why } => events.add(at_ns, "ejection", |attributes| {
                attributes.text("mesh_agent.reason", why);
                attributes.text("mesh_agent.endpoint", endpoint.to_string());
            }),
            What::Delay => {
                events.add(at_ns, "fault", |attributes| attributes.text("mesh_agent.reason", "fault_delay"));
            }
        }
    }
}

/// What a limit, a fault or a policy has decided, which is what it ended by.
fn decided(error: Option<ErrorKind>, details: &str, at_ns: u64, events: &mut Events<'_>) {
    let Some(error) = error else { return };
    let name = match error {
        ErrorKind::RateLimited
        | ErrorKind::Overflow
        | ErrorKind::CircuitOpen
        | ErrorKind::ConcurrencyLimit
        | ErrorKind::TooManyConnections => "limit",
        ErrorKind::FaultInjected => "fault",
        ErrorKind::Denied
        | ErrorKind::Unauthenticated(_)
        | ErrorKind::ExternallyDenied
        | ErrorKind::AuthorizationUnavailable
        | ErrorKind::PlainTextRefused
        | ErrorKind::MutualTlsRefused
        | ErrorKind::TunnelDenied
        | ErrorKind::UnknownDestination => "policy",
        _ => return,
    };
    events.add(at_ns, name, |attributes| {
        attributes.text("mesh_agent.reason", error.label());
        if details != error.label() {
            attributes.text("mesh_agent.details", details);
        }
    });
}

/// Both principals, where mutual TLS proved them, and how the request was carried.
fn mesh(peers: &Peers<'_>, attributes: &mut Attributes<'_>) {
    if let Some([source, destination]) = peers.principals {
        attributes.text("mesh_agent.source.principal", source);
        attributes.text("mesh_agent.destination.principal", destination);
    }
    if let Some(service) = peers.service {
        attributes.text("mesh_agent.destination.service", &service.host);
    }
}

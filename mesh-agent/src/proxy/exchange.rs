//! One request's account: begun with its head, filled in on the way, reported once when it is dropped.
//!
//! Reporting is metrics of every reporter that this agent is, then access log and flows. A request whose task is cancelled
//! is reported too: dropping is enough.

use std::borrow::Cow;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use http::header::{HOST, HeaderValue, USER_AGENT};
use http::{HeaderMap, Method, StatusCode, Uri, Version, request};

use super::answer::LocalAnswer;
use super::backend::Picked;
use super::context::Connection;
use super::error::{ErrorKind, Side};
use super::gate::{Ending, Held};
use super::headers;
use super::retry::NoRetry;
use super::spans;
use super::upstream::Upstream;
use crate::balance::outlier::{self, Outcome};
use crate::clock;
use crate::flags::Flag;
use crate::route::Rule;
use crate::telemetry::{Kept, Protocol, RequestEntry, RequestReport, redact};
use crate::trace::{Traced, What};

/// One HTTP request on its way.
pub struct Exchange<'c> {
    conn: &'c Connection,
    /// Bytes of the request's body so far.
    pub request_bytes: u64,
    /// Bytes of the response's body so far.
    pub response_bytes: u64,
    /// gRPC messages of the request so far.
    pub request_messages: u64,
    /// gRPC messages of the response so far.
    pub response_messages: u64,
    started_ns: u64,
    /// When it was sent to the endpoint that it is at now.
    sent_ns: u64,
    /// Tries so far, hedges included.
    attempts: u32,
    upstream_ns: Option<u64>,
    upstream: Option<Rc<Upstream>>,
    about: About,
    status: Option<StatusCode>,
    grpc_status: Option<u16>,
    error: Option<ErrorKind>,
    details: Option<Arc<str>>,
    rule: Option<Arc<Rule>>,
    not_retried: Option<NoRetry>,
    /// A fault made it wait.
    delayed: bool,
    held: Option<Box<Held>>,
    /// Headers that somebody wants to see.
    kept: Option<Box<Kept>>,
    /// Its part in a trace; None where tracing is off.
    trace: Option<Traced>,
}

/// What the access log says of the request; cheap clones of the head's own bytes.
struct About {
    method: Method,
    uri: Uri,
    version: Version,
    authority: Option<HeaderValue>,
    user_agent: Option<HeaderValue>,
    request_id: Option<HeaderValue>,
    traceparent: Option<HeaderValue>,
    grpc: bool,
}

impl<'c> Exchange<'c> {
    /// Starts the clock and sees to the request id and, where requests are traced, to what of the trace goes on.
    pub fn begin(conn: &'c Connection, head: &mut request::Parts) -> Self {
        headers::ensure_request_id(&mut head.headers);
        conn.live.request();
        conn.pod.worker.telemetry.metrics.agent().requests_active.inc();
        let field = |name| head.headers.get(name).cloned();
        let about = About {
            method: head.method.clone(),
            uri: head.uri.clone(),
            version: head.version,
            authority: field(HOST),
            user_agent: field(USER_AGENT),
            request_id: field(headers::X_REQUEST_ID),
            traceparent: field(headers::TRACEPARENT),
            grpc: headers::is_grpc(&head.headers),
        };
        let trace = conn.trace_request(&mut head.headers);
        let started_ns = clock::now_ns();
        Self {
            conn,
            request_bytes: 0,
            response_bytes: 0,
            request_messages: 0,
            response_messages: 0,
            started_ns,
            sent_ns: started_ns,
            attempts: 0,
            upstream_ns: None,
            upstream: None,
            about,
            status: None,
            grpc_status: None,
            error: None,
            details: None,
            rule: None,
            not_retried: None,
            delayed: false,
            held: None,
            kept: conn.pod.worker.telemetry.keep_headers(&head.headers),
            trace,
        }
    }

    /// For what isn't a request, or was refused before it could be read: `-` where nothing is known.
    pub fn unreadable(conn: &'c Connection, version: Version) -> Self {
        let (mut parts, ()) = http::Request::new(()).into_parts();
        parts.method = Method::from_bytes(b"-").unwrap_or_default();
        parts.version = version;
        Self::begin(conn, &mut parts)
    }

    /// The client's connection.
    pub fn connection(&self) -> &'c Connection {
        self.conn
    }

    /// True if the client speaks gRPC, so that answers of our own must too.
    pub fn is_grpc(&self) -> bool {
        self.about.grpc
    }

    /// True if the response has no body whatever its head says.
    pub fn is_head(&self) -> bool {
        self.about.method == Method::HEAD
    }

    /// True once the client was sent a final response head.
    pub fn is_answered(&self) -> bool {
        self.status.is_some()
    }

    /// Notes the rule that it goes by.
    pub fn route(&mut self, rule: &Arc<Rule>) {
        self.rule = Some(rule.clone());
    }

    /// Notes where the request is sent. A later call, after a failed try, replaces the earlier.
    pub fn sent_to(&mut self, picked: &Picked) {
        self.attempts += 1;
        self.conn.goes_to(&picked.upstream);
        if let Some(before) = self.upstream.replace(picked.upstream.clone()) {
            // An endpoint isn't charged for the time that another one took to fail.
            self.sent_ns = clock::now_ns();
            // Of a connection that was closed while it lay idle nobody is told but the metrics.
            let why = picked.after.unwrap_or_else(|| ErrorKind::UpstreamClosed.label());
            let (attempt, before) = (self.attempts, Some(before.endpoint.addr));
            self.note(|| What::Retry { attempt, why, before });
        }
    }

    /// Notes where the request would have gone, had it been let in there: both sides report it.
    pub fn refused_at(&mut self, upstream: Option<Rc<Upstream>>) {
        self.upstream = upstream.or(self.upstream.take());
    }

    /// Notes that the request was sent somewhere else as well.
    pub fn hedged(&mut self) {
        self.attempts += 1;
        let attempt = self.attempts;
        self.note(|| What::Hedge { attempt });
    }

    /// Notes that the answer of a hedge is the one that counts; it was sent at `sent_ns`.
    pub fn won(&mut self, picked: &Picked, sent_ns: u64) {
        self.conn.goes_to(&picked.upstream);
        self.upstream = Some(picked.upstream.clone());
        self.sent_ns = sent_ns;
    }

    /// Notes that another service answers, since the one that it was meant for failed.
    pub fn fell_back(&mut self, why: ErrorKind) {
        self.note(|| What::Fallback { why: why.label() });
        self.settle_held(Self::ending_by(why));
    }

    /// Notes that the request had to wait and is sent only now: no endpoint is charged for that time.
    pub fn sent_after_waiting(&mut self) {
        self.sent_ns = clock::now_ns();
    }

    /// Notes that the final response head came, and tells the balancer how long it took.
    pub fn answered(&mut self, picked: &Picked, status: StatusCode) {
        self.status = Some(status);
        let took = self.observe(picked);
        // A gRPC response says how it ended behind its body, unless there is none.
        if !(self.about.grpc && status == StatusCode::OK) {
            self.judged(picked, Outcome::Status(status.as_u16()));
        }
        let failed = self.is_failure(status);
        if let Some(held) = &mut self.held {
            held.answered(failed, Duration::from_nanos(took));
        }
    }

    /// Notes the headers of the response that the client gets, as the endpoint sent them, where somebody wants them.
    pub fn answered_with_headers<'h>(&mut self, headers: impl FnOnce() -> Cow<'h, HeaderMap>) {
        if let Some(kept) = &mut self.kept {
            self.conn.pod.worker.telemetry.keep_response_headers(kept, &headers());
        }
    }

    /// As [`Self::answered`], of a response that the client won't see; `grpc` is the status that came with its head.
    pub fn tried(&mut self, picked: &Picked, status: StatusCode, grpc: Option<u16>) {
        self.observe(picked);
        self.judged(picked, grpc.map_or(Outcome::Status(status.as_u16()), Outcome::Grpc));
    }

    /// The same of a try beside that at the endpoint that [`Self::sent_to`] told of; it was sent at `sent_ns`.
    pub fn tried_beside(&self, picked: &Picked, sent_ns: u64, status: StatusCode, grpc: Option<u16>) {
        picked.observe(clock::now_ns().saturating_sub(sent_ns));
        self.judged(picked, grpc.map_or(Outcome::Status(status.as_u16()), Outcome::Grpc));
    }

    /// Tells outlier detection, and the trace what comes of it.
    fn judged(&self, picked: &Picked, outcome: Outcome) {
        let ejected = picked.outcome(self.conn, outcome);
        self.ejected(picked, ejected);
    }

    fn ejected(&self, picked: &Picked, why: Option<&'static str>) {
        if let Some(why) = why {
            self.note(|| What::Ejection { endpoint: picked.upstream.endpoint.addr, why });
        }
    }

    fn note(&self, what: impl FnOnce() -> What) {
        if let Some(trace) = &self.trace {
            trace.note(clock::now_ns(), what());
        }
    }

    fn observe(&mut self, picked: &Picked) -> u64 {
        let took = clock::now_ns().saturating_sub(self.sent_ns);
        self.upstream_ns = Some(took);
        picked.observe(took);
        took
    }

    /// By its status, over gRPC by what that is in HTTP.
    fn is_failure(&self, status: StatusCode) -> bool {
        self.grpc_status.map_or(status.as_u16(), outlier::status_of_grpc) >= 500
    }

    /// Takes places that are given back when the request ends.
    pub fn hold(&mut self, held: Held) {
        self.held = Some(Box::new(held));
    }

    fn ending(&self) -> Ending {
        match (self.error, self.status) {
            (Some(error), _) => Self::ending_by(error),
            (None, Some(status)) => Ending::Answered {
                failed: self.is_failure(status),
                lost: status == StatusCode::SERVICE_UNAVAILABLE,
            },
            (None, None) => Ending::Untold,
        }
    }

    fn ending_by(error: ErrorKind) -> Ending {
        if error.side() != Side::Upstream {
            return Ending::Untold;
        }
        let lost =
            matches!(error, ErrorKind::UpstreamTimeout | ErrorKind::RequestTimeout | ErrorKind::TryTimeout);
        Ending::Answered { failed: true, lost }
    }

    fn settle_held(&mut self, ending: Ending) {
        if let Some(held) = self.held.take() {
            let latency = self.upstream_ns.unwrap_or_else(|| clock::now_ns().saturating_sub(self.started_ns));
            held.settle(ending, Duration::from_nanos(latency));
        }
    }

    /// Notes that it failed, and why it wasn't tried once more.
    pub fn not_retried(&mut self, why: NoRetry) {
        self.not_retried = Some(why);
    }

    /// Notes that a fault made it wait.
    pub fn delayed(&mut self) {
        self.delayed = true;
        self.note(|| What::Delay);
    }

    /// One flag, where Envoy may have several: why there was no other try says more than how the last one failed, and
    /// any failure more than a delay.
    fn flag(&self) -> Flag {
        match (self.not_retried, self.error) {
            (Some(NoRetry::Exhausted), _) => Flag::RetriesExhausted,
            (Some(NoRetry::Overflow), _) => Flag::UpstreamOverflow,
            (None, Some(error)) => error.flag(),
            (None, None) if self.delayed => Flag::DelayInjected,
            (None, None) => Flag::None,
        }
    }

    fn reason(&self) -> &'static str {
        match (self.not_retried, self.error) {
            (_, Some(error)) => error.label(),
            (Some(NoRetry::Overflow), None) => "retry_overflow",
            (Some(NoRetry::Exhausted), None) => "retries_exhausted",
            (None, None) if self.delayed => "fault_delay",
            (None, None) => "",
        }
    }

    /// Notes the gRPC status, from trailers or a trailers-only head.
    pub fn grpc_status(&mut self, status: u16) {
        self.grpc_status = Some(status);
    }

    /// Tells the balancer that the endpoint refused, broke off or gave no answer.
    pub fn endpoint_failed(&self, picked: &Picked) {
        let ejected = picked.fail(self.conn);
        self.ejected(picked, ejected);
    }

    /// Tells outlier detection how a gRPC request ended, once it has.
    pub fn settled(&self, picked: &Picked) {
        if let Some(status) = self.grpc_status {
            self.judged(picked, Outcome::Grpc(status));
        }
    }

    /// Notes an answer of the agent's own.
    pub fn answered_locally(&mut self, status: StatusCode) {
        self.status = Some(status);
    }

    /// Notes what the access log says of an answer of the agent's own, beside the kind of failure.
    pub fn answered_with(&mut self, answer: &LocalAnswer) {
        if self.details.is_none() {
            self.details.clone_from(&answer.details);
        }
    }

    /// Notes what a request that has switched protocols was ended for.
    pub fn ended_for(&mut self, details: Arc<str>) {
        self.details = Some(details).filter(|details| !details.is_empty());
    }

    /// Notes what went wrong. The first failure counts.
    pub fn fail(&mut self, error: ErrorKind) {
        self.error.get_or_insert(error);
        if let Some(label) = error.hostile_label() {
            self.conn.pod.worker.count_protocol_error(label);
        }
    }

    fn report(&self) {
        let duration_ns = clock::now_ns().saturating_sub(self.started_ns);
        let report = RequestReport {
            protocol: if self.about.grpc { Protocol::Grpc } else { Protocol::Http },
            status: self.status.map_or(0, |status| status.as_u16()),
            grpc_status: self.grpc_status,
            flag: self.flag(),
            duration: Duration::from_nanos(duration_ns),
            request_bytes: self.request_bytes,
            response_bytes: self.response_bytes,
            request_messages: self.request_messages,
            response_messages: self.response_messages,
            retries: self.attempts.saturating_sub(1),
        };
        match &self.upstream {
            Some(upstream) => upstream.edges.iter().for_each(|edge| edge.request(&report)),
            None => self.conn.edges_without_endpoint().iter().for_each(|edge| edge.request(&report)),
        }
        if let (Some(rule), Some(service)) = (&self.rule, &self.conn.live.info().service) {
            let metrics = &self.conn.pod.worker.telemetry.metrics;
            rule.counters.count(&service.name, &report, metrics, || rule.name.about(&service.name));
        }
        let telemetry = &self.conn.pod.worker.telemetry;
        if telemetry.wants_record(report.flag, report.status, report.grpc_status) {
            let path = self.about.uri.path_and_query().map_or("", |p| p.as_str());
            let (path, id) = (redact::target(path), self.trace_id());
            telemetry.request(&RequestEntry { path: path.as_bytes(), ..self.entry(&report, &id) });
        }
        self.export(&report);
    }

    /// Exports the request's spans, if it is recorded.
    fn export(&self, report: &RequestReport) {
        let Some((trace, tracer)) = self.trace.as_ref().zip(self.conn.pod.worker.telemetry.tracer.as_ref())
        else {
            return;
        };
        let answered =
            self.upstream_ns.map(|took| Duration::from_nanos(self.sent_ns + took - self.started_ns));
        let ended = spans::Ended {
            trace,
            started_ns: self.started_ns,
            error: self.error,
            failed: self.status.is_some_and(|status| self.is_failure(status)),
            is_grpc: self.about.grpc,
            upstream: self.upstream.as_ref(),
        };
        if tracer.takes(trace, ended.has_failed(), answered.unwrap_or(report.duration)) {
            let id = self.trace_id();
            spans::request(tracer, self.conn, &ended, &self.entry(report, &id), &self.about.uri);
        }
    }

    /// In text, as the log has it: the agent's own where it traces, else the client's.
    fn trace_id(&self) -> TraceText {
        match &self.trace {
            Some(trace) => TraceText::Own(trace.trace.hex()),
            None => TraceText::None,
        }
    }

    fn entry<'a>(&'a self, report: &'a RequestReport, trace: &'a TraceText) -> RequestEntry<'a> {
        let bytes =
            |value: &'a Option<HeaderValue>| value.as_ref().map(HeaderValue::as_bytes).unwrap_or_default();
        let authority = self.about.uri.authority().map(|a| a.as_str().as_bytes());
        let traceparent = self.about.traceparent.as_ref().and_then(|v| v.to_str().ok());
        RequestEntry {
            start: SystemTime::now() - report.duration,
            peers: self.conn.peers(
                self.upstream.as_ref().map(|upstream| &*upstream.endpoint),
                self.upstream.as_ref().map(|upstream| upstream.reach()),
            ),
            method: self.about.method.as_str().as_bytes(),
            path: &[],
            protocol: version_name(self.about.version),
            status: report.status,
            grpc_status: report.grpc_status,
            flag: report.flag,
            details: self.details.as_deref().unwrap_or_else(|| self.reason()),
            bytes_received: report.request_bytes,
            bytes_sent: report.response_bytes,
            duration: report.duration,
            upstream_time: self.upstream_ns.map(Duration::from_nanos),
            attempts: self.attempts,
            request_id: bytes(&self.about.request_id),
            trace_id: match trace {
                TraceText::Own(id) => id,
                TraceText::None => traceparent.and_then(headers::trace_id_of).unwrap_or_default().as_bytes(),
            },
            user_agent: bytes(&self.about.user_agent),
            authority: authority.unwrap_or_else(|| bytes(&self.about.authority)),
            route: self.rule.as_ref().map_or("", |rule| &rule.name.label),
            grpc: self.about.grpc,
            span: self.trace.as_ref().map(|trace| spans::context(self.conn, trace, self.upstream.as_ref())),
            kept: self.kept.as_deref(),
        }
    }
}

/// A trace's id.
enum TraceText {
    /// Of the trace that the request is part of.
    Own([u8; 32]),
    /// Nothing is known but what the client said.
    None,
}

fn version_name(version: Version) -> &'static str {
    match version {
        Version::HTTP_10 => "HTTP/1.0",
        Version::HTTP_2 => "HTTP/2",
        _ => "HTTP/1.1",
    }
}

impl Drop for Exchange<'_> {
    fn drop(&mut self) {
        self.settle_held(self.ending());
        self.conn.pod.worker.telemetry.metrics.agent().requests_active.dec();
        self.report();
    }
}

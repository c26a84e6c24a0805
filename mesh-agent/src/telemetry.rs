//! What the agent tells about the traffic it carries: metrics, access log, flows, live connections.
//!
//! The last step of a connection's way: `proxy` fetches its handles once per connection or upstream and settles every
//! request and connection through them. Nothing here decides about traffic, and nothing on the hot path takes a lock,
//! allocates or waits. `admin` serves what is gathered here.

mod access_log;
mod agent;
mod capped;
mod connections;
pub mod conventions;
mod edge;
mod endpoint_cell;
mod exposition;
pub mod flows;
pub mod grpc_code;
mod headers;
mod histogram;
mod labels;
mod live;
mod metrics;
mod process;
pub mod redact;
mod rules;
mod tcp;

use std::sync::Arc;

use http::HeaderMap;

pub use access_log::{
    AccessLog, AccessLogMode, ConnectionEntry, Filter, Format, LogOptions, Output, ParseFilterError,
    ParseModeError, ParseRotationError, ParseShareError, Peers, RequestEntry, Rotation, Share, Template,
    TemplateError, utc, utc_millis,
};
pub use agent::AgentMetrics;
pub use capped::Capped;
pub use connections::{ConnectionGuard, ConnectionInfo, ConnectionView, Connections, L7};
pub use edge::{Edge, EdgeAbout, EdgeKey, Protocol, RequestReport};
pub use exposition::Exposition;
pub use flows::Flows;
use headers::Keeper;
pub use headers::Kept;
pub use histogram::quantile;
pub use labels::LabelProfile;
pub use live::{BUCKET as LIVE_BUCKET, Carried, Course, Figures, Subject, Window};
pub use metrics::{Limits, Metrics};
pub use redact::Redact;
pub use rules::{RuleAbout, RuleCounters};
pub use tcp::TcpSeries;

use crate::flags::Flag;
use crate::trace::{self, Counters, Tracer};

/// Everything the data path reports to. One per agent, shared by all workers.
#[derive(Debug)]
pub struct Telemetry {
    /// Istio's families and the agent's own.
    pub metrics: Metrics,
    /// One line a request or connection.
    pub access_log: AccessLog,
    /// The same for whoever observes, and the last failures.
    pub flows: Arc<Flows>,
    /// What is open right now.
    pub connections: Connections,
    keeper: Keeper,
    /// Spans of what is recorded; None: tracing is off.
    pub tracer: Option<Tracer>,
}

/// What [`Telemetry::new`] has to know.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where the access log goes, and how.
    pub access_log: AccessLogMode,
    /// What else there is to say of it.
    pub log: LogOptions,
    /// Which headers are secrets.
    pub redact: Redact,
    /// Whose agent this is.
    pub node: String,
    /// Trust domain of the `*_principal` labels.
    pub trust_domain: String,
    /// Value of the `*_cluster` labels for known workloads.
    pub cluster: String,
    /// How much the edges' series tell.
    pub labels: LabelProfile,
    /// Bounds of the metrics.
    pub limits: Limits,
    /// Which requests are recorded, and where their spans go; None: tracing is off.
    pub tracing: Option<trace::Options>,
}

impl Default for Options {
    /// No access log, Istio's names for a single cluster.
    fn default() -> Self {
        Self {
            access_log: AccessLogMode::default(),
            log: LogOptions::default(),
            redact: Redact::default(),
            node: String::new(),
            trust_domain: "cluster.local".into(),
            cluster: "Kubernetes".into(),
            labels: LabelProfile::default(),
            limits: Limits::default(),
            tracing: None,
        }
    }
}

impl Telemetry {
    /// Opens the access log and starts its writer, and the exporter of traces.
    ///
    /// # Errors
    /// When the log's file can't be opened or a thread can't be started.
    pub fn new(options: Options) -> std::io::Result<Arc<Self>> {
        let metrics = Metrics::new(&options);
        let agent = metrics.agent();
        let records = Counters { items: agent.log_records.clone(), exports: agent.log_exports.clone() };
        let counters = access_log::LogCounters { dropped: agent.access_log_dropped.clone(), records };
        let access_log = AccessLog::open(&options.access_log, &options.log, &options.cluster, counters)?;
        let template = options.log.template.as_ref().filter(|_| access_log.enabled());
        let keeper = Keeper {
            redact: options.redact,
            request: template.map(Template::request_headers).unwrap_or_default(),
            response: template.map(Template::response_headers).unwrap_or_default(),
        };
        let flows = Arc::new(Flows::new(&options.node, metrics.agent()));
        let connections = Connections::new(metrics.agent());
        let start = |tracing| {
            let counters =
                Counters { items: agent.trace_spans.clone(), exports: agent.trace_exports.clone() };
            Tracer::start(tracing, &options.cluster, counters)
        };
        let tracer = options.tracing.as_ref().map(start).transpose()?;
        Ok(Arc::new(Self { metrics, access_log, flows, connections, keeper, tracer }))
    }

    /// For tests and tools: no access log, default limits.
    pub fn quiet() -> Arc<Self> {
        let metrics = Metrics::new(&Options::default());
        let flows = Arc::new(Flows::new("", metrics.agent()));
        let connections = Connections::new(metrics.agent());
        let access_log = AccessLog::off();
        Arc::new(Self { metrics, access_log, flows, connections, keeper: Keeper::default(), tracer: None })
    }

    /// Keeps what somebody wants to see of a request's headers when it has ended; None for most.
    pub fn keep_headers(&self, headers: &HeaderMap) -> Option<Box<Kept>> {
        self.keeper.begin(self.flows.is_tapped(), headers)
    }

    /// The same of its response's.
    pub fn keep_response_headers(&self, kept: &mut Kept, headers: &HeaderMap) {
        self.keeper.answered(kept, headers);
    }

    /// False where the record of a request or connection that ended so would be for nobody.
    pub fn wants_record(&self, flag: Flag, status: u16, grpc_status: Option<u16>) -> bool {
        self.access_log.enabled() || self.flows.is_observed() || flows::has_failed(flag, status, grpc_status)
    }

    /// A request has ended: tells all who want to know.
    pub fn request(&self, entry: &RequestEntry<'_>) {
        self.access_log.request(entry);
        self.flows.request(entry);
    }

    /// The same of an opaque connection, or one that was refused.
    pub fn connection(&self, entry: &ConnectionEntry<'_>) {
        self.access_log.connection(entry);
        self.flows.connection(entry);
    }

    /// For tests: the same with traces that stay to be looked at.
    #[cfg(test)]
    pub fn traced(tracer: Tracer) -> Arc<Self> {
        let metrics = Metrics::new(&Options::default());
        let connections = Connections::new(metrics.agent());
        let flows = Arc::new(Flows::new("", metrics.agent()));
        let access_log = AccessLog::off();
        Arc::new(Self {
            metrics,
            access_log,
            flows,
            connections,
            keeper: Keeper::default(),
            tracer: Some(tracer),
        })
    }

    /// Waits a short while until what was reported so far is written and sent: before the process ends.
    pub fn flush(&self) {
        self.access_log.flush();
        if let Some(tracer) = &self.tracer {
            tracer.flush();
        }
    }
}

/// Whose view a metric or log line is: Istio's `reporter` label.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Reporter {
    /// The client's side: outbound.
    Source,
    /// The server's side: inbound.
    Destination,
}

impl Reporter {
    /// The label.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Source => "source",
            Self::Destination => "destination",
        }
    }

    /// `outbound` or `inbound`: the same seen from the captured pod.
    pub const fn direction(self) -> &'static str {
        match self {
            Self::Source => "outbound",
            Self::Destination => "inbound",
        }
    }
}

/// How a connection between two pods is secured.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Security {
    /// Plain text, or TLS of the application's own.
    #[default]
    None,
    /// Mutual TLS of the mesh: both principals are known.
    MutualTls,
}

#[cfg(test)]
mod tests;

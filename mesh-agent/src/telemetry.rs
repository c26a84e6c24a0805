//! What the agent tells about the traffic it carries: metrics, access log, live connections.
//!
//! The last step of a connection's way: `proxy` fetches its handles once per connection or upstream and settles every
//! request and connection through them. Nothing here decides about traffic, and nothing on the hot path takes a lock,
//! allocates or waits. `admin` serves what is gathered here.

mod access_log;
mod agent;
mod capped;
mod connections;
mod edge;
mod endpoint_cell;
mod exposition;
mod histogram;
mod labels;
mod metrics;
mod process;
mod tcp;

use std::sync::Arc;

pub use access_log::{
    AccessLog, AccessLogMode, ConnectionEntry, Format, Output, ParseModeError, Peers, RequestEntry, redact,
    utc,
};
pub use agent::AgentMetrics;
pub use capped::Capped;
pub use connections::{ConnectionGuard, ConnectionInfo, ConnectionView, Connections, L7};
pub use edge::{Edge, EdgeKey, Protocol, RequestReport};
pub use exposition::Exposition;
pub use metrics::{Limits, Metrics};
pub use tcp::TcpSeries;

use crate::trace::{self, Counters, Tracer};

/// Everything the data path reports to. One per agent, shared by all workers.
#[derive(Debug)]
pub struct Telemetry {
    /// Istio's families and the agent's own.
    pub metrics: Metrics,
    /// One line a request or connection.
    pub access_log: AccessLog,
    /// What is open right now.
    pub connections: Connections,
    /// Spans of what is recorded; None: tracing is off.
    pub tracer: Option<Tracer>,
}

/// What [`Telemetry::new`] has to know.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where the access log goes, and how.
    pub access_log: AccessLogMode,
    /// Trust domain of the `*_principal` labels.
    pub trust_domain: String,
    /// Value of the `*_cluster` labels for known workloads.
    pub cluster: String,
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
            trust_domain: "cluster.local".into(),
            cluster: "Kubernetes".into(),
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
        let access_log = AccessLog::open(&options.access_log, metrics.agent().access_log_dropped.clone())?;
        let connections = Connections::new(metrics.agent());
        let start = |tracing| {
            let agent = metrics.agent();
            let counters =
                Counters { spans: agent.trace_spans.clone(), exports: agent.trace_exports.clone() };
            Tracer::start(tracing, &options.cluster, counters)
        };
        let tracer = options.tracing.as_ref().map(start).transpose()?;
        Ok(Arc::new(Self { metrics, access_log, connections, tracer }))
    }

    /// For tests and tools: no access log, default limits.
    pub fn quiet() -> Arc<Self> {
        let metrics = Metrics::new(&Options::default());
        let connections = Connections::new(metrics.agent());
        Arc::new(Self { metrics, access_log: AccessLog::off(), connections, tracer: None })
    }

    /// For tests: the same with traces that stay to be looked at.
    #[cfg(test)]
    pub fn traced(tracer: Tracer) -> Arc<Self> {
        let metrics = Metrics::new(&Options::default());
        let connections = Connections::new(metrics.agent());
        Arc::new(Self { metrics, access_log: AccessLog::off(), connections, tracer: Some(tracer) })
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

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
mod live;
mod metrics;
mod process;
mod rules;
mod tcp;

use std::sync::Arc;

pub use access_log::{
    AccessLog, AccessLogMode, ConnectionEntry, Format, Output, ParseModeError, Peers, RequestEntry, redact,
    utc,
};
pub use agent::AgentMetrics;
pub use capped::Capped;
pub use connections::{ConnectionGuard, ConnectionInfo, ConnectionView, Connections, L7};
pub use edge::{Edge, EdgeAbout, EdgeKey, Protocol, RequestReport};
pub use exposition::Exposition;
pub use histogram::quantile;
pub use labels::LabelProfile;
pub use live::{BUCKET as LIVE_BUCKET, Carried, Course, Figures, Subject, Window};
pub use metrics::{Limits, Metrics};
pub use rules::{RuleAbout, RuleCounters};
pub use tcp::TcpSeries;

/// Everything the data path reports to. One per agent, shared by all workers.
#[derive(Debug)]
pub struct Telemetry {
    /// Istio's families and the agent's own.
    pub metrics: Metrics,
    /// One line a request or connection.
    pub access_log: AccessLog,
    /// What is open right now.
    pub connections: Connections,
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
    /// How much the edges' series tell.
    pub labels: LabelProfile,
    /// Bounds of the metrics.
    pub limits: Limits,
}

impl Default for Options {
    /// No access log, Istio's names for a single cluster.
    fn default() -> Self {
        Self {
            access_log: AccessLogMode::default(),
            trust_domain: "cluster.local".into(),
            cluster: "Kubernetes".into(),
            labels: LabelProfile::default(),
            limits: Limits::default(),
        }
    }
}

impl Telemetry {
    /// Opens the access log and starts its writer.
    ///
    /// # Errors
    /// When the log's file can't be opened or its thread can't be started.
    pub fn new(options: Options) -> std::io::Result<Arc<Self>> {
        let metrics = Metrics::new(&options);
        let access_log = AccessLog::open(&options.access_log, metrics.agent().access_log_dropped.clone())?;
        let connections = Connections::new(metrics.agent());
        Ok(Arc::new(Self { metrics, access_log, connections }))
    }

    /// For tests and tools: no access log, default limits.
    pub fn quiet() -> Arc<Self> {
        let metrics = Metrics::new(&Options::default());
        let connections = Connections::new(metrics.agent());
        Arc::new(Self { metrics, access_log: AccessLog::off(), connections })
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

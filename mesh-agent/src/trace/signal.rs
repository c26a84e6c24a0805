//! What is exported: spans, or the access log's records. A signal has names of its own on the wire and to people; all else of `export` and
//! `send` is the same. Pure.

use std::fmt;

/// One of OTLP's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    /// Spans.
    Traces,
    /// Records of the access log.
    Logs,
}

impl Signal {
    /// gRPC's method (opentelemetry-proto, collector/trace/v1 and collector/logs/v1).
    pub const fn method(self) -> &'static str {
        match self {
            Self::Traces => "/opentelemetry.proto.collector.trace.v1.TraceService/Export",
            Self::Logs => "/opentelemetry.proto.collector.logs.v1.LogsService/Export",
        }
    }

    /// The end of the path over HTTP (OTLP specification, "OTLP/HTTP Request").
    pub const fn path(self) -> &'static str {
        match self {
            Self::Traces => "/v1/traces",
            Self::Logs => "/v1/logs",
        }
    }

    /// What the thread that exports it is called; the kernel keeps 15 bytes.
    pub const fn thread(self) -> &'static str {
        match self {
            Self::Traces => "traces",
            Self::Logs => "log-records",
        }
    }
}

/// As messages for operators call it.
impl fmt::Display for Signal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Traces => "traces",
            Self::Logs => "the access log's records",
        })
    }
}

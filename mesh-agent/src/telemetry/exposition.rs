//! Prometheus text exposition of the edges, piece by piece: with the full label set a busy node has megabytes of it,
//! which are never held at once. Families are written one after the other, as the format demands.

use std::fmt::Write;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use super::edge::{Edge, RequestSeries};
use super::histogram::{BOUNDS, Histogram};
use super::{LabelProfile, Protocol, TcpSeries};
use crate::flags::Flag;

/// About how much text one piece holds.
const PIECE: usize = 64 * 1024;

/// Iterator over the pieces of the metrics text.
#[derive(Debug)]
pub struct Exposition {
    /// The agent's own metrics come first.
    head: Option<String>,
    edges: Vec<Arc<Edge>>,
    profile: LabelProfile,
    family: usize,
    edge: usize,
    /// The family's HELP and TYPE lines are out.
    headed: bool,
}

impl Exposition {
    pub(super) fn new(head: String, edges: Vec<Arc<Edge>>, profile: LabelProfile) -> Self {
        Self { head: Some(head), edges, profile, family: 0, edge: 0, headed: false }
    }

    fn step(&mut self, out: &mut String) -> bool {
        let Some(family) = FAMILIES.get(self.family) else { return false };
        let left_out = self.profile == LabelProfile::Lean && FULL_ONLY.contains(&family.name);
        let Some(edge) = self.edges.get(self.edge).filter(|_| !left_out) else {
            self.family += 1;
            self.edge = 0;
            self.headed = false;
            return true;
        };
        self.edge += 1;
        let start = out.len();
        family.write(out, edge);
        if !self.headed && out.len() > start {
            let header = format!(
                "# HELP {name} {help}\n# TYPE {name} {kind}\n",
                name = family.name,
                help = family.help,
                kind = family.value.kind()
            );
            out.insert_str(start, &header);
            self.headed = true;
        }
        true
    }
}

impl Iterator for Exposition {
    type Item = String;

    fn next(&mut self) -> Option<String> {
        if let Some(head) = self.head.take() {
            return Some(head);
        }
        let mut out = String::new();
        while out.len() < PIECE && self.step(&mut out) {}
        (!out.is_empty()).then_some(out)
    }
}

/// One of Istio's standard metrics.
struct Family {
    name: &'static str,
    help: &'static str,
    value: Value,
}

/// Where its figures come from.
enum Value {
    Requests,
    Histogram(fn(&RequestSeries) -> &Histogram),
    Messages(fn(&RequestSeries) -> u64),
    Connections(fn(&TcpSeries) -> u64),
    Closed,
}

/// What [`LabelProfile::Lean`] goes without.
const FULL_ONLY: [&str; 2] = ["istio_request_bytes", "istio_response_bytes"];

/// In Istio's order.
const FAMILIES: &[Family] = &[
    Family { name: "istio_requests_total", help: "Requests, by how they ended.", value: Value::Requests },
    Family {
        name: "istio_request_duration_milliseconds",
        help: "From the request's first byte to the response's last.",
        value: Value::Histogram(|s| &s.duration),
    },
    Family {
        name: "istio_request_bytes",
        help: "Body bytes of requests.",
        value: Value::Histogram(|s| &s.request_bytes),
    },
    Family {
        name: "istio_response_bytes",
        help: "Body bytes of responses.",
        value: Value::Histogram(|s| &s.response_bytes),
    },
    Family {
        name: "istio_request_messages_total",
        help: "gRPC messages from clients.",
        value: Value::Messages(|s| s.request_messages.load(Relaxed)),
    },
    Family {
        name: "istio_response_messages_total",
        help: "gRPC messages from servers.",
        value: Value::Messages(|s| s.response_messages.load(Relaxed)),
    },
    Family {
        name: "istio_tcp_sent_bytes_total",
        help: "Bytes from server to client on opaque connections.",
        value: Value::Connections(TcpSeries::sent_total),
    },
    Family {
        name: "istio_tcp_received_bytes_total",
        help: "Bytes from client to server on opaque connections.",
        value: Value::Connections(TcpSeries::received_total),
    },
    Family {
        name: "istio_tcp_connections_opened_total",
        help: "Opaque connections opened.",
        value: Value::Connections(TcpSeries::opened_total),
    },
    Family {
        name: "istio_tcp_connections_closed_total",
        help: "Opaque connections closed, by how they ended.",
        value: Value::Closed,
    },
];

/// Name, type and help of each family, for the documentation.
#[cfg(test)]
pub(super) fn families() -> impl Iterator<Item = (&'static str, &'static str, &'static str)> {
    FAMILIES.iter().map(|family| (family.name, family.value.kind(), family.help))
}

impl Value {
    fn kind(&self) -> &'static str {
        match self {
            Self::Histogram(_) => "histogram",
            _ => "counter",
        }
    }
}

impl Family {
    fn write(&self, out: &mut String, edge: &Edge) {
        match &self.value {
            Value::Requests => {
                for series in edge.request_series() {
                    self.line(out, "", &request_labels(edge, series), series.duration.count());
                }
            }
            Value::Histogram(of) => {
                for series in edge.request_series() {
                    self.histogram(out, &request_labels(edge, series), of(series));
                }
            }
            Value::Messages(of) => {
                for series in edge.request_series().filter(|s| s.key.protocol == Protocol::Grpc) {
                    self.line(out, "", &request_labels(edge, series), of(series));
                }
            }
            Value::Connections(of) => {
                if let Some(tcp) = edge.tcp_series() {
                    self.line(out, "", &tcp_labels(edge, Flag::None), of(tcp));
                }
            }
            Value::Closed => {
                for (flag, closed) in edge.tcp_series().iter().flat_map(|tcp| tcp.closed_totals()) {
                    self.line(out, "", &tcp_labels(edge, flag), closed);
                }
            }
        }
    }

    fn line(&self, out: &mut String, suffix: &str, labels: &str, value: u64) {
        // Writing to a String can't fail.
        let _ = writeln!(out, "{}{suffix}{{{labels}}} {value}", self.name);
    }

    fn histogram(&self, out: &mut String, labels: &str, histogram: &Histogram) {
        let mut total = 0;
        let bounds = BOUNDS.iter().copied().chain(["+Inf"]);
        for (bound, count) in bounds.zip(histogram.buckets()) {
            total += count;
            let _ = writeln!(out, "{}_bucket{{{labels},le=\"{bound}\"}} {total}", self.name);
        }
        let (whole, milli) = (histogram.sum_milli() / 1000, histogram.sum_milli() % 1000);
        let _ = match milli {
            0 => writeln!(out, "{}_sum{{{labels}}} {whole}", self.name),
            _ => writeln!(out, "{}_sum{{{labels}}} {whole}.{milli:03}", self.name),
        };
        self.line(out, "_count", labels, total);
    }
}

fn request_labels(edge: &Edge, series: &RequestSeries) -> String {
    let key = series.key;
    let grpc = key.grpc_status.map(|code| code.to_string()).unwrap_or_default();
    format!(
        "{},request_protocol=\"{}\",response_code=\"{}\",grpc_response_status=\"{grpc}\",response_flags=\"{}\"",
        edge.labels,
        key.protocol.label(),
        key.status,
        key.flag.label()
    )
}

fn tcp_labels(edge: &Edge, flag: Flag) -> String {
    format!("{},request_protocol=\"tcp\",response_flags=\"{}\"", edge.labels, flag.label())
}

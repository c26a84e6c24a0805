//! How flows look: Hubble's compact line, a table, a list of fields, or JSON.

use std::fmt::Write;

use crate::admin::api::flow::{Flow, FlowPeer, Verdict};
use crate::cli::Failure;
use crate::cli::output::{Out, bytes, printable};
use crate::cli::style::{Mark, Style};
use crate::telemetry::{Reporter, grpc_code};

/// `-o` of flows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Format {
    /// One line each, as Hubble prints it
    #[default]
    Compact,
    /// Columns
    Table,
    /// One field a line
    Dict,
    /// One JSON object a line
    #[value(alias = "jsonpb")]
    Json,
}

const COLUMNS: [(&str, usize); 6] =
    [("TIMESTAMP", 24), ("SOURCE", 32), ("DESTINATION", 32), ("TYPE", 9), ("VERDICT", 9), ("SUMMARY", 0)];

/// Prints one after the other.
pub(super) struct Printer {
    format: Format,
    with_node: bool,
    printed: bool,
}

impl Printer {
    pub(super) fn new(format: Format, with_node: bool) -> Self {
        Self { format, with_node, printed: false }
    }

    pub(super) fn print(&mut self, flow: &Flow, out: &mut Out<'_>) -> Result<(), Failure> {
        let first = !std::mem::replace(&mut self.printed, true);
        let text = match self.format {
            Format::Json => serde_json::to_string(flow)? + "\n",
            Format::Compact => self.compact(flow, out.style),
            Format::Table if first => row(COLUMNS.map(|(name, _)| name.to_owned())) + &self.table(flow),
            Format::Table => self.table(flow),
            Format::Dict if first => dict(flow),
            Format::Dict => format!("------------\n{}", dict(flow)),
        };
        out.data(&text)
    }

    /// `TIME [NODE]: SOURCE -> DESTINATION TYPE VERDICT (SUMMARY)`
    fn compact(&self, flow: &Flow, style: Style) -> String {
        let node = if self.with_node { format!(" [{}]", printable(&flow.node)) } else { String::new() };
        let verdict = style.paint(mark(flow.verdict), flow.verdict.label());
        let (source, destination) = (end(&flow.source), end(&flow.destination));
        let mut text = format!(
            "{}{node}: {source} -> {destination} {} {verdict} ({})\n",
            flow.time,
            kind(flow),
            summary(flow)
        );
        headers(flow, &mut text);
        text
    }

    fn table(&self, flow: &Flow) -> String {
        let time = if self.with_node { format!("{} {}", flow.time, flow.node) } else { flow.time.clone() };
        let mut text = row([
            printable(&time),
            end(&flow.source),
            end(&flow.destination),
            kind(flow).to_owned(),
            flow.verdict.label().to_owned(),
            summary(flow),
        ]);
        headers(flow, &mut text);
        text
    }
}

/// Wide enough for most: whoever prints the first row knows nothing of the last.
fn row(cells: [String; 6]) -> String {
    let padded = cells.iter().zip(COLUMNS).map(|(cell, (_, width))| format!("{cell:<width$}"));
    let line = padded.collect::<Vec<_>>().join("   ");
    line.trim_end().to_owned() + "\n"
}

fn dict(flow: &Flow) -> String {
    let mut text = String::new();
    let mut field = |name: &str, value: &str| {
        if !value.is_empty() {
            // Writing to a String can't fail.
            let _ = writeln!(text, "{name:>12}: {}", printable(value));
        }
    };
    field("TIMESTAMP", &flow.time);
    field("NODE", &flow.node);
    field("SOURCE", &end(&flow.source));
    field("IDENTITY", &flow.source.principal);
    field("DESTINATION", &end(&flow.destination));
    field("IDENTITY", &flow.destination.principal);
    field("SERVICE", &flow.service.as_ref().map(|it| it.host.clone()).unwrap_or_default());
    field("REPORTER", flow.reporter.map_or("", Reporter::label));
    field("TYPE", kind(flow));
    field("VERDICT", flow.verdict.label());
    field("SUMMARY", &summary(flow));
    field("POLICY", &flow.policy);
    field("ROUTE", &flow.route);
    field("SECURITY", &flow.security);
    field("BYTES", &format!("{} in, {} out", bytes(flow.bytes_received), bytes(flow.bytes_sent)));
    field("TRACE", &flow.trace_id);
    field("REQUEST", &flow.request_id);
    headers(flow, &mut text);
    text
}

/// One line each, below what they are of.
fn headers(flow: &Flow, text: &mut String) {
    let Some(l7) = &flow.l7 else { return };
    for (sign, headers) in [('>', &l7.request_headers), ('<', &l7.response_headers)] {
        for (name, values) in headers {
            for value in values {
                let _ = writeln!(text, "    {sign} {}: {}", printable(name), printable(value));
            }
        }
    }
}

fn end(peer: &FlowPeer) -> String {
    printable(&peer.name())
}

fn kind(flow: &Flow) -> &str {
    match flow.protocol.as_str() {
        "http" => "http",
        "grpc" => "grpc",
        "tls" => "tls",
        _ => "tcp",
    }
}

fn mark(verdict: Verdict) -> Mark {
    match verdict {
        Verdict::Forwarded => Mark::Good,
        Verdict::Dropped => Mark::Warn,
        Verdict::Error => Mark::Bad,
    }
}

/// What was asked, what was said, how long it took, and what went wrong.
pub(in crate::cli) fn summary(flow: &Flow) -> String {
    let mut parts = Vec::new();
    match &flow.l7 {
        Some(l7) => {
            let host =
                if l7.authority.is_empty() { String::new() } else { format!("http://{}", l7.authority) };
            parts.push(format!("{} {} {host}{}", l7.version, l7.method, l7.path));
            match l7.grpc_status {
                Some(code) => parts.push(format!("=> {} {}", l7.status, grpc_code::snake(code))),
                None => parts.push(format!("=> {}", l7.status)),
            }
        }
        None => {
            if !flow.server_name.is_empty() {
                parts.push(flow.server_name.clone());
            }
            parts.push(format!("{} in, {} out", bytes(flow.bytes_received), bytes(flow.bytes_sent)));
        }
    }
    parts.push(format!("{:.1}ms", flow.duration_ms));
    if flow.flag != "-" {
        parts.push(flow.flag.clone());
    }
    if !flow.details.is_empty() {
        parts.push(flow.details.clone());
    }
    if flow.security == "mutual_tls" {
        parts.push("mTLS".to_owned());
    }
    printable(&parts.join(" "))
}

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

/// Room for a node's name behind the time.
const NODE: usize = 16;

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
            Format::Table if first => self.row(COLUMNS.map(|(name, _)| name.to_owned())) + &self.table(flow),
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
        let mut text = self.row([
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

    /// Wide enough for most: whoever prints the first row knows nothing of the last.
    fn row(&self, cells: [String; 6]) -> String {
        let node = if self.with_node { NODE } else { 0 };
        let mut line = String::new();
        for (i, (cell, (_, width))) in cells.iter().zip(COLUMNS).enumerate() {
            let width = if i == 0 { width + node } else { width };
            // Writing to a String can't fail.
            let _ = write!(line, "{cell:<width$}   ");
        }
        line.trim_end().to_owned() + "\n"
    }
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::admin::api::flow::FlowL7;

    fn printed(format: Format, flow: &Flow, times: usize) -> String {
        let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
        let mut out = Out::new(&mut stdout, &mut stderr, Style::default());
        let mut printer = Printer::new(format, true);
        for _ in 0..times {
            printer.print(flow, &mut out).unwrap();
        }
        String::from_utf8(stdout).unwrap()
    }

    fn flow() -> Flow {
        let peer = |pod: &str, ip: &str, port| FlowPeer {
            namespace: if pod.is_empty() { String::new() } else { "shop".into() },
            pod: pod.into(),
            ip: ip.parse().ok(),
            port,
            ..FlowPeer::default()
        };
        let l7 = FlowL7 {
            version: "HTTP/1.1".into(),
            method: "GET".into(),
            path: "/private\u{1b}[2J".into(),
            authority: "cart".into(),
            status: 403,
            request_headers: [("x-a".to_owned(), vec!["1".to_owned(), "2".to_owned()])].into(),
            response_headers: [("server".to_owned(), vec!["s".to_owned()])].into(),
            ..FlowL7::default()
        };
        Flow {
            time: "2026-11-21T05:46:40.123Z".into(),
            node: "node-a".into(),
            verdict: Verdict::Dropped,
            reporter: Some(Reporter::Source),
            protocol: "http".into(),
            source: peer("web-1", "10.1.0.1", 4242),
            destination: peer("", "fd00::2", 8080),
            l7: Some(l7),
            flag: "DENY".into(),
            details: "rbac".into(),
            policy: "shop/deny".into(),
            duration_ms: 1.26,
            security: "mutual_tls".into(),
            ..Flow::default()
        }
    }

    #[test]
    fn a_flow_is_shown_in_every_format_and_steers_no_terminal() {
        insta::assert_snapshot!(printed(Format::Compact, &flow(), 1), @r"
        2026-11-21T05:46:40.123Z [node-a]: shop/web-1:4242 -> [fd00::2]:8080 http DROPPED (HTTP/1.1 GET http://cart/private?[2J => 403 1.3ms DENY rbac mTLS)
            > x-a: 1
            > x-a: 2
            < server: s
        ");
        let connection = Flow { l7: None, protocol: "tls".into(), server_name: "db".into(), ..flow() };
        insta::assert_snapshot!(printed(Format::Table, &connection, 2), @r"
        TIMESTAMP                                  SOURCE                             DESTINATION                        TYPE        VERDICT     SUMMARY
        2026-11-21T05:46:40.123Z node-a            shop/web-1:4242                    [fd00::2]:8080                     tls         DROPPED     db 0B in, 0B out 1.3ms DENY rbac mTLS
        2026-11-21T05:46:40.123Z node-a            shop/web-1:4242                    [fd00::2]:8080                     tls         DROPPED     db 0B in, 0B out 1.3ms DENY rbac mTLS
        ");
        let dict = printed(Format::Dict, &flow(), 2);
        assert_eq!(dict.matches("------------\n").count(), 1);
        assert!(dict.contains("      POLICY: shop/deny\n") && !dict.contains('\u{1b}'), "{dict}");
        let json: Flow = serde_json::from_str(printed(Format::Json, &flow(), 1).trim()).unwrap();
        assert_eq!(json, flow());
    }
}

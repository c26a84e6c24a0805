//! What a page says in sentences: whether something is captured, by whom, which way its traffic goes, and what decides
//! about it; and the figures of the last minute. Pure.

use crate::admin::api::{Capture, Certificate, CertificateState, LiveEdges, RouteRule, Service, Workload};
use crate::cli::edges::{self, Pair};
use crate::cli::live::merge::{self, Edge};
use crate::cli::output::{count, utc};

use super::section;

/// Sentences under their heading; nothing without any.
pub(super) fn in_short(sentences: &[String]) -> String {
    if sentences.is_empty() {
        return String::new();
    }
    let lines = sentences.iter().map(|sentence| format!("  {sentence}\n"));
    format!("In short:\n{}", lines.collect::<String>())
}

/// A pod's capture, identity, callers and policies.
pub(super) fn pod(pod: &Workload, certificate: Option<&Certificate>) -> Vec<String> {
    let mut out = vec![capture(pod)];
    if pod.capture == Capture::None {
        out.push("It is called in plain text, and no policy of the mesh holds for it.".to_owned());
        return out;
    }
    out.extend(certificate.map(identity));
    let accepts = match pod.mtls.iter().find(|mode| mode.port.is_none()) {
        Some(mode) if mode.mode == "STRICT" => "It accepts mutual TLS alone",
        Some(mode) if mode.mode == "DISABLE" => "It accepts plain text alone",
        _ => "It accepts mutual TLS and plain text",
    };
    let from = pod.mtls.iter().find(|mode| mode.port.is_none() && !mode.from.is_empty());
    let by = from.map_or_else(|| "which is the default".to_owned(), |mode| format!("as {} says", mode.from));
    let apart = pod.mtls.iter().filter(|mode| mode.port.is_some()).count();
    let apart = if apart > 0 { format!("; {} apart", count(apart, "port")) } else { String::new() };
    out.push(format!("{accepts}, {by}{apart}."));
    match pod.policies.as_slice() {
        // What selects pods of other nodes their own agents know.
        [] if pod.capture == Capture::OtherNode => {}
        [] => out.push("No policy selects it: whoever may connect may ask anything.".to_owned()),
        some => out.push(format!("Selected by {}.", some.join(", "))),
    }
    out
}

fn capture(pod: &Workload) -> String {
    let away = match pod.fail_mode.as_str() {
        "open" => "go past it",
        _ => "are refused",
    };
    match pod.capture {
        Capture::Captured => format!(
            "Captured: its connections go through the agent of {}; while that is away new ones {away}.",
            pod.node
        ),
        Capture::Pending => format!("Not captured yet: {}; tried again.", pod.reason),
        Capture::Refused => format!("Not captured, and can't be: {}.", pod.reason),
        Capture::OtherNode => format!("In the mesh: the agent of its node {} captures it.", pod.node),
        Capture::None => "Not captured: neither the pod nor its namespace asks for it.".to_owned(),
    }
}

fn identity(certificate: &Certificate) -> String {
    let Certificate { id, state, not_after, reason, .. } = certificate;
    match (state, not_after) {
        (CertificateState::Valid | CertificateState::Late, Some(end)) => {
            format!("It proves itself as {id}, until {} and renewed before.", utc(*end))
        }
        _ => {
            let why = if reason.is_empty() { String::new() } else { format!(": {reason}") };
            format!("It has no certificate to prove itself as {id} ({}){why}.", state.label())
        }
    }
}

/// Which way connections to a service's ports go, and why.
pub(super) fn service(service: &Service, routes: &[RouteRule]) -> Vec<String> {
    service.ports.iter().map(|port| {
        let what = format!("Port {} ({})", port.port, port.protocol);
        let (path, needs) = port.path.split_once(": ").unwrap_or((&port.path, ""));
        let rules = routes.iter().filter(|rule| rule.port == port.port).count();
        let rules = if rules > 0 { format!(", by {}", count(rules, "rule")) } else { String::new() };
        let endpoints = format!("{} of {}", port.available, count(port.total, "endpoint"));
        match path {
            "agent" if needs.is_empty() => format!("{what} goes through the agent{rules}, to {endpoints}."),
            "agent" => format!("{what} goes through the agent for its {needs}{rules}, to {endpoints}."),
            "kernel" => format!(
                "{what} is balanced in the kernel at connect(2), to {endpoints}: the agent neither sees nor counts its connections."
            ),
            _ => format!("{what} is left alone: its connections go as they would without a mesh."),
        }
    }).collect()
}

/// The edges of the last minute that `wanted` takes, put together.
pub(super) fn traffic(live: Option<LiveEdges>, wanted: impl Fn(&Edge) -> bool) -> Vec<Pair> {
    let edges = merge::edges(&live.into_iter().collect::<Vec<_>>());
    edges::together(edges.into_iter().filter(wanted))
}

/// The same as a table.
pub(super) fn traffic_section(pairs: &[Pair]) -> String {
    let header = ["FROM", "TO", "SECURED", "SUCCESS", "RPS", "LATENCY_P50", "LATENCY_P99", "FLAGS"];
    let rows = pairs.iter().map(|pair| {
        let [p50, _, p99] = pair.figures.latencies();
        let flags: Vec<_> = pair.figures.flags.iter().map(|(flag, n)| format!("{flag}={n}")).collect();
        vec![
            format!("{}/{}", pair.source_namespace, pair.source),
            format!("{}/{}", pair.destination_namespace, pair.destination),
            if pair.is_secured() { "yes" } else { "no" }.to_owned(),
            pair.figures.success_text(),
            pair.figures.rps_text(),
            p50,
            p99,
            flags.join(","),
        ]
    });
    section("Traffic of the last minute", &header, rows)
}

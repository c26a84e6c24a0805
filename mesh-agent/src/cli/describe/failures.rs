//! The last failures and denials of what a page is about: when, who, what, how it ended, by which policy.

use super::{NamedArgs, section};
use crate::admin::api::flow::{Flow, FlowLine};
use crate::cli::Failure;

/// As many as a page has room for.
const LAST: usize = 10;

/// Whose.
#[derive(Clone, Copy, Debug)]
pub(super) enum Of {
    /// From or to this pod.
    Pod,
    /// To this service.
    Service,
}

/// Asks the agent, which keeps them. None of a dump, which has none, and of an agent that keeps none.
pub(super) fn of(args: &NamedArgs, what: Of) -> Result<Vec<Flow>, Failure> {
    let mut flows = Vec::new();
    if args.file.is_some() {
        return Ok(flows);
    }
    let (namespace, name) = args.object();
    let term = match what {
        Of::Pod => "pod",
        Of::Service => "to-service",
    };
    // The agent compares beginnings of names; what only begins so is left out here.
    let path = format!("/v1/flows?last={}&{term}={namespace}/{name}", usize::MAX);
    let asked = args.agent.client()?.lines(&path, |line| {
        if let FlowLine::Flow(flow) = serde_json::from_str(line)?
            && is_of(&flow, what, namespace, name)
        {
            flows.push(*flow);
        }
        Ok(true)
    });
    // It has just told all else of the page: an agent that doesn't tell this is older, and keeps none.
    if asked.is_err() {
        flows.clear();
    }
    Ok(flows.split_off(flows.len().saturating_sub(LAST)))
}

fn is_of(flow: &Flow, what: Of, namespace: &str, name: &str) -> bool {
    match what {
        Of::Pod => {
            [&flow.source, &flow.destination].iter().any(|it| it.namespace == namespace && it.pod == name)
        }
        Of::Service => flow.service.as_ref().is_some_and(|it| it.namespace == namespace && it.name == name),
    }
}

/// Their part of a page; nothing without any.
pub(super) fn table(flows: &[Flow]) -> String {
    let header = ["TIME", "FROM", "TO", "VERDICT", "FLAG", "WHAT", "REASON", "POLICY"];
    let rows = flows.iter().rev().map(|flow| {
        let what = match &flow.l7 {
            Some(l7) => format!("{} {} => {}", l7.method, l7.path, l7.status),
            None => flow.protocol.clone(),
        };
        vec![
            flow.time.clone(),
            flow.source.name(),
            flow.destination.name(),
            flow.verdict.label().to_owned(),
            flow.flag.clone(),
            what,
            flow.details.clone(),
            flow.policy.clone(),
        ]
    });
    section("Last failures and denials", &header, rows)
}

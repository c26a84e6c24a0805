//! `observe` and `tap`: flows, a line each, of one agent or of all nodes together.
//!
//! The agent filters by the terms of `terms`, so that nothing crosses its bounded queue that isn't wanted; expressions in CEL
//! are evaluated here, in nobody's data path. `show` prints.

mod cel;
mod show;
mod terms;

use std::fmt::Write;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread;

use self::cel::Expressions;
use self::show::{Format, Printer};
use self::terms::Terms;
use super::output::Out;
use super::{AgentArgs, Exit, Failure, Outcome};
use crate::admin::api::flow::{Flow, FlowLine};
use crate::settings::duration;

/// Lines on their way from the agents to the printer; what is beyond stays in the agents, which are bounded too.
const AHEAD: usize = 1024;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    agent: AgentArgs,
    /// Go on with every flow that ends from now on
    #[arg(short, long)]
    follow: bool,
    #[command(flatten)]
    common: Common,
}

#[derive(Debug, clap::Args)]
pub(super) struct TapArgs {
    #[command(flatten)]
    agent: AgentArgs,
    /// pod/[NAMESPACE/]PREFIX or svc/[NAMESPACE/]PREFIX; without one, everything
    #[arg(value_name = "WHAT")]
    what: Option<String>,
    #[command(flatten)]
    common: Common,
}

#[derive(Debug, clap::Args)]
struct Common {
    /// At most so many of the failures and denials that the agent keeps [default: 20, none with --follow]
    #[arg(long, value_name = "N")]
    last: Option<usize>,
    /// Of the failures and denials that it keeps those that began since then, such as 5m
    #[arg(long, value_name = "DURATION")]
    since: Option<String>,
    /// Output format
    #[arg(short, long, value_enum, default_value_t, value_name = "FORMAT")]
    output: Format,
    #[command(flatten)]
    terms: Terms,
}

/// What is asked of each agent.
struct Question {
    path: String,
    follow: bool,
    last: Option<usize>,
    expressions: Expressions,
    output: Format,
}

/// What comes from an agent.
enum Said {
    Flow(Box<Flow>),
    Lost(String, u64),
    /// It won't say more.
    Ended(String, Result<(), Failure>),
}

pub(super) fn run(args: &Args, out: &mut Out<'_>) -> Outcome {
    show(&args.agent, args.common.question(args.follow, false, &[])?, out)
}

pub(super) fn tap(args: &TapArgs, out: &mut Out<'_>) -> Outcome {
    let more = match &args.what {
        Some(what) => vec![target(what)?],
        None => Vec::new(),
    };
    show(&args.agent, args.common.question(true, true, &more)?, out)
}

fn target(what: &str) -> Result<(&'static str, &str), Failure> {
    match what.split_once('/') {
        Some(("pod" | "pods", name)) if !name.is_empty() => Ok(("pod", name)),
        Some(("svc" | "service" | "services", name)) if !name.is_empty() => Ok(("to-service", name)),
        _ => Err(Failure::message(Exit::Usage, format!("{what:?} is nothing that can be tapped"))
            .hint("expected pod/NAMESPACE/NAME or svc/NAMESPACE/NAME")),
    }
}

impl Common {
    fn question(&self, follow: bool, headers: bool, more: &[(&str, &str)]) -> Result<Question, Failure> {
        let mut path = format!("/v1/flows?follow={follow}&headers={headers}");
        let mut add = |name: &str, value: &str| {
            // Writing to a String can't fail.
            let _ = write!(path, "&{name}=");
            terms::encode(&mut path, value);
        };
        if let Some(last) = self.last {
            add("last", &last.to_string());
        }
        if let Some(since) = &self.since {
            let since = duration(since)
                .map_err(|error| Failure::message(Exit::Usage, format!("--since: {error}")))?;
            add("since", &since.as_secs().max(1).to_string());
        }
        for (name, value) in more {
            add(name, value);
        }
        for (name, value) in self.terms.asked() {
            add(&name, value);
        }
        let expressions = Expressions::new(self.terms.expressions())?;
        Ok(Question { path, follow, last: self.last, expressions, output: self.output })
    }
}

fn show(agents: &AgentArgs, question: Question, out: &mut Out<'_>) -> Outcome {
    let (told, said) = sync_channel(AHEAD);
    for (node, client) in agents.clients()? {
        let (told, path) = (told.clone(), question.path.clone());
        // Ends with the process: a stream that is followed has no other end.
        thread::spawn(move || {
            let ended = client.lines(&path, |line| listen(&node, line, &told));
            // Nobody listens any more.
            let _ = told.send(Said::Ended(node, ended));
        });
    }
    drop(told);
    let mut printer = Printer::new(question.output, agents.all_nodes || agents.node.is_some());
    let (mut kept, mut exit) = (Vec::new(), Exit::Ok);
    for said in said {
        match said {
            Said::Flow(flow) if !question.expressions.match_flow(&flow) => {}
            Said::Flow(flow) if question.follow => printer.print(&flow, out)?,
            Said::Flow(flow) => kept.push(flow),
            Said::Lost(node, lost) => {
                let of = if node.is_empty() { String::new() } else { format!(" of {node}") };
                out.note(&format!("{lost} flows{of} were lost: this reader is too slow for them"))?;
            }
            Said::Ended(node, Ok(())) if question.follow => {
                let of = if node.is_empty() { String::new() } else { format!(" of {node}") };
                out.note(&format!("the agent{of} has ended"))?;
                exit = Exit::Unreachable;
            }
            Said::Ended(_, Ok(())) => {}
            Said::Ended(node, Err(failure)) if node.is_empty() => return Err(failure),
            // Others go on.
            Said::Ended(node, Err(failure)) => {
                out.note(&format!("{node}: {failure}"))?;
                exit = Exit::Failed;
            }
        }
    }
    // RFC 3339 of one length and zone: as text they are in the order of time.
    kept.sort_by(|a, b| a.time.cmp(&b.time));
    let most = question.last.unwrap_or(usize::MAX);
    for flow in kept.iter().skip(kept.len().saturating_sub(most)) {
        printer.print(flow, out)?;
    }
    if kept.is_empty() && !question.follow {
        out.note("no failures or denials are kept that fit; -f shows all flows that end from now on")?;
    }
    Ok(exit)
}

/// False once nobody listens.
fn listen(node: &str, line: &str, told: &SyncSender<Said>) -> Result<bool, Failure> {
    let said = match serde_json::from_str(line)? {
        FlowLine::Flow(flow) => Said::Flow(flow),
        FlowLine::Lost { lost } => Said::Lost(node.to_owned(), lost),
    };
    Ok(told.send(said).is_ok())
}

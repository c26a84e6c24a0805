//! `route test`: which rule a request would go by, where it would go, and why not by another. Exit code 3 for none.

use std::fmt::Write;
use std::path::PathBuf;

use anyhow::Error;
use clap::{Args, Subcommand};

use super::describe::{section, warning_section};
use super::output::{Out, TextFormat, document, printable};
use super::{AgentArgs, Exit, Failure, Outcome};
use crate::admin::api::{
    ConsideredMatch, InForce, RequestHead, RouteAnswer, RouteBackend, RouteOutcome, RouteQuestion, RouteRule,
};
use crate::admin::route_test;
use crate::model::build::BuildOptions;
use crate::source;

/// So many endpoints of a backend are named; the others are counted.
const NAMED: usize = 4;

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Show which rule a request would go by, where to, and why not by another; exit code 3 if none matches
    Test(TestArgs),
}

#[derive(Debug, Args)]
pub(super) struct TestArgs {
    #[command(flatten)]
    agent: AgentArgs,
    /// The client: pod/NAMESPACE/NAME, or pod/NAME in the namespace `default`
    #[arg(long, value_name = "POD")]
    from: String,
    /// What is asked for; its host is an address, or a Service as the client names it: cart, cart.shop, cart.shop.svc
    url: String,
    /// Method [default: GET, or POST with --grpc]
    #[arg(short = 'X', long, value_name = "METHOD")]
    method: Option<String>,
    /// A header of the request; any number
    #[arg(short = 'H', long = "header", value_name = "NAME: VALUE")]
    headers: Vec<String>,
    /// A gRPC call: the URL's path is /SERVICE/METHOD
    #[arg(long)]
    grpc: bool,
    /// Ask what a directory or file of objects would do, without an agent
    #[arg(long, value_name = "PATH")]
    source: Option<PathBuf>,
    /// Output format
    #[arg(short, long, value_enum, default_value_t, value_name = "FORMAT")]
    output: TextFormat,
}

pub(super) fn run(command: &Command, out: &mut Out<'_>) -> Outcome {
    let Command::Test(args) = command;
    let question = RouteQuestion {
        from: args.from.clone(),
        url: args.url.clone(),
        method: args.method.clone(),
        headers: args.headers.clone(),
        grpc: args.grpc,
    };
    let answer = match &args.source {
        Some(path) => of_directory(path, &question)?,
        None => args.agent.client()?.ask("/v1/routes/test", &question)?,
    };
    out.data(&document(args.output, &answer, text)?)?;
    Ok(match answer.outcome {
        RouteOutcome::NoMatch | RouteOutcome::Refused => Exit::No,
        _ => Exit::Ok,
    })
}

fn of_directory(path: &std::path::Path, question: &RouteQuestion) -> Result<RouteAnswer, Failure> {
    let report = source::validate(path, BuildOptions::default()).map_err(|error| {
        let context = format!("{} can't be read", path.display());
        Failure::new(Exit::BadInput, Error::new(error).context(context))
    })?;
    route_test::answer(&report.snapshot, false, &report.warnings, question).map_err(|refusal| {
        let exit = match refusal {
            route_test::Refusal::Question(_) => Exit::BadInput,
            route_test::Refusal::NoPod(_) => Exit::Failed,
        };
        Failure::new(exit, refusal)
    })
}

fn text(answer: &RouteAnswer) -> String {
    let (backends, considered) = (backends(answer), considered(answer));
    let sections = [head(answer), sent(answer), in_force(answer), backends, considered, warnings(answer)];
    sections.into_iter().filter(|section| !section.is_empty()).collect::<Vec<_>>().join("\n")
}

fn head(answer: &RouteAnswer) -> String {
    let to = match answer.address.as_str() {
        "" => answer.destination.clone(),
        address => format!("{address}, {}", answer.destination),
    };
    let mut out = String::new();
    let mut line = |name: &str, value: &str| {
        if !value.is_empty() {
            // Writing to a String can't fail.
            let name = if name.is_empty() { String::new() } else { format!("{name}:") };
            let _ = writeln!(out, "{name:<12} {}", printable(value));
        }
    };
    line("From", &answer.from);
    line("Request", &format!("{} {}", answer.request.method, answer.request.path));
    line("To", &to);
    line("Result", &answer.message);
    line("Matched", &answer.matched);
    if let Some(RouteRule { filters, .. }) = &answer.rule {
        filters.iter().for_each(|filter| line("Filter", filter));
    }
    if let Some(own) = &answer.answer {
        line("Answer", &own.status.to_string());
        own.headers.iter().for_each(|header| line("", header));
    }
    answer.notes.iter().for_each(|note| line("Note", note));
    out
}

/// What the request became, where it changed; for each backend where they differ.
fn sent(answer: &RouteAnswer) -> String {
    let mut shown: Vec<(&RequestHead, Vec<&RouteBackend>)> = Vec::new();
    for backend in answer.backends.iter().filter(|backend| backend.weight > 0) {
        let Some(request) = &backend.request else { continue };
        match shown.iter_mut().find(|(other, _)| *other == request) {
            Some((_, to)) => to.push(backend),
            None => shown.push((request, vec![backend])),
        }
    }
    let mut out = String::new();
    for (request, to) in &shown {
        if **request == answer.request {
            continue;
        }
        let whom = match shown.len() {
            1 => String::new(),
            _ => format!(" to {}", to.iter().map(|b| b.service.as_str()).collect::<Vec<_>>().join(", ")),
        };
        // Writing to a String can't fail.
        let _ = writeln!(out, "Sent{whom}:\n  {} {}", request.method, printable(&request.path));
        for header in &request.headers {
            let _ = writeln!(out, "  {}", printable(header));
        }
    }
    out
}

/// What holds on the request's way; for each backend where that differs.
fn in_force(answer: &RouteAnswer) -> String {
    let mut shown: Vec<(&[InForce], Vec<&RouteBackend>)> = Vec::new();
    let served = |backend: &&RouteBackend| {
        backend.weight > 0 && (backend.problem.is_empty() || !backend.in_force.is_empty())
    };
    for backend in answer.backends.iter().filter(served) {
        match shown.iter_mut().find(|(other, _)| *other == backend.in_force) {
            Some((_, to)) => to.push(backend),
            None => shown.push((&backend.in_force, vec![backend])),
        }
    }
    let header = ["WHAT", "HOW", "FROM"];
    let mut out = String::new();
    for (lines, to) in &shown {
        let whom = match shown.len() {
            1 => String::new(),
            _ => format!(" to {}", to.iter().map(|b| b.service.as_str()).collect::<Vec<_>>().join(", ")),
        };
        let rows = lines.iter().map(|line| vec![line.what.clone(), line.how.clone(), line.from.clone()]);
        out += &section(&format!("In force{whom}"), &header, rows);
    }
    out
}

fn backends(answer: &RouteAnswer) -> String {
    let header = ["SERVICE", "PORT", "WEIGHT", "SHARE", "ENDPOINTS", "FILTERS", "PROBLEM"];
    let total: u64 = answer.backends.iter().map(|backend| u64::from(backend.weight)).sum();
    let rows = answer.backends.iter().map(|backend| {
        let share = u64::from(backend.weight) * 1000 / total.max(1);
        vec![
            backend.service.clone(),
            if backend.port == 0 { String::new() } else { backend.port.to_string() },
            backend.weight.to_string(),
            format!("{}%", share as f64 / 10.0),
            endpoints(backend),
            backend.filters.join("; "),
            backend.problem.clone(),
        ]
    });
    section("Backends", &header, rows)
}

fn endpoints(backend: &RouteBackend) -> String {
    let used: Vec<_> = backend.endpoints.iter().filter(|endpoint| endpoint.available).collect();
    let named = used.iter().take(NAMED).map(|endpoint| endpoint.address.to_string());
    let named = named.collect::<Vec<_>>().join(",");
    match used.len().saturating_sub(NAMED) {
        0 => named,
        more => format!("{named} and {more} more"),
    }
}

fn considered(answer: &RouteAnswer) -> String {
    let header = ["ROUTE", "RULE", "MATCH", "RESULT"];
    let rows = answer
        .considered
        .iter()
        .map(|one| vec![one.route.clone(), one.rule.clone(), one.asks.clone(), result(one)]);
    section("Considered, in order of precedence", &header, rows)
}

fn result(one: &ConsideredMatch) -> String {
    match one.verdict.as_str() {
        "taken" => "taken".to_owned(),
        "later" => "matches, but comes later".to_owned(),
        _ => format!("no: {}", one.misfits.join(", ")),
    }
}

fn warnings(answer: &RouteAnswer) -> String {
    warning_section(&answer.warnings)
}

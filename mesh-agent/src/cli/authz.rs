//! `mesh-agent authz check`: whether somebody may do something, and by which rule of which policy.

use std::fmt::Write;

use clap::{Args, Subcommand};

use super::describe::section;
use super::output::{Out, TextFormat, document, printable};
use super::{AgentArgs, Exit, Failure, Outcome};
use crate::admin::api::{AuthzAnswer, AuthzQuestion, AuthzRule, AuthzTarget};

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Show which rule of which policy decides, and why others don't; exit code 3 if it is denied
    Check(CheckArgs),
}

#[derive(Debug, Args)]
pub(super) struct CheckArgs {
    #[command(flatten)]
    agent: AgentArgs,
    /// The client: pod/NAMESPACE/NAME, sa/NAMESPACE/NAME, or an address
    #[arg(long, value_name = "WHO")]
    from: String,
    /// The server: pod/NAMESPACE/NAME or svc/NAMESPACE/NAME
    #[arg(long, value_name = "WHAT")]
    to: String,
    /// Port of the pod, or of the Service [default: the only one]
    #[arg(long, value_name = "PORT")]
    port: Option<u16>,
    /// Method of a request [default: GET]
    #[arg(short = 'X', long, value_name = "METHOD")]
    method: Option<String>,
    /// Path of a request [default: /]
    #[arg(long, value_name = "PATH")]
    path: Option<String>,
    /// Host of a request [default: the name of what is called]
    #[arg(long, value_name = "HOST")]
    host: Option<String>,
    /// A header of a request; any number
    #[arg(short = 'H', long = "header", value_name = "NAME: VALUE")]
    headers: Vec<String>,
    /// A token that a request brings, judged as the data path does; @FILE reads it; or claims as JSON, taken for valid
    #[arg(long, value_name = "TOKEN")]
    jwt: Option<String>,
    /// Output format
    #[arg(short, long, value_enum, default_value_t, value_name = "FORMAT")]
    output: TextFormat,
}

pub(super) fn run(command: &Command, out: &mut Out<'_>) -> Outcome {
    let Command::Check(args) = command;
    let question = AuthzQuestion {
        from: args.from.clone(),
        to: args.to.clone(),
        port: args.port,
        method: args.method.clone(),
        path: args.path.clone(),
        host: args.host.clone(),
        headers: args.headers.clone(),
        jwt: args.jwt.as_deref().map(token).transpose()?,
    };
    let answer: AuthzAnswer = args.agent.client()?.ask("/v1/authz/check", &question)?;
    out.data(&document(args.output, &answer, text)?)?;
    Ok(if answer.allowed { Exit::Ok } else { Exit::No })
}

/// The token, or that of `@FILE`: an argument is seen by whoever lists processes.
fn token(text: &str) -> Result<String, Failure> {
    let Some(path) = text.strip_prefix('@') else { return Ok(text.to_owned()) };
    let read = std::fs::read_to_string(path);
    let unreadable =
        |error| Failure::message(Exit::BadInput, format!("can't read the token in {path}: {error}"));
    let read = read.map_err(unreadable)?;
    Ok(read.trim().to_owned())
}

fn text(answer: &AuthzAnswer) -> String {
    let sections = std::iter::once(head(answer)).chain(answer.targets.iter().map(target));
    sections.collect::<Vec<_>>().join("\n")
}

fn head(answer: &AuthzAnswer) -> String {
    let mut out = String::new();
    let mut line = |name: &str, value: &str| {
        // Writing to a String can't fail.
        let _ = writeln!(out, "{:<12} {}", format!("{name}:"), printable(value));
    };
    line("From", &format!("{}, {}", answer.from, answer.address));
    line("Identity", if answer.identity.is_empty() { "none is proven" } else { &answer.identity });
    line("Asks for", &answer.asked);
    line("Result", if answer.allowed { "allowed" } else { "denied" });
    answer.notes.iter().for_each(|note| line("Note", note));
    out
}

fn target(target: &AuthzTarget) -> String {
    let verdict = if target.allowed { "allowed" } else { "denied" };
    let mut out = String::new();
    let mut line = |name: &str, value: &str| {
        let _ = writeln!(out, "{:<12} {}", format!("{name}:"), printable(value));
    };
    line("To", &format!("pod {}, {}", target.workload, target.address));
    line("Verdict", &format!("{verdict}: {}", target.reason));
    target.token.iter().for_each(|token| line("Token", token));
    target.asks.iter().for_each(|asks| line("Asks first", asks));
    target.dry_run.iter().for_each(|dry_run| line("Dry run", dry_run));
    let header = ["POLICY", "RULE", "ACTION", "RESULT"];
    let rows = target.rules.iter().map(|rule| {
        let action = if rule.dry_run { format!("{} (dry run)", rule.action) } else { rule.action.clone() };
        vec![rule.policy.clone(), rule.rule.to_string(), action, result(rule)]
    });
    out + &section("Rules, in the order in which they are asked", &header, rows)
}

fn result(rule: &AuthzRule) -> String {
    match (rule.decides, rule.fits) {
        (true, _) => "decides".to_owned(),
        (false, true) => "matches".to_owned(),
        (false, false) => format!("no: {}", printable(&rule.why_not.join("; "))),
    }
}

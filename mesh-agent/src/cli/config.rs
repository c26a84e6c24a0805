//! `config`: what is in force, what was, and what is wrong with it.

mod diff;
mod history;
mod rollback;

use std::fmt::Write;
use std::path::PathBuf;

use anyhow::Error;
use clap::{Args, Subcommand};
use serde::Serialize;

use super::output::{Format, Out, Row, TextFormat, count, document, json, list};
use super::{AgentArgs, Exit, Failure, Outcome, watch};
use crate::admin::api::{Dump, Warning};
use crate::model::Severity;
use crate::model::build::BuildOptions;
use crate::source;

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Print all that decides about traffic, for `get --file` or a bug report
    Dump {
        #[command(flatten)]
        agent: AgentArgs,
        /// Output format
        #[arg(short, long, value_parser = ["json", "yaml"], default_value = "json", value_name = "FORMAT")]
        output: String,
    },
    /// Check a directory or file of objects without an agent; exit code 79 if something is wrong
    Validate(Validate),
    /// List what is wrong with the configuration in force; exit code 79 if anything is
    Warnings(Warnings),
    /// List the generations that are kept, the newest first, and what each changed
    History(history::Args),
    /// Show how two generations differ, field by field; exit code 3 if they do
    Diff(diff::Args),
    /// Put an earlier generation back in force, until the source changes
    Rollback(rollback::Args),
}

#[derive(Debug, Args)]
pub(super) struct Validate {
    /// Directory or file, as for `run --source dir:PATH`
    path: PathBuf,
    /// Also what concerns only this node's pods
    #[arg(long, value_name = "NAME", default_value = "", hide_default_value = true)]
    node_name: String,
    /// Output format
    #[arg(short, long, value_enum, default_value_t, value_name = "FORMAT")]
    output: TextFormat,
}

#[derive(Debug, Args)]
pub(super) struct Warnings {
    #[command(flatten)]
    agent: AgentArgs,
    /// Output format
    #[arg(short, long, value_enum, default_value_t, value_name = "FORMAT")]
    output: Format,
    /// Print again whenever something changes
    #[arg(short, long)]
    watch: bool,
}

pub(super) fn run(command: &Command, out: &mut Out<'_>) -> Outcome {
    match command {
        Command::Dump { agent, output } => {
            let dump: Dump = agent.client()?.get("/v1/config")?;
            let text = if output == "yaml" { serde_yaml_ng::to_string(&dump)? } else { json(&dump)? };
            out.data(&text)?;
            Ok(Exit::Ok)
        }
        Command::Validate(args) => validate(args, out),
        Command::Warnings(args) => warnings(args, out),
        Command::History(args) => history::run(args, out),
        Command::Diff(args) => diff::run(args, out),
        Command::Rollback(args) => rollback::run(args, out),
    }
}

/// What `validate` prints as JSON or YAML.
#[derive(Serialize)]
struct Validation {
    objects: usize,
    warnings: Vec<Warning>,
}

fn validate(args: &Validate, out: &mut Out<'_>) -> Outcome {
    let options = BuildOptions { node: args.node_name.clone(), ..BuildOptions::default() };
    let report = source::validate(&args.path, options).map_err(|error| {
        let context = format!("{} can't be read", args.path.display());
        Failure::new(Exit::BadInput, Error::new(error).context(context))
    })?;
    let validation = Validation { objects: report.objects, warnings: report.warnings };
    out.data(&document(args.output, &validation, |v| lines(&v.warnings))?)?;
    let issues = validation.warnings.len();
    if args.output == TextFormat::Text {
        let objects = count(validation.objects, "object");
        let found = if issues == 0 { "no issues found".to_owned() } else { count(issues, "issue") };
        out.note(&format!("{objects} in force, {found}"))?;
    }
    Ok(exit_for(&validation.warnings))
}

/// One line a warning, in the order in which istioctl's `analyze` has the parts.
fn lines(warnings: &[Warning]) -> String {
    let mut out = String::new();
    for w in warnings {
        let place: Vec<&str> = [&w.object, &w.field, &w.origin]
            .into_iter()
            .map(String::as_str)
            .filter(|p| !p.is_empty())
            .collect();
        // Writing to a String can't fail.
        let _ = writeln!(out, "Warning [{}] ({}) {}", w.code, place.join(" "), w.message);
    }
    out
}

fn warnings(args: &Warnings, out: &mut Out<'_>) -> Outcome {
    let client = args.agent.client()?;
    let mut exit = Exit::Ok;
    watch::show(args.watch, out, || {
        let warnings: Vec<Warning> = client.get("/v1/warnings")?;
        exit = exit_for(&warnings);
        list(args.output, &warnings)
    })?;
    Ok(exit)
}

/// Notes alone are no issues.
fn exit_for(warnings: &[Warning]) -> Exit {
    let any = warnings.iter().any(|warning| warning.severity() != Severity::Info);
    if any { Exit::Issues } else { Exit::Ok }
}

impl Row for Warning {
    const HEADER: &'static [&'static str] = &["CODE", "OBJECT", "FIELD", "ORIGIN", "MESSAGE"];
    const PLAIN: usize = 5;

    fn cells(&self) -> Vec<String> {
        [&self.code, &self.object, &self.field, &self.origin, &self.message].map(Clone::clone).to_vec()
    }

    fn name(&self) -> String {
        format!("{} {}", self.code, self.object)
    }
}

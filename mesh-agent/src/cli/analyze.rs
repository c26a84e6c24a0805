//! `analyze`: everything that is wrong with the configuration, by severity; of the running agent, or of a directory.

use std::fmt::Write;
use std::path::PathBuf;

use anyhow::Error;
use clap::Args as ClapArgs;
use serde::Serialize;

use super::output::{Format, Out, Row, count, list, printable};
use super::style::{Mark, Style};
use super::{AgentArgs, Exit, Failure, Outcome, watch};
use crate::admin::api::Warning;
use crate::model::build::BuildOptions;
use crate::model::{Severity, WarningCode};
use crate::source;

/// `-o` of `analyze`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
enum AnalyzeFormat {
    /// Text for people, by severity
    #[default]
    Text,
    /// Aligned columns
    Table,
    /// The same with every column
    Wide,
    /// JSON
    Json,
    /// YAML
    Yaml,
    /// Codes and objects, one a line
    Name,
}

#[derive(Debug, ClapArgs)]
pub(super) struct Args {
    #[command(flatten)]
    agent: AgentArgs,
    /// A directory or file of objects to look at instead of asking the agent
    #[arg(value_name = "PATH")]
    path: Option<PathBuf>,
    /// With a path: also what concerns only this node's pods
    #[arg(long, value_name = "NAME", requires = "path", default_value = "", hide_default_value = true)]
    node_name: String,
    /// Output format
    #[arg(short, long, value_enum, default_value_t, value_name = "FORMAT")]
    output: AnalyzeFormat,
    /// Exit with 79 from this severity on
    #[arg(long, value_enum, default_value_t, value_name = "SEVERITY")]
    failure_threshold: Threshold,
    /// Print again whenever something changes
    #[arg(short, long)]
    watch: bool,
}

/// As istioctl's flag of this name, but for the default: here a warning counts, which may be a rule that gets no request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
enum Threshold {
    /// Something that was asked for isn't in force
    Error,
    /// Maybe not as it was meant
    #[default]
    Warning,
    /// Notes too
    Info,
}

impl Threshold {
    fn severity(self) -> Severity {
        match self {
            Self::Error => Severity::Error,
            Self::Warning => Severity::Warning,
            Self::Info => Severity::Info,
        }
    }
}

/// A warning with what its code says of it.
#[derive(Serialize)]
struct Finding {
    severity: Severity,
    #[serde(flatten)]
    warning: Warning,
    /// What the code means, and where that is written.
    hint: String,
}

pub(super) fn run(args: &Args, out: &mut Out<'_>) -> Outcome {
    let style = out.style;
    let mut issues = false;
    watch::show_or(args.watch, "no issues found", out, || {
        let findings = find(args)?;
        issues = findings.iter().any(|finding| finding.severity <= args.failure_threshold.severity());
        match args.output {
            AnalyzeFormat::Text if findings.is_empty() => Ok(None),
            AnalyzeFormat::Text => Ok(Some(text(&findings, style))),
            AnalyzeFormat::Table => list(Format::Table, &findings),
            AnalyzeFormat::Wide => list(Format::Wide, &findings),
            AnalyzeFormat::Name => list(Format::Name, &findings),
            AnalyzeFormat::Json => list(Format::Json, &findings),
            AnalyzeFormat::Yaml => list(Format::Yaml, &findings),
        }
    })?;
    Ok(if issues { Exit::Issues } else { Exit::Ok })
}

/// The worst first.
fn find(args: &Args) -> Result<Vec<Finding>, Failure> {
    let warnings: Vec<Warning> = match &args.path {
        Some(path) => of_path(path, &args.node_name)?,
        None => args.agent.client()?.get("/v1/warnings")?,
    };
    let mut findings: Vec<Finding> = warnings.into_iter().map(Finding::new).collect();
    findings.sort_by(|a, b| (a.severity, &a.warning).cmp(&(b.severity, &b.warning)));
    Ok(findings)
}

fn of_path(path: &std::path::Path, node: &str) -> Result<Vec<Warning>, Failure> {
    let options = BuildOptions { node: node.to_owned(), ..BuildOptions::default() };
    let report = source::validate(path, options).map_err(|error| {
        let context = format!("{} can't be read", path.display());
        Failure::new(Exit::BadInput, Error::new(error).context(context))
    })?;
    Ok(report.warnings)
}

impl Finding {
    fn new(warning: Warning) -> Self {
        let code = WarningCode::find(&warning.code);
        let hint = match code {
            Some(code) => format!("{} (docs/warnings.md)", code.doc()),
            None => "a code of a newer agent: see its docs/warnings.md".to_owned(),
        };
        Self { severity: warning.severity(), warning, hint }
    }
}

/// A heading for each severity, a paragraph for each finding, a hint after the last one of a code.
fn text(findings: &[Finding], style: Style) -> String {
    let mut out = String::new();
    for (severity, noun, mark) in [
        (Severity::Error, "error", Mark::Bad),
        (Severity::Warning, "warning", Mark::Warn),
        (Severity::Info, "note", Mark::Good),
    ] {
        let of_it: Vec<&Finding> = findings.iter().filter(|finding| finding.severity == severity).collect();
        if of_it.is_empty() {
            continue;
        }
        // Writing to a String can't fail.
        let _ = writeln!(out, "{}", style.paint(mark, &count(of_it.len(), noun)));
        for (at, finding) in of_it.iter().enumerate() {
            let w = &finding.warning;
            let parts = [&w.object, &w.field].into_iter().filter(|part| !part.is_empty());
            let place = parts.map(String::as_str).collect::<Vec<_>>().join(" ");
            let at_origin = if w.origin.is_empty() { String::new() } else { format!(" ({})", w.origin) };
            let _ = writeln!(out, "  {} {}", w.code, printable(format!("{place}{at_origin}").trim_start()));
            let _ = writeln!(out, "    {}", printable(&w.message));
            if of_it.get(at + 1).is_none_or(|next| next.warning.code != w.code) {
                let _ = writeln!(out, "    hint: {}", finding.hint);
            }
        }
    }
    out
}

impl Row for Finding {
    const HEADER: &'static [&'static str] = &["SEVERITY", "CODE", "OBJECT", "FIELD", "ORIGIN", "MESSAGE"];
    const PLAIN: usize = 6;

    fn cells(&self) -> Vec<String> {
        let severity = match self.severity {
            Severity::Error => "error",
            Severity::Warning => "warning",
            Severity::Info => "info",
        };
        let w = &self.warning;
        let rest = [&w.code, &w.object, &w.field, &w.origin, &w.message].map(Clone::clone);
        std::iter::once(severity.to_owned()).chain(rest).collect()
    }

    fn name(&self) -> String {
        format!("{} {}", self.warning.code, self.warning.object)
    }
}

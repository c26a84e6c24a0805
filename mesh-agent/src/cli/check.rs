//! `check`: does this machine have what the agent needs, or with `--pre` a cluster? Printed as `linkerd check` prints it; fails
//! with exit code 1.

mod cluster;
mod local;

use std::fmt::Write;
use std::net::SocketAddr;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::output::{Out, TextFormat, document};
use super::style::{Mark, Style};
use super::{AgentArgs, Exit, Outcome};
use crate::kernel::{self, Check, CheckResult};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    agent: AgentArgs,
    /// Where the agent's pins shall be
    #[arg(long, env = "MESH_AGENT_BPFFS_DIR", default_value = "/sys/fs/bpf/mesh-agent", value_name = "DIR")]
    bpffs_dir: PathBuf,
    /// Where the agent shall serve metrics
    #[arg(long, env = "MESH_AGENT_METRICS_ADDRESS", default_value = "0.0.0.0:15020", value_name = "IP:PORT")]
    metrics_address: SocketAddr,
    /// Check a cluster before anything is installed there, by its API server
    #[arg(long, conflicts_with_all = ["node", "all_nodes"])]
    pre: bool,
    /// Output format
    #[arg(short, long, value_enum, default_value_t, value_name = "FORMAT")]
    output: TextFormat,
}

/// Checks under one heading.
#[derive(Clone, Debug, Deserialize, Serialize)]
struct Section {
    title: String,
    checks: Vec<Check>,
}

impl Section {
    fn new(title: &str, checks: Vec<Check>) -> Self {
        Self { title: title.to_owned(), checks }
    }
}

pub(super) fn run(args: &Args, out: &mut Out<'_>) -> Outcome {
    let sections = match (args.pre, &args.agent.node) {
        (true, _) => cluster::sections(&args.agent.cluster())?,
        // By the agent's own command line, with its own settings.
        (false, Some(_)) => serde_json::from_str(&args.agent.run_there(&["check", "-o", "json"])?)?,
        (false, None) => vec![
            Section::new("kernel", kernel::checks()),
            Section::new("agent", local::agent(&args.agent, &args.bpffs_dir)),
            Section::new("ports", local::ports(args.metrics_address, &args.agent)),
        ],
    };
    let failed = sections.iter().flat_map(|s| &s.checks).any(|c| c.result == CheckResult::Fail);
    let style = out.style;
    out.data(&document(args.output, &sections, |sections| render(sections, style))?)?;
    Ok(if failed { Exit::Failed } else { Exit::Ok })
}

fn render(sections: &[Section], style: Style) -> String {
    let mut out = String::new();
    for section in sections {
        // Writing to a String can't fail.
        let _ = writeln!(out, "{}\n{}", section.title, "-".repeat(section.title.len()));
        for check in &section.checks {
            let _ = writeln!(out, "{} {}", style.mark(mark(check)), headline(check));
            if check.result != CheckResult::Ok && !check.hint.is_empty() {
                let _ = writeln!(out, "    {}", check.hint);
            }
        }
        out.push('\n');
    }
    let worst = sections.iter().flat_map(|s| &s.checks).map(mark).max();
    let _ = writeln!(out, "Status check results are {}", style.mark(worst.unwrap_or(Mark::Good)));
    out
}

fn mark(check: &Check) -> Mark {
    match check.result {
        CheckResult::Ok => Mark::Good,
        CheckResult::Warn => Mark::Warn,
        CheckResult::Fail => Mark::Bad,
    }
}

fn headline(check: &Check) -> String {
    if check.detail.is_empty() { check.name.clone() } else { format!("{} ({})", check.name, check.detail) }
}

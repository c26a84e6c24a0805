//! `bpf`: programs, maps and decisions of the kernel side, by the names that the documentation uses.

mod purge;

use clap::{Args, Subcommand};

use super::output::{Format, Out, Row, list};
use super::{AgentArgs, Outcome, watch};
use crate::admin::api::{Kernel, Map, Program, Reason};

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Loaded programs and where they are attached
    #[command(visible_alias = "progs")]
    Programs(Common),
    /// Maps and how full they are
    Maps(Common),
    /// What the programs decided, by numbered reason
    Reasons {
        #[command(flatten)]
        common: Common,
        /// Also reasons that never occurred
        #[arg(short, long)]
        all: bool,
    },
    /// Remove what a stopped agent left in the kernel: its pods are let go, whatever their fail mode
    Purge(purge::Args),
}

#[derive(Debug, Args)]
pub(super) struct Common {
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
        Command::Programs(common) => common.show(|kernel| kernel.programs, out),
        Command::Maps(common) => common.show(|kernel| kernel.maps, out),
        Command::Reasons { common, all } => {
            let wanted = |reason: &Reason| *all || reason.count > 0;
            common.show(|kernel| kernel.reasons.into_iter().filter(wanted).collect(), out)
        }
        Command::Purge(args) => purge::run(args, out),
    }
}

impl Common {
    fn show<T: Row>(&self, part: impl Fn(Kernel) -> Vec<T>, out: &mut Out<'_>) -> Outcome {
        let client = self.agent.client()?;
        watch::show(self.watch, out, || list(self.output, &part(client.get("/v1/bpf")?)))
    }
}

impl Row for Program {
    const HEADER: &'static [&'static str] = &["NAME", "ID", "HOOK", "ATTACHED", "RUNS", "NS/RUN", "WHERE"];
    const PLAIN: usize = 6;

    fn cells(&self) -> Vec<String> {
        // Without the sysctl kernel.bpf_stats_enabled the kernel counts nothing.
        let runs = if self.run_count > 0 { self.run_count.to_string() } else { String::new() };
        let per_run = self.run_time_ns.checked_div(self.run_count);
        vec![
            self.name.clone(),
            self.id.to_string(),
            self.hook.clone(),
            self.attached_to.len().to_string(),
            runs,
            per_run.map(|ns| ns.to_string()).unwrap_or_default(),
            self.attached_to.join(","),
        ]
    }

    fn name(&self) -> String {
        self.name.clone()
    }
}

impl Row for Map {
    const HEADER: &'static [&'static str] = &["NAME", "TYPE", "ENTRIES", "MAX", "PIN"];
    const PLAIN: usize = 4;

    fn cells(&self) -> Vec<String> {
        vec![
            self.name.clone(),
            self.kind.clone(),
            self.entries.map(|n| n.to_string()).unwrap_or_default(),
            self.max_entries.to_string(),
            self.pin.clone(),
        ]
    }

    fn name(&self) -> String {
        self.name.clone()
    }
}

impl Row for Reason {
    const HEADER: &'static [&'static str] = &["NUMBER", "REASON", "COUNT"];
    const PLAIN: usize = 3;

    fn cells(&self) -> Vec<String> {
        vec![self.number.to_string(), self.reason.clone(), self.count.to_string()]
    }

    fn name(&self) -> String {
        self.reason.clone()
    }
}

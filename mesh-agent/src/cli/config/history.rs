//! `config history`: the generations that are kept, a line each.

use std::collections::BTreeMap;

use crate::admin::api::HistoryEntry;
use crate::cli::output::{Format, Out, Row, list, utc};
use crate::cli::{AgentArgs, Exit, Outcome, watch};
use crate::history::Operation;

/// More objects than this are counted, not named.
const NAMED: usize = 3;

#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Args {
    #[command(flatten)]
    agent: AgentArgs,
    /// Output format
    #[arg(short, long, value_enum, default_value_t, value_name = "FORMAT")]
    output: Format,
    /// Print again whenever something changes
    #[arg(short, long)]
    watch: bool,
}

pub(super) fn run(args: &Args, out: &mut Out<'_>) -> Outcome {
    let client = args.agent.client()?;
    watch::show(args.watch, out, || {
        let entries: Vec<HistoryEntry> = client.get("/v1/config/history")?;
        list(args.output, &entries)
    })?;
    Ok(Exit::Ok)
}

impl Row for HistoryEntry {
    const HEADER: &'static [&'static str] = &["GENERATION", "TIME", "WARNINGS", "CHANGES", "DISCOVERY"];
    const PLAIN: usize = 4;

    fn cells(&self) -> Vec<String> {
        vec![
            self.generation.to_string(),
            utc(self.time),
            self.warnings.to_string(),
            summary(self),
            self.discovery.to_string(),
        ]
    }

    fn name(&self) -> String {
        self.generation.to_string()
    }
}

/// What a generation changed, in one line.
fn summary(entry: &HistoryEntry) -> String {
    let cause = match (entry.cause.as_str(), entry.rolled_back_to) {
        ("rollback", Some(to)) => Some(format!("rolled back to {to}")),
        ("release", _) => Some("released".to_owned()),
        _ => None,
    };
    let changes = [Operation::Added, Operation::Changed, Operation::Removed]
        .into_iter()
        .filter_map(|operation| objects(entry, operation));
    let changes = changes.collect::<Vec<_>>().join("; ");
    match cause {
        Some(cause) if changes.is_empty() => cause,
        Some(cause) => format!("{cause}: {changes}"),
        None => changes,
    }
}

/// `added Service shop/cart, Service shop/web`, or `added 12 Service, 1 Namespace`.
fn objects(entry: &HistoryEntry, operation: Operation) -> Option<String> {
    let of_it = entry.changes.iter().filter(|change| change.change == operation);
    let names: Vec<&str> = of_it.map(|change| change.object.as_str()).collect();
    let told = match names.len() {
        0 => return None,
        1..=NAMED => names.join(", "),
        _ => by_kind(&names),
    };
    Some(format!("{} {told}", operation.label()))
}

fn by_kind(names: &[&str]) -> String {
    let mut kinds: BTreeMap<&str, usize> = BTreeMap::new();
    for name in names {
        *kinds.entry(name.split(' ').next().unwrap_or_default()).or_default() += 1;
    }
    kinds.iter().map(|(kind, count)| format!("{count} {kind}")).collect::<Vec<_>>().join(", ")
}

//! `metrics`: which families of metrics there are, how many series each has, and which labels make them.

mod families;

use clap::Args;
use regex::Regex;
use serde::Serialize;

use super::output::{Format, Out, Row, list};
use super::{AgentArgs, Exit, Failure, Outcome};
use families::{Family, parse};

/// Labels of a family that a plain table names.
const NAMED: usize = 3;
/// Values of a label that are named.
const VALUES: usize = 3;

#[derive(Debug, Args)]
pub(super) struct MetricsArgs {
    #[command(flatten)]
    agent: AgentArgs,
    /// Only families whose name this regular expression finds something in
    #[arg(long, value_name = "REGEX")]
    filter: Option<String>,
    /// A line for each label: how many values it has, and which have most series
    #[arg(long)]
    cardinality: bool,
    /// Output format
    #[arg(short, long, value_enum, default_value_t, value_name = "FORMAT")]
    output: Format,
}

pub(super) fn run(args: &MetricsArgs, out: &mut Out<'_>) -> Outcome {
    let filter = args.filter.as_deref().map(Regex::new).transpose().map_err(|error| {
        Failure::new(Exit::Usage, anyhow::Error::new(error).context("--filter is no regular expression"))
    })?;
    let mut families = parse(&args.agent.client()?.text("/v1/metrics")?);
    families.retain(|family| filter.as_ref().is_none_or(|filter| filter.is_match(&family.name)));
    families.sort_by(|a, b| b.series.cmp(&a.series).then_with(|| a.name.cmp(&b.name)));
    let text = if args.cardinality {
        let labels: Vec<LabelRow> = families.iter().flat_map(LabelRow::of).collect();
        list(args.output, &labels)?
    } else {
        let rows: Vec<FamilyRow> = families.iter().map(FamilyRow::of).collect();
        list(args.output, &rows)?
    };
    match text {
        Some(text) => out.data(&text)?,
        None => out.note("nothing found")?,
    }
    Ok(Exit::Ok)
}

/// One family.
#[derive(Debug, Serialize)]
struct FamilyRow {
    name: String,
    kind: String,
    series: usize,
    /// Labels and how many values each has, those with most first; without those that are always the same.
    labels: Vec<(String, usize)>,
}

impl FamilyRow {
    fn of(family: &Family) -> Self {
        let varying = family.labels.iter().filter(|label| label.values.len() > 1);
        let labels = varying.map(|label| (label.name.clone(), label.values.len())).collect();
        Self { name: family.name.clone(), kind: family.kind.clone(), series: family.series, labels }
    }
}

impl Row for FamilyRow {
    const HEADER: &'static [&'static str] = &["FAMILY", "TYPE", "SERIES", "LABELS", "MORE"];
    const PLAIN: usize = 4;

    fn cells(&self) -> Vec<String> {
        let named = |labels: &[(String, usize)]| {
            labels.iter().map(|(name, values)| format!("{name}={values}")).collect::<Vec<_>>().join(",")
        };
        let (first, more) = self.labels.split_at(self.labels.len().min(NAMED));
        vec![self.name.clone(), self.kind.clone(), self.series.to_string(), named(first), named(more)]
    }

    fn name(&self) -> String {
        self.name.clone()
    }
}

/// One label of one family.
#[derive(Debug, Serialize)]
struct LabelRow {
    family: String,
    label: String,
    values: usize,
    /// The values with most series, and how many.
    most: Vec<(String, usize)>,
}

impl LabelRow {
    fn of(family: &Family) -> impl Iterator<Item = Self> {
        family.labels.iter().map(|label| Self {
            family: family.name.clone(),
            label: label.name.clone(),
            values: label.values.len(),
            most: label.values.iter().take(VALUES).cloned().collect(),
        })
    }
}

impl Row for LabelRow {
    const HEADER: &'static [&'static str] = &["FAMILY", "LABEL", "VALUES", "MOST SERIES"];
    const PLAIN: usize = 4;

    fn cells(&self) -> Vec<String> {
        let most: Vec<_> = self.most.iter().map(|(value, series)| format!("{value}={series}")).collect();
        vec![self.family.clone(), self.label.clone(), self.values.to_string(), most.join(",")]
    }

    fn name(&self) -> String {
        format!("{} {}", self.family, self.label)
    }
}

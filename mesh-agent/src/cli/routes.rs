//! `routes`: success, rate and latency by rule of a route, as clients see it.

use std::collections::BTreeMap;

use clap::Args;
use serde::Serialize;

use super::live::LiveArgs;
use super::live::fleet::Fleet;
use super::live::sum::{Shown, Sum};
use super::output::{Format, Out, Row, list};
use super::{Exit, Failure, Outcome, watch};
use crate::admin::api::LiveRoutes;

#[derive(Debug, Args)]
pub(super) struct RoutesArgs {
    #[command(flatten)]
    live: LiveArgs,
    /// Output format
    #[arg(short, long, value_enum, default_value_t, value_name = "FORMAT")]
    output: Format,
    /// Print again whenever something changes
    #[arg(short, long)]
    watch: bool,
}

/// One rule, for the requests to one Service.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(super) struct RouteStat {
    pub kind: String,
    /// `NAMESPACE/NAME`.
    pub route: String,
    /// Its name, or else its place from 0.
    pub rule: String,
    /// `NAMESPACE/NAME`.
    pub service: String,
    #[serde(flatten)]
    pub figures: Shown,
}

pub(super) fn run(args: &RoutesArgs, out: &mut Out<'_>) -> Outcome {
    if args.live.from.is_some() {
        return Err(Failure::message(
            Exit::Usage,
            "rules don't tell clients apart: --from can't be asked for",
        )
        .hint("`mesh-agent edges --from` shows what a workload calls"));
    }
    let fleet = Fleet::of(&args.live.agent)?;
    let path = args.live.path("routes");
    let mut first = Some(fleet.get(&path)?);
    fleet.note(out)?;
    watch::show(args.watch, out, || {
        let nodes = match first.take() {
            Some(nodes) => nodes,
            None => fleet.get(&path)?,
        };
        list(args.output, &rules(&args.live, &nodes))
    })
}

/// Routes are gone by where clients are, so that no request is in the figures of two nodes.
pub(super) fn rules(args: &LiveArgs, nodes: &[LiveRoutes]) -> Vec<RouteStat> {
    let mut rows: BTreeMap<[&str; 5], Sum> = BTreeMap::new();
    for rule in nodes.iter().flat_map(|node| &node.routes) {
        let wanted = args.to.as_ref().is_none_or(|to| to.is(&rule.service_namespace, &rule.service));
        if wanted && args.has(&rule.service_namespace) {
            let place = [&rule.route, &rule.rule, &rule.service_namespace, &rule.service, &rule.kind]
                .map(String::as_str);
            rows.entry(place).or_default().add_route(rule);
        }
    }
    let row = |([route, rule, namespace, service, kind], sum): ([&str; 5], Sum)| RouteStat {
        kind: kind.to_owned(),
        route: route.to_owned(),
        rule: rule.to_owned(),
        service: format!("{namespace}/{service}"),
        figures: sum.shown(),
    };
    rows.into_iter().map(row).collect()
}

impl Row for RouteStat {
    const HEADER: &'static [&'static str] = &[
        "ROUTE",
        "RULE",
        "SERVICE",
        "SUCCESS",
        "RPS",
        "LATENCY_P50",
        "LATENCY_P95",
        "LATENCY_P99",
        "KIND",
        "REQUESTS",
    ];
    const PLAIN: usize = 8;

    fn cells(&self) -> Vec<String> {
        let [p50, p95, p99] = self.figures.latencies();
        vec![
            self.route.clone(),
            self.rule.clone(),
            self.service.clone(),
            self.figures.success_text(),
            self.figures.rps_text(),
            p50,
            p95,
            p99,
            self.kind.clone(),
            self.figures.requests.to_string(),
        ]
    }

    fn name(&self) -> String {
        format!("{}/{}", self.route, self.rule)
    }
}

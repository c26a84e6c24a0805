//! `edges`: who calls whom, and whether in mutual TLS; as a table, or as a picture for Graphviz or Mermaid.

mod picture;

use std::collections::{BTreeMap, BTreeSet};

use clap::{Args, ValueEnum};
use serde::Serialize;

use super::live::LiveArgs;
use super::live::fleet::Fleet;
use super::live::merge::{self, Edge};
use super::live::sum::{Shown, Sum};
use super::output::{Format, Out, Row, list};
use super::{Outcome, watch};
use crate::admin::api::LiveEdges;

#[derive(Debug, Args)]
pub(super) struct EdgesArgs {
    #[command(flatten)]
    live: LiveArgs,
    /// Output format
    #[arg(short, long, value_enum, default_value_t, value_name = "FORMAT")]
    output: EdgesFormat,
    /// Print again whenever something changes
    #[arg(short, long)]
    watch: bool,
}

/// `-o` of edges.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(super) enum EdgesFormat {
    /// Aligned columns
    #[default]
    Table,
    /// More columns
    Wide,
    /// JSON
    Json,
    /// YAML
    Yaml,
    /// Names only, one a line
    Name,
    /// A graph for Graphviz: pipe it to `dot -Tsvg`
    Dot,
    /// A graph for Mermaid, which Markdown viewers draw
    Mermaid,
}

/// Two workloads, over everything that passes between them.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(super) struct Pair {
    pub source: String,
    pub destination: String,
    pub source_namespace: String,
    pub destination_namespace: String,
    /// `mutual_tls`, `none`, or `unknown`.
    pub security: String,
    pub client_id: String,
    pub server_id: String,
    /// Services that are called.
    pub services: BTreeSet<String>,
    pub protocols: BTreeSet<String>,
    #[serde(flatten)]
    pub figures: Shown,
}

pub(super) fn run(args: &EdgesArgs, out: &mut Out<'_>) -> Outcome {
    let fleet = Fleet::of(&args.live.agent)?;
    let path = args.live.path("edges");
    let mut first = Some(fleet.get(&path)?);
    fleet.note(out)?;
    watch::show(args.watch, out, || {
        let nodes = match first.take() {
            Some(nodes) => nodes,
            None => fleet.get(&path)?,
        };
        let pairs = pairs(&args.live, &nodes);
        let format = match args.output {
            EdgesFormat::Dot => return Ok(Some(picture::dot(&pairs))),
            EdgesFormat::Mermaid => return Ok(Some(picture::mermaid(&pairs))),
            EdgesFormat::Table => Format::Table,
            EdgesFormat::Wide => Format::Wide,
            EdgesFormat::Json => Format::Json,
            EdgesFormat::Yaml => Format::Yaml,
            EdgesFormat::Name => Format::Name,
        };
        list(format, &pairs)
    })
}

/// What passes --from, --to and -n: one end in the namespace is enough.
pub(super) fn pairs(args: &LiveArgs, nodes: &[LiveEdges]) -> Vec<Pair> {
    let mut pairs = together(merge::edges(nodes).into_iter().filter(|edge| args.takes(edge)));
    pairs.retain(|pair| args.has(&pair.source_namespace) || args.has(&pair.destination_namespace));
    pairs
}

/// By pair and how it is secured. A destination that isn't a pod stands by the name of its service.
pub(super) fn together(edges: impl Iterator<Item = Edge>) -> Vec<Pair> {
    let mut rows: BTreeMap<[String; 5], (Pair, Sum)> = BTreeMap::new();
    for edge in edges {
        let (source, to) = (edge.key.source, edge.key.destination);
        let (namespace, destination) = match to.workload.as_str() {
            "unknown" => (&to.service_namespace, &to.service),
            _ => (&to.namespace, &to.workload),
        };
        let place = [&source.namespace, &source.workload, namespace, destination, &edge.key.security]
            .map(Clone::clone);
        let (pair, sum) = rows.entry(place).or_insert_with(|| {
            let pair = Pair {
                source: source.workload.clone(),
                destination: destination.clone(),
                source_namespace: source.namespace.clone(),
                destination_namespace: namespace.clone(),
                security: edge.key.security.clone(),
                client_id: source.principal.clone(),
                server_id: to.principal.clone(),
                services: BTreeSet::new(),
                protocols: BTreeSet::new(),
                figures: Sum::default().shown(),
            };
            (pair, Sum::default())
        });
        pair.services.insert(format!("{}/{}", to.service_namespace, to.service));
        pair.protocols.insert(edge.key.protocol);
        sum.merge(&edge.sum);
    }
    rows.into_values().map(|(pair, sum)| Pair { figures: sum.shown(), ..pair }).collect()
}

impl Pair {
    /// True if all of it is in mutual TLS.
    pub(super) fn is_secured(&self) -> bool {
        self.security == "mutual_tls"
    }
}

impl Row for Pair {
    const HEADER: &'static [&'static str] = &[
        "SRC",
        "DST",
        "SRC_NS",
        "DST_NS",
        "SECURED",
        "CLIENT_ID",
        "SERVER_ID",
        "SERVICES",
        "PROTOCOLS",
        "RPS",
        "SUCCESS",
        "LATENCY_P99",
    ];
    const PLAIN: usize = 5;

    fn cells(&self) -> Vec<String> {
        let known = |id: &String| if id == "unknown" { String::new() } else { id.clone() };
        let joined = |set: &BTreeSet<String>| set.iter().cloned().collect::<Vec<_>>().join(",");
        let secured = match self.security.as_str() {
            "mutual_tls" => "yes",
            "none" => "no",
            _ => "",
        };
        let [_, _, p99] = self.figures.latencies();
        vec![
            self.source.clone(),
            self.destination.clone(),
            self.source_namespace.clone(),
            self.destination_namespace.clone(),
            secured.to_owned(),
            known(&self.client_id),
            known(&self.server_id),
            joined(&self.services),
            joined(&self.protocols),
            self.figures.rps_text(),
            self.figures.success_text(),
            p99,
        ]
    }

    fn name(&self) -> String {
        format!(
            "{}/{}:{}/{}",
            self.source_namespace, self.source, self.destination_namespace, self.destination
        )
    }
}

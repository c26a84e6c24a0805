//! `stat`: success, rate and latency of services or workloads over the last while, in linkerd's columns.

use std::collections::BTreeMap;

use clap::{Args, ValueEnum};
use serde::Serialize;

use super::live::LiveArgs;
use super::live::fleet::Fleet;
use super::live::merge::{self, Edge};
use super::live::sum::{Shown, Sum};
use super::output::{Format, Out, Row, bytes, list};
use super::{Failure, Outcome, watch};
use crate::admin::api::{Capture, Endpoint, LiveEdges, Service, Workload};

#[derive(Debug, Args)]
pub(super) struct StatArgs {
    #[command(flatten)]
    live: LiveArgs,
    /// What of
    #[arg(value_enum, default_value_t, value_name = "KIND")]
    kind: Kind,
    /// Only this one: NAME or NAMESPACE/NAME
    #[arg(value_name = "NAME")]
    name: Option<super::live::Name>,
    /// Output format
    #[arg(short, long, value_enum, default_value_t, value_name = "FORMAT")]
    output: Format,
    /// Print again whenever something changes
    #[arg(short, long)]
    watch: bool,
}

/// Of what there are figures: no pod has any of its own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(super) enum Kind {
    /// Services: what is sent to them
    #[default]
    #[value(name = "svc", aliases = ["services", "service"])]
    Service,
    /// Workloads: what is sent to their pods; with --to what they send there
    #[value(name = "workload", aliases = ["workloads", "w", "deploy"])]
    Workload,
}

/// One service or workload.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(super) struct Stat {
    pub namespace: String,
    pub name: String,
    /// Pods in the mesh, and all of them; none where no pod is known.
    pub meshed: Option<[usize; 2]>,
    #[serde(flatten)]
    pub figures: Shown,
}

/// What `stat` is made from.
pub(super) struct Seen {
    pub edges: Vec<LiveEdges>,
    pub services: Vec<Service>,
    pub workloads: Vec<Workload>,
    pub endpoints: Vec<Endpoint>,
}

pub(super) fn run(args: &StatArgs, out: &mut Out<'_>) -> Outcome {
    let fleet = Fleet::of(&args.live.agent)?;
    let mut first = Some(seen(&fleet, &args.live)?);
    fleet.note(out)?;
    watch::show(args.watch, out, || {
        let seen = match first.take() {
            Some(seen) => seen,
            None => seen(&fleet, &args.live)?,
        };
        let mut rows = stats(args.kind, &args.live, &seen);
        rows.retain(|row| args.name.as_ref().is_none_or(|name| name.is(&row.namespace, &row.name)));
        list(args.output, &rows)
    })
}

pub(super) fn seen(fleet: &Fleet, args: &LiveArgs) -> Result<Seen, Failure> {
    Ok(Seen {
        services: fleet.any("/v1/services")?.unwrap_or_default(),
        workloads: fleet.any("/v1/workloads")?.unwrap_or_default(),
        endpoints: fleet.any("/v1/endpoints")?.unwrap_or_default(),
        // Last, so that what is noted of those that don't answer is of these.
        edges: fleet.get(&args.path("edges"))?,
    })
}

type Place = (String, String);

/// A row for everything that is known, with or without traffic, and for what traffic alone tells of.
pub(super) fn stats(kind: Kind, args: &LiveArgs, seen: &Seen) -> Vec<Stat> {
    let mut rows: BTreeMap<Place, Sum> = BTreeMap::new();
    // With --from or --to only those that have to do with it.
    if args.from.is_none() && args.to.is_none() {
        match kind {
            Kind::Service => {
                for service in &seen.services {
                    rows.entry((service.namespace.clone(), service.name.clone())).or_default();
                }
            }
            Kind::Workload => {
                for pod in seen.workloads.iter().filter(|pod| !pod.workload.is_empty()) {
                    rows.entry((pod.namespace.clone(), pod.workload.clone())).or_default();
                }
            }
        }
    }
    for edge in merge::edges(&seen.edges).iter().filter(|edge| args.takes(edge)) {
        rows.entry(place(kind, args, edge)).or_default().merge(&edge.sum);
    }
    let pods = Pods::new(kind, seen);
    let rows = rows.into_iter().filter(|((namespace, _), _)| args.has(namespace));
    rows.map(|((namespace, name), sum)| {
        let meshed = pods.meshed(&namespace, &name);
        Stat { namespace, name, meshed, figures: sum.shown() }
    })
    .collect()
}

fn place(kind: Kind, args: &LiveArgs, edge: &Edge) -> Place {
    let (source, destination) = (&edge.key.source, &edge.key.destination);
    let (namespace, name) = match kind {
        Kind::Service => (&destination.service_namespace, &destination.service),
        Kind::Workload if args.to.is_some() => (&source.namespace, &source.workload),
        Kind::Workload => (&destination.namespace, &destination.workload),
    };
    (namespace.clone(), name.clone())
}

/// Which pods are whose, and whether they are in the mesh.
struct Pods(BTreeMap<Place, BTreeMap<String, bool>>);

impl Pods {
    fn new(kind: Kind, seen: &Seen) -> Self {
        let pods = seen.workloads.iter().map(|pod| {
            let in_mesh = !matches!(pod.capture, Capture::None | Capture::Refused);
            (format!("{}/{}", pod.namespace, pod.name), (pod, in_mesh))
        });
        let pods: BTreeMap<String, (&Workload, bool)> = pods.collect();
        let mut all: BTreeMap<Place, BTreeMap<String, bool>> = BTreeMap::new();
        match kind {
            Kind::Service => {
                for endpoint in &seen.endpoints {
                    let Some(name) = &endpoint.workload else { continue };
                    let Some((_, in_mesh)) = pods.get(name) else { continue };
                    let place = (endpoint.namespace.clone(), endpoint.service.clone());
                    all.entry(place).or_default().insert(name.clone(), *in_mesh);
                }
            }
            Kind::Workload => {
                for (name, (pod, in_mesh)) in pods {
                    let place = (pod.namespace.clone(), pod.workload.clone());
                    all.entry(place).or_default().insert(name, in_mesh);
                }
            }
        }
        Self(all)
    }

    fn meshed(&self, namespace: &str, name: &str) -> Option<[usize; 2]> {
        let pods = self.0.get(&(namespace.to_owned(), name.to_owned()))?;
        Some([pods.values().filter(|in_mesh| **in_mesh).count(), pods.len()])
    }
}

impl Row for Stat {
    const HEADER: &'static [&'static str] = &[
        "NAMESPACE",
        "NAME",
        "MESHED",
        "SUCCESS",
        "RPS",
        "LATENCY_P50",
        "LATENCY_P95",
        "LATENCY_P99",
        "TCP_CONN",
        "READ_BYTES/SEC",
        "WRITE_BYTES/SEC",
        "RETRIES",
        "TIMEOUTS",
        "FLAGS",
    ];
    const PLAIN: usize = 9;

    fn cells(&self) -> Vec<String> {
        let figures = &self.figures;
        let [p50, p95, p99] = figures.latencies();
        let flags: Vec<_> = figures.flags.iter().map(|(flag, n)| format!("{flag}={n}")).collect();
        vec![
            self.namespace.clone(),
            self.name.clone(),
            self.meshed.map(|[meshed, all]| format!("{meshed}/{all}")).unwrap_or_default(),
            figures.success_text(),
            figures.rps_text(),
            p50,
            p95,
            p99,
            figures.connections_open.to_string(),
            // From the service's side, as linkerd has it.
            bytes(figures.received_bytes_per_second as u64),
            bytes(figures.sent_bytes_per_second as u64),
            figures.retries.to_string(),
            figures.timeouts.to_string(),
            flags.join(","),
        ]
    }

    fn name(&self) -> String {
        format!("{}/{}", self.namespace, self.name)
    }
}

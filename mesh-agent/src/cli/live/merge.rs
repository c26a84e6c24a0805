//! What agents say of edges, put together so that no request is counted twice. Pure.
//!
//! The client's side of an edge and the server's both report it, on one node or on two. For each pair of workloads the
//! client's word counts, since it is what the client saw, tries included; the server's where that has seen more:
//! a client outside of the mesh has no agent, and one whose agent isn't asked says nothing.

use std::collections::BTreeMap;

use super::sum::Sum;
use crate::admin::api::{LiveEdgeKey, LiveEdges};
use crate::telemetry::Reporter;

/// One edge, by whoever knows it best.
#[derive(Clone, Debug, PartialEq)]
pub(in crate::cli) struct Edge {
    pub key: LiveEdgeKey,
    pub sum: Sum,
}

/// What one side says of a pair, an entry for each service and way of securing.
type Side = BTreeMap<[String; 4], Edge>;

pub(in crate::cli) fn edges(nodes: &[LiveEdges]) -> Vec<Edge> {
    let mut pairs: BTreeMap<[&str; 5], [Side; 2]> = BTreeMap::new();
    for node in nodes {
        for edge in &node.edges {
            let LiveEdgeKey { source, destination, protocol, security, reporter } = &edge.key;
            let pair = [
                source.namespace.as_str(),
                &source.workload,
                &destination.namespace,
                &destination.workload,
                protocol,
            ];
            let [said_source, said_destination] = pairs.entry(pair).or_default();
            let side = match reporter {
                Reporter::Source => said_source,
                Reporter::Destination => said_destination,
            };
            let within = [&destination.service_namespace, &destination.service, security, &source.principal];
            let entry = side
                .entry(within.map(Clone::clone))
                .or_insert_with(|| Edge { key: edge.key.clone(), sum: Sum::default() });
            entry.sum.add(&edge.figures, node.covered_seconds);
        }
    }
    pairs.into_values().flat_map(|[source, destination]| better(source, destination)).collect()
}

/// The side that has seen more; what it doesn't know of who is who, the other may.
fn better(source: Side, destination: Side) -> Vec<Edge> {
    let seen = |side: &Side| {
        let (mut requests, mut opened) = (0, 0);
        for Edge { key, sum } in side.values() {
            requests += sum.requests + sum.retries;
            // Connections with requests are shared and kept as each side sees fit.
            opened += if key.protocol == "tcp" { sum.opened.max(sum.open) } else { 0 };
        }
        (requests, opened)
    };
    // Of the client's tries each is a request at the server.
    let (said, other) = if destination.is_empty() || !source.is_empty() && seen(&source) >= seen(&destination)
    {
        (source, destination)
    } else {
        (destination, source)
    };
    let other: Vec<Edge> = other.into_values().collect();
    said.into_values().map(|edge| completed(edge, &other)).collect()
}

fn completed(mut edge: Edge, others: &[Edge]) -> Edge {
    let known = |text: &str| !text.is_empty() && text != "unknown";
    let service = edge.key.destination.service.clone();
    let other = others.iter().find(|other| other.key.destination.service == service).or(others.first());
    let Some(other) = other else { return edge };
    let (mine, theirs) = (&mut edge.key, &other.key);
    for (mine, theirs) in [
        (&mut mine.source.service, &theirs.source.service),
        (&mut mine.security, &theirs.security),
        (&mut mine.source.principal, &theirs.source.principal),
        (&mut mine.destination.principal, &theirs.destination.principal),
    ] {
        // A principal is what this way of securing has proven: not that of another connection.
        if !known(mine) && known(theirs) {
            mine.clone_from(theirs);
        }
    }
    if mine.security != "mutual_tls" {
        for principal in [&mut mine.source.principal, &mut mine.destination.principal] {
            *principal = "unknown".to_owned();
        }
    }
    edge.sum.open = edge.sum.open.max(other.sum.open);
    edge
}

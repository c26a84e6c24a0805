//! Metric series of one upstream: whose view, from whom, to whom.
//!
//! Made once for an upstream by `backend` and `inbound`; `exchange` and `tcp` report through them. Never looked up per
//! request.

use std::sync::Arc;

use super::context::{Connection, Pod};
use super::reach::Reach;
use crate::model::{ServiceMeta, Workload};
use crate::telemetry::{Edge, EdgeKey, Reporter, Security};

/// Metric series of one pair: the source's, and the destination's if this agent serves both.
pub struct Edges {
    /// `reporter="source"`, or none on the inbound side.
    pub source: Option<Arc<Edge>>,
    /// `reporter="destination"`.
    pub destination: Option<Arc<Edge>>,
}

impl Edges {
    /// Both reporters, where the destination is a pod that this agent captures too and goes straight to.
    pub fn outbound(
        pod: &Pod,
        service: Option<&Arc<ServiceMeta>>,
        to: Option<&Arc<Workload>>,
        reach: &Reach,
    ) -> Self {
        let from = pod.workload();
        let is_mutual = reach.is_mutual();
        let both = !is_mutual && to.is_some_and(|w| w.is_enrolled() && w.node == from.node);
        // Istio's names for its two clusters of unknown destinations, by outboundTrafficPolicy.
        let nowhere = if pod.worker.registry_only { "BlackHoleCluster" } else { "PassthroughCluster" };
        let edge = |reporter| {
            pod.worker.telemetry.metrics.edge(&EdgeKey {
                reporter,
                source: Some(from.clone()),
                destination: to.cloned(),
                service: service.cloned(),
                fallback_service: if to.is_some() { "unknown" } else { nowhere },
                security: if is_mutual { Security::MutualTls } else { Security::None },
                proven: None,
            })
        };
        Self { source: Some(edge(Reporter::Source)), destination: both.then(|| edge(Reporter::Destination)) }
    }

    /// What arrives from outside the agent: only the destination reports.
    pub fn inbound(conn: &Connection, service: Option<&Arc<ServiceMeta>>) -> Self {
        let source =
            conn.snapshot().workload_at(conn.client.ip()).cloned().or_else(|| conn.told.get().cloned());
        let proven = conn.peer.get().cloned();
        let edge = conn.pod.worker.telemetry.metrics.edge(&EdgeKey {
            reporter: Reporter::Destination,
            source,
            destination: Some(conn.pod.workload()),
            service: service.cloned(),
            fallback_service: "InboundPassthroughCluster",
            security: if proven.is_some() { Security::MutualTls } else { Security::None },
            proven,
        });
        Self { source: None, destination: Some(edge) }
    }

    /// Every series that counts this traffic.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Edge>> {
        self.source.iter().chain(self.destination.iter())
    }
}

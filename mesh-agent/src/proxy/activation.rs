//! What goes to a service without an endpoint waits for one, where a TrafficPolicy says so (`activation`).
//!
//! Used by `plan` for requests and by `tcp` for connections, before an endpoint is picked. Looks again whenever the
//! configuration changed or a health check passed, and never in between. An endpoint that its checks found unhealthy is none. `hook` tells an
//! autoscaler. What waits has a place in `crate::policy::traffic::Activation`, and
//! shows in the metrics that an autoscaler goes by.

mod hook;

use std::future::pending;
use std::sync::Arc;

use prometheus::IntGauge;
use tokio::time::{Instant, timeout_at};

use super::backend::Backends;
use super::context::{Connection, Direction};
use super::plan::Plan;
use super::stream::Stream;
use crate::balance;
use crate::clock;
use crate::model::ServicePort;
use crate::policy::traffic::{Activation, Layers, Waiting};
use crate::telemetry::AgentMetrics;

/// One that waits. Dropping it is all that the end of a wait takes.
struct Wait<'m> {
    metrics: &'m AgentMetrics,
    service: &'m str,
    shown: IntGauge,
    result: &'static str,
    _place: Waiting,
}

impl<'m> Wait<'m> {
    /// None if too many wait already.
    fn begin(activation: &Arc<Activation>, metrics: &'m AgentMetrics, port: &'m ServicePort) -> Option<Self> {
        let service = port.service.host.as_str();
        let Some(place) = activation.wait() else {
            metrics.activation_requests.with_label_values(&[service, "too_many"]).inc();
            return None;
        };
        if activation.waiting() == 1 {
            tracing::info!(service, port = port.port, "service has waiting requests and no endpoint");
        }
        let shown = metrics.activation_waiting.with_label_values(&[service]);
        shown.inc();
        Some(Self { metrics, service, shown, result: "gone", _place: place })
    }
}

impl Drop for Wait<'_> {
    fn drop(&mut self) {
        self.shown.dec();
        self.metrics.activation_requests.with_label_values(&[self.service, self.result]).inc();
    }
}

impl Connection {
    /// The port, if it has no endpoint and a policy lets requests wait for one.
    pub(super) fn to_wait_for(
        &self,
        layers: &Layers,
        port: Option<&Arc<ServicePort>>,
    ) -> Option<Arc<ServicePort>> {
        let port = port.filter(|port| self.lacks_endpoint(port))?;
        let waits = self.direction == Direction::Outbound && layers.activation().is_some();
        waits.then(|| port.clone())
    }

    /// Waits until `port` has an endpoint, and returns it as it is then. None: there are too many that wait, or none came
    /// before the policy's time, or `deadline`, was over.
    pub(super) async fn await_endpoint(
        &self,
        activation: &Arc<Activation>,
        port: &ServicePort,
        deadline: Option<Instant>,
    ) -> Option<Arc<ServicePort>> {
        // Before the first look, so that no change is missed.
        let mut changed = self.pod.worker.changed.subscribe();
        let mut wait = Wait::begin(activation, self.pod.worker.telemetry.metrics.agent(), port)?;
        let until = Instant::now() + activation.timeout;
        let until = deadline.map_or(until, |deadline| deadline.min(until));
        let comes = async {
            loop {
                let newest = self.newest(port).filter(|port| !self.lacks_endpoint(port));
                if let Some(port) = newest {
                    return port;
                }
                if changed.changed().await.is_err() {
                    pending::<()>().await;
                }
            }
        };
        let found = tokio::select! {
            biased;
            found = timeout_at(until, comes) => found.ok(),
            () = hook::keep_telling(self, activation, port) => None,
        };
        wait.result = if found.is_some() { "activated" } else { "timeout" };
        found
    }

    /// Lets a connection that isn't carried as requests wait. Ends early if `client` resets it.
    pub(super) async fn activate(&self, plan: &mut Plan, client: &Stream) {
        let port = self.port_of(plan);
        let layers = self.layers(None, port.as_ref());
        let port = self.to_wait_for(&layers, port.as_ref());
        let (Some(activation), Some(port)) = (layers.activation(), port) else { return };
        let found = tokio::select! {
            biased;
            found = self.await_endpoint(activation, &port, None) => found,
            () = client.was_reset() => None,
        };
        if let Some(port) = found {
            plan.backends = Some(Backends::Service(port));
        }
    }

    /// True if an endpoint has to come, or one to pass its check, before this client can be served.
    fn lacks_endpoint(&self, port: &Arc<ServicePort>) -> bool {
        let port = port.for_client(&self.pod.workload.borrow());
        balance::awaits(&port.endpoints, &port.policy, clock::now_ns())
    }

    /// The port in the newest configuration.
    fn newest(&self, port: &ServicePort) -> Option<Arc<ServicePort>> {
        let snapshot = self.snapshot();
        let service = snapshot.services.get(&port.service.name)?;
        service.port_towards(self.dst.ip(), port.port)?.part(port.subset_name.as_deref()).cloned()
    }
}

#[cfg(test)]
mod tests;

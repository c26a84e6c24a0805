//! Active health checks: asks endpoints how they are, where a TrafficPolicy's `healthCheck` says so. Off the data path.
//!
//! A thread of its own, made with the first policy that asks for it. The control loop tells it what is to be checked
//! (`wanted`) whenever the configuration or the captured pods change; a task for each endpoint and policy asks (`ask`, `grpc`, `mesh`)
//! from a captured pod's network namespace, decides (`machine`), and writes the verdict where `crate::balance` reads it. It
//! never decides about a request, and never holds the data path up. Semantics are Envoy's ("Health checking").

mod ask;
mod grpc;
mod machine;
mod mesh;
mod run;
mod wanted;

use std::io;
use std::sync::Arc;
use std::thread::Builder;

use tokio::sync::watch;

use crate::balance;
use crate::clock;
use crate::identity::Identities;
use crate::kernel::{Flows, KernelError};
use crate::model::{ServicePort, Snapshot};
use crate::telemetry::Telemetry;

pub use wanted::Captured;
use wanted::Wanted;

/// The control loop's end: says what is to be checked. Checks end with it.
pub struct Checks {
    telemetry: Arc<Telemetry>,
    identities: Identities,
    same_node_mtls: bool,
    hbone_port: u16,
    changed: watch::Sender<u64>,
    wanted: Option<watch::Sender<Arc<Wanted>>>,
    /// Generation and pods that were last told.
    told: (u64, Vec<Captured>),
}

/// What the thread is made of.
struct Parts {
    telemetry: Arc<Telemetry>,
    /// Marks sockets as the agent's own.
    flows: Flows,
    /// Certificates of the pods that checks come from.
    identities: Identities,
    /// Where HBONE is spoken.
    hbone_port: u16,
    /// Wakes what waits for an endpoint.
    changed: watch::Sender<u64>,
}

impl Checks {
    /// Nothing is checked yet, and there is no thread. `same_node_mtls`: pods of this node talk to each other as those of two
    /// nodes do. `hbone_port` is where HBONE is spoken. `changed` wakes what waits for an endpoint.
    pub fn new(
        telemetry: Arc<Telemetry>,
        identities: Identities,
        same_node_mtls: bool,
        hbone_port: u16,
        changed: watch::Sender<u64>,
    ) -> Self {
        Self {
            telemetry,
            identities,
            same_node_mtls,
            hbone_port,
            changed,
            wanted: None,
            told: (0, Vec::new()),
        }
    }

    /// Checks what `snapshot` asks for from now on, out of `pods`. Called on every change and every second or so.
    pub fn follow(
        &mut self,
        snapshot: &Snapshot,
        pods: Vec<Captured>,
        flows: impl FnOnce() -> Result<Flows, KernelError>,
    ) {
        if self.wanted.is_none() && snapshot.traffic.values().all(|policy| policy.health_check.is_none()) {
            return;
        }
        if self.told.0 == snapshot.generation && self.told.1 == pods {
            return;
        }
        let wanted = Arc::new(Wanted::new(snapshot, pods.clone(), self.same_node_mtls));
        match &self.wanted {
            Some(channel) => {
                channel.send_replace(wanted);
            }
            None => match self.start(flows, wanted) {
                Ok(channel) => self.wanted = Some(channel),
                Err(error) => {
                    tracing::error!(error, "health checks can't be made, trying again");
                    return;
                }
            },
        }
        self.told = (snapshot.generation, pods);
    }

    fn start(
        &self,
        flows: impl FnOnce() -> Result<Flows, KernelError>,
        first: Arc<Wanted>,
    ) -> Result<watch::Sender<Arc<Wanted>>, String> {
        let flows = flows().map_err(|error| crate::report::chain(&error).to_string())?;
        let (sender, receiver) = watch::channel(first);
        let (telemetry, identities) = (self.telemetry.clone(), self.identities.clone());
        let (hbone_port, changed) = (self.hbone_port, self.changed.clone());
        let parts = Parts { telemetry, flows, identities, hbone_port, changed };
        spawn(parts, receiver).map_err(|error| error.to_string())?;
        Ok(sender)
    }

    /// Brings the gauges up to date, and says which service ports began or ceased to use all endpoints.
    pub fn publish(&self, snapshot: &Snapshot) {
        let (mut unhealthy, mut panicking) = (0, 0);
        let now_ns = clock::now_ns();
        for port in snapshot.services.values().flat_map(|service| &service.ports) {
            // Its subsets, and what clients under a rule of their own see, are the same endpoints: none counts twice.
            unhealthy +=
                i64::from(port.forms().map(|form| form.endpoints.health.avoided()).max().unwrap_or(0));
            let mut any = false;
            for form in port.forms() {
                let panics = balance::Avoid::of(&form.endpoints, &form.policy, now_ns).panics;
                any |= panics;
                if form.endpoints.health.turn(panics) {
                    tell(form, panics, now_ns);
                }
            }
            panicking += i64::from(any);
        }
        let metrics = self.telemetry.metrics.agent();
        metrics.unhealthy.set(unhealthy);
        metrics.panicking.set(panicking);
    }
}

/// A service port, or a subset of it, begins or ceases to use all of its endpoints.
fn tell(port: &ServicePort, panics: bool, now_ns: u64) {
    let (service, number, subset) = (&*port.service.host, port.port, port.subset_name.as_deref());
    let (healthy, all) = (balance::healthy(&port.endpoints, now_ns), port.endpoints.available.len());
    match panics {
        true => tracing::warn!(
            service,
            port = number,
            subset,
            healthy,
            all,
            "too few endpoints are healthy, all are used"
        ),
        false => {
            tracing::info!(service, port = number, subset, healthy, all, "enough endpoints are healthy again")
        }
    }
}

fn spawn(parts: Parts, wanted: watch::Receiver<Arc<Wanted>>) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    Builder::new().name("health".to_owned()).spawn(move || {
        tokio::task::LocalSet::new().block_on(&runtime, run::run(parts, wanted));
    })?;
    Ok(())
}

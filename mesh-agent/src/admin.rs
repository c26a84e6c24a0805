//! Two small HTTP servers on the control runtime: metrics and probes on the node's address, the admin API on a unix
//! socket. They answer however busy the data path is, and never touch a connection that it carries.
//!
//! What they show is in `api`, which the CLI reads with the same types. Before: `telemetry` and the snapshot; after:
//! `cli`.

pub mod api;
pub mod authz_check;
mod flows;
pub(crate) mod http;
mod log;
mod metrics;
mod readiness;
pub mod route_test;
mod routes;
mod seats;
mod socket;
mod views;

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::SystemTime;

use arc_swap::ArcSwap;
use tokio::sync::{mpsc, oneshot};

pub(crate) use api::PolicyState;
pub use log::{LogError, LogHandle};
pub use metrics::serve as serve_metrics;
pub use readiness::{Readiness, ReadinessGuard, task};
pub use socket::{
    NAME as SOCKET_NAME, SocketError, SocketGuard, bind as bind_socket, place as place_socket,
    serve as serve_socket,
};
pub(crate) use views::policies::outcome as policy_outcome;

use crate::enrol::{PodState, Set};
use crate::history;
use crate::identity::Identities;
use crate::kernel::KernelServices;
use crate::model::{ObjectName, SnapshotHandle};
use crate::source::Health;
use crate::telemetry::Telemetry;

/// What both servers show. Cloning shares everything.
#[derive(Clone)]
pub struct AdminState {
    /// The configuration in force.
    pub snapshot: SnapshotHandle,
    /// Metrics and live connections.
    pub telemetry: Arc<Telemetry>,
    /// What is wrong with the configuration now. The source stores into it.
    pub warnings: Arc<ArcSwap<Vec<api::Warning>>>,
    /// Certificates.
    pub identities: Identities,
    /// Configuration generations, and who puts one back.
    pub history: history::Shared,
    /// How the watches of an API server are.
    pub health: Arc<Health>,
    /// How each pod that asks to be captured stands. [`crate::enrol::Manager::states`] says it.
    pub pods: Arc<ArcSwap<BTreeMap<ObjectName, PodState>>>,
    /// The settings in force, as the configuration file would say them.
    pub settings: Arc<serde_json::Value>,
    /// This process.
    pub about: Arc<About>,
    /// What start-up still waits for.
    pub readiness: Readiness,
    /// `Err` says what hangs: `/livez` fails and the orchestrator restarts the agent.
    pub alive: Arc<dyn Fn() -> Result<(), String> + Send + Sync>,
    /// The log's filter.
    pub log: LogHandle,
    /// What only the control loop can answer.
    pub control: mpsc::Sender<Command>,
}

/// What doesn't change while the agent runs.
#[derive(Clone, Debug)]
pub struct About {
    /// `--node-name`.
    pub node: String,
    /// `--source`, as given.
    pub source: String,
    /// State directory.
    pub state_dir: PathBuf,
    /// Directory of pins.
    pub bpffs_dir: PathBuf,
    /// `--outbound-traffic-policy registryOnly`: destinations that nothing knows are refused.
    pub registry_only: bool,
    /// `--kernel-services`.
    pub kernel_services: KernelServices,
    /// Data path threads.
    pub workers: usize,
    /// When this process began.
    pub started: SystemTime,
}

/// Requests to the control loop, which owns the kernel handle. A dropped answer means that it is shutting down.
#[derive(Debug)]
pub enum Command {
    /// Programs, maps and reasons as they are now. The loop also brings `mesh_agent_bpf_*` and
    /// `mesh_agent_kernel_decisions_total` up to date before it answers.
    Kernel(oneshot::Sender<api::Kernel>),
    /// Begin to drain, as on SIGTERM. Answered when it has begun.
    Drain(oneshot::Sender<()>),
    /// An agent wants to take this one's place: the listeners of every pod, by netns cookie.
    HandOver(oneshot::Sender<HashMap<u64, Set>>),
    /// It serves: let go, and drain. Answered when this agent has let go.
    Replaced(oneshot::Sender<()>),
}

impl AdminState {
    /// What is wrong with the configuration and with certificates now.
    pub fn all_warnings(&self) -> Vec<api::Warning> {
        let mut all = self.warnings.load().to_vec();
        all.extend(self.identities.warnings());
        all
    }

    /// Asks the control loop for the kernel's state; `None` where it doesn't answer within `limit`.
    async fn kernel(&self, limit: std::time::Duration) -> Option<api::Kernel> {
        let (answer, answered) = oneshot::channel();
        let ask = async {
            self.control.send(Command::Kernel(answer)).await.ok()?;
            answered.await.ok()
        };
        tokio::time::timeout(limit, ask).await.ok().flatten()
    }
}

#[cfg(test)]
pub(crate) mod testing;

#[cfg(test)]
mod tests;

//! The agent's side of the kernel programs: loads, attaches and pins them, and writes and reads their maps.
//!
//! On a connection's way the programs (mesh-ebpf) come first; this module enrols pods for them, tells them the services,
//! and hands workers [`Flows`] to ask where an accepted connection wanted to go. It never decides about a connection.
//! Links and maps are pinned and outlive the process; the next one adopts them without a gap.

mod bpffs;
pub mod cgroup;
mod checks;
mod debug;
mod enrolment;
mod flows;
mod link;
mod maps;
pub mod netns;
mod object;
mod services;
mod sock_diag;
mod status;
mod sys;

use std::io;
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use aya::Ebpf;
use aya::maps::{MapError, PerCpuArray};
use mesh_common::{
    AgentConfig, HBONE_PORT, INBOUND_PORT, OUTBOUND_PORT, REASON_COUNT, Reason, kernel_services,
};

pub use checks::{Check, CheckResult, NEEDED_VERSION, OLDEST, checks, parse_release};
pub use enrolment::{EnrolPod, Families};
pub use flows::{Flows, HeartbeatMap, monotonic_ns};
pub use services::SyncStats;
pub use status::{KernelStatus, LinkStatus, MapStatus, ProgramStatus};

use crate::addr::EndpointAddr;
use maps::Maps;
use services::Services;

/// Where the programs live.
#[derive(Clone, Debug)]
pub struct Options {
    /// Directory on a bpffs for pins; made, and the bpffs mounted, where it is missing.
    pub bpffs_dir: PathBuf,
    /// Subtree of cgroup2 whose processes' sockets are seen.
    pub cgroup: PathBuf,
    /// The agent's in-pod ports.
    pub ports: Ports,
    /// A heartbeat older than this counts as "no agent".
    pub stale_after: Duration,
    /// Whose connections to services are balanced in the kernel.
    pub services: KernelServices,
}

/// Whose connections to services are balanced in the kernel, past the agent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub enum KernelServices {
    /// Nobody's.
    Off,
    /// Those of captured pods, where nothing of the service's configuration needs the agent, and their UDP.
    #[default]
    Enrolled,
    /// Those too of pods that aren't captured and of the host's processes: for nodes without kube-proxy.
    All,
}

impl KernelServices {
    const fn number(self) -> u16 {
        match self {
            Self::Off => kernel_services::OFF,
            Self::Enrolled => kernel_services::ENROLLED,
            Self::All => kernel_services::ALL,
        }
    }
}

/// Ports that the agent listens on inside each pod.
#[derive(Clone, Copy, Debug)]
pub struct Ports {
    /// Outbound listener.
    pub outbound: u16,
    /// Inbound listener.
    pub inbound: u16,
    /// HBONE listener.
    pub hbone: u16,
}

impl Default for Ports {
    fn default() -> Self {
        Self { outbound: OUTBOUND_PORT, inbound: INBOUND_PORT, hbone: HBONE_PORT }
    }
}

/// Why the kernel side couldn't be set up or changed.
#[derive(Debug, thiserror::Error)]
pub enum KernelError {
    /// The object wasn't there when the agent was compiled.
    #[error("built without kernel programs: run `cargo xtask build`, then build the agent again")]
    NotBuilt,
    /// Kernel or configuration of it are too old.
    #[error("this kernel can't run the programs: {found}; {needed}")]
    Unsupported {
        /// What there is.
        found: String,
        /// What there must be.
        needed: &'static str,
    },
    /// The pin directory can't be used.
    #[error("{path} can't be used for pins; it must be on a bpffs (mount -t bpf bpf /sys/fs/bpf)")]
    Bpffs {
        /// The directory or file.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// The object was refused.
    #[error("the kernel programs can't be loaded")]
    Load(#[source] Box<aya::EbpfError>),
    /// A program was refused by the verifier or not found in the object.
    #[error("kernel program {name} can't be loaded or attached")]
    Program {
        /// Its name.
        name: &'static str,
        /// The cause.
        source: Box<aya::programs::ProgramError>,
    },
    /// A map can't be opened, read or written.
    #[error("kernel map {name} can't be used")]
    Map {
        /// Its name.
        name: &'static str,
        /// The cause.
        source: MapError,
    },
    /// A pinned map has another layout than its name says.
    #[error("pinned map {path} has another layout; stop the agent that uses it and remove the file")]
    Layout {
        /// The pin.
        path: PathBuf,
    },
    /// A link can't be made, replaced or pinned.
    #[error("link {path} can't be attached or updated")]
    Link {
        /// The pin.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// The cgroup isn't there, or isn't one of cgroup2.
    #[error("{path} isn't a usable cgroup2 directory")]
    Cgroup {
        /// What was tried.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
}

impl KernelError {
    fn map(name: &'static str) -> impl FnOnce(MapError) -> Self {
        move |source| Self::Map { name, source }
    }
}

/// The loaded programs and their maps. One per process, on the control thread. Dropping it leaves everything pinned and
/// attached: the pods follow their fail mode once the heartbeat stops.
pub struct Kernel {
    options: Options,
    ebpf: Ebpf,
    maps: Maps,
    services: Services,
    counts: Mutex<status::Counts>,
    /// sockops on the agent's own cgroup, where that lies outside [`Options::cgroup`]; goes with the process.
    _own_cgroup: Option<aya::programs::links::FdLink>,
}

impl Kernel {
    /// Loads the programs, adopts or makes the pinned maps and links, and tells the programs the agent's ports. Pods
    /// enrolled by an earlier process stay enrolled, on the new programs; those whose netns is gone are removed.
    ///
    /// # Errors
    /// Anything that leaves the hooks without their full set: nothing is served half-attached.
    pub fn load(options: &Options) -> Result<Self, KernelError> {
        checks::required()?;
        bpffs::prepare(&options.bpffs_dir)?;
        let mut ebpf = object::load(&options.bpffs_dir)?;
        debug::forward(&mut ebpf);
        let mut maps = Maps::open(&options.bpffs_dir)?;
        maps.write_config(&AgentConfig {
            stale_after_ns: u64::try_from(options.stale_after.as_nanos()).unwrap_or(u64::MAX),
            outbound_port: options.ports.outbound,
            inbound_port: options.ports.inbound,
            hbone_port: options.ports.hbone,
            kernel_services: options.services.number(),
        })?;
        link::attach_cgroup(&mut ebpf, options)?;
        let own_cgroup = link::attach_own_cgroup(&mut ebpf, options)?;
        let services = Services::adopt(&maps, options.services)?;
        let counts = Mutex::default();
        let mut kernel =
            Self { options: options.clone(), ebpf, maps, services, counts, _own_cgroup: own_cgroup };
        kernel.adopt_pods()?;
        // No link runs the programs that used them any more.
        bpffs::remove_unknown_maps(&options.bpffs_dir, &maps::NAMES);
        Ok(kernel)
    }

    /// A worker's own handle.
    ///
    /// # Errors
    /// A pin was removed from under the agent, or file descriptors have run out.
    pub fn flows(&self) -> Result<Flows, KernelError> {
        Flows::open(&self.options.bpffs_dir)
    }

    /// The heartbeat thread's own handle.
    ///
    /// # Errors
    /// As for [`Kernel::flows`].
    pub fn heartbeat(&self) -> Result<HeartbeatMap, KernelError> {
        HeartbeatMap::open(&self.options.bpffs_dir)
    }

    /// For whoever ends connections to endpoints that are gone.
    ///
    /// # Errors
    /// As for [`Kernel::flows`].
    pub fn balanced_sockets(&self) -> Result<BalancedSockets, KernelError> {
        maps::open_sockets_data(&self.options.bpffs_dir).map(BalancedSockets)
    }

    /// Removes flows that a dead agent left. An entry is of use during the handshake only, so anything older than half a
    /// minute is safe to take. Returns how many went.
    pub fn sweep(&mut self, older_than: Duration) -> usize {
        let before = monotonic_ns().saturating_sub(u64::try_from(older_than.as_nanos()).unwrap_or(u64::MAX));
        self.maps.sweep(before)
    }

    /// Forgets the endpoints of clients that have been quiet for longer than their service keeps them, and of UDP sockets
    /// that have been quiet for minutes.
    pub fn sweep_chosen(&mut self) {
        let Self { maps, services, .. } = self;
        maps.sweep_chosen(monotonic_ns(), |key| services.affinity_s(key));
    }

    /// How often each decision was taken, over all CPUs and since the maps were made.
    pub fn reasons(&self) -> Vec<(Reason, u64)> {
        let sum = |reason: &Reason| reason_count(&self.maps.reasons, *reason as u32);
        debug_assert_eq!(Reason::ALL.len(), REASON_COUNT as usize);
        Reason::ALL.iter().map(|reason| (*reason, sum(reason))).collect()
    }

    /// What is loaded, attached, pinned and in the maps. How full those are may be known from a while ago, where they are so
    /// full that counting takes long.
    pub fn status(&self) -> KernelStatus {
        let Self { ebpf, maps, services, counts, options, .. } = self;
        // What is counted anew is put in as a whole: a panic elsewhere can't leave it half done.
        let mut counts = counts.lock().unwrap_or_else(PoisonError::into_inner);
        status::status(ebpf, maps, services, &mut counts, &options.bpffs_dir)
    }

    /// Entries of a map as the kernel has them, by walking its keys. For tests: [`Kernel::status`] trusts its own books
    /// where a map is large.
    pub fn count_entries(&self, map: &str) -> usize {
        status::walk(&self.maps, map)
    }
}

/// What the connect hook noted of sockets that it sent to endpoints.
pub struct BalancedSockets(aya::maps::MapData);

impl BalancedSockets {
    /// Ends the sockets of the network namespace that this thread is in that were sent to one of `endpoints` and still are
    /// connected to it: their applications see ECONNABORTED. Returns how many.
    ///
    /// # Errors
    /// The kernel has no sock_diag or no SOCK_DESTROY (`CONFIG_INET_DIAG_DESTROY`), or `CAP_NET_ADMIN` is missing.
    pub fn destroy(&self, endpoints: &[EndpointAddr]) -> io::Result<usize> {
        sock_diag::destroy(self.0.fd().as_fd(), endpoints)
    }
}

fn reason_count(map: &PerCpuArray<aya::maps::MapData, u64>, index: u32) -> u64 {
    map.get(&index, 0).map_or(0, |values| values.iter().sum())
}

/// Mounts a bpffs at `/sys/fs/bpf` unless there is one.
///
/// # Errors
/// As mount(2); it needs `CAP_SYS_ADMIN`.
pub fn mount_bpffs() -> io::Result<()> {
    bpffs::mount_usual()
}

/// How old the heartbeat is that an agent left in the maps pinned below a bpffs directory; none if no agent beat yet, the
/// last one stopped in order, or there are no maps.
pub fn heartbeat_age_ms(bpffs_dir: &Path) -> Option<u64> {
    status::heartbeat_age_ms(bpffs_dir)
}

/// Removes every pin below a bpffs directory and returns their paths: links detach, maps go once nobody has them open.
/// For tests, and for taking the agent off a node. Whether an agent uses them isn't asked here.
///
/// # Errors
/// The directory isn't on a bpffs, or can't be read or emptied; a missing one is fine.
pub fn purge(bpffs_dir: &Path) -> io::Result<Vec<PathBuf>> {
    bpffs::purge(bpffs_dir)
}

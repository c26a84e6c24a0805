//! One captured pod: how it is entered, told to the kernel and the workers, and left again.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::net::{IpAddr, TcpListener};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use mesh_common::{FAIL_CLOSED, FAIL_OPEN, PodEntry, capture as bits};
use thiserror::Error;

use super::Capture;
use super::listeners::{self, Set};
use crate::health::Captured;
use crate::kernel::{EnrolPod, Families, Kernel, KernelError, netns};
use crate::model::{FailMode, Workload};
use crate::proxy::ceiling::PodShare;
use crate::proxy::worker::{self, Command, PodSpec};

/// Why a pod can't be captured now.
#[derive(Debug, Error)]
pub enum EnrolError {
    /// A directory pod without the annotation.
    #[error("annotation mesh-agent.dev/netns is missing: it must name the pod's network namespace")]
    NoNetns,
    /// The path doesn't lead to a network namespace.
    #[error("network namespace {} can't be opened", path.display())]
    Open {
        /// As the annotation says.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// setns(2) failed.
    #[error("network namespace can't be entered")]
    Enter(#[source] io::Error),
    /// socket(2), bind(2) or listen(2) failed inside the pod.
    #[error(
        "the agent's ports {outbound}, {inbound} and {hbone} can't be listened on inside the pod (does the pod use them itself?)"
    )]
    Listen {
        /// Outbound port.
        outbound: u16,
        /// Inbound port.
        inbound: u16,
        /// Port for HBONE.
        hbone: u16,
        /// Why.
        source: io::Error,
    },
    /// It is the agent's own.
    #[error("its network namespace is the agent's own (a host-network pod can't be enrolled)")]
    HostNetwork,
    /// Programs or maps.
    #[error("the kernel can't be told of it")]
    Kernel(#[from] KernelError),
}

/// A captured pod. Doesn't leave by itself: what is pinned outlives the agent.
pub(super) struct Enrolled {
    workload: Arc<Workload>,
    path: PathBuf,
    inode: (u64, u64),
    cookie: u64,
    netns: Arc<OwnedFd>,
    entry: PodEntry,
    /// Every listener: one of each family stands for all on its port in the kernel's maps, and all go to an agent that takes
    /// over.
    listeners: Set,
}

impl Enrolled {
    /// Enters the pod, makes the listeners, tells the workers, then the kernel.
    pub fn join(
        workload: &Arc<Workload>,
        capture: &Capture,
        handed: &mut HashMap<u64, Set>,
        kernel: &mut Kernel,
        workers: &[worker::Handle],
    ) -> Result<Self, EnrolError> {
        let path = workload.netns.clone().ok_or(EnrolError::NoNetns)?;
        let open_error = |source| EnrolError::Open { path: path.clone(), source };
        let file = File::open(&path).map_err(open_error)?;
        let inode = identity(&path).map_err(open_error)?;
        let netns = Arc::new(OwnedFd::from(file));
        let own_cookie = netns::cookie_here().map_err(EnrolError::Enter)?;
        let inside = netns::enter(netns.as_fd(), || enter(workload, capture, handed, workers.len()));
        let Inside { cookie, addresses, sets } = inside.map_err(EnrolError::Enter)??;
        if cookie == own_cookie {
            return Err(EnrolError::HostNetwork);
        }
        let pod = Self {
            workload: workload.clone(),
            path,
            inode,
            cookie,
            netns,
            entry: entry_for(workload, capture.refuse_unknown),
            listeners: Set::of_all(&sets).map_err(EnrolError::Enter)?,
        };
        if let Err(error) = pod.tell_kernel(&addresses, kernel) {
            // Its listeners go with this function: a lookup link left behind would refuse whoever dials the pod.
            if let Err(also) = kernel.unenrol(cookie) {
                tracing::warn!(pod = %workload.name, error = %crate::report::chain(&also), "the kernel can't forget it");
            }
            return Err(error.into());
        }
        let share = Arc::<PodShare>::default();
        for (worker, listeners) in workers.iter().zip(sets) {
            let (workload, netns, share) = (workload.clone(), pod.netns.clone(), share.clone());
            worker.tell(Command::Add(PodSpec { cookie, workload, netns, share, listeners }));
        }
        Ok(pod)
    }

    /// Once to enrol it, again whenever its addresses or its fail mode change: no connection notices.
    fn tell_kernel(&self, addresses: &[IpAddr], kernel: &mut Kernel) -> Result<(), KernelError> {
        kernel.enrol(&EnrolPod {
            cookie: self.cookie,
            entry: self.entry,
            addresses,
            netns: self.netns.as_fd(),
            inbound: families(&self.listeners.inbound),
            hbone: families(&self.listeners.hbone),
        })
    }

    /// The kernel's name for its network namespace.
    pub fn cookie(&self) -> u64 {
        self.cookie
    }

    /// Its listeners, for an agent that takes over.
    pub fn listeners(&self) -> io::Result<Set> {
        self.listeners.share()
    }

    /// As a place to send from.
    pub fn captured(&self) -> Captured {
        Captured { cookie: self.cookie, workload: self.workload.clone(), netns: self.netns.clone() }
    }

    /// True while the path still leads to the namespace that was entered, and the pod still names that path.
    pub fn is_of(&self, workload: &Workload) -> bool {
        workload.netns.as_ref() == Some(&self.path)
            && identity(&self.path).is_ok_and(|inode| inode == self.inode)
    }

    /// The pod's object changed without moving it.
    pub fn update(
        &mut self,
        workload: &Arc<Workload>,
        refuse_unknown: bool,
        kernel: &mut Kernel,
        workers: &[worker::Handle],
    ) {
        let entry = entry_for(workload, refuse_unknown);
        if Arc::ptr_eq(workload, &self.workload) && entry == self.entry {
            return;
        }
        if entry != self.entry || workload.addresses != self.workload.addresses {
            let before = std::mem::replace(&mut self.entry, entry);
            let told = netns::enter(self.netns.as_fd(), || addresses_of(workload))
                .and_then(|addresses| addresses)
                .map_err(EnrolError::Enter)
                .and_then(|addresses| Ok(self.tell_kernel(&addresses, kernel)?));
            if let Err(error) = told {
                tracing::warn!(pod = %workload.name, error = %crate::report::chain(&error), "its change can't be told to the kernel, trying again");
                self.entry = before;
                return;
            }
        }
        self.workload = workload.clone();
        workers.iter().for_each(|w| w.tell(Command::Update(self.cookie, workload.clone())));
    }

    /// No new connection is captured from here on; those under way go on.
    pub fn leave(&self, kernel: &mut Kernel, workers: &[worker::Handle]) {
        if let Err(error) = kernel.unenrol(self.cookie) {
            tracing::warn!(pod = %self.workload.name, error = %crate::report::chain(&error), "the kernel can't forget it");
        }
        workers.iter().for_each(|w| w.tell(Command::Remove(self.cookie)));
        tracing::debug!(pod = %self.workload.name, netns = ?self.netns, "left");
    }
}

/// One of each family.
fn families(listeners: &[TcpListener]) -> Families<'_> {
    let of = |v4: bool| {
        let found = listeners.iter().find(|l| l.local_addr().is_ok_and(|a| a.is_ipv4() == v4));
        found.map(|listener| listener.as_fd())
    };
    Families { v4: of(true), v6: of(false) }
}

struct Inside {
    cookie: u64,
    addresses: Vec<IpAddr>,
    sets: Vec<Set>,
}

fn addresses_of(workload: &Workload) -> io::Result<Vec<IpAddr>> {
    addresses(workload.addresses.clone(), netns::local_addresses)
}

fn enter(
    workload: &Workload,
    capture: &Capture,
    handed: &mut HashMap<u64, Set>,
    workers: usize,
) -> Result<Inside, EnrolError> {
    let cookie = netns::cookie_here().map_err(EnrolError::Enter)?;
    let addresses = addresses_of(workload).map_err(EnrolError::Enter)?;
    let failed = |source| EnrolError::Listen {
        outbound: capture.ports.outbound,
        inbound: capture.ports.inbound,
        hbone: capture.ports.hbone,
        source,
    };
    let adopted = match handed.remove(&cookie) {
        Some(set) => listeners::adopt(capture, set, workers).map_err(failed)?,
        None => None,
    };
    let sets = match adopted {
        Some(sets) => sets,
        None => listeners::make(capture, workers).map_err(failed)?,
    };
    Ok(Inside { cookie, addresses, sets })
}

/// What the pod's object says is believed. What its namespace holds is asked only where the object says nothing: a pod
/// that may change its own interfaces could give itself another pod's address and be handed that pod's connections.
fn addresses(
    declared: Vec<IpAddr>,
    found: impl FnOnce() -> io::Result<Vec<IpAddr>>,
) -> io::Result<Vec<IpAddr>> {
    if declared.is_empty() { found() } else { Ok(declared) }
}

fn entry_for(workload: &Workload, refuse_unknown: bool) -> PodEntry {
    let fail_mode = match workload.fail_mode {
        FailMode::Open => FAIL_OPEN,
        FailMode::Closed => FAIL_CLOSED,
    };
    let registry = if refuse_unknown { bits::REGISTRY_ONLY } else { 0 };
    PodEntry { fail_mode, capture: bits::OUTBOUND | bits::INBOUND | registry }
}

/// Device and inode name a namespace for as long as it lives.
fn identity(path: &Path) -> io::Result<(u64, u64)> {
    std::fs::metadata(path).map(|m| (m.dev(), m.ino()))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use std::time::Instant;

    use super::*;
    use crate::enrol::{Manager, PodState};
    use crate::kernel::{Flows, Ports};
    use crate::proxy::testing;

    #[test]
    fn a_pod_that_uses_the_agent_s_port_is_pending_and_says_why() {
        let bind = |ip: &str| {
            let listener = TcpListener::bind((ip, 0)).unwrap();
            let port = listener.local_addr().unwrap().port();
            (listener, port)
        };
        let workload = testing::workload();
        for ip in ["127.0.0.1", "0.0.0.0"] {
            let (_application, taken) = bind(ip);
            let (one, free) = bind("127.0.0.1");
            let (other, also_free) = bind("127.0.0.1");
            drop((one, other));
            for (outbound, inbound, hbone) in
                [(taken, free, also_free), (free, taken, also_free), (free, also_free, taken)]
            {
                let ports = Ports { outbound, inbound, hbone };
                let capture = || Capture {
                    ports,
                    registry_only: false,
                    refuse_unknown: false,
                    flows: Flows::detached(),
                };
                let error = enter(&workload, &capture(), &mut HashMap::new(), 2)
                    .err()
                    .expect("the port is the application's");
                let mut manager = Manager::new(capture(), HashMap::new());
                manager.note_failure(&workload, error, Instant::now());
                let Some(PodState::Pending(why)) = manager.state(&workload) else { panic!("not pending") };
                let [outbound, inbound, hbone] = [outbound, inbound, hbone].map(|port| port.to_string());
                for part in [&outbound, &inbound, &hbone, "does the pod use them", "in use"] {
                    assert!(why.contains(part), "{part:?} is missing: {why}");
                }
            }
        }
    }

    #[test]
    fn a_pod_cannot_claim_an_address_by_giving_it_to_itself() {
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        let found = || Ok(vec![ip("10.0.0.1"), ip("10.0.0.2")]);
        assert_eq!(addresses(vec![ip("10.0.0.1")], found).unwrap(), [ip("10.0.0.1")]);
        assert_eq!(addresses(Vec::new(), found).unwrap(), [ip("10.0.0.1"), ip("10.0.0.2")]);
    }
}

//! One captured pod: how it is entered, told to the kernel and the workers, and left again.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, TcpListener};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Instant;

use mesh_common::{FAIL_CLOSED, FAIL_OPEN, PodEntry, capture as bits};

use super::find::Found;
use super::listeners::{self, Set};
use super::netns::{PodNetns, Still};
use super::{Capture, EnrolError};
use crate::health::Captured;
use crate::kernel::{EnrolPod, Families, Kernel, KernelError, netns};
use crate::model::{FailMode, Workload};
use crate::proxy::ceiling::PodShare;
use crate::proxy::worker::{self, Command, PodSpec};

/// A captured pod. Doesn't leave by itself: what is pinned outlives the agent.
pub(super) struct Enrolled {
    workload: Arc<Workload>,
    cookie: u64,
    netns: PodNetns,
    /// What was found in its namespace when it was entered.
    found: Vec<IpAddr>,
    /// Since when none of its processes is there any more.
    absent: Option<Instant>,
    entry: PodEntry,
    /// Every listener: one of each family stands for all on its port in the kernel's maps, and all go to an agent that takes
    /// over.
    listeners: Set,
    /// What its connections take of what all pods share.
    share: Arc<PodShare>,
}

impl Enrolled {
    /// Enters the pod, makes the listeners, tells the workers, then the kernel.
    pub fn join(
        workload: &Arc<Workload>,
        netns: PodNetns,
        capture: &Capture,
        handed: &mut HashMap<u64, Set>,
        kernel: &mut Kernel,
        workers: &[worker::Handle],
    ) -> Result<Self, EnrolError> {
        let own_cookie = netns::cookie_here().map_err(EnrolError::Enter)?;
        let inside = netns::enter(netns.as_fd(), || enter(capture, handed, workers.len()));
        let Inside { cookie, found, sets } = inside.map_err(EnrolError::Enter)??;
        if cookie == own_cookie {
            return Err(EnrolError::HostNetwork);
        }
        let pod = Self {
            workload: workload.clone(),
            cookie,
            netns,
            found,
            absent: None,
            entry: entry_for(workload, capture.refuse_unknown),
            listeners: Set::of_all(&sets).map_err(EnrolError::Enter)?,
            share: Arc::default(),
        };
        if let Err(error) = pod.tell_kernel(pod.addresses(workload), kernel) {
            // Its listeners go with this function: a lookup link left behind would refuse whoever dials the pod.
            if let Err(also) = kernel.unenrol(cookie) {
                tracing::warn!(pod = %workload.name, error = %crate::report::chain(&also), "the kernel can't forget it");
            }
            return Err(error.into());
        }
        for (worker, listeners) in workers.iter().zip(sets) {
            let (workload, netns, share) = (workload.clone(), pod.netns.share(), pod.share.clone());
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

    /// What it has of the places that all pods share.
    pub fn share(&self) -> &PodShare {
        &self.share
    }

    /// Its listeners, for an agent that takes over.
    pub fn listeners(&self) -> io::Result<Set> {
        self.listeners.share()
    }

    /// As a place to send from.
    pub fn captured(&self) -> Captured {
        Captured { cookie: self.cookie, workload: self.workload.clone(), netns: self.netns.share() }
    }

    /// What the pod's object says is believed. What its namespace held is used only where the object says nothing: a pod
    /// that may change its own interfaces could give itself another pod's address and be handed that pod's connections.
    fn addresses<'a>(&'a self, workload: &'a Workload) -> &'a [IpAddr] {
        addresses(&workload.addresses, &self.found)
    }

    /// Whether the pod that the object speaks of is still in the namespace that was entered.
    pub fn still(&self, workload: &Workload) -> Still {
        self.netns.still(workload.netns.as_ref())
    }

    /// True if `found` is in the namespace that was entered.
    pub fn has(&self, found: &Found) -> bool {
        self.netns.has(found)
    }

    /// Another of its processes was found there.
    pub fn hold(&mut self, found: Found) {
        self.absent = None;
        self.netns.hold(found);
    }

    /// None of its processes was found; returns since when.
    pub fn absent(&mut self, now: Instant) -> Instant {
        *self.absent.get_or_insert(now)
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
            if let Err(error) = self.tell_kernel(self.addresses(workload), kernel) {
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
    found: Vec<IpAddr>,
    sets: Vec<Set>,
}

fn enter(capture: &Capture, handed: &mut HashMap<u64, Set>, workers: usize) -> Result<Inside, EnrolError> {
    let cookie = netns::cookie_here().map_err(EnrolError::Enter)?;
    let found = netns::local_addresses().map_err(EnrolError::Enter)?;
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
    Ok(Inside { cookie, found, sets })
}

fn addresses<'a>(declared: &'a [IpAddr], found: &'a [IpAddr]) -> &'a [IpAddr] {
    if declared.is_empty() { found } else { declared }
}

fn entry_for(workload: &Workload, refuse_unknown: bool) -> PodEntry {
    let fail_mode = match workload.fail_mode {
        FailMode::Open => FAIL_OPEN,
        FailMode::Closed => FAIL_CLOSED,
    };
    let registry = if refuse_unknown { bits::REGISTRY_ONLY } else { 0 };
    PodEntry { fail_mode, capture: bits::OUTBOUND | bits::INBOUND | registry }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use std::time::Instant;

    use super::*;
    use crate::enrol::{Finder, Manager, PodState};
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
                let error =
                    enter(&capture(), &mut HashMap::new(), 2).err().expect("the port is the application's");
                let mut manager = Manager::new(capture(), Finder::new("/proc".into()), HashMap::new());
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
        let found = [ip("10.0.0.1"), ip("10.0.0.2")];
        assert_eq!(addresses(&[ip("10.0.0.1")], &found), [ip("10.0.0.1")]);
        assert_eq!(addresses(&[], &found), found);
    }
}

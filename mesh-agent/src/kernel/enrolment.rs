//! Pods in and out of the maps.
//!
//! In: addresses and listeners, then the sk_lookup link, then the entry that makes connect capture, so that nothing is
//! captured before it can be answered. Out: the same backwards. Established connections don't ask any of these, so both
//! leave them alone.

use std::fs;
use std::net::IpAddr;
use std::os::fd::BorrowedFd;
use std::path::PathBuf;

use mesh_common::{Addr, LocalAddress, OwnAddresses, PodEntry, capture};

use super::maps::{self, Maps, is_missing};
use super::{Kernel, KernelError, bpffs, link};
use crate::addr;

/// A pod to capture.
pub struct EnrolPod<'a> {
    /// Cookie of its netns ([`super::netns::cookie_here`]).
    pub cookie: u64,
    /// What to capture, and what to do while no agent serves.
    pub entry: PodEntry,
    /// Its addresses; inbound connections to any other are refused.
    pub addresses: &'a [IpAddr],
    /// Its network namespace.
    pub netns: BorrowedFd<'a>,
    /// One of the agent's inbound listeners in it for each family.
    pub inbound: Families<'a>,
    /// The same on the HBONE port.
    pub hbone: Families<'a>,
}

/// A listener for each family of addresses that the pod has.
#[derive(Clone, Copy, Default)]
pub struct Families<'a> {
    /// For IPv4.
    pub v4: Option<BorrowedFd<'a>>,
    /// For IPv6.
    pub v6: Option<BorrowedFd<'a>>,
}

impl<'a> Families<'a> {
    fn of(self, ip: IpAddr) -> Option<BorrowedFd<'a>> {
        if ip.to_canonical().is_ipv4() { self.v4 } else { self.v6 }
    }
}

impl Kernel {
    /// Captures a pod from now on. Again for the same pod: replaces entry, addresses and listeners, nobody notices.
    ///
    /// # Errors
    /// What was written stays, harmless: without the entry nothing is captured. `unenrol` or another try settles it.
    pub fn enrol(&mut self, pod: &EnrolPod<'_>) -> Result<(), KernelError> {
        if pod.entry.capture & capture::REGISTRY_ONLY != 0 {
            self.services.know_addresses(&mut self.maps);
        }
        let path = bpffs::netns_dir(&self.options.bpffs_dir).join(pod.cookie.to_string());
        if pod.entry.capture & capture::INBOUND != 0 {
            self.set_addresses(pod)?;
            link::attach_netns(&mut self.ebpf, &path, pod.netns)?;
        } else {
            link::unpin(&path)?;
            self.forget_addresses(pod.cookie, &[])?;
        }
        let own = own_addresses(pod.addresses);
        self.maps.own_addresses.insert(pod.cookie, own, 0).map_err(KernelError::map(maps::OWN_ADDRESSES))?;
        self.maps.pods.insert(pod.cookie, pod.entry, 0).map_err(KernelError::map(maps::PODS))
    }

    /// Captures a pod no more. Its established connections go on through the agent for as long as it carries them.
    ///
    /// # Errors
    /// A map or pin can't be changed; what comes after it in order stays for another try.
    pub fn unenrol(&mut self, netns_cookie: u64) -> Result<(), KernelError> {
        match self.maps.pods.remove(&netns_cookie) {
            Err(error) if !is_missing(&error) => return Err(KernelError::map(maps::PODS)(error)),
            Ok(()) | Err(_) => {}
        }
        match self.maps.own_addresses.remove(&netns_cookie) {
            Err(error) if !is_missing(&error) => return Err(KernelError::map(maps::OWN_ADDRESSES)(error)),
            Ok(()) | Err(_) => {}
        }
        link::unpin(&bpffs::netns_dir(&self.options.bpffs_dir).join(netns_cookie.to_string()))?;
        self.forget_addresses(netns_cookie, &[])
    }

    /// Every pod that is captured, those of an earlier process included.
    pub fn enrolled_cookies(&self) -> Vec<u64> {
        self.maps.pods.keys().flatten().collect()
    }

    /// Pods that an earlier process left captured follow their own fail mode from now on, each until it is enrolled again.
    /// Not while that process still serves them.
    ///
    /// # Errors
    /// The map can't be written.
    pub fn leave_to_fail_modes(&mut self) -> Result<(), KernelError> {
        let adopted: Vec<(u64, PodEntry)> = self.maps.pods.iter().flatten().collect();
        for (cookie, pod) in adopted {
            let unserved = PodEntry { capture: pod.capture | capture::UNSERVED, ..pod };
            self.maps.pods.insert(cookie, unserved, 0).map_err(KernelError::map(maps::PODS))?;
        }
        Ok(())
    }

    /// Puts an earlier process's pods on the new programs, and removes those whose netns is gone.
    pub(super) fn adopt_pods(&mut self) -> Result<(), KernelError> {
        let mut dead = Vec::new();
        for (cookie, path) in self.pinned_netns()? {
            if !link::refresh_netns(&self.ebpf, &path)? {
                dead.push(cookie);
            }
        }
        dead.into_iter().try_for_each(|cookie| self.unenrol(cookie))
    }

    fn pinned_netns(&self) -> Result<Vec<(u64, PathBuf)>, KernelError> {
        let dir = bpffs::netns_dir(&self.options.bpffs_dir);
        let entries = fs::read_dir(&dir).map_err(|source| KernelError::Bpffs { path: dir, source })?;
        let pins = entries.flatten().filter_map(|entry| {
            let cookie = entry.file_name().to_str()?.parse().ok()?;
            Some((cookie, entry.path()))
        });
        Ok(pins.collect())
    }

    fn set_addresses(&mut self, pod: &EnrolPod<'_>) -> Result<(), KernelError> {
        let value = LocalAddress { netns_cookie: pod.cookie, pod: pod.entry };
        let mut keys = Vec::with_capacity(pod.addresses.len());
        for ip in pod.addresses {
            let key = addr::to_map(*ip);
            self.maps.addresses.insert(key, value, 0).map_err(KernelError::map(maps::ADDRESSES))?;
            if let Some(listener) = pod.inbound.of(*ip) {
                self.maps.listeners.insert(key, listener, 0).map_err(KernelError::map(maps::LISTENERS))?;
            }
            if let Some(listener) = pod.hbone.of(*ip) {
                let inserted = self.maps.hbone_listeners.insert(key, listener, 0);
                inserted.map_err(KernelError::map(maps::HBONE_LISTENERS))?;
            }
            keys.push(key);
        }
        self.forget_addresses(pod.cookie, &keys)
    }

    /// Removes the pod's addresses but for `keep`. An address that another pod has taken over is left to it.
    fn forget_addresses(&mut self, cookie: u64, keep: &[Addr]) -> Result<(), KernelError> {
        let stale: Vec<Addr> = self
            .maps
            .addresses
            .iter()
            .flatten()
            .filter(|(key, value)| value.netns_cookie == cookie && !keep.contains(key))
            .map(|(key, _)| key)
            .collect();
        for key in stale {
            // The kernel took the listener out already if it was closed.
            let Maps { listeners, hbone_listeners, .. } = &mut self.maps;
            for (listeners, name) in [(listeners, maps::LISTENERS), (hbone_listeners, maps::HBONE_LISTENERS)]
            {
                match listeners.remove(&key) {
                    Err(error) if !is_missing(&error) => return Err(KernelError::map(name)(error)),
                    Ok(()) | Err(_) => {}
                }
            }
            self.maps.addresses.remove(&key).map_err(KernelError::map(maps::ADDRESSES))?;
        }
        Ok(())
    }
}

/// The first of each family: Kubernetes names a pod's primary address first.
fn own_addresses(addresses: &[IpAddr]) -> OwnAddresses {
    let first = |v4: bool| addresses.iter().find(|ip| ip.to_canonical().is_ipv4() == v4);
    let word = |v4| first(v4).map_or([0; 4], |ip| addr::to_map(*ip));
    OwnAddresses { v4: word(true), v6: word(false) }
}

//! Services and their endpoints as the connect hook needs them: a snapshot's difference, written.
//!
//! A changed endpoint list gets a new id: its slots are written first, then the service's entry is replaced, then the old
//! id's slots go, so a reader never sees a mixture. Unchanged ports are told apart by their `Arc`, so a change costs what
//! changed. Plainly known addresses are written only once a pod with `registryOnly` needs them.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;

use aya::maps::MapError;
use mesh_common::{ServiceEndpoint, ServiceEntry, ServiceKey, ServiceSlot, service_flag};

use super::maps::{Maps, is_missing};
use super::{Kernel, KernelError, maps};
use crate::addr;
use crate::model::{ObjectName, ServicePort, Snapshot};
use crate::policy::traffic::TrafficPolicy;

/// What a synchronisation did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct SyncStats {
    /// Entries written because they are new or changed.
    pub written: usize,
    /// Entries removed.
    pub removed: usize,
    /// Entries that the kernel refused; tried again with the next one. A full map is the usual cause.
    pub failed: usize,
}

/// What was last written.
#[derive(Default)]
pub(super) struct Services {
    ports: HashMap<ServiceKey, Written>,
    plain: HashSet<IpAddr>,
    /// A snapshot of all of the source was written once: what an earlier process wrote beyond it is over.
    is_whole: bool,
    /// Some pod refuses unknown destinations.
    wants_plain: bool,
    last: Option<Snapshot>,
    next_id: u32,
}

struct Written {
    /// None for what an earlier process wrote: certainly looked at again.
    port: Option<Arc<ServicePort>>,
    /// A route or a policy decides about connections, whether the service has endpoints of its own or not.
    decided: bool,
    entry: ServiceEntry,
    slots: Vec<ServiceEndpoint>,
}

impl Services {
    /// Takes note of what an earlier process wrote, so that the first synchronisation replaces or removes it.
    pub(super) fn adopt(maps: &Maps) -> Result<Self, KernelError> {
        let mut services = Self { next_id: 1, ..Self::default() };
        for item in maps.services.iter() {
            let (key, entry) = item.map_err(KernelError::map(maps::SERVICES))?;
            if key.port == 0 {
                services.plain.insert(addr::from_map(key.addr));
                continue;
            }
            services.next_id = services.next_id.max(entry.id.wrapping_add(1));
            services.ports.insert(key, Written { port: None, decided: false, entry, slots: Vec::new() });
        }
        Ok(services)
    }

    /// From now on plain addresses are kept too; those of the last snapshot are written at once.
    pub(super) fn know_addresses(&mut self, maps: &mut Maps) {
        if !std::mem::replace(&mut self.wants_plain, true)
            && let Some(snapshot) = self.last.clone()
        {
            let mut stats = SyncStats::default();
            self.sync_plain(maps, &snapshot, &mut stats);
        }
    }

    /// Entries of the service map and of the endpoint map, by what was written: at their size, nobody wants to walk them.
    pub(super) fn entries(&self) -> (usize, usize) {
        let slots = self.ports.values().map(|written| written.entry.count as usize).sum();
        (self.ports.len() + self.plain.len(), slots)
    }

    fn sync(&mut self, maps: &mut Maps, snapshot: &Snapshot, is_whole: bool) -> SyncStats {
        self.is_whole |= is_whole;
        let mut stats = SyncStats::default();
        let decided = decided(snapshot);
        for (&(ip, port), service) in snapshot.vips.iter() {
            let key = key(ip, port);
            let decided = !decided.is_empty() && decided.contains(&(&service.service.name, service.port));
            let is_same = |known: &Written| {
                known.decided == decided && known.port.as_ref().is_some_and(|port| Arc::ptr_eq(port, service))
            };
            if !self.ports.get(&key).is_some_and(is_same) {
                self.write(maps, key, ip, service, decided, &mut stats);
            }
        }
        self.remove_missing(maps, snapshot, &mut stats);
        if self.wants_plain {
            self.sync_plain(maps, snapshot, &mut stats);
        }
        self.last = Some(snapshot.clone());
        stats
    }

    fn write(
        &mut self,
        maps: &mut Maps,
        key: ServiceKey,
        vip: IpAddr,
        port: &Arc<ServicePort>,
        decided: bool,
        stats: &mut SyncStats,
    ) {
        let slots = slots(vip, port);
        // The agent crosses address families where a socket couldn't, can wait for an endpoint, and may be led to others'.
        let answers = port.protocol.is_http() || !port.endpoints.available.is_empty() || port.is_original();
        let agent_answers = answers || decided;
        let flags = if agent_answers { service_flag::AGENT_ANSWERS } else { 0 };
        if let Some(known) = self.ports.get_mut(&key)
            && known.port.is_some()
            && known.slots == slots
            && known.entry.flags == flags
        {
            known.port = Some(port.clone());
            known.decided = decided;
            return;
        }
        let entry =
            ServiceEntry { id: self.new_id(), count: u32::try_from(slots.len()).unwrap_or(u32::MAX), flags };
        if let Err(error) = write_entry(maps, key, entry, &slots) {
            tracing::warn!(service = %port.service.name, port = port.port, %error, "service not written to the kernel");
            remove_slots(maps, entry);
            stats.failed += 1;
            return;
        }
        stats.written += 1;
        let written = Written { port: Some(port.clone()), decided, entry, slots };
        if let Some(old) = self.ports.insert(key, written) {
            remove_slots(maps, old.entry);
        }
    }

    fn remove_missing(&mut self, maps: &mut Maps, snapshot: &Snapshot, stats: &mut SyncStats) {
        self.ports.retain(|key, written| {
            let may_be_unread = !self.is_whole && written.port.is_none();
            if may_be_unread || snapshot.vips.contains_key(&(addr::from_map(key.addr), key.port)) {
                return true;
            }
            match maps.services.remove(key) {
                Err(error) if !is_missing(&error) => {
                    stats.failed += 1;
                    true
                }
                Ok(()) | Err(_) => {
                    remove_slots(maps, written.entry);
                    stats.removed += 1;
                    false
                }
            }
        });
    }

    /// Addresses of pods and endpoints, with port 0.
    fn sync_plain(&mut self, maps: &mut Maps, snapshot: &Snapshot, stats: &mut SyncStats) {
        let mut wanted: HashSet<IpAddr> = snapshot.by_address.keys().copied().collect();
        wanted.extend(snapshot.by_endpoint.keys().map(|endpoint| endpoint.ip()));
        // What the kernel refuses stays as it was and is tried again with the next synchronisation.
        self.plain.retain(|ip| {
            if !self.is_whole || wanted.contains(ip) {
                return true;
            }
            match maps.services.remove(&key(*ip, 0)) {
                Err(error) if !is_missing(&error) => {
                    stats.failed += 1;
                    true
                }
                Ok(()) | Err(_) => {
                    stats.removed += 1;
                    false
                }
            }
        });
        for ip in wanted {
            if self.plain.contains(&ip) {
                continue;
            }
            match maps.services.insert(key(ip, 0), ServiceEntry::default(), 0) {
                Ok(()) => {
                    self.plain.insert(ip);
                    stats.written += 1;
                }
                Err(_) => stats.failed += 1,
            }
        }
    }

    /// Ids of adopted entries are avoided; after a wrap, those in use are.
    fn new_id(&mut self) -> u32 {
        let id = self.next_id;
        self.next_id = id.wrapping_add(1).max(1);
        id
    }
}

impl Kernel {
    /// Writes what changed since the last call. Services that the kernel refuses keep their former entry. While no
    /// snapshot `is_whole`, those that an earlier process wrote stay: they may stand in what couldn't be read yet.
    pub fn sync_services(&mut self, snapshot: &Snapshot, is_whole: bool) -> SyncStats {
        self.services.sync(&mut self.maps, snapshot, is_whole)
    }
}

/// Ports about which the agent decides without endpoints too: those with routes, for whichever clients, and those at which
/// connections wait for a first endpoint (TrafficPolicy, `activation`).
fn decided(snapshot: &Snapshot) -> HashSet<(&ObjectName, u16)> {
    let waits = |(_, policy): &(_, &Arc<TrafficPolicy>)| policy.activation.is_some();
    let activated = snapshot.traffic.iter().filter(waits).map(|(port, _)| port);
    activated.chain(snapshot.routes.keys()).map(|(name, port)| (name, *port)).collect()
}

fn key(ip: IpAddr, port: u16) -> ServiceKey {
    ServiceKey { addr: addr::to_map(ip), port, _pad: 0 }
}

/// Endpoints that new connections may go to, of the virtual IP's own family: a socket can't change its family.
/// None where a rule wants connections encrypted: only the agent can, so that nothing goes while it is away.
fn slots(vip: IpAddr, port: &ServicePort) -> Vec<ServiceEndpoint> {
    if port.wants_encryption() {
        return Vec::new();
    }
    if port.is_original() {
        return vec![ServiceEndpoint { addr: addr::to_map(vip), port: port.port, _pad: 0 }];
    }
    let of_family = |v4: bool| {
        let available = port.endpoints.available.iter().map(|endpoint| endpoint.addr);
        available
            .filter(move |endpoint| endpoint.ip().is_ipv4() == v4)
            .map(|endpoint| ServiceEndpoint {
                addr: addr::to_map(endpoint.ip()),
                port: endpoint.port(),
                _pad: 0,
            })
            .collect::<Vec<_>>()
    };
    let same = of_family(vip.is_ipv4());
    // An IPv6 socket reaches IPv4 endpoints by their IPv4-mapped form; the other way round there is none.
    if same.is_empty() && vip.is_ipv6() { of_family(true) } else { same }
}

fn write_entry(
    maps: &mut Maps,
    key: ServiceKey,
    entry: ServiceEntry,
    slots: &[ServiceEndpoint],
) -> Result<(), MapError> {
    for (slot, endpoint) in (0u32..).zip(slots) {
        maps.endpoints.insert(ServiceSlot { id: entry.id, slot }, endpoint, 0)?;
    }
    maps.services.insert(key, entry, 0)
}

/// Slots that can't be removed, or were never written, only take up room.
fn remove_slots(maps: &mut Maps, entry: ServiceEntry) {
    for slot in 0..entry.count {
        if maps.endpoints.remove(&ServiceSlot { id: entry.id, slot }).is_err() {
            break;
        }
    }
}

//! Services and their endpoints as the hooks need them: a snapshot's difference, written.
//!
//! A changed endpoint list gets a new id: its slots are written first, then the service's entry is replaced, then the old
//! id's slots go, so a reader never sees a mixture. Unchanged ports are told apart by their `Arc`, so a change costs what
//! changed. Plainly known addresses are written only once a pod with `registryOnly` needs them.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;

use aya::maps::MapError;
use mesh_common::{
    AffinityKey, ServiceEndpoint, ServiceEntry, ServiceKey, ServiceSlot, protocol, service_flag,
};

use super::maps::{Maps, is_missing};
use super::{Kernel, KernelError, KernelServices, maps};
use crate::addr::{self, EndpointAddr};
use crate::model::{ObjectName, ServicePort, Snapshot};

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
    mode: KernelServices,
    /// Endpoints that get no new connections from some list, and may have some from before.
    departing: HashSet<EndpointAddr>,
    /// Those of them that no service lists any more.
    gone: Vec<EndpointAddr>,
}

struct Written {
    /// None for what an earlier process wrote: certainly looked at again.
    port: Option<Arc<ServicePort>>,
    attached: Attached,
    entry: ServiceEntry,
    slots: Vec<ServiceEndpoint>,
}

/// What is attached to a port from outside.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Attached {
    /// A route or a policy decides about connections, whether the service has endpoints of its own or not.
    decides: bool,
    /// Connections need the agent.
    needs_agent: bool,
}

impl Services {
    /// Takes note of what an earlier process wrote, so that the first synchronisation replaces or removes it.
    pub(super) fn adopt(maps: &Maps, mode: KernelServices) -> Result<Self, KernelError> {
        let mut services = Self { next_id: 1, mode, ..Self::default() };
        for item in maps.services.iter() {
            let (key, entry) = item.map_err(KernelError::map(maps::SERVICES))?;
            if key.port == 0 {
                services.plain.insert(addr::from_map(key.addr));
                continue;
            }
            services.next_id = services.next_id.max(entry.id.wrapping_add(1));
            let slot = |slot| maps.endpoints.get(&ServiceSlot { id: entry.id, slot }, 0).ok();
            let slots = (0..entry.count).map_while(slot).collect();
            services.ports.insert(key, Written { port: None, attached: Attached::default(), entry, slots });
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

    /// For how many seconds a quiet client keeps its endpoint: none where the service has no affinity any more.
    pub(super) fn affinity_s(&self, key: &AffinityKey) -> u32 {
        let AffinityKey { addr, port, protocol, .. } = *key;
        self.ports.get(&ServiceKey { addr, port, protocol }).map_or(0, |written| written.entry.affinity_s)
    }

    /// Entries of the service map and of the endpoint map, by what was written: at their size, nobody wants to walk them.
    pub(super) fn entries(&self) -> (usize, usize) {
        let slots = self.ports.values().map(|written| written.entry.count as usize).sum();
        (self.ports.len() + self.plain.len(), slots)
    }

    fn sync(&mut self, maps: &mut Maps, snapshot: &Snapshot, is_whole: bool) -> SyncStats {
        self.is_whole |= is_whole;
        let mut stats = SyncStats::default();
        let attached = attached(snapshot);
        let tcp = snapshot.vips.iter().map(|(at, port)| (key(*at, protocol::TCP), at.0, port));
        let udp = snapshot.udp_vips.iter().filter(|_| self.mode != KernelServices::Off);
        let udp = udp.map(|(at, port)| (key(*at, protocol::UDP), at.0, port));
        let mut changed = Vec::new();
        for (key, vip, port) in tcp.chain(udp) {
            let attached = match attached.is_empty() || key.protocol == protocol::UDP {
                true => Attached::default(),
                false => attached.get(&(&port.service.name, port.port)).copied().unwrap_or_default(),
            };
            let is_same = |known: &Written| {
                known.attached == attached
                    && known.port.as_ref().is_some_and(|known| Arc::ptr_eq(known, port))
            };
            if !self.ports.get(&key).is_some_and(is_same) {
                changed.push((key, vip, port, attached));
            }
        }
        for (key, vip, port, attached) in changed {
            self.write(maps, key, vip, port, attached, &mut stats);
        }
        self.remove_missing(maps, snapshot, &mut stats);
        let (gone, departing) =
            std::mem::take(&mut self.departing).into_iter().partition(|e| !is_listed(snapshot, *e));
        self.departing = departing;
        self.gone.extend::<HashSet<EndpointAddr>>(gone);
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
        attached: Attached,
        stats: &mut SyncStats,
    ) {
        let slots = slots(key.protocol, vip, port, self.mode);
        let flags = self.flags(port, attached, &slots);
        let affinity_s = affinity_s(port);
        if let Some(known) = self.ports.get_mut(&key)
            && known.port.is_some()
            && known.slots == slots
            && (known.entry.flags, known.entry.affinity_s) == (flags, affinity_s)
        {
            known.port = Some(port.clone());
            known.attached = attached;
            return;
        }
        let count = u32::try_from(slots.len()).unwrap_or(u32::MAX);
        let entry = ServiceEntry { id: self.new_id(), count, flags, affinity_s };
        if let Err(error) = write_entry(maps, key, entry, &slots) {
            tracing::warn!(service = %port.service.name, port = port.port, %error, "service not written to the kernel");
            remove_slots(maps, entry);
            stats.failed += 1;
            return;
        }
        stats.written += 1;
        let kept: HashSet<_> = slots.iter().map(|slot| (slot.addr, slot.port)).collect();
        let written = Written { port: Some(port.clone()), attached, entry, slots };
        if let Some(mut old) = self.ports.insert(key, written) {
            old.slots.retain(|slot| !kept.contains(&(slot.addr, slot.port)));
            self.miss(&old.slots);
            remove_slots(maps, old.entry);
        }
    }

    fn flags(&self, port: &ServicePort, attached: Attached, slots: &[ServiceEndpoint]) -> u32 {
        // The agent crosses address families where a socket couldn't, can wait for an endpoint, and may be led to others'.
        let answers = port.protocol.is_http() || !port.endpoints.available.is_empty() || port.is_original();
        let needs_agent = attached.needs_agent || port.need().is_some();
        let kernel = self.mode != KernelServices::Off && !needs_agent && !slots.is_empty();
        [
            (answers || attached.decides, service_flag::AGENT_ANSWERS),
            (kernel, service_flag::KERNEL),
            (port.wants_encryption(), service_flag::ENCRYPTED),
            (port.external.is_some(), service_flag::MESH_ONLY),
        ]
        .into_iter()
        .filter_map(|(applies, flag)| applies.then_some(flag))
        .fold(0, |flags, flag| flags | flag)
    }

    /// Some of these may be gone now.
    fn miss(&mut self, slots: &[ServiceEndpoint]) {
        if self.mode != KernelServices::Off {
            let endpoint = |slot: &ServiceEndpoint| EndpointAddr::new(addr::from_map(slot.addr), slot.port);
            self.departing.extend(slots.iter().map(endpoint));
        }
    }

    fn remove_missing(&mut self, maps: &mut Maps, snapshot: &Snapshot, stats: &mut SyncStats) {
        let mut missed = Vec::new();
        self.ports.retain(|key, written| {
            let may_be_unread = !self.is_whole && written.port.is_none();
            let vips = if key.protocol == protocol::UDP { &snapshot.udp_vips } else { &snapshot.vips };
            let is_off = key.protocol == protocol::UDP && self.mode == KernelServices::Off;
            if may_be_unread || (!is_off && vips.contains_key(&(addr::from_map(key.addr), key.port))) {
                return true;
            }
            match maps.services.remove(key) {
                Err(error) if !is_missing(&error) => {
                    stats.failed += 1;
                    true
                }
                Ok(()) | Err(_) => {
                    remove_slots(maps, written.entry);
                    missed.append(&mut written.slots);
                    stats.removed += 1;
                    false
                }
            }
        });
        self.miss(&missed);
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
            match maps.services.remove(&plain_key(*ip)) {
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
            match maps.services.insert(plain_key(ip), ServiceEntry::default(), 0) {
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

    /// Endpoints that no service lists any more, of those that connections may have been sent to by the kernel; each once.
    pub fn take_gone(&mut self) -> Vec<EndpointAddr> {
        std::mem::take(&mut self.services.gone)
    }
}

/// Ports that something is attached to: the agent decides without endpoints too where there are routes, for whichever
/// clients, and where connections wait for a first endpoint (TrafficPolicy, `activation`).
fn attached(snapshot: &Snapshot) -> HashMap<(&ObjectName, u16), Attached> {
    let mut all: HashMap<_, Attached> = HashMap::new();
    let policies = snapshot.traffic.iter().map(|(port, policy)| (port, policy.activation.is_some()));
    let routes = snapshot.routes.keys().map(|port| (port, true));
    for ((name, port), decides) in policies.chain(routes) {
        let attached = all.entry((name, *port)).or_default();
        attached.needs_agent = true;
        attached.decides |= decides;
    }
    all
}

/// Whether it is anybody's endpoint, if only until it has shut down.
fn is_listed(snapshot: &Snapshot, endpoint: EndpointAddr) -> bool {
    let lists = |port: &Arc<ServicePort>| port.endpoints.all.iter().any(|listed| listed.addr == endpoint);
    snapshot.by_endpoint.contains_key(&endpoint) || snapshot.udp_vips.values().any(lists)
}

fn key((ip, port): (IpAddr, u16), protocol: u16) -> ServiceKey {
    ServiceKey { addr: addr::to_map(ip), port, protocol }
}

fn plain_key(ip: IpAddr) -> ServiceKey {
    key((ip, 0), protocol::TCP)
}

/// Seconds, at least one where there is affinity.
fn affinity_s(port: &ServicePort) -> u32 {
    port.policy
        .client_ip_affinity
        .map_or(0, |timeout| u32::try_from(timeout.as_secs()).unwrap_or(u32::MAX).max(1))
}

/// Endpoints that new connections may go to, the nearest ones where the Service says so, of the virtual IP's own family: a
/// socket can't change its family. Where a rule wants connections encrypted they are for sockets alone that aren't captured,
/// which know of no rules.
fn slots(transport: u16, vip: IpAddr, port: &ServicePort, mode: KernelServices) -> Vec<ServiceEndpoint> {
    if port.wants_encryption() && mode != KernelServices::All {
        return Vec::new();
    }
    if port.is_original() {
        return vec![ServiceEndpoint { addr: addr::to_map(vip), port: port.port, _pad: 0 }];
    }
    let set = &port.endpoints;
    let near = set.tiers.first().filter(|_| port.policy.rule.is_none()).map(|tier| &tier.endpoints);
    let candidates = near.unwrap_or(&set.available);
    let of_family = |v4: bool| {
        let available = candidates.iter().map(|endpoint| endpoint.addr);
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
    // Datagrams can't.
    if same.is_empty() && vip.is_ipv6() && transport == protocol::TCP { of_family(true) } else { same }
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

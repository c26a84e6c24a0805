//! Slices to the endpoints of one port, with everything that didn't change taken over from the last version.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use crate::addr::EndpointAddr;
use crate::balance::health::Health;
use crate::model::{Endpoint, EndpointSet, LoadState, ObjectName, Snapshot, Workload};
use crate::objects::{AddressType, EndpointSlice, SliceEndpoint, TransportProtocol};

/// Endpoints of the port `name` of this transport, by address. An address that stands in several slices for a moment (they are being
/// rearranged) counts once, as ready if one of them says so.
pub fn collect<'a>(
    slices: impl Iterator<Item = &'a EndpointSlice>,
    name: &str,
    transport: TransportProtocol,
) -> BTreeMap<EndpointAddr, &'a SliceEndpoint> {
    let mut found: BTreeMap<EndpointAddr, &SliceEndpoint> = BTreeMap::new();
    for slice in slices.filter(|slice| slice.address_type != AddressType::Fqdn) {
        let ports = slice.ports.iter().filter(|port| port.name == name && port.protocol == transport);
        for port in ports.filter_map(|port| port.port) {
            for endpoint in &slice.endpoints {
                let Some(ip) = endpoint.ip() else { continue };
                let known = found.entry(EndpointAddr::new(ip, port.0)).or_insert(endpoint);
                if !known.ready() && endpoint.ready() {
                    *known = endpoint;
                }
            }
        }
    }
    found
}

/// Which endpoints are for clients of the agent's node; the others are known, but not available.
#[derive(Clone, Copy, Debug, Default)]
pub struct Near<'a> {
    /// Those of this node alone.
    pub only_node: Option<&'a str>,
    /// Those that slices' hints are for, in this zone.
    pub zone: Option<&'a str>,
}

/// The set made of `found`. Endpoints that say the same as in `old` keep their `Arc`, changed ones their load figures.
pub fn build(
    found: &BTreeMap<EndpointAddr, &SliceEndpoint>,
    old: Option<&EndpointSet>,
    namespace: &str,
    near: Near<'_>,
    workload_at: impl Fn(EndpointAddr, Option<ObjectName>) -> Option<Arc<Workload>>,
    now_ns: u64,
) -> EndpointSet {
    // What is there when the agent first looks isn't new.
    let born_ns = if old.is_some() { now_ns } else { 0 };
    let known = old.map(|old| old.all.as_slice()).unwrap_or_default();
    let health = old.map(|old| &*old.health);
    let all: Vec<Arc<Endpoint>> = found
        .iter()
        .map(|(addr, raw)| {
            let pod = raw.pod().map(|pod| ObjectName::new(namespace, pod));
            let workload = workload_at(*addr, pod);
            let before = known.binary_search_by_key(addr, |endpoint| endpoint.addr).ok().map(|at| &known[at]);
            match before {
                Some(before) if says_same(before, raw, workload.as_ref()) => before.clone(),
                before => Arc::new(Endpoint {
                    addr: *addr,
                    workload,
                    node: raw.node_name.as_deref().map(str::to_owned),
                    zone: raw.zone.as_deref().map(str::to_owned),
                    ready: raw.ready(),
                    serving: raw.serving(),
                    terminating: raw.terminating(),
                    load: load(before, raw.ready(), born_ns, health),
                }),
            }
        })
        .collect();
    EndpointSet { available: available(&all, found, near), all, ..carried(old) }
}

/// More turns than this aren't told apart.
const TURNS: u64 = 1000;

/// Gives endpoints their shares: one of weight 3 stands among the available ones three times as often as one of weight 1.
/// The balancer draws from them, so that this costs a choice nothing.
pub fn by_weight(set: &mut EndpointSet, weights: &BTreeMap<EndpointAddr, u32>) {
    let weight = |endpoint: &Arc<Endpoint>| u64::from(weights.get(&endpoint.addr).copied().unwrap_or(1));
    let divisor = set.available.iter().map(weight).fold(0, gcd).max(1);
    let turns: u64 = set.available.iter().map(|endpoint| weight(endpoint) / divisor).sum();
    let times = |endpoint: &Arc<Endpoint>| match weight(endpoint) / divisor {
        few if turns <= TURNS => few,
        many => (many * TURNS / turns).max(1),
    };
    let repeated = |endpoint: &Arc<Endpoint>| {
        std::iter::repeat_n(endpoint.clone(), usize::try_from(times(endpoint)).unwrap_or(1))
    };
    set.available = set.available.iter().flat_map(repeated).collect();
}

fn gcd(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { gcd(b, a % b) }
}

/// What lives on from the last version of a set.
fn carried(old: Option<&EndpointSet>) -> EndpointSet {
    let Some(old) = old else { return EndpointSet::default() };
    EndpointSet {
        next: old.next.load(Relaxed).into(),
        ejections: old.ejections.clone(),
        health: old.health.clone(),
        usage: old.usage.clone(),
        ..EndpointSet::default()
    }
}

/// The figures of an endpoint, which comes up when it is new or becomes ready. To a service under check it comes as one
/// that has to pass its first check.
fn load(
    before: Option<&Arc<Endpoint>>,
    ready: bool,
    born_ns: u64,
    health: Option<&Health>,
) -> Arc<LoadState> {
    let load = match before {
        Some(before) => before.load.clone(),
        None => Arc::new(LoadState { born_ns: born_ns.into(), ..LoadState::default() }),
    };
    if ready && !before.is_some_and(|before| before.ready) {
        load.born_ns.store(born_ns, Relaxed);
        if let Some(health) = health {
            health.admit(&load.health);
        }
    }
    load
}

/// The part of `set` that a virtual address of one family leads to. `old` is that part's last version; what is counted
/// is counted together.
pub fn of_family(set: &EndpointSet, v4: bool, old: Option<&EndpointSet>) -> EndpointSet {
    let of_it = |endpoints: &[Arc<Endpoint>]| {
        endpoints.iter().filter(|endpoint| endpoint.addr.ip().is_ipv4() == v4).cloned().collect()
    };
    EndpointSet {
        available: of_it(&set.available),
        all: of_it(&set.all),
        ejections: set.ejections.clone(),
        health: set.health.clone(),
        usage: set.usage.clone(),
        ..carried(old)
    }
}

/// True if both hold the same endpoints by pointer.
pub fn same(a: &EndpointSet, b: &EndpointSet) -> bool {
    let same = |a: &[Arc<Endpoint>], b: &[Arc<Endpoint>]| {
        a.len() == b.len() && a.iter().zip(b).all(|(a, b)| Arc::ptr_eq(a, b))
    };
    let same_tiers = a.tiers.len() == b.tiers.len()
        && a.tiers
            .iter()
            .zip(&b.tiers)
            .all(|(a, b)| a.weight == b.weight && same(&a.endpoints, &b.endpoints));
    same(&a.all, &b.all) && same(&a.available, &b.available) && same_tiers
}

/// The pod behind an endpoint: the one that the slice names, if it has that address, else the owner of the address. The
/// name matters for pods on the host's network, which share an address.
pub fn workload_at(
    snapshot: &Snapshot,
    by_address: Option<&Arc<Workload>>,
    addr: EndpointAddr,
    pod: Option<ObjectName>,
) -> Option<Arc<Workload>> {
    let named = pod.and_then(|pod| snapshot.workloads.get(&pod));
    named.filter(|workload| workload.addresses.contains(&addr.ip())).or(by_address).cloned()
}

/// Of each family the ready ones; if it has none, those that still serve though terminating (KEP-1669).
fn available(
    all: &[Arc<Endpoint>],
    found: &BTreeMap<EndpointAddr, &SliceEndpoint>,
    near: Near<'_>,
) -> Vec<Arc<Endpoint>> {
    // IPv4 sorts first.
    let (v4, v6) = all.split_at(all.partition_point(|endpoint| endpoint.addr.ip().is_ipv4()));
    let mut available = available_in(v4, found, near);
    available.extend(available_in(v6, found, near));
    available
}

fn available_in(
    all: &[Arc<Endpoint>],
    found: &BTreeMap<EndpointAddr, &SliceEndpoint>,
    near: Near<'_>,
) -> Vec<Arc<Endpoint>> {
    let here =
        |endpoint: &&Arc<Endpoint>| near.only_node.is_none_or(|node| endpoint.node.as_deref() == Some(node));
    let ready: Vec<_> = all.iter().filter(here).filter(|endpoint| endpoint.ready).cloned().collect();
    if !ready.is_empty() {
        return near.zone.and_then(|zone| hinted(&ready, found, zone)).unwrap_or(ready);
    }
    all.iter().filter(here).filter(|endpoint| endpoint.serving && endpoint.terminating).cloned().collect()
}

/// Of the ready endpoints those that are for clients of `zone`; none where hints can't be followed: one endpoint has no hint,
/// or no endpoint is for the zone (KEP-2433, as kube-proxy does).
fn hinted(
    ready: &[Arc<Endpoint>],
    found: &BTreeMap<EndpointAddr, &SliceEndpoint>,
    zone: &str,
) -> Option<Vec<Arc<Endpoint>>> {
    let zones = |endpoint: &Arc<Endpoint>| found.get(&endpoint.addr).map(|raw| raw.for_zones());
    if ready.iter().any(|endpoint| zones(endpoint).is_none_or(|mut zones| zones.next().is_none())) {
        return None;
    }
    let ours =
        |endpoint: &&Arc<Endpoint>| zones(endpoint).is_some_and(|mut zones| zones.any(|to| to == zone));
    let ours: Vec<_> = ready.iter().filter(ours).cloned().collect();
    (!ours.is_empty()).then_some(ours)
}

fn says_same(before: &Endpoint, raw: &SliceEndpoint, workload: Option<&Arc<Workload>>) -> bool {
    let same_workload = match (&before.workload, workload) {
        (Some(before), Some(now)) => Arc::ptr_eq(before, now),
        (None, None) => true,
        _ => false,
    };
    same_workload
        && before.ready == raw.ready()
        && before.serving == raw.serving()
        && before.terminating == raw.terminating()
        && before.node.as_deref() == raw.node_name.as_deref()
        && before.zone.as_deref() == raw.zone.as_deref()
}

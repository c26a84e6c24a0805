//! Which endpoint of a service: one that its client had before, or any.
//!
//! For hooks that send to endpoints without the agent: `connect` and `udp`. Reads what the agent wrote; never decides
//! whether the agent is needed.

use aya_ebpf::bindings::BPF_ANY;
use aya_ebpf::helpers::{bpf_get_prandom_u32, bpf_ktime_get_ns};
use mesh_common::{
    Addr, AffinityKey, Chosen, Reason, ServiceEndpoint, ServiceEntry, ServiceKey, ServiceSlot,
};

use crate::addr;
use crate::maps;

/// A list is searched this far for an endpoint that was chosen from an earlier one; beyond it the client gets another.
const SEARCHED: u32 = 128;
const NS_PER_S: u64 = 1_000_000_000;

/// A virtual IP and port that the agent knows.
#[inline(always)]
pub fn service(to: &Addr, port: u16, protocol: u16) -> Option<&'static ServiceEntry> {
    let key = ServiceKey { addr: *to, port, protocol };
    // SAFETY: not preallocated, so an entry in use isn't reused before a grace period.
    unsafe { maps::SERVICES.get(key) }
}

/// One of the service's endpoints, uniformly at random. None: there is none, or the agent replaced the list meanwhile.
#[inline(always)]
pub fn pick(service: &ServiceEntry) -> Option<&'static ServiceEndpoint> {
    if service.count == 0 {
        return None;
    }
    // SAFETY: the helper has no preconditions.
    let slot = unsafe { bpf_get_prandom_u32() } % service.count;
    at(service.id, slot)
}

/// The endpoint that this client of the service has: where that asks for affinity, the same one as long as it is listed and
/// the client isn't quiet for too long. With the list that it was found in.
#[inline(always)]
pub fn choose(netns_cookie: u64, to: &Addr, port: u16, protocol: u16) -> Option<Chosen> {
    let service = service(to, port, protocol)?;
    if service.affinity_s == 0 {
        // The agent may have replaced the list between the two look-ups; the second try sees the new one.
        return chosen(service).or_else(|| chosen(self::service(to, port, protocol)?));
    }
    let key = AffinityKey { netns_cookie, addr: *to, port, protocol, _pad: 0 };
    // SAFETY: not preallocated, so an entry in use isn't reused before a grace period.
    if let Some(known) = unsafe { maps::AFFINITY.get(key) } {
        let known = copy(known);
        let quiet_ns = now().saturating_sub(known.used_ns);
        if quiet_ns < u64::from(service.affinity_s) * NS_PER_S && is_listed(service, &known) {
            return note(&key, Chosen { list: service.id, used_ns: now(), ..known });
        }
    }
    let chosen = chosen(service).or_else(|| chosen(self::service(to, port, protocol)?))?;
    note(&key, chosen)
}

/// Whether an endpoint that was chosen once is still one that new datagrams and connections may go to.
#[inline(always)]
pub fn is_listed(service: &ServiceEntry, known: &Chosen) -> bool {
    if known.list == service.id {
        return true;
    }
    let mut slot = 0;
    while slot < SEARCHED {
        if slot >= service.count {
            return false;
        }
        if let Some(endpoint) = at(service.id, slot)
            && endpoint.port == known.port
            && endpoint.addr == known.addr
        {
            return true;
        }
        slot += 1;
    }
    false
}

/// A copy by words; left to itself the compiler calls memcpy.
#[inline(always)]
pub fn copy(known: &Chosen) -> Chosen {
    Chosen {
        addr: addr::copy(&known.addr),
        port: known.port,
        _pad: 0,
        list: known.list,
        used_ns: known.used_ns,
    }
}

#[inline(always)]
pub fn now() -> u64 {
    // SAFETY: the helper has no preconditions.
    unsafe { bpf_ktime_get_ns() }
}

#[inline(always)]
fn chosen(service: &ServiceEntry) -> Option<Chosen> {
    let endpoint = pick(service)?;
    let addr = addr::copy(&endpoint.addr);
    Some(Chosen { addr, port: endpoint.port, _pad: 0, list: service.id, used_ns: now() })
}

/// Without room for it the client is served all the same, by any endpoint.
#[inline(always)]
fn note(key: &AffinityKey, chosen: Chosen) -> Option<Chosen> {
    if maps::AFFINITY.insert(key, chosen, BPF_ANY.into()).is_err() {
        maps::count(Reason::AffinityNotNoted);
    }
    Some(chosen)
}

#[inline(always)]
fn at(id: u32, slot: u32) -> Option<&'static ServiceEndpoint> {
    // SAFETY: not preallocated, so an entry in use isn't reused before a grace period.
    unsafe { maps::ENDPOINTS.get(ServiceSlot { id, slot }) }
}

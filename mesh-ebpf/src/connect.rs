//! cgroup/connect4 and connect6: the first thing that happens to a connection of an enrolled pod.
//!
//! Stores the original destination in socket storage, then rewrites the destination to the agent's in-pod listener;
//! while no agent serves it follows the pod's fail mode instead. Never rewrites what it couldn't record, never touches a
//! socket of a netns that isn't enrolled. After it: `sock_ops`.

use aya_ebpf::EbpfContext as _;
use aya_ebpf::bindings::bpf_sock;
use aya_ebpf::helpers::bpf_get_prandom_u32;
use aya_ebpf::helpers::generated::{bpf_get_netns_cookie, bpf_set_retval};
use aya_ebpf::macros::cgroup_sock_addr;
use aya_ebpf::programs::SockAddrContext;
use aya_log_ebpf::debug;
use mesh_common::{
    Addr, AgentConfig, FAIL_OPEN, PodEntry, Reason, ServiceEndpoint, ServiceEntry, ServiceKey, ServiceSlot,
    SocketRecord, capture, owner, service_flag,
};

use crate::addr;
use crate::maps;

const PASS: i32 = 1;
const REFUSE: i32 = 0;
const EHOSTUNREACH: i32 = 113;
const ECONNREFUSED: i32 = 111;
const ENETUNREACH: i32 = 101;
/// `lo` has this index in every network namespace.
const LOOPBACK_IFINDEX: u32 = 1;
const SOCK_STREAM: u32 = 1;
const IPPROTO_TCP: u32 = 6;

/// What connect(2) was asked for, and what is needed to answer it.
struct Dial<'a> {
    ctx: &'a SockAddrContext,
    v4: bool,
    sk: *mut bpf_sock,
    record: *mut SocketRecord,
    cookie: u64,
    to: Addr,
    port: u16,
}

/// Passes, rewritten or not. On failure the application gets an errno from connect(2): EHOSTUNREACH for a service
/// without endpoints, ENETUNREACH for a socket bound to a device, ECONNREFUSED for everything else.
#[cgroup_sock_addr(connect4)]
pub fn connect4(ctx: SockAddrContext) -> i32 {
    verdict(&ctx, decide(&ctx, true))
}

/// As [`connect4`]; IPv4-mapped destinations come here.
#[cgroup_sock_addr(connect6)]
pub fn connect6(ctx: SockAddrContext) -> i32 {
    verdict(&ctx, decide(&ctx, false))
}

#[inline(always)]
fn verdict(ctx: &SockAddrContext, decision: Result<Option<Reason>, Reason>) -> i32 {
    match decision {
        Ok(None) => PASS,
        Ok(Some(reason)) => {
            maps::count(reason);
            debug!(ctx, "connect passed, reason {}", reason as u32);
            PASS
        }
        Err(reason) => {
            maps::count(reason);
            debug!(ctx, "connect refused, reason {}", reason as u32);
            let errno = match reason {
                Reason::NoEndpoint => EHOSTUNREACH,
                Reason::BoundToDevice => ENETUNREACH,
                _ => ECONNREFUSED,
            };
            // SAFETY: allowed in this hook since 5.18. If it failed, the verdict alone still refuses, with EPERM.
            unsafe { bpf_set_retval(-errno) };
            REFUSE
        }
    }
}

/// `Ok(None)`: none of our business. `Ok(Some)`: may go on. `Err`: refused.
#[inline(always)]
fn decide(ctx: &SockAddrContext, v4: bool) -> Result<Option<Reason>, Reason> {
    // SAFETY: fields that this hook may read.
    let (kind, protocol) = unsafe { ((*ctx.sock_addr).type_, (*ctx.sock_addr).protocol) };
    if kind != SOCK_STREAM || protocol != IPPROTO_TCP {
        return Ok(None);
    }
    // SAFETY: the hook's own context.
    let cookie = unsafe { bpf_get_netns_cookie(ctx.as_ptr()) };
    // SAFETY: the agent replaces entries whole; a torn read of two flags words is at worst the old or the new mode.
    let Some(pod) = (unsafe { maps::PODS.get(cookie) }) else { return Ok(None) };
    if pod.capture & capture::OUTBOUND == 0 {
        return Ok(None);
    }
    // SAFETY: the hook's own context; the field is the socket that connects.
    let sk = unsafe { (*ctx.sock_addr).__bindgen_anon_1.sk };
    if sk.is_null() {
        return Err(Reason::RecordFailed);
    }
    // SAFETY: the hook's own context, variant as attached.
    let (to, port) = unsafe { addr::user_addr(ctx.sock_addr, v4) };
    let dial = Dial { ctx, v4, sk, record: maps::record_of(sk), cookie, to, port };
    dispatch(&dial, pod).map(Some)
}

#[inline(always)]
fn dispatch(dial: &Dial<'_>, pod: &PodEntry) -> Result<Reason, Reason> {
    let Some(config) = maps::CONFIG.get(0) else { return Err(Reason::RecordFailed) };
    if dial.owner() == owner::AGENT {
        return Ok(Reason::AgentSocket);
    }
    if addr::is_loopback(&dial.to) {
        return own_loopback(dial, config);
    }
    if pod.capture & capture::UNSERVED != 0 || !maps::agent_serves(config) {
        return agent_away(dial, pod);
    }
    let service = dial.service(dial.port);
    match service {
        Some(service) if service.count == 0 && service.flags & service_flag::AGENT_ANSWERS == 0 => {
            return Err(Reason::NoEndpoint);
        }
        None if pod.capture & capture::REGISTRY_ONLY != 0 && dial.service(0).is_none() => {
            return Err(Reason::UnknownDestination);
        }
        Some(_) | None => {}
    }
    if dial.is_bound_to_device() {
        return Err(Reason::BoundToDevice);
    }
    dial.send_to(owner::APPLICATION, &addr::loopback_like(&dial.to), config.outbound_port)?;
    Ok(Reason::Captured)
}

/// The pod's own loopback is left alone, but for the agent's ports: a connection there has no original destination.
#[inline(always)]
fn own_loopback(dial: &Dial<'_>, config: &AgentConfig) -> Result<Reason, Reason> {
    if dial.port == config.outbound_port || dial.port == config.inbound_port || dial.port == config.hbone_port
    {
        return Err(Reason::DialledAgentPort);
    }
    dial.forget();
    Ok(Reason::Loopback)
}

/// No agent serves: what the pod's fail mode says. `open` still translates virtual IPs, which nobody else might.
#[inline(always)]
fn agent_away(dial: &Dial<'_>, pod: &PodEntry) -> Result<Reason, Reason> {
    if pod.fail_mode != FAIL_OPEN {
        return Err(Reason::AgentAwayClosed);
    }
    let Some(service) = dial.service(dial.port) else {
        dial.forget();
        return Ok(Reason::AgentAwayOpen);
    };
    // The agent may replace the list between the two look-ups; the second try sees the new one.
    let endpoint = match pick(service) {
        Some(endpoint) => endpoint,
        None => dial.service(dial.port).and_then(pick).ok_or(Reason::NoEndpoint)?,
    };
    let words = endpoint.addr;
    if dial.v4 && !addr::is_mapped(&words) {
        return Err(Reason::NoEndpoint);
    }
    dial.send_to(owner::TRANSLATED, &words, endpoint.port)?;
    Ok(Reason::AgentAwayService)
}

/// One of the service's endpoints, uniformly at random.
#[inline(always)]
fn pick(service: &ServiceEntry) -> Option<&'static ServiceEndpoint> {
    if service.count == 0 {
        return None;
    }
    // SAFETY: the helper has no preconditions.
    let slot = unsafe { bpf_get_prandom_u32() } % service.count;
    // SAFETY: not preallocated, so an entry in use isn't reused before a grace period.
    unsafe { maps::ENDPOINTS.get(ServiceSlot { id: service.id, slot }) }
}

impl Dial<'_> {
    #[inline(always)]
    fn owner(&self) -> u32 {
        // SAFETY: not null, and the socket is locked by connect(2).
        if self.record.is_null() { owner::NONE } else { unsafe { (*self.record).owner } }
    }

    /// SO_BINDTODEVICE to anything but loopback: the SYN would leave by that device and never reach the agent. To let it
    /// pass would be a way around the mesh that needs no privilege (since Linux 5.7).
    #[inline(always)]
    fn is_bound_to_device(&self) -> bool {
        // SAFETY: not null, checked before this was made.
        !matches!(unsafe { (*self.sk).bound_dev_if }, 0 | LOOPBACK_IFINDEX)
    }

    /// A socket may connect again after a failure; what an earlier attempt left must not speak for this one.
    #[inline(always)]
    fn forget(&self) {
        if !self.record.is_null() {
            // SAFETY: not null, and the socket is locked by connect(2).
            unsafe { (*self.record).owner = owner::NONE };
        }
    }

    #[inline(always)]
    fn service(&self, port: u16) -> Option<&'static ServiceEntry> {
        let key = ServiceKey { addr: self.to, port, _pad: 0 };
        // SAFETY: not preallocated, so an entry in use isn't reused before a grace period.
        unsafe { maps::SERVICES.get(key) }
    }

    /// Records where the application wanted to go, and only then sends it elsewhere.
    #[inline(always)]
    fn send_to(&self, owner: u32, peer: &Addr, peer_port: u16) -> Result<(), Reason> {
        let mut record = SocketRecord {
            netns_cookie: self.cookie,
            addr: self.to,
            owner,
            published: 0,
            port: self.port,
            peer_port,
            flags: 0,
            peer_addr: *peer,
        };
        if !self.record.is_null() {
            // SAFETY: not null, and the socket is locked by connect(2).
            unsafe { *self.record = record };
        } else if maps::create_record(self.sk, &mut record).is_null() {
            return Err(Reason::RecordFailed);
        }
        // SAFETY: the hook's own context, variant as attached.
        unsafe { addr::set_user_addr(self.ctx.sock_addr, self.v4, peer, peer_port) };
        Ok(())
    }
}

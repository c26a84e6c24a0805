//! cgroup/connect4 and connect6: the first thing that happens to a connection of an enrolled pod.
//!
//! Stores the original destination in socket storage, then rewrites the destination to the agent's in-pod listener, or to
//! an endpoint where the service needs nothing of the agent; while no agent serves it follows the pod's fail mode instead.
//! UDP sockets that are connected to a service get an endpoint too. Never rewrites what it couldn't record, and touches
//! sockets of a netns that isn't enrolled only if services are balanced for all. After it: `sock_ops`.

use aya_ebpf::EbpfContext as _;
use aya_ebpf::bindings::bpf_sock;
use aya_ebpf::helpers::generated::{bpf_get_netns_cookie, bpf_set_retval};
use aya_ebpf::macros::cgroup_sock_addr;
use aya_ebpf::programs::SockAddrContext;
use aya_log_ebpf::debug;
use mesh_common::{
    Addr, AgentConfig, FAIL_OPEN, PodEntry, Reason, ServiceEntry, SocketRecord, capture, kernel_services,
    owner, protocol, service_flag,
};

use crate::addr;
use crate::balance;
use crate::maps;
use crate::udp;

const PASS: i32 = 1;
const REFUSE: i32 = 0;
const EHOSTUNREACH: i32 = 113;
const ECONNREFUSED: i32 = 111;
const ENETUNREACH: i32 = 101;
/// `lo` has this index in every network namespace.
const LOOPBACK_IFINDEX: u32 = 1;
const SOCK_STREAM: u32 = 1;
const IPPROTO_TCP: u32 = 6;
const SOCK_DGRAM: u32 = 2;
const IPPROTO_UDP: u32 = 17;

/// What connect(2) was asked for, and what is needed to answer it.
struct Dial<'a> {
    ctx: &'a SockAddrContext,
    v4: bool,
    sk: *mut bpf_sock,
    record: *mut SocketRecord,
    cookie: u64,
    to: Addr,
    port: u16,
    protocol: u16,
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
    let (kind, ip_protocol) = unsafe { ((*ctx.sock_addr).type_, (*ctx.sock_addr).protocol) };
    let protocol = match (kind, ip_protocol) {
        (SOCK_STREAM, IPPROTO_TCP) => protocol::TCP,
        (SOCK_DGRAM, IPPROTO_UDP) => protocol::UDP,
        _ => return Ok(None),
    };
    let Some(config) = maps::CONFIG.get(0) else { return Ok(None) };
    // SAFETY: the hook's own context.
    let cookie = unsafe { bpf_get_netns_cookie(ctx.as_ptr()) };
    // SAFETY: the agent replaces entries whole; a torn read of two flags words is at worst the old or the new mode.
    let pod = unsafe { maps::PODS.get(cookie) }.filter(|pod| pod.capture & capture::OUTBOUND != 0);
    if pod.is_none() && config.kernel_services != kernel_services::ALL {
        return Ok(None);
    }
    // SAFETY: the hook's own context; the field is the socket that connects.
    let sk = unsafe { (*ctx.sock_addr).__bindgen_anon_1.sk };
    if sk.is_null() {
        return Err(Reason::RecordFailed);
    }
    // SAFETY: the hook's own context, variant as attached.
    let (to, port) = unsafe { addr::user_addr(ctx.sock_addr, v4) };
    let dial = Dial { ctx, v4, sk, record: maps::record_of(sk), cookie, to, port, protocol };
    match pod {
        Some(pod) if protocol == protocol::TCP => dispatch(&dial, pod, config).map(Some),
        Some(_) if !udp::is_balanced(config, true) => Ok(None),
        Some(_) => to_endpoint(&dial, Reason::UdpBalanced, 0),
        None if protocol == protocol::UDP => to_endpoint(&dial, Reason::UdpBalanced, service_flag::MESH_ONLY),
        None => to_endpoint(&dial, Reason::KernelBalancedOther, service_flag::MESH_ONLY),
    }
}

/// A service's connection goes to an endpoint, past the agent; what is no service's is left alone, and so are services with
/// the flag `unless`.
#[inline(always)]
fn to_endpoint(dial: &Dial<'_>, reason: Reason, unless: u32) -> Result<Option<Reason>, Reason> {
    if dial.owner() == owner::AGENT {
        return Ok(None);
    }
    match dial.service(dial.port) {
        Some(service) if service.flags & unless == 0 => {}
        Some(_) | None => {
            dial.forget();
            return Ok(None);
        }
    }
    dial.balance().map(|()| Some(reason))
}

#[inline(always)]
fn dispatch(dial: &Dial<'_>, pod: &PodEntry, config: &AgentConfig) -> Result<Reason, Reason> {
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
        Some(service) if service.flags & service_flag::KERNEL != 0 => {
            return dial.balance().map(|()| Reason::KernelBalanced);
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
    if service.flags & service_flag::ENCRYPTED != 0 {
        return Err(Reason::NoEndpoint);
    }
    dial.balance().map(|()| Reason::AgentAwayService)
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
        balance::service(&self.to, port, self.protocol)
    }

    /// Sends it to an endpoint of the service that was dialled.
    #[inline(always)]
    fn balance(&self) -> Result<(), Reason> {
        let chosen =
            balance::choose(self.cookie, &self.to, self.port, self.protocol).ok_or(Reason::NoEndpoint)?;
        if self.v4 && !addr::is_mapped(&chosen.addr) {
            return Err(Reason::NoEndpoint);
        }
        self.send_to(owner::TRANSLATED, &chosen.addr, chosen.port)
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

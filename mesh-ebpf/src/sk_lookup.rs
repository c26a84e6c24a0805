//! sk_lookup, one link per enrolled pod's netns: which listener gets a new inbound connection.
//!
//! From outside: the agent's in-pod inbound listener, on whose sockets getsockname(2) is the original destination, or that
//! for HBONE for what comes to its port. The
//! agent's own flows and the pod's own loopback: the application. Runs only when TCP looks for a listener, so
//! established connections never come here. A drop is answered by the kernel with RST.

use aya_ebpf::bindings::bpf_sk_lookup;
use aya_ebpf::macros::sk_lookup;
use aya_ebpf::programs::SkLookupContext;
use aya_log_ebpf::debug;
use mesh_common::{Addr, AgentConfig, FAIL_OPEN, FlowKey, LocalAddress, Reason};

use crate::addr;
use crate::maps;

const SK_PASS: u32 = 1;
const SK_DROP: u32 = 0;
const IPPROTO_TCP: u32 = 6;
/// `lo` has index 1 in every network namespace.
const LOOPBACK_IFINDEX: u32 = 1;
const ENOENT: i32 = 2;

/// Passes with the agent's listener assigned, or with none (the kernel's own look-up goes on); drops what is refused.
/// Not named after its hook: the section is, and the two symbols would collide.
#[sk_lookup]
pub fn pick_listener(ctx: SkLookupContext) -> u32 {
    match decide(&ctx) {
        Ok(None) => SK_PASS,
        Ok(Some(reason)) => {
            maps::count(reason);
            debug!(&ctx, "sk_lookup passed, reason {}", reason as u32);
            SK_PASS
        }
        Err(reason) => {
            maps::count(reason);
            debug!(&ctx, "sk_lookup refused, reason {}", reason as u32);
            SK_DROP
        }
    }
}

/// `Ok(None)`: none of our business. `Ok(Some)`: may go on, with or without a listener assigned. `Err`: refused.
#[inline(always)]
fn decide(ctx: &SkLookupContext) -> Result<Option<Reason>, Reason> {
    // SAFETY: fields that this hook may read.
    let (protocol, ifindex) = unsafe { ((*ctx.lookup).protocol, (*ctx.lookup).ingress_ifindex) };
    if protocol != IPPROTO_TCP {
        return Ok(None);
    }
    if ifindex == LOOPBACK_IFINDEX {
        return Ok(Some(Reason::InboundLoopback));
    }
    let (src, dst) = ends(ctx.lookup);
    let local_port = dst.1;
    // SAFETY: only asked whether it is there.
    if unsafe { maps::AGENT_FLOWS.get(flow_key(src, dst)) }.is_some() {
        return Ok(Some(Reason::InboundAgentFlow));
    }
    let Some(config) = maps::CONFIG.get(0) else { return Err(Reason::InboundAssignFailed) };
    if local_port == config.outbound_port || local_port == config.inbound_port {
        return Err(Reason::InboundAgentPort);
    }
    let address = dst.0;
    // SAFETY: not preallocated, so an entry in use isn't reused before a grace period.
    let Some(local) = (unsafe { maps::ADDRESSES.get(address) }) else {
        return Err(Reason::InboundUnknownAddress);
    };
    hand_over(ctx, config, local, &dst).map(Some)
}

/// To the agent, or by fail mode where there is none. A missing listener says that the agent has just died: the kernel
/// took its sockets out of the map before the heartbeat had time to become stale.
#[inline(always)]
fn hand_over(
    ctx: &SkLookupContext,
    config: &AgentConfig,
    local: &LocalAddress,
    dst: &(Addr, u16),
) -> Result<Reason, Reason> {
    if !maps::agent_serves(config) {
        return away(local);
    }
    // The kernel goes on to choose among the listener's SO_REUSEPORT group.
    let redirected = if dst.1 == config.hbone_port {
        maps::HBONE_LISTENERS.redirect_sk_lookup(ctx, dst.0, 0)
    } else {
        maps::LISTENERS.redirect_sk_lookup(ctx, dst.0, 0)
    };
    match redirected {
        Ok(()) => Ok(Reason::InboundCaptured),
        Err(errno) if errno == -ENOENT => away(local),
        Err(_) => Err(Reason::InboundAssignFailed),
    }
}

#[inline(always)]
fn away(local: &LocalAddress) -> Result<Reason, Reason> {
    if local.pod.fail_mode == FAIL_OPEN {
        Ok(Reason::InboundAwayOpen)
    } else {
        Err(Reason::InboundAwayClosed)
    }
}

/// Source and destination of the connection that looks for a listener.
#[inline(always)]
fn ends(lookup: *mut bpf_sk_lookup) -> ((Addr, u16), (Addr, u16)) {
    // SAFETY: the hook's own context. `remote_port` is in network order, `local_port` in host order.
    unsafe {
        let family = (*lookup).family;
        let src = addr::either(family, &raw const (*lookup).remote_ip4, &raw const (*lookup).remote_ip6);
        let dst = addr::either(family, &raw const (*lookup).local_ip4, &raw const (*lookup).local_ip6);
        ((src, u16::from_be((*lookup).remote_port)), (dst, (*lookup).local_port as u16))
    }
}

#[inline(always)]
fn flow_key(src: (Addr, u16), dst: (Addr, u16)) -> FlowKey {
    FlowKey { src_addr: src.0, dst_addr: dst.0, src_port: src.1, dst_port: dst.1, _pad: 0 }
}

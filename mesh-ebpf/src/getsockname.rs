//! cgroup/getsockname4 and getsockname6: a captured application sees its pod's address as its own, not the loopback address
//! from which it reaches the agent.
//!
//! Protocols that carry their own address in their messages (FTP, SIP) depend on it. The port is true anyway. Never changes
//! anything else, and never fails. Before it: `connect`, which wrote the record.

use aya_ebpf::macros::cgroup_sock_addr;
use aya_ebpf::programs::SockAddrContext;
use aya_log_ebpf::debug;
use mesh_common::{Reason, owner};

use crate::addr;
use crate::maps;

/// The only verdict that the kernel allows here.
const PASS: i32 = 1;

/// Leaves the kernel's answer as it is where there is no record, or no address of that family is known.
#[cgroup_sock_addr(getsockname4)]
pub fn getsockname4(ctx: SockAddrContext) -> i32 {
    answered(&ctx, answer(&ctx, true))
}

/// As [`getsockname4`].
#[cgroup_sock_addr(getsockname6)]
pub fn getsockname6(ctx: SockAddrContext) -> i32 {
    answered(&ctx, answer(&ctx, false))
}

#[inline(always)]
fn answered(ctx: &SockAddrContext, reason: Option<Reason>) -> i32 {
    if let Some(reason) = reason {
        maps::count(reason);
        debug!(ctx, "getsockname, reason {}", reason as u32);
    }
    PASS
}

#[inline(always)]
fn answer(ctx: &SockAddrContext, v4: bool) -> Option<Reason> {
    // SAFETY: the hook's own context.
    let sk = unsafe { (*ctx.sock_addr).__bindgen_anon_1.sk };
    if sk.is_null() {
        return None;
    }
    // SAFETY: null or this socket's record.
    let record = unsafe { maps::record_of(sk).as_ref() }?;
    // What an earlier attempt left says nothing of a socket that isn't connected to the agent.
    // SAFETY: not null; a field that this hook may read.
    let peer_port = u16::from_be(unsafe { (*sk).dst_port });
    if record.owner != owner::APPLICATION || record.peer_port != peer_port {
        return None;
    }
    // SAFETY: the hook's own context, variant as attached.
    let (local, port) = unsafe { addr::user_addr(ctx.sock_addr, v4) };
    if local != addr::loopback_like(&local) {
        return None;
    }
    // SAFETY: not preallocated, so an entry in use isn't reused before a grace period.
    let pod = unsafe { maps::OWN_ADDRESSES.get(record.netns_cookie) }?;
    let own = addr::copy(if addr::is_mapped(&local) { &pod.v4 } else { &pod.v6 });
    if own == [0; 4] {
        return None;
    }
    // SAFETY: the hook's own context, variant as attached.
    unsafe { addr::set_user_addr(ctx.sock_addr, v4, &own, port) };
    Some(Reason::SockPod)
}

//! cgroup/bind4 and bind6: an application of an enrolled pod can't bind the agent's in-pod ports.
//!
//! The agent's listeners share their ports among its workers (SO_REUSEPORT), and the kernel would let any process of the
//! same user join them: it would be handed captured connections, past every policy. Looks at TCP sockets of enrolled
//! network namespaces only; the agent marks its own before it binds them.

use aya_ebpf::EbpfContext as _;
use aya_ebpf::helpers::generated::{bpf_get_netns_cookie, bpf_set_retval};
use aya_ebpf::macros::cgroup_sock_addr;
use aya_ebpf::programs::SockAddrContext;
use aya_log_ebpf::debug;
use mesh_common::{Reason, owner};

use crate::addr;
use crate::maps;

const PASS: i32 = 1;
const REFUSE: i32 = 0;
const EADDRINUSE: i32 = 98;
const IPPROTO_TCP: u32 = 6;

/// Passes untouched. An application that wants one of the agent's ports gets EADDRINUSE, as if it were taken alone.
#[cgroup_sock_addr(bind4)]
pub fn bind4(ctx: SockAddrContext) -> i32 {
    verdict(&ctx, wants_agent_port(&ctx, true))
}

/// As [`bind4`].
#[cgroup_sock_addr(bind6)]
pub fn bind6(ctx: SockAddrContext) -> i32 {
    verdict(&ctx, wants_agent_port(&ctx, false))
}

#[inline(always)]
fn verdict(ctx: &SockAddrContext, refused: bool) -> i32 {
    if !refused {
        return PASS;
    }
    maps::count(Reason::AgentPortBound);
    debug!(ctx, "bind refused, reason {}", Reason::AgentPortBound as u32);
    // SAFETY: allowed in this hook since 5.18. If it failed, the verdict alone still refuses, with EPERM.
    unsafe { bpf_set_retval(-EADDRINUSE) };
    REFUSE
}

#[inline(always)]
fn wants_agent_port(ctx: &SockAddrContext, v4: bool) -> bool {
    // SAFETY: the hook's own context, variant as attached; fields that it may read.
    let (protocol, (_, port)) = unsafe { ((*ctx.sock_addr).protocol, addr::user_addr(ctx.sock_addr, v4)) };
    let Some(config) = maps::CONFIG.get(0) else { return false };
    if protocol != IPPROTO_TCP
        || ![config.outbound_port, config.inbound_port, config.hbone_port].contains(&port)
    {
        return false;
    }
    // SAFETY: the hook's own context.
    let cookie = unsafe { bpf_get_netns_cookie(ctx.as_ptr()) };
    // SAFETY: looked up for its presence only.
    if unsafe { maps::PODS.get(cookie) }.is_none() {
        return false;
    }
    // SAFETY: the hook's own context; the field is the socket that binds.
    let sk = unsafe { (*ctx.sock_addr).__bindgen_anon_1.sk };
    if sk.is_null() {
        return true;
    }
    let record = maps::record_of(sk);
    // SAFETY: a record lives as long as its socket, which this call holds.
    record.is_null() || unsafe { (*record).owner } != owner::AGENT
}

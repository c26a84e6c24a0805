//! cgroup/getpeername4 and getpeername6: applications see the addresses that they would see without a mesh.
//!
//! On what it connected: the address that it dialled. On what it accepted from the agent: the true client; accept(2)
//! passes this hook too. Never changes anything else, and never fails. Before it: `connect` and `sock_ops`, which wrote
//! the record.

use aya_ebpf::macros::cgroup_sock_addr;
use aya_ebpf::programs::SockAddrContext;
use aya_log_ebpf::debug;
use mesh_common::{CLIENT_ADDR_ONLY, Reason, owner};

use crate::addr;
use crate::maps;

/// The only verdict that the kernel allows here.
const PASS: i32 = 1;

/// Leaves the kernel's answer as it is where there is no record.
#[cgroup_sock_addr(getpeername4)]
pub fn getpeername4(ctx: SockAddrContext) -> i32 {
    answered(&ctx, answer(&ctx, true))
}

/// As [`getpeername4`].
#[cgroup_sock_addr(getpeername6)]
pub fn getpeername6(ctx: SockAddrContext) -> i32 {
    answered(&ctx, answer(&ctx, false))
}

#[inline(always)]
fn answered(ctx: &SockAddrContext, reason: Option<Reason>) -> i32 {
    if let Some(reason) = reason {
        maps::count(reason);
        debug!(ctx, "getpeername, reason {}", reason as u32);
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
    // SAFETY: the hook's own context, variant as attached.
    let (peer, peer_port) = unsafe { addr::user_addr(ctx.sock_addr, v4) };
    let words = record.addr;
    let (port, reason) = match record.owner {
        owner::APPLICATION | owner::TRANSLATED => {
            let sent_to = record.peer_addr;
            if peer_port != record.peer_port || peer != sent_to {
                return None;
            }
            (record.port, Reason::PeerOriginal)
        }
        owner::ACCEPTED if record.flags & CLIENT_ADDR_ONLY != 0 => (peer_port, Reason::PeerClient),
        owner::ACCEPTED => (record.port, Reason::PeerClient),
        _ => return None,
    };
    // An IPv6 client can't be told to an IPv4 socket.
    if v4 && !addr::is_mapped(&words) {
        return None;
    }
    // SAFETY: the hook's own context, variant as attached.
    unsafe { addr::set_user_addr(ctx.sock_addr, v4, &words, port) };
    Some(reason)
}

//! cgroup/sendmsg, cgroup/recvmsg and cgroup/sock_release: datagrams to a service, for sockets that aren't connected.
//!
//! sendmsg chooses an endpoint for each socket and service, notes it both ways and keeps to it for as long as it is listed;
//! recvmsg gives the answers the service's address, as resolvers insist on; sock_release takes the notes away. A socket
//! that is connected had its endpoint from `connect`. Never sends what couldn't be noted, touches nothing but services.

use aya_ebpf::EbpfContext as _;
use aya_ebpf::bindings::BPF_ANY;
use aya_ebpf::helpers::generated::{bpf_get_netns_cookie, bpf_get_socket_cookie, bpf_set_retval};
use aya_ebpf::macros::{cgroup_sock, cgroup_sock_addr};
use aya_ebpf::programs::{SockAddrContext, SockContext};
use aya_log_ebpf::debug;
use mesh_common::{
    Addr, AgentConfig, Chosen, Reason, UDP_NOTED, UdpKey, UdpPair, kernel_services, owner, protocol,
    service_flag,
};

use crate::addr;
use crate::balance;
use crate::maps;

const PASS: i32 = 1;
const REFUSE: i32 = 0;
const ENOBUFS: i32 = 105;
const EHOSTUNREACH: i32 = 113;
const IPPROTO_UDP: u32 = 17;
/// A note in use is written again this often.
const REFRESH_NS: u64 = 1_000_000_000;

/// Passes, rewritten or not. On failure the application gets an errno from sendto(2): EHOSTUNREACH for a service without
/// endpoints, ENOBUFS where there is no room for another note.
#[cgroup_sock_addr(sendmsg4)]
pub fn sendmsg4(ctx: SockAddrContext) -> i32 {
    verdict(&ctx, send(&ctx, true))
}

/// As [`sendmsg4`]; IPv4-mapped destinations come there.
#[cgroup_sock_addr(sendmsg6)]
pub fn sendmsg6(ctx: SockAddrContext) -> i32 {
    verdict(&ctx, send(&ctx, false))
}

/// Always passes.
#[cgroup_sock_addr(recvmsg4)]
pub fn recvmsg4(ctx: SockAddrContext) -> i32 {
    restored(receive(&ctx, true))
}

/// As [`recvmsg4`].
#[cgroup_sock_addr(recvmsg6)]
pub fn recvmsg6(ctx: SockAddrContext) -> i32 {
    restored(receive(&ctx, false))
}

/// Always passes.
#[cgroup_sock(sock_release)]
pub fn sock_release(ctx: SockContext) -> i32 {
    forget(&ctx);
    PASS
}

#[inline(always)]
fn verdict(ctx: &SockAddrContext, decision: Result<Option<Reason>, Reason>) -> i32 {
    let reason = match decision {
        Ok(reason) => {
            if let Some(reason) = reason {
                maps::count(reason);
            }
            return PASS;
        }
        Err(reason) => reason,
    };
    maps::count(reason);
    debug!(ctx, "sendmsg refused, reason {}", reason as u32);
    let errno = if matches!(reason, Reason::NoEndpoint) { EHOSTUNREACH } else { ENOBUFS };
    // SAFETY: allowed in this hook since 5.18. If it failed, the verdict alone still refuses, with EPERM.
    unsafe { bpf_set_retval(-errno) };
    REFUSE
}

#[inline(always)]
fn restored(reason: Option<Reason>) -> i32 {
    if let Some(reason) = reason {
        maps::count(reason);
    }
    PASS
}

/// Whether UDP of this network namespace is balanced: that of captured pods, or everybody's.
#[inline(always)]
pub fn is_balanced(config: &AgentConfig, captured: bool) -> bool {
    config.kernel_services == kernel_services::ALL
        || (captured && config.kernel_services == kernel_services::ENROLLED)
}

/// `Ok(None)`: none of our business, or as before. `Ok(Some)`: goes to a new endpoint. `Err`: refused.
#[inline(always)]
fn send(ctx: &SockAddrContext, v4: bool) -> Result<Option<Reason>, Reason> {
    // SAFETY: a field that this hook may read.
    if unsafe { (*ctx.sock_addr).protocol } != IPPROTO_UDP {
        return Ok(None);
    }
    let Some(config) = maps::CONFIG.get(0) else { return Ok(None) };
    // SAFETY: the hook's own context, variant as attached.
    let (to, port) = unsafe { addr::user_addr(ctx.sock_addr, v4) };
    let Some(service) = balance::service(&to, port, protocol::UDP) else { return Ok(None) };
    // SAFETY: the hook's own context.
    let (netns_cookie, socket_cookie) =
        unsafe { (bpf_get_netns_cookie(ctx.as_ptr()), bpf_get_socket_cookie(ctx.as_ptr())) };
    // SAFETY: only asked whether it is there.
    let captured = unsafe { maps::PODS.get(netns_cookie) }.is_some();
    if !is_balanced(config, captured) || (!captured && service.flags & service_flag::MESH_ONLY != 0) {
        return Ok(None);
    }
    let sent = UdpKey { socket_cookie, addr: to, port, direction: UdpKey::SENT, _pad: 0 };
    // SAFETY: not preallocated, so an entry in use isn't reused before a grace period.
    if let Some(known) = unsafe { maps::UDP.get(sent) } {
        let known = balance::copy(known);
        if balance::is_listed(service, &known) {
            let now = balance::now();
            // What the sweep goes by; not for each datagram.
            if known.list != service.id || now.saturating_sub(known.used_ns) > REFRESH_NS {
                write(&sent, &Chosen { list: service.id, used_ns: now, ..known })?;
            }
            send_to(ctx, v4, &known);
            return Ok(None);
        }
    }
    let chosen = balance::choose(netns_cookie, &to, port, protocol::UDP).ok_or(Reason::NoEndpoint)?;
    // The kernel can't send to an endpoint of the other family from here.
    if v4 != addr::is_mapped(&chosen.addr) {
        return Err(Reason::NoEndpoint);
    }
    write(&sent, &chosen)?;
    remember(ctx, &sent, &chosen);
    send_to(ctx, v4, &chosen);
    Ok(Some(Reason::UdpBalanced))
}

/// Answers first: one that came before its note would be taken for a stranger's.
#[inline(always)]
fn write(sent: &UdpKey, chosen: &Chosen) -> Result<(), Reason> {
    let received = UdpKey {
        socket_cookie: sent.socket_cookie,
        addr: chosen.addr,
        port: chosen.port,
        direction: UdpKey::RECEIVED,
        _pad: 0,
    };
    let back = Chosen { addr: sent.addr, port: sent.port, _pad: 0, list: 0, used_ns: chosen.used_ns };
    if maps::UDP.insert(received, back, BPF_ANY.into()).is_err()
        || maps::UDP.insert(sent, chosen, BPF_ANY.into()).is_err()
    {
        return Err(Reason::UdpNotNoted);
    }
    Ok(())
}

/// For [`sock_release`]. Two threads that send at once may overwrite each other's: the sweep finds what that leaves.
#[inline(always)]
fn remember(ctx: &SockAddrContext, sent: &UdpKey, chosen: &Chosen) {
    // SAFETY: the hook's own context.
    let sk = unsafe { (*ctx.sock_addr).__bindgen_anon_1.sk };
    if sk.is_null() {
        return;
    }
    // SAFETY: null or this socket's storage.
    let Some(socket) = (unsafe { maps::udp_socket_of(sk, true).as_mut() }) else { return };
    let at = socket.noted as usize % UDP_NOTED;
    socket.noted = socket.noted.wrapping_add(1);
    if let Some(pair) = socket.pairs.get_mut(at) {
        pair.service = sent.addr;
        pair.endpoint = chosen.addr;
        pair.service_port = sent.port;
        pair.endpoint_port = chosen.port;
    }
}

#[inline(always)]
fn send_to(ctx: &SockAddrContext, v4: bool, chosen: &Chosen) {
    // SAFETY: the hook's own context, variant as attached.
    unsafe { addr::set_user_addr(ctx.sock_addr, v4, &chosen.addr, chosen.port) };
}

#[inline(always)]
fn receive(ctx: &SockAddrContext, v4: bool) -> Option<Reason> {
    // SAFETY: the hook's own context, variant as attached; a field that it may read.
    let ((from, port), sk) =
        unsafe { (addr::user_addr(ctx.sock_addr, v4), (*ctx.sock_addr).__bindgen_anon_1.sk) };
    if sk.is_null() {
        return None;
    }
    let (words, port) = match connected(maps::record_of(sk), &from, port) {
        Some(service) => service,
        None => {
            // SAFETY: the hook's own context.
            let socket_cookie = unsafe { bpf_get_socket_cookie(ctx.as_ptr()) };
            let key = UdpKey { socket_cookie, addr: from, port, direction: UdpKey::RECEIVED, _pad: 0 };
            // SAFETY: not preallocated, so an entry in use isn't reused before a grace period.
            let service = unsafe { maps::UDP.get_ptr_mut(key)?.as_mut() }?;
            let now = balance::now();
            if now.saturating_sub(service.used_ns) > REFRESH_NS {
                service.used_ns = now;
            }
            (addr::copy(&service.addr), service.port)
        }
    };
    if v4 && !addr::is_mapped(&words) {
        return None;
    }
    // SAFETY: the hook's own context, variant as attached.
    unsafe { addr::set_user_addr(ctx.sock_addr, v4, &words, port) };
    Some(Reason::UdpRestored)
}

/// What a connected socket dialled, if `from` is where `connect` sent it.
#[inline(always)]
fn connected(record: *mut mesh_common::SocketRecord, from: &Addr, port: u16) -> Option<(Addr, u16)> {
    // SAFETY: null or this socket's record.
    let record = unsafe { record.as_ref() }?;
    let sent_to = record.peer_addr;
    (record.owner == owner::TRANSLATED && record.peer_port == port && sent_to == *from)
        .then_some((record.addr, record.port))
}

#[inline(always)]
fn forget(ctx: &SockContext) {
    // SAFETY: null or this socket's storage.
    let Some(socket) = (unsafe { maps::udp_socket_of(ctx.sock, false).as_ref() }) else { return };
    // SAFETY: the hook's own context.
    let socket_cookie = unsafe { bpf_get_socket_cookie(ctx.as_ptr()) };
    let mut at = 0;
    while at < UDP_NOTED {
        let UdpPair { service, endpoint, service_port, endpoint_port, .. } = socket.pairs[at];
        if service_port != 0 {
            for (addr, port, direction) in
                [(service, service_port, UdpKey::SENT), (endpoint, endpoint_port, UdpKey::RECEIVED)]
            {
                // Gone already if another pair of the socket shares it.
                let _ = maps::UDP.remove(UdpKey { socket_cookie, addr, port, direction, _pad: 0 });
            }
        }
        at += 1;
    }
}

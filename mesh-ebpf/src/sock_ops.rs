//! sockops: publishes connections before their SYN leaves, and takes back what is over.
//!
//! A captured application's connection gives its original destination to the socket that the agent will accept; the
//! agent's own become a flow that sk_lookup lets through; what an application accepts from the agent learns its true
//! client. Never delays or refuses anything: where a map is full the other side closes the connection and counts it.
//! Before it: `connect`. After it: the agent's accept, or `sk_lookup`.
//!
//! An agent outside the hooks' cgroup attaches this program to its own cgroup too, so it may run twice for one event:
//! every step is idempotent.

use aya_ebpf::EbpfContext as _;
use aya_ebpf::bindings::{
    BPF_ANY, BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB, BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB, BPF_SOCK_OPS_STATE_CB,
    BPF_SOCK_OPS_STATE_CB_FLAG, BPF_SOCK_OPS_TCP_CONNECT_CB, bpf_sock,
};
use aya_ebpf::helpers::bpf_ktime_get_ns;
use aya_ebpf::helpers::generated::bpf_get_netns_cookie;
use aya_ebpf::macros::sock_ops;
use aya_ebpf::programs::SockOpsContext;
use aya_log_ebpf::debug;
use mesh_common::{AgentFlow, CLIENT_NONE, FlowKey, OriginalDst, Reason, SocketRecord, SourceKey, owner};

use crate::addr;
use crate::maps;

const GO_ON: u32 = 1;
const TCP_CLOSE: u32 = 7;

/// Always lets the connection go on.
#[sock_ops]
pub fn sock_ops(ctx: SockOpsContext) -> u32 {
    let reason = match ctx.op() {
        BPF_SOCK_OPS_TCP_CONNECT_CB => connecting(&ctx),
        BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB => connected(&ctx),
        BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB => accepted(&ctx),
        BPF_SOCK_OPS_STATE_CB => state_changed(&ctx),
        _ => None,
    };
    if let Some(reason) = reason {
        maps::count(reason);
        debug!(&ctx, "sockops, reason {}", reason as u32);
    }
    GO_ON
}

/// connect(2) has chosen the source address and port; the SYN isn't sent yet. sk_lookup will see the SYN, so the agent's
/// flows are published here.
#[inline(always)]
fn connecting(ctx: &SockOpsContext) -> Option<Reason> {
    let record = record(ctx)?;
    if record.published != 0 || record.owner != owner::AGENT {
        return None;
    }
    if publish_flow(ctx, record).is_err() {
        return Some(Reason::FlowPublishFailed);
    }
    Some(close_is_told(ctx, record, Reason::FlowPublished, Reason::FlowPublishFailed))
}

/// The SYN is acknowledged; the segment that makes the agent's end isn't sent yet. Only now is there a sequence number
/// that both ends know, and that tells this connection from any other of the same port.
#[inline(always)]
fn connected(ctx: &SockOpsContext) -> Option<Reason> {
    let record = record(ctx)?;
    if record.published != 0 || record.owner != owner::APPLICATION {
        return None;
    }
    let destination = OriginalDst { addr: addr::copy(&record.addr), port: record.port, _pad: 0, _pad2: 0 };
    let seq = acknowledged(ctx);
    if maps::ORIGINAL_DST.insert(dialling_key(ctx, record, seq), destination, BPF_ANY.into()).is_err() {
        return Some(Reason::PublishFailed);
    }
    record.flags = seq;
    Some(close_is_told(ctx, record, Reason::Published, Reason::PublishFailed))
}

/// Without the callback the entry would stay; nothing else depends on it.
#[inline(always)]
fn close_is_told(ctx: &SockOpsContext, record: &mut SocketRecord, told: Reason, failed: Reason) -> Reason {
    record.published = 1;
    match ctx.set_cb_flags((ctx.cb_flags() | BPF_SOCK_OPS_STATE_CB_FLAG) as i32) {
        Ok(()) => told,
        Err(_) => failed,
    }
}

#[inline(always)]
fn publish_flow(ctx: &SockOpsContext, record: &SocketRecord) -> Result<(), i32> {
    let flow = AgentFlow {
        created_ns: now(),
        client_addr: addr::copy(&record.addr),
        client_port: u32::from(record.port),
        flags: record.flags,
    };
    maps::AGENT_FLOWS.insert(flow_key(ctx, false), flow, BPF_ANY.into())
}

/// A server has a new connection, and accept(2) hasn't returned it yet: if it came from a captured application, or is one
/// of the agent's in an enrolled pod, its socket learns what the address at its other end doesn't say.
#[inline(always)]
fn accepted(ctx: &SockOpsContext) -> Option<Reason> {
    // SAFETY: the hook's own context.
    let local_port = unsafe { addr::local(ctx.ops) }.1;
    if maps::CONFIG.get(0).is_some_and(|config| config.outbound_port == local_port) {
        captured(ctx)
    } else {
        from_agent(ctx)
    }
}

/// Moves the original destination into the socket that the agent accepts. None there: somebody dialled the port by hand,
/// or the dialling socket is closed already; the agent will reset.
#[inline(always)]
fn captured(ctx: &SockOpsContext) -> Option<Reason> {
    // SAFETY: the hook's own context.
    let (netns_cookie, (peer_addr, peer_port)) =
        unsafe { (bpf_get_netns_cookie(ctx.as_ptr()), addr::remote(ctx.ops)) };
    let key = SourceKey { netns_cookie, addr: peer_addr, port: peer_port, _pad: 0, seq: expected(ctx) };
    // SAFETY: not preallocated, so an entry in use isn't reused before a grace period.
    let destination = unsafe { maps::ORIGINAL_DST.get(key) }?;
    let mut record = SocketRecord {
        netns_cookie,
        addr: addr::copy(&destination.addr),
        owner: owner::CAPTURED,
        published: 0,
        port: destination.port,
        peer_port,
        flags: 0,
        peer_addr,
    };
    let made = maps::create_record(socket(ctx)?, &mut record);
    match maps::ORIGINAL_DST.remove(key) {
        // No memory for the record.
        Ok(()) | Err(_) if made.is_null() => Some(Reason::PublishFailed),
        // The dialling end may have closed, and deleted it, in this moment.
        Ok(()) | Err(_) => None,
    }
}

/// A pod's server has a connection of the agent's.
#[inline(always)]
fn from_agent(ctx: &SockOpsContext) -> Option<Reason> {
    // SAFETY: the hook's own context.
    let netns_cookie = unsafe { bpf_get_netns_cookie(ctx.as_ptr()) };
    // SAFETY: only asked whether it is there.
    unsafe { maps::PODS.get(netns_cookie) }?;
    // SAFETY: not preallocated, so an entry in use isn't reused before a grace period.
    let flow = unsafe { maps::AGENT_FLOWS.get(flow_key(ctx, true)) }?;
    if flow.client_port == CLIENT_NONE && flow.flags == 0 {
        return None;
    }
    // SAFETY: the hook's own context.
    let (peer_addr, peer_port) = unsafe { addr::remote(ctx.ops) };
    let mut record = SocketRecord {
        netns_cookie,
        addr: addr::copy(&flow.client_addr),
        owner: owner::ACCEPTED,
        published: 0,
        port: flow.client_port as u16,
        peer_port,
        flags: flow.flags,
        peer_addr,
    };
    // Without memory for it the application sees the agent's own address: true of the connection, if less useful.
    if maps::create_record(socket(ctx)?, &mut record).is_null() {
        Some(Reason::FlowPublishFailed)
    } else {
        None
    }
}

/// The connection is over. Where the agent's end was made, the original destination is in it; where it wasn't, nobody will
/// ask for it any more.
#[inline(always)]
fn state_changed(ctx: &SockOpsContext) -> Option<Reason> {
    if ctx.arg(1) != TCP_CLOSE {
        return None;
    }
    let record = record(ctx)?;
    if record.published == 0 {
        return None;
    }
    record.published = 0;
    // Deleting what has been moved already is no error.
    match record.owner {
        owner::APPLICATION => maps::ORIGINAL_DST.remove(dialling_key(ctx, record, record.flags)).err(),
        owner::AGENT => maps::AGENT_FLOWS.remove(flow_key(ctx, false)).err(),
        _ => None,
    };
    None
}

/// The key of the connection that this socket dialled.
#[inline(always)]
fn dialling_key(ctx: &SockOpsContext, record: &SocketRecord, seq: u32) -> SourceKey {
    // SAFETY: the hook's own context.
    let (words, port) = unsafe { addr::local(ctx.ops) };
    SourceKey { netns_cookie: record.netns_cookie, addr: words, port, _pad: 0, seq }
}

/// The oldest sequence number that the other end hasn't acknowledged.
#[inline(always)]
fn acknowledged(ctx: &SockOpsContext) -> u32 {
    // SAFETY: the hook's own context.
    unsafe { (*ctx.ops).snd_una }
}

/// The sequence number that is expected next from the other end.
#[inline(always)]
fn expected(ctx: &SockOpsContext) -> u32 {
    // SAFETY: the hook's own context.
    unsafe { (*ctx.ops).rcv_nxt }
}

/// The flow's key, which is written as its source sees it. `accepting`: this socket is its destination.
#[inline(always)]
fn flow_key(ctx: &SockOpsContext, accepting: bool) -> FlowKey {
    // SAFETY: the hook's own context.
    let (local, remote) = unsafe { (addr::local(ctx.ops), addr::remote(ctx.ops)) };
    let ((src, src_port), (dst, dst_port)) = if accepting { (remote, local) } else { (local, remote) };
    FlowKey { src_addr: src, dst_addr: dst, src_port, dst_port, _pad: 0 }
}

#[inline(always)]
fn socket(ctx: &SockOpsContext) -> Option<*mut bpf_sock> {
    // SAFETY: the hook's own context; the field is null for request sockets.
    let sk = unsafe { (*ctx.ops).__bindgen_anon_2.sk };
    if sk.is_null() { None } else { Some(sk) }
}

/// The socket's storage outlives the call of the program; each callback takes it once.
#[inline(always)]
fn record(ctx: &SockOpsContext) -> Option<&'static mut SocketRecord> {
    // SAFETY: null or this socket's record; the socket is locked in every callback that comes here.
    unsafe { maps::record_of(socket(ctx)?).as_mut() }
}

#[inline(always)]
fn now() -> u64 {
    // SAFETY: the helper has no preconditions.
    unsafe { bpf_ktime_get_ns() }
}

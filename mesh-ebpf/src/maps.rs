//! Every map, with who writes and who reads it, and the few look-ups that several hooks share.
//!
//! Names carry the version of the map's own layout: the agent pins them under their names, and a new agent adopts only
//! those whose layout it knows. Nothing here is an LRU: no entry that decides a
//! destination may vanish by itself.

use core::ptr;

use aya_ebpf::bindings::{BPF_F_NO_PREALLOC, bpf_sock};
use aya_ebpf::btf_maps::{Array, HashMap, PerCpuArray, SkStorage, SockHash};
use aya_ebpf::helpers::bpf_ktime_get_ns;
use aya_ebpf::helpers::generated::bpf_sk_storage_get;
use aya_ebpf::macros::btf_map;
use mesh_common::{
    Addr, AffinityKey, AgentConfig, AgentFlow, Chosen, FlowKey, Liveness, LocalAddress, OriginalDst,
    OwnAddresses, PodEntry, REASON_COUNT, Reason, ServiceEndpoint, ServiceEntry, ServiceKey, ServiceSlot,
    SocketRecord, SourceKey, UdpKey, UdpSocket,
};

const NO_PREALLOC: usize = BPF_F_NO_PREALLOC as usize;

/// Enrolled pods by netns cookie. Agent writes on enrolment; connect and sock_ops read.
#[btf_map(name = "PODS_V1")]
pub static PODS: HashMap<u64, PodEntry, 4096> = HashMap::new();

/// Addresses of enrolled pods. Agent writes on enrolment; sk_lookup reads.
#[btf_map(name = "ADDRESSES_V1")]
pub static ADDRESSES: HashMap<Addr, LocalAddress, 8192, NO_PREALLOC> = HashMap::new();

/// What a pod's applications are told is their own address. Agent writes on enrolment; getsockname reads.
#[btf_map(name = "OWN_ADDRESSES_V1")]
pub static OWN_ADDRESSES: HashMap<u64, OwnAddresses, 4096, NO_PREALLOC> = HashMap::new();

/// Ports and times. Agent writes at start; every hook reads.
#[btf_map(name = "CONFIG_V1")]
pub static CONFIG: Array<AgentConfig, 1> = Array::new();

/// Heartbeat. The agent's heartbeat thread writes; connect and sk_lookup read.
#[btf_map(name = "LIVENESS_V1")]
pub static LIVENESS: Array<Liveness, 1> = Array::new();

/// What is known of a socket. connect (applications), the agent (its own sockets) and sock_ops (accepted ones) write;
/// connect, sock_ops, getpeername and the agent (what it accepted) read. An entry dies with its socket.
#[btf_map(name = "SOCKETS_V1")]
pub static SOCKETS: SkStorage<SocketRecord> = SkStorage::new();

/// Original destinations of connections within their handshake. sock_ops of the dialling end writes; sock_ops of the
/// accepting end moves them into [`SOCKETS`].
#[btf_map(name = "ORIGINAL_DST_V2")]
pub static ORIGINAL_DST: HashMap<SourceKey, OriginalDst, 65536, NO_PREALLOC> = HashMap::new();

/// The agent's own connections. sock_ops writes and deletes; sk_lookup and sock_ops (accepting side) read.
#[btf_map(name = "AGENT_FLOWS_V1")]
pub static AGENT_FLOWS: HashMap<FlowKey, AgentFlow, 131072, NO_PREALLOC> = HashMap::new();

/// Services and plainly known addresses. Agent writes; connect and sendmsg read.
#[btf_map(name = "SERVICES_V2")]
pub static SERVICES: HashMap<ServiceKey, ServiceEntry, 65536, NO_PREALLOC> = HashMap::new();

/// Endpoints of services. Agent writes; connect and sendmsg read.
#[btf_map(name = "ENDPOINTS_V1")]
pub static ENDPOINTS: HashMap<ServiceSlot, ServiceEndpoint, 262144, NO_PREALLOC> = HashMap::new();

/// Which endpoint a client of a service with affinity has. connect and sendmsg write and read; the agent sweeps what is
/// over.
#[btf_map(name = "AFFINITY_V1")]
pub static AFFINITY: HashMap<AffinityKey, Chosen, 65536, NO_PREALLOC> = HashMap::new();

/// Where a UDP socket's datagrams to a service go, and whose address the answers get. sendmsg writes; sendmsg and recvmsg
/// read; sock_release deletes, and the agent sweeps what it couldn't know of.
#[btf_map(name = "UDP_V1")]
pub static UDP: HashMap<UdpKey, Chosen, 131072, NO_PREALLOC> = HashMap::new();

/// A UDP socket's entries in [`UDP`]. sendmsg writes; sock_release reads. Goes with the socket.
#[btf_map(name = "UDP_SOCKETS_V1")]
pub static UDP_SOCKETS: SkStorage<UdpSocket> = SkStorage::new();

/// The agent's inbound listeners by the pod's own address. Agent writes; sk_lookup reads. The kernel takes a listener
/// out when it closes.
#[btf_map(name = "LISTENERS_V1")]
pub static LISTENERS: SockHash<Addr, 8192> = SockHash::new();

/// The agent's HBONE listeners, likewise.
#[btf_map(name = "HBONE_LISTENERS_V1")]
pub static HBONE_LISTENERS: SockHash<Addr, 8192> = SockHash::new();

/// How often each [`Reason`] was given. Every hook writes; the agent sums over CPUs.
#[btf_map(name = "REASONS_V2")]
pub static REASONS: PerCpuArray<u64, { REASON_COUNT as usize }> = PerCpuArray::new();

/// Counts a decision.
#[inline(always)]
pub fn count(reason: Reason) {
    if let Some(counter) = REASONS.get_ptr_mut(reason as u32) {
        // SAFETY: this CPU's own slot; a counter lost to an interrupt between load and store is acceptable.
        unsafe { *counter += 1 };
    }
}

/// True while the agent's heartbeat is fresh.
#[inline(always)]
pub fn agent_serves(config: &AgentConfig) -> bool {
    let Some(liveness) = LIVENESS.get(0) else { return false };
    // SAFETY: aligned and in bounds; volatile because the agent changes it underneath.
    let beat = unsafe { ptr::read_volatile(&raw const liveness.beat_ns) };
    // SAFETY: the helper has no preconditions.
    let now = unsafe { bpf_ktime_get_ns() };
    beat != 0 && now.saturating_sub(beat) < config.stale_after_ns
}

/// The record of a socket, null if it has none.
#[inline(always)]
pub fn record_of(sk: *mut bpf_sock) -> *mut SocketRecord {
    // SAFETY: `sk` comes from the hook's context and was checked for null; no value is created.
    unsafe { bpf_sk_storage_get(storage(), sk.cast(), ptr::null_mut(), 0) }.cast()
}

/// The record of a socket, made with this value if it has none. Null if there is no memory for it.
#[inline(always)]
pub fn create_record(sk: *mut bpf_sock, record: &mut SocketRecord) -> *mut SocketRecord {
    let create = aya_ebpf::bindings::BPF_SK_STORAGE_GET_F_CREATE.into();
    // SAFETY: `sk` comes from the hook's context and was checked for null; `record` has the map's value size.
    unsafe { bpf_sk_storage_get(storage(), sk.cast(), ptr::from_mut(record).cast(), create) }.cast()
}

/// What is noted of a UDP socket, made if there is nothing and `create`. Null if there is nothing, or no memory for it.
#[inline(always)]
pub fn udp_socket_of(sk: *mut bpf_sock, create: bool) -> *mut UdpSocket {
    let flags = if create { aya_ebpf::bindings::BPF_SK_STORAGE_GET_F_CREATE.into() } else { 0 };
    let map = ptr::from_ref(&UDP_SOCKETS).cast_mut().cast();
    // SAFETY: `sk` comes from the hook's context and was checked for null; a new value is zero.
    unsafe { bpf_sk_storage_get(map, sk.cast(), ptr::null_mut(), flags) }.cast()
}

/// aya's own accessor takes a socket address context only; the loader patches this address to the map.
#[inline(always)]
fn storage() -> *mut core::ffi::c_void {
    ptr::from_ref(&SOCKETS).cast_mut().cast()
}

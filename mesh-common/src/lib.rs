//! What both sides of the kernel boundary agree on: map keys and values, numbered reasons, fixed numbers.
//!
//! Nothing here does anything: programs in `mesh-ebpf` and the loader in `mesh-agent` import these types, so that a
//! layout can't differ between them. Sizes are asserted beside each type; padding is spelled out.
#![no_std]

mod flow;
mod pod;
mod reason;
mod service;

pub use flow::{
    AgentFlow, CLIENT_ADDR_ONLY, CLIENT_NONE, FlowKey, OriginalDst, SocketRecord, SourceKey, owner,
};
pub use pod::{
    AgentConfig, FAIL_CLOSED, FAIL_OPEN, Liveness, LocalAddress, OwnAddresses, PodEntry, capture,
    kernel_services,
};
pub use reason::{REASON_COUNT, Reason};
pub use service::{
    AffinityKey, Chosen, ServiceEndpoint, ServiceEntry, ServiceKey, ServiceSlot, UDP_NOTED, UdpKey, UdpPair,
    UdpSocket, protocol, service_flag,
};

/// Version of the layouts in this crate, raised with any change to one of them. A map's name ends with the version of its
/// own last change, so that a new agent adopts what didn't change.
pub const LAYOUT_VERSION: u32 = 3;

/// In-pod listener for outbound connections (loopback only).
pub const OUTBOUND_PORT: u16 = 15001;
/// In-pod listener that sk_lookup hands inbound connections to (loopback only).
pub const INBOUND_PORT: u16 = 15006;
/// In-pod listener for HBONE.
pub const HBONE_PORT: u16 = 15008;

/// An address as every map and hook holds it: four words in network order, IPv4 as IPv4-mapped IPv6 (RFC 4291, 2.5.5.2).
/// Words, not bytes: bytes are copied one by one in a kernel program.
pub type Addr = [u32; 4];

/// Third word of an IPv4-mapped address; the first two are zero.
pub const V4_MAPPED: u32 = 0xffffu32.to_be();

/// The IPv4-mapped form of an IPv4 address in network order.
#[inline(always)]
pub const fn v4_mapped(octets: [u8; 4]) -> Addr {
    [0, 0, V4_MAPPED, u32::from_ne_bytes(octets)]
}

/// From the 16 bytes of an IPv6 address in network order.
pub const fn from_octets(octets: [u8; 16]) -> Addr {
    let [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p] = octets;
    [
        u32::from_ne_bytes([a, b, c, d]),
        u32::from_ne_bytes([e, f, g, h]),
        u32::from_ne_bytes([i, j, k, l]),
        u32::from_ne_bytes([m, n, o, p]),
    ]
}

/// The 16 bytes of an IPv6 address in network order.
pub const fn octets(addr: Addr) -> [u8; 16] {
    let [w0, w1, w2, w3] = addr;
    let [a, b, c, d] = w0.to_ne_bytes();
    let [e, f, g, h] = w1.to_ne_bytes();
    let [i, j, k, l] = w2.to_ne_bytes();
    let [m, n, o, p] = w3.to_ne_bytes();
    [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p]
}

/// Types that may be copied to and from a map: `repr(C)`, no padding, any bit pattern valid.
#[cfg(feature = "user")]
macro_rules! pod {
    ($($t:ty),+ $(,)?) => { $(
        // SAFETY: repr(C), Copy, every byte is part of an integer field (sizes asserted beside the type).
        unsafe impl aya::Pod for $t {}
    )+ };
}

#[cfg(feature = "user")]
pod!(
    AffinityKey,
    AgentConfig,
    AgentFlow,
    Chosen,
    FlowKey,
    Liveness,
    LocalAddress,
    OriginalDst,
    OwnAddresses,
    PodEntry,
    ServiceEndpoint,
    ServiceEntry,
    ServiceKey,
    ServiceSlot,
    SocketRecord,
    SourceKey,
    UdpKey,
    UdpPair,
    UdpSocket,
);

//! Enrolled pods and the agent's own state as the hooks see them.

use crate::Addr;

/// New connections go to their destination directly while no agent serves.
pub const FAIL_OPEN: u32 = 1;
/// New connections are refused while no agent serves.
pub const FAIL_CLOSED: u32 = 2;

/// Bits of [`PodEntry::capture`].
pub mod capture {
    /// Connections that the pod opens.
    pub const OUTBOUND: u32 = 1;
    /// Connections that are opened to the pod.
    pub const INBOUND: u32 = 2;
    /// Destinations that nothing knows are refused (`outboundTrafficPolicy: registryOnly`).
    pub const REGISTRY_ONLY: u32 = 4;
    /// Nobody listens in the pod: an earlier agent captured it, and this one hasn't entered it (yet). Its new
    /// connections follow its fail mode, however fresh the heartbeat is.
    pub const UNSERVED: u32 = 8;
}

/// One enrolled pod, keyed by its netns cookie. Written by the agent only.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PodEntry {
    /// [`FAIL_OPEN`] or [`FAIL_CLOSED`].
    pub fail_mode: u32,
    /// Bits of [`capture`].
    pub capture: u32,
}
const _: () = assert!(size_of::<PodEntry>() == 8);

/// One address of an enrolled pod, keyed by [`crate::Addr`]: sk_lookup can't ask for the netns cookie, so it knows the pod
/// by the address that was dialled. Written by the agent only.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LocalAddress {
    /// Whose address it is.
    pub netns_cookie: u64,
    /// The pod's entry.
    pub pod: PodEntry,
}
const _: () = assert!(size_of::<LocalAddress>() == 16);

/// What the applications of an enrolled pod are told is their own address, keyed by its netns cookie. Written by the agent
/// only. All zero: none of that family.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OwnAddresses {
    /// The first IPv4 address, in its mapped form.
    pub v4: Addr,
    /// The first IPv6 address.
    pub v6: Addr,
}
const _: () = assert!(size_of::<OwnAddresses>() == 32);

/// Index 0 of the configuration array. Written by the agent at start.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AgentConfig {
    /// A heartbeat older than this is stale. Nanoseconds.
    pub stale_after_ns: u64,
    /// In-pod outbound listener, host order.
    pub outbound_port: u16,
    /// In-pod inbound listener, host order.
    pub inbound_port: u16,
    /// In-pod HBONE listener, host order.
    pub hbone_port: u16,
    /// One of [`kernel_services`].
    pub kernel_services: u16,
}
const _: () = assert!(size_of::<AgentConfig>() == 16);

/// Values of [`AgentConfig::kernel_services`]: whose connections to services are balanced in the kernel.
pub mod kernel_services {
    /// Nobody's.
    pub const OFF: u16 = 0;
    /// Those of captured pods, where nothing needs the agent.
    pub const ENROLLED: u16 = 1;
    /// Those of every process of the node, but for what a captured pod needs the agent for.
    pub const ALL: u16 = 2;
}

/// Index 0 of the liveness array. Refreshed by the agent's heartbeat thread.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Liveness {
    /// CLOCK_MONOTONIC nanoseconds of the last heartbeat; 0 says "no agent" at once (drained, stopped).
    pub beat_ns: u64,
}
const _: () = assert!(size_of::<Liveness>() == 8);

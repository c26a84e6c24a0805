//! Services as the hooks know them: for those that are balanced in the kernel, for fail mode `open`, for "no endpoint" and
//! for `registryOnly`.

use crate::Addr;

/// Bits of [`ServiceEntry::flags`].
pub mod service_flag {
    /// The agent has an answer although no endpoint stands in the map: 503 where the port speaks HTTP, or an endpoint of
    /// the other address family. Without it connect(2) gets EHOSTUNREACH.
    pub const AGENT_ANSWERS: u32 = 1;
    /// Nothing of its configuration needs the agent: connections of captured pods are balanced at connect(2).
    pub const KERNEL: u32 = 2;
    /// Captured pods must not go there in plain text: not even while the agent is away.
    pub const ENCRYPTED: u32 = 4;
    /// Of the mesh alone (a ServiceEntry): sockets that aren't captured know nothing of it.
    pub const MESH_ONLY: u32 = 8;
}

/// Values of [`ServiceKey::protocol`].
pub mod protocol {
    /// TCP, and a known plain address.
    pub const TCP: u16 = 0;
    /// UDP.
    pub const UDP: u16 = 17;
}

/// Key of the service map: a virtual IP and a port. A known address without a service (a pod, a headless
/// endpoint) stands there with port 0.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct ServiceKey {
    /// The virtual IP.
    pub addr: Addr,
    /// The port, host order; 0 for a known plain address.
    pub port: u16,
    /// One of [`protocol`].
    pub protocol: u16,
}
const _: () = assert!(size_of::<ServiceKey>() == 20);

/// Value of the service map.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ServiceEntry {
    /// First half of the slots' key. A changed endpoint list gets a new id: slots are written first, then this entry
    /// is replaced, then the old id's slots go, so that a reader never sees a mixture.
    pub id: u32,
    /// Number of slots, 0 for "no ready endpoint".
    pub count: u32,
    /// Bits of [`service_flag`].
    pub flags: u32,
    /// `sessionAffinity: ClientIP`: for how long a client that is quiet keeps its endpoint, seconds. 0: not at all.
    pub affinity_s: u32,
}
const _: () = assert!(size_of::<ServiceEntry>() == 16);

/// Key of the endpoint map.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct ServiceSlot {
    /// [`ServiceEntry::id`].
    pub id: u32,
    /// 0 to `count - 1`.
    pub slot: u32,
}
const _: () = assert!(size_of::<ServiceSlot>() == 8);

/// Value of the endpoint map.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ServiceEndpoint {
    /// The endpoint's address.
    pub addr: Addr,
    /// Its port, host order.
    pub port: u16,
    /// Zero.
    pub _pad: u16,
}
const _: () = assert!(size_of::<ServiceEndpoint>() == 20);

/// Key of the affinity map: a client of a service with `sessionAffinity: ClientIP`. A pod is known by its network namespace.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct AffinityKey {
    /// The client's network namespace.
    pub netns_cookie: u64,
    /// The virtual IP.
    pub addr: Addr,
    /// Its port, host order.
    pub port: u16,
    /// One of [`protocol`].
    pub protocol: u16,
    /// Zero.
    pub _pad: u32,
}
const _: () = assert!(size_of::<AffinityKey>() == 32);

/// Key of the UDP map: a socket and the other end of its datagrams, as the application or as the network has it.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct UdpKey {
    /// The socket (SO_COOKIE). Never given to another one.
    pub socket_cookie: u64,
    /// A virtual IP, or an endpoint's address.
    pub addr: Addr,
    /// Its port, host order.
    pub port: u16,
    /// [`UdpKey::SENT`] or [`UdpKey::RECEIVED`].
    pub direction: u16,
    /// Zero.
    pub _pad: u32,
}
const _: () = assert!(size_of::<UdpKey>() == 32);

impl UdpKey {
    /// From a virtual IP to the endpoint that its datagrams go to.
    pub const SENT: u16 = 0;
    /// From the endpoint back to the virtual IP.
    pub const RECEIVED: u16 = 1;
}

/// Value of the affinity map and of the UDP map: what was chosen, and when it was last of use.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Chosen {
    /// An endpoint's address, or a virtual IP.
    pub addr: Addr,
    /// Its port, host order.
    pub port: u16,
    /// Zero.
    pub _pad: u16,
    /// [`ServiceEntry::id`] of the list that it was last seen in.
    pub list: u32,
    /// CLOCK_MONOTONIC nanoseconds of its last use.
    pub used_ns: u64,
}
const _: () = assert!(size_of::<Chosen>() == 32);

/// How many of a socket's entries in the UDP map go with it. Those of a socket that sends to more services than that go
/// once they are out of use.
pub const UDP_NOTED: usize = 4;

/// Storage of a UDP socket: its entries in the UDP map, so that they go with it.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct UdpSocket {
    /// How many were written.
    pub noted: u32,
    /// Zero.
    pub _pad: u32,
    /// The last ones.
    pub pairs: [UdpPair; UDP_NOTED],
}
const _: () = assert!(size_of::<UdpSocket>() == 8 + 40 * UDP_NOTED);

/// A virtual IP and the endpoint that was chosen for it.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct UdpPair {
    /// The virtual IP.
    pub service: Addr,
    /// The endpoint's address.
    pub endpoint: Addr,
    /// Port of the former, host order.
    pub service_port: u16,
    /// Port of the latter, host order.
    pub endpoint_port: u16,
    /// Zero.
    pub _pad: u32,
}
const _: () = assert!(size_of::<UdpPair>() == 40);

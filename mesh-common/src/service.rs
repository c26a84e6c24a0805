//! Services as the connect hook knows them: for fail mode `open`, for "no endpoint" and for `registryOnly`.

use crate::Addr;

/// Bits of [`ServiceEntry::flags`].
pub mod service_flag {
    /// The agent has an answer although no endpoint stands in the map: 503 where the port speaks HTTP, or an endpoint of
    /// the other address family. Without it connect(2) gets EHOSTUNREACH.
    pub const AGENT_ANSWERS: u32 = 1;
}

/// Key of the service map: a virtual IP and a TCP port. A known address without a service (a pod, a headless
/// endpoint) stands there with port 0.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct ServiceKey {
    /// The virtual IP.
    pub addr: Addr,
    /// The port, host order; 0 for a known plain address.
    pub port: u16,
    /// Zero.
    pub _pad: u16,
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
}
const _: () = assert!(size_of::<ServiceEntry>() == 12);

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

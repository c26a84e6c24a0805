//! Addresses with their roles. A bare `SocketAddr` never crosses a module border.
//!
//! IPv4-mapped IPv6 is folded to IPv4 on the way in, so that every comparison and look-up sees one form.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use mesh_common::Addr;

macro_rules! role {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(SocketAddr);

        impl $name {
            /// In canonical form: IPv4-mapped IPv6 becomes IPv4, flow label and scope go.
            pub fn new(ip: IpAddr, port: u16) -> Self {
                Self(SocketAddr::new(ip.to_canonical(), port))
            }
            /// The address.
            pub fn ip(self) -> IpAddr {
                self.0.ip()
            }
            /// The port.
            pub fn port(self) -> u16 {
                self.0.port()
            }
            /// For the socket calls at the edge.
            pub fn socket_addr(self) -> SocketAddr {
                self.0
            }
        }

        impl From<SocketAddr> for $name {
            fn from(addr: SocketAddr) -> Self {
                Self::new(addr.ip(), addr.port())
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

role! {
    /// The address that an application passed to connect(2), or that an inbound connection was made to.
    OrigDst
}
role! {
    /// The application (or outside peer) that opened a connection.
    ClientAddr
}
role! {
    /// Where a connection is sent: an endpoint's own address and port.
    EndpointAddr
}

impl From<OrigDst> for EndpointAddr {
    /// What nothing translates goes where it was sent.
    fn from(addr: OrigDst) -> Self {
        Self(addr.0)
    }
}

/// The form that kernel maps hold: four words, IPv4 as IPv4-mapped IPv6.
pub fn to_map(ip: IpAddr) -> Addr {
    match ip {
        IpAddr::V4(v4) => mesh_common::v4_mapped(v4.octets()),
        IpAddr::V6(v6) => mesh_common::from_octets(v6.octets()),
    }
}

/// The canonical address of a map's four words.
pub fn from_map(addr: Addr) -> IpAddr {
    IpAddr::V6(Ipv6Addr::from(mesh_common::octets(addr))).to_canonical()
}

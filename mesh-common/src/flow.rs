//! Connections on their way: what the connect hook stores on a socket, what sockops publishes for the agent and for
//! sk_lookup, and what getpeername answers from.

use crate::Addr;

/// Who a socket with a [`SocketRecord`] belongs to.
pub mod owner {
    /// An application's socket that the connect hook captured.
    pub const APPLICATION: u32 = 1;
    /// The agent's own upstream socket, marked by the agent before connect(2); never captured.
    pub const AGENT: u32 = 2;
    /// A socket that an application accepted from the agent; the record holds the true client.
    pub const ACCEPTED: u32 = 3;
    /// An application's socket that the connect hook sent to an endpoint itself; the agent never sees it.
    pub const TRANSLATED: u32 = 4;
    /// A socket that the agent accepted from a captured application; the record holds the original destination.
    pub const CAPTURED: u32 = 5;
    /// A record left from an earlier connect(2) of the same socket; means nothing.
    pub const NONE: u32 = 0;
}

/// [`AgentFlow::client_port`] value for "no client to show": the peer's own address is the truth.
pub const CLIENT_NONE: u32 = 0;
/// Bit in [`SocketRecord::flags`] and [`AgentFlow::flags`]: show the client's address with the connection's own port.
pub const CLIENT_ADDR_ONLY: u32 = 1;

/// Socket storage, one per captured, translated, accepted or agent's socket. It lives and dies with the socket.
///
/// For [`owner::APPLICATION`] and [`owner::TRANSLATED`] `addr:port` is the original destination (getpeername answers
/// with it while the socket's peer is still `peer_addr:peer_port`). For [`owner::CAPTURED`] it is the original destination
/// too. For [`owner::AGENT`] and [`owner::ACCEPTED`] it is the true client, or a zero port for none.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SocketRecord {
    /// Network namespace of the socket (SO_NETNS_COOKIE).
    pub netns_cookie: u64,
    /// Original destination or true client.
    pub addr: Addr,
    /// One of [`owner`].
    pub owner: u32,
    /// 1 once sockops has published this connection, so that the close callback knows there is something to remove.
    pub published: u32,
    /// Port of `addr`, host order.
    pub port: u16,
    /// Port of `peer_addr`, host order.
    pub peer_port: u16,
    /// Bits, see [`CLIENT_ADDR_ONLY`]. Of [`owner::APPLICATION`], once published: [`SourceKey::seq`] of its entry.
    pub flags: u32,
    /// Where the connect hook sent it instead: the agent's listener or an endpoint. Of an accepted socket: the other end.
    pub peer_addr: Addr,
}
const _: () = assert!(size_of::<SocketRecord>() == 56);

/// Key of the original-destination map: one connection to the agent's outbound listener, as both of its ends know it.
///
/// A source port alone isn't enough: it can be used again while the connection before it is still within its handshake
/// on the listener's side. Two connections of one port never have the same sequence number.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct SourceKey {
    /// Network namespace of the dialling socket.
    pub netns_cookie: u64,
    /// Its source address.
    pub addr: Addr,
    /// Its source port, host order.
    pub port: u16,
    /// Zero.
    pub _pad: u16,
    /// The first sequence number after its SYN: what the dialling end has had acknowledged, and the accepting end expects
    /// next, when either is established (RFC 9293, 3.5).
    pub seq: u32,
}
const _: () = assert!(size_of::<SourceKey>() == 32);

/// Value of the original-destination map.
///
/// Written by sockops at the dialling end before the handshake's last segment leaves, moved by sockops into the socket
/// that this segment makes at the accepting end. Deleted when the dialling socket closes before that.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OriginalDst {
    /// The address that the application passed to connect(2).
    pub addr: Addr,
    /// Its port, host order.
    pub port: u16,
    /// Zero. Integers rather than an array: the compiler would call memset for one.
    pub _pad: u16,
    /// Zero.
    pub _pad2: u32,
}
const _: () = assert!(size_of::<OriginalDst>() == 24);

/// Key of the agent-flow map: one of the agent's own connections, as the destination sees it.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct FlowKey {
    /// Source address.
    pub src_addr: Addr,
    /// Destination address.
    pub dst_addr: Addr,
    /// Source port, host order.
    pub src_port: u16,
    /// Destination port, host order.
    pub dst_port: u16,
    /// Zero.
    pub _pad: u32,
}
const _: () = assert!(size_of::<FlowKey>() == 40);

/// Value of the agent-flow map: written by sockops before the SYN leaves, read by sk_lookup (let it through) and by
/// sockops on the accepting side (whose client is it), deleted by sockops when the agent's socket closes.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AgentFlow {
    /// CLOCK_MONOTONIC nanoseconds at which it was written.
    pub created_ns: u64,
    /// The true client's address, if `client_port` isn't [`CLIENT_NONE`].
    pub client_addr: Addr,
    /// The true client's port, host order, or [`CLIENT_NONE`].
    pub client_port: u32,
    /// Bits, see [`CLIENT_ADDR_ONLY`].
    pub flags: u32,
}
const _: () = assert!(size_of::<AgentFlow>() == 32);

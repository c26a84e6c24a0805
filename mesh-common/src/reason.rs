//! Numbered reasons: why a hook did what it did. Each is a metric label and a row in docs/reasons.md.
//!
//! Numbers are never reused. A new reason gets the next number, and `REASON_COUNT` grows.

macro_rules! reasons {
    ($( $(#[$doc:meta])* $name:ident = $number:literal, $label:literal; )+) => {
        /// Why a kernel program decided as it did; the index of its counter.
        #[repr(u32)]
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Reason { $( $(#[$doc])* $name = $number, )+ }

        impl Reason {
            /// Every reason, in the order of numbers.
            pub const ALL: &'static [Reason] = &[$(Reason::$name),+];

            /// The metric label, in snake case.
            pub const fn label(self) -> &'static str {
                match self { $(Reason::$name => $label),+ }
            }
        }
    };
}

reasons! {
    /// connect: handed to the agent's in-pod listener.
    Captured = 0, "captured";
    /// connect: one of the agent's own sockets.
    AgentSocket = 1, "agent_socket";
    /// connect: destination is the pod's own loopback.
    Loopback = 2, "loopback";
    /// connect: an application dialled one of the agent's in-pod ports itself; refused.
    DialledAgentPort = 3, "dialled_agent_port";
    /// connect: the original destination couldn't be stored; refused.
    RecordFailed = 4, "record_failed";
    /// connect: service without a ready endpoint; EHOSTUNREACH.
    NoEndpoint = 5, "no_endpoint";
    /// connect: unknown destination under `registryOnly`; refused.
    UnknownDestination = 6, "unknown_destination";
    /// connect: no agent serves and the pod fails closed; refused.
    AgentAwayClosed = 7, "agent_away_closed";
    /// connect: no agent serves and the pod fails open; direct.
    AgentAwayOpen = 8, "agent_away_open";
    /// connect: no agent serves, the pod fails open and the destination is a service; sent to a ready endpoint.
    AgentAwayService = 9, "agent_away_service";
    /// sockops: original destination published for the socket that the agent will accept.
    Published = 10, "published";
    /// sockops: original destination lost, the map or memory is full; the agent will close the connection.
    PublishFailed = 11, "publish_failed";
    /// sockops: one of the agent's own flows published.
    FlowPublished = 12, "flow_published";
    /// sockops: one of the agent's own flows not published, the map is full; taken for a stranger's at its destination.
    FlowPublishFailed = 13, "flow_publish_failed";
    /// sk_lookup: handed to the agent's inbound listener.
    InboundCaptured = 14, "inbound_captured";
    /// sk_lookup: one of the agent's own flows, let through to the application.
    InboundAgentFlow = 15, "inbound_agent_flow";
    /// sk_lookup: the pod's own loopback traffic, let through.
    InboundLoopback = 16, "inbound_loopback";
    /// sk_lookup: dialled the agent's in-pod outbound or inbound port from outside; refused.
    InboundAgentPort = 17, "inbound_agent_port";
    /// sk_lookup: no agent serves and the pod fails closed; refused.
    InboundAwayClosed = 18, "inbound_away_closed";
    /// sk_lookup: no agent serves and the pod fails open; to the application.
    InboundAwayOpen = 19, "inbound_away_open";
    /// sk_lookup: a local address that isn't one of the pod's known ones; refused.
    InboundUnknownAddress = 20, "inbound_unknown_address";
    /// sk_lookup: the listener was there but the kernel wouldn't take it; refused.
    InboundAssignFailed = 21, "inbound_assign_failed";
    /// getpeername: answered with the address that the application dialled.
    PeerOriginal = 22, "peer_original";
    /// getpeername: answered with the address of the true client.
    PeerClient = 23, "peer_client";
    /// connect: a socket bound to a device, which can't reach the agent; ENETUNREACH.
    BoundToDevice = 24, "bound_to_device";
    /// bind: an application wanted one of the agent's in-pod ports; EADDRINUSE.
    AgentPortBound = 25, "agent_port_bound";
    /// getsockname: answered with the pod's own address.
    SockPod = 26, "sock_pod";
    /// connect: a service that needs nothing of the agent; sent to an endpoint.
    KernelBalanced = 27, "kernel_balanced";
    /// connect: the same for a socket that isn't captured (`kernelServices: all`).
    KernelBalancedOther = 28, "kernel_balanced_other";
    /// connect and sendmsg: a UDP socket's datagrams to a service have an endpoint now.
    UdpBalanced = 29, "udp_balanced";
    /// sendmsg: which endpoint was chosen can't be noted, the map or memory is full; ENOBUFS.
    UdpNotNoted = 30, "udp_not_noted";
    /// recvmsg: answered with the service's address in place of the endpoint's.
    UdpRestored = 31, "udp_restored";
    /// connect and sendmsg: a client's endpoint can't be noted, the map is full; its next connection may go elsewhere.
    AffinityNotNoted = 32, "affinity_not_noted";
}

/// How many reasons there are; the size of the counter array.
pub const REASON_COUNT: u32 = 33;
const _: () = assert!(Reason::ALL.len() == REASON_COUNT as usize);

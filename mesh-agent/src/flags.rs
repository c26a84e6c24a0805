//! Response flags: one short code for every way a request or connection can end other than well.
//!
//! Names are Envoy's where Envoy has the case (access log documentation, `%RESPONSE_FLAGS%`), ztunnel's or ours where
//! it doesn't. They are the `response_flags` label of Istio's metrics and a field of the access log; docs/flags.md has
//! a row for each. `-` says that nothing went wrong.

macro_rules! flags {
    ($( $(#[$doc:meta])* $name:ident = $label:literal; )+) => {
        /// How a request or connection ended.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum Flag { #[default] /// Nothing went wrong.
            None, $( $(#[$doc])* $name, )+ }

        impl Flag {
            /// Every flag.
            pub const ALL: &'static [Flag] = &[Flag::None, $(Flag::$name),+];

            /// The label.
            pub const fn label(self) -> &'static str {
                match self { Flag::None => "-", $(Flag::$name => $label),+ }
            }
        }
    };
}

flags! {
    /// No healthy endpoint.
    NoHealthyUpstream = "UH";
    /// The endpoint couldn't be connected to.
    UpstreamConnectionFailure = "UF";
    /// A limit on connections, pending or active requests was reached.
    UpstreamOverflow = "UO";
    /// The upstream answered too late.
    UpstreamTimeout = "UT";
    /// The upstream closed or reset the connection before or within the response.
    UpstreamConnectionTermination = "UC";
    /// The upstream reset the stream.
    UpstreamReset = "UR";
    /// The upstream broke the protocol.
    UpstreamProtocolError = "UPE";
    /// Every retry was used up.
    RetriesExhausted = "URX";
    /// No route matched.
    NoRoute = "NR";
    /// Unknown destination under `registryOnly` (Envoy: no cluster found).
    NoCluster = "NC";
    /// The client went away before the response was complete.
    DownstreamConnectionTermination = "DC";
    /// The client reset the stream.
    DownstreamRemoteReset = "DR";
    /// The client broke the protocol; hostile framing is counted here.
    DownstreamProtocolError = "DPE";
    /// The client took too long to send its head or body, or a stream was idle.
    StreamIdleTimeout = "SI";
    /// The connection was as old as it may become.
    DurationTimeout = "DT";
    /// The agent's own limits are reached, or it drains.
    Overload = "OM";
    /// Rate limited.
    RateLimited = "RL";
    /// A fault was injected.
    FaultInjected = "FI";
    /// A delay was injected, and nothing went wrong after it.
    DelayInjected = "DI";
    /// Refused by authorization, or plain text where mutual TLS is required.
    Denied = "DENY";
    /// Refused by an external authorization provider, or for want of its answer.
    UnauthorizedExternal = "UAEX";
    /// The original destination isn't known: a dial of the agent's own port; closed.
    NoOriginalDestination = "NOD";
    /// A failure of the agent itself.
    Internal = "LR";
}

//! One table from what went wrong to its side, response flag, status and whether another endpoint may be tried.
//!
//! Every failure on the data path becomes a [`ProxyError`]; the matches below are exhaustive, so a new kind can't be
//! without its row. Flags are documented in docs/flags.md.

use std::error::Error;
use std::fmt;

use http::StatusCode;

use crate::flags::Flag;
use crate::jwt::Refusal;

/// Who caused a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The client.
    Downstream,
    /// The endpoint.
    Upstream,
    /// The agent.
    Internal,
}

/// Everything that can go wrong with a connection or request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorKind {
    /// The service has no endpoint to send to.
    NoHealthyUpstream,
    /// The endpoint refused or couldn't be reached.
    ConnectFailed,
    /// The endpoint didn't answer within the connect timeout.
    ConnectTimeout,
    /// The endpoint and the agent didn't agree on TLS, or the endpoint refused the agent's certificate within the handshake.
    TlsFailed,
    /// The endpoint's certificate isn't one that the DestinationRule accepts.
    CertificateRefused,
    /// The endpoint was connected to for HTTP/2 and said something else.
    NotHttp2,
    /// The endpoint's agent doesn't let the connection through.
    TunnelRefused,
    /// What stands before the endpoint says that policy doesn't let this pod in.
    TunnelDenied,
    /// The pod has no certificate to show: mutual TLS is wanted, and nothing is sent without.
    NoIdentity,
    /// A client that speaks as an agent and this one didn't agree on TLS, or the client refused this pod's certificate.
    PeerTlsFailed,
    /// The certificate of a client that speaks as an agent isn't one of the mesh.
    PeerCertificateRefused,
    /// The endpoint closed the connection before or within its response.
    UpstreamClosed,
    /// The endpoint reset the stream with this code.
    UpstreamReset(h2::Reason),
    /// The endpoint's message is not valid.
    UpstreamProtocol(Hostile),
    /// The endpoint sent nothing for too long.
    UpstreamTimeout,
    /// A limit on connections or requests is reached.
    Overflow,
    /// The pod has no place for another connection.
    TooManyConnections,
    /// Nobody recorded where the connection was meant to go.
    NoOriginalDestination,
    /// A DestinationRule asks for TLS in a way that isn't supported, or with files that can't be read.
    TlsNotOriginated,
    /// Nothing knows the destination and `registryOnly` is set.
    UnknownDestination,
    /// Plain text to a port that accepts mutual TLS alone, by a PeerAuthentication.
    PlainTextRefused,
    /// HBONE to a port that takes no mutual TLS, by a PeerAuthentication.
    MutualTlsRefused,
    /// The service has routes, and none of them matches.
    NoRoute,
    /// The route's backend doesn't exist, may not be used, or there is none with a weight.
    NoBackend,
    /// The route's deadline for the whole request passed.
    RequestTimeout,
    /// The deadline of one try passed.
    TryTimeout,
    /// The endpoint answered with 5xx, which a fallback keeps from the client.
    UpstreamErrorStatus,
    /// A TrafficPolicy's rate limit is reached.
    RateLimited,
    /// A TrafficPolicy's circuit breaker is open.
    CircuitOpen,
    /// A TrafficPolicy's limit on requests at a time is reached.
    ConcurrencyLimit,
    /// A TrafficPolicy's fault was injected.
    FaultInjected,
    /// An AuthorizationPolicy doesn't let it in.
    Denied,
    /// A token of the request doesn't hold.
    Unauthenticated(Refusal),
    /// An external authorization provider refused it.
    ExternallyDenied,
    /// An external authorization provider gave no answer.
    AuthorizationUnavailable,
    /// The client closed the connection before its request or response was complete.
    DownstreamClosed,
    /// The client reset the stream with this code.
    DownstreamReset(h2::Reason),
    /// The client's message is not valid, or hostile.
    DownstreamProtocol(Hostile),
    /// The head is larger than allowed, or has too many fields.
    HeadTooLarge,
    /// The request target is longer than allowed.
    UriTooLong,
    /// The client took too long to send its head.
    HeadTimeout,
    /// No byte of a body for too long.
    BodyTimeout,
    /// An opaque connection is as old as its DestinationRule lets it become.
    ConnectionDuration,
    /// The agent drains.
    Draining,
    /// The agent itself failed.
    Internal,
}

impl ErrorKind {
    /// Who caused it.
    pub fn side(self) -> Side {
        match self {
            Self::NoHealthyUpstream
            | Self::ConnectFailed
            | Self::ConnectTimeout
            | Self::TlsFailed
            | Self::CertificateRefused
            | Self::NotHttp2
            | Self::TunnelRefused
            | Self::TunnelDenied
            | Self::UpstreamClosed
            | Self::UpstreamReset(_)
            | Self::UpstreamProtocol(_)
            | Self::UpstreamTimeout
            | Self::RequestTimeout
            | Self::TryTimeout
            | Self::UpstreamErrorStatus => Side::Upstream,
            Self::DownstreamClosed
            | Self::PeerTlsFailed
            | Self::PeerCertificateRefused
            | Self::DownstreamReset(_)
            | Self::DownstreamProtocol(_)
            | Self::HeadTooLarge
            | Self::UriTooLong
            | Self::HeadTimeout
            | Self::BodyTimeout
            | Self::NoOriginalDestination
            | Self::UnknownDestination
            | Self::Denied
            | Self::Unauthenticated(_)
            | Self::ExternallyDenied
            | Self::PlainTextRefused
            | Self::MutualTlsRefused
            | Self::NoRoute => Side::Downstream,
            Self::NoBackend
            | Self::AuthorizationUnavailable
            | Self::RateLimited
            | Self::CircuitOpen
            | Self::ConcurrencyLimit
            | Self::FaultInjected
            | Self::TlsNotOriginated
            | Self::NoIdentity
            | Self::Overflow
            | Self::TooManyConnections
            | Self::ConnectionDuration
            | Self::Draining
            | Self::Internal => Side::Internal,
        }
    }

    /// The response flag, Envoy's where it has one.
    pub fn flag(self) -> Flag {
        match self {
            Self::NoHealthyUpstream => Flag::NoHealthyUpstream,
            Self::ConnectFailed
            | Self::ConnectTimeout
            | Self::TlsFailed
            | Self::CertificateRefused
            | Self::TunnelRefused
            | Self::TunnelDenied
            | Self::NoIdentity
            | Self::TlsNotOriginated => Flag::UpstreamConnectionFailure,
            Self::UpstreamClosed => Flag::UpstreamConnectionTermination,
            Self::UpstreamReset(_) => Flag::UpstreamReset,
            Self::UpstreamProtocol(_) | Self::NotHttp2 => Flag::UpstreamProtocolError,
            Self::UpstreamTimeout | Self::RequestTimeout | Self::TryTimeout => Flag::UpstreamTimeout,
            Self::Overflow | Self::CircuitOpen | Self::ConcurrencyLimit => Flag::UpstreamOverflow,
            Self::UpstreamErrorStatus => Flag::None,
            Self::RateLimited => Flag::RateLimited,
            Self::FaultInjected => Flag::FaultInjected,
            Self::Denied | Self::Unauthenticated(_) => Flag::Denied,
            Self::ExternallyDenied | Self::AuthorizationUnavailable => Flag::UnauthorizedExternal,
            Self::NoOriginalDestination => Flag::NoOriginalDestination,
            Self::UnknownDestination | Self::NoBackend => Flag::NoCluster,
            Self::PlainTextRefused | Self::MutualTlsRefused => Flag::Denied,
            Self::NoRoute => Flag::NoRoute,
            Self::DownstreamClosed => Flag::DownstreamConnectionTermination,
            Self::DownstreamReset(_) => Flag::DownstreamRemoteReset,
            Self::DownstreamProtocol(_)
            | Self::HeadTooLarge
            | Self::UriTooLong
            | Self::PeerTlsFailed
            | Self::PeerCertificateRefused => Flag::DownstreamProtocolError,
            Self::HeadTimeout | Self::BodyTimeout => Flag::StreamIdleTimeout,
            Self::ConnectionDuration => Flag::DurationTimeout,
            Self::TooManyConnections | Self::Draining => Flag::Overload,
            Self::Internal => Flag::Internal,
        }
    }

    /// What an HTTP client is told, or nothing where nobody is left to tell.
    pub fn status(self) -> Option<StatusCode> {
        Some(match self {
            Self::NoHealthyUpstream
            | Self::ConnectFailed
            | Self::ConnectTimeout
            | Self::TlsFailed
            | Self::CertificateRefused
            | Self::TunnelRefused
            | Self::TunnelDenied
            | Self::NoIdentity
            | Self::Overflow
            | Self::TooManyConnections
            | Self::TlsNotOriginated
            | Self::ConnectionDuration
            | Self::Draining
            | Self::UpstreamClosed
            | Self::UpstreamReset(_) => StatusCode::SERVICE_UNAVAILABLE,
            Self::UpstreamProtocol(_)
            | Self::NotHttp2
            | Self::UnknownDestination
            | Self::NoOriginalDestination => StatusCode::BAD_GATEWAY,
            Self::UpstreamTimeout | Self::RequestTimeout | Self::TryTimeout => StatusCode::GATEWAY_TIMEOUT,
            Self::CircuitOpen | Self::ConcurrencyLimit | Self::UpstreamErrorStatus | Self::FaultInjected => {
                StatusCode::SERVICE_UNAVAILABLE
            }
            Self::RateLimited => StatusCode::TOO_MANY_REQUESTS,
            Self::Denied
            | Self::ExternallyDenied
            | Self::AuthorizationUnavailable
            | Self::PlainTextRefused
            | Self::MutualTlsRefused => StatusCode::FORBIDDEN,
            Self::Unauthenticated(why) => why.status(),
            Self::NoRoute => StatusCode::NOT_FOUND,
            Self::NoBackend => StatusCode::INTERNAL_SERVER_ERROR,
            Self::DownstreamProtocol(hostile) => hostile.status(),
            Self::HeadTooLarge => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            Self::UriTooLong => StatusCode::URI_TOO_LONG,
            Self::HeadTimeout | Self::BodyTimeout => StatusCode::REQUEST_TIMEOUT,
            Self::Internal => StatusCode::INTERNAL_SERVER_ERROR,
            Self::DownstreamClosed
            | Self::DownstreamReset(_)
            | Self::PeerTlsFailed
            | Self::PeerCertificateRefused => return None,
        })
    }

    /// What a CONNECT is answered, or nothing where nobody is left to tell. Peers of HBONE are told ztunnel's words: 401 by
    /// policy, 503 otherwise.
    pub fn connect_status(self, hbone: bool) -> Option<StatusCode> {
        let status = self.status()?;
        Some(match (hbone, self.flag()) {
            (false, _) => status,
            (true, Flag::Denied | Flag::UnauthorizedExternal) => StatusCode::UNAUTHORIZED,
            (true, _) => StatusCode::SERVICE_UNAVAILABLE,
        })
    }

    /// The gRPC status of an answer of our own (grpc/grpc, doc/http-grpc-status-mapping.md, but for what gRPC has a status
    /// of its own).
    pub fn grpc_status(self) -> u16 {
        match self {
            Self::UpstreamTimeout | Self::RequestTimeout | Self::TryTimeout => 4,
            // GRPCRouteRule.backendRefs: UNAVAILABLE for what leads to an invalid backend.
            Self::NoBackend => 14,
            _ => self.status().map_or(2, grpc_status_for),
        }
    }

    /// True if time ran out before an endpoint had answered.
    pub fn is_timeout(self) -> bool {
        matches!(self, Self::UpstreamTimeout | Self::RequestTimeout | Self::TryTimeout | Self::ConnectTimeout)
    }

    /// True if the request can't have reached an application, so that another endpoint may be tried.
    pub fn retryable(self) -> bool {
        matches!(
            self,
            Self::ConnectFailed
                | Self::ConnectTimeout
                | Self::TlsFailed
                | Self::CertificateRefused
                | Self::NotHttp2
                | Self::NoIdentity
                | Self::UpstreamReset(h2::Reason::REFUSED_STREAM)
        )
    }

    /// The label of `mesh_agent_protocol_errors_total`, for what a peer should not have sent, or not so much or so
    /// slowly of.
    pub fn hostile_label(self) -> Option<&'static str> {
        match self {
            Self::DownstreamProtocol(hostile) | Self::UpstreamProtocol(hostile) => Some(hostile.label()),
            Self::HeadTooLarge | Self::UriTooLong | Self::HeadTimeout | Self::BodyTimeout => {
                Some(self.label())
            }
            _ => None,
        }
    }

    /// The metric label and the log's word.
    pub fn label(self) -> &'static str {
        match self {
            Self::NoHealthyUpstream => "no_healthy_upstream",
            Self::ConnectFailed => "connect_failed",
            Self::ConnectTimeout => "connect_timeout",
            Self::TlsFailed => "tls_failed",
            Self::CertificateRefused => "certificate_refused",
            Self::NotHttp2 => "upstream_not_http2",
            Self::TunnelRefused => "tunnel_refused",
            Self::TunnelDenied => "tunnel_denied",
            Self::NoIdentity => "no_identity",
            Self::PeerTlsFailed => "peer_tls_failed",
            Self::PeerCertificateRefused => "peer_certificate_refused",
            Self::UpstreamClosed => "upstream_closed",
            Self::UpstreamReset(_) => "upstream_reset",
            Self::UpstreamProtocol(_) => "upstream_protocol",
            Self::UpstreamTimeout => "upstream_timeout",
            Self::Overflow => "overflow",
            Self::TooManyConnections => "too_many_connections",
            Self::NoOriginalDestination => "no_original_destination",
            Self::TlsNotOriginated => "tls_not_originated",
            Self::UnknownDestination => "unknown_destination",
            Self::PlainTextRefused => "plain_text_refused",
            Self::MutualTlsRefused => "mutual_tls_refused",
            Self::NoRoute => "no_route",
            Self::NoBackend => "no_backend",
            Self::RequestTimeout => "request_timeout",
            Self::TryTimeout => "per_try_timeout",
            Self::UpstreamErrorStatus => "upstream_5xx",
            Self::RateLimited => "rate_limited",
            Self::CircuitOpen => "circuit_open",
            Self::ConcurrencyLimit => "concurrency_limit",
            Self::FaultInjected => "fault_injected",
            Self::Denied => "rbac_access_denied",
            Self::Unauthenticated(why) => why.details(),
            Self::ExternallyDenied => "ext_authz_denied",
            Self::AuthorizationUnavailable => "ext_authz_error",
            Self::DownstreamClosed => "downstream_closed",
            Self::DownstreamReset(_) => "downstream_reset",
            Self::DownstreamProtocol(_) => "downstream_protocol",
            Self::HeadTooLarge => "head_too_large",
            Self::UriTooLong => "uri_too_long",
            Self::HeadTimeout => "head_timeout",
            Self::BodyTimeout => "body_timeout",
            Self::ConnectionDuration => "connection_duration",
            Self::Draining => "draining",
            Self::Internal => "internal",
        }
    }
}

/// The gRPC status for an HTTP one.
pub fn grpc_status_for(status: StatusCode) -> u16 {
    match status.as_u16() {
        400 => 13,
        401 => 16,
        403 => 7,
        404 => 12,
        429 | 502 | 503 | 504 => 14,
        _ => 2,
    }
}

macro_rules! hostile {
    ($( $(#[$doc:meta])* $name:ident = $label:literal; )+) => {
        /// What is wrong with a message that is refused; the label of `mesh_agent_protocol_errors_total`.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Hostile { $( $(#[$doc])* $name, )+ }

        impl Hostile {
            /// Every kind.
            pub const ALL: &'static [Hostile] = &[$(Hostile::$name),+];

            /// The metric label.
            pub const fn label(self) -> &'static str {
                match self { $(Hostile::$name => $label),+ }
            }
        }
    };
}

hostile! {
    /// Content-Length together with Transfer-Encoding (RFC 9112, 6.1).
    LengthWithChunked = "length_with_chunked";
    /// Two Content-Lengths that differ (RFC 9112, 6.3).
    ConflictingLength = "conflicting_length";
    /// A Content-Length that is no number, negative or too large.
    BadLength = "bad_length";
    /// A chunk size, extension or end that breaks RFC 9112, 7.1.
    BadChunk = "bad_chunk";
    /// A trailer that may not be one, or is malformed.
    BadTrailer = "bad_trailer";
    /// LF without CR in a head.
    BareLineFeed = "bare_lf";
    /// CR without LF in a head.
    BareCarriageReturn = "bare_cr";
    /// A continued header line (RFC 9112, 5.2).
    ObsoleteFold = "obs_fold";
    /// Space before the colon of a header (RFC 9112, 5.1).
    SpaceBeforeColon = "space_before_colon";
    /// NUL in a head.
    NulByte = "nul";
    /// A request line that isn't one.
    BadRequestLine = "bad_request_line";
    /// A status line that isn't one.
    BadStatusLine = "bad_status_line";
    /// A header name with a forbidden byte.
    BadHeaderName = "bad_header_name";
    /// A header value with a forbidden byte.
    BadHeaderValue = "bad_header_value";
    /// A Transfer-Encoding other than `chunked`, or chunked twice or not last.
    BadTransferEncoding = "bad_transfer_encoding";
    /// An HTTP/1.1 request without Host.
    MissingHost = "missing_host";
    /// Several Hosts, or Host and the target's authority disagree.
    ConflictingHost = "conflicting_host";
    /// A request target or Host that isn't one.
    BadTarget = "bad_target";
    /// An HTTP version that isn't spoken.
    BadVersion = "bad_version";
    /// An HTTP/2 preface that never ends or isn't one.
    BadPreface = "bad_preface";
    /// A frame, header block or field that breaks RFC 9113.
    BadFrame = "bad_frame";
    /// Too many control frames, empty frames or continuations.
    FrameFlood = "frame_flood";
    /// A record or message that breaks RFC 8446, from an agent that has shaken hands.
    BadTls = "bad_tls";
    /// A CONNECT for another address than its connection was made to, or by HBONE for none of the pod's or a port of the agent.
    WrongAuthority = "wrong_authority";
    /// By HBONE, anything but CONNECT.
    NotConnect = "not_connect";
    /// Streams opened and reset in a burst (CVE-2023-44487).
    RapidReset = "rapid_reset";
}

impl Hostile {
    /// 400, or 501 and 505 where the specification names them (RFC 9112, 6.1; RFC 9110, 15.6.6).
    pub fn status(self) -> StatusCode {
        match self {
            Self::BadTransferEncoding => StatusCode::NOT_IMPLEMENTED,
            Self::BadVersion => StatusCode::HTTP_VERSION_NOT_SUPPORTED,
            _ => StatusCode::BAD_REQUEST,
        }
    }
}

/// A failure with what is known of its cause.
#[derive(Debug)]
pub struct ProxyError {
    /// Its row in the table.
    pub kind: ErrorKind,
    source: Option<Box<dyn Error + Send + Sync>>,
}

impl ProxyError {
    /// With the error that caused it.
    pub fn new(kind: ErrorKind, source: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self { kind, source: Some(source.into()) }
    }

    /// What caused it, if that is an error of this type.
    pub fn cause<E: Error + 'static>(&self) -> Option<&E> {
        self.source.as_deref()?.downcast_ref()
    }
}

impl From<ErrorKind> for ProxyError {
    fn from(kind: ErrorKind) -> Self {
        Self { kind, source: None }
    }
}

impl fmt::Display for ProxyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.kind.label())
    }
}

impl Error for ProxyError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.source.as_deref().map(|e| e as _)
    }
}

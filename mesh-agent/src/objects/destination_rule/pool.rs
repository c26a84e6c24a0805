//! `connectionPool` of a DestinationRule (Istio reference, ConnectionPoolSettings). Zero counts as not given, as in Istio.

use std::time::Duration;

use serde::Deserialize;

use crate::objects::FieldError;
use crate::objects::duration::GoDuration;
use crate::objects::field::nullable;

/// How many connections and requests, and for how long.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct ConnectionPool {
    /// Of every connection.
    #[serde(default, deserialize_with = "nullable")]
    pub tcp: TcpPool,
    /// Of those that carry requests.
    #[serde(default, deserialize_with = "nullable")]
    pub http: HttpPool,
}

/// `tcp`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TcpPool {
    /// HTTP/1 and opaque connections to the host.
    #[serde(default, deserialize_with = "nullable")]
    pub max_connections: u32,
    /// For the TCP handshake.
    #[serde(default)]
    pub connect_timeout: Option<GoDuration>,
    /// Probes of silent connections.
    #[serde(default)]
    pub tcp_keepalive: Option<TcpKeepalive>,
    /// A connection is closed at this age.
    #[serde(default)]
    pub max_connection_duration: Option<GoDuration>,
    /// Without a byte on an opaque connection; zero for ever.
    #[serde(default)]
    pub idle_timeout: Option<GoDuration>,
}

/// `tcpKeepalive`. What isn't given is the operating system's.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct TcpKeepalive {
    /// Unanswered ones until the connection counts as dead.
    #[serde(default, deserialize_with = "nullable")]
    pub probes: u32,
    /// Silence before the first.
    #[serde(default)]
    pub time: Option<GoDuration>,
    /// Between two.
    #[serde(default)]
    pub interval: Option<GoDuration>,
}

/// `http`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct HttpPool {
    /// Requests that wait for a connection.
    #[serde(default, deserialize_with = "nullable")]
    pub http1_max_pending_requests: u32,
    /// Requests under way, of either version.
    #[serde(default, deserialize_with = "nullable")]
    pub http2_max_requests: u32,
    /// A connection is closed after so many.
    #[serde(default, deserialize_with = "nullable")]
    pub max_requests_per_connection: u32,
    /// Retries under way.
    #[serde(default, deserialize_with = "nullable")]
    pub max_retries: u32,
    /// Requests at a time on one HTTP/2 connection.
    #[serde(default, deserialize_with = "nullable")]
    pub max_concurrent_streams: u32,
    /// Without a request on a connection.
    #[serde(default)]
    pub idle_timeout: Option<GoDuration>,
    /// Whether HTTP/1 goes on as HTTP/2.
    #[serde(default, deserialize_with = "nullable")]
    pub h2_upgrade_policy: H2UpgradePolicy,
    /// The client's HTTP version is kept, whatever `h2UpgradePolicy` says.
    #[serde(default, deserialize_with = "nullable")]
    pub use_client_protocol: bool,
}

/// `h2UpgradePolicy`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum H2UpgradePolicy {
    /// The mesh's: no.
    #[default]
    Default,
    /// No.
    DoNotUpgrade,
    /// Yes.
    Upgrade,
}

impl HttpPool {
    /// True if HTTP/1 goes on as HTTP/2 (Istio reference: with `useClientProtocol` the policy is ineffective).
    pub fn upgrades(&self) -> bool {
        self.h2_upgrade_policy == H2UpgradePolicy::Upgrade && !self.use_client_protocol
    }
}

const SHORTEST: Duration = Duration::from_millis(1);
const MOST: u32 = i32::MAX.unsigned_abs();

impl ConnectionPool {
    pub(super) fn validate(&self, path: &str) -> Result<(), FieldError> {
        let (tcp, http) = (&self.tcp, &self.http);
        for (field, duration) in [
            ("tcp.connectTimeout", tcp.connect_timeout),
            ("tcp.maxConnectionDuration", tcp.max_connection_duration),
        ] {
            at_least_a_millisecond(&format!("{path}.{field}"), duration)?;
        }
        if let Some(keepalive) = &tcp.tcp_keepalive {
            for (field, duration) in [("time", keepalive.time), ("interval", keepalive.interval)] {
                let whole = duration.is_none_or(|duration| (1..=32_767).contains(&duration.0.as_secs()));
                if !whole {
                    let message = "expected 1s to 32767s, which is what Linux can do";
                    return Err(FieldError::new(format!("{path}.tcp.tcpKeepalive.{field}"), message));
                }
            }
            if keepalive.probes > 127 {
                let message = "expected at most 127, which is what Linux can do";
                return Err(FieldError::new(format!("{path}.tcp.tcpKeepalive.probes"), message));
            }
        }
        let counts = [
            ("tcp.maxConnections", tcp.max_connections),
            ("http.http1MaxPendingRequests", http.http1_max_pending_requests),
            ("http.http2MaxRequests", http.http2_max_requests),
            ("http.maxRequestsPerConnection", http.max_requests_per_connection),
            ("http.maxRetries", http.max_retries),
            ("http.maxConcurrentStreams", http.max_concurrent_streams),
        ];
        match counts.iter().find(|(_, count)| *count > MOST) {
            Some((field, _)) => Err(FieldError::new(format!("{path}.{field}"), format!("is above {MOST}"))),
            None => Ok(()),
        }
    }
}

/// Istio refuses shorter ones.
pub(super) fn at_least_a_millisecond(field: &str, duration: Option<GoDuration>) -> Result<(), FieldError> {
    match duration {
        Some(GoDuration(duration)) if duration < SHORTEST => {
            Err(FieldError::new(field, "expected at least 1ms"))
        }
        _ => Ok(()),
    }
}

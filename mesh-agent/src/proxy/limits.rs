//! Every limit of the data path in one place, with the source of its default.

use std::time::Duration;

/// Bounds on what one peer may make the agent hold or wait for.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Bytes of a request or response head; beyond is 431 (Envoy: 60 KiB).
    pub max_head_bytes: usize,
    /// Header fields of a message; beyond is 431 (Envoy: 100).
    pub max_headers: usize,
    /// Bytes of a request target; beyond is 414.
    pub max_uri: usize,
    /// From the first byte of a request head to its last.
    pub head_timeout: Duration,
    /// Without a byte of a body in either direction (Envoy stream idle: 5 min).
    pub body_idle_timeout: Duration,
    /// Between requests of a downstream connection (Envoy: 1 h).
    pub keepalive_idle: Duration,
    /// TCP connect to one endpoint, after which another is tried (Envoy: 5 s).
    pub connect_timeout: Duration,
    /// How many endpoints are tried before the client is told.
    pub connect_attempts: usize,
    /// For the bytes that tell a protocol, once the first of them came.
    pub detect_timeout: Duration,
    /// An unused upstream connection is kept this long. Below the common 60 to 75 s of servers, so that the agent
    /// closes first.
    pub upstream_idle: Duration,
    /// Unused upstream connections kept per pod, endpoint and worker.
    pub max_idle_per_upstream: usize,
    /// Connections of one pod over all workers, both directions together; more are reset and counted as overflow. Fewer
    /// where the process may not have so many descriptors (`ceiling`).
    pub max_connections_per_pod: usize,
    /// Concurrent requests of one HTTP/2 connection (Envoy: 1024).
    pub max_streams: u32,
    /// Copies of requests under way to mirrors, per worker; more aren't sent.
    pub max_mirrors: usize,
    /// For one of them, to the end of its answer (Envoy: the route's timeout, 15 s).
    pub mirror_timeout: Duration,
    /// A connection of raw bytes without any for this long is closed (Envoy: 1 h).
    pub tcp_idle: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_head_bytes: 64 * 1024,
            max_headers: 100,
            max_uri: 16 * 1024,
            head_timeout: Duration::from_secs(10),
            body_idle_timeout: Duration::from_secs(300),
            keepalive_idle: Duration::from_secs(3600),
            connect_timeout: Duration::from_secs(5),
            connect_attempts: 3,
            detect_timeout: Duration::from_secs(1),
            upstream_idle: Duration::from_secs(55),
            max_idle_per_upstream: 64,
            max_connections_per_pod: 32 * 1024,
            max_streams: 1024,
            max_mirrors: 256,
            mirror_timeout: Duration::from_secs(15),
            tcp_idle: Duration::from_secs(3600),
        }
    }
}

//! Connections open right now, for `get connections`. The proxy opens an entry when it has accepted a connection and
//! drops the guard when it is over; in between it only stores into atomics.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::SystemTime;

use prometheus::{IntCounter, IntGauge};

use super::endpoint_cell::EndpointCell;
use super::{AgentMetrics, Reporter};
use crate::addr::{ClientAddr, EndpointAddr, OrigDst};
use crate::model::{ServiceMeta, Workload};

/// Entries are spread over this many maps, so that workers seldom meet at a lock.
const SHARDS: u64 = 16;

/// Registry of open connections.
#[derive(Debug)]
pub struct Connections {
    shards: Arc<Shards>,
    next: AtomicU64,
    outbound: Counters,
    inbound: Counters,
}

type Shards = [Mutex<HashMap<u64, Arc<Entry>>>; SHARDS as usize];

#[derive(Clone, Debug)]
struct Counters {
    active: IntGauge,
    total: IntCounter,
}

/// What is known of a connection when it is accepted.
#[derive(Clone, Debug)]
pub struct ConnectionInfo {
    /// Source: the captured pod dialled. Destination: it was dialled.
    pub reporter: Reporter,
    /// The captured pod.
    pub workload: Arc<Workload>,
    /// Who dialled.
    pub client: ClientAddr,
    /// What was dialled.
    pub destination: OrigDst,
    /// The service that this is, if any.
    pub service: Option<Arc<ServiceMeta>>,
}

/// What a connection carries, as far as it is known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u8)]
pub enum L7 {
    /// Not known yet.
    #[default]
    Detecting = 0,
    /// HTTP/1.x.
    Http1 = 1,
    /// HTTP/2, gRPC included.
    Http2 = 2,
    /// TLS of the application's own.
    Tls = 3,
    /// Opaque.
    Tcp = 4,
    /// Mutual TLS of another agent: requests, and streams that are connections of their own.
    Mesh = 5,
    /// HBONE: streams that are connections of their own.
    Hbone = 6,
}

impl L7 {
    /// For tables and labels.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Detecting => "detecting",
            Self::Http1 => "http1",
            Self::Http2 => "http2",
            Self::Tls => "tls",
            Self::Tcp => "tcp",
            Self::Mesh => "mesh",
            Self::Hbone => "hbone",
        }
    }

    /// Versions count for what they are; anything that isn't HTTP or TLS is opaque.
    pub fn from_label(label: &str) -> Self {
        match label {
            "http" | "http1" => Self::Http1,
            "http2" | "grpc" => Self::Http2,
            "tls" => Self::Tls,
            "detecting" => Self::Detecting,
            "mesh" => Self::Mesh,
            "hbone" => Self::Hbone,
            _ => Self::Tcp,
        }
    }

    fn from_u8(value: u8) -> Self {
        [Self::Http1, Self::Http2, Self::Tls, Self::Tcp, Self::Mesh, Self::Hbone]
            .into_iter()
            .find(|l7| *l7 as u8 == value)
            .unwrap_or_default()
    }
}

impl From<&str> for L7 {
    fn from(label: &str) -> Self {
        Self::from_label(label)
    }
}

#[derive(Debug)]
struct Entry {
    id: u64,
    info: ConnectionInfo,
    since: SystemTime,
    protocol: AtomicU8,
    endpoint: EndpointCell,
    server_name: OnceLock<Box<str>>,
    peer: OnceLock<Box<str>>,
    requests: AtomicU64,
    sent: AtomicU64,
    received: AtomicU64,
}

/// One open connection; it leaves the list on drop.
#[derive(Debug)]
pub struct ConnectionGuard {
    entry: Arc<Entry>,
    shards: Arc<Shards>,
    active: IntGauge,
}

/// One connection at one moment. Serialised as the admin API shows it.
#[derive(Clone, Debug)]
pub struct ConnectionView {
    /// Unique in this process.
    pub id: u64,
    /// What it was opened with.
    pub info: ConnectionInfo,
    /// When.
    pub since: SystemTime,
    /// What it carries.
    pub protocol: L7,
    /// Where it went last.
    pub endpoint: Option<SocketAddr>,
    /// Name in the ClientHello; empty for none.
    pub server_name: String,
    /// SPIFFE id of the pod at the other end, where mutual TLS proved it; empty for none.
    pub peer: String,
    /// Requests so far.
    pub requests: u64,
    /// Bytes to the client.
    pub sent: u64,
    /// Bytes from the client.
    pub received: u64,
}

impl Connections {
    pub(super) fn new(metrics: &AgentMetrics) -> Self {
        let counters = |reporter: Reporter| Counters {
            active: metrics.connections_active.with_label_values(&[reporter.direction()]),
            total: metrics.connections_total.with_label_values(&[reporter.direction()]),
        };
        Self {
            shards: Arc::default(),
            next: AtomicU64::new(1),
            outbound: counters(Reporter::Source),
            inbound: counters(Reporter::Destination),
        }
    }

    /// Lists and counts a connection for as long as the guard lives.
    pub fn open(&self, info: ConnectionInfo) -> ConnectionGuard {
        let counters = match info.reporter {
            Reporter::Source => &self.outbound,
            Reporter::Destination => &self.inbound,
        };
        counters.active.inc();
        counters.total.inc();
        let entry = Arc::new(Entry {
            id: self.next.fetch_add(1, Relaxed),
            info,
            since: SystemTime::now(),
            protocol: AtomicU8::new(0),
            endpoint: EndpointCell::default(),
            server_name: OnceLock::new(),
            peer: OnceLock::new(),
            requests: AtomicU64::new(0),
            sent: AtomicU64::new(0),
            received: AtomicU64::new(0),
        });
        if let Some(mut shard) = shard(&self.shards, entry.id) {
            shard.insert(entry.id, entry.clone());
        }
        ConnectionGuard { entry, shards: self.shards.clone(), active: counters.active.clone() }
    }

    /// Every open connection, oldest first.
    pub fn list(&self) -> Vec<ConnectionView> {
        let mut views: Vec<_> = (0..SHARDS)
            .filter_map(|id| shard(&self.shards, id))
            .flat_map(|shard| shard.values().map(|entry| entry.view()).collect::<Vec<_>>())
            .collect();
        views.sort_unstable_by_key(|view| view.id);
        views
    }

    /// How many are open: what drain waits for.
    pub fn active(&self) -> usize {
        usize::try_from(self.outbound.active.get() + self.inbound.active.get()).unwrap_or(0)
    }
}

impl ConnectionGuard {
    /// The protocol is known now.
    pub fn set_protocol(&self, protocol: impl Into<L7>) {
        self.entry.protocol.store(protocol.into() as u8, Relaxed);
    }

    /// What [`Self::set_protocol`] said last.
    pub fn protocol(&self) -> &'static str {
        L7::from_u8(self.entry.protocol.load(Relaxed)).label()
    }

    /// The name in the application's ClientHello. The first counts.
    pub fn set_sni(&self, name: &str) {
        self.entry.server_name.get_or_init(|| name.into());
    }

    /// What [`Self::set_sni`] said; empty for nothing.
    pub fn sni(&self) -> &str {
        self.entry.server_name.get().map_or("", AsRef::as_ref)
    }

    /// Who the pod at the other end has proven to be: the client, or the endpoint that it goes to. The first counts.
    pub fn set_peer(&self, id: &str) {
        self.entry.peer.get_or_init(|| id.into());
    }

    /// What it was opened with.
    pub fn info(&self) -> &ConnectionInfo {
        &self.entry.info
    }

    /// The connection, or its newest request, goes to this endpoint.
    pub fn set_endpoint(&self, endpoint: EndpointAddr) {
        self.entry.endpoint.set(endpoint);
    }

    /// A request began.
    pub fn request(&self) {
        self.entry.requests.fetch_add(1, Relaxed);
    }

    /// Bytes to the client.
    pub fn sent(&self, bytes: u64) {
        self.entry.sent.fetch_add(bytes, Relaxed);
    }

    /// Bytes from the client.
    pub fn received(&self, bytes: u64) {
        self.entry.received.fetch_add(bytes, Relaxed);
    }

    /// [`Self::received`] and [`Self::sent`] in one call.
    pub fn carried(&self, from_client: u64, from_server: u64) {
        self.received(from_client);
        self.sent(from_server);
    }

    /// Unique in this process; logs name it.
    pub fn id(&self) -> u64 {
        self.entry.id
    }
}

impl Drop for ConnectionGuard {
    fn drop(&mut self) {
        if let Some(mut shard) = shard(&self.shards, self.entry.id) {
            shard.remove(&self.entry.id);
        }
        self.active.dec();
    }
}

impl Entry {
    fn view(&self) -> ConnectionView {
        let endpoint = self.endpoint.get();
        ConnectionView {
            id: self.id,
            info: self.info.clone(),
            since: self.since,
            protocol: L7::from_u8(self.protocol.load(Relaxed)),
            endpoint: endpoint.map(EndpointAddr::socket_addr),
            server_name: self.server_name.get().map(ToString::to_string).unwrap_or_default(),
            peer: self.peer.get().map(ToString::to_string).unwrap_or_default(),
            requests: self.requests.load(Relaxed),
            sent: self.sent.load(Relaxed),
            received: self.received.load(Relaxed),
        }
    }
}

fn shard(shards: &Shards, id: u64) -> Option<MutexGuard<'_, HashMap<u64, Arc<Entry>>>> {
    let index = usize::try_from(id % SHARDS).ok()?;
    Some(shards.get(index)?.lock().unwrap_or_else(PoisonError::into_inner))
}

//! Services, their ports and the endpoints behind each port.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64};

use super::{ObjectName, Workload};
use crate::addr::EndpointAddr;
use crate::balance::health::{self, Health};
use crate::balance::outlier::{self, Ejections};
use crate::balance::table::Tables;
use crate::balance::tiers::Tier;
use crate::balance::usage::Usage;
use crate::objects::Network;
use crate::policy::budget::Budget;
use crate::policy::{ClusterPolicy, MeshTls, Unusable};
use crate::route::{RetryBudget, SessionPersistence};
use crate::trace::Ratio;

/// What a service port is declared to speak. Order of sources: `appProtocol`, the port name's prefix, else `Detect`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AppProtocol {
    /// Nothing declared: whoever speaks first decides.
    #[default]
    Detect,
    /// HTTP/1.x, or HTTP/2 with prior knowledge where the client's preface says so.
    Http,
    /// HTTP/2 with prior knowledge.
    Http2,
    /// gRPC: HTTP/2, and our own answers in gRPC form.
    Grpc,
    /// TLS of the application's own, passed through by SNI.
    Tls,
    /// Opaque.
    Tcp,
}

impl AppProtocol {
    /// For people.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Detect => "detect",
            Self::Http => "http",
            Self::Http2 => "http2",
            Self::Grpc => "grpc",
            Self::Tls => "tls",
            Self::Tcp => "tcp",
        }
    }

    /// True for everything that is carried as HTTP requests.
    pub fn is_http(self) -> bool {
        matches!(self, Self::Http | Self::Http2 | Self::Grpc)
    }
}

/// What says what a service port speaks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ProtocolFrom {
    /// `appProtocol`.
    AppProtocol,
    /// The prefix of the port's name.
    PortName,
    /// Nothing: the first bytes of each connection do.
    #[default]
    Detection,
}

/// How an endpoint is chosen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum LoadBalancer {
    /// Power of two choices on peak EWMA latency times load.
    #[default]
    PeakEwma,
    /// Power of two choices on requests in flight.
    LeastRequest,
    /// One after the other.
    RoundRobin,
    /// Uniformly at random.
    Random,
    /// By hash, on a ring.
    RingHash,
    /// By hash, in Maglev's table.
    Maglev,
}

/// One Service object.
#[derive(Debug)]
pub struct Service {
    /// Shared by everything that speaks of this service.
    pub meta: Arc<ServiceMeta>,
    /// `spec.clusterIPs`; empty for a headless one.
    pub vips: Vec<IpAddr>,
    /// `clusterIP: None`.
    pub headless: bool,
    /// Ranges of addresses that lead to it, of a ServiceEntry.
    pub ranges: Vec<Network>,
    /// TCP ports, with the endpoints of both address families.
    pub ports: Vec<Arc<ServicePort>>,
    /// UDP ports, likewise: the kernel balances them, the agent never sees them.
    pub udp: Vec<Arc<ServicePort>>,
    /// The ports as a virtual IPv4 address leads to them; empty without one.
    pub ports_v4: Vec<Arc<ServicePort>>,
    /// The ports as a virtual IPv6 address leads to them; empty without one.
    pub ports_v6: Vec<Arc<ServicePort>>,
}

impl Service {
    /// The ports behind `vip`: a connection keeps its address family if that has endpoints.
    pub fn ports_at(&self, vip: IpAddr) -> &[Arc<ServicePort>] {
        if vip.is_ipv4() { &self.ports_v4 } else { &self.ports_v6 }
    }

    /// The port `number` as a connection to `like` is led to it when it goes there instead of where it was dialled. A
    /// service without an address of that family is reached at all of its endpoints.
    pub fn port_towards(&self, like: IpAddr, number: u16) -> Option<&Arc<ServicePort>> {
        self.ports_at(like).iter().chain(&self.ports).find(|port| port.port == number)
    }
}

/// What labels and logs say of a service.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct ServiceMeta {
    /// Namespace and name.
    pub name: ObjectName,
    /// `NAME.NAMESPACE.svc.DOMAIN`.
    pub host: String,
    /// How many of the traces that begin with a request to it are recorded; None: as the agent's setting says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trace_sampling: Option<Ratio>,
}

/// One port of a service with the endpoints behind it: the unit that connections are resolved to.
#[derive(Debug)]
pub struct ServicePort {
    /// The service.
    pub service: Arc<ServiceMeta>,
    /// Port's name, empty for none.
    pub name: String,
    /// The service's port.
    pub port: u16,
    /// Declared protocol.
    pub protocol: AppProtocol,
    /// What declared it.
    pub protocol_from: ProtocolFrom,
    /// How endpoints are chosen, limited and watched, for clients that no variant is for.
    pub policy: Arc<ClusterPolicy>,
    /// For clients under a DestinationRule of their own; the first that fits.
    pub variants: Vec<Variant>,
    /// The subset that it is, if it is one.
    pub subset_name: Option<String>,
    /// Parts of it that routes can name: the subsets of all of these rules, by name.
    pub subsets: Vec<Subset>,
    /// How many of its requests may be sent again; None: as many as their rules say.
    pub retries: Option<Arc<RetryAllowance>>,
    /// Keeps a client at its endpoint, where a route's rule says nothing of it.
    pub session: Option<Arc<SessionPersistence>>,
    /// What is different about a ServiceEntry's port.
    pub external: Option<Arc<External>>,
    /// The XBackendTrafficPolicy that both come from; for people.
    pub backend_policy: Option<ObjectName>,
    /// Where to.
    pub endpoints: EndpointSet,
}

/// What a ServiceEntry's service has that a Service's hasn't.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct External {
    /// Connections go on to the address that was dialled: resolution NONE.
    pub original: bool,
    /// Namespaces whose clients know it; empty for all.
    pub audience: Vec<String>,
}

/// A service port as some clients have it: with a policy and load figures of their own.
#[derive(Clone, Debug)]
pub struct Variant {
    /// The clients' namespace.
    pub namespace: String,
    /// Labels that a client must carry.
    pub labels: BTreeMap<String, String>,
    /// The port; without variants and subsets of its own.
    pub port: Arc<ServicePort>,
}

/// A named part of a service port, with a policy and load figures of its own.
#[derive(Clone, Debug)]
pub struct Subset {
    /// Name, as DestinationRules give it.
    pub name: String,
    /// The part, with variants for clients whose rule says something else of it, or doesn't have it.
    pub port: Arc<ServicePort>,
}

impl ServicePort {
    /// True if connections of any client have to be wrapped in TLS that the agent makes, whether it can or not.
    pub fn wants_encryption(&self) -> bool {
        let wants = |policy: &ClusterPolicy| {
            policy.tls.is_some()
                || policy.mesh_tls == MeshTls::Always
                || policy.unusable == Some(Unusable::TlsNotOriginated)
        };
        self.forms().any(|form| wants(&form.policy))
    }

    /// True if connections go on to the address that was dialled.
    pub fn is_original(&self) -> bool {
        self.external.as_ref().is_some_and(|external| external.original)
    }

    /// True if clients in `namespace` know it.
    pub fn is_known_in(&self, namespace: &str) -> bool {
        let audience = self.external.as_ref().map_or(&[][..], |external| &external.audience);
        audience.is_empty() || audience.iter().any(|known| known == namespace)
    }

    /// True if `section`, of a policy's targetRef, names the port: by name or number.
    pub fn is_called(&self, section: &str) -> bool {
        section == self.name || section.parse() == Ok(self.port)
    }

    /// The part with this name. Not for every request: it looks up by name.
    pub fn subset(&self, name: &str) -> Option<&Arc<Self>> {
        self.subsets.iter().find(|subset| subset.name == name).map(|subset| &subset.port)
    }

    /// The same; None for the port itself.
    pub fn part(self: &Arc<Self>, name: Option<&str>) -> Option<&Arc<Self>> {
        match name {
            Some(name) => self.subset(name),
            None => Some(self),
        }
    }

    /// The port in every form: as clients in general have it, its variants, its subsets and theirs.
    pub fn forms(&self) -> impl Iterator<Item = &Self> {
        let parts = std::iter::once(self).chain(self.subsets.iter().map(|subset| &*subset.port));
        parts.flat_map(|part| std::iter::once(part).chain(part.variants.iter().map(|variant| &*variant.port)))
    }

    /// The port as `client` has it. The port itself where no DestinationRule says otherwise.
    pub fn for_client<'a>(self: &'a Arc<Self>, client: &Workload) -> &'a Arc<Self> {
        let fits = |variant: &&Variant| {
            variant.namespace == client.name.namespace
                && variant.labels.iter().all(|(key, value)| client.labels.get(key) == Some(value))
        };
        self.variants.iter().find(fits).map_or(self, |variant| &variant.port)
    }
}

/// The retry budget of a service port, one for all of its clients on this node. It lives on while its limits are the same.
#[derive(Debug)]
pub struct RetryAllowance {
    /// What was asked for.
    pub limits: RetryBudget,
    /// What is left.
    pub budget: Budget,
}

impl RetryAllowance {
    /// Unused so far.
    pub fn new(limits: RetryBudget) -> Self {
        Self { limits, budget: Budget::new(limits) }
    }
}

/// The endpoints of one service port, in a stable order (by address, IPv4 first).
#[derive(Debug, Default)]
pub struct EndpointSet {
    /// New connections go to these: ready, or if a family has none, its serving and terminating ones (KEP-1669).
    pub available: Vec<Arc<Endpoint>>,
    /// Every endpoint known, for display and for connections that are draining.
    pub all: Vec<Arc<Endpoint>>,
    /// Turn of the round robin.
    pub next: AtomicU32,
    /// Groups by nearness, where the policy asks for it.
    pub tiers: Vec<Tier>,
    /// For consistent hashing over all that are available.
    pub tables: Tables,
    /// What outlier detection knows of all of them.
    pub ejections: Arc<Ejections>,
    /// What active health checks, and a panic threshold, say of all of them.
    pub health: Arc<Health>,
    /// How much of the policy's limits is in use.
    pub usage: Arc<Usage>,
}

/// One endpoint of one service port. It lives on, with its load figures, for as long as its address stays in the set.
#[derive(Debug)]
pub struct Endpoint {
    /// Its own address and port.
    pub addr: EndpointAddr,
    /// The pod behind it, if a Pod object names it.
    pub workload: Option<Arc<Workload>>,
    /// `nodeName` of the slice.
    pub node: Option<String>,
    /// `zone` of the slice.
    pub zone: Option<String>,
    /// Conditions of the slice.
    pub ready: bool,
    /// Still answers, though maybe terminating.
    pub serving: bool,
    /// Shutting down.
    pub terminating: bool,
    /// Shared by all workers and by successive snapshots.
    pub load: Arc<LoadState>,
}

/// What the balancer knows of an endpoint. Relaxed atomics: an old value costs a slightly worse choice, never a wrong one.
#[derive(Debug, Default)]
pub struct LoadState {
    /// Requests (HTTP) or connections (TCP) under way.
    pub in_flight: AtomicU32,
    /// Bits of an f64: peak-EWMA latency in nanoseconds; 0 for never measured.
    pub ewma_ns: AtomicU64,
    /// Nanoseconds (of the process's clock) at which `ewma_ns` was last changed.
    pub ewma_at: AtomicU64,
    /// Nanoseconds (of the process's clock) at which the last of `in_flight` began.
    pub begun_at: AtomicU64,
    /// When it came up, in nanoseconds of the process's clock; 0 for before anybody looked.
    pub born_ns: AtomicU64,
    /// What outlier detection knows.
    pub outlier: outlier::State,
    /// What active health checks know.
    pub health: health::State,
}

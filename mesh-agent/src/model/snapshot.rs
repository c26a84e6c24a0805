//! One immutable version of everything known, and the cell that readers find the newest in.

use std::net::IpAddr;
use std::sync::Arc;

use arc_swap::ArcSwap;
use rpds::HashTrieMapSync;

use super::{
    AppProtocol, Authentications, Authorization, MtlsMode, ObjectName, PolicyObject, RouteStatus, Security,
    Service, ServicePort, Workload,
};
use crate::addr::{EndpointAddr, OrigDst};
use crate::objects::traffic_policy::TargetKind;
use crate::objects::{Network, ObjectKey};
use crate::policy::Locality;
use crate::policy::traffic::{Layers, RouteTraffic, TrafficPolicy};
use crate::route::{PortRoutes, Routes, RuleName};

/// One immutable, validated version of all configuration. Cloning shares everything.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// Raised with every published change.
    pub generation: u64,
    /// This agent's node.
    pub node: Arc<str>,
    /// Where that is.
    pub locality: Arc<Locality>,
    /// Pods by name.
    pub workloads: HashTrieMapSync<ObjectName, Arc<Workload>>,
    /// Pods by address.
    pub by_address: HashTrieMapSync<IpAddr, Arc<Workload>>,
    /// Services by name.
    pub services: HashTrieMapSync<ObjectName, Arc<Service>>,
    /// Service ports by virtual IP and port, each with the endpoints of that address's family, if there are any.
    pub vips: HashTrieMapSync<(IpAddr, u16), Arc<ServicePort>>,
    /// UDP ports of services by virtual IP and port, with the endpoints of both families.
    pub udp_vips: HashTrieMapSync<(IpAddr, u16), Arc<ServicePort>>,
    /// Service ports by a range of addresses and port, of ServiceEntries.
    pub ranges: HashTrieMapSync<(Network, u16), Arc<ServicePort>>,
    /// The lengths of those ranges that occur, the longest first; true for IPv4.
    pub range_lengths: Vec<(bool, u8)>,
    /// Service ports, with the endpoints of both families, by endpoint address: headless services, direct calls to pods, protocol of inbound connections.
    pub by_endpoint: HashTrieMapSync<EndpointAddr, Arc<ServicePort>>,
    /// Routes by the service port that they are attached to.
    pub routes: HashTrieMapSync<(ObjectName, u16), Arc<PortRoutes>>,
    /// What became of each route object.
    pub route_status: HashTrieMapSync<ObjectKey, Arc<RouteStatus>>,
    /// Policies as objects, for people: what each is for and what it gives. What holds stands where it holds.
    pub policies: HashTrieMapSync<ObjectKey, Arc<PolicyObject>>,
    /// ServiceEntries, with their generation: 0 where nothing gave one.
    pub entries: HashTrieMapSync<ObjectKey, i64>,
    /// TrafficPolicies by the service port that they hold for.
    pub traffic: HashTrieMapSync<(ObjectName, u16), Arc<TrafficPolicy>>,
    /// Who may call what.
    pub authorization: Authorization,
    /// Whose tokens count.
    pub authentication: Authentications,
    /// TrafficPolicies by the route that they hold for.
    pub route_traffic: HashTrieMapSync<(TargetKind, ObjectName), Arc<RouteTraffic>>,
    /// What holds for connections to a pod, by its name; nothing for pods that have the defaults.
    pub security: HashTrieMapSync<ObjectName, Arc<Security>>,
    /// `status.addresses` of this agent's node.
    pub node_addresses: Arc<[IpAddr]>,
}

/// What an original destination stands for.
#[derive(Clone, Debug)]
pub enum Target {
    /// A service's virtual IP and port.
    Service(Arc<ServicePort>),
    /// A pod's own address: no balancing. With the service port that it is an endpoint of, if any (protocol, labels).
    Workload(Arc<Workload>, Option<Arc<ServicePort>>),
    /// An endpoint that no Pod object stands behind, of this service port: no balancing.
    Endpoint(Arc<ServicePort>),
    /// Nothing knows it.
    Unknown,
}

impl Snapshot {
    /// What `dst` stands for. Constant time, no allocation.
    pub fn resolve(&self, dst: OrigDst) -> Target {
        self.resolve_where(dst, |_| true)
    }

    /// [`Self::resolve`] for a client in `namespace`: what isn't exported to it is unknown.
    pub fn resolve_for(&self, dst: OrigDst, namespace: &str) -> Target {
        self.resolve_where(dst, |port| port.is_known_in(namespace))
    }

    fn resolve_where(&self, dst: OrigDst, known: impl Fn(&ServicePort) -> bool) -> Target {
        if let Some(port) = self.vips.get(&(dst.ip(), dst.port())).filter(|port| known(port)) {
            return Target::Service(port.clone());
        }
        let endpoint_of = self.by_endpoint.get(&EndpointAddr::from(dst)).cloned();
        if let Some(workload) = self.by_address.get(&dst.ip()) {
            return Target::Workload(workload.clone(), endpoint_of);
        }
        if let Some(port) = endpoint_of {
            return Target::Endpoint(port);
        }
        match self.in_range(dst).filter(|port| known(port)) {
            Some(port) => Target::Service(port.clone()),
            None => Target::Unknown,
        }
    }

    /// The port of the narrowest range that `dst` is in. One look-up for each length that occurs, however many ranges.
    fn in_range(&self, dst: OrigDst) -> Option<&Arc<ServicePort>> {
        let lengths = self.range_lengths.iter().filter(|(v4, _)| *v4 == dst.ip().is_ipv4());
        lengths
            .filter_map(|(_, bits)| Network::new(dst.ip(), *bits))
            .find_map(|network| self.ranges.get(&(network, dst.port())))
    }

    /// The routes of a service port for a client in `namespace`. Not for every request: it looks up by name.
    pub fn routes_for(&self, port: &ServicePort, namespace: &str) -> Option<Arc<Routes>> {
        if self.routes.is_empty() {
            return None;
        }
        let key = (port.service.name.clone(), port.port);
        self.routes.get(&key)?.for_client(namespace).cloned()
    }

    /// The pod with this address.
    pub fn workload_at(&self, ip: IpAddr) -> Option<&Arc<Workload>> {
        self.by_address.get(&ip)
    }

    /// The TrafficPolicies of a service port; a connection asks once.
    pub fn traffic_of(&self, port: &ServicePort) -> Option<&Arc<TrafficPolicy>> {
        self.traffic.get(&(port.service.name.clone(), port.port))
    }

    /// The TrafficPolicies of a route's rule; asked when routes are bound, not for each request.
    pub fn rule_traffic(&self, rule: &RuleName) -> Option<&Arc<TrafficPolicy>> {
        let kind = match rule.kind {
            "HTTPRoute" => TargetKind::HttpRoute,
            "GRPCRoute" => TargetKind::GrpcRoute,
            _ => return None,
        };
        self.route_traffic.get(&(kind, rule.route.clone()))?.rule(rule.name.as_deref())
    }

    /// What a request by `rule` to `port` meets. Looks up by name: the data path remembers both parts.
    pub fn layers(&self, rule: Option<&RuleName>, port: Option<&ServicePort>) -> Layers {
        Layers {
            rule: rule.and_then(|rule| self.rule_traffic(rule)).cloned(),
            service: port.and_then(|port| self.traffic_of(port)).cloned(),
        }
    }

    /// Which connections `port` of a pod accepts. Looks up by name: a connection asks once.
    pub fn mtls_mode(&self, pod: &ObjectName, port: u16) -> MtlsMode {
        if self.security.is_empty() {
            return MtlsMode::default();
        }
        self.security.get(pod).map(|security| security.peers.mode(port)).unwrap_or_default()
    }

    /// Pods of this node that are to be captured.
    pub fn enrolled(&self) -> impl Iterator<Item = &Arc<Workload>> {
        self.workloads.values().filter(|w| *w.node == *self.node && w.is_enrolled())
    }
}

impl Target {
    /// The service port, if there is one.
    pub fn service_port(&self) -> Option<&Arc<ServicePort>> {
        match self {
            Self::Service(port) | Self::Endpoint(port) | Self::Workload(_, Some(port)) => Some(port),
            Self::Workload(_, None) | Self::Unknown => None,
        }
    }

    /// What the port is declared to speak.
    pub fn protocol(&self) -> AppProtocol {
        self.service_port().map_or(AppProtocol::Detect, |port| port.protocol)
    }
}

/// Where readers find the newest snapshot: one atomic load, no lock.
pub type SnapshotHandle = Arc<ArcSwap<Snapshot>>;

//! Ports of a service, as clients in general have them and as those under a DestinationRule of their own do.
//!
//! Used by `services`, with the rules that `rules` found. What didn't change keeps its `Arc`.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::rules::Audience;
use super::services::same_port;
use super::{Builder, endpoints, ports, ports_of};
use crate::addr::EndpointAddr;
use crate::clock;
use crate::model::{
    AppProtocol, EndpointSet, ProtocolFrom, Service, ServiceMeta, ServicePort, Snapshot, Variant, Warning,
};
use crate::objects::{self, TrafficPolicy};
use crate::policy::{self, ClusterPolicy};

/// What the ports of one service are built from.
pub(super) struct Source<'a> {
    pub(super) builder: &'a Builder,
    pub(super) raw: &'a objects::Service,
    pub(super) meta: &'a Arc<ServiceMeta>,
    pub(super) next: &'a Snapshot,
}

/// What is the same for everybody.
struct Spec<'a> {
    spec: &'a objects::ServicePortSpec,
    protocol: (AppProtocol, ProtocolFrom),
    found: BTreeMap<EndpointAddr, &'a objects::SliceEndpoint>,
}

impl Source<'_> {
    /// One port, in all its variants.
    pub(super) fn port(
        &self,
        spec: &objects::ServicePortSpec,
        old: Option<&Arc<Service>>,
        warnings: &mut Vec<Warning>,
    ) -> Arc<ServicePort> {
        let old = ports_of(old).iter().find(|port| port.port == spec.port.0);
        let found = endpoints::collect(self.builder.slices_of(&self.meta.name), &spec.name);
        let port = Spec { spec, protocol: ports::protocol(&self.meta.name, spec, warnings), found };
        let (everybody, others) = self.builder.rules_for(&self.meta.name, &self.meta.host);
        let variant = |audience: Audience<'_>| {
            let (namespace, labels) =
                (audience.namespace.to_owned(), audience.labels.cloned().unwrap_or_default());
            let old = old.and_then(|old| variant_of(old, &namespace, &labels));
            Variant { port: self.under(audience.rule, &port, old, Vec::new()), namespace, labels }
        };
        self.under(everybody, &port, old, others.into_iter().map(variant).collect())
    }

    /// A port as clients under `rule` have it.
    fn under(
        &self,
        rule: Option<&objects::DestinationRule>,
        port: &Spec<'_>,
        old: Option<&Arc<ServicePort>>,
        variants: Vec<Variant>,
    ) -> Arc<ServicePort> {
        let policy = self.policy(rule, port.spec.port.0, old);
        let (retries, session) = self.builder.retries_and_session(&self.meta.name, old);
        let port = ServicePort {
            service: self.meta.clone(),
            name: port.spec.name.clone(),
            port: port.spec.port.0,
            protocol: port.protocol.0,
            protocol_from: port.protocol.1,
            endpoints: self.endpoints(&port.found, &policy, old),
            policy,
            variants,
            retries,
            session,
            backend_policy: self.builder.backend_policy(&self.meta.name),
        };
        old.filter(|old| same_port(old, &port)).cloned().unwrap_or_else(|| Arc::new(port))
    }

    fn policy(
        &self,
        rule: Option<&objects::DestinationRule>,
        port: u16,
        old: Option<&Arc<ServicePort>>,
    ) -> Arc<ClusterPolicy> {
        let node = self.builder.options.node.as_str();
        let defaults = policy::Defaults {
            load_balancer: ports::load_balancer(&self.meta.name, self.raw, &mut Vec::new()),
            client_ip_affinity: ports::affinity(self.raw),
            traffic_distribution: self.raw.spec.traffic_distribution.as_deref(),
            here: self.builder.locality_of_node(node),
            node,
        };
        let policy = policy::compile(rule, port, &defaults);
        let old = old.map(|old| &old.policy).filter(|old| ***old == policy);
        old.cloned().unwrap_or_else(|| Arc::new(policy))
    }

    fn endpoints(
        &self,
        found: &BTreeMap<EndpointAddr, &objects::SliceEndpoint>,
        policy: &ClusterPolicy,
        old: Option<&Arc<ServicePort>>,
    ) -> EndpointSet {
        let local = self.raw.spec.internal_traffic_policy == TrafficPolicy::Local;
        let node = self.builder.options.node.as_str();
        let only_node = (local && !node.is_empty()).then_some(node);
        let owner = |addr: EndpointAddr, pod| {
            endpoints::workload_at(self.next, self.builder.by_address.map().get(&addr.ip()), addr, pod)
        };
        let old = old.map(|old| &old.endpoints);
        let namespace = &self.meta.name.namespace;
        let mut set = endpoints::build(found, old, namespace, only_node, owner, clock::now_ns());
        self.builder.tiers(&mut set, policy);
        set
    }
}

/// The variant of `port` for these clients.
pub(super) fn variant_of<'a>(
    port: &'a ServicePort,
    namespace: &str,
    labels: &BTreeMap<String, String>,
) -> Option<&'a Arc<ServicePort>> {
    let same = |variant: &&Variant| variant.namespace == namespace && variant.labels == *labels;
    port.variants.iter().find(same).map(|variant| &variant.port)
}

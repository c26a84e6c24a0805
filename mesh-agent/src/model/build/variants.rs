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
    AppProtocol, EndpointSet, External, ProtocolFrom, Service, ServiceMeta, ServicePort, Snapshot, Variant,
};
use crate::objects::{self, TrafficPolicy};
use crate::policy::{self, ClusterPolicy};

/// What the ports of one service are built from.
pub(super) struct Source<'a> {
    builder: &'a Builder,
    meta: &'a Arc<ServiceMeta>,
    next: &'a Snapshot,
    defaults: policy::Defaults<'a>,
    /// Endpoints of this node only are available.
    only_node: Option<&'a str>,
    external: Option<Arc<External>>,
    /// What its certificates are said to be for.
    names: &'a [String],
}

/// What is the same for everybody.
pub(super) struct Spec<'a> {
    pub(super) name: &'a str,
    pub(super) number: u16,
    pub(super) protocol: (AppProtocol, ProtocolFrom),
    pub(super) found: BTreeMap<EndpointAddr, &'a objects::SliceEndpoint>,
    /// Shares of the endpoints; 1 for those that aren't named.
    pub(super) weights: BTreeMap<EndpointAddr, u32>,
}

impl<'a> Source<'a> {
    /// Of a Service.
    pub(super) fn of_service(
        builder: &'a Builder,
        raw: &'a objects::Service,
        meta: &'a Arc<ServiceMeta>,
        next: &'a Snapshot,
    ) -> Self {
        let node = builder.options.node.as_str();
        let defaults = policy::Defaults {
            load_balancer: ports::load_balancer(&meta.name, raw, &mut Vec::new()),
            client_ip_affinity: ports::affinity(raw),
            traffic_distribution: raw.spec.traffic_distribution.as_deref(),
            here: builder.locality_of_node(node),
            node,
        };
        let local = raw.spec.internal_traffic_policy == TrafficPolicy::Local;
        let only_node = (local && !node.is_empty()).then_some(node);
        Self { builder, meta, next, defaults, only_node, external: None, names: &[] }
    }

    /// Of a ServiceEntry.
    pub(super) fn outside(
        builder: &'a Builder,
        meta: &'a Arc<ServiceMeta>,
        next: &'a Snapshot,
        external: Arc<External>,
        names: &'a [String],
    ) -> Self {
        let node = builder.options.node.as_str();
        let defaults =
            policy::Defaults { here: builder.locality_of_node(node), node, ..policy::Defaults::default() };
        Self { builder, meta, next, defaults, only_node: None, external: Some(external), names }
    }

    /// One port, in all its variants.
    pub(super) fn port(&self, port: &Spec<'_>, old: Option<&Arc<Service>>) -> Arc<ServicePort> {
        let old = ports_of(old).iter().find(|old| old.port == port.number);
        let (everybody, others) = self.builder.rules_for(&self.meta.name, &self.meta.host);
        let variant = |audience: Audience<'_>| {
            let (namespace, labels) =
                (audience.namespace.to_owned(), audience.labels.cloned().unwrap_or_default());
            let old = old.and_then(|old| variant_of(old, &namespace, &labels));
            Variant { port: self.under(audience.rule, port, old, Vec::new()), namespace, labels }
        };
        self.under(everybody, port, old, others.into_iter().map(variant).collect())
    }

    /// A port as clients under `rule` have it.
    fn under(
        &self,
        rule: Option<&objects::DestinationRule>,
        port: &Spec<'_>,
        old: Option<&Arc<ServicePort>>,
        variants: Vec<Variant>,
    ) -> Arc<ServicePort> {
        let policy = self.policy(rule, port.number, old);
        let (retries, session) = self.builder.retries_and_session(&self.meta.name, old);
        let port = ServicePort {
            service: self.meta.clone(),
            name: port.name.to_owned(),
            port: port.number,
            protocol: port.protocol.0,
            protocol_from: port.protocol.1,
            endpoints: self.endpoints(port, &policy, old),
            policy,
            variants,
            retries,
            session,
            external: self.external.clone(),
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
        let mut policy = policy::compile(rule, port, &self.defaults);
        match policy::origination(rule, port, &self.meta.host, self.names) {
            Ok(spec) => policy.tls = spec.map(|spec| self.builder.originations.get(spec)),
            Err(unusable) => policy.unusable = Some(unusable),
        }
        let old = old.map(|old| &old.policy).filter(|old| ***old == policy);
        old.cloned().unwrap_or_else(|| Arc::new(policy))
    }

    fn endpoints(
        &self,
        port: &Spec<'_>,
        policy: &ClusterPolicy,
        old: Option<&Arc<ServicePort>>,
    ) -> EndpointSet {
        let owner = |addr: EndpointAddr, pod| {
            endpoints::workload_at(self.next, self.builder.by_address.map().get(&addr.ip()), addr, pod)
        };
        let old = old.map(|old| &old.endpoints);
        let namespace = &self.meta.name.namespace;
        let mut set = endpoints::build(&port.found, old, namespace, self.only_node, owner, clock::now_ns());
        if !port.weights.is_empty() {
            endpoints::by_weight(&mut set, &port.weights);
        }
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

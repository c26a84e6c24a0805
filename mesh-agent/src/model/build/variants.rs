//! Ports of a service, as clients in general have them and as those under a DestinationRule of their own do; and their
//! subsets, each a port of its own.
//!
//! Used by `services`, with the rules that `rules` found. What didn't change keeps its `Arc`.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::rules::{Audience, InForce};
use super::services::same_port;
use super::{Builder, endpoints, ports};
use crate::addr::EndpointAddr;
use crate::clock;
use crate::model::{
    AppProtocol, EndpointSet, External, ObjectName, ProtocolFrom, ServiceMeta, ServicePort, Snapshot, Subset,
    Variant, Workload,
};
use crate::objects::{self, TrafficPolicy};
use crate::policy::{self, ClusterPolicy, Unusable};

type Labels = BTreeMap<String, String>;

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

/// Which endpoints of a port.
#[derive(Clone, Copy)]
enum Part<'a> {
    All,
    Of(&'a objects::Subset),
    /// The rule has no such subset.
    Absent,
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

    /// One port, in all its forms.
    pub(super) fn port(&self, port: &Spec<'_>, old: &[Arc<ServicePort>]) -> Arc<ServicePort> {
        let old = old.iter().find(|old| old.port == port.number);
        let (everybody, others) = self.builder.rules_for(&self.meta.name, &self.meta.host);
        let rules = everybody.iter().chain(others.iter().filter_map(|audience| audience.rule.as_ref()));
        let names: BTreeSet<&str> = rules.flat_map(InForce::subsets).map(|subset| &*subset.name).collect();
        let subset = |name: &str| {
            let old = old.and_then(|old| old.subset(name));
            let part = self.part(Some(name), (everybody.as_ref(), &others), port, old, Vec::new());
            Subset { name: name.to_owned(), port: part }
        };
        let subsets = names.into_iter().map(subset).collect();
        self.part(None, (everybody.as_ref(), &others), port, old, subsets)
    }

    /// The whole port, or a subset of it, as clients under each of the rules have it.
    fn part(
        &self,
        subset: Option<&str>,
        (everybody, others): (Option<&InForce<'_>>, &[Audience<'_>]),
        port: &Spec<'_>,
        old: Option<&Arc<ServicePort>>,
        subsets: Vec<Subset>,
    ) -> Arc<ServicePort> {
        let variant = |audience: &Audience<'_>| {
            let (namespace, labels) =
                (audience.namespace.to_owned(), audience.labels.cloned().unwrap_or_default());
            let old = old.and_then(|old| variant_of(old, &namespace, &labels));
            let port = self.under(audience.rule.as_ref(), subset, port, old, (Vec::new(), Vec::new()));
            Variant { port, namespace, labels }
        };
        let variants = others.iter().map(variant).collect();
        self.under(everybody, subset, port, old, (variants, subsets))
    }

    /// A port, or a subset of it, as clients under `rules` have it.
    fn under(
        &self,
        rules: Option<&InForce<'_>>,
        subset: Option<&str>,
        port: &Spec<'_>,
        old: Option<&Arc<ServicePort>>,
        (variants, subsets): (Vec<Variant>, Vec<Subset>),
    ) -> Arc<ServicePort> {
        let part = match subset {
            None => Part::All,
            Some(name) => rules.and_then(|rules| rules.subset(name)).map_or(Part::Absent, Part::Of),
        };
        let policy = self.policy(rules.map(|rules| rules.policy), part, port, old);
        let (retries, session) = self.builder.retries_and_session(&self.meta.name, old);
        let endpoints = self.endpoints(port, part, &policy, old);
        let limits = &policy.limits;
        // The counts live on through changes of the rule, and what waits is to hear of them.
        endpoints.usage.connections.set_limits(limits.max_connections, limits.max_pending);
        let port = ServicePort {
            service: self.meta.clone(),
            name: port.name.to_owned(),
            port: port.number,
            protocol: port.protocol.0,
            protocol_from: port.protocol.1,
            endpoints,
            policy,
            variants,
            subset_name: subset.map(str::to_owned),
            subsets,
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
        part: Part<'_>,
        port: &Spec<'_>,
        old: Option<&Arc<ServicePort>>,
    ) -> Arc<ClusterPolicy> {
        let subset = if let Part::Of(subset) = part { Some(subset) } else { None };
        let mut policy = policy::compile(rule, subset, port.number, &self.defaults);
        // Nothing is chosen among the endpoints of a ServiceEntry that has none.
        policy.passthrough |= self.external.as_ref().is_some_and(|external| external.original);
        let attached = || self.builder.backend_tls(&self.meta.name, port.name);
        let asked = match policy::speaks_of_tls(rule, subset, port.number) {
            false if self.external.is_none() => attached(),
            _ => None,
        };
        let asked = match asked {
            Some((by, asked)) => {
                policy.tls_policy = Some(by);
                asked.map(Some)
            }
            None => policy::origination(rule, subset, port.number, &self.meta.host, self.names),
        };
        match asked {
            Ok(spec) => policy.tls = spec.map(|spec| self.builder.originations.get(spec)),
            Err(unusable) => policy.unusable = Some(unusable),
        }
        if matches!(part, Part::Absent) {
            policy.unusable = Some(Unusable::NoSuchSubset);
        }
        let old = old.map(|old| &old.policy).filter(|old| ***old == policy);
        old.cloned().unwrap_or_else(|| Arc::new(policy))
    }

    fn endpoints(
        &self,
        port: &Spec<'_>,
        part: Part<'_>,
        policy: &ClusterPolicy,
        old: Option<&Arc<ServicePort>>,
    ) -> EndpointSet {
        let (found, namespace) = (&port.found, &self.meta.name.namespace);
        let owner = |addr: EndpointAddr, pod| {
            endpoints::workload_at(self.next, self.builder.by_address.map().get(&addr.ip()), addr, pod)
        };
        let belongs = |addr: EndpointAddr, endpoint: &objects::SliceEndpoint, labels: &Labels| {
            let pod = endpoint.pod().map(|pod| ObjectName::new(namespace, pod));
            let has = |workload: Arc<Workload>| {
                labels.iter().all(|(key, value)| workload.labels.get(key) == Some(value))
            };
            labels.is_empty() || owner(addr, pod).is_some_and(has)
        };
        let some;
        let found = match part {
            Part::All => found,
            Part::Of(subset) => {
                let ours = found.iter().filter(|(addr, endpoint)| belongs(**addr, endpoint, &subset.labels));
                some = ours.map(|(addr, endpoint)| (*addr, *endpoint)).collect();
                &some
            }
            Part::Absent => &BTreeMap::new(),
        };
        let old = old.map(|old| &old.endpoints);
        // What goes by nearness itself does so better: hints have no second choice.
        let hints = self.only_node.is_none() && policy.localities.is_none();
        let zone = Some(self.defaults.here.zone.as_str()).filter(|zone| hints && !zone.is_empty());
        let near = endpoints::Near { only_node: self.only_node, zone };
        let mut set = endpoints::build(found, old, namespace, near, owner, clock::now_ns());
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

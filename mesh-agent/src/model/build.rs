//! From objects to snapshots, one change at a time.
//!
//! Only the workloads and services that a change touches are built again; everything else keeps its `Arc`, so that
//! followers see by pointer what changed and the balancer's figures live on. Does no I/O. Comes after `source`.

mod authentication;
mod authorization;
mod backend_tls;
mod endpoints;
mod enrolment;
mod entries;
mod index;
mod nodes;
mod peers;
mod policies;
mod ports;
mod providers;
mod routes;
mod rules;
mod services;
mod sessions;
mod traffic;
mod variants;
mod workloads;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;

use self::authorization::{Authorizations, DirtyAuthorization};
use self::backend_tls::BackendTls;
use self::index::Index;
use self::policies::PolicyIndex;
use self::routes::{DirtyRoutes, RouteIndex};
use self::sessions::SessionIndex;
use self::traffic::{Subject, Traffic};
use super::{
    FailMode, ObjectName, PolicyObject, Service, ServiceMeta, ServicePort, Snapshot, Warning, WarningCode,
    Workload,
};
use crate::addr::EndpointAddr;
use crate::authz;
use crate::jwt;
use crate::objects::{Kind, Network, Object, ObjectKey};
use crate::source::Changes;
use crate::tls;

pub use self::backend_tls::authorities;
pub use self::enrolment::REDIRECTION;

/// Last part of service host names.
pub const CLUSTER_DOMAIN: &str = "cluster.local";
/// Istio's default for the mesh's root namespace.
pub const ROOT_NAMESPACE: &str = "istio-system";

/// What the builder must know besides the objects.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BuildOptions {
    /// This agent's node; empty for none.
    pub node: String,
    /// For pods without the annotation.
    pub fail_mode: FailMode,
    /// Last part of service host names.
    pub cluster_domain: String,
    /// Whose policies are the mesh's.
    pub root_namespace: String,
    /// Pods name their network namespace by annotation (directory source). Else the annotation means nothing.
    pub netns_annotation: bool,
    /// Which servers are asked for the names of ServiceEntries.
    pub resolv_conf: PathBuf,
    /// How AuthorizationPolicies are read.
    pub authorization: authz::Options,
    /// Names of the providers that CUSTOM policies may ask; None where they aren't known.
    pub providers: Option<Vec<String>>,
    /// Connections go by what is built: its names are resolved, its keys fetched, its files loaded. Else objects are judged alone.
    pub serves: bool,
}

impl Default for BuildOptions {
    fn default() -> Self {
        Self {
            node: String::new(),
            fail_mode: FailMode::default(),
            cluster_domain: CLUSTER_DOMAIN.into(),
            root_namespace: ROOT_NAMESPACE.into(),
            netns_annotation: true,
            resolv_conf: "/etc/resolv.conf".into(),
            authorization: authz::Options::default(),
            providers: None,
            serves: true,
        }
    }
}

/// Holds the objects in force and the snapshot that they make.
#[derive(Debug)]
pub struct Builder {
    options: BuildOptions,
    objects: BTreeMap<ObjectKey, Arc<Object>>,
    /// Slices by service.
    slices: HashMap<ObjectName, BTreeSet<String>>,
    /// Services that have slices but no Service object.
    missing: BTreeSet<ObjectName>,
    /// Services with an endpoint at an address: these name the pod there.
    services_at: HashMap<IpAddr, Vec<Arc<ServiceMeta>>>,
    /// Pods of this node that name a network namespace.
    netns: BTreeMap<PathBuf, BTreeSet<ObjectName>>,
    by_address: Index<IpAddr, Workload>,
    vips: Index<(IpAddr, u16), ServicePort>,
    udp_vips: Index<(IpAddr, u16), ServicePort>,
    ranges: Index<(Network, u16), ServicePort>,
    by_endpoint: Index<EndpointAddr, ServicePort>,
    routes: RouteIndex,
    traffic: Traffic,
    /// DestinationRules.
    hosts: rules::Hosts,
    policies: PolicyIndex,
    backend_tls: BackendTls,
    /// ServiceEntries.
    entries: entries::Entries,
    /// What DestinationRules and BackendTLSPolicies wrap connections in.
    originations: Arc<tls::Store>,
    /// Where keys for tokens are fetched.
    key_sources: Arc<jwt::Store>,
    sessions: SessionIndex,
    authorizations: Authorizations,
    notes: BTreeMap<ObjectKey, Vec<Warning>>,
    snapshot: Arc<Snapshot>,
    /// Something was applied.
    begun: bool,
}

/// What a batch of changes touches.
#[derive(Debug, Default)]
struct Dirty {
    pods: BTreeSet<ObjectName>,
    services: BTreeSet<ObjectName>,
    routes: DirtyRoutes,
    /// What TrafficPolicies are attached to.
    subjects: BTreeSet<Subject>,
    /// Pods for whose connections something else may hold.
    secured: BTreeSet<ObjectName>,
    /// Policies themselves, for people.
    policies: BTreeSet<ObjectKey>,
    /// ServiceEntries themselves.
    entries: BTreeSet<ObjectKey>,
    /// AuthorizationPolicies.
    authorization: DirtyAuthorization,
    /// RequestAuthentications.
    authentication: Vec<ObjectName>,
}

impl Builder {
    /// Knows nothing yet.
    pub fn new(options: BuildOptions) -> Self {
        let mut snapshot = Snapshot { node: options.node.as_str().into(), ..Snapshot::default() };
        snapshot.authorization.options = Arc::new(options.authorization.clone());
        Self {
            options,
            objects: BTreeMap::new(),
            slices: HashMap::new(),
            missing: BTreeSet::new(),
            services_at: HashMap::new(),
            netns: BTreeMap::new(),
            by_address: Index::default(),
            vips: Index::default(),
            udp_vips: Index::default(),
            ranges: Index::default(),
            by_endpoint: Index::default(),
            routes: RouteIndex::default(),
            traffic: Traffic::default(),
            hosts: rules::Hosts::new(),
            policies: PolicyIndex::default(),
            backend_tls: BackendTls::default(),
            entries: entries::Entries::default(),
            originations: Arc::default(),
            key_sources: Arc::default(),
            sessions: SessionIndex::default(),
            authorizations: Authorizations::default(),
            notes: BTreeMap::new(),
            snapshot: Arc::new(snapshot),
            begun: false,
        }
    }

    /// The snapshot with `changes` in force. Its generation is higher than before if anything in it changed; the first
    /// call always makes one: generation 1, or that of [`Builder::resume_at`].
    pub fn apply(&mut self, changes: &Changes) -> Arc<Snapshot> {
        let mut dirty = Dirty::default();
        for key in &changes.deletes {
            self.touch(key, None, &mut dirty);
        }
        for object in &changes.upserts {
            self.touch(&object.key(), Some(object.clone()), &mut dirty);
        }
        dirty.services.extend(self.take_stale());
        let mut next = Snapshot::clone(&self.snapshot);
        let mut changed = !std::mem::replace(&mut self.begun, true);
        for name in std::mem::take(&mut dirty.pods) {
            changed |= self.build_workload(&name, &mut next, &mut dirty.services);
            dirty.secured.insert(name);
        }
        for name in &dirty.secured {
            changed |= self.build_security(name, &mut next);
        }
        changed |= self.build_own_node(&mut next);
        for name in std::mem::take(&mut dirty.services) {
            let before = next.services.get(&name).cloned();
            if self.build_service(&name, &mut next) {
                changed = true;
                self.touch_backend(&name, before.as_ref(), next.services.get(&name), &mut dirty.routes);
            }
            dirty.subjects.extend(self.traffic.of_service(&name));
        }
        for subject in dirty.subjects {
            changed |= self.build_traffic(&subject, &mut next);
        }
        changed |= self.build_routes(dirty.routes, &mut next);
        // Pods and services are in place, and changed if anything did so far.
        let others = changed;
        changed |= self.build_authorization(dirty.authorization, others, &mut next);
        changed |= self.build_authentication(dirty.authentication, others, &mut next);
        for key in dirty.policies {
            changed |= self.build_policy(&key, &mut next);
        }
        for key in dirty.entries {
            changed |= self.count_entry(&key, &mut next);
        }
        if changed {
            next.generation += 1;
            next.by_address = self.by_address.map().clone();
            next.vips = self.vips.map().clone();
            next.udp_vips = self.udp_vips.map().clone();
            next.ranges = self.ranges.map().clone();
            next.range_lengths = range_lengths(self.ranges.map().keys());
            next.by_endpoint = self.by_endpoint.map().clone();
            self.snapshot = Arc::new(next);
        }
        self.snapshot.clone()
    }

    /// Before the first [`Builder::apply`]: its snapshot gets `generation`, not 1.
    pub fn resume_at(&mut self, generation: u64) {
        if !self.begun {
            self.snapshot = Arc::new(Snapshot {
                generation: generation.saturating_sub(1),
                ..Snapshot::clone(&self.snapshot)
            });
        }
    }

    /// The same snapshot under the next generation: for a change of configuration that changed nothing in it.
    pub fn advance(&mut self) -> Arc<Snapshot> {
        let mut next = Snapshot::clone(&self.snapshot);
        next.generation += 1;
        self.snapshot = Arc::new(next);
        self.snapshot.clone()
    }

    /// What it was made with.
    pub fn options(&self) -> &BuildOptions {
        &self.options
    }

    /// What DestinationRules and BackendTLSPolicies wrap connections in: made here, loaded by whoever publishes the snapshots.
    pub fn originations(&self) -> &Arc<tls::Store> {
        &self.originations
    }

    /// What doesn't fit together at this moment. `origin` says where an object was read.
    pub fn warnings(&self, origin: impl Fn(&ObjectKey) -> Option<String>) -> Vec<Warning> {
        let mut warnings = Vec::new();
        let mut add =
            |key: &ObjectKey, warning: Warning| warnings.push(warning.at(origin(key).unwrap_or_default()));
        for (key, notes) in &self.notes {
            notes.iter().for_each(|warning| add(key, warning.clone()));
        }
        for (key, warning) in self.traffic.warnings() {
            add(key, warning.clone());
        }
        for service in &self.missing {
            for slice in self.slices.get(service).into_iter().flatten() {
                let key = ObjectKey::new(Kind::EndpointSlice, Some(&service.namespace), slice);
                add(&key, orphan(&key, service));
            }
        }
        for (key, warning) in self.policy_warnings().chain(self.session_warnings()) {
            add(&key, warning);
        }
        for ((ip, port), winner, loser) in self.vips.contested().chain(self.udp_vips.contested()) {
            self.contested(ip, *port, winner, loser, &mut add);
        }
        for ((network, port), winner, loser) in self.ranges.contested() {
            self.contested(network, *port, winner, loser, &mut add);
        }
        self.entry_warnings(&mut add);
        self.peer_warnings(&mut add);
        for (ip, winner, loser) in self.by_address.contested() {
            let key = pod_key(&loser.name);
            let message = format!(
                "{ip} already belongs to Pod {}, which is taken for the owner of its traffic: correct one of the two, or \
                 remove the pod that has ended",
                winner.name
            );
            add(&key, Warning::new(WarningCode::DuplicatePodAddress, &key, "status.podIPs", message));
        }
        self.authorization_warnings(&mut add);
        self.authentication_warnings(&mut add);
        self.provider_warnings(&mut add);
        self.backend_tls_warnings(&mut add);
        self.rule_warnings(add);
        warnings
    }

    /// Puts or removes one object and notes what has to be built again.
    fn touch(&mut self, key: &ObjectKey, object: Option<Arc<Object>>, dirty: &mut Dirty) {
        match key.kind {
            Kind::Namespace => {
                let namespace = &key.name.name;
                dirty.pods.extend(self.names_in(Kind::Pod, namespace));
            }
            Kind::Pod => {
                self.touch_netns(key, object.as_deref(), dirty);
                dirty.pods.insert(key.name.clone());
            }
            Kind::Service => {
                self.touch_affinity(key, object.as_deref(), &mut dirty.routes);
                dirty.services.insert(key.name.clone());
            }
            Kind::EndpointSlice => self.touch_slice(key, object.as_deref(), dirty),
            Kind::TrafficPolicy => self.touch_traffic_policy(key, object.as_deref(), dirty),
            Kind::HttpRoute | Kind::GrpcRoute | Kind::TlsRoute | Kind::TcpRoute => {
                dirty.subjects.extend(self.traffic.of_route(key));
                self.touch_route(key, object.as_deref(), &mut dirty.routes);
                self.touch_sessions(key, object.as_deref());
            }
            Kind::ReferenceGrant => self.touch_grant(&key.name.namespace, &mut dirty.routes),
            Kind::BackendTrafficPolicy => self.touch_policy(key, object.as_deref(), dirty),
            Kind::BackendTlsPolicy => self.touch_backend_tls(key, object.as_deref(), dirty),
            Kind::ConfigMap => self.touch_config_map(&key.name, dirty),
            Kind::DestinationRule => self.touch_rule(key, object.as_deref(), dirty),
            Kind::ServiceEntry => {
                self.touch_entry(key, object.as_deref(), dirty);
                dirty.entries.insert(key.clone());
            }
            Kind::AuthorizationPolicy => self.touch_authorization(key, object.as_deref(), dirty),
            Kind::RequestAuthentication => self.touch_authentication(key, object.as_deref(), dirty),
            Kind::PeerAuthentication => self.touch_peers(key, dirty),
            Kind::Node => self.touch_node(key, object.as_deref(), dirty),
            Kind::ServiceAccount => {}
        }
        if is_policy(key.kind) {
            dirty.policies.insert(key.clone());
        }
        match object {
            Some(object) => {
                self.objects.insert(key.clone(), object);
            }
            None => {
                self.objects.remove(key);
                self.notes.remove(key);
            }
        }
    }

    fn contested(
        &self,
        address: &dyn std::fmt::Display,
        port: u16,
        winner: &ServicePort,
        loser: &ServicePort,
        add: &mut impl FnMut(&ObjectKey, Warning),
    ) {
        let ((winner, _), (key, field)) =
            (self.maker_of(&winner.service.name), self.maker_of(&loser.service.name));
        let message = format!(
            "{address} port {port} already belongs to {winner}, which keeps it: give this one another address"
        );
        add(&key, Warning::new(WarningCode::DuplicateVip, &key, field, message));
    }

    fn names_in(&self, kind: Kind, namespace: &str) -> impl Iterator<Item = ObjectName> {
        let first = ObjectKey { kind, name: ObjectName::new(namespace, "") };
        let in_it = self.objects.range(first..).map(|(key, _)| key);
        in_it
            .take_while(move |key| key.kind == kind && key.name.namespace == namespace)
            .map(|key| key.name.clone())
    }

    /// Shows a policy as it is in force; true if that changed.
    fn build_policy(&self, key: &ObjectKey, next: &mut Snapshot) -> bool {
        let (domain, root) = (&self.options.cluster_domain, &self.options.root_namespace);
        let Some(policy) = self.objects.get(key).and_then(|object| PolicyObject::of(object, domain, root))
        else {
            return next.policies.remove_mut(key);
        };
        if next.policies.get(key).is_some_and(|old| **old == policy) {
            return false;
        }
        next.policies.insert_mut(key.clone(), Arc::new(policy));
        true
    }

    fn note(&mut self, key: ObjectKey, warnings: Vec<Warning>) {
        if warnings.is_empty() {
            self.notes.remove(&key);
        } else {
            self.notes.insert(key, warnings);
        }
    }
}

/// True for kinds that `get policies` lists.
const fn is_policy(kind: Kind) -> bool {
    matches!(
        kind,
        Kind::TrafficPolicy
            | Kind::BackendTrafficPolicy
            | Kind::BackendTlsPolicy
            | Kind::DestinationRule
            | Kind::AuthorizationPolicy
            | Kind::PeerAuthentication
            | Kind::RequestAuthentication
    )
}

fn pod_key(name: &ObjectName) -> ObjectKey {
    ObjectKey { kind: Kind::Pod, name: name.clone() }
}

fn service_key(name: &ObjectName) -> ObjectKey {
    ObjectKey { kind: Kind::Service, name: name.clone() }
}

fn range_lengths<'a>(ranges: impl Iterator<Item = &'a (Network, u16)>) -> Vec<(bool, u8)> {
    let lengths: BTreeSet<_> = ranges.map(|(network, _)| (network.is_ipv4(), network.bits())).collect();
    lengths.into_iter().rev().collect()
}

fn orphan(key: &ObjectKey, service: &ObjectName) -> Warning {
    let message = format!(
        "there is no Service {service}: its endpoints are used as soon as there is; add the Service or correct the label"
    );
    Warning::new(
        WarningCode::SliceWithoutService,
        key,
        "metadata.labels[kubernetes.io/service-name]",
        message,
    )
}

/// A service's ports by number, of a service that may not be there.
fn ports_of(service: Option<&Arc<Service>>) -> &[Arc<ServicePort>] {
    service.map(|service| service.ports.as_slice()).unwrap_or_default()
}

/// Its UDP ports, likewise.
fn udp_of(service: Option<&Arc<Service>>) -> &[Arc<ServicePort>] {
    service.map(|service| service.udp.as_slice()).unwrap_or_default()
}

#[cfg(test)]
mod tests;

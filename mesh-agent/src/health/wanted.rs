//! What is to be checked, out of a snapshot: a check for each endpoint and policy, whatever number of ports, families and
//! clients' views an endpoint stands in. Pure.
//!
//! Made by `super::Checks` when configuration or captured pods change, followed by `run`.

use std::collections::HashMap;
use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use crate::addr::EndpointAddr;
use crate::balance::health::Health;
use crate::model::{Endpoint, ObjectName, ServicePort, Snapshot, Workload};
use crate::policy::traffic::{HealthCheck, Probe};
use crate::proxy::reach::Way;
use crate::tls::Origination;

/// A captured pod, which checks can come from.
#[derive(Clone, Debug)]
pub struct Captured {
    /// The kernel's name for its network namespace.
    pub cookie: u64,
    /// The pod.
    pub workload: Arc<Workload>,
    /// Its network namespace.
    pub netns: Arc<OwnedFd>,
}

impl PartialEq for Captured {
    fn eq(&self, other: &Self) -> bool {
        self.cookie == other.cookie && Arc::ptr_eq(&self.workload, &other.workload)
    }
}

/// Tells checks apart: the policy's group, by its place in memory, which the check holds; how it goes; and where.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Key(usize, Kind, EndpointAddr);

/// [`Wrapped`] with the rule's TLS by its place in memory.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Kind {
    Plain,
    Tls(usize),
    Mesh(ObjectName),
    Hbone(ObjectName),
}

/// What a check goes in, as requests do.
#[derive(Clone, Debug)]
pub(super) enum Wrapped {
    /// Plain text.
    Plain,
    /// TLS, as a DestinationRule says.
    Tls(Arc<Origination>),
    /// The mesh's mutual TLS, with the agent of an endpoint that runs as this account.
    Mesh(ObjectName),
    /// HBONE, with what stands for an endpoint that runs as this account.
    Hbone(ObjectName),
}

/// Everything that is to be checked.
#[derive(Debug, Default)]
pub(super) struct Wanted {
    /// By policy and endpoint.
    pub checks: HashMap<Key, Check>,
    /// The service ports that they are about.
    pub sets: Vec<Arc<Set>>,
    /// Endpoints of those that can't or needn't be checked.
    pub unchecked: Vec<Arc<Endpoint>>,
    /// Where checks may come from.
    pub pods: Vec<Captured>,
}

/// One check.
#[derive(Debug)]
pub(super) struct Check {
    /// How.
    pub how: Arc<HealthCheck>,
    /// Where it is sent.
    pub to: EndpointAddr,
    /// What it goes in.
    pub wrapped: Wrapped,
    /// Whose verdict it is; at least one.
    pub targets: Vec<Target>,
}

/// An endpoint as one service port knows it.
#[derive(Clone, Debug)]
pub(super) struct Target {
    pub set: Arc<Set>,
    pub endpoint: Arc<Endpoint>,
}

/// The endpoints of one service port.
#[derive(Debug)]
pub(super) struct Set {
    /// Name, for people.
    pub service: ObjectName,
    /// Host name.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// What is shared with the balancer.
    pub health: Arc<Health>,
    /// All of them.
    pub endpoints: Vec<Arc<Endpoint>>,
}

impl Wanted {
    /// What `snapshot` asks for, with these pods captured; without one nothing is checked. `same_node_mtls`: pods of this node
    /// talk to each other as those of two nodes do.
    pub fn new(snapshot: &Snapshot, pods: Vec<Captured>, same_node_mtls: bool) -> Self {
        let mut wanted = Self { pods, ..Self::default() };
        if wanted.pods.is_empty() {
            return wanted;
        }
        for ((service, number), policy) in snapshot.traffic.iter() {
            let (Some(how), Some(service)) = (&policy.health_check, snapshot.services.get(service)) else {
                continue;
            };
            for port in service.ports.iter().filter(|port| port.port == *number) {
                port.forms().for_each(|form| wanted.add(snapshot, form, how, same_node_mtls));
            }
        }
        wanted
    }

    fn add(&mut self, snapshot: &Snapshot, port: &ServicePort, how: &Arc<HealthCheck>, same_node_mtls: bool) {
        let set = Arc::new(Set {
            service: port.service.name.clone(),
            host: port.service.host.clone(),
            port: port.port,
            health: port.endpoints.health.clone(),
            endpoints: port.endpoints.all.clone(),
        });
        self.sets.push(set.clone());
        let sendable = how.is_sendable(&port.policy);
        for endpoint in &port.endpoints.all {
            let available = &port.endpoints.available;
            let is_used = available.binary_search_by_key(&endpoint.addr, |other| other.addr).is_ok()
                || endpoint.serving && endpoint.terminating;
            let to = how.port.map_or(endpoint.addr, |port| EndpointAddr::new(endpoint.addr.ip(), port));
            let wrapped = self.wrapped(snapshot, port, endpoint, to, same_node_mtls);
            let wrapped = wrapped.or_else(|| (how.probe == Probe::Tcp).then_some(Wrapped::Plain));
            let reached = is_used && self.pods.iter().any(|pod| pod.has_family_of(endpoint.addr.ip()));
            let Some(wrapped) = wrapped.filter(|_| sendable && reached) else {
                self.unchecked.push(endpoint.clone());
                continue;
            };
            let key = Key(Arc::as_ptr(how) as usize, wrapped.kind(), to);
            let new = || Check { how: how.clone(), to, wrapped, targets: Vec::new() };
            let check = self.checks.entry(key).or_insert_with(new);
            check.targets.push(Target { set: set.clone(), endpoint: endpoint.clone() });
        }
    }
}

impl Wanted {
    /// What a check of this endpoint goes in. None: nothing may be sent to it.
    fn wrapped(
        &self,
        snapshot: &Snapshot,
        port: &ServicePort,
        endpoint: &Endpoint,
        to: EndpointAddr,
        same_node_mtls: bool,
    ) -> Option<Wrapped> {
        let there = endpoint.workload.as_deref();
        // All of them are of this node, and the endpoint's own pod checks it only where there is no other.
        let others = self.pods.iter().find(|pod| there.is_none_or(|there| there.name != pod.workload.name));
        let own = &others.or_else(|| self.pods.first())?.workload;
        let disabled = there.is_some_and(|there| snapshot.takes_no_mutual_tls(there, to.port()));
        let account = |there: &Workload| ObjectName::new(&there.name.namespace, &there.service_account);
        match (Way::between(own, same_node_mtls, Some(&port.policy), there, disabled), there) {
            (Way::Plain, _) => Some(Wrapped::Plain),
            (Way::Tls(tls), _) => Some(Wrapped::Tls(tls.clone())),
            (Way::Mesh, Some(there)) => Some(Wrapped::Mesh(account(there))),
            (Way::Hbone, Some(there)) => Some(Wrapped::Hbone(account(there))),
            (Way::Mesh | Way::Hbone | Way::Nowhere, _) => None,
        }
    }
}

impl Wrapped {
    fn kind(&self) -> Kind {
        match self {
            Self::Plain => Kind::Plain,
            Self::Tls(tls) => Kind::Tls(Arc::as_ptr(tls) as usize),
            Self::Mesh(account) => Kind::Mesh(account.clone()),
            Self::Hbone(account) => Kind::Hbone(account.clone()),
        }
    }
}

impl Captured {
    /// A pod whose object names no address may have any.
    fn has_family_of(&self, ip: IpAddr) -> bool {
        let addresses = &self.workload.addresses;
        addresses.is_empty() || addresses.iter().any(|own| own.is_ipv4() == ip.is_ipv4())
    }
}

/// The pod that checks an endpoint, as `targets` have it, which has failed to be reached `misses` times: the pod that requests last reached it
/// from; after a miss, and where there is none, others in turn, those of the service's namespace first, so that a
/// NetworkPolicy which keeps some pods from the endpoint doesn't make it unhealthy. The endpoint's own pod only where there
/// is no other: from there the network isn't checked.
pub(super) fn origin<'p>(pods: &'p [Captured], targets: &[Target], misses: usize) -> Option<&'p Captured> {
    let Target { endpoint, set } = targets.first()?;
    let able = || pods.iter().filter(|pod| pod.has_family_of(endpoint.addr.ip()));
    let own = |pod: &Captured| {
        let named = endpoint.workload.as_ref().is_some_and(|workload| workload.name == pod.workload.name);
        named || pod.workload.addresses.contains(&endpoint.addr.ip())
    };
    let last = |target: &Target| {
        let cookie = target.endpoint.load.health.reached_from();
        able().find(|pod| pod.cookie == cookie && !own(pod))
    };
    let reached_from = targets.iter().find_map(last);
    if misses.is_multiple_of(2) && reached_from.is_some() {
        return reached_from;
    }
    let near = |pod: &&Captured| pod.workload.name.namespace == set.service.namespace;
    let others = able().filter(|pod| !own(pod));
    let (first, last): (Vec<_>, Vec<_>) = others.partition(near);
    let others: Vec<_> = first.into_iter().chain(last).collect();
    match others.len() {
        0 => able().next(),
        // Every other turn went to the pod that requests come from, if there is one.
        count if reached_from.is_some() => others.get(misses / 2 % count).copied(),
        count => others.get(misses % count).copied(),
    }
}

#[cfg(test)]
mod tests;

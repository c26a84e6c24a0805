//! AuthorizationPolicies in a snapshot: each by itself, and compiled for the pods of this node that they select.
//!
//! Made by `model::build`; the data path asks for a workload's once for a connection and configuration, `authz check` for those
//! of any workload.

use std::collections::BTreeMap;
use std::sync::Arc;

use rpds::HashTrieMapSync;

use super::{ObjectName, Service, Snapshot, Workload};
use crate::authz::{Compiled, Options, Policy, Selection, WorkloadPolicies};

/// What a snapshot knows of authorization.
#[derive(Clone, Debug, Default)]
pub struct Authorization {
    /// Every policy by name.
    pub policies: HashTrieMapSync<ObjectName, Arc<Policy>>,
    /// What holds for pods of this node that are captured; none where nothing does.
    pub workloads: HashTrieMapSync<ObjectName, Arc<WorkloadPolicies>>,
    /// How requests are read.
    pub options: Arc<Options>,
}

/// The policies that hold for a pod, in order.
#[derive(Debug, Default)]
pub struct Selected {
    /// At every port.
    pub all: Vec<Arc<Policy>>,
    /// At these ports, of Services that policies name, those too.
    pub ports: BTreeMap<u16, Vec<Arc<Policy>>>,
}

impl Snapshot {
    /// What holds for a pod of this node. Looks up by name: the data path remembers it.
    pub fn authorization_of(&self, workload: &Workload) -> Option<&Arc<WorkloadPolicies>> {
        self.authorization.workloads.get(&workload.name)
    }

    /// The policies that select a pod, on whatever node it is.
    pub fn policies_selecting(&self, workload: &Workload) -> Selected {
        let mut selected = Selected::default();
        for policy in self.authorization.policies.values() {
            match &policy.selection {
                Selection::Pods(_) if policy.selects(workload) => selected.all.push(policy.clone()),
                Selection::Services(names) => {
                    for port in self.ports_behind(&policy.name.namespace, names, workload) {
                        selected.ports.entry(port).or_default().push(policy.clone());
                    }
                }
                Selection::Pods(_) => {}
            }
        }
        for policies in selected.ports.values_mut() {
            policies.extend(selected.all.iter().cloned());
        }
        selected.ports.values_mut().chain([&mut selected.all]).for_each(in_order);
        selected
    }

    /// The pod's ports that are behind these Services.
    pub(super) fn ports_behind(&self, namespace: &str, names: &[String], workload: &Workload) -> Vec<u16> {
        if namespace != workload.name.namespace {
            return Vec::new();
        }
        let services = names.iter().filter_map(|name| self.services.get(&ObjectName::new(namespace, name)));
        let mut ports: Vec<u16> = services.flat_map(|service| ports_of(service, workload)).collect();
        ports.sort_unstable();
        ports.dedup();
        ports
    }
}

fn ports_of<'s>(service: &'s Service, workload: &'s Workload) -> impl Iterator<Item = u16> + 's {
    let endpoints = service.ports.iter().flat_map(|port| &port.endpoints.all);
    let own =
        endpoints.filter(|endpoint| endpoint.workload.as_ref().is_some_and(|it| it.name == workload.name));
    own.map(|endpoint| endpoint.addr.port())
}

/// Those of the root namespace first, then by name; a policy that names several Services of one port counts once.
fn in_order(policies: &mut Vec<Arc<Policy>>) {
    policies.sort_by(|a, b| (!a.of_root, &a.name).cmp(&(!b.of_root, &b.name)));
    policies.dedup_by(|a, b| Arc::ptr_eq(a, b));
}

impl Selected {
    /// True if nothing holds.
    pub fn is_empty(&self) -> bool {
        self.all.is_empty() && self.ports.is_empty()
    }

    /// Made into tables by `compile`.
    pub fn compile(self, mut compile: impl FnMut(Vec<Arc<Policy>>) -> Arc<Compiled>) -> WorkloadPolicies {
        let all = compile(self.all);
        let ports = self.ports.into_iter().map(|(port, policies)| (port, compile(policies))).collect();
        WorkloadPolicies { all, ports }
    }
}

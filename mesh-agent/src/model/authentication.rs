//! RequestAuthentications in a snapshot: each by itself, and put together for the pods of this node that they select.
//!
//! Made by `model::build`; the data path asks for a workload's once for a connection and configuration, `authz check` for those
//! of any workload.

use std::collections::BTreeMap;
use std::sync::Arc;

use rpds::HashTrieMapSync;

use super::{ObjectName, Snapshot, Workload};
use crate::authz::Selection;
use crate::jwt::{Authentication, Rule};

/// What a snapshot knows of tokens.
#[derive(Clone, Debug, Default)]
pub struct Authentications {
    /// Every policy by name.
    pub policies: HashTrieMapSync<ObjectName, Arc<TokenPolicy>>,
    /// What holds for pods of this node that are captured; none where nothing does.
    pub workloads: HashTrieMapSync<ObjectName, Arc<WorkloadTokens>>,
}

/// A RequestAuthentication, compiled.
#[derive(Debug)]
pub struct TokenPolicy {
    /// Namespace and name.
    pub name: ObjectName,
    /// It is of the namespace whose policies are the mesh's.
    pub is_of_root: bool,
    /// `creationTimestamp`: of several the oldest comes first.
    pub created: Option<String>,
    /// For whom.
    pub selection: Selection,
    /// Its rules.
    pub rules: Vec<Arc<Rule>>,
}

/// The rules that hold for one pod.
#[derive(Clone, Debug, PartialEq)]
pub struct WorkloadTokens {
    /// For most ports.
    pub all: Arc<Authentication>,
    /// For ports that are behind Services which policies name, these too.
    pub ports: Vec<(u16, Arc<Authentication>)>,
}

impl WorkloadTokens {
    /// What holds at `port`.
    pub fn at(&self, port: u16) -> &Arc<Authentication> {
        self.ports.iter().find(|(of, _)| *of == port).map_or(&self.all, |(_, tokens)| tokens)
    }
}

impl TokenPolicy {
    /// True if it selects a pod by its labels.
    pub fn selects(&self, workload: &Workload) -> bool {
        match &self.selection {
            Selection::Services(_) => false,
            Selection::Pods(labels) => {
                let there = self.is_of_root || self.name.namespace == workload.name.namespace;
                there && labels.iter().all(|(label, value)| workload.labels.get(label) == Some(value))
            }
        }
    }
}

impl Snapshot {
    /// What holds for a pod of this node. Looks up by name: the data path remembers it.
    pub fn authentication_of(&self, workload: &Workload) -> Option<&Arc<WorkloadTokens>> {
        self.authentication.workloads.get(&workload.name)
    }

    /// The rules that hold for a pod, on whatever node it is; None where no policy selects it.
    pub fn tokens_for(&self, workload: &Workload) -> Option<WorkloadTokens> {
        let mut all: Vec<&Arc<TokenPolicy>> = Vec::new();
        let mut ports: BTreeMap<u16, Vec<&Arc<TokenPolicy>>> = BTreeMap::new();
        for policy in self.authentication.policies.values() {
            match &policy.selection {
                Selection::Pods(_) if policy.selects(workload) => all.push(policy),
                Selection::Services(names) => {
                    for port in self.ports_behind(&policy.name.namespace, names, workload) {
                        ports.entry(port).or_default().push(policy);
                    }
                }
                Selection::Pods(_) => {}
            }
        }
        if all.is_empty() && ports.is_empty() {
            return None;
        }
        let ports = ports.into_iter().map(|(port, named)| (port, together([named, all.clone()].concat())));
        Some(WorkloadTokens { ports: ports.collect(), all: together(all) })
    }
}

/// Rules of all policies as if one had them all: the root namespace's first, of each the oldest policy's first.
fn together(mut policies: Vec<&Arc<TokenPolicy>>) -> Arc<Authentication> {
    policies.sort_by(|a, b| {
        let rank = |policy: &TokenPolicy| (!policy.is_of_root, policy.created.is_none());
        (rank(a), &a.created, &a.name).cmp(&(rank(b), &b.created, &b.name))
    });
    policies.dedup_by(|a, b| Arc::ptr_eq(a, b));
    Arc::new(Authentication::new(policies.iter().flat_map(|policy| policy.rules.iter().cloned()).collect()))
}

//! PeerAuthentications: which pods a change of one concerns, and which of several holds for a pod.
//!
//! Of several of one scope the oldest holds alone, as in Istio; those without effect are warned about. A change builds the
//! modes of the pods that it may concern again, and nothing else.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::{Builder, Dirty};
use crate::model::{Modes, ObjectName, Scopes, Security, Snapshot, Warning, WarningCode, security};
use crate::objects::{Kind, Object, ObjectKey, PeerAuthentication};

impl Builder {
    /// Notes the pods that a policy's change may concern.
    pub(super) fn touch_peers(&self, key: &ObjectKey, dirty: &mut Dirty) {
        let namespace = &key.name.namespace;
        if *namespace == self.options.root_namespace {
            dirty.secured.extend(self.snapshot.workloads.keys().cloned());
        } else {
            dirty.secured.extend(self.names_in(Kind::Pod, namespace));
        }
    }

    /// Builds what holds for connections to the pod `name` again; true if it changed.
    pub(super) fn build_security(&self, name: &ObjectName, next: &mut Snapshot) -> bool {
        let security = match next.workloads.get(name) {
            Some(workload) => Security { peers: self.modes(&name.namespace, &workload.labels) },
            None => Security::default(),
        };
        if security.is_default() {
            return next.security.remove_mut(name);
        }
        if next.security.get(name).is_some_and(|old| **old == security) {
            return false;
        }
        next.security.insert_mut(name.clone(), Arc::new(security));
        true
    }

    fn modes(&self, namespace: &str, labels: &BTreeMap<String, String>) -> Arc<Modes> {
        let root = self.options.root_namespace.as_str();
        let own = self.peers_in(namespace).filter(|_| namespace != root);
        Arc::new(Modes::compose(Scopes::of(self.peers_in(root).chain(own), root, namespace, labels)))
    }

    /// The policies of a namespace.
    fn peers_in(&self, namespace: &str) -> impl Iterator<Item = &PeerAuthentication> {
        let first = ObjectKey { kind: Kind::PeerAuthentication, name: ObjectName::new(namespace, "") };
        let in_it = self.objects.range(first..).take_while(move |(key, _)| {
            key.kind == Kind::PeerAuthentication && key.name.namespace == namespace
        });
        in_it.filter_map(|(_, object)| match &**object {
            Object::PeerAuthentication(policy) => Some(&**policy),
            _ => None,
        })
    }

    /// Policies that hold for nothing, or not for all that they are for.
    pub(super) fn peer_warnings(&self, mut add: impl FnMut(&ObjectKey, Warning)) {
        let mut namespaces: Vec<&str> = self
            .objects
            .keys()
            .filter(|key| key.kind == Kind::PeerAuthentication)
            .map(|key| key.name.namespace.as_str())
            .collect();
        namespaces.dedup();
        for namespace in namespaces {
            let mut policies: Vec<_> = self.peers_in(namespace).collect();
            policies.sort_by_key(|policy| security::age(policy));
            for (at, policy) in policies.iter().enumerate() {
                let key = ObjectKey::new(Kind::PeerAuthentication, Some(namespace), &policy.metadata.name);
                if let Some((code, field, message)) = self.peer_problem(policy, &policies[..at]) {
                    add(&key, Warning::new(code, &key, field, message));
                }
            }
        }
    }

    fn peer_problem(
        &self,
        policy: &PeerAuthentication,
        older: &[&PeerAuthentication],
    ) -> Option<(WarningCode, &'static str, String)> {
        if policy.selector().is_none() {
            let winner = older.iter().find(|other| other.selector().is_none())?;
            let message = format!(
                "PeerAuthentication {}/{} is older and is for all pods too: it holds alone and this one has no effect; merge the two",
                winner.namespace(),
                winner.metadata.name
            );
            return Some((WarningCode::ConflictingPolicy, "spec", message));
        }
        if policy.namespace() == self.options.root_namespace {
            let message = format!(
                "{} is the root namespace, whose policies are the mesh's: one that selects pods has no effect there; \
                 put it into the pods' own namespace, or take the selector out",
                self.options.root_namespace
            );
            return Some((WarningCode::Contradiction, "spec.selector", message));
        }
        let selected = || {
            let pods = self.names_in(Kind::Pod, policy.namespace());
            pods.filter_map(|name| self.snapshot.workloads.get(&name))
                .filter(|pod| policy.selects(&pod.labels))
        };
        if selected().next().is_none() {
            let message =
                format!("no pod of {} has these labels: it holds as soon as one has", policy.namespace());
            return Some((WarningCode::TargetNotFound, "spec.selector", message));
        }
        let mut narrow = older.iter().filter(|other| other.selector().is_some());
        let (winner, pod) =
            narrow.find_map(|other| Some((other, selected().find(|pod| other.selects(&pod.labels))?)))?;
        let message = format!(
            "PeerAuthentication {}/{} is older and selects Pod {} too: there it holds alone and this one has no effect; \
             merge the two",
            winner.namespace(),
            winner.metadata.name,
            pod.name
        );
        Some((WarningCode::ConflictingPolicy, "spec.selector", message))
    }
}

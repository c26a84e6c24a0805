//! AuthorizationPolicies: compiled each by itself, then for every pod of this node that they select.
//!
//! Pods with the same policies share their tables, and a change compiles only those of the pods whose policies it changes. What
//! is odd about a policy is said here too; what is wrong about it by itself `objects` has refused.

mod advice;

use std::collections::HashMap;
use std::sync::{Arc, Weak};

use super::{Builder, Dirty};
use crate::authz::{Compiled, Policy, Selection};
use crate::model::{ObjectName, Snapshot, Warning, Workload};
use crate::objects::{Kind, Object, ObjectKey};

/// Tables by the policies that they are made of.
#[derive(Debug, Default)]
pub(super) struct Authorizations {
    /// By the addresses of the policies, which live as long as their tables.
    compiled: HashMap<Vec<usize>, Weak<Compiled>>,
}

/// What of authorization a batch of changes touches.
#[derive(Debug, Default)]
pub(super) struct DirtyAuthorization {
    policies: Vec<ObjectName>,
}

impl Builder {
    /// Notes that a policy comes, changes or goes.
    pub(super) fn touch_authorization(
        &mut self,
        key: &ObjectKey,
        object: Option<&Object>,
        dirty: &mut Dirty,
    ) {
        if let Some(Object::AuthorizationPolicy(policy)) = object {
            self.note(key.clone(), advice::of(key, policy));
        }
        dirty.authorization.policies.push(key.name.clone());
    }

    /// Builds what a batch touched; true if anything changed. `others`: pods or services did.
    pub(super) fn build_authorization(
        &mut self,
        dirty: DirtyAuthorization,
        others: bool,
        next: &mut Snapshot,
    ) -> bool {
        if dirty.policies.is_empty() && (!others || next.authorization.policies.is_empty()) {
            return false;
        }
        let mut changed = false;
        for name in dirty.policies {
            let key = ObjectKey { kind: Kind::AuthorizationPolicy, name: name.clone() };
            changed = true;
            match self.objects.get(&key).map(|object| &**object) {
                Some(Object::AuthorizationPolicy(object)) => {
                    let policy = Policy::new(object, &next.authorization.options);
                    next.authorization.policies.insert_mut(name, Arc::new(policy));
                }
                _ => drop(next.authorization.policies.remove_mut(&name)),
            }
        }
        let pods: Vec<Arc<Workload>> = next.enrolled().cloned().collect();
        for pod in &pods {
            changed |= self.authorize(pod, next);
        }
        let is_here = |name: &ObjectName| pods.iter().any(|pod| pod.name == *name);
        let gone = next.authorization.workloads.keys().filter(|name| !is_here(name));
        for name in gone.cloned().collect::<Vec<_>>() {
            changed |= next.authorization.workloads.remove_mut(&name);
        }
        self.authorizations.compiled.retain(|_, compiled| compiled.strong_count() > 0);
        changed
    }

    fn authorize(&mut self, pod: &Workload, next: &mut Snapshot) -> bool {
        let selected = next.policies_selecting(pod);
        if selected.is_empty() {
            return next.authorization.workloads.remove_mut(&pod.name);
        }
        let policies = selected.compile(|policies| self.authorizations.compile(policies));
        if next.authorization_of(pod).is_some_and(|before| before.same(&policies)) {
            return false;
        }
        next.authorization.workloads.insert_mut(pod.name.clone(), Arc::new(policies));
        true
    }

    /// About policies that select nothing, and such that can't do what they seem to.
    pub(super) fn authorization_warnings(&self, mut add: impl FnMut(&ObjectKey, Warning)) {
        let opaque = advice::opaque_ports(&self.snapshot);
        for policy in self.snapshot.authorization.policies.values() {
            let key = ObjectKey { kind: Kind::AuthorizationPolicy, name: policy.name.clone() };
            let found = match &policy.selection {
                Selection::Pods(_) => advice::of_pods(&key, policy, &self.snapshot, &opaque),
                Selection::Services(names) => advice::of_services(&key, names, &self.snapshot),
            };
            found.into_iter().for_each(|warning| add(&key, warning));
        }
    }
}

impl Authorizations {
    fn compile(&mut self, policies: Vec<Arc<Policy>>) -> Arc<Compiled> {
        let made_of: Vec<usize> = policies.iter().map(|policy| Arc::as_ptr(policy).addr()).collect();
        if let Some(compiled) = self.compiled.get(&made_of).and_then(Weak::upgrade) {
            return compiled;
        }
        let compiled = Arc::new(Compiled::new(policies));
        self.compiled.insert(made_of, Arc::downgrade(&compiled));
        compiled
    }
}

//! XBackendTrafficPolicies by the Service that they are attached to: its retry budget and its sessions.
//!
//! A policy belongs to Services of its own namespace (GEP-713, direct attachment); of several for one Service the oldest
//! holds. Used by `services`, which builds a service again when one of its policies changes.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::routes::session;
use super::sessions::SessionName;
use super::{Builder, Dirty};
use crate::model::{ObjectName, RetryAllowance, ServicePort, Warning, WarningCode};
use crate::objects::{BackendTrafficPolicy, Kind, Object, ObjectKey};
use crate::route::{RetryBudget, SessionPersistence};

/// Policies by the Service that a targetRef names.
#[derive(Debug, Default)]
pub struct PolicyIndex {
    attached: BTreeMap<ObjectName, BTreeSet<ObjectKey>>,
}

impl Builder {
    /// Notes that a policy comes, changes or goes.
    pub(super) fn touch_policy(&mut self, key: &ObjectKey, new: Option<&Object>, dirty: &mut Dirty) {
        let had = targets(self.objects.get(key).map(|object| &**object));
        let has = targets(new);
        for service in had.difference(&has) {
            if let Some(policies) = self.policies.attached.get_mut(service) {
                policies.remove(key);
                if policies.is_empty() {
                    self.policies.attached.remove(service);
                }
            }
        }
        for service in &has {
            self.policies.attached.entry(service.clone()).or_default().insert(key.clone());
        }
        self.note(key.clone(), unusable(key, new));
        dirty.services.extend(had);
        dirty.services.extend(has);
    }

    /// Retry budget and sessions of a port of `service`, taking over from `old` what is the same.
    pub(super) fn retries_and_session(
        &self,
        service: &ObjectName,
        old: Option<&Arc<ServicePort>>,
    ) -> (Option<Arc<RetryAllowance>>, Option<Arc<SessionPersistence>>) {
        let policy = self.ranked(service).into_iter().next();
        let spec = policy.and_then(|policy| policy.spec.retry_constraint.as_ref());
        let had = old.and_then(|old| old.retries.as_ref());
        let retries = spec.map(|spec| {
            let limits = RetryBudget {
                percent: spec.budget.percent,
                interval: spec.budget.interval.0,
                min_count: spec.min_retry_rate.count,
                min_interval: spec.min_retry_rate.interval.0,
            };
            let same = had.filter(|had| had.limits == limits);
            same.cloned().unwrap_or_else(|| Arc::new(RetryAllowance::new(limits)))
        });
        // By address and by token at once would contradict each other (GEP-1619, "Session Affinity in K8S Services").
        let session = policy.filter(|_| !self.is_by_address(service)).and_then(|policy| {
            let spec = policy.spec.session_persistence.as_ref()?;
            let name = format!("mesh-session-{}-{}", service.namespace, service.name);
            Some(Arc::new(SessionPersistence { per_rule: spec.name().is_none(), ..session(spec, || name) }))
        });
        let same = old.and_then(|old| old.session.as_ref()).filter(|old| Some(*old) == session.as_ref());
        (retries, same.cloned().or(session))
    }

    /// What holds for nothing because of an older policy, or because its Service isn't there.
    pub(super) fn policy_warnings(&self) -> impl Iterator<Item = (ObjectKey, Warning)> {
        self.policies.attached.keys().flat_map(|service| {
            let ranked = self.ranked(service);
            let absent = !self.objects.contains_key(&super::service_key(service));
            let mut found = Vec::new();
            for (place, policy) in ranked.iter().enumerate() {
                let (code, message) = if absent {
                    let message =
                        format!("there is no Service {service}: the policy holds as soon as there is");
                    (WarningCode::UnknownParent, message)
                } else if place > 0 {
                    let message = format!(
                        "Service {service} has an older policy, {}, which holds alone: merge the two",
                        ranked[0].metadata.name
                    );
                    (WarningCode::UnsupportedValue, message)
                } else if policy.spec.session_persistence.is_some() && self.is_by_address(service) {
                    let message = format!(
                        "Service {service} keeps clients by address (sessionAffinity: ClientIP), which excludes sessions (GEP-1619): none are kept; remove one of the two"
                    );
                    (WarningCode::SessionAffinity, message)
                } else {
                    continue;
                };
                let field = match code {
                    WarningCode::SessionAffinity => "spec.sessionPersistence",
                    _ => "spec.targetRefs",
                };
                let namespace = Some(service.namespace.as_str());
                let key = ObjectKey::new(Kind::BackendTrafficPolicy, namespace, &policy.metadata.name);
                let warning = Warning::new(code, &key, field, message);
                found.push((key, warning));
            }
            found
        })
    }

    /// The policy that holds for `service`.
    pub(super) fn backend_policy(&self, service: &ObjectName) -> Option<ObjectName> {
        let policy = self.ranked(service).into_iter().next()?;
        Some(ObjectName::new(&service.namespace, &policy.metadata.name))
    }

    /// True if the Service asks for `sessionAffinity: ClientIP`.
    pub(super) fn is_by_address(&self, service: &ObjectName) -> bool {
        match self.objects.get(&super::service_key(service)).map(|object| &**object) {
            Some(Object::Service(service)) => service.affinity_seconds().is_some(),
            _ => false,
        }
    }

    /// The name that the policy which holds for `service` gives its sessions, with the policy's key.
    pub(super) fn session_name_of(&self, service: &ObjectName) -> Option<(ObjectKey, SessionName)> {
        let policy = self.ranked(service).into_iter().next().filter(|_| !self.is_by_address(service))?;
        let name = SessionName::given(policy.spec.session_persistence.as_ref()?)?;
        let namespace = Some(service.namespace.as_str());
        Some((ObjectKey::new(Kind::BackendTrafficPolicy, namespace, &policy.metadata.name), name))
    }

    /// The policies of `service`, the one that holds first: the oldest, then by name (GEP-713, conflict resolution).
    fn ranked(&self, service: &ObjectName) -> Vec<&BackendTrafficPolicy> {
        let keys = self.policies.attached.get(service).into_iter().flatten();
        let mut policies: Vec<_> = keys
            .filter_map(|key| match &**self.objects.get(key)? {
                Object::BackendTrafficPolicy(policy) => Some(&**policy),
                _ => None,
            })
            .collect();
        policies.sort_by_key(|policy| {
            let created = policy.metadata.creation_timestamp.as_ref();
            (created.is_none(), created, &policy.metadata.name)
        });
        policies
    }
}

fn targets(object: Option<&Object>) -> BTreeSet<ObjectName> {
    let Some(Object::BackendTrafficPolicy(policy)) = object else { return BTreeSet::new() };
    let namespace = policy.metadata.namespace.as_deref().unwrap_or("default");
    let services = policy.spec.target_refs.iter().filter(|target| is_service(&target.group, &target.kind));
    services.map(|target| ObjectName::new(namespace, &*target.name)).collect()
}

fn is_service(group: &str, kind: &str) -> bool {
    group.is_empty() && kind == "Service"
}

fn unusable(key: &ObjectKey, object: Option<&Object>) -> Vec<Warning> {
    let Some(Object::BackendTrafficPolicy(policy)) = object else { return Vec::new() };
    let mut warnings = Vec::new();
    for (index, target) in policy.spec.target_refs.iter().enumerate() {
        if !is_service(&target.group, &target.kind) {
            let field = format!("spec.targetRefs[{index}].kind");
            let message = format!(
                "{} of group {:?} can't have this policy: name a Service, with group: \"\"",
                &*target.kind, &*target.group
            );
            warnings.push(Warning::new(WarningCode::UnsupportedReference, key, field, message));
        }
    }
    warnings
}

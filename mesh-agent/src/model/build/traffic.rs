//! TrafficPolicies to what holds for service ports and route rules.
//!
//! A policy is compiled once for each of its targets, which have state of their own, and kept until it changes. What meets
//! at a service port or a rule is put together: the more specific first, among equals the oldest, then the first by name.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::routes::RouteView;
use super::{Builder, Dirty};
use crate::model::{ObjectName, ServicePort, Snapshot, Warning, WarningCode};
use crate::objects::traffic_policy::{TargetKind, TargetRef, TrafficPolicySpec};
use crate::objects::{Kind, Object, ObjectKey};
use crate::policy::traffic::{RouteTraffic, TrafficPolicy};

/// What policies are attached to: a kind, and a name in the policy's own namespace.
pub type Subject = (TargetKind, ObjectName);

/// Policies by what they are attached to.
#[derive(Debug, Default)]
pub struct Traffic {
    policies: BTreeMap<Subject, BTreeSet<ObjectName>>,
    compiled: BTreeMap<(ObjectName, TargetRef), Compiled>,
    /// Ports of a service that have policies in the snapshot.
    ports: BTreeMap<ObjectName, BTreeSet<u16>>,
    warnings: BTreeMap<Subject, Vec<(ObjectKey, Warning)>>,
}

/// Groups that are read and compiled, and that the data path doesn't follow. Never in silence: each that a policy gives
/// is named.
const NOT_IN_FORCE: &[&str] = &[];

/// A policy for one of its targets.
#[derive(Debug)]
struct Compiled {
    object: Arc<Object>,
    policy: Arc<TrafficPolicy>,
}

/// A policy that holds for a subject, with the part of it that is meant.
struct Attached {
    key: ObjectKey,
    section: Option<String>,
    policy: Arc<TrafficPolicy>,
}

impl Traffic {
    /// The service, if policies name it.
    pub fn of_service(&self, name: &ObjectName) -> Option<Subject> {
        let subject = (TargetKind::Service, name.clone());
        self.policies.contains_key(&subject).then_some(subject)
    }

    /// The route, if policies name it.
    pub fn of_route(&self, key: &ObjectKey) -> Option<Subject> {
        let kind = match key.kind {
            Kind::HttpRoute => TargetKind::HttpRoute,
            Kind::GrpcRoute => TargetKind::GrpcRoute,
            _ => return None,
        };
        let subject = (kind, key.name.clone());
        self.policies.contains_key(&subject).then_some(subject)
    }

    /// What doesn't fit together.
    pub fn warnings(&self) -> impl Iterator<Item = (&ObjectKey, &Warning)> {
        self.warnings.values().flatten().map(|(key, warning)| (key, warning))
    }
}

impl Builder {
    /// Notes what a policy was and is attached to.
    pub(super) fn touch_traffic_policy(
        &mut self,
        key: &ObjectKey,
        object: Option<&Object>,
        dirty: &mut Dirty,
    ) {
        let targets_of = |object: Option<&Object>| match object {
            Some(Object::TrafficPolicy(policy)) => policy.spec.target_refs.clone(),
            _ => Vec::new(),
        };
        let old = targets_of(self.objects.get(key).map(|object| &**object));
        let new = targets_of(object);
        let subject = |target: &TargetRef| (target.kind, ObjectName::new(&key.name.namespace, &target.name));
        for target in old.iter().filter(|target| !new.contains(target)) {
            self.traffic.compiled.remove(&(key.name.clone(), target.clone()));
        }
        for subject in old.iter().map(subject) {
            if let Some(policies) = self.traffic.policies.get_mut(&subject) {
                policies.remove(&key.name);
            }
            dirty.subjects.insert(subject);
        }
        for subject in new.iter().map(subject) {
            self.traffic.policies.entry(subject.clone()).or_default().insert(key.name.clone());
            dirty.subjects.insert(subject);
        }
        if let Some(Object::TrafficPolicy(policy)) = object {
            let given = policy.spec.given().filter(|field| NOT_IN_FORCE.contains(field));
            let fields = given.chain(parts_not_in_force(&policy.spec));
            self.note(key.clone(), fields.map(|field| not_in_force(key, field)).collect());
        }
    }

    /// Puts together what holds for `subject` again; true if anything changed.
    pub(super) fn build_traffic(&mut self, subject: &Subject, next: &mut Snapshot) -> bool {
        let attached = self.attached(subject);
        let mut warnings = Vec::new();
        let changed = match subject.0 {
            TargetKind::Service => self.build_service_traffic(&subject.1, &attached, next, &mut warnings),
            TargetKind::HttpRoute | TargetKind::GrpcRoute => {
                self.missing_rules(subject, &attached, &mut warnings);
                build_route_traffic(subject, &attached, next, &mut warnings)
            }
        };
        if attached.is_empty() {
            self.traffic.policies.remove(subject);
        }
        warnings.dedup();
        if warnings.is_empty() {
            self.traffic.warnings.remove(subject);
        } else {
            self.traffic.warnings.insert(subject.clone(), warnings);
        }
        changed
    }

    /// The policies of `subject`, oldest first, each compiled.
    fn attached(&mut self, subject: &Subject) -> Vec<Attached> {
        let names = self.traffic.policies.get(subject).into_iter().flatten();
        let mut objects: Vec<_> = names
            .filter_map(|name| {
                let key = ObjectKey { kind: Kind::TrafficPolicy, name: name.clone() };
                self.objects.get(&key).map(|object| (key, object.clone()))
            })
            .collect();
        // Without a time stamp a policy counts as young.
        objects.sort_by_cached_key(|(key, object)| {
            let created = object.metadata().creation_timestamp.clone();
            (created.is_none(), created, key.name.clone())
        });
        let mut attached = Vec::new();
        for (key, object) in objects {
            let Object::TrafficPolicy(raw) = &*object else { continue };
            let targets = raw.spec.target_refs.iter();
            for target in targets.filter(|target| (target.kind, &target.name) == (subject.0, &subject.1.name))
            {
                let policy = self.traffic.compile(&key.name, target, &object);
                attached.push(Attached { key: key.clone(), section: target.section_name.clone(), policy });
            }
        }
        attached
    }

    /// Policies for a route, or a rule of one, that isn't there. They stay attached: the rule may come.
    fn missing_rules(
        &self,
        (kind, name): &Subject,
        attached: &[Attached],
        warnings: &mut Vec<(ObjectKey, Warning)>,
    ) {
        let route = match kind {
            TargetKind::GrpcRoute => Kind::GrpcRoute,
            _ => Kind::HttpRoute,
        };
        let key = ObjectKey { kind: route, name: name.clone() };
        let rules =
            self.objects.get(&key).and_then(|object| RouteView::of(object)).map(|view| view.rule_names());
        for it in attached {
            let missing = match (&rules, &it.section) {
                (None, _) => format!("there is no {key}"),
                (Some(rules), Some(section)) if !rules.contains(&section.as_str()) => {
                    format!("{key} has no rule that is named {section}")
                }
                _ => continue,
            };
            warnings.push(missing_target(&it.key, &missing));
        }
    }

    fn build_service_traffic(
        &mut self,
        name: &ObjectName,
        attached: &[Attached],
        next: &mut Snapshot,
        warnings: &mut Vec<(ObjectKey, Warning)>,
    ) -> bool {
        let service = next.services.get(name).cloned();
        let ports = super::ports_of(service.as_ref());
        for it in attached {
            let missing = match &it.section {
                None if service.is_none() => format!("there is no Service {name} of TCP ports"),
                Some(section) if !ports.iter().any(|port| port.is_called(section)) => {
                    format!("Service {name} has no port {section}")
                }
                _ => continue,
            };
            warnings.push(missing_target(&it.key, &missing));
        }
        let (mut changed, mut with_policy) = (false, BTreeSet::new());
        for port in ports {
            let of_port =
                attached.iter().filter(|it| it.section.as_deref().is_some_and(|s| port.is_called(s)));
            let of_service = attached.iter().filter(|it| it.section.is_none());
            let policy = join(of_port, warnings);
            let policy = join_under(policy, join(of_service, warnings));
            tell_balancer(port, &policy);
            if policy.health_check.as_ref().is_some_and(|check| !check.is_sendable(&port.policy)) {
                warnings.extend(attached.iter().filter_map(|it| not_in_plain_text(it, port)));
            }
            if policy.is_empty() {
                continue;
            }
            with_policy.insert(port.port);
            let key = (name.clone(), port.port);
            if !next.traffic.get(&key).is_some_and(|old| old.same(&policy)) {
                next.traffic.insert_mut(key, Arc::new(policy));
                changed = true;
            }
        }
        let before = self.traffic.ports.remove(name).unwrap_or_default();
        for port in before.difference(&with_policy) {
            changed |= next.traffic.remove_mut(&(name.clone(), *port));
        }
        if !with_policy.is_empty() {
            self.traffic.ports.insert(name.clone(), with_policy);
        }
        changed
    }
}

impl Traffic {
    /// The policy for `target`, with the state of its last version where that still fits.
    fn compile(&mut self, name: &ObjectName, target: &TargetRef, object: &Arc<Object>) -> Arc<TrafficPolicy> {
        let key = (name.clone(), target.clone());
        let old = self.compiled.get(&key);
        if let Some(old) = old.filter(|old| Arc::ptr_eq(&old.object, object)) {
            return old.policy.clone();
        }
        let Object::TrafficPolicy(raw) = &**object else { return Arc::default() };
        let before = old.and_then(|old| match &*old.object {
            Object::TrafficPolicy(raw) => Some((&raw.spec, &*old.policy)),
            _ => None,
        });
        let policy = Arc::new(TrafficPolicy::compile(name, &raw.spec, before));
        self.compiled.insert(key, Compiled { object: object.clone(), policy: policy.clone() });
        policy
    }
}

fn build_route_traffic(
    subject: &Subject,
    attached: &[Attached],
    next: &mut Snapshot,
    warnings: &mut Vec<(ObjectKey, Warning)>,
) -> bool {
    let old = next.route_traffic.get(subject).cloned();
    if attached.is_empty() {
        return next.route_traffic.remove_mut(subject);
    }
    let mut of_section =
        |section: Option<&str>| join(attached.iter().filter(|it| it.section.as_deref() == section), warnings);
    let route = of_section(None);
    let rules: BTreeSet<&str> = attached.iter().filter_map(|it| it.section.as_deref()).collect();
    let keep = |policy: TrafficPolicy, old: Option<&Arc<TrafficPolicy>>| {
        old.filter(|old| old.same(&policy)).cloned().unwrap_or_else(|| Arc::new(policy))
    };
    let of_rules = rules.into_iter().map(|rule| {
        let policy = join_under(of_section(Some(rule)), route.clone());
        (rule.to_owned(), keep(policy, old.as_ref().and_then(|old| old.rules.get(rule))))
    });
    let rules: BTreeMap<_, _> = of_rules.collect();
    let route = (!route.is_empty()).then(|| keep(route, old.as_ref().and_then(|old| old.route.as_ref())));
    let new = RouteTraffic { route, rules };
    if old.is_some_and(|old| same_route(&old, &new)) {
        return false;
    }
    next.route_traffic.insert_mut(subject.clone(), Arc::new(new));
    true
}

fn same_route(old: &RouteTraffic, new: &RouteTraffic) -> bool {
    let same_own = match (&old.route, &new.route) {
        (Some(old), Some(new)) => Arc::ptr_eq(old, new),
        (None, None) => true,
        _ => false,
    };
    let pairs = || old.rules.iter().zip(&new.rules);
    same_own
        && old.rules.len() == new.rules.len()
        && pairs().all(|((name, old), (other, new))| name == other && Arc::ptr_eq(old, new))
}

/// Policies of one level, the oldest first: what the first has holds, and the others are told so.
fn join<'a>(
    attached: impl Iterator<Item = &'a Attached>,
    warnings: &mut Vec<(ObjectKey, Warning)>,
) -> TrafficPolicy {
    let mut joined = TrafficPolicy::default();
    for it in attached {
        for field in joined.fill(&it.policy) {
            let message = "another TrafficPolicy that is older, or first by name, has this field for the same target and holds: \
                 remove one of the two";
            let warning =
                Warning::new(WarningCode::ConflictingPolicy, &it.key, format!("spec.{field}"), message);
            if !warnings.iter().any(|(_, other)| *other == warning) {
                warnings.push((it.key.clone(), warning));
            }
        }
    }
    joined
}

/// `policy`, and what it lacks of a less specific one.
fn join_under(mut policy: TrafficPolicy, below: TrafficPolicy) -> TrafficPolicy {
    policy.fill(&below);
    policy
}

/// A threshold belongs to the port's endpoints, as all of its clients have them, as those under a rule of their own do, and
/// as routes name them.
fn tell_balancer(port: &ServicePort, policy: &TrafficPolicy) {
    let threshold = policy.panic_threshold.as_deref().copied();
    port.forms().for_each(|form| form.endpoints.health.set_panic_threshold(threshold));
}

/// Parts of groups that are in force otherwise.
fn parts_not_in_force(spec: &TrafficPolicySpec) -> impl Iterator<Item = &'static str> {
    let limits = spec.rate_limit.as_ref();
    let secret = limits.is_some_and(|l| l.global.iter().any(|limit| limit.redis.password_secret.is_some()));
    let parts = [(secret, "rateLimit.global[].redis.passwordSecret")];
    parts.into_iter().filter(|(given, _)| *given).map(|(_, part)| part)
}

fn not_in_force(key: &ObjectKey, field: &str) -> Warning {
    let message = "is not supported by this version: traffic flows as if the field weren't there; passwordFile gives a password";
    Warning::new(WarningCode::UnsupportedFeature, key, format!("spec.{field}"), message)
}

/// The check of a policy that has one, for a port whose DestinationRule asks for TLS that can't be had.
fn not_in_plain_text(it: &Attached, port: &ServicePort) -> Option<(ObjectKey, Warning)> {
    it.policy.health_check.as_ref()?;
    let message = format!(
        "the DestinationRule of Service {} asks on port {} for TLS in a way that isn't supported: no check is made there, as no request \
         is sent; correct the rule, or use tcp, which sends nothing",
        port.service.name, port.port
    );
    let warning = Warning::new(WarningCode::UnsupportedValue, &it.key, "spec.healthCheck", message);
    Some((it.key.clone(), warning))
}

fn missing_target(key: &ObjectKey, missing: &str) -> (ObjectKey, Warning) {
    let message =
        format!("{missing}: the policy holds as soon as there is; correct its targetRefs if that won't be");
    (key.clone(), Warning::new(WarningCode::TargetNotFound, key, "spec.targetRefs", message))
}

#[cfg(test)]
mod tests;

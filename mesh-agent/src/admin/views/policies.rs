//! Policies as `get policies` lists them: what each is for, and whether it holds there.
//!
//! Whether it holds is read off what is in force, which names the policy that it comes from; nothing is decided again.

use std::collections::BTreeSet;

use crate::admin::api::{self, PolicyState, Warning};
use crate::model::{
    ObjectName, PolicyObject, PolicyTarget, Service, ServicePort, Snapshot, WarningCode, Workload,
};
use crate::objects::traffic_policy::TargetKind;
use crate::objects::{Kind, ObjectKey};
use crate::policy::traffic::TrafficPolicy;

/// Every policy in force, a row for each of its targets. `warnings` tell of versions that were refused.
pub fn list(snapshot: &Snapshot, warnings: &[Warning]) -> Vec<api::Policy> {
    let refused: BTreeSet<&str> = warnings
        .iter()
        .filter(|warning| WarningCode::find(&warning.code).is_some_and(WarningCode::keeps_last_valid))
        .map(|warning| warning.object.as_str())
        .collect();
    let mut policies: Vec<_> = snapshot.policies.iter().collect();
    policies.sort_by_key(|(key, _)| (&key.name, key.kind));
    let mut rows = Vec::new();
    for (key, policy) in policies {
        let last_valid = refused.contains(key.to_string().as_str());
        for target in &policy.targets {
            let found = Found::of(snapshot, policy, target);
            rows.push(api::Policy {
                namespace: policy.name.namespace.clone(),
                name: policy.name.name.clone(),
                kind: policy.kind.name().to_owned(),
                target: target.to_string(),
                groups: policy.groups.iter().map(ToString::to_string).collect(),
                state: found.state(),
                message: found.message(policy, last_valid),
                by: found.by.into_iter().collect(),
                last_valid,
            });
        }
    }
    rows
}

/// What became of a policy at one of its targets, for the status of its object too.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PolicyOutcome {
    /// Whether it holds there.
    pub state: PolicyState,
    /// For people; empty where all is well.
    pub message: String,
    /// What holds in its place.
    pub by: Vec<String>,
}

/// What became of `policy` at `target`.
pub fn outcome(snapshot: &Snapshot, policy: &PolicyObject, target: &PolicyTarget) -> PolicyOutcome {
    let found = Found::of(snapshot, policy, target);
    let message = found.message(policy, false);
    PolicyOutcome { state: found.state(), message, by: found.by.into_iter().collect() }
}

/// What became of a policy at a target.
#[derive(Default)]
struct Found {
    /// Why there is nothing to hold for.
    missing: Option<String>,
    /// Groups that hold.
    held: usize,
    /// Groups that don't.
    lost: Vec<&'static str>,
    /// What holds in their place.
    by: BTreeSet<String>,
}

impl Found {
    fn of(snapshot: &Snapshot, policy: &PolicyObject, target: &PolicyTarget) -> Self {
        match target {
            PolicyTarget::Host(host) => destination_rule(snapshot, policy, target, host),
            _ if policy.kind == Kind::AuthorizationPolicy => {
                let compiled = snapshot.authorization.policies.get(&policy.name);
                of_arrivals(snapshot, policy, target, |pod| compiled.is_some_and(|it| it.selects(pod)))
            }
            _ if policy.kind == Kind::RequestAuthentication => {
                let compiled = snapshot.authentication.policies.get(&policy.name);
                of_arrivals(snapshot, policy, target, |pod| compiled.is_some_and(|it| it.selects(pod)))
            }
            PolicyTarget::Pods { .. } => peer_authentication(snapshot, policy, target),
            PolicyTarget::Object { kind, name, section } => {
                let service = || {
                    let service = snapshot.services.get(name)?;
                    Some((service, ports(service, section.as_deref())))
                };
                match (policy.kind, kind.as_str()) {
                    (Kind::TrafficPolicy, "Service") => match service() {
                        Some((_, ports)) if ports.is_empty() && section.is_some() => no_section(target),
                        Some((service, ports)) => of_ports(snapshot, policy, service, &ports),
                        None => Self::missing(format!("there is no Service {name}")),
                    },
                    (Kind::TrafficPolicy, kind) => of_route(snapshot, policy, kind, name, section.as_deref()),
                    (Kind::BackendTlsPolicy, "Service") => match service() {
                        Some((_, ports)) if ports.is_empty() => no_section(target),
                        Some((_, ports)) => backend_tls(policy, &ports),
                        None => Self::missing(format!("there is no Service {name}")),
                    },
                    (_, "Service") => match service() {
                        Some((_, ports)) => backend_policy(policy, &ports),
                        None => Self::missing(format!("there is no Service {name}")),
                    },
                    (_, kind) => Self::missing(format!("{kind} can't have this policy")),
                }
            }
        }
    }

    fn missing(why: String) -> Self {
        Self { missing: Some(why), ..Self::default() }
    }

    fn state(&self) -> PolicyState {
        match (&self.missing, self.held, self.lost.len()) {
            (Some(_), ..) => PolicyState::TargetMissing,
            (None, 0, 1..) => PolicyState::Shadowed,
            (None, _, 1..) => PolicyState::Partly,
            (None, _, 0) => PolicyState::Attached,
        }
    }

    fn message(&self, policy: &PolicyObject, last_valid: bool) -> String {
        let lost = (!self.lost.is_empty() && self.lost.len() < policy.groups.len())
            .then(|| format!("doesn't hold: {}", self.lost.join(", ")));
        let refused =
            last_valid.then(|| "its newest version is invalid: the last valid one is in force".to_owned());
        self.missing.iter().cloned().chain(lost).chain(refused).collect::<Vec<_>>().join("; ")
    }

    /// A group that is decided by `winners`, none if by nobody.
    fn group(&mut self, group: &'static str, own: &ObjectName, kind: Kind, winners: &BTreeSet<&ObjectName>) {
        if winners.contains(own) {
            self.held += 1;
        } else {
            self.lost.push(group);
            self.by.extend(winners.iter().map(|name| format!("{} {name}", kind.name())));
        }
    }
}

fn no_section(target: &PolicyTarget) -> Found {
    Found::missing(format!("there is no {target}"))
}

fn ports<'s>(service: &'s Service, section: Option<&str>) -> Vec<&'s ServicePort> {
    let wanted = |port: &&ServicePort| section.is_none_or(|section| port.is_called(section));
    service.ports.iter().map(|port| &**port).filter(wanted).collect()
}

/// A TrafficPolicy of a Service: a group holds if it does on any of the ports that are meant.
fn of_ports(snapshot: &Snapshot, policy: &PolicyObject, service: &Service, ports: &[&ServicePort]) -> Found {
    let in_force: Vec<_> = ports.iter().filter_map(|port| snapshot.traffic_of(port)).collect();
    if ports.is_empty() {
        return Found::missing(format!("Service {} has no TCP port", service.meta.name));
    }
    by_group(policy, in_force.into_iter().map(|policy| &**policy))
}

/// A TrafficPolicy of a route, or of one of its rules.
fn of_route(
    snapshot: &Snapshot,
    policy: &PolicyObject,
    kind: &str,
    name: &ObjectName,
    section: Option<&str>,
) -> Found {
    let (target, route) = match kind {
        "GRPCRoute" => (TargetKind::GrpcRoute, Kind::GrpcRoute),
        _ => (TargetKind::HttpRoute, Kind::HttpRoute),
    };
    let key = ObjectKey { kind: route, name: name.clone() };
    let Some(status) = snapshot.route_status.get(&key) else {
        return Found::missing(format!("there is no {key}"));
    };
    if let Some(section) = section
        && !status.rule_names.iter().any(|rule| rule == section)
    {
        return Found::missing(format!("{key} has no rule that is named {section}"));
    }
    let in_force = snapshot.route_traffic.get(&(target, name.clone()));
    let in_force = in_force.and_then(|traffic| match section {
        Some(section) => traffic.rules.get(section),
        None => traffic.route.as_ref(),
    });
    by_group(policy, in_force.into_iter().map(|policy| &**policy))
}

fn by_group<'p>(policy: &PolicyObject, in_force: impl Iterator<Item = &'p TrafficPolicy> + Clone) -> Found {
    let mut found = Found::default();
    for group in &policy.groups {
        let winners = in_force.clone().filter_map(|policy| policy.from.get(group)).collect();
        found.group(group, &policy.name, policy.kind, &winners);
    }
    found
}

/// A policy of what arrives at pods holds, as a whole, for every pod that it selects.
fn of_arrivals(
    snapshot: &Snapshot,
    policy: &PolicyObject,
    target: &PolicyTarget,
    selects: impl Fn(&Workload) -> bool,
) -> Found {
    let holds = Found { held: policy.groups.len(), ..Found::default() };
    match target {
        PolicyTarget::Object { kind, name, .. } if kind == "Service" => match snapshot.services.get(name) {
            Some(_) => holds,
            None => Found::missing(format!("there is no Service {name}")),
        },
        PolicyTarget::Pods { .. } if snapshot.workloads.values().any(|pod| selects(pod)) => holds,
        PolicyTarget::Pods { .. } => Found::missing("no pod is selected".to_owned()),
        target => Found::missing(format!("{target} can't have this policy here")),
    }
}

/// One policy holds for all of a Service; its sessions not beside sessionAffinity.
fn backend_policy(policy: &PolicyObject, ports: &[&ServicePort]) -> Found {
    let winners: BTreeSet<_> = ports.iter().filter_map(|port| port.backend_policy.as_ref()).collect();
    let mut found = Found::default();
    if ports.is_empty() {
        return Found::missing("the Service has no TCP port".to_owned());
    }
    for group in &policy.groups {
        let session = *group == "sessionPersistence";
        if session && winners.contains(&policy.name) && ports.iter().all(|port| port.session.is_none()) {
            found.lost.push(group);
            found.by.insert("sessionAffinity of the Service".to_owned());
        } else {
            found.group(group, &policy.name, policy.kind, &winners);
        }
    }
    found
}

/// A BackendTLSPolicy holds, as a whole, if it does for a port, for all clients or some.
fn backend_tls(policy: &PolicyObject, ports: &[&ServicePort]) -> Found {
    let all = || ports.iter().flat_map(|port| port.variants.iter().map(|it| &*it.port).chain([*port]));
    let winners: BTreeSet<_> = all().filter_map(|port| port.policy.tls_policy.as_ref()).collect();
    let mut found = Found::default();
    for group in &policy.groups {
        found.group(group, &policy.name, policy.kind, &winners);
    }
    if winners.is_empty() {
        let rules = all().filter_map(|port| port.policy.rule.as_ref());
        found.by.extend(rules.map(|rule| format!("{} {rule}", Kind::DestinationRule.name())));
    }
    found
}

/// A DestinationRule holds, as a whole, if a Service has it on a port, for all clients or some.
fn destination_rule(snapshot: &Snapshot, policy: &PolicyObject, target: &PolicyTarget, host: &str) -> Found {
    let services: Vec<_> = snapshot.services.values().filter(|service| target.is_of(&service.meta)).collect();
    if services.is_empty() {
        return Found::missing(format!("no Service has the host {host}"));
    }
    let rules = |service: &Service| -> BTreeSet<ObjectName> {
        let ports = service.ports.iter();
        let all = ports.flat_map(|port| port.variants.iter().map(|it| &it.port).chain([port]));
        all.filter_map(|port| port.policy.rule.clone()).collect()
    };
    let in_force: Vec<BTreeSet<ObjectName>> = services.iter().map(|service| rules(service)).collect();
    let holds = in_force.iter().filter(|rules| rules.contains(&policy.name)).count();
    let mut found = Found::default();
    if holds > 0 {
        found.held = policy.groups.len();
    } else {
        found.lost.extend(&policy.groups);
        found.by = in_force.iter().flatten().map(|name| format!("{} {name}", policy.kind.name())).collect();
    }
    found
}

/// A PeerAuthentication's group holds if it does for any pod.
fn peer_authentication(snapshot: &Snapshot, policy: &PolicyObject, target: &PolicyTarget) -> Found {
    let pods: Vec<_> = snapshot.workloads.values().filter(|pod| target.selects(pod)).collect();
    if pods.is_empty() {
        return Found::missing("there is no such pod".to_owned());
    }
    let modes: Vec<_> =
        pods.iter().filter_map(|pod| snapshot.security.get(&pod.name)).map(|it| &it.peers).collect();
    let mut found = Found::default();
    for group in &policy.groups {
        let winners: BTreeSet<&ObjectName> = match *group {
            "mtls" => modes.iter().filter_map(|modes| modes.all.by.as_ref()).collect(),
            _ => modes.iter().flat_map(|modes| &modes.ports).filter_map(|(_, it)| it.by.as_ref()).collect(),
        };
        found.group(group, &policy.name, policy.kind, &winners);
    }
    found
}

#[cfg(test)]
mod tests;

//! What the status of each route and policy should say, from the snapshot and its warnings. Pure.
//!
//! Conditions and reasons are the Gateway API's: RouteParentStatus of routes, PolicyStatus (GEP-713) of policies with their
//! targets as ancestors.

use std::collections::BTreeMap;

use crate::admin::{PolicyState, policy_outcome};
use crate::model::{
    Condition, ObjectName, ParentStatus, PolicyObject, PolicyTarget, RouteStatus, Snapshot, Warning,
    WarningCode,
};
use crate::objects::{Kind, ObjectKey};

const GATEWAY: &str = "gateway.networking.k8s.io";

/// What an object's status should have of ours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// It was understood.
    Known {
        /// Of the object that was looked at; 0 where nothing gave one.
        generation: i64,
        /// One for each parent or target.
        entries: Vec<Entry>,
    },
    /// Its newest version wasn't: each parent and target is told why.
    Invalid {
        /// Why.
        message: String,
    },
}

/// What became of it at one parent or target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Which.
    pub reference: Reference,
    /// Each with its type.
    pub conditions: Vec<(&'static str, Condition)>,
}

/// A parent or target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reference {
    /// API group; empty for the core.
    pub group: &'static str,
    /// Kind.
    pub kind: String,
    /// Namespace and name.
    pub name: ObjectName,
    /// Port.
    pub port: Option<u16>,
    /// Part of it.
    pub section: Option<String>,
}

/// Kinds whose status is ours to write.
pub const fn has_status(kind: Kind) -> bool {
    is_route(kind) || matches!(kind, Kind::TrafficPolicy | Kind::BackendTrafficPolicy)
}

/// Kinds with parents; others have targets.
pub const fn is_route(kind: Kind) -> bool {
    matches!(kind, Kind::HttpRoute | Kind::GrpcRoute | Kind::TlsRoute | Kind::TcpRoute)
}

/// API group of a kind that has a status.
pub const fn group(kind: Kind) -> &'static str {
    match kind {
        Kind::TrafficPolicy => "mesh-agent.dev",
        Kind::BackendTrafficPolicy => "gateway.networking.x-k8s.io",
        _ => GATEWAY,
    }
}

/// Every object with a status, and what that should say.
pub fn all(snapshot: &Snapshot, warnings: &[Warning]) -> BTreeMap<ObjectKey, Wanted> {
    let routes = snapshot.route_status.iter().map(|(key, status)| (key.clone(), route(status)));
    let policies = snapshot.policies.iter().filter(|(key, _)| has_status(key.kind));
    let policies = policies.map(|(key, object)| (key.clone(), policy(snapshot, object)));
    let mut all: BTreeMap<ObjectKey, Wanted> = routes.chain(policies).collect();
    for (key, warning) in refused(warnings) {
        let serves = if all.contains_key(&key) { "; its last valid version stays in force" } else { "" };
        let message = format!("{} {}: {}{serves}", warning.code, warning.field, warning.message);
        all.insert(key, Wanted::Invalid { message });
    }
    all
}

fn route(status: &RouteStatus) -> Wanted {
    let entry = |parent: &ParentStatus| {
        let partly = parent.partially_invalid.clone().map(|condition| ("PartiallyInvalid", condition));
        let known = [("Accepted", parent.accepted.clone()), ("ResolvedRefs", parent.resolved_refs.clone())];
        Entry {
            reference: Reference {
                group: "",
                kind: "Service".to_owned(),
                name: parent.service.clone(),
                port: parent.port,
                section: parent.section.clone(),
            },
            conditions: known.into_iter().chain(partly).collect(),
        }
    };
    Wanted::Known { generation: status.generation, entries: status.parents.iter().map(entry).collect() }
}

fn policy(snapshot: &Snapshot, policy: &PolicyObject) -> Wanted {
    let entry = |target: &PolicyTarget| {
        let PolicyTarget::Object { kind, name, section } = target else { return None };
        let reference = Reference {
            group: if kind == "Service" { "" } else { GATEWAY },
            kind: kind.clone(),
            name: name.clone(),
            port: None,
            section: section.clone(),
        };
        Some(Entry { reference, conditions: vec![("Accepted", accepted(snapshot, policy, target))] })
    };
    let entries = policy.targets.iter().filter_map(entry).collect();
    Wanted::Known { generation: policy.generation, entries }
}

/// With the reasons of PolicyConditionReason (GEP-713).
fn accepted(snapshot: &Snapshot, policy: &PolicyObject, target: &PolicyTarget) -> Condition {
    let found = policy_outcome(snapshot, policy, target);
    let message = match found.by.as_slice() {
        [] => found.message,
        by if found.message.is_empty() => format!("in its place: {}", by.join(", ")),
        by => format!("{}; in its place: {}", found.message, by.join(", ")),
    };
    match found.state {
        PolicyState::Attached | PolicyState::Partly => {
            Condition { status: true, reason: "Accepted".to_owned(), message }
        }
        PolicyState::Shadowed => Condition::bad("Conflicted", message),
        PolicyState::TargetMissing => Condition::bad("TargetNotFound", message),
    }
}

/// Objects whose newest version was refused; the first reason of each.
fn refused(warnings: &[Warning]) -> BTreeMap<ObjectKey, &Warning> {
    let mut refused = BTreeMap::new();
    for warning in warnings {
        let keeps = WarningCode::find(&warning.code).is_some_and(WarningCode::keeps_last_valid);
        if let Some(key) = key(&warning.object).filter(|_| keeps) {
            refused.entry(key).or_insert(warning);
        }
    }
    refused
}

/// Of `KIND NAMESPACE/NAME`, as warnings name objects.
fn key(object: &str) -> Option<ObjectKey> {
    const KINDS: [Kind; 6] = [
        Kind::HttpRoute,
        Kind::GrpcRoute,
        Kind::TlsRoute,
        Kind::TcpRoute,
        Kind::TrafficPolicy,
        Kind::BackendTrafficPolicy,
    ];
    let (kind, name) = object.split_once(' ')?;
    let (namespace, name) = name.split_once('/')?;
    let kind = KINDS.into_iter().find(|known| known.name() == kind)?;
    Some(ObjectKey { kind, name: ObjectName::new(namespace, name) })
}

//! What the status of each route and policy should say, from the snapshot and its warnings. Pure.
//!
//! Conditions and reasons are the Gateway API's: RouteParentStatus of routes, PolicyStatus (GEP-713) of policies with their
//! targets as ancestors. Objects of Istio's kinds get one condition of a type of our own. What `analyze` says of an object, but
//! notes, is in its conditions' messages.

use std::collections::BTreeMap;

use crate::admin::{PolicyState, policy_outcome};
use crate::model::{
    Condition, ObjectName, ParentStatus, PolicyObject, PolicyTarget, RouteStatus, Severity, Snapshot,
    Warning, WarningCode,
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
    /// Of Istio's kinds: the object as a whole.
    Whole {
        /// Of the object that was looked at; none for its newest version.
        generation: Option<i64>,
        /// Whether it is in force.
        accepted: Condition,
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

/// Every kind with a status of ours, and its API group.
const KINDS: [(Kind, &str); 12] = [
    (Kind::HttpRoute, GATEWAY),
    (Kind::GrpcRoute, GATEWAY),
    (Kind::TlsRoute, GATEWAY),
    (Kind::TcpRoute, GATEWAY),
    (Kind::TrafficPolicy, "mesh-agent.dev"),
    (Kind::BackendTrafficPolicy, "gateway.networking.x-k8s.io"),
    (Kind::BackendTlsPolicy, GATEWAY),
    (Kind::AuthorizationPolicy, "security.istio.io"),
    (Kind::PeerAuthentication, "security.istio.io"),
    (Kind::RequestAuthentication, "security.istio.io"),
    (Kind::DestinationRule, "networking.istio.io"),
    (Kind::ServiceEntry, "networking.istio.io"),
];

/// Kinds with parents.
pub const fn is_route(kind: Kind) -> bool {
    matches!(kind, Kind::HttpRoute | Kind::GrpcRoute | Kind::TlsRoute | Kind::TcpRoute)
}

/// Kinds whose status has conditions of its own, as Istio's do; others have parents or targets, each with conditions.
pub const fn is_whole(kind: Kind) -> bool {
    matches!(
        kind,
        Kind::AuthorizationPolicy
            | Kind::PeerAuthentication
            | Kind::RequestAuthentication
            | Kind::DestinationRule
            | Kind::ServiceEntry
    )
}

/// API group of a kind that has a status.
pub fn group(kind: Kind) -> &'static str {
    KINDS.iter().find(|(known, _)| *known == kind).map_or(GATEWAY, |(_, group)| group)
}

/// Every object with a status, and what that should say.
pub fn all(snapshot: &Snapshot, warnings: &[Warning]) -> BTreeMap<ObjectKey, Wanted> {
    let found = findings(warnings);
    let of = |key: &ObjectKey| found.get(key).map(Vec::as_slice).unwrap_or_default();
    let mut all = BTreeMap::new();
    for (key, status) in snapshot.route_status.iter() {
        all.insert(key.clone(), route(status, of(key)));
    }
    for (key, object) in snapshot.policies.iter() {
        let wanted = match is_whole(key.kind) {
            true => whole(object.generation, of(key)),
            false => policy(snapshot, object, of(key)),
        };
        all.insert(key.clone(), wanted);
    }
    for (key, generation) in snapshot.entries.iter() {
        all.insert(key.clone(), whole(*generation, of(key)));
    }
    for (key, findings) in &found {
        if !findings.iter().any(|warning| refuses(warning)) {
            continue;
        }
        let serves = if all.contains_key(key) { "; its last valid version stays in force" } else { "" };
        let message = format!("{}{serves}", texts(findings));
        let wanted = match is_whole(key.kind) {
            true => Wanted::Whole { generation: None, accepted: Condition::bad("Invalid", message) },
            false => Wanted::Invalid { message },
        };
        all.insert(key.clone(), wanted);
    }
    all
}

/// An object of Istio's kinds: what is wrong with it, and by what in the first place.
fn whole(generation: i64, findings: &[&Warning]) -> Wanted {
    let message = texts(findings);
    let error = findings.iter().find(|warning| warning.severity() == Severity::Error);
    let accepted = match error {
        Some(error) => {
            let code = WarningCode::find(&error.code);
            Condition::bad(&code.map_or_else(|| "Invalid".to_owned(), |code| format!("{code:?}")), message)
        }
        None => Condition { status: true, reason: "Accepted".to_owned(), message },
    };
    Wanted::Whole { generation: Some(generation), accepted }
}

fn texts(findings: &[&Warning]) -> String {
    findings.iter().map(|warning| text(warning)).collect::<Vec<_>>().join("; ")
}

fn text(warning: &Warning) -> String {
    let Warning { code, field, message, .. } = warning;
    if field.is_empty() { format!("{code}: {message}") } else { format!("{code} {field}: {message}") }
}

/// Tells what no condition tells yet.
fn remark(entries: &mut [Entry], findings: &[&Warning]) {
    for warning in findings {
        let mut conditions = entries.iter().flat_map(|entry| &entry.conditions);
        if conditions.any(|(_, condition)| condition.message.contains(&warning.message)) {
            continue;
        }
        for (kind, condition) in entries.iter_mut().flat_map(|entry| &mut entry.conditions) {
            if *kind == "Accepted" {
                let apart = if condition.message.is_empty() { "" } else { "; " };
                condition.message = format!("{}{apart}{}", condition.message, text(warning));
            }
        }
    }
}

fn route(status: &RouteStatus, findings: &[&Warning]) -> Wanted {
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
    let mut entries: Vec<Entry> = status.parents.iter().map(entry).collect();
    remark(&mut entries, findings);
    Wanted::Known { generation: status.generation, entries }
}

fn policy(snapshot: &Snapshot, policy: &PolicyObject, findings: &[&Warning]) -> Wanted {
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
    let mut entries: Vec<Entry> = policy.targets.iter().filter_map(entry).collect();
    remark(&mut entries, findings);
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

/// What is wrong with each object, but notes; the worst comes first.
fn findings(warnings: &[Warning]) -> BTreeMap<ObjectKey, Vec<&Warning>> {
    let mut found: BTreeMap<ObjectKey, Vec<&Warning>> = BTreeMap::new();
    for warning in warnings.iter().filter(|warning| warning.severity() <= Severity::Warning) {
        if let Some(key) = key(&warning.object) {
            found.entry(key).or_default().push(warning);
        }
    }
    found.values_mut().for_each(|all| all.sort_by_key(|warning| warning.severity()));
    found
}

/// True if the newest version of the object isn't in force for it.
fn refuses(warning: &Warning) -> bool {
    WarningCode::find(&warning.code).is_some_and(WarningCode::keeps_last_valid)
}

/// Of `KIND NAMESPACE/NAME`, as warnings name objects.
fn key(object: &str) -> Option<ObjectKey> {
    let (kind, name) = object.split_once(' ')?;
    let (namespace, name) = name.split_once('/')?;
    let (kind, _) = KINDS.into_iter().find(|(known, _)| known.name() == kind)?;
    Some(ObjectKey { kind, name: ObjectName::new(namespace, name) })
}

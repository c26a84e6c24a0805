//! What became of a route: whether each parent took it, and whether all that it refers to can be used.
//!
//! Filled by `model::build` with the conditions and reasons of the Gateway API (RouteConditionType,
//! RouteConditionReason), read by `get routes`.

use serde::{Deserialize, Serialize};

use super::ObjectName;

/// One route object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RouteStatus {
    /// `HTTPRoute`, `GRPCRoute`, `TLSRoute` or `TCPRoute`.
    pub kind: &'static str,
    /// The route.
    pub name: ObjectName,
    /// `metadata.generation` of what was looked at; 0 where nothing gave one.
    pub generation: i64,
    /// Number of its rules.
    pub rules: usize,
    /// Names of those that have one.
    pub rule_names: Vec<String>,
    /// One for each of its parents that is a Service; parents of other kinds are other controllers' business.
    pub parents: Vec<ParentStatus>,
}

/// One parent of a route.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParentStatus {
    /// The Service.
    pub service: ObjectName,
    /// The port, where the parentRef names one.
    pub port: Option<u16>,
    /// The port's name, where the parentRef says it (`sectionName`).
    pub section: Option<String>,
    /// True for a route of the Service's own namespace, whose rules hold for clients of every namespace.
    pub producer: bool,
    /// `Accepted`.
    pub accepted: Condition,
    /// `PartiallyInvalid`, where it is true: some rules can't be served.
    pub partially_invalid: Option<Condition>,
    /// `ResolvedRefs`.
    pub resolved_refs: Condition,
}

/// A condition's status, with its reason.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Condition {
    /// `True` or `False`.
    pub status: bool,
    /// One word of the Gateway API's.
    pub reason: String,
    /// For people; empty where all is well.
    pub message: String,
}

impl Condition {
    /// All is well.
    pub fn good(reason: &str) -> Self {
        Self { status: true, reason: reason.to_owned(), message: String::new() }
    }

    /// Something isn't.
    pub fn bad(reason: &str, message: impl Into<String>) -> Self {
        Self { status: false, reason: reason.to_owned(), message: message.into() }
    }
}

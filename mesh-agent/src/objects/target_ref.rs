//! Whom a policy of Istio is for: pods by their labels, or targets by name; never both.

use serde::Deserialize;

use super::field::nullable;
use super::{FieldError, WorkloadSelector};

/// One of `targetRefs`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct TargetRef {
    /// API group; empty for the core.
    #[serde(default, deserialize_with = "nullable")]
    pub group: String,
    /// Kind.
    pub kind: String,
    /// Name.
    pub name: String,
    /// Only the policy's own is possible.
    #[serde(default)]
    pub namespace: Option<String>,
}

impl TargetRef {
    /// True for a core Service, the only kind whose pods the agent knows.
    pub fn is_service(&self) -> bool {
        (self.group.is_empty() || self.group == "core") && self.kind == "Service"
    }
}

/// What Istio's validation refuses of a `selector`, a `targetRef` and `targetRefs`.
pub(super) fn check(
    selector: Option<&WorkloadSelector>,
    one: Option<&TargetRef>,
    more: &[TargetRef],
) -> Result<(), FieldError> {
    let refuse = |field: &str, message: &str| Err(FieldError::new(field, message));
    let named = usize::from(one.is_some()) + usize::from(!more.is_empty());
    if named + usize::from(selector.is_some()) > 1 {
        return refuse("spec.selector", "selector, targetRef and targetRefs exclude each other: keep one");
    }
    for (at, target) in one.into_iter().chain(more).enumerate() {
        if target.name.is_empty() || target.kind.is_empty() {
            return refuse(&format!("spec.targetRefs[{at}]"), "needs a kind and a name");
        }
        if target.namespace.as_ref().is_some_and(|namespace| !namespace.is_empty()) {
            let field = format!("spec.targetRefs[{at}].namespace");
            return refuse(&field, "a policy is for targets of its own namespace: remove the field");
        }
    }
    for (label, value) in selector.into_iter().flat_map(|selector| &selector.match_labels) {
        if label.is_empty() || label.contains('*') || value.contains('*') {
            return refuse(
                "spec.selector.matchLabels",
                "labels are written out: no empty key and no wildcard",
            );
        }
    }
    Ok(())
}

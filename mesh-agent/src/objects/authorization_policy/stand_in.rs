//! What stands in for a policy that has no valid version: it allows nothing, so that a mistake never opens what the policy was
//! written to close.
//!
//! Made by `source` of the document as far as it can be understood, and in force only while no valid version is.

use serde_yaml_ng::Value;

use super::{Action, AuthorizationPolicy, AuthorizationPolicySpec, RuleSpec};
use crate::objects::{Metadata, WorkloadSelector};

impl AuthorizationPolicy {
    /// Of a document that isn't valid. A selector that can't be read selects all that the policy could; an ALLOW allows
    /// nothing, an AUDIT does nothing, and everything else denies whatever it selects. None: its name can't be read either.
    pub fn stand_in(document: &Value) -> Option<Self> {
        let metadata: Metadata = serde_yaml_ng::from_value(document.get("metadata")?.clone()).ok()?;
        metadata.validate().ok()?;
        let spec = document.get("spec");
        let field = |name: &str| spec.and_then(|spec| spec.get(name)).filter(|value| !value.is_null());
        let action = match field("action").map(Value::as_str) {
            None | Some(Some("ALLOW")) => Action::Allow,
            Some(Some("AUDIT")) => Action::Audit,
            Some(_) => Action::Deny,
        };
        let selector = field("selector")
            .and_then(|selector| serde_yaml_ng::from_value::<WorkloadSelector>(selector.clone()).ok());
        let target_refs = match field("targetRefs") {
            Some(targets) if selector.is_none() => {
                serde_yaml_ng::from_value(targets.clone()).unwrap_or_default()
            }
            _ => Vec::new(),
        };
        let rules = match action {
            Action::Deny => vec![RuleSpec::default()],
            Action::Allow | Action::Audit | Action::Custom => Vec::new(),
        };
        let spec = AuthorizationPolicySpec { selector, target_refs, rules, action, ..Default::default() };
        Some(Self { metadata, spec, notes: Vec::new(), stands_in: true })
    }
}

//! Which rule of which policy, in the words that logs, metrics and people use.

use std::sync::Arc;

use crate::model::ObjectName;
use crate::objects::Action;

/// A rule's name; made when its policy is compiled, shared by everything that speaks of it.
#[derive(Debug, PartialEq, Eq)]
pub struct RuleName {
    /// The policy.
    pub policy: ObjectName,
    /// Place among its rules.
    pub rule: usize,
    /// What it does.
    pub action: Action,
    /// It isn't enforced.
    pub dry_run: bool,
    /// Who is asked, for CUSTOM.
    pub provider: Option<Box<str>>,
    /// `NAMESPACE/NAME`, for metrics.
    pub policy_label: Box<str>,
    /// The rule's number, for metrics.
    pub rule_label: Box<str>,
    /// Envoy's `%RESPONSE_CODE_DETAILS%` for what it denies.
    pub details: Arc<str>,
}

/// Envoy's words for what no policy allows.
pub const NONE_MATCHED: &str = "rbac_access_denied_matched_policy[none]";

impl RuleName {
    /// Of a policy's rule.
    pub fn new(
        policy: &ObjectName,
        rule: usize,
        action: Action,
        dry_run: bool,
        provider: Option<&str>,
    ) -> Self {
        let ObjectName { namespace, name } = policy;
        Self {
            policy: policy.clone(),
            rule,
            action,
            dry_run,
            provider: provider.map(Into::into),
            policy_label: policy.to_string().into(),
            rule_label: rule.to_string().into(),
            details: format!(
                "rbac_access_denied_matched_policy[ns[{namespace}]-policy[{name}]-rule[{rule}]]"
            )
            .into(),
        }
    }
}

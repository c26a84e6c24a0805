//! What stands in for a RequestAuthentication that has no valid version: no token holds where it would, and no client can send
//! the headers that it would set.
//!
//! Made by `source` of the document as far as it can be understood, and in force only while no valid version is. Requests
//! without a token pass as they would: whether they may is said by AuthorizationPolicies.

use serde_yaml_ng::Value;

use super::{JwtRule, RequestAuthentication, RequestAuthenticationSpec};
use crate::objects::{Metadata, WorkloadSelector};

impl RequestAuthentication {
    /// Of a document that isn't valid. A selector that can't be read selects all that the policy could. None: its name can't
    /// be read either.
    pub fn stand_in(document: &Value) -> Option<Self> {
        let metadata: Metadata = serde_yaml_ng::from_value(document.get("metadata")?.clone()).ok()?;
        metadata.validate().ok()?;
        let spec = document.get("spec");
        let field = |name: &str| spec.and_then(|spec| spec.get(name)).filter(|value| !value.is_null());
        let selector = field("selector")
            .and_then(|selector| serde_yaml_ng::from_value::<WorkloadSelector>(selector.clone()).ok());
        let target_refs = match field("targetRefs") {
            Some(targets) if selector.is_none() => {
                serde_yaml_ng::from_value(targets.clone()).unwrap_or_default()
            }
            _ => Vec::new(),
        };
        let written = field("jwtRules").and_then(Value::as_sequence).map(Vec::as_slice).unwrap_or_default();
        let mut jwt_rules: Vec<JwtRule> = written.iter().map(rule).collect();
        if jwt_rules.is_empty() {
            jwt_rules.push(JwtRule::default());
        }
        let spec = RequestAuthenticationSpec { selector, target_ref: None, target_refs, jwt_rules };
        Some(Self { metadata, spec, notes: Vec::new(), stands_in: true })
    }
}

/// Places and headers, as far as they can be read. Nothing else of the rule counts.
fn rule(written: &Value) -> JwtRule {
    fn list<T: serde::de::DeserializeOwned>(rule: &Value, field: &str) -> Vec<T> {
        let items = rule.get(field).and_then(Value::as_sequence).map(Vec::as_slice).unwrap_or_default();
        items.iter().filter_map(|item| serde_yaml_ng::from_value(item.clone()).ok()).collect()
    }
    JwtRule {
        from_headers: list(written, "fromHeaders"),
        from_params: list(written, "fromParams"),
        from_cookies: list(written, "fromCookies"),
        output_payload_to_header: written
            .get("outputPayloadToHeader")
            .and_then(Value::as_str)
            .unwrap_or_default()
            .to_owned(),
        output_claim_to_headers: list(written, "outputClaimToHeaders"),
        ..JwtRule::default()
    }
}

//! RequestAuthentication (security.istio.io): whose tokens count at the pods that it selects.
//!
//! Only what the object says, checked by itself as Istio's validation does; `model::build` compiles it for workloads, `crate::jwt`
//! judges tokens by it. A field that isn't known is noted with its place, and its rule then lets no token hold: it may have
//! been meant to let fewer.

mod fields;
mod stand_in;
mod validate;

use std::collections::BTreeMap;

use serde::Deserialize;

use super::field::nullable;
use super::shape::FieldNote;
use super::{FieldError, GoDuration, Metadata, TargetRef, WorkloadSelector};

/// What is read of a RequestAuthentication.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct RequestAuthentication {
    /// Metadata.
    pub metadata: Metadata,
    /// `spec`.
    #[serde(default, deserialize_with = "nullable")]
    pub spec: RequestAuthenticationSpec,
    /// Fields without effect, found by [`RequestAuthentication::note_fields`].
    #[serde(skip)]
    pub notes: Vec<FieldNote>,
    /// It stands in for an object without any valid version, and lets no token hold.
    #[serde(skip)]
    pub stands_in: bool,
}

/// `spec`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RequestAuthenticationSpec {
    /// The pods that it is for, by their labels.
    #[serde(default)]
    pub selector: Option<WorkloadSelector>,
    /// One target, as older versions have it.
    #[serde(default)]
    pub target_ref: Option<TargetRef>,
    /// What it is for, by name.
    #[serde(default, deserialize_with = "nullable")]
    pub target_refs: Vec<TargetRef>,
    /// Whose tokens count; any rule may let one hold.
    #[serde(default, deserialize_with = "nullable")]
    pub jwt_rules: Vec<JwtRule>,
}

/// One of `jwtRules`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct JwtRule {
    /// The claim `iss`; empty for any, where `jwksUri` is given.
    #[serde(default, deserialize_with = "nullable")]
    pub issuer: String,
    /// One of these in the claim `aud`; empty for any.
    #[serde(default, deserialize_with = "nullable")]
    pub audiences: Vec<String>,
    /// Where the issuer's keys are; where neither this nor `jwks` is given, the issuer's OpenID configuration says it.
    #[serde(default, alias = "jwks_uri", deserialize_with = "nullable")]
    pub jwks_uri: String,
    /// The issuer's keys.
    #[serde(default, deserialize_with = "nullable")]
    pub jwks: String,
    /// Headers that carry the token.
    #[serde(default, deserialize_with = "nullable")]
    pub from_headers: Vec<JwtHeader>,
    /// Query parameters that carry the token.
    #[serde(default, deserialize_with = "nullable")]
    pub from_params: Vec<String>,
    /// Cookies that carry the token.
    #[serde(default, deserialize_with = "nullable")]
    pub from_cookies: Vec<String>,
    /// Gets the token's claims as they stand in it.
    #[serde(default, deserialize_with = "nullable")]
    pub output_payload_to_header: String,
    /// Get a claim each.
    #[serde(default, deserialize_with = "nullable")]
    pub output_claim_to_headers: Vec<ClaimToHeader>,
    /// The application gets the token too.
    #[serde(default, deserialize_with = "nullable")]
    pub forward_original_token: bool,
    /// For fetching keys; 5 s.
    #[serde(default)]
    pub timeout: Option<GoDuration>,
    /// Claims that are lists delimited by spaces, besides `scope` and `permission`.
    #[serde(default, deserialize_with = "nullable")]
    pub space_delimited_claims: Vec<String>,
}

/// One of `fromHeaders`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct JwtHeader {
    /// Name.
    pub name: String,
    /// What stands before the token.
    #[serde(default, deserialize_with = "nullable")]
    pub prefix: String,
}

/// One of `outputClaimToHeaders`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct ClaimToHeader {
    /// Gets it.
    pub header: String,
    /// The claim, or the path to one that is nested.
    pub claim: String,
}

impl RequestAuthentication {
    /// Its namespace.
    pub fn namespace(&self) -> &str {
        self.metadata.namespace.as_deref().unwrap_or("default")
    }

    /// What `targetRef` and `targetRefs` name.
    pub fn targets(&self) -> impl Iterator<Item = &TargetRef> {
        self.spec.target_ref.iter().chain(&self.spec.target_refs)
    }

    /// Labels that a pod must carry, where it isn't for what targets name.
    pub fn labels(&self) -> Option<&BTreeMap<String, String>> {
        self.spec.selector.as_ref().map(|selector| &selector.match_labels)
    }

    /// Takes note of the fields in `document`, the object as it was written, that have no effect.
    pub fn note_fields(&mut self, document: &serde_yaml_ng::Value) {
        if let Some(spec) = document.get("spec") {
            self.notes = fields::SPEC.notes("spec", spec);
        }
    }

    /// True if the rule at `index` says all that it was meant to say: no field in it, or beside `jwtRules`, is unknown.
    pub fn is_understood(&self, index: usize) -> bool {
        let own = format!("spec.jwtRules[{index}].");
        let within =
            |note: &FieldNote| note.field.starts_with(&own) || !note.field.starts_with("spec.jwtRules[");
        !self.stands_in && !self.notes.iter().any(within)
    }

    /// As Istio's validation.
    ///
    /// # Errors
    /// With the first field that its API doesn't allow.
    pub fn validate(&self) -> Result<(), FieldError> {
        if self.stands_in { Ok(()) } else { validate::policy(&self.spec) }
    }
}

#[cfg(test)]
mod tests;

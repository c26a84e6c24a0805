//! AuthorizationPolicy (security.istio.io): who may call what, decided where the traffic arrives.
//!
//! Only what the object says, checked by itself as Istio's validation does; `crate::authz` compiles it for workloads, and
//! `model::build` finds those that it selects. A field that isn't known is noted with its place, so that its rule fails closed
//! and never counts as if nothing had been meant by it.

mod condition;
mod fields;
mod stand_in;
mod validate;

use std::collections::BTreeMap;

use serde::Deserialize;

pub use condition::ConditionKey;

use super::field::nullable;
use super::shape::FieldNote;
use super::{FieldError, Metadata, TargetRef, WorkloadSelector};

/// Asks for a policy to be judged and counted, but not enforced (Istio, "Dry Run").
const DRY_RUN: &str = "istio.io/dry-run";

/// What is read of an AuthorizationPolicy.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct AuthorizationPolicy {
    /// Metadata.
    pub metadata: Metadata,
    /// `spec`.
    #[serde(default, deserialize_with = "nullable")]
    pub spec: AuthorizationPolicySpec,
    /// Fields without effect, found by [`AuthorizationPolicy::note_fields`].
    #[serde(skip)]
    pub notes: Vec<FieldNote>,
    /// It stands in for an object without any valid version, and allows nothing.
    #[serde(skip)]
    pub stands_in: bool,
}

/// `spec`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AuthorizationPolicySpec {
    /// The pods that it is for, by their labels.
    #[serde(default)]
    pub selector: Option<WorkloadSelector>,
    /// One target, as older versions have it.
    #[serde(default)]
    pub target_ref: Option<TargetRef>,
    /// What it is for, by name.
    #[serde(default, deserialize_with = "nullable")]
    pub target_refs: Vec<TargetRef>,
    /// It matches what one of them matches.
    #[serde(default, deserialize_with = "nullable")]
    pub rules: Vec<RuleSpec>,
    /// What becomes of what matches.
    #[serde(default, deserialize_with = "nullable")]
    pub action: Action,
    /// Who is asked, for `CUSTOM`.
    #[serde(default)]
    pub provider: Option<Provider>,
}

/// `action`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Action {
    /// What matches is let through, everything else isn't.
    #[default]
    Allow,
    /// What matches is refused.
    Deny,
    /// What matches is noted.
    Audit,
    /// Somebody else is asked about what matches.
    Custom,
}

impl Action {
    /// As it is written.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Allow => "ALLOW",
            Self::Deny => "DENY",
            Self::Audit => "AUDIT",
            Self::Custom => "CUSTOM",
        }
    }
}

/// `provider`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Provider {
    /// Name of an extension provider.
    pub name: String,
}

/// One of `rules`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct RuleSpec {
    /// Where from; none for anywhere.
    #[serde(default)]
    pub from: Option<Vec<FromSpec>>,
    /// What; none for anything.
    #[serde(default)]
    pub to: Option<Vec<ToSpec>>,
    /// Conditions, all of which have to hold.
    #[serde(default, deserialize_with = "nullable")]
    pub when: Vec<WhenSpec>,
}

/// One of `from`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct FromSpec {
    /// The source.
    pub source: SourceSpec,
}

/// One of `to`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct ToSpec {
    /// The operation.
    pub operation: OperationSpec,
}

macro_rules! lists {
    ($(#[$doc:meta])* $name:ident { $($(#[$field_doc:meta])* $field:ident,)+ }) => {
        $(#[$doc])*
        #[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
        #[serde(rename_all = "camelCase")]
        pub struct $name {
            $($(#[$field_doc])* #[serde(default, deserialize_with = "nullable")] pub $field: Vec<String>,)+
        }

        impl $name {
            /// Every list with its name in this crate's spelling.
            pub fn lists(&self) -> impl Iterator<Item = (&'static str, &[String])> {
                [$((stringify!($field), self.$field.as_slice())),+].into_iter()
            }
        }
    };
}

lists! {
    /// `source`: all lists that are given have to fit, each by one of its values.
    SourceSpec {
        /// Identities.
        principals,
        /// None of these identities.
        not_principals,
        /// Identities of tokens.
        request_principals,
        /// None of these identities of tokens.
        not_request_principals,
        /// Namespaces, by the identity.
        namespaces,
        /// None of these namespaces.
        not_namespaces,
        /// Service accounts, by the identity.
        service_accounts,
        /// None of these service accounts.
        not_service_accounts,
        /// Addresses of the peer.
        ip_blocks,
        /// None of these addresses of the peer.
        not_ip_blocks,
        /// Addresses of the client behind trusted proxies.
        remote_ip_blocks,
        /// None of these addresses of the client.
        not_remote_ip_blocks,
    }
}

lists! {
    /// `operation`: all lists that are given have to fit, each by one of its values.
    OperationSpec {
        /// Hosts that are asked for.
        hosts,
        /// None of these hosts.
        not_hosts,
        /// Ports of the workload.
        ports,
        /// None of these ports.
        not_ports,
        /// Methods.
        methods,
        /// None of these methods.
        not_methods,
        /// Paths.
        paths,
        /// None of these paths.
        not_paths,
    }
}

/// One of `when`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct WhenSpec {
    /// What is looked at.
    pub key: String,
    /// It is one of these.
    #[serde(default, deserialize_with = "nullable")]
    pub values: Vec<String>,
    /// It is none of these.
    #[serde(default, deserialize_with = "nullable")]
    pub not_values: Vec<String>,
}

impl AuthorizationPolicy {
    /// Its namespace.
    pub fn namespace(&self) -> &str {
        self.metadata.namespace.as_deref().unwrap_or("default")
    }

    /// True if it is judged but not enforced.
    pub fn is_dry_run(&self) -> bool {
        // As Go's strconv.ParseBool, by which Istio reads it.
        let value = self.metadata.annotation(DRY_RUN);
        value.is_some_and(|value| matches!(value, "1" | "t" | "T" | "true" | "TRUE" | "True"))
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

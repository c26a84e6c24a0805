//! What the admin API says of policies: each with what it is for, and what holds of them where.

use serde::{Deserialize, Serialize};

views! {
    /// A policy and one of its targets: `GET /v1/policies`.
    Policy {
        /// Namespace of the policy.
        namespace: String,
        /// Policy.
        name: String,
        /// `BackendTLSPolicy`, `DestinationRule`, `PeerAuthentication`, `TrafficPolicy` or `XBackendTrafficPolicy`.
        kind: String,
        /// `KIND NAMESPACE/NAME`, with `:SECTION` where a part of it is named; `host HOST` of a DestinationRule; `pods of
        /// NAMESPACE with LABELS`.
        target: String,
        /// Fields that the policy gives, each of which holds or doesn't as a whole.
        groups: Vec<String>,
        /// Whether they hold for the target.
        state: PolicyState,
        /// What holds in place of those that don't, `KIND NAMESPACE/NAME`.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        by: Vec<String>,
        /// The newest version is invalid, and the last valid one in force.
        #[serde(default)]
        last_valid: bool,
        /// For people; empty where all is well.
        #[serde(default, skip_serializing_if = "String::is_empty")]
        message: String,
    }
    /// One thing that holds for requests or connections, and the object that says so.
    InForce {
        /// What, in a word or two.
        what: String,
        /// How.
        how: String,
        /// `KIND NAMESPACE/NAME`.
        from: String,
    }
    /// Which connections ports of a pod accept.
    PortMode {
        /// None for all that have no line of their own.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        port: Option<u16>,
        /// `STRICT`, `PERMISSIVE` or `DISABLE`.
        mode: String,
        /// The PeerAuthentication that says so; empty for the default.
        #[serde(default, skip_serializing_if = "String::is_empty")]
        from: String,
    }
    /// The same, with where it holds.
    PortPolicy {
        /// Namespace of the Service.
        namespace: String,
        /// Service.
        service: String,
        /// Its port.
        port: u16,
        /// Namespace of the clients that it holds for; empty for all.
        #[serde(default, skip_serializing_if = "String::is_empty")]
        clients: String,
        /// `KIND NAMESPACE/NAME, rule RULE` for requests by that rule alone; empty for all of the port's.
        #[serde(default, skip_serializing_if = "String::is_empty")]
        rule: String,
        /// What holds.
        #[serde(flatten)]
        holds: InForce,
    }
}

/// Whether a policy holds for a target.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PolicyState {
    /// All that it gives.
    Attached,
    /// Some of it.
    Partly,
    /// Nothing: other policies hold in its place.
    Shadowed,
    /// The target isn't there.
    TargetMissing,
}

impl PolicyState {
    /// For tables.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Attached => "attached",
            Self::Partly => "partly",
            Self::Shadowed => "shadowed",
            Self::TargetMissing => "target-missing",
        }
    }
}

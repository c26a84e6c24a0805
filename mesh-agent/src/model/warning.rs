//! Everything that can be wrong with configuration, by number, and what a report of it says.
//!
//! Numbers are part of the interface (`mesh_agent_config_warnings{code}`, `config validate`, docs/warnings.md): never
//! reused, never renumbered. `source` reports what it can't read, `model::build` what doesn't fit together.

use std::fmt;

macro_rules! codes {
    ($( $name:ident = $code:literal, $doc:literal; )+) => {
        /// The kinds of warnings.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum WarningCode { $( #[doc = $doc] $name, )+ }

        impl WarningCode {
            /// Every code, in order.
            pub const ALL: &'static [Self] = &[$(Self::$name),+];

            /// The number as people see it.
            pub const fn code(self) -> &'static str {
                match self { $(Self::$name => $code),+ }
            }
            /// One sentence for the documentation: what it means and what the agent does.
            pub const fn doc(self) -> &'static str {
                match self { $(Self::$name => $doc),+ }
            }
        }
    };
}

codes! {
    DirectoryUnavailable = "MESH0101", "The source directory doesn't exist or can't be listed; what was read before stays in force and the agent keeps looking.";
    FileUnreadable = "MESH0102", "A file can't be read; what it said before stays in force.";
    FileNotUtf8 = "MESH0103", "A file isn't UTF-8 text; what it said before stays in force.";
    FileTooLarge = "MESH0104", "A file is larger than the limit; what it said before stays in force.";
    BrokenYaml = "MESH0105", "A document isn't valid YAML or JSON; the other documents are used and the last valid version of this one stays in force.";
    NotAnObject = "MESH0106", "A document has no apiVersion, kind or metadata.name, or a name that Kubernetes wouldn't accept; it is left out.";
    UnknownKind = "MESH0107", "A document's kind is none that the agent reads; it is left out.";
    UnsupportedKind = "MESH0108", "A kind that the mesh will use but this version doesn't support; it has no effect.";
    InvalidField = "MESH0109", "A field has the wrong type or a value that its API doesn't allow; the last valid version of the object stays in force.";
    InvalidPort = "MESH0110", "A port isn't a number from 1 to 65535; the last valid version of the object stays in force.";
    InvalidAddress = "MESH0111", "An address isn't an IP address that a pod or service can have; the last valid version of the object stays in force.";
    DuplicateObject = "MESH0112", "Two documents define the same object; the first, by file name and place in the file, is used.";
    SliceWithoutService = "MESH0113", "An EndpointSlice belongs to no known Service; it is used as soon as the Service is there.";
    DuplicateVip = "MESH0114", "Two Services claim the same virtual IP and port; the oldest, then the first by name, has it.";
    DuplicatePodAddress = "MESH0115", "Two Pods have the same address; the first by name has it.";
    NetnsMissing = "MESH0116", "A Pod asks for capture but its network namespace can't be known; it isn't captured.";
    HostNetwork = "MESH0117", "A Pod on the host's network asks for capture; it can't be captured without capturing the node.";
    UnknownValue = "MESH0118", "A label, annotation or open-ended field has a value that means nothing here; its default is used.";
    UnsupportedFeature = "MESH0119", "A feature of a supported kind isn't supported by this version; the message says what happens instead.";
    DuplicateNetns = "MESH0120", "Two Pods of this node name the same network namespace; the first by name is captured.";
    FileNotClosed = "MESH0121", "A file is being written and hasn't been closed; what it said before stays in force until it is.";
    UnknownField = "MESH0122", "A field that its kind doesn't have, in an object whose every field is read; the rest of the object serves.";
    UnknownParent = "MESH0123", "A route's parentRef names a Service, or a port of one, that isn't there, can't be a parent or declares a protocol that this kind of route doesn't decide about; the route is attached as soon as it can be.";
    BackendNotFound = "MESH0124", "A backendRef names a Service, or a subset of one, that isn't there; its share of the requests is answered with 500, of connections refused, until it is.";
    BackendPortNotFound = "MESH0125", "A backendRef names a port that its Service doesn't have; its share of the requests is answered with 500, of connections refused.";
    ReferenceNotPermitted = "MESH0126", "A backendRef names a Service of another namespace without a ReferenceGrant there; its share of the requests is answered with 500, of connections refused.";
    UnsupportedReference = "MESH0127", "A backendRef, parentRef or extensionRef names a kind, or a backendRef a port of a protocol, that can't be used there; what depends on it is answered with 500.";
    RuleWithoutBackend = "MESH0128", "No backend of a rule has a weight above 0, and it doesn't redirect; its requests are answered with 500, its connections refused.";
    RuleUnreachable = "MESH0129", "Every match of a rule already belongs to a rule of higher precedence; the rule gets no request.";
    DuplicateMatch = "MESH0130", "A match already belongs to a rule of higher precedence, which gets its requests.";
    RouteKindConflict = "MESH0131", "Routes of several kinds are attached to one service port; only those of the most specific kind hold, in the order GRPCRoute, HTTPRoute, TLSRoute, TCPRoute.";
    UnsupportedValue = "MESH0132", "A field of a route or policy has no meaning for a Service or isn't supported; the message says what happens instead.";
    TargetNotFound = "MESH0133", "A policy names a target that isn't there; it holds as soon as the target is.";
    ConflictingPolicy = "MESH0134", "Two policies say different things of the same target; the oldest, then the first by name, holds for the fields that both give.";
    HostNotFound = "MESH0135", "A DestinationRule names a host that no Service or ServiceEntry has; it has no effect until one has.";
    RuleConflict = "MESH0136", "Two DestinationRules of a namespace set a traffic policy for the same host; the oldest one's, then the first by name, is used.";
    ForeignKind = "MESH0137", "A document is of a kind that other controllers act on and the agent has no part in; it is left out.";
    Contradiction = "MESH0138", "Parts of a route or policy, each of them valid, can't both be had; the message says what happens instead.";
    SessionAffinity = "MESH0139", "Sessions are asked for on a Service with sessionAffinity ClientIP, which excludes them; the route isn't attached, a policy's sessions aren't kept.";
    TlsFileUnusable = "MESH0140", "A certificate or key file that a DestinationRule names can't be read or used; those read before stay in force, else connections are refused.";
    HostConflict = "MESH0141", "Two objects of a namespace make a service of the same host; a Service, then the oldest ServiceEntry, then the first by name, is used.";
    NameUnresolved = "MESH0142", "A ServiceEntry's host or endpoint can't be resolved; the last good answer stays in force, and without one it has no endpoint.";
    RuleClosed = "MESH0143", "A field or condition of an AuthorizationPolicy or RequestAuthentication isn't known or supported; an ALLOW rule with it never matches, any other matches as if it weren't there; by a JWT rule with it no token holds.";
    PolicyClosed = "MESH0144", "An AuthorizationPolicy or RequestAuthentication has no valid version; it allows nothing, a DENY or CUSTOM denies all that it may select, and no token holds by it.";
    SelectsNothing = "MESH0145", "An AuthorizationPolicy or RequestAuthentication selects no pod that the agent knows; it does nothing until there is one.";
    AllowsNothing = "MESH0146", "An AuthorizationPolicy with action ALLOW has no rules; what it selects is denied to everybody whom no other policy allows.";
    HttpOnBytes = "MESH0147", "A rule of an AuthorizationPolicy asks for what only requests have at a port that carries bytes; an ALLOW never matches there, a DENY matches as if that part weren't there.";
    AllowsAnonymous = "MESH0148", "An ALLOW rule excludes identities and asks for none; it lets in clients of which nothing proves who they are.";
    PathNotNormal = "MESH0149", "A path of an AuthorizationPolicy isn't written as paths of requests are judged; it may never match.";
    NoKeySource = "MESH0150", "A JWT rule names no keys, and its issuer is no URL whose OpenID configuration could; no token of it holds.";
    KeysNotFetched = "MESH0151", "The keys of a JWT rule can't be fetched; those fetched before stay in force, and without them no token of it holds.";
    DuplicateIssuer = "MESH0152", "Two JWT rules that hold for the same pods have the same issuer; a token that holds by either is accepted.";
    ProviderUnknown = "MESH0153", "An AuthorizationPolicy with action CUSTOM names a provider that the agent's configuration file doesn't have; what its rules match is refused.";
    ProvidersConflict = "MESH0154", "AuthorizationPolicies with action CUSTOM that select one pod name different providers; what their rules match is refused there.";
    ApiServerUnavailable = "MESH0155", "The API server can't be watched; what it said last stays in force, and it is tried again until it answers.";
    ResourceUnavailable = "MESH0156", "The API server doesn't let the agent read a resource, or doesn't serve one that every Kubernetes has; what was read of it stays in force, and an agent that has read nothing of it doesn't get ready.";
    AuthorityUnusable = "MESH0157", "A BackendTLSPolicy names a ConfigMap that isn't there or has no authority's certificate in ca.crt, or has no valid version; without any authority connections to its target are refused.";
    IssuerUnusable = "MESH0201", "The issuer of certificates can't be used as the settings have it: a file, a root or a socket is missing or wrong; certificates that were issued serve until they expire.";
    CertificateNotRenewed = "MESH0202", "Half of a certificate's remaining life is over and its renewal fails; it serves until it expires, then connections are refused.";
    NoCertificate = "MESH0203", "A service account with pods on this node has no certificate, or an expired one; its connections between nodes are refused, never sent in plain text.";
}

/// How much a warning matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Something that was asked for isn't in force.
    Error,
    /// It is in force, but maybe not as it was meant.
    Warning,
    /// It settles by itself, or is worth knowing.
    Info,
}

impl WarningCode {
    /// The code with this number; a newer agent may have more.
    pub fn find(code: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|known| known.code() == code)
    }

    /// True if a document that is refused for it may have an earlier version in force.
    pub const fn keeps_last_valid(self) -> bool {
        matches!(
            self,
            Self::BrokenYaml
                | Self::UnknownKind
                | Self::InvalidField
                | Self::InvalidPort
                | Self::InvalidAddress
        )
    }

    /// How much it matters: a warning, unless it is listed here.
    pub const fn severity(self) -> Severity {
        match self {
            Self::DirectoryUnavailable
            | Self::ApiServerUnavailable
            | Self::ResourceUnavailable
            | Self::FileUnreadable
            | Self::FileNotUtf8
            | Self::FileTooLarge
            | Self::BrokenYaml
            | Self::NotAnObject
            | Self::UnsupportedKind
            | Self::InvalidField
            | Self::InvalidPort
            | Self::InvalidAddress
            | Self::NetnsMissing
            | Self::HostNetwork
            | Self::UnknownParent
            | Self::BackendNotFound
            | Self::BackendPortNotFound
            | Self::ReferenceNotPermitted
            | Self::UnsupportedReference
            | Self::RouteKindConflict
            | Self::SessionAffinity
            | Self::TlsFileUnusable
            | Self::AuthorityUnusable
            | Self::RuleClosed
            | Self::PolicyClosed
            | Self::NoKeySource
            | Self::KeysNotFetched
            | Self::ProviderUnknown
            | Self::ProvidersConflict
            | Self::IssuerUnusable
            | Self::NoCertificate => Severity::Error,
            Self::SliceWithoutService | Self::FileNotClosed | Self::ForeignKind | Self::AllowsNothing => {
                Severity::Info
            }
            _ => Severity::Warning,
        }
    }
}

/// One thing wrong with the configuration. The mesh serves on without it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Warning {
    /// Number, as in [`WarningCode`].
    pub code: String,
    /// Kind, namespace and name; empty where a file as a whole is meant.
    pub object: String,
    /// Path of the field, empty for the whole object.
    pub field: String,
    /// `FILE:LINE`, or `FILE`, or the API server's name for itself.
    pub origin: String,
    /// What was expected, what happens now, what to do.
    pub message: String,
}

impl Warning {
    /// A warning whose origin is filled in by the source.
    pub fn new(
        code: WarningCode,
        object: impl fmt::Display,
        field: impl Into<String>,
        message: impl Into<String>,
    ) -> Self {
        Self {
            code: code.code().to_owned(),
            object: object.to_string(),
            field: field.into(),
            origin: String::new(),
            message: message.into(),
        }
    }

    /// How much it matters, by its code.
    pub fn severity(&self) -> Severity {
        WarningCode::find(&self.code).map_or(Severity::Warning, WarningCode::severity)
    }

    /// The same, found at `origin`.
    pub fn at(mut self, origin: impl Into<String>) -> Self {
        self.origin = origin.into();
        self
    }
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.code)?;
        for part in [&self.origin, &self.object, &self.field].into_iter().filter(|part| !part.is_empty()) {
            write!(f, " {part}")?;
        }
        write!(f, ": {}", self.message)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_documentation_says_the_same() {
        let row = |code: &WarningCode| format!("| `{}` | {code:?} | {} |", code.code(), code.doc());
        crate::docs::check("warnings.md", &WarningCode::ALL.iter().map(row).collect::<Vec<_>>());
    }

    #[test]
    fn the_documentation_names_every_code_that_is_more_or_less_than_a_warning() {
        let text = include_str!("../../../docs/warnings.md");
        for (severity, start) in [(Severity::Error, "- **error**"), (Severity::Info, "- **info**")] {
            let line = text.lines().find(|line| line.starts_with(start)).unwrap_or_default();
            let named: Vec<&str> = line.split('`').filter(|part| part.starts_with("MESH")).collect();
            let codes = WarningCode::ALL.iter().filter(|code| code.severity() == severity);
            assert_eq!(named, codes.map(|code| code.code()).collect::<Vec<_>>(), "{severity:?}");
        }
    }

    #[test]
    fn codes_are_unique_numbered_in_order_and_documented() {
        let mut next = [1, 1];
        for code in WarningCode::ALL {
            // 01: of objects; 02: of certificates.
            let block = if code.code().starts_with("MESH01") { 0 } else { 1 };
            assert_eq!(code.code(), format!("MESH{:02}{:02}", block + 1, next[block]));
            next[block] += 1;
            assert!(code.doc().ends_with('.'), "{}", code.code());
        }
    }
}

//! TCPRoute: where connections go that aren't carried as requests.

use serde::Deserialize;

use super::field::nullable;
use super::gateway::{
    BackendRef, List, ParentRef, SectionName, check_parents, check_stream_backends, each, unique,
};
use super::http_route::DefaultGateways;
use super::{FieldError, Metadata};

/// What is read of a TCPRoute.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TcpRoute {
    #[serde(default)]
    api_version: String,
    /// Metadata.
    pub metadata: Metadata,
    /// `spec`.
    pub spec: TcpRouteSpec,
}

/// What is read of `spec`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TcpRouteSpec {
    /// What it attaches to.
    #[serde(default, deserialize_with = "nullable")]
    pub parent_refs: List<ParentRef, 0, 32>,
    /// One rule; up to 16 in v1alpha2, of which the first has every connection.
    pub rules: List<StreamRuleSpec, 1, 16>,
    /// For Gateways.
    #[serde(default)]
    pub use_default_gateways: Option<DefaultGateways>,
}

/// A rule of a TCPRoute or TLSRoute.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct StreamRuleSpec {
    /// Name.
    #[serde(default)]
    pub name: Option<SectionName>,
    /// Where connections go.
    pub backend_refs: List<BackendRef, 1, 16>,
}

impl TcpRoute {
    /// The CRD's rules between fields.
    pub fn validate(&self) -> Result<(), FieldError> {
        check_parents(&self.spec.parent_refs)
            .and_then(|()| check_rules(&self.spec.rules, &self.api_version))
            .map_err(|error| error.within("spec"))
    }
}

/// Only v1alpha2 had several rules.
pub(super) fn check_rules(rules: &[StreamRuleSpec], api_version: &str) -> Result<(), FieldError> {
    if rules.len() > 1 && !api_version.ends_with("/v1alpha2") {
        let message = format!("{} rules in {api_version}: expected one", rules.len());
        return Err(FieldError::new("rules", message));
    }
    unique("rules", rules, ".name", |rule| rule.name.as_deref().map(str::to_owned))?;
    each("rules", rules, |rule| check_stream_backends(&rule.backend_refs))
}

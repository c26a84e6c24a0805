//! TLSRoute: where TLS connections go that the agent passes through, by server name.

use std::net::IpAddr;

use serde::Deserialize;

use super::field::nullable;
use super::gateway::{HostPattern, List, ParentRef, check_parents, each};
use super::http_route::DefaultGateways;
use super::tcp_route::{StreamRuleSpec, check_rules};
use super::{FieldError, Metadata};

/// What is read of a TLSRoute.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TlsRoute {
    #[serde(default)]
    api_version: String,
    /// Metadata.
    pub metadata: Metadata,
    /// `spec`.
    pub spec: TlsRouteSpec,
}

/// What is read of `spec`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TlsRouteSpec {
    /// What it attaches to.
    #[serde(default, deserialize_with = "nullable")]
    pub parent_refs: List<ParentRef, 0, 32>,
    /// Server names; none, which v1alpha2 allows, stands for any.
    #[serde(default, deserialize_with = "nullable")]
    pub hostnames: List<HostPattern, 0, 1024>,
    /// One rule; up to 16 in v1alpha2, of which the first has every connection.
    pub rules: List<StreamRuleSpec, 1, 16>,
    /// For Gateways.
    #[serde(default)]
    pub use_default_gateways: Option<DefaultGateways>,
}

impl TlsRoute {
    /// The CRD's rules between fields.
    pub fn validate(&self) -> Result<(), FieldError> {
        self.check().map_err(|error| error.within("spec"))
    }

    fn check(&self) -> Result<(), FieldError> {
        let spec = &self.spec;
        check_parents(&spec.parent_refs)?;
        if !self.api_version.ends_with("/v1alpha2") {
            if spec.hostnames.is_empty() {
                return Err(FieldError::new("hostnames", "missing: name the servers that this route is for"));
            }
            each("hostnames", &spec.hostnames, |host| match host.parse::<IpAddr>() {
                Ok(ip) => Err(FieldError::new("", format!("{ip} is no server name: expected a host name"))),
                Err(_) => Ok(()),
            })?;
        }
        check_rules(&spec.rules, &self.api_version)
    }
}

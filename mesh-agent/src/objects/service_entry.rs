//! ServiceEntry (networking.istio.io): services that aren't Kubernetes Services, such as those outside the cluster.
//!
//! Only what the object says, checked by itself as Istio's validation does; `model::build` makes a service of each host, whose
//! names `crate::names` follows.

mod endpoint;
mod network;

use std::collections::BTreeSet;

use serde::Deserialize;

pub use endpoint::EntryEndpoint;
pub use network::Network;

use super::field::{PortNumber, nullable};
use super::shape::FieldNote;
use super::shape::Shape::{self, Fields, List, Read, Unsupported};
use super::{FieldError, Metadata};

/// What is read of a ServiceEntry.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct ServiceEntry {
    /// Metadata.
    pub metadata: Metadata,
    /// `spec`.
    pub spec: ServiceEntrySpec,
    /// Fields without effect, found by [`ServiceEntry::note_fields`].
    #[serde(skip)]
    pub notes: Vec<FieldNote>,
}

/// `spec`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ServiceEntrySpec {
    /// Host names, each a service of its own.
    pub hosts: Vec<String>,
    /// What clients dial; empty where it follows from the endpoints.
    #[serde(default, deserialize_with = "nullable")]
    pub addresses: Vec<Network>,
    /// Ports.
    #[serde(default, deserialize_with = "nullable")]
    pub ports: Vec<EntryPort>,
    /// Inside the mesh or outside of it.
    #[serde(default, deserialize_with = "nullable")]
    pub location: Location,
    /// How endpoints are found.
    #[serde(default, deserialize_with = "nullable")]
    pub resolution: Resolution,
    /// Endpoints, by address or name.
    #[serde(default, deserialize_with = "nullable")]
    pub endpoints: Vec<EntryEndpoint>,
    /// Namespaces whose clients see it; empty for all.
    #[serde(default, deserialize_with = "nullable")]
    pub export_to: Vec<String>,
    /// Names of which the hosts' certificates have one.
    #[serde(default, deserialize_with = "nullable")]
    pub subject_alt_names: Vec<String>,
}

/// One of `ports`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct EntryPort {
    /// What clients dial.
    pub number: PortNumber,
    /// Name.
    pub name: String,
    /// What it speaks; empty to find out.
    #[serde(default, deserialize_with = "nullable")]
    pub protocol: String,
    /// The endpoints' port, where it is another.
    #[serde(default)]
    pub target_port: Option<PortNumber>,
}

/// `location`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
pub enum Location {
    /// Outside.
    #[default]
    #[serde(rename = "MESH_EXTERNAL")]
    External,
    /// Inside, such as on a virtual machine.
    #[serde(rename = "MESH_INTERNAL")]
    Internal,
}

/// `resolution`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Resolution {
    /// The address that was dialled.
    #[default]
    None,
    /// The addresses under `endpoints`.
    Static,
    /// Every address that the names have.
    Dns,
    /// The first address of the newest answer.
    DnsRoundRobin,
}

impl Resolution {
    /// True if names are resolved.
    pub fn asks_dns(self) -> bool {
        matches!(self, Self::Dns | Self::DnsRoundRobin)
    }
}

const LABELS: &str =
    "no rule can name a subset of the endpoints, and failoverPriority knows labels of pods only";

/// `networking/v1alpha3/service_entry.proto` and `workload_entry.proto` of istio/api.
const SPEC: Shape = Fields(&[
    ("hosts", Read),
    ("addresses", Read),
    ("ports", List(&Fields(&[("number", Read), ("name", Read), ("protocol", Read), ("targetPort", Read)]))),
    ("location", Read),
    ("resolution", Read),
    (
        "endpoints",
        List(&Fields(&[
            ("address", Read),
            ("ports", Read),
            ("labels", Unsupported(LABELS)),
            ("network", Unsupported("the endpoint is reached directly, whatever network it is in")),
            ("locality", Read),
            ("weight", Read),
            ("serviceAccount", Unsupported("the endpoint has no identity that is checked")),
        ])),
    ),
    ("workloadSelector", Unsupported("no endpoint is selected by labels: list them under endpoints")),
    ("exportTo", Read),
    ("subjectAltNames", Read),
]);

impl ServiceEntry {
    /// Its namespace.
    pub fn namespace(&self) -> &str {
        self.metadata.namespace.as_deref().unwrap_or("default")
    }

    /// Takes note of the fields in `document`, the object as it was written, that have no effect.
    pub fn note_fields(&mut self, document: &serde_yaml_ng::Value) {
        if let Some(spec) = document.get("spec") {
            self.notes = SPEC.notes("spec", spec);
        }
    }

    /// Names that have to be resolved for `host`: the endpoints', and its own where that says something that nothing else does.
    pub fn names(&self, host: &str) -> BTreeSet<String> {
        if !self.spec.resolution.asks_dns() {
            return BTreeSet::new();
        }
        let named = self.spec.endpoints.iter().filter_map(EntryEndpoint::name);
        let mut names: BTreeSet<String> = named.map(str::to_ascii_lowercase).collect();
        // What it is dialled by, and where no endpoints are given, where it is.
        if (self.spec.endpoints.is_empty() || self.spec.addresses.is_empty()) && !host.starts_with('*') {
            names.insert(host.to_owned());
        }
        names
    }

    /// As Istio's validation (`ValidateServiceEntry`).
    pub fn validate(&self) -> Result<(), FieldError> {
        let spec = &self.spec;
        if spec.hosts.is_empty() {
            return Err(FieldError::new("spec.hosts", "is empty: expected at least one host name"));
        }
        let mut hosts = BTreeSet::new();
        for (at, host) in spec.hosts.iter().enumerate() {
            let error = |message: &str| Err(FieldError::new(format!("spec.hosts[{at}]"), message));
            if !is_host(host) {
                let shown: String = host.chars().take(64).collect();
                return error(&format!(
                    "{shown:?} isn't a host: expected a name such as api.example.com or *.example.com"
                ));
            }
            if !hosts.insert(host.to_ascii_lowercase()) {
                return error("is given twice");
            }
            if host.starts_with('*') && spec.resolution.asks_dns() && spec.endpoints.is_empty() {
                return error(
                    "a wildcard can't be resolved: name hosts, give endpoints, or use resolution NONE",
                );
            }
        }
        self.validate_ports()?;
        if spec.resolution.asks_dns() && spec.addresses.iter().any(|network| network.single().is_none()) {
            return Err(FieldError::new("spec.addresses", "ranges are for resolution NONE and STATIC only"));
        }
        self.validate_endpoints()
    }

    fn validate_ports(&self) -> Result<(), FieldError> {
        let (mut numbers, mut names) = (BTreeSet::new(), BTreeSet::new());
        if self.spec.ports.is_empty() {
            return Err(FieldError::new("spec.ports", "is empty: expected at least one port"));
        }
        for (at, port) in self.spec.ports.iter().enumerate() {
            if !numbers.insert(port.number.0) {
                let message = format!("{} is given twice", port.number.0);
                return Err(FieldError::new(format!("spec.ports[{at}].number"), message));
            }
            if port.name.is_empty() || !names.insert(&port.name) {
                let message =
                    format!("{:?} is given twice or empty: every port needs a name of its own", port.name);
                return Err(FieldError::new(format!("spec.ports[{at}].name"), message));
            }
        }
        Ok(())
    }

    fn validate_endpoints(&self) -> Result<(), FieldError> {
        let spec = &self.spec;
        let error = |message: &str| Err(FieldError::new("spec.endpoints", message));
        match spec.resolution {
            Resolution::None if !spec.endpoints.is_empty() => {
                return error("resolution NONE goes to the address that was dialled: leave endpoints out");
            }
            Resolution::DnsRoundRobin if spec.endpoints.len() > 1 => {
                return error("resolution DNS_ROUND_ROBIN takes one endpoint at most");
            }
            _ => {}
        }
        for (at, endpoint) in spec.endpoints.iter().enumerate() {
            let path = format!("spec.endpoints[{at}]");
            endpoint.validate(spec.resolution.asks_dns()).map_err(|error| error.within(&path))?;
            let known = |name: &&String| spec.ports.iter().any(|port| port.name == **name);
            if let Some(unknown) = endpoint.ports.keys().find(|name| !known(name)) {
                let message = format!("{unknown:?} isn't the name of one of spec.ports");
                return Err(FieldError::new(format!("{path}.ports"), message));
            }
        }
        Ok(())
    }
}

/// A host name, whose first part may be a wildcard; `*` alone is refused, as by Istio.
fn is_host(host: &str) -> bool {
    let name = host.strip_prefix("*.").unwrap_or(host);
    host.len() <= 253 && name.split('.').all(is_label)
}

fn is_label(label: &str) -> bool {
    !label.is_empty()
        && label.len() <= 63
        && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
}

#[cfg(test)]
mod tests;

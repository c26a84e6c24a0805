//! Service: virtual addresses, ports and how their traffic is to be spread.

use std::collections::HashSet;
use std::fmt;
use std::net::IpAddr;

use serde::Deserialize;
use serde::de::{Deserializer, Error, Visitor};

use super::field::{PortNumber, TargetPort, nullable, parse_ip};
use super::{FieldError, Metadata, TransportProtocol};

/// What is read of a Service.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Service {
    /// Metadata.
    pub metadata: Metadata,
    /// `spec`.
    #[serde(default, deserialize_with = "nullable")]
    pub spec: ServiceSpec,
}

/// What is read of `spec`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ServiceSpec {
    /// `type`.
    #[serde(rename = "type", default, deserialize_with = "nullable")]
    pub kind: ServiceKind,
    #[serde(rename = "clusterIP", default, deserialize_with = "nullable")]
    cluster_ip: ClusterIp,
    #[serde(rename = "clusterIPs", default, deserialize_with = "nullable")]
    cluster_ips: Vec<ClusterIp>,
    /// Ports.
    #[serde(default, deserialize_with = "nullable")]
    pub ports: Vec<ServicePortSpec>,
    /// Stickiness.
    #[serde(default, deserialize_with = "nullable")]
    pub session_affinity: SessionAffinity,
    #[serde(default, deserialize_with = "nullable")]
    session_affinity_config: AffinityConfig,
    /// Which nodes' endpoints serve clients inside the cluster.
    #[serde(default, deserialize_with = "nullable")]
    pub internal_traffic_policy: TrafficPolicy,
    /// A preference that this version doesn't follow.
    #[serde(default)]
    pub traffic_distribution: Option<String>,
}

/// `spec.type`. All but the last have cluster addresses or endpoints.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
pub enum ServiceKind {
    /// The default.
    #[default]
    #[serde(rename = "ClusterIP")]
    ClusterIp,
    /// A cluster address and a port on every node.
    NodePort,
    /// A cluster address and one of the cloud's.
    LoadBalancer,
    /// A DNS alias.
    ExternalName,
}

/// One of `clusterIPs`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ClusterIp {
    /// Not assigned.
    #[default]
    Empty,
    /// `None`: headless.
    Headless,
    /// An address.
    Ip(IpAddr),
}

/// `sessionAffinity`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
pub enum SessionAffinity {
    /// Every connection or request for itself.
    #[default]
    None,
    /// By client address.
    #[serde(rename = "ClientIP")]
    ClientIp,
}

/// `internalTrafficPolicy`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
pub enum TrafficPolicy {
    /// Every endpoint.
    #[default]
    Cluster,
    /// Endpoints of the client's node only.
    Local,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
struct AffinityConfig {
    #[serde(rename = "clientIP", default, deserialize_with = "nullable")]
    client_ip: ClientIpConfig,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
struct ClientIpConfig {
    #[serde(default)]
    timeout_seconds: Option<u32>,
}

/// One of `spec.ports`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ServicePortSpec {
    /// Name, empty for the only port of a service.
    #[serde(default, deserialize_with = "nullable")]
    pub name: String,
    /// Number.
    pub port: PortNumber,
    /// Transport.
    #[serde(default, deserialize_with = "nullable")]
    pub protocol: TransportProtocol,
    /// What it speaks.
    #[serde(default)]
    pub app_protocol: Option<String>,
    #[serde(default)]
    target_port: Option<TargetPort>,
}

/// Kubernetes' default for `sessionAffinityConfig.clientIP.timeoutSeconds`.
const AFFINITY_SECONDS: u32 = 10800;

impl Service {
    /// `spec.clusterIPs`, or `spec.clusterIP` where only that is given.
    pub fn vips(&self) -> Vec<IpAddr> {
        let mut vips = Vec::new();
        for ip in std::iter::once(&self.spec.cluster_ip).chain(&self.spec.cluster_ips) {
            if let ClusterIp::Ip(ip) = ip
                && !vips.contains(ip)
            {
                vips.push(*ip);
            }
        }
        vips
    }

    /// `clusterIP: None`.
    pub fn is_headless(&self) -> bool {
        self.spec.cluster_ip == ClusterIp::Headless
            || self.spec.cluster_ips.first() == Some(&ClusterIp::Headless)
    }

    /// How long a client stays with its endpoint, if it does. Seconds.
    pub fn affinity_seconds(&self) -> Option<u32> {
        let configured = self.spec.session_affinity_config.client_ip.timeout_seconds;
        (self.spec.session_affinity == SessionAffinity::ClientIp)
            .then(|| configured.unwrap_or(AFFINITY_SECONDS))
    }

    /// Ports are told apart by number and transport, and by name where there are several.
    pub fn validate(&self) -> Result<(), FieldError> {
        let (mut numbers, mut names) = (HashSet::new(), HashSet::new());
        for (i, port) in self.spec.ports.iter().enumerate() {
            if !numbers.insert((port.port.0, port.protocol as u8)) {
                return Err(FieldError::new(
                    format!("spec.ports[{i}].port"),
                    format!("{} is given twice for the same protocol", port.port.0),
                ));
            }
            if self.spec.ports.len() > 1 && port.name.is_empty() {
                return Err(FieldError::new(
                    format!("spec.ports[{i}].name"),
                    "is needed where there are several ports",
                ));
            }
            if !names.insert(&port.name) {
                return Err(FieldError::new(
                    format!("spec.ports[{i}].name"),
                    format!("{:?} is given twice", port.name),
                ));
            }
        }
        Ok(())
    }
}

impl<'de> Deserialize<'de> for ClusterIp {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct ClusterIpVisitor;
        impl Visitor<'_> for ClusterIpVisitor {
            type Value = ClusterIp;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an IPv4 or IPv6 address or None")
            }
            fn visit_str<E: Error>(self, value: &str) -> Result<ClusterIp, E> {
                match value {
                    "" => Ok(ClusterIp::Empty),
                    "None" => Ok(ClusterIp::Headless),
                    _ => parse_ip(value).map(ClusterIp::Ip).map_err(E::custom),
                }
            }
        }
        deserializer.deserialize_str(ClusterIpVisitor)
    }
}

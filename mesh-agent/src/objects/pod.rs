//! Pod: where a workload runs, as whom, and at which addresses.

mod probe;

use std::net::IpAddr;

use serde::Deserialize;

pub use self::probe::{Lifecycle, ProbeSpec};
use super::field::{Ip, PortNumber, nullable};
use super::{FieldError, Metadata, TransportProtocol};
use crate::model::PortProbe;

/// Annotation of the Pods that stand for static pods in the API server.
pub const MIRROR: &str = "kubernetes.io/config.mirror";

/// What is read of a Pod.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Pod {
    /// Metadata.
    pub metadata: Metadata,
    /// `spec`.
    #[serde(default, deserialize_with = "nullable")]
    pub spec: PodSpec,
    /// `status`.
    #[serde(default, deserialize_with = "nullable")]
    pub status: PodStatus,
}

/// What is read of `spec`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PodSpec {
    /// Node it runs on.
    #[serde(default, deserialize_with = "nullable")]
    pub node_name: String,
    /// Empty means `default`.
    #[serde(default, deserialize_with = "nullable")]
    pub service_account_name: String,
    /// On the node's own network.
    #[serde(default, deserialize_with = "nullable")]
    pub host_network: bool,
    /// Containers, for their ports and probes.
    #[serde(default, deserialize_with = "nullable")]
    pub containers: Vec<Container>,
    /// Of these some go on beside the others, and are probed.
    #[serde(default, deserialize_with = "nullable")]
    pub init_containers: Vec<Container>,
}

/// What is read of a container.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Container {
    /// `ports`.
    #[serde(default, deserialize_with = "nullable")]
    pub ports: Vec<ContainerPort>,
    /// `livenessProbe`.
    #[serde(default)]
    pub liveness_probe: Option<Box<ProbeSpec>>,
    /// `readinessProbe`.
    #[serde(default)]
    pub readiness_probe: Option<Box<ProbeSpec>>,
    /// `startupProbe`.
    #[serde(default)]
    pub startup_probe: Option<Box<ProbeSpec>>,
    /// `lifecycle`.
    #[serde(default)]
    pub lifecycle: Option<Box<Lifecycle>>,
}

impl Container {
    fn port_named(&self, name: &str) -> Option<u16> {
        let port = self.ports.iter().find(|port| port.name == name)?;
        Some(port.container_port.0)
    }
}

/// One of a container's ports.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ContainerPort {
    /// Name, empty for none.
    #[serde(default, deserialize_with = "nullable")]
    pub name: String,
    /// Number.
    pub container_port: PortNumber,
    /// Transport.
    #[serde(default, deserialize_with = "nullable")]
    pub protocol: TransportProtocol,
}

/// What is read of `status`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PodStatus {
    /// `Succeeded` and `Failed` pods have given their address back.
    #[serde(default, deserialize_with = "nullable")]
    pub phase: PodPhase,
    #[serde(rename = "podIP", default, deserialize_with = "empty_is_none")]
    pod_ip: Option<Ip>,
    #[serde(rename = "podIPs", default, deserialize_with = "nullable")]
    pod_ips: Vec<PodIp>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
struct PodIp {
    ip: Ip,
}

/// `status.phase`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
pub enum PodPhase {
    /// No container runs yet.
    Pending,
    /// The usual; also where a directory says nothing.
    #[default]
    Running,
    /// All containers ended well.
    Succeeded,
    /// All containers ended, one badly.
    Failed,
    /// The node doesn't answer.
    Unknown,
}

impl Pod {
    /// `metadata.uid`: another pod of its name has another.
    pub fn uid(&self) -> Option<&str> {
        self.metadata.uid.as_deref().filter(|uid| !uid.is_empty())
    }

    /// `status.podIPs`, or `status.podIP` where only that is given.
    pub fn addresses(&self) -> Vec<IpAddr> {
        let mut addresses: Vec<IpAddr> = self.status.pod_ip.iter().map(|ip| ip.0).collect();
        for PodIp { ip } in &self.status.pod_ips {
            if !addresses.contains(&ip.0) {
                addresses.push(ip.0);
            }
        }
        addresses
    }

    /// False once the pod has ended and its address may belong to another.
    pub fn is_live(&self) -> bool {
        !matches!(self.status.phase, PodPhase::Succeeded | PodPhase::Failed)
    }

    /// TCP ports by name.
    pub fn tcp_ports(&self) -> Vec<(String, u16)> {
        let ports = self.spec.containers.iter().flat_map(|container| &container.ports);
        ports
            .filter(|port| port.protocol == TransportProtocol::Tcp)
            .map(|port| (port.name.clone(), port.container_port.0))
            .collect()
    }

    /// Lets go of what nobody asks of a pod: annotations of others' and, unless it is `here`, what kubelet sends to it.
    pub fn trim(&mut self, here: bool) {
        let ours = |key: &str| {
            let (domain, _) = key.split_once('/').unwrap_or_default();
            matches!(domain, "mesh-agent.dev" | "ambient.istio.io") || key == MIRROR
        };
        self.metadata.annotations.retain(|key, _| ours(key));
        for containers in [&mut self.spec.containers, &mut self.spec.init_containers] {
            if !here {
                let ports = |container: &mut Container| std::mem::take(&mut container.ports);
                *containers = containers
                    .iter_mut()
                    .map(|c| Container { ports: ports(c), ..Container::default() })
                    .collect();
            }
            containers.retain(|container| *container != Container::default());
            containers.shrink_to_fit();
        }
    }

    /// What kubelet sends to its ports.
    pub fn probes(&self) -> Vec<PortProbe> {
        probe::of(self.spec.containers.iter().chain(&self.spec.init_containers))
    }

    /// `podIP` is the first of `podIPs` wherever both are given.
    pub fn validate(&self) -> Result<(), FieldError> {
        match (self.status.pod_ip, self.status.pod_ips.first()) {
            (Some(one), Some(first)) if one != first.ip => Err(FieldError::new(
                "status.podIPs[0].ip",
                format!("is {}, but status.podIP is {}: expected the same address", first.ip.0, one.0),
            )),
            _ => Ok(()),
        }
    }
}

/// Programs write `podIP: ""` for a pod without an address.
fn empty_is_none<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<Ip>, D::Error> {
    struct Maybe;
    impl<'de> serde::de::Visitor<'de> for Maybe {
        type Value = Option<Ip>;
        fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("an IPv4 or IPv6 address")
        }
        fn visit_str<E: serde::de::Error>(self, value: &str) -> Result<Option<Ip>, E> {
            if value.is_empty() {
                return Ok(None);
            }
            super::field::parse_ip(value).map(|ip| Some(Ip(ip))).map_err(E::custom)
        }
        fn visit_unit<E: serde::de::Error>(self) -> Result<Option<Ip>, E> {
            Ok(None)
        }
    }
    deserializer.deserialize_any(Maybe)
}

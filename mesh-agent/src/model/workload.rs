//! Pods as the mesh sees them: identity, addresses, whether this agent captures them.

use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;

use super::PortProbe;
use crate::objects::Labels;

/// Namespace and name of an object.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
pub struct ObjectName {
    /// Kubernetes namespace.
    pub namespace: String,
    /// Object name.
    pub name: String,
}

impl ObjectName {
    /// From its two parts.
    pub fn new(namespace: impl Into<String>, name: impl Into<String>) -> Self {
        Self { namespace: namespace.into(), name: name.into() }
    }

    /// The Service that a host name may be of: `NAME.NAMESPACE`, `NAME.NAMESPACE.svc` or `NAME.NAMESPACE.svc.DOMAIN`.
    pub fn of_host(host: &str, domain: &str) -> Option<Self> {
        let host = host.to_ascii_lowercase();
        let host = host.strip_suffix('.').unwrap_or(&host);
        let host = host.strip_suffix(domain).and_then(|rest| rest.strip_suffix('.')).unwrap_or(host);
        let (name, rest) = host.split_once('.')?;
        let namespace = rest.strip_suffix(".svc").unwrap_or(rest);
        (!namespace.contains('.')).then(|| Self::new(namespace, name))
    }
}

impl fmt::Display for ObjectName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// What a captured pod's new connections do while no agent serves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FailMode {
    /// Refused.
    #[default]
    Closed,
    /// Direct.
    Open,
}

/// How the agent of a pod's node finds the pod's network namespace.
///
/// As text, a path, or `uid:` and the uid.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(into = "String", from = "String")]
pub enum Netns {
    /// It is here, says an object of a directory.
    Path(PathBuf),
    /// By the processes of the pod with this uid, says an object of an API server.
    Uid(String),
}

const UID: &str = "uid:";

impl From<Netns> for String {
    fn from(netns: Netns) -> Self {
        netns.to_string()
    }
}

impl From<String> for Netns {
    fn from(text: String) -> Self {
        match text.strip_prefix(UID) {
            Some(uid) => Self::Uid(uid.to_owned()),
            None => Self::Path(text.into()),
        }
    }
}

impl fmt::Display for Netns {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Path(path) => path.display().fmt(f),
            Self::Uid(uid) => write!(f, "{UID}{uid}"),
        }
    }
}

/// Whether a pod's traffic is captured, and if not, why.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Enrolment {
    /// No label asks for it, or `none` does.
    NotRequested,
    /// Captured by the agent of the pod's node.
    Enrolled,
    /// Asked for, but this kind of pod can't be captured (host network); the text says why.
    Refused(String),
}

/// One pod, from its Pod object. Labels follow Istio's telemetry conventions.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Workload {
    /// Pod namespace and name.
    pub name: ObjectName,
    /// `metadata.uid`: what kubelet and the runtime call the pod. None where the source gives none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uid: Option<String>,
    /// Node it runs on (`spec.nodeName`).
    pub node: String,
    /// `spec.serviceAccountName`, `default` where empty.
    pub service_account: String,
    /// Name for the `*_workload` labels: the owner's name (ReplicaSet hash stripped), else the label `app`, else the pod's.
    pub workload_name: String,
    /// Label `app` (`app.kubernetes.io/name`), else `unknown`.
    pub app: String,
    /// Label `version` (`app.kubernetes.io/version`), else `unknown`.
    pub version: String,
    /// `service.istio.io/canonical-name`, else `app.kubernetes.io/name`, else `app`, else the workload's name.
    pub canonical_name: String,
    /// `service.istio.io/canonical-revision`, else `app.kubernetes.io/version`, else `version`, else `latest`.
    pub canonical_revision: String,
    /// All labels, for selectors.
    pub labels: Labels,
    /// `status.podIPs`.
    pub addresses: Vec<IpAddr>,
    /// Where its network namespace is; None for another node's pod of an API server.
    pub netns: Option<Netns>,
    /// Captured or not.
    pub enrolment: Enrolment,
    /// While no agent serves.
    pub fail_mode: FailMode,
    /// It says that HBONE is spoken on its behalf: label `networking.istio.io/tunnel: http`, or ztunnel's annotation
    /// `ambient.istio.io/redirection: enabled`.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub hbone: bool,
    /// Its object has the annotation `ambient.istio.io/redirection: enabled`, of a ztunnel's or an agent's.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub redirected: bool,
    /// On the node's own network: its addresses are the node's.
    pub host_network: bool,
    /// Container ports by name, for Services' named targetPorts and protocol hints.
    pub ports: Vec<(String, u16)>,
    /// What kubelet sends to its ports.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub probes: Vec<PortProbe>,
}

impl Workload {
    /// SPIFFE id of its service account (Istio, "Security", `spiffe://TRUST_DOMAIN/ns/NAMESPACE/sa/SERVICE_ACCOUNT`).
    pub fn spiffe_id(&self, trust_domain: &str) -> String {
        format!("spiffe://{trust_domain}/ns/{}/sa/{}", self.name.namespace, self.service_account)
    }

    /// True if it is reached by HBONE: a ztunnel or waypoint takes that for it, and no agent captures it, which comes first.
    pub fn speaks_hbone(&self) -> bool {
        self.hbone && !self.host_network && !self.is_enrolled()
    }

    /// True if an agent captures this pod.
    pub fn is_enrolled(&self) -> bool {
        self.enrolment == Enrolment::Enrolled
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_network_namespace_is_the_same_after_it_was_written_and_read() {
        let uid = Netns::Uid("8f3c2a10-5b7e-4d06-9a41-c2d7e61f0b93".to_owned());
        for netns in [Netns::Path("/run/netns/web".into()), Netns::Path("web".into()), uid] {
            assert_eq!(Netns::from(String::from(netns.clone())), netns);
        }
    }

    #[test]
    fn names_of_services_are_known_in_every_spelling() {
        fn check(host: &str, want: Option<(&str, &str)>) {
            let want = want.map(|(namespace, name)| ObjectName::new(namespace, name));
            assert_eq!(ObjectName::of_host(host, "cluster.local"), want, "{host}");
        }
        check("keys.auth", Some(("auth", "keys")));
        check("keys.auth.svc", Some(("auth", "keys")));
        check("Keys.auth.svc.cluster.local", Some(("auth", "keys")));
        check("keys.auth.svc.cluster.local.", Some(("auth", "keys")));
        for none in ["keys", "keys.auth.example.com", "keys.auth.svc.cluster.example", ""] {
            check(none, None);
        }
    }
}

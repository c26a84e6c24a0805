//! A policy as an object: what it is for and which groups of fields it gives.
//!
//! Kept beside what is compiled of it, which names the policy where it holds; `admin::views` puts the two together for
//! `get policies`. Made by `model::build`, never asked by the data path.

use std::collections::BTreeMap;
use std::fmt;

use super::{ObjectName, ServiceMeta, Workload};
use crate::objects::{DestinationRule, Kind, Object, PeerAuthentication, TlsModeSpec, TlsTarget};

/// A policy in force: of traffic, of connections between pods, of tokens, or of who may call what.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PolicyObject {
    /// Which of them.
    pub kind: Kind,
    /// Namespace and name.
    pub name: ObjectName,
    /// `metadata.generation` of what was looked at; 0 where nothing gave one.
    pub generation: i64,
    /// What it is for.
    pub targets: Vec<PolicyTarget>,
    /// Fields of its spec that it gives, each of which holds or doesn't as a whole.
    pub groups: Vec<&'static str>,
}

/// What a policy is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PolicyTarget {
    /// An object, or a part of one.
    Object {
        /// `Service`, `HTTPRoute` and so on.
        kind: String,
        /// Its name.
        name: ObjectName,
        /// A port of the Service, a rule of the route.
        section: Option<String>,
    },
    /// Services by their host name, which may begin with a wildcard.
    Host(String),
    /// Pods by their labels.
    Pods {
        /// None for the whole mesh.
        namespace: Option<String>,
        /// All of which they have.
        labels: BTreeMap<String, String>,
    },
}

impl PolicyObject {
    /// None for objects that are no policies. `cluster_domain` is the end of services' host names, `root` the namespace whose
    /// policies are the mesh's.
    pub fn of(object: &Object, cluster_domain: &str, root: &str) -> Option<Self> {
        let key = object.key();
        let namespace = key.name.namespace.clone();
        let target = |kind: &str, name: &str, section: Option<&String>| PolicyTarget::Object {
            kind: kind.to_owned(),
            name: ObjectName::new(&namespace, name),
            section: section.cloned(),
        };
        let (targets, groups) = match object {
            Object::TrafficPolicy(policy) => {
                let targets = policy.spec.target_refs.iter();
                let targets = targets.map(|it| target(it.kind.name(), &it.name, it.section_name.as_ref()));
                (targets.collect(), policy.spec.given().collect())
            }
            Object::BackendTrafficPolicy(policy) => {
                let targets = policy.spec.target_refs.iter().map(|it| target(&it.kind, &it.name, None));
                let groups = [
                    ("retryConstraint", policy.spec.retry_constraint.is_some()),
                    ("sessionPersistence", policy.spec.session_persistence.is_some()),
                ];
                (targets.collect(), given(&groups))
            }
            Object::BackendTlsPolicy(policy) => {
                let targets = policy.spec.target_refs.iter();
                let section = |it: &TlsTarget| it.section_name.as_deref().map(str::to_owned);
                let targets = targets.map(|it| target(&it.kind, &it.name, section(it).as_ref()));
                (targets.collect(), vec!["validation"])
            }
            Object::DestinationRule(rule) => {
                (vec![PolicyTarget::Host(rule.host(cluster_domain))], rule_groups(rule))
            }
            Object::AuthorizationPolicy(policy) => {
                let named = policy.targets().map(|it| target(&it.kind, &it.name, None)).collect();
                (or_pods(named, &namespace, root, policy.labels()), vec![policy.spec.action.name()])
            }
            Object::RequestAuthentication(policy) => {
                let named = policy.targets().map(|it| target(&it.kind, &it.name, None)).collect();
                (or_pods(named, &namespace, root, policy.labels()), vec!["jwtRules"])
            }
            Object::PeerAuthentication(policy) => {
                let labels = policy.selector().filter(|labels| !labels.is_empty());
                // With a selector it holds for pods of its own namespace, wherever that is.
                let root = if labels.is_none() { root } else { "" };
                (vec![pods(&namespace, root, labels)], peer_groups(policy))
            }
            _ => return None,
        };
        Some(Self {
            kind: key.kind,
            name: key.name,
            generation: object.metadata().generation,
            targets,
            groups,
        })
    }
}

impl PolicyTarget {
    /// True if this pod is one of those that it names by their labels.
    pub fn selects(&self, pod: &Workload) -> bool {
        let Self::Pods { namespace, labels } = self else { return false };
        namespace.as_ref().is_none_or(|namespace| *namespace == pod.name.namespace)
            && labels.iter().all(|(key, value)| pod.labels.get(key) == Some(value))
    }

    /// True if it is this Service, a part of it, or a host of its.
    pub fn is_of(&self, service: &ServiceMeta) -> bool {
        match self {
            Self::Object { kind, name, .. } => kind == "Service" && *name == service.name,
            Self::Host(host) => match host.strip_prefix('*') {
                Some(end) => service.host.ends_with(end),
                None => *host == service.host,
            },
            Self::Pods { .. } => false,
        }
    }
}

impl fmt::Display for PolicyTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Object { kind, name, section: None } => write!(f, "{kind} {name}"),
            Self::Object { kind, name, section: Some(section) } => write!(f, "{kind} {name}:{section}"),
            Self::Host(host) => write!(f, "host {host}"),
            Self::Pods { namespace, labels } => {
                write!(f, "pods of {}", namespace.as_deref().unwrap_or("the mesh"))?;
                for (at, (key, value)) in labels.iter().enumerate() {
                    write!(f, "{}{key}={value}", if at == 0 { " with " } else { "," })?;
                }
                Ok(())
            }
        }
    }
}

/// What is named, or pods where nothing is.
fn or_pods(
    named: Vec<PolicyTarget>,
    namespace: &str,
    root: &str,
    labels: Option<&BTreeMap<String, String>>,
) -> Vec<PolicyTarget> {
    if named.is_empty() { vec![pods(namespace, root, labels)] } else { named }
}

/// Pods of `namespace`, or of the whole mesh if that is the root's.
fn pods(namespace: &str, root: &str, labels: Option<&BTreeMap<String, String>>) -> PolicyTarget {
    let namespace = (namespace != root).then(|| namespace.to_owned());
    PolicyTarget::Pods { namespace, labels: labels.cloned().unwrap_or_default() }
}

fn given(groups: &[(&'static str, bool)]) -> Vec<&'static str> {
    groups.iter().filter(|(_, given)| *given).map(|(field, _)| *field).collect()
}

/// What it leaves unset it doesn't give.
fn peer_groups(policy: &PeerAuthentication) -> Vec<&'static str> {
    given(&[
        ("mtls", policy.spec.mtls.mode != TlsModeSpec::Unset),
        ("portLevelMtls", !policy.spec.port_level_mtls.is_empty()),
    ])
}

/// Of the whole host and of its ports.
fn rule_groups(rule: &DestinationRule) -> Vec<&'static str> {
    let all: Vec<_> = rule.all_settings().into_iter().map(|(_, settings)| settings).collect();
    given(&[
        ("loadBalancer", all.iter().any(|it| it.load_balancer.is_some())),
        ("connectionPool", all.iter().any(|it| it.connection_pool.is_some())),
        ("outlierDetection", all.iter().any(|it| it.outlier_detection.is_some())),
        ("tls", all.iter().any(|it| it.tls.is_some())),
        ("subsets", !rule.spec.subsets.is_empty()),
    ])
}

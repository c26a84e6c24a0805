//! A policy as an object: what it is for and which groups of fields it gives.
//!
//! Kept beside what is compiled of it, which names the policy where it holds; `admin::views` puts the two together for
//! `get policies`. Made by `model::build`, never asked by the data path.

use std::fmt;

use super::{ObjectName, ServiceMeta};
use crate::authz;
use crate::objects::{AuthorizationPolicy, DestinationRule, Kind, Object};

/// A TrafficPolicy, XBackendTrafficPolicy, DestinationRule or AuthorizationPolicy in force.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PolicyObject {
    /// Which of them.
    pub kind: Kind,
    /// Namespace and name.
    pub name: ObjectName,
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
    /// Pods, in words.
    Pods(String),
}

impl PolicyObject {
    /// None for objects that are no policies. `cluster_domain` is the end of services' host names.
    pub fn of(object: &Object, cluster_domain: &str) -> Option<Self> {
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
            Object::DestinationRule(rule) => {
                (vec![PolicyTarget::Host(rule.host(cluster_domain))], rule_groups(rule))
            }
            Object::AuthorizationPolicy(policy) => {
                let named = policy.targets().map(|it| target(&it.kind, &it.name, None)).collect::<Vec<_>>();
                let pods = || vec![PolicyTarget::Pods(pods_of(policy))];
                (if named.is_empty() { pods() } else { named }, vec![policy.spec.action.name()])
            }
            _ => return None,
        };
        Some(Self { kind: key.kind, name: key.name, targets, groups })
    }
}

impl PolicyTarget {
    /// True if it is this Service, a part of it, or a host of its.
    pub fn is_of(&self, service: &ServiceMeta) -> bool {
        match self {
            Self::Object { kind, name, .. } => kind == "Service" && *name == service.name,
            Self::Host(host) => match host.strip_prefix('*') {
                Some(end) => service.host.ends_with(end),
                None => *host == service.host,
            },
            Self::Pods(_) => false,
        }
    }
}

impl fmt::Display for PolicyTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Object { kind, name, section: None } => write!(f, "{kind} {name}"),
            Self::Object { kind, name, section: Some(section) } => write!(f, "{kind} {name}:{section}"),
            Self::Host(host) => write!(f, "host {host}"),
            Self::Pods(pods) => f.write_str(pods),
        }
    }
}

/// Whom a policy without targets selects.
fn pods_of(policy: &AuthorizationPolicy) -> String {
    let labels = policy.labels().into_iter().flatten();
    let labels: Vec<_> = labels.map(|(label, value)| format!("{label}={value}")).collect();
    let place = if policy.namespace() == authz::ROOT {
        "all namespaces".to_owned()
    } else {
        format!("namespace {}", policy.namespace())
    };
    match labels.as_slice() {
        [] => format!("all pods of {place}"),
        labels => format!("pods {} of {place}", labels.join(",")),
    }
}

fn given(groups: &[(&'static str, bool)]) -> Vec<&'static str> {
    groups.iter().filter(|(_, given)| *given).map(|(field, _)| *field).collect()
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

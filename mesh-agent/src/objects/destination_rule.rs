//! DestinationRule (networking.istio.io): how clients of a host balance, limit and watch their connections to it.
//!
//! Only what the object says, checked by itself as Istio's validation does; `crate::policy` compiles it for a port, and
//! `model::build` finds the services that it is about. Parts by the sections of Istio's reference.

mod fields;
mod load_balancer;
mod outlier;
mod pool;
mod retry_budget;
mod tls;

use std::collections::BTreeMap;

use serde::Deserialize;

pub use load_balancer::{
    ConsistentHash, HttpCookie, LoadBalancerSettings, LocalityLbSetting, SimpleLb, Warmup,
};
pub use outlier::OutlierDetection;
pub use pool::{ConnectionPool, H2UpgradePolicy};
pub use retry_budget::RetryBudget;
pub use tls::{ClientTls, TlsMode};

use super::field::{PortNumber, nullable};
use super::shape::FieldNote;
use super::{FieldError, Metadata};

/// What is read of a DestinationRule.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct DestinationRule {
    /// Metadata.
    pub metadata: Metadata,
    /// `spec`.
    pub spec: DestinationRuleSpec,
    /// Fields without effect, found by [`DestinationRule::note_fields`].
    #[serde(skip)]
    pub notes: Vec<FieldNote>,
}

/// `spec`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DestinationRuleSpec {
    /// A service by its short name, host name, or a wildcard.
    pub host: String,
    /// For every port without settings of its own.
    #[serde(default)]
    pub traffic_policy: Option<TrafficPolicy>,
    /// Named parts of the host's endpoints.
    #[serde(default, deserialize_with = "nullable")]
    pub subsets: Vec<Subset>,
    /// Namespaces whose clients see the rule; empty for all.
    #[serde(default, deserialize_with = "nullable")]
    pub export_to: Vec<String>,
    /// The clients, in the rule's namespace, that it is for.
    #[serde(default)]
    pub workload_selector: Option<WorkloadSelector>,
}

/// `trafficPolicy`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TrafficPolicy {
    #[serde(default)]
    load_balancer: Option<LoadBalancerSettings>,
    #[serde(default)]
    connection_pool: Option<ConnectionPool>,
    #[serde(default)]
    outlier_detection: Option<OutlierDetection>,
    #[serde(default)]
    tls: Option<ClientTls>,
    #[serde(default)]
    retry_budget: Option<RetryBudget>,
    #[serde(default, deserialize_with = "nullable")]
    port_level_settings: Vec<PortSettings>,
}

/// One of `portLevelSettings`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PortSettings {
    port: PortSelector,
    #[serde(default)]
    load_balancer: Option<LoadBalancerSettings>,
    #[serde(default)]
    connection_pool: Option<ConnectionPool>,
    #[serde(default)]
    outlier_detection: Option<OutlierDetection>,
    #[serde(default)]
    tls: Option<ClientTls>,
}

/// The sections that hold for a destination; a port has none for retries.
#[derive(Clone, Copy, Debug, Default)]
pub struct Settings<'a> {
    /// Which endpoint.
    pub load_balancer: Option<&'a LoadBalancerSettings>,
    /// How many connections and requests.
    pub connection_pool: Option<&'a ConnectionPool>,
    /// Which endpoints are left alone for a while.
    pub outlier_detection: Option<&'a OutlierDetection>,
    /// What the connections are wrapped in.
    pub tls: Option<&'a ClientTls>,
    /// How many retries.
    pub retry_budget: Option<&'a RetryBudget>,
}

/// `port` of a port's settings.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct PortSelector {
    /// Number.
    pub number: PortNumber,
}

/// One of `subsets`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Subset {
    /// Name.
    pub name: String,
    /// Labels of its endpoints' pods.
    #[serde(default, deserialize_with = "nullable")]
    pub labels: BTreeMap<String, String>,
    /// Settings of its own.
    #[serde(default)]
    pub traffic_policy: Option<TrafficPolicy>,
}

/// `workloadSelector`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct WorkloadSelector {
    /// A client must carry all of them.
    #[serde(default, deserialize_with = "nullable")]
    pub match_labels: BTreeMap<String, String>,
}

impl DestinationRule {
    /// Host name of the rule: a short name is one of the rule's own namespace (Istio reference, `host`).
    pub fn host(&self, cluster_domain: &str) -> String {
        let host = self.spec.host.to_ascii_lowercase();
        if host.contains(['.', '*']) {
            return host;
        }
        format!("{host}.{}.svc.{cluster_domain}", self.namespace())
    }

    /// Its namespace.
    pub fn namespace(&self) -> &str {
        self.metadata.namespace.as_deref().unwrap_or("default")
    }

    /// True if clients in `namespace` see it; None stands for one that no rule names.
    pub fn is_exported_to(&self, namespace: Option<&str>) -> bool {
        let own = self.namespace();
        self.spec.export_to.is_empty()
            || self.spec.export_to.iter().any(|to| match to.as_str() {
                "*" => true,
                "." => namespace == Some(own),
                to => namespace == Some(to),
            })
    }

    /// What holds for `port`: its own settings, which replace the destination's as a whole, or those.
    pub fn settings(&self, port: u16) -> Option<Settings<'_>> {
        let policy = self.spec.traffic_policy.as_ref()?;
        Some(policy.of_port(port).unwrap_or_else(|| policy.settings()))
    }

    /// The same for what goes to `subset`: each section of its own in place of the rule's, and settings of its own for the
    /// port in place of all (Istio, `MergeTrafficPolicy`).
    pub fn subset_settings<'a>(&'a self, subset: &'a Subset, port: u16) -> Option<Settings<'a>> {
        let whole = self.settings(port);
        let Some(policy) = &subset.traffic_policy else { return whole };
        let own = policy.settings();
        let whole = whole.unwrap_or_default();
        Some(policy.of_port(port).unwrap_or(Settings {
            load_balancer: own.load_balancer.or(whole.load_balancer),
            connection_pool: own.connection_pool.or(whole.connection_pool),
            outlier_detection: own.outlier_detection.or(whole.outlier_detection),
            tls: own.tls.or(whole.tls),
            retry_budget: own.retry_budget.or(whole.retry_budget),
        }))
    }

    /// All settings with their paths.
    pub fn all_settings(&self) -> Vec<(String, Settings<'_>)> {
        let mut all = Vec::new();
        if let Some(policy) = &self.spec.traffic_policy {
            policy.list("spec.trafficPolicy", &mut all);
        }
        for (at, subset) in self.spec.subsets.iter().enumerate() {
            if let Some(policy) = &subset.traffic_policy {
                policy.list(&format!("spec.subsets[{at}].trafficPolicy"), &mut all);
            }
        }
        all
    }

    /// Takes note of the fields in `document`, the object as it was written, that have no effect.
    pub fn note_fields(&mut self, document: &serde_yaml_ng::Value) {
        if let Some(spec) = document.get("spec") {
            self.notes = fields::SPEC.notes("spec", spec);
        }
    }

    /// As Istio's validation.
    pub fn validate(&self) -> Result<(), FieldError> {
        check_host(&self.spec.host)?;
        for (path, settings) in self.all_settings() {
            settings.validate(&path)?;
        }
        let mut names = std::collections::BTreeSet::new();
        for (at, subset) in self.spec.subsets.iter().enumerate() {
            if subset.name.is_empty() || !names.insert(&subset.name) {
                let message = format!(
                    "{:?} is given twice or empty: every subset needs a name of its own",
                    subset.name
                );
                return Err(FieldError::new(format!("spec.subsets[{at}].name"), message));
            }
        }
        if self.spec.export_to.len() > 1 && self.spec.export_to.iter().any(|to| to == "*") {
            return Err(FieldError::new("spec.exportTo", "\"*\" means all namespaces and stands alone"));
        }
        Ok(())
    }
}

impl TrafficPolicy {
    fn settings(&self) -> Settings<'_> {
        Settings {
            load_balancer: self.load_balancer.as_ref(),
            connection_pool: self.connection_pool.as_ref(),
            outlier_detection: self.outlier_detection.as_ref(),
            tls: self.tls.as_ref(),
            retry_budget: self.retry_budget.as_ref(),
        }
    }

    fn of_port(&self, port: u16) -> Option<Settings<'_>> {
        let own = self.port_level_settings.iter().find(|settings| settings.port.number.0 == port);
        own.map(PortSettings::settings)
    }

    fn list<'a>(&'a self, path: &str, all: &mut Vec<(String, Settings<'a>)>) {
        all.push((path.to_owned(), self.settings()));
        for (at, port) in self.port_level_settings.iter().enumerate() {
            all.push((format!("{path}.portLevelSettings[{at}]"), port.settings()));
        }
    }
}

impl PortSettings {
    fn settings(&self) -> Settings<'_> {
        Settings {
            load_balancer: self.load_balancer.as_ref(),
            connection_pool: self.connection_pool.as_ref(),
            outlier_detection: self.outlier_detection.as_ref(),
            tls: self.tls.as_ref(),
            retry_budget: None,
        }
    }
}

impl Settings<'_> {
    fn validate(&self, path: &str) -> Result<(), FieldError> {
        if let Some(load_balancer) = self.load_balancer {
            load_balancer.validate(&format!("{path}.loadBalancer"))?;
        }
        if let Some(pool) = self.connection_pool {
            pool.validate(&format!("{path}.connectionPool"))?;
        }
        if let Some(outlier) = self.outlier_detection {
            outlier.validate(&format!("{path}.outlierDetection"))?;
        }
        if let Some(budget) = self.retry_budget {
            budget.validate(&format!("{path}.retryBudget"))?;
        }
        match self.tls {
            Some(tls) => tls.validate(&format!("{path}.tls")),
            None => Ok(()),
        }
    }
}

/// A host name, whose first part may be a wildcard.
fn check_host(host: &str) -> Result<(), FieldError> {
    let name = host.strip_prefix('*').unwrap_or(host);
    let part = |part: &str| {
        !part.is_empty() && part.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
    };
    let ok = match name.strip_prefix('.') {
        _ if host == "*" => true,
        Some(rest) if host.starts_with('*') => rest.split('.').all(part),
        _ if host.starts_with('*') => false,
        _ => name.split('.').all(part),
    };
    if ok && host.len() <= 253 {
        return Ok(());
    }
    let shown: String = host.chars().take(64).collect();
    let message = format!(
        "{shown:?} isn't a host: expected a service's name, NAME.NAMESPACE.svc.cluster.local, or a wildcard such as \
         *.NAMESPACE.svc.cluster.local"
    );
    Err(FieldError::new("spec.host", message))
}

#[cfg(test)]
mod tests;

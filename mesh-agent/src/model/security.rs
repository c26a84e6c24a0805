//! What holds for connections to a pod, compiled: which of them have to be mutual TLS.
//!
//! Pure. `build::peers` finds the policies, [`Modes::compose`] puts them together in Istio's order; `proxy::inbound` asks
//! where connections arrive, the way to an endpoint where they leave.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use super::ObjectName;
use crate::objects::{MutualTls, PeerAuthentication, TlsModeSpec};

/// Policies that hold for one pod. A pod without an entry has the defaults.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Security {
    /// Of PeerAuthentications.
    pub peers: Arc<Modes>,
}

impl Security {
    /// True if nothing in it says more than the defaults.
    pub fn is_default(&self) -> bool {
        *self.peers == Modes::default()
    }
}

/// Which connections a port accepts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum MtlsMode {
    /// Plain text alone: mutual TLS isn't offered, and what looks like it is the application's.
    Disable,
    /// Either.
    #[default]
    Permissive,
    /// Mutual TLS alone.
    Strict,
}

impl MtlsMode {
    /// As in a policy.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Disable => "DISABLE",
            Self::Permissive => "PERMISSIVE",
            Self::Strict => "STRICT",
        }
    }

    fn of(spec: TlsModeSpec) -> Option<Self> {
        match spec {
            TlsModeSpec::Unset => None,
            TlsModeSpec::Disable => Some(Self::Disable),
            TlsModeSpec::Permissive => Some(Self::Permissive),
            TlsModeSpec::Strict => Some(Self::Strict),
        }
    }
}

impl fmt::Display for MtlsMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.label())
    }
}

/// A mode, and the policy that says so; None for the default.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Decided {
    /// What holds.
    pub mode: MtlsMode,
    /// The PeerAuthentication that it comes from.
    pub by: Option<ObjectName>,
}

/// The modes of a pod's ports.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Modes {
    /// Of every port that isn't named.
    pub all: Decided,
    /// Of single ports, by number.
    pub ports: Vec<(u16, Decided)>,
}

/// The policies that a pod is under, at most one of each scope.
#[derive(Clone, Copy, Debug, Default)]
pub struct Scopes<'a> {
    /// Of the root namespace, without a selector.
    pub mesh: Option<&'a PeerAuthentication>,
    /// Of the pod's namespace, without a selector.
    pub namespace: Option<&'a PeerAuthentication>,
    /// Of the pod's namespace, with a selector that selects it.
    pub workload: Option<&'a PeerAuthentication>,
}

impl<'a> Scopes<'a> {
    /// Those of `policies` that a pod with these labels is under: of each scope the oldest, then the first by name. A policy
    /// of the root namespace that selects pods is of no scope (Istio, "PeerAuthentication").
    pub fn of(
        policies: impl Iterator<Item = &'a PeerAuthentication>,
        root: &str,
        namespace: &str,
        labels: &BTreeMap<String, String>,
    ) -> Self {
        let mut scopes = Self::default();
        for policy in policies {
            let scope = match (policy.namespace() == root, policy.selector().is_some()) {
                (true, false) => &mut scopes.mesh,
                (true, true) => continue,
                (false, _) if policy.namespace() != namespace || !policy.selects(labels) => continue,
                (false, false) => &mut scopes.namespace,
                (false, true) => &mut scopes.workload,
            };
            if scope.is_none_or(|other| age(policy) < age(other)) {
                *scope = Some(policy);
            }
        }
        scopes
    }
}

/// Sorts the oldest first. Without a time stamp a policy counts as young.
pub fn age(policy: &PeerAuthentication) -> (bool, Option<&str>, &str) {
    let created = policy.metadata.creation_timestamp.as_deref();
    (created.is_none(), created, &policy.metadata.name)
}

impl Modes {
    /// Istio's order: the narrowest scope that says something; what a port leaves unset is as the pod has it.
    pub fn compose(scopes: Scopes<'_>) -> Self {
        let mut all = Decided::default();
        for policy in [scopes.mesh, scopes.namespace, scopes.workload].into_iter().flatten() {
            if let Some(mode) = MtlsMode::of(policy.spec.mtls.mode) {
                all = Decided { mode, by: Some(name(policy)) };
            }
        }
        let Some(workload) = scopes.workload else { return Self { all, ports: Vec::new() } };
        let port = |mtls: &Option<MutualTls>| match mtls.and_then(|mtls| MtlsMode::of(mtls.mode)) {
            Some(mode) => Decided { mode, by: Some(name(workload)) },
            None => all.clone(),
        };
        let ports = workload.spec.port_level_mtls.iter().map(|(key, mtls)| (key.0, port(mtls))).collect();
        Self { all, ports }
    }

    /// What holds for a port. A pod has few that are named.
    pub fn mode(&self, port: u16) -> MtlsMode {
        self.decided(port).mode
    }

    /// The same, with the policy that says so.
    pub fn decided(&self, port: u16) -> &Decided {
        self.ports.iter().find(|(number, _)| *number == port).map_or(&self.all, |(_, decided)| decided)
    }

    /// True if something comes from this policy.
    pub fn is_by(&self, policy: &ObjectName) -> bool {
        let all = std::iter::once(&self.all).chain(self.ports.iter().map(|(_, decided)| decided));
        all.filter_map(|decided| decided.by.as_ref()).any(|by| by == policy)
    }
}

fn name(policy: &PeerAuthentication) -> ObjectName {
    ObjectName::new(policy.namespace(), &policy.metadata.name)
}

#[cfg(test)]
mod tests;

//! What a service port needs the agent for. One that needs nothing is balanced in the kernel at connect(2), and the agent
//! never sees its connections: DESIGN 9, the second rung.
//!
//! Asked by `crate::kernel` when a snapshot comes into force, and for people. Pure.

use super::{AppProtocol, LoadBalancer, ServicePort, Snapshot};

/// The first reason that applies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    /// It isn't declared to be opaque TCP, so that requests, or what is spoken, are looked at.
    Protocol,
    /// An endpoint is in the mesh: it is called in mutual TLS, or both sides' policies hold here.
    Mesh,
    /// A route is attached.
    Route,
    /// A TrafficPolicy is attached.
    TrafficPolicy,
    /// A DestinationRule is for it, if only for some clients.
    DestinationRule,
    /// An XBackendTrafficPolicy is for it.
    BackendPolicy,
    /// A BackendTLSPolicy is for it.
    BackendTls,
    /// It is a ServiceEntry's.
    ServiceEntry,
    /// The Service asks for a load balancer that the kernel hasn't.
    LoadBalancer,
}

impl Need {
    /// For people and in the output of commands.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Protocol => "protocol",
            Self::Mesh => "mesh endpoints",
            Self::Route => "route",
            Self::TrafficPolicy => "TrafficPolicy",
            Self::DestinationRule => "DestinationRule",
            Self::BackendPolicy => "XBackendTrafficPolicy",
            Self::BackendTls => "BackendTLSPolicy",
            Self::ServiceEntry => "ServiceEntry",
            Self::LoadBalancer => "load balancer",
        }
    }
}

impl ServicePort {
    /// What the port itself needs the agent for, whatever is attached to it. Changes with its `Arc` only.
    pub fn need(&self) -> Option<Need> {
        let rules = self.policy.rule.is_some() || !self.variants.is_empty() || !self.subsets.is_empty();
        let meshed = |workload: &super::Workload| workload.is_enrolled() || workload.speaks_hbone();
        let in_mesh =
            || self.endpoints.all.iter().any(|endpoint| endpoint.workload.as_deref().is_some_and(meshed));
        let balancer = !matches!(self.policy.load_balancer, LoadBalancer::PeakEwma | LoadBalancer::Random);
        [
            (self.protocol != AppProtocol::Tcp, Need::Protocol),
            (self.external.is_some(), Need::ServiceEntry),
            (rules, Need::DestinationRule),
            (self.backend_policy.is_some() || self.session.is_some(), Need::BackendPolicy),
            (self.policy.tls_policy.is_some(), Need::BackendTls),
            (balancer, Need::LoadBalancer),
        ]
        .into_iter()
        .find_map(|(applies, need)| applies.then_some(need))
        .or_else(|| in_mesh().then_some(Need::Mesh))
    }
}

impl Snapshot {
    /// What connections to `port` of captured pods need the agent for.
    pub fn need_of(&self, port: &ServicePort) -> Option<Need> {
        let key = (port.service.name.clone(), port.port);
        if self.routes.contains_key(&key) {
            return Some(Need::Route);
        }
        if self.traffic.contains_key(&key) {
            return Some(Need::TrafficPolicy);
        }
        port.need()
    }
}

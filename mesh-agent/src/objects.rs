//! Kubernetes objects as the agent reads them: only the fields in use, checked while they are parsed.
//!
//! `source` turns text into [`Object`]s, `model::build` turns those into a snapshot. An object that parses is valid
//! by itself; whether objects fit together is the builder's question.

mod authorization_policy;
mod backend_tls_policy;
mod backend_traffic_policy;
mod config_map;
mod destination_rule;
mod duration;
mod endpoint_slice;
mod field;
pub mod gateway;
mod grpc_route;
mod http_route;
mod labels;
mod metadata;
mod namespace;
mod node;
mod peer_authentication;
mod pod;
mod reference_grant;
mod registry;
mod request_authentication;
mod service;
mod service_account;
mod service_entry;
mod shape;
mod target_ref;
mod tcp_route;
mod tls_route;
pub mod traffic_policy;
#[cfg(test)]
mod unknown;

use std::fmt;

pub use authorization_policy::{
    Action, AuthorizationPolicy, AuthorizationPolicySpec, ConditionKey, FromSpec, OperationSpec, Provider,
    RuleSpec, SourceSpec, ToSpec, WhenSpec,
};
pub use backend_tls_policy::{
    BackendTlsPolicy, BackendTlsPolicySpec, SubjectAltName, TlsTarget, TlsValidation,
};
pub use backend_traffic_policy::{
    BackendTrafficPolicy, BackendTrafficPolicySpec, BudgetSpec, RequestRate, RetryConstraint,
};
pub use config_map::ConfigMap;
pub use destination_rule::{
    ClientTls, ConnectionPool, ConsistentHash, DestinationRule, H2UpgradePolicy, HttpCookie,
    LoadBalancerSettings, LocalityLbSetting, OutlierDetection, Settings, SimpleLb, Subset, TlsMode, Warmup,
    WorkloadSelector,
};
pub use duration::GoDuration;
pub use endpoint_slice::{AddressType, EndpointSlice, SliceEndpoint, SlicePort};
pub use field::{FieldError, NOT_A_PORT, NOT_AN_ADDRESS, TransportProtocol, usable_address};
pub use grpc_route::{GrpcMatch, GrpcMethodMatch, GrpcRoute, GrpcRouteSpec, GrpcRule};
pub use http_route::{
    DefaultGateways, HttpMatch, HttpMethod, HttpRetry, HttpRoute, HttpRouteSpec, HttpRule, HttpTimeouts,
    RetryCode,
};
pub use labels::Labels;
pub use metadata::{Metadata, OwnerReference};
pub use namespace::Namespace;
pub use node::Node;
pub use peer_authentication::{MutualTls, PeerAuthentication, PodSelector, TlsModeSpec};
pub use pod::{ContainerPort, MIRROR, Pod, PodPhase};
pub use reference_grant::{GrantFrom, GrantTo, ReferenceGrant, ReferenceGrantSpec};
pub use registry::{Known, kind_of};
pub use request_authentication::{ClaimToHeader, JwtHeader, JwtRule, RequestAuthentication};
pub use service::{ClusterIp, Service, ServiceKind, ServicePortSpec, SessionAffinity, TrafficPolicy};
pub use service_account::ServiceAccount;
pub use service_entry::{EntryEndpoint, EntryPort, Location, Network, Resolution, ServiceEntry};
pub use shape::FieldNote;
pub use target_ref::TargetRef;
pub use tcp_route::{StreamRuleSpec, TcpRoute, TcpRouteSpec};
pub use tls_route::{TlsRoute, TlsRouteSpec};
#[cfg(test)]
pub use unknown::fields;

use crate::model::ObjectName;

/// The kinds that are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// v1 Namespace.
    Namespace,
    /// v1 Node.
    Node,
    /// v1 ServiceAccount.
    ServiceAccount,
    /// v1 ConfigMap.
    ConfigMap,
    /// v1 Pod.
    Pod,
    /// v1 Service.
    Service,
    /// discovery.k8s.io/v1 EndpointSlice.
    EndpointSlice,
    /// gateway.networking.k8s.io/v1 HTTPRoute.
    HttpRoute,
    /// gateway.networking.k8s.io/v1 GRPCRoute.
    GrpcRoute,
    /// gateway.networking.k8s.io/v1 TLSRoute.
    TlsRoute,
    /// gateway.networking.k8s.io/v1 TCPRoute.
    TcpRoute,
    /// gateway.networking.k8s.io/v1 ReferenceGrant.
    ReferenceGrant,
    /// gateway.networking.x-k8s.io/v1alpha1 XBackendTrafficPolicy.
    BackendTrafficPolicy,
    /// gateway.networking.k8s.io/v1 BackendTLSPolicy.
    BackendTlsPolicy,
    /// mesh-agent.dev/v1alpha1 TrafficPolicy.
    TrafficPolicy,
    /// networking.istio.io DestinationRule.
    DestinationRule,
    /// networking.istio.io ServiceEntry.
    ServiceEntry,
    /// security.istio.io AuthorizationPolicy.
    AuthorizationPolicy,
    /// security.istio.io RequestAuthentication.
    RequestAuthentication,
    /// security.istio.io PeerAuthentication.
    PeerAuthentication,
}

impl Kind {
    /// All of them, in order.
    pub const ALL: [Self; 20] = [
        Self::Namespace,
        Self::Node,
        Self::ServiceAccount,
        Self::ConfigMap,
        Self::Pod,
        Self::Service,
        Self::EndpointSlice,
        Self::HttpRoute,
        Self::GrpcRoute,
        Self::TlsRoute,
        Self::TcpRoute,
        Self::ReferenceGrant,
        Self::BackendTrafficPolicy,
        Self::BackendTlsPolicy,
        Self::TrafficPolicy,
        Self::DestinationRule,
        Self::ServiceEntry,
        Self::AuthorizationPolicy,
        Self::RequestAuthentication,
        Self::PeerAuthentication,
    ];

    /// As in `kind:`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Namespace => "Namespace",
            Self::Node => "Node",
            Self::ServiceAccount => "ServiceAccount",
            Self::ConfigMap => "ConfigMap",
            Self::Pod => "Pod",
            Self::Service => "Service",
            Self::EndpointSlice => "EndpointSlice",
            Self::HttpRoute => "HTTPRoute",
            Self::GrpcRoute => "GRPCRoute",
            Self::TlsRoute => "TLSRoute",
            Self::TcpRoute => "TCPRoute",
            Self::ReferenceGrant => "ReferenceGrant",
            Self::BackendTrafficPolicy => "XBackendTrafficPolicy",
            Self::BackendTlsPolicy => "BackendTLSPolicy",
            Self::TrafficPolicy => "TrafficPolicy",
            Self::DestinationRule => "DestinationRule",
            Self::ServiceEntry => "ServiceEntry",
            Self::AuthorizationPolicy => "AuthorizationPolicy",
            Self::RequestAuthentication => "RequestAuthentication",
            Self::PeerAuthentication => "PeerAuthentication",
        }
    }

    /// True for kinds of which every field is read, so that one that isn't is a mistake.
    pub const fn reads_every_field(self) -> bool {
        !matches!(
            self,
            Self::Namespace
                | Self::Node
                | Self::ServiceAccount
                | Self::ConfigMap
                | Self::Pod
                | Self::Service
                | Self::EndpointSlice
        )
    }

    /// False for kinds whose objects have no namespace.
    pub const fn namespaced(self) -> bool {
        !matches!(self, Self::Namespace | Self::Node)
    }
}

/// What tells one object from another.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ObjectKey {
    /// Kind.
    pub kind: Kind,
    /// Namespace (empty for cluster-wide kinds) and name.
    pub name: ObjectName,
}

impl ObjectKey {
    /// From its parts; the namespace of a namespaced kind is `default` where none is given.
    pub fn new(kind: Kind, namespace: Option<&str>, name: &str) -> Self {
        let namespace = if kind.namespaced() { namespace.unwrap_or("default") } else { "" };
        Self { kind, name: ObjectName::new(namespace, name) }
    }
}

impl fmt::Display for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.name.namespace.is_empty() {
            write!(f, "{} {}", self.kind.name(), self.name.name)
        } else {
            write!(f, "{} {}", self.kind.name(), self.name)
        }
    }
}

/// One object, valid by itself.
#[derive(Debug, PartialEq, Eq)]
pub enum Object {
    /// Labels that pods inherit.
    Namespace(Namespace),
    /// Known for its name and zone.
    Node(Node),
    /// Known by name.
    ServiceAccount(ServiceAccount),
    /// Certificates of authorities.
    ConfigMap(ConfigMap),
    /// A workload.
    Pod(Box<Pod>),
    /// Virtual addresses and ports.
    Service(Box<Service>),
    /// Endpoints of a service.
    EndpointSlice(EndpointSlice),
    /// Routes of requests.
    HttpRoute(Box<HttpRoute>),
    /// Routes of calls.
    GrpcRoute(Box<GrpcRoute>),
    /// Routes of TLS connections.
    TlsRoute(Box<TlsRoute>),
    /// Routes of connections.
    TcpRoute(Box<TcpRoute>),
    /// Leave to refer across namespaces.
    ReferenceGrant(Box<ReferenceGrant>),
    /// Retry budget and stickiness of services.
    BackendTrafficPolicy(Box<BackendTrafficPolicy>),
    /// TLS to endpoints.
    BackendTlsPolicy(Box<BackendTlsPolicy>),
    /// What is done to the traffic of services and routes.
    TrafficPolicy(Box<traffic_policy::TrafficPolicy>),
    /// How clients of a host use it.
    DestinationRule(Box<DestinationRule>),
    /// Services outside.
    ServiceEntry(Box<ServiceEntry>),
    /// Who may call what.
    AuthorizationPolicy(Box<AuthorizationPolicy>),
    /// Whose tokens count.
    RequestAuthentication(Box<RequestAuthentication>),
    /// Which connections to pods have to be mutual TLS.
    PeerAuthentication(Box<PeerAuthentication>),
}

impl Object {
    /// Its kind.
    pub fn kind(&self) -> Kind {
        match self {
            Self::Namespace(_) => Kind::Namespace,
            Self::Node(_) => Kind::Node,
            Self::ServiceAccount(_) => Kind::ServiceAccount,
            Self::ConfigMap(_) => Kind::ConfigMap,
            Self::Pod(_) => Kind::Pod,
            Self::Service(_) => Kind::Service,
            Self::EndpointSlice(_) => Kind::EndpointSlice,
            Self::HttpRoute(_) => Kind::HttpRoute,
            Self::GrpcRoute(_) => Kind::GrpcRoute,
            Self::TlsRoute(_) => Kind::TlsRoute,
            Self::TcpRoute(_) => Kind::TcpRoute,
            Self::ReferenceGrant(_) => Kind::ReferenceGrant,
            Self::BackendTrafficPolicy(_) => Kind::BackendTrafficPolicy,
            Self::BackendTlsPolicy(_) => Kind::BackendTlsPolicy,
            Self::TrafficPolicy(_) => Kind::TrafficPolicy,
            Self::DestinationRule(_) => Kind::DestinationRule,
            Self::ServiceEntry(_) => Kind::ServiceEntry,
            Self::AuthorizationPolicy(_) => Kind::AuthorizationPolicy,
            Self::RequestAuthentication(_) => Kind::RequestAuthentication,
            Self::PeerAuthentication(_) => Kind::PeerAuthentication,
        }
    }

    /// Its metadata.
    pub fn metadata(&self) -> &Metadata {
        match self {
            Self::Namespace(o) => &o.metadata,
            Self::Node(o) => &o.metadata,
            Self::ServiceAccount(o) => &o.metadata,
            Self::ConfigMap(o) => &o.metadata,
            Self::Pod(o) => &o.metadata,
            Self::Service(o) => &o.metadata,
            Self::EndpointSlice(o) => &o.metadata,
            Self::HttpRoute(o) => &o.metadata,
            Self::GrpcRoute(o) => &o.metadata,
            Self::TlsRoute(o) => &o.metadata,
            Self::TcpRoute(o) => &o.metadata,
            Self::ReferenceGrant(o) => &o.metadata,
            Self::BackendTrafficPolicy(o) => &o.metadata,
            Self::BackendTlsPolicy(o) => &o.metadata,
            Self::TrafficPolicy(o) => &o.metadata,
            Self::DestinationRule(o) => &o.metadata,
            Self::ServiceEntry(o) => &o.metadata,
            Self::AuthorizationPolicy(o) => &o.metadata,
            Self::RequestAuthentication(o) => &o.metadata,
            Self::PeerAuthentication(o) => &o.metadata,
        }
    }

    /// Kind, namespace and name.
    pub fn key(&self) -> ObjectKey {
        let metadata = self.metadata();
        ObjectKey::new(self.kind(), metadata.namespace.as_deref(), &metadata.name)
    }

    /// What parsing field by field can't see.
    pub fn validate(&self) -> Result<(), FieldError> {
        self.metadata().validate()?;
        match self {
            Self::Service(o) => o.validate(),
            Self::EndpointSlice(o) => o.validate(),
            Self::Pod(o) => o.validate(),
            Self::HttpRoute(o) => o.validate(),
            Self::GrpcRoute(o) => o.validate(),
            Self::TlsRoute(o) => o.validate(),
            Self::TcpRoute(o) => o.validate(),
            Self::BackendTrafficPolicy(o) => o.validate(),
            Self::BackendTlsPolicy(o) => o.validate(),
            Self::Namespace(_)
            | Self::Node(_)
            | Self::ServiceAccount(_)
            | Self::ConfigMap(_)
            | Self::ReferenceGrant(_) => Ok(()),
            Self::TrafficPolicy(o) => o.validate(),
            Self::DestinationRule(o) => o.validate(),
            Self::ServiceEntry(o) => o.validate(),
            Self::AuthorizationPolicy(o) => o.validate(),
            Self::RequestAuthentication(o) => o.validate(),
            Self::PeerAuthentication(o) => o.validate(),
        }
    }
}

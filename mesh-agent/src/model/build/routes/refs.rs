//! Whether a backendRef can be used, and if not, why: the one place that decides it, for tables, status and warnings.

use super::super::Builder;
use super::view::{Reference, RouteView, backend_name};
use crate::model::{AppProtocol, ObjectName, Snapshot, WarningCode};
use crate::objects::Kind;
use crate::route::BackendName;

/// What a backendRef comes to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// A Service's port that is there.
    Found(ObjectName, u16),
    /// A subset of it that is there.
    Subset(ObjectName, u16, String),
    /// No DestinationRule has the subset.
    NoSubset(ObjectName, u16, String),
    /// There is no such Service.
    NotFound(ObjectName, u16),
    /// The Service has no such port.
    NoPort(ObjectName, u16),
    /// A Service of another namespace, which hasn't granted it.
    NotPermitted(ObjectName),
    /// No Service.
    InvalidKind(String),
    /// The port is declared to speak TLS, which requests can't be sent to as they are.
    SpeaksTls(ObjectName, u16),
}

impl Outcome {
    /// The service port, whether it is there or not; None where nothing that comes later can make it usable by itself.
    pub fn service_port(&self) -> Option<BackendName> {
        let (service, port, subset) = match self {
            Self::Found(name, port) | Self::NotFound(name, port) | Self::NoPort(name, port) => {
                (name, port, None)
            }
            Self::Subset(name, port, subset) | Self::NoSubset(name, port, subset) => {
                (name, port, Some(subset))
            }
            Self::NotPermitted(_) | Self::InvalidKind(_) | Self::SpeaksTls(..) => return None,
        };
        Some(BackendName { service: service.clone(), port: *port, subset: subset.cloned() })
    }

    /// Reason of the ResolvedRefs condition, warning code, and what to do; None if it can be used.
    pub fn complaint(&self, kind: &str, namespace: &str) -> Option<(&'static str, WarningCode, String)> {
        Some(match self {
            Self::Found(..) | Self::Subset(..) => return None,
            Self::NoSubset(name, _, subset) => (
                "BackendNotFound",
                WarningCode::BackendNotFound,
                format!(
                    "no DestinationRule that holds for Service {name} has a subset {subset:?}: its share is answered with 500; \
                     add the subset, or correct the name"
                ),
            ),
            Self::NotFound(name, _) => (
                "BackendNotFound",
                WarningCode::BackendNotFound,
                format!(
                    "there is no Service {name} that has addresses in the cluster: correct the name or add the Service"
                ),
            ),
            Self::NoPort(name, port) => (
                "BackendNotFound",
                WarningCode::BackendPortNotFound,
                format!("Service {name} has no TCP port {port}: name one of its ports, not one of its pods'"),
            ),
            Self::NotPermitted(name) => (
                "RefNotPermitted",
                WarningCode::ReferenceNotPermitted,
                format!(
                    "no ReferenceGrant in namespace {} lets a {kind} of namespace {namespace} name Service {}: add one there",
                    name.namespace, name.name
                ),
            ),
            Self::InvalidKind(kind) => (
                "InvalidKind",
                WarningCode::UnsupportedReference,
                format!("{kind} can't be a backend here: name a Service (group \"\")"),
            ),
            // HTTPBackendRef: "not able to send traffic to the backend using the specified protocol".
            Self::SpeaksTls(name, port) => (
                "UnsupportedProtocol",
                WarningCode::UnsupportedReference,
                format!(
                    "Service {name} declares port {port} to speak TLS, which requests are not wrapped in: name a port for plain HTTP, or attach a TLSRoute"
                ),
            ),
        })
    }
}

impl Builder {
    /// What `reference` in `route`, attached to `parent`, comes to.
    ///
    /// GEP-1294 lets mesh routes name any Service. Here a Service of a third namespace needs a ReferenceGrant, as for
    /// Gateways; that of the parent's namespace doesn't, since its clients reach it without the route.
    pub(super) fn outcome(
        &self,
        route: RouteView<'_>,
        parent: &ObjectName,
        reference: &Reference,
        next: &Snapshot,
    ) -> Outcome {
        let target = &reference.target;
        let (kind, namespace) = (route.object.kind().name(), route.namespace());
        let port = match (target.group(), target.kind(), target.port) {
            ("", "Service", Some(port)) => port.0,
            ("", other, _) => return Outcome::InvalidKind(other.to_owned()),
            (group, other, _) => return Outcome::InvalidKind(format!("{other} ({group})")),
        };
        let name = backend_name(target, namespace);
        let own = name.namespace == namespace || name.namespace == parent.namespace;
        if !own && !self.granted(kind, namespace, &name) {
            return Outcome::NotPermitted(name);
        }
        match next.services.get(&name) {
            None => Outcome::NotFound(name, port),
            Some(service) => match service.ports.iter().find(|found| found.port == port) {
                Some(found) if found.protocol == AppProtocol::Tls && carries_requests(route) => {
                    Outcome::SpeaksTls(name, port)
                }
                Some(found) => match &reference.subset {
                    None => Outcome::Found(name, port),
                    Some(subset) if found.subset(subset).is_some() => {
                        Outcome::Subset(name, port, subset.clone())
                    }
                    Some(subset) => Outcome::NoSubset(name, port, subset.clone()),
                },
                None => Outcome::NoPort(name, port),
            },
        }
    }
}

fn carries_requests(route: RouteView<'_>) -> bool {
    matches!(route.object.kind(), Kind::HttpRoute | Kind::GrpcRoute)
}

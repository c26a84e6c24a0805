//! What routes of all kinds have in common, as the builder looks at them.

use super::extension;
use crate::model::{AppProtocol, ObjectName, ServicePort};
use crate::objects::gateway::{BackendRef, BackendTargetRef, ParentRef, RouteFilter, SessionPersistence};
use crate::objects::{Kind, Metadata, Object, ObjectKey};

/// A route of any kind.
#[derive(Clone, Copy, Debug)]
pub struct RouteView<'o> {
    /// The object.
    pub object: &'o Object,
    parents: &'o [ParentRef],
}

/// A reference to a backend, and where it stands.
#[derive(Clone, Debug)]
pub struct Reference {
    /// Path of the field in the object.
    pub field: String,
    /// What it names.
    pub target: BackendTargetRef,
    /// The subset of it that it asks for.
    pub subset: Option<String>,
}

impl<'o> RouteView<'o> {
    /// None for objects that are no routes.
    pub fn of(object: &'o Object) -> Option<Self> {
        let parents: &[ParentRef] = match object {
            Object::HttpRoute(route) => &route.spec.parent_refs,
            Object::GrpcRoute(route) => &route.spec.parent_refs,
            Object::TlsRoute(route) => &route.spec.parent_refs,
            Object::TcpRoute(route) => &route.spec.parent_refs,
            _ => return None,
        };
        Some(Self { object, parents })
    }

    /// The route's key.
    pub fn key(&self) -> ObjectKey {
        self.object.key()
    }

    /// Its metadata.
    pub fn metadata(&self) -> &'o Metadata {
        self.object.metadata()
    }

    /// Its namespace.
    pub fn namespace(&self) -> &'o str {
        self.metadata().namespace.as_deref().unwrap_or("default")
    }

    /// Number of its rules.
    pub fn rules(&self) -> usize {
        match self.object {
            Object::HttpRoute(route) => route.spec.rules.len(),
            Object::GrpcRoute(route) => route.spec.rules.len(),
            Object::TlsRoute(route) => route.spec.rules.len(),
            Object::TcpRoute(route) => route.spec.rules.len(),
            _ => 0,
        }
    }

    /// Names of its rules, of those that have one.
    pub fn rule_names(&self) -> Vec<&'o str> {
        match self.object {
            Object::HttpRoute(route) => {
                route.spec.rules.iter().filter_map(|rule| rule.name.as_deref()).collect()
            }
            Object::GrpcRoute(route) => {
                route.spec.rules.iter().filter_map(|rule| rule.name.as_deref()).collect()
            }
            _ => Vec::new(),
        }
    }

    /// How each of its rules keeps clients at their endpoints, with the rule's backends.
    pub fn sessions(&self) -> Vec<(usize, &'o SessionPersistence, &'o [BackendRef])> {
        let mut sessions = Vec::new();
        match self.object {
            Object::HttpRoute(route) => {
                for (index, rule) in route.spec.rules.iter().enumerate() {
                    sessions.extend(rule.session_persistence.iter().map(|s| (index, s, &*rule.backend_refs)));
                }
            }
            Object::GrpcRoute(route) => {
                for (index, rule) in route.spec.rules.iter().enumerate() {
                    sessions.extend(rule.session_persistence.iter().map(|s| (index, s, &*rule.backend_refs)));
                }
            }
            _ => {}
        }
        sessions
    }

    /// How specific its kind is: the least of those attached to a port wins (GEP-1294, "Route types").
    pub fn rank(&self) -> u8 {
        match self.object.kind() {
            Kind::GrpcRoute => 0,
            Kind::HttpRoute => 1,
            Kind::TlsRoute => 2,
            _ => 3,
        }
    }

    /// True if connections of a port that is declared to speak `protocol` are carried the way that this kind of route
    /// decides about: as requests, or by their server name, or as they are. Where nothing is declared the route tells.
    pub fn suits(&self, protocol: AppProtocol) -> bool {
        match (self.object.kind(), protocol) {
            (_, AppProtocol::Detect) => true,
            (Kind::GrpcRoute | Kind::HttpRoute, declared) => declared.is_http(),
            (Kind::TlsRoute, declared) => declared == AppProtocol::Tls,
            (_, declared) => !declared.is_http(),
        }
    }

    /// parentRefs with their place in the list.
    pub fn parent_refs(&self) -> impl Iterator<Item = (usize, &'o ParentRef)> + use<'o> {
        self.parents.iter().enumerate()
    }

    /// Parents that are Services, by name.
    pub fn services(&self) -> impl Iterator<Item = ObjectName> + use<'o> {
        let namespace = self.namespace();
        self.parents
            .iter()
            .filter(|parent| is_service(parent))
            .map(move |parent| parent_name(parent, namespace))
    }

    /// True if it is attached to this port of the Service `parent`.
    pub fn is_attached(&self, parent: &ObjectName, port: &ServicePort) -> bool {
        let namespace = self.namespace();
        self.parents.iter().any(|found| {
            is_service(found) && parent_name(found, namespace) == *parent && is_meant(found, port)
        })
    }

    /// All backends that it names, mirrors included.
    pub fn references(&self) -> Vec<Reference> {
        let mut references = Vec::new();
        match self.object {
            Object::HttpRoute(route) => {
                for (index, rule) in route.spec.rules.iter().enumerate() {
                    of_rule(index, &rule.filters, &rule.backend_refs, &mut references);
                }
            }
            Object::GrpcRoute(route) => {
                for (index, rule) in route.spec.rules.iter().enumerate() {
                    of_rule(index, &rule.filters, &rule.backend_refs, &mut references);
                }
            }
            Object::TlsRoute(route) => {
                for (index, rule) in route.spec.rules.iter().enumerate() {
                    of_rule(index, &[], &rule.backend_refs, &mut references);
                }
            }
            Object::TcpRoute(route) => {
                for (index, rule) in route.spec.rules.iter().enumerate() {
                    of_rule(index, &[], &rule.backend_refs, &mut references);
                }
            }
            _ => {}
        }
        references
    }

    /// Services that it names as backends.
    pub fn backends(&self) -> impl Iterator<Item = ObjectName> + use<'o> {
        let namespace = self.namespace();
        self.references().into_iter().map(move |reference| backend_name(&reference.target, namespace))
    }
}

/// The core group, and the kind.
pub fn is_service(parent: &ParentRef) -> bool {
    parent.group().is_empty() && parent.kind() == "Service"
}

/// True if a parentRef to its Service means this port: all that it says of ports must hold (ParentReference, `sectionName`,
/// which is a Service's port name).
pub fn is_meant(parent: &ParentRef, port: &ServicePort) -> bool {
    parent.port.is_none_or(|wanted| wanted.0 == port.port)
        && parent.section_name.as_deref().is_none_or(|wanted| wanted == port.name)
}

/// The parent's name for a route of `namespace`.
pub fn parent_name(parent: &ParentRef, namespace: &str) -> ObjectName {
    ObjectName::new(parent.namespace.as_deref().unwrap_or(namespace), &*parent.name)
}

/// The backend's name for a route of `namespace`.
pub fn backend_name(target: &BackendTargetRef, namespace: &str) -> ObjectName {
    ObjectName::new(target.namespace.as_deref().unwrap_or(namespace), &*target.name)
}

fn of_rule(index: usize, filters: &[RouteFilter], backends: &[BackendRef], references: &mut Vec<Reference>) {
    of_filters(&format!("spec.rules[{index}]"), filters, references);
    for (place, backend) in backends.iter().enumerate() {
        let field = format!("spec.rules[{index}].backendRefs[{place}]");
        of_filters(&field, &backend.filters, references);
        let subset = extension::subset(backend).map(str::to_owned);
        references.push(Reference { field, target: backend.target(), subset });
    }
}

fn of_filters(parent: &str, filters: &[RouteFilter], references: &mut Vec<Reference>) {
    for (index, filter) in filters.iter().enumerate() {
        if let Some(mirror) = &filter.request_mirror {
            let field = format!("{parent}.filters[{index}].requestMirror.backendRef");
            references.push(Reference { field, target: mirror.backend_ref.clone(), subset: None });
        }
    }
}

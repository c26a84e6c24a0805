//! Routes by the Service that they are attached to, and what has to be built again when something changes.
//!
//! A table is compiled when one of its routes, a ReferenceGrant that matters to it or the ports of a service that it
//! names change. A change of endpoints only replaces pointers in `Routes::targets`; the table's `Arc` stays.

mod advice;
mod compile;
mod edits;
mod extension;
mod group;
mod matches;
mod refs;
mod shadow;
mod status;
mod unusable;
mod view;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

pub use self::compile::session;
use self::group::{Group, targets};
pub use self::view::{RouteView, backend_name};
use super::Builder;
use crate::model::{AppProtocol, ObjectName, Service, ServicePort, Snapshot};
use crate::objects::{Kind, Object, ObjectKey};
use crate::route::PortRoutes;

/// Who is attached where, and what was compiled of it.
#[derive(Debug, Default)]
pub struct RouteIndex {
    /// Routes by the Service that a parentRef names.
    attached: BTreeMap<ObjectName, BTreeSet<ObjectKey>>,
    /// Parents whose routes name a Service as backend, by that Service.
    users: BTreeMap<ObjectName, BTreeSet<ObjectName>>,
    /// What is compiled, by parent.
    groups: BTreeMap<ObjectName, Vec<Group>>,
    /// Backends of each parent's routes: the other side of `users`.
    uses: BTreeMap<ObjectName, BTreeSet<ObjectName>>,
}

/// What a batch of changes means for routes.
#[derive(Debug, Default)]
pub struct DirtyRoutes {
    /// Parents whose routes are to be looked at again.
    parents: BTreeSet<ObjectName>,
    /// Parents whose backends have changed in nothing but their endpoints.
    retarget: BTreeSet<ObjectName>,
    /// Routes whose status may have changed.
    routes: BTreeSet<ObjectKey>,
}

impl Builder {
    /// Notes that a route comes, changes or goes.
    pub(super) fn touch_route(&mut self, key: &ObjectKey, new: Option<&Object>, dirty: &mut DirtyRoutes) {
        let parents = |object: Option<&Object>| match object.and_then(RouteView::of) {
            Some(view) => view.services().collect::<BTreeSet<_>>(),
            None => BTreeSet::new(),
        };
        let (had, has) = (parents(self.objects.get(key).map(|object| &**object)), parents(new));
        for parent in had.difference(&has) {
            if let Some(routes) = self.routes.attached.get_mut(parent) {
                routes.remove(key);
                if routes.is_empty() {
                    self.routes.attached.remove(parent);
                }
            }
        }
        for parent in &has {
            self.routes.attached.entry(parent.clone()).or_default().insert(key.clone());
        }
        dirty.parents.extend(had);
        dirty.parents.extend(has);
        dirty.routes.insert(key.clone());
    }

    /// Notes that a ReferenceGrant of `namespace` comes, changes or goes.
    pub(super) fn touch_grant(&self, namespace: &str, dirty: &mut DirtyRoutes) {
        let in_it = self.routes.users.range(ObjectName::new(namespace, "")..);
        for (_, parents) in in_it.take_while(|(service, _)| service.namespace == namespace) {
            dirty.parents.extend(parents.iter().cloned());
        }
    }

    /// Notes that a Service begins or ceases to keep clients by address, which decides about routes with sessions to it.
    pub(super) fn touch_affinity(&self, key: &ObjectKey, new: Option<&Object>, dirty: &mut DirtyRoutes) {
        let by_address = |object: Option<&Object>| match object {
            Some(Object::Service(service)) => service.affinity_seconds().is_some(),
            _ => false,
        };
        if by_address(self.objects.get(key).map(|object| &**object)) != by_address(new) {
            dirty.parents.extend(self.routes.users.get(&key.name).into_iter().flatten().cloned());
        }
    }

    /// The rule that keeps sessions with a Service that keeps clients by address already: such a route is rejected
    /// (GEP-1619, "Session Affinity in K8S Services").
    fn affinity_conflict(&self, view: RouteView<'_>) -> Option<(usize, ObjectName)> {
        view.sessions().into_iter().find_map(|(rule, _, backends)| {
            let services = backends.iter().map(|backend| backend_name(&backend.target(), view.namespace()));
            let found = services.into_iter().find(|service| self.is_by_address(service))?;
            Some((rule, found))
        })
    }

    /// Notes that a Service came, changed or went.
    pub(super) fn touch_backend(
        &self,
        name: &ObjectName,
        before: Option<&Arc<Service>>,
        after: Option<&Arc<Service>>,
        dirty: &mut DirtyRoutes,
    ) {
        let users = self.routes.users.get(name).into_iter().flatten().cloned();
        if shape(before) == shape(after) {
            dirty.retarget.extend(users);
        } else {
            dirty.parents.extend(users);
            if self.routes.attached.contains_key(name) {
                dirty.parents.insert(name.clone());
            }
        }
    }

    /// Builds what is dirty; true if anything that is published changed.
    pub(super) fn build_routes(&mut self, dirty: DirtyRoutes, next: &mut Snapshot) -> bool {
        let DirtyRoutes { parents, retarget, mut routes } = dirty;
        let mut changed = false;
        for parent in &parents {
            routes.extend(self.routes.attached.get(parent).into_iter().flatten().cloned());
            changed |= self.build_parent(parent, next);
        }
        for parent in retarget.difference(&parents) {
            changed |= self.retarget(parent, next);
        }
        for key in routes {
            changed |= self.build_status(&key, next);
        }
        changed
    }

    fn build_parent(&mut self, parent: &ObjectName, next: &mut Snapshot) -> bool {
        let old = self.routes.groups.remove(parent).unwrap_or_default();
        let new = self.groups(parent, &old, next);
        let uses: BTreeSet<ObjectName> =
            self.routes_of(parent).flat_map(|view| view.backends().collect::<Vec<_>>()).collect();
        self.index_uses(parent, uses);
        let changed = publish(parent, &old, &new, next);
        if !new.is_empty() {
            self.routes.groups.insert(parent.clone(), new);
        }
        changed
    }

    fn retarget(&mut self, parent: &ObjectName, next: &mut Snapshot) -> bool {
        let Some(old) = self.routes.groups.remove(parent) else { return false };
        let new: Vec<_> = old.iter().map(|group| group.with_targets(targets(&group.sources, next))).collect();
        let changed = publish(parent, &old, &new, next);
        self.routes.groups.insert(parent.clone(), new);
        changed
    }

    fn index_uses(&mut self, parent: &ObjectName, uses: BTreeSet<ObjectName>) {
        let had = self.routes.uses.remove(parent).unwrap_or_default();
        for gone in had.difference(&uses) {
            if let Some(parents) = self.routes.users.get_mut(gone) {
                parents.remove(parent);
                if parents.is_empty() {
                    self.routes.users.remove(gone);
                }
            }
        }
        for used in &uses {
            self.routes.users.entry(used.clone()).or_default().insert(parent.clone());
        }
        if !uses.is_empty() {
            self.routes.uses.insert(parent.clone(), uses);
        }
    }

    /// Routes attached to `parent`.
    fn routes_of(&self, parent: &ObjectName) -> impl Iterator<Item = RouteView<'_>> {
        let keys = self.routes.attached.get(parent).into_iter().flatten();
        keys.filter_map(|key| RouteView::of(self.objects.get(key)?))
    }

    /// True if a route names this subset of a service that `host` is about.
    pub(super) fn names_subset(&self, host: &str, subset: &str) -> bool {
        self.services_of(host).iter().any(|service| {
            let parents = self.routes.users.get(service).into_iter().flatten();
            let mut routes = parents.flat_map(|parent| self.routes_of(parent));
            routes.any(|view| {
                view.references().into_iter().any(|reference| {
                    reference.subset.as_deref() == Some(subset)
                        && backend_name(&reference.target, view.namespace()) == *service
                })
            })
        })
    }

    /// True if a ReferenceGrant lets a route of `kind` in `from` name the Service `to`.
    fn granted(&self, kind: &str, from: &str, to: &ObjectName) -> bool {
        self.names_in(Kind::ReferenceGrant, &to.namespace).any(|name| {
            match self.objects.get(&ObjectKey { kind: Kind::ReferenceGrant, name }).map(|object| &**object) {
                Some(Object::ReferenceGrant(grant)) => grant.permits(kind, from, &to.name),
                _ => false,
            }
        })
    }
}

/// Port, its name, protocol, subsets.
type PortShape<'s> = (u16, &'s str, AppProtocol, Vec<&'s str>);

/// What of a service decides how routes are compiled: whether it is headless, and each port's.
fn shape(service: Option<&Arc<Service>>) -> Option<(bool, Vec<PortShape<'_>>)> {
    fn port(port: &Arc<ServicePort>) -> PortShape<'_> {
        (port.port, &port.name, port.protocol, port.subsets.iter().map(|subset| &*subset.name).collect())
    }
    service.map(|service| (service.headless, service.ports.iter().map(port).collect()))
}

/// Brings the snapshot from `old` to `new`; true if they differ.
fn publish(parent: &ObjectName, old: &[Group], new: &[Group], next: &mut Snapshot) -> bool {
    let same =
        |a: &Group, b: &Group| a.port == b.port && a.client == b.client && Arc::ptr_eq(&a.routes, &b.routes);
    if old.len() == new.len() && old.iter().zip(new).all(|(a, b)| same(a, b)) {
        return false;
    }
    let mut ports: BTreeMap<u16, PortRoutes> = BTreeMap::new();
    for group in new {
        let port = ports.entry(group.port).or_default();
        match &group.client {
            None => port.producer = Some(group.routes.clone()),
            Some(client) => {
                port.consumers.insert(client.clone(), group.routes.clone());
            }
        }
    }
    for group in old.iter().filter(|group| !ports.contains_key(&group.port)) {
        next.routes.remove_mut(&(parent.clone(), group.port));
    }
    for (port, routes) in ports {
        next.routes.insert_mut((parent.clone(), port), Arc::new(routes));
    }
    true
}

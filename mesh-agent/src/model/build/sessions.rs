//! Sessions that get in each other's way: several rules or policies that give the sessions of one Service, or rules of
//! one route that give theirs, the same name.
//!
//! A client carries one cookie or header of a name, so only one of them finds its own in it (GEP-1619: rules never share
//! sessions). Only names that are given are looked at: those made up differ.

use std::collections::{BTreeMap, BTreeSet};

use super::Builder;
use super::routes::{RouteView, backend_name};
use crate::model::{ObjectName, Warning, WarningCode};
use crate::objects::gateway::{SessionPersistence, SessionPersistenceKind};
use crate::objects::{Object, ObjectKey};

/// Routes that give names, with what each rule says.
#[derive(Debug, Default)]
pub struct SessionIndex {
    named: BTreeMap<ObjectKey, Vec<Named>>,
}

/// A cookie or header by the name that it is given.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct SessionName {
    is_header: bool,
    name: String,
    /// Of a cookie, where it is given: clients tell cookies of one name apart by it.
    path: Option<String>,
}

/// Of a rule.
#[derive(Debug)]
struct Named {
    rule: usize,
    name: SessionName,
    services: BTreeSet<ObjectName>,
}

impl SessionName {
    /// None where the name is made up.
    pub fn given(spec: &SessionPersistence) -> Option<Self> {
        let is_header = spec.kind == SessionPersistenceKind::Header;
        let name = spec.name()?;
        let name = if is_header { name.to_ascii_lowercase() } else { name.to_owned() };
        Some(Self { is_header, name, path: spec.path().filter(|_| !is_header).map(str::to_owned) })
    }

    /// True if a client may send one where the other is meant.
    fn meets(&self, other: &Self) -> bool {
        let apart = match (&self.path, &other.path) {
            (Some(one), Some(other)) => !one.starts_with(other.as_str()) && !other.starts_with(one.as_str()),
            _ => false,
        };
        self.is_header == other.is_header && self.name == other.name && !apart
    }

    fn label(&self) -> String {
        format!("{} {}", if self.is_header { "header" } else { "cookie" }, self.name)
    }
}

impl Builder {
    /// Notes which names a route gives.
    pub(super) fn touch_sessions(&mut self, key: &ObjectKey, object: Option<&Object>) {
        self.sessions.named.remove(key);
        let view = object.and_then(RouteView::of);
        // Of a route for Gateways alone other controllers tell.
        let Some(view) = view.filter(|view| view.services().next().is_some()) else { return };
        let named = view.sessions().into_iter().filter_map(|(rule, spec, backends)| {
            let services = backends.iter().map(|backend| backend_name(&backend.target(), view.namespace()));
            Some(Named { rule, name: SessionName::given(spec)?, services: services.collect() })
        });
        let named: Vec<_> = named.collect();
        if !named.is_empty() {
            self.sessions.named.insert(key.clone(), named);
        }
    }

    /// Of each two that share a name for a Service or in a route, the later one by kind, name and place is told of the
    /// other.
    pub(super) fn session_warnings(&self) -> impl Iterator<Item = (ObjectKey, Warning)> {
        let mut owners: BTreeMap<&ObjectName, Vec<(String, &SessionName)>> = BTreeMap::new();
        let services: BTreeSet<&ObjectName> =
            self.sessions.named.values().flatten().flat_map(|it| &it.services).collect();
        let of_policies: Vec<_> =
            services.into_iter().filter_map(|it| Some((it, self.session_name_of(it)?))).collect();
        for (service, (key, name)) in &of_policies {
            owners.insert(service, vec![(key.to_string(), name)]);
        }
        let mut found = Vec::new();
        for (key, rules) in &self.sessions.named {
            for (place, it) in rules.iter().enumerate() {
                let of_service = |service| {
                    let (owner, _) = owners.get(service)?.iter().find(|(_, other)| other.meets(&it.name))?;
                    Some(format!("{owner} for Service {service}"))
                };
                let of_route = || {
                    let other = rules[..place].iter().find(|other| other.name.meets(&it.name))?;
                    Some(format!("rule {}", other.rule))
                };
                if let Some(other) = it.services.iter().find_map(of_service).or_else(of_route) {
                    let message = format!(
                        "{} is the session of {other} too: a client keeps one of the two at a time; give each a name of its own, or none",
                        it.name.label()
                    );
                    let field = format!("spec.rules[{}].sessionPersistence", it.rule);
                    let warning = Warning::new(WarningCode::Contradiction, key, field, message);
                    found.push((key.clone(), warning));
                }
                for service in &it.services {
                    let of_it = owners.entry(service).or_default();
                    if !of_it.iter().any(|(_, other)| other.meets(&it.name)) {
                        of_it.push((format!("{key}, rule {}", it.rule), &it.name));
                    }
                }
            }
        }
        found.into_iter()
    }
}

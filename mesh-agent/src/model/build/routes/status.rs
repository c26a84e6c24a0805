//! Conditions of a route, and warnings for everything about it that isn't as its author will have meant it.

use std::sync::Arc;

use super::super::Builder;
use super::group::{Group, client_of};
use super::unusable::Unusable;
use super::view::{RouteView, is_meant, is_service, parent_name};
use super::{advice, edits, extension};
use crate::model::{
    Condition, ObjectName, ParentStatus, RouteStatus, ServicePort, Snapshot, Warning, WarningCode,
};
use crate::objects::gateway::{BackendRef, FilterKind, ParentRef, RouteFilter};
use crate::objects::{Kind, Object, ObjectKey};

const GATEWAY: &str = "gateway.networking.k8s.io";

/// A warning of a route before it is one: code, field, message.
pub type Complaint = (WarningCode, String, String);

impl Builder {
    /// Status and warnings of one route; true if its status changed.
    pub(super) fn build_status(&mut self, key: &ObjectKey, next: &mut Snapshot) -> bool {
        let Some(view) = self.objects.get(key).and_then(|object| RouteView::of(object)) else {
            return next.route_status.remove_mut(key);
        };
        let mut complaints = Vec::new();
        let parents = self.parents(view, next, &mut complaints);
        fields(view, &mut complaints);
        complaints.dedup();
        let rule_names = view.rule_names().into_iter().map(str::to_owned).collect();
        let (kind, name, rules) = (key.kind.name(), key.name.clone(), view.rules());
        let generation = view.object.metadata().generation;
        let status = RouteStatus { kind, name, generation, rules, rule_names, parents };
        let warnings = complaints.into_iter().map(|(code, field, text)| Warning::new(code, key, field, text));
        let warnings = warnings.collect();
        self.note(key.clone(), warnings);
        if next.route_status.get(key).is_some_and(|old| **old == status) {
            return false;
        }
        next.route_status.insert_mut(key.clone(), Arc::new(status));
        true
    }

    fn parents(
        &self,
        view: RouteView<'_>,
        next: &Snapshot,
        complaints: &mut Vec<Complaint>,
    ) -> Vec<ParentStatus> {
        let mut parents: Vec<ParentStatus> = Vec::new();
        for (index, reference) in view.parent_refs() {
            let field = format!("spec.parentRefs[{index}]");
            if !is_service(reference) {
                complaints.extend(foreign_parent(reference, field));
                continue;
            }
            let service = parent_name(reference, view.namespace());
            let known = parents.iter().any(|parent| parent.service == service);
            let accepted = self.accepted(view, reference, &service, &field, next, complaints);
            let partially_invalid = if accepted.status { Unusable::of(view).partly() } else { None };
            let mut refs = Vec::new();
            let resolved_refs = self.resolved(view, &service, next, &mut refs);
            if !known {
                complaints
                    .extend(refs.into_iter().filter(|found| !complaints.contains(found)).collect::<Vec<_>>());
                self.shadowed(view, &service, next, complaints);
            }
            parents.push(ParentStatus {
                producer: service.namespace == view.namespace(),
                service,
                port: reference.port.map(|port| port.0),
                section: reference.section_name.as_deref().map(str::to_owned),
                accepted,
                partially_invalid,
                resolved_refs,
            });
        }
        parents
    }

    fn accepted(
        &self,
        view: RouteView<'_>,
        reference: &ParentRef,
        name: &ObjectName,
        field: &str,
        next: &Snapshot,
        complaints: &mut Vec<Complaint>,
    ) -> Condition {
        let mut refuse = |reason: &str, code: WarningCode, part: &str, message: String| {
            complaints.push((code, format!("{field}{part}"), message.clone()));
            Condition::bad(reason, message)
        };
        let unknown = WarningCode::UnknownParent;
        let Some(service) = next.services.get(name) else {
            let message = format!(
                "there is no Service {name} with an address in the cluster: correct the name or add the Service"
            );
            return refuse("NoMatchingParent", unknown, "", message);
        };
        if service.headless {
            let message = format!(
                "Service {name} is headless, so nothing is ever sent to it itself: attach to one that has an address"
            );
            return refuse("NoMatchingParent", unknown, "", message);
        }
        let ports: Vec<u16> = service.ports.iter().map(|port| port.port).collect();
        if let Some(port) = reference.port
            && !ports.contains(&port.0)
        {
            let message =
                format!("Service {name} has no TCP port {}: name one of {ports:?}, or none for all", port.0);
            return refuse("NoMatchingParent", unknown, ".port", message);
        }
        let wanted: Vec<_> = service.ports.iter().filter(|port| is_meant(reference, port)).collect();
        if let Some(section) = reference.section_name.as_deref().filter(|_| wanted.is_empty()) {
            let names: Vec<&str> = service.ports.iter().map(|port| &*port.name).collect();
            let which = reference.port.map(|port| format!(" {}", port.0)).unwrap_or_default();
            let message = format!(
                "Service {name} has no TCP port{which} called {section:?}: name one of {names:?}, or none for all"
            );
            return refuse("NoMatchingParent", unknown, ".sectionName", message);
        }
        let (suited, others): (Vec<_>, Vec<_>) = wanted.iter().partition(|port| view.suits(port.protocol));
        // Without a port all are meant that suit; others are no mistake.
        if suited.is_empty() && !others.is_empty() {
            return refuse("UnsupportedProtocol", unknown, "", unsuited(view, name, &others));
        }
        if let Some((rule, backend)) = self.affinity_conflict(view) {
            let message = format!(
                "sessionPersistence of rule {rule} can't be had with Service {backend}, which keeps clients by address (sessionAffinity: ClientIP): remove one of the two; until then the route isn't attached"
            );
            let field = format!("spec.rules[{rule}].sessionPersistence");
            let complaint = (WarningCode::SessionAffinity, field, message.clone());
            if !complaints.contains(&complaint) {
                complaints.push(complaint);
            }
            return Condition::bad("UnsupportedValue", message);
        }
        let client = client_of(&view, name);
        let mut taken = Vec::new();
        let mut winner = None;
        for port in &suited {
            let group = self.group_of(name, port.port, client);
            if let Some(first) = group.and_then(Group::first).filter(|first| first.rank() < view.rank()) {
                taken.push(port.port);
                winner = Some(first.key());
            }
        }
        if let Some(winner) = winner {
            let message = format!(
                "{winner} is attached to port {taken:?} too, and its kind comes first: give each kind ports of its own"
            );
            let all = suited.len() == taken.len();
            let condition = refuse("Conflicted", WarningCode::RouteKindConflict, "", message);
            return if all { condition } else { Condition::good("Accepted") };
        }
        Unusable::of(view).whole().unwrap_or_else(|| Condition::good("Accepted"))
    }

    fn resolved(
        &self,
        view: RouteView<'_>,
        parent: &ObjectName,
        next: &Snapshot,
        complaints: &mut Vec<Complaint>,
    ) -> Condition {
        let mut condition = Condition::good("ResolvedRefs");
        let kind = view.object.kind().name();
        for reference in view.references() {
            let outcome = self.outcome(view, parent, &reference, next);
            if let Some((reason, code, message)) = outcome.complaint(kind, view.namespace()) {
                if condition.status {
                    condition = Condition::bad(reason, message.clone());
                }
                complaints.push((code, reference.field, message));
            }
        }
        let unknown = unknown_filters(view);
        if condition.status
            && let Some(unknown) = unknown.iter().find(|unknown| unknown.kind == FilterKind::ExtensionRef)
        {
            let message =
                format!("{}: requests that it would be applied to are answered with 500", unknown.why);
            condition = Condition::bad("InvalidKind", message);
        }
        condition
    }

    /// Matches that rules of higher precedence have already, on the first port that the route is attached to.
    fn shadowed(
        &self,
        view: RouteView<'_>,
        parent: &ObjectName,
        next: &Snapshot,
        complaints: &mut Vec<Complaint>,
    ) {
        let ports = next.services.get(parent).into_iter().flat_map(|service| &service.ports);
        let mut ports = ports.filter(|port| view.suits(port.protocol));
        let Some(port) = ports.find(|port| view.is_attached(parent, port)) else { return };
        let Some(group) = self.group_of(parent, port.port, client_of(&view, parent)) else { return };
        if group.kind() == Some(view.object.kind()) {
            let kind = view.object.kind().name();
            let shadows = group.shadows.get(&view.key().name).into_iter().flatten();
            complaints.extend(shadows.map(|shadow| shadow.complaint(kind)));
        }
    }
}

/// Ports that declare another protocol than the route's kind decides about.
fn unsuited(view: RouteView<'_>, service: &ObjectName, ports: &[&Arc<ServicePort>]) -> String {
    let kind = view.object.kind().name();
    let declared: Vec<_> =
        ports.iter().map(|port| format!("{} ({})", port.port, port.protocol.label())).collect();
    let fit = match view.object.kind() {
        Kind::HttpRoute | Kind::GrpcRoute => "http, http2 or grpc",
        Kind::TlsRoute => "tls",
        _ => "tcp or tls",
    };
    format!(
        "no {kind} can hold on what Service {service} declares of port {}: attach a route of the protocol's kind, or declare {fit}, or nothing, with appProtocol or the port's name; until then connections are balanced as without the route",
        declared.join(", ")
    )
}

/// A parent that isn't a Service is another controller's business, unless a Service seems to be meant.
fn foreign_parent(reference: &ParentRef, field: String) -> Option<Complaint> {
    if reference.kind() == "Service" {
        let message = format!(
            "Service of group {:?} is none: write group: \"\"; the route isn't attached",
            reference.group()
        );
        return Some((WarningCode::UnsupportedReference, format!("{field}.group"), message));
    }
    if reference.group() == GATEWAY && reference.kind() == "Gateway" {
        return None;
    }
    let message = format!(
        "{} ({}) can't be a parent here: name a Service, with group: \"\"",
        reference.kind(),
        reference.group()
    );
    Some((WarningCode::UnsupportedReference, format!("{field}.kind"), message))
}

/// What can be said of a route without knowing anything else.
fn fields(view: RouteView<'_>, complaints: &mut Vec<Complaint>) {
    if view.parent_refs().next().is_none() {
        let message = "is missing, so the route is attached to nothing: name a Service, with group: \"\"";
        complaints.push((WarningCode::UnknownParent, "spec.parentRefs".into(), message.into()));
    }
    if view.services().next().is_none() {
        return;
    }
    let hosts = match view.object {
        Object::HttpRoute(route) => route.spec.hostnames.len(),
        Object::GrpcRoute(route) => route.spec.hostnames.len(),
        _ => 0,
    };
    if hosts > 0 {
        let message = "has no meaning where a Service is the parent (GEP-1294) and is ignored: the address that a client dials decides; to go by Host, match that header";
        complaints.push((WarningCode::UnsupportedValue, "spec.hostnames".into(), message.into()));
    }
    for Unknown { field, kind, why } in unknown_filters(view) {
        let message = format!("{why}: requests that it would be applied to are answered with 500");
        let code = if kind == FilterKind::ExtensionRef {
            WarningCode::UnsupportedReference
        } else {
            WarningCode::UnsupportedValue
        };
        complaints.push((code, field, message));
    }
    for (field, name) in untouchable_lines(view) {
        let advice = if name.eq_ignore_ascii_case("host") { "use URLRewrite" } else { "remove the line" };
        let message = format!(
            "{name:?} belongs to the message's framing or to one connection: {advice}; requests that the filter would be applied to are answered with 500"
        );
        complaints.push((WarningCode::UnsupportedValue, field, message));
    }
    complaints.extend(advice::of(view));
    for (index, (filters, backends)) in rules(view).into_iter().enumerate() {
        let redirects = filters.iter().any(|filter| filter.kind == FilterKind::RequestRedirect);
        if !redirects && backends.iter().all(|backend| backend.weight() == 0) {
            let field = format!("spec.rules[{index}].backendRefs");
            let message = match backends {
                [] => "is empty: what the rule matches is answered with 500; name a backend or redirect",
                _ => {
                    "has no weight above 0: what the rule matches is answered with 500, or refused; raise one"
                }
            };
            complaints.push((WarningCode::RuleWithoutBackend, field, message.into()));
        }
    }
}

/// Filters and backends of each rule.
pub fn rules<'o>(view: RouteView<'o>) -> Vec<(&'o [RouteFilter], &'o [BackendRef])> {
    match view.object {
        Object::HttpRoute(route) => {
            route.spec.rules.iter().map(|rule| (&*rule.filters, &*rule.backend_refs)).collect()
        }
        Object::GrpcRoute(route) => {
            route.spec.rules.iter().map(|rule| (&*rule.filters, &*rule.backend_refs)).collect()
        }
        Object::TlsRoute(route) => {
            route.spec.rules.iter().map(|rule| (&[][..], &*rule.backend_refs)).collect()
        }
        Object::TcpRoute(route) => {
            route.spec.rules.iter().map(|rule| (&[][..], &*rule.backend_refs)).collect()
        }
        _ => Vec::new(),
    }
}

/// A filter that can't be had.
struct Unknown {
    field: String,
    kind: FilterKind,
    why: String,
}

fn unknown_filters(view: RouteView<'_>) -> Vec<Unknown> {
    let mut unknown = Vec::new();
    for (path, filters, place) in filter_lists(view) {
        for (index, filter) in filters.iter().enumerate() {
            if let Some(why) = extension::complaint(filters, index, place) {
                unknown.push(Unknown { field: format!("{path}[{index}]"), kind: filter.kind, why });
            }
        }
    }
    unknown
}

/// Lines of header modifiers that can't be had, with their path and the name in them.
fn untouchable_lines(view: RouteView<'_>) -> impl Iterator<Item = (String, &str)> {
    all_filters(view).flat_map(|(path, filter)| {
        edits::untouchable(filter).into_iter().map(move |(field, name)| (format!("{path}.{field}"), name))
    })
}

/// Every filter with its path.
pub fn all_filters<'o>(view: RouteView<'o>) -> impl Iterator<Item = (String, &'o RouteFilter)> {
    filter_lists(view).into_iter().flat_map(|(path, filters, _)| {
        filters.iter().enumerate().map(move |(index, filter)| (format!("{path}[{index}]"), filter))
    })
}

/// Every list of filters with its path.
fn filter_lists<'o>(view: RouteView<'o>) -> Vec<(String, &'o [RouteFilter], extension::Place)> {
    let mut all = Vec::new();
    for (rule, (filters, backends)) in rules(view).into_iter().enumerate() {
        all.push((format!("spec.rules[{rule}].filters"), filters, extension::Place::Rule));
        all.extend(backends.iter().enumerate().map(|(index, backend)| {
            let path = format!("spec.rules[{rule}].backendRefs[{index}].filters");
            (path, &*backend.filters, extension::Place::Backend)
        }));
    }
    all
}

//! The routes that merge: those of one parent port that come from one namespace.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use super::super::Builder;
use super::compile;
use super::refs::Outcome;
use super::shadow::{self, Shadows};
use super::view::RouteView;
use crate::model::{ObjectName, ServicePort, Snapshot};
use crate::objects::{Kind, Object};
use crate::route::{BackendName, BackendPort, BackendTarget, RouteTable, Routes, Sources, StreamTable};

/// One set of routes, compiled.
#[derive(Debug)]
pub struct Group {
    /// The parent's port.
    pub port: u16,
    /// The clients' namespace for consumer routes, None for producer routes.
    pub client: Option<String>,
    /// What is published.
    pub routes: Arc<Routes>,
    /// What the targets are.
    pub sources: Sources,
    /// What gets no request.
    pub shadows: Arc<Shadows>,
    inputs: Vec<Input>,
}

/// A route and what its references come to: as long as they stay the same, so does what is compiled of them.
#[derive(Clone, Debug)]
struct Input {
    object: Arc<Object>,
    outcomes: Vec<Outcome>,
}

impl Group {
    /// The same rules with other targets; itself where they are the same.
    pub fn with_targets(&self, targets: Vec<BackendPort>) -> Self {
        let routes = if same_targets(&self.routes.targets, &targets) {
            self.routes.clone()
        } else {
            let Routes { requests, streams, names, .. } = &*self.routes;
            let (requests, streams, names) = (requests.clone(), streams.clone(), names.clone());
            Arc::new(Routes { requests, streams, targets, names })
        };
        let (client, sources, inputs) = (self.client.clone(), self.sources.clone(), self.inputs.clone());
        Self { port: self.port, client, routes, sources, shadows: self.shadows.clone(), inputs }
    }

    /// One of its routes, which are all of one kind.
    pub fn first(&self) -> Option<RouteView<'_>> {
        RouteView::of(&self.inputs.first()?.object)
    }

    /// The kind of its routes.
    pub fn kind(&self) -> Option<Kind> {
        self.first().map(|first| first.object.kind())
    }
}

impl Builder {
    /// All groups of `parent`, taking over from `old` what hasn't changed.
    pub(super) fn groups(&self, parent: &ObjectName, old: &[Group], next: &Snapshot) -> Vec<Group> {
        let Some(service) = next.services.get(parent).filter(|service| !service.headless) else {
            return Vec::new();
        };
        let clients: BTreeSet<Option<&str>> =
            self.routes_of(parent).map(|view| client_of(&view, parent)).collect();
        let mut groups = Vec::new();
        for port in &service.ports {
            for client in &clients {
                let inputs = self.inputs(parent, port, *client, next);
                if !inputs.is_empty() {
                    groups.push(group(port.port, *client, inputs, old, next));
                }
            }
        }
        groups
    }

    /// What is compiled for clients of `client` on a port of `parent`.
    pub(super) fn group_of(&self, parent: &ObjectName, port: u16, client: Option<&str>) -> Option<&Group> {
        let mut groups = self.routes.groups.get(parent)?.iter();
        groups.find(|group| group.port == port && group.client.as_deref() == client)
    }

    /// Routes of the most specific kind among those of `client` that can hold on this port.
    fn members(&self, parent: &ObjectName, port: &ServicePort, client: Option<&str>) -> Vec<RouteView<'_>> {
        let holds = |view: &RouteView<'_>| {
            client_of(view, parent) == client
                && view.is_attached(parent, port)
                && view.suits(port.protocol)
                && self.affinity_conflict(*view).is_none()
        };
        let mut views: Vec<_> = self.routes_of(parent).filter(holds).collect();
        let rank = views.iter().map(RouteView::rank).min();
        views.retain(|view| Some(view.rank()) == rank);
        views
    }

    fn inputs(
        &self,
        parent: &ObjectName,
        port: &ServicePort,
        client: Option<&str>,
        next: &Snapshot,
    ) -> Vec<Input> {
        let views = self.members(parent, port, client);
        let inputs = views.into_iter().filter_map(|view| {
            let object = self.objects.get(&view.key())?.clone();
            let references = view.references();
            let outcome = |reference: &super::view::Reference| self.outcome(view, parent, reference, next);
            let outcomes = references.iter().map(outcome).collect();
            Some(Input { object, outcomes })
        });
        inputs.collect()
    }
}

/// None for a producer route, its namespace for a consumer route.
pub fn client_of<'o>(view: &RouteView<'o>, parent: &ObjectName) -> Option<&'o str> {
    (view.namespace() != parent.namespace).then(|| view.namespace())
}

fn group(port: u16, client: Option<&str>, inputs: Vec<Input>, old: &[Group], next: &Snapshot) -> Group {
    let same = |group: &&Group| {
        group.port == port
            && group.client.as_deref() == client
            && group.inputs.len() == inputs.len()
            && group
                .inputs
                .iter()
                .zip(&inputs)
                .all(|(a, b)| Arc::ptr_eq(&a.object, &b.object) && a.outcomes == b.outcomes)
    };
    if let Some(group) = old.iter().find(same) {
        return group.with_targets(targets(&group.sources, next));
    }
    let mut sources = Sources::new();
    let (mut requests, mut streams) = (Vec::new(), Vec::new());
    for Input { object, outcomes } in &inputs {
        let mut outcomes = outcomes.iter();
        let mut next_target = || match outcomes.next().and_then(Outcome::service_port) {
            Some(name) => BackendTarget::Service(place(&mut sources, name)),
            None => BackendTarget::Invalid,
        };
        match &**object {
            Object::HttpRoute(route) => requests.extend(compile::http(route, &mut next_target)),
            Object::GrpcRoute(route) => requests.extend(compile::grpc(route, &mut next_target)),
            Object::TlsRoute(route) => streams.extend(compile::tls(route, &mut next_target)),
            Object::TcpRoute(route) => streams.extend(compile::tcp(route, &mut next_target)),
            _ => {}
        }
    }
    let is_stream =
        inputs.iter().any(|input| matches!(&*input.object, Object::TlsRoute(_) | Object::TcpRoute(_)));
    let shadows = if is_stream { shadow::of_streams(&streams) } else { shadow::of_requests(&requests) };
    let routes = Routes {
        requests: (!is_stream).then(|| Arc::new(RouteTable::new(requests))),
        streams: is_stream.then(|| Arc::new(StreamTable::new(streams))),
        targets: targets(&sources, next),
        names: sources.clone(),
    };
    let client = client.map(str::to_owned);
    Group { port, client, routes: Arc::new(routes), sources, shadows: Arc::new(shadows), inputs }
}

fn place(sources: &mut Sources, name: BackendName) -> usize {
    match sources.iter().position(|other| *other == name) {
        Some(place) => place,
        None => {
            sources.push(name);
            sources.len() - 1
        }
    }
}

/// What `sources` stand for in `next`.
pub fn targets(sources: &Sources, next: &Snapshot) -> Vec<BackendPort> {
    let target = |name: &BackendName| {
        let Some(service) = next.services.get(&name.service) else { return BackendPort::default() };
        let towards = |like| service.port_towards(like, name.port)?.part(name.subset.as_deref()).cloned();
        BackendPort { v4: towards(Ipv4Addr::UNSPECIFIED.into()), v6: towards(Ipv6Addr::UNSPECIFIED.into()) }
    };
    sources.iter().map(target).collect()
}

fn same_targets(old: &[BackendPort], new: &[BackendPort]) -> bool {
    let same = |a: &Option<Arc<ServicePort>>, b: &Option<Arc<ServicePort>>| match (a, b) {
        (Some(a), Some(b)) => Arc::ptr_eq(a, b),
        (None, None) => true,
        _ => false,
    };
    old.len() == new.len() && old.iter().zip(new).all(|(a, b)| same(&a.v4, &b.v4) && same(&a.v6, &b.v6))
}

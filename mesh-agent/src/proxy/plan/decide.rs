//! How a plan comes about: the route's rule, the backend that is drawn, what policies say.
//!
//! Deciding is `crate::route` and `super::super::gate`; this file asks them in order. A service without routes and policies
//! costs one look at the connection.

use std::cell::RefCell;
use std::sync::Arc;

use http::header::UPGRADE;
use http::{Method, request};
use tokio::time::Instant;

use super::{Plan, Policed, Routed, refuse};
use crate::model::ServicePort;
use crate::proxy::answer::LocalAnswer;
use crate::proxy::backend::Backends;
use crate::proxy::context::Connection;
use crate::proxy::error::ErrorKind;
use crate::proxy::exchange::Exchange;
use crate::proxy::session::Sticky;
use crate::route::{BackendTarget, Before, Routes, Rule};

impl Connection {
    /// Decides about a request and changes its head accordingly.
    ///
    /// # Errors
    /// With the answer to give at once, where the request isn't to be sent anywhere.
    pub fn plan(&self, head: &mut request::Parts, account: &mut Exchange<'_>) -> Result<Plan, LocalAnswer> {
        self.follow_configuration();
        let plan = self.route(head, account)?;
        if self.has_traffic_policies() { self.under_policies(plan, head, account) } else { Ok(plan) }
    }

    fn route(&self, head: &mut request::Parts, account: &mut Exchange<'_>) -> Result<Plan, LocalAnswer> {
        let routes = self.routes.borrow();
        let Some(routes) = routes.as_ref() else { return Ok(self.without_route(head)) };
        let Some(table) = &routes.requests else { return Ok(self.without_route(head)) };
        let Some(found) = table.find(head) else { return Err(refuse(ErrorKind::NoRoute)) };
        let rule = found.rule.clone();
        account.route(&rule);
        self.apply(routes, rule, found.prefix, head)
    }

    /// Asks the TrafficPolicies of the rule and of the service that the request goes to.
    fn under_policies(
        &self,
        mut plan: Plan,
        head: &request::Parts,
        account: &mut Exchange<'_>,
    ) -> Result<Plan, LocalAnswer> {
        let port = self.port_of(&plan);
        let layers = self.layers(plan.rule(), port.as_ref());
        if layers.rule.is_none() && layers.service.is_none() {
            return Ok(plan);
        }
        if let Some(limit) = layers.timeout() {
            let at = Instant::now() + **limit;
            plan.deadline = Some(plan.deadline.map_or(at, |earlier| earlier.min(at)));
        }
        let entered = self.enter(&layers, head);
        let policed = plan.policed.insert(Box::new(Policed { layers, ..Policed::default() }));
        let instead = match entered {
            Ok((held, fault)) => {
                account.hold(held);
                policed.fault = fault;
                policed.empty = self.to_wait_for(&policed.layers, port.as_ref());
                match policed.empty {
                    Some(_) => None,
                    None => self.instead(&policed.layers, port.as_ref()),
                }
            }
            Err(why) => {
                self.count_policy(why.label());
                let open = policed.layers.fallback().filter(|fallback| fallback.circuit_open);
                let instead = open.and_then(|fallback| self.fallback_service(fallback));
                if instead.is_none() {
                    return Err(plan.answer_to(self, why).unwrap_or_else(|| refuse(why)));
                }
                instead
            }
        };
        if instead.is_some() {
            plan.backends = instead;
        }
        Ok(plan)
    }

    /// The service port that a request goes to; on the inbound side the one that the application is an endpoint of.
    pub(in crate::proxy) fn port_of(&self, plan: &Plan) -> Option<Arc<ServicePort>> {
        match plan.backends().unwrap_or(&self.backends.borrow()) {
            Backends::Service(port) | Backends::Original(port, _) => Some(port.clone()),
            Backends::Single(_) | Backends::None => self.behind.borrow().clone(),
        }
    }

    /// Decides about a connection that isn't carried as requests, by its server name if it has one.
    ///
    /// # Errors
    /// If the service has routes for connections and none matches, or the backend isn't there.
    pub fn plan_stream(&self) -> Result<Plan, ErrorKind> {
        self.follow_configuration();
        let routes = self.routes.borrow();
        let Some(routes) = routes.as_ref() else { return Ok(Plan::default()) };
        let Some(table) = &routes.streams else { return Ok(Plan::default()) };
        let sni = self.sni.borrow();
        let rule = table.find(sni.as_deref()).ok_or(ErrorKind::NoRoute)?;
        let drawn = rule.backends.pick(fastrand::u64(..)).ok_or(ErrorKind::NoBackend)?;
        let port = self.target(routes, rule.backends[drawn].target).ok_or(ErrorKind::NoBackend)?;
        Ok(Plan { backends: Some(Backends::Service(port.clone())), ..Plan::default() })
    }

    /// Of a service without routes a policy may still keep sessions.
    fn without_route(&self, head: &request::Parts) -> Plan {
        let own = self.backends.borrow();
        let Backends::Service(port) = &*own else { return Plan::default() };
        let session = Sticky::of_port(port, &head.headers).map(Box::new);
        let kept = session.as_deref().and_then(Sticky::endpoint);
        Plan { backends: kept.map(|_| own.clone()), session, ..Plan::default() }
    }

    fn target<'r>(&self, routes: &'r Routes, target: BackendTarget) -> Option<&'r Arc<ServicePort>> {
        match target {
            BackendTarget::Service(at) => routes.targets.get(at)?.at(self.dst.ip()),
            BackendTarget::Invalid => None,
        }
    }

    fn apply(
        &self,
        routes: &Routes,
        rule: Arc<Rule>,
        prefix: usize,
        head: &mut request::Parts,
    ) -> Result<Plan, LocalAnswer> {
        let before = rule.before(head, prefix, self.dst.port());
        let cors = match before.map_err(|_| refuse(ErrorKind::Internal))? {
            Before::Answer(status, headers) => return Err(LocalAnswer::new(status, headers)),
            Before::Forward(cors) => cors,
        };
        let kept = rule.session.as_ref().and_then(|how| {
            let ports = rule.backends.iter().map(|backend| self.target(routes, backend.target));
            Sticky::find(how, &head.headers, ports)
        });
        let drawn = kept.map(|(at, _)| at).or_else(|| rule.backends.pick(fastrand::u64(..)));
        let drawn = drawn.ok_or_else(|| refuse(ErrorKind::NoBackend))?;
        let backend = &rule.backends[drawn];
        let port = self.target(routes, backend.target).ok_or_else(|| refuse(ErrorKind::NoBackend))?;
        let session = match &rule.session {
            Some(how) => Some(Sticky::new(how.clone(), port, kept.map(|(_, session)| session))),
            None => Sticky::of_port(port, &head.headers),
        }
        .map(Box::new);
        let backends = Some(Backends::Service(port.clone()));
        let mut retargeted = false;
        for filters in [&rule.filters, &backend.filters] {
            retargeted |= filters.change(head, prefix).map_err(|_| refuse(ErrorKind::Internal))?;
        }
        let deadline = rule.timeouts.request.map(|limit| Instant::now() + limit);
        let mirrors = RefCell::new(self.mirrors(routes, &rule, drawn, head));
        let routed = Some(Routed { rule, backend: drawn, cors: (!cors.is_empty()).then(|| Box::new(cors)) });
        Ok(Plan { backends, deadline, retargeted, session, routed, mirrors, ..Plan::default() })
    }

    /// Draws the mirrors that get a copy. What leaves HTTP behind has no copy.
    fn mirrors(
        &self,
        routes: &Routes,
        rule: &Rule,
        backend: usize,
        head: &request::Parts,
    ) -> Vec<Option<Arc<ServicePort>>> {
        if head.method == Method::CONNECT || head.headers.contains_key(UPGRADE) {
            return Vec::new();
        }
        let mirrors = rule.filters.mirrors.iter().chain(&rule.backends[backend].filters.mirrors);
        mirrors
            .filter(|mirror| mirror.takes(fastrand::u32(..)))
            .map(|mirror| self.target(routes, BackendTarget::Service(mirror.target)).cloned())
            .collect()
    }
}

//! How a plan comes about: the route's rule, the backend that is drawn, what policies say.
//!
//! Deciding is `crate::route` and `super::super::gate`; this file asks them in order. A service without routes and policies
//! costs one look at the connection.

use std::cell::RefCell;
use std::sync::Arc;

use http::header::UPGRADE;
use http::{Method, request};
use tokio::time::Instant;

use super::deadline::ClientDeadline;
use super::{Asked, Plan, Policed, Routed, refuse};
use crate::http2;
use crate::model::ServicePort;
use crate::proxy::answer::LocalAnswer;
use crate::proxy::backend::Backends;
use crate::proxy::context::Connection;
use crate::proxy::error::ErrorKind;
use crate::proxy::exchange::Exchange;
use crate::proxy::session::Sticky;
use crate::route::{BackendTarget, Before, Routes, Rule, Scope};

impl Plan {
    /// Makes of the client's request, of whose path so many bytes matched, what is sent. Limits that tell requests apart by
    /// what changes remember how it was.
    fn change(&mut self, head: &mut request::Parts, prefix: usize) -> Result<(), LocalAnswer> {
        let Some(Routed { rule, backend, .. }) = &self.routed else { return Ok(()) };
        let filters = &rule.backends[*backend].filters;
        if !rule.changes(filters) {
            return Ok(());
        }
        if let Some(policed) = self.policed.as_mut().filter(|policed| policed.tells_by_head()) {
            let (uri, headers) = (head.uri.clone(), head.headers.clone());
            policed.asked = Some(Box::new(Asked { uri, headers }));
        }
        self.retargeted = rule.change(filters, head, prefix).map_err(|_| refuse(ErrorKind::Internal))?;
        Ok(())
    }
}

impl Connection {
    /// Decides about a request and changes its head accordingly.
    ///
    /// # Errors
    /// With the answer to give at once, where the request isn't to be sent anywhere.
    pub fn plan(&self, head: &mut request::Parts, account: &mut Exchange<'_>) -> Result<Plan, LocalAnswer> {
        self.follow_configuration();
        let (mut plan, prefix) = self.route(head, account)?;
        if account.is_grpc() {
            let said = http2::grpc_timeout(&head.headers);
            plan.client = said.and_then(|said| ClientDeadline::new(said, Instant::now()));
        }
        if self.has_traffic_policies() {
            plan = self.under_policies(plan, head, account)?;
        }
        plan.change(head, prefix).map_err(|answer| plan.marked(answer))?;
        Ok(plan)
    }

    /// And how many bytes of the path its rule matched.
    fn route(&self, head: &request::Parts, account: &mut Exchange<'_>) -> Result<(Plan, usize), LocalAnswer> {
        let routes = self.routes.borrow();
        let Some(routes) = routes.as_ref() else { return Ok((self.without_route(head), 0)) };
        let Some(table) = &routes.requests else { return Ok((self.without_route(head), 0)) };
        let Some(found) = table.find(head) else { return Err(refuse(ErrorKind::NoRoute)) };
        let rule = found.rule.clone();
        account.route(&rule);
        Ok((self.apply(routes, rule, found.prefix, head)?, found.prefix))
    }

    /// Asks the TrafficPolicies of the rule and of the service that the request goes to. They see it as the client sent it.
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
        let time = layers.limit_by(plan.rule().map(|rule| &**rule));
        plan.limit = time.map(|time| Instant::now() + time);
        let entered = self.enter(&layers, head);
        let policed = plan.policed.insert(Box::new(Policed { layers, time, ..Policed::default() }));
        match entered {
            Ok((held, fault)) => {
                policed.fault = fault;
                policed.empty = self.to_wait_for(&policed.layers, port.as_ref());
                let is_empty = port.is_some_and(|port| !self.can_answer(&port));
                let waits = policed.empty.is_some();
                // What goes elsewhere says nothing of the service that it was meant for.
                if waits || !is_empty || !plan.fall_back(self, ErrorKind::NoHealthyUpstream) {
                    account.hold(held);
                }
            }
            Err(why) => {
                self.count_policy(why.label());
                if !plan.fall_back(self, why) {
                    return Err(plan.refusal(self, why));
                }
            }
        }
        Ok(plan)
    }

    /// The service port that a request goes to; on the inbound side the one that the application is an endpoint of.
    pub(in crate::proxy) fn port_of(&self, plan: &Plan) -> Option<Arc<ServicePort>> {
        match plan.backends().unwrap_or(&self.backends.borrow()) {
            Backends::Service(port) => Some(port.clone()),
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
        self.stream_rule.replace(Some(rule.clone()));
        let drawn = rule.backends.pick(fastrand::u64(..)).ok_or(ErrorKind::NoBackend)?;
        let port = self.target(routes, rule.backends[drawn].target).ok_or(ErrorKind::NoBackend)?;
        Ok(Plan { backends: Some(Backends::Service(port.clone())), ..Plan::default() })
    }

    /// Of a service without routes a policy may still keep sessions.
    fn without_route(&self, head: &request::Parts) -> Plan {
        let own = self.backends.borrow();
        let Backends::Service(port) = &*own else { return Plan::default() };
        let session = Sticky::of_port(port, Scope::default(), &head.headers).map(Box::new);
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
        head: &request::Parts,
    ) -> Result<Plan, LocalAnswer> {
        let (scope, headers) = (rule.name.scope, &head.headers);
        let kept = rule.session.as_ref().and_then(|how| {
            let ports = rule.backends.iter().map(|backend| self.target(routes, backend.target));
            Sticky::find(how, scope, headers, ports)
        });
        let drawn = kept.map(|(at, _)| at).or_else(|| rule.backends.pick(fastrand::u64(..)));
        let usable = drawn.and_then(|at| Some((at, self.target(routes, rule.backends[at].target)?)));
        let before = rule.before(usable.map(|(at, _)| &rule.backends[at]), head, prefix, self.dst.port());
        let cors = match before.map_err(|_| refuse(ErrorKind::Internal))? {
            Before::Answer(status, headers) => return Err(LocalAnswer::new(status, headers)),
            Before::Forward(cors) => cors,
        };
        let Some((backend, port)) = usable else { return Err(refuse(ErrorKind::NoBackend).edited(&cors)) };
        let session = match &rule.session {
            Some(how) => Some(Sticky::new(how.clone(), scope, port, kept.map(|(_, session)| session))),
            None => Sticky::of_port(port, scope, headers),
        }
        .map(Box::new);
        let backends = Some(Backends::Service(port.clone()));
        let limit = rule.timeouts.request.map(|limit| Instant::now() + limit);
        let mirrors = self.mirrors(routes, &rule, backend, head);
        let mirrors = (!mirrors.is_empty()).then(|| Box::new(RefCell::new(mirrors)));
        let cors = (!cors.is_empty()).then(|| Box::new(cors));
        let routed = Some(Routed { rule, backend, cors });
        Ok(Plan { backends, limit, session, routed, mirrors, ..Plan::default() })
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

//! Which endpoint a request or connection goes to. Configuration that changes meanwhile is followed between requests.
//!
//! Comes after detection, before `upstream`. Choosing is `crate::balance`; this file binds it to a connection.

use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;

use http::request;

use super::context::{Connection, Direction, Pod};
use super::edges::Edges;
use super::error::{ErrorKind, ProxyError};
use super::plan::Plan;
use super::reach::Way;
use super::session;
use super::upstream::Upstream;
use crate::addr::EndpointAddr;
use crate::balance::outlier::{self, Outcome};
use crate::balance::queue::{self, Asked, Places};
use crate::balance::usage::Place;
use crate::balance::{self, Avoid, InFlight};
use crate::clock;
use crate::model::{Endpoint, ServiceMeta, ServicePort, Target, Workload};
use crate::policy::{ClusterPolicy, HashKey, PoolLimits, Unusable, hash};
use crate::report;

/// Where a connection's requests may go.
#[derive(Clone)]
pub enum Backends {
    /// Nowhere yet.
    None,
    /// To any endpoint of a service port.
    Service(Arc<ServicePort>),
    /// To one address only: a pod that was called directly, an unknown destination, the application behind an
    /// inbound connection. The upstream is the connection's own, so that client and upstream connection pair up.
    Single(Rc<Upstream>),
}

/// A chosen endpoint, counted as busy until dropped.
pub struct Picked {
    /// The way there.
    pub upstream: Rc<Upstream>,
    load: InFlight,
    since_ns: u64,
    /// What it was chosen from; None for an address of its own.
    port: Option<Arc<ServicePort>>,
    /// How the try before ended, for which the request is sent once more.
    pub(super) after: Option<&'static str>,
}

impl Picked {
    fn new(upstream: Rc<Upstream>, port: Option<Arc<ServicePort>>) -> Self {
        let since_ns = clock::now_ns();
        let load = InFlight::begin(&upstream.endpoint.load, since_ns);
        Self { upstream, load, since_ns, port, after: None }
    }

    /// Feeds the balancer alone: of a failure that no client saw.
    pub fn distrust(&self) {
        let now = clock::now_ns();
        self.load.fail(now.saturating_sub(self.since_ns), now);
    }

    /// Feeds the balancer: how long the endpoint took to answer, in nanoseconds.
    pub fn observe(&self, latency_ns: u64) {
        self.load.observe(latency_ns, clock::now_ns());
    }

    /// Feeds the balancer alone: another endpoint answered first, so how slow this one is isn't known. No failure.
    pub fn outrun(&self) {
        let now = clock::now_ns();
        self.load.at_least(now.saturating_sub(self.since_ns), now);
    }

    /// Feeds the balancer: the endpoint refused, broke off or gave no answer. As [`Self::outcome`].
    pub fn fail(&self, conn: &Connection) -> Option<&'static str> {
        self.distrust();
        self.outcome(conn, Outcome::LocalOrigin)
    }

    /// The service port that the endpoint was picked from.
    pub(super) fn port(&self) -> Option<&Arc<ServicePort>> {
        self.port.as_ref()
    }

    /// Feeds outlier detection, where the policy asks for it. The threshold that ejects the endpoint, if this does.
    pub fn outcome(&self, conn: &Connection, outcome: Outcome) -> Option<&'static str> {
        // The client's own choice of an address is never taken from it.
        let port = self.port.as_ref().filter(|port| !port.policy.passthrough)?;
        let endpoint = &self.upstream.endpoint;
        let ejection = outlier::report(&port.policy, &port.endpoints, endpoint, outcome, clock::now_ns())?;
        tracing::warn!(
            service = %port.service.host,
            port = port.port,
            endpoint = %endpoint.addr,
            reason = ejection.reason.label(),
            seconds = ejection.time.as_secs(),
            "endpoint ejected"
        );
        let ejections = &conn.pod.worker.telemetry.metrics.agent().outlier_ejections;
        ejections.with_label_values(&[ejection.reason.label()]).inc();
        Some(ejection.reason.label())
    }

    /// True if a request may belong to another endpoint than the connection that it came on.
    fn chosen_without_request(&self) -> bool {
        let key = self.port.as_ref().and_then(|port| port.policy.hash.as_ref());
        key.is_some_and(|key| *key != HashKey::SourceIp)
    }

    /// Takes a place among the HTTP/1 and opaque connections.
    ///
    /// # Errors
    /// If the policy allows no more, or others wait for one.
    pub fn connection(&self) -> Result<Option<queue::Place>, ErrorKind> {
        match self.connections() {
            Some(places) => places.take().map(Some).ok_or(ErrorKind::Overflow),
            None => Ok(None),
        }
    }

    /// The same, or a wait for it. None: their number isn't limited.
    pub fn ask_for_connection(&self) -> Option<Asked> {
        Some(self.connections()?.ask(self.upstream.id()))
    }

    /// Its service port's connections, where their number is limited: they are shared by all workers.
    pub(super) fn connections(&self) -> Option<&Places> {
        let port = self.port.as_ref().filter(|port| port.policy.limits.max_connections.is_some())?;
        Some(&port.endpoints.usage.connections)
    }

    /// True if others wait for a connection, and so come first.
    pub fn is_crowded(&self) -> bool {
        self.connections().is_some_and(|places| places.waiting() > 0)
    }

    /// Bounds that the endpoint's policy sets.
    pub fn limits(&self) -> &PoolLimits {
        self.port.as_ref().map_or(PoolLimits::NONE, |port| &port.policy.limits)
    }

    /// True if a DestinationRule has requests of HTTP/1 go to the endpoint over HTTP/2.
    pub fn is_over_http2(&self) -> bool {
        self.port.as_ref().is_some_and(|port| port.policy.over_http2)
    }

    /// True if requests of HTTP/1 go to another agent, which makes HTTP/1 of them again. What a rule wants over HTTP/2 stays
    /// that.
    pub fn restores_http1(&self) -> bool {
        self.upstream.is_mesh() && !self.is_over_http2()
    }

    /// Tells the log of an endpoint that takes connections and doesn't answer in HTTP/2, where a rule wants it.
    pub fn has_no_http2(&self, why: &ProxyError) {
        let Some(port) = self.port.as_ref().filter(|port| port.policy.over_http2) else { return };
        let rule = port.policy.rule.as_ref().map(ToString::to_string).unwrap_or_default();
        tracing::warn!(
            rule,
            service = %port.service.host,
            port = port.port,
            endpoint = %self.upstream.endpoint.addr,
            error = %report::chain(why),
            "endpoint doesn't answer in HTTP/2, which h2UpgradePolicy UPGRADE of this DestinationRule asks for: requests \
             to it fail; let it speak HTTP/2 with prior knowledge, or take UPGRADE out of the rule"
        );
    }

    /// Takes a place among the requests under way. Nothing is counted where it doesn't matter.
    ///
    /// # Errors
    /// If the policy allows no more.
    pub fn request(&self) -> Result<Option<Place>, ErrorKind> {
        let Some(port) = self.port.as_ref().filter(|port| port.policy.limits.counts_requests()) else {
            return Ok(None);
        };
        let place = port.endpoints.usage.requests.take(port.policy.limits.max_requests);
        place.map(Some).ok_or(ErrorKind::Overflow)
    }

    /// Takes a place among the requests under way that are sent once more.
    ///
    /// # Errors
    /// If the policy allows no more.
    pub fn retry(&self) -> Result<Option<Place>, ErrorKind> {
        let Some(port) = &self.port else { return Ok(None) };
        let usage = &port.endpoints.usage;
        match port.policy.limits.retries(usage.requests.get()) {
            Some(most) => usage.retries.take(Some(most)).map(Some).ok_or(ErrorKind::Overflow),
            None => Ok(None),
        }
    }
}

impl Connection {
    /// Chooses an endpoint that isn't among `tried`, where `plan` sends the request with this `head`, or the connection.
    pub fn pick(
        &self,
        plan: &Plan,
        tried: &[EndpointAddr],
        head: Option<&request::Parts>,
    ) -> Result<Picked, ProxyError> {
        let own = self.backends.borrow();
        let backends = plan.backends().unwrap_or(&own);
        // What detection chose is the connection's own backend, not the plan's.
        if plan.backends().is_none()
            && let Some(first) = self.first.take()
            && !(head.is_some() && first.chosen_without_request())
            && self.still_fits(&first, backends)
        {
            return Ok(first);
        }
        match backends {
            Backends::Single(upstream) if tried.is_empty() => Ok(Picked::new(upstream.clone(), None)),
            Backends::Single(_) => Err(ErrorKind::ConnectFailed.into()),
            Backends::None => Err(ErrorKind::Internal.into()),
            Backends::Service(port) => self.pick_of(port, Some(plan), tried, head),
        }
    }

    /// False if a rule has come or gone since detection chose: a client may have been silent for long.
    fn still_fits(&self, first: &Picked, backends: &Backends) -> bool {
        match backends {
            Backends::Service(port) => {
                let port = port.for_client(&self.pod.workload.borrow()).clone();
                !port.policy.is_unusable() && self.still_reached(&first.upstream, Some(&port.policy))
            }
            Backends::Single(_) | Backends::None => true,
        }
    }

    /// False if a rule or a policy wants the endpoint reached in another way than when the upstream was made.
    fn still_reached(&self, upstream: &Upstream, policy: Option<&ClusterPolicy>) -> bool {
        upstream.reach().is(upstream.way(&self.pod, policy, &self.snapshot()))
    }

    /// The endpoint at which `plan` keeps the client, if it does.
    pub fn pick_kept(&self, plan: &Plan) -> Option<Picked> {
        let Some(Backends::Service(port)) = plan.backends.as_ref().filter(|_| !plan.has_fallen()) else {
            return None;
        };
        let port = port.for_client(&self.pod.workload.borrow()).clone();
        if port.policy.is_unusable() {
            return None;
        }
        let endpoint = session::serving(&port, plan.session.as_ref()?.endpoint()?)?;
        let upstream = upstream(&self.pod, &port, endpoint);
        Some(Picked::new(upstream, Some(port)))
    }

    /// Chooses among the endpoints of `port` those that aren't in `tried`. `plan` is the request's own; None for a copy.
    pub fn pick_of(
        &self,
        port: &Arc<ServicePort>,
        plan: Option<&Plan>,
        tried: &[EndpointAddr],
        head: Option<&request::Parts>,
    ) -> Result<Picked, ProxyError> {
        let port = usable(port, &self.pod)?;
        if port.policy.passthrough {
            return self.pick_original(port, tried);
        }
        self.choose(&self.pod, port, plan, tried, head)
    }

    /// An endpoint for a question of the agent's own, as another pod's.
    pub(super) fn pick_as(
        &self,
        pod: &Rc<Pod>,
        port: &Arc<ServicePort>,
        tried: &[EndpointAddr],
    ) -> Result<Picked, ProxyError> {
        let port = usable(port, pod)?;
        // Nobody dialled it.
        if port.policy.passthrough {
            return Err(ErrorKind::NoBackend.into());
        }
        self.choose(pod, port, None, tried, None)
    }

    fn choose(
        &self,
        pod: &Rc<Pod>,
        port: Arc<ServicePort>,
        plan: Option<&Plan>,
        tried: &[EndpointAddr],
        head: Option<&request::Parts>,
    ) -> Result<Picked, ProxyError> {
        let now_ns = clock::now_ns();
        let avoid = Avoid::of(&port.endpoints, &port.policy, now_ns);
        if avoid.panics {
            self.pod.worker.telemetry.metrics.agent().panic_choices.inc();
        }
        let endpoint = balance::choose_but(
            avoid,
            &port.endpoints,
            &port.policy,
            hash_of(&port.policy, plan, head, self.client.ip()),
            tried,
            now_ns,
            &mut fastrand::Rng::new(),
        )
        .ok_or(ErrorKind::NoHealthyUpstream)?;
        let upstream = upstream(pod, &port, endpoint);
        Ok(Picked::new(upstream, Some(port)))
    }

    /// Where the client itself meant to go, under the policy of `port` (Envoy, original destination cluster).
    fn pick_original(&self, port: Arc<ServicePort>, tried: &[EndpointAddr]) -> Result<Picked, ProxyError> {
        let addr = EndpointAddr::from(self.dst);
        if tried.contains(&addr) {
            return Err(ErrorKind::ConnectFailed.into());
        }
        let mut own = self.original.borrow_mut();
        let upstream = match &*own {
            Some((service, upstream))
                if Arc::ptr_eq(service, &port.service)
                    && self.still_reached(upstream, Some(&port.policy)) =>
            {
                upstream.clone()
            }
            _ => {
                let workload = self.snapshot().workload_at(addr.ip()).cloned();
                let upstream = self.straight(workload, Some(&port.service), Some(&port.policy));
                *own = Some((port.service.clone(), upstream.clone()));
                upstream
            }
        };
        Ok(Picked::new(upstream, Some(port)))
    }

    /// The next request goes to an endpoint that detection chose already.
    pub fn pick_first(&self, picked: Picked) {
        self.first.set(Some(picked));
    }

    /// Where a connection to `target` may go. Services are balanced, an address of its own is gone to as it is.
    pub fn backends_for(&self, target: Target) -> Backends {
        let (workload, service) = match target {
            Target::Service(port) => return Backends::Service(port),
            Target::Workload(workload, port) => (Some(workload), port.map(|p| p.service.clone())),
            Target::Endpoint(port) => (None, Some(port.service.clone())),
            Target::Unknown => (None, None),
        };
        Backends::Single(self.straight(workload, service.as_ref(), None))
    }

    /// The way to the address that was dialled, which `workload` has. It is the connection's own, unless mutual TLS is
    /// spoken there, connections to which the pod's own share.
    fn straight(
        &self,
        workload: Option<Arc<Workload>>,
        service: Option<&Arc<ServiceMeta>>,
        policy: Option<&ClusterPolicy>,
    ) -> Rc<Upstream> {
        let (addr, snapshot) = (EndpointAddr::from(self.dst), self.snapshot());
        let disabled = workload.as_ref().is_some_and(|w| snapshot.takes_no_mutual_tls(w, addr.port()));
        let reach =
            Way::of(&self.pod, policy, workload.as_deref(), disabled).reach(&self.pod, workload.as_deref());
        if !reach.is_mutual() {
            let edges = Edges::outbound(&self.pod, service, workload.as_ref(), &reach);
            return Rc::new(Upstream::paired(addr, workload, edges).over(reach));
        }
        let mut direct = self.pod.direct.borrow_mut();
        let known = direct.get(&addr).filter(|known| {
            known.reach().expected() == reach.expected()
                && known.service.as_ref() == service
                && same_pod(known.endpoint.workload.as_ref(), workload.as_ref())
        });
        if let Some(known) = known {
            return known.clone();
        }
        let edges = Edges::outbound(&self.pod, service, workload.as_ref(), &reach);
        let upstream = Upstream::pooled(Upstream::endpoint_at(addr, workload), edges, reach);
        let upstream = Rc::new(upstream.of_service(service));
        direct.insert(addr, upstream.clone());
        upstream
    }

    /// Says where this connection's requests may go.
    pub fn set_backends(&self, backends: Backends) {
        self.backends.replace(backends);
    }

    /// How many endpoints are worth trying for one request.
    pub fn attempts(&self, plan: &Plan) -> usize {
        match plan.backends().unwrap_or(&self.backends.borrow()) {
            Backends::Single(_) | Backends::None => 1,
            Backends::Service(_) => self.limits().connect_attempts,
        }
    }

    /// True if a request could go to an endpoint that isn't among `tried`.
    pub fn has_other(&self, plan: &Plan, tried: &[EndpointAddr]) -> bool {
        match plan.backends().unwrap_or(&self.backends.borrow()) {
            Backends::Single(_) | Backends::None => false,
            Backends::Service(port) => {
                let port = port.for_client(&self.pod.workload.borrow()).clone();
                port.policy.chooses()
                    && balance::has_other(&port.endpoints, &port.policy, tried, clock::now_ns())
            }
        }
    }

    /// A service's endpoints and routes may have changed since the last request.
    pub(super) fn follow_configuration(&self) {
        let snapshot = self.snapshot();
        if self.generation.replace(snapshot.generation) == snapshot.generation {
            return;
        }
        self.traffic.borrow_mut().clear();
        self.policies.borrow_mut().clear();
        self.own_certs.borrow_mut().clear();
        if self.direction == Direction::Inbound {
            self.behind.replace(snapshot.by_endpoint.get(&EndpointAddr::from(self.dst)).cloned());
        }
        let mut backends = self.backends.borrow_mut();
        let target = snapshot.resolve_for(self.dst, self.namespace());
        match (&*backends, target) {
            (Backends::Service(_), Target::Service(port)) => {
                self.routes.replace(snapshot.routes_for(&port, self.namespace()));
                *backends = Backends::Service(port);
            }
            (Backends::Single(upstream), Target::Workload(workload, port))
                if self.direction == Direction::Outbound
                    && !(same_pod(upstream.endpoint.workload.as_ref(), Some(&workload))
                        && self.still_reached(upstream, None)) =>
            {
                *backends = self.backends_for(Target::Workload(workload, port));
            }
            _ => {}
        }
    }
}

/// The port as it is for the pod's clients, if its policy lets anybody go there.
fn usable(port: &Arc<ServicePort>, pod: &Pod) -> Result<Arc<ServicePort>, ProxyError> {
    let port = port.for_client(&pod.workload.borrow()).clone();
    match port.policy.unusable {
        Some(Unusable::NoSuchSubset) => Err(ErrorKind::NoBackend.into()),
        _ if port.policy.is_unusable() => Err(ErrorKind::TlsNotOriginated.into()),
        _ => Ok(port),
    }
}

fn upstream(pod: &Rc<Pod>, port: &Arc<ServicePort>, endpoint: &Arc<Endpoint>) -> Rc<Upstream> {
    let (key, snapshot) = (Arc::as_ptr(&endpoint.load) as usize, pod.worker.snapshot.load());
    if let Some(upstream) = pod.upstreams.borrow().get(&key)
        && same_workload(&upstream.endpoint, endpoint)
        && upstream.reach().is(upstream.way(pod, Some(&port.policy), &snapshot))
    {
        return upstream.clone();
    }
    let workload = endpoint.workload.as_deref();
    let disabled = workload.is_some_and(|w| snapshot.takes_no_mutual_tls(w, endpoint.addr.port()));
    let reach = Way::of(pod, Some(&port.policy), workload, disabled).reach(pod, workload);
    let edges = Edges::outbound(pod, Some(&port.service), endpoint.workload.as_ref(), &reach);
    let upstream = Upstream::pooled(endpoint.clone(), edges, reach).of_service(Some(&port.service));
    let upstream = Rc::new(upstream);
    pod.upstreams.borrow_mut().insert(key, upstream.clone());
    upstream
}

/// Another workload behind an address has other labels in every series, and connections to the former one are of no use.
fn same_workload(one: &Arc<Endpoint>, other: &Arc<Endpoint>) -> bool {
    Arc::ptr_eq(one, other) || same_pod(one.workload.as_ref(), other.workload.as_ref())
}

fn same_pod(one: Option<&Arc<Workload>>, other: Option<&Arc<Workload>>) -> bool {
    match (one, other) {
        (Some(one), Some(other)) => Arc::ptr_eq(one, other),
        (None, None) => true,
        _ => false,
    }
}

/// What of a request or connection is hashed, where the policy hashes.
fn hash_of(
    policy: &ClusterPolicy,
    plan: Option<&Plan>,
    head: Option<&request::Parts>,
    client: IpAddr,
) -> Option<u64> {
    match (&policy.hash, head) {
        (Some(key), Some(head)) => {
            let input = hash::of_request(key, &head.uri, &head.headers, client, fastrand::u64(..));
            match plan {
                Some(plan) => plan.hash_of(input),
                None => input.value(),
            }
        }
        (Some(key), None) => hash::of_connection(key, client),
        (None, _) => policy.client_ip_affinity.map(|_| hash::of_address(client)),
    }
}

#[cfg(test)]
mod tests;

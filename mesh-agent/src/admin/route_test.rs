//! `route test`: what would become of a request, said by the data path's own look-up on a snapshot.
//!
//! Follows the steps of `proxy::outbound` and `proxy::plan` in their order and says what each comes to; draws no backend
//! and sends nothing. Asked of the running agent, or of a directory by the command line.

mod question;

use std::net::SocketAddr;
use std::sync::Arc;

use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, request};
use thiserror::Error;

use self::question::{Asked, Dialled};
use super::api::{
    ConsideredMatch, InForce, OwnAnswer, RequestHead, RouteAnswer, RouteBackend, RouteOutcome, RouteQuestion,
    Warning,
};
use super::views::endpoint;
use super::views::in_force::Met;
use super::views::rules::{self, Place};
use crate::addr::OrigDst;
use crate::balance;
use crate::clock;
use crate::model::{AppProtocol, ServicePort, Snapshot, Target, Workload};
use crate::policy::Unusable;
use crate::policy::traffic::Layers;
use crate::route::{
    Backend, Backends, Before, Filters, Found, RouteTable, Rule, RuleName, StreamTable, Verdict,
};

/// Why a question can't be answered.
#[derive(Debug, Error)]
pub enum Refusal {
    /// It can't be understood.
    #[error("{0}")]
    Question(String),
    /// The pod isn't known.
    #[error("there is no pod {0}: `mesh-agent get workloads` lists those that the agent knows")]
    NoPod(String),
}

/// What becomes of the request that `question` is about. `registry_only`: unknown destinations are refused.
///
/// # Errors
/// If the question can't be understood or names no pod.
pub fn answer(
    snapshot: &Snapshot,
    registry_only: bool,
    warnings: &[Warning],
    question: &RouteQuestion,
) -> Result<RouteAnswer, Refusal> {
    let asked = Asked::new(question)?;
    let pod = snapshot.workloads.get(&asked.from);
    let pod = pod.ok_or_else(|| Refusal::NoPod(asked.from.to_string()))?;
    let mut answer = RouteAnswer {
        from: asked.from.to_string(),
        address: String::new(),
        destination: asked.host.clone(),
        outcome: RouteOutcome::PassedThrough,
        message: String::new(),
        request: shown(&asked.head),
        rule: None,
        matched: String::new(),
        answer: None,
        backends: Vec::new(),
        considered: Vec::new(),
        notes: capture_notes(snapshot, pod),
        warnings: Vec::new(),
    };
    match asked.dial(snapshot) {
        Dialled::Nowhere(service) => {
            answer.outcome = RouteOutcome::Refused;
            answer.message = format!("Service {service} has neither an address nor an endpoint");
        }
        Dialled::Unknown => unknown(registry_only, &mut answer),
        Dialled::Address(dialled) => {
            answer.address = dialled.to_string();
            match snapshot.resolve_for(OrigDst::from(dialled), &asked.from.namespace) {
                Target::Service(port) => {
                    let request = Requested { snapshot, pod, asked: &asked, port: &port, dialled };
                    request.decide(&mut answer)?;
                    answer.warnings = of_routes(snapshot, &port, warnings);
                }
                Target::Workload(workload, _) => direct(format!("pod {}", workload.name), &mut answer),
                Target::Endpoint(port) => {
                    direct(format!("endpoint of Service {}, no pod", port.service.name), &mut answer);
                    answer.message = "a direct call to an endpoint isn't routed or balanced".to_owned();
                }
                Target::Unknown => {
                    answer.notes.extend(missing_port(snapshot, dialled));
                    unknown(registry_only, &mut answer);
                }
            }
        }
    }
    Ok(answer)
}

/// What is said of a port that nothing needs the agent for.
const KERNEL: &str = "nothing here needs the agent: unless --kernel-services is off, the kernel balances these connections at \
                      connect(2), and the agent neither sees nor counts them";

/// A request to a service port.
#[derive(Clone, Copy)]
struct Requested<'a> {
    snapshot: &'a Snapshot,
    pod: &'a Workload,
    asked: &'a Asked,
    port: &'a Arc<ServicePort>,
    dialled: SocketAddr,
}

impl Requested<'_> {
    fn decide(self, answer: &mut RouteAnswer) -> Result<(), Refusal> {
        let service = &self.port.service.name;
        let routes = self.snapshot.routes_for(self.port, &self.asked.from.namespace);
        let declared = self.port.protocol;
        let spoken = routes.as_ref().map_or(declared, |routes| routes.spoken(declared));
        answer.destination = format!("Service {service} port {} ({})", self.port.port, spoken.label());
        let Some(routes) = routes else {
            self.balanced(answer);
            return Ok(());
        };
        let own = self.snapshot.routes.get(&(service.clone(), self.port.port));
        let consumer = own.is_some_and(|own| own.consumers.contains_key(&self.asked.from.namespace));
        let clients = consumer.then_some(self.asked.from.namespace.as_str());
        let place = Place { service, port: self.port.port, clients, routes: &routes };
        match (&routes.requests, &routes.streams) {
            (Some(table), _) => self.request(place, table, answer),
            (None, Some(table)) => {
                self.stream(place, table, spoken, answer);
                Ok(())
            }
            (None, None) => {
                self.balanced(answer);
                Ok(())
            }
        }
    }

    /// As `proxy::plan::Connection::plan`.
    fn request(self, place: Place<'_>, table: &RouteTable, answer: &mut RouteAnswer) -> Result<(), Refusal> {
        match self.asked.scheme.as_str() {
            "tcp" => {
                return Err(Refusal::Question(format!(
                    "{} carries requests: ask with http://, a path and headers",
                    answer.destination
                )));
            }
            "https" => {
                own(answer, StatusCode::BAD_REQUEST, &HeaderMap::new());
                answer.message =
                    "TLS of the client's own isn't the HTTP that this port is taken to speak".to_owned();
                return Ok(());
            }
            _ => {}
        }
        let head = &self.asked.head;
        let explained = table.explain(head);
        answer.considered = explained
            .considered
            .iter()
            .map(|one| considered(&one.rule.name, one.asks.to_string(), &one.verdict))
            .collect();
        let Some(found) = explained.found else {
            answer.outcome = RouteOutcome::NoMatch;
            answer.message = "no rule matches: answered with 404".to_owned();
            answer.answer = Some(OwnAnswer { status: 404, headers: Vec::new() });
            return Ok(());
        };
        let matched = explained.considered.iter().find(|one| one.verdict == Verdict::Taken);
        answer.matched = matched.map(|one| one.asks.to_string()).unwrap_or_default();
        answer.rule = Some(place.request_rule(found.rule, Vec::new()));
        match found.rule.before(None, head, found.prefix, self.dialled.port()) {
            Ok(Before::Answer(status, headers)) => {
                own(answer, status, &headers.into_iter().collect());
                answer.message += &by(place, &found.rule.name);
            }
            Ok(Before::Forward(_)) => {
                self.backends(place, &found.rule.backends, answer);
                for (view, backend) in answer.backends.iter_mut().zip(found.rule.backends.iter()) {
                    // A backend that isn't there is answered with 500 before anything is asked.
                    if let Some(port) = rules::target(place.routes, backend, self.dialled.ip()) {
                        self.at_backend(found, backend, port, view);
                    }
                }
                self.routed(place, &found.rule.name, &found.rule.backends, answer);
            }
            Err(error) => {
                own(answer, StatusCode::INTERNAL_SERVER_ERROR, &HeaderMap::new());
                answer.message = error.to_string();
            }
        }
        Ok(())
    }

    /// What becomes of the request if `backend`, that is `port`, is drawn, and what holds for it there.
    fn at_backend(
        self,
        found: Found<'_>,
        backend: &Backend,
        port: &Arc<ServicePort>,
        view: &mut RouteBackend,
    ) {
        let before = found.rule.before(Some(backend), &self.asked.head, found.prefix, self.dialled.port());
        match before {
            Ok(Before::Answer(status, headers)) => {
                let headers: HeaderMap = headers.into_iter().collect();
                let to = lines(&headers).into_iter().find(|line| line.starts_with("location:"));
                let to = to.map(|line| format!(", {line}")).unwrap_or_default();
                view.problem = format!("its filters answer with {status}{to}");
            }
            Ok(Before::Forward(_)) => {
                view.in_force = self.holding(Some(found.rule), port);
                match self.sent(found.rule, &backend.filters, found.prefix) {
                    Some(head) => view.request = Some(head),
                    None => view.problem = "its filters make no request of it: answered with 500".to_owned(),
                }
            }
            Err(error) => view.problem = format!("{error}: answered with 500"),
        }
    }

    /// As `proxy::plan::Connection::plan_stream`.
    fn stream(self, place: Place<'_>, table: &StreamTable, spoken: AppProtocol, answer: &mut RouteAnswer) {
        let tls = self.asked.scheme == "https" && spoken == AppProtocol::Tls;
        let sni = tls.then_some(self.asked.host.as_str());
        let explained = table.explain(sni);
        answer.considered = explained
            .iter()
            .map(|one| considered(&one.rule.name, rules::names(one.hostnames), &one.verdict))
            .collect();
        if spoken == AppProtocol::Tls && !tls {
            answer.notes.push("asked without TLS, so without a server name: ask with https://".to_owned());
        }
        let Some(taken) = explained.iter().find(|one| one.verdict == Verdict::Taken) else {
            answer.outcome = RouteOutcome::NoMatch;
            answer.message = "no rule matches: the connection is refused".to_owned();
            return;
        };
        answer.matched = rules::names(taken.hostnames);
        answer.rule = Some(place.rule(&taken.rule.name, &taken.rule.backends, Vec::new()));
        self.backends(place, &taken.rule.backends, answer);
        self.routed(place, &taken.rule.name, &taken.rule.backends, answer);
    }

    fn routed(self, place: Place<'_>, name: &RuleName, backends: &Backends, answer: &mut RouteAnswer) {
        answer.outcome = RouteOutcome::Routed;
        answer.message = "routed".to_owned();
        if backends.pick(0).is_none() {
            if place.routes.requests.is_some() {
                own(answer, StatusCode::INTERNAL_SERVER_ERROR, &HeaderMap::new());
            } else {
                answer.message = "refused".to_owned();
            }
            answer.message += " for want of a backend with a weight above 0";
        }
        answer.message += &by(place, name);
    }

    fn backends(self, place: Place<'_>, backends: &Backends, answer: &mut RouteAnswer) {
        let served = |target: Option<&Arc<ServicePort>>, view: RouteBackend| {
            let view = self.with_endpoints(target, view);
            let status = if place.routes.requests.is_some() { ": answered with 500" } else { ": refused" };
            let problem = match (target.is_none(), view.problem.as_str()) {
                (true, "") => format!("it has no address of this family{status}"),
                (true, problem) => format!("{problem}{status}"),
                (false, problem) => problem.to_owned(),
            };
            RouteBackend { problem, ..view }
        };
        let views = backends.iter().map(|backend| {
            served(rules::target(place.routes, backend, self.dialled.ip()), place.backend(backend))
        });
        answer.backends = views.collect();
    }

    fn balanced(self, answer: &mut RouteAnswer) {
        answer.outcome = RouteOutcome::Balanced;
        answer.message = "no route: balanced over the Service's endpoints".to_owned();
        if self.snapshot.need_of(self.port).is_none() {
            answer.notes.push(KERNEL.to_owned());
        }
        let view = RouteBackend {
            service: self.port.service.name.to_string(),
            port: self.port.port,
            subset: String::new(),
            weight: 1,
            filters: Vec::new(),
            problem: String::new(),
            in_force: self.holding(None, self.port),
            request: None,
            endpoints: Vec::new(),
        };
        answer.backends = vec![self.with_endpoints(Some(self.port), view)];
    }

    /// What holds for the request by `rule` to `port`. TrafficPolicies are about requests.
    fn holding(self, rule: Option<&Rule>, port: &Arc<ServicePort>) -> Vec<InForce> {
        let carries_requests = self.asked.scheme == "http"
            && (rule.is_some() || self.port.protocol.is_http() || self.port.protocol == AppProtocol::Detect);
        let port = port.for_client(self.pod);
        let layers = match carries_requests {
            true => self.snapshot.layers(rule.map(|rule| &rule.name), Some(port)),
            false => Layers::default(),
        };
        Met { layers: &layers, rule, port: Some(port) }.lines()
    }

    /// The endpoints as this pod has them.
    fn with_endpoints(self, target: Option<&Arc<ServicePort>>, mut view: RouteBackend) -> RouteBackend {
        let Some(port) = target.map(|port| port.for_client(self.pod)) else { return view };
        view.endpoints = port.endpoints.all.iter().map(|one| endpoint(port, one)).collect();
        if port.policy.unusable == Some(Unusable::NoSuchSubset) {
            view.problem = "the pod's DestinationRule has no such subset: answered with 500".to_owned();
        } else if port.policy.passthrough {
            view.problem = "PASSTHROUGH: sent to the address that was dialled".to_owned();
        } else if balance::awaits(&port.endpoints, &port.policy, clock::now_ns()) {
            view.problem = "no endpoint is available: answered with 503, or refused".to_owned();
        }
        view
    }

    /// The request after the rule's filters and these; None if they make none of it.
    fn sent(self, rule: &Rule, backend: &Filters, prefix: usize) -> Option<RequestHead> {
        let mut head = self.asked.head.clone();
        rule.change(backend, &mut head, prefix).ok()?;
        Some(shown(&head))
    }
}

/// Which rule did it.
fn by(place: Place<'_>, name: &RuleName) -> String {
    let role = if place.clients.is_some() { "consumer" } else { "producer" };
    format!(" by {} {}, rule {} ({role} route)", name.kind, name.route, rules::rule_name(name))
}

fn own(answer: &mut RouteAnswer, status: StatusCode, headers: &HeaderMap) {
    answer.outcome = RouteOutcome::Answered;
    answer.message = format!("answered by the agent with {status}");
    answer.answer = Some(OwnAnswer { status: status.as_u16(), headers: lines(headers) });
}

fn unknown(registry_only: bool, answer: &mut RouteAnswer) {
    if registry_only {
        answer.outcome = RouteOutcome::Refused;
        answer.message = "nothing knows the destination: refused under registryOnly".to_owned();
    } else {
        answer.outcome = RouteOutcome::PassedThrough;
        answer.message = "nothing knows the destination: passed through as it is".to_owned();
    }
}

fn direct(destination: String, answer: &mut RouteAnswer) {
    answer.outcome = RouteOutcome::Direct;
    answer.message = "a direct call to a pod isn't routed or balanced".to_owned();
    answer.destination = destination;
}

fn considered(name: &RuleName, asks: String, verdict: &Verdict<'_>) -> ConsideredMatch {
    let (word, misfits) = match verdict {
        Verdict::Taken => ("taken", Vec::new()),
        Verdict::Later => ("later", Vec::new()),
        Verdict::Failed(parts) => ("no", parts.iter().map(ToString::to_string).collect()),
    };
    ConsideredMatch {
        route: format!("{} {}", name.kind, name.route),
        rule: rules::rule_name(name),
        asks,
        verdict: word.to_owned(),
        misfits,
    }
}

/// Only this node's captured pods meet an agent that routes.
fn capture_notes(snapshot: &Snapshot, pod: &Workload) -> Vec<String> {
    if !pod.is_enrolled() {
        return vec![format!(
            "pod {} isn't captured: its connections meet no agent, nor any route",
            pod.name
        )];
    }
    if *pod.node != *snapshot.node && !snapshot.node.is_empty() {
        return vec![format!("pod {} is on node {}, whose agent decides", pod.name, pod.node)];
    }
    Vec::new()
}

/// A Service's address with a port that it hasn't.
fn missing_port(snapshot: &Snapshot, dialled: SocketAddr) -> Option<String> {
    let service = snapshot.services.values().find(|service| service.vips.contains(&dialled.ip()))?;
    let ports: Vec<String> = service.ports.iter().map(|port| port.port.to_string()).collect();
    Some(format!(
        "Service {} has no TCP port {}; it has {}",
        service.meta.name,
        dialled.port(),
        ports.join(", ")
    ))
}

/// Warnings of every route that names the Service as its parent, attached or not.
fn of_routes(snapshot: &Snapshot, port: &ServicePort, warnings: &[Warning]) -> Vec<Warning> {
    let named = snapshot
        .route_status
        .iter()
        .filter(|(_, status)| status.parents.iter().any(|parent| parent.service == port.service.name));
    let objects: Vec<String> = named.map(|(key, _)| key.to_string()).collect();
    warnings.iter().filter(|warning| objects.contains(&warning.object)).cloned().collect()
}

fn shown(head: &request::Parts) -> RequestHead {
    let authority = head.uri.authority().map(|authority| format!(":authority: {authority}"));
    RequestHead {
        method: head.method.to_string(),
        path: head.uri.path_and_query().map_or_else(|| "/".to_owned(), ToString::to_string),
        headers: authority.into_iter().chain(lines(&head.headers)).collect(),
    }
}

/// By name.
fn lines(headers: &HeaderMap) -> Vec<String> {
    let line = |(name, value): (&HeaderName, &HeaderValue)| {
        format!("{name}: {}", String::from_utf8_lossy(value.as_bytes()))
    };
    let mut lines: Vec<String> = headers.iter().map(line).collect();
    lines.sort();
    lines
}

#[cfg(test)]
mod tests;

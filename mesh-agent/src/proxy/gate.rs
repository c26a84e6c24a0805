//! What TrafficPolicies say to a request: limits, faults, circuit breaker, concurrency, fallback.
//!
//! Used by `plan` before an endpoint is picked, and by `retry` once it is. The mechanisms are `crate::policy`; this file
//! asks them in order and turns a refusal into an answer. A rate limit of a service is counted where the service is: by
//! the agent of the endpoint's node, or by the client's where no other agent will see the request.

use std::sync::Arc;
use std::time::Duration;

use http::header::HeaderMap;
use http::{StatusCode, request};

use super::answer::LocalAnswer;
use super::backend::{Backends, Picked};
use super::context::{Connection, Direction};
use super::error::ErrorKind;
use super::identity::UNPROVEN;
use crate::balance;
use crate::clock;
use crate::model::ServicePort;
use crate::objects::traffic_policy::OnUnavailable;
use crate::policy::breaker::Pass;
use crate::policy::concurrency::Slot;
use crate::policy::fault::{Abort, Injected};
use crate::policy::gcra::Verdict;
use crate::policy::traffic::{Fallback, FallbackTo, KeySource, Layers, Quota, RateLimits, TrafficPolicy};
use crate::route::Rule;

/// Places that a request holds until it ends, and what they learn of it then.
#[derive(Debug, Default)]
pub struct Held {
    pass: Option<Pass>,
    slot: Option<Slot>,
}

/// How a request ended, as far as breakers and limits care.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// It was answered, well or not.
    Answered {
        /// 5xx, or no answer.
        failed: bool,
        /// It timed out, or was turned away for overload.
        lost: bool,
    },
    /// The client went away, or it was never sent: that says nothing.
    Untold,
}

impl Held {
    /// The head of a response came, and failed or not. A breaker that probes waits for no more than that: what follows
    /// may be a stream, or a tunnel, that lasts for days.
    pub fn answered(&mut self, failed: bool, latency: Duration) {
        if let Some(pass) = self.pass.take_if(|pass| pass.is_probe()) {
            pass.settle(failed, latency, clock::now_ns());
        }
    }

    /// Tells how the request went; `latency` is the time to the head of its response.
    pub fn settle(self, ending: Ending, latency: Duration) {
        let Ending::Answered { failed, lost } = ending else { return };
        let now_ns = clock::now_ns();
        if let Some(pass) = self.pass {
            pass.settle(failed, latency, now_ns);
        }
        if let Some(slot) = self.slot {
            slot.finish(latency, lost, now_ns);
        }
    }
}

impl Connection {
    /// The policies that a request by `rule` to `port` meets.
    pub(super) fn layers(&self, rule: Option<&Arc<Rule>>, port: Option<&Arc<ServicePort>>) -> Layers {
        let snapshot = self.snapshot();
        if snapshot.traffic.is_empty() && snapshot.route_traffic.is_empty() {
            return Layers::default();
        }
        let of_rule = |rule: &Arc<Rule>| {
            self.remembered(Arc::as_ptr(rule) as usize, || snapshot.rule_traffic(&rule.name).cloned())
        };
        // The rest was done, once, by the agent of the client.
        let here = |policy: &Arc<TrafficPolicy>| match self.direction {
            Direction::Outbound => Some(policy.clone()),
            Direction::Inbound => policy.limits_alone(),
        };
        let of_port = |port: &Arc<ServicePort>| {
            self.remembered(Arc::as_ptr(port) as usize, || snapshot.traffic_of(port).and_then(here))
        };
        Layers { rule: rule.and_then(of_rule), service: port.and_then(of_port) }
    }

    /// Found by name once for this connection and configuration.
    fn remembered(
        &self,
        key: usize,
        find: impl FnOnce() -> Option<Arc<TrafficPolicy>>,
    ) -> Option<Arc<TrafficPolicy>> {
        self.traffic.borrow_mut().entry(key).or_insert_with(find).clone()
    }

    /// Lets a request in, or says why not. Faults are decided here and suffered by the caller.
    pub(super) fn enter(
        &self,
        layers: &Layers,
        head: &request::Parts,
    ) -> Result<(Held, Option<Injected>), ErrorKind> {
        if self.direction == Direction::Inbound {
            return Ok((Held::default(), None));
        }
        let fault = layers.fault().and_then(|fault| fault.decide(&head.headers, fastrand::u64(..)));
        let pass = match layers.breaker() {
            Some(breaker) => Some(breaker.admit(clock::now_ns()).map_err(|_| ErrorKind::CircuitOpen)?),
            None => None,
        };
        let slot = match layers.concurrency() {
            Some(concurrency) => Some(concurrency.enter().ok_or(ErrorKind::ConcurrencyLimit)?),
            None => None,
        };
        Ok((Held { pass, slot }, fault))
    }

    /// Counts a request against the rate limits that this agent counts for `picked`.
    pub(super) fn within_limits(
        &self,
        layers: &Layers,
        path: &str,
        headers: &HeaderMap,
        picked: &Picked,
    ) -> Result<(), LocalAnswer> {
        if layers.rule.is_none() && layers.service.is_none() {
            return Ok(());
        }
        // Only the client's agent knows the rule, and only the last one counts for the service: both count, or what
        // passes would depend on whether one agent is both.
        let rule = layers.rule.as_ref().filter(|_| self.direction == Direction::Outbound);
        let service = layers.service.as_ref().filter(|_| self.is_last_agent(picked));
        let policies = rule.into_iter().chain(service);
        let mut limits = policies.filter_map(|policy| policy.rate_limits.as_ref()).peekable();
        if limits.peek().is_none() {
            return Ok(());
        }
        let source = KeySource {
            identity: self.identity(),
            address: self.client.ip(),
            path,
            headers,
            endpoint: Some(picked.upstream.endpoint.addr.socket_addr()),
        };
        limits.try_for_each(|limits| take(limits, &source))
    }

    /// Counts a request against the limits that all agents share, unless the client's agent did. Waits for Redis no
    /// longer than the policy says.
    pub(super) async fn within_global_limits(
        &self,
        layers: &Layers,
        path: &str,
        headers: &HeaderMap,
    ) -> Result<(), LocalAnswer> {
        let is_enrolled = self.source.as_ref().is_some_and(|source| source.is_enrolled());
        if self.direction == Direction::Inbound && is_enrolled {
            return Ok(());
        }
        let policies = layers.rule.iter().chain(&layers.service);
        let limits = policies.filter_map(|policy| policy.rate_limits.as_ref());
        for limit in limits.flat_map(|limits| &limits.global) {
            let source = KeySource {
                identity: self.identity(),
                address: self.client.ip(),
                path,
                headers,
                endpoint: None,
            };
            let redis = self.pod.worker.redis(&limit.redis);
            let asked = redis.take(limit.redis_key(&source), limit.rate(), limit.timeout).await;
            let verdict = match (asked, limit.on_unavailable) {
                (Ok(verdict), _) => verdict,
                (Err(_), OnUnavailable::Local) => {
                    self.count_policy("global_limit_unavailable");
                    limit.local.take(&source, clock::now_ns())
                }
                (Err(_), OnUnavailable::Allow) => {
                    self.count_policy("global_limit_unavailable");
                    continue;
                }
                (Err(_), OnUnavailable::Deny) => {
                    self.count_policy("global_limit_unavailable");
                    Verdict::Limited { retry_after: Duration::from_secs(1) }
                }
            };
            if let Verdict::Limited { retry_after } = verdict {
                self.count_policy("rate_limited");
                return Err(too_many(&limit.quota, retry_after));
            }
        }
        Ok(())
    }

    /// What the client counts as where limits tell identities apart.
    fn identity(&self) -> &str {
        self.proven_identity().unwrap_or(UNPROVEN)
    }

    /// True if no other agent will see a request to `picked`.
    fn is_last_agent(&self, picked: &Picked) -> bool {
        let elsewhere = picked.upstream.endpoint.workload.as_ref().is_some_and(|workload| {
            workload.is_enrolled() && workload.node != self.pod.workload.borrow().node
        });
        self.direction == Direction::Inbound || !(elsewhere || picked.upstream.is_mesh())
    }

    /// The fallback's service, if it names one that is there and has an endpoint that may be used.
    pub(super) fn fallback_service(&self, fallback: &Fallback) -> Option<Backends> {
        let FallbackTo::Service(name, number) = &fallback.to else { return None };
        let snapshot = self.snapshot();
        let port = snapshot.services.get(name)?.port_towards(self.dst.ip(), *number)?;
        self.can_answer(port).then(|| Backends::Service(port.clone()))
    }

    /// True unless all endpoints that `port` would choose from are gone or left alone.
    pub(super) fn can_answer(&self, port: &Arc<ServicePort>) -> bool {
        let port = port.for_client(&self.pod.workload.borrow()).clone();
        !port.policy.chooses() || balance::has_other(&port.endpoints, &port.policy, &[], clock::now_ns())
    }

    /// Counts a decision of a TrafficPolicy.
    pub(super) fn count_policy(&self, decision: &'static str) {
        self.pod.worker.telemetry.metrics.agent().traffic_policy.with_label_values(&[decision]).inc();
    }
}

fn take(limits: &RateLimits, source: &KeySource<'_>) -> Result<(), LocalAnswer> {
    let now_ns = clock::now_ns();
    for limit in &limits.local {
        if let Verdict::Limited { retry_after } = limit.take(source, now_ns) {
            return Err(too_many(&limit.quota, retry_after));
        }
    }
    Ok(())
}

/// RESOURCE_EXHAUSTED is what gRPC calls it.
fn too_many(quota: &Quota, retry_after: Duration) -> LocalAnswer {
    let mut headers = HeaderMap::new();
    quota.refuse(retry_after, &mut headers);
    let answer = LocalAnswer::with_headers(quota.status, headers);
    LocalAnswer { why: Some(ErrorKind::RateLimited), grpc_status: 8, ..answer }
}

/// The answer of an aborted request.
pub(super) fn aborted(abort: Abort) -> LocalAnswer {
    let answer = match abort {
        Abort::Http(status) => LocalAnswer::new(status, Vec::new()),
        Abort::Grpc(status) => {
            LocalAnswer { grpc_status: status, ..LocalAnswer::new(StatusCode::OK, Vec::new()) }
        }
    };
    LocalAnswer { why: Some(ErrorKind::FaultInjected), ..answer }
}

impl Fallback {
    /// True if it is there for this failure.
    pub(super) fn is_for(&self, why: ErrorKind) -> bool {
        match why {
            ErrorKind::NoHealthyUpstream => self.no_endpoint,
            ErrorKind::CircuitOpen => self.circuit_open,
            ErrorKind::UpstreamErrorStatus
            | ErrorKind::ConnectFailed
            | ErrorKind::TlsFailed
            | ErrorKind::CertificateRefused
            | ErrorKind::NotHttp2
            | ErrorKind::UpstreamClosed
            | ErrorKind::UpstreamReset(_) => self.error_5xx,
            why => why.is_timeout() && self.timeout,
        }
    }
}

/// What a policy answers in place of a failure; None: nothing.
pub(super) fn fallback_answer(fallback: &Fallback, why: ErrorKind) -> Option<LocalAnswer> {
    let FallbackTo::Answer(answer) = &fallback.to else { return None };
    fallback.is_for(why).then(|| LocalAnswer {
        body: String::from_utf8_lossy(&answer.body).into_owned().into(),
        why: Some(why),
        ..LocalAnswer::with_headers(answer.status, answer.headers.clone())
    })
}

#[cfg(test)]
mod tests;

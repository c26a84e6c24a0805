//! What holds for requests to a service port, in words, with the object that says so: for `describe service`, `route test`
//! and `config dump`.
//!
//! Every line is asked of what the data path asks: `policy::traffic::Layers` for what rule and policies say together, the
//! service port for the rest. A new mechanism gets a function of its own here and a place in [`Met::lines`].

use std::time::Duration;

use crate::admin::api::{InForce, PortPolicy};
use crate::model::{ObjectName, ServicePort, Snapshot};
use crate::policy::breaker::State;
use crate::policy::budget::Budget;
use crate::policy::fault::{Abort, ValueTest};
use crate::policy::traffic::{FallbackTo, LimitKey, Quota, TrafficPolicy};
use crate::policy::{ClusterPolicy, HashKey, Unusable, traffic};
use crate::route::{PortRoutes, Rule};

use super::rules;

/// What a request meets on its way.
#[derive(Clone, Copy, Debug)]
pub struct Met<'a> {
    /// Policies of its rule and of the service port.
    pub layers: &'a traffic::Layers,
    /// The rule that it goes by.
    pub rule: Option<&'a Rule>,
    /// The service port that it goes to, as the client has it.
    pub port: Option<&'a ServicePort>,
}

/// Everything that holds on service ports, and what rules of their routes have beside it.
pub fn list(snapshot: &Snapshot) -> Vec<PortPolicy> {
    let mut services: Vec<_> = snapshot.services.values().collect();
    services.sort_by_key(|service| &service.meta.name);
    services.iter().flat_map(|service| &service.ports).flat_map(|port| of_port(snapshot, port)).collect()
}

fn of_port(snapshot: &Snapshot, port: &ServicePort) -> Vec<PortPolicy> {
    let at = |clients: &str, rule: String, lines: Vec<InForce>| {
        let line = move |holds| PortPolicy {
            namespace: port.service.name.namespace.clone(),
            service: port.service.name.name.clone(),
            port: port.port,
            clients: clients.to_owned(),
            rule: rule.clone(),
            holds,
        };
        lines.into_iter().map(line).collect::<Vec<_>>()
    };
    let layers = snapshot.layers(None, Some(port));
    let mut all = at("", String::new(), Met { layers: &layers, rule: None, port: Some(port) }.lines());
    all.extend(at("", String::new(), authorization(snapshot, port)));
    for variant in &port.variants {
        all.extend(at(&variant.namespace, String::new(), cluster(&variant.port.policy)));
    }
    let routes = snapshot.routes.get(&(port.service.name.clone(), port.port));
    for (clients, rule) in routes.iter().flat_map(|routes| rules_of(routes)) {
        let layers = snapshot.layers(Some(&rule.name), None);
        let met = Met { layers: &layers, rule: None, port: None };
        let name = format!("{} {}, rule {}", rule.name.kind, rule.name.route, rules::rule_name(&rule.name));
        all.extend(at(clients, name, met.lines()));
    }
    all
}

/// Each rule for requests once.
fn rules_of(routes: &PortRoutes) -> Vec<(&str, &Rule)> {
    let producer = routes.producer.iter().map(|routes| ("", routes));
    let consumers = routes.consumers.iter().map(|(clients, routes)| (clients.as_str(), routes));
    let mut found: Vec<(&str, &Rule)> = Vec::new();
    for (clients, routes) in producer.chain(consumers) {
        for (_, rule) in routes.requests.iter().flat_map(|table| table.entries()) {
            if !found.iter().any(|(_, other)| std::ptr::eq(*other, &**rule)) {
                found.push((clients, rule));
            }
        }
    }
    found
}

impl Met<'_> {
    /// All of it, in the order in which a request meets it.
    pub fn lines(&self) -> Vec<InForce> {
        [
            self.fault(),
            self.breaker(),
            self.concurrency(),
            self.rate_limits(),
            self.fallback(),
            self.activation(),
            self.timeouts(),
            self.retry(),
            self.hedge(),
            self.budget(),
            self.session(),
            self.health(),
            self.port.map(|port| cluster(&port.policy)).unwrap_or_default(),
        ]
        .concat()
    }

    fn retry(&self) -> Vec<InForce> {
        let Some(policy) = self.layers.retry_by(self.rule) else { return Vec::new() };
        let how = match policy.attempts {
            0 => "none".to_owned(),
            _ => rules::retry(policy),
        };
        vec![line("retry", how, self.source("retry"))]
    }

    fn hedge(&self) -> Vec<InForce> {
        let Some(hedge) = self.layers.hedge() else { return Vec::new() };
        let how = format!("after {:?}, at most {} more", hedge.after, hedge.max);
        vec![line("hedge", how, self.source("hedge"))]
    }

    /// Without a rule, that of the port holds for all routes that lead to it.
    fn budget(&self) -> Vec<InForce> {
        let of_port = self.port.and_then(|port| port.retries.as_ref());
        let found = self.layers.budget_by(self.rule, self.port);
        let found = found.or_else(|| of_port.filter(|_| self.rule.is_none()).map(|retries| &retries.budget));
        let Some(limits) = found.map(Budget::limits) else { return Vec::new() };
        let how = format!(
            "{} % of the requests of {:?}, or {} in {:?} if that is more",
            limits.percent, limits.interval, limits.min_count, limits.min_interval
        );
        let from = match self.layers.source("retry") {
            Some(policy) => traffic_policy(policy),
            None => self.backend_policy().unwrap_or_default(),
        };
        vec![line("retry budget", how, from)]
    }

    fn timeouts(&self) -> Vec<InForce> {
        let mut lines = Vec::new();
        if let Some(limit) = self.layers.limit_by(self.rule) {
            // The shorter of the two holds.
            let of_rule = self.rule.filter(|rule| rule.timeouts.request == Some(limit));
            let from = of_rule.map_or_else(|| self.source("timeout"), of_route);
            lines.push(line("timeout", format!("{limit:?} for the request, tries included"), from));
        }
        if let Some(limit) = self.layers.try_limit_by(self.rule) {
            let of_rule = self.rule.filter(|rule| rule.timeouts.backend_request.is_some());
            let from = of_rule.map_or_else(|| self.source("retry"), of_route);
            lines.push(line("try timeout", format!("{limit:?} for one try"), from));
        }
        lines
    }

    /// Those of the rule and of the service both count.
    fn rate_limits(&self) -> Vec<InForce> {
        let layers = [&self.layers.rule, &self.layers.service];
        layers.into_iter().flatten().flat_map(|policy| limits_of(policy)).collect()
    }

    fn fault(&self) -> Vec<InForce> {
        let Some(fault) = self.layers.fault() else { return Vec::new() };
        let settings = fault.settings();
        let mut parts = Vec::new();
        if let Some((delay, share)) = settings.delay {
            parts.push(format!("delay {delay:?} for {} %", share.as_percent()));
        }
        if let Some((abort, share)) = settings.abort {
            let status = match abort {
                Abort::Http(status) => status.as_u16().to_string(),
                Abort::Grpc(status) => format!("grpc-status {status}"),
            };
            parts.push(format!("answer {status} for {} %", share.as_percent()));
        }
        let tests: Vec<_> = settings
            .headers
            .iter()
            .map(|test| match &test.value {
                ValueTest::Present => test.name.to_string(),
                ValueTest::Exact(value) => {
                    format!("{}={}", test.name, String::from_utf8_lossy(value.as_bytes()))
                }
                ValueTest::Prefix(value) => format!("{}={value}*", test.name),
            })
            .collect();
        let of =
            if tests.is_empty() { String::new() } else { format!(" of those with {}", tests.join(", ")) };
        let most = settings.max_active.map(|most| format!(", at most {most} at a time")).unwrap_or_default();
        vec![line("fault", format!("{}{of}{most}", parts.join(", ")), self.source("faultInjection"))]
    }

    fn breaker(&self) -> Vec<InForce> {
        let Some(breaker) = self.layers.breaker() else { return Vec::new() };
        let settings = breaker.settings();
        let mut trips = Vec::new();
        if let Some(trip) = settings.errors {
            trips.push(format!(
                "{} % of at least {} in {:?} fail",
                trip.share.as_percent(),
                trip.minimum,
                trip.window
            ));
        }
        if let Some((threshold, trip)) = settings.latency {
            trips.push(format!(
                "{} % of at least {} in {:?} take over {threshold:?}",
                trip.share.as_percent(),
                trip.minimum,
                trip.window
            ));
        }
        let now = match breaker.state() {
            State::Closed => "closed",
            State::Open { .. } => "open",
            State::HalfOpen { .. } => "half-open",
        };
        let how = format!(
            "opens for {:?} when {}, then {} probes; now {now}",
            settings.open_for,
            trips.join(" or "),
            settings.probes
        );
        vec![line("circuit breaker", how, self.source("circuitBreaker"))]
    }

    fn concurrency(&self) -> Vec<InForce> {
        let Some(concurrency) = self.layers.concurrency() else { return Vec::new() };
        let fixed = concurrency.fixed_limit().map(|most| format!("at most {most} at a time"));
        let adaptive = concurrency.adaptive().map(|settings| {
            format!("adapts between {} and {}, now {}", settings.min, settings.max, concurrency.limit())
        });
        let how = fixed.into_iter().chain(adaptive).collect::<Vec<_>>().join("; ");
        vec![line("concurrency", how, self.source("concurrency"))]
    }

    fn fallback(&self) -> Vec<InForce> {
        let Some(fallback) = self.layers.fallback() else { return Vec::new() };
        let to = match &fallback.to {
            FallbackTo::Answer(answer) => format!("answer {}", answer.status.as_u16()),
            FallbackTo::Service(name, port) => format!("Service {name} port {port}"),
        };
        let on = [
            (fallback.no_endpoint, "noEndpoint"),
            (fallback.circuit_open, "circuitOpen"),
            (fallback.error_5xx, "error5xx"),
            (fallback.timeout, "timeout"),
        ];
        let on: Vec<_> = on.into_iter().filter(|(set, _)| *set).map(|(_, name)| name).collect();
        vec![line("fallback", format!("{to} on {}", on.join(", ")), self.source("fallback"))]
    }

    fn activation(&self) -> Vec<InForce> {
        let Some(activation) = self.layers.activation() else { return Vec::new() };
        let hook = activation.hook.as_ref().map(|hook| format!("; {} is told", hook.url)).unwrap_or_default();
        let how = format!(
            "waits {:?} for a first endpoint, at most {} at a time{hook}",
            activation.timeout,
            activation.max_waiting()
        );
        vec![line("activation", how, self.source("activation"))]
    }

    /// The rule's, else the service port's.
    fn session(&self) -> Vec<InForce> {
        let of_rule = self.rule.and_then(|rule| Some((rule.session.as_ref()?, of_route(rule))));
        let of_port = || {
            let session = self.port?.session.as_ref()?;
            Some((session, self.backend_policy()?))
        };
        let found = of_rule.or_else(of_port);
        found.map(|(session, from)| line("session", rules::session(session), from)).into_iter().collect()
    }

    /// About the port's endpoints, so that no rule has a say in it.
    fn health(&self) -> Vec<InForce> {
        let mut lines = Vec::new();
        if let Some(check) = self.layers.health_check() {
            let active = self.port.is_some_and(|port| port.endpoints.health.is_checked());
            let check = super::health_check(check, active);
            let how = format!(
                "{} every {:?}, within {:?}; healthy after {}, unhealthy after {} in a row{}",
                check.asks,
                Duration::from_millis(check.interval_ms),
                Duration::from_millis(check.timeout_ms),
                check.healthy_threshold,
                check.unhealthy_threshold,
                if active { "" } else { "; not now, for want of a captured pod" }
            );
            lines.push(line("health check", how, self.source("healthCheck")));
        }
        if let Some(threshold) = self.layers.panic_threshold() {
            let how = format!("all endpoints are used below {} % healthy ones", threshold.as_percent());
            lines.push(line("panic threshold", how, self.source("panicThreshold")));
        }
        lines
    }

    /// Where a group comes from: a policy, or else the rule.
    fn source(&self, group: &str) -> String {
        match (self.layers.source(group), self.rule) {
            (Some(policy), _) => traffic_policy(policy),
            (None, Some(rule)) => of_route(rule),
            (None, None) => String::new(),
        }
    }

    fn backend_policy(&self) -> Option<String> {
        Some(format!("XBackendTrafficPolicy {}", self.port?.backend_policy.as_ref()?))
    }
}

fn limits_of(policy: &TrafficPolicy) -> Vec<InForce> {
    let Some(limits) = &policy.rate_limits else { return Vec::new() };
    let from = policy.from.get("rateLimit").map(traffic_policy).unwrap_or_default();
    let local = limits.local.iter().map(|limit| {
        let fair = if limit.is_fair() { ", shared fairly" } else { "" };
        line("rate limit", format!("{}{fair}", quota(&limit.quota, &limit.key)), from.clone())
    });
    let global = limits.global.iter().map(|limit| {
        let how = format!("{}, over all agents by Redis", quota(&limit.quota, &limit.key));
        line("rate limit", how, from.clone())
    });
    local.chain(global).collect()
}

fn quota(quota: &Quota, key: &LimitKey) -> String {
    let parts = [
        (key.identity, "identity"),
        (key.address, "address"),
        (key.path, "path"),
        (key.endpoint, "endpoint"),
    ];
    let parts = parts.into_iter().filter(|(counted, _)| *counted).map(|(_, name)| name.to_owned());
    let each: Vec<_> = parts.chain(key.headers.iter().map(|name| format!("header {name}"))).collect();
    let each = if each.is_empty() { String::new() } else { format!(" for each {}", each.join(" and ")) };
    format!(
        "{} in {:?}, burst {}{each}, else {}",
        quota.requests,
        quota.per,
        quota.burst,
        quota.status.as_u16()
    )
}

/// The AuthorizationPolicies of the pods behind a port, each once.
fn authorization(snapshot: &Snapshot, port: &ServicePort) -> Vec<InForce> {
    let mut lines: Vec<InForce> = Vec::new();
    for endpoint in &port.endpoints.all {
        let Some(workload) = &endpoint.workload else { continue };
        let selected = snapshot.policies_selecting(workload);
        let policies = selected.ports.get(&endpoint.addr.port()).unwrap_or(&selected.all);
        for policy in policies {
            let dry_run = if policy.dry_run { ", dry run" } else { "" };
            let how = format!("{} by {} rules{dry_run}", policy.action.name(), policy.rules.len());
            let found = line("authorization", how, format!("AuthorizationPolicy {}", policy.name));
            if !lines.contains(&found) {
                lines.push(found);
            }
        }
    }
    lines
}

/// What a BackendTLSPolicy or a DestinationRule says of TLS to a port.
fn tls(policy: &ClusterPolicy) -> Option<InForce> {
    let from = match (&policy.tls_policy, &policy.rule) {
        (Some(by), _) => format!("BackendTLSPolicy {by}"),
        (None, Some(rule)) => format!("DestinationRule {rule}"),
        (None, None) => return None,
    };
    let how = match (&policy.tls, policy.unusable) {
        (_, Some(Unusable::TlsNotOriginated)) => "connections are refused: TLS isn't originated".to_owned(),
        (Some(tls), _) => {
            let spec = tls.spec();
            let name = spec.server_name.to_str();
            match spec.names.as_slice() {
                [] => format!("originated, for {name}"),
                names => format!("originated, for {name}, to who is {}", names.join(" or ")),
            }
        }
        (None, _) => return None,
    };
    Some(line("TLS", how, from))
}

/// What a DestinationRule says of a port, and what wraps its connections.
fn cluster(policy: &ClusterPolicy) -> Vec<InForce> {
    let mut lines: Vec<_> = tls(policy).into_iter().collect();
    let Some(rule) = &policy.rule else { return lines };
    let from = || format!("DestinationRule {rule}");
    if policy.rule_balances {
        let by = policy.hash.as_ref().map(|key| format!(" by {}", hash_key(key))).unwrap_or_default();
        lines.push(line("balancer", format!("{}{by}", super::load_balancer(policy.load_balancer)), from()));
    }
    if let Some(outlier) = &policy.outlier {
        let counts = [
            (outlier.consecutive_5xx, "5xx"),
            (outlier.consecutive_gateway, "gateway errors"),
            (if outlier.split { outlier.consecutive_local_origin } else { 0 }, "failures to reach it"),
        ];
        let counts = counts.into_iter().filter(|(count, _)| *count > 0);
        let counts: Vec<_> = counts.map(|(count, what)| format!("{count} {what}")).collect();
        let how = format!(
            "ejects after {} in a row, for {:?} at first, at most {} %",
            counts.join(" or "),
            outlier.base_ejection,
            outlier.max_ejection_percent
        );
        lines.push(line("outliers", how, from()));
    }
    let limits = &policy.limits;
    let pool: Vec<String> = [
        limits.max_connections.map(|most| format!("at most {most} connections")),
        limits.max_requests.map(|most| format!("at most {most} requests")),
        limits.connect_timeout.map(|time| format!("connect within {time:?}")),
    ]
    .into_iter()
    .flatten()
    .collect();
    if !pool.is_empty() {
        lines.push(line("connections", pool.join(", "), from()));
    }
    lines
}

fn hash_key(key: &HashKey) -> String {
    match key {
        HashKey::Header(name) => format!("header {name}"),
        HashKey::Cookie(cookie) => format!("cookie {}", cookie.name),
        HashKey::SourceIp => "source address".to_owned(),
        HashKey::Query(name) => format!("query parameter {name}"),
    }
}

fn line(what: &str, how: String, from: String) -> InForce {
    InForce { what: what.to_owned(), how, from }
}

fn traffic_policy(name: &ObjectName) -> String {
    format!("TrafficPolicy {name}")
}

fn of_route(rule: &Rule) -> String {
    format!("{} {}", rule.name.kind, rule.name.route)
}

//! Rules of routes in words: for `describe service` and `route test`.

use std::sync::Arc;
use std::time::Duration;

use crate::admin::api::{RouteBackend, RouteRule};
use crate::model::{ObjectName, ServicePort, Snapshot};
use crate::route::{
    Backend, BackendName, BackendTarget, Backends, Filters, HeaderEdits, Mirror, PathRewrite, RetryPolicy,
    Routes, Rule, RuleName, SessionKind, SessionPersistence,
};

/// Where a rule holds.
#[derive(Clone, Copy, Debug)]
pub struct Place<'s> {
    /// The Service.
    pub service: &'s ObjectName,
    /// Its port.
    pub port: u16,
    /// The clients' namespace, for a consumer route.
    pub clients: Option<&'s str>,
    /// The rules of that port for these clients.
    pub routes: &'s Routes,
}

/// Every rule in force, by Service, port and clients, each in order of precedence.
pub fn list(snapshot: &Snapshot) -> Vec<RouteRule> {
    let mut ports: Vec<_> = snapshot.routes.iter().collect();
    ports.sort_by_key(|(key, _)| *key);
    let mut rules = Vec::new();
    for ((service, port), bound) in ports {
        let producer = bound.producer.iter().map(|routes| (None, routes));
        let consumers = bound.consumers.iter().map(|(clients, routes)| (Some(clients.as_str()), routes));
        for (clients, routes) in producer.chain(consumers) {
            rules.extend(Place { service, port: *port, clients, routes }.rules());
        }
    }
    rules
}

impl Place<'_> {
    fn rules(self) -> Vec<RouteRule> {
        let mut found: Vec<(*const Rule, RouteRule)> = Vec::new();
        for (asks, rule) in self.routes.requests.iter().flat_map(|table| table.entries()) {
            let known = Arc::as_ptr(rule);
            match found.iter_mut().find(|(other, _)| *other == known) {
                Some((_, view)) => view.matches.push(asks.to_string()),
                None => found.push((known, self.request_rule(rule, vec![asks.to_string()]))),
            }
        }
        let streams = self.routes.streams.iter().flat_map(|table| table.entries());
        let streams = streams
            .map(|entry| self.rule(&entry.rule.name, &entry.rule.backends, vec![names(&entry.hostnames)]));
        found.into_iter().map(|(_, view)| view).chain(streams).collect()
    }

    /// A rule for requests.
    pub fn request_rule(self, rule: &Rule, matches: Vec<String>) -> RouteRule {
        let limits = [("request", rule.timeouts.request), ("backendRequest", rule.timeouts.backend_request)];
        let limits = limits.into_iter().filter_map(|(name, limit)| Some(format!("{name} {:?}", limit?)));
        RouteRule {
            filters: self.filters(&rule.filters),
            timeouts: limits.collect(),
            retry: rule.retry.as_ref().map(retry).unwrap_or_default(),
            session: rule.session.as_deref().map(session).unwrap_or_default(),
            ..self.rule(&rule.name, &rule.backends, matches)
        }
    }

    /// A rule of any kind, as far as it is one for connections.
    pub fn rule(self, name: &RuleName, backends: &Backends, matches: Vec<String>) -> RouteRule {
        RouteRule {
            namespace: self.service.namespace.clone(),
            service: self.service.name.clone(),
            port: self.port,
            clients: self.clients.unwrap_or_default().to_owned(),
            role: if self.clients.is_some() { "consumer" } else { "producer" }.to_owned(),
            kind: name.kind.to_owned(),
            route: name.route.to_string(),
            rule: rule_name(name),
            matches,
            filters: Vec::new(),
            timeouts: Vec::new(),
            retry: String::new(),
            session: String::new(),
            backends: backends.iter().map(|backend| self.backend(backend)).collect(),
        }
    }

    /// A backend, without its endpoints.
    pub fn backend(self, backend: &Backend) -> RouteBackend {
        let named = match backend.target {
            BackendTarget::Service(at) => self.routes.names.get(at),
            BackendTarget::Invalid => None,
        };
        let subset = named.and_then(|name| name.subset.as_ref()).map(|subset| format!("subset {subset}"));
        let subset = subset.into_iter();
        let problem = match (backend.target, named) {
            (BackendTarget::Service(at), Some(name)) if !self.is_there(at) && name.subset.is_some() => {
                "there is no such subset"
            }
            (BackendTarget::Service(at), Some(_)) if !self.is_there(at) => "there is no such Service or port",
            (BackendTarget::Service(_), Some(_)) => "",
            _ => "it names nothing that may be used there",
        };
        RouteBackend {
            service: named.map(|name| name.service.to_string()).unwrap_or_default(),
            port: named.map(|name| name.port).unwrap_or_default(),
            subset: named.and_then(|name| name.subset.clone()).unwrap_or_default(),
            weight: backend.weight,
            filters: subset.chain(self.filters(&backend.filters)).collect(),
            problem: problem.to_owned(),
            in_force: Vec::new(),
            request: None,
            endpoints: Vec::new(),
        }
    }

    fn is_there(self, at: usize) -> bool {
        self.routes.targets.get(at).is_some_and(|target| target.v4.is_some() || target.v6.is_some())
    }

    fn filters(self, filters: &Filters) -> Vec<String> {
        let mut words = edits("request", &filters.request);
        words.extend(edits("response", &filters.response));
        words.extend(
            filters.redirect.as_ref().map(|redirect| format!("redirect with {}", redirect.status.as_u16())),
        );
        if let Some(rewrite) = &filters.rewrite {
            words.extend(
                rewrite
                    .hostname
                    .as_ref()
                    .map(|host| format!("rewrite host to {}", String::from_utf8_lossy(host.as_bytes()))),
            );
            words.extend(rewrite.path.as_ref().map(|path| match path {
                PathRewrite::Full(path) => format!("rewrite path to {path}"),
                PathRewrite::Prefix(path) => format!("rewrite prefix to {path}"),
            }));
        }
        words.extend(filters.mirrors.iter().map(|mirror| self.mirror(mirror)));
        words.extend(filters.cors.as_ref().map(|_| "CORS".to_owned()));
        words
    }

    fn mirror(self, mirror: &Mirror) -> String {
        let to = match self.routes.names.get(mirror.target) {
            Some(BackendName { service, port, .. }) => format!("{service}:{port}"),
            None => "nothing that may be used".to_owned(),
        };
        match (mirror.numerator, mirror.denominator) {
            (share, all) if share >= all => format!("mirror to {to}"),
            (share, all) => format!("mirror {share}/{all} to {to}"),
        }
    }
}

/// `rules[].name`, or else its place.
pub fn rule_name(name: &RuleName) -> String {
    name.name.clone().unwrap_or_else(|| name.index.to_string())
}

/// The server names of a rule for connections.
pub fn names(hostnames: &[String]) -> String {
    if hostnames.is_empty() {
        "every connection".to_owned()
    } else {
        format!("server name {}", hostnames.join(" or "))
    }
}

/// Which of the service's endpoints a backend comes to for connections of one address family.
pub fn target<'r>(
    routes: &'r Routes,
    backend: &Backend,
    like: std::net::IpAddr,
) -> Option<&'r Arc<ServicePort>> {
    match backend.target {
        BackendTarget::Service(at) => routes.targets.get(at)?.at(like),
        BackendTarget::Invalid => None,
    }
}

fn edits(what: &str, edits: &HeaderEdits) -> Vec<String> {
    let lines = |verb: &'static str, lines: &[(http::HeaderName, http::HeaderValue)]| {
        let line = |(name, value): &(http::HeaderName, http::HeaderValue)| {
            format!("{what} header: {verb} {name}: {}", String::from_utf8_lossy(value.as_bytes()))
        };
        lines.iter().map(line).collect::<Vec<_>>()
    };
    let removed = edits.remove.iter().map(|name| format!("{what} header: remove {name}"));
    lines("set", &edits.set).into_iter().chain(lines("add", &edits.add)).chain(removed).collect()
}

/// When a request is sent again.
pub fn retry(policy: &RetryPolicy) -> String {
    let on = &policy.on;
    let flags = [
        (on.connect_failure, "connect-failure"),
        (on.reset, "reset"),
        (on.server_error, "5xx"),
        (on.gateway_error, "gateway-error"),
    ];
    let flags = flags.into_iter().filter(|(set, _)| *set).map(|(_, name)| name.to_owned());
    let statuses = on.statuses.iter().map(|status| status.as_u16().to_string());
    let grpc = on.grpc.iter().map(|code| format!("grpc-status {code}"));
    let on: Vec<String> = flags.chain(statuses).chain(grpc).collect();
    let (on, backoff, max) = (on.join(", "), policy.backoff, policy.max_backoff);
    match policy.least_wait {
        Duration::ZERO => format!("{} on {on}; back-off {backoff:?} to {max:?}", policy.attempts),
        least => format!(
            "{} on {on}; back-off at least {least:?}, and up to {backoff:?} to {max:?} more",
            policy.attempts
        ),
    }
}

/// What keeps a client at its endpoint.
pub fn session(session: &SessionPersistence) -> String {
    let kind = match session.kind {
        SessionKind::Cookie { permanent: true, .. } => "permanent cookie",
        SessionKind::Cookie { permanent: false, .. } => "cookie",
        SessionKind::Header => "header",
    };
    let limit = |name: &str, limit: Option<Duration>| {
        limit.map(|limit| format!(", {name} timeout {limit:?}")).unwrap_or_default()
    };
    let limits = limit("absolute", session.absolute_timeout) + &limit("idle", session.idle_timeout);
    format!("{kind} {}{limits}", session.name)
}

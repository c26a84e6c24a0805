//! Route objects to the rules of `crate::route`.
//!
//! References are asked for in the order in which `view::RouteView::references` lists them: mirrors of the rule, then of
//! each backend its mirrors and itself. What a route asks for and the agent doesn't do is never skipped: a rule with a
//! filter that isn't supported answers 500 (HTTPRouteFilter, "MUST NOT be skipped").

use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;

use super::edits;
use super::extension;
use super::matches;
use crate::model::ObjectName;
use crate::objects::gateway::{
    BackendRef, GatewayDuration, LifetimeKind, RouteFilter, SessionPersistence as SessionSpec,
    SessionPersistenceKind,
};
use crate::objects::{GrpcRoute, HttpRetry, HttpRoute, Kind, Metadata, StreamRuleSpec, TcpRoute, TlsRoute};
use crate::route::{
    Backend, BackendTarget, Filters, Match, RetryOn, RetryPolicy, RouteEntry, Rule, RuleName, SessionKind,
    SessionPersistence, StreamEntry, StreamRule, Timeouts,
};
use crate::telemetry::RuleCounters;

/// Envoy's base interval of back-off between tries; the longest is ten times the base.
const BACKOFF: Duration = Duration::from_millis(25);

/// The rules of an HTTPRoute.
pub fn http(route: &HttpRoute, target: &mut impl FnMut() -> BackendTarget) -> Vec<RouteEntry> {
    let place = Place::new(Kind::HttpRoute, &route.metadata);
    let rules = route.spec.rules.iter().enumerate();
    rules
        .map(|(index, spec)| {
            let name = place.rule(index, spec.name.as_deref());
            let limit = |time: Option<GatewayDuration>| time.and_then(GatewayDuration::limit);
            let timeouts = Timeouts {
                request: limit(spec.timeouts.request),
                backend_request: limit(spec.timeouts.backend_request),
            };
            let matches: Vec<_> = spec.matches.iter().map(matches::http).collect();
            let persistence = spec.session_persistence.as_ref();
            let session = persistence.map(|spec| Arc::new(session(spec, || session_name(&name))));
            let (filters, backends) = destination(&spec.filters, &spec.backend_refs, target);
            let retry = spec.retry.as_ref().map(retry);
            let cors =
                filters.cors.is_some() || backends.iter().any(|backend| backend.filters.cors.is_some());
            let preflights =
                if cors { matches.iter().filter_map(matches::preflight).collect() } else { Vec::new() };
            let counters = RuleCounters::default();
            let rule = Rule { name, filters, backends: backends.into(), timeouts, retry, session, counters };
            RouteEntry { preflights, ..place.entry(index, matches, rule) }
        })
        .collect()
}

/// The rules of a GRPCRoute.
pub fn grpc(route: &GrpcRoute, target: &mut impl FnMut() -> BackendTarget) -> Vec<RouteEntry> {
    let place = Place::new(Kind::GrpcRoute, &route.metadata);
    let rules = route.spec.rules.iter().enumerate();
    rules
        .map(|(index, spec)| {
            let name = place.rule(index, spec.name.as_deref());
            let persistence = spec.session_persistence.as_ref();
            let session = persistence.map(|spec| Arc::new(session(spec, || session_name(&name))));
            let (filters, backends) = destination(&spec.filters, &spec.backend_refs, target);
            let rule = Rule {
                name,
                filters,
                backends: backends.into(),
                timeouts: Timeouts::default(),
                retry: None,
                session,
                counters: RuleCounters::default(),
            };
            place.entry(index, spec.matches.iter().map(matches::grpc).collect(), rule)
        })
        .collect()
}

/// The rules of a TLSRoute.
pub fn tls(route: &TlsRoute, target: &mut impl FnMut() -> BackendTarget) -> Vec<StreamEntry> {
    let hostnames: Vec<String> = route.spec.hostnames.iter().map(|host| host.to_string()).collect();
    stream(&Place::new(Kind::TlsRoute, &route.metadata), &hostnames, &route.spec.rules, target)
}

/// The rules of a TCPRoute.
pub fn tcp(route: &TcpRoute, target: &mut impl FnMut() -> BackendTarget) -> Vec<StreamEntry> {
    stream(&Place::new(Kind::TcpRoute, &route.metadata), &[], &route.spec.rules, target)
}

fn stream(
    place: &Place,
    hostnames: &[String],
    rules: &[StreamRuleSpec],
    target: &mut impl FnMut() -> BackendTarget,
) -> Vec<StreamEntry> {
    let rules = rules.iter().enumerate();
    rules
        .map(|(index, spec)| {
            let (_, backends) = destination(&[], &spec.backend_refs, target);
            StreamEntry {
                hostnames: hostnames.to_vec(),
                rule: Arc::new(StreamRule {
                    name: place.rule(index, spec.name.as_deref()),
                    backends: backends.into(),
                }),
                created: place.created.clone(),
                route: place.route.clone(),
                rule_index: index,
            }
        })
        .collect()
}

/// Where a rule stands.
struct Place {
    kind: Kind,
    route: ObjectName,
    created: Option<String>,
}

impl Place {
    fn new(kind: Kind, metadata: &Metadata) -> Self {
        let route = ObjectName::new(metadata.namespace.as_deref().unwrap_or("default"), &metadata.name);
        Self { kind, route, created: metadata.creation_timestamp.clone() }
    }

    fn rule(&self, index: usize, name: Option<&str>) -> RuleName {
        RuleName::new(self.kind.name(), self.route.clone(), index, name.map(str::to_owned))
    }

    fn entry(&self, rule_index: usize, matches: Vec<Match>, rule: Rule) -> RouteEntry {
        let (created, route) = (self.created.clone(), self.route.clone());
        RouteEntry { matches, preflights: Vec::new(), rule: Arc::new(rule), created, route, rule_index }
    }
}

/// Filters and backends of a rule.
fn destination(
    filters: &[RouteFilter],
    backends: &[BackendRef],
    target: &mut impl FnMut() -> BackendTarget,
) -> (Filters, Vec<Backend>) {
    let rule_filters = edits::filters(filters, target);
    let backends = backends.iter().map(|spec| {
        let filters = edits::filters(&spec.filters, target);
        let (target, weight) = (target(), spec.weight());
        match is_unsupported(&spec.filters, extension::Place::Backend) {
            true => Backend { target: BackendTarget::Invalid, weight, filters: Filters::default() },
            false => Backend { target, weight, filters },
        }
    });
    let mut backends: Vec<_> = backends.collect();
    if is_unsupported(filters, extension::Place::Rule) {
        backends = vec![Backend { target: BackendTarget::Invalid, weight: 1, filters: Filters::default() }];
        return (Filters::default(), backends);
    }
    (rule_filters, backends)
}

fn is_unsupported(filters: &[RouteFilter], place: extension::Place) -> bool {
    extension::is_unknown(filters, place)
        || filters.iter().any(|filter| !edits::untouchable(filter).is_empty())
}

/// GEP-1731: what broke below HTTP is tried again too. A back-off that is given is the least time to wait, to which a
/// random one of the same measure is added; where none is, all of it is random, as in Envoy.
fn retry(spec: &HttpRetry) -> RetryPolicy {
    let backoff = spec.backoff().unwrap_or(BACKOFF);
    let statuses = spec.codes.iter().filter_map(|code| StatusCode::from_u16(code.0).ok()).collect();
    RetryPolicy {
        attempts: spec.attempts.unwrap_or(1),
        on: RetryOn { connect_failure: true, reset: true, statuses, ..RetryOn::default() },
        least_wait: spec.backoff().unwrap_or_default(),
        backoff,
        max_backoff: backoff * 10,
        per_try: None,
    }
}

fn session_name(rule: &RuleName) -> String {
    format!("mesh-session-{}-{}-{}", rule.route.namespace, rule.route.name, rule.index)
}

/// A session; `made` is its name where none is given. A cookie's path is `/` where none is: a rewrite may take a client
/// out of any other (CookieConfig.path).
pub fn session(spec: &SessionSpec, made: impl FnOnce() -> String) -> SessionPersistence {
    let path = spec.path().unwrap_or_default();
    // What would end the attribute can't be in it (RFC 6265, 4.1.1).
    let plain = path.bytes().all(|byte| (0x20..0x7f).contains(&byte) && byte != b';');
    let kind = match spec.kind {
        SessionPersistenceKind::Cookie => {
            let path = if plain && !path.is_empty() { path } else { "/" };
            SessionKind::Cookie {
                permanent: spec.lifetime() == LifetimeKind::Permanent,
                path: path.to_owned(),
            }
        }
        SessionPersistenceKind::Header => SessionKind::Header,
    };
    let limit = |time: Option<GatewayDuration>| time.and_then(GatewayDuration::limit);
    SessionPersistence {
        kind,
        name: spec.name().map_or_else(made, str::to_owned),
        per_rule: false,
        absolute_timeout: limit(spec.absolute_timeout),
        idle_timeout: limit(spec.idle_timeout),
    }
}

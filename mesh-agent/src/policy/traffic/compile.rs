//! From a TrafficPolicy's fields to what the data path reads. Defaults are filled in here, and nowhere else.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};

use super::{
    Activation, Answer, Fallback, FallbackTo, GlobalLimit, HealthCheck, Hedge, Hook, LimitKey, LocalLimit,
    Probe, Quota, RateLimits, Retry, TrafficPolicy,
};
use crate::model::ObjectName;
use crate::objects::traffic_policy::{self as raw, RetryCondition, Span, TrafficPolicySpec};
use crate::policy::breaker::{Breaker, BreakerSettings, Trip};
use crate::policy::budget::Budget;
use crate::policy::chance::Chance;
use crate::policy::concurrency::{AdaptiveSettings, Concurrency};
use crate::policy::fault::{Abort, Fault, FaultSettings, HeaderTest, ValueTest};
use crate::redis::RedisOptions;
use crate::route::{RetryBudget, RetryOn, RetryPolicy};

const MS: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);

impl TrafficPolicy {
    /// Compiles `spec` of the policy `name` for one target. Groups that are as in `old`, the last version for the same
    /// target, are taken over with their state; a limit that stayed the same keeps its counts beside ones that changed.
    pub fn compile(
        name: &ObjectName,
        spec: &TrafficPolicySpec,
        old: Option<(&TrafficPolicySpec, &Self)>,
    ) -> Self {
        fn kept<R: PartialEq, C>(
            new: Option<&R>,
            old: Option<(Option<&R>, Option<&Arc<C>>)>,
            compile: impl FnOnce(&R) -> C,
        ) -> Option<Arc<C>> {
            let new = new?;
            match old {
                Some((Some(before), Some(group))) if before == new => Some(group.clone()),
                _ => Some(Arc::new(compile(new))),
            }
        }
        macro_rules! group {
            ($field:ident, $group:ident, $compile:expr) => {
                kept(
                    spec.$field.as_ref(),
                    old.map(|(spec, compiled)| (spec.$field.as_ref(), compiled.$group.as_ref())),
                    $compile,
                )
            };
        }
        let old_limits =
            old.and_then(|(spec, compiled)| spec.rate_limit.as_ref().zip(compiled.rate_limits.as_deref()));
        Self {
            rate_limits: group!(rate_limit, rate_limits, |raw| rate_limits(name, raw, old_limits)),
            fault: group!(fault_injection, fault, fault),
            breaker: group!(circuit_breaker, breaker, breaker),
            concurrency: group!(concurrency, concurrency, concurrency),
            fallback: group!(fallback, fallback, |raw| fallback(name, raw)),
            activation: group!(activation, activation, activation),
            health_check: group!(health_check, health_check, health_check),
            panic_threshold: group!(panic_threshold, panic_threshold, |raw: &raw::PanicThreshold| raw
                .percent
                .0),
            retry: group!(retry, retry, retry),
            hedge: group!(hedge, hedge, |raw: &raw::Hedge| Hedge {
                after: raw.after.0,
                max: raw.max.unwrap_or(1)
            }),
            timeout: group!(timeout, timeout, |raw: &Span| raw.0),
            from: spec.given().map(|field| (field, name.clone())).collect(),
        }
    }
}

fn or(span: Option<Span>, default: Duration) -> Duration {
    span.map_or(default, |span| span.0)
}

fn rate_limits(
    name: &ObjectName,
    raw: &raw::RateLimit,
    old: Option<(&raw::RateLimit, &RateLimits)>,
) -> RateLimits {
    let local = raw.local.iter().enumerate().map(|(i, limit)| {
        let before = old.and_then(|(raw, compiled)| {
            // Its place is part of its default name.
            raw.local.get(i).filter(|before| *before == limit).and_then(|_| compiled.local.get(i))
        });
        before.cloned().unwrap_or_else(|| Arc::new(local_limit(name, i, limit)))
    });
    let global = raw.global.iter().enumerate().map(|(i, limit)| {
        let before = old.and_then(|(raw, compiled)| {
            raw.global.get(i).filter(|before| *before == limit).and_then(|_| compiled.global.get(i))
        });
        before.cloned().unwrap_or_else(|| Arc::new(global_limit(name, i, limit)))
    });
    RateLimits { local: local.collect(), global: global.collect() }
}

fn local_limit(name: &ObjectName, place: usize, raw: &raw::LocalLimit) -> LocalLimit {
    let name = raw.name.clone().unwrap_or_else(|| format!("{}-{place}", name.name));
    let quota = quota(name, raw.requests, raw.per, raw.burst, raw.response.as_ref());
    let mut key = key(&raw.key);
    key.endpoint = raw.scope == raw::LimitScope::Endpoint;
    LocalLimit::new(quota, key, raw.fair_share)
}

fn global_limit(name: &ObjectName, place: usize, raw: &raw::GlobalLimit) -> GlobalLimit {
    let policy = name;
    let name = raw.name.clone().unwrap_or_else(|| format!("{}-global-{place}", policy.name));
    let prefix = format!("mesh-agent:{policy}:{name}");
    let quota = quota(name, raw.requests, raw.per, raw.burst, raw.response.as_ref());
    let key = key(&raw.key);
    GlobalLimit {
        prefix,
        redis: Arc::new(RedisOptions {
            address: raw.redis.address.clone(),
            username: raw.redis.username.clone(),
            // Each namespace has its own passwords, as it has its own Secrets.
            password_file: raw
                .redis
                .password_file
                .as_ref()
                .map(|file| Path::new(&policy.namespace).join(file)),
        }),
        on_unavailable: raw.redis.on_unavailable,
        timeout: or(raw.redis.timeout, 20 * MS),
        local: LocalLimit::new(quota.clone(), key.clone(), false),
        quota,
        key,
    }
}

fn quota(
    name: String,
    requests: u32,
    per: Option<Span>,
    burst: Option<u32>,
    response: Option<&raw::LimitResponse>,
) -> Quota {
    let status = response
        .and_then(|response| response.status)
        .map_or(StatusCode::TOO_MANY_REQUESTS, |status| status.0);
    Quota::new(name, requests, or(per, SECOND), burst.unwrap_or(requests), status)
}

fn key(parts: &[raw::KeyPart]) -> LimitKey {
    let mut key = LimitKey { seed: fastrand::u64(..), ..LimitKey::default() };
    for part in parts {
        match part.kind {
            raw::KeyType::Total => {}
            raw::KeyType::SourceIdentity => key.identity = true,
            raw::KeyType::SourceAddress => key.address = true,
            raw::KeyType::Path => key.path = true,
            raw::KeyType::Header => key.headers.extend(part.name.as_ref().and_then(|name| name.parse().ok())),
        }
    }
    key
}

fn fault(raw: &raw::FaultInjection) -> Fault {
    let share = |percent: Option<raw::Percent>| percent.map_or(Chance::ALWAYS, |percent| percent.0);
    let abort = raw.abort.as_ref().and_then(|abort| {
        let status = match (abort.http_status, abort.grpc_status) {
            (Some(status), _) => Abort::Http(status.0),
            (None, Some(status)) => Abort::Grpc(u16::try_from(status).ok()?),
            (None, None) => return None,
        };
        Some((status, share(abort.percent)))
    });
    let headers = raw.matches.iter().flat_map(|matches| &matches.headers).filter_map(header_test).collect();
    Fault::new(FaultSettings {
        delay: raw.delay.as_ref().map(|delay| (delay.fixed.0, share(delay.percent))),
        abort,
        headers,
        max_active: raw.max_active,
    })
}

/// None for what was refused before.
fn header_test(raw: &raw::HeaderMatch) -> Option<HeaderTest> {
    let value = raw.value.as_deref().unwrap_or_default();
    let value = match raw.kind {
        raw::HeaderMatchType::Present => ValueTest::Present,
        raw::HeaderMatchType::Exact => ValueTest::Exact(HeaderValue::from_str(value).ok()?),
        raw::HeaderMatchType::Prefix => ValueTest::Prefix(value.to_owned()),
    };
    Some(HeaderTest { name: raw.name.parse().ok()?, value })
}

fn breaker(raw: &raw::CircuitBreaker) -> Breaker {
    let trip = |percent: raw::Percent, minimum: Option<u32>, window| Trip {
        share: percent.0,
        minimum: minimum.unwrap_or(20),
        window: or(window, 10 * SECOND),
    };
    Breaker::new(BreakerSettings {
        errors: raw.error_rate.as_ref().map(|it| trip(it.percent, it.minimum_requests, it.window)),
        latency: (raw.latency.as_ref())
            .map(|it| (it.threshold.0, trip(it.percent, it.minimum_requests, it.window))),
        open_for: or(raw.open_for, 30 * SECOND),
        probes: raw.half_open_requests.unwrap_or(3),
    })
}

fn concurrency(raw: &raw::Concurrency) -> Concurrency {
    let adaptive = raw.adaptive.as_ref().map(|adaptive| AdaptiveSettings {
        min: adaptive.min_limit.unwrap_or(4),
        max: adaptive.max_limit.unwrap_or(1000),
        tolerance: 1.0 + f64::from(adaptive.tolerance_percent.unwrap_or(50)) / 100.0,
        window: or(adaptive.window, 100 * MS),
    });
    Concurrency::new(raw.max_requests, adaptive)
}

fn fallback(policy: &ObjectName, raw: &raw::Fallback) -> Fallback {
    let to = match (&raw.service, &raw.answer) {
        (Some(service), _) => {
            let namespace = service.namespace.as_deref().unwrap_or(&policy.namespace);
            FallbackTo::Service(ObjectName::new(namespace, &service.name), service.port.0)
        }
        (None, answer) => FallbackTo::Answer(answer.as_ref().map_or_else(Answer::default, self::answer)),
    };
    let default = [raw::FallbackOn::NoEndpoint, raw::FallbackOn::CircuitOpen];
    let on = if raw.on.is_empty() { &default[..] } else { &raw.on };
    Fallback {
        to,
        no_endpoint: on.contains(&raw::FallbackOn::NoEndpoint),
        circuit_open: on.contains(&raw::FallbackOn::CircuitOpen),
        error_5xx: on.contains(&raw::FallbackOn::Error5xx),
        timeout: on.contains(&raw::FallbackOn::Timeout),
    }
}

fn answer(raw: &raw::Answer) -> Answer {
    let fields = raw.headers.iter().filter_map(|field| {
        Some((field.name.parse::<HeaderName>().ok()?, HeaderValue::from_str(&field.value).ok()?))
    });
    let mut headers = HeaderMap::new();
    fields.for_each(|(name, value)| {
        headers.append(name, value);
    });
    let body = raw.body.clone().unwrap_or_default().into();
    Answer { status: raw.status.map_or(Answer::default().status, |status| status.0), headers, body }
}

fn activation(raw: &raw::Activation) -> Activation {
    // Checked when the object was parsed.
    let hook = raw.hook.as_ref().and_then(|hook| hook.url.parse().ok()).map(Hook::new);
    Activation::new(raw.max_waiting.unwrap_or(100), or(raw.timeout, 30 * SECOND), hook)
}

fn health_check(raw: &raw::HealthCheck) -> HealthCheck {
    let probe = match (&raw.http, &raw.grpc) {
        (Some(http), _) => {
            let statuses: Vec<_> = http.expected_statuses.iter().map(|range| range.0.clone()).collect();
            Probe::Http {
                path: http.path.clone().unwrap_or_else(|| "/".to_owned()),
                host: http.host.clone(),
                statuses: if statuses.is_empty() { vec![200..=299] } else { statuses },
            }
        }
        (None, Some(grpc)) => Probe::Grpc(grpc.service.clone().unwrap_or_default()),
        (None, None) => Probe::Tcp,
    };
    HealthCheck {
        probe,
        interval: or(raw.interval, 10 * SECOND),
        timeout: or(raw.timeout, SECOND),
        healthy_threshold: raw.healthy_threshold.unwrap_or(1),
        unhealthy_threshold: raw.unhealthy_threshold.unwrap_or(3),
        port: raw.port.map(|port| port.0),
    }
}

fn retry(raw: &raw::Retry) -> Retry {
    let backoff = raw.backoff.as_ref();
    let base = or(backoff.and_then(|backoff| backoff.base), 25 * MS);
    let budget = raw.budget.as_ref();
    Retry {
        policy: RetryPolicy {
            attempts: raw.attempts.unwrap_or(2),
            on: retry_on(raw),
            least_wait: Duration::ZERO,
            backoff: base,
            max_backoff: or(backoff.and_then(|backoff| backoff.max), base * 10).max(base),
            per_try: raw.per_try_timeout.map(|span| span.0),
        },
        budget: Arc::new(Budget::new(RetryBudget {
            percent: budget.and_then(|budget| budget.percent).unwrap_or(20),
            interval: 10 * SECOND,
            min_count: budget.and_then(|budget| budget.min_retries_per_second).unwrap_or(10),
            min_interval: SECOND,
        })),
        buffer_limit: raw.buffer_limit.unwrap_or(64 << 10) as usize,
    }
}

/// Where a policy says nothing: what Istio retries by default, that is what didn't reach an application, or was turned
/// away by one that is going (503).
fn retry_on(raw: &raw::Retry) -> RetryOn {
    let nothing_said = raw.on.is_empty() && raw.status_codes.is_empty() && raw.grpc_codes.is_empty();
    if nothing_said {
        return RetryOn {
            connect_failure: true,
            statuses: vec![StatusCode::SERVICE_UNAVAILABLE],
            grpc: vec![1, 14],
            ..RetryOn::default()
        };
    }
    let has = |condition| raw.on.contains(&condition);
    let by_number = raw.grpc_codes.iter().filter_map(|code| u16::try_from(*code).ok());
    let mut grpc: Vec<u16> = by_number.chain(raw.on.iter().filter_map(|on| on.grpc_status())).collect();
    grpc.sort_unstable();
    grpc.dedup();
    RetryOn {
        connect_failure: has(RetryCondition::ConnectFailure),
        reset: has(RetryCondition::Reset),
        server_error: has(RetryCondition::ServerError),
        gateway_error: has(RetryCondition::GatewayError),
        statuses: raw.status_codes.iter().map(|status| status.0).collect(),
        grpc,
    }
}

//! `rateLimit`, compiled: which key a request has, whether it passes, and what a refusal's header fields say.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;
use http::header::{HeaderMap, HeaderName, HeaderValue, RETRY_AFTER};

use crate::objects::traffic_policy::OnUnavailable;
use crate::policy::fair::FairLimiter;
use crate::policy::gcra::{Bucket, Rate, Verdict};
use crate::policy::limiter::{KeyHasher, Limiter};
use crate::redis::RedisOptions;

/// All limits of a policy.
#[derive(Debug, Default)]
pub struct RateLimits {
    /// Counted by this agent.
    pub local: Vec<Arc<LocalLimit>>,
    /// Counted for all agents together.
    pub global: Vec<Arc<GlobalLimit>>,
}

/// What a limit allows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Quota {
    /// Name in header fields.
    pub name: String,
    /// So many.
    pub requests: u32,
    /// In this time.
    pub per: Duration,
    /// So many at once.
    pub burst: u32,
    /// The answer to what is too much.
    pub status: StatusCode,
    /// `RateLimit-Policy`, ready to be sent.
    pub policy: HeaderValue,
}

/// A limit that this agent counts.
#[derive(Debug)]
pub struct LocalLimit {
    /// What it allows.
    pub quota: Quota,
    /// What is counted apart.
    pub key: LimitKey,
    counted: Counted,
}

/// A limit that is counted in Redis.
#[derive(Debug)]
pub struct GlobalLimit {
    /// What it allows.
    pub quota: Quota,
    /// What is counted apart.
    pub key: LimitKey,
    /// What its keys in Redis begin with: the same on every node.
    pub prefix: String,
    /// Where.
    pub redis: Arc<RedisOptions>,
    /// What holds while Redis doesn't answer in `timeout`.
    pub on_unavailable: OnUnavailable,
    /// The longest that a request waits for Redis.
    pub timeout: Duration,
    /// The same limit, counted here alone: what `onUnavailable: local` falls back to.
    pub local: LocalLimit,
}

/// How a local limit counts.
#[derive(Debug)]
pub enum Counted {
    /// Everything together.
    Total(Rate, Bucket),
    /// Each key for itself.
    Each(Limiter),
    /// Keys share one limit.
    Fair(FairLimiter),
}

/// What requests are told apart by.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LimitKey {
    /// Secret start of the hash.
    pub seed: u64,
    /// The client's identity.
    pub identity: bool,
    /// The client's address.
    pub address: bool,
    /// The path.
    pub path: bool,
    /// Headers, the first line of each.
    pub headers: Vec<HeaderName>,
    /// The endpoint.
    pub endpoint: bool,
}

/// What of a request may be part of a key.
#[derive(Clone, Copy, Debug)]
pub struct KeySource<'a> {
    /// SPIFFE ID of the client, or what those without a proven one are called.
    pub identity: &'a str,
    /// Address of the client.
    pub address: IpAddr,
    /// Path without query.
    pub path: &'a str,
    /// Headers.
    pub headers: &'a HeaderMap,
    /// Where the request goes.
    pub endpoint: Option<SocketAddr>,
}

impl RateLimits {
    /// What each limit tells requests apart by.
    pub fn keys(&self) -> impl Iterator<Item = &LimitKey> {
        self.local.iter().map(|limit| &limit.key).chain(self.global.iter().map(|limit| &limit.key))
    }
}

impl LimitKey {
    /// The key of a request; `seed` keeps it from being guessed.
    pub fn of(&self, source: &KeySource<'_>) -> u64 {
        let mut hasher = KeyHasher::new(self.seed);
        if self.identity {
            hasher.bytes(source.identity.as_bytes());
        }
        if self.address {
            hasher.address(source.address);
        }
        if self.path {
            hasher.bytes(source.path.as_bytes());
        }
        for name in &self.headers {
            hasher.optional(source.headers.get(name).map(HeaderValue::as_bytes));
        }
        if let Some(endpoint) = source.endpoint.filter(|_| self.endpoint) {
            hasher.address(endpoint.ip()).bytes(&endpoint.port().to_be_bytes());
        }
        hasher.finish()
    }

    /// The key of a request as every node spells it, behind `prefix`: identity, address, path, headers, each with
    /// its length, a missing one with none.
    pub fn spell(&self, prefix: &str, source: &KeySource<'_>) -> Vec<u8> {
        let mut key = prefix.as_bytes().to_vec();
        let mut part = |part: Option<&[u8]>| {
            key.extend_from_slice(
                part.map_or(":-".to_owned(), |part| format!(":{}:", part.len())).as_bytes(),
            );
            key.extend_from_slice(part.unwrap_or_default());
        };
        if self.identity {
            part(Some(source.identity.as_bytes()));
        }
        if self.address {
            part(Some(source.address.to_string().as_bytes()));
        }
        if self.path {
            part(Some(source.path.as_bytes()));
        }
        for name in &self.headers {
            part(source.headers.get(name).map(HeaderValue::as_bytes));
        }
        key
    }

    /// True if everything is counted together.
    pub fn is_total(&self) -> bool {
        *self == Self { seed: self.seed, ..Self::default() }
    }
}

impl GlobalLimit {
    /// The key of a request in Redis.
    pub fn redis_key(&self, source: &KeySource<'_>) -> Vec<u8> {
        self.key.spell(&self.prefix, source)
    }

    /// What Redis is asked with.
    pub fn rate(&self) -> Rate {
        Rate::new(self.quota.requests, self.quota.per, self.quota.burst)
    }
}

impl LocalLimit {
    /// Nothing counted yet.
    pub fn new(quota: Quota, key: LimitKey, fair_share: bool) -> Self {
        let rate = Rate::new(quota.requests, quota.per, quota.burst);
        let counted = if fair_share {
            Counted::Fair(FairLimiter::new(rate))
        } else if key.is_total() {
            Counted::Total(rate, Bucket::default())
        } else {
            Counted::Each(Limiter::new(rate))
        };
        Self { quota, key, counted }
    }

    /// True if keys share what it allows.
    pub fn is_fair(&self) -> bool {
        matches!(self.counted, Counted::Fair(_))
    }

    /// Counts a request.
    pub fn take(&self, source: &KeySource<'_>, now_ns: u64) -> Verdict {
        match &self.counted {
            Counted::Total(rate, bucket) => bucket.take(*rate, 0, now_ns),
            Counted::Each(limiter) => limiter.take(self.key.of(source), now_ns),
            Counted::Fair(limiter) => limiter.take(self.key.of(source), now_ns),
        }
    }
}

impl Quota {
    /// With its `RateLimit-Policy`: quota and, from a second on, window (draft-ietf-httpapi-ratelimit-headers-10, section 3).
    pub fn new(name: String, requests: u32, per: Duration, burst: u32, status: StatusCode) -> Self {
        let window =
            if per >= Duration::from_secs(1) { format!(";w={}", seconds(per)) } else { String::new() };
        let policy = header(&format!("\"{name}\";q={requests}{window}"));
        Self { name, requests, per, burst, status, policy }
    }

    /// Adds the fields of a refusal: `Retry-After` (RFC 9110, section 10.2.3; whole seconds, rounded up, at least 1),
    /// `RateLimit-Policy`, `RateLimit`, and what they were called before they had a draft.
    pub fn refuse(&self, retry_after: Duration, headers: &mut HeaderMap) {
        let wait = seconds(retry_after).max(1);
        headers.insert(RETRY_AFTER, wait.into());
        headers.append(HeaderName::from_static("ratelimit-policy"), self.policy.clone());
        headers
            .append(HeaderName::from_static("ratelimit"), header(&format!("\"{}\";r=0;t={wait}", self.name)));
        headers.insert(HeaderName::from_static("x-ratelimit-limit"), self.requests.into());
        headers.insert(HeaderName::from_static("x-ratelimit-remaining"), HeaderValue::from_static("0"));
        headers.insert(HeaderName::from_static("x-ratelimit-reset"), wait.into());
    }
}

fn seconds(duration: Duration) -> u64 {
    duration.as_secs() + u64::from(duration.subsec_nanos() > 0)
}

/// Names are checked when the policy is read, so that nothing here can't be a header's value.
fn header(text: &str) -> HeaderValue {
    HeaderValue::from_str(text).unwrap_or_else(|_| HeaderValue::from_static(""))
}

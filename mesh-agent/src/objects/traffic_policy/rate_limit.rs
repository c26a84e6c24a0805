//! `rateLimit`: requests in a time, counted on this node or shared between nodes.

use http::HeaderName;
use serde::Deserialize;

use super::value::{Span, Status};
use super::{FieldError, nullable, refuse, within};

/// `rateLimit`. A request must pass every limit.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RateLimit {
    /// Counted by each agent for itself.
    #[serde(default, deserialize_with = "nullable")]
    pub local: Vec<LocalLimit>,
    /// Counted in Redis, for all agents together.
    #[serde(default, deserialize_with = "nullable")]
    pub global: Vec<GlobalLimit>,
}

/// One of `local`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LocalLimit {
    /// Name in the answer's RateLimit fields.
    pub name: Option<String>,
    /// So many.
    pub requests: u32,
    /// In this time; 1s.
    pub per: Option<Span>,
    /// So many at once; as many as `requests`.
    pub burst: Option<u32>,
    /// What is counted apart; everything together.
    #[serde(default, deserialize_with = "nullable")]
    pub key: Vec<KeyPart>,
    /// For whom it is counted.
    #[serde(default, deserialize_with = "nullable")]
    pub scope: LimitScope,
    /// Keys share one limit fairly instead of having one each.
    #[serde(default, deserialize_with = "nullable")]
    pub fair_share: bool,
    /// The answer to what is too much.
    pub response: Option<LimitResponse>,
}

/// One of `global`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct GlobalLimit {
    /// Name in the answer's RateLimit fields, and in the key in Redis.
    pub name: Option<String>,
    /// So many.
    pub requests: u32,
    /// In this time; 1s.
    pub per: Option<Span>,
    /// So many at once; as many as `requests`.
    pub burst: Option<u32>,
    /// What is counted apart; everything together.
    #[serde(default, deserialize_with = "nullable")]
    pub key: Vec<KeyPart>,
    /// Where it is counted.
    pub redis: Redis,
    /// The answer to what is too much.
    pub response: Option<LimitResponse>,
}

/// One of `key`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct KeyPart {
    /// What of the request.
    #[serde(rename = "type")]
    pub kind: KeyType,
    /// Header, for `type: header`.
    pub name: Option<String>,
}

/// What requests are told apart by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum KeyType {
    /// Nothing: one limit for all.
    Total,
    /// The client's workload identity (SPIFFE ID).
    SourceIdentity,
    /// The client's address.
    SourceAddress,
    /// A request header's value.
    Header,
    /// The request's path, without its query.
    Path,
}

/// For whom a local limit is counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum LimitScope {
    /// All endpoints of this node together.
    #[default]
    Node,
    /// Each endpoint by itself.
    Endpoint,
}

/// `response`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LimitResponse {
    /// 429.
    pub status: Option<Status>,
}

/// `redis`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Redis {
    /// `HOST:PORT`.
    pub address: String,
    /// ACL user.
    pub username: Option<String>,
    /// File of the policy's namespace below the agent's `secretsDir`.
    pub password_file: Option<String>,
    /// Secret in the policy's namespace.
    pub password_secret: Option<SecretRef>,
    /// The longest that a request waits for Redis; 20ms.
    pub timeout: Option<Span>,
    /// What holds while Redis doesn't answer in time.
    #[serde(default, deserialize_with = "nullable")]
    pub on_unavailable: OnUnavailable,
}

/// A key of a Secret.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct SecretRef {
    /// Secret.
    pub name: String,
    /// Key in it; `password`.
    pub key: Option<String>,
}

/// `onUnavailable`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum OnUnavailable {
    /// The same limit, counted by this agent alone.
    #[default]
    Local,
    /// Everything passes.
    Allow,
    /// Nothing passes.
    Deny,
}

/// More limits than this for one request are a mistake.
const MOST_LIMITS: usize = 16;
const MOST_PARTS: usize = 4;

impl RateLimit {
    pub(super) fn validate(&self, at: &str) -> Result<(), FieldError> {
        if self.local.is_empty() && self.global.is_empty() {
            return refuse(at, "has no limit: give local or global");
        }
        if self.local.len() > MOST_LIMITS || self.global.len() > MOST_LIMITS {
            return refuse(at, format!("has more than {MOST_LIMITS} limits"));
        }
        for (i, limit) in self.local.iter().enumerate() {
            limit.validate(&format!("{at}.local[{i}]"))?;
        }
        for (i, limit) in self.global.iter().enumerate() {
            limit.validate(&format!("{at}.global[{i}]"))?;
        }
        Ok(())
    }
}

impl LocalLimit {
    fn validate(&self, at: &str) -> Result<(), FieldError> {
        common(at, self.name.as_deref(), self.requests, self.per, self.burst, &self.key)?;
        if self.fair_share && self.key.is_empty() {
            return refuse(
                format!("{at}.key"),
                "is needed by fairShare: it says who the limit is shared between",
            );
        }
        if self.fair_share && self.scope == LimitScope::Endpoint {
            return refuse(format!("{at}.scope"), "must be node with fairShare");
        }
        Ok(())
    }
}

impl GlobalLimit {
    fn validate(&self, at: &str) -> Result<(), FieldError> {
        common(at, self.name.as_deref(), self.requests, self.per, self.burst, &self.key)?;
        let port =
            self.redis.address.rsplit_once(':').filter(|(host, _)| !host.is_empty()).map(|(_, port)| port);
        if !port.is_some_and(|port| port.parse::<u16>().is_ok_and(|port| port != 0)) {
            return refuse(format!("{at}.redis.address"), "isn't HOST:PORT, as redis.infra.svc:6379");
        }
        if let Some(file) = &self.redis.password_file {
            let at = format!("{at}.redis.passwordFile");
            if !is_file_name(file) {
                return refuse(
                    at,
                    "isn't a file's name: expected at most 253 of a-z, A-Z, 0-9, '-', '.' and '_', not beginning with a dot",
                );
            }
            if self.redis.password_secret.is_some() {
                return refuse(at, "can't stand beside passwordSecret: which is it?");
            }
        }
        if let Some(timeout) = self.redis.timeout {
            timeout.positive(format!("{at}.redis.timeout"))?;
        }
        Ok(())
    }
}

/// As the keys of Secrets, which a mounted one has as files; but never a way out of the directory.
fn is_file_name(name: &str) -> bool {
    (1..=253).contains(&name.len())
        && !name.starts_with('.')
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._".contains(&b))
}

fn common(
    at: &str,
    name: Option<&str>,
    requests: u32,
    per: Option<Span>,
    burst: Option<u32>,
    key: &[KeyPart],
) -> Result<(), FieldError> {
    // It stands in a header field, between quotes.
    let fit = |name: &str| {
        (1..=63).contains(&name.len())
            && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._".contains(&b))
    };
    if name.is_some_and(|name| !fit(name)) {
        return refuse(
            format!("{at}.name"),
            "isn't a name: expected 1 to 63 of a-z, A-Z, 0-9, '-', '.' and '_'",
        );
    }
    within(at, "requests", Some(requests), 1..=1_000_000_000)?;
    within(at, "burst", burst, 1..=1_000_000_000)?;
    if let Some(per) = per {
        per.positive(format!("{at}.per"))?;
    }
    if key.len() > MOST_PARTS {
        return refuse(format!("{at}.key"), format!("has more than {MOST_PARTS} parts"));
    }
    for (i, part) in key.iter().enumerate() {
        let at = format!("{at}.key[{i}]");
        match (part.kind, &part.name) {
            (KeyType::Header, None) => return refuse(format!("{at}.name"), "is needed: which header?"),
            (KeyType::Header, Some(name)) if name.parse::<HeaderName>().is_err() => {
                return refuse(format!("{at}.name"), format!("{name:?} isn't a header's name"));
            }
            (KeyType::Header, Some(_)) => {}
            (KeyType::Total, _) if key.len() > 1 => {
                return refuse(at, "total counts everything together: it can't stand beside other parts");
            }
            (_, Some(_)) => return refuse(format!("{at}.name"), "is for type header alone"),
            (_, None) => {}
        }
    }
    Ok(())
}

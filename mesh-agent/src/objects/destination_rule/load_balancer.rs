//! `loadBalancer` of a DestinationRule (Istio reference, LoadBalancerSettings).

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::Duration;

use serde::Deserialize;
use serde::de::{Deserializer, Error, Visitor};

use crate::balance::tiers::MOST_TIERS;
use crate::objects::FieldError;
use crate::objects::duration::GoDuration;
use crate::objects::field::nullable;

/// Which endpoint of the host.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LoadBalancerSettings {
    /// An algorithm without parameters.
    #[serde(default)]
    pub simple: Option<SimpleLb>,
    /// By the hash of something of the client's.
    #[serde(default)]
    pub consistent_hash: Option<ConsistentHash>,
    /// By where client and endpoints are.
    #[serde(default)]
    pub locality_lb_setting: Option<LocalityLbSetting>,
    #[serde(default)]
    warmup_duration_secs: Option<GoDuration>,
    #[serde(default)]
    warmup: Option<WarmupSettings>,
}

/// `simple`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum SimpleLb {
    /// The agent's own default.
    Unspecified,
    /// The former name of LEAST_REQUEST.
    LeastConn,
    /// Fewest requests in flight, of two.
    LeastRequest,
    /// Uniformly at random.
    Random,
    /// To the address that the client dialled.
    Passthrough,
    /// One after the other.
    RoundRobin,
}

/// `consistentHash`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ConsistentHash {
    /// Of a request's header.
    #[serde(default)]
    pub http_header_name: Option<String>,
    /// Of a cookie, which the agent can give out.
    #[serde(default)]
    pub http_cookie: Option<HttpCookie>,
    /// Of the client's address.
    #[serde(default, deserialize_with = "nullable")]
    pub use_source_ip: bool,
    /// Of a parameter in the query.
    #[serde(default)]
    pub http_query_parameter_name: Option<String>,
    #[serde(default)]
    ring_hash: Option<RingHash>,
    #[serde(default)]
    maglev: Option<MagLev>,
    #[serde(default)]
    minimum_ring_size: Option<u64>,
}

/// `httpCookie`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct HttpCookie {
    /// Name.
    pub name: String,
    /// Path of a cookie that the agent gives out.
    #[serde(default, deserialize_with = "nullable")]
    pub path: String,
    /// Its lifetime; zero for as long as the client's session. None: the agent gives none out.
    #[serde(default)]
    pub ttl: Option<GoDuration>,
    /// More attributes of a cookie that the agent gives out.
    #[serde(default, deserialize_with = "nullable")]
    pub attributes: Vec<CookieAttribute>,
}

/// One of a cookie's `attributes`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct CookieAttribute {
    /// Name.
    pub name: String,
    /// Value, empty for none.
    #[serde(default, deserialize_with = "nullable")]
    pub value: String,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
struct RingHash {
    #[serde(default)]
    minimum_ring_size: Option<u64>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
struct MagLev {
    #[serde(default)]
    table_size: Option<u64>,
}

/// `localityLbSetting`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LocalityLbSetting {
    /// False turns off what Istio's mesh default turns on.
    #[serde(default)]
    pub enabled: Option<bool>,
    /// Shares of the traffic by locality.
    #[serde(default, deserialize_with = "nullable")]
    pub distribute: Vec<Distribute>,
    /// Which region stands in for which.
    #[serde(default, deserialize_with = "nullable")]
    pub failover: Vec<Failover>,
    /// Labels, most important first, that make an endpoint near.
    #[serde(default, deserialize_with = "nullable")]
    pub failover_priority: Vec<String>,
}

/// One of `distribute`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct Distribute {
    /// The clients' locality: `region/zone/subzone`, with `*` for the rest.
    pub from: String,
    /// Percent by locality of the endpoints.
    #[serde(default)]
    pub to: BTreeMap<String, u32>,
}

/// One of `failover`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct Failover {
    /// The clients' region.
    pub from: String,
    /// The region that is next.
    pub to: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
struct WarmupSettings {
    duration: GoDuration,
    #[serde(default)]
    minimum_percent: Option<Decimal>,
    #[serde(default)]
    aggression: Option<Decimal>,
}

/// How an endpoint that came up is given its share.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Warmup {
    /// After this it gets as much as the others.
    pub duration: Duration,
    /// What it gets at the least, 0 to 1.
    pub minimum: f64,
    /// 1 is linear in time; more gives it much sooner.
    pub aggression: f64,
}

/// A number of zero or more, in thousandths.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Decimal(u32);

impl Decimal {
    pub(super) fn thousandths(self) -> u32 {
        self.0
    }
}

/// Envoy's and Istio's default for `minimumRingSize`.
const RING_SIZE: u64 = 1024;
/// Envoy's limit for `minimumRingSize`.
const MOST_RING_SIZE: u64 = 8 * 1024 * 1024;
/// Istio's default for `tableSize`.
const TABLE_SIZE: u64 = 65_537;
/// Istio's limit for `tableSize`.
const MOST_TABLE_SIZE: u64 = 5_000_011;

impl ConsistentHash {
    /// Size of the ring, unless Maglev is asked for.
    pub fn ring_size(&self) -> u32 {
        let given =
            self.ring_hash.as_ref().and_then(|ring| ring.minimum_ring_size).or(self.minimum_ring_size);
        u32::try_from(given.filter(|size| *size > 0).unwrap_or(RING_SIZE)).unwrap_or(u32::MAX)
    }

    /// Size of Maglev's table, if that is asked for.
    pub fn maglev_size(&self) -> Option<u32> {
        let size = self.maglev.as_ref()?.table_size.filter(|size| *size > 0).unwrap_or(TABLE_SIZE);
        Some(u32::try_from(size).unwrap_or(u32::MAX))
    }

    fn validate(&self, path: &str) -> Result<(), FieldError> {
        let keys = [
            self.http_header_name.is_some(),
            self.http_cookie.is_some(),
            self.use_source_ip,
            self.http_query_parameter_name.is_some(),
        ];
        if keys.iter().filter(|given| **given).count() != 1 {
            let message =
                "expected one of httpHeaderName, httpCookie, useSourceIp: true, httpQueryParameterName";
            return Err(FieldError::new(path, message));
        }
        if self.http_cookie.as_ref().is_some_and(|cookie| !is_token(&cookie.name)) {
            return Err(FieldError::new(format!("{path}.httpCookie.name"), "isn't a cookie's name"));
        }
        if let Some(cookie) = &self.http_cookie {
            let plain = |text: &str| text.bytes().all(|b| (b' '..0x7f).contains(&b) && b != b';');
            if !plain(&cookie.path) || !cookie.attributes.iter().all(|a| is_token(&a.name) && plain(&a.value))
            {
                let message = "a path or attribute has a character that a cookie can't have";
                return Err(FieldError::new(format!("{path}.httpCookie"), message));
            }
        }
        if self.http_header_name.as_ref().is_some_and(|name| http::HeaderName::try_from(name).is_err()) {
            return Err(FieldError::new(format!("{path}.httpHeaderName"), "isn't a header's name"));
        }
        let algorithms =
            [self.ring_hash.is_some(), self.maglev.is_some(), self.minimum_ring_size.is_some_and(|s| s > 0)];
        if algorithms.iter().filter(|given| **given).count() > 1 {
            return Err(FieldError::new(path, "expected one of ringHash, maglev, minimumRingSize"));
        }
        if u64::from(self.ring_size()) > MOST_RING_SIZE {
            let message = format!("is above {MOST_RING_SIZE}, Envoy's limit");
            return Err(FieldError::new(format!("{path}.ringHash.minimumRingSize"), message));
        }
        match self.maglev_size() {
            Some(size) if !is_prime(size) || u64::from(size) > MOST_TABLE_SIZE => {
                let message = format!("{size} isn't a prime up to {MOST_TABLE_SIZE}");
                Err(FieldError::new(format!("{path}.maglev.tableSize"), message))
            }
            _ => Ok(()),
        }
    }
}

impl LoadBalancerSettings {
    /// For endpoints that came up.
    pub fn warmup(&self) -> Option<Warmup> {
        let (duration, minimum, aggression) = match &self.warmup {
            Some(warmup) => (warmup.duration, warmup.minimum_percent, warmup.aggression),
            None => (self.warmup_duration_secs?, None, None),
        };
        let thousandths = |decimal: Option<Decimal>, default: f64| {
            decimal.map_or(default, |Decimal(value)| f64::from(value) / 1000.0)
        };
        Some(Warmup {
            duration: duration.0,
            minimum: thousandths(minimum, 10.0) / 100.0,
            aggression: thousandths(aggression, 1.0),
        })
    }

    pub(super) fn validate(&self, path: &str) -> Result<(), FieldError> {
        if self.simple.is_some() && self.consistent_hash.is_some() {
            return Err(FieldError::new(path, "expected one of simple and consistentHash"));
        }
        if self.warmup.is_some() && self.warmup_duration_secs.is_some() {
            return Err(FieldError::new(path, "expected one of warmup and warmupDurationSecs"));
        }
        if let Some(hash) = &self.consistent_hash {
            hash.validate(&format!("{path}.consistentHash"))?;
        }
        if let Some(warmup) = &self.warmup {
            let path = format!("{path}.warmup");
            if warmup.minimum_percent.is_some_and(|percent| percent.0 > 100_000) {
                return Err(FieldError::new(format!("{path}.minimumPercent"), "is above 100"));
            }
            if warmup.aggression.is_some_and(|aggression| aggression.0 == 0) {
                return Err(FieldError::new(format!("{path}.aggression"), "must be above 0; 1 is linear"));
            }
        }
        match &self.locality_lb_setting {
            Some(locality) => locality.validate(&format!("{path}.localityLbSetting")),
            None => Ok(()),
        }
    }
}

impl LocalityLbSetting {
    fn validate(&self, path: &str) -> Result<(), FieldError> {
        let given =
            [!self.distribute.is_empty(), !self.failover.is_empty(), !self.failover_priority.is_empty()];
        if given.iter().filter(|given| **given).count() > 1 {
            return Err(FieldError::new(path, "expected one of distribute, failover, failoverPriority"));
        }
        if self.failover_priority.len() >= MOST_TIERS {
            let message = format!("has more than {} labels, which is what the agent can do", MOST_TIERS - 1);
            return Err(FieldError::new(format!("{path}.failoverPriority"), message));
        }
        for (at, distribute) in self.distribute.iter().enumerate() {
            if distribute.to.len() > MOST_TIERS {
                let message =
                    format!("has more than {MOST_TIERS} localities, which is what the agent can do");
                return Err(FieldError::new(format!("{path}.distribute[{at}].to"), message));
            }
            let path = format!("{path}.distribute[{at}]");
            let sum: u64 = distribute.to.values().map(|weight| u64::from(*weight)).sum();
            if sum != 100 {
                let message = format!("its weights add up to {sum}: expected 100");
                return Err(FieldError::new(format!("{path}.to"), message));
            }
            for locality in distribute.to.keys().chain([&distribute.from]) {
                if !is_locality(locality) {
                    let message = format!(
                        "{locality:?} isn't a locality: expected region/zone/subzone, or with * at the end for what is left"
                    );
                    return Err(FieldError::new(path, message));
                }
            }
        }
        let mut from = BTreeSet::new();
        for (at, failover) in self.failover.iter().enumerate() {
            let region = |name: &str| !name.is_empty() && !name.contains(['*', '/']);
            let ok = region(&failover.from) && region(&failover.to) && failover.from != failover.to;
            if !ok || !from.insert(&failover.from) {
                let message = "expected two different regions, without zone or *, and each once as from";
                return Err(FieldError::new(format!("{path}.failover[{at}]"), message));
            }
        }
        Ok(())
    }
}

/// `region/zone/subzone`, shortened at will; `*` only at the end.
fn is_locality(text: &str) -> bool {
    let parts: Vec<_> = text.split('/').collect();
    let last = parts.len() - 1;
    parts.len() <= 3
        && parts
            .iter()
            .enumerate()
            .all(|(at, part)| (*part == "*" && at == last) || (!part.is_empty() && !part.contains('*')))
}

fn is_token(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b))
}

fn is_prime(number: u32) -> bool {
    number > 1 && (2..).take_while(|d| d * d <= number).all(|d| !number.is_multiple_of(d))
}

impl<'de> Deserialize<'de> for Decimal {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct DecimalVisitor;
        impl Visitor<'_> for DecimalVisitor {
            type Value = Decimal;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a number from 0 to 1000000")
            }
            fn visit_u64<E: Error>(self, value: u64) -> Result<Decimal, E> {
                self.visit_f64(value as f64)
            }
            fn visit_i64<E: Error>(self, value: i64) -> Result<Decimal, E> {
                self.visit_f64(value as f64)
            }
            fn visit_f64<E: Error>(self, value: f64) -> Result<Decimal, E> {
                if (0.0..=1e6).contains(&value) {
                    return Ok(Decimal((value * 1000.0).round() as u32));
                }
                Err(E::custom(format_args!("{value}: expected a number from 0 to 1000000")))
            }
        }
        deserializer.deserialize_any(DecimalVisitor)
    }
}

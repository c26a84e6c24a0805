//! `fallback`, `activation` and `healthCheck`: what happens where no endpoint can answer.

use std::fmt;
use std::ops::RangeInclusive;

use serde::Deserialize;
use serde::de::{Deserializer, Error, Visitor};

use super::value::{Span, Status};
use super::{FieldError, PortNumber, nullable, refuse, within};

/// `fallback`: one of `answer` and `service`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Fallback {
    /// The agent answers.
    pub answer: Option<Answer>,
    /// Another service answers.
    pub service: Option<FallbackService>,
    /// When; noEndpoint and circuitOpen.
    #[serde(default, deserialize_with = "nullable")]
    pub on: Vec<FallbackOn>,
}

/// `answer`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Answer {
    /// 503.
    pub status: Option<Status>,
    /// Header fields.
    #[serde(default, deserialize_with = "nullable")]
    pub headers: Vec<HeaderValue>,
    /// Body; empty.
    pub body: Option<String>,
}

/// One of `headers`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct HeaderValue {
    /// Header.
    pub name: String,
    /// Its value.
    pub value: String,
}

/// `service`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct FallbackService {
    /// Service.
    pub name: String,
    /// The policy's own.
    pub namespace: Option<String>,
    /// The service's port.
    pub port: PortNumber,
}

/// One of `on`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum FallbackOn {
    /// No endpoint can be had.
    NoEndpoint,
    /// The circuit breaker refuses.
    CircuitOpen,
    /// The service answered with 5xx, after all retries.
    Error5xx,
    /// The service didn't answer in time.
    Timeout,
}

/// `activation`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Activation {
    /// So many requests wait at a time; 100.
    pub max_waiting: Option<u32>,
    /// For so long; 30s.
    pub timeout: Option<Span>,
    /// Who is told that requests wait.
    pub hook: Option<Hook>,
}

/// `hook`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Hook {
    /// `http://HOST[:PORT][/PATH]`.
    pub url: String,
}

/// `healthCheck`: one of `http`, `grpc` and `tcp`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct HealthCheck {
    /// GET over HTTP/1.1.
    pub http: Option<HttpCheck>,
    /// grpc.health.v1.Health/Check.
    pub grpc: Option<GrpcCheck>,
    /// A connection is made.
    pub tcp: Option<TcpCheck>,
    /// Between two checks of an endpoint; 10s.
    pub interval: Option<Span>,
    /// What takes longer has failed; 1s.
    pub timeout: Option<Span>,
    /// So many successes in a row make an endpoint healthy; 1.
    pub healthy_threshold: Option<u32>,
    /// So many failures in a row make it unhealthy; 3.
    pub unhealthy_threshold: Option<u32>,
    /// Port of the endpoint; the one that requests go to.
    pub port: Option<PortNumber>,
}

/// `http`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct HttpCheck {
    /// `/`.
    pub path: Option<String>,
    /// Statuses of a healthy endpoint; 200-299.
    #[serde(default, deserialize_with = "nullable")]
    pub expected_statuses: Vec<StatusRange>,
    /// Host; the service's host name.
    pub host: Option<String>,
}

/// `grpc`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct GrpcCheck {
    /// The service that is asked about; empty for the server as a whole.
    pub service: Option<String>,
}

/// `tcp`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct TcpCheck {}

/// A status, or a range as `200-299`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StatusRange(pub RangeInclusive<u16>);

impl Fallback {
    pub(super) fn validate(&self, at: &str, own_namespace: &str) -> Result<(), FieldError> {
        if self.answer.is_some() == self.service.is_some() {
            return refuse(at, "needs exactly one of answer and service");
        }
        for (i, header) in self.answer.iter().flat_map(|answer| &answer.headers).enumerate() {
            header.validate(&format!("{at}.answer.headers[{i}]"))?;
        }
        if self
            .answer
            .as_ref()
            .and_then(|answer| answer.body.as_ref())
            .is_some_and(|body| body.len() > MOST_BODY)
        {
            return refuse(format!("{at}.answer.body"), format!("is longer than {MOST_BODY} bytes"));
        }
        let Some(service) = &self.service else { return Ok(()) };
        if service.name.is_empty() {
            return refuse(format!("{at}.service.name"), "is empty");
        }
        match service.namespace.as_deref() {
            Some(other) if other != own_namespace => refuse(
                format!("{at}.service.namespace"),
                format!("{other:?} isn't the policy's own namespace, which alone is supported: leave it out"),
            ),
            _ => Ok(()),
        }
    }
}

/// Answers are kept in memory and sent as they are.
const MOST_BODY: usize = 64 << 10;

impl HeaderValue {
    fn validate(&self, at: &str) -> Result<(), FieldError> {
        let Ok(name) = self.name.parse::<http::HeaderName>() else {
            return refuse(format!("{at}.name"), format!("{:?} isn't a header's name", self.name));
        };
        let framing = [
            http::header::CONTENT_LENGTH,
            http::header::TRANSFER_ENCODING,
            http::header::CONNECTION,
            http::header::UPGRADE,
            http::header::TRAILER,
            http::header::TE,
        ];
        if framing.contains(&name) {
            return refuse(format!("{at}.name"), format!("{name} is the agent's own to set: leave it out"));
        }
        match http::HeaderValue::from_str(&self.value) {
            Ok(_) => Ok(()),
            Err(_) => refuse(format!("{at}.value"), "can't be a header's value"),
        }
    }
}

impl Activation {
    pub(super) fn validate(&self, at: &str) -> Result<(), FieldError> {
        within(at, "maxWaiting", self.max_waiting, 1..=100_000)?;
        if let Some(hook) = &self.hook {
            let url = hook.url.parse::<http::Uri>().ok();
            let usable = |url: &http::Uri| {
                url.scheme_str() == Some("http") && url.host().is_some_and(|host| !host.is_empty())
            };
            if !url.as_ref().is_some_and(usable) {
                return refuse(
                    format!("{at}.hook.url"),
                    "isn't a URL that can be posted to: expected http://HOST:PORT/PATH",
                );
            }
        }
        self.timeout.map_or(Ok(()), |timeout| timeout.positive(format!("{at}.timeout")))
    }
}

impl HealthCheck {
    pub(super) fn validate(&self, at: &str) -> Result<(), FieldError> {
        let kinds = [self.http.is_some(), self.grpc.is_some(), self.tcp.is_some()];
        if kinds.into_iter().filter(|given| *given).count() != 1 {
            return refuse(at, "needs exactly one of http, grpc and tcp");
        }
        if let Some(http) = &self.http {
            let clean = |text: &str| text.bytes().all(|b| b.is_ascii_graphic());
            if http.path.as_ref().is_some_and(|path| !path.starts_with('/') || !clean(path)) {
                return refuse(format!("{at}.http.path"), "isn't a path: expected /... without spaces");
            }
            if http.host.as_ref().is_some_and(|host| host.is_empty() || !clean(host)) {
                return refuse(format!("{at}.http.host"), "isn't a host name");
            }
        }
        for (field, span) in [("interval", self.interval), ("timeout", self.timeout)] {
            if let Some(span) = span {
                span.positive(format!("{at}.{field}"))?;
            }
        }
        within(at, "healthyThreshold", self.healthy_threshold, 1..=100)?;
        within(at, "unhealthyThreshold", self.unhealthy_threshold, 1..=100)
    }
}

impl<'de> Deserialize<'de> for StatusRange {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct RangeVisitor;
        impl Visitor<'_> for RangeVisitor {
            type Value = StatusRange;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a status or a range of them, as 200-299")
            }
            fn visit_u64<E: Error>(self, value: u64) -> Result<StatusRange, E> {
                self.visit_str(&value.to_string())
            }
            fn visit_str<E: Error>(self, value: &str) -> Result<StatusRange, E> {
                let status =
                    |text: &str| text.parse::<u16>().ok().filter(|status| (100..600).contains(status));
                let (first, last) = value.split_once('-').unwrap_or((value, value));
                match (status(first), status(last)) {
                    (Some(first), Some(last)) if first <= last => Ok(StatusRange(first..=last)),
                    _ => Err(E::custom(format_args!(
                        "{value:?} isn't a status or a range of them: expected 200 or 200-299"
                    ))),
                }
            }
        }
        deserializer.deserialize_any(RangeVisitor)
    }
}

//! `faultInjection`: delays and errors on purpose.

use http::{HeaderName, HeaderValue};
use serde::Deserialize;

use super::value::{Percent, Span, Status};
use super::{FieldError, nullable, refuse, within};

/// `faultInjection`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FaultInjection {
    /// Requests wait.
    pub delay: Option<FaultDelay>,
    /// Requests are answered with an error.
    pub abort: Option<FaultAbort>,
    /// Which requests; all.
    #[serde(rename = "match")]
    pub matches: Option<FaultMatch>,
    /// At most so many at a time suffer; no limit.
    pub max_active: Option<u32>,
}

/// `delay`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct FaultDelay {
    /// So long.
    pub fixed: Span,
    /// This share of the requests; 100.
    pub percent: Option<Percent>,
}

/// `abort`: one of the two statuses.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FaultAbort {
    /// HTTP status.
    pub http_status: Option<Status>,
    /// gRPC status, 1 to 16.
    pub grpc_status: Option<u32>,
    /// This share of the requests; 100.
    pub percent: Option<Percent>,
}

/// `match`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct FaultMatch {
    /// All of them must hold.
    #[serde(default, deserialize_with = "nullable")]
    pub headers: Vec<HeaderMatch>,
}

/// One of `headers`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct HeaderMatch {
    /// Header.
    pub name: String,
    /// What `value` means.
    #[serde(rename = "type", default, deserialize_with = "nullable")]
    pub kind: HeaderMatchType,
    /// What it is compared with; not for `present`.
    pub value: Option<String>,
}

/// `type` of a header match.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum HeaderMatchType {
    /// The value as it is.
    #[default]
    Exact,
    /// What the value begins with.
    Prefix,
    /// Any value.
    Present,
}

impl FaultInjection {
    pub(super) fn validate(&self, at: &str) -> Result<(), FieldError> {
        if self.delay.is_none() && self.abort.is_none() {
            return refuse(at, "injects nothing: give delay, abort or both");
        }
        if let Some(delay) = &self.delay {
            delay.fixed.positive(format!("{at}.delay.fixed"))?;
        }
        if let Some(abort) = &self.abort {
            if abort.http_status.is_some() == abort.grpc_status.is_some() {
                return refuse(format!("{at}.abort"), "needs exactly one of httpStatus and grpcStatus");
            }
            within(at, "abort.grpcStatus", abort.grpc_status, 1..=16)?;
        }
        for (i, header) in self.matches.iter().flat_map(|matches| &matches.headers).enumerate() {
            header.validate(&format!("{at}.match.headers[{i}]"))?;
        }
        within(at, "maxActive", self.max_active, 1..=u32::MAX)
    }
}

impl HeaderMatch {
    fn validate(&self, at: &str) -> Result<(), FieldError> {
        if self.name.parse::<HeaderName>().is_err() {
            return refuse(format!("{at}.name"), format!("{:?} isn't a header's name", self.name));
        }
        match (self.kind, &self.value) {
            (HeaderMatchType::Present, Some(_)) => {
                refuse(format!("{at}.value"), "means nothing with type present")
            }
            (HeaderMatchType::Present, None) => Ok(()),
            (_, None) => refuse(format!("{at}.value"), "is needed, unless type is present"),
            (_, Some(value)) if HeaderValue::from_str(value).is_err() => {
                refuse(format!("{at}.value"), "can't be a header's value")
            }
            (_, Some(_)) => Ok(()),
        }
    }
}

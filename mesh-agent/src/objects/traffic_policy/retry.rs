//! `retry` and `hedge`: requests that are sent more than once.

use serde::Deserialize;

use super::value::{Span, Status};
use super::{FieldError, nullable, refuse, within};

/// `retry`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Retry {
    /// Tries after the first one; 2. 0 turns retries off.
    pub attempts: Option<u32>,
    /// What is worth another try.
    #[serde(default, deserialize_with = "nullable")]
    pub on: Vec<RetryCondition>,
    /// Statuses that are worth another try.
    #[serde(default, deserialize_with = "nullable")]
    pub status_codes: Vec<Status>,
    /// gRPC statuses that are worth another try, 1 to 16.
    #[serde(default, deserialize_with = "nullable")]
    pub grpc_codes: Vec<u32>,
    /// Deadline of one try.
    pub per_try_timeout: Option<Span>,
    /// How long to wait in between.
    pub backoff: Option<RetryBackoff>,
    /// A request whose body is longer, in bytes, is sent once; 65536.
    pub buffer_limit: Option<u32>,
    /// Bounds the retries of all requests together.
    pub budget: Option<RetryBudget>,
}

/// One of `on`: Envoy's names (`x-envoy-retry-on`, `x-envoy-retry-grpc-on`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RetryCondition {
    /// Any 5xx, or no answer.
    #[serde(rename = "5xx")]
    ServerError,
    /// 502, 503, 504.
    GatewayError,
    /// The endpoint couldn't be connected to.
    ConnectFailure,
    /// The endpoint closed or reset before it answered.
    Reset,
    /// What `statusCodes` has.
    RetriableStatusCodes,
    /// gRPC status 1.
    Cancelled,
    /// gRPC status 4.
    DeadlineExceeded,
    /// gRPC status 8.
    ResourceExhausted,
    /// gRPC status 13.
    Internal,
    /// gRPC status 14.
    Unavailable,
}

/// `backoff`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct RetryBackoff {
    /// Before the first retry at most so long, doubled with each; 25ms.
    pub base: Option<Span>,
    /// Never longer; ten times `base`.
    pub max: Option<Span>,
}

/// `budget`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RetryBudget {
    /// Retries are at most this share of the requests of the last 10 s; 20. A whole number.
    pub percent: Option<u32>,
    /// So many a second are allowed in any case; 10.
    pub min_retries_per_second: Option<u32>,
}

/// `hedge`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Hedge {
    /// A request that isn't answered after this is sent again, and the first answer wins.
    pub after: Span,
    /// So many more at most; 1.
    pub max: Option<u32>,
}

impl RetryCondition {
    /// The gRPC status that it stands for, if it is one.
    pub fn grpc_status(self) -> Option<u16> {
        match self {
            Self::Cancelled => Some(1),
            Self::DeadlineExceeded => Some(4),
            Self::ResourceExhausted => Some(8),
            Self::Internal => Some(13),
            Self::Unavailable => Some(14),
            Self::ServerError
            | Self::GatewayError
            | Self::ConnectFailure
            | Self::Reset
            | Self::RetriableStatusCodes => None,
        }
    }
}

impl Retry {
    pub(super) fn validate(&self, at: &str) -> Result<(), FieldError> {
        within(at, "attempts", self.attempts, 0..=10)?;
        if self.on.contains(&RetryCondition::RetriableStatusCodes) && self.status_codes.is_empty() {
            return refuse(format!("{at}.statusCodes"), "is needed by retriable-status-codes: which ones?");
        }
        if let Some(i) = self.status_codes.iter().position(|status| status.0.as_u16() < 400) {
            return refuse(format!("{at}.statusCodes[{i}]"), "is no error: expected 400 to 599");
        }
        for (i, code) in self.grpc_codes.iter().enumerate() {
            within(at, &format!("grpcCodes[{i}]"), Some(*code), 1..=16)?;
        }
        if let Some(timeout) = self.per_try_timeout {
            timeout.positive(format!("{at}.perTryTimeout"))?;
        }
        within(at, "bufferLimit", self.buffer_limit, 0..=16 << 20)?;
        if let Some(backoff) = &self.backoff {
            let base = backoff.base.map(|base| base.0);
            if let (Some(base), Some(max)) = (base, backoff.max)
                && base > max.0
            {
                return refuse(format!("{at}.backoff.base"), "is above max");
            }
            if let Some(base) = backoff.base {
                base.positive(format!("{at}.backoff.base"))?;
            }
        }
        let Some(budget) = &self.budget else { return Ok(()) };
        let at = format!("{at}.budget");
        within(&at, "percent", budget.percent, 0..=100)?;
        within(&at, "minRetriesPerSecond", budget.min_retries_per_second, 0..=1_000_000)
    }
}

impl Hedge {
    pub(super) fn validate(&self, at: &str) -> Result<(), FieldError> {
        self.after.positive(format!("{at}.after"))?;
        within(at, "max", self.max, 1..=5)
    }
}

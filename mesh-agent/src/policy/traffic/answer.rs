//! `fallback`, compiled: what a client gets where the service can't answer.

use bytes::Bytes;
use http::{HeaderMap, StatusCode};

use crate::model::ObjectName;

/// What is answered, and when.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fallback {
    /// By whom.
    pub to: FallbackTo,
    /// No endpoint can be had.
    pub no_endpoint: bool,
    /// The circuit breaker refuses.
    pub circuit_open: bool,
    /// The service answered with 5xx, after all retries.
    pub error_5xx: bool,
    /// The service didn't answer in time.
    pub timeout: bool,
}

impl Fallback {
    /// True if a request that was sent may have to be sent to another service.
    pub fn sends_again(&self) -> bool {
        (self.error_5xx || self.timeout) && matches!(self.to, FallbackTo::Service(..))
    }
}

/// Who answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FallbackTo {
    /// The agent.
    Answer(Answer),
    /// This service at this port.
    Service(ObjectName, u16),
}

/// An answer of the agent's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// Status.
    pub status: StatusCode,
    /// Header fields, without framing.
    pub headers: HeaderMap,
    /// Body.
    pub body: Bytes,
}

impl Default for Answer {
    fn default() -> Self {
        Self { status: StatusCode::SERVICE_UNAVAILABLE, headers: HeaderMap::new(), body: Bytes::new() }
    }
}

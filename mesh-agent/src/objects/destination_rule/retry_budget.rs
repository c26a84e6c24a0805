//! `retryBudget` of a DestinationRule (Istio reference, TrafficPolicy.RetryBudget).

use serde::Deserialize;

use super::load_balancer::Decimal;
use crate::objects::FieldError;

/// How many retries may be under way at a time.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RetryBudget {
    #[serde(default)]
    percent: Option<Decimal>,
    #[serde(default)]
    min_retry_concurrency: Option<u32>,
}

impl RetryBudget {
    /// Thousandths of the requests under way that may be retries; 20 % where it isn't given.
    pub fn thousandths(&self) -> u32 {
        self.percent.map_or(200, |percent| percent.thousandths() / 100)
    }

    /// So many are allowed in any case; 3 where it isn't given.
    pub fn least(&self) -> u32 {
        self.min_retry_concurrency.unwrap_or(3)
    }

    pub(super) fn validate(&self, path: &str) -> Result<(), FieldError> {
        match self.percent {
            Some(percent) if percent.thousandths() > 100_000 => {
                Err(FieldError::new(format!("{path}.percent"), "is above 100"))
            }
            _ => Ok(()),
        }
    }
}

//! `outlierDetection` of a DestinationRule (Istio reference, OutlierDetection).

use serde::Deserialize;

use super::pool::at_least_a_millisecond;
use crate::objects::FieldError;
use crate::objects::duration::GoDuration;
use crate::objects::field::nullable;

/// When an endpoint is left alone, and for how long. None stands for the default.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct OutlierDetection {
    /// 5xx in a row; 0 turns it off.
    #[serde(rename = "consecutive5xxErrors", default)]
    pub consecutive_5xx_errors: Option<u32>,
    /// 502, 503 or 504 in a row; 0 turns it off.
    #[serde(default)]
    pub consecutive_gateway_errors: Option<u32>,
    /// Failures to reach it are counted by themselves, not as 5xx.
    #[serde(default, deserialize_with = "nullable")]
    pub split_external_local_origin_errors: bool,
    /// Those in a row, where they are counted by themselves.
    #[serde(default)]
    pub consecutive_local_origin_failures: Option<u32>,
    /// Time in which an endpoint that behaves makes good for one ejection.
    #[serde(default)]
    pub interval: Option<GoDuration>,
    /// Of the first ejection in a row.
    #[serde(default)]
    pub base_ejection_time: Option<GoDuration>,
    /// Of the endpoints; 0 counts as not given.
    #[serde(default, deserialize_with = "nullable")]
    pub max_ejection_percent: u32,
    /// Below this share of healthy endpoints all of them are used.
    #[serde(default, deserialize_with = "nullable")]
    pub min_health_percent: u32,
    /// Statuses that count as errors, in place of 5xx.
    #[serde(default, deserialize_with = "nullable")]
    pub outlier_detection_http_error_codes: Vec<u16>,
}

impl OutlierDetection {
    pub(super) fn validate(&self, path: &str) -> Result<(), FieldError> {
        at_least_a_millisecond(&format!("{path}.interval"), self.interval)?;
        at_least_a_millisecond(&format!("{path}.baseEjectionTime"), self.base_ejection_time)?;
        for (field, percent) in
            [("maxEjectionPercent", self.max_ejection_percent), ("minHealthPercent", self.min_health_percent)]
        {
            if percent > 100 {
                return Err(FieldError::new(format!("{path}.{field}"), format!("{percent} is above 100")));
            }
        }
        match self.outlier_detection_http_error_codes.iter().find(|code| !(100..600).contains(*code)) {
            Some(code) => {
                let field = format!("{path}.outlierDetectionHttpErrorCodes");
                Err(FieldError::new(field, format!("{code} isn't a status: expected 100 to 599")))
            }
            None => Ok(()),
        }
    }
}

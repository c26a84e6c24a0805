//! Which entries become lines: those that a filter asks for, and of what went well a share.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Serialize, Serializer};

use crate::flags::Flag;

/// What a line is written for: any of these. Without any, everything is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    /// A status of at least that.
    pub status: Option<u16>,
    /// It took at least so long.
    pub duration: Option<Duration>,
    /// It has a flag.
    pub flagged: bool,
}

/// The share of what is neither a failure nor flagged that becomes lines.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(transparent)]
pub struct Share(f64);

impl Default for Share {
    /// All.
    fn default() -> Self {
        Self(1.0)
    }
}

/// Not a filter.
#[derive(Debug, thiserror::Error)]
#[error(
    "{0:?} is no filter of the access log: expected status>=N, duration>=DURATION and flagged, any of them, with commas between"
)]
pub struct ParseFilterError(String);

/// Not a share.
#[derive(Debug, thiserror::Error)]
#[error("{0:?} is no share: expected a number from 0 to 1")]
pub struct ParseShareError(String);

impl Filter {
    /// True of what is to be written.
    pub(super) fn wants(&self, status: u16, flag: Flag, duration: Duration) -> bool {
        *self == Self::default()
            || self.status.is_some_and(|least| status >= least)
            || self.duration.is_some_and(|least| duration >= least)
            || (self.flagged && flag != Flag::None)
    }
}

impl Share {
    /// True of what is to be written; `chance` is evenly from 0 to 1.
    pub(super) fn takes(self, status: u16, flag: Flag, chance: impl FnOnce() -> f64) -> bool {
        self.0 >= 1.0 || flag != Flag::None || status >= 500 || chance() < self.0
    }
}

impl FromStr for Filter {
    type Err = ParseFilterError;

    fn from_str(text: &str) -> Result<Self, ParseFilterError> {
        let bad = || ParseFilterError(text.to_owned());
        let mut filter = Self::default();
        for term in text.split(',').map(str::trim) {
            match term.split_once(">=").map(|(name, value)| (name.trim(), value.trim())) {
                Some(("status", value)) => {
                    let status = value.parse().ok().filter(|status| (100..=999).contains(status));
                    filter.status = Some(status.ok_or_else(bad)?);
                }
                Some(("duration", value)) => {
                    filter.duration = Some(crate::settings::duration(value).map_err(|_| bad())?);
                }
                None if term == "flagged" => filter.flagged = true,
                _ => return Err(bad()),
            }
        }
        Ok(filter)
    }
}

impl fmt::Display for Filter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let status = self.status.map(|status| format!("status>={status}"));
        let duration = self.duration.map(|duration| format!("duration>={}ms", duration.as_millis()));
        let flagged = self.flagged.then(|| "flagged".to_owned());
        let terms: Vec<_> = [status, duration, flagged].into_iter().flatten().collect();
        f.write_str(&terms.join(","))
    }
}

impl Serialize for Filter {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl FromStr for Share {
    type Err = ParseShareError;

    fn from_str(text: &str) -> Result<Self, ParseShareError> {
        let share = text.parse().ok().filter(|share| (0.0..=1.0).contains(share));
        share.map(Self).ok_or_else(|| ParseShareError(text.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn any_term_of_a_filter_is_enough_and_none_lets_all_through() {
        fn check(filter: &str, want: [bool; 4]) {
            let filter: Filter = filter.parse().unwrap();
            let wants = [
                (200, Flag::None, 0),
                (404, Flag::None, 0),
                (200, Flag::None, 2),
                (0, Flag::UpstreamReset, 0),
            ]
            .map(|(status, flag, seconds)| filter.wants(status, flag, SECOND * seconds));
            assert_eq!(wants, want, "{filter}");
            assert_eq!(filter.to_string().parse::<Filter>().unwrap(), filter);
        }
        check("status>=400", [false, true, false, false]);
        check("duration>=1s", [false, false, true, false]);
        check("flagged", [false, false, false, true]);
        check("status >= 500, duration>=1500ms,flagged", [false, false, true, true]);
        assert!(Filter::default().wants(200, Flag::None, Duration::ZERO));
        for text in
            ["", "status", "status>=", "status>=99", "status>400", "duration>=1", "bytes>=1", "flagged,"]
        {
            assert!(text.parse::<Filter>().is_err(), "{text}");
        }
    }

    #[test]
    fn failures_are_written_whatever_the_share() {
        let none: Share = "0".parse().unwrap();
        assert!(!none.takes(200, Flag::None, || 0.0));
        assert!(none.takes(503, Flag::None, || 0.9) && none.takes(0, Flag::UpstreamReset, || 0.9));
        let half: Share = "0.5".parse().unwrap();
        assert!(half.takes(200, Flag::None, || 0.4) && !half.takes(200, Flag::None, || 0.6));
        assert!(Share::default().takes(200, Flag::None, || 0.999));
        for text in ["", "1.1", "-0.1", "NaN", "half"] {
            assert!(text.parse::<Share>().is_err(), "{text}");
        }
    }
}

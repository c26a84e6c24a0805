//! Durations, percentages and statuses of a TrafficPolicy, refused where they stand.

use std::fmt;
use std::time::Duration;

use http::StatusCode;
use serde::de::{Deserialize, Deserializer, Error, Visitor};

use super::{FieldError, refuse};
use crate::policy::chance::Chance;

/// A duration as Gateway API writes them (GEP-2257): `1h`, `30s`, `1m30s`, `250ms`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span(pub Duration);

/// A percentage, whole or with a fraction, 0 to 100.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Percent(pub Chance);

/// An HTTP status that a response can end with, 200 to 599.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Status(pub StatusCode);

impl Span {
    /// Refuses a duration of nothing.
    pub(super) fn positive(self, at: impl Into<String>) -> Result<(), FieldError> {
        if self.0.is_zero() { refuse(at, "must be longer than nothing") } else { Ok(()) }
    }
}

impl Percent {
    /// Refuses 0 where it would mean "always" or "never" by surprise.
    pub(super) fn positive(self, at: impl Into<String>) -> Result<(), FieldError> {
        if self.0 == Chance::default() { refuse(at, "must be more than 0") } else { Ok(()) }
    }
}

/// GEP-2257: one to four numbers of at most five digits, each with its unit.
fn parse_span(text: &str) -> Option<Duration> {
    let (mut rest, mut parts, mut total) = (text, 0, Duration::ZERO);
    while !rest.is_empty() {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let (number, tail) = rest.split_at(digits);
        let unit = tail.bytes().take_while(u8::is_ascii_alphabetic).count();
        let (unit, tail) = tail.split_at(unit);
        let ms = match unit {
            "h" => 3_600_000,
            "m" => 60_000,
            "s" => 1000,
            "ms" => 1,
            _ => return None,
        };
        parts += 1;
        if digits == 0 || digits > 5 || parts > 4 {
            return None;
        }
        total += Duration::from_millis(number.parse::<u64>().ok()? * ms);
        rest = tail;
    }
    (parts > 0).then_some(total)
}

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct SpanVisitor;
        impl Visitor<'_> for SpanVisitor {
            type Value = Span;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a duration as 30s, 250ms or 1m30s")
            }
            fn visit_str<E: Error>(self, value: &str) -> Result<Span, E> {
                parse_span(value).map(Span).ok_or_else(|| {
                    E::custom(format_args!(
                        "{value:?} isn't a duration: expected h, m, s and ms as in 1m30s or 250ms"
                    ))
                })
            }
        }
        deserializer.deserialize_any(SpanVisitor)
    }
}

impl<'de> Deserialize<'de> for Percent {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct PercentVisitor;
        impl Visitor<'_> for PercentVisitor {
            type Value = Percent;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a percentage, a number from 0 to 100")
            }
            fn visit_f64<E: Error>(self, value: f64) -> Result<Percent, E> {
                if (0.0..=100.0).contains(&value) {
                    return Ok(Percent(Chance::percent(value)));
                }
                Err(E::custom(format_args!("{value} isn't a percentage: expected a number from 0 to 100")))
            }
            fn visit_u64<E: Error>(self, value: u64) -> Result<Percent, E> {
                self.visit_f64(value as f64)
            }
            fn visit_i64<E: Error>(self, value: i64) -> Result<Percent, E> {
                self.visit_f64(value as f64)
            }
        }
        deserializer.deserialize_any(PercentVisitor)
    }
}

impl<'de> Deserialize<'de> for Status {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct StatusVisitor;
        impl Visitor<'_> for StatusVisitor {
            type Value = Status;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a final status, a number from 200 to 599")
            }
            fn visit_u64<E: Error>(self, value: u64) -> Result<Status, E> {
                let status = u16::try_from(value).ok().filter(|number| (200..600).contains(number));
                status.and_then(|number| StatusCode::from_u16(number).ok()).map(Status).ok_or_else(|| {
                    E::custom(format_args!("{value} isn't a final status: expected 200 to 599"))
                })
            }
            fn visit_i64<E: Error>(self, value: i64) -> Result<Status, E> {
                match u64::try_from(value) {
                    Ok(value) => self.visit_u64(value),
                    Err(_) => Err(E::custom(format_args!("{value} isn't a status"))),
                }
            }
        }
        deserializer.deserialize_any(StatusVisitor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_those_of_gateway_api() {
        fn check(text: &str, want_ms: Option<u64>) {
            assert_eq!(parse_span(text), want_ms.map(Duration::from_millis), "{text}");
        }
        check("10s", Some(10_000));
        check("1h", Some(3_600_000));
        check("1m30s", Some(90_000));
        check("250ms", Some(250));
        check("0s", Some(0));
        check("99999h", Some(99_999 * 3_600_000));
        for bad in ["", "10", "s", "1.5s", "-1s", "100000s", "1d", "1s1s1s1s1s", "1s ", "10us"] {
            check(bad, None);
        }
    }

    #[test]
    fn percentages_have_fractions_and_bounds() {
        fn check(text: &str, want: Option<f64>) {
            let got = serde_yaml_ng::from_str::<Percent>(text).ok();
            assert_eq!(got.map(|percent| percent.0.as_percent()), want, "{text}");
        }
        check("0", Some(0.0));
        check("0.5", Some(0.5));
        check("100", Some(100.0));
        for bad in ["-1", "100.1", "\"50\"", "50%", ".nan", "null"] {
            check(bad, None);
        }
    }

    #[test]
    fn a_status_ends_a_response() {
        fn check(text: &str, good: bool) {
            assert_eq!(serde_yaml_ng::from_str::<Status>(text).is_ok(), good, "{text}");
        }
        check("200", true);
        check("599", true);
        for bad in ["100", "199", "600", "0", "-1", "\"200\""] {
            check(bad, false);
        }
    }
}

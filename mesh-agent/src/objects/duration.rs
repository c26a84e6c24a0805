//! Durations as Istio's objects write them: Go's `1h30m`, `1.5s`, `100ms`, of which protobuf's JSON form is a part.
//!
//! Refuses a bad value where it stands, as `field` does. Never negative.

use std::fmt;
use std::time::Duration;

use serde::de::{Deserialize, Deserializer, Error, Visitor};

/// A duration, zero or more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GoDuration(pub Duration);

/// Units of Go's `time.ParseDuration`, in nanoseconds; two spellings of micro.
const UNITS: [(&str, u64); 7] = [
    ("ns", 1),
    ("us", 1_000),
    ("µs", 1_000),
    ("ms", 1_000_000),
    ("s", 1_000_000_000),
    ("m", 60_000_000_000),
    ("h", 3_600_000_000_000),
];

impl<'de> Deserialize<'de> for GoDuration {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct DurationVisitor;
        impl Visitor<'_> for DurationVisitor {
            type Value = GoDuration;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a duration such as 30s, 1.5s or 100ms")
            }
            fn visit_str<E: Error>(self, value: &str) -> Result<GoDuration, E> {
                parse(value).map(GoDuration).ok_or_else(|| {
                    E::custom(format_args!(
                        "{value:?} isn't a duration: expected numbers with units, such as 30s, 1.5s, 1h30m or 100ms"
                    ))
                })
            }
        }
        deserializer.deserialize_str(DurationVisitor)
    }
}

/// Go's `time.ParseDuration` without a minus sign.
fn parse(text: &str) -> Option<Duration> {
    if text == "0" {
        return Some(Duration::ZERO);
    }
    let mut rest = text.strip_prefix('+').unwrap_or(text);
    let mut total = 0_u64;
    while !rest.is_empty() || total == 0 {
        let unit_at = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, behind) = rest.split_at(unit_at);
        let next = behind.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(behind.len());
        let (unit, behind) = behind.split_at(next);
        let scale = UNITS.iter().find(|(name, _)| *name == unit)?.1;
        total = total.checked_add(nanoseconds(number, scale)?)?;
        rest = behind;
        if rest.is_empty() {
            break;
        }
    }
    Some(Duration::from_nanos(total))
}

/// A decimal number of units; digits below a nanosecond are cut off.
fn nanoseconds(number: &str, scale: u64) -> Option<u64> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.is_empty() && fraction.is_empty() {
        return None;
    }
    let whole = if whole.is_empty() { 0 } else { whole.parse::<u64>().ok()? };
    let (mut part, mut place) = (0, scale);
    for digit in fraction.bytes() {
        let digit = char::from(digit).to_digit(10)?;
        place /= 10;
        part += u64::from(digit) * place;
    }
    whole.checked_mul(scale)?.checked_add(part)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_those_of_go_and_never_negative() {
        fn check(text: &str, want: Option<u64>) {
            assert_eq!(parse(text), want.map(Duration::from_millis), "{text:?}");
        }
        check("30s", Some(30_000));
        check("1.5s", Some(1_500));
        check("0.100s", Some(100));
        check(".5s", Some(500));
        check("100ms", Some(100));
        check("1h30m", Some(5_400_000));
        check("1m0.5s", Some(60_500));
        check("0s", Some(0));
        check("0", Some(0));
        for bad in ["", "30", "s", "-1s", "1 s", "1d", "1.2.3s", "1s2", ".s", "99999999999999h", "1s-1s"] {
            check(bad, None);
        }
    }
}

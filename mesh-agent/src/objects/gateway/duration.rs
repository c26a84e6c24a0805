//! Durations as the Gateway API writes them: `1h30m`, `500ms` (GEP-2257).

use std::fmt;
use std::time::Duration;

use serde::de::{Deserialize, Deserializer, Error, Visitor};

/// A duration of at most four parts of at most five digits each, in h, m, s and ms.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct GatewayDuration(pub Duration);

impl GatewayDuration {
    /// None for zero, which stands for "no limit" wherever the API has a timeout.
    pub fn limit(self) -> Option<Duration> {
        (!self.0.is_zero()).then_some(self.0)
    }
}

impl<'de> Deserialize<'de> for GatewayDuration {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Text;
        impl Visitor<'_> for Text {
            type Value = GatewayDuration;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a duration in quotes, such as \"10s\"")
            }
            fn visit_str<E: Error>(self, value: &str) -> Result<GatewayDuration, E> {
                parse(value).map(GatewayDuration).ok_or_else(|| {
                    E::custom(format_args!(
                        "{value:?} isn't a duration: expected one to four parts such as 1h, 30m, 10s, 500ms"
                    ))
                })
            }
        }
        deserializer.deserialize_str(Text)
    }
}

fn parse(text: &str) -> Option<Duration> {
    let mut rest = text;
    let mut sum = Duration::ZERO;
    for _ in 0..4 {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        if !(1..=5).contains(&digits) {
            return None;
        }
        let (number, unit) = rest.split_at(digits);
        let number: u64 = number.parse().ok()?;
        let (millis, length) = match unit.as_bytes() {
            [b'h', ..] => (3_600_000, 1),
            [b'm', b's', ..] => (1, 2),
            [b'm', ..] => (60_000, 1),
            [b's', ..] => (1000, 1),
            _ => return None,
        };
        sum += Duration::from_millis(number * millis);
        rest = &unit[length..];
        if rest.is_empty() {
            return Some(sum);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_those_of_gep_2257() {
        fn check(text: &str, want: Option<u64>) {
            assert_eq!(parse(text), want.map(Duration::from_millis), "{text:?}");
        }
        check("0s", Some(0));
        check("1h30m", Some(5_400_000));
        check("500ms", Some(500));
        check("1m500ms", Some(60_500));
        check("1s1s1s1s", Some(4000));
        for bad in ["", "1", "s", "1d", "-1s", "1.5s", "123456s", "1s1s1s1s1s", "1s ", "1us"] {
            check(bad, None);
        }
    }
}

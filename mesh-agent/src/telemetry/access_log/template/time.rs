//! `%START_TIME(FORMAT)%`: the specifiers of strftime(3) that need no locale and no time zone but UTC, and Envoy's fractions.

use std::str::FromStr;
use std::time::{SystemTime, UNIX_EPOCH};

use crate::telemetry::access_log::clock::{civil, push_digits, push_time, push_u64};

const DAYS: [&str; 7] = ["Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday"];
const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];
const EXPECTED: &str =
    "%Y %y %m %d %e %j %H %I %M %S %p %a %A %b %B %F %T %D %R %z %Z %s, %f or %1f to %9f, and %%";

/// RFC 3339 with milliseconds, unless it was told otherwise.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct TimeFormat(Vec<Piece>);

#[derive(Clone, Debug, PartialEq)]
enum Piece {
    Text(String),
    Of(char),
    Fraction(u32),
}

impl FromStr for TimeFormat {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (mut pieces, mut plain, mut chars) = (Vec::new(), String::new(), text.chars());
        while let Some(c) = chars.next() {
            let piece = match c {
                '%' => match chars.next() {
                    Some('%') => {
                        plain.push('%');
                        continue;
                    }
                    Some('F') => nested("%Y-%m-%d")?,
                    Some('T') => nested("%H:%M:%S")?,
                    Some('D') => nested("%m/%d/%y")?,
                    Some('R') => nested("%H:%M")?,
                    Some('f') => vec![Piece::Fraction(9)],
                    Some(c) if "YymdejHIMSpaAbBzZs".contains(c) => vec![Piece::Of(c)],
                    Some(digits @ '1'..='9') if chars.next() == Some('f') => {
                        vec![Piece::Fraction(digits.to_digit(10).unwrap_or(9))]
                    }
                    _ => return Err(EXPECTED.to_owned()),
                },
                c => {
                    plain.push(c);
                    continue;
                }
            };
            if !plain.is_empty() {
                pieces.push(Piece::Text(std::mem::take(&mut plain)));
            }
            pieces.extend(piece);
        }
        if !plain.is_empty() {
            pieces.push(Piece::Text(plain));
        }
        Ok(Self(pieces))
    }
}

fn nested(format: &str) -> Result<Vec<Piece>, String> {
    format.parse::<TimeFormat>().map(|format| format.0)
}

impl TimeFormat {
    /// Appends the time.
    pub(super) fn push(&self, out: &mut Vec<u8>, time: SystemTime) {
        if self.0.is_empty() {
            return push_time(out, time);
        }
        let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
        for piece in &self.0 {
            match piece {
                Piece::Text(text) => out.extend_from_slice(text.as_bytes()),
                Piece::Fraction(digits) => {
                    let fraction = u64::from(since.subsec_nanos()) / 10_u64.pow(9 - digits);
                    push_digits(out, fraction, *digits as usize);
                }
                Piece::Of(what) => push(out, *what, since.as_secs()),
            }
        }
    }
}

fn push(out: &mut Vec<u8>, what: char, unix: u64) {
    let (days, of_day) = (unix / 86_400, unix % 86_400);
    let (year, month, day) = civil(days);
    let hour = of_day / 3600;
    let name =
        |names: &[&'static str], at: u64| usize::try_from(at).ok().and_then(|at| names.get(at).copied());
    // 1970-01-01 was a Thursday.
    let day_name = name(&DAYS, (days + 4) % 7).unwrap_or_default();
    let month_name = name(&MONTHS, month.saturating_sub(1)).unwrap_or_default();
    let mut text = |text: &str| out.extend_from_slice(text.as_bytes());
    match what {
        'a' => return text(&day_name[..3]),
        'A' => return text(day_name),
        'b' => return text(&month_name[..3]),
        'B' => return text(month_name),
        'p' => return text(if hour < 12 { "AM" } else { "PM" }),
        'z' => return text("+0000"),
        'Z' => return text("UTC"),
        's' => return push_u64(out, unix),
        'e' if day < 10 => {
            out.push(b' ');
            return push_u64(out, day);
        }
        _ => {}
    }
    let (value, digits) = match what {
        'Y' => (year, 4),
        'y' => (year % 100, 2),
        'm' => (month, 2),
        'd' | 'e' => (day, 2),
        'j' => (day_of_year(days, year), 3),
        'H' => (hour, 2),
        'I' => ((hour + 11) % 12 + 1, 2),
        'M' => (of_day / 60 % 60, 2),
        _ => (of_day % 60, 2),
    };
    push_digits(out, value, digits);
}

/// From 1, which is where `civil` of the day itself begins to count.
fn day_of_year(days: u64, year: u64) -> u64 {
    let mut of_year = 1;
    while of_year < 366 && days >= of_year && civil(days - of_year).0 == year {
        of_year += 1;
    }
    of_year
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::time::Duration;

    use super::*;

    #[test]
    fn every_specifier_is_what_strftime_says() {
        // 2024-12-31T13:05:09.012345678Z, a Tuesday.
        let time = UNIX_EPOCH + Duration::new(1_735_650_309, 12_345_678);
        fn check(time: SystemTime, format: &str, want: &str) {
            let mut out = Vec::new();
            format.parse::<TimeFormat>().unwrap().push(&mut out, time);
            assert_eq!(String::from_utf8(out).unwrap(), want, "{format}");
        }
        check(time, "%Y/%m/%dT%H:%M:%S%z %s", "2024/12/31T13:05:09+0000 1735650309");
        check(time, "%s.%3f|%6f|%9f|%f|%1f", "1735650309.012|012345|012345678|012345678|0");
        check(time, "%F %T|%D|%R", "2024-12-31 13:05:09|12/31/24|13:05");
        check(
            time,
            "%a %A %b %B %e %j %y %I %p %Z 100%%",
            "Tue Tuesday Dec December 31 366 24 01 PM UTC 100%",
        );
        check(UNIX_EPOCH, "%a %e %j %I %p", "Thu  1 001 12 AM");
        for format in ["%q", "%", "%3", "%3x", "%E3S"] {
            assert!(format.parse::<TimeFormat>().is_err(), "{format}");
        }
    }
}

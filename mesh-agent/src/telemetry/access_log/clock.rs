//! Times and numbers as text, without the formatter: this runs for every line.

use std::cell::Cell;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// `2026-11-21T05:45:44` has this many bytes.
const SECOND_LEN: usize = 19;

thread_local! {
    /// The last second that was formatted: busy times log thousands of lines within one.
    static SECOND: Cell<(u64, [u8; SECOND_LEN])> = const { Cell::new((u64::MAX, [0; SECOND_LEN])) };
}

/// Appends RFC 3339 in UTC with milliseconds: `2026-11-21T05:45:44.123Z`.
pub(super) fn push_time(out: &mut Vec<u8>, time: SystemTime) {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    let second = SECOND.with(|cell| {
        let (known, text) = cell.get();
        if known == since.as_secs() {
            return text;
        }
        let text = format_second(since.as_secs());
        cell.set((since.as_secs(), text));
        text
    });
    out.extend_from_slice(&second);
    out.push(b'.');
    push_digits(out, u64::from(since.subsec_millis()), 3);
    out.push(b'Z');
}

/// RFC 3339 in UTC, whole seconds: `2026-11-21T05:45:44Z`. For people, not for lines.
pub fn utc(time: SystemTime) -> String {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    let mut text = String::from_utf8_lossy(&format_second(since.as_secs())).into_owned();
    text.push('Z');
    text
}

/// The same with milliseconds.
pub fn utc_millis(time: SystemTime) -> String {
    let mut text = Vec::with_capacity(SECOND_LEN + 5);
    push_time(&mut text, time);
    String::from_utf8_lossy(&text).into_owned()
}

/// Appends a number.
pub(super) fn push_u64(out: &mut Vec<u8>, value: u64) {
    let digits = value.checked_ilog10().map_or(1, |log| log as usize + 1);
    push_digits(out, value, digits);
}

/// Appends whole milliseconds, as Envoy's `%DURATION%` does.
pub(super) fn push_millis(out: &mut Vec<u8>, duration: Duration) {
    push_u64(out, u64::try_from(duration.as_millis()).unwrap_or(u64::MAX));
}

/// Appends a number with leading zeros.
pub(super) fn push_digits(out: &mut Vec<u8>, mut value: u64, digits: usize) {
    let start = out.len();
    out.resize(start + digits, b'0');
    for digit in out.iter_mut().skip(start).rev() {
        *digit = b'0' + (value % 10) as u8;
        value /= 10;
    }
}

fn format_second(unix: u64) -> [u8; SECOND_LEN] {
    let (year, month, day) = civil(unix / 86_400);
    let of_day = unix % 86_400;
    let mut out = Vec::with_capacity(SECOND_LEN);
    push_digits(&mut out, year, 4);
    for (separator, part) in
        [(b'-', month), (b'-', day), (b'T', of_day / 3600), (b':', of_day / 60 % 60), (b':', of_day % 60)]
    {
        out.push(separator);
        push_digits(&mut out, part, 2);
    }
    out.try_into().unwrap_or([b'?'; SECOND_LEN])
}

/// Year, month and day of a day since 1970-01-01, in the Gregorian calendar (H. Hinnant, "chrono-compatible low-level
/// date algorithms", civil_from_days).
pub(super) fn civil(days: u64) -> (u64, u64, u64) {
    let days = days + 719_468;
    let (era, of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * of_year + 2) / 153;
    let day = of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    (year_of_era + era * 400 + u64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn times_are_right_at_the_calendar_s_corners() {
        for (unix, text) in [
            (0, "1970-01-01T00:00:00.000Z"),
            (951_782_399, "2000-02-28T23:59:59.000Z"),
            (951_782_400, "2000-02-29T00:00:00.000Z"),
            (1_735_689_599, "2024-12-31T23:59:59.000Z"),
            (4_107_542_400, "2100-03-01T00:00:00.000Z"),
        ] {
            let mut out = Vec::new();
            push_time(&mut out, UNIX_EPOCH + Duration::from_secs(unix));
            assert_eq!(String::from_utf8(out).unwrap(), text);
        }
    }

    #[test]
    fn numbers_are_whole() {
        for value in [0, 9, 10, 99, 100, u64::MAX] {
            let mut out = Vec::new();
            push_u64(&mut out, value);
            assert_eq!(String::from_utf8(out).unwrap(), value.to_string());
        }
    }
}

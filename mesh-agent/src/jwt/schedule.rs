//! When a source of keys is looked at again. Pure: no clock, no chance of its own.
//!
//! Used by `keeper`. A source says by Cache-Control how long its keys are good (RFC 9111, 5.2.2), and is believed within
//! bounds; one that fails is asked more and more seldom.

use std::time::Duration;

/// Where the source says nothing (Istio, `PILOT_JWT_PUB_KEY_REFRESH_INTERVAL`).
const USUAL: Duration = Duration::from_secs(20 * 60);
/// No source is asked more often, whatever it says or a token's `kid` may be.
pub(super) const SHORTEST: Duration = Duration::from_secs(30);
/// Nor less often: a key that was withdrawn is out of use within the hour.
const LONGEST: Duration = Duration::from_secs(3600);
/// After a failure; doubled with each.
const RETRY: Duration = Duration::from_secs(1);
const RETRY_MOST: Duration = Duration::from_secs(60);

/// After a fetch that succeeded.
pub(super) fn after_success(max_age: Option<Duration>) -> Duration {
    max_age.unwrap_or(USUAL).clamp(SHORTEST, LONGEST)
}

/// After so many failures in a row, 1 or more. `chance` spreads agents that lost a source together: 0 to 255 for none to a
/// quarter more.
pub(super) fn after_failure(failures: u32, chance: u8) -> Duration {
    let doubled = RETRY.saturating_mul(1_u32 << failures.saturating_sub(1).min(16)).min(RETRY_MOST);
    doubled + doubled * u32::from(chance) / 1024
}

/// What Cache-Control says of the age that an answer may reach.
pub(super) fn max_age(cache_control: &str) -> Option<Duration> {
    let mut said = None;
    for directive in cache_control.split(',').map(str::trim) {
        let (name, value) = directive.split_once('=').unwrap_or((directive, ""));
        if name.eq_ignore_ascii_case("no-store") || name.eq_ignore_ascii_case("no-cache") {
            return Some(Duration::ZERO);
        }
        if name.eq_ignore_ascii_case("max-age") {
            said = value.trim_matches('"').parse().ok().map(Duration::from_secs).or(said);
        }
    }
    said
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn secs(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn a_source_is_believed_within_bounds() {
        fn check(header: Option<&str>, want: Duration) {
            assert_eq!(after_success(header.and_then(max_age)), want, "{header:?}");
        }
        check(None, secs(1200));
        check(Some("public"), secs(1200));
        check(Some("public, max-age=600"), secs(600));
        check(Some("MAX-AGE=\"600\""), secs(600));
        check(Some("max-age=1"), SHORTEST);
        check(Some("max-age=999999999"), LONGEST);
        check(Some("max-age=99999999999999999999"), secs(1200));
        check(Some("max-age=-5"), secs(1200));
        check(Some("max-age=600, no-cache"), SHORTEST);
        check(Some("no-store"), SHORTEST);
        check(Some("s-maxage=5"), secs(1200));
    }

    #[test]
    fn failures_back_off_to_a_bound() {
        let waits: Vec<u64> = (1..=9).map(|failures| after_failure(failures, 0).as_secs()).collect();
        assert_eq!(waits, [1, 2, 4, 8, 16, 32, 60, 60, 60]);
        assert_eq!(after_failure(u32::MAX, 0), RETRY_MOST);
        assert!(after_failure(7, 255) > secs(74) && after_failure(7, 255) < secs(75));
    }
}

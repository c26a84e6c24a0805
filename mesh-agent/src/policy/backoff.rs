//! How long to wait before the next try: exponential with full jitter, as Envoy's retry back-off.

use std::time::Duration;

use crate::route::RetryPolicy;

/// How long to wait before a retry, of which `retry` counts from 1: what the policy asks for at the least, and then the
/// back-off's random time.
pub fn wait(policy: &RetryPolicy, retry: u32, random: u64) -> Duration {
    policy.least_wait.saturating_add(delay(policy.backoff, policy.max_backoff, retry, random))
}

/// A random time below `base` doubled with every retry, at most `max`. `retry` counts from 1. Full jitter spreads the tries
/// of clients that failed at the same moment over the whole interval.
pub fn delay(base: Duration, max: Duration, retry: u32, random: u64) -> Duration {
    let doubled = 1u32.checked_shl(retry.saturating_sub(1)).unwrap_or(u32::MAX);
    let ceiling = base.saturating_mul(doubled).min(max);
    let nanoseconds = u64::try_from(ceiling.as_nanos()).unwrap_or(u64::MAX);
    Duration::from_nanos(((u128::from(nanoseconds) * u128::from(random)) >> 64) as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn the_ceiling_doubles_up_to_the_maximum() {
        fn check(retry: u32, want: u32) {
            let longest = delay(25 * MS, 250 * MS, retry, u64::MAX);
            assert!(longest < want * MS && longest > want * MS * 99 / 100, "{retry}: {longest:?}");
        }
        check(1, 25);
        check(2, 50);
        check(3, 100);
        check(4, 200);
        check(5, 250);
        check(32, 250);
        check(33, 250);
        check(u32::MAX, 250);
    }

    proptest::proptest! {
        /// HTTPRouteRetry.backoff: no retry begins before the configured minimum duration.
        #[test]
        fn no_retry_begins_before_the_least_wait(retry in 1u32..100, random: u64, least in 0u64..10_000) {
            let least_wait = Duration::from_millis(least);
            let on = crate::route::RetryOn::default();
            let policy =
                RetryPolicy { attempts: 1, on, least_wait, backoff: least_wait, max_backoff: 10 * least_wait, per_try: None };
            let wait = wait(&policy, retry, random);
            proptest::prop_assert!(wait >= least_wait && wait <= 11 * least_wait, "{:?}", wait);
        }

        #[test]
        fn it_is_anywhere_between_nothing_and_the_ceiling(retry in 1u32..100, random: u64, base in 0u64..1000, max in 0u64..10_000) {
            let (base, max) = (Duration::from_millis(base), Duration::from_millis(max));
            let delay = delay(base, max, retry, random);
            proptest::prop_assert!(delay <= max);
            proptest::prop_assert_eq!(super::delay(base, max, retry, 0), Duration::ZERO);
            let half = super::delay(base, max, retry, u64::MAX / 2).as_nanos();
            proptest::prop_assert!((half * 2).abs_diff(super::delay(base, max, retry, u64::MAX).as_nanos()) <= 2);
        }
    }
}

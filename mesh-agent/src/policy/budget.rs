//! Retry budget (GEP-3388): retries are at most a share of the requests of the last while, or a small rate if that is more.
//!
//! The rate is a floor ("such that the budget for retries never goes below this minimum value", as Envoy's
//! `min_retry_concurrency`), nothing beside the share. However everything fails, retries add no more than that to the
//! load of a service that is down already. The budget is one for all clients of a service on this node.

use super::gcra::{Bucket, Rate};
use super::window::Window;
use crate::route::RetryBudget;

/// Counts requests, grants retries.
#[derive(Debug)]
pub struct Budget {
    limits: RetryBudget,
    percent: u64,
    /// Requests, and the retries among them.
    window: Window,
    minimum: Option<(Rate, Bucket)>,
}

impl Budget {
    /// Nothing counted yet.
    pub fn new(budget: RetryBudget) -> Self {
        let rate = Rate::new(budget.min_count, budget.min_interval, budget.min_count);
        Self {
            limits: budget,
            percent: budget.percent.into(),
            window: Window::new(budget.interval),
            minimum: (budget.min_count > 0).then(|| (rate, Bucket::default())),
        }
    }

    /// What was asked for.
    pub fn limits(&self) -> RetryBudget {
        self.limits
    }

    /// A request comes in, whatever becomes of it. Not to be called for its retries.
    pub fn request(&self, now_ns: u64) {
        self.window.add(1, 0, now_ns);
    }

    /// True if one retry may be made, which is counted. Workers that ask at the same moment may exceed the share by one each.
    pub fn retry(&self, now_ns: u64) -> bool {
        let counts = self.window.counts(now_ns);
        let within_share = (counts.marked + 1) * 100 <= counts.total * self.percent;
        // What the share grants uses the minimum up as well.
        let within_minimum =
            self.minimum.as_ref().is_some_and(|(rate, bucket)| bucket.take(*rate, 0, now_ns).passes());
        let granted = within_share || within_minimum;
        if granted {
            self.window.add(0, 1, now_ns);
        }
        granted
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const MS: u64 = 1_000_000;

    fn budget(percent: u32, min_count: u32) -> Budget {
        let second = Duration::from_secs(1);
        Budget::new(RetryBudget { percent, interval: 10 * second, min_count, min_interval: second })
    }

    #[test]
    fn retries_are_a_share_of_requests_or_the_minimum_if_that_is_more() {
        fn check(percent: u32, min_count: u32, requests: u64, want: usize) {
            let budget = budget(percent, min_count);
            (0..requests).for_each(|_| budget.request(MS));
            let granted = (0..1000).filter(|_| budget.retry(MS)).count();
            assert_eq!(granted, want, "{percent}% and {min_count} of {requests}");
        }
        check(20, 0, 0, 0);
        check(20, 0, 4, 0);
        check(20, 0, 5, 1);
        check(20, 0, 1000, 200);
        check(0, 10, 1000, 10);
        check(20, 10, 100, 20);
        check(20, 10, 40, 10);
        check(20, 10, 0, 10);
        check(100, 0, 100, 100);
        check(0, 0, 100, 0);
    }

    #[test]
    fn requests_of_long_ago_buy_no_retries() {
        let budget = budget(100, 0);
        (0..100).for_each(|_| budget.request(MS));
        assert!(budget.retry(5_000 * MS));
        assert!(!budget.retry(20_000 * MS));
    }

    proptest::proptest! {
        #[test]
        fn amplification_is_bounded_under_any_pattern_of_failures(
            percent in 0u32..=100, min_count in 0u32..5,
            steps in proptest::collection::vec((0u64..2_000, 0u64..6, proptest::bool::ANY), 1..500)
        ) {
            let budget = budget(percent, min_count);
            let (mut now, mut requests, mut retries) = (1, 0u64, 0u64);
            for (pause_ms, tries, arrives) in steps {
                now += pause_ms * MS;
                if arrives {
                    budget.request(now);
                    requests += 1;
                }
                retries += (0..tries).filter(|_| budget.retry(now)).count() as u64;
                let seconds = now / 1_000_000_000;
                // Over all time both may have had their turn; at one moment it is the larger.
                let bound = requests * u64::from(percent) / 100 + u64::from(min_count) * (seconds + 2);
                proptest::prop_assert!(retries <= bound, "{} retries of {} requests in {} s", retries, requests, seconds);
            }
        }
    }
}

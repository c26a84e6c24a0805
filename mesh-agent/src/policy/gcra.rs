//! One bucket of a rate limit: the generic cell rate algorithm (ITU-T I.371), which keeps a bucket in one atomic word.
//!
//! The word is the theoretical arrival time: when the bucket will be full again. A bucket that is full needs no memory,
//! which is what lets [`super::limiter`] forget keys without forgiving anything.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// A rate and how far it may be exceeded at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// Nanoseconds that one request takes to earn.
    cost_ns: u64,
    /// Nanoseconds that a full bucket is worth.
    depth_ns: u64,
}

/// What a bucket says of one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It may go on.
    Pass {
        /// So many more could follow at once.
        remaining: u64,
        /// The bucket is full again after this.
        reset: Duration,
    },
    /// It may not.
    Limited {
        /// The earliest time at which one would pass.
        retry_after: Duration,
    },
}

impl Verdict {
    /// True if the request may go on.
    pub fn passes(self) -> bool {
        matches!(self, Self::Pass { .. })
    }
}

impl Rate {
    /// `requests` in each `per`, of which `burst` (at least 1) may come at once. Rounded so that the rate is never exceeded.
    pub fn new(requests: u32, per: Duration, burst: u32) -> Self {
        let per = u64::try_from(per.as_nanos()).unwrap_or(u64::MAX);
        let cost_ns = per.div_ceil(u64::from(requests.max(1))).max(1);
        Self { cost_ns, depth_ns: cost_ns.saturating_mul(burst.max(1).into()) }
    }

    /// One of `parts` equal parts: the same time between full and empty, each request `parts` times as dear.
    pub fn part(self, parts: u64, depth_ns: u64) -> Self {
        let cost_ns = self.cost_ns.saturating_mul(parts.max(1));
        Self { cost_ns, depth_ns: depth_ns.max(cost_ns) }
    }

    /// What a full bucket is worth.
    pub fn depth_ns(self) -> u64 {
        self.depth_ns
    }

    /// What one request costs.
    pub fn cost_ns(self) -> u64 {
        self.cost_ns
    }
}

/// A bucket. Full at first.
#[derive(Debug, Default)]
pub struct Bucket(AtomicU64);

impl Bucket {
    /// Takes one request out, if that leaves at least `reserve_ns` in. A bucket may be asked by different rates of the same
    /// depth, as a share of it changes.
    pub fn take(&self, rate: Rate, reserve_ns: u64, now_ns: u64) -> Verdict {
        let mut full_at = self.0.load(Relaxed);
        loop {
            let next = full_at.max(now_ns).saturating_add(rate.cost_ns);
            let (missing, room) = (next - now_ns, rate.depth_ns.saturating_sub(reserve_ns).max(rate.cost_ns));
            if missing > room {
                return Verdict::Limited { retry_after: Duration::from_nanos(missing - room) };
            }
            match self.0.compare_exchange_weak(full_at, next, Relaxed, Relaxed) {
                Ok(_) => {
                    let remaining = (rate.depth_ns - missing.min(rate.depth_ns)) / rate.cost_ns;
                    return Verdict::Pass { remaining, reset: Duration::from_nanos(missing) };
                }
                Err(other) => full_at = other,
            }
        }
    }

    /// When it will be full; what is past is full now.
    pub fn full_at(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    fn pass(remaining: u64, reset_ms: u64) -> Verdict {
        Verdict::Pass { remaining, reset: Duration::from_millis(reset_ms) }
    }

    fn limited(ms: u64) -> Verdict {
        Verdict::Limited { retry_after: Duration::from_millis(ms) }
    }

    #[test]
    fn a_burst_passes_then_the_rate_and_refusals_say_when() {
        let (bucket, rate) = (Bucket::default(), Rate::new(10, Duration::from_secs(1), 3));
        let steps = [
            (5, pass(2, 100)),
            (5, pass(1, 200)),
            (5, pass(0, 300)),
            (5, limited(100)),
            (95, limited(10)),
            (105, pass(0, 300)),
            (105, limited(100)),
            (305, pass(1, 200)),
            (10_000, pass(2, 100)),
        ];
        for (at_ms, want) in steps {
            assert_eq!(bucket.take(rate, 0, at_ms * MS), want, "at {at_ms} ms");
        }
    }

    #[test]
    fn a_reserve_is_left_to_others() {
        let (bucket, rate) = (Bucket::default(), Rate::new(10, Duration::from_secs(1), 4));
        let half = rate.depth_ns() / 2;
        let passed = |reserve| {
            std::iter::repeat_with(|| bucket.take(rate, reserve, MS)).take_while(|v| v.passes()).count()
        };
        assert_eq!(passed(half), 2);
        assert_eq!(passed(0), 2);
    }

    proptest::proptest! {
        #[test]
        fn no_span_of_time_sees_more_than_burst_and_rate(
            requests in 1u32..1000, per_ms in 1u64..5000, burst in 1u32..50, gaps in proptest::collection::vec(0u64..50_000_000, 1..200)
        ) {
            let (bucket, rate) = (Bucket::default(), Rate::new(requests, Duration::from_millis(per_ms), burst));
            let (mut now, mut passed) = (1, Vec::new());
            for gap in gaps {
                now += gap;
                if bucket.take(rate, 0, now).passes() {
                    passed.push(now);
                }
            }
            for (i, from) in passed.iter().enumerate() {
                for (count, to) in passed[i..].iter().enumerate() {
                    let earned = (to - from) as u128 * u128::from(requests) / u128::from(per_ms * MS);
                    proptest::prop_assert!((count + 1) as u128 <= earned + u128::from(burst) + 1);
                }
            }
        }

        #[test]
        fn who_waits_as_told_passes(
            requests in 1u32..1000, burst in 1u32..50, gaps in proptest::collection::vec(0u64..5_000_000, 1..100)
        ) {
            let (bucket, rate) = (Bucket::default(), Rate::new(requests, Duration::from_secs(1), burst));
            let mut now = 1;
            for gap in gaps {
                now += gap;
                if let Verdict::Limited { retry_after } = bucket.take(rate, 0, now) {
                    now += retry_after.as_nanos() as u64;
                    proptest::prop_assert!(bucket.take(rate, 0, now).passes());
                }
            }
        }
    }
}

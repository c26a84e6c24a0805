//! A histogram of fixed buckets that costs two relaxed additions per observation.
//!
//! Bounds are Envoy's defaults (histogram_impl.cc), which Istio applies to milliseconds and bytes alike, so that
//! quantiles over our series and a sidecar's agree. Counts are per bucket; `exposition` adds them up.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Upper bounds, in the unit of the metric. `+Inf` follows.
pub(super) const BOUNDS: [&str; 19] = [
    "0.5", "1", "5", "10", "25", "50", "100", "250", "500", "1000", "2500", "5000", "10000", "30000",
    "60000", "300000", "600000", "1800000", "3600000",
];

/// The same in thousandths, the resolution of [`Histogram::observe_milli`].
const BOUNDS_MILLI: [u64; 19] = [
    500,
    1_000,
    5_000,
    10_000,
    25_000,
    50_000,
    100_000,
    250_000,
    500_000,
    1_000_000,
    2_500_000,
    5_000_000,
    10_000_000,
    30_000_000,
    60_000_000,
    300_000_000,
    600_000_000,
    1_800_000_000,
    3_600_000_000,
];

/// Number of buckets, `+Inf` included.
pub(super) const BUCKETS: usize = BOUNDS.len() + 1;

/// One histogram.
#[derive(Debug, Default)]
pub(super) struct Histogram {
    buckets: [AtomicU64; BUCKETS],
    /// In thousandths of the unit.
    sum_milli: AtomicU64,
}

impl Histogram {
    /// Counts one value, given in thousandths of the metric's unit (microseconds for milliseconds).
    pub(super) fn observe_milli(&self, value: u64) {
        self.count_milli(value);
        self.sum_milli.fetch_add(value, Relaxed);
    }

    /// The same without the sum.
    pub(super) fn count_milli(&self, value: u64) {
        // Nearly every request ends in one of the first few buckets: a linear search beats a binary one.
        let bucket = BOUNDS_MILLI.iter().position(|bound| value <= *bound).unwrap_or(BOUNDS_MILLI.len());
        if let Some(bucket) = self.buckets.get(bucket) {
            bucket.fetch_add(1, Relaxed);
        }
    }

    /// Counts one whole value (bytes).
    pub(super) fn observe(&self, value: u64) {
        self.observe_milli(value.saturating_mul(1000));
    }

    /// Counts per bucket, not added up.
    pub(super) fn buckets(&self) -> [u64; BUCKETS] {
        std::array::from_fn(|i| self.buckets.get(i).map_or(0, |b| b.load(Relaxed)))
    }

    /// Observations so far.
    pub(super) fn count(&self) -> u64 {
        self.buckets.iter().map(|b| b.load(Relaxed)).sum()
    }

    /// Sum of all observations, in thousandths.
    pub(super) fn sum_milli(&self) -> u64 {
        self.sum_milli.load(Relaxed)
    }
}

/// The value that `share` of the observations are below, as Prometheus' `histogram_quantile` finds it: by a straight line
/// within a bucket, and the last bound for what is above all. None without observations. In the metric's unit, of counts by
/// bucket that aren't added up.
pub fn quantile(buckets: &[u64], share: f64) -> Option<f64> {
    let total: u64 = buckets.iter().sum();
    let rank = share * total as f64;
    let (mut below, mut lower) = (0.0, 0.0);
    for (count, bound) in buckets.iter().zip(BOUNDS_MILLI) {
        let (count, upper) = (*count as f64, bound as f64 / 1000.0);
        if count > 0.0 && below + count >= rank {
            return Some(lower + (upper - lower) * (rank - below) / count);
        }
        (below, lower) = (below + count, upper);
    }
    (total > 0).then_some(lower)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn bounds_agree_in_both_forms() {
        for (text, milli) in BOUNDS.iter().zip(BOUNDS_MILLI) {
            assert_eq!(text.parse::<f64>().unwrap() * 1000.0, milli as f64);
        }
    }

    #[test]
    fn a_value_on_a_bound_belongs_below_it() {
        let histogram = Histogram::default();
        for value in [0, 500, 501, 1_000, 3_600_000_000, 3_600_000_001] {
            histogram.observe_milli(value);
        }
        let buckets = histogram.buckets();
        assert_eq!((buckets[0], buckets[1], buckets[18], buckets[19]), (2, 2, 1, 1));
        assert_eq!(histogram.count(), 6);
    }

    #[test]
    fn quantiles_are_those_of_prometheus() {
        let mut buckets = [0; BUCKETS];
        assert_eq!(quantile(&buckets, 0.5), None);
        // histogram_quantile of le="5": 0, le="10": 10, le="25": 20 says these.
        (buckets[3], buckets[4]) = (10, 10);
        assert_eq!(quantile(&buckets, 0.5), Some(10.0));
        assert_eq!(quantile(&buckets, 0.25), Some(7.5));
        assert_eq!(quantile(&buckets, 0.99), Some(24.7));
        let mut beyond = [0; BUCKETS];
        beyond[BUCKETS - 1] = 1;
        assert_eq!(quantile(&beyond, 0.5), Some(3_600_000.0));
    }
}

//! When what failed is tried again: soon, then ever later, never at the same time as the other nodes.

use std::time::Duration;

/// After the first failure.
const FIRST: Duration = Duration::from_millis(250);
/// Never later: an API server that is back after an hour is noticed within this.
const MOST: Duration = Duration::from_secs(15);

/// One watch's failures in a row.
#[derive(Debug, Default)]
pub struct Pace {
    failures: u32,
}

impl Pace {
    /// It failed: how long to wait now. Between half of the interval and all of it, by lot.
    pub fn next(&mut self) -> Duration {
        let whole = FIRST.saturating_mul(1 << self.failures.min(10)).min(MOST);
        self.failures = self.failures.saturating_add(1);
        jitter(whole / 2)
    }

    /// It worked.
    pub fn reset(&mut self) {
        self.failures = 0;
    }
}

/// From `least` to twice of it, by lot.
pub fn jitter(least: Duration) -> Duration {
    least.mul_f64(1.0 + fastrand::f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_an_end_and_begin_anew_after_a_success() {
        let mut pace = Pace::default();
        let mut whole = FIRST;
        for _ in 0..40 {
            let pause = pace.next();
            assert!(pause >= whole / 2 && pause <= whole, "{pause:?} of {whole:?}");
            whole = (whole * 2).min(MOST);
        }
        pace.reset();
        assert!(pace.next() <= FIRST);
    }
}

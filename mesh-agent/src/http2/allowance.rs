//! A bounded credit that time and useful work restore: how floods are told from bursts.
//!
//! Used by `guard` for control frames and by `server` for resets. The clock is read only when the credit is used up.

use std::cell::Cell;

use crate::clock;

/// What may still be spent.
#[derive(Debug)]
pub(super) struct Allowance {
    left: Cell<i64>,
    most: i64,
    per_second: u64,
    earned_at: Cell<u64>,
}

impl Allowance {
    /// Starts with `burst`, earns `per_second` and never has more than `most`.
    pub(super) fn new(burst: i64, per_second: u64, most: i64) -> Self {
        Self { left: Cell::new(burst), most, per_second, earned_at: Cell::new(clock::now_ns()) }
    }

    /// Adds what useful work earned.
    pub(super) fn earn(&self, amount: i64) {
        self.left.set((self.left.get() + amount).min(self.most));
    }

    /// Takes `amount`; false if there isn't as much.
    pub(super) fn spend(&self, amount: i64) -> bool {
        self.left.set(self.left.get() - amount);
        if self.left.get() < 0 {
            self.earn_by_time();
        }
        self.left.get() >= 0
    }

    fn earn_by_time(&self) {
        let now = clock::now_ns();
        let passed = now.saturating_sub(self.earned_at.get());
        let earned = passed.saturating_mul(self.per_second) / 1_000_000_000;
        if earned > 0 {
            self.earned_at.set(now);
            self.earn(i64::try_from(earned).unwrap_or(self.most));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_is_allowed_and_no_more() {
        let allowance = Allowance::new(10, 0, 20);
        assert!((0..10).all(|_| allowance.spend(1)));
        assert!(!allowance.spend(1));
        allowance.earn(100);
        assert!((0..20).all(|_| allowance.spend(1)), "earned, but not beyond the most");
        assert!(!allowance.spend(1));
    }
}

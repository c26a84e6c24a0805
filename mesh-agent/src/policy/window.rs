//! Counts of the last while: how many, and how many of them were of a certain kind. Breakers and budgets ask it.
//!
//! Ten buckets, each one atomic word, so that a count and its total never disagree and nothing locks. Time that passes
//! unseen empties buckets when they are met again.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

const BUCKETS: u64 = 10;
/// A bucket's word: its turn in the upper 24 bits, then two counts of 20 bits.
const COUNT_BITS: u32 = 20;
const COUNT_MAX: u64 = (1 << COUNT_BITS) - 1;
const TURN_MASK: u64 = (1 << 24) - 1;

/// A sliding window over pairs of counts. It reaches back at least nine tenths of its length.
#[derive(Debug)]
pub struct Window {
    bucket_ns: u64,
    buckets: [AtomicU64; BUCKETS as usize],
}

/// What a window holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// All.
    pub total: u64,
    /// Those of the kind that is looked for.
    pub marked: u64,
}

impl Window {
    /// Empty, so long.
    pub fn new(length: Duration) -> Self {
        let length = u64::try_from(length.as_nanos()).unwrap_or(u64::MAX);
        Self { bucket_ns: (length / BUCKETS).max(1), buckets: Default::default() }
    }

    /// Adds to the counts. A bucket that is full halves both of its counts, which keeps their ratio.
    pub fn add(&self, total: u64, marked: u64, now_ns: u64) {
        let turn = self.turn(now_ns);
        let bucket = &self.buckets[(turn % BUCKETS) as usize];
        // Ends after one round unless another worker wrote between; the closure never declines.
        let _ = bucket.fetch_update(Relaxed, Relaxed, |word| {
            let mut counts = if is_of(word, turn) { unpack(word) } else { Counts::default() };
            counts.total += total;
            counts.marked += marked;
            while counts.total > COUNT_MAX || counts.marked > COUNT_MAX {
                counts = Counts { total: counts.total / 2, marked: counts.marked / 2 };
            }
            Some((turn & TURN_MASK) << (2 * COUNT_BITS) | counts.total << COUNT_BITS | counts.marked)
        });
    }

    /// What the window holds at `now_ns`.
    pub fn counts(&self, now_ns: u64) -> Counts {
        let newest = self.turn(now_ns);
        let mut sum = Counts::default();
        for turn in newest.saturating_sub(BUCKETS - 1)..=newest {
            let word = self.buckets[(turn % BUCKETS) as usize].load(Relaxed);
            if is_of(word, turn) {
                let counts = unpack(word);
                sum.total += counts.total;
                sum.marked += counts.marked;
            }
        }
        sum
    }

    /// Forgets everything.
    pub fn clear(&self) {
        self.buckets.iter().for_each(|bucket| bucket.store(0, Relaxed));
    }

    /// Turns count from 1, so that a word of zeros belongs to none.
    fn turn(&self, now_ns: u64) -> u64 {
        now_ns / self.bucket_ns + 1
    }
}

fn is_of(word: u64, turn: u64) -> bool {
    word >> (2 * COUNT_BITS) == turn & TURN_MASK
}

fn unpack(word: u64) -> Counts {
    Counts { total: (word >> COUNT_BITS) & COUNT_MAX, marked: word & COUNT_MAX }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    #[test]
    fn what_is_older_than_the_window_no_longer_counts() {
        fn check(at: &[u64], now: u64, want: u64) {
            let window = Window::new(Duration::from_secs(10));
            at.iter().for_each(|at| window.add(1, 1, at * SECOND));
            assert_eq!(window.counts(now * SECOND), Counts { total: want, marked: want }, "{at:?} at {now}");
        }
        check(&[], 0, 0);
        check(&[0, 0, 5], 5, 3);
        check(&[0, 0, 5], 9, 3);
        check(&[0, 0, 5], 10, 1);
        check(&[0, 5, 14, 15], 15, 2);
        check(&[3], 13, 0);
        check(&[3], 1_000_003, 0);
    }

    #[test]
    fn a_full_bucket_keeps_the_ratio() {
        let window = Window::new(Duration::from_secs(10));
        for _ in 0..8 {
            window.add(400_000, 100_000, 0);
        }
        let counts = window.counts(0);
        assert!(counts.total >= 400_000, "{counts:?}");
        assert!(counts.total.abs_diff(counts.marked * 4) <= 16, "{counts:?}");
    }

    #[test]
    fn workers_lose_no_count() {
        let window = Window::new(Duration::from_secs(10));
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| (0..1000).for_each(|i| window.add(1, i % 2, i * SECOND / 200)));
            }
        });
        assert_eq!(window.counts(5 * SECOND), Counts { total: 4000, marked: 2000 });
    }
}

//! A bound on series whose labels come from configuration: what comes later is counted together.
//!
//! Not for what happens often: every use takes a lock.

use std::collections::HashSet;
use std::hash::BuildHasher;
use std::sync::{Mutex, PoisonError};

use foldhash::quality::RandomState;

/// The label of everything beyond the bound.
const OVERFLOW: &str = "overflow";

/// The pairs of labels that have a series of their own.
#[derive(Debug)]
pub struct Capped {
    most: usize,
    hasher: RandomState,
    seen: Mutex<HashSet<u64>>,
}

impl Capped {
    pub(super) fn new(most: usize) -> Self {
        Self { most, hasher: RandomState::default(), seen: Mutex::default() }
    }

    /// These labels, or those of the overflow.
    pub fn labels<'l>(&self, labels: [&'l str; 2]) -> [&'l str; 2] {
        let hash = self.hasher.hash_one(labels);
        // One call changes it: a panic elsewhere can't leave it half done.
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if seen.contains(&hash) || seen.len() < self.most && seen.insert(hash) {
            labels
        } else {
            [OVERFLOW, OVERFLOW]
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_comes_after_the_bound_is_counted_together() {
        let capped = Capped::new(2);
        assert_eq!(capped.labels(["a", "0"]), ["a", "0"]);
        assert_eq!(capped.labels(["a", "1"]), ["a", "1"]);
        assert_eq!(capped.labels(["b", "0"]), ["overflow", "overflow"]);
        assert_eq!(capped.labels(["a", "0"]), ["a", "0"]);
    }
}

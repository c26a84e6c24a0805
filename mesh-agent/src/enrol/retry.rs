//! When a pod that couldn't be captured is tried again; pure, time comes as an argument.
//!
//! With growing waits up to ten seconds. A pod whose containers the runtime is making right now is looked for every few
//! milliseconds instead, for as long as that takes.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use super::EnrolError;

/// First wait, which doubles, and the longest.
const FIRST: Duration = Duration::from_millis(250);
const LONGEST: Duration = Duration::from_secs(10);
/// The same for new pods. The runtime needs some 10 ms from making a sandbox's cgroup to starting its process.
const FIRST_OF_NEW: Duration = Duration::from_millis(2);
const LONGEST_OF_NEW: Duration = Duration::from_millis(100);
/// A look through all processes may take this part of the time at most.
const SHARE: u32 = 5;
/// For how long a pod is new after the last container's cgroup was made in it.
const NEW: Duration = Duration::from_secs(10);

/// What a try came to.
pub(super) struct Failure {
    pub error: EnrolError,
    /// The last wait.
    pub wait: Duration,
    pub next: Instant,
    /// It may just be a moment too early.
    pub is_new: bool,
    /// Whether the log has it.
    pub told: bool,
}

impl Failure {
    /// Something happened: tried again now, and if need be soon after.
    pub fn try_at(&mut self, now: Instant) {
        (self.wait, self.next) = (Duration::ZERO, now);
    }
}

/// The wait that comes after `before`, zero for none.
pub(super) fn wait(before: Duration, is_new: bool, look: Duration) -> Duration {
    if is_new {
        return (before * 3 / 2).clamp(FIRST_OF_NEW, LONGEST_OF_NEW).max(look * (SHARE - 1));
    }
    (before * 2).clamp(FIRST, LONGEST)
}

/// Pods in which the runtime makes containers, by uid; not only of pods that are wanted, since kubelet may know of a pod
/// before the source does.
#[derive(Default)]
pub(super) struct Newborns {
    seen: HashMap<String, Seen>,
}

struct Seen {
    first: Instant,
    last: Instant,
}

impl Newborns {
    /// A container's cgroup was made.
    pub fn seen(&mut self, uid: String, now: Instant) {
        self.seen.entry(uid).or_insert(Seen { first: now, last: now }).last = now;
    }

    /// True if it is new.
    pub fn has(&self, uid: &str) -> bool {
        self.seen.contains_key(uid)
    }

    /// It is captured; returns when it was first seen if it was new.
    pub fn captured(&mut self, uid: &str) -> Option<Instant> {
        self.seen.remove(uid).map(|seen| seen.first)
    }

    /// Those that were last seen long ago are new no more.
    pub fn forget_old(&mut self, now: Instant) {
        self.seen.retain(|_, seen| now.duration_since(seen.last) < NEW);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_to_their_longest_and_looks_take_a_bounded_share() {
        fn check(is_new: bool, look: Duration, expected: &[u64]) {
            let mut before = Duration::ZERO;
            for millis in expected {
                before = wait(before, is_new, look);
                assert_eq!(before.as_millis(), u128::from(*millis), "{expected:?}");
            }
        }
        let ms = Duration::from_millis;
        check(false, ms(5), &[250, 500, 1000, 2000, 4000, 8000, 10_000, 10_000]);
        check(true, Duration::ZERO, &[2, 3, 4, 6, 10, 15, 22, 34, 51, 76, 100, 100]);
        check(true, ms(5), &[20, 30, 45, 67, 100, 100]);
        check(true, ms(40), &[160, 160]);
    }

    #[test]
    fn a_pod_is_new_for_a_while_after_its_last_container_was_made() {
        let (mut newborns, start) = (Newborns::default(), Instant::now());
        newborns.seen("web".to_owned(), start);
        newborns.seen("web".to_owned(), start + NEW / 2);
        newborns.forget_old(start + NEW);
        assert!(newborns.has("web") && !newborns.has("cart"));
        newborns.forget_old(start + NEW * 2);
        assert!(!newborns.has("web"));
        newborns.seen("web".to_owned(), start);
        newborns.seen("web".to_owned(), start + NEW / 2);
        assert_eq!(newborns.captured("web"), Some(start));
        assert_eq!(newborns.captured("web"), None);
    }
}

//! A rate limit for every key: a table of buckets of fixed size, found by a hash of the key. No lock, no allocation a key.
//!
//! A bucket that is full again is as good as none, so its place goes to the next key that needs one. Where a set of
//! places has none such, the newcomer takes over the fullest bucket as it stands: however many keys a client makes up,
//! what passes is bounded by the table.

use std::net::IpAddr;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use foldhash::quality::FixedState;
use std::hash::{BuildHasher, Hasher};

use super::gcra::{Bucket, Rate, Verdict};

/// Keys that one limit tells apart at a time; 2 MiB, taken when the first request is counted.
pub const KEYS: usize = 1 << 17;
const WAYS: usize = 8;

/// A limit with a bucket for each key.
#[derive(Debug)]
pub struct Limiter {
    rate: Rate,
    table: Table,
}

impl Limiter {
    /// `rate` for each of up to [`KEYS`] keys.
    pub fn new(rate: Rate) -> Self {
        Self { rate, table: Table::new(KEYS) }
    }

    /// Takes one request of `key` (as [`KeyHasher`] made it) out of its bucket.
    pub fn take(&self, key: u64, now_ns: u64) -> Verdict {
        self.table.find(key, now_ns).bucket.take(self.rate, 0, now_ns)
    }
}

/// Buckets by key, eight places to a set.
#[derive(Debug)]
pub(super) struct Table {
    sets: usize,
    slots: OnceLock<Box<[Slot]>>,
}

/// A key's place.
#[derive(Debug, Default)]
pub(super) struct Slot {
    key: AtomicU64,
    /// Its bucket.
    pub bucket: Bucket,
    /// For [`super::fair`]: the turn in which the key was last counted.
    pub seen: AtomicU64,
}

impl Table {
    /// With so many places, rounded up to whole sets.
    pub fn new(places: usize) -> Self {
        Self { sets: places.div_ceil(WAYS).next_power_of_two(), slots: OnceLock::new() }
    }

    /// The place of `key`; a new key gets one. Two workers that bring the same new key at the same moment may both give it
    /// one: the second place is then found by nobody, and taken again once it is full.
    pub fn find(&self, key: u64, now_ns: u64) -> &Slot {
        let slots = self.slots.get_or_init(|| (0..self.sets * WAYS).map(|_| Slot::default()).collect());
        // A place without a key has key 0.
        let key = key.max(1);
        let first = (key as usize & (self.sets - 1)) * WAYS;
        let set = &slots[first..first + WAYS];
        loop {
            // Of the places that can be had, the one that was full first, or will be: empty ones are at 0.
            let (mut best, mut best_key, mut best_full) = (&set[0], 0, u64::MAX);
            for slot in set {
                let holder = slot.key.load(Relaxed);
                if holder == key {
                    return slot;
                }
                let full_at = if holder == 0 { 0 } else { slot.bucket.full_at().max(1) };
                if full_at < best_full {
                    (best, best_key, best_full) = (slot, holder, full_at);
                }
            }
            if best.key.compare_exchange(best_key, key, Relaxed, Relaxed).is_ok() {
                if best_full <= now_ns {
                    best.seen.store(0, Relaxed);
                }
                return best;
            }
        }
    }
}

/// Makes the hash of a key of several parts, with nothing copied.
pub struct KeyHasher(<FixedState as BuildHasher>::Hasher);

impl KeyHasher {
    /// `seed` tells limits apart, and is unknown to clients, so that they can't choose keys that meet.
    pub fn new(seed: u64) -> Self {
        Self(FixedState::with_seed(seed).build_hasher())
    }

    /// A part of bytes. Its length goes in too: `ab` and `c` isn't `a` and `bc`.
    pub fn bytes(&mut self, part: &[u8]) -> &mut Self {
        self.0.write_usize(part.len());
        self.0.write(part);
        self
    }

    /// A part that may be missing, which differs from an empty one.
    pub fn optional(&mut self, part: Option<&[u8]>) -> &mut Self {
        match part {
            Some(part) => self.bytes(part),
            None => {
                self.0.write_usize(usize::MAX);
                self
            }
        }
    }

    /// An address.
    pub fn address(&mut self, ip: IpAddr) -> &mut Self {
        match ip {
            IpAddr::V4(ip) => self.0.write_u32(ip.to_bits()),
            IpAddr::V6(ip) => self.0.write_u128(ip.to_bits()),
        }
        self
    }

    /// The key.
    pub fn finish(&self) -> u64 {
        self.0.finish()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const SECOND: u64 = 1_000_000_000;

    fn key(text: &str) -> u64 {
        KeyHasher::new(7).bytes(text.as_bytes()).finish()
    }

    fn passed(limiter: &Limiter, key: u64, now_ns: u64) -> usize {
        (0..100).filter(|_| limiter.take(key, now_ns).passes()).count()
    }

    #[test]
    fn each_key_has_a_limit_of_its_own() {
        let limiter = Limiter::new(Rate::new(5, Duration::from_secs(1), 5));
        assert_eq!(passed(&limiter, key("a"), SECOND), 5);
        assert_eq!(passed(&limiter, key("b"), SECOND), 5);
        assert_eq!(passed(&limiter, key("a"), SECOND), 0);
        assert_eq!(passed(&limiter, key("a"), 2 * SECOND), 5);
        assert_eq!(passed(&limiter, 0, SECOND), 5, "zero is a key like any other");
        assert_eq!(passed(&limiter, 0, SECOND), 0);
    }

    #[test]
    fn parts_of_a_key_are_told_apart() {
        let two = |a: &str, b: &str| KeyHasher::new(1).bytes(a.as_bytes()).bytes(b.as_bytes()).finish();
        assert_ne!(two("ab", "c"), two("a", "bc"));
        assert_eq!(two("ab", "c"), two("ab", "c"));
        assert_ne!(KeyHasher::new(1).optional(None).finish(), KeyHasher::new(1).optional(Some(b"")).finish());
        assert_ne!(KeyHasher::new(1).bytes(b"a").finish(), KeyHasher::new(2).bytes(b"a").finish());
        let ip =
            |text: &str| KeyHasher::new(1).address(text.parse().unwrap_or(IpAddr::from([0; 4]))).finish();
        assert_ne!(ip("10.0.0.1"), ip("10.0.0.2"));
    }

    #[test]
    fn idle_keys_make_place_and_busy_ones_keep_theirs() {
        let limiter = Limiter { rate: Rate::new(1, Duration::from_secs(1), 1), table: Table::new(64) };
        for second in 1..1000 {
            assert!(limiter.take(key("busy"), second * SECOND).passes());
            for other in 0..4 {
                assert!(limiter.take(key(&format!("{second} {other}")), second * SECOND).passes());
                assert!(!limiter.take(key("busy"), second * SECOND).passes());
            }
        }
    }

    #[test]
    fn a_flood_of_keys_passes_no_more_than_the_table_holds() {
        let limiter = Limiter { rate: Rate::new(3, Duration::from_secs(1), 3), table: Table::new(64) };
        let passed = (0..100_000).filter(|i| limiter.take(key(&i.to_string()), SECOND).passes()).count();
        assert_eq!(passed, 64 * 3);
    }

    #[test]
    fn workers_share_a_keys_limit() {
        let limiter = Limiter::new(Rate::new(50, Duration::from_secs(1), 50));
        limiter.take(key("a"), 1);
        let passed: usize = std::thread::scope(|scope| {
            let workers: Vec<_> = (0..4).map(|_| scope.spawn(|| passed(&limiter, key("a"), 1))).collect();
            workers.into_iter().filter_map(|worker| worker.join().ok()).sum()
        });
        assert_eq!(passed, 49);
    }
}

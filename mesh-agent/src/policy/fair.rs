//! A rate limit that its clients share fairly: one bucket for all, and no client can take another's share of it.
//!
//! With `n` clients active, each has a share: an n-th of the rate, and an n-th of half the burst. What a client asks
//! for within its share comes out of the whole bucket; what it asks for beyond may leave no less than half of it.
//! Shares together never earn more than the whole, and their bursts are at most the half that is kept for them: so a
//! client that stays within its share is never refused, however greedy the others are, and what nobody needs goes to
//! whoever asks (from n times the burst of a request on; with more clients than half the burst, a share is less than
//! one request at a time and the promise holds on average).

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use super::gcra::{Bucket, Rate, Verdict};
use super::limiter::{KEYS, Table};

/// Clients are counted over at least this time, in nanoseconds.
const LEAST_TURN_NS: u64 = 1_000_000_000;
const COUNT_BITS: u32 = 20;
const COUNT_MAX: u64 = (1 << COUNT_BITS) - 1;

/// One limit for all, shared fairly between keys.
#[derive(Debug)]
pub struct FairLimiter {
    rate: Rate,
    total: Bucket,
    clients: Table,
    turn_ns: u64,
    /// Turn in the upper bits, then the clients seen in it, then those of the turn before.
    active: AtomicU64,
}

impl FairLimiter {
    /// `rate` for all keys together. A client counts as active for as long as a bucket takes to fill, at least a second.
    pub fn new(rate: Rate) -> Self {
        Self {
            rate,
            total: Bucket::default(),
            clients: Table::new(KEYS),
            turn_ns: rate.depth_ns().max(LEAST_TURN_NS),
            active: AtomicU64::new(0),
        }
    }

    /// Takes one request of client `key` out.
    pub fn take(&self, key: u64, now_ns: u64) -> Verdict {
        let client = self.clients.find(key, now_ns);
        let turn = now_ns / self.turn_ns + 1;
        let new = client.seen.swap(turn, Relaxed) != turn;
        let clients = self.count(turn, new);
        let half = self.rate.depth_ns() / 2;
        let within = client.bucket.take(self.rate.part(clients, half), 0, now_ns);
        self.total.take(self.rate, if within.passes() { 0 } else { half }, now_ns)
    }

    /// Active clients: the most of this turn and the last.
    fn count(&self, turn: u64, new: bool) -> u64 {
        let mut word = self.active.load(Relaxed);
        loop {
            let next = roll(word, turn)
                + if new && (word >> COUNT_BITS & COUNT_MAX) < COUNT_MAX { 1 << COUNT_BITS } else { 0 };
            let clients = (next >> COUNT_BITS & COUNT_MAX).max(next & COUNT_MAX).max(1);
            if next == word {
                return clients;
            }
            match self.active.compare_exchange_weak(word, next, Relaxed, Relaxed) {
                Ok(_) => return clients,
                Err(other) => word = other,
            }
        }
    }
}

/// `word` as of `turn`: a new turn begins without clients. Only the turn's lower 24 bits are kept.
fn roll(word: u64, turn: u64) -> u64 {
    let turn = turn & ((1 << 24) - 1);
    let (before, current) = (word >> (2 * COUNT_BITS), word >> COUNT_BITS & COUNT_MAX);
    if before == turn {
        return word;
    }
    let last = if before + 1 == turn { current } else { 0 };
    turn << (2 * COUNT_BITS) | last
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const MS: u64 = 1_000_000;

    /// Runs clients that ask every so many milliseconds for `seconds`; what each was granted in the last half of the time.
    fn run(limiter: &FairLimiter, every_ms: &[u64], seconds: u64) -> Vec<u64> {
        let mut granted = vec![0; every_ms.len()];
        for ms in 1..seconds * 1000 {
            for (client, every) in every_ms.iter().enumerate() {
                let passes = ms % every == 0 && limiter.take(client as u64 + 1, ms * MS).passes();
                granted[client] += u64::from(passes && ms >= seconds * 500);
            }
        }
        granted
    }

    fn limiter(per_second: u32) -> FairLimiter {
        FairLimiter::new(Rate::new(per_second, Duration::from_secs(1), per_second))
    }

    #[test]
    fn a_greedy_client_cant_take_a_modest_ones_share() {
        // The greedy one, always first, asks for ten times the limit; the modest one for a quarter of it.
        let granted = run(&limiter(100), &[1, 40], 20);
        assert_eq!(granted[1], 250, "a request every 40 ms is within half of 100 a second: {granted:?}");
        assert!((740..=760).contains(&granted[0]), "the rest is the greedy one's: {granted:?}");
    }

    #[test]
    fn greedy_clients_get_equal_shares_of_what_is_left() {
        let granted = run(&limiter(100), &[1, 2, 5, 40], 20);
        let total: u64 = granted.iter().sum();
        assert!((990..=1010).contains(&total), "{granted:?}");
        for client in &granted {
            assert!((240..=300).contains(client), "{granted:?}");
        }
    }

    #[test]
    fn a_lone_client_has_it_all() {
        let granted = run(&limiter(100), &[1], 20);
        assert!((995..=1005).contains(&granted[0]), "{granted:?}");
    }

    #[test]
    fn clients_that_went_away_give_their_share_back() {
        let limiter = limiter(100);
        for client in 1..=50 {
            limiter.take(client, MS);
        }
        let late = (10_000..20_000).filter(|ms| limiter.take(1, ms * MS).passes()).count();
        assert!((995..=1105).contains(&late), "{late}");
    }

    proptest::proptest! {
        #![proptest_config(proptest::prelude::ProptestConfig { cases: 64, ..Default::default() })]
        #[test]
        fn who_stays_within_its_share_is_never_refused(others in proptest::collection::vec(1u64..20, 1..8), per_second in 100u32..500) {
            // One keeps to 90 percent of its share.
            let limiter = limiter(per_second);
            let clients = others.len() as u64 + 1;
            let pause = 1_000 * clients * 10 / (u64::from(per_second) * 9) + 1;
            for ms in 1..5_000u64 {
                for (other, every) in others.iter().enumerate() {
                    if ms % every == 0 {
                        limiter.take(other as u64 + 2, ms * MS);
                    }
                }
                // In the first second clients get known.
                if ms % pause == 0 {
                    let passes = limiter.take(1, ms * MS).passes();
                    proptest::prop_assert!(passes || ms < 1_000, "at {} ms", ms);
                }
            }
        }

        #[test]
        fn all_together_never_exceed_the_limit(asks in proptest::collection::vec((1u64..30, 0u64..20), 1..2000)) {
            let limiter = limiter(50);
            let (mut ms, mut passed) = (1, 0u64);
            for (client, pause) in asks {
                ms += pause;
                passed += u64::from(limiter.take(client, ms * MS).passes());
            }
            proptest::prop_assert!(passed <= 50 + ms * 50 / 1000 + 1);
        }
    }
}

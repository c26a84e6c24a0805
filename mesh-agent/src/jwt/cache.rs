//! Tokens that held, so that the next request with one costs a digest and a look-up. One for each worker.
//!
//! A token is remembered by its SHA-256, never as it is, for the one rule and the one set of keys that it held under: a
//! changed rule and a changed key set ask anew. Its times are looked at with every use. Two halves bound it: when the younger
//! is full the older is forgotten, and what is used again moves to the younger.

use std::collections::HashMap;

use aws_lc_rs::digest::{SHA256, digest};
use foldhash::fast::RandomState;

use super::verify::Verified;

/// Bytes of tokens that one half stands for; what is remembered of a token grows with it.
const HALF: usize = 2 * 1024 * 1024;
/// What an entry takes besides.
const OVERHEAD: usize = 256;

/// What a token held under.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Under {
    pub(super) rule: u64,
    pub(super) keys: u64,
}

/// A token's digest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Digest([u8; 32]);

impl Digest {
    pub(super) fn of(token: &str) -> Self {
        let mut bytes = [0; 32];
        bytes.copy_from_slice(digest(&SHA256, token.as_bytes()).as_ref());
        Self(bytes)
    }
}

type Half = HashMap<(Digest, Under), (Verified, usize), RandomState>;

/// Tokens that held.
#[derive(Debug, Default)]
pub struct Cache {
    young: Half,
    young_bytes: usize,
    old: Half,
}

impl Cache {
    /// The token with this digest, if it held under the same.
    pub(super) fn get(&mut self, digest: Digest, under: Under) -> Option<Verified> {
        let key = (digest, under);
        if let Some((verified, _)) = self.young.get(&key) {
            return Some(verified.clone());
        }
        let (verified, size) = self.old.remove(&key)?;
        self.insert(key, verified.clone(), size);
        Some(verified)
    }

    /// Remembers a token that held.
    pub(super) fn put(&mut self, digest: Digest, under: Under, token: &str, verified: Verified) {
        self.insert((digest, under), verified, token.len() + OVERHEAD);
    }

    fn insert(&mut self, key: (Digest, Under), verified: Verified, size: usize) {
        if self.young_bytes + size > HALF {
            self.old = std::mem::take(&mut self.young);
            self.young_bytes = 0;
        }
        if self.young.insert(key, (verified, size)).is_none() {
            self.young_bytes += size;
        }
    }

    #[cfg(test)]
    fn len(&self) -> usize {
        self.young.len() + self.old.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const UNDER: Under = Under { rule: 1, keys: 1 };

    fn verified() -> Verified {
        Verified::for_tests()
    }

    #[test]
    fn a_token_is_known_under_its_own_rule_and_keys_only() {
        let mut cache = Cache::default();
        let digest = Digest::of("a.b.c");
        cache.put(digest, UNDER, "a.b.c", verified());
        assert!(cache.get(digest, UNDER).is_some());
        assert!(cache.get(digest, Under { rule: 2, ..UNDER }).is_none());
        assert!(cache.get(digest, Under { keys: 2, ..UNDER }).is_none());
        assert!(cache.get(Digest::of("a.b.d"), UNDER).is_none());
    }

    #[test]
    fn it_never_grows_beyond_its_bound_and_keeps_what_is_used() {
        let mut cache = Cache::default();
        let kept = Digest::of("kept");
        cache.put(kept, UNDER, "kept", verified());
        let token = "x".repeat(1024);
        let most = 2 * HALF / (token.len() + OVERHEAD) + 2;
        for number in 0..10 * most {
            let digest = Digest::of(&number.to_string());
            cache.put(digest, UNDER, &token, verified());
            assert!(cache.len() <= most, "{number}: {}", cache.len());
            assert!(cache.get(kept, UNDER).is_some(), "{number}");
            assert!(cache.get(digest, UNDER).is_some(), "{number}");
        }
        assert!(cache.get(Digest::of("0"), UNDER).is_none());
    }
}

//! A published map where several objects may claim the same key: one has it, the others wait.

use std::cmp::Ordering;
use std::collections::HashMap;
use std::hash::Hash;
use std::sync::Arc;

use rpds::HashTrieMapSync;

/// Something that claims keys.
pub trait Claimant {
    /// True if both are versions of the same object.
    fn same(&self, other: &Self) -> bool;
}

/// The map and those who wait.
#[derive(Debug)]
pub struct Index<K: Eq + Hash, V> {
    map: HashTrieMapSync<K, Arc<V>>,
    waiting: HashMap<K, Vec<Arc<V>>>,
}

impl<K: Eq + Hash, V> Default for Index<K, V> {
    fn default() -> Self {
        Self { map: HashTrieMapSync::default(), waiting: HashMap::new() }
    }
}

impl<K: Eq + Hash + Clone, V: Claimant> Index<K, V> {
    /// Who has what. Cloning it costs nothing.
    pub fn map(&self) -> &HashTrieMapSync<K, Arc<V>> {
        &self.map
    }

    /// `value` claims `key`; with `order`, the lesser of two different claimants has it. A new version of a claimant takes
    /// the place of the old one.
    pub fn put(&mut self, key: K, value: &Arc<V>, order: impl Fn(&V, &V) -> Ordering) {
        let Some(holder) = self.map.get(&key) else {
            self.map.insert_mut(key, value.clone());
            return;
        };
        if Arc::ptr_eq(holder, value) {
            return;
        }
        if holder.same(value) {
            self.map.insert_mut(key, value.clone());
            return;
        }
        let loser = if order(value, holder) == Ordering::Less {
            let holder = holder.clone();
            self.map.insert_mut(key.clone(), value.clone());
            holder
        } else {
            value.clone()
        };
        let waiting = self.waiting.entry(key).or_default();
        waiting.retain(|other| !other.same(value));
        waiting.push(loser);
    }

    /// `value`, or another version of it, gives `key` up.
    pub fn remove(&mut self, key: &K, value: &V, order: impl Fn(&V, &V) -> Ordering) {
        let holds = self.map.get(key).is_some_and(|holder| holder.same(value));
        let Some(waiting) = self.waiting.get_mut(key) else {
            if holds {
                self.map.remove_mut(key);
            }
            return;
        };
        if holds {
            let next = waiting.iter().enumerate().min_by(|(_, a), (_, b)| order(a, b)).map(|(at, _)| at);
            match next {
                Some(at) => {
                    self.map.insert_mut(key.clone(), waiting.swap_remove(at));
                }
                None => {
                    self.map.remove_mut(key);
                }
            }
        } else {
            waiting.retain(|other| !other.same(value));
        }
        if waiting.is_empty() {
            self.waiting.remove(key);
        }
    }

    /// Key, who has it, and who waits for it; one row for each who waits.
    pub fn contested(&self) -> impl Iterator<Item = (&K, &Arc<V>, &Arc<V>)> {
        self.waiting.iter().flat_map(|(key, waiting)| {
            let holder = self.map.get(key);
            waiting.iter().filter_map(move |loser| Some((key, holder?, loser)))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, PartialEq, Eq)]
    struct Claim {
        name: u8,
        version: u8,
    }

    impl Claimant for Claim {
        fn same(&self, other: &Self) -> bool {
            self.name == other.name
        }
    }

    fn by_name(a: &Claim, b: &Claim) -> Ordering {
        a.name.cmp(&b.name)
    }

    proptest::proptest! {
        #[test]
        fn the_least_claimant_has_the_key_whatever_came_before(
            steps in proptest::collection::vec((0u8..3, 0u8..5, proptest::bool::ANY), 0..40)
        ) {
            let mut index: Index<u8, Claim> = Index::default();
            let mut claims = std::collections::BTreeMap::new();
            for (version, (key, name, put)) in steps.into_iter().enumerate() {
                let claim = Arc::new(Claim { name, version: u8::try_from(version).unwrap_or(0) });
                if put {
                    claims.insert((key, name), claim.version);
                    index.put(key, &claim, by_name);
                } else {
                    claims.remove(&(key, name));
                    index.remove(&key, &claim, by_name);
                }
                for key in 0..3 {
                    let want = claims.range((key, 0)..(key + 1, 0)).next().map(|((_, name), version)| (*name, *version));
                    let got = index.map().get(&key).map(|claim| (claim.name, claim.version));
                    proptest::prop_assert_eq!(got, want);
                }
                proptest::prop_assert_eq!(index.contested().count() + index.map().size(), claims.len());
            }
        }
    }
}

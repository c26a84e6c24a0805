//! Labels of objects: held once for all that have the same, and for what is made of these objects.
//!
//! Pods are many and alike. Those of one ReplicaSet have the same labels, and each pod is known twice, as an object and as a
//! workload: of 10,000 pods in 2,000 Deployments this saves 15 MB.

use std::collections::{BTreeMap, HashSet};
use std::ops::Deref;
use std::sync::{Arc, Mutex, PoisonError};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

type Map = BTreeMap<String, String>;

/// Labels by key. Cloning them costs nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Labels(Arc<Map>);

/// What was made and may be in use.
struct Pool {
    known: HashSet<Arc<Map>>,
    /// When there are so many, those that nobody else has are let go of.
    sweep_at: usize,
}

const FIRST_SWEEP: usize = 1024;

static POOL: Mutex<Option<Pool>> = Mutex::new(None);

impl Pool {
    fn shared(&mut self, labels: &Arc<Map>) -> Arc<Map> {
        if let Some(known) = self.known.get(labels) {
            return known.clone();
        }
        if self.known.len() >= self.sweep_at {
            self.known.retain(|known| Arc::strong_count(known) > 1);
            self.sweep_at = FIRST_SWEEP.max(self.known.len() * 2);
        }
        self.known.insert(labels.clone());
        labels.clone()
    }
}

impl Labels {
    /// Keeps those with such keys.
    pub fn retain(&mut self, keep: impl Fn(&str) -> bool) {
        Arc::make_mut(&mut self.0).retain(|key, _| keep(key));
    }

    /// Has them in common with all others that are the same and have come by here.
    pub fn share(&mut self) {
        let mut pool = POOL.lock().unwrap_or_else(PoisonError::into_inner);
        let pool = pool.get_or_insert_with(|| Pool { known: HashSet::new(), sweep_at: FIRST_SWEEP });
        self.0 = pool.shared(&self.0);
    }
}

impl Deref for Labels {
    type Target = Map;
    fn deref(&self) -> &Map {
        &self.0
    }
}

impl<'de> Deserialize<'de> for Labels {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Map::deserialize(deserializer).map(|labels| Self(Arc::new(labels)))
    }
}

impl Serialize for Labels {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(serializer)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn one(value: String) -> Arc<Map> {
        Map::from([("app".to_owned(), value)]).into()
    }

    #[test]
    fn the_same_labels_are_held_once() {
        let read = |text: &str| {
            let mut labels: Labels = serde_json::from_str(text).unwrap();
            labels.share();
            labels
        };
        let (a, b) = (read(r#"{"app":"same","tier":"x"}"#), read(r#"{"tier":"x","app":"same"}"#));
        assert!(Arc::ptr_eq(&a.0, &b.0) && a.get("app").is_some_and(|app| app == "same"));
        assert_ne!(a, read(r#"{"app":"same","tier":"y"}"#));
        assert_eq!(serde_json::to_string(&a).unwrap(), r#"{"app":"same","tier":"x"}"#);
    }

    #[test]
    fn labels_that_nobody_has_any_more_are_let_go_of() {
        let mut pool = Pool { known: HashSet::new(), sweep_at: FIRST_SWEEP };
        let kept = pool.shared(&one("kept".to_owned()));
        for number in 0..10 * FIRST_SWEEP {
            pool.shared(&one(number.to_string()));
            assert!(pool.known.len() <= FIRST_SWEEP);
        }
        assert!(Arc::ptr_eq(&kept, &pool.shared(&one("kept".to_owned()))));
    }
}

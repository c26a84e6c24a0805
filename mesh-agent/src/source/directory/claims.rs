//! Which document defines which object, where several do.
//!
//! The first by file name wins; in one file the one that was there first.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use crate::history::Text;
use crate::objects::{Object, ObjectKey};
use crate::source::Changes;

/// One document's definition of an object.
#[derive(Clone, Debug)]
pub struct Claim {
    /// File.
    pub file: Arc<str>,
    /// Document in it.
    pub document: u64,
    /// It only stands in for a version that isn't valid.
    pub stands_in: bool,
    object: Arc<Object>,
    text: Option<Text>,
}

/// All definitions, and what was in force before the first change since the last [`Claims::take_changes`].
#[derive(Debug, Default)]
pub struct Claims {
    by_key: HashMap<ObjectKey, Vec<Claim>>,
    contested: BTreeSet<ObjectKey>,
    before: BTreeMap<ObjectKey, Option<Arc<Object>>>,
}

impl Claims {
    /// `object` is defined by this document too.
    pub fn add(&mut self, file: &Arc<str>, document: u64, object: &Arc<Object>, text: Option<&Text>) {
        let (object, text) = (object.clone(), text.cloned());
        self.insert(Claim { file: file.clone(), document, stands_in: false, object, text });
    }

    /// `object` stands in for what this document fails to define: it is in force only if nothing else is.
    pub fn stand_in(&mut self, file: &Arc<str>, document: u64, object: &Arc<Object>) {
        let object = object.clone();
        self.insert(Claim { file: file.clone(), document, stands_in: true, object, text: None });
    }

    fn insert(&mut self, claim: Claim) {
        let key = claim.object.key();
        self.remember(&key);
        let claims = self.by_key.entry(key.clone()).or_default();
        let rank = |claim: &Claim| (claim.stands_in, claim.file.clone(), claim.document);
        let at = claims.partition_point(|other| rank(other) <= rank(&claim));
        claims.insert(at, claim);
        self.note(&key);
    }

    /// The document doesn't define `key` any more.
    pub fn remove(&mut self, key: &ObjectKey, document: u64) {
        self.remember(key);
        if let Some(claims) = self.by_key.get_mut(key) {
            claims.retain(|claim| claim.document != document);
            if claims.is_empty() {
                self.by_key.remove(key);
            }
        }
        self.note(key);
    }

    /// The definition in force.
    pub fn winner(&self, key: &ObjectKey) -> Option<&Claim> {
        self.of(key).first()
    }

    /// The words of the definition in force, of kinds that the history keeps.
    pub fn text(&self, key: &ObjectKey) -> Option<&Text> {
        self.winner(key)?.text.as_ref()
    }

    /// All definitions of `key`, the one in force first.
    pub fn of(&self, key: &ObjectKey) -> &[Claim] {
        self.by_key.get(key).map(Vec::as_slice).unwrap_or_default()
    }

    /// Objects with more than one definition.
    pub fn contested(&self) -> impl Iterator<Item = (&ObjectKey, &[Claim])> {
        self.contested.iter().map(|key| (key, self.of(key)))
    }

    /// Objects in force.
    pub fn winners(&self) -> impl Iterator<Item = &Arc<Object>> {
        self.by_key.values().filter_map(|claims| claims.first()).map(|claim| &claim.object)
    }

    /// The difference to the last call. Text that says the same in other words is no difference.
    pub fn take_changes(&mut self) -> Changes {
        let mut changes = Changes::default();
        for (key, before) in std::mem::take(&mut self.before) {
            match (before, self.winner(&key)) {
                (Some(_), None) => changes.deletes.push(key),
                (Some(before), Some(now)) if before == now.object => {}
                (_, Some(now)) => changes.upserts.push(now.object.clone()),
                (None, None) => {}
            }
        }
        changes
    }

    fn remember(&mut self, key: &ObjectKey) {
        if !self.before.contains_key(key) {
            let before = self.winner(key).map(|claim| claim.object.clone());
            self.before.insert(key.clone(), before);
        }
    }

    fn note(&mut self, key: &ObjectKey) {
        if self.of(key).iter().filter(|claim| !claim.stands_in).count() > 1 {
            self.contested.insert(key.clone());
        } else {
            self.contested.remove(key);
        }
    }
}

//! What the API server says at this moment, watch by watch, and what changed since the last look. Pure.
//!
//! A watch's list replaces what it said before as one change: nothing is gone while it is read. Pods are watched in two parts,
//! whose events come in any order: a pod that moved is for a moment in both or in neither, so each part keeps what it said
//! by uid, and the later object is in force. Comes after `item`; `course` publishes.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use super::item::{Age, Item, may_hide};
use super::resource::Feed;
use crate::history::Text;
use crate::model::{ObjectName, Warning};
use crate::objects::{Kind, Object, ObjectKey};
use crate::source::{Changes, Coverage};

/// All watches.
#[derive(Debug)]
pub struct Store {
    parts: Vec<Part>,
    /// Parts by the kind of their objects.
    of_kind: BTreeMap<Kind, Vec<usize>>,
    /// What was in force before the first change since the last look.
    before: BTreeMap<ObjectKey, Option<Arc<Object>>>,
    /// What is wrong with objects may have changed since the last look.
    restated: bool,
}

/// What one watch says.
#[derive(Debug)]
struct Part {
    kind: Option<Kind>,
    entries: HashMap<ObjectName, Entry>,
    /// Of these something is wrong.
    troubled: BTreeSet<ObjectName>,
    /// It was read once, or isn't there.
    read: bool,
}

#[derive(Debug)]
struct Entry {
    uid: Box<str>,
    age: Age,
    /// The last valid version, or what stands in for one; none if there is neither.
    object: Option<Arc<Object>>,
    valid: bool,
    text: Option<Text>,
    problems: Vec<Warning>,
}

impl Store {
    /// Nothing is read yet. Watches are told apart by their place in `feeds`.
    pub fn new(feeds: &[Feed]) -> Self {
        let mut of_kind: BTreeMap<Kind, Vec<usize>> = BTreeMap::new();
        for (at, feed) in feeds.iter().enumerate() {
            if let Some(kind) = feed.resource.reads {
                of_kind.entry(kind).or_default().push(at);
            }
        }
        let part = |feed: &Feed| Part {
            kind: feed.resource.reads,
            entries: HashMap::new(),
            troubled: BTreeSet::new(),
            read: false,
        };
        Self { parts: feeds.iter().map(part).collect(), of_kind, before: BTreeMap::new(), restated: false }
    }

    /// Watch `at` has read everything: what isn't among `items` is gone.
    pub fn replace(&mut self, at: usize, items: Vec<Item>) {
        let named: BTreeSet<ObjectName> = items.iter().map(|item| item.name.clone()).collect();
        let gone = self.parts[at].entries.keys().filter(|name| !named.contains(*name));
        for name in gone.cloned().collect::<Vec<_>>() {
            self.forget(at, &name);
        }
        for item in items {
            self.put(at, item);
        }
        self.parts[at].entries.shrink_to_fit();
        self.parts[at].read = true;
    }

    /// One of the watches of `at` has read the only object that it is for.
    pub fn replace_one(&mut self, at: usize, name: &ObjectName, item: Option<Item>) {
        match item {
            Some(item) => self.put(at, item),
            None => self.forget(at, name),
        }
    }

    /// All watches of `at` have read what they are for.
    pub fn complete(&mut self, at: usize) {
        if let Some(part) = self.parts.get_mut(at) {
            part.read = true;
        }
    }

    /// Watch `at` has seen an object that is new or changed.
    pub fn put(&mut self, at: usize, item: Item) {
        self.remember(at, &item.name);
        let Item { name, uid, age, object, stand_in, text, problems } = item;
        let part = &mut self.parts[at];
        let valid = object.is_some();
        // The last valid version of this object; of another one under its name there is none any more.
        let last = part.entries.remove(&name).filter(|last| !valid && last.valid && last.uid == uid);
        self.restated |= if problems.is_empty() {
            part.troubled.remove(&name)
        } else {
            part.troubled.insert(name.clone());
            true
        };
        let entry = match last {
            Some(last) => Entry { age, problems, ..last },
            None => Entry { uid, age, object: object.or(stand_in), valid, text, problems },
        };
        part.entries.insert(name, entry);
    }

    /// Watch `at` has seen an object go. Another one under its name stays.
    pub fn remove(&mut self, at: usize, name: &ObjectName, uid: &str) {
        if self.parts[at].entries.get(name).is_some_and(|entry| *entry.uid == *uid) {
            self.forget(at, name);
        }
    }

    /// How many objects watch `at` has.
    pub fn count(&self, at: usize) -> usize {
        self.parts[at].entries.len()
    }

    /// True once every watch has read everything, or found that there is no such resource.
    pub fn is_read(&self) -> bool {
        self.parts.iter().all(|part| part.read)
    }

    /// How much of what is there has a version in force.
    pub fn coverage(&self) -> Coverage {
        let hides = |part: &Part| {
            let hidden =
                |name: &ObjectName| part.entries.get(name).is_some_and(|entry| entry.object.is_none());
            part.kind.is_some_and(may_hide) && part.troubled.iter().any(hidden)
        };
        match (self.is_read(), self.parts.iter().any(hides)) {
            (false, _) => Coverage::Awaited,
            (true, true) => Coverage::Part,
            (true, false) => Coverage::Whole,
        }
    }

    /// The words of an object in force.
    pub fn text(&self, key: &ObjectKey) -> Option<Text> {
        self.winner(key)?.text.clone()
    }

    /// True if an object of this key is in force.
    pub fn has(&self, key: &ObjectKey) -> bool {
        self.winner(key).is_some()
    }

    /// What is wrong with objects.
    pub fn warnings(&self) -> impl Iterator<Item = &Warning> {
        self.parts.iter().flat_map(|part| {
            let entries = part.troubled.iter().filter_map(|name| part.entries.get(name));
            entries.flat_map(|entry| &entry.problems)
        })
    }

    /// True if what is wrong may have changed since the last call.
    pub fn take_restated(&mut self) -> bool {
        std::mem::take(&mut self.restated)
    }

    /// The difference to the last call. An object that was written again and says the same is no difference.
    pub fn take_changes(&mut self) -> Changes {
        let mut changes = Changes::default();
        for (key, before) in std::mem::take(&mut self.before) {
            match (before, self.winner(&key).and_then(|entry| entry.object.as_ref())) {
                (Some(_), None) => changes.deletes.push(key),
                (Some(before), Some(now)) if before == *now => {}
                (_, Some(now)) => changes.upserts.push(now.clone()),
                (None, None) => {}
            }
        }
        changes
    }

    /// An object of watch `at` is of no interest any more, or gone.
    pub fn forget(&mut self, at: usize, name: &ObjectName) {
        self.remember(at, name);
        self.parts[at].entries.remove(name);
        self.restated |= self.parts[at].troubled.remove(name);
    }

    fn remember(&mut self, at: usize, name: &ObjectName) {
        let Some(kind) = self.parts[at].kind else { return };
        let key = ObjectKey { kind, name: name.clone() };
        if !self.before.contains_key(&key) {
            let before = self.winner(&key).and_then(|entry| entry.object.clone());
            self.before.insert(key, before);
        }
    }

    /// What is in force under this key: of the parts that have one, the later.
    fn winner(&self, key: &ObjectKey) -> Option<&Entry> {
        let parts = self.of_kind.get(&key.kind)?;
        let entries = parts.iter().filter_map(|at| self.parts[*at].entries.get(&key.name));
        entries.filter(|entry| entry.object.is_some()).max_by(|a, b| a.age.cmp(&b.age))
    }
}

#[cfg(test)]
mod tests;

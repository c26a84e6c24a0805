//! The configuration generations that are kept: for `config history`, `config diff` and `config rollback`.
//!
//! What is kept is objects as they were written, never compiled state: the oldest state in full, then what each generation
//! changed. Pods, EndpointSlices and Nodes aren't kept, only counted: they say what is there, not what a person wants. Decides
//! nothing about what is in force (`source::force` does). Comes after `source`, before `admin`.

mod fields;
mod file;
mod shared;
mod text;

use std::collections::{BTreeMap, VecDeque};
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

pub use fields::{FieldDiff, ObjectDiff, diff};
pub use shared::{Request, Shared};
pub use text::Text;

use crate::objects::Kind;

/// So many generations are kept.
pub const MAX_ENTRIES: usize = 20;
/// Older generations go before their texts are more than this together.
pub const MAX_BYTES: usize = 16 << 20;

/// Texts by `KIND NAMESPACE/NAME`.
pub type Objects = BTreeMap<Text, Text>;

/// False for kinds that say what is there: they change all the time, and an old version of them would send traffic to
/// pods that are gone.
pub const fn is_kept(kind: Kind) -> bool {
    !matches!(kind, Kind::Pod | Kind::EndpointSlice | Kind::Node | Kind::ConfigMap)
}

/// What happened to an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Operation {
    /// It wasn't there before.
    Added,
    /// It said something else before.
    Changed,
    /// It isn't there any more.
    Removed,
}

impl Operation {
    /// As people read it.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Added => "added",
            Self::Changed => "changed",
            Self::Removed => "removed",
        }
    }
}

/// Why a generation came into force.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Cause {
    /// The source says so.
    Source,
    /// An operator put this earlier generation back, though the source says otherwise.
    Rollback(u64),
    /// An operator let the source decide again.
    Release,
}

/// One object's part in a generation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    /// What happened.
    pub operation: Operation,
    /// `KIND NAMESPACE/NAME`.
    pub object: Text,
    /// What it says now; none once it is removed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text: Option<Text>,
}

/// One generation: what it changed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Number, as in `mesh_agent_config_generation` at that time.
    pub generation: u64,
    /// When it came into force.
    pub time: SystemTime,
    /// Why.
    pub cause: Cause,
    /// What it changed, compared to the one before.
    pub changes: Vec<Change>,
    /// How many warnings stood when it was last looked at.
    pub warnings: usize,
    /// Changes of Pods, EndpointSlices and Nodes since.
    pub discovery: u64,
}

/// The generations kept, and all that is needed to put one back.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct History {
    /// Before the oldest entry.
    base: Objects,
    entries: VecDeque<Entry>,
}

impl History {
    /// Oldest first.
    pub fn entries(&self) -> impl DoubleEndedIterator<Item = &Entry> + ExactSizeIterator {
        self.entries.iter()
    }

    /// What is in force.
    pub fn newest(&self) -> Option<&Entry> {
        self.entries.back()
    }

    /// The generation that was put back and is in force, with when it was.
    pub fn rolled_back(&self) -> Option<(u64, SystemTime)> {
        let newest = self.newest()?;
        match newest.cause {
            Cause::Rollback(to) => Some((to, newest.time)),
            Cause::Source | Cause::Release => None,
        }
    }

    /// All configuration objects of a generation that is kept.
    pub fn objects_at(&self, generation: u64) -> Option<Objects> {
        let upto = self.entries.iter().position(|entry| entry.generation == generation)?;
        Some(self.replay(upto + 1))
    }

    /// What the source said last, whatever was put back since.
    pub fn source_objects(&self) -> Objects {
        let rollbacks = usize::from(self.rolled_back().is_some());
        self.replay(self.entries.len() - rollbacks)
    }

    /// Adds a generation, which must be higher than all before. One rollback replaces another, so that the source's own
    /// last state stays next to it.
    pub fn record(&mut self, entry: Entry) {
        if matches!(entry.cause, Cause::Rollback(_)) && self.rolled_back().is_some() {
            self.entries.pop_back();
        }
        self.entries.push_back(entry);
        while self.entries.len() > MAX_ENTRIES || (self.entries.len() > 2 && self.bytes() > MAX_BYTES) {
            if let Some(oldest) = self.entries.pop_front() {
                apply(&mut self.base, &oldest);
            }
        }
    }

    /// Brings the newest entry's figures up to date; true if a number of warnings changed.
    pub fn note(&mut self, warnings: usize, discovery: u64) -> bool {
        let Some(newest) = self.entries.back_mut() else { return false };
        newest.discovery += discovery;
        std::mem::replace(&mut newest.warnings, warnings) != warnings
    }

    /// Bytes of all texts and names kept.
    pub fn bytes(&self) -> usize {
        let base: usize = self.base.iter().map(|(key, text)| key.len() + text.len()).sum();
        let changes = self.entries.iter().flat_map(|entry| &entry.changes);
        let changed: usize = changes
            .map(|change| change.object.len() + change.text.as_ref().map_or(0, |text| text.len()))
            .sum();
        base + changed
    }

    fn replay(&self, entries: usize) -> Objects {
        let mut objects = self.base.clone();
        self.entries.iter().take(entries).for_each(|entry| apply(&mut objects, entry));
        objects
    }
}

fn apply(objects: &mut Objects, entry: &Entry) {
    for change in &entry.changes {
        match &change.text {
            Some(text) => objects.insert(change.object.clone(), text.clone()),
            None => objects.remove(&change.object),
        };
    }
}

#[cfg(test)]
mod tests;

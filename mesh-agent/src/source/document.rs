//! One document of a file: the objects in it and what is wrong with it, kept for as long as its text stays the same.

use std::sync::Arc;

use crate::history::Text;
use crate::model::{ObjectName, Warning};
use crate::objects::{Object, ObjectKey};

/// What a document's text came to. Lines count from the document's own first line, so that it can move in its file.
#[derive(Debug, Default)]
pub struct Parsed {
    /// Objects, with their line.
    pub objects: Vec<(Arc<Object>, u32)>,
    /// Their own words, in the same order, of those that the history keeps.
    pub texts: Vec<Option<Text>>,
    /// What stands in, with its line, for objects that mustn't be taken for absent because they aren't valid; in force only
    /// while no valid version is.
    pub stand_ins: Vec<(Arc<Object>, u32)>,
    /// Warnings, with their line; origin is filled in when they are shown.
    pub problems: Vec<(Warning, u32)>,
    /// What the document would have defined.
    pub broken: Vec<Broken>,
}

/// An object that a document fails to define.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Broken {
    /// This one.
    Key(ObjectKey),
    /// Something of this name, of whatever kind; an empty namespace stands for any.
    Named(ObjectName),
    /// Nobody can say: anything that the file defined before may be meant.
    Unknown,
}

/// A document in its place.
#[derive(Debug)]
pub struct Document {
    /// Tells claims of different documents on the same object apart; kept while the text stays the same.
    pub id: u64,
    /// Keyed hash of the text.
    pub hash: u64,
    /// Length of the text; with the hash, what "the same" means.
    pub len: usize,
    /// Line that it starts on.
    pub line: u32,
    /// What it says.
    pub parsed: Parsed,
}

impl Document {
    /// `FILE:LINE` for a line of this document.
    pub fn origin(&self, file: &str, line: u32) -> String {
        format!("{file}:{}", self.line + line.saturating_sub(1))
    }
}

impl Broken {
    /// True if `key` may be what was meant.
    pub fn covers(&self, key: &ObjectKey) -> bool {
        match self {
            Self::Key(broken) => broken == key,
            Self::Named(name) => {
                name.name == key.name.name
                    && (name.namespace.is_empty() || name.namespace == key.name.namespace)
            }
            Self::Unknown => true,
        }
    }
}

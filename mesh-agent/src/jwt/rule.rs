//! One JWT rule of a RequestAuthentication, compiled: where tokens are, what they must say, whose keys count.
//!
//! Made by `model::build`; asked by `authenticate`. Keys that are fetched come and go behind it without the rule changing.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use super::keys::KeySet;
use super::location::Location;
use super::remote::Remote;
use super::verify::Expected;
use crate::model::ObjectName;

/// A compiled rule.
#[derive(Debug)]
pub struct Rule {
    id: u64,
    /// The RequestAuthentication.
    pub object: ObjectName,
    /// Its place in `jwtRules`.
    pub index: usize,
    /// Where tokens are.
    pub locations: Vec<Location>,
    /// What they must say.
    pub expected: Expected,
    /// The application gets the token too.
    pub forward: bool,
    /// Whose signatures count.
    pub keys: Keys,
}

/// Where a rule's keys come from.
#[derive(Clone, Debug)]
pub enum Keys {
    /// They stand in the rule.
    Inline(Arc<KeySet>),
    /// They are fetched.
    Remote(Arc<Remote>),
    /// There are none, or the rule says something that isn't understood: no token holds.
    None,
}

impl Rule {
    /// A rule that is told from every other, an earlier version of itself included.
    pub fn new(
        object: ObjectName,
        index: usize,
        locations: Vec<Location>,
        expected: Expected,
        forward: bool,
        keys: Keys,
    ) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        Self { id: NEXT.fetch_add(1, Relaxed), object, index, locations, expected, forward, keys }
    }

    pub(super) fn id(&self) -> u64 {
        self.id
    }

    /// The keys as of now; None: there were never any.
    pub(super) fn keys(&self) -> Option<Arc<KeySet>> {
        match &self.keys {
            Keys::Inline(keys) => Some(keys.clone()),
            Keys::Remote(remote) => remote.keys(),
            Keys::None => None,
        }
    }
}

//! Header changes of a filter: set, add, remove, in the order that HTTPHeaderFilter documents.
//!
//! Applied to a header map; `crate::http1` applies the same edits to response lines that it never put into a map.

use http::header::{HeaderMap, HeaderName, HeaderValue};

/// Compiled RequestHeaderModifier or ResponseHeaderModifier.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HeaderEdits {
    /// Replace every line of that name.
    pub set: Vec<(HeaderName, HeaderValue)>,
    /// Put behind what is there.
    pub add: Vec<(HeaderName, HeaderValue)>,
    /// Take out.
    pub remove: Vec<HeaderName>,
}

impl HeaderEdits {
    /// True if nothing changes.
    pub fn is_empty(&self) -> bool {
        self.set.is_empty() && self.add.is_empty() && self.remove.is_empty()
    }

    /// Changes `headers`.
    pub fn apply(&self, headers: &mut HeaderMap) {
        for (name, value) in &self.set {
            headers.insert(name, value.clone());
        }
        for (name, value) in &self.add {
            headers.append(name, value.clone());
        }
        for name in &self.remove {
            headers.remove(name);
        }
    }

    /// True if lines of this name don't stay as they are.
    pub fn replaces(&self, name: &[u8]) -> bool {
        let is = |other: &HeaderName| other.as_str().as_bytes().eq_ignore_ascii_case(name);
        self.set.iter().any(|(other, _)| is(other)) || self.remove.iter().any(is)
    }

    /// The lines that come in: what is set, and what is added and not removed.
    pub fn lines(&self) -> impl Iterator<Item = (&HeaderName, &HeaderValue)> {
        self.set.iter().chain(&self.add).filter(|(name, _)| !self.remove.contains(name)).map(|(n, v)| (n, v))
    }
}

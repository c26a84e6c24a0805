//! Paths: what matches them, what replaces them.

use serde::Deserialize;

use super::super::field::nullable;
use super::list::Bounded;
use super::{FieldError, MatchKind, check_pattern};

/// HTTPPathMatch.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct PathMatch {
    /// `type`.
    #[serde(rename = "type", default, deserialize_with = "nullable")]
    pub kind: PathMatchKind,
    /// Path or expression.
    #[serde(default = "root")]
    pub value: Bounded<0, 1024>,
}

/// How a path is compared.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
pub enum PathMatchKind {
    /// As it is.
    Exact,
    /// By whole elements.
    #[default]
    PathPrefix,
    /// RE2, over the whole path.
    RegularExpression,
}

fn root() -> Bounded<0, 1024> {
    "/".into()
}

impl Default for PathMatch {
    fn default() -> Self {
        Self { kind: PathMatchKind::PathPrefix, value: root() }
    }
}

impl PathMatch {
    /// What the CRD's rules hold of Exact and PathPrefix.
    pub fn validate(&self) -> Result<(), FieldError> {
        let value = &*self.value;
        if self.kind == PathMatchKind::RegularExpression {
            return check_pattern(MatchKind::RegularExpression, "value", value);
        }
        let refuse = |what: &str| Err(FieldError::new("value", format!("{value:?} {what}")));
        if !value.starts_with('/') {
            return refuse("isn't an absolute path: expected it to start with /");
        }
        for part in ["//", "/./", "/../", "%2f", "%2F", "#"] {
            if value.contains(part) {
                return refuse(&format!("contains {part:?}, which no request's path has here: remove it"));
            }
        }
        if value.ends_with("/.") || value.ends_with("/..") {
            return refuse("ends with a relative element: remove it");
        }
        if !is_path(value) {
            return refuse(
                "contains a character that no path has: write it as %XX, or use RegularExpression",
            );
        }
        Ok(())
    }
}

/// Characters of a path (RFC 3986, section 3.3).
pub(super) fn is_path(text: &str) -> bool {
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        rest = match (first, tail) {
            (b'%', [a, b, after @ ..]) if a.is_ascii_hexdigit() && b.is_ascii_hexdigit() => after,
            (b, tail) if b.is_ascii_alphanumeric() || b"-/._~!$&'()*+,;=:@".contains(b) => tail,
            _ => return false,
        };
    }
    !text.is_empty()
}

/// `text` as a path: what can't stand in one as `%XX`.
pub fn encoded(text: &str) -> String {
    let mut path = String::with_capacity(text.len());
    for (at, char) in text.char_indices() {
        let escape = text.get(at..at + 3).filter(|_| char == '%').is_some_and(is_path);
        let mut utf8 = [0; 4];
        match char.encode_utf8(&mut utf8) {
            plain if escape || is_path(plain) => path.push_str(plain),
            other => path.extend(other.bytes().map(|byte| format!("%{byte:02X}"))),
        }
    }
    path
}

/// HTTPPathModifier.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PathModifier {
    /// `type`.
    #[serde(rename = "type")]
    pub kind: PathModifierKind,
    /// With ReplaceFullPath.
    #[serde(default)]
    pub replace_full_path: Option<Bounded<0, 1024>>,
    /// With ReplacePrefixMatch.
    #[serde(default)]
    pub replace_prefix_match: Option<Bounded<0, 1024>>,
}

/// Which part of a path is replaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub enum PathModifierKind {
    /// All of it.
    ReplaceFullPath,
    /// What the rule's PathPrefix matched.
    ReplacePrefixMatch,
}

impl PathModifier {
    /// Exactly the field that the type names.
    pub fn validate(&self) -> Result<(), FieldError> {
        let full = self.kind == PathModifierKind::ReplaceFullPath;
        for (field, given, wanted) in [
            ("replaceFullPath", self.replace_full_path.is_some(), full),
            ("replacePrefixMatch", self.replace_prefix_match.is_some(), !full),
        ] {
            if given != wanted {
                let message = match wanted {
                    true => format!("missing for type {:?}: add it", self.kind),
                    false => format!("doesn't go with type {:?}: remove it or change the type", self.kind),
                };
                return Err(FieldError::new(field, message));
            }
        }
        Ok(())
    }

    /// True if it replaces what a prefix match matched.
    pub fn needs_prefix(&self) -> bool {
        self.kind == PathModifierKind::ReplacePrefixMatch
    }
}

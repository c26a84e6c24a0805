//! Headers and query parameters: what matches them, what changes them.

use std::ops::Deref;

use serde::Deserialize;

use super::super::field::nullable;
use super::list::{Bounded, List};
use super::text::{FieldName, FieldValue};
use super::{FieldError, each, unique};
use crate::route::Pattern;

/// How a value is compared.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
pub enum MatchKind {
    /// As it is.
    #[default]
    Exact,
    /// RE2, over the whole value.
    RegularExpression,
}

/// HTTPHeaderMatch, GRPCHeaderMatch. `V` is the form of the value.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct HeaderMatch<V> {
    /// `type`.
    #[serde(rename = "type", default, deserialize_with = "nullable")]
    pub kind: MatchKind,
    /// Name; case doesn't matter.
    pub name: FieldName,
    /// Value or expression.
    pub value: V,
}

/// HTTPQueryParamMatch.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct QueryMatch {
    /// `type`.
    #[serde(rename = "type", default, deserialize_with = "nullable")]
    pub kind: MatchKind,
    /// Name, as it stands in the query after decoding.
    pub name: FieldName,
    /// Value or expression.
    pub value: Bounded<1, 1024>,
}

/// RequestHeaderModifier, ResponseHeaderModifier.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct HeaderModifier {
    /// Replaces.
    #[serde(default, deserialize_with = "nullable")]
    pub set: List<HeaderLine, 0, 16>,
    /// Appends.
    #[serde(default, deserialize_with = "nullable")]
    pub add: List<HeaderLine, 0, 16>,
    /// Removes.
    #[serde(default, deserialize_with = "nullable")]
    pub remove: List<String, 0, 16>,
}

/// A header's name and value.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct HeaderLine {
    /// Name.
    pub name: FieldName,
    /// Value.
    pub value: FieldValue,
}

impl HeaderModifier {
    /// Each name at most once in each list, and names to remove that can be names. As the CRD's list keys, letter by
    /// letter: of names that differ in case alone the later ones are ignored, with a warning.
    pub fn validate(&self) -> Result<(), FieldError> {
        let name = |line: &HeaderLine| Some(line.name.to_string());
        unique("set", &self.set, ".name", name)?;
        unique("add", &self.add, ".name", name)?;
        unique("remove", &self.remove, "", |name| Some(name.clone()))?;
        for (index, name) in self.remove.iter().enumerate() {
            if http::HeaderName::from_bytes(name.as_bytes()).is_err() {
                let message = format!("{name:?} can't be the name of a header: correct or remove it");
                return Err(FieldError::new(format!("remove[{index}]"), message));
            }
        }
        Ok(())
    }
}

/// Each header is matched once, as it is spelled, and by an expression that compiles.
pub(in crate::objects) fn check_headers<V: Deref<Target = str>>(
    matches: &[HeaderMatch<V>],
) -> Result<(), FieldError> {
    unique("headers", matches, ".name", |header| Some(header.name.to_string()))?;
    each("headers", matches, |header| check_pattern(header.kind, "value", &header.value))
}

/// Each parameter is matched once, and by an expression that compiles.
pub(in crate::objects) fn check_query(matches: &[QueryMatch]) -> Result<(), FieldError> {
    unique("queryParams", matches, ".name", |param| Some(param.name.to_string()))?;
    each("queryParams", matches, |param| check_pattern(param.kind, "value", &param.value))
}

/// A regular expression must be one, and small enough.
pub(in crate::objects) fn check_pattern(kind: MatchKind, field: &str, value: &str) -> Result<(), FieldError> {
    match kind {
        MatchKind::Exact => Ok(()),
        MatchKind::RegularExpression => Pattern::new(value)
            .map(drop)
            .map_err(|error| FieldError::new(field, format!("{error}: correct or shorten it"))),
    }
}

//! Which fields an API has, beside those that are read: for the warnings about fields that have no effect.
//!
//! Parsing into a type passes over what the type doesn't have. For APIs whose every field promises something, the
//! document is compared once more with a [`Shape`], and what is left over is said. Comes after the typed parse.

use serde_yaml_ng::Value;

use super::ObjectKey;
use crate::model::{Warning, WarningCode};

/// What stands at a place of a document.
#[derive(Clone, Copy, Debug)]
pub enum Shape {
    /// Read, whatever is in it.
    Read,
    /// A field of the API that isn't supported; the text says what happens instead.
    Unsupported(&'static str),
    /// A mapping with these fields.
    Fields(&'static [(&'static str, Shape)]),
    /// A list of these.
    List(&'static Shape),
}

/// A field without effect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FieldNote {
    /// Its path.
    pub field: String,
    /// What happens instead. None: the API has no such field.
    pub consequence: Option<&'static str>,
}

impl FieldNote {
    /// As a warning about an object of this kind.
    pub fn warning(&self, object: &ObjectKey, kind: &str) -> Warning {
        match self.consequence {
            Some(consequence) => {
                let message = format!("is not supported by this version: {consequence}");
                Warning::new(WarningCode::UnsupportedFeature, object, &self.field, message)
            }
            None => {
                let message =
                    format!("isn't a field of {kind} and has no effect: check its spelling or remove it");
                Warning::new(WarningCode::UnknownField, object, &self.field, message)
            }
        }
    }
}

impl Shape {
    /// Notes about everything in `value` that isn't read.
    pub fn notes(&self, path: &str, value: &Value) -> Vec<FieldNote> {
        let mut notes = Vec::new();
        self.walk(path, value, &mut notes);
        notes
    }

    fn walk(&self, path: &str, value: &Value, notes: &mut Vec<FieldNote>) {
        match (self, value) {
            (Self::Read, _) | (_, Value::Null) => {}
            (Self::Unsupported(consequence), _) => {
                notes.push(FieldNote { field: path.to_owned(), consequence: Some(consequence) });
            }
            (Self::Fields(fields), Value::Mapping(mapping)) => {
                for (key, value) in mapping {
                    let key = key.as_str().unwrap_or("?");
                    let at = format!("{path}.{key}");
                    match fields.iter().find(|(name, _)| *name == key) {
                        Some((_, shape)) => shape.walk(&at, value, notes),
                        None => notes.push(FieldNote { field: at, consequence: None }),
                    }
                }
            }
            (Self::List(shape), Value::Sequence(items)) => {
                for (at, item) in items.iter().enumerate() {
                    shape.walk(&format!("{path}[{at}]"), item, notes);
                }
            }
            // Of another type than the API's: the typed parse has refused it.
            (Self::Fields(_) | Self::List(_), _) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const SHAPE: Shape = Shape::Fields(&[
        ("a", Shape::Read),
        ("b", Shape::Unsupported("it has no effect")),
        ("c", Shape::List(&Shape::Fields(&[("d", Shape::Read)]))),
    ]);

    #[test]
    fn what_is_not_read_is_noted_with_its_path() {
        fn check(text: &str, want: &[(&str, bool)]) {
            let notes = SHAPE.notes("spec", &serde_yaml_ng::from_str(text).unwrap());
            let got: Vec<_> = notes.iter().map(|n| (n.field.as_str(), n.consequence.is_some())).collect();
            assert_eq!(got, want, "{text}");
        }
        check("{a: {x: 1}}", &[]);
        check("{b: 1, x: 2}", &[("spec.b", true), ("spec.x", false)]);
        check("{b: null}", &[]);
        check("{c: [{d: 1}, {e: 1}]}", &[("spec.c[1].e", false)]);
    }
}

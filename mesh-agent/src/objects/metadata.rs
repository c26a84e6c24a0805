//! `metadata` of every object.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::field::nullable;
use super::{FieldError, Labels};

/// What is read of `metadata`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Metadata {
    /// Name.
    pub name: String,
    /// Namespace; `default` where a namespaced object has none.
    #[serde(default)]
    pub namespace: Option<String>,
    /// Tells an object from a later one of its name. Only where an API server gave one.
    #[serde(default)]
    pub uid: Option<String>,
    /// Raised with every change of the spec. Only where an API server gave one.
    #[serde(default)]
    pub generation: i64,
    /// Labels.
    #[serde(default, deserialize_with = "nullable")]
    pub labels: Labels,
    /// Annotations.
    #[serde(default, deserialize_with = "nullable")]
    pub annotations: BTreeMap<String, String>,
    /// RFC 3339 in UTC, as the API server writes it: sorts as text.
    #[serde(default)]
    pub creation_timestamp: Option<String>,
    /// Owners, of which one may be the controller.
    #[serde(default, deserialize_with = "nullable")]
    pub owner_references: Vec<OwnerReference>,
}

/// One of `ownerReferences`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct OwnerReference {
    /// Kind of the owner.
    pub kind: String,
    /// Its name.
    pub name: String,
    /// True for the one that manages the object.
    #[serde(default, deserialize_with = "nullable")]
    pub controller: bool,
}

impl Metadata {
    /// Names follow RFC 1123 as Kubernetes has it: they end in host names, paths and metric labels.
    pub fn validate(&self) -> Result<(), FieldError> {
        check_name("metadata.name", &self.name, 253, true)?;
        match &self.namespace {
            Some(namespace) => check_name("metadata.namespace", namespace, 63, false),
            None => Ok(()),
        }
    }

    /// A label's value.
    pub fn label(&self, key: &str) -> Option<&str> {
        self.labels.get(key).map(String::as_str)
    }

    /// An annotation's value.
    pub fn annotation(&self, key: &str) -> Option<&str> {
        self.annotations.get(key).map(String::as_str)
    }
}

fn check_name(field: &str, name: &str, longest: usize, dots: bool) -> Result<(), FieldError> {
    let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || (dots && b == b'.');
    let edge = |b: Option<&u8>| b.is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
    let bytes = name.as_bytes();
    if bytes.len() <= longest && bytes.iter().all(|b| inner(*b)) && edge(bytes.first()) && edge(bytes.last())
    {
        return Ok(());
    }
    let shown: String = name.chars().take(64).collect();
    Err(FieldError::new(
        field,
        format!("{shown:?} isn't a name: expected at most {longest} of a-z, 0-9 and '-'"),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_that_kubernetes_accepts() {
        fn check(name: &str, namespace: Option<&str>, ok: bool) {
            let metadata =
                Metadata { name: name.into(), namespace: namespace.map(Into::into), ..Metadata::default() };
            assert_eq!(metadata.validate().is_ok(), ok, "{name} {namespace:?}");
        }
        check("cart", None, true);
        check("cart-1.v2", Some("shop"), true);
        check("", None, false);
        check("Cart", None, false);
        check("-cart", None, false);
        check("cart\n", None, false);
        check("../etc", None, false);
        check("cart", Some(""), false);
        check("cart", Some("a.b"), false);
        check(&"a".repeat(254), None, false);
    }
}

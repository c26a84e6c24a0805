//! The difference between two states, object by object and field by field. Pure; what is equal after parsing is no difference.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use serde_yaml_ng::Value;

use super::{Objects, Operation, Text};

/// One object that differs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ObjectDiff {
    /// `KIND NAMESPACE/NAME`.
    pub object: Text,
    /// What happened to it.
    pub change: Operation,
    /// Its fields that differ, in the order of their paths.
    pub fields: Vec<FieldDiff>,
}

/// One field that differs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FieldDiff {
    /// Such as `spec.ports[http].port`. Items of a list go by their names where all have different ones.
    pub field: String,
    /// Before; none where it wasn't there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
    /// After; none where it isn't there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<String>,
}

/// What makes `after` of `before`.
pub fn diff(before: &Objects, after: &Objects) -> Vec<ObjectDiff> {
    let keys: BTreeSet<&Text> = before.keys().chain(after.keys()).collect();
    keys.into_iter().filter_map(|key| object(key, before.get(key), after.get(key))).collect()
}

fn object(key: &Text, before: Option<&Text>, after: Option<&Text>) -> Option<ObjectDiff> {
    if before == after {
        return None;
    }
    let change = match (before, after) {
        (None, _) => Operation::Added,
        (_, None) => Operation::Removed,
        (Some(_), Some(_)) => Operation::Changed,
    };
    let flat = |text: Option<&Text>| text.map(|text| flatten(key, text)).unwrap_or_default();
    let (before, after) = (flat(before), flat(after));
    let paths: BTreeSet<&String> = before.keys().chain(after.keys()).collect();
    let differ = paths.into_iter().filter(|path| before.get(*path) != after.get(*path));
    let fields: Vec<FieldDiff> = differ
        .map(|path| FieldDiff {
            field: path.clone(),
            from: before.get(path).cloned(),
            to: after.get(path).cloned(),
        })
        .collect();
    (!fields.is_empty()).then(|| ObjectDiff { object: key.clone(), change, fields })
}

/// Leaves by path. A text that isn't YAML is one leaf.
fn flatten(key: &str, text: &str) -> BTreeMap<String, String> {
    let mut leaves = BTreeMap::new();
    match serde_yaml_ng::from_str::<Value>(text) {
        Ok(value) => walk(String::new(), &value, &mut leaves),
        Err(_) => drop(leaves.insert(key.to_owned(), text.to_owned())),
    }
    leaves
}

fn walk(path: String, value: &Value, leaves: &mut BTreeMap<String, String>) {
    match value {
        Value::Mapping(mapping) if !mapping.is_empty() => {
            for (key, value) in mapping {
                walk(member(&path, &scalar(key)), value, leaves);
            }
        }
        Value::Sequence(items) if !items.is_empty() => {
            let names = names(items);
            for (at, item) in items.iter().enumerate() {
                let index = names.as_ref().map_or_else(|| at.to_string(), |names| names[at].to_owned());
                walk(format!("{path}[{index}]"), item, leaves);
            }
        }
        _ => drop(leaves.insert(path, scalar(value))),
    }
}

fn member(path: &str, key: &str) -> String {
    let plain = key.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-');
    match (path.is_empty(), plain) {
        (true, _) => key.to_owned(),
        (false, true) => format!("{path}.{key}"),
        (false, false) => format!("{path}[{key}]"),
    }
}

/// Names of a list's items, if each has one of its own.
fn names(items: &[Value]) -> Option<Vec<&str>> {
    let names: Vec<&str> =
        items.iter().map(|item| item.get("name").and_then(Value::as_str)).collect::<Option<_>>()?;
    let distinct: BTreeSet<&&str> = names.iter().collect();
    (distinct.len() == names.len()).then_some(names)
}

fn scalar(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Mapping(_) => "{}".to_owned(),
        Value::Sequence(_) => "[]".to_owned(),
        other => serde_yaml_ng::to_string(other).unwrap_or_default().trim_end().to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state(objects: &[(&str, &str)]) -> Objects {
        objects.iter().map(|(key, text)| (Text::from(*key), Text::from(*text))).collect()
    }

    #[test]
    fn fields_are_named_by_their_path() {
        fn check(before: &str, after: &str, want: &[(&str, Option<&str>, Option<&str>)]) {
            let found = diff(&state(&[("A b", before)]), &state(&[("A b", after)]));
            let fields: Vec<_> = found
                .iter()
                .flat_map(|object| &object.fields)
                .map(|f| (f.field.as_str(), f.from.as_deref(), f.to.as_deref()))
                .collect();
            assert_eq!(fields, want, "{before} -> {after}");
        }
        check("a: 1", "# said otherwise\n{\"a\": 1}", &[]);
        check("a: 1", "a: '1'", &[]);
        check("a: 1", "a: 2", &[("a", Some("1"), Some("2"))]);
        check("a: {b.c/d: x}", "a: {}", &[("a", None, Some("{}")), ("a[b.c/d]", Some("x"), None)]);
        check("a: [1, 2]", "a: [1]", &[("a[1]", Some("2"), None)]);
        check(
            "p: [{name: x, n: 1}, {name: y, n: 2}]",
            "p: [{name: y, n: 3}, {name: x, n: 1}]",
            &[("p[y].n", Some("2"), Some("3"))],
        );
        check("a: ", "a: [", &[("A b", None, Some("a: [")), ("a", Some("null"), None)]);
    }

    #[test]
    fn objects_come_change_and_go() {
        let before = state(&[("A a", "x: 1"), ("A b", "x: 1"), ("A c", "x: 1")]);
        let after = state(&[("A b", "x: 1"), ("A c", "x: 2"), ("A d", "x: 1")]);
        let found: Vec<_> =
            diff(&before, &after).into_iter().map(|o| (o.object.to_string(), o.change)).collect();
        let want = [("A a", Operation::Removed), ("A c", Operation::Changed), ("A d", Operation::Added)];
        assert_eq!(found, want.map(|(name, change)| (name.to_owned(), change)));
    }
}

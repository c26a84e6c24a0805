//! `--set KEY=VALUE,...`: values from the command line, as Helm reads them (pkg/strvals), without indices.

use serde_json::{Map, Value};

use super::ManifestsError;

/// Puts what `text` says over `values`.
///
/// # Errors
/// It isn't KEY=VALUE, or asks for an index.
pub fn assign(values: &mut Value, text: &str) -> Result<(), ManifestsError> {
    let failed = |why: &str| ManifestsError::Set { text: text.to_owned(), why: why.to_owned() };
    for pair in split(text, ',') {
        let mut sides = split(&pair, '=').into_iter();
        let key = sides.next().unwrap_or_default();
        let value = sides.collect::<Vec<_>>();
        if value.is_empty() {
            return Err(failed("expected KEY=VALUE"));
        }
        let path: Vec<String> = split(&key, '.').iter().map(|part| unescaped(part)).collect();
        if path.iter().any(String::is_empty) {
            return Err(failed("a part of the key is empty"));
        }
        if path.iter().any(|part| part.contains('[')) {
            return Err(failed(
                "indices aren't supported: give the whole list as {a,b}, or use --values FILE",
            ));
        }
        put(values, &path, typed(&value.join("=")));
    }
    Ok(())
}

fn put(values: &mut Value, path: &[String], value: Value) {
    let Some((first, rest)) = path.split_first() else {
        *values = value;
        return;
    };
    if !values.is_object() {
        *values = Value::Object(Map::new());
    }
    if let Value::Object(map) = values {
        put(map.entry(first.clone()).or_insert(Value::Null), rest, value);
    }
}

/// Parts between separators that stand neither in braces nor behind a backslash.
fn split(text: &str, separator: char) -> Vec<String> {
    let (mut parts, mut depth, mut escaped) = (vec![String::new()], 0_usize, false);
    for c in text.chars() {
        match c {
            c if c == separator && depth == 0 && !escaped => {
                parts.push(String::new());
                continue;
            }
            '{' if !escaped => depth += 1,
            '}' if !escaped => depth = depth.saturating_sub(1),
            _ => {}
        }
        escaped = c == '\\' && !escaped;
        if let Some(last) = parts.last_mut() {
            last.push(c);
        }
    }
    parts
}

fn unescaped(text: &str) -> String {
    let (mut out, mut escaped) = (String::new(), false);
    for c in text.chars() {
        if c == '\\' && !escaped {
            escaped = true;
            continue;
        }
        escaped = false;
        out.push(c);
    }
    out
}

fn typed(text: &str) -> Value {
    if let Some(list) = text.strip_prefix('{').and_then(|rest| rest.strip_suffix('}')) {
        let items = split(list, ',');
        return items
            .iter()
            .filter(|item| !list.is_empty() || !item.is_empty())
            .map(|item| typed(item))
            .collect();
    }
    match text {
        "null" => Value::Null,
        "true" => true.into(),
        "false" => false.into(),
        // A number with a leading zero is a text, as of a version or an identifier.
        _ if text.len() > 1 && text.starts_with('0') => unescaped(text).into(),
        _ => text.parse::<i64>().map_or_else(|_| unescaped(text).into(), Value::from),
    }
}

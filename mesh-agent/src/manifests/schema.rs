//! Values held against a chart's values.schema.json: the part of JSON Schema that it uses. A word of a schema that isn't known
//! here is an error of the chart's, so that nothing it asks for is passed over.

use regex::Regex;
use serde_json::{Map, Value};

use super::ManifestsError;

/// Words without a say.
const NOTES: &[&str] = &["$schema", "title", "description"];

/// The first value that `schema` doesn't allow.
pub fn check(schema: &Value, values: &Value) -> Result<(), ManifestsError> {
    at(schema, values, "")
}

fn at(schema: &Value, value: &Value, path: &str) -> Result<(), ManifestsError> {
    let Value::Object(words) = schema else { return Ok(()) };
    let bad = |why: String| {
        let field = if path.is_empty() { "the values".to_owned() } else { path.to_owned() };
        Err(ManifestsError::Value { field, why })
    };
    for (word, rule) in words {
        let length = || value.as_str().map(|text| text.chars().count() as u64);
        match word.as_str() {
            "type" if !is_of(value, rule) => {
                return bad(format!("is {}, expected {}", kind(value), listed(rule)));
            }
            "enum" if !rule.as_array().is_some_and(|list| list.contains(value)) => {
                return bad(format!("is {value}, expected one of {rule}"));
            }
            "pattern" => {
                let Ok(pattern) = Regex::new(rule.as_str().unwrap_or_default()) else {
                    return bad(format!("the chart's pattern {rule} isn't one"));
                };
                if value.as_str().is_some_and(|text| !pattern.is_match(text)) {
                    return bad(format!("is {value}, expected text like {rule}"));
                }
            }
            "minLength" if length() < rule.as_u64() && length().is_some() => {
                return bad("is too short".to_owned());
            }
            "maxLength" if length() > rule.as_u64() => return bad("is too long".to_owned()),
            "minimum" if value.as_f64().is_some_and(|number| Some(number) < rule.as_f64()) => {
                return bad(format!("is {value}, expected {rule} or more"));
            }
            "maximum" if value.as_f64().is_some_and(|number| Some(number) > rule.as_f64()) => {
                return bad(format!("is {value}, expected {rule} or less"));
            }
            "items" => {
                for (index, item) in value.as_array().into_iter().flatten().enumerate() {
                    at(rule, item, &format!("{path}[{index}]"))?;
                }
            }
            "required" => {
                let names = rule.as_array().into_iter().flatten().filter_map(Value::as_str);
                if let Some(missing) =
                    names.filter(|_| value.is_object()).find(|name| value.get(name).is_none())
                {
                    return bad(format!("needs {missing}"));
                }
            }
            "properties" | "additionalProperties" | "propertyNames" => {}
            "type" | "enum" | "minLength" | "maxLength" | "minimum" | "maximum" => {}
            note if NOTES.contains(&note) => {}
            other => return bad(format!("the chart's schema uses {other:?}, which isn't known here")),
        }
    }
    match value {
        Value::Object(map) => fields(words, map, path),
        _ => Ok(()),
    }
}

fn fields(words: &Map<String, Value>, map: &Map<String, Value>, path: &str) -> Result<(), ManifestsError> {
    let known = words.get("properties").and_then(Value::as_object);
    let reserved = words.get("propertyNames").and_then(|names| names["not"]["enum"].as_array());
    for (name, value) in map {
        let field = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
        if reserved.is_some_and(|reserved| reserved.iter().any(|it| it == name)) {
            let why = "is set by the chart itself: look for the value that it is made of".to_owned();
            return Err(ManifestsError::Value { field, why });
        }
        match (known.and_then(|known| known.get(name)), words.get("additionalProperties")) {
            (Some(schema), _) => at(schema, value, &field)?,
            (None, Some(Value::Bool(false))) => {
                return Err(ManifestsError::Value { field, why: "there is no such value".to_owned() });
            }
            (None, Some(schema)) => at(schema, value, &field)?,
            (None, None) => {}
        }
    }
    Ok(())
}

fn is_of(value: &Value, rule: &Value) -> bool {
    let one = |name: &Value| match name.as_str() {
        Some("integer") => value.is_i64() || value.is_u64(),
        Some("number") => value.is_number(),
        Some(name) => kind(value) == name,
        None => false,
    };
    rule.as_array().map_or_else(|| one(rule), |names| names.iter().any(one))
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

fn listed(rule: &Value) -> String {
    match rule.as_array() {
        Some(names) => names.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(" or "),
        None => rule.as_str().unwrap_or_default().to_owned(),
    }
}

//! The functions of Helm's templates that the charts use (helm.sh, "Template Function List"); no others.

use aws_lc_rs::digest::{SHA256, digest};
use serde_json::Value;

/// Why a call came to nothing.
#[derive(Debug, PartialEq, Eq)]
pub enum Failed {
    /// Not a function, or not its arguments.
    Function(String),
    /// `fail`: the values don't go together.
    Refused(String),
}

/// As Go's templates have it: zero, empty and null are false.
pub fn truth(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::Bool(value) => *value,
        Value::Number(number) => number.as_f64() != Some(0.0),
        Value::String(text) => !text.is_empty(),
        Value::Array(list) => !list.is_empty(),
        Value::Object(map) => !map.is_empty(),
    }
}

/// As an action prints it; null is nothing, as Helm has it.
pub fn shown(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// Calls `name`; what was piped is the last argument.
pub fn call(name: &str, arguments: Vec<Value>) -> Result<Value, Failed> {
    match (name, arguments.as_slice()) {
        // Those before the last one didn't decide.
        ("and" | "or", [.., last]) => Ok(last.clone()),
        ("not", [value]) => Ok((!truth(value)).into()),
        ("eq", [first, rest @ ..]) if !rest.is_empty() => Ok(rest.contains(first).into()),
        ("default", [default, value]) => Ok(if truth(value) { value } else { default }.clone()),
        ("quote", [value]) => Ok(quoted(&shown(value)).into()),
        ("toJson", [value]) => Ok(value.to_string().into()),
        ("toYaml", [value]) => Ok(to_yaml(value).into()),
        ("indent", [Value::Number(by), Value::String(text)]) => Ok(indented(by, text).into()),
        ("nindent", [Value::Number(by), Value::String(text)]) => {
            Ok(format!("\n{}", indented(by, text)).into())
        }
        ("printf", [Value::String(format), values @ ..]) => printf(format, values).map(Value::from),
        ("sha256sum", [Value::String(text)]) => {
            let sum = digest(&SHA256, text.as_bytes());
            Ok(sum.as_ref().iter().map(|byte| format!("{byte:02x}")).collect::<String>().into())
        }
        ("fail", [value]) => Err(Failed::Refused(shown(value))),
        (_, arguments) => {
            Err(Failed::Function(format!("isn't known with these {} arguments", arguments.len())))
        }
    }
}

fn quoted(text: &str) -> String {
    Value::from(text).to_string()
}

fn indented(by: &serde_json::Number, text: &str) -> String {
    let by = " ".repeat(by.as_u64().and_then(|by| usize::try_from(by).ok()).unwrap_or(0));
    text.split('\n').map(|line| format!("{by}{line}")).collect::<Vec<_>>().join("\n")
}

fn printf(format: &str, values: &[Value]) -> Result<String, Failed> {
    let mut parts = format.split("%v").flat_map(|part| part.split("%s"));
    let mut out = parts.next().unwrap_or_default().to_owned();
    let mut values = values.iter();
    for part in parts {
        let value = values.next().ok_or_else(|| Failed::Function("has too few values".to_owned()))?;
        out.push_str(&shown(value));
        out.push_str(part);
    }
    match values.next() {
        None if !out.contains('%') => Ok(out),
        _ => Err(Failed::Function("knows only %s and %v, and needs as many values".to_owned())),
    }
}

/// YAML in blocks. Texts are always quoted: the API server reads YAML 1.1, to which `off` and `1:30` are no texts.
fn to_yaml(value: &Value) -> String {
    let mut out = String::new();
    block(value, 0, &mut out);
    out.trim_end().to_owned()
}

fn block(value: &Value, depth: usize, out: &mut String) {
    let indent = " ".repeat(depth);
    match value {
        Value::Object(map) if !map.is_empty() => {
            for (key, value) in map {
                entry(&format!("{indent}{}:", quoted(key)), value, depth, out);
            }
        }
        Value::Array(list) if !list.is_empty() => {
            for value in list {
                entry(&format!("{indent}-"), value, depth, out);
            }
        }
        // Scalars, {} and [] are as in JSON.
        other => {
            out.push_str(&indent);
            out.push_str(&other.to_string());
            out.push('\n');
        }
    }
}

fn entry(head: &str, value: &Value, depth: usize, out: &mut String) {
    out.push_str(head);
    let nested = match value {
        Value::Object(map) => !map.is_empty(),
        Value::Array(list) => !list.is_empty(),
        _ => false,
    };
    if nested {
        out.push('\n');
        block(value, depth + 2, out);
    } else {
        out.push(' ');
        out.push_str(&value.to_string());
        out.push('\n');
    }
}

//! A parser's error taken apart: which field, which line, and words for the person who wrote it.

use serde::de::DeserializeOwned;
use serde_yaml_ng::Value;

use crate::model::WarningCode;
use crate::objects::{NOT_A_PORT, NOT_AN_ADDRESS};

/// Why a document wasn't accepted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// Path of the field, empty if the parser doesn't know.
    pub field: String,
    /// What is wrong.
    pub message: String,
    /// Line in the document, from 1.
    pub line: Option<u32>,
}

impl Failure {
    /// `PATH: MESSAGE at line L column C`, as serde_yaml_ng writes it.
    pub fn yaml(error: serde_yaml_ng::Error) -> Self {
        let location = error.location();
        let text = error.to_string();
        let text = match &location {
            Some(at) => text.replace(&format!(" at line {} column {}", at.line(), at.column()), ""),
            None => text,
        };
        let (field, message) = match text.split_once(": ") {
            Some((path, message)) if is_path(path) => (path.to_owned(), message.to_owned()),
            _ => (String::new(), text),
        };
        let line = location.and_then(|at| u32::try_from(at.line()).ok()).filter(|line| *line > 0);
        Self { field, message: advise(message), line }
    }

    /// A value that is already parsed has lost its paths: it is written out and read again to find them. The line would be
    /// that of the copy.
    pub fn item<T: DeserializeOwned>(value: &Value, error: serde_yaml_ng::Error) -> Self {
        let again = serde_yaml_ng::to_string(value).map(|text| serde_yaml_ng::from_str::<T>(&text));
        let error = match again {
            Ok(Err(better)) => better,
            Ok(Ok(_)) | Err(_) => error,
        };
        Self { line: None, ..Self::yaml(error) }
    }

    /// serde_json knows lines but no paths.
    pub fn json(error: serde_json::Error) -> Self {
        let at = format!(" at line {} column {}", error.line(), error.column());
        let message = advise(error.to_string().replace(&at, ""));
        Self {
            field: String::new(),
            message,
            line: u32::try_from(error.line()).ok().filter(|line| *line > 0),
        }
    }

    /// Ports and addresses have numbers of their own: they are what people look for.
    pub fn code(&self) -> WarningCode {
        if self.message.contains(NOT_A_PORT) {
            WarningCode::InvalidPort
        } else if self.message.contains(NOT_AN_ADDRESS) {
            WarningCode::InvalidAddress
        } else {
            WarningCode::InvalidField
        }
    }
}

fn is_path(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"._[]/-?\\".contains(&b))
}

/// YAML's best-known traps.
fn advise(message: String) -> String {
    if message.contains("expected a string") {
        return format!("{message}: put the value in quotes");
    }
    if message.contains("found character that cannot start any token") {
        return format!("{message} (YAML is indented with spaces, never tabs)");
    }
    message
}

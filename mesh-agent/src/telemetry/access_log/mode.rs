//! `--access-log off|otlp|text|json|template`, the last three perhaps with `:FILE`.

use std::fmt;
use std::io::{self, Write};
use std::path::PathBuf;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::file::{LogFile, Rotation};

/// Whether and how requests are logged.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum AccessLogMode {
    /// Not at all.
    #[default]
    Off,
    /// As OTLP's log records, to the collector of `--otlp-endpoint`.
    Otlp,
    /// In this format, to there.
    On(Format, Output),
}

/// What a line looks like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Envoy's order of fields, then what Envoy doesn't know as `key=value`.
    Text,
    /// One object a line.
    Json,
    /// As [`super::LogOptions::template`] says.
    Template,
}

/// Where lines go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// Standard output.
    Stdout,
    /// Appended to this file.
    File(PathBuf),
}

/// Not one of the forms.
#[derive(Debug, thiserror::Error)]
#[error("access log {0:?} is none of off, otlp, text, json and template, the last three perhaps with :FILE")]
pub struct ParseModeError(String);

impl Output {
    pub(super) fn open(&self, rotation: Option<Rotation>) -> io::Result<Box<dyn Write + Send>> {
        Ok(match self {
            Self::Stdout => Box::new(io::stdout()),
            Self::File(path) => Box::new(LogFile::open(path, rotation)?),
        })
    }
}

impl FromStr for AccessLogMode {
    type Err = ParseModeError;

    fn from_str(text: &str) -> Result<Self, ParseModeError> {
        let (format, file) = match text.split_once(':') {
            Some((format, file)) if !file.is_empty() => (format, Some(file)),
            Some(_) => return Err(ParseModeError(text.to_owned())),
            None => (text, None),
        };
        let output = file.map_or(Output::Stdout, |file| Output::File(file.into()));
        match (format, file) {
            ("off", None) => Ok(Self::Off),
            ("otlp", None) => Ok(Self::Otlp),
            ("text", _) => Ok(Self::On(Format::Text, output)),
            ("json", _) => Ok(Self::On(Format::Json, output)),
            ("template", _) => Ok(Self::On(Format::Template, output)),
            _ => Err(ParseModeError(text.to_owned())),
        }
    }
}

impl fmt::Display for AccessLogMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (format, output) = match self {
            Self::Off => return f.write_str("off"),
            Self::Otlp => return f.write_str("otlp"),
            Self::On(Format::Text, output) => ("text", output),
            Self::On(Format::Json, output) => ("json", output),
            Self::On(Format::Template, output) => ("template", output),
        };
        match output {
            Output::Stdout => f.write_str(format),
            Output::File(path) => write!(f, "{format}:{}", path.display()),
        }
    }
}

impl Serialize for AccessLogMode {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for AccessLogMode {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_is_read_and_written_alike() {
        for text in ["off", "otlp", "text", "json", "template:/t", "text:/var/log/a.log", "json:/a:b"] {
            let mode = text.parse::<AccessLogMode>();
            assert_eq!(mode.map(|m| m.to_string()).ok().as_deref(), Some(text));
        }
        for text in ["", "on", "off:/x", "otlp:/x", "json:", "xml:/x"] {
            assert!(text.parse::<AccessLogMode>().is_err(), "{text}");
        }
    }
}

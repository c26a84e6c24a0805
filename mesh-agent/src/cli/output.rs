//! Output formats, the same for every list: a command has rows of serde types; how they look is decided here.

use std::io::Write;
use std::time::Duration;

use serde::Serialize;

pub(super) use crate::telemetry::utc;

use super::table::Table;
use super::{Failure, Style};

/// `-o` of lists.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Format {
    /// Aligned columns
    #[default]
    Table,
    /// More columns
    Wide,
    /// JSON
    Json,
    /// YAML
    Yaml,
    /// Names only, one a line
    Name,
}

/// `-o` of what isn't a list.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum TextFormat {
    /// Text for people
    #[default]
    Text,
    /// JSON
    Json,
    /// YAML
    Yaml,
}

/// Where a command prints.
pub(super) struct Out<'w> {
    stdout: &'w mut dyn Write,
    stderr: &'w mut dyn Write,
    pub(super) style: Style,
}

/// A type that can be shown as a row.
pub(super) trait Row: Serialize {
    /// Every column; a plain table has the first [`Self::PLAIN`], `-o wide` all.
    const HEADER: &'static [&'static str];
    /// How many columns a plain table has.
    const PLAIN: usize;
    /// One cell for each of [`Self::HEADER`].
    fn cells(&self) -> Vec<String>;
    /// For `-o name`.
    fn name(&self) -> String;
}

impl<'w> Out<'w> {
    pub(super) fn new(stdout: &'w mut dyn Write, stderr: &'w mut dyn Write, style: Style) -> Self {
        Self { stdout, stderr, style }
    }

    /// Data, with its line feeds.
    pub(super) fn data(&mut self, text: &str) -> Result<(), Failure> {
        self.stdout.write_all(text.as_bytes())?;
        Ok(self.stdout.flush()?)
    }

    /// Where lines beside the data go.
    pub(super) fn notes(&mut self) -> &mut dyn Write {
        self.stderr
    }

    /// A line beside the data.
    pub(super) fn note(&mut self, text: &str) -> Result<(), Failure> {
        Ok(writeln!(self.stderr, "{text}")?)
    }
}

/// A list in the wanted format; `None` where a table would have no row.
pub(super) fn list<T: Row>(format: Format, rows: &[T]) -> Result<Option<String>, Failure> {
    Ok(match format {
        Format::Json => Some(json(&rows)?),
        Format::Yaml => Some(serde_yaml_ng::to_string(&rows)?),
        _ if rows.is_empty() => None,
        Format::Name => Some(rows.iter().map(|row| row.name() + "\n").collect()),
        Format::Table => Some(table(rows, T::PLAIN)),
        Format::Wide => Some(table(rows, T::HEADER.len())),
    })
}

/// One value in the wanted format.
pub(super) fn document<T: Serialize>(
    format: TextFormat,
    value: &T,
    text: impl FnOnce(&T) -> String,
) -> Result<String, Failure> {
    Ok(match format {
        TextFormat::Text => text(value),
        TextFormat::Json => json(value)?,
        TextFormat::Yaml => serde_yaml_ng::to_string(value)?,
    })
}

/// Indented, with a line feed at the end.
pub(super) fn json(value: &impl Serialize) -> Result<String, Failure> {
    Ok(serde_json::to_string_pretty(value)? + "\n")
}

fn table<T: Row>(rows: &[T], columns: usize) -> String {
    let mut table = Table::new(T::HEADER.get(..columns).unwrap_or(T::HEADER));
    for row in rows {
        table.row(row.cells().into_iter().take(columns));
    }
    table.render()
}

/// Configuration never steers the terminal.
pub(super) fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '?' } else { c }).collect()
}

/// `1 map`, `2 maps`.
pub(super) fn count(number: usize, noun: &str) -> String {
    format!("{number} {noun}{}", if number == 1 { "" } else { "s" })
}

/// A duration in at most two units, as kubectl shows ages: `3d4h`, `5m12s`, `7s`.
pub(super) fn age(duration: Duration) -> String {
    let seconds = duration.as_secs();
    match (seconds / 86_400, seconds / 3600 % 24, seconds / 60 % 60) {
        (0, 0, 0) => format!("{seconds}s"),
        (0, 0, minutes) => format!("{minutes}m{}s", seconds % 60),
        (0, hours, minutes) => format!("{hours}h{minutes}m"),
        (days, hours, _) => format!("{days}d{hours}h"),
    }
}

/// Bytes in binary units: `12B`, `3.4Ki`, `1.0Mi`.
pub(super) fn bytes(count: u64) -> String {
    if count < 1024 {
        return format!("{count}B");
    }
    let mut value = count as f64 / 1024.0;
    for unit in ["Ki", "Mi", "Gi"] {
        if value < 1024.0 {
            return format!("{value:.1}{unit}");
        }
        value /= 1024.0;
    }
    format!("{value:.1}Ti")
}

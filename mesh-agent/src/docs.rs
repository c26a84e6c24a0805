//! Holds that a table of the documentation says what the code says. Tests of the modules that the tables are about call it.

#![allow(clippy::unwrap_used, clippy::panic)]

mod destination_rules;
mod examples;
mod identity;

use std::path::Path;

/// The rows of `docs/FILE` that begin with a name in backticks are `rows`, in this order.
pub(crate) fn check(file: &str, rows: &[String]) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs").join(file);
    let text = std::fs::read_to_string(&path).unwrap();
    let written: Vec<&str> = text.lines().filter(|line| line.starts_with("| `")).collect();
    for (at, row) in rows.iter().enumerate() {
        assert_eq!(
            written.get(at),
            Some(&row.as_str()),
            "row {at} of docs/{file}; the code says:\n{}",
            rows.join("\n")
        );
    }
    assert_eq!(written.len(), rows.len(), "docs/{file} has rows that the code doesn't know");
}

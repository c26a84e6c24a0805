//! `mesh-agent manifests`: what the Helm charts install, as plain manifests, without Helm.
//!
//! The charts of deploy/charts are in the binary as they are, and rendered here with the few functions of Helm's templates
//! that they use. What they don't use is an error, never a guess; tests hold the result against Helm's own, value by value.

mod chart;
mod eval;
mod functions;
mod lexer;
mod parse;
mod schema;
mod set;

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

pub use chart::{AGENT, CRDS, Chart};
pub use set::assign;

/// Why there are no manifests.
#[derive(Debug, thiserror::Error)]
pub enum ManifestsError {
    /// `--values`.
    #[error("the file of values {} can't be read", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// YAML.
    #[error("{origin} isn't YAML")]
    Yaml {
        /// Of where.
        origin: String,
        /// Why.
        source: serde_yaml_ng::Error,
    },
    /// `--set`.
    #[error("--set {text:?}: {why}")]
    Set {
        /// As given.
        text: String,
        /// What is wrong.
        why: String,
    },
    /// A value that the chart doesn't have or doesn't allow.
    #[error("{field}: {why} (`mesh-agent manifests --show-values` lists every value)")]
    Value {
        /// Its path.
        field: String,
        /// What was expected.
        why: String,
    },
    /// A template.
    #[error("{file}:{line}: {why}")]
    Template {
        /// Of the chart.
        file: String,
        /// From 1.
        line: usize,
        /// What is wrong.
        why: String,
    },
    /// Said by a template about values.
    #[error("{0}")]
    Refused(String),
}

/// What a chart is rendered for.
#[derive(Clone, Debug)]
pub struct Release {
    /// Its name.
    pub name: String,
    /// Where the objects go.
    pub namespace: String,
    /// Who is said to manage them.
    pub service: String,
}

/// Values over a chart's own, as Helm puts them together: maps are merged, everything else is replaced, null takes away.
pub fn merge(into: &mut Value, from: Value) {
    match (into, from) {
        (Value::Object(into), Value::Object(from)) => {
            for (key, value) in from {
                match into.get_mut(&key) {
                    _ if value.is_null() => drop(into.remove(&key)),
                    Some(known) if known.is_object() && value.is_object() => merge(known, value),
                    _ => drop(into.insert(key, value)),
                }
            }
        }
        (into, from) => *into = from,
    }
}

/// A file of values.
///
/// # Errors
/// It can't be read or isn't YAML.
pub fn read_values(path: &Path) -> Result<Value, ManifestsError> {
    let text = std::fs::read_to_string(path)
        .map_err(|source| ManifestsError::File { path: path.to_owned(), source })?;
    yaml(&path.display().to_string(), &text)
}

fn yaml(origin: &str, text: &str) -> Result<Value, ManifestsError> {
    let value: Option<Value> = serde_yaml_ng::from_str(text)
        .map_err(|source| ManifestsError::Yaml { origin: origin.to_owned(), source })?;
    Ok(value.unwrap_or_else(|| json!({})))
}

/// The objects of `chart` with `values` over its own, in one YAML text.
///
/// # Errors
/// A value that the chart doesn't have or doesn't allow, or a template that can't be rendered.
pub fn render(chart: &Chart, values: Value, release: &Release) -> Result<String, ManifestsError> {
    let mut all = chart.values()?;
    merge(&mut all, values);
    schema::check(&chart.schema()?, &all)?;
    let about = chart.about()?;
    let root = json!({
        "Values": all,
        "Chart": {"Name": about["name"], "Version": about["version"], "AppVersion": about["appVersion"]},
        "Files": chart.shown(),
        "Release": {"Name": release.name, "Namespace": release.namespace, "Service": release.service},
    });
    let templates = chart.templates()?;
    let mut out = String::new();
    for file in templates.files() {
        let text = eval::render(&templates, file, &root)?;
        for document in text.split("\n---\n").map(str::trim).filter(|document| !document.is_empty()) {
            out.push_str("---\n");
            out.push_str(document.trim_start_matches("---\n"));
            out.push('\n');
        }
    }
    Ok(out)
}

#[cfg(test)]
mod tests;

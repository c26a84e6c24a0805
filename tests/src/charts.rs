//! The charts under deploy/charts, as Helm and as the command line make objects of them.
//!
//! Helm itself, the schemas of every Kubernetes version and CEL are Python packages, asked through tests/peers/charts.py.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::peers::{python, script};

/// Objects by kind, namespace and name.
pub type Objects = BTreeMap<String, Value>;

/// A chart's directory.
pub fn chart(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../deploy/charts").join(name)
}

/// Asks charts.py.
///
/// # Errors
/// It isn't there, or fails.
pub fn ask(mode: &str, question: &Value) -> Result<Value> {
    let mut child = Command::new(python())
        .arg(script("charts.py"))
        .arg(mode)
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()?;
    child.stdin.take().context("stdin is piped")?.write_all(question.to_string().as_bytes())?;
    let output = child.wait_with_output()?;
    ensure!(output.status.success(), "charts.py {mode} failed (`cargo xtask setup` installs what it needs)");
    Ok(serde_json::from_slice(&output.stdout)?)
}

/// What `helm template` makes of a chart, or why it refuses.
///
/// # Errors
/// Helm isn't there.
pub fn by_helm(name: &str, values: &Value) -> Result<Result<Objects, String>> {
    let job = json!([{"chart": chart(name), "values": values, "namespace": "mesh"}]);
    let answer = ask("render", &job)?;
    if let Some(error) = answer[0]["error"].as_str() {
        return Ok(Err(error.to_owned()));
    }
    let objects = answer[0]["objects"].as_array().context("no objects")?;
    Ok(Ok(by_name(objects.iter().cloned())))
}

/// What `mesh-agent manifests` makes of it, or why it refuses.
///
/// # Errors
/// The binary can't be run.
pub fn by_cli(name: &str, values: &Value) -> Result<Result<Objects, String>> {
    let which = name.strip_prefix("mesh-").unwrap_or(name);
    let file = tempfile::NamedTempFile::new()?;
    std::fs::write(file.path(), values.to_string())?;
    let output = Command::new(crate::agent_binary()?)
        .args(["manifests", "--namespace", "mesh", "--chart", which, "--values"])
        .arg(file.path())
        .output()?;
    if !output.status.success() {
        ensure!(output.status.code() == Some(65), "exit code {:?}", output.status.code());
        return Ok(Err(String::from_utf8_lossy(&output.stderr).into_owned()));
    }
    Ok(Ok(by_name(documents(&String::from_utf8(output.stdout)?)?.into_iter())))
}

/// Objects of a YAML text.
///
/// # Errors
/// It isn't YAML.
pub fn documents(text: &str) -> Result<Vec<Value>> {
    let all = serde_yaml_ng::Deserializer::from_str(text).map(Option::<Value>::deserialize);
    let all = all.collect::<Result<Vec<_>, _>>()?;
    Ok(all.into_iter().flatten().collect())
}

fn by_name(objects: impl Iterator<Item = Value>) -> Objects {
    let name = |object: &Value| {
        let part = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let metadata = &object["metadata"];
        format!("{} {}/{}", part(&object["kind"]), part(&metadata["namespace"]), part(&metadata["name"]))
    };
    objects.map(|object| (name(&object), object)).collect()
}

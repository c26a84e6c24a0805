//! Every object that the suites of routing, policy and security give to agents, kept under `tests/corpus/`, a file for each suite.
//!
//! `kube_conditions` gives them all to an API server. While such a suite runs, each object that it writes is looked up here, and
//! one that isn't there fails the test that wrote it: the corpus can't fall behind. `MESH_CORPUS=record` writes a suite's file
//! anew. Names, ports and keys that are other ones in each run count for nothing.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use anyhow::{Context, Result};
use mesh_agent::lab::MeshDir;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// How the suites' names begin.
const SUITES: [&str; 12] = [
    "authorization",
    "backend_tls",
    "balancing",
    "destinationrule",
    "egress",
    "external_authorization",
    "mtls",
    "peer_authentication",
    "policies",
    "request_authentication",
    "routing",
    "upgrade_http2",
];
/// Groups whose objects are looked up. What else there is, of these kinds, is kept for what refers to it.
const GROUPS: [&str; 5] = [
    "gateway.networking.k8s.io/",
    "gateway.networking.x-k8s.io/",
    "mesh-agent.dev/",
    "networking.istio.io/",
    "security.istio.io/",
];
const CONTEXT: [&str; 3] = ["ConfigMap", "Namespace", "Service"];
/// A text of this length is a key or a certificate, and another one in each run.
const LONG: usize = 100;

/// Where tests put files; the directory in it is another one in each run.
const TEMPORARY: &str = "/tmp/.tmp";

/// What one write put into a file of an agent's directory.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Entry {
    /// The file; what is written to it later takes the place of what was there.
    pub file: String,
    /// The objects, but pods and the like.
    pub objects: Vec<Value>,
}

/// Whether a suite is one of those.
pub fn is_kept(suite: &str) -> bool {
    let is =
        |name: &str| suite.strip_prefix(name).is_some_and(|rest| rest.is_empty() || rest.starts_with('_'));
    SUITES.iter().any(|name| is(name))
}

/// Where they are.
pub fn directory() -> PathBuf {
    concat!(env!("CARGO_MANIFEST_DIR"), "/corpus").into()
}

/// What a suite wrote, in the order in which it did for each file.
///
/// # Errors
/// There is nothing of it.
pub fn entries(suite: &str) -> Result<Vec<Entry>> {
    let path = directory().join(format!("{suite}.yaml"));
    let text = fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
    let documents = serde_yaml_ng::Deserializer::from_str(&text);
    documents.map(|document| Ok(Entry::deserialize(document)?)).collect()
}

/// True for an object of a kind that the agent routes, judges or forwards by.
pub fn is_policy(object: &Value) -> bool {
    object["apiVersion"].as_str().is_some_and(|version| GROUPS.iter().any(|group| version.starts_with(group)))
}

/// Looks at what this process's suite writes from now on.
pub fn observe() {
    if suite().is_some_and(|suite| is_kept(&suite)) {
        MeshDir::observe(seen);
    }
}

/// As cargo names its program, without the hash.
fn suite() -> Option<String> {
    let program = std::env::current_exe().ok()?;
    let stem = program.file_stem()?.to_str()?;
    Some(stem.rsplit_once('-').map_or(stem, |(name, _)| name).to_owned())
}

fn seen(file: &str, text: &str) {
    static KNOWN: Mutex<Option<Known>> = Mutex::new(None);
    let Some(suite) = suite() else { return };
    let mut known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
    let recorded = std::env::var("MESH_CORPUS").is_ok_and(|what| what == "record");
    let known = known.get_or_insert_with(|| Known::read(&suite, recorded));
    let objects = parse(text);
    let entry = Entry {
        file: file.to_owned(),
        objects: objects.iter().filter(|it| is_of_use(it)).cloned().collect(),
    };
    if recorded {
        known.record(&suite, entry);
        return;
    }
    for object in entry.objects.iter().filter(|object| is_policy(object)) {
        assert!(
            known.objects.contains(&shape(object)),
            "tests/corpus/{suite}.yaml lacks this object: run the suite with MESH_CORPUS=record\n{object:#}"
        );
    }
}

/// What is in the file of a suite.
struct Known {
    entries: Vec<Entry>,
    objects: BTreeSet<String>,
}

impl Known {
    fn read(suite: &str, anew: bool) -> Self {
        let entries = if anew { Vec::new() } else { entries(suite).unwrap_or_default() };
        let objects = entries.iter().flat_map(|entry| &entry.objects).map(shape).collect();
        Self { entries, objects }
    }

    fn record(&mut self, suite: &str, entry: Entry) {
        let new: Vec<String> =
            entry.objects.iter().map(shape).filter(|shape| !self.objects.contains(shape)).collect();
        if new.is_empty() {
            return;
        }
        self.objects.extend(new);
        self.entries.push(entry);
        // Of several threads' writes the order is a matter of luck, but that to one file.
        self.entries.sort_by(|a, b| a.file.cmp(&b.file));
        let documents = self.entries.iter().map(|entry| serde_yaml_ng::to_string(entry).unwrap());
        let text: String = documents.map(|document| format!("---\n{document}")).collect();
        fs::create_dir_all(directory()).unwrap();
        fs::write(directory().join(format!("{suite}.yaml")), text).unwrap();
    }
}

/// What of it can be read; some suites write what can't.
fn parse(text: &str) -> Vec<Value> {
    let documents = serde_yaml_ng::Deserializer::from_str(text);
    documents.map_while(|document| Value::deserialize(document).ok()).collect()
}

fn is_of_use(object: &Value) -> bool {
    is_policy(object) || CONTEXT.iter().any(|kind| object["kind"] == *kind)
}

/// The object as a text that is the same in each run.
fn shape(object: &Value) -> String {
    fn plain(value: &Value) -> Value {
        match value {
            Value::String(text) if text.len() > LONG => "long".into(),
            Value::String(text) if text.starts_with(TEMPORARY) => {
                text.rsplit('/').next().unwrap_or_default().into()
            }
            Value::String(text) => plain_text(text).into(),
            Value::Number(number) if number.as_u64().is_some_and(|number| number >= 10_000) => 10_000.into(),
            Value::Array(all) => all.iter().map(plain).collect(),
            // Ports stand as keys, too.
            Value::Object(all) => {
                Value::Object(all.iter().map(|(key, value)| (plain_text(key), plain(value))).collect())
            }
            other => other.clone(),
        }
    }
    plain(object).to_string()
}

/// Without the numbers that ports, addresses and generated names have: those of five digits, those between dots, those
/// after `-r`.
fn plain_text(text: &str) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some(at) = rest.find(|c: char| c.is_ascii_digit()) {
        let (before, from) = rest.split_at(at);
        let end = from.find(|c: char| !c.is_ascii_digit()).unwrap_or(from.len());
        let (digits, after) = from.split_at(end);
        out.push_str(before);
        let generated =
            digits.len() >= 5 || out.ends_with("-r") || out.ends_with('.') || after.starts_with('.');
        out.push_str(if generated { "0" } else { digits });
        rest = after;
    }
    out + rest
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_each_run_makes_anew_is_told_from_what_a_test_means() {
        let object = |name: &str, port: u32, timeout: &str| {
            let address = format!("10.1.{}.7:{port}", port % 200);
            shape(
                &json!({"metadata": {"name": name}, "spec": {"port": port, "timeout": timeout, "to": address}}),
            )
        };
        assert_eq!(object("cart-r7", 20_001, "100ms"), object("cart-r12", 20_944, "100ms"));
        assert_ne!(object("cart-r7", 20_001, "100ms"), object("cart-r7", 20_001, "250ms"));
        assert_ne!(object("cart-v1", 80, "1s"), object("cart-v2", 80, "1s"));
        assert_ne!(object("cart", 80, "1s"), object("cart", 8080, "1s"));
        let ports = |port: &str| shape(&json!({"portLevelMtls": {port: {"mode": "STRICT"}}}));
        assert_eq!(ports("20010"), ports("20144"));
        assert_ne!(ports("8080"), ports("20144"));
    }

    #[test]
    fn every_suite_of_these_has_its_file_and_every_file_its_suite() {
        let names = |dir: PathBuf, ending: &str| -> BTreeSet<String> {
            let files =
                fs::read_dir(dir).unwrap().map(|file| file.unwrap().file_name().into_string().unwrap());
            files.filter_map(|name| name.strip_suffix(ending).map(str::to_owned)).collect()
        };
        let suites = names(concat!(env!("CARGO_MANIFEST_DIR"), "/tests").into(), ".rs");
        let kept: BTreeSet<String> = suites.into_iter().filter(|suite| is_kept(suite)).collect();
        let mut there = names(directory(), ".yaml");
        assert!(there.remove("invalid"), "what no suite writes");
        assert_eq!(there, kept);
        for suite in &kept {
            assert!(!entries(suite).unwrap().is_empty(), "{suite}");
        }
    }
}

//! Every object that the suites of routing, policy and security give to agents, the documentation's examples and objects that are
//! wrong in many ways, at a real API server: their conditions say what `analyze` says of the same objects.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use mesh_tests::controllers::{Stage, stage};
use mesh_tests::corpus::{self, Entry};
use mesh_tests::lab::eventually;
use serde::Deserialize;
use serde_json::{Value, json};

/// For all of them to be seen, built and written on a busy machine.
const ALL: Duration = Duration::from_secs(180);
/// Resources with a status of ours.
const JUDGED: [&str; 12] = [
    "httproutes",
    "grpcroutes",
    "tlsroutes",
    "tcproutes",
    "trafficpolicies",
    "xbackendtrafficpolicies",
    "backendtlspolicies",
    "authorizationpolicies",
    "peerauthentications",
    "requestauthentications",
    "destinationrules",
    "serviceentries",
];
/// What these refer to.
const CONTEXT: [&str; 6] =
    ["namespaces", "services", "pods", "serviceaccounts", "referencegrants", "configmaps"];

/// What there is after each write to a file, as worlds of their own: every namespace under another name, so that all can be there at
/// once. Services are in each world, since nothing of a suite takes them away.
fn worlds(suite: usize, entries: &[Entry]) -> Vec<Value> {
    let mut files: BTreeMap<&str, Vec<&Entry>> = BTreeMap::new();
    for entry in entries {
        files.entry(&entry.file).or_default().push(entry);
    }
    let rounds = files.values().map(Vec::len).max().unwrap_or_default();
    let services: Vec<&Value> =
        entries.iter().flat_map(|entry| &entry.objects).filter(|object| !corpus::is_policy(object)).collect();
    let mut all = Vec::new();
    for round in 0..rounds {
        let written =
            files.values().filter_map(|entries| entries.get(round)).flat_map(|entry| &entry.objects);
        let of_it: Vec<&Value> =
            services.iter().copied().chain(written.filter(|object| corpus::is_policy(object))).collect();
        all.extend(apart(&of_it, &format!("s{suite}r{round}")));
    }
    all
}

/// The objects with the names of their namespaces marked.
fn apart(objects: &[&Value], mark: &str) -> Vec<Value> {
    let namespace = |object: &&Value| {
        let name = if object["kind"] == "Namespace" { "name" } else { "namespace" };
        object["metadata"][name].as_str().unwrap_or("default").to_owned()
    };
    let namespaces: BTreeSet<String> = objects.iter().map(namespace).collect();
    let made = namespaces.iter().map(|name| {
        let labels = json!({"mesh-agent.dev/dataplane-mode": "enabled"});
        json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": moved(name, mark), "labels": labels}})
    });
    let rest = objects.iter().filter(|object| object["kind"] != "Namespace").map(|object| {
        let mut object = (*object).clone();
        if object["metadata"]["namespace"].is_null() {
            object["metadata"]["namespace"] = "default".into();
        }
        if object["metadata"]["namespace"] == ROOT {
            // What is the mesh's stays there, under another name.
            object["metadata"]["name"] =
                format!("{}-{mark}", object["metadata"]["name"].as_str().unwrap()).into();
        }
        rename(&mut object, "", &namespaces, mark);
        if object["kind"] == "Service" {
            here(&mut object["spec"]);
        }
        object
    });
    made.chain(rest).collect()
}

const ROOT: &str = "istio-system";

fn moved(namespace: &str, mark: &str) -> String {
    if namespace == ROOT { ROOT.to_owned() } else { format!("{namespace}-{mark}") }
}

fn rename(value: &mut Value, field: &str, namespaces: &BTreeSet<String>, mark: &str) {
    match value {
        Value::String(text)
            if ["namespace", "namespaces"].contains(&field) && namespaces.contains(text.as_str()) =>
        {
            *text = moved(text, mark);
        }
        Value::String(text) => {
            for namespace in namespaces {
                let to = moved(namespace, mark);
                *text = text.replace(&format!(".{namespace}.svc"), &format!(".{to}.svc"));
                *text = text.replace(&format!("/ns/{namespace}/"), &format!("/ns/{to}/"));
            }
        }
        Value::Array(all) => all.iter_mut().for_each(|value| rename(value, field, namespaces, mark)),
        Value::Object(all) => {
            all.iter_mut().for_each(|(field, value)| rename(value, field, namespaces, mark))
        }
        _ => {}
    }
}

/// A Service's address is the API server's to give, of the one family that it has.
fn here(spec: &mut Value) {
    let Some(spec) = spec.as_object_mut() else { return };
    let headless = spec.get("clusterIP").is_some_and(|address| address == "None");
    for field in ["clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy"] {
        spec.remove(field);
    }
    if headless {
        spec.insert("clusterIP".to_owned(), "None".into());
    }
}

fn suites() -> Vec<String> {
    let files = fs::read_dir(corpus::directory()).unwrap();
    let mut suites: Vec<String> =
        files.filter_map(|file| Some(file.unwrap().path().file_stem()?.to_str()?.to_owned())).collect();
    suites.sort();
    suites
}

/// The files of docs/examples, each a world of its own.
fn examples() -> Vec<Value> {
    let directory = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/examples");
    let mut paths: Vec<_> = fs::read_dir(directory).unwrap().map(|file| file.unwrap().path()).collect();
    paths.sort();
    let mut all = Vec::new();
    for (at, path) in paths.iter().enumerate() {
        let text = fs::read_to_string(path).unwrap();
        let documents = serde_yaml_ng::Deserializer::from_str(&text);
        let objects: Vec<Value> = documents.map(|document| Value::deserialize(document).unwrap()).collect();
        let of_use: Vec<&Value> = objects
            .iter()
            .filter(|object| {
                corpus::is_policy(object) || object["kind"] == "Service" || object["kind"] == "Namespace"
            })
            .collect();
        all.extend(apart(&of_use, &format!("d{at}")));
    }
    all
}

fn key(object: &Value) -> String {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let metadata = &object["metadata"];
    format!("{} {}/{}", text(&object["kind"]), text(&metadata["namespace"]), text(&metadata["name"]))
}

/// Every object of a resource.
fn listed(stage: &Stage, resource: &str) -> Result<Vec<Value>> {
    let text = stage.cluster.kubectl(&["get", resource, "--all-namespaces", "-o", "json"], "")?;
    let list: Value = serde_json::from_str(&text)?;
    Ok(list["items"].as_array().context("no list")?.clone())
}

fn write(directory: &Path, file: &str, objects: &[Value]) {
    let text: Vec<String> = objects.iter().map(Value::to_string).collect();
    fs::write(directory.join(file), text.join("\n---\n")).unwrap();
}

/// What `analyze` says of an object.
#[derive(Debug, Deserialize)]
struct Finding {
    severity: String,
    object: String,
    field: String,
    message: String,
}

/// What it says of the objects in a directory, but notes.
fn analyzed(directory: &Path) -> BTreeMap<String, Vec<Finding>> {
    let mut command = Command::new(mesh_tests::agent_binary().unwrap());
    let output = command.args(["analyze", "-o", "json"]).arg(directory).output().unwrap();
    let findings: Vec<Finding> = serde_json::from_slice(&output.stdout).unwrap();
    let mut by_object: BTreeMap<String, Vec<Finding>> = BTreeMap::new();
    for finding in findings.into_iter().filter(|finding| finding.severity != "info") {
        by_object.entry(finding.object.clone()).or_default().push(finding);
    }
    by_object
}

/// A condition of ours.
#[derive(Debug)]
struct Said {
    bad: bool,
    message: String,
    generation: Value,
}

fn said(object: &Value) -> Vec<Said> {
    let status = &object["status"];
    let lists = ["parents", "ancestors"].iter().filter_map(|list| status[*list].as_array()).flatten();
    let entries = lists.filter(|entry| entry["controllerName"] == "mesh-agent.dev/controller");
    let of_entries = entries.flat_map(|entry| entry["conditions"].as_array().unwrap());
    let whole = status["conditions"].as_array().into_iter().flatten();
    let whole = whole.filter(|condition| condition["type"] == "mesh-agent.dev/Accepted");
    let one = |condition: &Value| Said {
        bad: condition["status"] == if condition["type"] == "PartiallyInvalid" { "True" } else { "False" },
        message: condition["message"].as_str().unwrap().to_owned(),
        generation: condition["observedGeneration"].clone(),
    };
    of_entries.chain(whole).map(one).collect()
}

/// True for objects that name nothing which we have to say anything about.
fn is_silent(object: &Value) -> bool {
    let refs = object["spec"]["parentRefs"].as_array();
    refs.is_some_and(|refs| refs.iter().all(|parent| parent["kind"] != "Service"))
}

/// Where an object's conditions and what `analyze` says of it differ.
fn difference(object: &Value, findings: &[Finding]) -> Option<String> {
    let said = said(object);
    if said.is_empty() {
        return (!is_silent(object)).then(|| "it has no conditions".to_owned());
    }
    if let Some(old) = said.iter().find(|it| it.generation != object["metadata"]["generation"]) {
        return Some(format!("a condition is of generation {}", old.generation));
    }
    let untold = |finding: &&Finding| !said.iter().any(|it| it.message.contains(&finding.message));
    if let Some(finding) = findings.iter().find(untold) {
        return Some(format!("no condition says: {}", finding.message));
    }
    // In the same words, or about the same field.
    let told = |it: &Said| {
        let of_field = |field: &str| !field.is_empty() && it.message.contains(field);
        findings.iter().any(|finding| it.message.contains(&finding.message) || of_field(&finding.field))
    };
    if let Some(alone) = said.iter().find(|it| (it.bad || !it.message.is_empty()) && !told(it)) {
        return Some(format!("only the condition says: {alone:?}"));
    }
    let error = findings.iter().any(|finding| finding.severity == "error");
    (error && !said.iter().any(|it| it.bad)).then(|| "an error, and all conditions are good".to_owned())
}

#[test]
fn conditions_say_what_analyze_says() {
    let Some(turn) = stage() else { return };
    let stage = &*turn.stage;
    let mut objects: Vec<Value> = suites()
        .iter()
        .enumerate()
        .flat_map(|(at, suite)| worlds(at, &corpus::entries(suite).unwrap()))
        .collect();
    objects.extend(examples());
    objects.sort_by_key(|object| (object["kind"] != "Namespace", object["kind"] != "Service"));
    // The API server refuses some: those are looked at below.
    let refused = stage.cluster.apply(&objects).err().map(|error| format!("{error:#}")).unwrap_or_default();

    let directory = tempfile::tempdir().unwrap();
    let mut compared = BTreeMap::new();
    eventually(ALL, || {
        for resource in CONTEXT {
            write(directory.path(), &format!("{resource}.yaml"), &listed(stage, resource)?);
        }
        let mut judged = Vec::new();
        for resource in JUDGED {
            let objects = listed(stage, resource)?;
            write(directory.path(), &format!("{resource}.yaml"), &objects);
            judged.extend(objects);
        }
        let findings = analyzed(directory.path());
        let none = Vec::new();
        let differences: Vec<String> = judged
            .iter()
            .filter_map(|object| {
                let key = key(object);
                let difference = difference(object, findings.get(&key).unwrap_or(&none))?;
                Some(format!("{key}: {difference}"))
            })
            .collect();
        compared = judged.iter().map(|object| (key(object), findings.contains_key(&key(object)))).collect();
        ensure!(
            differences.is_empty(),
            "{} of {}:\n{}",
            differences.len(),
            judged.len(),
            differences.join("\n")
        );
        Ok(())
    })
    .unwrap();

    // What isn't there is what the API server didn't take, and that is wrong by `analyze` too.
    let given =
        objects.iter().filter(|object| corpus::is_policy(object) && object["kind"] != "ReferenceGrant");
    let missing: Vec<&Value> = given.filter(|object| !compared.contains_key(&key(object))).collect();
    let alone = tempfile::tempdir().unwrap();
    write(alone.path(), "refused.yaml", &missing.iter().map(|object| (*object).clone()).collect::<Vec<_>>());
    let findings = analyzed(alone.path());
    for object in &missing {
        let key = key(object);
        let errors = findings.get(&key).into_iter().flatten().filter(|finding| finding.severity == "error");
        assert!(errors.count() > 0, "{key}: refused by the API server alone:\n{refused}");
    }
    let wrong = compared.values().filter(|wrong| **wrong).count();
    println!("{} objects compared, {wrong} with something wrong, {} refused", compared.len(), missing.len());
    assert!(
        compared.len() > 300 && wrong > 30 && missing.len() < 40,
        "{} {wrong} {}",
        compared.len(),
        missing.len()
    );
}

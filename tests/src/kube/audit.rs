//! What an account asks the API server, by its audit log; and what RBAC rules let it ask.

use std::collections::BTreeSet;
use std::fs;

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::Cluster;

/// A permission: verb, group, resource with its subresource.
pub type Right = (String, String, String);

/// Requests of an account.
#[derive(Debug, Default)]
pub struct Asked {
    /// What they needed permission for.
    pub rights: BTreeSet<Right>,
    /// Those that were refused for want of permission.
    pub forbidden: BTreeSet<Right>,
}

impl Cluster {
    /// Starts the API server anew, to write down what `user` asks from then on.
    ///
    /// # Errors
    /// It isn't this process's own, or doesn't come up again.
    pub fn audit(&self, user: &str) -> Result<()> {
        let (policy, log) = (self.dir()?.join("audit-policy.json"), self.dir()?.join("audit.log"));
        let rules = json!([{"level": "Metadata", "users": [user]}, {"level": "None"}]);
        // At every stage: of a watch only the first is written down before it ends.
        let text = json!({"apiVersion": "audit.k8s.io/v1", "kind": "Policy", "rules": rules});
        fs::write(&policy, text.to_string())?;
        self.kill("kube-apiserver")?;
        self.revive_with(
            "kube-apiserver",
            &[
                format!("--audit-policy-file={}", policy.display()),
                format!("--audit-log-path={}", log.display()),
            ],
        )
    }

    /// What was asked since [`Cluster::audit`].
    ///
    /// # Errors
    /// The log can't be read.
    pub fn asked(&self) -> Result<Asked> {
        let text = fs::read_to_string(self.dir()?.join("audit.log")).context("reading the audit log")?;
        let mut asked = Asked::default();
        // The last line may be in writing.
        for event in text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok()) {
            let word = |value: &Value| value.as_str().unwrap_or_default().to_owned();
            let object = &event["objectRef"];
            let Some(resource) = object["resource"].as_str() else { continue };
            let resource = match object["subresource"].as_str() {
                Some(sub) => format!("{resource}/{sub}"),
                None => resource.to_owned(),
            };
            let right = (word(&event["verb"]), word(&object["apiGroup"]), resource);
            if event["annotations"]["authorization.k8s.io/decision"] == "forbid" {
                asked.forbidden.insert(right.clone());
            }
            asked.rights.insert(right);
        }
        Ok(asked)
    }
}

/// Every permission that these rules give.
pub fn granted(rules: &Value) -> BTreeSet<Right> {
    let words = |value: &Value| -> Vec<String> {
        value.as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
    };
    let mut all = BTreeSet::new();
    for rule in rules.as_array().into_iter().flatten() {
        for group in words(&rule["apiGroups"]) {
            for resource in words(&rule["resources"]) {
                all.extend(
                    words(&rule["verbs"]).into_iter().map(|verb| (verb, group.clone(), resource.clone())),
                );
            }
        }
    }
    all
}

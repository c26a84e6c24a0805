//! One policy, compiled by itself: whom it selects, what it does, its rules.
//!
//! What can't be judged fails closed here: an ALLOW rule with such a part never matches and is left out, any other rule
//! matches as if the part weren't there.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::name::RuleName;
use super::path::Normalization;
use super::rule::{Making, Rule};
use crate::model::{ObjectName, Workload};
use crate::objects::{Action, AuthorizationPolicy, ConditionKey};

/// What policies of this namespace hold for all namespaces (Istio's default for `rootNamespace`).
const ROOT: &str = "istio-system";

/// What a policy is made with, and how requests are read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// The own trust domain, then its aliases.
    pub trust_domains: Vec<String>,
    /// What Istio's own reading does to a path.
    pub normalization: Normalization,
    /// Proxies before the peer whose X-Forwarded-For is believed.
    pub trusted_hops: usize,
    /// The namespace whose policies hold for all.
    pub root: String,
}

impl Default for Options {
    fn default() -> Self {
        let normalization = Normalization::default();
        Self {
            trust_domains: vec!["cluster.local".into()],
            normalization,
            trusted_hops: 0,
            root: ROOT.into(),
        }
    }
}

/// Whom a policy selects.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Selection {
    /// Pods of its namespace, or of all if that is the root's, that carry these labels.
    Pods(BTreeMap<String, String>),
    /// Pods behind these Services of its namespace, at the Services' ports.
    Services(Vec<String>),
}

/// A policy.
#[derive(Debug)]
pub struct Policy {
    /// Namespace and name.
    pub name: ObjectName,
    /// What it does.
    pub action: Action,
    /// It is judged but not enforced.
    pub dry_run: bool,
    /// For whom.
    pub selection: Selection,
    /// Those that can match.
    pub rules: Box<[Rule]>,
    /// It holds for all namespaces.
    pub of_root: bool,
}

impl Policy {
    /// Of an object that is valid by itself.
    pub fn new(object: &AuthorizationPolicy, options: &Options) -> Self {
        let name = ObjectName::new(object.namespace(), &object.metadata.name);
        let (action, dry_run) = (object.spec.action, object.is_dry_run());
        let provider = object.spec.provider.as_ref().map(|provider| provider.name.as_str());
        let making = Making { namespace: &name.namespace, domains: &options.trust_domains, action };
        let rules = object.spec.rules.iter().enumerate();
        let rules = rules.filter(|(at, _)| action != Action::Allow || !Self::is_closed(object, *at));
        let rules = rules.map(|(at, spec)| {
            making.rule(Arc::new(RuleName::new(&name, at, action, dry_run, provider)), spec)
        });
        let of_root = name.namespace == options.root;
        Self { rules: rules.collect(), selection: Selection::of(object), action, dry_run, of_root, name }
    }

    /// True if a part of rule `at`, or of the policy as a whole, can't be judged.
    fn is_closed(object: &AuthorizationPolicy, at: usize) -> bool {
        let rule = format!("spec.rules[{at}].");
        let noted = |field: &str| !field.starts_with("spec.rules[") || field.starts_with(&rule);
        let unknown = |key: &str| matches!(ConditionKey::parse(key), ConditionKey::Unknown(_));
        object.notes.iter().any(|note| noted(&note.field))
            || object.spec.rules[at].when.iter().any(|when| unknown(&when.key))
    }

    /// True if it selects a pod, whatever else it may be for.
    pub fn selects(&self, workload: &Workload) -> bool {
        match &self.selection {
            Selection::Services(_) => false,
            Selection::Pods(labels) => {
                let there = self.of_root || self.name.namespace == workload.name.namespace;
                there && labels.iter().all(|(label, value)| workload.labels.get(label) == Some(value))
            }
        }
    }
}

impl Selection {
    fn of(object: &AuthorizationPolicy) -> Self {
        let mut targets = object.targets().peekable();
        if targets.peek().is_none() {
            return Self::Pods(object.labels().cloned().unwrap_or_default());
        }
        Self::Services(
            targets.filter(|target| target.is_service()).map(|target| target.name.clone()).collect(),
        )
    }
}

//! What people are told about RequestAuthentications that aren't refused: what lets no token hold, and what is hardly meant.

use std::collections::BTreeMap;

use crate::authz::Selection;
use crate::jwt::{KeySet, Keys};
use crate::model::{ObjectName, Snapshot, Warning, WarningCode};
use crate::objects::{Kind, ObjectKey, RequestAuthentication};

/// Of the object alone.
pub(super) fn of(key: &ObjectKey, policy: &RequestAuthentication) -> Vec<Warning> {
    let mut warnings = Vec::new();
    let mut warn = |code: WarningCode, field: String, message: String| {
        warnings.push(Warning::new(code, key, field, message));
    };
    if policy.stands_in {
        let message =
            "has no valid version: until it has, no token holds where it would, for all that it may select";
        warn(WarningCode::PolicyClosed, String::new(), message.into());
        return warnings;
    }
    for note in &policy.notes {
        let which = if note.field.starts_with("spec.jwtRules[") { "its rule" } else { "its rules" };
        let message = format!(
            "isn't a field of RequestAuthentication: no token holds by {which} until it is corrected or removed"
        );
        warn(WarningCode::RuleClosed, note.field.clone(), message);
    }
    for (at, target) in policy.targets().enumerate().filter(|(_, target)| !target.is_service()) {
        let message = format!(
            "{} of group {:?} is no target for a node agent, whose traffic doesn't pass one: this policy does nothing for it \
             here; name a Service of the core group",
            target.kind, target.group
        );
        warn(WarningCode::UnsupportedReference, format!("spec.targetRefs[{at}].kind"), message);
    }
    for (at, rule) in policy.spec.jwt_rules.iter().enumerate() {
        let field = format!("spec.jwtRules[{at}]");
        if rule.jwks.is_empty() && super::source(rule).is_none() {
            let message = format!(
                "names no keys, and its issuer {:?} isn't a URL whose OpenID configuration could: every token of it is \
                 refused; give jwksUri or jwks",
                rule.issuer
            );
            warn(WarningCode::NoKeySource, field.clone(), message);
        }
        let before = policy.spec.jwt_rules[..at].iter();
        if let Some(first) =
            before.enumerate().find(|(_, other)| other.issuer == rule.issuer).map(|(at, _)| at)
        {
            let message = format!(
                "is the issuer of jwtRules[{first}] too: a token that holds by either is accepted; merge the two"
            );
            warn(WarningCode::DuplicateIssuer, format!("{field}.issuer"), message);
        }
        if let Ok(keys) = KeySet::parse(rule.jwks.as_bytes()) {
            for why in keys.passed_over() {
                let message = format!("{why}: no token holds by it, the other keys serve");
                warn(WarningCode::UnsupportedValue, format!("{field}.jwks"), message);
            }
        }
    }
    warnings
}

/// Of what is in force.
pub(super) fn of_all(snapshot: &Snapshot, mut add: impl FnMut(&ObjectKey, Warning)) {
    for policy in snapshot.authentication.policies.values() {
        let key = ObjectKey { kind: Kind::RequestAuthentication, name: policy.name.clone() };
        let mut warn =
            |code, field: &str, message: String| add(&key, Warning::new(code, &key, field, message));
        match &policy.selection {
            Selection::Pods(_) if !snapshot.workloads.values().any(|workload| policy.selects(workload)) => {
                let message = "selects no pod that the agent knows: it does nothing until there is one; check its namespace \
                               and labels";
                warn(WarningCode::SelectsNothing, "spec.selector", message.into());
            }
            Selection::Pods(_) => {}
            Selection::Services(names) => {
                let missing = names.iter().filter(|name| {
                    !snapshot.services.contains_key(&ObjectName::new(&policy.name.namespace, name.as_str()))
                });
                for name in missing {
                    let message = format!(
                        "there is no Service {}/{name}: the policy holds as soon as there is",
                        policy.name.namespace
                    );
                    warn(WarningCode::TargetNotFound, "spec.targetRefs", message);
                }
            }
        }
        for rule in &policy.rules {
            let Keys::Remote(remote) = &rule.keys else { continue };
            let Some(problem) = remote.problem() else { continue };
            let consequence = match remote.keys() {
                Some(_) => "those fetched before stay in force",
                None => "every token of it is refused until they are",
            };
            let source = &remote.spec().source;
            let message = format!("its keys can't be fetched from {source} ({problem}): {consequence}");
            warn(WarningCode::KeysNotFetched, &format!("spec.jwtRules[{}]", rule.index), message);
        }
    }
    duplicates(snapshot, &mut add);
}

/// Issuers that several policies have rules for, which select one pod. Within one policy it is said of the object.
fn duplicates(snapshot: &Snapshot, add: &mut impl FnMut(&ObjectKey, Warning)) {
    for (pod, tokens) in snapshot.authentication.workloads.iter() {
        let mut first: BTreeMap<&str, &ObjectName> = BTreeMap::new();
        for rule in tokens.all.rules() {
            let Some(issuer) = rule.expected.issuer.as_deref() else { continue };
            match first.get(issuer) {
                Some(other) if **other != rule.object => {
                    let key = ObjectKey { kind: Kind::RequestAuthentication, name: rule.object.clone() };
                    let message = format!(
                        "RequestAuthentication {other} has a rule for issuer {issuer:?} too, and both select Pod {pod}: a token \
                         that holds by either is accepted; merge the two"
                    );
                    let field = format!("spec.jwtRules[{}].issuer", rule.index);
                    add(&key, Warning::new(WarningCode::DuplicateIssuer, &key, field, message));
                }
                Some(_) => {}
                None => drop(first.insert(issuer, &rule.object)),
            }
        }
    }
}

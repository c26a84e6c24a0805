//! What people are told about AuthorizationPolicies that aren't refused: what fails closed, and what is hardly meant.

use std::sync::Arc;

use crate::authz::{Policy, is_in_normal_form};
use crate::model::{AppProtocol, ObjectName, Snapshot, Warning, WarningCode, Workload};
use crate::objects::{Action, AuthorizationPolicy, ConditionKey, ObjectKey, RuleSpec};

/// Of the object alone.
pub(super) fn of(key: &ObjectKey, policy: &AuthorizationPolicy) -> Vec<Warning> {
    let mut warnings = Vec::new();
    let mut warn = |code: WarningCode, field: String, message: String| {
        warnings.push(Warning::new(code, key, field, message));
    };
    let action = policy.spec.action;
    if policy.stands_in {
        let message = format!("has no valid version: until it has, {}", closed(action));
        warn(WarningCode::PolicyClosed, String::new(), message);
        return warnings;
    }
    for note in &policy.notes {
        let message = format!("isn't a field of AuthorizationPolicy: {}", part_closed(action, &note.field));
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
    if action == Action::Allow && policy.spec.rules.is_empty() {
        let message = "has no rule: nothing is allowed by it, and what no other policy allows is denied; add the rule {} if \
                       everything is to be allowed";
        warn(WarningCode::AllowsNothing, "spec.rules".into(), message.into());
    }
    for (at, rule) in policy.spec.rules.iter().enumerate() {
        of_rule(action, &format!("spec.rules[{at}]"), rule, &mut warn);
    }
    warnings
}

fn of_rule(action: Action, at: &str, rule: &RuleSpec, warn: &mut impl FnMut(WarningCode, String, String)) {
    for (place, when) in rule.when.iter().enumerate() {
        if let ConditionKey::Unknown(why) = ConditionKey::parse(&when.key) {
            let field = format!("{at}.when[{place}].key");
            let message = format!("{:?} isn't supported ({why}): {}", when.key, part_closed(action, &field));
            warn(WarningCode::RuleClosed, field, message);
        }
    }
    for (place, to) in rule.to.iter().flatten().enumerate() {
        let paths = [("paths", &to.operation.paths), ("notPaths", &to.operation.not_paths)];
        for (name, path) in paths.iter().flat_map(|(name, paths)| paths.iter().map(move |path| (name, path)))
        {
            if !is_in_normal_form(path) {
                let field = format!("{at}.to[{place}].operation.{name}");
                let message = format!(
                    "{path:?} isn't as a request's path is judged: write it decoded, with single slashes and without dot \
                     segments, or it may never match"
                );
                warn(WarningCode::PathNotNormal, field, message);
            }
        }
    }
    for (place, from) in rule.from.iter().flatten().enumerate().filter(|_| action == Action::Allow) {
        let source = &from.source;
        let excludes = [&source.not_principals, &source.not_namespaces, &source.not_service_accounts];
        let names = [&source.principals, &source.namespaces, &source.service_accounts];
        if excludes.iter().any(|list| !list.is_empty()) && names.iter().all(|list| list.is_empty()) {
            let field = format!("{at}.from[{place}].source");
            let message = "allows clients of which nothing proves who they are, too: identities come from mutual TLS, and what has \
                           none is none of those excluded; add principals: [\"*\"] to let in only those that have one";
            warn(WarningCode::AllowsAnonymous, field, message.into());
        }
    }
}

fn closed(action: Action) -> &'static str {
    match action {
        Action::Allow => {
            "it allows nothing, and what no other policy allows is denied, for all that it may select"
        }
        Action::Audit => "it audits nothing",
        Action::Deny | Action::Custom => "EVERYTHING that it may select is denied",
    }
}

/// What becomes of the part that can't be judged.
fn part_closed(action: Action, field: &str) -> &'static str {
    match (action, field.starts_with("spec.rules[")) {
        (Action::Allow, true) => "its rule never matches, and allows nothing; correct or remove it",
        (Action::Allow, false) => {
            "none of its rules ever matches, and nothing is allowed by it; correct or remove it"
        }
        (_, true) => "its rule matches as if it weren't there; correct or remove it",
        (_, false) => "the policy holds as if it weren't there; correct or remove it",
    }
}

/// Ports that carry no requests, with the pods behind them.
pub(super) fn opaque_ports(snapshot: &Snapshot) -> Vec<(Arc<Workload>, u16)> {
    let ports = snapshot.services.values().flat_map(|service| &service.ports);
    let opaque = ports.filter(|port| matches!(port.protocol, AppProtocol::Tcp | AppProtocol::Tls));
    let endpoints = opaque.flat_map(|port| &port.endpoints.all);
    endpoints.filter_map(|endpoint| Some((endpoint.workload.clone()?, endpoint.addr.port()))).collect()
}

/// Of one that selects pods by their labels.
pub(super) fn of_pods(
    key: &ObjectKey,
    policy: &Policy,
    snapshot: &Snapshot,
    opaque: &[(Arc<Workload>, u16)],
) -> Vec<Warning> {
    if !snapshot.workloads.values().any(|workload| policy.selects(workload)) {
        let message = "selects no pod that the agent knows: it does nothing until there is one; check its namespace and labels";
        return vec![Warning::new(WarningCode::SelectsNothing, key, "spec.selector", message)];
    }
    let mut warnings = Vec::new();
    for rule in &policy.rules {
        let met = opaque.iter().find(|(workload, port)| policy.selects(workload) && rule.meets_bytes(*port));
        if let Some((workload, port)) = met {
            let consequence = match policy.action {
                Action::Allow => "it allows no connection there",
                _ => "that part isn't there, and the rest matches every connection there",
            };
            let message = format!(
                "asks for what only requests have, but port {port} of Pod {} carries bytes: {consequence}; give the rule's ports",
                workload.name
            );
            let field = format!("spec.rules[{}]", rule.name.rule);
            warnings.push(Warning::new(WarningCode::HttpOnBytes, key, field, message));
        }
    }
    warnings
}

/// Of one that names Services.
pub(super) fn of_services(key: &ObjectKey, names: &[String], snapshot: &Snapshot) -> Vec<Warning> {
    let missing = names
        .iter()
        .filter(|name| !snapshot.services.contains_key(&ObjectName::new(&key.name.namespace, name.as_str())));
    missing
        .map(|name| {
            let message = format!(
                "there is no Service {}/{name}: the policy holds as soon as there is",
                key.name.namespace
            );
            Warning::new(WarningCode::TargetNotFound, key, "spec.targetRefs", message)
        })
        .collect()
}

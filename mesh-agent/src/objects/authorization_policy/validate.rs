//! What Istio's validation refuses (`ValidateAuthorizationPolicy`, `pkg/config/security`): such an object never comes into
//! force, its last valid version stays.
//!
//! Keys of `when` that nothing knows aren't refused here: `crate::authz` lets their rules fail closed, each by itself.

use std::net::IpAddr;

use super::{Action, AuthorizationPolicySpec, ConditionKey, OperationSpec, RuleSpec, SourceSpec, WhenSpec};
use crate::authz::{Networks, Template};
use crate::objects::{FieldError, target_ref};

type Checked = Result<(), FieldError>;

pub(super) fn policy(spec: &AuthorizationPolicySpec) -> Checked {
    target_ref::check(spec.selector.as_ref(), spec.target_ref.as_ref(), &spec.target_refs)?;
    action(spec)?;
    for (at, rule) in spec.rules.iter().enumerate() {
        self::rule(rule).map_err(|error| error.within(&format!("spec.rules[{at}]")))?;
        if spec.action == Action::Custom {
            asked_outside(rule).map_err(|error| error.within(&format!("spec.rules[{at}]")))?;
        }
    }
    Ok(())
}

fn action(spec: &AuthorizationPolicySpec) -> Checked {
    let provider = spec.provider.as_ref().map(|provider| provider.name.as_str());
    match spec.action {
        Action::Deny | Action::Custom if spec.rules.is_empty() => {
            let message = format!(
                "an action {} without rules would match nothing: add the rule {{}}, if everything is meant",
                spec.action.name()
            );
            refuse("spec.rules", &message)
        }
        Action::Custom if provider.unwrap_or_default().is_empty() => {
            refuse("spec.provider", "action CUSTOM needs the name of a provider")
        }
        Action::Allow | Action::Deny | Action::Audit if provider.is_some() => {
            refuse("spec.provider", "only action CUSTOM has a provider: remove it or correct the action")
        }
        _ => Ok(()),
    }
}

fn rule(rule: &RuleSpec) -> Checked {
    for (field, empty) in [
        ("from", rule.from.as_ref().is_some_and(Vec::is_empty)),
        ("to", rule.to.as_ref().is_some_and(Vec::is_empty)),
    ] {
        if empty {
            return refuse(field, "is empty: leave it out where anything is meant");
        }
    }
    for (at, from) in rule.from.iter().flatten().enumerate() {
        source(&from.source).map_err(|error| error.within(&format!("from[{at}].source")))?;
    }
    for (at, to) in rule.to.iter().flatten().enumerate() {
        operation(&to.operation).map_err(|error| error.within(&format!("to[{at}].operation")))?;
    }
    for (at, when) in rule.when.iter().enumerate() {
        condition(when).map_err(|error| error.within(&format!("when[{at}]")))?;
    }
    Ok(())
}

fn source(source: &SourceSpec) -> Checked {
    let identities = [&source.principals, &source.not_principals, &source.namespaces, &source.not_namespaces];
    let accounts = [&source.service_accounts, &source.not_service_accounts];
    if accounts.iter().any(|list| !list.is_empty()) && identities.iter().any(|list| !list.is_empty()) {
        return refuse("serviceAccounts", "can't stand beside principals or namespaces in one source");
    }
    not_empty(source.lists())?;
    each("serviceAccounts", &source.service_accounts, service_account)?;
    each("notServiceAccounts", &source.not_service_accounts, service_account)?;
    each("ipBlocks", &source.ip_blocks, network)?;
    each("notIpBlocks", &source.not_ip_blocks, network)?;
    each("remoteIpBlocks", &source.remote_ip_blocks, network)?;
    each("notRemoteIpBlocks", &source.not_remote_ip_blocks, network)
}

fn operation(operation: &OperationSpec) -> Checked {
    not_empty(operation.lists())?;
    each("ports", &operation.ports, port)?;
    each("notPorts", &operation.not_ports, port)?;
    each("paths", &operation.paths, path)?;
    each("notPaths", &operation.not_paths, path)
}

fn condition(when: &WhenSpec) -> Checked {
    if when.key.is_empty() {
        return refuse("key", "is empty");
    }
    if when.values.is_empty() && when.not_values.is_empty() {
        return refuse("values", "a condition needs values or notValues");
    }
    let check: fn(&str) -> Result<(), String> = match ConditionKey::parse(&when.key) {
        ConditionKey::SourceIp | ConditionKey::RemoteIp | ConditionKey::DestinationIp => network,
        ConditionKey::DestinationPort => port,
        ConditionKey::ServiceAccount => service_account,
        _ => |_| Ok(()),
    };
    for (field, values) in [("values", &when.values), ("notValues", &when.not_values)] {
        each(field, values, |value| if value.is_empty() { Err("is empty".into()) } else { check(value) })?;
    }
    Ok(())
}

/// What Istio refuses with action CUSTOM: its provider is asked before anybody's identity was looked at.
fn asked_outside(rule: &RuleSpec) -> Checked {
    const MESSAGE: &str = "is not supported with action CUSTOM, as in Istio";
    for (at, from) in rule.from.iter().flatten().enumerate() {
        let plain = ["ip_blocks", "not_ip_blocks", "remote_ip_blocks", "not_remote_ip_blocks"];
        let other = from.source.lists().find(|(name, list)| !list.is_empty() && !plain.contains(name));
        if let Some((name, _)) = other {
            return refuse(&format!("from[{at}].source.{}", written(name)), MESSAGE);
        }
    }
    for (at, when) in rule.when.iter().enumerate() {
        let refused = matches!(
            ConditionKey::parse(&when.key),
            ConditionKey::Namespace | ConditionKey::ServiceAccount | ConditionKey::Principal
        );
        if refused || when.key.starts_with("request.auth.") {
            return refuse(&format!("when[{at}].key"), MESSAGE);
        }
    }
    Ok(())
}

fn not_empty<'a>(lists: impl Iterator<Item = (&'static str, &'a [String])>) -> Checked {
    let mut any = false;
    for (name, list) in lists {
        any |= !list.is_empty();
        each(&written(name), list, |value| if value.is_empty() { Err("is empty".into()) } else { Ok(()) })?;
    }
    if any { Ok(()) } else { refuse("", "is empty: leave it out where anything is meant") }
}

fn each(field: &str, values: &[String], check: impl Fn(&str) -> Result<(), String>) -> Checked {
    for (at, value) in values.iter().enumerate() {
        check(value).map_err(|message| FieldError::new(format!("{field}[{at}]"), message))?;
    }
    Ok(())
}

fn service_account(value: &str) -> Result<(), String> {
    let parts: Vec<_> = value.split('/').collect();
    let ok = parts.len() <= 2 && parts.iter().all(|part| !part.is_empty()) && !value.contains('*');
    if ok && value.len() <= 320 {
        return Ok(());
    }
    Err(format!("{value:?} isn't a service account: expected NAME or NAMESPACE/NAME, without wildcards"))
}

fn network(value: &str) -> Result<(), String> {
    Networks::parse_one(value).map(|_: (IpAddr, u8)| ())
}

fn port(value: &str) -> Result<(), String> {
    value
        .parse::<u16>()
        .map(|_| ())
        .map_err(|_| format!("{value:?} isn't a port: expected \"0\" to \"65535\""))
}

fn path(value: &str) -> Result<(), String> {
    Template::check(value)
}

fn refuse(field: &str, message: &str) -> Checked {
    Err(FieldError::new(field, message))
}

/// `not_ip_blocks` as it is written in an object.
fn written(name: &str) -> String {
    let mut out = String::new();
    let mut upper = false;
    for c in name.chars() {
        if c == '_' {
            upper = true;
        } else {
            out.push(if std::mem::take(&mut upper) { c.to_ascii_uppercase() } else { c });
        }
    }
    out
}

//! Istio's semantics as its source has them, value by value and with its regular expressions: slow, and nothing of it shared
//! with what is tested. From `pilot/pkg/security/authz/{builder,model,matcher}` and Envoy's RBAC filter.

use std::net::IpAddr;

use regex::Regex;

use super::Traffic;
use crate::objects::{Action, AuthorizationPolicy, OperationSpec, RuleSpec, SourceSpec};

/// True if Istio denies it, reading paths by its default normalization.
pub fn denies(policies: &[AuthorizationPolicy], traffic: &Traffic) -> bool {
    let of = |action: Action| policies.iter().filter(move |policy| policy.spec.action == action);
    let matches = |policy: &AuthorizationPolicy| policy.spec.rules.iter().any(|it| rule(policy, it, traffic));
    if of(Action::Deny).any(matches) {
        return true;
    }
    let mut allow = of(Action::Allow).peekable();
    allow.peek().is_some() && !allow.any(matches)
}

/// A value that can't be had on a connection: an error for ALLOW, nothing for others.
enum Made {
    Matcher(bool),
    HttpOnly,
}
use Made::{HttpOnly, Matcher};

/// `Model.Generate` and what Envoy makes of it.
fn rule(policy: &AuthorizationPolicy, rule: &RuleSpec, traffic: &Traffic) -> bool {
    let allow = policy.spec.action == Action::Allow;
    let namespace = policy.metadata.namespace.as_deref().unwrap();
    let mut skipped = false;
    let mut field = |made: &dyn Fn(&str) -> Made, values: &[String], not_values: &[String]| -> bool {
        let mut one = |values: &[String]| -> Option<bool> {
            let mut or = Vec::new();
            for value in values {
                match made(value) {
                    Matcher(matches) => or.push(matches),
                    HttpOnly => skipped |= allow,
                }
            }
            (!or.is_empty()).then(|| or.contains(&true))
        };
        let (is, not) = (one(values), one(not_values));
        is.unwrap_or(true) && !not.unwrap_or(false)
    };
    let mut when_permission = true;
    let mut when_principal = true;
    for when in &rule.when {
        let (key, values, not_values) = (when.key.as_str(), &when.values, &when.not_values);
        let holds = field(&|value| condition(key, value, namespace, traffic), values, not_values);
        match key {
            "destination.ip" | "destination.port" | "connection.sni" => when_permission &= holds,
            _ => when_principal &= holds,
        }
    }
    let mut source = |it: &SourceSpec| {
        field(&|value| principal(value, traffic), &it.principals, &it.not_principals)
            & field(
                &|value| request_principal(value, traffic),
                &it.request_principals,
                &it.not_request_principals,
            )
            & field(&|value| in_namespace(value, traffic), &it.namespaces, &it.not_namespaces)
            & field(
                &|value| account(value, namespace, traffic),
                &it.service_accounts,
                &it.not_service_accounts,
            )
            & field(&|value| address(value, &traffic.source), &it.ip_blocks, &it.not_ip_blocks)
            & field(&|value| remote(value, traffic), &it.remote_ip_blocks, &it.not_remote_ip_blocks)
    };
    let principals = match &rule.from {
        None => true,
        Some(from) => from.iter().fold(false, |any, from| any | source(&from.source)),
    };
    let mut operation = |it: &OperationSpec| {
        field(&|value| host(value, traffic), &it.hosts, &it.not_hosts)
            & field(&|value| method(value, traffic), &it.methods, &it.not_methods)
            & field(&|value| path(value, traffic), &it.paths, &it.not_paths)
            & field(&|value| Matcher(value.parse() == Ok(traffic.destination.1)), &it.ports, &it.not_ports)
    };
    let permissions = match &rule.to {
        None => true,
        Some(to) => to.iter().fold(false, |any, to| any | operation(&to.operation)),
    };
    !skipped && principals && permissions && when_permission && when_principal
}

fn condition(key: &str, value: &str, namespace: &str, traffic: &Traffic) -> Made {
    match key {
        "source.ip" => address(value, &traffic.source),
        "remote.ip" => remote(value, traffic),
        "destination.ip" => address(value, &traffic.destination.0),
        "destination.port" => Matcher(value.parse() == Ok(traffic.destination.1)),
        "source.namespace" => in_namespace(value, traffic),
        "source.principal" => principal(value, traffic),
        "source.serviceAccount" => account(value, namespace, traffic),
        "request.auth.principal" => request_principal(value, traffic),
        "connection.sni" => Matcher(traffic.sni.as_deref().is_some_and(|sni| string(value, "", sni))),
        _ => {
            let Some(head) = &traffic.head else { return HttpOnly };
            let name = key.strip_prefix("request.headers[").and_then(|key| key.strip_suffix(']')).unwrap();
            let lines: Vec<_> =
                head.headers.get_all(name).iter().map(|line| line.to_str().unwrap()).collect();
            Matcher(!lines.is_empty() && (value == "*" || string(value, "", &lines.join(","))))
        }
    }
}

/// `StringMatcherWithPrefix`.
fn string(pattern: &str, prefix: &str, value: &str) -> bool {
    if pattern == "*" {
        return whole(".+", value);
    }
    if let Some(end) = pattern.strip_prefix('*') {
        return if prefix.is_empty() {
            value.ends_with(end)
        } else {
            whole(&format!("{prefix}.*{}", regex::escape(end)), value)
        };
    }
    match pattern.strip_suffix('*') {
        Some(beginning) => value.starts_with(&format!("{prefix}{beginning}")),
        None => value == format!("{prefix}{pattern}"),
    }
}

fn whole(pattern: &str, value: &str) -> bool {
    Regex::new(&format!("^(?:{pattern})$")).unwrap().is_match(value)
}

fn principal(value: &str, traffic: &Traffic) -> Made {
    Matcher(traffic.identity.as_deref().is_some_and(|identity| string(value, "spiffe://", identity)))
}

fn in_namespace(value: &str, traffic: &Traffic) -> Made {
    let pattern = format!(".*/ns/{}/.*", regex::escape(value).replace("\\*", ".*"));
    Matcher(traffic.identity.as_deref().is_some_and(|identity| whole(&pattern, identity)))
}

fn account(value: &str, namespace: &str, traffic: &Traffic) -> Made {
    let (namespace, name) = value.split_once('/').unwrap_or((namespace, value));
    let pattern = format!("spiffe://.+/ns/{namespace}/(.+/|)sa/{name}(/.+)?");
    Matcher(traffic.identity.as_deref().is_some_and(|identity| whole(&pattern, identity)))
}

fn address(value: &str, ip: &str) -> Made {
    let ip: IpAddr = ip.parse().unwrap();
    let (network, bits) =
        value.split_once('/').unwrap_or((value, if value.contains(':') { "128" } else { "32" }));
    let (network, bits): (IpAddr, u32) = (network.parse().unwrap(), bits.parse().unwrap());
    Matcher(match (network, ip) {
        (IpAddr::V4(network), IpAddr::V4(ip)) => {
            (0..bits).all(|bit| network.to_bits() >> (31 - bit) & 1 == ip.to_bits() >> (31 - bit) & 1)
        }
        (IpAddr::V6(network), IpAddr::V6(ip)) => {
            (0..bits).all(|bit| network.to_bits() >> (127 - bit) & 1 == ip.to_bits() >> (127 - bit) & 1)
        }
        _ => false,
    })
}

fn remote(value: &str, traffic: &Traffic) -> Made {
    address(value, if traffic.head.is_some() { &traffic.remote } else { &traffic.source })
}

fn request_principal(value: &str, traffic: &Traffic) -> Made {
    if traffic.head.is_none() {
        return HttpOnly;
    }
    let said = |name: &str| traffic.claims.as_ref()?.all.get(name)?.as_str();
    let (Some(issuer), Some(subject)) = (said("iss"), said("sub")) else { return Matcher(false) };
    let split = value.rsplit_once('/');
    let any = |text: &str| !text.is_empty();
    Matcher(if value == "*" {
        any(issuer) && any(subject)
    } else if let Some(rest) = value.strip_prefix('*') {
        match split {
            Some(("*", wanted)) => any(issuer) && subject == wanted,
            Some((end, wanted)) => issuer.ends_with(end.trim_start_matches('*')) && subject == wanted,
            None => any(issuer) && subject.ends_with(rest),
        }
    } else if value.ends_with('*') {
        match split {
            Some((wanted, "*")) => issuer == wanted && any(subject),
            Some((wanted, beginning)) => {
                issuer == wanted && subject.starts_with(beginning.trim_end_matches('*'))
            }
            None => issuer.starts_with(value.trim_end_matches('*')) && any(subject),
        }
    } else {
        let (wanted_issuer, wanted_subject) = split.unwrap_or((value, ""));
        issuer == wanted_issuer && subject == wanted_subject
    })
}

fn host(value: &str, traffic: &Traffic) -> Made {
    let Some(head) = &traffic.head else { return HttpOnly };
    let host = head.headers.get("host").and_then(|host| host.to_str().ok());
    let fits = |host: &str| value == "*" || string(&value.to_lowercase(), "", &host.to_lowercase());
    Matcher(host.is_some_and(fits))
}

fn method(value: &str, traffic: &Traffic) -> Made {
    let Some(head) = &traffic.head else { return HttpOnly };
    Matcher(value == "*" || string(value, "", head.method.as_str()))
}

fn path(value: &str, traffic: &Traffic) -> Made {
    let Some(head) = &traffic.head else { return HttpOnly };
    let path = normalized(head.uri.path());
    if !value.contains("{*}") && !value.contains("{**}") {
        return Matcher(string(value, "", &path));
    }
    let characters = "[a-zA-Z0-9-._~%!$&'()+,;:@=";
    let pattern = regex::escape(&value.replace("{**}", "\u{1}").replace("{*}", "\u{2}"));
    let pattern =
        pattern.replace('\u{1}', &format!("{characters}/]*")).replace('\u{2}', &format!("{characters}]+"));
    Matcher(whole(&pattern, &path))
}

/// `BASE`.
fn normalized(path: &str) -> String {
    let unreserved = Regex::new("%[0-9a-fA-F]{2}").unwrap();
    let decoded = unreserved.replace_all(path, |found: &regex::Captures<'_>| {
        let byte = u8::from_str_radix(&found[0][1..], 16).unwrap();
        let plain = byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte);
        if plain { char::from(byte).to_string() } else { found[0].to_owned() }
    });
    let decoded = decoded.replace('\\', "/");
    let Some(rest) = decoded.strip_prefix('/') else { return decoded };
    let mut kept: Vec<&str> = Vec::new();
    let segments: Vec<&str> = rest.split('/').collect();
    for (at, segment) in segments.iter().enumerate() {
        let last = at + 1 == segments.len();
        match *segment {
            "." => {}
            ".." => drop(kept.pop()),
            segment => kept.push(segment),
        }
        if last && matches!(*segment, "." | "..") {
            kept.push("");
        }
    }
    format!("/{}", kept.join("/"))
}

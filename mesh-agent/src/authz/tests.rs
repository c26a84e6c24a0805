//! What policies decide: tables for every field and its negation, attacks on paths, and properties against a slow and direct
//! transcription of Istio's semantics (`istio`).
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod fields;
mod istio;
mod order;
mod paths;
mod properties;

use std::sync::Arc;

use http::request;

use super::*;
use crate::jwt::Claims;
use crate::objects::AuthorizationPolicy;

/// A policy from the YAML of its spec, in namespace `shop`.
pub fn policy(name: &str, spec: &str) -> AuthorizationPolicy {
    policy_of("shop", name, spec)
}

pub fn policy_of(namespace: &str, name: &str, spec: &str) -> AuthorizationPolicy {
    let text = format!("metadata: {{name: {name}, namespace: {namespace}}}\nspec: {spec}");
    let mut policy: AuthorizationPolicy =
        serde_yaml_ng::from_str(&text).unwrap_or_else(|e| panic!("{spec}: {e}"));
    policy.note_fields(&serde_yaml_ng::from_str(&text).unwrap());
    policy.validate().unwrap_or_else(|e| panic!("{spec}: {} {}", e.field, e.message));
    policy
}

pub fn compile(policies: &[AuthorizationPolicy]) -> Compiled {
    let options = Options::default();
    Compiled::new(policies.iter().map(|policy| Arc::new(Policy::new(policy, &options))).collect())
}

/// Traffic in words.
#[derive(Clone, Debug)]
pub struct Traffic {
    pub identity: Option<String>,
    pub source: String,
    pub destination: (String, u16),
    pub sni: Option<String>,
    /// None for a connection.
    pub head: Option<request::Parts>,
    pub remote: String,
    pub claims: Option<Claims>,
}

impl Default for Traffic {
    /// A connection of `web` to port 8080.
    fn default() -> Self {
        Self {
            identity: Some("spiffe://cluster.local/ns/shop/sa/web".into()),
            source: "10.1.0.1".into(),
            destination: ("10.1.0.2".into(), 8080),
            sni: None,
            head: None,
            remote: "10.1.0.1".into(),
            claims: None,
        }
    }
}

/// `METHOD PATH`, and headers as `NAME: VALUE`.
pub fn request(line: &str, headers: &[&str]) -> Traffic {
    let (method, path) = line.split_once(' ').unwrap();
    let mut builder = http::Request::builder().method(method).uri(path);
    if !headers.iter().any(|header| header.starts_with("host:")) {
        builder = builder.header("host", "cart");
    }
    for header in headers {
        let (name, value) = header.split_once(": ").unwrap();
        builder = builder.header(name, value);
    }
    Traffic { head: Some(builder.body(()).unwrap().into_parts().0), ..Traffic::default() }
}

impl Traffic {
    pub fn from(mut self, identity: Option<&str>) -> Self {
        self.identity = identity.map(str::to_owned);
        self
    }

    pub fn with_token(mut self, claims: serde_json::Value) -> Self {
        let all = claims.as_object().unwrap().clone();
        let text = |name: &str| all.get(name).and_then(|value| value.as_str()).unwrap_or_default().to_owned();
        let audiences = match all.get("aud") {
            Some(serde_json::Value::Array(items)) => {
                items.iter().filter_map(|item| item.as_str()).map(str::to_owned).collect()
            }
            Some(serde_json::Value::String(one)) => vec![one.clone()],
            _ => Vec::new(),
        };
        let (issuer, subject) = (text("iss"), text("sub"));
        let principal = if issuer.is_empty() || subject.is_empty() {
            String::new()
        } else {
            format!("{issuer}/{subject}")
        };
        self.claims = Some(Claims { principal, audiences, presenter: text("azp"), all });
        self
    }

    /// What `with` makes of the facts; None where the path ends at a NUL.
    pub fn judged<T>(&self, with: impl FnOnce(&Facts<'_>) -> T) -> Option<T> {
        let mut readings = Readings::default();
        let request = match &self.head {
            None => None,
            Some(head) => {
                readings.read(head.uri.path(), Normalization::Base).ok()?;
                Some(RequestFacts {
                    method: head.method.as_str(),
                    host: head.headers.get("host").and_then(|host| host.to_str().ok()),
                    path: &readings,
                    headers: &head.headers,
                    remote: self.remote.parse().unwrap(),
                    claims: self.claims.as_ref(),
                })
            }
        };
        let (ip, port) = &self.destination;
        let facts =
            Facts::new(self.identity.as_deref(), self.source.parse().unwrap(), (ip.parse().unwrap(), *port));
        let facts = facts.named(self.sni.as_deref());
        Some(with(&request.map_or(facts, |request| facts.asking(request))))
    }

    pub fn is_denied(&self, compiled: &Compiled) -> bool {
        self.judged(|facts| compiled.judge(facts).verdict.is_denied()).unwrap_or(true)
    }
}

/// True if a rule with this text fits, seen by a DENY and by an ALLOW alike.
pub fn fits(rule: &str, traffic: &Traffic) -> bool {
    let denied = traffic.is_denied(&compile(&[policy("p", &format!("{{action: DENY, rules: [{rule}]}}"))]));
    let allowed =
        !traffic.is_denied(&compile(&[policy("p", &format!("{{action: ALLOW, rules: [{rule}]}}"))]));
    assert_eq!(denied, allowed, "{rule} {traffic:?}");
    denied
}

#[test]
fn the_deciding_rule_is_named() {
    let compiled = compile(&[
        policy(
            "a",
            "{action: DENY, rules: [{to: [{operation: {paths: [/x]}}]}, {to: [{operation: {paths: [/y*]}}]}]}",
        ),
        policy("b", "{rules: [{from: [{source: {namespaces: [shop]}}]}]}"),
    ]);
    let verdict = |line: &str| {
        request(line, &[])
            .judged(|facts| {
                let verdict = compiled.judge(facts).verdict;
                (verdict.is_denied(), verdict.rule().map(|rule| (rule.policy.name.clone(), rule.rule)))
            })
            .unwrap()
    };
    assert_eq!(verdict("GET /y1"), (true, Some(("a".into(), 1))));
    assert_eq!(verdict("GET /z"), (false, Some(("b".into(), 0))));
    let denied = request("GET /z", &[]).from(None).judged(|facts| compiled.judge(facts).verdict.details());
    assert_eq!(denied.as_deref(), Some("rbac_access_denied_matched_policy[none]"));
    let denied = request("GET /x", &[]).judged(|facts| compiled.judge(facts).verdict.details());
    assert_eq!(denied.as_deref(), Some("rbac_access_denied_matched_policy[ns[shop]-policy[a]-rule[0]]"));
}

#[test]
fn what_is_explained_is_what_is_judged() {
    let compiled = compile(&[
        policy("a", "{action: DENY, rules: [{to: [{operation: {methods: [POST], paths: [/x]}}]}]}"),
        policy(
            "b",
            "{rules: [{from: [{source: {namespaces: [other]}}]}, {when: [{key: source.ip, values: [10.1.0.0/16]}]}]}",
        ),
    ]);
    let considered = request("GET /x", &[]).judged(|facts| compiled.explain(facts)).unwrap();
    let shown: Vec<_> =
        considered.iter().map(|one| (one.rule.policy.name.as_str(), one.rule.rule, one.fits)).collect();
    assert_eq!(shown, [("a", 0, false), ("b", 0, false), ("b", 1, true)]);
    assert_eq!(considered[0].why_not, ["to: \"GET\" isn't one of its methods"]);
    assert_eq!(considered[1].why_not, ["from: \"shop\" isn't one of its namespaces"]);
}

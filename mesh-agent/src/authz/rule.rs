//! A rule of a policy as tests, and what is left of it for connections that aren't carried as requests.
//!
//! A rule fits if one of `from`, one of `to` and all of `when` do, each of which is a list of tests that all have to hold.

use std::sync::Arc;

use super::facts::Facts;
use super::name::RuleName;
use super::network::Networks;
use super::path::Reading;
use super::pattern::{Pattern, Patterns};
use super::principal::{accounts, principals};
use super::test::{Field, Glob, Paths, Test, Token, Values};
use crate::objects::{Action, ConditionKey, OperationSpec, RuleSpec, SourceSpec, WhenSpec};

/// Tests that all have to hold.
pub type Tests = Box<[Test]>;

/// A rule.
#[derive(Clone, Debug)]
pub struct Rule {
    /// Whose.
    pub name: Arc<RuleName>,
    /// One of these; none for anywhere.
    pub from: Box<[Tests]>,
    /// One of these; none for anything.
    pub to: Box<[Tests]>,
    /// All of these.
    pub when: Tests,
}

/// What a rule is made with.
#[derive(Clone, Copy, Debug)]
pub struct Making<'a> {
    /// The policy's namespace.
    pub namespace: &'a str,
    /// The own trust domain and its aliases.
    pub domains: &'a [String],
    /// What it does.
    pub action: Action,
}

impl Making<'_> {
    /// A rule whose conditions are all known; those that aren't are left out.
    pub fn rule(self, name: Arc<RuleName>, spec: &RuleSpec) -> Rule {
        let from = spec.from.iter().flatten().map(|from| self.source(&from.source));
        let to = spec.to.iter().flatten().map(|to| self.operation(&to.operation));
        let when = spec.when.iter().filter_map(|when| self.condition(when));
        Rule { name, from: from.collect(), to: to.collect(), when: when.collect() }
    }

    /// What opens is judged as Istio does, what closes widely.
    fn test(self, field: Field, is: &[String], not: &[String]) -> Option<Test> {
        let values = |texts: &[String]| (!texts.is_empty()).then(|| self.values(&field, texts));
        let (is, not) = (values(is), values(not));
        let any = is.is_some() || not.is_some();
        any.then(|| Test { is, not, field, wide: self.action != Action::Allow })
    }

    fn values(self, field: &Field, texts: &[String]) -> Values {
        let plain = |patterns: Vec<Pattern>| Values::Texts(Patterns::new(patterns), Box::default());
        match field {
            Field::Principal => plain(principals(texts, self.domains)),
            Field::Account => plain(accounts(texts, self.namespace)),
            Field::Namespace => {
                let globs = texts.iter().filter_map(|text| Glob::parse(text)).collect();
                let patterns = texts.iter().filter(|text| Glob::parse(text).is_none());
                Values::Texts(Patterns::new(patterns.map(|text| Pattern::parse(text))), globs)
            }
            Field::Source | Field::Remote | Field::Destination => Values::Networks(Networks::parse(texts)),
            Field::Port => {
                let mut ports: Vec<u16> = texts.iter().filter_map(|text| text.parse().ok()).collect();
                ports.sort_unstable();
                Values::Ports(ports.into())
            }
            Field::Path => Values::Paths(Box::new(Paths::parse(texts))),
            Field::RequestPrincipal => Values::Tokens(texts.iter().map(|text| Token::parse(text)).collect()),
            Field::Host | Field::Sni => {
                plain(texts.iter().map(|text| Pattern::parse(&text.to_ascii_lowercase())).collect())
            }
            Field::Audiences | Field::Presenter | Field::Claims(_) | Field::Header(_) | Field::Method => {
                plain(texts.iter().map(|text| Pattern::parse(text)).collect())
            }
        }
    }

    fn source(self, source: &SourceSpec) -> Tests {
        let tests = [
            (Field::Principal, &source.principals, &source.not_principals),
            (Field::Account, &source.service_accounts, &source.not_service_accounts),
            (Field::Namespace, &source.namespaces, &source.not_namespaces),
            (Field::Source, &source.ip_blocks, &source.not_ip_blocks),
            (Field::Remote, &source.remote_ip_blocks, &source.not_remote_ip_blocks),
            (Field::RequestPrincipal, &source.request_principals, &source.not_request_principals),
        ];
        tests.into_iter().filter_map(|(field, is, not)| self.test(field, is, not)).collect()
    }

    fn operation(self, operation: &OperationSpec) -> Tests {
        let tests = [
            (Field::Port, &operation.ports, &operation.not_ports),
            (Field::Method, &operation.methods, &operation.not_methods),
            (Field::Host, &operation.hosts, &operation.not_hosts),
            (Field::Path, &operation.paths, &operation.not_paths),
        ];
        tests.into_iter().filter_map(|(field, is, not)| self.test(field, is, not)).collect()
    }

    fn condition(self, when: &WhenSpec) -> Option<Test> {
        let field = match ConditionKey::parse(&when.key) {
            ConditionKey::Header(name) => Field::Header(name),
            ConditionKey::SourceIp => Field::Source,
            ConditionKey::RemoteIp => Field::Remote,
            ConditionKey::Namespace => Field::Namespace,
            ConditionKey::ServiceAccount => Field::Account,
            ConditionKey::Principal => Field::Principal,
            ConditionKey::RequestPrincipal => Field::RequestPrincipal,
            ConditionKey::Audiences => Field::Audiences,
            ConditionKey::Presenter => Field::Presenter,
            ConditionKey::Claims(path) => Field::Claims(path),
            ConditionKey::DestinationIp => Field::Destination,
            ConditionKey::DestinationPort => Field::Port,
            ConditionKey::Sni => Field::Sni,
            ConditionKey::Unknown(_) => return None,
        };
        self.test(field, &when.values, &when.not_values)
    }
}

impl Rule {
    /// True if it fits. `reading` is the path's that is judged now.
    pub(super) fn fits(&self, facts: &Facts<'_>, reading: Option<Reading<'_>>) -> bool {
        let all = |tests: &Tests| tests.iter().all(|test| test.holds(facts, reading));
        let any = |alternatives: &[Tests]| alternatives.is_empty() || alternatives.iter().any(all);
        any(&self.from) && any(&self.to) && all(&self.when)
    }

    /// What is left of it for a connection that isn't carried as requests. An ALLOW that asks for what only requests have
    /// never matches; of others that part isn't there (Istio, "Security / Authorization / TCP traffic").
    pub fn of_connections(&self) -> Option<Self> {
        match self.name.action {
            Action::Allow => (!self.tests().any(|test| test.field.is_http())).then(|| self.clone()),
            Action::Deny | Action::Audit | Action::Custom => Some(self.without(|test| test.field.is_http())),
        }
    }

    /// What can be said by it before anything is known of the client but who and where it is: whatever it says later, an ALLOW
    /// that doesn't fit then never will, and a DENY that does fits for good.
    pub fn before_a_word(&self) -> Option<Self> {
        let later = |test: &Test| test.field.comes_later();
        if self.name.action == Action::Allow {
            return Some(self.without(later));
        }
        let known = |alternatives: &[Tests]| -> Option<Box<[Tests]>> {
            let known: Box<[Tests]> =
                alternatives.iter().filter(|tests| !tests.iter().any(later)).cloned().collect();
            (alternatives.is_empty() || !known.is_empty()).then_some(known)
        };
        let (from, to) = (known(&self.from)?, known(&self.to)?);
        (!self.when.iter().any(later)).then(|| Self {
            name: self.name.clone(),
            from,
            to,
            when: self.when.clone(),
        })
    }

    /// True if it asks for what only requests have, and holds at this port. For an ALLOW that goes only by its own ports:
    /// others may be meant to carry no bytes.
    pub fn meets_bytes(&self, port: u16) -> bool {
        let at = |test: &Test| match (&test.field, &test.is) {
            (Field::Port, Some(Values::Ports(ports))) => Some(ports.contains(&port)),
            _ => None,
        };
        let http = |test: &Test| test.field.is_http();
        let elsewhere = self.from.iter().flatten().chain(&self.when).any(http);
        let names_port = |tests: &Tests| tests.iter().find_map(at);
        let of_to = self.to.iter().any(|tests| {
            let here = names_port(tests).unwrap_or(self.name.action != Action::Allow);
            here && (elsewhere || tests.iter().any(http))
        });
        of_to || self.to.is_empty() && elsewhere && self.name.action != Action::Allow
    }

    fn without(&self, gone: impl Fn(&Test) -> bool) -> Self {
        let rest = |tests: &Tests| tests.iter().filter(|test| !gone(test)).cloned().collect();
        Self {
            name: self.name.clone(),
            from: self.from.iter().map(rest).collect(),
            to: self.to.iter().map(rest).collect(),
            when: rest(&self.when),
        }
    }

    /// All tests.
    pub fn tests(&self) -> impl Iterator<Item = &Test> {
        self.from.iter().chain(&self.to).flatten().chain(&self.when)
    }
}

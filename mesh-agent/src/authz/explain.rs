//! Each rule that is asked, and what of it doesn't hold: for `authz check`. Not for the data path.
//!
//! The verdict itself is [`Compiled::judge`]'s; here is only why rules were passed over.

use std::sync::Arc;

use super::compile::{Compiled, Scope};
use super::facts::Facts;
use super::name::RuleName;
use super::path::Reading;
use super::rule::{Rule, Tests};
use super::test::{Field, Test};

/// A rule that was asked.
#[derive(Clone, Debug)]
pub struct Considered {
    /// Which.
    pub rule: Arc<RuleName>,
    /// It fits, in one reading of the path at least.
    pub fits: bool,
    /// What doesn't hold of it, in the first reading; empty if it fits.
    pub why_not: Vec<String>,
}

impl Compiled {
    /// Every rule that is asked about these facts, in order.
    pub fn explain(&self, facts: &Facts<'_>) -> Vec<Considered> {
        let Some(request) = &facts.request else {
            return self.rules(Scope::Connection).map(|rule| considered(rule, facts, &[None])).collect();
        };
        let readings: Vec<_> = request.path.iter().map(Some).collect();
        self.rules(Scope::Request).map(|rule| considered(rule, facts, &readings)).collect()
    }
}

fn considered(rule: &Rule, facts: &Facts<'_>, readings: &[Option<Reading<'_>>]) -> Considered {
    let fits = readings.iter().any(|reading| rule.fits(facts, *reading));
    let first = readings.first().copied().flatten();
    let why_not = if fits { Vec::new() } else { why_not(rule, facts, first) };
    Considered { rule: rule.name.clone(), fits, why_not }
}

fn why_not(rule: &Rule, facts: &Facts<'_>, reading: Option<Reading<'_>>) -> Vec<String> {
    let failing = |tests: &Tests| {
        let failing = tests.iter().filter(|test| !test.holds(facts, reading));
        failing.map(|test| misfit(test, facts, reading)).collect::<Vec<_>>()
    };
    let mut all = Vec::new();
    for (name, part) in [("from", &rule.from), ("to", &rule.to)] {
        let each: Vec<_> = part.iter().map(failing).collect();
        if !each.is_empty() && each.iter().all(|failing| !failing.is_empty()) {
            let several = each.len() > 1;
            all.extend(each.into_iter().enumerate().map(|(at, failing)| {
                let place = if several { format!("{name}[{at}]") } else { name.to_owned() };
                format!("{place}: {}", failing.join(" and "))
            }));
        }
    }
    all.extend(failing(&rule.when).into_iter().map(|failing| format!("when: {failing}")));
    all
}

fn misfit(test: &Test, facts: &Facts<'_>, reading: Option<Reading<'_>>) -> String {
    let (name, value) = said(&test.field, facts, reading);
    let verb = match (test.is.is_some(), test.not.is_some()) {
        (true, false) => "isn't one of its",
        (false, _) => "is one of those excluded by its",
        (true, true) => "isn't one of its, or is excluded by its",
    };
    match value {
        Some(value) => format!("{value:?} {verb} {name}"),
        None => format!("nothing is known that could be one of its {name}"),
    }
}

/// What the field is called, and what it is of this traffic.
fn said(field: &Field, facts: &Facts<'_>, reading: Option<Reading<'_>>) -> (String, Option<String>) {
    let text = |text: Option<&str>| text.map(str::to_owned);
    let principal = facts.principal.as_ref();
    let request = facts.request.as_ref();
    let claims = request.and_then(|request| request.claims);
    let claim = |name: &str| claims.and_then(|claims| claims.all.get(name)).map(ToString::to_string);
    let (name, value) = match field {
        Field::Principal => ("principals", text(principal.map(|principal| principal.all))),
        Field::Namespace => ("namespaces", text(principal.and_then(|principal| principal.namespace))),
        Field::Account => ("serviceAccounts", text(principal.and_then(|principal| principal.account))),
        Field::Source => ("ipBlocks", Some(facts.source.to_string())),
        Field::Remote => ("remoteIpBlocks", Some(facts.remote().to_string())),
        Field::Destination => ("destination.ip", Some(facts.destination.0.to_string())),
        Field::Port => ("ports", Some(facts.destination.1.to_string())),
        Field::Sni => ("connection.sni", text(facts.sni)),
        Field::RequestPrincipal => {
            ("requestPrincipals", claims.map(|claims| claims.principal.clone()).filter(|it| !it.is_empty()))
        }
        Field::Audiences => ("request.auth.audiences", claims.map(|claims| claims.audiences.join(","))),
        Field::Presenter => ("request.auth.presenter", claims.map(|claims| claims.presenter.clone())),
        Field::Claims(path) => {
            return (
                format!("request.auth.claims[{}]", path.join("][")),
                path.first().and_then(|it| claim(it)),
            );
        }
        Field::Header(header) => {
            let line = request.and_then(|request| request.headers.get(header));
            let line = line.map(|line| String::from_utf8_lossy(line.as_bytes()).into_owned());
            return (format!("request.headers[{header}]"), line);
        }
        Field::Host => ("hosts", text(request.and_then(|request| request.host))),
        Field::Method => ("methods", text(request.map(|request| request.method))),
        Field::Path => ("paths", reading.map(|reading| String::from_utf8_lossy(reading.text).into_owned())),
    };
    (name.to_owned(), value)
}

//! The policies that hold for a workload, made into tables; and how they are asked.
//!
//! Order as Istio's: CUSTOM, then DENY, then ALLOW; AUDIT and dry runs decide nothing. What holds for a request is asked for
//! every reading of its path, and passes only if it passes in each.

use std::sync::Arc;

use super::facts::Facts;
use super::name::RuleName;
use super::path::Reading;
use super::policy::Policy;
use super::rule::Rule;
use super::table::Table;
use super::verdict::{Judged, Verdict};
use crate::objects::Action;

/// The policies of one workload.
#[derive(Clone, Debug)]
pub struct WorkloadPolicies {
    /// For most ports.
    pub all: Arc<Compiled>,
    /// For ports that are behind Services which policies name, these too.
    pub ports: Vec<(u16, Arc<Compiled>)>,
}

impl WorkloadPolicies {
    /// What holds at `port`.
    pub fn at(&self, port: u16) -> &Arc<Compiled> {
        self.ports.iter().find(|(of, _)| *of == port).map_or(&self.all, |(_, compiled)| compiled)
    }

    /// True if both say the same.
    pub fn same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.all, &other.all)
            && self.ports.len() == other.ports.len()
            && self
                .ports
                .iter()
                .zip(&other.ports)
                .all(|(one, other)| one.0 == other.0 && Arc::ptr_eq(&one.1, &other.1))
    }
}

/// What is judged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// A request.
    Request,
    /// A connection that isn't carried as requests.
    Connection,
    /// A connection of which nothing is known yet but who and where its client is.
    Unknown,
}

/// Policies as tables.
#[derive(Debug)]
pub struct Compiled {
    policies: Box<[Arc<Policy>]>,
    requests: Tables,
    connections: Tables,
    unknown: Tables,
}

#[derive(Debug)]
struct Tables {
    custom: Table,
    deny: Table,
    /// None: no policy allows, so all is allowed.
    allow: Option<Table>,
    audit: Table,
    dry_deny: Table,
    dry_allow: Option<Table>,
}

impl Compiled {
    /// Of these policies, in the order in which they are named.
    pub fn new(policies: Vec<Arc<Policy>>) -> Self {
        Self {
            requests: Tables::new(&policies, |rule| Some(rule.clone())),
            connections: Tables::new(&policies, Rule::of_connections),
            unknown: Tables::new(&policies, Rule::before_a_word),
            policies: policies.into(),
        }
    }

    /// Those that hold.
    pub fn policies(&self) -> &[Arc<Policy>] {
        &self.policies
    }

    /// What becomes of traffic of which these facts are known: a request if they have one, else a connection.
    pub fn judge(&self, facts: &Facts<'_>) -> Judged<'_> {
        let Some(request) = &facts.request else { return self.connections.judge(facts, None) };
        let mut all: Option<Judged<'_>> = None;
        for reading in request.path.iter() {
            let judged = self.requests.judge(facts, Some(reading));
            all = Some(all.map_or(judged, |before| before.or_worse(judged)));
        }
        // A path without any reading was refused before; here nothing is allowed that wasn't judged.
        all.unwrap_or(Judged { verdict: Verdict::Denied(None), custom: None, audit: None, dry_run: None })
    }

    /// True if nothing that the client could still say would let it in.
    pub fn denies_for_good(&self, facts: &Facts<'_>) -> bool {
        self.unknown.judge(facts, None).verdict.is_denied()
    }

    /// The rules that are asked in this case, in order, with what isn't asked of them left out.
    pub(super) fn rules(&self, scope: Scope) -> impl Iterator<Item = &Rule> {
        let tables = match scope {
            Scope::Request => &self.requests,
            Scope::Connection => &self.connections,
            Scope::Unknown => &self.unknown,
        };
        let enforced = [tables.custom.rules(), tables.deny.rules(), rules_of(&tables.allow)];
        let others = [tables.audit.rules(), tables.dry_deny.rules(), rules_of(&tables.dry_allow)];
        enforced.into_iter().chain(others).flatten()
    }

    /// True if a policy allows, so that what none fits is denied.
    pub fn allows_by_rule(&self) -> bool {
        self.requests.allow.is_some()
    }
}

impl Tables {
    fn new(policies: &[Arc<Policy>], of: impl Fn(&Rule) -> Option<Rule>) -> Self {
        let of_action = |action: Action, dry_run: bool| {
            policies.iter().filter(move |policy| (policy.action, policy.dry_run) == (action, dry_run))
        };
        let table = |action: Action, dry_run: bool| {
            let rules = of_action(action, dry_run).flat_map(|policy| &policy.rules);
            Table::new(rules.filter_map(&of).collect())
        };
        let allow =
            |dry_run: bool| of_action(Action::Allow, dry_run).next().map(|_| table(Action::Allow, dry_run));
        Self {
            custom: table(Action::Custom, false),
            deny: table(Action::Deny, false),
            allow: allow(false),
            audit: table(Action::Audit, false),
            dry_deny: table(Action::Deny, true),
            dry_allow: allow(true),
        }
    }

    fn judge(&self, facts: &Facts<'_>, reading: Option<Reading<'_>>) -> Judged<'_> {
        let allowed = self.allow.as_ref().map(|table| table.first(facts, reading));
        let verdict = match (self.deny.first(facts, reading), allowed) {
            (Some(rule), _) => Verdict::Denied(Some(rule)),
            (None, None) => Verdict::Allowed(None),
            (None, Some(None)) => Verdict::Denied(None),
            (None, Some(rule)) => Verdict::Allowed(rule),
        };
        Judged {
            custom: self.custom.first(facts, reading),
            verdict,
            audit: self.audit.first(facts, reading),
            dry_run: self.dry_run(facts, reading, allowed),
        }
    }

    /// As if all were enforced: what would be denied then, or allowed.
    fn dry_run(
        &self,
        facts: &Facts<'_>,
        reading: Option<Reading<'_>>,
        allowed: Option<Option<&Arc<RuleName>>>,
    ) -> Option<Verdict<'_>> {
        if self.dry_deny.rules().is_empty() && self.dry_allow.is_none() {
            return None;
        }
        if let Some(rule) = self.dry_deny.first(facts, reading) {
            return Some(Verdict::Denied(Some(rule)));
        }
        let Some(table) = &self.dry_allow else { return Some(Verdict::Allowed(None)) };
        Some(match (table.first(facts, reading), allowed.flatten()) {
            (None, None) => Verdict::Denied(None),
            (rule, _) => Verdict::Allowed(rule),
        })
    }
}

fn rules_of(table: &Option<Table>) -> &[Rule] {
    table.as_ref().map(Table::rules).unwrap_or_default()
}

impl Judged<'_> {
    /// Of two readings of one request.
    fn or_worse(self, other: Self) -> Self {
        let dry_run = match (self.dry_run, other.dry_run) {
            (Some(one), Some(other)) => Some(one.or_worse(other)),
            (one, other) => one.or(other),
        };
        Self {
            custom: self.custom.or(other.custom),
            verdict: self.verdict.or_worse(other.verdict),
            audit: self.audit.or(other.audit),
            dry_run,
        }
    }
}

//! The rules of all policies of one action that hold for a workload.

use std::sync::Arc;

use super::facts::Facts;
use super::index::Index;
use super::name::RuleName;
use super::path::Reading;
use super::rule::Rule;

/// Rules, and how they are found.
#[derive(Debug, Default)]
pub struct Table {
    rules: Box<[Rule]>,
    index: Index,
}

impl Table {
    /// In the order of policies and rules: of several that fit the first is named.
    pub fn new(rules: Vec<Rule>) -> Self {
        Self { index: Index::new(&rules), rules: rules.into() }
    }

    /// The first rule that fits. No allocation, but for a header that was sent more than once.
    pub fn first(&self, facts: &Facts<'_>, reading: Option<Reading<'_>>) -> Option<&Arc<RuleName>> {
        if self.rules.is_empty() {
            return None;
        }
        let mut first = u32::MAX;
        self.index.find(facts, reading, &mut |at| {
            if at < first && self.rules[at as usize].fits(facts, reading) {
                first = at;
            }
        });
        self.rules.get(first as usize).map(|rule| &rule.name)
    }

    /// Each.
    pub fn rules(&self) -> &[Rule] {
        &self.rules
    }
}

//! Rules that can't be served for what they ask of a filter: what that means for a route's Accepted condition.
//!
//! Used by `status`; `compile` answers the requests of such a rule with 500, by the same tests.

use super::edits;
use super::status::rules;
use super::view::RouteView;
use crate::model::Condition;
use crate::objects::gateway::{FilterKind, RouteFilter};

/// Rules whose requests are answered with 500, in part or all, for what they ask for.
pub struct Unusable {
    /// Place of the rule, and why.
    rules: Vec<(usize, String)>,
    /// No request of any rule is served.
    all: bool,
}

impl Unusable {
    /// Looks at every rule.
    pub fn of(view: RouteView<'_>) -> Self {
        let rules = rules(view);
        let mut found = Vec::new();
        let mut whole = 0;
        for (index, (filters, backends)) in rules.iter().enumerate() {
            let at = format!("spec.rules[{index}]");
            let of_rule = unusable(&at, filters);
            let of_backends: Vec<_> = backends
                .iter()
                .enumerate()
                .filter(|(_, backend)| backend.weight() > 0)
                .map(|(place, backend)| unusable(&format!("{at}.backendRefs[{place}]"), &backend.filters))
                .collect();
            let none_left = !of_backends.is_empty() && of_backends.iter().all(Option::is_some);
            whole += usize::from(of_rule.is_some() || none_left);
            let why = of_rule.or_else(|| of_backends.into_iter().flatten().next());
            found.extend(why.map(|why| (index, why)));
        }
        Self { all: whole == rules.len() && whole > 0, rules: found }
    }

    /// `Accepted: False` where nothing is served.
    pub fn whole(&self) -> Option<Condition> {
        let (_, why) = self.rules.first().filter(|_| self.all)?;
        Some(Condition::bad("UnsupportedValue", format!("{why}: its requests are answered with 500")))
    }

    /// `PartiallyInvalid: True` where something is. The message begins as RouteConditionPartiallyInvalid says.
    pub fn partly(&self) -> Option<Condition> {
        let (first, why) = self.rules.first().filter(|_| !self.all)?;
        let others = match self.rules.len() {
            1 => String::new(),
            more => format!(" (and {} more)", more - 1),
        };
        let message = format!("Dropped Rule {first}{others}: {why}: its requests are answered with 500");
        Some(Condition { status: true, reason: "UnsupportedValue".to_owned(), message })
    }
}

/// Why what these filters would be applied to is answered with 500.
fn unusable(at: &str, filters: &[RouteFilter]) -> Option<String> {
    filters.iter().enumerate().find_map(|(index, filter)| {
        if filter.kind == FilterKind::ExternalAuth {
            return Some(format!("{at}.filters[{index}]: ExternalAuth is not supported by this version"));
        }
        let (field, name) = edits::untouchable(filter).into_iter().next()?;
        Some(format!("{at}.filters[{index}].{field} names {name:?}, which no filter may change"))
    })
}

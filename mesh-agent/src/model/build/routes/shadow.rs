//! Matches that get no request, because a rule of higher precedence among the routes that merge has the same one.
//!
//! Found once for all routes of a group, from what was compiled for its table: a route's status only looks itself up.

use std::collections::{BTreeMap, HashMap};

use crate::model::{ObjectName, WarningCode};
use crate::route::{Match, RouteEntry, StreamEntry};

/// What is shadowed of each route, by its rules.
pub type Shadows = BTreeMap<ObjectName, Vec<Shadow>>;

/// A rule of which matches belong to another.
#[derive(Debug)]
pub struct Shadow {
    rule: usize,
    /// The first of them, None if it is all of the rule's matches.
    place: Option<usize>,
    /// Route and rule that the last of them belongs to.
    owner: (ObjectName, usize),
}

impl Shadow {
    /// The warning: code, field, message. `kind` is that of the routes, which have one in common.
    pub fn complaint(&self, kind: &str) -> (WarningCode, String, String) {
        let (rule, (route, index)) = (self.rule, &self.owner);
        match self.place {
            None => (
                WarningCode::RuleUnreachable,
                format!("spec.rules[{rule}]"),
                format!(
                    "gets no request: {kind} {route}, rule {index}, has the same matches and comes first; change one of the two or remove this rule"
                ),
            ),
            Some(place) => (
                WarningCode::DuplicateMatch,
                format!("spec.rules[{rule}].matches[{place}]"),
                format!(
                    "{kind} {route}, rule {index}, has the same match and comes first: change or remove one of the two"
                ),
            ),
        }
    }
}

/// A rule with its matches in a form that is equal for equal ones.
struct Claim<'e> {
    /// Who is first among rules with the same match: older, then by name, then by place (HTTPRoute, "Precedence").
    order: (bool, Option<&'e str>, &'e ObjectName, usize),
    texts: Vec<String>,
}

/// Of rules for requests.
pub fn of_requests(entries: &[RouteEntry]) -> Shadows {
    let claims = entries.iter().map(|entry| {
        let texts = match &*entry.matches {
            [] => vec![normal(&Match::default())],
            matches => matches.iter().map(normal).collect(),
        };
        Claim { order: order(entry.created.as_deref(), &entry.route, entry.rule_index), texts }
    });
    shadows(&claims.collect::<Vec<_>>())
}

/// Of rules for connections, which match by server name.
pub fn of_streams(entries: &[StreamEntry]) -> Shadows {
    let claims = entries.iter().map(|entry| {
        let texts = if entry.hostnames.is_empty() { vec![String::new()] } else { entry.hostnames.clone() };
        Claim { order: order(entry.created.as_deref(), &entry.route, entry.rule_index), texts }
    });
    shadows(&claims.collect::<Vec<_>>())
}

fn order<'e>(
    created: Option<&'e str>,
    route: &'e ObjectName,
    rule: usize,
) -> (bool, Option<&'e str>, &'e ObjectName, usize) {
    (created.is_none(), created, route, rule)
}

fn normal(one: &Match) -> String {
    let mut one = one.clone();
    one.headers.sort_by(|a, b| a.name.as_str().cmp(b.name.as_str()));
    one.query.sort_by(|a, b| a.name.cmp(&b.name));
    format!("{one:?}")
}

fn shadows(claims: &[Claim<'_>]) -> Shadows {
    let mut owners: HashMap<&str, (&Claim<'_>, usize)> = HashMap::new();
    for claim in claims {
        for (place, text) in claim.texts.iter().enumerate() {
            let owner = owners.entry(text).or_insert((claim, place));
            if (claim.order, place) < (owner.0.order, owner.1) {
                *owner = (claim, place);
            }
        }
    }
    let mut shadows = Shadows::new();
    for claim in claims {
        let (.., route, rule) = claim.order;
        let taken: Vec<_> = claim
            .texts
            .iter()
            .enumerate()
            .filter_map(|(place, text)| Some((place, owners.get(text.as_str())?)))
            .filter(|(place, (owner, first))| (owner.order, *first) != (claim.order, *place))
            .map(|(place, (owner, _))| (place, owner.order))
            .collect();
        let (Some((first, _)), Some((_, owner))) = (taken.first(), taken.last()) else { continue };
        let place = (taken.len() < claim.texts.len()).then_some(*first);
        let shadow = Shadow { rule, place, owner: (owner.2.clone(), owner.3) };
        shadows.entry(route.clone()).or_default().push(shadow);
    }
    shadows
}

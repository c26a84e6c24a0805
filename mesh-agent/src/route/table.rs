//! Rules for requests in their order of precedence, and the look-up of the first that matches.
//!
//! `model::build` makes a table whenever a route changes; `proxy::plan` asks it for each request. A request is compared
//! only with the matches of its own path and of the prefixes of that path, found by hash, and with those whose path only
//! an expression tells.

use std::collections::HashMap;
use std::sync::Arc;

use foldhash::fast::FixedState;
use http::header::HeaderName;
use http::request;

use super::asked::{Asked, Expected};
use super::matches::{GrpcMatch, Match, PathMatch, ValueMatch};
use super::precedence::{Origin, Ranked};
use super::rule::Rule;
use crate::model::ObjectName;

/// A rule and what it asks of a request, as its route has it.
#[derive(Clone, Debug)]
pub struct RouteEntry {
    /// Any of these; an empty list is the Gateway API's default, PathPrefix `/`.
    pub matches: Vec<Match>,
    /// And any of these, which no author wrote: preflights of the requests that it matches, for its CORS to answer.
    pub preflights: Vec<Match>,
    /// What a request that matches goes by.
    pub rule: Arc<Rule>,
    /// The route's `creationTimestamp`, in UTC as the API server writes it; None counts as younger than any.
    pub created: Option<String>,
    /// The route.
    pub route: ObjectName,
    /// Place of the rule in the route, from 0.
    pub rule_index: usize,
}

/// What [`RouteTable::find`] found.
#[derive(Clone, Copy, Debug)]
pub struct Found<'t> {
    /// The rule that the request goes by.
    pub rule: &'t Arc<Rule>,
    /// So many bytes of the path matched as its PathPrefix, without a slash at their end; 0 for any other match.
    pub prefix: usize,
}

/// Rules for requests, most specific first.
///
/// There is one order for HTTPRoutes and one for GRPCRoutes; routes of both kinds on one service port are not to be put
/// into one table, since which of them holds is decided by kind (GEP-1426).
#[derive(Debug, Default)]
pub struct RouteTable {
    /// In order of precedence.
    candidates: Vec<Candidate>,
    /// By the whole path.
    exact: Index,
    /// By the path's first segments.
    prefixes: Index,
    /// How long the keys of `prefixes` are, longest first.
    lengths: Vec<usize>,
    /// Paths that no index tells.
    others: Vec<Probe>,
}

/// By path; in order of precedence.
type Index = HashMap<Box<[u8]>, Vec<Probe>, FixedState>;

/// A candidate, and the least that a request needs for it: candidates of one path are passed over without being read.
#[derive(Clone, Copy, Debug)]
struct Probe {
    /// In `candidates`.
    place: usize,
    header: Option<Expected>,
}

/// One match of a rule.
#[derive(Debug)]
pub(super) struct Candidate {
    pub(super) asks: Match,
    /// Where `Asked` remembers each of the headers.
    pub(super) slots: Vec<usize>,
    pub(super) rule: Arc<Rule>,
}

impl RouteTable {
    /// Puts the rules in order.
    pub fn new(entries: Vec<RouteEntry>) -> Self {
        let expanded: Vec<(RouteEntry, Vec<Match>)> = entries.into_iter().map(expand).collect();
        let mut ranked: Vec<(Ranked<'_>, &Arc<Rule>)> = expanded.iter().flat_map(ranks).collect();
        ranked.sort_by(|(one, _), (other, _)| one.order(other));

        let mut table = Self::default();
        let mut names = Vec::new();
        for (ranked, rule) in ranked {
            let slots = ranked.asks.headers.iter().map(|header| slot(&mut names, &header.name)).collect();
            table.push(Candidate { asks: ranked.asks.clone(), slots, rule: rule.clone() });
        }
        table.lengths = table.prefixes.keys().map(|prefix| prefix.len()).collect();
        table.lengths.sort_unstable_by(|one, other| other.cmp(one));
        table.lengths.dedup();
        table
    }

    /// The rule that a request goes by. None: no rule matches (404).
    pub fn find(&self, head: &request::Parts) -> Option<Found<'_>> {
        self.found(self.place(&Asked::new(head))?)
    }

    /// Place among the candidates of the first that matches.
    pub(super) fn place(&self, asked: &Asked<'_>) -> Option<usize> {
        let path = asked.path.as_bytes();
        let mut best = None;
        self.improve(&mut best, self.exact.get(path), asked);
        self.improve(&mut best, Some(&self.others), asked);
        for &length in &self.lengths {
            let whole = length == 0 || matches!(path.get(length), None | Some(b'/'));
            if let Some(prefix) = path.get(..length).filter(|_| whole) {
                self.improve(&mut best, self.prefixes.get(prefix), asked);
            }
        }
        best
    }

    pub(super) fn found(&self, place: usize) -> Option<Found<'_>> {
        let candidate = self.candidates.get(place)?;
        let prefix = if let PathMatch::Prefix(prefix) = &candidate.asks.path { prefix.len() } else { 0 };
        Some(Found { rule: &candidate.rule, prefix })
    }

    /// In order of precedence.
    pub(super) fn candidates(&self) -> &[Candidate] {
        &self.candidates
    }

    /// Makes `best` the first of `probes` that matches, if it goes before what `best` was.
    fn improve(&self, best: &mut Option<usize>, probes: Option<&Vec<Probe>>, asked: &Asked<'_>) {
        let limit = best.unwrap_or(usize::MAX);
        let mut probes = probes.into_iter().flatten().take_while(|probe| probe.place < limit);
        let first = probes.find(|probe| {
            probe.header.is_none_or(|expected| asked.may_have(expected))
                && self.candidates.get(probe.place).is_some_and(|candidate| candidate.matches(asked))
        });
        *best = first.map(|probe| probe.place).or(*best);
    }

    /// Puts a candidate behind those that are there.
    fn push(&mut self, candidate: Candidate) {
        let header = candidate.asks.headers.iter().zip(&candidate.slots);
        let header = header.filter_map(|(header, slot)| Expected::new(header, *slot)).next();
        let probe = Probe { place: self.candidates.len(), header };
        match &candidate.asks.path {
            PathMatch::Exact(path) => add(&mut self.exact, path.clone(), probe),
            PathMatch::Prefix(path) => add(&mut self.prefixes, path.clone(), probe),
            PathMatch::Grpc(GrpcMatch { service: Some(ValueMatch::Exact(service)), method }) => {
                match method {
                    Some(ValueMatch::Exact(method)) => {
                        add(&mut self.exact, format!("/{service}/{method}"), probe)
                    }
                    _ => add(&mut self.prefixes, format!("/{service}"), probe),
                }
            }
            PathMatch::Grpc(_) | PathMatch::Regex(_) => self.others.push(probe),
        }
        self.candidates.push(candidate);
    }
}

impl Candidate {
    fn matches(&self, asked: &Asked<'_>) -> bool {
        let indexed = matches!(self.asks.path, PathMatch::Exact(_) | PathMatch::Prefix(_));
        asked.method_is(self.asks.method.as_ref())
            && (indexed || asked.path_holds(&self.asks.path))
            && asked.conditions_hold(&self.asks, &self.slots)
    }
}

fn add(index: &mut Index, key: String, probe: Probe) {
    index.entry(key.into_bytes().into_boxed_slice()).or_default().push(probe);
}

/// Takes the matches out: at least one, and in it the first of the conditions for each name.
fn expand(mut entry: RouteEntry) -> (RouteEntry, Vec<Match>) {
    let mut matches = std::mem::take(&mut entry.matches);
    if matches.is_empty() {
        matches.push(Match::default());
    }
    matches.append(&mut entry.preflights);
    for asks in &mut matches {
        let mut seen = Vec::new();
        asks.headers.retain(|header| first_of(&mut seen, &header.name));
        let mut seen = Vec::new();
        asks.query.retain(|param| first_of(&mut seen, &param.name));
    }
    (entry, matches)
}

fn first_of<T: Clone + PartialEq>(seen: &mut Vec<T>, name: &T) -> bool {
    let first = !seen.contains(name);
    seen.push(name.clone());
    first
}

fn ranks((entry, matches): &(RouteEntry, Vec<Match>)) -> impl Iterator<Item = (Ranked<'_>, &Arc<Rule>)> {
    matches.iter().enumerate().map(move |(index, asks)| {
        let place = (entry.rule_index, index);
        let origin = Origin { created: entry.created.as_deref(), route: &entry.route, place };
        (Ranked { asks, origin }, &entry.rule)
    })
}

fn slot(names: &mut Vec<HeaderName>, name: &HeaderName) -> usize {
    names.iter().position(|known| known == name).unwrap_or_else(|| {
        names.push(name.clone());
        names.len() - 1
    })
}

#[cfg(test)]
pub(super) mod tests;

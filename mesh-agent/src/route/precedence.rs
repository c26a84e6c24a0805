//! Which of two matches goes first: the order of HTTPRouteRule and GRPCRouteRule (Gateway API, "precedence").
//!
//! A table sorts by it once; no request is compared here.

use std::cmp::{Ordering, Reverse};

use super::matches::{Match, PathMatch, ValueMatch};
use crate::model::ObjectName;

/// A match and where it comes from.
#[derive(Clone, Copy)]
pub(super) struct Ranked<'a> {
    pub(super) asks: &'a Match,
    pub(super) origin: Origin<'a>,
}

/// Breaks ties.
#[derive(Clone, Copy)]
pub(super) struct Origin<'a> {
    pub(super) created: Option<&'a str>,
    pub(super) route: &'a ObjectName,
    /// Place of the rule in the route and, for StreamTable always 0, of the match in the rule.
    pub(super) place: (usize, usize),
}

impl Ranked<'_> {
    /// Less goes first: the more specific, then the older route, then by name, then in the route's own order.
    pub(super) fn order(&self, other: &Self) -> Ordering {
        let specific = |asks: &Match| Reverse(specificity(asks));
        specific(self.asks).cmp(&specific(other.asks)).then_with(|| self.origin.order(&other.origin))
    }
}

impl Origin<'_> {
    /// Less goes first.
    pub(super) fn order(&self, other: &Self) -> Ordering {
        // API server timestamps are all in one form, so their order is that of their text.
        let age = |origin: &Self| (origin.created.is_none(), origin.created);
        age(self)
            .cmp(&age(other))
            .then_with(|| name(self.route).cmp(name(other.route)))
            .then_with(|| self.place.cmp(&other.place))
    }
}

/// `NAMESPACE/NAME`, whose alphabetical order isn't that of the pair: `-` sorts before `/`.
fn name(route: &ObjectName) -> impl Iterator<Item = u8> {
    route.namespace.bytes().chain(*b"/").chain(route.name.bytes())
}

/// Kind of path match, its characters (for gRPC service, then method), method, headers, query parameters. More goes first.
///
/// HTTPRouteRule leaves the place of RegularExpression open. It stands between Exact and PathPrefix, longest expression
/// first, as in Envoy Gateway; in Istio it stands after PathPrefix, where a rule for `/` would hide every expression.
fn specificity(asks: &Match) -> (u8, usize, usize, bool, usize, usize) {
    let (kind, first, second) = match &asks.path {
        PathMatch::Grpc(grpc) => {
            let characters = |value: &Option<ValueMatch>| value.as_ref().map_or(0, ValueMatch::characters);
            // Without either it asks nothing, as PathPrefix `/`.
            let kind = if grpc.service.is_none() && grpc.method.is_none() { 0 } else { 3 };
            (kind, characters(&grpc.service), characters(&grpc.method))
        }
        PathMatch::Exact(path) => (2, path.chars().count(), 0),
        PathMatch::Regex(pattern) => (1, pattern.as_str().chars().count(), 0),
        PathMatch::Prefix(path) => (0, path.chars().count(), 0),
    };
    (kind, first, second, asks.method.is_some(), asks.headers.len(), asks.query.len())
}

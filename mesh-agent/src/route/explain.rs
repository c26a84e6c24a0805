//! Why a request goes by one rule and not by another: every match of a table, in order, with what of it doesn't hold.
//!
//! For `route test`, never for traffic. Which rule it is comes from the look-up that traffic uses, and each part of a match
//! is asked of the same code; nothing is decided here.

use std::fmt;
use std::sync::Arc;

use http::header::HeaderName;
use http::request;

use super::asked::Asked;
use super::matches::Match;
use super::rule::Rule;
use super::stream::{StreamEntry, StreamRule, StreamTable};
use super::table::{Candidate, Found, RouteTable};

/// What was found for a request, and how every match stands to it.
#[derive(Debug)]
pub struct Explanation<'t> {
    /// What [`RouteTable::find`] finds.
    pub found: Option<Found<'t>>,
    /// In order of precedence.
    pub considered: Vec<Considered<'t>>,
}

/// One match of a rule.
#[derive(Debug)]
pub struct Considered<'t> {
    /// Whose match it is.
    pub rule: &'t Arc<Rule>,
    /// The match.
    pub asks: &'t Match,
    /// How it stands to the request.
    pub verdict: Verdict<'t>,
}

/// One rule for connections.
#[derive(Debug)]
pub struct ConsideredStream<'t> {
    /// The rule.
    pub rule: &'t Arc<StreamRule>,
    /// The server names that it is for; none for any.
    pub hostnames: &'t [String],
    /// How it stands to the connection.
    pub verdict: Verdict<'t>,
}

/// How a match stands to a request.
#[derive(Debug, PartialEq, Eq)]
pub enum Verdict<'t> {
    /// The request goes by it.
    Taken,
    /// It holds too, but another goes before it.
    Later,
    /// It doesn't hold.
    Failed(Vec<Misfit<'t>>),
}

/// A part of a match that doesn't hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Misfit<'t> {
    /// The path, or the call that it names.
    Path,
    /// The method.
    Method,
    /// A header, and whether the request has it at all.
    Header(&'t HeaderName, bool),
    /// A query parameter, and whether the request has it at all.
    Query(&'t str, bool),
    /// The name in the client's ClientHello.
    ServerName,
}

impl fmt::Display for Misfit<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let absent = |there: bool| if there { "" } else { " (absent)" };
        match *self {
            Self::Path => f.write_str("path"),
            Self::Method => f.write_str("method"),
            Self::Header(name, there) => write!(f, "header {name}{}", absent(there)),
            Self::Query(name, there) => write!(f, "query parameter {name}{}", absent(there)),
            Self::ServerName => f.write_str("server name"),
        }
    }
}

impl RouteTable {
    /// The rule that a request goes by, and why.
    pub fn explain(&self, head: &request::Parts) -> Explanation<'_> {
        let asked = Asked::new(head);
        let taken = self.place(&asked);
        let considered = self.candidates().iter().enumerate().map(|(place, candidate)| {
            let misfits = misfits(candidate, &asked);
            let verdict = match (taken == Some(place), misfits.is_empty()) {
                (true, _) => Verdict::Taken,
                (false, true) => Verdict::Later,
                (false, false) => Verdict::Failed(misfits),
            };
            Considered { rule: &candidate.rule, asks: &candidate.asks, verdict }
        });
        Explanation { found: taken.and_then(|place| self.found(place)), considered: considered.collect() }
    }

    /// Every match with its rule, in order of precedence.
    pub fn entries(&self) -> impl Iterator<Item = (&Match, &Arc<Rule>)> {
        self.candidates().iter().map(|candidate| (&candidate.asks, &candidate.rule))
    }
}

impl StreamTable {
    /// Every rule and how it stands to a connection with this server name; [`StreamTable::find`] takes one of them.
    pub fn explain(&self, sni: Option<&str>) -> Vec<ConsideredStream<'_>> {
        let taken = self.find(sni);
        let considered = self.entries().iter().map(|entry| ConsideredStream {
            rule: &entry.rule,
            hostnames: &entry.hostnames,
            verdict: match taken {
                Some(rule) if Arc::ptr_eq(rule, &entry.rule) => Verdict::Taken,
                _ if alone_takes(entry, sni) => Verdict::Later,
                _ => Verdict::Failed(vec![Misfit::ServerName]),
            },
        });
        considered.collect()
    }
}

fn misfits<'t>(candidate: &'t Candidate, asked: &Asked<'_>) -> Vec<Misfit<'t>> {
    let asks = &candidate.asks;
    let mut found = Vec::new();
    if !asked.path_holds(&asks.path) {
        found.push(Misfit::Path);
    }
    if !asked.method_is(asks.method.as_ref()) {
        found.push(Misfit::Method);
    }
    for (header, slot) in asks.headers.iter().zip(&candidate.slots) {
        if !asked.header_holds(header, *slot) {
            found.push(Misfit::Header(&header.name, asked.has_header(&header.name, *slot)));
        }
    }
    for param in &asks.query {
        if !asked.param_holds(param) {
            found.push(Misfit::Query(&param.name, asked.param(&param.name).is_some()));
        }
    }
    found
}

fn alone_takes(entry: &StreamEntry, sni: Option<&str>) -> bool {
    StreamTable::new(vec![entry.clone()]).find(sni).is_some()
}

#[cfg(test)]
mod tests;

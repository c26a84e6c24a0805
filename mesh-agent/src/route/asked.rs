//! A request as the matches see it: its parts taken apart once, header fields looked up at most once.
//!
//! Made by `super::table` for each look-up, on the stack; nothing of the request is copied.

use std::cell::Cell;
use std::hash::BuildHasher;

use foldhash::fast::FixedState;
use http::header::{self, GetAll, HeaderName, HeaderValue};
use http::{Method, request};

use super::matches::{GrpcMatch, HeaderMatch, Match, PathMatch, QueryMatch, ValueMatch};

/// So many of a table's header names are remembered per request; more are looked up each time that they are asked for.
const REMEMBERED: usize = 8;

/// The head of a request.
pub(super) struct Asked<'r> {
    pub(super) path: &'r str,
    query: &'r str,
    head: &'r request::Parts,
    fields: [Cell<Option<Field<'r>>>; REMEMBERED],
}

/// What a request has under a header name.
#[derive(Clone, Copy)]
enum Field<'r> {
    Absent,
    /// With its hash.
    Line(&'r [u8], u64),
    Lines,
}

/// A header's exact value, in a form that is compared without reading it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Expected {
    slot: usize,
    hash: u64,
}

impl Expected {
    /// None: it isn't exact, or its name isn't among those that are remembered.
    pub(super) fn new(header: &HeaderMatch, slot: usize) -> Option<Self> {
        match &header.value {
            ValueMatch::Exact(value) if slot < REMEMBERED => {
                Some(Self { slot, hash: hash(value.as_bytes()) })
            }
            _ => None,
        }
    }
}

fn hash(value: &[u8]) -> u64 {
    FixedState::default().hash_one(value)
}

impl<'r> Field<'r> {
    fn line(value: &'r [u8]) -> Self {
        Self::Line(value, hash(value))
    }
}

impl<'r> Asked<'r> {
    pub(super) fn new(head: &'r request::Parts) -> Self {
        let query = head.uri.query().unwrap_or_default();
        Self { path: head.uri.path(), query, head, fields: [const { Cell::new(None) }; REMEMBERED] }
    }

    pub(super) fn method_is(&self, method: Option<&Method>) -> bool {
        method.is_none_or(|method| *method == self.head.method)
    }

    /// True if all but the method and the path holds. `slots`: the place of each header's name in the table.
    pub(super) fn conditions_hold(&self, asks: &Match, slots: &[usize]) -> bool {
        asks.headers.iter().zip(slots).all(|(header, slot)| self.header_holds(header, *slot))
            && asks.query.iter().all(|param| self.param_holds(param))
    }

    pub(super) fn path_holds(&self, path: &PathMatch) -> bool {
        match path {
            PathMatch::Exact(exact) => exact == self.path,
            PathMatch::Prefix(prefix) => has_prefix(self.path.as_bytes(), prefix.as_bytes()),
            PathMatch::Regex(pattern) => pattern.matches(self.path.as_bytes()),
            PathMatch::Grpc(grpc) => self.call_is(grpc),
        }
    }

    fn call_is(&self, grpc: &GrpcMatch) -> bool {
        let is = |asked: &Option<ValueMatch>, value: &str| {
            asked.as_ref().is_none_or(|asked| asked.matches(value.as_bytes()))
        };
        let call = self.path.strip_prefix('/').and_then(|path| path.rsplit_once('/'));
        call.is_some_and(|(service, method)| is(&grpc.service, service) && is(&grpc.method, method))
    }

    pub(super) fn header_holds(&self, asked: &HeaderMatch, slot: usize) -> bool {
        match self.field(&asked.name, slot) {
            Field::Absent => false,
            Field::Line(value, _) => asked.value.matches(value),
            Field::Lines => joined_is(&self.head.headers.get_all(&asked.name), &asked.name, &asked.value),
        }
    }

    /// False if what is already known of the request rules it out; looks nothing up.
    pub(super) fn may_have(&self, expected: Expected) -> bool {
        match self.fields.get(expected.slot).and_then(Cell::get) {
            Some(Field::Absent) => false,
            Some(Field::Line(_, hash)) => hash == expected.hash,
            Some(Field::Lines) | None => true,
        }
    }

    fn field(&self, name: &HeaderName, slot: usize) -> Field<'r> {
        let Some(known) = self.fields.get(slot) else {
            return self.look_up(name);
        };
        if let Some(field) = known.get() {
            return field;
        }
        let field = self.look_up(name);
        known.set(Some(field));
        field
    }

    fn look_up(&self, name: &HeaderName) -> Field<'r> {
        let mut lines = self.head.headers.get_all(name).iter();
        match (lines.next(), lines.next()) {
            (Some(_), Some(_)) => Field::Lines,
            (Some(line), None) => Field::line(line.as_bytes()),
            // HTTP/2 has it as a pseudo-header; Envoy too lets a match on Host mean either.
            (None, _) if name == header::HOST => match self.head.uri.authority() {
                Some(authority) => Field::line(authority.as_str().as_bytes()),
                None => Field::Absent,
            },
            (None, _) => Field::Absent,
        }
    }

    pub(super) fn param_holds(&self, asked: &QueryMatch) -> bool {
        self.param(&asked.name).is_some_and(|value| asked.value.matches(value.as_bytes()))
    }

    /// The first parameter of this name.
    pub(super) fn param(&self, asked: &str) -> Option<&'r str> {
        let mut params = self.query.split('&').map(|param| param.split_once('=').unwrap_or((param, "")));
        params.find(|(name, _)| *name == asked).map(|(_, value)| value)
    }

    pub(super) fn has_header(&self, name: &HeaderName, slot: usize) -> bool {
        !matches!(self.field(name, slot), Field::Absent)
    }
}

/// True if `path` begins with the segments of `prefix`, which has no slash at its end.
pub(super) fn has_prefix(path: &[u8], prefix: &[u8]) -> bool {
    prefix.is_empty()
        || path.strip_prefix(prefix).is_some_and(|rest| matches!(rest.first(), None | Some(b'/')))
}

/// What stands between the lines of a field: `,` as in Envoy, but `; ` between the crumbs of a cookie (RFC 9113, 8.2.3).
fn joined_is(lines: &GetAll<'_, HeaderValue>, name: &HeaderName, asked: &ValueMatch) -> bool {
    let between: &[u8] = if name == header::COOKIE { b"; " } else { b"," };
    match asked {
        ValueMatch::Exact(exact) => {
            let mut rest = Some(exact.as_bytes());
            for (index, line) in lines.iter().enumerate() {
                let before = if index == 0 { b"" } else { between };
                rest = rest.and_then(|rest| rest.strip_prefix(before)?.strip_prefix(line.as_bytes()));
            }
            rest.is_some_and(<[u8]>::is_empty)
        }
        ValueMatch::Regex(pattern) => {
            let lines: Vec<&[u8]> = lines.iter().map(HeaderValue::as_bytes).collect();
            pattern.matches(&lines.join(between))
        }
    }
}

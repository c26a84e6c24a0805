//! A regular expression of a route, compiled: linear time, bounded in size, and matched against the whole value.
//!
//! Envoy's semantics (`safe_regex`, RE2's full match): no look-around, no back-references, `\d` and `\w` are ASCII.
//! Compiled with the route that holds it; never while a request waits.

use std::fmt;

use regex::bytes::{Regex, RegexBuilder};
use thiserror::Error;

/// The compiled program and the automaton's cache may each take so many bytes; an expression of the 1024 characters that
/// HTTPPathMatch allows takes far less unless it repeats in nested counts.
const SIZE_LIMIT: usize = 1 << 20;

/// A RegularExpression that compiles.
#[derive(Clone)]
pub struct Pattern {
    source: Box<str>,
    regex: Regex,
}

/// What is wrong with a RegularExpression.
#[derive(Debug, Error)]
#[error(
    "`{pattern}` is no regular expression that can be used (RE2 syntax, at most {SIZE_LIMIT} bytes compiled)"
)]
pub struct PatternError {
    pattern: String,
    source: regex::Error,
}

impl Pattern {
    /// Compiles `source`, which then has to match all of a value. Unicode classes have to be asked for with `(?u)`.
    pub fn new(source: &str) -> Result<Self, PatternError> {
        // By itself first: `a)|(b` would be well formed inside of the group that anchors it.
        let regex = build(source).and_then(|_| build(&format!(r"\A(?:{source})\z")));
        let regex = regex.map_err(|cause| PatternError { pattern: source.to_owned(), source: cause })?;
        Ok(Self { source: source.into(), regex })
    }

    /// True if all of `value` matches.
    pub fn matches(&self, value: &[u8]) -> bool {
        self.regex.is_match(value)
    }

    /// As it was written.
    pub fn as_str(&self) -> &str {
        &self.source
    }
}

fn build(source: &str) -> Result<Regex, regex::Error> {
    RegexBuilder::new(source).unicode(false).size_limit(SIZE_LIMIT).dfa_size_limit(SIZE_LIMIT).build()
}

impl fmt::Debug for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Pattern({})", self.source)
    }
}

impl PartialEq for Pattern {
    fn eq(&self, other: &Self) -> bool {
        self.source == other.source
    }
}

impl Eq for Pattern {}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn all_of_a_value_has_to_match() {
        let check = |pattern: &str, value: &[u8], expected: bool| {
            let compiled = Pattern::new(pattern).unwrap();
            assert_eq!(compiled.matches(value), expected, "{pattern} on {value:?}");
        };
        check("/v[0-9]+", b"/v12", true);
        check("/v[0-9]+", b"/v12/x", false);
        check("/v[0-9]+", b"x/v12", false);
        check("a|ab", b"ab", true);
        check("a|b", b"ab", false);
        check(".*", b"\xff\xfe", true);
        check("a$", b"a\n", false);
        check(r"\d", "٣".as_bytes(), false);
        check(r"(?u)\d", "٣".as_bytes(), true);
        check("(?i)abc", b"ABC", true);
        check("é+", "éé".as_bytes(), true);
    }

    #[test]
    fn what_is_malformed_or_too_large_is_refused() {
        for pattern in ["(", "a)|(b", "(?=a)", r"(a)\1", "((a{100}){100}){100}", "(?x)a # b"] {
            let error = Pattern::new(pattern).unwrap_err().to_string();
            assert!(error.contains(pattern), "{error}");
        }
    }
}

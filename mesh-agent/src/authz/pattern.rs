//! Istio's string patterns: `*` for anything that is there, `*END`, `BEGINNING*`, and everything else as it is written.
//!
//! `istio/pkg/security/authz/matcher/string.go`. A list of them is kept sorted, so that a long one costs a look into it.

use std::cmp::Ordering;

/// One pattern.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Pattern {
    /// `*`: anything that is there.
    Present,
    /// This and nothing else.
    Exact(Box<[u8]>),
    /// What begins so.
    Prefix(Box<[u8]>),
    /// What ends so.
    Suffix(Box<[u8]>),
}

impl Pattern {
    /// As Istio reads it: a star at the beginning goes before one at the end.
    pub fn parse(text: &str) -> Self {
        if text == "*" {
            Self::Present
        } else if let Some(end) = text.strip_prefix('*') {
            Self::Suffix(end.as_bytes().into())
        } else if let Some(beginning) = text.strip_suffix('*') {
            Self::Prefix(beginning.as_bytes().into())
        } else {
            Self::Exact(text.as_bytes().into())
        }
    }

    /// With its letters changed by `change`.
    pub fn map(self, change: impl Fn(&[u8]) -> Vec<u8>) -> Self {
        match self {
            Self::Present => Self::Present,
            Self::Exact(text) => Self::Exact(change(&text).into()),
            Self::Prefix(text) => Self::Prefix(change(&text).into()),
            Self::Suffix(text) => Self::Suffix(change(&text).into()),
        }
    }
}

/// A list of patterns, one of which has to fit.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Patterns {
    present: bool,
    exact: Box<[Box<[u8]>]>,
    /// None of which begins another.
    prefixes: Box<[Box<[u8]>]>,
    /// None of which ends another; sorted from the end.
    suffixes: Box<[Box<[u8]>]>,
}

impl Patterns {
    /// Of these.
    pub fn new(patterns: impl IntoIterator<Item = Pattern>) -> Self {
        let (mut present, mut exact, mut prefixes, mut suffixes) =
            (false, Vec::new(), Vec::new(), Vec::new());
        for pattern in patterns {
            match pattern {
                Pattern::Present => present = true,
                Pattern::Exact(text) => exact.push(text),
                Pattern::Prefix(text) => prefixes.push(text),
                Pattern::Suffix(text) => suffixes.push(text),
            }
        }
        exact.sort_unstable();
        exact.dedup();
        prefixes.sort_unstable();
        prefixes.dedup_by(|longer, shorter| longer.starts_with(shorter));
        suffixes.sort_by(|a, b| backwards(a, b));
        suffixes.dedup_by(|longer, shorter| longer.ends_with(shorter));
        Self { present, exact: exact.into(), prefixes: prefixes.into(), suffixes: suffixes.into() }
    }

    /// Of texts.
    pub fn parse(texts: &[String]) -> Self {
        Self::new(texts.iter().map(|text| Pattern::parse(text)))
    }

    /// True if one fits a value that is there. `*` takes an empty one too, as for headers.
    pub fn fit(&self, value: &[u8]) -> bool {
        self.present || self.fit_text(value)
    }

    /// The same of a value that counts as absent when it is empty, as Istio's `.+` has it.
    pub fn fit_some(&self, value: &[u8]) -> bool {
        self.present && !value.is_empty() || self.fit_text(value)
    }

    fn fit_text(&self, value: &[u8]) -> bool {
        let exact = || self.exact.binary_search_by(|text| (**text).cmp(value)).is_ok();
        exact() || self.begins(value) || self.ends(value)
    }

    fn begins(&self, value: &[u8]) -> bool {
        let behind = self.prefixes.partition_point(|text| **text <= *value);
        behind.checked_sub(1).is_some_and(|at| value.starts_with(&self.prefixes[at]))
    }

    fn ends(&self, value: &[u8]) -> bool {
        let behind = self.suffixes.partition_point(|text| backwards(text, value) != Ordering::Greater);
        behind.checked_sub(1).is_some_and(|at| value.ends_with(&self.suffixes[at]))
    }

    /// Each of them.
    pub(super) fn iter(&self) -> impl Iterator<Item = Pattern> {
        let present = self.present.then_some(Pattern::Present);
        let exact = self.exact.iter().cloned().map(Pattern::Exact);
        let prefixes = self.prefixes.iter().cloned().map(Pattern::Prefix);
        present
            .into_iter()
            .chain(exact)
            .chain(prefixes)
            .chain(self.suffixes.iter().cloned().map(Pattern::Suffix))
    }
}

fn backwards(a: &[u8], b: &[u8]) -> Ordering {
    a.iter().rev().cmp(b.iter().rev())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn one(pattern: &str, value: &str) -> bool {
        match Pattern::parse(pattern) {
            Pattern::Present => !value.is_empty(),
            Pattern::Exact(text) => *text == *value.as_bytes(),
            Pattern::Prefix(text) => value.as_bytes().starts_with(&text),
            Pattern::Suffix(text) => value.as_bytes().ends_with(&text),
        }
    }

    #[test]
    fn a_star_stands_for_anything_at_one_end_only() {
        fn check(pattern: &str, value: &str, want: bool) {
            assert_eq!(
                Patterns::parse(&[pattern.to_owned()]).fit_some(value.as_bytes()),
                want,
                "{pattern} {value}"
            );
            assert_eq!(one(pattern, value), want, "{pattern} {value}");
        }
        check("a", "a", true);
        check("a", "A", false);
        check("a", "ab", false);
        check("a*", "a", true);
        check("a*", "abc", true);
        check("a*", "ba", false);
        check("*a", "a", true);
        check("*a", "ba", true);
        check("*a", "ab", false);
        check("*", "a", true);
        check("*", "", false);
        check("a*c", "abc", false);
        check("a*c", "a*c", true);
        check("*a*", "xa*", true);
        check("*a*", "xab", false);
        check("**", "x*", true);
    }

    proptest! {
        #[test]
        fn a_list_fits_what_one_of_it_fits(
            patterns in prop::collection::vec("[ab*]{1,5}", 0..12),
            value in "[ab*]{0,6}",
        ) {
            let want = patterns.iter().any(|pattern| one(pattern, &value));
            prop_assert_eq!(Patterns::parse(&patterns).fit_some(value.as_bytes()), want);
        }
    }
}

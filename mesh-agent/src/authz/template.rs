//! Path templates: `{*}` for one segment, `{**}` for any number of them.
//!
//! Envoy's URI templates as Istio lets them be written (`CheckValidPathTemplate`): an operator is a segment of its own, and
//! `{**}` the last of them, though literal segments may follow.

const ONE: &str = "{*}";
const ANY: &str = "{**}";

/// A path with operators.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Template {
    /// What lies between operators, and before and after them: one more than there are operators.
    literals: Box<[Box<[u8]>]>,
    /// True for `{**}`.
    operators: Box<[bool]>,
}

impl Template {
    /// True if a path has an operator.
    pub fn is_one(path: &str) -> bool {
        path.contains(ONE) || path.contains(ANY)
    }

    /// Takes a path apart that [`Template::check`] has taken.
    pub fn parse(path: &str) -> Self {
        let (mut literals, mut operators) = (Vec::new(), Vec::new());
        let mut rest = path;
        while let Some(at) = rest.find('{') {
            let any = rest[at..].starts_with(ANY);
            if !any && !rest[at..].starts_with(ONE) {
                break;
            }
            literals.push(rest.as_bytes()[..at].into());
            operators.push(any);
            rest = &rest[at + if any { ANY.len() } else { ONE.len() }..];
        }
        literals.push(rest.as_bytes().into());
        Self { literals: literals.into(), operators: operators.into() }
    }

    /// Refuses what Istio refuses of a path, with or without operators.
    ///
    /// # Errors
    /// Says what was expected.
    pub fn check(path: &str) -> Result<(), String> {
        let with_operators = Self::is_one(path);
        let mut last = false;
        for segment in path.trim_matches('/').split('/') {
            let operator = segment == ONE || segment == ANY;
            if operator && last {
                return Err(format!("{path:?}: no operator may follow {{**}}"));
            }
            last |= segment == ANY;
            if operator {
                continue;
            }
            if segment.contains(['{', '}']) {
                return Err(format!("{path:?}: braces only as {{*}} or {{**}}, each a segment of its own"));
            }
            if with_operators && (segment.is_empty() || !segment.bytes().all(is_path_character)) {
                return Err(format!("{path:?}: {segment:?} isn't a segment of a path with operators"));
            }
        }
        Ok(())
    }

    /// With its letters changed by `change`.
    pub fn map(&self, change: impl Fn(&[u8]) -> Vec<u8>) -> Self {
        let literals = self.literals.iter().map(|literal| change(literal).into()).collect();
        Self { literals, operators: self.operators.clone() }
    }

    /// What every path that fits begins with.
    pub fn beginning(&self) -> &[u8] {
        &self.literals[0]
    }

    /// True if `path` fits. With `strictly`, operators stand only for characters that Envoy lets them stand for.
    pub fn fits(&self, path: &[u8], strictly: bool) -> bool {
        path.strip_prefix(self.beginning()).is_some_and(|rest| self.fits_from(0, rest, strictly))
    }

    /// What follows the literal before operator `at`.
    fn fits_from(&self, at: usize, rest: &[u8], strictly: bool) -> bool {
        let Some(any) = self.operators.get(at) else { return rest.is_empty() };
        let literal = &self.literals[at + 1];
        if *any {
            // No operator follows.
            let Some(middle) = rest.strip_suffix(&**literal) else { return false };
            return !strictly || middle.iter().all(|b| *b == b'/' || is_path_character(*b));
        }
        let end = rest.iter().position(|b| *b == b'/').unwrap_or(rest.len());
        let (segment, rest) = rest.split_at(end);
        !segment.is_empty()
            && (!strictly || segment.iter().all(|b| is_path_character(*b)))
            && rest.strip_prefix(&**literal).is_some_and(|rest| self.fits_from(at + 1, rest, strictly))
    }
}

/// pchar of RFC 3986 without `*`, as Envoy's and Istio's expressions have it.
fn is_path_character(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-._~%!$&'()+,;:@=".contains(&byte)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn operators_stand_for_segments() {
        fn check(template: &str, path: &str, want: bool) {
            assert_eq!(Template::parse(template).fits(path.as_bytes(), true), want, "{template} {path}");
        }
        check("/a/{*}", "/a/b", true);
        check("/a/{*}", "/a/", false);
        check("/a/{*}", "/a/b/c", false);
        check("/a/{*}/c", "/a/b/c", true);
        check("/a/{*}/c", "/a/b/cd", false);
        check("/{*}/{*}", "/a/b", true);
        check("/{*}/{*}", "/a", false);
        check("/a/{**}", "/a/", true);
        check("/a/{**}", "/a/b/c", true);
        check("/a/{**}", "/a", false);
        check("/a/{**}/d", "/a/b/c/d", true);
        check("/a/{**}/d", "/a/d", false);
        check("/{*}/b/{**}", "/a/b/c/d", true);
        check("/{*}/b/{**}", "/a/c/b/d", false);
        check("/a/{*}", "/a/b*", false);
        check("/a/{*}", "/a/%2f", true);
    }

    #[test]
    fn templates_are_those_that_istio_takes() {
        let good =
            ["/a", "/a*", "*", "*b", "/{*}", "/a/{*}/b/{**}", "/{**}/b", "{*}", "/a b", "/a//b", "/a/"];
        for path in good {
            assert!(Template::check(path).is_ok(), "{path}");
        }
        for path in ["/{a}", "/a{*}", "/{**}/{*}", "/{**}/{**}", "/{*}/a b", "/{*}/a*", "/}", "/{*}//b"] {
            assert!(Template::check(path).is_err(), "{path}");
        }
    }
}

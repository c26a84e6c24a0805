//! Lists of header names as MeshConfig writes them: exact, `prefix*`, `*suffix`, `*`; in any case.
//!
//! Used for what a provider is told and what passes on of its answer.

use http::HeaderName;

/// Which headers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HeaderList(Vec<Pattern>);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Pattern {
    Exact(String),
    Prefix(String),
    Suffix(String),
}

impl HeaderList {
    /// Of these names.
    pub fn new(names: &[String]) -> Self {
        let pattern = |name: &String| {
            let name = name.to_ascii_lowercase();
            match (name.strip_suffix('*'), name.strip_prefix('*')) {
                (Some(prefix), _) => Pattern::Prefix(prefix.to_owned()),
                (None, Some(suffix)) => Pattern::Suffix(suffix.to_owned()),
                (None, None) => Pattern::Exact(name),
            }
        };
        Self(names.iter().map(pattern).collect())
    }

    /// True if nothing is in it.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// True if `name` is in it.
    pub fn has(&self, name: &HeaderName) -> bool {
        let name = name.as_str();
        self.0.iter().any(|pattern| match pattern {
            Pattern::Exact(exact) => exact == name,
            Pattern::Prefix(prefix) => name.starts_with(prefix.as_str()),
            Pattern::Suffix(suffix) => name.ends_with(suffix.as_str()),
        })
    }
}

/// Headers that say where a message ends and what its connection is for: never taken over from one message to another.
pub(super) fn is_framing(name: &HeaderName) -> bool {
    matches!(
        name.as_str(),
        "connection"
            | "content-length"
            | "expect"
            | "host"
            | "http2-settings"
            | "keep-alive"
            | "proxy-connection"
            | "te"
            | "trailer"
            | "transfer-encoding"
            | "upgrade"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_exact_or_begin_or_end_alike_in_any_case() {
        fn check(list: &[&str], name: &'static str, want: bool) {
            let list = HeaderList::new(&list.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>());
            assert_eq!(list.has(&HeaderName::from_static(name)), want, "{list:?} {name}");
        }
        check(&["X-User"], "x-user", true);
        check(&["x-user"], "x-users", false);
        check(&["x-*"], "x-user", true);
        check(&["x-*"], "y-user", false);
        check(&["*-User"], "x-user", true);
        check(&["*-user"], "x-user-id", false);
        check(&["*"], "anything", true);
        check(&[], "x-user", false);
    }
}

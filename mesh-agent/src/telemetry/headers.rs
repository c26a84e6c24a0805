//! Headers of a request that somebody wants to see when it has ended: the access log's template, or those who tap.
//!
//! Most requests keep none. What is kept has lost its secrets, and is bounded, before it is.

use http::{HeaderMap, HeaderName, HeaderValue};

use super::redact::Redact;

/// Of one request, at most so many headers in each direction.
const MOST: usize = 64;
/// And of one of them, at most so many bytes.
const LONGEST: usize = 1024;

/// What was kept of one request.
#[derive(Debug, Default)]
pub struct Kept {
    /// Somebody taps: all headers, not only those that the template names.
    all: bool,
    /// As the client sent them.
    pub request: HeaderMap,
    /// As the endpoint sent them, of the response that the client got; empty where the agent itself answered.
    pub response: HeaderMap,
}

/// Which headers are kept.
#[derive(Debug, Default)]
pub(super) struct Keeper {
    pub redact: Redact,
    /// What the template names.
    pub request: Vec<HeaderName>,
    /// The same of responses.
    pub response: Vec<HeaderName>,
}

impl Keeper {
    /// Keeps what is wanted of a request's headers; None if nothing is.
    pub(super) fn begin(&self, all: bool, headers: &HeaderMap) -> Option<Box<Kept>> {
        if !all && self.request.is_empty() && self.response.is_empty() {
            return None;
        }
        let request = self.copy(all, &self.request, headers);
        Some(Box::new(Kept { all, request, response: HeaderMap::new() }))
    }

    /// Keeps what is wanted of its response's.
    pub(super) fn answered(&self, kept: &mut Kept, headers: &HeaderMap) {
        kept.response = self.copy(kept.all, &self.response, headers);
    }

    fn copy(&self, all: bool, named: &[HeaderName], headers: &HeaderMap) -> HeaderMap {
        let mut kept = HeaderMap::new();
        let wanted = headers.iter().filter(|(name, _)| all || named.contains(name));
        for (name, value) in wanted.take(MOST) {
            kept.append(name, shorten(self.redact.header(name, value)));
        }
        kept
    }
}

fn shorten(value: HeaderValue) -> HeaderValue {
    match value.as_bytes().get(..LONGEST) {
        Some(begin) => HeaderValue::from_bytes(begin).unwrap_or(value),
        None => value,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn only_what_is_wanted_is_kept_and_never_a_secret() {
        let mut headers = HeaderMap::new();
        for (name, value) in [("user-agent", "me"), ("cookie", "marker"), ("x-a", "1")] {
            headers.append(name, value.parse().unwrap());
        }
        let nothing = Keeper::default();
        assert!(nothing.begin(false, &headers).is_none());
        let all = nothing.begin(true, &headers).unwrap();
        assert_eq!(all.request.len(), 3);
        assert_eq!(all.request["cookie"], "[redacted]");
        let named = Keeper { request: vec![HeaderName::from_static("x-a")], ..Keeper::default() };
        let mut some = named.begin(false, &headers).unwrap();
        assert_eq!((some.request.len(), &some.request["x-a"]), (1, &HeaderValue::from_static("1")));
        named.answered(&mut some, &headers);
        assert!(some.response.is_empty());
    }

    #[test]
    fn a_long_or_endless_head_is_cut() {
        let mut headers = HeaderMap::new();
        for i in 0..200 {
            headers.append(
                HeaderName::from_bytes(format!("x-{i}").as_bytes()).unwrap(),
                "a".repeat(5000).parse().unwrap(),
            );
        }
        let kept = Keeper::default().begin(true, &headers).unwrap();
        assert_eq!(kept.request.len(), MOST);
        assert!(kept.request.values().all(|value| value.len() == LONGEST));
    }
}

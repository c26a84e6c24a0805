//! What authentication changes in a request on its way to the application: tokens out, claims in, forgeries out.
//!
//! Made by `authenticate`, applied before the head is sent. Headers that a rule sets are the rule's alone: what a client put
//! there goes, whether its request has a token or not.

use http::header::{COOKIE, HeaderName, HeaderValue};
use http::request;
use http::uri::Uri;

use super::location::{Location, without_cookies, without_params};

/// Changes of a request's head.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Edits {
    remove: Vec<HeaderName>,
    cookies: Option<Vec<HeaderValue>>,
    target: Option<Uri>,
    set: Vec<(HeaderName, HeaderValue)>,
}

impl Edits {
    /// Takes out what a client sent under names that are ours.
    pub(super) fn strip(&mut self, head: &request::Parts, names: &[HeaderName]) {
        self.remove.extend(names.iter().filter(|name| head.headers.contains_key(*name)).cloned());
    }

    /// Takes tokens out of these places. None of them is the application's to see, so that a place which can't be cleared
    /// fails the request.
    pub(super) fn take_out(&mut self, head: &request::Parts, places: &[&Location]) -> Option<()> {
        let (mut params, mut cookies) = (Vec::new(), Vec::new());
        for place in places {
            match place {
                Location::Param(name) => params.push(&**name),
                Location::Cookie(name) => cookies.push(&**name),
                Location::Bearer | Location::Header { .. } => self.remove.extend(place.header().cloned()),
            }
        }
        if !params.is_empty() {
            self.target = Some(without_params(&head.uri, &params)?);
        }
        if !cookies.is_empty() {
            self.cookies = Some(without_cookies(&head.headers, &cookies));
        }
        Some(())
    }

    /// Adds a rule's headers.
    pub(super) fn add(&mut self, headers: &[(HeaderName, HeaderValue)]) {
        self.set.extend(headers.iter().cloned());
    }

    /// True if nothing changes.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Makes the changes; true if the target is another one now.
    pub fn apply(&self, head: &mut request::Parts) -> bool {
        for name in &self.remove {
            head.headers.remove(name);
        }
        if let Some(lines) = &self.cookies {
            head.headers.remove(COOKIE);
            for line in lines {
                head.headers.append(COOKIE, line.clone());
            }
        }
        for (name, value) in &self.set {
            head.headers.insert(name.clone(), value.clone());
        }
        if let Some(target) = &self.target {
            head.uri = target.clone();
        }
        self.target.is_some()
    }
}

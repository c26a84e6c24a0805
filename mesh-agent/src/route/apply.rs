//! What a rule does to a request that goes by it: an answer in the application's place, or another head.
//!
//! Asked by `proxy::plan` for each request and by `route test`; before: `super::table`, after: the choice of a backend.

use http::header::{HOST, HeaderName, HeaderValue, LOCATION};
use http::uri::Uri;
use http::{StatusCode, Version, request};
use thiserror::Error;

use super::edit::HeaderEdits;
use super::filter::Filters;
use super::rule::Rule;

/// What comes before a backend is drawn.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Before {
    /// The request is answered at once: a redirect, or a preflight.
    Answer(StatusCode, Vec<(HeaderName, HeaderValue)>),
    /// It goes on; this is what CORS changes in the response.
    Forward(HeaderEdits),
}

/// What a filter makes of a request can't be said in HTTP.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("a filter makes a target or header of it that HTTP doesn't have")]
pub struct Unusable;

impl Rule {
    /// What becomes of a request whose first `prefix` bytes of path the rule matched, on a connection to port `dialled`.
    ///
    /// # Errors
    /// If the filters make no Location of the request.
    pub fn before(&self, head: &request::Parts, prefix: usize, dialled: u16) -> Result<Before, Unusable> {
        let mut cors = HeaderEdits::default();
        if let Some(filter) = &self.filters.cors {
            if let Some(headers) = filter.preflight(head) {
                let headers = headers.iter().map(|(name, value)| (name.clone(), value.clone()));
                return Ok(Before::Answer(StatusCode::OK, headers.collect()));
            }
            cors = filter.actual(&head.headers);
        }
        if let Some(redirect) = &self.filters.redirect {
            // Nothing that reaches the agent as requests came encrypted.
            let location = redirect.location(head, prefix, dialled, "http");
            let location = HeaderValue::try_from(location).map_err(|_| Unusable)?;
            return Ok(Before::Answer(redirect.status, vec![(LOCATION, location)]));
        }
        Ok(Before::Forward(cors))
    }
}

impl Filters {
    /// Changes a request's head; true if its target changed.
    ///
    /// # Errors
    /// If no request can be made of it.
    pub fn change(&self, head: &mut request::Parts, prefix: usize) -> Result<bool, Unusable> {
        self.request.apply(&mut head.headers);
        let Some(rewrite) = &self.rewrite else { return Ok(false) };
        let mut uri = head.uri.clone().into_parts();
        if let Some(host) = &rewrite.hostname {
            // HTTP/2 names it in `:authority`, and Host besides only if the client did.
            if head.version != Version::HTTP_2 || head.headers.contains_key(HOST) {
                head.headers.insert(HOST, host.clone());
            }
            if uri.authority.is_some() {
                uri.authority = Some(host.as_bytes().try_into().map_err(|_| Unusable)?);
            }
        }
        if let Some(path) = &rewrite.path {
            let changed = path.apply(&head.uri, prefix);
            uri.path_and_query = Some(changed.parse().map_err(|_| Unusable)?);
        }
        head.uri = Uri::from_parts(uri).map_err(|_| Unusable)?;
        Ok(true)
    }
}

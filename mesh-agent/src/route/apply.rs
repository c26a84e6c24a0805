//! What a rule does to a request that goes by it: an answer in the application's place, or another head.
//!
//! Asked by `proxy::plan` for each request and by `route test`, once a backend was drawn: a backend's filters are for
//! the requests that are forwarded to it (HTTPBackendRef, `filters`). Comes after `super::table`.

use http::header::{HOST, HeaderMap, HeaderName, HeaderValue, LOCATION};
use http::uri::Uri;
use http::{StatusCode, Version, request};
use thiserror::Error;

use super::edit::HeaderEdits;
use super::filter::Filters;
use super::redirect::Redirect;
use super::rule::{Backend, Rule};

/// What is done before a request is sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Before {
    /// The request is answered at once: a redirect, or a preflight.
    Answer(StatusCode, Vec<(HeaderName, HeaderValue)>),
    /// It goes on; this is what CORS changes in the response, whoever gives it.
    Forward(HeaderEdits),
}

/// What a filter makes of a request can't be said in HTTP.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("a filter makes a target or header of it that HTTP doesn't have")]
pub struct Unusable;

impl Rule {
    /// What becomes of a request whose first `prefix` bytes of path the rule matched, on a connection to port `dialled`.
    /// `backend` is the one that was drawn, if it can be used; its CORS goes before the rule's (Envoy: the most specific
    /// configuration of a filter).
    ///
    /// # Errors
    /// If the filters make no Location of the request.
    pub fn before(
        &self,
        backend: Option<&Backend>,
        head: &request::Parts,
        prefix: usize,
        dialled: u16,
    ) -> Result<Before, Unusable> {
        let of_backend = backend.map(|backend| &backend.filters);
        let mut cors = HeaderEdits::default();
        if let Some(filter) = of_backend.and_then(|own| own.cors.as_ref()).or(self.filters.cors.as_ref()) {
            if let Some(headers) = filter.preflight(head) {
                let headers = headers.iter().map(|(name, value)| (name.clone(), value.clone()));
                return Ok(Before::Answer(StatusCode::OK, headers.collect()));
            }
            cors = filter.actual(&head.headers);
        }
        let own = self.filters.redirect.as_ref();
        let Some(redirect) = own.or_else(|| of_backend?.redirect.as_ref()) else {
            return Ok(Before::Forward(cors));
        };
        let mut headers = location(redirect, head, prefix, dialled)?;
        // As any response of the rule's (HTTPRouteRule.filters: all go with each other, but for URLRewrite and
        // RequestRedirect), and as Envoy's router does it with its redirects.
        let edits = std::iter::once(&self.filters.response).chain(of_backend.map(|own| &own.response));
        edits.chain([&cors]).for_each(|edits| edits.apply(&mut headers));
        let headers = headers.iter().map(|(name, value)| (name.clone(), value.clone()));
        Ok(Before::Answer(redirect.status, headers.collect()))
    }

    /// Changes the head of a request that is sent to `backend`; true if its target changed. The backend's rewrite of host
    /// or path takes the place of the rule's: both mean the request that the client sent.
    ///
    /// # Errors
    /// If no request can be made of it.
    pub fn change(
        &self,
        backend: &Filters,
        head: &mut request::Parts,
        prefix: usize,
    ) -> Result<bool, Unusable> {
        self.filters.request.apply(&mut head.headers);
        backend.request.apply(&mut head.headers);
        let rewrites = [backend.rewrite.as_ref(), self.filters.rewrite.as_ref()];
        let mut rewrites = rewrites.into_iter().flatten().peekable();
        if rewrites.peek().is_none() {
            return Ok(false);
        }
        let mut uri = head.uri.clone().into_parts();
        if let Some(host) = rewrites.clone().find_map(|rewrite| rewrite.hostname.as_ref()) {
            // HTTP/2 names it in `:authority`, and Host besides only if the client did.
            if head.version != Version::HTTP_2 || head.headers.contains_key(HOST) {
                head.headers.insert(HOST, host.clone());
            }
            if uri.authority.is_some() {
                uri.authority = Some(host.as_bytes().try_into().map_err(|_| Unusable)?);
            }
        }
        // `OPTIONS *` asks about the server and has no path to change (RFC 9110, 9.3.7).
        let path = rewrites.find_map(|rewrite| rewrite.path.as_ref()).filter(|_| head.uri.path() != "*");
        if let Some(path) = path {
            let changed = path.apply(&head.uri, prefix);
            uri.path_and_query = Some(changed.parse().map_err(|_| Unusable)?);
        }
        head.uri = Uri::from_parts(uri).map_err(|_| Unusable)?;
        Ok(true)
    }

    /// True if [`Self::change`] changes anything that a request is told by.
    pub fn changes(&self, backend: &Filters) -> bool {
        [&self.filters, backend].iter().any(|own| own.rewrite.is_some() || !own.request.is_empty())
    }
}

fn location(
    redirect: &Redirect,
    head: &request::Parts,
    prefix: usize,
    dialled: u16,
) -> Result<HeaderMap, Unusable> {
    // Nothing that reaches the agent as requests came encrypted.
    let location = redirect.location(head, prefix, dialled, "http");
    let location = HeaderValue::try_from(location).map_err(|_| Unusable)?;
    Ok(HeaderMap::from_iter([(LOCATION, location)]))
}

#[cfg(test)]
mod tests;

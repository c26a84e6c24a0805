//! What the agent itself answers instead of an endpoint: errors, redirects, preflights, limits.
//!
//! Made by `plan`, or from an [`ErrorKind`] of the one table in `error`; put on the wire by `crate::http1` and
//! `crate::http2`, each in its own form, gRPC's included. Never says more of a failure than its kind.

use std::borrow::Cow;
use std::sync::Arc;

use http::StatusCode;
use http::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};

use super::error::{ErrorKind, grpc_status_for};
use crate::route::HeaderEdits;

/// An answer of the agent's own.
#[derive(Clone, Debug)]
pub struct LocalAnswer {
    /// HTTP status; a gRPC client gets 200 and `grpc_status`.
    pub status: StatusCode,
    /// For gRPC clients.
    pub grpc_status: u16,
    /// Beside content type and length.
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// Plain text, or what a policy says; may be empty.
    pub body: Cow<'static, str>,
    /// The failure that it tells of; None if nothing failed.
    pub why: Option<ErrorKind>,
    /// For the access log alone: what says more than the failure's kind.
    pub details: Option<Arc<str>>,
}

impl LocalAnswer {
    /// The answer to a failure; None where nobody is left to be answered.
    pub fn to(why: ErrorKind) -> Option<Self> {
        let status = why.status()?;
        let body = match why {
            // Envoy's words, and no more: neither policy nor rule is the client's business.
            ErrorKind::Denied => Cow::Borrowed("RBAC: access denied"),
            why => Cow::Owned(why.label().replace('_', " ") + "\n"),
        };
        let (grpc_status, headers) = (why.grpc_status(), Vec::new());
        Some(Self { status, grpc_status, headers, body, why: Some(why), details: None })
    }

    /// The answer to a failure that is told to whoever caused it.
    pub fn refusing(why: ErrorKind) -> Self {
        Self::to(why).unwrap_or_else(|| Self::new(StatusCode::INTERNAL_SERVER_ERROR, Vec::new()))
    }

    /// The same with a map of headers.
    pub fn with_headers(status: StatusCode, headers: HeaderMap) -> Self {
        let headers = headers.iter().map(|(name, value)| (name.clone(), value.clone()));
        Self::new(status, headers.collect())
    }

    /// With these changes of its headers.
    pub fn edited(mut self, edits: &HeaderEdits) -> Self {
        let mut headers: HeaderMap = self.headers.drain(..).collect();
        edits.apply(&mut headers);
        self.headers = headers.iter().map(|(name, value)| (name.clone(), value.clone())).collect();
        self
    }

    /// True for what a client must not take for success.
    pub fn is_error(&self) -> bool {
        self.why.is_some() || self.status.is_client_error() || self.status.is_server_error()
    }

    /// True if a header says what the body is.
    pub fn has_content_type(&self) -> bool {
        self.headers.iter().any(|(name, _)| name == CONTENT_TYPE)
    }

    /// An answer that is no failure.
    pub fn new(status: StatusCode, headers: Vec<(HeaderName, HeaderValue)>) -> Self {
        let (grpc_status, body) = (grpc_status_for(status), Cow::Borrowed(""));
        Self { status, grpc_status, headers, body, why: None, details: None }
    }
}

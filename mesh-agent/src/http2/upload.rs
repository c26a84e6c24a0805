//! A request's body across tries: untouched until a first endpoint is there, then with its copy.
//!
//! Owned by `stream`; `copy` moves it, and has kept what another endpoint needs.

use std::collections::VecDeque;

use bytes::Bytes;
use h2::{RecvStream, SendStream};

use super::copy::{Copy, MOST_KEPT};
use super::hedge::Ahead;
use super::pass::ToEndpoint;
use crate::proxy::ErrorKind;

/// The body of one request.
pub(super) struct Upload {
    /// There is none.
    ended: bool,
    grpc: bool,
    keep: usize,
    body: Option<RecvStream>,
    copy: Option<Copy>,
}

/// A stream to an endpoint, and where the body goes on it.
pub(super) struct Opened {
    pub(super) to_endpoint: ToEndpoint,
    pub(super) send: SendStream<Bytes>,
    /// What is left to send, where a hedge has sent the rest.
    pub(super) unsent: Option<VecDeque<Bytes>>,
}

impl Upload {
    /// At its beginning; up to `keep` bytes will be kept.
    pub(super) fn new(body: RecvStream, grpc: bool, keep: Option<usize>) -> Self {
        let keep = keep.unwrap_or(MOST_KEPT);
        Self { ended: body.is_end_stream(), grpc, keep, body: Some(body), copy: None }
    }

    /// True if the request has no body.
    pub(super) fn is_empty(&self) -> bool {
        self.ended
    }

    /// True if all that was sent so far can be sent again.
    pub(super) fn is_kept(&self) -> bool {
        self.copy.as_ref().is_none_or(Copy::is_kept)
    }

    /// True if all of it has come, and can be sent again.
    pub(super) fn is_complete(&self) -> bool {
        self.copy.as_ref().map_or(self.ended, Copy::is_complete)
    }

    /// What was sent so far.
    pub(super) fn parts(&self) -> &[Bytes] {
        self.copy.as_ref().and_then(Copy::parts).unwrap_or_default()
    }

    /// The same body, to the endpoint at the other end of `send`.
    pub(super) fn reach(
        &mut self,
        send: SendStream<Bytes>,
        unsent: Option<VecDeque<Bytes>>,
    ) -> Result<&mut Copy, ErrorKind> {
        match (self.body.take(), &mut self.copy, unsent) {
            (Some(body), copy, _) => *copy = Some(Copy::request(body, send, self.grpc, self.keep)),
            (None, Some(copy), Some(unsent)) => copy.take_over(send, unsent),
            (None, Some(copy), None) => copy.start_again(send, self.ended),
            (None, None, _) => {}
        }
        self.copy.as_mut().ok_or(ErrorKind::Internal)
    }
}

impl Opened {
    /// Its fields.
    pub(super) fn into_parts(self) -> (ToEndpoint, SendStream<Bytes>, Option<VecDeque<Bytes>>) {
        (self.to_endpoint, self.send, self.unsent)
    }
}

impl From<Ahead> for Opened {
    fn from(ahead: Ahead) -> Self {
        let Ahead { granted, way, .. } = ahead;
        let (picked, until, places) = granted.into_parts();
        let answer = Some(way.answer);
        let (lease, response) = (way.lease, way.response);
        let to_endpoint = ToEndpoint { picked, lease, response, answer, _places: places, until };
        Self { to_endpoint, send: way.send, unsent: Some(way.unsent) }
    }
}

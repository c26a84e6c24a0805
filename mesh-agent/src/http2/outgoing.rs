//! A stream to an endpoint for a request that didn't come over HTTP/2, and what its errors mean whoever it is for.
//!
//! `crate::http1::over_http2` carries requests over it; `pass` reads errors the same way for those that came as streams.
//! Before: `pool` and `link`. Never tries another endpoint: that is the caller's to decide.

use bytes::Bytes;
use h2::client::ResponseFuture;
use h2::{Reason, RecvStream, SendStream};
use http::{Request, Response};

use super::link::Lease;
use super::pool;
use crate::proxy::{Connection, ErrorKind, Hostile, Picked, ProxyError};

/// Connections that turn out to be going away before it is given up.
const MOST_CONNECTIONS_TRIED: usize = 8;

/// A stream whose head was sent.
pub(crate) struct Outgoing {
    /// Its place on the connection.
    pub(crate) lease: Lease,
    /// What will be answered.
    pub(crate) response: ResponseFuture,
    /// The way of the request's body.
    pub(crate) body: SendStream<Bytes>,
    /// What was answered, if that has come; the request was sent completely then.
    pub(crate) answered: Option<Response<RecvStream>>,
}

/// What an error of an endpoint's stream means.
#[derive(Clone, Copy, Debug)]
pub(crate) struct EndpointFault {
    /// The failure.
    pub(crate) kind: ErrorKind,
    /// The endpoint certainly didn't take the request up, as far as its response hasn't begun.
    pub(crate) untaken: bool,
}

impl Outgoing {
    /// Sends a head to the endpoint that was picked, on a connection that takes it; `ended` if no body follows.
    ///
    /// # Errors
    /// If there is no such connection, or h2 won't send such a head.
    pub(crate) async fn open(
        picked: &Picked,
        conn: &Connection,
        head: Request<()>,
        ended: bool,
    ) -> Result<Self, ProxyError> {
        for _ in 0..MOST_CONNECTIONS_TRIED {
            let mut lease = pool::lease(picked, &conn.pod, conn.client).await?;
            if let Some((response, body)) = lease.send(head.clone(), ended).await? {
                return Ok(Self { lease, response, body, answered: None });
            }
            conn.count_retry(ErrorKind::UpstreamClosed.label());
        }
        Err(ErrorKind::UpstreamClosed.into())
    }
}

impl Lease {
    /// What an error of this request's stream means; `untouched` if nothing of its body was sent.
    pub(crate) fn fault(&self, error: &h2::Error, untouched: bool) -> EndpointFault {
        let kind = match error.reason() {
            _ if error.is_library() => ErrorKind::UpstreamProtocol(Hostile::BadFrame),
            Some(reason) if error.is_reset() => ErrorKind::UpstreamReset(reason),
            _ => ErrorKind::UpstreamClosed,
        };
        // A server that closes an idle connection crosses the request on the wire; nothing can have come of it.
        let crossed = error.is_io() && self.reused && self.nothing_came() && untouched;
        // RFC 9113, 6.8 and 8.7: streams beyond a GOAWAY's last id, and refused ones, were not processed.
        let refused =
            error.is_remote() && (error.is_go_away() || error.reason() == Some(Reason::REFUSED_STREAM));
        EndpointFault { kind, untaken: crossed || refused }
    }
}

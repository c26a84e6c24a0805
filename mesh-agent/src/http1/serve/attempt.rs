//! A request's tries: an upstream connection for each, kept or new, until one settles it.
//!
//! Used by `serve` once a request is planned; `forward` carries one try, `proxy::retry` says whether there is another.

use std::time::Duration;

use bytes::BytesMut;
use http::Version;
use tokio::time::Instant;

use crate::http1::conn::Conn;
use crate::http1::forward::{Done, Failure, Forward};
use crate::http1::message::RequestHead;
use crate::http1::over_http2;
use crate::http1::timer::Timer;
use crate::http1::upload::Upload;
use crate::http2::Outgoing;
use crate::proxy::error::{ErrorKind, ProxyError, Side};
use crate::proxy::upstream::{Upstream, reset};
use crate::proxy::{Connection, Exchange, Picked, Plan, Tries};
use crate::tls::Alpn;

/// What an exchange left behind on the upstream side.
pub(super) enum Carried {
    /// All settled; true if the client's connection may carry another request.
    Settled(bool),
    /// The connection that switched protocols, and its endpoint.
    Switched(Conn, Picked),
}

/// Finds an upstream connection and carries the exchange over it. One that turns out to be closed is replaced; an
/// endpoint that can't be reached is passed over.
pub(super) async fn carry<'c>(
    down: &mut Conn,
    conn: &'c Connection,
    request: &RequestHead,
    plan: &Plan,
    account: &mut Exchange<'c>,
    timer: &mut Timer,
) -> Result<Carried, Failure> {
    let mut tries = Tries::new(conn, plan);
    let mut upload = Upload::new(request.body, plan.keeps_body());
    let result = try_out(down, conn, request, plan, account, timer, &mut tries, &mut upload).await;
    if tries.is_exhausted() {
        account.exhausted();
    }
    result
}

/// Tries until one settles it.
#[expect(clippy::too_many_arguments, reason = "what one request is about, for its loop alone")]
async fn try_out<'c>(
    down: &mut Conn,
    conn: &'c Connection,
    request: &RequestHead,
    plan: &Plan,
    account: &mut Exchange<'c>,
    timer: &mut Timer,
    tries: &mut Tries<'_>,
    upload: &mut Upload,
) -> Result<Carried, Failure> {
    // Version 1.0 ends its connection with the response.
    let mut fresh = request.parts.version == Version::HTTP_10;
    let (mut over, mut taken_up) = (None, false);
    loop {
        let picked = tries.pick(Some(&request.parts)).map_err(Failure::before_sending)?;
        account.sent_to(&picked);
        let _place = picked.request().map_err(Failure::before_sending)?;
        let until = plan.try_deadline(Instant::now());
        // Once for all tries: what was kept and what is still to come of a body belong together.
        let over_http2 = *over.get_or_insert_with(|| over_http2::carries(request, &picked));
        let reached = if over_http2 {
            // Apart, so that requests that stay what they are make no room for it.
            until.bound(Box::pin(stream_to(&picked, conn, request, plan, upload))).await
        } else {
            until.bound(connection_to(&picked, conn, request, fresh)).await
        };
        let mut way = match reached {
            Ok(way) => way,
            Err(error) => {
                if error.kind.side() == Side::Upstream {
                    picked.fail(conn);
                }
                let again = tries.pass_over(&picked, error.kind);
                let wait = again.ok_or(Failure::before_sending(error.kind))?;
                Tries::pause(wait).await;
                continue;
            }
        };
        let forward = Forward { conn, request, plan, picked: &picked, until, account, upload, tries };
        let result = match &mut way {
            Way::Http1(up, _) => forward.run(down, up, timer).await,
            Way::Http2(stream) => Box::pin(over_http2::run(forward, down, stream, timer)).await,
        };
        match result {
            Ok(Done { again: Some(wait), .. }) => {
                drop(way);
                Tries::pause(wait).await;
            }
            Ok(done) => return Ok(way.settle(picked, conn, done)),
            // It was closed while it lay idle: not this request's failure.
            Err(failure)
                if failure.replayable && way.is_reused() && failure.kind == ErrorKind::UpstreamClosed =>
            {
                conn.count_retry(failure.kind.label());
                fresh = true
            }
            Err(failure) => {
                if is_endpoints(&failure) {
                    picked.fail(conn);
                }
                way.abandon(failure.kind);
                let may = !failure.started && upload.sent.is_whole();
                // What no endpoint took up may be sent once more whatever the route says.
                if may && failure.untaken && !taken_up && !tries.is_too_late(Duration::ZERO) {
                    taken_up = true;
                    tries.untaken(&picked, failure.kind);
                    continue;
                }
                let again = if may { tries.failed(&picked, failure.kind) } else { None };
                Tries::pause(again.ok_or(failure)?).await;
            }
        }
    }
}

/// True if the endpoint is to be distrusted for it. A status that a fallback replaces was counted as one, and a stream
/// that it resets is its application's affair.
fn is_endpoints(failure: &Failure) -> bool {
    let said = matches!(failure.kind, ErrorKind::UpstreamErrorStatus | ErrorKind::UpstreamReset(_));
    failure.untaken || failure.kind.side() == Side::Upstream && !said
}

/// What a try goes over.
enum Way {
    /// A connection; true if it isn't new.
    Http1(Conn, bool),
    /// A stream, with the request's head sent.
    Http2(Box<Outgoing>),
}

impl Way {
    fn is_reused(&self) -> bool {
        matches!(self, Self::Http1(_, true))
    }

    /// What is left of it when the exchange went well.
    fn settle(self, picked: Picked, conn: &Connection, done: Done) -> Carried {
        match self {
            Self::Http1(up, _) if done.switched => return Carried::Switched(up, picked),
            Self::Http1(up, _) => keep(&picked.upstream, conn, up, done),
            Self::Http2(_) => {}
        }
        Carried::Settled(done.keep_downstream)
    }

    /// The server learns that its client is gone the way we learned it.
    fn abandon(self, why: ErrorKind) {
        if let Self::Http1(up, _) = self
            && matches!(why, ErrorKind::DownstreamClosed | ErrorKind::BodyTimeout)
        {
            reset(up.into_parts().0);
        }
    }
}

/// A stream on a connection of HTTP/2.
async fn stream_to(
    picked: &Picked,
    conn: &Connection,
    request: &RequestHead,
    plan: &Plan,
    upload: &mut Upload,
) -> Result<Way, ProxyError> {
    // A policy of retries has a limit of its own.
    if plan.retry().is_none() && upload.sent.is_untouched() && !request.body.is_done() {
        upload.sent.keep_at_least(over_http2::KEPT);
    }
    Ok(Way::Http2(Box::new(over_http2::open(request, picked, conn).await?)))
}

/// A connection made by detection or kept from an earlier request, or a new one.
async fn connection_to(
    picked: &Picked,
    conn: &Connection,
    request: &RequestHead,
    fresh: bool,
) -> Result<Way, ProxyError> {
    let upstream = &picked.upstream;
    let once = !request.parts.method.is_idempotent() || !request.body.is_done();
    // It may have been closed since, like a kept one.
    if !fresh && let Some(stream) = upstream.take_stashed() {
        let made = Conn::new(stream, BytesMut::new());
        if !made.is_closed_now() {
            return Ok(Way::Http1(made.hold(picked.connection()?), true));
        }
    }
    while let Some(kept) = if fresh { None } else { upstream.take_http1() } {
        // What can't be sent again is worth a system call that leaves only the flight time to chance.
        if !(once && kept.is_closed_now()) {
            return Ok(Way::Http1(kept, true));
        }
    }
    let place = picked.connection()?;
    let stream = upstream.connect_for_requests(&conn.pod, conn.client, &picked.limits(), Alpn::Http1).await?;
    Ok(Way::Http1(Conn::new(stream, BytesMut::new()).hold(place), false))
}

fn keep(upstream: &Upstream, conn: &Connection, mut up: Conn, done: Done) {
    if done.keep_upstream && !conn.pod.worker.drain.is_draining() {
        up.release();
        upstream.keep_http1(up, conn.limits().max_idle_per_upstream);
    } else {
        up.farewell();
    }
}

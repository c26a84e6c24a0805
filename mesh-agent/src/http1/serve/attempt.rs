//! A request's tries: an upstream connection for each, kept or new, until one settles it.
//!
//! Used by `serve` once a request is planned; `forward` carries one try, `proxy::retry` says whether there is another.

use bytes::BytesMut;
use http::Version;
use tokio::time::Instant;

use crate::http1::conn::Conn;
use crate::http1::forward::{Done, Failure, Forward};
use crate::http1::message::RequestHead;
use crate::http1::timer::Timer;
use crate::http1::upload::Upload;
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
    loop {
        let picked = tries.pick(Some(&request.parts)).map_err(Failure::before_sending)?;
        account.sent_to(&picked);
        let _place = picked.request().map_err(Failure::before_sending)?;
        let until = plan.try_deadline(Instant::now());
        let connecting = connection_to(&picked, conn, request, fresh);
        let (mut up, reused) = match until.bound(connecting).await {
            Ok(found) => found,
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
        match forward.run(down, &mut up, timer).await {
            Ok(done) if done.switched => return Ok(Carried::Switched(up, picked)),
            Ok(Done { again: Some(wait), .. }) => Tries::pause(wait).await,
            Ok(done) => {
                keep(&picked.upstream, conn, up, done);
                return Ok(Carried::Settled(done.keep_downstream));
            }
            // It was closed while it lay idle: not this request's failure.
            Err(failure) if failure.replayable && reused && failure.kind == ErrorKind::UpstreamClosed => {
                conn.count_retry(failure.kind.label());
                fresh = true
            }
            Err(failure) => {
                // A status that a fallback replaces was counted as one.
                if failure.kind.side() == Side::Upstream && failure.kind != ErrorKind::UpstreamErrorStatus {
                    picked.fail(conn);
                }
                abandon(up, failure.kind);
                let may = !failure.started && upload.sent.is_whole();
                let again = if may { tries.failed(&picked, failure.kind) } else { None };
                Tries::pause(again.ok_or(failure)?).await;
            }
        }
    }
}

/// A connection made by detection or kept from an earlier request, or a new one. True if it isn't new.
async fn connection_to(
    picked: &Picked,
    conn: &Connection,
    request: &RequestHead,
    fresh: bool,
) -> Result<(Conn, bool), ProxyError> {
    let upstream = &picked.upstream;
    let once = !request.parts.method.is_idempotent() || !request.body.is_done();
    // It may have been closed since, like a kept one.
    if !fresh && let Some(stream) = upstream.take_stashed() {
        let made = Conn::new(stream, BytesMut::new());
        if !made.is_closed_now() {
            return Ok((made.hold(picked.connection()?), true));
        }
    }
    while let Some(kept) = if fresh { None } else { upstream.take_http1() } {
        // What can't be sent again is worth a system call that leaves only the flight time to chance.
        if !(once && kept.is_closed_now()) {
            return Ok((kept, true));
        }
    }
    let place = picked.connection()?;
    let stream = upstream.connect_for_requests(&conn.pod, conn.client, &picked.limits(), Alpn::Http1).await?;
    Ok((Conn::new(stream, BytesMut::new()).hold(place), false))
}

fn keep(upstream: &Upstream, conn: &Connection, mut up: Conn, done: Done) {
    if done.keep_upstream && !conn.pod.worker.drain.is_draining() {
        up.release();
        upstream.keep_http1(up, conn.limits().max_idle_per_upstream);
    } else {
        up.farewell();
    }
}

/// The server learns that its client is gone the way we learned it.
fn abandon(up: Conn, why: ErrorKind) {
    if matches!(why, ErrorKind::DownstreamClosed | ErrorKind::BodyTimeout) {
        reset(up.into_parts().0);
    }
}

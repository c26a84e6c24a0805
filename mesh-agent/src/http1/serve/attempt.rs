//! A request's tries: an upstream connection for each, kept or new, until one settles it.
//!
//! Used by `serve` once a request is planned; `forward` carries one try, `proxy::retry` says whether there is another,
//! `proxy::hedge` whether some run beside it.

use std::time::Duration;

use bytes::BytesMut;
use http::Version;
use tokio::time::Instant;

use super::{unless_gone, unless_reset};
use crate::balance::queue::{Asked, Place, Waiting};
use crate::http1::conn::Conn;
use crate::http1::forward::{Done, Failure, Forward};
use crate::http1::hedge::{self, Ahead, Hedges, Won};
use crate::http1::message::{RequestHead, ResponseHead};
use crate::http1::over_http2;
use crate::http1::timer::Timer;
use crate::http1::upload::Upload;
use crate::http2::Outgoing;
use crate::proxy::error::{ErrorKind, ProxyError, Side};
use crate::proxy::hedge::{Asking, Places, Race};
use crate::proxy::upstream::reset;
use crate::proxy::{Connection, Exchange, Picked, Plan, Tries, TryDeadline};
use crate::tls::Alpn;

/// What an exchange left behind on the upstream side.
pub(super) enum Carried {
    /// All settled; true if the client's connection may carry another request.
    Settled(bool),
    /// The connection that switched protocols, and its endpoint.
    Switched(Conn, Picked),
}

/// Finds an upstream connection and carries the exchange over it. One that turns out to be closed is replaced; an
/// endpoint that can't be reached is passed over; where all fails another service may answer.
pub(super) async fn carry<'c>(
    down: &mut Conn,
    conn: &'c Connection,
    request: &RequestHead,
    plan: &Plan,
    account: &mut Exchange<'c>,
    timer: &mut Timer,
) -> Result<Carried, Failure> {
    let tries = Tries::new(conn, plan);
    let upload = Upload::new(request.body, plan.keeps_body().unwrap_or_default());
    let hedges = Hedges::of(plan, &request.parts);
    let mut trying = Trying {
        down,
        conn,
        request,
        plan,
        account,
        timer,
        tries,
        upload,
        hedges,
        over: None,
        taken_up: false,
    };
    loop {
        match trying.run().await {
            Err(failure) if trying.falls_back(&failure) => {}
            result => {
                if let Some(why) = trying.tries.refused() {
                    trying.account.not_retried(why);
                }
                return result;
            }
        }
    }
}

/// A request on its way.
struct Trying<'t, 'c, 'p, 'h> {
    down: &'t mut Conn,
    conn: &'c Connection,
    request: &'h RequestHead,
    plan: &'p Plan,
    account: &'t mut Exchange<'c>,
    timer: &'t mut Timer,
    tries: Tries<'p>,
    upload: Upload,
    hedges: Option<Box<Hedges<'h>>>,
    /// The last try went as HTTP/2. After one that didn't none does: what such a one took of a body may end within its
    /// framing.
    over: Option<bool>,
    /// It was sent once more because no endpoint took it up.
    taken_up: bool,
}

/// One try that has a connection.
struct Try {
    picked: Picked,
    until: TryDeadline,
    way: Way,
    /// The answer's head, of a hedge that won in HTTP/1.
    head: Option<Box<ResponseHead>>,
    _places: Places,
}

/// What came of looking for a connection.
#[expect(clippy::large_enum_variant, reason = "taken apart at once, and most are the large one")]
enum Found {
    Here(Try),
    /// A hedge has an answer before there is one.
    Ahead(Box<Ahead>),
    /// The endpoint was passed over.
    Nothing,
}

impl<'c: 'h + 'p, 'p, 'h> Trying<'_, 'c, 'p, 'h> {
    /// Tries until one settles it.
    async fn run(&mut self) -> Result<Carried, Failure> {
        // Version 1.0 ends its connection with the response.
        let mut fresh = self.request.parts.version == Version::HTTP_10;
        let mut ahead: Option<Box<Ahead>> = None;
        loop {
            let Try { picked, until, mut way, head, _places } = match ahead.take() {
                Some(ahead) => Try::of(*ahead),
                None => match self.connect(fresh).await? {
                    Found::Here(found) => found,
                    Found::Ahead(won) => {
                        ahead = Some(won);
                        continue;
                    }
                    Found::Nothing => continue,
                },
            };
            let forward = Forward {
                conn: self.conn,
                request: self.request,
                plan: self.plan,
                picked: &picked,
                until,
                account: self.account,
                upload: &mut self.upload,
                tries: &mut self.tries,
                hedges: self.hedges.as_deref_mut(),
                head,
            };
            let result = match &mut way {
                Way::Http1(up, _) => forward.run(self.down, up, self.timer).await,
                Way::Http2(stream) => Box::pin(over_http2::run(forward, self.down, stream, self.timer)).await,
            };
            match result {
                Ok(Done { again: Some(wait), .. }) => {
                    drop(way);
                    Tries::pause(wait).await;
                }
                Ok(Done { outrun: true, .. }) => {
                    if self.hedges.as_ref().is_some_and(|hedges| hedges.have_won()) {
                        picked.outrun();
                        way.give_up();
                    }
                    ahead = Box::pin(self.rest()).await?;
                }
                Ok(done) => return Ok(way.settle(picked, self.conn, done)),
                // It was closed while it lay idle: not this request's failure.
                Err(failure)
                    if failure.replayable && way.is_reused() && failure.kind == ErrorKind::UpstreamClosed =>
                {
                    self.conn.count_retry(failure.kind.label());
                    fresh = true
                }
                Err(failure) => {
                    if is_endpoints(&failure) {
                        self.account.endpoint_failed(&picked);
                    }
                    way.abandon(failure.kind);
                    if self.others_go_on(&failure) {
                        ahead = Box::pin(self.rest()).await?;
                        continue;
                    }
                    let may = !failure.started && self.upload.sent.is_whole();
                    // What no endpoint took up may be sent once more whatever the route says.
                    if may && failure.untaken && !self.taken_up && !self.tries.is_too_late(Duration::ZERO) {
                        self.taken_up = true;
                        self.tries.untaken(&picked, failure.kind);
                        continue;
                    }
                    let again = if may { self.tries.failed(&picked, failure.kind) } else { None };
                    Tries::pause(again.ok_or(failure)?).await;
                }
            }
        }
    }

    /// Picks an endpoint and connects to it.
    async fn connect(&mut self, fresh: bool) -> Result<Found, Failure> {
        let Self { request, plan, .. } = *self;
        let picked = match self.tries.pick(Some(&request.parts)).await {
            Ok(picked) => picked,
            Err(kind) => {
                self.account.refused_at(self.tries.take_refused_at());
                return Err(Failure::before_sending(kind));
            }
        };
        self.account.sent_to(&picked);
        let places = Places::of(picked.request().map_err(Failure::before_sending)?);
        let until = plan.try_deadline(Instant::now());
        let over = self.over != Some(false) && over_http2::carries(request, &picked);
        self.over = Some(over);
        if let Some(hedges) = &mut self.hedges {
            hedges.begin();
        }
        if over {
            return self.open_stream(picked, until, places).await;
        }
        if let Some(kept) = kept_connection(&picked, request, fresh) {
            let way = Way::Http1(kept, true);
            return Ok(Found::Here(Try { picked, until, way, head: None, _places: places }));
        }
        // On the heap: most requests find a connection, and all would carry what making one takes.
        Box::pin(self.make_connection(fresh, picked, until, places)).await
    }

    /// Makes a connection, once it is this request's turn where their number is limited.
    async fn make_connection(
        &mut self,
        fresh: bool,
        picked: Picked,
        until: TryDeadline,
        places: Places,
    ) -> Result<Found, Failure> {
        let Self { conn, .. } = *self;
        let place = match picked.ask_for_connection() {
            None => None,
            Some(Asked::Taken(place)) => Some(place),
            Some(Asked::Full) => return self.pass_over(&picked, ErrorKind::Overflow).await,
            Some(Asked::Waiting(waiting)) => match self.await_turn(&picked, until, waiting).await {
                // An endpoint isn't charged for the time before its turn.
                Err(kind) => return self.pass_over(&picked, kind).await,
                Ok((place, Some(kept))) if !fresh && !kept.is_closed_now() => {
                    let way = Way::Http1(kept.hold(Some(place)), true);
                    return Ok(Found::Here(Try { picked, until, way, head: None, _places: places }));
                }
                Ok((place, _)) => Some(place),
            },
        };
        let connecting = until.bound(new_connection(&picked, conn, place));
        match self.unless_outrun(connecting).await? {
            Some(Ok(up)) => {
                let way = Way::Http1(up, false);
                Ok(Found::Here(Try { picked, until, way, head: None, _places: places }))
            }
            failed => self.not_connected(&picked, failed.and_then(Result::err)).await,
        }
    }

    /// What connecting comes to. None if a hedge has an answer before.
    async fn unless_outrun<T>(
        &mut self,
        connecting: impl Future<Output = Result<T, ProxyError>>,
    ) -> Result<Option<Result<T, ProxyError>>, Failure> {
        let Self { conn, request, .. } = *self;
        let Self { down, tries, account, upload, hedges: Some(hedges), .. } = self else {
            return Ok(Some(connecting.await));
        };
        let (head, whole) = (&request.parts, upload.is_complete());
        let mut asking = Asking { tries, account, head, whole, own: true };
        let start = |granted| hedge::start(conn, request, &upload.sent, granted);
        let racing = Box::pin(hedges.beside(connecting, &mut asking, start));
        unless_reset(down, racing).await.ok_or(Failure::before_sending(ErrorKind::DownstreamClosed))
    }

    /// Turns to what else there is: hedges under way, or another try. None: a hedge has an answer.
    async fn not_connected(&mut self, picked: &Picked, error: Option<ProxyError>) -> Result<Found, Failure> {
        let Some(ProxyError { kind, .. }) = error else {
            picked.outrun();
            return Ok(Box::pin(self.rest()).await?.map_or(Found::Nothing, Found::Ahead));
        };
        if kind.side() == Side::Upstream {
            self.account.endpoint_failed(picked);
        }
        if self.others_go_on(&Failure::before_sending(kind)) {
            return Ok(Box::pin(self.rest()).await?.map_or(Found::Nothing, Found::Ahead));
        }
        self.pass_over(picked, kind).await
    }

    /// A place for a connection, and the one that was passed on with it. Nothing is hedged meanwhile: a hedge could only
    /// overtake those that wait.
    async fn await_turn(
        &mut self,
        picked: &Picked,
        until: TryDeadline,
        waiting: Waiting,
    ) -> Result<(Place, Option<Conn>), ErrorKind> {
        let turn = async { Ok(self.conn.await_turn(picked, waiting).await?) };
        let turn = unless_gone(self.down, until.bound(turn)).await;
        let found = turn.ok_or(ErrorKind::DownstreamClosed)?.map_err(|error| error.kind)?;
        self.account.sent_after_waiting();
        if let Some(hedges) = &mut self.hedges {
            hedges.begin();
        }
        Ok(found)
    }

    /// Turns to another try, if there is one.
    async fn pass_over(&mut self, picked: &Picked, why: ErrorKind) -> Result<Found, Failure> {
        let again = self.tries.pass_over(picked, why);
        Tries::pause(again.ok_or(Failure::before_sending(why))?).await;
        Ok(Found::Nothing)
    }

    /// A stream on a connection of HTTP/2, which none of HTTP/1 is waited for.
    async fn open_stream(
        &mut self,
        picked: Picked,
        until: TryDeadline,
        places: Places,
    ) -> Result<Found, Failure> {
        let Self { conn, request, plan, .. } = *self;
        // A policy of retries has a limit of its own.
        if plan.retry().is_none() && self.upload.sent.is_untouched() && !request.body.is_done() {
            self.upload.sent.keep_at_least(over_http2::KEPT);
        }
        // Apart, so that requests that stay what they are make no room for it.
        let opening = until.bound(Box::pin(over_http2::open(request, plan, &picked, conn)));
        match self.unless_outrun(opening).await? {
            Some(Ok(stream)) => {
                let way = Way::Http2(Box::new(stream));
                Ok(Found::Here(Try { picked, until, way, head: None, _places: places }))
            }
            failed => self.not_connected(&picked, failed.and_then(Result::err)).await,
        }
    }

    /// True if hedges may still have an answer after this failure of the request's own try.
    fn others_go_on(&self, failure: &Failure) -> bool {
        !failure.started
            && failure.kind.side() == Side::Upstream
            && failure.kind != ErrorKind::RequestTimeout
            && self.hedges.as_ref().is_some_and(|hedges| hedges.are_under_way())
    }

    /// What comes of the hedges, the request's own try being over. None: the last of them failed, and there is to be
    /// another try.
    async fn rest(&mut self) -> Result<Option<Box<Ahead>>, Failure> {
        let Self { conn, request, .. } = *self;
        let Self { down, tries, account, upload, hedges: Some(hedges), .. } = self else { return Ok(None) };
        let (head, whole) = (&request.parts, upload.is_complete());
        let mut asking = Asking { tries, account, head, whole, own: false };
        let start = |granted| hedge::start(conn, request, &upload.sent, granted);
        match unless_reset(down, hedges.rest(&mut asking, start)).await {
            Some(Race::Won(ahead)) => Ok(Some(Box::new(ahead))),
            Some(Race::Lost(behind)) => {
                let failure = Failure { sent: true, ..Failure::before_sending(behind.why) };
                let wait = tries.pass_over(&behind.picked, behind.why).ok_or(failure)?;
                Tries::pause(wait).await;
                Ok(None)
            }
            None => Err(Failure::before_sending(ErrorKind::DownstreamClosed)),
        }
    }

    /// Turns to the fallback's service after a failure that it is for.
    fn falls_back(&mut self, failure: &Failure) -> bool {
        let may = !failure.started && self.upload.sent.is_whole();
        let falls = may && self.plan.falls_back_after(self.account, failure.kind);
        if falls {
            self.tries = Tries::elsewhere(self.conn, self.plan);
            self.hedges = Hedges::of(self.plan, &self.request.parts);
        }
        falls
    }
}

impl Try {
    /// Of a hedge that has an answer.
    fn of(ahead: Ahead) -> Self {
        let Ahead { granted, way, .. } = ahead;
        let (picked, until, places) = granted.into_parts();
        let (way, head) = match way {
            Won::Http1(up, head) => (Way::Http1(up, false), Some(head)),
            Won::Http2(stream) => (Way::Http2(stream), None),
        };
        Self { picked, until, way, head, _places: places }
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
            Self::Http1(up, _) => keep(&picked, conn, up, done),
            Self::Http2(_) => {}
        }
        Carried::Settled(done.keep_downstream)
    }

    /// The server learns that its client is gone the way we learned it.
    fn abandon(self, why: ErrorKind) {
        if matches!(why, ErrorKind::DownstreamClosed | ErrorKind::BodyTimeout) {
            self.give_up();
        }
    }

    /// Resets it; a stream resets itself when it is dropped.
    fn give_up(self) {
        if let Self::Http1(up, _) = self {
            reset(up.into_parts().0);
        }
    }
}

/// A connection for what waits for no turn: a hedge, or a request to the application itself. True if it isn't new.
pub(crate) async fn connection_to(
    picked: &Picked,
    conn: &Connection,
    request: &RequestHead,
    fresh: bool,
) -> Result<(Conn, bool), ProxyError> {
    match kept_connection(picked, request, fresh) {
        Some(kept) => Ok((kept, true)),
        None => Ok((new_connection(picked, conn, picked.connection()?).await?, false)),
    }
}

/// A connection made by detection or kept from an earlier request.
fn kept_connection(picked: &Picked, request: &RequestHead, fresh: bool) -> Option<Conn> {
    let (upstream, limits) = (&picked.upstream, picked.limits());
    let once = !request.parts.method.is_idempotent() || !request.body.is_done();
    // It may have been closed since, like a kept one.
    if let Some((stream, place)) = upstream.take_stashed() {
        let made = Conn::new(stream, BytesMut::new());
        if !made.is_closed_now() {
            return Some(made.hold(place));
        }
    }
    // Those that wait come first.
    let reuses = !fresh && !picked.is_crowded();
    while let Some(kept) = if reuses { upstream.take_http1(limits) } else { None } {
        // What can't be sent again is worth a system call that leaves only the flight time to chance.
        if !(once && kept.is_closed_now()) {
            return Some(kept);
        }
    }
    None
}

async fn new_connection(
    picked: &Picked,
    conn: &Connection,
    place: Option<Place>,
) -> Result<Conn, ProxyError> {
    let upstream = &picked.upstream;
    let stream = upstream.connect_for_requests(&conn.pod, conn.client, picked.limits(), Alpn::Http1).await?;
    Ok(Conn::new(stream, BytesMut::new()).hold(place))
}

/// Keeps what may carry another request.
pub(crate) fn keep(picked: &Picked, conn: &Connection, mut up: Conn, done: Done) {
    if done.keep_upstream && !conn.pod.worker.drain.is_draining() {
        up.release();
        picked.upstream.keep_http1(up, picked.limits(), &conn.pod.worker);
    } else {
        up.farewell();
    }
}

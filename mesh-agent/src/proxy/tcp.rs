//! Bytes that nobody looks into: both directions copied until both ended, half-close and reset carried to the other
//! side.
//!
//! An idle connection holds no buffer: bytes pass through the worker's scratch space within one poll, and only what
//! the other side didn't take at once is kept, which stops reading until it is gone. A reset is noticed meanwhile, and
//! after a half-close too. Comes after `backend`.

use std::cell::Cell;
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use bytes::{Buf, Bytes};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::time::timeout;

use super::backend::Picked;
use super::context::{Connection, Worker};
use super::error::{ErrorKind, ProxyError, Side};
use super::spans;
use super::stream::{ReadHalf, Stream, WriteHalf};
use super::upstream::{Upstream, reset};
use crate::balance::outlier::Outcome;
use crate::balance::queue::Place;
use crate::flags::Flag;
use crate::model::Endpoint;
use crate::telemetry::{ConnectionEntry, L7, TcpSeries};

/// What never comes within anybody's uptime, and can be added to a clock.
const FOREVER: Duration = Duration::from_secs(10 * 365 * 24 * 3600);

/// Copies between `client` and a connection to one of the endpoints, until both directions ended.
///
/// `prefix` was read from the client while its protocol was being detected. `ready` is a connection that detection
/// already made.
pub async fn serve(conn: &Connection, client: Stream, prefix: Bytes, ready: Option<Dialled>) {
    let dialled = match ready {
        // Only now it is known what the connection carries.
        Some(dialled) => match conn.admit_connection(&dialled.picked, false).await {
            Ok(()) => dialled,
            Err(kind) => return refused(conn, client, kind),
        },
        None => match dial(conn, &client, Purpose::Bytes).await {
            Ok(dialled) => dialled,
            Err(error) => return refused(conn, client, error.kind),
        },
    };
    let Dialled { picked, stream, place: _place } = dialled;
    conn.note_admitted(&picked);
    picked.outcome(conn, Outcome::Connected);
    let limits = picked.limits();
    let lifetime = Lifetime { idle: limits.tcp_idle, longest: limits.max_connection_duration };
    conn.goes_to(&picked.upstream);
    let series: Vec<_> = picked.upstream.edges.iter().map(|edge| edge.tcp()).collect();
    series.iter().for_each(|s| s.opened());
    let mut account =
        Account { conn, picked: &picked, series, moved: Moved::default(), end: Err(ErrorKind::Draining) };
    let early = Early { from_client: prefix, ..Early::default() };
    account.end = tokio::select! {
        biased;
        ended = tunnel(&conn.pod.worker, client, stream, early, lifetime, |moved| account.add(moved)) => ended,
        denied = conn.until_denied(&picked) => Err(denied),
    };
}

/// One connection's account, settled on drop: also when the agent's drain time is over before the connection is.
struct Account<'c> {
    conn: &'c Connection,
    picked: &'c Picked,
    series: Vec<Arc<TcpSeries>>,
    moved: Moved,
    end: Result<(), ErrorKind>,
}

impl Account<'_> {
    fn add(&mut self, moved: Moved) {
        self.moved.from_client += moved.from_client;
        self.moved.from_upstream += moved.from_upstream;
        self.conn.live.received(moved.from_client);
        self.conn.live.sent(moved.from_upstream);
        for series in &self.series {
            series.received(moved.from_client);
            series.sent(moved.from_upstream);
        }
    }
}

impl Drop for Account<'_> {
    fn drop(&mut self) {
        let error = self.end.err();
        self.series.iter().for_each(|s| s.closed(error.map_or(Flag::None, ErrorKind::flag)));
        let upstream = &self.picked.upstream;
        log(self.conn, Some(upstream), Some(&upstream.endpoint), error, &self.moved);
    }
}

/// Resets a client that can't be served, and says so in log and metrics.
pub fn refused(conn: &Connection, client: impl Into<Stream>, why: ErrorKind) {
    match (client.into(), why.connect_status(conn.hbone.get())) {
        (Stream::Tunnel(tunnel), Some(status)) => tunnel.refuse(status),
        (client, _) => reset(client),
    }
    note_refused(conn, why);
}

/// Says in log and metrics that a client wasn't served, which knows already.
pub fn note_refused(conn: &Connection, why: ErrorKind) {
    for edge in conn.edges_without_endpoint().iter() {
        let series = edge.tcp();
        series.opened();
        series.closed(why.flag());
    }
    log(conn, None, conn.last_dialled.take().as_ref(), Some(why), &Moved::default());
}

fn log(
    conn: &Connection,
    upstream: Option<&Rc<Upstream>>,
    endpoint: Option<&Arc<Endpoint>>,
    error: Option<ErrorKind>,
    moved: &Moved,
) {
    let refusal = if error == Some(ErrorKind::Denied) { conn.tell_refusal() } else { "".into() };
    let telemetry = &conn.pod.worker.telemetry;
    let flag = error.map_or(Flag::None, ErrorKind::flag);
    let trace = spans::of_connection(conn, error, upstream);
    if !telemetry.wants_record(flag, 0, None) && trace.is_none() {
        return;
    }
    let (sni, rule) = (conn.sni.borrow(), conn.stream_rule.borrow());
    let told = error.map_or("", ErrorKind::label);
    let entry = ConnectionEntry {
        start: conn.started,
        peers: conn.peers(endpoint.map(|e| &**e), upstream.map(|upstream| upstream.reach())),
        protocol: if sni.is_some() { L7::Tls } else { L7::Tcp }.label(),
        server_name: sni.as_deref().unwrap_or_default().as_bytes(),
        flag,
        details: if refusal.is_empty() { told } else { &refusal },
        bytes_received: moved.from_client,
        bytes_sent: moved.from_upstream,
        // The wall clock may have been set back meanwhile.
        duration: conn.started.elapsed().unwrap_or_default(),
        route: rule.as_ref().map_or("", |rule| &rule.name.label),
        span: conn.trace().map(|trace| spans::context(conn, trace, upstream)),
    };
    telemetry.connection(&entry);
    if let Some((tracer, ended)) = &trace {
        spans::connection(tracer, conn, ended, &entry);
    }
}

/// A connection to a chosen endpoint.
pub struct Dialled {
    /// Which.
    pub picked: Picked,
    /// The connection.
    pub stream: Stream,
    /// Among the connections whose number is limited.
    pub place: Option<Place>,
}

impl Dialled {
    /// It turned out to carry requests: the first of them goes to this endpoint, over this connection.
    pub fn keep_for_requests(self, conn: &Connection) {
        self.picked.upstream.stash(self.stream, self.place);
        conn.pick_first(self.picked);
    }
}

/// What a connection to an endpoint is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// To carry bytes.
    Bytes,
    /// To find out what is spoken.
    Detection,
}

/// Connects to an endpoint that lets the client in; one that can't be reached is passed over for another before the client
/// notices.
pub async fn dial(conn: &Connection, client: &Stream, purpose: Purpose) -> Result<Dialled, ProxyError> {
    match dial_unless_heard(conn, client, purpose, None).await? {
        Some(dialled) => Ok(dialled),
        None => Err(ErrorKind::Internal.into()),
    }
}

/// The same for a client whose protocol isn't known yet. None if it speaks within `patience` and the endpoint is behind
/// another agent, where each connection that turns out to carry requests would be one for nothing.
pub async fn dial_or_hear(
    conn: &Connection,
    client: &Stream,
    patience: Option<Duration>,
) -> Result<Option<Dialled>, ProxyError> {
    dial_unless_heard(conn, client, Purpose::Detection, patience).await
}

async fn dial_unless_heard(
    conn: &Connection,
    client: &Stream,
    purpose: Purpose,
    patience: Option<Duration>,
) -> Result<Option<Dialled>, ProxyError> {
    let mut plan = conn.plan_stream()?;
    if conn.has_traffic_policies() {
        // Boxed: few connections wait, and all would carry what waiting takes.
        Box::pin(conn.activate(&mut plan, client)).await;
    }
    let (mut tried, mut last) = (Vec::new(), ErrorKind::ConnectFailed);
    loop {
        let picked = match conn.pick(&plan, &tried, None) {
            Ok(picked) => picked,
            // What the last endpoint said is truer than "none left".
            Err(_) if !tried.is_empty() => return Err(last.into()),
            Err(error) => return Err(error),
        };
        conn.last_dialled.set(Some(picked.upstream.endpoint.clone()));
        conn.admit_connection(&picked, purpose == Purpose::Detection).await?;
        if let Some(patience) = patience.filter(|_| picked.upstream.is_mesh() && tried.is_empty())
            // Looked at, since being told that there may be something to read is no more than that.
            && matches!(timeout(patience, client.peek(&mut [0])).await, Ok(Ok(1..)))
        {
            conn.pick_first(picked);
            return Ok(None);
        }
        let place = picked.connection()?;
        let started = Instant::now();
        let trace = picked.upstream.reach().expected().and_then(|_| conn.trace_header());
        match picked.upstream.connect_for_bytes(&conn.pod, conn.client, picked.limits(), trace).await {
            Ok(stream) => {
                picked.observe(u64::try_from(started.elapsed().as_nanos()).unwrap_or(u64::MAX));
                return Ok(Some(Dialled { picked, stream, place }));
            }
            Err(error) => {
                if error.kind.side() == Side::Upstream {
                    picked.fail(conn);
                }
                if !error.kind.retryable() || tried.len() + 1 >= conn.attempts(&plan) {
                    return Err(error);
                }
                tracing::debug!(endpoint = %picked.upstream.endpoint.addr, error = %error.kind.label(), "trying another");
                conn.count_retry(error.kind.label());
                last = error.kind;
                tried.push(picked.upstream.endpoint.addr);
                conn.goes_elsewhere(&tried, last);
            }
        }
    }
}

/// Bytes carried so far.
#[derive(Clone, Copy, Debug, Default)]
pub struct Moved {
    /// Towards the upstream.
    pub from_client: u64,
    /// Towards the client.
    pub from_upstream: u64,
}

/// What was read from either side before the tunnel began; sent on first.
#[derive(Default)]
pub struct Early {
    /// Towards the upstream.
    pub from_client: Bytes,
    /// Towards the client.
    pub from_upstream: Bytes,
}

/// How long two connections may be tied together.
#[derive(Clone, Copy, Debug, Default)]
pub struct Lifetime {
    /// How long nothing may move, zero for ever; None for the worker's limit.
    pub idle: Option<Duration>,
    /// From begin to end, whatever moves (Envoy, `max_downstream_connection_duration`).
    pub longest: Option<Duration>,
}

/// Copies both ways until both ended. On failure both sockets are reset, as the two ends would see it without us: also
/// when the time is over, so that no end is taken for a clean one.
///
/// `progress` is told of bytes as they are carried: the increase since it was last told.
pub async fn tunnel(
    worker: &Worker,
    client: impl Into<Stream>,
    upstream: impl Into<Stream>,
    early: Early,
    lifetime: Lifetime,
    mut progress: impl FnMut(Moved),
) -> Result<(), ErrorKind> {
    let (mut client, mut upstream) = (ResetOnDrop(Some(client.into())), ResetOnDrop(Some(upstream.into())));
    let result = match (&mut client.0, &mut upstream.0) {
        (Some(client), Some(upstream)) => {
            both_ways(worker, client, upstream, early, lifetime, &mut progress).await
        }
        _ => Ok(()),
    };
    if result.is_ok() {
        client.0.take();
        upstream.0.take();
    }
    result
}

async fn both_ways(
    worker: &Worker,
    client: &mut Stream,
    upstream: &mut Stream,
    early: Early,
    lifetime: Lifetime,
    progress: &mut impl FnMut(Moved),
) -> Result<(), ErrorKind> {
    let (from_client, to_client) = client.split();
    let (from_upstream, to_upstream) = upstream.split();
    let (there, back) = (Way::new(worker), Way::new(worker));
    let mut sending = pin!(there.carry(from_client, to_upstream, early.from_client));
    let mut answering = pin!(back.carry(from_upstream, to_client, early.from_upstream));
    let limit = lifetime.idle.unwrap_or(worker.limits.tcp_idle);
    let mut idle = Idle::new(if limit.is_zero() { FOREVER } else { limit });
    let mut end = lifetime.longest.map(|longest| Box::pin(tokio::time::sleep(longest)));
    poll_fn(|cx| {
        let broken = match (sending.as_mut().poll(cx), answering.as_mut().poll(cx)) {
            (Poll::Ready(broken), _) => Some(broken.seen_from(true)),
            (_, Poll::Ready(broken)) => Some(broken.seen_from(false)),
            _ => None,
        };
        let moved = Moved { from_client: there.moved.take(), from_upstream: back.moved.take() };
        if moved.from_client + moved.from_upstream > 0 {
            idle.active = true;
            progress(moved);
        }
        match broken {
            _ if there.ended.get() && back.ended.get() => Poll::Ready(Ok(())),
            Some(kind) => Poll::Ready(Err(kind)),
            None if end.as_mut().is_some_and(|end| end.as_mut().poll(cx).is_ready()) => {
                Poll::Ready(Err(ErrorKind::ConnectionDuration))
            }
            None if idle.expired(cx) => Poll::Ready(Err(ErrorKind::BodyTimeout)),
            None => Poll::Pending,
        }
    })
    .await
}

/// A socket whose peer sees a reset unless it is taken out first: an end that isn't clean is never shown as one, also
/// when the task is dropped because the drain time is over.
struct ResetOnDrop(Option<Stream>);

impl Drop for ResetOnDrop {
    fn drop(&mut self) {
        if let Some(stream) = self.0.take() {
            reset(stream);
        }
    }
}

/// One direction.
struct Way<'w> {
    worker: &'w Worker,
    /// Written since it was last asked.
    moved: Cell<u64>,
    /// The reader's end was passed on.
    ended: Cell<bool>,
}

/// Which socket failed.
enum Broken {
    Reader,
    Writer,
}

impl Broken {
    fn seen_from(self, reader_is_client: bool) -> ErrorKind {
        match (self, reader_is_client) {
            (Self::Reader, true) | (Self::Writer, false) => ErrorKind::DownstreamClosed,
            (Self::Reader, false) | (Self::Writer, true) => ErrorKind::UpstreamClosed,
        }
    }
}

impl<'w> Way<'w> {
    fn new(worker: &'w Worker) -> Self {
        Self { worker, moved: Cell::default(), ended: Cell::default() }
    }

    /// Carries bytes to their end, then watches for the reader's reset. Returns only once a socket failed.
    async fn carry(&self, mut from: ReadHalf<'_>, mut to: WriteHalf<'_>, mut kept: Bytes) -> Broken {
        loop {
            while !kept.is_empty() {
                tokio::select! {
                    biased;
                    written = to.write(&kept) => match written {
                        Ok(written) => self.wrote(&mut kept, written),
                        Err(_) => return Broken::Writer,
                    },
                    // Nothing is read meanwhile, so that reading can't tell.
                    _ = from.reset() => return Broken::Reader,
                }
            }
            match poll_fn(|cx| self.pass(cx, &mut from, &mut to)).await {
                Ok(Some(rest)) => kept = rest,
                Ok(None) => break,
                Err(broken) => return broken,
            }
        }
        if to.shutdown().await.is_err() {
            return Broken::Writer;
        }
        self.ended.set(true);
        let _ = from.reset().await;
        Broken::Reader
    }

    fn wrote(&self, kept: &mut Bytes, written: usize) {
        kept.advance(written);
        self.moved.set(self.moved.get() + written as u64);
    }

    /// Passes on what is there. Ready with what the other side didn't take, or None at the end.
    fn pass(
        &self,
        cx: &mut Context<'_>,
        from: &mut ReadHalf<'_>,
        to: &mut WriteHalf<'_>,
    ) -> Poll<Result<Option<Bytes>, Broken>> {
        let mut scratch = self.worker.scratch.borrow_mut();
        loop {
            let mut buf = ReadBuf::new(&mut scratch);
            if ready!(Pin::new(&mut *from).poll_read(cx, &mut buf)).is_err() {
                return Poll::Ready(Err(Broken::Reader));
            }
            let read = buf.filled();
            if read.is_empty() {
                return Poll::Ready(Ok(None));
            }
            let written = match Pin::new(&mut *to).poll_write(cx, read) {
                Poll::Ready(Ok(written)) => written,
                Poll::Ready(Err(_)) => return Poll::Ready(Err(Broken::Writer)),
                Poll::Pending => 0,
            };
            self.moved.set(self.moved.get() + written as u64);
            if written < read.len() {
                return Poll::Ready(Ok(Some(Bytes::copy_from_slice(&read[written..]))));
            }
        }
    }
}

/// A deadline that costs a timer only once per period: it looks whether anything moved since it last fired.
struct Idle {
    sleep: Pin<Box<tokio::time::Sleep>>,
    period: Duration,
    active: bool,
}

impl Idle {
    fn new(period: Duration) -> Self {
        Self { sleep: Box::pin(tokio::time::sleep(period)), period, active: false }
    }

    fn expired(&mut self, cx: &mut Context<'_>) -> bool {
        while self.sleep.as_mut().poll(cx).is_ready() {
            if !std::mem::take(&mut self.active) {
                return true;
            }
            let next = tokio::time::Instant::now() + self.period;
            self.sleep.as_mut().reset(next);
        }
        false
    }
}

#[cfg(test)]
mod tests;

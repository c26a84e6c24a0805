//! One HTTP/2 connection to an endpoint: opening it, driving it, noticing that the peer is gone.
//!
//! Made by `pool`, used by `stream` through a lease. A task of its own drives the socket, since many client connections
//! share it. It ends when the last handle is dropped and the last stream has ended.

use std::cell::Cell;
use std::future::{Future, poll_fn};
use std::io;
use std::pin::pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use h2::client::{self, ResponseFuture, SendRequest};
use h2::{Ping, PingPong, Reason, SendStream};
use http::Request;
use tokio::time::{Instant, MissedTickBehavior, interval_at, timeout};

use super::guard::{Guarded, Meter};
use super::{SEND_BUFFER, Windows};
use crate::clock;
use crate::policy::PoolLimits;
use crate::proxy::{ErrorKind, Limits, ProxyError, Stream};

/// When a peer that owes answers is asked for a sign of life, and given up.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pace {
    /// How often the connection is looked at.
    look: Duration,
    /// Looks without a frame after which the peer is asked.
    quiet: u32,
    /// Looks without a byte after that, with which it is given up.
    patience: u32,
    /// One that is silent isn't asked again sooner than after so many.
    again: u32,
}

impl Pace {
    /// An application. gRPC servers close on more than one PING in five minutes without data (gRPC proposal A8,
    /// `PERMIT_KEEPALIVE_TIME`).
    pub(super) const APPLICATION: Self =
        Self { look: Duration::from_secs(10), quiet: 3, patience: 1, again: 31 };
    /// Another agent, which answers however often it is asked. What is on the connection belongs to many, so that it is given
    /// up sooner; but not for a stall of a busy node.
    pub(super) const AGENT: Self = Self { look: Duration::from_secs(5), quiet: 1, patience: 2, again: 2 };
}

/// Streams assumed to be allowed until the peer's SETTINGS say (RFC 9113, 6.5.2 recommends no less).
const FIRST_STREAMS: usize = 100;

/// One connection, shared by the requests on it.
pub(super) struct Link {
    send: SendRequest<Bytes>,
    shared: Rc<Shared>,
    most: usize,
    since: Instant,
}

struct Shared {
    meter: Rc<Meter>,
    active: Cell<usize>,
    requests: Cell<u64>,
    used_at: Cell<u64>,
    closed: Cell<bool>,
    /// Streams on it that move bulk.
    bulk: Cell<usize>,
}

/// A request's place on a connection, given back on drop.
pub(crate) struct Lease {
    send: SendRequest<Bytes>,
    shared: Rc<Shared>,
    frames_before: u64,
    bulk: Cell<bool>,
    /// Other requests used the connection before.
    pub(super) reused: bool,
}

impl Link {
    /// Takes the socket over and waits for the peer's SETTINGS: only then is its limit of streams known, and that it
    /// speaks HTTP/2 at all.
    pub(super) async fn open(
        stream: Stream,
        windows: Windows,
        pace: Pace,
        limits: &Limits,
    ) -> Result<Self, ProxyError> {
        let (socket, meter) = Guarded::client(stream);
        let opening = async {
            let (send, mut connection) = builder(windows, limits).handshake(socket).await?;
            let goes_away = poll_fn(|cx| match pin!(&mut connection).poll(cx) {
                Poll::Ready(result) if meter.frames.get() > 0 && is_farewell(&result) => {
                    Poll::Ready(Ok(true))
                }
                Poll::Ready(result) => Poll::Ready(result.and(Err(Reason::NO_ERROR.into()))),
                Poll::Pending if meter.frames.get() > 0 => Poll::Ready(Ok(false)),
                Poll::Pending => Poll::Pending,
            })
            .await?;
            Ok((send, connection, goes_away))
        };
        let (send, connection, goes_away) = match timeout(limits.connect_timeout, opening).await {
            Ok(opened) => opened.map_err(|error| not_opened(error, &meter))?,
            Err(elapsed) => return Err(ProxyError::new(ErrorKind::ConnectTimeout, elapsed)),
        };
        let shared = Rc::new(Shared {
            meter,
            active: Cell::new(0),
            requests: Cell::new(0),
            used_at: Cell::new(clock::now_ns()),
            // One that drains takes no request, and whoever takes its place does.
            closed: Cell::new(goes_away),
            bulk: Cell::new(0),
        });
        if !goes_away {
            tokio::task::spawn_local(drive(connection, shared.clone(), pace));
        }
        Ok(Self { send, shared, most: limits.max_streams as usize, since: Instant::now() })
    }

    /// True once it takes no more requests.
    pub(super) fn is_closed(&self) -> bool {
        self.shared.closed.get()
    }

    /// True if no request is on it and none was since `oldest_ns`.
    pub(super) fn is_idle_since(&self, oldest_ns: u64) -> bool {
        self.shared.active.get() == 0 && self.shared.used_at.get() < oldest_ns
    }

    /// Requests under way.
    pub(super) fn active(&self) -> usize {
        self.shared.active.get()
    }

    /// True if the peer would have to let another request wait.
    pub(super) fn is_full(&self) -> bool {
        self.active() >= self.send.current_max_send_streams().min(self.most)
    }

    /// True if one of the streams on it moves bulk.
    pub(super) fn is_bulky(&self) -> bool {
        self.shared.bulk.get() > 0
    }

    /// True if it has as many requests as the endpoint's policy lets one connection have.
    pub(super) fn is_filled(&self, limits: &PoolLimits) -> bool {
        limits.max_streams.is_some_and(|most| self.active() >= most as usize)
    }

    /// True if it may take no more requests: it had its share of them, or is too old. Those on it go on.
    pub(super) fn is_worn(&self, limits: &PoolLimits) -> bool {
        limits.max_requests_per_connection.is_some_and(|most| self.shared.requests.get() >= u64::from(most))
            || limits.max_connection_duration.is_some_and(|longest| self.since.elapsed() >= longest)
    }

    /// A place for one request.
    pub(super) fn lease(&self) -> Lease {
        let shared = self.shared.clone();
        shared.active.set(shared.active.get() + 1);
        let reused = shared.requests.replace(shared.requests.get() + 1) > 0;
        let (frames_before, bulk) = (shared.meter.frames.get(), Cell::new(false));
        Lease { send: self.send.clone(), frames_before, shared, bulk, reused }
    }
}

impl Lease {
    /// Sends a request's head. None if the connection has gone away, and then it isn't used again.
    ///
    /// # Errors
    /// When h2 won't send such a head.
    pub(super) async fn send(
        &mut self,
        request: Request<()>,
        ended: bool,
    ) -> Result<Option<(ResponseFuture, SendStream<Bytes>)>, ErrorKind> {
        // A fresh clone has no request waiting, so it is never pending: this only asks for the connection's state.
        let usable =
            poll_fn(|cx| Poll::Ready(!matches!(self.send.poll_ready(cx), Poll::Ready(Err(_))))).await;
        if usable && !self.shared.closed.get() {
            match self.send.send_request(request, ended) {
                Ok(sent) => return Ok(Some(sent)),
                Err(error) if error.is_go_away() || error.is_io() => {}
                Err(error) => {
                    tracing::debug!(%error, "request can't be sent");
                    return Err(ErrorKind::Internal);
                }
            }
        }
        self.retire();
        Ok(None)
    }

    /// No new requests on this connection.
    fn retire(&self) {
        self.shared.closed.set(true);
    }

    /// Notes that its stream moves bulk.
    pub(super) fn moves_bulk(&self) {
        if !self.bulk.replace(true) {
            self.shared.bulk.set(self.shared.bulk.get() + 1);
        }
    }

    /// True if nothing came from the peer since the request was sent.
    pub(super) fn nothing_came(&self) -> bool {
        self.shared.meter.frames.get() == self.frames_before
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.shared.active.set(self.shared.active.get() - 1);
        if self.bulk.get() {
            self.shared.bulk.set(self.shared.bulk.get() - 1);
        }
        self.shared.used_at.set(clock::now_ns());
    }
}

/// True of the end of a peer that drains, which it may be through with before its GOAWAY was even answered. What TLS complains
/// of is no such end.
fn is_farewell(ended: &Result<(), h2::Error>) -> bool {
    let Err(error) = ended else { return true };
    match error.get_io() {
        Some(error) => error.kind() != io::ErrorKind::InvalidData,
        None => error.is_go_away() && error.is_remote() && error.reason() == Some(Reason::NO_ERROR),
    }
}

/// A peer that says something else than SETTINGS, which go before all else (RFC 9113, 3.4), doesn't speak HTTP/2; one that
/// says nothing may just be going away. A server that refuses its client's certificate says so only when the client has
/// done its part of the handshake: what TLS itself complains of here is still that.
fn not_opened(error: h2::Error, meter: &Meter) -> ProxyError {
    let other = error.is_library() || error.is_io() && meter.read.get() > 0 && meter.frames.get() == 0;
    let kind = match error.get_io().map(io::Error::kind) {
        Some(io::ErrorKind::InvalidData) => ErrorKind::TlsFailed,
        _ if other => ErrorKind::NotHttp2,
        _ => ErrorKind::ConnectFailed,
    };
    ProxyError::new(kind, error)
}

fn builder(windows: Windows, limits: &Limits) -> client::Builder {
    let mut builder = client::Builder::new();
    builder
        .enable_push(false)
        .initial_window_size(windows.stream)
        .initial_connection_window_size(windows.connection)
        .max_frame_size(windows.frame)
        .max_send_buffer_size(SEND_BUFFER)
        .initial_max_send_streams(FIRST_STREAMS)
        .max_header_list_size(u32::try_from(limits.max_head_bytes).unwrap_or(u32::MAX));
    builder
}

async fn drive(mut connection: client::Connection<Guarded, Bytes>, shared: Rc<Shared>, pace: Pace) {
    let mut pulse = connection.ping_pong().map(|ping| Pulse::new(ping, pace));
    let mut look = interval_at(Instant::now() + pace.look, pace.look);
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut run = pin!(connection);
    poll_fn(|cx| {
        if run.as_mut().poll(cx).is_ready() {
            return Poll::Ready(());
        }
        if shared.meter.is_flooded() {
            tracing::debug!("endpoint floods with control frames, closing");
            return Poll::Ready(());
        }
        while look.poll_tick(cx).is_ready() {
            let dead = pulse.as_mut().is_some_and(|pulse| pulse.look(&shared, cx));
            if dead {
                tracing::debug!("endpoint gives no sign of life, closing");
                return Poll::Ready(());
            }
        }
        Poll::Pending
    })
    .await;
    shared.closed.set(true);
}

/// Whether the peer still lives, while it owes answers.
struct Pulse {
    ping: PingPong,
    pace: Pace,
    frames: u64,
    read: u64,
    quiet: u32,
    /// Looks since it was asked, if not a byte came since.
    asked: Option<u32>,
}

impl Pulse {
    fn new(ping: PingPong, pace: Pace) -> Self {
        Self { ping, pace, frames: 0, read: 0, quiet: 0, asked: None }
    }

    /// True if the peer was asked and not a byte came since.
    fn look(&mut self, shared: &Shared, cx: &mut Context<'_>) -> bool {
        let (frames, read) = (shared.meter.frames.get(), shared.meter.read.get());
        self.asked = self.asked.filter(|_| read == self.read).map(|looks| looks + 1);
        if self.asked.is_some_and(|looks| looks >= self.pace.patience) {
            return true;
        }
        if self.ping.poll_pong(cx).is_ready() || frames == self.frames {
            self.quiet += 1;
        }
        if frames != self.frames {
            self.quiet = 0;
        }
        (self.frames, self.read) = (frames, read);
        let is_due = self.asked.is_none() && self.quiet % self.pace.again == self.pace.quiet;
        if shared.active.get() > 0 && is_due && self.ping.send_ping(Ping::opaque()).is_ok() {
            self.asked = Some(0);
        }
        false
    }
}

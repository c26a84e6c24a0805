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

/// How often a connection that owes answers is looked at.
const LOOK: Duration = Duration::from_secs(10);
/// Looks without a frame after which the peer is asked for a sign of life.
const QUIET: u32 = 3;
/// A silent peer isn't asked again sooner: gRPC servers close on more than one PING in five minutes without data (gRPC
/// proposal A8, `PERMIT_KEEPALIVE_TIME`).
const ASK_AGAIN: u32 = 31;
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
    pub(super) async fn open(stream: Stream, windows: Windows, limits: &Limits) -> Result<Self, ProxyError> {
        let (socket, meter) = Guarded::client(stream);
        let opening = async {
            let (send, mut connection) = builder(windows, limits).handshake(socket).await?;
            poll_fn(|cx| match pin!(&mut connection).poll(cx) {
                Poll::Ready(result) => Poll::Ready(result.and(Err(Reason::NO_ERROR.into()))),
                Poll::Pending if meter.frames.get() > 0 => Poll::Ready(Ok(())),
                Poll::Pending => Poll::Pending,
            })
            .await?;
            Ok((send, connection))
        };
        let (send, connection) = match timeout(limits.connect_timeout, opening).await {
            Ok(opened) => opened.map_err(|error| not_opened(error, &meter))?,
            Err(elapsed) => return Err(ProxyError::new(ErrorKind::ConnectTimeout, elapsed)),
        };
        let shared = Rc::new(Shared {
            meter,
            active: Cell::new(0),
            requests: Cell::new(0),
            used_at: Cell::new(clock::now_ns()),
            closed: Cell::new(false),
            bulk: Cell::new(0),
        });
        tokio::task::spawn_local(drive(connection, shared.clone()));
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

async fn drive(mut connection: client::Connection<Guarded, Bytes>, shared: Rc<Shared>) {
    let mut pulse = connection.ping_pong().map(Pulse::new);
    let mut look = interval_at(Instant::now() + LOOK, LOOK);
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
    frames: u64,
    read: u64,
    quiet: u32,
    asked: bool,
}

impl Pulse {
    fn new(ping: PingPong) -> Self {
        Self { ping, frames: 0, read: 0, quiet: 0, asked: false }
    }

    /// True if the peer was asked and not a byte came since.
    fn look(&mut self, shared: &Shared, cx: &mut Context<'_>) -> bool {
        let (frames, read) = (shared.meter.frames.get(), shared.meter.read.get());
        if self.asked && read == self.read {
            return true;
        }
        self.asked = false;
        if self.ping.poll_pong(cx).is_ready() || frames == self.frames {
            self.quiet += 1;
        }
        if frames != self.frames {
            self.quiet = 0;
        }
        (self.frames, self.read) = (frames, read);
        if shared.active.get() > 0 && self.quiet % ASK_AGAIN == QUIET {
            self.asked = self.ping.send_ping(Ping::opaque()).is_ok();
        }
        false
    }
}

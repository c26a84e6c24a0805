//! A client's connection: one task drives the socket and all of its streams, and ends it when it has to end.
//!
//! Comes after `proxy::carry`; each request goes to `stream`. What floods, stands still, never begins or never ends is
//! closed here with GOAWAY and counted; drain says GOAWAY and lets what is under way finish.

use std::cell::Cell;
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::stream::{FuturesUnordered, StreamExt};
use h2::server::{self, SendResponse};
use h2::{Reason, RecvStream};
use http::{Method, Request, Version};
use tokio::time::{Instant, sleep_until, timeout};

use super::allowance::Allowance;
use super::clock::{Clock, IDLE_TICKS};
use super::guard::{Guarded, Meter};
use super::stall::Stall;
use super::stream::{self, End, Shared};
use super::{HBONE_STREAMS, SEND_BUFFER, Windows, connect};
use crate::proxy::{Connection, ErrorKind, Exchange, Hostile, Limits, Stream};

/// Requests that a client may take back at once, and per second (nghttp2's `stream_reset_rate_limit`).
const TAKE_BACK_BURST: i64 = 1000;
const TAKE_BACK_PER_SECOND: u64 = 33;

/// A connection that is so young when the agent begins to drain has its first CONNECT on the way.
const FIRST_CONNECT_GRACE: Duration = Duration::from_secs(1);

/// h2 takes heads so many times as large as is allowed, so that one that is somewhat too large is refused by `request`,
/// which knows whose it is. Beyond four times that, h2 closes the connection.
const HEAD_ROOM: usize = 2;

/// Serves HTTP/2 until either side ends it. `first` is what was read of the connection already.
pub async fn serve(client: Stream, first: BytesMut, conn: &Connection) {
    serve_as(client, first, conn, Peer::Client).await;
}

/// The same for another agent, whose CONNECT streams are connections of their own. Returns what of its TLS ended it, if
/// something did that no agent sends.
pub async fn serve_agent(client: Stream, conn: &Connection) -> Option<rustls::Error> {
    serve_as(client, BytesMut::new(), conn, Peer::Agent).await
}

/// The same for a peer of HBONE, which has nothing but CONNECT streams.
pub async fn serve_hbone(client: Stream, conn: &Connection) -> Option<rustls::Error> {
    serve_as(client, BytesMut::new(), conn, Peer::Hbone).await
}

/// Who is at the other end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Peer {
    /// A client, with requests.
    Client,
    /// Another agent, with requests and CONNECT streams.
    Agent,
    /// A ztunnel or waypoint, with CONNECT streams.
    Hbone,
}

async fn serve_as(client: Stream, first: BytesMut, conn: &Connection, peer: Peer) -> Option<rustls::Error> {
    let (socket, meter) = Guarded::server(client, first);
    let socket = if peer == Peer::Client { socket } else { socket.lingering() };
    let limits = conn.limits();
    let builder = match peer {
        Peer::Client => builder(Windows::PLAIN, limits.max_streams, limits),
        Peer::Agent => builder(Windows::MESH, limits.max_streams, limits),
        Peer::Hbone => builder(Windows::HBONE, HBONE_STREAMS, limits),
    };
    match timeout(limits.head_timeout, builder.handshake(socket)).await {
        Ok(Ok(h2)) => run(h2, meter.clone(), conn, peer).await,
        Ok(Err(error)) if error.is_library() => conn.pod.worker.count_hostile(Hostile::BadPreface),
        Ok(Err(error)) => tracing::debug!(%error, "client went away within the preface"),
        Err(_) => conn.pod.worker.count_hostile(Hostile::BadPreface),
    }
    meter.bad_tls.take()
}

async fn run(h2: H2, meter: Rc<Meter>, conn: &Connection, peer: Peer) {
    let (agent, accepted) = (peer == Peer::Agent, Instant::now());
    let shared =
        Shared { conn, agent, ticks: Rc::default(), head_bytes: Cell::new(0), resets_sent: Cell::new(0) };
    let mut server = Server {
        h2,
        streams: FuturesUnordered::new(),
        shared: &shared,
        peer,
        meter,
        clock: Clock::new(conn.limits()),
        take_backs: Allowance::new(TAKE_BACK_BURST, TAKE_BACK_PER_SECOND, TAKE_BACK_BURST),
        leaving: false,
        told: Told::default(),
    };
    let mut drain = pin!(async {
        conn.pod.worker.drain.begun().await;
        // Peers of HBONE don't ask again when a connection that has just been made takes nothing.
        if peer == Peer::Hbone {
            sleep_until(accepted + FIRST_CONNECT_GRACE).await;
        }
    });
    poll_fn(|cx| {
        if !server.leaving && drain.as_mut().poll(cx).is_ready() {
            server.leave();
        }
        server.poll(cx)
    })
    .await;
    server.tell();
    server.note_refused();
    let Server { h2, mut streams, .. } = server;
    drop(h2);
    // Every stream takes note of how it ended, now that the connection has.
    poll_fn(|cx| {
        while let Poll::Ready(Some(_)) = streams.poll_next_unpin(cx) {}
        Poll::Ready(())
    })
    .await;
}

fn builder(windows: Windows, streams: u32, limits: &Limits) -> server::Builder {
    let mut builder = server::Builder::new();
    builder
        .initial_window_size(windows.stream)
        .initial_connection_window_size(windows.connection)
        .max_frame_size(windows.frame)
        .max_send_buffer_size(SEND_BUFFER)
        .max_concurrent_streams(streams)
        .max_header_list_size(u32::try_from(limits.max_head_bytes * HEAD_ROOM).unwrap_or(u32::MAX));
    builder
}

type H2 = server::Connection<Guarded, Bytes>;

/// A stream in the set of its connection.
struct Task<'s> {
    stall: Rc<Stall>,
    work: Pin<Box<dyn Future<Output = End> + 's>>,
}

impl Future for Task<'_> {
    type Output = End;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<End> {
        self.work.as_mut().poll(cx)
    }
}

struct Server<'s, 'c> {
    h2: H2,
    streams: FuturesUnordered<Task<'s>>,
    shared: &'s Shared<'c>,
    peer: Peer,
    meter: Rc<Meter>,
    clock: Clock,
    take_backs: Allowance,
    /// GOAWAY was said.
    leaving: bool,
    told: Told,
}

/// An extended CONNECT (RFC 8441) is a request, with headers for its endpoint.
pub(super) fn is_connect(request: &Request<RecvStream>) -> bool {
    request.method() == Method::CONNECT && request.extensions().get::<h2::ext::Protocol>().is_none()
}

/// What was told to `get connections` and the metrics so far.
#[derive(Default)]
struct Told {
    read: u64,
    written: u64,
    errors: u64,
}

impl<'s> Server<'s, '_> {
    /// Ready once the connection has ended.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            // Streams first: what they send goes out with the poll of the connection.
            while let Poll::Ready(Some(end)) = self.streams.poll_next_unpin(cx) {
                self.ended(end);
            }
            match self.h2.poll_accept(cx) {
                Poll::Ready(Some(Ok((request, respond)))) => {
                    self.accept(request, respond);
                    continue;
                }
                Poll::Ready(Some(Err(error))) => {
                    self.failed(&error);
                    return Poll::Ready(());
                }
                Poll::Ready(None) => return Poll::Ready(()),
                Poll::Pending => {}
            }
            self.note_refused();
            if self.meter.is_flooded() && !self.leaving {
                self.abort(Hostile::FrameFlood);
                continue;
            }
            ready!(self.poll_clock(cx));
            if self.clock.over {
                return Poll::Ready(());
            }
        }
    }

    fn accept(&mut self, request: Request<RecvStream>, mut respond: SendResponse<Bytes>) {
        self.meter.unclaimed.settled(respond.stream_id().as_u32());
        // A stream that was reset may still be winding up when the client opens the next.
        if self.streams.len() > 2 * self.shared.conn.limits().max_streams as usize {
            return respond.send_reset(Reason::REFUSED_STREAM);
        }
        let stall = Stall::new(&self.shared.ticks);
        let conn = self.shared.conn;
        let work: Pin<Box<dyn Future<Output = End> + 's>> = match self.peer {
            Peer::Hbone => Box::pin(async move {
                connect::serve_hbone(conn, request, respond).await;
                End::Ended
            }),
            Peer::Agent if is_connect(&request) => Box::pin(async move {
                connect::serve(conn, request, respond).await;
                End::Ended
            }),
            Peer::Agent | Peer::Client => {
                Box::pin(stream::serve(self.shared, request, respond, stall.clone()))
            }
        };
        self.streams.push(Task { stall, work });
    }

    /// Heads too large even for h2 were answered by it, and are accounted all the same.
    fn note_refused(&self) {
        for _ in 0..self.meter.unclaimed.take_refused() {
            let kind = ErrorKind::HeadTooLarge;
            let mut account = Exchange::unreadable(self.shared.conn, Version::HTTP_2);
            account.fail(kind);
            kind.status().into_iter().for_each(|status| account.answered_locally(status));
        }
    }

    fn ended(&mut self, end: End) {
        if end == End::TakenBack && !self.take_backs.spend(1) && !self.leaving {
            self.abort(Hostile::RapidReset);
        }
    }

    /// Says GOAWAY and lets what is under way finish.
    fn leave(&mut self) {
        self.leaving = true;
        self.clock.restart();
        self.h2.graceful_shutdown();
    }

    /// Says GOAWAY and ends everything.
    fn abort(&mut self, hostile: Hostile) {
        self.leaving = true;
        self.clock.restart();
        self.shared.conn.pod.worker.count_hostile(hostile);
        self.h2.abrupt_shutdown(Reason::ENHANCE_YOUR_CALM);
    }

    /// h2 has closed the connection. It doesn't say for which of its limits, but what was read last does.
    fn failed(&self, error: &h2::Error) {
        tracing::debug!(%error, client = %self.shared.conn.client, "HTTP/2 connection failed");
        if !error.is_library() || self.leaving {
            return;
        }
        let calm = error.reason() == Some(Reason::ENHANCE_YOUR_CALM);
        let hostile = match calm {
            false => Hostile::BadFrame,
            true if self.meter.is_in_headers() || self.meter.resets.get() == 0 => Hostile::FrameFlood,
            true => Hostile::RapidReset,
        };
        self.shared.conn.pod.worker.count_hostile(hostile);
    }

    fn tell(&mut self) {
        let conn = self.shared.conn;
        let (read, written) = (self.meter.read.get(), self.meter.written.get());
        conn.live.received(read - self.told.read);
        conn.live.sent(written - self.told.written);
        // Malformed requests never leave h2; its resets are all that shows of them.
        let errors = self.meter.errors.get().saturating_sub(self.shared.resets_sent.get());
        for _ in self.told.errors..errors {
            conn.pod.worker.count_hostile(Hostile::BadFrame);
        }
        self.told = Told { read, written, errors: errors.max(self.told.errors) };
    }
}

/// Deadlines.
impl Server<'_, '_> {
    /// Ready if the connection has to be polled again.
    fn poll_clock(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let busy = !self.streams.is_empty() || self.meter.is_incomplete() || self.meter.blocked.get();
        if busy && self.clock.idle {
            self.clock.restart();
        }
        ready!(self.clock.sleep.as_mut().poll(cx));
        self.tell();
        if self.clock.idle {
            // Nothing for as long as a connection is kept.
            self.leave();
            return Poll::Ready(());
        }
        let now = self.shared.ticks.get() + 1;
        self.shared.ticks.set(now);
        if busy {
            self.check(now);
            self.clock.quiet = 0;
        } else {
            self.clock.quiet += 1;
            self.clock.over = self.leaving && self.clock.quiet >= IDLE_TICKS;
        }
        self.clock.next();
        Poll::Ready(())
    }

    fn check(&mut self, now: u32) {
        for task in &self.streams {
            task.stall.check(self.clock.body_ticks);
        }
        let block = self.meter.is_incomplete().then(|| self.meter.blocks.get() + self.meter.frames.get());
        if self.clock.block.stands(block, now) >= self.clock.head_ticks {
            self.shared.conn.pod.worker.count_hostile(Hostile::FrameFlood);
            self.clock.over = true;
        }
        let written = self.meter.blocked.get().then(|| self.meter.written.get());
        if self.clock.write.stands(written, now) >= self.clock.body_ticks {
            self.clock.over = true;
        }
    }
}

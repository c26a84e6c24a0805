//! A CONNECT stream as a connection of bytes (RFC 9113, 8.5): what agents carry opaque connections between nodes in.
//!
//! Made by `tunnels` towards an endpoint and by `connect` for what arrives; `proxy::stream` uses it as it uses a socket. An end
//! of the stream is a half-close, its reset is a connection's, both ways; the stream's window is the back-pressure, and the
//! most that is held. Belongs to one task, whose waker both directions share.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::fmt;
use std::io::{self, IoSlice};
use std::task::{Context, Poll, Waker, ready};

use bytes::{Buf, Bytes, BytesMut};
use h2::server::SendResponse;
use h2::{Reason, RecvStream, SendStream};
use http::{Response, StatusCode};
use tokio::io::ReadBuf;

use super::link::Lease;

/// Handed to h2 at once: one frame of the size that agents allow each other.
const CHUNK: usize = super::FRAME as usize;
/// Frames below this are put together while nobody reads: h2 holds something for each, and closes a connection on which too
/// many small ones wait.
const SMALL: usize = 1024;
/// A stream that has carried so much moves bulk: others are kept away from its connection.
const BULK: u64 = 4 * 1024 * 1024;

/// A CONNECT stream.
pub struct Tunnel {
    inner: RefCell<Inner>,
    /// Its place on a connection of ours. Given back after the stream.
    lease: Option<Lease>,
}

struct Inner {
    from: RecvStream,
    to: Sending,
    /// Received, in order, and not taken by the reader; the small ones at the end in `tail`.
    held: VecDeque<Bytes>,
    tail: BytesMut,
    /// The peer's END_STREAM came.
    ended: bool,
    /// Ours was sent.
    closed: bool,
    carried: u64,
}

enum Sending {
    /// The peer's CONNECT isn't answered yet: it will be once its bytes are asked for, or some are there for it.
    Unanswered(SendResponse<Bytes>),
    Open(SendStream<Bytes>),
}

impl Tunnel {
    /// Towards an endpoint, whose agent has agreed.
    pub(super) fn outgoing(from: RecvStream, to: SendStream<Bytes>, lease: Lease) -> Self {
        Self::new(from, Sending::Open(to), Some(lease))
    }

    /// Towards an endpoint, on a connection that carries nothing else.
    pub(super) fn alone(from: RecvStream, to: SendStream<Bytes>) -> Self {
        Self::new(from, Sending::Open(to), None)
    }

    /// Of a peer that asked with CONNECT. It is told 200 by the first read or write, so that until then it can be refused.
    pub(super) fn incoming(from: RecvStream, respond: SendResponse<Bytes>) -> Self {
        Self::new(from, Sending::Unanswered(respond), None)
    }

    fn new(from: RecvStream, to: Sending, lease: Option<Lease>) -> Self {
        let (held, tail) = (VecDeque::new(), BytesMut::new());
        let inner = Inner { from, to, held, tail, ended: false, closed: false, carried: 0 };
        Self { inner: RefCell::new(inner), lease }
    }

    /// As `AsyncRead::poll_read`. No bytes is the peer's END_STREAM; its reset is an error.
    pub fn poll_read(&self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let mut inner = self.inner.borrow_mut();
        ready!(inner.poll_readable(cx))?;
        let mut taken = 0;
        while buf.remaining() > 0
            && let Some(part) = inner.front()
        {
            let most = part.len().min(buf.remaining());
            buf.put_slice(&part[..most]);
            part.advance(most);
            taken += most;
        }
        inner.give_back(taken);
        self.count(&mut inner, taken);
        Poll::Ready(Ok(()))
    }

    /// Ready once a read would be.
    pub fn poll_readable(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.inner.borrow_mut().poll_readable(cx)
    }

    /// The beginning of what a read would find, which it still finds.
    pub fn poll_peek(&self, cx: &mut Context<'_>, buf: &mut [u8]) -> Poll<io::Result<usize>> {
        let mut inner = self.inner.borrow_mut();
        ready!(inner.poll_readable(cx))?;
        let first = inner.front().map(|part| &part[..]).unwrap_or_default();
        let most = first.len().min(buf.len());
        buf[..most].copy_from_slice(&first[..most]);
        Poll::Ready(Ok(most))
    }

    /// As `AsyncWrite::poll_write_vectored`; as much is taken as the window and h2's buffer of one stream have room for.
    pub fn poll_write(&self, cx: &mut Context<'_>, slices: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        let wanted: usize = slices.iter().map(|slice| slice.len()).sum();
        if wanted == 0 {
            return Poll::Ready(Ok(0));
        }
        let mut inner = self.inner.borrow_mut();
        let room = ready!(inner.poll_room(cx, wanted.min(CHUNK)))?;
        let chunk = gather(slices, room.min(wanted).min(CHUNK));
        let written = chunk.len();
        inner.opened()?.send_data(chunk, false).map_err(into_io)?;
        self.count(&mut inner, written);
        Poll::Ready(Ok(written))
    }

    /// Ends our direction: END_STREAM.
    pub fn poll_shutdown(&self, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut inner = self.inner.borrow_mut();
        if inner.closed {
            return Poll::Ready(Ok(()));
        }
        inner.closed = true;
        Poll::Ready(inner.opened()?.send_data(Bytes::new(), true).map_err(into_io))
    }

    /// Says END_STREAM where that can still be said: for a connection that ends where it may.
    pub fn farewell(&self) {
        let mut inner = self.inner.borrow_mut();
        let said = !std::mem::replace(&mut inner.closed, true);
        if let Sending::Open(send) = &mut inner.to
            && said
        {
            // The peer may be gone, and then needs no word of it.
            let _ = send.send_data(Bytes::new(), true);
        }
    }

    /// Ready once the peer has reset the stream or its connection is gone, for when nothing is read that would tell.
    pub fn poll_reset(&self, cx: &mut Context<'_>) -> Poll<()> {
        let mut inner = self.inner.borrow_mut();
        inner.collect(cx);
        match &mut inner.to {
            Sending::Unanswered(respond) => respond.poll_reset(cx).map(drop),
            Sending::Open(send) => send.poll_reset(cx).map(drop),
        }
    }

    /// True if there is something to read, an end or a failure included.
    pub fn has_news(&self) -> bool {
        let mut cx = Context::from_waker(Waker::noop());
        self.inner.borrow_mut().poll_readable(&mut cx).is_ready()
    }

    /// Resets the stream as a proxy does whose TCP connection was (RFC 9113, 8.5).
    pub fn reset(&self) {
        match &mut self.inner.borrow_mut().to {
            Sending::Unanswered(respond) => respond.send_reset(Reason::CONNECT_ERROR),
            Sending::Open(send) => send.send_reset(Reason::CONNECT_ERROR),
        }
    }

    /// Answers a CONNECT that goes no further; one that was answered before is reset.
    pub fn refuse(&self, status: StatusCode) {
        let mut inner = self.inner.borrow_mut();
        let mut response = Response::new(());
        *response.status_mut() = status;
        match &mut inner.to {
            Sending::Unanswered(respond) => {
                if respond.send_response(response, true).is_err() {
                    respond.send_reset(Reason::CONNECT_ERROR);
                }
            }
            Sending::Open(send) => send.send_reset(Reason::CONNECT_ERROR),
        }
    }

    fn count(&self, inner: &mut Inner, bytes: usize) {
        let before = inner.carried;
        inner.carried += bytes as u64;
        if let Some(lease) = self.lease.as_ref().filter(|_| before < BULK && inner.carried >= BULK) {
            lease.moves_bulk();
        }
    }
}

impl Inner {
    /// The sending side, the peer having been told that it has one.
    fn opened(&mut self) -> io::Result<&mut SendStream<Bytes>> {
        if let Sending::Unanswered(respond) = &mut self.to {
            let send = respond.send_response(Response::new(()), false).map_err(into_io)?;
            self.to = Sending::Open(send);
        }
        match &mut self.to {
            Sending::Open(send) => Ok(send),
            Sending::Unanswered(_) => Err(io::ErrorKind::NotConnected.into()),
        }
    }

    fn poll_readable(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.opened()?;
        while self.front().is_none() && !self.ended {
            match ready!(self.from.poll_data(cx)) {
                Some(Ok(data)) => self.hold(data),
                Some(Err(error)) => return Poll::Ready(Err(into_io(error))),
                None => self.ended = true,
            }
        }
        Poll::Ready(Ok(()))
    }

    /// The oldest bytes that nobody took.
    fn front(&mut self) -> Option<&mut Bytes> {
        while self.held.front().is_some_and(Bytes::is_empty) {
            self.held.pop_front();
        }
        if self.held.is_empty() && !self.tail.is_empty() {
            self.held.push_back(self.tail.split().freeze());
        }
        self.held.front_mut()
    }

    fn hold(&mut self, data: Bytes) {
        if data.len() < SMALL && !(self.held.is_empty() && self.tail.is_empty()) {
            return self.tail.extend_from_slice(&data);
        }
        if !self.tail.is_empty() {
            self.held.push_back(self.tail.split().freeze());
        }
        self.held.push_back(data);
    }

    /// Takes from h2 what has come, which the stream's window bounds, without giving any of that window back.
    fn collect(&mut self, cx: &mut Context<'_>) {
        while !self.ended {
            match self.from.poll_data(cx) {
                Poll::Ready(Some(Ok(data))) => self.hold(data),
                Poll::Ready(None) => self.ended = true,
                // The sending side, which is asked next, says so too.
                Poll::Ready(Some(Err(_))) | Poll::Pending => return,
            }
        }
    }

    fn give_back(&mut self, taken: usize) {
        // Fails only for a stream that was reset meanwhile, whose window h2 has given back by itself.
        let _ = self.from.flow_control().release_capacity(taken);
    }

    fn poll_room(&mut self, cx: &mut Context<'_>, wanted: usize) -> Poll<io::Result<usize>> {
        let send = self.opened()?;
        send.reserve_capacity(wanted);
        loop {
            match send.capacity() {
                0 => match ready!(send.poll_capacity(cx)) {
                    Some(Ok(_)) => {}
                    Some(Err(error)) => return Poll::Ready(Err(into_io(error))),
                    None => return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
                },
                room => return Poll::Ready(Ok(room)),
            }
        }
    }
}

fn gather(slices: &[IoSlice<'_>], most: usize) -> Bytes {
    let mut chunk = BytesMut::with_capacity(most);
    for slice in slices {
        let room = most - chunk.len();
        chunk.extend_from_slice(&slice[..slice.len().min(room)]);
    }
    chunk.freeze()
}

/// Whatever ended the stream, whoever reads or writes sees a reset: no end that isn't clean is one.
fn into_io(error: h2::Error) -> io::Error {
    io::Error::new(io::ErrorKind::ConnectionReset, error)
}

impl fmt::Debug for Tunnel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tunnel").finish_non_exhaustive()
    }
}

//! One HTTP/1 connection: a socket with what was read from it and what waits to be written.
//!
//! Both ends of the agent use it, `serve` for the client's side and `proxy::upstream` to keep connections for reuse. An
//! idle connection holds no buffer. `message` gets heads from here, `forward` bodies.

use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::mem;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWrite, AsyncWriteExt, Ready};
use tokio::time::Instant;

use super::head::{self, HeadError};
use super::pool::{self, BUFFER};
use crate::balance::queue::Place;
use crate::policy::PoolLimits;
use crate::proxy::stream::{ReadHalf, Stream, WriteHalf};

/// One read takes at most this much: what a body may have in flight inside the agent.
const MAX_READ: usize = 64 * 1024;
/// Body bytes up to this are copied behind the head and written with it; more go in one vectored write.
const COALESCE: usize = 4 * 1024;

/// A connection and its buffers.
#[derive(Debug)]
pub struct Conn {
    stream: Stream,
    buf: BytesMut,
    out: BytesMut,
    scanned: usize,
    want: usize,
    /// Of one to an endpoint.
    held: Option<Box<Held>>,
}

/// What is known of a connection to an endpoint.
#[derive(Debug)]
struct Held {
    /// Among the connections of a service port whose number is limited.
    place: Option<Place>,
    since: Instant,
    requests: u32,
}

/// The receiving side of a [`Conn`].
pub struct Reader<'a> {
    half: ReadHalf<'a>,
    buf: &'a mut BytesMut,
    scanned: &'a mut usize,
    want: &'a mut usize,
}

/// The sending side of a [`Conn`].
pub struct Writer<'a> {
    half: WriteHalf<'a>,
    out: &'a mut BytesMut,
}

impl Conn {
    /// `prefix` is what was read from the socket already.
    pub fn new(stream: impl Into<Stream>, prefix: BytesMut) -> Self {
        let stream = stream.into();
        Self { stream, buf: prefix, out: BytesMut::new(), scanned: 0, want: BUFFER, held: None }
    }

    /// Is one to an endpoint from here on, and holds its place among those to a service port.
    pub fn hold(mut self, place: Option<Place>) -> Self {
        let made = || Box::new(Held { place: None, since: Instant::now(), requests: 0 });
        self.held.get_or_insert_with(made).place = place;
        self
    }

    /// Gives its place away, to whoever goes on with the socket.
    pub fn take_place(&mut self) -> Option<Place> {
        self.held.as_mut()?.place.take()
    }

    /// Lets others have its place while it lies idle, or no more.
    pub fn rest(&mut self, idle: bool) {
        match self.held.as_mut().and_then(|held| held.place.as_mut()) {
            Some(place) if idle => place.rest(),
            Some(place) => place.wake(),
            None => {}
        }
    }

    /// True if somebody waits for its place.
    pub fn is_wanted(&self) -> bool {
        let place = self.held.as_ref().and_then(|held| held.place.as_ref());
        place.is_some_and(Place::is_wanted)
    }

    /// Counts a request that it has carried.
    pub fn carried(&mut self) {
        if let Some(held) = &mut self.held {
            held.requests = held.requests.saturating_add(1);
        }
    }

    /// True if it may carry no more requests: it had its share of them, or is too old.
    pub fn is_worn(&self, limits: &PoolLimits) -> bool {
        self.held.as_ref().is_some_and(|held| {
            limits.max_requests_per_connection.is_some_and(|most| held.requests >= most)
                || limits.max_connection_duration.is_some_and(|longest| held.since.elapsed() >= longest)
        })
    }

    /// Small writes leave at once: what is worth collecting is collected here.
    pub fn set_nodelay(&self) {
        // Failing only costs latency.
        let _ = self.stream.tcp().map(|tcp| tcp.set_nodelay(true));
    }

    /// Both sides, to be used at the same time within one task.
    pub fn split(&mut self) -> (Reader<'_>, Writer<'_>) {
        let (read, write) = self.stream.split();
        let reader =
            Reader { half: read, buf: &mut self.buf, scanned: &mut self.scanned, want: &mut self.want };
        (reader, Writer { half: write, out: &mut self.out })
    }

    /// For what follows a protocol switch: the socket and what was read ahead.
    pub fn into_parts(self) -> (Stream, Bytes) {
        (self.stream, self.buf.freeze())
    }

    /// Takes what is staged and wasn't sent.
    pub fn take_unsent(&mut self) -> BytesMut {
        mem::take(&mut self.out)
    }

    /// True if nothing was read ahead and nothing waits to be written.
    pub fn is_clear(&self) -> bool {
        self.buf.is_empty() && self.out.is_empty()
    }

    /// True if the peer of an idle connection closed it, or sent what nobody asked for. Costs a system call only
    /// if the socket was reported readable.
    pub fn idle_is_closed(&self) -> bool {
        self.stream.idle_is_closed()
    }

    /// As [`Self::idle_is_closed`], but asks the kernel: for requests that may not be sent twice.
    pub fn is_closed_now(&self) -> bool {
        self.stream.is_closed_now()
    }

    /// Takes leave of the peer, before a connection on which all was said is dropped.
    pub fn farewell(&self) {
        self.stream.farewell();
    }

    /// Gives buffers back while there is nothing in them.
    pub fn release(&mut self) {
        if self.buf.is_empty() && self.buf.capacity() > 0 {
            pool::give_buffer(mem::take(&mut self.buf));
            self.want = BUFFER;
        }
        if self.out.is_empty() && self.out.capacity() > 0 {
            pool::give_buffer(mem::take(&mut self.out));
        }
    }
}

impl Reader<'_> {
    /// Bytes that were read and not consumed.
    pub fn buffered(&self) -> &[u8] {
        self.buf
    }

    /// Moves past bytes.
    pub fn consume(&mut self, len: usize) {
        self.buf.advance(len);
        *self.scanned = 0;
    }

    /// Reads once, behind what is buffered. 0 is the end. The caller bounds what is buffered.
    pub async fn fill(&mut self) -> io::Result<usize> {
        poll_fn(|cx| self.poll_fill(cx)).await
    }

    /// Resolves once the peer has reset the connection, for when nothing is read that would tell.
    pub fn reset(&self) -> impl Future<Output = io::Result<Ready>> {
        self.half.reset()
    }

    /// True if bytes wait in the socket. Asks the kernel.
    pub fn has_more_now(&self) -> bool {
        self.half.has_more_now()
    }

    fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        if self.buf.capacity() == 0 {
            // Waiting costs no buffer.
            ready!(self.half.poll_ready(cx))?;
            *self.buf = pool::take_buffer();
        }
        if self.buf.is_empty() || self.buf.len() == self.buf.capacity() {
            self.buf.reserve(*self.want);
        }
        let read = ready!(pin!(self.half.read_buf(self.buf)).poll(cx))?;
        if self.buf.len() == self.buf.capacity() {
            *self.want = (*self.want * 2).min(MAX_READ);
        }
        Poll::Ready(Ok(read))
    }

    /// A complete head, if it is there.
    pub fn take_head(&mut self, max: usize) -> Result<Option<Bytes>, HeadError> {
        match head::find_end(self.buf, self.scanned)? {
            Some(len) if len <= max => {
                *self.scanned = 0;
                Ok(Some(self.buf.split_to(len).freeze()))
            }
            None if self.buf.len() <= max => Ok(None),
            _ => Err(HeadError::TooLarge),
        }
    }
}

impl Writer<'_> {
    /// Where the next head is put; it leaves with the next [`Self::send`].
    pub fn stage(&mut self) -> &mut BytesMut {
        if self.out.capacity() == 0 {
            *self.out = pool::take_buffer();
        }
        self.out
    }

    /// True if something waits for the next [`Self::send`].
    pub fn is_staged(&self) -> bool {
        !self.out.is_empty()
    }

    /// Writes what is staged and then all of `body`.
    pub async fn send(&mut self, mut body: &[u8]) -> io::Result<()> {
        while !body.is_empty() || self.is_staged() {
            let written = self.send_some(body).await?;
            body = &body[written..];
        }
        Ok(())
    }

    /// Writes once: what is staged and then `body`, in one system call. Returns how much of `body` was taken. Nothing
    /// was if it is given up before it has returned.
    pub async fn send_some(&mut self, body: &[u8]) -> io::Result<usize> {
        poll_fn(|cx| self.poll_send(cx, body)).await
    }

    fn poll_send(&mut self, cx: &mut Context<'_>, body: &[u8]) -> Poll<io::Result<usize>> {
        let staged = self.out.len();
        let half = Pin::new(&mut self.half);
        let written = if staged == 0 {
            half.poll_write(cx, body)
        } else if body.len() <= COALESCE {
            self.out.extend_from_slice(body);
            let written = half.poll_write(cx, self.out);
            // What the socket didn't take stays with the caller.
            self.out.truncate(staged);
            written
        } else {
            half.poll_write_vectored(cx, &[IoSlice::new(self.out), IoSlice::new(body)])
        };
        let written = ready!(written)?;
        if written == 0 {
            return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
        }
        self.out.advance(written.min(staged));
        Poll::Ready(Ok(written.saturating_sub(staged)))
    }

    /// Ends this direction.
    pub async fn shutdown(&mut self) -> io::Result<()> {
        self.half.shutdown().await
    }
}

//! The socket as the h2 crate sees it, with a meter: what passes, how often, and whether the peer overdoes it.
//!
//! Sits between TCP and h2 on both sides. h2 by itself bounds CONTINUATION frames, header lists, empty and small DATA
//! frames, and resets of streams not yet accepted; it answers SETTINGS and PING however many come. The meter bounds
//! those: control frames draw on a credit that the connection's useful work and time restore. Once it is used up no
//! further byte is read, and the connection's task says GOAWAY.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Sleep, sleep};

use super::allowance::Allowance;
use super::frames::{Frame, Frames};
use super::unclaimed::Unclaimed;
use crate::proxy::Stream;

const PREFACE: usize = 24;
const PROTOCOL_ERROR: u32 = 1;
/// How long the end of a connection may wait for the peer's.
const LINGER: Duration = Duration::from_secs(1);
/// Control frames that a connection may send without having earned them.
const BURST: i64 = 4_000;
/// Earned credit doesn't grow beyond this.
const MOST: i64 = 20_000;
/// Control frames earned per second.
const PER_SECOND: u64 = 500;
/// A DATA frame of ours may be answered by two WINDOW_UPDATEs and a PING (clients that measure bandwidth-delay).
const PER_DATA: i64 = 3;
/// A stream may come with PRIORITY, a WINDOW_UPDATE and a reset; a response with some 1xx before it.
const PER_HEADERS: i64 = 8;

/// What passes on one connection. Shared by the socket's wrapper and the connection's task.
#[derive(Debug)]
pub(super) struct Meter {
    credit: Allowance,
    flooded: Cell<bool>,
    in_headers: Cell<bool>,
    in_data: Cell<bool>,
    inside: Cell<bool>,
    /// Header blocks begun.
    pub(super) blocks: Cell<u64>,
    /// Bytes read.
    pub(super) read: Cell<u64>,
    /// Bytes written.
    pub(super) written: Cell<u64>,
    /// Frames read that aren't PING or its answer.
    pub(super) frames: Cell<u64>,
    /// RST_STREAM frames read.
    pub(super) resets: Cell<u64>,
    /// RST_STREAM frames with PROTOCOL_ERROR written, but for those that follow a 431 of h2's own.
    pub(super) errors: Cell<u64>,
    /// A client's requests that h2 keeps to itself.
    pub(super) unclaimed: Unclaimed,
    /// The socket took no more bytes when last asked.
    pub(super) blocked: Cell<bool>,
    /// What the peer sent that TLS doesn't allow, with which the socket ended.
    pub(super) bad_tls: RefCell<Option<rustls::Error>>,
}

impl Meter {
    fn new(unclaimed: Unclaimed) -> Rc<Self> {
        Rc::new(Self {
            credit: Allowance::new(BURST, PER_SECOND, MOST),
            flooded: Cell::default(),
            in_headers: Cell::default(),
            in_data: Cell::default(),
            inside: Cell::default(),
            blocks: Cell::default(),
            read: Cell::default(),
            written: Cell::default(),
            frames: Cell::default(),
            resets: Cell::default(),
            errors: Cell::default(),
            unclaimed,
            blocked: Cell::default(),
            bad_tls: RefCell::default(),
        })
    }

    /// True once the peer has sent too many control frames.
    pub(super) fn is_flooded(&self) -> bool {
        self.flooded.get()
    }

    /// True while a header block or any frame but DATA is incomplete, and until the SETTINGS that end a preface
    /// (RFC 9113, 3.4) have come.
    pub(super) fn is_incomplete(&self) -> bool {
        self.in_headers.get() || self.inside.get() && !self.in_data.get() || self.frames.get() == 0
    }

    /// True while a header block waits for its CONTINUATION.
    pub(super) fn is_in_headers(&self) -> bool {
        self.in_headers.get()
    }

    /// h2 keeps no more of an error than its text.
    fn failed(&self, error: &io::Error) {
        let tls = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
        // An alert is the peer's way to say that it ends the connection.
        if let Some(error) = tls.filter(|error| !matches!(error, rustls::Error::AlertReceived(_))) {
            self.bad_tls.replace(Some(error.clone()));
        }
    }

    fn received(&self, frame: Frame, stream: u32) {
        self.in_data.set(frame == Frame::Data);
        match frame {
            Frame::Headers { done, last } => {
                self.blocks.set(self.blocks.get() + 1);
                self.in_headers.set(!done);
                self.unclaimed.begun(stream, last);
            }
            Frame::Continuation { done } => self.in_headers.set(!done),
            Frame::Reset(_) => {
                self.resets.set(self.resets.get() + 1);
                self.unclaimed.settled(stream);
            }
            _ => {}
        }
        if !matches!(frame, Frame::Ping | Frame::Pong) {
            self.frames.set(self.frames.get() + 1);
        }
        // HEADERS cost, so that a server can't send interim responses without end; every request earns them back.
        let cost = match frame {
            Frame::Data | Frame::SettingsAck | Frame::Pong => 0,
            Frame::Settings => 4,
            _ => 1,
        };
        if cost > 0 && !self.credit.spend(cost) {
            self.flooded.set(true);
        }
    }

    fn sent(&self, frame: Frame, stream: u32) {
        let earned = match frame {
            Frame::Data => PER_DATA,
            Frame::Headers { .. } => {
                self.unclaimed.answered(stream);
                PER_HEADERS
            }
            Frame::Reset(code) => {
                if !self.unclaimed.settled(stream) && code == PROTOCOL_ERROR {
                    self.errors.set(self.errors.get() + 1);
                }
                0
            }
            _ => 0,
        };
        self.credit.earn(earned);
    }
}

/// A socket with bytes that were read from it before, and its meter.
#[derive(Debug)]
pub(super) struct Guarded {
    stream: Stream,
    first: BytesMut,
    meter: Rc<Meter>,
    incoming: Frames,
    outgoing: Frames,
    lingers: bool,
    lingering: Option<Pin<Box<Sleep>>>,
}

impl Guarded {
    /// The client's connection: it begins with the preface, of which `first` may hold a part.
    pub(super) fn server(stream: impl Into<Stream>, first: BytesMut) -> (Self, Rc<Meter>) {
        let meter = Meter::new(Unclaimed::default());
        Self::new(stream.into(), first, Frames::after(PREFACE), Frames::after(0), meter)
    }

    /// Our connection to a server.
    pub(super) fn client(stream: impl Into<Stream>) -> (Self, Rc<Meter>) {
        let meter = Meter::new(Unclaimed::none());
        Self::new(stream.into(), BytesMut::new(), Frames::after(0), Frames::after(PREFACE), meter)
    }

    fn new(
        stream: Stream,
        first: BytesMut,
        incoming: Frames,
        outgoing: Frames,
        meter: Rc<Meter>,
    ) -> (Self, Rc<Meter>) {
        let guarded =
            Self { stream, first, meter: meter.clone(), incoming, outgoing, lingers: false, lingering: None };
        (guarded, meter)
    }

    /// Closes only when the peer has, or after a moment: what it sent before it read our GOAWAY would have the socket reset
    /// that is closed with it unread, and the GOAWAY lost that says which requests weren't taken up.
    pub(super) fn lingering(mut self) -> Self {
        self.lingers = true;
        self
    }

    fn poll_linger(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let timer = self.lingering.get_or_insert_with(|| Box::pin(sleep(LINGER)));
        let mut space = [0; 1024];
        while timer.as_mut().poll(cx).is_pending() {
            let mut rest = ReadBuf::new(&mut space);
            match ready!(Pin::new(&mut self.stream).poll_read(cx, &mut rest)) {
                Ok(()) if !rest.filled().is_empty() => {}
                Ok(()) | Err(_) => break,
            }
        }
        Poll::Ready(())
    }

    fn count_read(&mut self, bytes: &[u8]) {
        self.meter.read.set(self.meter.read.get() + bytes.len() as u64);
        let meter = &self.meter;
        self.incoming.advance(bytes, |frame, stream| meter.received(frame, stream));
        self.meter.inside.set(self.incoming.is_inside());
    }

    /// `written` bytes of `slices` went out.
    fn count_written(&mut self, slices: &[IoSlice<'_>], mut written: usize) {
        self.meter.written.set(self.meter.written.get() + written as u64);
        let meter = &self.meter;
        for slice in slices {
            let part = written.min(slice.len());
            self.outgoing.advance(&slice[..part], |frame, stream| meter.sent(frame, stream));
            written -= part;
        }
    }
}

impl AsyncRead for Guarded {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.meter.is_flooded() {
            // The connection's task looks at the meter after each poll; nobody needs to be woken.
            return Poll::Pending;
        }
        let before = buf.filled().len();
        if this.first.is_empty() {
            let read = ready!(Pin::new(&mut this.stream).poll_read(cx, buf));
            read.inspect_err(|error| this.meter.failed(error))?;
        } else {
            let part = this.first.len().min(buf.remaining());
            buf.put_slice(&this.first[..part]);
            this.first.advance(part);
            if this.first.is_empty() {
                this.first = BytesMut::new();
            }
        }
        this.count_read(&buf.filled()[before..]);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Guarded {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[IoSlice::new(buf)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let result = Pin::new(&mut this.stream).poll_write_vectored(cx, slices);
        this.meter.blocked.set(result.is_pending());
        let written = ready!(result)?;
        this.count_written(slices, written);
        Poll::Ready(Ok(written))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.lingering.is_none() {
            ready!(Pin::new(&mut this.stream).poll_shutdown(cx))?;
        }
        if this.lingers {
            ready!(this.poll_linger(cx));
        }
        Poll::Ready(Ok(()))
    }
}

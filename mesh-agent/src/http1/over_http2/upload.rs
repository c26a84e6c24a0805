//! The request's body on its way to an endpoint: out of the client's buffer into DATA frames, as its window allows.
//!
//! Beside `download` in one task. What the endpoint doesn't take stays with the client: at most one frame is held here.
//! An end that isn't clean resets the stream, so that the endpoint never takes a part for the whole.

use std::future::poll_fn;

use bytes::Bytes;
use h2::SendStream;

use super::chunks::{Part, Trailers};
use crate::http1::body::Body;
use crate::http1::conn::Reader;
use crate::http1::forward::{State, watch};
use crate::http1::mark;
use crate::http1::upload::{Flow, Sent};
use crate::proxy::Connection;
use crate::proxy::error::ErrorKind;

/// Data of one frame: what every HTTP/2 peer takes (RFC 9113, 6.5.2).
const FRAME: usize = 16 * 1024;

/// A request's body and its way.
pub(super) struct Sending<'a, 'r> {
    pub(super) conn: &'a Connection,
    pub(super) state: &'a State,
    /// As it was at its beginning.
    pub(super) body: Body,
    pub(super) flow: &'a mut Flow,
    pub(super) sent: &'a Sent,
    pub(super) from: &'a mut Reader<'r>,
    pub(super) to: &'a mut SendStream<Bytes>,
    /// Another agent makes HTTP/1 of it again.
    pub(super) restored: bool,
    /// It was sent before, and answered: by a hedge.
    pub(super) is_sent: bool,
}

/// Why a body's way ended early.
enum Stopped {
    /// The endpoint wants no more of it. Whether that is a failure, its response says.
    Deaf,
    /// The client broke it off.
    Client(ErrorKind),
}

impl Sending<'_, '_> {
    /// Sends the body, says so (`whole`), then watches the client while the response is awaited.
    pub(super) async fn run(mut self, whole: impl FnOnce()) -> Result<(), ErrorKind> {
        match self.send().await {
            Ok(()) => {
                self.state.sent.set(true);
                whole();
            }
            Err(Stopped::Deaf) => {
                self.state.upstream_deaf.set(true);
                return Ok(());
            }
            Err(Stopped::Client(kind)) => return Err(kind),
        }
        // A client that ends its side has nothing to say to the endpoint, which knows that the request is whole.
        watch(self.from).await
    }

    async fn send(&mut self) -> Result<(), Stopped> {
        if self.is_sent || self.body.is_done() {
            // The stream was opened with its end.
            return Ok(());
        }
        if self.send_again().await? {
            return Ok(());
        }
        loop {
            let part = Part::take(&mut self.flow.body, self.from.buffered(), FRAME)
                .map_err(|hostile| Stopped::Client(ErrorKind::DownstreamProtocol(hostile)))?;
            // At once: another try may end this anywhere, and goes on with what is kept and buffered.
            if part.taken > 0 {
                self.taken(part.taken);
            }
            let (end, idle) = (part.end, part.taken == 0);
            // Another try may be one of HTTP/1, which goes by this.
            self.flow.end = end;
            self.put(part).await?;
            if end {
                return Ok(());
            }
            if idle {
                self.fill().await?;
            }
        }
    }

    /// What an earlier try sent, from its beginning; true if that is all of it.
    async fn send_again(&mut self) -> Result<bool, Stopped> {
        let (again, mut body, mut at) = (self.sent.again(), self.body, 0);
        while at < again.len() {
            let part = Part::take(&mut body, &again[at..], FRAME)
                .map_err(|hostile| Stopped::Client(ErrorKind::DownstreamProtocol(hostile)))?;
            let end = part.end;
            if part.taken == 0 {
                break;
            }
            at += part.taken;
            self.put(part).await?;
            if end {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn taken(&mut self, len: usize) {
        self.sent.add(&self.from.buffered()[..len]);
        self.from.consume(len);
        State::bump(&self.state.request_bytes, len);
        State::bump(&self.state.moved, len);
        self.conn.live.received(len as u64);
    }

    async fn put(&mut self, part: Part) -> Result<(), Stopped> {
        let last = part.end && part.trailers.is_none();
        if !part.data.is_empty() {
            self.put_data(part.data.freeze(), last).await?;
        } else if last {
            self.to.send_data(Bytes::new(), true).map_err(|_| Stopped::Deaf)?;
        }
        part.trailers.map_or(Ok(()), |trailers| self.put_trailers(trailers))
    }

    fn put_trailers(&mut self, Trailers { mut fields, last }: Trailers) -> Result<(), Stopped> {
        if self.restored {
            mark::trailers(&last, &mut fields);
        }
        let trailers = fields;
        self.to.send_trailers(trailers).map_err(|_| Stopped::Deaf)
    }

    async fn put_data(&mut self, mut data: Bytes, last: bool) -> Result<(), Stopped> {
        while !data.is_empty() {
            self.to.reserve_capacity(data.len());
            let room = match self.to.capacity() {
                0 => self.room().await?,
                room => room,
            };
            let now = data.split_to(room.min(data.len()));
            State::bump(&self.state.moved, now.len());
            self.to.send_data(now, last && data.is_empty()).map_err(|_| Stopped::Deaf)?;
        }
        Ok(())
    }

    /// Waits until the endpoint takes more. Nothing is read meanwhile, so that reading can't tell of a client that is gone.
    async fn room(&mut self) -> Result<usize, Stopped> {
        let Self { to, from, .. } = self;
        tokio::select! {
            biased;
            room = poll_fn(|cx| to.poll_capacity(cx)) => match room {
                Some(Ok(room)) => Ok(room),
                Some(Err(_)) | None => Err(Stopped::Deaf),
            },
            _ = from.reset() => Err(Stopped::Client(ErrorKind::DownstreamClosed)),
        }
    }

    /// Reads more from the client, unless the endpoint wants no more.
    async fn fill(&mut self) -> Result<(), Stopped> {
        let Self { to, from, .. } = self;
        tokio::select! {
            biased;
            filled = from.fill() => match filled {
                Ok(1..) => Ok(()),
                Ok(0) | Err(_) => Err(Stopped::Client(ErrorKind::DownstreamClosed)),
            },
            _ = poll_fn(|cx| to.poll_reset(cx)) => Err(Stopped::Deaf),
        }
    }
}

//! The application's response on its way back: interim heads as they come, the final one with its mark, its body in DATA frames.
//!
//! Beside `upload` in one task. Nothing is read while the client's window is shut, so that a slow client holds its
//! application back. Chunks end here, their extensions with them; what they framed and their trailers go on.

use std::borrow::Cow;
use std::cell::Cell;
use std::future::poll_fn;

use bytes::Bytes;
use h2::server::SendResponse;
use h2::{Reason, SendStream};
use http::{StatusCode, Version};

use crate::http1::body::Body;
use crate::http1::conn::Reader;
use crate::http1::forward::{Ask, Done, MAX_INTERIM, ReadHead, State, read_head};
use crate::http1::mark::{self, Cut};
use crate::http1::message::ResponseHead;
use crate::http1::over_http2::chunks::{Part, Trailers};
use crate::http2::stream::unless_reset;
use crate::proxy::{Connection, ErrorKind, Exchange, Hostile, Picked, Plan, Side};

/// Data of one frame: what every HTTP/2 peer takes (RFC 9113, 6.5.2).
const FRAME: usize = 16 * 1024;

/// The way back.
pub(super) struct Answering<'a, 'c> {
    pub(super) conn: &'a Connection,
    pub(super) plan: &'a Plan,
    pub(super) picked: &'a Picked,
    pub(super) account: &'a mut Exchange<'c>,
    pub(super) ask: &'a Ask,
    pub(super) state: &'a State,
    pub(super) respond: &'a mut SendResponse<Bytes>,
    /// Set once the client's agent was told how a body ended that isn't whole.
    pub(super) told: &'a Cell<bool>,
}

impl Answering<'_, '_> {
    pub(super) async fn relay(mut self, from: &mut Reader<'_>) -> Result<Done, ErrorKind> {
        let head = self.final_head(from).await?;
        let Self { plan, picked, state, account, respond, ask, told, .. } = self;
        account.answered(picked, head.status);
        account.answered_with_headers(|| Cow::Owned(head.raw.header_map()));
        // A server that answers before it has heard everything may leave the rest unread, and would take it for its next
        // request.
        let in_step = !matches!(head.body, Body::UntilClose) && state.sent.get();
        let keep_upstream = head.options.persistent(head.version) && in_step;
        let response = mark::response(&head, plan.response_edits()).ok_or(ErrorKind::Internal)?;
        state.started.set(true);
        plan.settle(picked);
        let mut to = respond.send_response(response, head.body.is_done()).map_err(|error| gone(&error))?;
        if !head.body.is_done() {
            let relayed = Relay { state, to: &mut to }.run(head.body, from).await;
            relayed.inspect_err(|kind| {
                let how = cut(*kind, state.reset.get(), ask.version);
                told.set(how.is_some_and(|how| to.send_trailers(mark::cut_short(how)).is_ok()));
            })?;
        }
        Ok(Done { keep_upstream, ..Done::NOTHING })
    }

    /// Passes interim responses on until there is one that is final.
    async fn final_head(&mut self, from: &mut Reader<'_>) -> Result<ResponseHead, ErrorKind> {
        for _ in 0..=MAX_INTERIM {
            let reading = read_head(self.conn, self.ask.asked, self.state, from);
            let head = unless_reset(self.respond, reading).await?.map_err(ReadHead::kind)?;
            if head.status == StatusCode::SWITCHING_PROTOCOLS {
                // Nobody asked for that: what does goes through a tunnel.
                return Err(ErrorKind::UpstreamProtocol(Hostile::BadStatusLine));
            }
            if !head.status.is_informational() {
                return Ok(head);
            }
            self.state.waits.set(self.state.waits.get() && head.status != StatusCode::CONTINUE);
            // RFC 9110, 15.2: never to a client of version 1.0.
            if self.ask.version == Version::HTTP_11
                && let Some(interim) = mark::response(&head, std::iter::empty())
            {
                // Fails only if the client is gone, which shows with the next head.
                let _ = self.respond.send_informational(interim);
            }
        }
        Err(ErrorKind::UpstreamProtocol(Hostile::FrameFlood))
    }
}

/// How an application ended what it had begun to say, if it was the application that ended it.
fn cut(kind: ErrorKind, reset: bool, version: Version) -> Option<Cut> {
    match kind {
        // As `http1::serve` would end a connection: without its last bytes the framing says that something is missing.
        ErrorKind::UpstreamClosed if !reset && version == Version::HTTP_11 => Some(Cut::Closed),
        kind => (kind.side() == Side::Upstream).then_some(Cut::Reset),
    }
}

/// A body, once its head was sent.
struct Relay<'a> {
    state: &'a State,
    to: &'a mut SendStream<Bytes>,
}

impl Relay<'_> {
    async fn run(mut self, mut body: Body, from: &mut Reader<'_>) -> Result<(), ErrorKind> {
        loop {
            let part = Part::take(&mut body, from.buffered(), FRAME).map_err(ErrorKind::UpstreamProtocol)?;
            if part.taken > 0 {
                from.consume(part.taken);
                State::bump(&self.state.moved, part.taken);
                State::bump(&self.state.response_bytes, part.data.len());
            }
            let (idle, end) = (part.taken == 0, part.end);
            self.put(part.data.freeze(), end && part.trailers.is_none()).await?;
            if let Some(Trailers { mut fields, last }) = part.trailers {
                mark::trailers(&last, &mut fields);
                self.to.send_trailers(fields).map_err(|error| gone(&error))?;
            }
            if end || idle && self.fill(&body, from).await? {
                return Ok(());
            }
        }
    }

    /// Reads more; true if that was the end, and the body has no other.
    async fn fill(&mut self, body: &Body, from: &mut Reader<'_>) -> Result<bool, ErrorKind> {
        let Self { state, to } = self;
        let filled = tokio::select! {
            biased;
            filled = from.fill() => filled,
            reset = poll_fn(|cx| to.poll_reset(cx)) => return Err(taken_back(reset)),
        };
        match filled {
            Ok(1..) => Ok(false),
            Ok(0) if matches!(body, Body::UntilClose) => {
                to.send_data(Bytes::new(), true).map_err(|error| gone(&error))?;
                Ok(true)
            }
            Ok(0) => Err(ErrorKind::UpstreamClosed),
            Err(_) => {
                state.reset.set(true);
                Err(ErrorKind::UpstreamClosed)
            }
        }
    }

    async fn put(&mut self, mut data: Bytes, last: bool) -> Result<(), ErrorKind> {
        if data.is_empty() && last {
            return self.to.send_data(data, true).map_err(|error| gone(&error));
        }
        while !data.is_empty() {
            self.to.reserve_capacity(data.len());
            let room = match self.to.capacity() {
                0 => self.room().await?,
                room => room,
            };
            let now = data.split_to(room.min(data.len()));
            State::bump(&self.state.moved, now.len());
            self.to.send_data(now, last && data.is_empty()).map_err(|error| gone(&error))?;
        }
        Ok(())
    }

    /// Waits until the client takes more.
    async fn room(&mut self) -> Result<usize, ErrorKind> {
        match poll_fn(|cx| self.to.poll_capacity(cx)).await {
            Some(Ok(room)) => Ok(room),
            Some(Err(_)) | None => Err(taken_back(poll_fn(|cx| self.to.poll_reset(cx)).await)),
        }
    }
}

fn taken_back(reset: Result<Reason, h2::Error>) -> ErrorKind {
    reset.map_or(ErrorKind::DownstreamClosed, ErrorKind::DownstreamReset)
}

fn gone(error: &h2::Error) -> ErrorKind {
    error.reason().map_or(ErrorKind::DownstreamClosed, ErrorKind::DownstreamReset)
}

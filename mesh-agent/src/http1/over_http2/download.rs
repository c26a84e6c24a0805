//! The response on its way back: interim heads as they come, the final one as HTTP/1 says it, DATA frames as its framing asks.
//!
//! Beside `upload` in one task. Window goes back to the endpoint only for what the client's socket took, so that a slow
//! client holds its endpoint back. A stream that ends early never looks like one that ended.

use std::borrow::Cow;
use std::cell::Cell;
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::task::Poll;

use bytes::{BufMut, Bytes};
use h2::RecvStream;
use h2::client::ResponseFuture;
use http::{HeaderMap, Response, StatusCode, Version};

use super::chunks;
use super::head::{self, Framing};
use crate::http1::conn::Writer;
use crate::http1::forward::{Ask, Done, MAX_INTERIM, State, persistent_version};
use crate::http1::head::HeadError;
use crate::http1::hedge::{self, Hedges};
use crate::http1::mark::{self, Cut};
use crate::http1::message::{RequestHead, ResponseHead};
use crate::http1::upload::Sent;
use crate::http1::write;
use crate::http2::Lease;
use crate::proxy::error::{ErrorKind, Hostile};
use crate::proxy::hedge::Asking;
use crate::proxy::{Connection, Exchange, Limits, Picked, Plan, Tries};

/// The way back.
pub(super) struct Answering<'a, 'c, 'p, 'h> {
    pub(super) conn: &'c Connection,
    pub(super) request: &'h RequestHead,
    pub(super) plan: &'a Plan,
    pub(super) picked: &'a Picked,
    pub(super) account: &'a mut Exchange<'c>,
    pub(super) tries: &'a mut Tries<'p>,
    pub(super) hedges: Option<&'a mut Hedges<'h>>,
    pub(super) heads: Heads<'a>,
}

/// What heads of responses are read with.
#[derive(Clone, Copy)]
pub(super) struct Heads<'a> {
    pub(super) limits: &'a Limits,
    pub(super) sent: &'a Sent,
    pub(super) ask: &'a Ask,
    pub(super) state: &'a State,
    pub(super) lease: &'a Lease,
    /// The endpoint certainly didn't take the request up.
    pub(super) untaken: &'a Cell<bool>,
    /// The endpoint's agent says what its application said in HTTP/1.
    pub(super) restored: bool,
}

/// What came of a response.
enum Came {
    Interim(Response<()>),
    Final(Response<RecvStream>),
}

impl<'c: 'h, 'h> Answering<'_, 'c, '_, 'h> {
    /// Passes on what comes back, or what was `answered` before.
    pub(super) async fn relay(
        mut self,
        response: &mut ResponseFuture,
        answered: Option<Response<RecvStream>>,
        to: &mut Writer<'_>,
    ) -> Result<Done, ErrorKind> {
        let answer = match (answered, &self.hedges) {
            (Some(answer), _) => answer,
            (None, None) => self.heads.last(response, to).await?,
            // On the heap, so that a connection makes no room for it.
            (None, Some(_)) => match Box::pin(self.first(response, to)).await? {
                Some(answer) => answer,
                None => return Ok(Done::outrun()),
            },
        };
        let (mut head, mut body) = answer.into_parts();
        let Self { plan, picked, heads, .. } = self;
        let Heads { ask, state, sent, lease, .. } = heads;
        let status = head.status;
        if self.hedges.is_some_and(|hedges| hedges.are_under_way()) && self.tries.is_unwanted(status, None) {
            self.account.tried(picked, status, None);
            return Ok(Done::outrun());
        }
        let said = heads.said(status, &mut head.headers)?;
        let framing = match &said {
            Some(said) => Framing::of_said(&said.body, ask),
            None => Framing::of(status, &head.headers, body.is_end_stream(), ask)
                .map_err(ErrorKind::UpstreamProtocol)?,
        };
        if sent.is_whole()
            && let Some(wait) = self.tries.answered(picked, status, None)
        {
            self.account.tried(picked, status, None);
            return Ok(Done::again(wait));
        }
        if plan.replaces(self.conn, status, None, sent.is_whole()) {
            self.account.tried(picked, status, None);
            return Err(ErrorKind::UpstreamErrorStatus);
        }
        if !plan.is_mirrored() {
            sent.keep_nothing();
        }
        self.account.answered(picked, status);
        self.account.answered_with_headers(|| Cow::Borrowed(&head.headers));
        let draining = self.conn.pod.worker.drain.is_draining();
        // A server that answers before it has heard everything may leave the rest unread.
        let in_step =
            framing.is_delimited() && state.sent.get() && said.as_ref().is_none_or(persistent_version);
        let keep_downstream = ask.persistent && in_step && !draining;
        let bare = ask.version == Version::HTTP_10;
        let connection = match &said {
            _ if !keep_downstream => Some("close"),
            Some(said) if status == StatusCode::UPGRADE_REQUIRED => said.options.upgrade.then_some("Upgrade"),
            said => {
                let old = said.as_ref().is_some_and(|said| said.version == Version::HTTP_10);
                (bare || old).then_some("keep-alive")
            }
        };
        state.started.set(true);
        // Where the end of the connection is the end of the body, only a reset says that it came too early.
        state.reset.set(!framing.is_delimited());
        plan.settle(picked);
        match &said {
            Some(said) => write::put_response(said, connection, bare, plan.response_edits(), to.stage()),
            None => {
                plan.response_edits().for_each(|edits| edits.apply(&mut head.headers));
                head::put_response(status, &mut head.headers, framing, connection, to.stage());
            }
        }
        let relay = Relay { conn: self.conn, state, lease, framing, restored: said.is_some() };
        relay.run(&mut body, to).await?;
        Ok(Done { keep_downstream, ..Done::NOTHING })
    }

    /// The answer of this try. None if a hedge has one before.
    async fn first(
        &mut self,
        response: &mut ResponseFuture,
        to: &mut Writer<'_>,
    ) -> Result<Option<Response<RecvStream>>, ErrorKind> {
        let Self { conn, request, account, tries, hedges, heads, .. } = self;
        let Heads { sent, state, .. } = *heads;
        let mut own = pin!(heads.last(response, to));
        let Some(hedges) = hedges else { return own.await.map(Some) };
        poll_fn(|cx| {
            if let Poll::Ready(answer) = own.as_mut().poll(cx) {
                return Poll::Ready(answer.map(Some));
            }
            let (head, whole) = (&request.parts, state.sent.get() && sent.is_whole());
            let mut asking = Asking { tries, account, head, whole, own: true };
            let start = |granted| hedge::start(conn, request, sent, granted);
            hedges.poll_beside(cx, &mut asking, start).map(|()| Ok(None))
        })
        .await
    }
}

impl Heads<'_> {
    /// The head as the application said it, if the endpoint's agent tells. From anybody else that is a field to drop.
    fn said(&self, status: StatusCode, headers: &mut HeaderMap) -> Result<Option<ResponseHead>, ErrorKind> {
        let Some(said) = mark::take(headers).filter(|_| self.restored) else { return Ok(None) };
        let said = mark::restore_response(status, headers, &said, self.ask.asked, self.limits);
        said.map(Some).map_err(|error| match error {
            HeadError::Hostile(hostile) => ErrorKind::UpstreamProtocol(hostile),
            HeadError::TooLarge | HeadError::UriTooLong => {
                ErrorKind::UpstreamProtocol(Hostile::BadStatusLine)
            }
        })
    }

    /// Passes interim responses on until there is one that is final.
    async fn last(
        &self,
        response: &mut ResponseFuture,
        to: &mut Writer<'_>,
    ) -> Result<Response<RecvStream>, ErrorKind> {
        for _ in 0..=MAX_INTERIM {
            let mut interim = match self.next_head(response).await? {
                Came::Final(response) => return Ok(response),
                Came::Interim(interim) => interim,
            };
            State::bump(&self.state.moved, 1);
            let status = interim.status();
            if status == StatusCode::SWITCHING_PROTOCOLS {
                // RFC 9113, 8.6: HTTP/2 has no such thing.
                return Err(ErrorKind::UpstreamProtocol(Hostile::BadStatusLine));
            }
            self.state.waits.set(self.state.waits.get() && status != StatusCode::CONTINUE);
            // RFC 9110, 15.2: never to a client of version 1.0.
            if self.ask.version == Version::HTTP_11 {
                match self.said(status, interim.headers_mut())? {
                    Some(said) => write::put_response(&said, None, false, std::iter::empty(), to.stage()),
                    None => head::put_interim(status, interim.headers_mut(), to.stage()),
                }
                to.send(&[]).await.map_err(|_| ErrorKind::DownstreamClosed)?;
            }
        }
        Err(ErrorKind::UpstreamProtocol(Hostile::FrameFlood))
    }

    async fn next_head(&self, response: &mut ResponseFuture) -> Result<Came, ErrorKind> {
        let came = poll_fn(|cx| {
            if let Poll::Ready(Some(interim)) = response.poll_informational(cx) {
                return Poll::Ready(interim.map(Came::Interim));
            }
            Pin::new(&mut *response).poll(cx).map_ok(Came::Final)
        });
        came.await.map_err(|error| {
            let fault = self.lease.fault(&error, self.sent.is_untouched());
            self.untaken.set(fault.untaken);
            fault.kind
        })
    }
}

/// A body, once its head is staged.
struct Relay<'a> {
    conn: &'a Connection,
    state: &'a State,
    lease: &'a Lease,
    framing: Framing,
    restored: bool,
}

impl Relay<'_> {
    async fn run(mut self, body: &mut RecvStream, to: &mut Writer<'_>) -> Result<(), ErrorKind> {
        if self.framing == Framing::Bodiless {
            // Whatever may follow isn't for the client; dropping the stream tells the endpoint.
            return flush(to).await;
        }
        while let Some(data) = next(body, to).await? {
            let data = data.map_err(|error| self.broken(&error))?;
            self.put(&data, to).await?;
            State::bump(&self.state.response_bytes, data.len());
            State::bump(&self.state.moved, data.len() + 1);
            self.conn.live.sent(data.len() as u64);
            // Fails only for a stream that was reset meanwhile, whose window h2 has given back by itself.
            let _ = body.flow_control().release_capacity(data.len());
        }
        let trailers = poll_fn(|cx| body.poll_trailers(cx)).await;
        let trailers = trailers.map_err(|error| self.broken(&error))?;
        if let Some(how) = trailers.as_ref().filter(|_| self.restored).and_then(mark::is_cut_short) {
            flush(to).await?;
            self.state.reset.set(self.state.reset.get() || how == Cut::Reset);
            return Err(ErrorKind::UpstreamClosed);
        }
        match self.framing {
            Framing::Chunked if self.restored => chunks::put_last_restored(trailers, to.stage()),
            Framing::Chunked => chunks::put_last(trailers.as_ref(), to.stage()),
            // Fewer bytes than the client was promised.
            Framing::Length(1..) => Err(Hostile::BadLength),
            // Only chunks have room for trailers.
            Framing::Length(_) | Framing::UntilClose | Framing::Bodiless => Ok(()),
        }
        .map_err(ErrorKind::UpstreamProtocol)?;
        flush(to).await
    }

    /// What a stream tells that is reset. Of what another agent carries that is never how an orderly close is told.
    fn broken(&self, error: &h2::Error) -> ErrorKind {
        let kind = self.lease.fault(error, false).kind;
        if !self.restored {
            return kind;
        }
        self.state.reset.set(true);
        ErrorKind::UpstreamClosed
    }

    async fn put(&mut self, data: &[u8], to: &mut Writer<'_>) -> Result<(), ErrorKind> {
        match &mut self.framing {
            Framing::Length(left) => {
                let rest = left.checked_sub(data.len() as u64);
                *left = rest.ok_or(ErrorKind::UpstreamProtocol(Hostile::BadLength))?;
            }
            Framing::Chunked if data.is_empty() => return Ok(()),
            Framing::Chunked => chunks::put_size(data.len(), to.stage()),
            Framing::UntilClose | Framing::Bodiless => {}
        }
        to.send(data).await.map_err(|_| ErrorKind::DownstreamClosed)?;
        if self.framing == Framing::Chunked {
            // Leaves with what comes next, or before that is waited for.
            to.stage().put_slice(b"\r\n");
        }
        Ok(())
    }
}

/// The next piece of a body. What is staged for the client doesn't wait for it.
async fn next(
    body: &mut RecvStream,
    to: &mut Writer<'_>,
) -> Result<Option<Result<Bytes, h2::Error>>, ErrorKind> {
    let now = poll_fn(|cx| Poll::Ready(body.poll_data(cx))).await;
    if let Poll::Ready(next) = now {
        return Ok(next);
    }
    flush(to).await?;
    Ok(poll_fn(|cx| body.poll_data(cx)).await)
}

async fn flush(to: &mut Writer<'_>) -> Result<(), ErrorKind> {
    to.send(&[]).await.map_err(|_| ErrorKind::DownstreamClosed)
}

//! The response on its way back: interim heads as they come, the final one, its body.
//!
//! Beside the request in one task. Hedges run here, until a head has come.

use std::borrow::Cow;
use std::future::poll_fn;
use std::pin::pin;
use std::task::Poll;

use http::{StatusCode, Version};

use super::pump::{Bound, Broken, pump};
use super::{Ask, Done, MAX_INTERIM, State};
use crate::http1::body::Body;
use crate::http1::conn::{Reader, Writer};
use crate::http1::head::HeadError;
use crate::http1::hedge::{self, Hedges};
use crate::http1::message::{Asked, RequestHead, ResponseHead};
use crate::http1::upload::{Flow, Sent};
use crate::http1::write;
use crate::proxy::error::{ErrorKind, Hostile};
use crate::proxy::hedge::Asking;
use crate::proxy::{Connection, Exchange, Picked, Plan, Tries};

/// The way back.
pub(super) struct Answer<'a, 'c, 'p, 'h> {
    pub(super) conn: &'c Connection,
    pub(super) request: &'h RequestHead,
    pub(super) plan: &'a Plan,
    pub(super) picked: &'a Picked,
    pub(super) account: &'a mut Exchange<'c>,
    pub(super) sent: &'a Sent,
    pub(super) tries: &'a mut Tries<'p>,
    pub(super) hedges: Option<&'a mut Hedges<'h>>,
    pub(super) ask: &'a Ask,
    pub(super) state: &'a State,
}

impl<'c: 'h, 'h> Answer<'_, 'c, '_, 'h> {
    /// Passes on what comes back, or the `head` that came before and what follows it.
    pub(super) async fn relay(
        mut self,
        head: Option<Box<ResponseHead>>,
        from: &mut Reader<'_>,
        to: &mut Writer<'_>,
    ) -> Result<Done, ErrorKind> {
        let head = match (head, &self.hedges) {
            (Some(head), _) => *head,
            (None, None) => Self::final_head(self.conn, self.ask, self.state, from, to).await?,
            // On the heap, so that a connection makes no room for it.
            (None, Some(_)) => match Box::pin(self.first_head(from, to)).await? {
                Some(head) => head,
                None => return Ok(Done::outrun()),
            },
        };
        let Self { conn, plan, picked, account, sent, tries, hedges, ask, state, .. } = self;
        let others = hedges.is_some_and(|hedges| hedges.are_under_way());
        if others && tries.is_unwanted(head.status, None) {
            account.tried(picked, head.status, None);
            return Ok(Done::outrun());
        }
        if sent.is_whole()
            && let Some(wait) = tries.answered(picked, head.status, None)
        {
            account.tried(picked, head.status, None);
            return Ok(Done::again(wait));
        }
        if plan.replaces(conn, head.status, None, sent.is_whole()) {
            account.tried(picked, head.status, None);
            return Err(ErrorKind::UpstreamErrorStatus);
        }
        account.answered(picked, head.status);
        account.answered_with_headers(|| Cow::Owned(head.raw.header_map()));
        let bare = ask.version == Version::HTTP_10;
        let switched = head.switches(ask.asked);
        let draining = conn.pod.worker.drain.is_draining();
        let delimited = match head.body {
            Body::Empty | Body::Length(_) => true,
            Body::Chunked(_) => !bare,
            Body::UntilClose => false,
        };
        let persistent = head.options.persistent(head.version);
        // A server that answers before it has heard everything may leave the rest unread, and would take it for its next
        // request; as would we what a client sends into a tunnel that it doesn't get.
        let heard_all = state.sent.get();
        let in_step = delimited && heard_all && !ask.asked.connect;
        let keep_downstream = ask.persistent && persistent_version(&head) && in_step && !draining;
        let connection = match (switched || head.status == StatusCode::UPGRADE_REQUIRED, keep_downstream) {
            (_, false) if !switched => Some("close"),
            (true, _) => head.options.upgrade.then_some("Upgrade"),
            (false, _) => (bare || head.version == Version::HTTP_10).then_some("keep-alive"),
        };
        state.started.set(true);
        plan.settle(picked);
        write::put_response(&head, connection, bare, plan.response_edits(), to.stage());
        let count = |bytes: &[u8]| {
            State::bump(&state.response_bytes, bytes.len());
            State::bump(&state.moved, bytes.len() + 1);
            conn.live.sent(bytes.len() as u64);
        };
        let mut flow = Flow::new(head.body);
        match pump(&mut flow, from, to, Bound::ForClient { bare }, count).await {
            Ok(()) => {
                let keep_upstream = persistent && in_step && !switched;
                Ok(Done { keep_downstream, keep_upstream, switched, ..Done::NOTHING })
            }
            Err(Broken::Protocol(hostile)) => Err(ErrorKind::UpstreamProtocol(hostile)),
            Err(Broken::Ended) => Err(ErrorKind::UpstreamClosed),
            Err(Broken::Reset) => {
                state.reset.set(true);
                Err(ErrorKind::UpstreamClosed)
            }
            Err(Broken::Writing) => Err(ErrorKind::DownstreamClosed),
        }
    }

    /// The head of this try's answer. None if a hedge has one before.
    async fn first_head(
        &mut self,
        from: &mut Reader<'_>,
        to: &mut Writer<'_>,
    ) -> Result<Option<ResponseHead>, ErrorKind> {
        let Self { conn, request, account, sent, tries, hedges, ask, state, .. } = self;
        let mut own = pin!(Self::final_head(conn, ask, state, from, to));
        let Some(hedges) = hedges else { return own.await.map(Some) };
        poll_fn(|cx| {
            if let Poll::Ready(head) = own.as_mut().poll(cx) {
                return Poll::Ready(head.map(Some));
            }
            let (head, whole) = (&request.parts, state.sent.get() && sent.is_whole());
            let mut asking = Asking { tries, account, head, whole, own: true };
            let start = |granted| hedge::start(conn, request, sent, granted);
            hedges.poll_beside(cx, &mut asking, start).map(|()| Ok(None))
        })
        .await
    }

    /// Reads heads until one that is final; interim ones are passed on as they come.
    async fn final_head(
        conn: &Connection,
        ask: &Ask,
        state: &State,
        from: &mut Reader<'_>,
        to: &mut Writer<'_>,
    ) -> Result<ResponseHead, ErrorKind> {
        for _ in 0..=MAX_INTERIM {
            let head = read_head(conn, ask.asked, state, from).await.map_err(ReadHead::kind)?;
            if head.status == StatusCode::SWITCHING_PROTOCOLS && !ask.upgrade {
                return Err(ErrorKind::UpstreamProtocol(Hostile::BadStatusLine));
            }
            if !head.status.is_informational() || head.status == StatusCode::SWITCHING_PROTOCOLS {
                return Ok(head);
            }
            state.waits.set(state.waits.get() && head.status != StatusCode::CONTINUE);
            // RFC 9110, 15.2: never to a client of version 1.0.
            if ask.version == Version::HTTP_11 {
                write::put_response(&head, None, false, std::iter::empty(), to.stage());
                to.send(&[]).await.map_err(|_| ErrorKind::DownstreamClosed)?;
            }
        }
        Err(ErrorKind::UpstreamProtocol(Hostile::FrameFlood))
    }
}

/// A 1.0 response is passed on as one, so its client goes by 1.0's rules unless both say `keep-alive`.
pub(crate) fn persistent_version(head: &ResponseHead) -> bool {
    head.version == Version::HTTP_11 || head.options.keep_alive
}

pub(crate) enum ReadHead {
    Closed,
    Refused(HeadError),
}

impl ReadHead {
    pub(crate) fn kind(self) -> ErrorKind {
        match self {
            Self::Closed => ErrorKind::UpstreamClosed,
            Self::Refused(HeadError::Hostile(hostile)) => ErrorKind::UpstreamProtocol(hostile),
            Self::Refused(_) => ErrorKind::UpstreamProtocol(Hostile::BadStatusLine),
        }
    }
}

/// Reads heads until one that is final, of a request that asks for no other protocol. A failure comes with whether
/// anything was heard before.
pub(crate) async fn final_head_of(
    conn: &Connection,
    asked: Asked,
    from: &mut Reader<'_>,
) -> Result<ResponseHead, (ErrorKind, bool)> {
    let state = State::default();
    for _ in 0..=MAX_INTERIM {
        let head = read_head(conn, asked, &state, from).await;
        let head = head.map_err(|error| (error.kind(), state.heard.get()))?;
        match head.status {
            StatusCode::SWITCHING_PROTOCOLS => {
                return Err((ErrorKind::UpstreamProtocol(Hostile::BadStatusLine), true));
            }
            status if status.is_informational() => {}
            _ => return Ok(head),
        }
    }
    Err((ErrorKind::UpstreamProtocol(Hostile::FrameFlood), true))
}

pub(crate) async fn read_head(
    conn: &Connection,
    asked: Asked,
    state: &State,
    from: &mut Reader<'_>,
) -> Result<ResponseHead, ReadHead> {
    let limits = conn.limits();
    loop {
        if let Some(bytes) = from.take_head(limits.max_head_bytes).map_err(ReadHead::Refused)? {
            state.heard.set(true);
            return ResponseHead::parse(bytes, limits.max_headers, asked).map_err(ReadHead::Refused);
        }
        match from.fill().await {
            Ok(0) => return Err(ReadHead::Closed),
            Ok(_) => {
                state.heard.set(true);
                State::bump(&state.moved, 1);
            }
            Err(_) => {
                state.reset.set(true);
                return Err(ReadHead::Closed);
            }
        }
    }
}

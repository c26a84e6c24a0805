//! One try of a request at one endpoint: both directions at once, in one poll, without a task or channel between.
//!
//! Used by `stream`, which opens the stream to the endpoint before and decides after. Interim responses are passed on
//! as they come; whatever ends one side early ends the other with the same code.

use std::borrow::Cow;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use h2::client::ResponseFuture;
use h2::server::SendResponse;
use h2::{Reason, RecvStream};
use http::{Response, request};

use super::copy::{Broken, Copy};
use super::hedge::{self, Hedges};
use super::link::Lease;
use super::stall::Stall;
use super::{answer, grpc};
use crate::http1::mark::MARK;
use crate::proxy::hedge::{Asking, Places};
use crate::proxy::{ErrorKind, Exchange, Hostile, Picked, Plan, Side, Tries, TryDeadline};

/// A request's stream to an endpoint.
pub(super) struct ToEndpoint {
    pub(super) picked: Picked,
    pub(super) lease: Lease,
    pub(super) response: ResponseFuture,
    /// The answer, of a hedge that won; of others it comes from `response`.
    pub(super) answer: Option<Response<RecvStream>>,
    pub(super) _places: Places,
    pub(super) until: TryDeadline,
}

/// Why a try didn't succeed.
#[derive(Debug)]
pub(super) struct Fault {
    pub(super) kind: ErrorKind,
    /// The endpoint certainly didn't take the request up.
    pub(super) untaken: bool,
    /// Nothing came, and all that was sent can be sent again.
    pub(super) again: bool,
}

/// How a try went well.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Passed {
    /// Both directions have ended.
    Done,
    /// The response was thrown away: the request is to be sent again after this time.
    Again(Duration),
    /// Nothing was passed on: the answer is that of a hedge, now or later.
    Outrun,
}

/// One try.
pub(super) struct Pass<'p, 'c, 't> {
    plan: &'p Plan,
    tries: &'p mut Tries<'t>,
    exchange: &'p mut Exchange<'c>,
    respond: &'p mut SendResponse<Bytes>,
    stall: &'p Stall,
    to_endpoint: &'p mut ToEndpoint,
    upload: &'p mut Copy,
    /// The response's body, once its head was passed on.
    download: Option<Copy>,
    again: Option<Duration>,
    /// Hedges are under way.
    others: bool,
    outrun: bool,
}

impl<'p, 'c, 't> Pass<'p, 'c, 't> {
    pub(super) fn new(
        plan: &'p Plan,
        tries: &'p mut Tries<'t>,
        exchange: &'p mut Exchange<'c>,
        respond: &'p mut SendResponse<Bytes>,
        stall: &'p Stall,
        to_endpoint: &'p mut ToEndpoint,
        upload: &'p mut Copy,
    ) -> Self {
        stall.moved();
        Self {
            plan,
            tries,
            exchange,
            respond,
            stall,
            to_endpoint,
            upload,
            download: None,
            again: None,
            others: false,
            outrun: false,
        }
    }

    /// Ready once both directions have ended.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<Passed, Fault>> {
        if let Some(kind) = self.stall.over() {
            return Poll::Ready(Err(kind.into()));
        }
        let mut moved = false;
        self.poll_upload(cx, &mut moved)?;
        if self.download.is_none() {
            self.poll_head(cx, &mut moved)?;
        }
        if let Some(wait) = self.again {
            return Poll::Ready(Ok(Passed::Again(wait)));
        }
        if self.outrun {
            return Poll::Ready(Ok(Passed::Outrun));
        }
        if let Some(download) = &mut self.download
            && let Poll::Ready(Err(broken)) = download.poll(cx, self.exchange, &mut moved)
        {
            return Poll::Ready(Err(match broken {
                Broken::Sender(error) => self.endpoint_fault(&error),
                Broken::Receiver(reason) => ErrorKind::DownstreamReset(reason).into(),
                Broken::ReceiverGone => ErrorKind::DownstreamClosed.into(),
            }));
        }
        if moved {
            self.stall.moved();
        }
        if self.is_answered() && self.upload.is_done() {
            self.exchange.settled(&self.to_endpoint.picked);
            return Poll::Ready(Ok(Passed::Done));
        }
        self.stall.wait_for(self.patience(), cx);
        Poll::Pending
    }

    /// As [`Self::poll`], beside `hedges` of the request with this `head`, until the response begins.
    pub(super) fn poll_among<'h>(
        &mut self,
        cx: &mut Context<'_>,
        hedges: &mut Hedges<'h>,
        head: &request::Parts,
    ) -> Poll<Result<Passed, Fault>>
    where
        'c: 'h,
    {
        self.others = hedges.are_under_way();
        let polled = self.poll(cx);
        if polled.is_ready() || self.download.is_some() {
            return polled;
        }
        let (conn, upload) = (self.exchange.connection(), &*self.upload);
        let (body, whole) = (upload.parts().unwrap_or_default(), upload.is_complete());
        let plan = self.plan;
        let mut asking = Asking { tries: self.tries, account: self.exchange, head, whole, own: true };
        let start = |granted| hedge::start(conn, plan, head, body, granted);
        hedges.poll_beside(cx, &mut asking, start).map(|()| Ok(Passed::Outrun))
    }

    /// Ends both sides after a fault.
    pub(super) fn broken(&mut self, mut fault: Fault) -> Fault {
        fault.again = self.download.is_none() && self.upload.is_kept();
        if is_endpoints_failure(fault.kind) || fault.untaken {
            self.exchange.endpoint_failed(&self.to_endpoint.picked);
        }
        self.upload.reset(answer::reset_code(fault.kind));
        fault
    }

    /// The request's body.
    pub(super) fn upload(&self) -> &Copy {
        self.upload
    }

    /// The whole response was passed on.
    fn is_answered(&self) -> bool {
        self.download.as_ref().is_some_and(Copy::is_done)
    }

    fn poll_upload(&mut self, cx: &mut Context<'_>, moved: &mut bool) -> Result<(), Fault> {
        match self.upload.poll(cx, self.exchange, moved) {
            Poll::Ready(Err(Broken::Sender(error))) if self.is_answered() => {
                // The client has its answer and takes back the rest of its request: no failure of anybody.
                self.upload.reset(error.reason().unwrap_or(Reason::CANCEL));
                self.upload.finish();
                Ok(())
            }
            Poll::Ready(Err(Broken::Sender(error))) => Err(client_fault(&error)),
            Poll::Ready(Err(Broken::Receiver(_) | Broken::ReceiverGone)) => {
                // The endpoint wants no more of the request. Whether that is a failure, the response says.
                self.upload.finish();
                Ok(())
            }
            Poll::Ready(Ok(())) | Poll::Pending => Ok(()),
        }
    }

    fn poll_head(&mut self, cx: &mut Context<'_>, moved: &mut bool) -> Result<(), Fault> {
        while self.to_endpoint.answer.is_none()
            && let Poll::Ready(Some(interim)) = self.to_endpoint.response.poll_informational(cx)
        {
            *moved = true;
            let interim = interim.map_err(|error| self.endpoint_fault(&error))?;
            // Fails only if the client is gone, which shows below.
            let _ = self.respond.send_informational(interim);
        }
        let response = match self.to_endpoint.answer.take() {
            Some(answer) => Poll::Ready(Ok(answer)),
            None => Pin::new(&mut self.to_endpoint.response).poll(cx),
        };
        match response {
            Poll::Ready(Ok(response)) => {
                *moved = true;
                self.answer(response)
            }
            Poll::Ready(Err(error)) => Err(self.endpoint_fault(&error)),
            Poll::Pending => match self.respond.poll_reset(cx) {
                Poll::Ready(Ok(reason)) => Err(ErrorKind::DownstreamReset(reason).into()),
                Poll::Ready(Err(_)) => Err(ErrorKind::DownstreamClosed.into()),
                Poll::Pending => Ok(()),
            },
        }
    }

    fn answer(&mut self, response: Response<RecvStream>) -> Result<(), Fault> {
        let (mut head, body) = response.into_parts();
        // It would be taken for another agent's word.
        head.headers.remove(MARK);
        let ended = body.is_end_stream();
        let is_grpc = self.exchange.is_grpc();
        let grpc_status = if is_grpc && ended { grpc::status_in(&head.headers) } else { None };
        let picked = &self.to_endpoint.picked;
        if self.others && self.tries.is_unwanted(head.status, grpc_status) {
            self.exchange.tried(picked, head.status, grpc_status);
            self.outrun = true;
            return Ok(());
        }
        if self.upload.is_kept() {
            self.again = self.tries.answered(picked, head.status, grpc_status);
        }
        if self.again.is_some() {
            self.exchange.tried(picked, head.status, grpc_status);
            return Ok(());
        }
        let conn = self.exchange.connection();
        if self.plan.replaces(conn, head.status, grpc_status, self.upload.is_kept()) {
            self.exchange.tried(picked, head.status, grpc_status);
            return Err(ErrorKind::UpstreamErrorStatus.into());
        }
        if !self.plan.is_mirrored() {
            self.upload.keep_nothing();
        }
        if let Some(status) = grpc_status {
            self.exchange.grpc_status(status);
        }
        self.exchange.answered(&self.to_endpoint.picked, head.status);
        self.exchange.answered_with_headers(|| Cow::Borrowed(&head.headers));
        self.plan.settle(&self.to_endpoint.picked);
        self.plan.response_edits().for_each(|edits| edits.apply(&mut head.headers));
        match self.respond.send_response(Response::from_parts(head, ()), ended) {
            Ok(send) => {
                self.download = Some(Copy::response(body, send, is_grpc));
                Ok(())
            }
            Err(error) => {
                Err(error.reason().map_or(ErrorKind::DownstreamClosed, ErrorKind::DownstreamReset).into())
            }
        }
    }

    /// What ends this try if nothing moves. A gRPC stream may be silent for as long as both sides like; a peer that
    /// doesn't take what is there for it may not.
    fn patience(&self) -> Option<ErrorKind> {
        if self.download.as_ref().is_some_and(Copy::is_stalled) {
            Some(ErrorKind::BodyTimeout)
        } else if self.upload.is_stalled() {
            Some(ErrorKind::UpstreamTimeout)
        } else if self.exchange.is_grpc() {
            None
        } else if self.upload.is_done() {
            Some(ErrorKind::UpstreamTimeout)
        } else {
            Some(ErrorKind::BodyTimeout)
        }
    }

    fn endpoint_fault(&self, error: &h2::Error) -> Fault {
        let fault = self.to_endpoint.lease.fault(error, self.upload.is_untouched());
        Fault { kind: fault.kind, untaken: self.download.is_none() && fault.untaken, again: false }
    }
}

impl Fault {
    /// True if hedges that are under way may still have an answer.
    pub(super) fn leaves_others(&self) -> bool {
        self.again && self.kind.side() == Side::Upstream && self.kind != ErrorKind::RequestTimeout
    }
}

/// What an endpoint's stream failed by.
pub(super) fn kind_of(error: &h2::Error) -> ErrorKind {
    match error.reason() {
        _ if error.is_library() => ErrorKind::UpstreamProtocol(Hostile::BadFrame),
        Some(reason) if error.is_reset() => ErrorKind::UpstreamReset(reason),
        _ => ErrorKind::UpstreamClosed,
    }
}

impl From<ErrorKind> for Fault {
    fn from(kind: ErrorKind) -> Self {
        Self { kind, untaken: false, again: false }
    }
}

pub(super) fn client_fault(error: &h2::Error) -> Fault {
    match error.reason() {
        Some(_) if error.is_reset() && error.is_library() => {
            ErrorKind::DownstreamProtocol(Hostile::BadFrame).into()
        }
        Some(reason) if error.is_reset() => ErrorKind::DownstreamReset(reason).into(),
        _ => ErrorKind::DownstreamClosed.into(),
    }
}

fn is_endpoints_failure(kind: ErrorKind) -> bool {
    matches!(
        kind,
        ErrorKind::UpstreamClosed
            | ErrorKind::UpstreamTimeout
            | ErrorKind::RequestTimeout
            | ErrorKind::TryTimeout
            | ErrorKind::UpstreamProtocol(_)
    )
}

//! One direction of one stream: body and trailers from the side that sends to the side that receives.
//!
//! Used by `stream`, one for the request and one for the response. Window is given back to the sender only when the
//! receiver's side took the bytes, so that a slow reader slows the sender and at most a stream's window is held here.

use std::collections::VecDeque;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use h2::{Reason, RecvStream, SendStream};
use http::HeaderMap;

use super::grpc::{self, Messages};
use crate::proxy::{Exchange, client_cert};

/// Of a request's body this much is kept until the response begins, in case another endpoint has to be asked, where no
/// policy says how much.
pub(super) const MOST_KEPT: usize = 64 * 1024;

/// Whose body it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Side {
    Request,
    Response,
}

/// One direction.
pub(super) struct Copy {
    side: Side,
    from: RecvStream,
    to: SendStream<Bytes>,
    messages: Option<Messages>,
    /// Read, and waiting for the receiver's window.
    held: Bytes,
    /// How much of the sender's window is to be given back for what is held.
    owed: usize,
    /// To be sent once more, after what is held.
    again: VecDeque<Bytes>,
    kept: Kept,
    /// So many bytes at most.
    keep: usize,
    state: State,
    /// The receiver wanted no more before all had passed.
    cut: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Open,
    /// The receiver's window is shut.
    Stalled,
    /// All passed on, or the receiver wants no more.
    Done,
}

/// What can be sent once more.
enum Kept {
    All(Vec<Bytes>, usize),
    /// Too much passed, or it won't be needed.
    Nothing,
}

/// Why a copy ended early.
#[derive(Debug)]
pub(super) enum Broken {
    /// The sending side failed.
    Sender(h2::Error),
    /// The receiving side reset the stream.
    Receiver(Reason),
    /// The receiving side's connection is gone.
    ReceiverGone,
}

impl Copy {
    /// A request's body, to an endpoint. Up to `keep` bytes of it are kept.
    pub(super) fn request(from: RecvStream, to: SendStream<Bytes>, grpc: bool, keep: usize) -> Self {
        Self { keep, ..Self::new(Side::Request, from, to, grpc, Kept::All(Vec::new(), 0)) }
    }

    /// A response's body, to the client.
    pub(super) fn response(from: RecvStream, to: SendStream<Bytes>, grpc: bool) -> Self {
        Self::new(Side::Response, from, to, grpc, Kept::Nothing)
    }

    fn new(side: Side, from: RecvStream, to: SendStream<Bytes>, grpc: bool, kept: Kept) -> Self {
        let state = if from.is_end_stream() { State::Done } else { State::Open };
        let messages = grpc.then(Messages::default);
        Self {
            side,
            from,
            to,
            messages,
            held: Bytes::new(),
            owed: 0,
            again: VecDeque::new(),
            kept,
            keep: 0,
            state,
            cut: false,
        }
    }

    /// Nothing (more) to pass on.
    pub(super) fn is_done(&self) -> bool {
        self.state == State::Done
    }

    /// Bytes wait for the receiver.
    pub(super) fn is_stalled(&self) -> bool {
        self.state == State::Stalled
    }

    /// The receiver has all it wants; what the sender still sends is dropped with the copy.
    pub(super) fn finish(&mut self) {
        self.cut = !self.is_done();
        self.state = State::Done;
    }

    /// Resets the stream to the receiver. Does nothing if it has ended already.
    pub(super) fn reset(&mut self, reason: Reason) {
        self.to.send_reset(reason);
    }

    /// It won't have to be sent to another receiver.
    pub(super) fn keep_nothing(&mut self) {
        self.kept = Kept::Nothing;
    }

    /// True if all that was sent so far can be sent again.
    pub(super) fn is_kept(&self) -> bool {
        matches!(self.kept, Kept::All(..))
    }

    /// True once all that the sender has to say was passed on.
    pub(super) fn is_whole(&self) -> bool {
        self.is_done() && !self.cut
    }

    /// True if all that the sender has to say was passed on, and can be sent again.
    pub(super) fn is_complete(&self) -> bool {
        self.is_whole() && self.is_kept()
    }

    /// All that was passed on so far. None if it wasn't kept: too long, or followed by trailers.
    pub(super) fn parts(&self) -> Option<&[Bytes]> {
        match &self.kept {
            Kept::All(parts, _) => Some(parts),
            Kept::Nothing => None,
        }
    }

    /// True if the sender sent nothing so far.
    pub(super) fn is_untouched(&self) -> bool {
        matches!(&self.kept, Kept::All(parts, _) if parts.is_empty())
    }

    /// The same body to a receiver that has got all of it but `unsent`.
    pub(super) fn take_over(&mut self, to: SendStream<Bytes>, unsent: VecDeque<Bytes>) {
        self.to = to;
        self.cut = false;
        self.held = Bytes::new();
        self.state = if unsent.is_empty() { State::Done } else { State::Open };
        self.again = unsent;
    }

    /// The same body to another receiver, from its beginning. `ended` if the new stream was opened without a body.
    pub(super) fn start_again(&mut self, to: SendStream<Bytes>, ended: bool) {
        self.to = to;
        self.cut = false;
        self.state = if ended { State::Done } else { State::Open };
        // What is held was kept whole. The window owed for it is given back with the first bytes sent again.
        self.held = Bytes::new();
        if let Kept::All(parts, _) = &self.kept {
            self.again = parts.iter().cloned().collect();
        }
    }
}

/// Passing on.
impl Copy {
    /// Passes on what there is. Ready once all has passed; `moved` is set if anything did.
    pub(super) fn poll(
        &mut self,
        cx: &mut Context<'_>,
        exchange: &mut Exchange<'_>,
        moved: &mut bool,
    ) -> Poll<Result<(), Broken>> {
        while !self.is_done() {
            if !self.held.is_empty() {
                ready!(self.poll_send(cx))?;
                *moved = true;
                continue;
            }
            if let Some(part) = self.again.pop_front() {
                self.held = part;
                continue;
            }
            let Poll::Ready(next) = self.from.poll_data(cx) else { return self.watch_receiver(cx) };
            *moved = true;
            match next {
                Some(Ok(data)) => self.hold(data, exchange)?,
                Some(Err(error)) => return Poll::Ready(Err(Broken::Sender(error))),
                None => {
                    let trailers = ready!(self.from.poll_trailers(cx)).map_err(Broken::Sender)?;
                    self.end(trailers, exchange)?;
                }
            }
        }
        Poll::Ready(Ok(()))
    }

    fn hold(&mut self, data: Bytes, exchange: &mut Exchange<'_>) -> Result<(), Broken> {
        self.count(&data, exchange);
        if data.is_empty() {
            return if self.from.is_end_stream() { self.end(None, exchange) } else { Ok(()) };
        }
        if let Kept::All(parts, size) = &mut self.kept {
            *size += data.len();
            if *size > self.keep {
                self.kept = Kept::Nothing;
            } else {
                parts.push(data.clone());
            }
        }
        self.owed += data.len();
        self.held = data;
        Ok(())
    }

    /// Sends of what is held as much as the receiver's window allows, and gives that much window to the sender.
    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Broken>> {
        self.to.reserve_capacity(self.held.len());
        let mut capacity = self.to.capacity();
        while capacity == 0 {
            self.state = State::Stalled;
            capacity = match ready!(self.to.poll_capacity(cx)) {
                Some(Ok(capacity)) => capacity,
                Some(Err(_)) | None => return Poll::Ready(Err(self.why_receiver_ended(cx))),
            };
        }
        self.state = State::Open;
        let part = self.held.split_to(capacity.min(self.held.len()));
        let length = part.len();
        let last = self.held.is_empty() && self.again.is_empty() && self.from.is_end_stream();
        if self.to.send_data(part, last).is_err() {
            return Poll::Ready(Err(self.why_receiver_ended(cx)));
        }
        self.give_back(length);
        if last {
            self.state = State::Done;
        }
        Poll::Ready(Ok(()))
    }

    fn give_back(&mut self, length: usize) {
        let length = length.min(self.owed);
        self.owed -= length;
        // Fails only for a stream that was reset meanwhile, whose window h2 has given back by itself.
        let _ = self.from.flow_control().release_capacity(length);
    }

    fn end(&mut self, trailers: Option<HeaderMap>, exchange: &mut Exchange<'_>) -> Result<(), Broken> {
        self.state = State::Done;
        let sent = match trailers {
            Some(mut trailers) => {
                if self.side == Side::Request {
                    // An application that adds trailers to the head would take the client's word for it.
                    client_cert::remove(&mut trailers);
                }
                // Trailers are read from the sender once, so they can't be sent twice.
                self.kept = Kept::Nothing;
                self.note_status(&trailers, exchange);
                self.to.send_trailers(trailers)
            }
            None => self.to.send_data(Bytes::new(), true),
        };
        sent.map_err(|error| error.reason().map_or(Broken::ReceiverGone, Broken::Receiver))
    }

    fn watch_receiver(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Broken>> {
        match ready!(self.to.poll_reset(cx)) {
            Ok(reason) => Poll::Ready(Err(Broken::Receiver(reason))),
            Err(_) => Poll::Ready(Err(Broken::ReceiverGone)),
        }
    }

    fn why_receiver_ended(&mut self, cx: &mut Context<'_>) -> Broken {
        match self.to.poll_reset(cx) {
            Poll::Ready(Ok(reason)) => Broken::Receiver(reason),
            Poll::Ready(Err(_)) | Poll::Pending => Broken::ReceiverGone,
        }
    }
}

/// Counting.
impl Copy {
    fn count(&mut self, data: &[u8], exchange: &mut Exchange<'_>) {
        let messages = self.messages.as_mut().map_or(0, |messages| messages.begun_in(data));
        match self.side {
            Side::Request => {
                exchange.request_bytes += data.len() as u64;
                exchange.request_messages += messages;
            }
            Side::Response => {
                exchange.response_bytes += data.len() as u64;
                exchange.response_messages += messages;
            }
        }
    }

    fn note_status(&self, trailers: &HeaderMap, exchange: &mut Exchange<'_>) {
        if self.side == Side::Response
            && self.messages.is_some()
            && let Some(status) = grpc::status_in(trailers)
        {
            exchange.grpc_status(status);
        }
    }
}

//! One request carried to one upstream connection and its response carried back, both bodies at the same time.
//!
//! Bytes go from one connection's read buffer straight to the other's socket; what isn't taken there stops the reading
//! here, so back-pressure is the sockets' own. Comes after `serve`, which chose the upstream connection. An end that isn't
//! clean is never passed on as one that is. Here is the request's way; `answer` is the response's, `pump` moves bodies.

mod answer;
mod pump;

use std::cell::Cell;
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::task::Poll;
use std::time::Duration;

use http::{Method, Version};

use self::answer::Answer;
pub(crate) use self::answer::{ReadHead, final_head_of, persistent_version, read_head};
use self::pump::{Bound, Broken, pump};
use super::conn::{Conn, Reader, Writer};
use super::hedge::Hedges;
use super::message::{Asked, RequestHead, ResponseHead};
use super::mirror::Mirrored;
use super::timer::Timer;
use super::upload::{Flow, Sent, Upload};
use super::write;
use crate::proxy::access::Admitted;
use crate::proxy::error::ErrorKind;
use crate::proxy::{Connection, Copied, Exchange, Picked, Plan, Tries, TryDeadline};

/// Pipelined bytes that are read ahead while a response is awaited; the rest waits in the socket.
pub(super) const READ_AHEAD: usize = 16 * 1024;
/// A response may be preceded by so many interim ones.
pub(crate) const MAX_INTERIM: usize = 32;

/// A request on its way, as `serve` knows it.
pub struct Forward<'a, 'c, 'p, 'h> {
    /// The client's connection.
    pub conn: &'c Connection,
    /// The request.
    pub request: &'h RequestHead,
    /// What was decided about it.
    pub plan: &'a Plan,
    /// Where it goes.
    pub picked: &'a Picked,
    /// When this try has to end.
    pub until: TryDeadline,
    /// Its account.
    pub account: &'a mut Exchange<'c>,
    /// Its body.
    pub upload: &'a mut Upload,
    /// Whether it may be sent again.
    pub tries: &'a mut Tries<'p>,
    /// The tries beside it, where a policy asks for some.
    pub hedges: Option<&'a mut Hedges<'h>>,
    /// The answer's head, if the request was sent and answered before: by a hedge that won.
    pub head: Option<Box<ResponseHead>>,
}

/// How an exchange went well.
#[derive(Clone, Copy, Debug)]
pub struct Done {
    /// The client's connection may carry another request.
    pub keep_downstream: bool,
    /// The upstream's connection may.
    pub keep_upstream: bool,
    /// Both carry something other than HTTP from here on.
    pub switched: bool,
    /// The response was thrown away: the request is to be sent again after this time.
    pub again: Option<Duration>,
    /// Nothing was passed on: the answer is that of a hedge, now or later.
    pub outrun: bool,
}

impl Done {
    /// Nothing goes on but the client's connection.
    pub(crate) const NOTHING: Self =
        Self { keep_downstream: true, keep_upstream: false, switched: false, again: None, outrun: false };

    /// The response isn't passed on.
    pub(super) fn again(wait: Duration) -> Self {
        Self { again: Some(wait), ..Self::NOTHING }
    }

    /// A hedge's answer is passed on instead.
    pub(super) fn outrun() -> Self {
        Self { outrun: true, ..Self::NOTHING }
    }
}

/// How it failed.
#[derive(Clone, Copy, Debug)]
pub struct Failure {
    /// Why.
    pub kind: ErrorKind,
    /// The final response has begun: nothing else can be said to the client.
    pub started: bool,
    /// The request was sent completely.
    pub sent: bool,
    /// No byte came back and the request may be sent again as it is.
    pub replayable: bool,
    /// The upstream's end was a reset rather than an orderly close.
    pub reset: bool,
    /// The endpoint certainly didn't take the request up.
    pub untaken: bool,
}

impl Failure {
    /// No upstream connection was had.
    pub fn before_sending(kind: ErrorKind) -> Self {
        Self { kind, started: false, sent: false, replayable: false, reset: false, untaken: false }
    }
}

/// What both directions tell each other.
#[derive(Default)]
pub(crate) struct State {
    pub(crate) request_bytes: Cell<u64>,
    pub(crate) response_bytes: Cell<u64>,
    pub(crate) moved: Cell<u64>,
    heard: Cell<bool>,
    pub(crate) started: Cell<bool>,
    pub(crate) sent: Cell<bool>,
    half_closed: Cell<bool>,
    /// The client holds its body back until it is told to go on.
    pub(crate) waits: Cell<bool>,
    pub(crate) upstream_deaf: Cell<bool>,
    pub(crate) reset: Cell<bool>,
}

impl State {
    pub(crate) fn of(request: &RequestHead) -> Self {
        Self { waits: Cell::new(request.expects_continue), ..Self::default() }
    }

    pub(crate) fn bump(cell: &Cell<u64>, by: usize) {
        cell.set(cell.get() + by as u64);
    }
}

/// What the client asked for, as far as it decides about the response's way back.
pub(crate) struct Ask {
    pub(crate) asked: Asked,
    pub(crate) version: Version,
    pub(crate) persistent: bool,
    upgrade: bool,
}

impl Ask {
    pub(crate) fn of(request: &RequestHead) -> Self {
        let version = request.parts.version;
        let persistent = request.options.persistent(version);
        Self { asked: request.asked(), version, persistent, upgrade: request.upgrade }
    }
}

impl<'c: 'h, 'h> Forward<'_, 'c, '_, 'h> {
    /// Carries the exchange to its end.
    pub async fn run(self, down: &mut Conn, up: &mut Conn, timer: &mut Timer) -> Result<Done, Failure> {
        let Self { conn, request, plan, picked, until, account, upload, tries, hedges, head } = self;
        let state = State::of(request);
        let ask = Ask::of(request);
        let (mut from_client, mut to_client) = down.split();
        let (mut from_upstream, mut to_upstream) = up.split();
        if head.is_none() {
            match plan.departing().as_deref() {
                Some(Admitted { head: Some(head), retargeted, .. }) => {
                    write::put_request_as(
                        request,
                        head,
                        request.retargeted || *retargeted,
                        to_upstream.stage(),
                    );
                }
                _ => write::put_request(request, to_upstream.stage()),
            }
            upload.sent.put(to_upstream.stage());
        }
        let result = {
            let Upload { flow, sent } = upload;
            let copy =
                || conn.mirror(plan, &request.parts, || Mirrored::of(request, sent).map(Copied::Http1));
            let sending =
                pin!(send_request(flow, sent, &mut from_client, &mut to_upstream, conn, &state, copy));
            let (ask, state) = (&ask, &state);
            let answer = Answer { conn, request, plan, picked, account, sent, tries, hedges, ask, state };
            let answering = pin!(answer.relay(head, &mut from_upstream, &mut to_client));
            let both = pin!(join(sending, answering, state));
            let idle = conn.limits().body_idle_timeout;
            timer.while_moving(idle, until.at(), || state.moved.get(), both).await
        };
        account.request_bytes += state.request_bytes.get();
        account.response_bytes += state.response_bytes.get();
        let usable = ask.version == Version::HTTP_11 && state.sent.get() && !state.half_closed.get();
        match result.unwrap_or_else(|| Err(until.passed().unwrap_or_else(|| state.stalled()))) {
            Ok(done) => Ok(Done { keep_upstream: done.keep_upstream && usable && up.is_clear(), ..done }),
            Err(kind) => Err(state.failure(kind, &request.parts.method)),
        }
    }
}

impl State {
    pub(crate) fn failure(&self, kind: ErrorKind, method: &Method) -> Failure {
        Failure {
            kind,
            started: self.started.get(),
            sent: self.sent.get(),
            // RFC 9110, 9.2.2: what isn't idempotent may have been acted upon.
            replayable: !self.heard.get() && self.request_bytes.get() == 0 && method.is_idempotent(),
            reset: self.reset.get(),
            untaken: false,
        }
    }

    /// A client that was refused without `100 Continue` may never send its body (RFC 9110, 10.1.1).
    fn more_to_send(&self) -> bool {
        let withheld = self.waits.get() && self.request_bytes.get() == 0;
        !self.sent.get() && !self.upstream_deaf.get() && !withheld
    }

    /// Whose turn it was when nothing moved any more.
    pub(crate) fn stalled(&self) -> ErrorKind {
        if self.sent.get() && !self.started.get() {
            ErrorKind::UpstreamTimeout
        } else {
            ErrorKind::BodyTimeout
        }
    }
}

/// Drives both directions. The response may end first: the rest of the request is still carried.
pub(crate) fn join(
    mut sending: Pin<&mut impl Future<Output = Result<(), ErrorKind>>>,
    mut answering: Pin<&mut impl Future<Output = Result<Done, ErrorKind>>>,
    state: &State,
) -> impl Future<Output = Result<Done, ErrorKind>> {
    let (mut watching, mut answer) = (true, None);
    poll_fn(move |cx| {
        if watching && let Poll::Ready(result) = sending.as_mut().poll(cx) {
            watching = false;
            match (result, answer) {
                (Err(kind), None) => return Poll::Ready(Err(kind)),
                // The response was complete; only the connection can't go on.
                (Err(_), Some(done)) => {
                    return Poll::Ready(Ok(Done { keep_downstream: false, keep_upstream: false, ..done }));
                }
                (Ok(()), _) => {}
            }
        }
        if answer.is_none()
            && let Poll::Ready(result) = answering.as_mut().poll(cx)
        {
            answer = Some(result?);
        }
        match answer {
            Some(done) if done.switched || done.again.is_some() || done.outrun || !state.more_to_send() => {
                Poll::Ready(Ok(done))
            }
            _ => Poll::Pending,
        }
    })
}

/// Sends the staged head and the body, says so (`whole`), then watches the client while the response is awaited: a reset cancels, a half-close
/// is passed on, pipelined requests wait.
async fn send_request(
    flow: &mut Flow,
    sent: &Sent,
    from: &mut Reader<'_>,
    to: &mut Writer<'_>,
    conn: &Connection,
    state: &State,
    whole: impl FnOnce(),
) -> Result<(), ErrorKind> {
    let count = |bytes: &[u8]| {
        sent.add(bytes);
        State::bump(&state.request_bytes, bytes.len());
        State::bump(&state.moved, bytes.len() + 1);
        conn.live.received(bytes.len() as u64);
    };
    match pump(flow, from, to, Bound::ForServer, count).await {
        Ok(()) => {
            state.sent.set(true);
            whole();
        }
        Err(Broken::Protocol(hostile)) => return Err(ErrorKind::DownstreamProtocol(hostile)),
        Err(Broken::Ended | Broken::Reset) => return Err(ErrorKind::DownstreamClosed),
        Err(Broken::Writing) => {
            // It may have answered before it closed.
            state.upstream_deaf.set(true);
            return Ok(());
        }
    }
    watch(from).await?;
    state.half_closed.set(true);
    // The server decides what a client that says no more means, as it would without us.
    let _ = to.shutdown().await;
    Ok(())
}

/// Watches a client that has sent its request: fails once it resets, ends well once it ends its side. What it pipelines
/// is read ahead, up to a bound.
pub(super) async fn watch(from: &mut Reader<'_>) -> Result<(), ErrorKind> {
    while from.buffered().len() < READ_AHEAD {
        match from.fill().await {
            Ok(0) => return Ok(()),
            Ok(_) => {}
            Err(_) => return Err(ErrorKind::DownstreamClosed),
        }
    }
    let _ = from.reset().await;
    Err(ErrorKind::DownstreamClosed)
}

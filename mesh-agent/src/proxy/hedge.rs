//! Hedges of one request: tries at other endpoints beside one that is slow, until one of them has an answer.
//!
//! `crate::http1` and `crate::http2` drive them beside their own try and say what a try is; here is when one is sent, and
//! which answer wins. As gRPC's hedging (proposal A6) and Envoy's `hedge_policy`: an answer that the retry policy would
//! retry, or a fallback replaces, doesn't win while another try is under way, and a try that fails sends the next one at
//! once. Whoever loses is dropped, which resets it, and blamed for nothing.

use std::future::{Future, poll_fn, ready};
use std::pin::{Pin, pin};
use std::task::{Context, Poll};

use futures_util::stream::{FuturesUnordered, StreamExt};
use http::{StatusCode, request};
use tokio::time::{Instant, Sleep, sleep};

use super::backend::Picked;
use super::error::{ErrorKind, ProxyError, Side};
use super::exchange::Exchange;
use super::plan::{Plan, TryDeadline};
use super::retry::Tries;
use crate::balance::usage::Place;
use crate::clock;
use crate::policy::concurrency::Slot;
use crate::policy::traffic::Hedge;

/// A hedge that may be sent: where, until when, and its places among what is under way.
pub struct Granted {
    /// Where.
    pub picked: Picked,
    /// When it has to end.
    pub until: TryDeadline,
    /// Since when it is under way.
    pub sent_ns: u64,
    /// What is sent there in place of the request's own head.
    pub head: Option<Box<request::Parts>>,
    places: Places,
}

/// Places among the requests under way, given back on drop.
pub struct Places {
    _place: Option<Place>,
    /// Of a hedge only, which is a retry too.
    _retry: Option<Place>,
    _slot: Option<Slot>,
}

impl Places {
    /// Of a try of the request's own.
    pub fn of(place: Option<Place>) -> Self {
        Self { _place: place, _retry: None, _slot: None }
    }

    /// Of a hedge, among requests and among retries, and under a concurrency limit.
    pub fn of_hedge([place, retry]: [Option<Place>; 2], slot: Option<Slot>) -> Self {
        Self { _place: place, _retry: retry, _slot: slot }
    }
}

/// A hedge that has an answer, of which nothing was passed on.
pub struct Ahead<W> {
    /// The hedge.
    pub granted: Granted,
    /// Status of the answer.
    pub status: StatusCode,
    /// The gRPC status, where it came with the head.
    pub grpc: Option<u16>,
    /// The rest of it.
    pub way: W,
}

/// A hedge that failed.
pub struct Behind {
    /// Where it was.
    pub picked: Picked,
    /// Why it failed.
    pub why: ErrorKind,
}

/// What a hedge comes to.
pub type Ran<W> = Result<Ahead<W>, Behind>;
/// A hedge under way. Dropping it resets it.
pub type Run<'h, W> = Pin<Box<dyn Future<Output = Ran<W>> + 'h>>;

impl Granted {
    /// From now on.
    pub fn new(picked: Picked, until: TryDeadline, places: Places) -> Self {
        Self { picked, until, sent_ns: clock::now_ns(), head: None, places }
    }

    /// With what is sent there in place of the request's own head.
    #[must_use]
    pub fn with_head(self, head: Option<Box<request::Parts>>) -> Self {
        Self { head, ..self }
    }

    /// For what goes on with it.
    pub fn into_parts(self) -> (Picked, TryDeadline, Places) {
        (self.picked, self.until, self.places)
    }

    /// What `to_head` comes to, which gets an answer's head from the endpoint. One that is dropped before was outrun, which
    /// the balancer is told.
    pub async fn run<W>(
        self,
        to_head: impl AsyncFnOnce(&Picked) -> Result<(StatusCode, Option<u16>, W), ProxyError>,
    ) -> Ran<W> {
        let outrun = Outrun(Some(&self.picked));
        let result = self.until.bound(to_head(&self.picked)).await;
        outrun.disarm();
        match result {
            Ok((status, grpc, way)) => Ok(Ahead { granted: self, status, grpc, way }),
            Err(error) => Err(Behind { picked: self.picked, why: error.kind }),
        }
    }
}

/// Tells the balancer when it is dropped, unless it is disarmed.
struct Outrun<'p>(Option<&'p Picked>);

impl Outrun<'_> {
    fn disarm(mut self) {
        self.0 = None;
    }
}

impl Drop for Outrun<'_> {
    fn drop(&mut self) {
        self.0.into_iter().for_each(Picked::outrun);
    }
}

/// Who asks, and how: what a hedge needs beside its turn.
pub struct Asking<'a, 'c, 'p> {
    /// The request's tries.
    pub tries: &'a mut Tries<'p>,
    /// Its account.
    pub account: &'a mut Exchange<'c>,
    /// Its head.
    pub head: &'a request::Parts,
    /// It has come completely and can be sent again.
    pub whole: bool,
    /// Its own try is still under way.
    pub own: bool,
}

/// The hedges of one request.
pub struct Hedges<'h, W> {
    hedge: Hedge,
    left: u32,
    due: Pin<Box<Sleep>>,
    under_way: FuturesUnordered<Run<'h, W>>,
    ahead: Option<Ahead<W>>,
}

/// How a race ended.
pub enum Race<W> {
    /// With an answer.
    Won(Ahead<W>),
    /// With the failure of the last that was under way.
    Lost(Behind),
}

impl<'h, W: 'h> Hedges<'h, W> {
    /// None sent yet. None at all for most requests.
    pub fn of(plan: &Plan, head: &request::Parts) -> Option<Box<Self>> {
        let hedge = plan.hedge(head)?;
        let due = Box::pin(sleep(hedge.after));
        let (left, under_way) = (hedge.max, FuturesUnordered::new());
        Some(Box::new(Self { hedge, left, due, under_way, ahead: None }))
    }

    /// The request's own try begins: the time runs anew.
    pub fn begin(&mut self) {
        self.due.as_mut().reset(Instant::now() + self.hedge.after);
    }

    /// True if hedges are under way, or one has won.
    pub fn are_under_way(&self) -> bool {
        !self.under_way.is_empty() || self.ahead.is_some()
    }

    /// True once a hedge has won.
    pub fn have_won(&self) -> bool {
        self.ahead.is_some()
    }

    /// A try failed: the next hedge needn't wait.
    pub fn hurry(&mut self) {
        self.due.as_mut().reset(Instant::now());
    }

    /// Sends what is due with `start` and takes note of what came. Ready once a hedge has won, or the last of all tries has
    /// failed; with a try of the request's own under way that is only ever the former.
    pub fn poll(
        &mut self,
        cx: &mut Context<'_>,
        asking: &mut Asking<'_, '_, '_>,
        mut start: impl FnMut(Granted) -> Run<'h, W>,
    ) -> Poll<Race<W>> {
        loop {
            self.send_due(cx, asking, &mut start);
            let Poll::Ready(Some(ran)) = self.under_way.poll_next_unpin(cx) else { return Poll::Pending };
            let others = asking.own || !self.under_way.is_empty();
            match ran {
                Ok(ahead) if others && asking.tries.is_unwanted(ahead.status, ahead.grpc) => {
                    let Granted { picked, sent_ns, .. } = &ahead.granted;
                    asking.account.tried_beside(picked, *sent_ns, ahead.status, ahead.grpc);
                }
                Ok(ahead) => {
                    // The last one may have to be retried or replaced all the same.
                    if !asking.tries.is_unwanted(ahead.status, ahead.grpc) {
                        count(asking, "won");
                    }
                    asking.account.won(&ahead.granted.picked, ahead.granted.sent_ns);
                    self.under_way.clear();
                    return Poll::Ready(Race::Won(ahead));
                }
                Err(behind) => {
                    behind.blame(asking);
                    if !others {
                        return Poll::Ready(Race::Lost(behind));
                    }
                }
            }
            self.hurry();
        }
    }

    /// As [`Self::poll`] beside the request's own try; the winner is kept for [`Self::rest`].
    pub fn poll_beside(
        &mut self,
        cx: &mut Context<'_>,
        asking: &mut Asking<'_, '_, '_>,
        start: impl FnMut(Granted) -> Run<'h, W>,
    ) -> Poll<()> {
        match self.poll(cx, asking, start) {
            Poll::Ready(Race::Won(ahead)) => {
                self.ahead = Some(ahead);
                Poll::Ready(())
            }
            _ => Poll::Pending,
        }
    }

    /// What `own` comes to, or None if a hedge has won before.
    pub async fn beside<T>(
        &mut self,
        own: impl Future<Output = T>,
        asking: &mut Asking<'_, '_, '_>,
        mut start: impl FnMut(Granted) -> Run<'h, W>,
    ) -> Option<T> {
        let mut own = pin!(own);
        poll_fn(|cx| match own.as_mut().poll(cx) {
            Poll::Ready(done) => Poll::Ready(Some(done)),
            Poll::Pending => self.poll_beside(cx, asking, &mut start).map(|()| None),
        })
        .await
    }

    /// How the race ends, the request's own try being over.
    pub async fn rest(
        &mut self,
        asking: &mut Asking<'_, '_, '_>,
        mut start: impl FnMut(Granted) -> Run<'h, W>,
    ) -> Race<W> {
        if let Some(ahead) = self.ahead.take() {
            return Race::Won(ahead);
        }
        self.hurry();
        poll_fn(|cx| self.poll(cx, asking, &mut start)).await
    }

    fn send_due(
        &mut self,
        cx: &mut Context<'_>,
        asking: &mut Asking<'_, '_, '_>,
        start: &mut impl FnMut(Granted) -> Run<'h, W>,
    ) {
        while self.left > 0 && asking.whole && self.is_due(cx) {
            match asking.tries.hedge(asking.head) {
                Ok(granted) => {
                    let mut run = start(granted);
                    // Polled before it is one of those under way: without a place for its connection it never is.
                    let run: Run<'h, W> = match run.as_mut().poll(cx) {
                        Poll::Ready(Err(behind)) if behind.why == ErrorKind::Overflow => {
                            self.left = 0;
                            count(asking, "overflow");
                            continue;
                        }
                        Poll::Ready(ran) => Box::pin(ready(ran)),
                        Poll::Pending => run,
                    };
                    self.left -= 1;
                    asking.account.hedged();
                    count(asking, "sent");
                    self.begin();
                    self.under_way.push(run);
                }
                // What isn't there now won't be there for a request that is slow already.
                Err(why) => {
                    self.left = 0;
                    count(asking, why);
                }
            }
        }
    }

    fn is_due(&mut self, cx: &mut Context<'_>) -> bool {
        Instant::now() >= self.due.deadline() || self.due.as_mut().poll(cx).is_ready()
    }
}

impl Behind {
    /// As of a try of the request's own: what the endpoint did counts against it.
    fn blame(&self, asking: &Asking<'_, '_, '_>) {
        if self.why.side() == Side::Upstream && !matches!(self.why, ErrorKind::UpstreamReset(_)) {
            self.picked.fail(asking.account.connection());
        }
    }
}

fn count(asking: &Asking<'_, '_, '_>, outcome: &str) {
    let metrics = &asking.account.connection().pod.worker.telemetry.metrics;
    metrics.agent().hedges.with_label_values(&[outcome]).inc();
}

#[cfg(test)]
mod tests;

//! A request's wait for a connection, where a DestinationRule limits their number: its turn among all that wait.
//!
//! Used by `crate::http1` when no connection is kept and none may be made. Whoever waits is served in order, whichever
//! worker it is on; a connection that a request of the same pod left at the same endpoint is passed on with its place, else
//! one is made. Idle connections of others are closed for it. Envoy's pending requests (`max_pending_requests`).

use std::time::Instant;

use prometheus::{Histogram, IntGauge};
use tokio::time::timeout;

use super::backend::Picked;
use super::context::{Connection, Pod};
use super::error::ErrorKind;
use super::upstream::Upstream;
use crate::balance::queue::{Place, Waiting};
use crate::http1;

/// A wait, and what was passed on to it by the time it is given up.
struct Turn<'u> {
    waiting: Waiting,
    upstream: &'u Upstream,
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        drop(self.upstream.take_handed(self.waiting.ticket()));
    }
}

/// A wait as metrics show it, however it ends.
struct Counted<'m> {
    waiting: &'m IntGauge,
    took: &'m Histogram,
    since: Instant,
}

impl<'m> Counted<'m> {
    fn new(waiting: &'m IntGauge, took: &'m Histogram) -> Self {
        waiting.inc();
        Self { waiting, took, since: Instant::now() }
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.waiting.dec();
        self.took.observe(self.since.elapsed().as_secs_f64());
    }
}

impl Connection {
    /// Waits for a place among the connections to where `picked` is, no longer than connecting to it may take.
    ///
    /// # Errors
    /// If there was none by then.
    pub async fn await_turn(
        &self,
        picked: &Picked,
        waiting: Waiting,
    ) -> Result<(Place, Option<http1::Conn>), ErrorKind> {
        let mut turn = Turn { waiting, upstream: &picked.upstream };
        self.ask_for_idle(picked);
        let metrics = self.pod.worker.telemetry.metrics.agent();
        let _counted = Counted::new(&metrics.queue_waiting, &metrics.queue_wait);
        let limit = picked.limits().connect_timeout.unwrap_or(self.limits().connect_timeout);
        let place = timeout(limit, &mut turn.waiting).await.map_err(|_| ErrorKind::Overflow)?;
        let handed = picked.upstream.take_handed(turn.waiting.ticket());
        Ok((place, handed))
    }

    /// This pod's idle connections are closed at once, others' by their workers.
    fn ask_for_idle(&self, picked: &Picked) {
        let resting = || picked.connections().is_some_and(|places| places.any_resting());
        if resting() {
            self.pod.give_way();
        }
        if resting() {
            self.pod.worker.crowded.send_modify(|asked| *asked += 1);
        }
    }
}

impl Pod {
    /// Closes idle connections for those that wait for their places.
    pub(super) fn give_way(&self) {
        self.upstreams.borrow().values().for_each(|upstream| upstream.give_way());
        self.direct.borrow().values().for_each(|upstream| upstream.give_way());
    }
}

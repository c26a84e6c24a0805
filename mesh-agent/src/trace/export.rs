//! The exporter's loop: gathers, sends, waits, gives up. Never on a request's way.
//!
//! The same for either signal. What isn't delivered within a time is dropped and counted, and so is what comes while the queue is full: a collector that is
//! away costs memory up to a bound, and nothing else. `send` is the collector; `wait` says when it is asked again.

use std::sync::Arc;
use std::time::Duration;

use prometheus::IntCounterVec;
use tokio::time::{Instant, sleep, timeout};

use super::batch::{Batch, Batches};
use super::queue::{Mood, Queue};
use super::signal::Signal;

/// After the first of a block, how long more are gathered.
const GATHER: Duration = Duration::from_secs(1);
const FIRST_WAIT: Duration = Duration::from_millis(500);
const LONGEST_WAIT: Duration = Duration::from_secs(20);
/// What is left when the agent ends has one try of this length.
const LAST_TRY: Duration = Duration::from_secs(2);

/// What came of sending one request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Sent {
    /// Taken, all but so many, for a reason.
    Taken {
        /// Partial success.
        rejected: u64,
        /// The collector's words.
        why: String,
    },
    /// Not to be sent again.
    Refused(String),
    /// To be sent again, not before this time where the collector says so.
    Later(Option<Duration>, String),
}

/// Where they go.
pub trait Collector {
    /// How long a request may take, within which [`Self::send`] returns. A batch is tried for six times as long.
    fn timeout(&self) -> Duration;

    /// Sends one request.
    fn send(&mut self, batch: &Batch) -> impl Future<Output = Sent>;
}

/// What the loop counts.
#[derive(Clone, Debug)]
pub struct Counters {
    /// `mesh_agent_trace_spans_total` or `mesh_agent_log_records_total`.
    pub items: IntCounterVec,
    /// `mesh_agent_trace_exports_total` or `mesh_agent_log_exports_total`.
    pub exports: IntCounterVec,
}

/// What becomes of spans and records: labels of [`Counters::items`].
pub const RESULTS: [&str; 5] = ["exported", "rejected", "queue_full", "unavailable", "shutdown"];
/// What comes of requests to the collector: labels of [`Counters::exports`].
pub const EXPORTS: [&str; 4] = ["ok", "partial", "refused", "retry"];

/// Sends until the queue is closed.
pub async fn run(
    signal: Signal,
    queue: Arc<Queue>,
    mut collector: impl Collector,
    counters: Counters,
    cluster: String,
) {
    let mut exporter = Exporter { signal, queue: queue.clone(), counters, failing: false };
    loop {
        match queue.mood() {
            Mood::Empty => {
                queue.news().await;
                continue;
            }
            Mood::Some => exporter.gather().await,
            Mood::Plenty | Mood::Closed => {}
        }
        for batch in Batches::of(queue.take(), &cluster) {
            exporter.deliver(&mut collector, &batch).await;
        }
        queue.done();
        if queue.mood() == Mood::Closed {
            return;
        }
    }
}

struct Exporter {
    signal: Signal,
    queue: Arc<Queue>,
    counters: Counters,
    /// The last request failed, which was told.
    failing: bool,
}

impl Exporter {
    /// Waits for more, until there is plenty or somebody waits.
    async fn gather(&self) {
        let enough = async {
            while self.queue.mood() == Mood::Some {
                self.queue.news().await;
            }
        };
        let _ = timeout(GATHER, enough).await;
    }

    async fn deliver(&mut self, collector: &mut impl Collector, batch: &Batch) {
        let (begun, give_up) = (Instant::now(), collector.timeout() * 6);
        for tries in 0.. {
            let last = self.queue.mood() == Mood::Closed;
            let patience = if last { LAST_TRY } else { give_up };
            let sent = match timeout(patience, collector.send(batch)).await {
                Ok(sent) => sent,
                Err(_) => Sent::Later(None, "the collector doesn't answer".to_owned()),
            };
            let (after, why) = match sent {
                Sent::Taken { rejected, why } => return self.taken(batch, rejected, &why),
                Sent::Refused(why) => {
                    self.counters.exports.with_label_values(&["refused"]).inc();
                    self.tell(&why);
                    return self.lose("rejected", batch.items);
                }
                Sent::Later(after, why) => (after, why),
            };
            self.counters.exports.with_label_values(&["retry"]).inc();
            self.tell(&why);
            if last || self.queue.mood() == Mood::Closed {
                return self.lose("shutdown", batch.items);
            }
            // A collector that asks for more isn't there.
            let after = after.map(|after| after.min(give_up / 4 * 3));
            let wait = wait(tries, after, fastrand::f64());
            if begun.elapsed() + wait > give_up {
                return self.lose("unavailable", batch.items);
            }
            self.pause(wait).await;
        }
    }

    /// Waits, unless the agent ends meanwhile.
    async fn pause(&self, wait: Duration) {
        let closed = async {
            while self.queue.mood() != Mood::Closed {
                self.queue.news().await;
            }
        };
        tokio::select! {
            () = sleep(wait) => {}
            () = closed => {}
        }
    }

    fn taken(&mut self, batch: &Batch, rejected: u64, why: &str) {
        let rejected = rejected.min(batch.items);
        let label = if rejected > 0 { "partial" } else { "ok" };
        self.counters.exports.with_label_values(&[label]).inc();
        self.counters.items.with_label_values(&["exported"]).inc_by(batch.items - rejected);
        if rejected > 0 {
            self.lose("rejected", rejected);
        }
        if !why.is_empty() {
            tracing::debug!(why, rejected, "the collector of {} has something to say", self.signal);
        }
        if std::mem::take(&mut self.failing) {
            tracing::info!("{} are exported again", self.signal);
        }
    }

    fn lose(&self, why: &str, items: u64) {
        self.counters.items.with_label_values(&[why]).inc_by(items);
    }

    /// Once, until it works again.
    fn tell(&mut self, why: &str) {
        if !std::mem::replace(&mut self.failing, true) {
            tracing::warn!(
                error = why,
                "{} can't be exported: they are lost until the collector at --otlp-endpoint takes them",
                self.signal
            );
        }
    }
}

/// What to wait for after so many tries. `asked` is what the collector wants; `chance` is from 0 to 1, so that agents that lost
/// their collector together don't come back together.
fn wait(tries: u32, asked: Option<Duration>, chance: f64) -> Duration {
    match asked {
        Some(asked) => asked.mul_f64(1.0 + chance / 5.0),
        None => {
            let full = FIRST_WAIT.saturating_mul(1 << tries.min(16)).min(LONGEST_WAIT);
            full.mul_f64(0.5 + chance / 2.0)
        }
    }
}

#[cfg(test)]
mod tests;

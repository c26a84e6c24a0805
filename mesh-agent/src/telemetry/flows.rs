//! Flows: what access log lines tell, for whoever observes, and the last failures for whoever asks later.
//!
//! While nobody observes, a request that went well costs one relaxed load. While somebody does, each flow is made once, and
//! goes to the bounded queue of each observer that wants it (`observer`); a full queue loses it, and the loss is told.
//! Failures and denials go to a ring as well (`ring`). `build` makes flows, `filter` chooses among them.

mod build;
pub mod filter;
mod observer;
mod ring;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::SystemTime;

use arc_swap::ArcSwap;
use prometheus::{IntCounter, IntGauge};

pub(super) use self::build::has_failed;
use self::filter::Filter;
use self::observer::Queue;
pub use self::observer::{Batch, Observer};
use self::ring::Ring;
use super::{AgentMetrics, ConnectionEntry, RequestEntry};
use crate::admin::api::flow::Flow;

/// At most so many observe at a time.
pub const MOST_OBSERVERS: usize = 16;

/// One per agent.
#[derive(Debug)]
pub struct Flows {
    node: String,
    /// Observers, as data paths see them.
    count: AtomicUsize,
    /// Those of them that want headers.
    taps: AtomicUsize,
    observers: ArcSwap<Vec<Arc<Queue>>>,
    failures: Ring,
    shown: IntGauge,
    lost: IntCounter,
}

/// There are [`MOST_OBSERVERS`] already.
#[derive(Debug, thiserror::Error)]
#[error("{MOST_OBSERVERS} observe this agent already, which is the most; end one of them")]
pub struct TooMany;

impl Flows {
    pub(super) fn new(node: &str, metrics: &AgentMetrics) -> Self {
        Self {
            node: node.to_owned(),
            count: AtomicUsize::new(0),
            taps: AtomicUsize::new(0),
            observers: ArcSwap::default(),
            failures: Ring::new(metrics.flow_failures_left_out.clone()),
            shown: metrics.flow_observers.clone(),
            lost: metrics.flows_lost.clone(),
        }
    }

    /// True while somebody observes.
    pub(super) fn is_observed(&self) -> bool {
        self.count.load(Relaxed) > 0
    }

    /// True while somebody wants headers.
    pub(super) fn is_tapped(&self) -> bool {
        self.taps.load(Relaxed) > 0
    }

    /// Takes note of a finished request.
    pub(super) fn request(&self, entry: &RequestEntry<'_>) {
        let failed = has_failed(entry.flag, entry.status, entry.grpc_status);
        self.take(failed, entry.start, || build::request(&self.node, entry));
    }

    /// The same of a connection.
    pub(super) fn connection(&self, entry: &ConnectionEntry<'_>) {
        let failed = has_failed(entry.flag, 0, None);
        self.take(failed, entry.start, || build::connection(&self.node, entry));
    }

    fn take(&self, failed: bool, start: SystemTime, build: impl FnOnce() -> Flow) {
        let kept = failed && self.failures.has_place();
        if !kept && !self.is_observed() {
            return;
        }
        let flow = Arc::new(build());
        for queue in self.observers.load().iter() {
            queue.offer(&flow);
        }
        if kept {
            self.failures.push(start, flow);
        }
    }

    /// Begins to observe: flows that end from now on.
    ///
    /// # Errors
    /// Too many do.
    pub fn observe(self: &Arc<Self>, filter: Filter, headers: bool) -> Result<Observer, TooMany> {
        let queue = Arc::new(Queue::new(filter, headers, self.lost.clone()));
        let mut taken = false;
        self.observers.rcu(|observers| {
            let mut observers = Vec::clone(observers);
            taken = observers.len() < MOST_OBSERVERS;
            if taken {
                observers.push(queue.clone());
            }
            observers
        });
        if !taken {
            return Err(TooMany);
        }
        self.shown.inc();
        self.taps.fetch_add(usize::from(headers), Relaxed);
        self.count.fetch_add(1, Relaxed);
        Ok(Observer::new(self.clone(), queue))
    }

    fn leave(&self, queue: &Arc<Queue>) {
        self.count.fetch_sub(1, Relaxed);
        self.taps.fetch_sub(usize::from(queue.headers), Relaxed);
        self.shown.dec();
        self.observers.rcu(|observers| {
            let others = observers.iter().filter(|other| !Arc::ptr_eq(other, queue));
            others.cloned().collect::<Vec<_>>()
        });
    }

    /// Of the last failures and denials those that `filter` wants and that began at `since` or later; at most `last`, the
    /// newest, in the order in which they ended.
    pub fn failures(&self, filter: &Filter, since: Option<SystemTime>, last: usize) -> Vec<Arc<Flow>> {
        self.failures.list(filter, since, last)
    }
}

#[cfg(test)]
mod tests;

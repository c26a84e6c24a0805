//! A signal's way out: the queue that workers fill, and the thread that empties it.
//!
//! Spans have one, and the access log has one of its own, so that neither waits for the other. Before `queue` and `export`.

use std::io;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use tokio::task::LocalSet;

use super::export::{self, Counters, EXPORTS, RESULTS};
use super::queue::Queue;
use super::send::{Remote, Sender};
use super::signal::Signal;
use crate::model::Workload;

/// How long the agent's end waits for the exporter.
const FLUSH: Duration = Duration::from_secs(3);

/// Takes what is to be exported, from all workers.
#[derive(Debug)]
pub struct Pipeline {
    queue: Arc<Queue>,
    thread: Option<JoinHandle<()>>,
}

impl Pipeline {
    /// Starts the exporter. `cluster` is what the pods' cluster is called.
    ///
    /// # Errors
    /// When the thread can't be started.
    pub fn start(signal: Signal, remote: &Remote, cluster: &str, counters: Counters) -> io::Result<Self> {
        let mut pipeline = Self::deaf(&counters);
        let sender = Sender { signal, remote: remote.clone() };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (queue, cluster) = (pipeline.queue.clone(), cluster.to_owned());
        pipeline.thread = Some(thread::Builder::new().name(signal.thread().into()).spawn(move || {
            LocalSet::new().block_on(&runtime, export::run(signal, queue, sender, counters, cluster));
        })?);
        Ok(pipeline)
    }

    /// Without an exporter: what it is given stays in the queue.
    pub(super) fn deaf(counters: &Counters) -> Self {
        for result in RESULTS {
            counters.items.with_label_values(&[result]);
        }
        for result in EXPORTS {
            counters.exports.with_label_values(&[result]);
        }
        Self { queue: Arc::new(Queue::new(counters.items.with_label_values(&["queue_full"]))), thread: None }
    }

    /// Exports one of a pod's, encoded; drops and counts it where there is no room.
    pub fn push(&self, of: &Arc<Workload>, item: &[u8]) {
        self.queue.push(of, item);
    }

    /// Waits until all so far is sent, for a short while: before the process ends.
    pub fn flush(&self) {
        self.queue.flush(FLUSH);
    }
}

impl Drop for Pipeline {
    fn drop(&mut self) {
        self.queue.close();
        let Some(thread) = self.thread.take() else { return };
        let deadline = Instant::now() + FLUSH;
        while !thread.is_finished() {
            if Instant::now() >= deadline {
                // A collector that hangs would hang the agent's end too.
                return;
            }
            // There is no join with a deadline.
            thread::sleep(Duration::from_millis(5));
        }
        drop(thread.join());
    }
}

#[cfg(test)]
impl Pipeline {
    /// One whose items stay to be looked at, and what it counts.
    #[expect(clippy::unwrap_used, reason = "test support")]
    pub fn for_tests() -> (Self, Counters) {
        let vec =
            |name| prometheus::IntCounterVec::new(prometheus::Opts::new(name, name), &["result"]).unwrap();
        let counters = Counters { items: vec("items"), exports: vec("exports") };
        (Self::deaf(&counters), counters)
    }

    /// What was given so far, with the pod of each.
    pub fn taken(&self) -> Vec<(Arc<Workload>, Vec<u8>)> {
        let block = self.queue.take();
        let mut from = 0;
        let mut read = |(pod, end): &(Arc<Workload>, usize)| {
            let item = block.bytes[from..*end].to_vec();
            from = *end;
            (pod.clone(), item)
        };
        block.items.iter().map(&mut read).collect()
    }
}

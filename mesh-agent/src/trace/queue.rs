//! What a signal has on its way from the workers to the exporter: one bounded block, as the access log's writer has.
//!
//! A worker appends and goes on; what doesn't fit is dropped and counted. Before `batch`, which is what the exporter makes of it.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use prometheus::IntCounter;
use tokio::sync::Notify;

use crate::model::Workload;

/// Beyond these, spans or records are dropped: a collector that stands still must not fill the memory.
const MOST_BYTES: usize = 8 * 1024 * 1024;
const MOST_ITEMS: usize = 16 * 1024;
/// So many are worth sending at once.
pub const PLENTY: usize = 512;

/// Shared by all workers and the exporter.
#[derive(Debug)]
pub struct Queue {
    block: Mutex<Block>,
    /// There is something to do for the exporter.
    news: Notify,
    /// The exporter has nothing left.
    idle: Condvar,
    dropped: IntCounter,
}

/// Spans or records in the order in which they came.
#[derive(Debug, Default)]
pub struct Block {
    /// One behind the other.
    pub bytes: Vec<u8>,
    /// Whose each is, and where it ends.
    pub items: Vec<(Arc<Workload>, usize)>,
    sending: bool,
    hurry: bool,
    closed: bool,
}

/// What the exporter should do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mood {
    /// Wait for more.
    Empty,
    /// Gather some.
    Some,
    /// Send.
    Plenty,
    /// Send, and end.
    Closed,
}

impl Queue {
    /// Empty. `dropped` counts what doesn't fit.
    pub fn new(dropped: IntCounter) -> Self {
        let (block, news, idle) = (Mutex::default(), Notify::new(), Condvar::new());
        Self { block, news, idle, dropped }
    }

    /// Adds one of a pod, encoded.
    pub fn push(&self, of: &Arc<Workload>, item: &[u8]) {
        let mut block = self.lock();
        let end = block.bytes.len() + item.len();
        if end > MOST_BYTES || block.items.len() >= MOST_ITEMS {
            drop(block);
            self.dropped.inc();
            return;
        }
        block.bytes.extend_from_slice(item);
        block.items.push((of.clone(), end));
        let wakes = matches!(block.items.len(), 1 | PLENTY);
        drop(block);
        if wakes {
            self.news.notify_one();
        }
    }

    /// Takes all there is.
    pub fn take(&self) -> Block {
        let mut block = self.lock();
        let (hurry, closed) = (block.hurry, block.closed);
        let taken = std::mem::replace(&mut *block, Block { hurry, closed, ..Block::default() });
        block.sending = !taken.items.is_empty();
        taken
    }

    /// Says that what was taken is gone, wherever.
    pub fn done(&self) {
        self.lock().sending = false;
        self.idle.notify_all();
    }

    /// How much there is.
    pub fn mood(&self) -> Mood {
        let block = self.lock();
        match block.items.len() {
            _ if block.closed => Mood::Closed,
            0 => Mood::Empty,
            PLENTY.. => Mood::Plenty,
            _ if block.hurry => Mood::Plenty,
            _ => Mood::Some,
        }
    }

    /// Returns once there is news; at once if there was any since the last call.
    pub async fn news(&self) {
        self.news.notified().await;
    }

    /// Waits until all so far are sent, at most so long. For a thread that isn't the exporter's.
    pub fn flush(&self, patience: Duration) {
        let mut block = self.lock();
        block.hurry = true;
        self.news.notify_one();
        let pending = |block: &mut Block| block.sending || !block.items.is_empty();
        let waited = self.idle.wait_timeout_while(block, patience, pending);
        waited.unwrap_or_else(PoisonError::into_inner).0.hurry = false;
    }

    /// Tells the exporter to end.
    pub fn close(&self) {
        self.lock().closed = true;
        self.news.notify_one();
    }

    fn lock(&self) -> MutexGuard<'_, Block> {
        self.block.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::proxy::testing;

    fn queue() -> Queue {
        Queue::new(IntCounter::new("dropped", "dropped").unwrap())
    }

    #[test]
    fn what_doesnt_fit_is_dropped_and_counted() {
        let (queue, pod) = (queue(), Arc::new(testing::workload()));
        for _ in 0..MOST_ITEMS + 3 {
            queue.push(&pod, b"span");
        }
        assert_eq!((queue.dropped.get(), queue.take().items.len()), (3, MOST_ITEMS));
        let large = vec![0; MOST_BYTES / 2 + 1];
        queue.push(&pod, &large);
        queue.push(&pod, &large);
        queue.push(&pod, b"small");
        assert_eq!((queue.dropped.get(), queue.take().items.len()), (4, 2));
    }

    #[test]
    fn the_exporter_is_told_how_much_there_is() {
        let (queue, pod) = (queue(), Arc::new(testing::workload()));
        assert_eq!(queue.mood(), Mood::Empty);
        queue.push(&pod, b"span");
        assert_eq!(queue.mood(), Mood::Some);
        (1..PLENTY).for_each(|_| queue.push(&pod, b"span"));
        assert_eq!(queue.mood(), Mood::Plenty);
        drop(queue.take());
        queue.close();
        assert_eq!(queue.mood(), Mood::Closed);
    }

    #[test]
    fn a_flush_waits_for_the_exporter_and_not_for_ever() {
        let (queue, pod) = (Arc::new(queue()), Arc::new(testing::workload()));
        queue.push(&pod, b"span");
        queue.flush(Duration::from_millis(1));
        let exporter = std::thread::spawn({
            let queue = queue.clone();
            move || {
                let taken = queue.take();
                queue.done();
                taken.items.len()
            }
        });
        queue.flush(Duration::from_secs(60));
        assert_eq!(exporter.join().unwrap(), 1);
    }
}

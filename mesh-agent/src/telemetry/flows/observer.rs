//! One observer's queue. Data paths put flows in and never wait; the stream that answers the observer takes them out.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use prometheus::IntCounter;

use super::Flows;
use super::filter::Filter;
use crate::admin::api::flow::Flow;

/// Flows that wait for a reader. At 10,000 a second, some 400 ms of them.
pub(super) const MOST_FLOWS: usize = 4096;
/// What they may take of memory, roughly: heads with long paths and headers are fewer.
const MOST_BYTES: usize = 8 << 20;

#[derive(Debug)]
pub(super) struct Queue {
    filter: Filter,
    /// Its reader wants headers.
    pub(super) headers: bool,
    waiting: Mutex<Waiting>,
    lost: IntCounter,
}

#[derive(Debug, Default)]
struct Waiting {
    flows: VecDeque<Arc<Flow>>,
    bytes: usize,
    lost: u64,
    reader: Option<Waker>,
}

/// What is taken out at once.
#[derive(Debug, Default)]
pub struct Batch {
    /// In the order in which they ended.
    pub flows: VecDeque<Arc<Flow>>,
    /// So many came after them and found no place.
    pub lost: u64,
}

/// An observer; it leaves on drop.
#[derive(Debug)]
pub struct Observer {
    flows: Arc<Flows>,
    queue: Arc<Queue>,
}

impl Queue {
    pub(super) fn new(filter: Filter, headers: bool, lost: IntCounter) -> Self {
        Self { filter, headers, waiting: Mutex::default(), lost }
    }

    /// Puts a flow in if it is wanted. What finds no place is counted.
    pub(super) fn offer(&self, flow: &Arc<Flow>) {
        if !self.filter.matches(flow) {
            return;
        }
        let size = size(flow);
        let mut waiting = self.lock();
        // Once something is lost, all is until the reader has come: it is told of one gap, where that is.
        if waiting.lost > 0 || waiting.flows.len() >= MOST_FLOWS || waiting.bytes + size > MOST_BYTES {
            waiting.lost += 1;
            drop(waiting);
            return self.lost.inc();
        }
        waiting.bytes += size;
        waiting.flows.push_back(flow.clone());
        let reader = waiting.reader.take();
        drop(waiting);
        if let Some(reader) = reader {
            reader.wake();
        }
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Observer {
    pub(super) fn new(flows: Arc<Flows>, queue: Arc<Queue>) -> Self {
        Self { flows, queue }
    }

    /// True of one that wants headers.
    pub fn wants_headers(&self) -> bool {
        self.queue.headers
    }

    /// All that waits.
    pub fn poll_take(&self, cx: &mut Context<'_>) -> Poll<Batch> {
        let mut waiting = self.queue.lock();
        if waiting.flows.is_empty() && waiting.lost == 0 {
            waiting.reader = Some(cx.waker().clone());
            return Poll::Pending;
        }
        waiting.bytes = 0;
        let flows = std::mem::take(&mut waiting.flows);
        Poll::Ready(Batch { flows, lost: std::mem::take(&mut waiting.lost) })
    }
}

impl Drop for Observer {
    fn drop(&mut self) {
        self.flows.leave(&self.queue);
    }
}

/// Its texts of no fixed length, and a guess for all the others.
fn size(flow: &Flow) -> usize {
    let headers = |headers: &std::collections::BTreeMap<String, Vec<String>>| -> usize {
        headers.iter().map(|(name, values)| name.len() + values.iter().map(String::len).sum::<usize>()).sum()
    };
    let l7 = flow.l7.as_ref().map_or(0, |l7| {
        l7.path.len() + l7.authority.len() + headers(&l7.request_headers) + headers(&l7.response_headers)
    });
    1024 + l7
}

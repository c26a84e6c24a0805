//! The last failures and denials, so that "why was it refused" has an answer also where nobody was watching.
//!
//! Bounded in number, and in how many a second are taken: a flood of refusals costs a load and an addition each.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use prometheus::IntCounter;

use super::filter::Filter;
use crate::admin::api::flow::Flow;
use crate::clock;

/// So many stay.
pub(super) const SIZE: usize = 1024;
/// So many are taken in a second.
const A_SECOND: u64 = 200;
/// The window's number of the second is above, how many were taken below.
const COUNT_BITS: u32 = 24;

#[derive(Debug)]
pub(super) struct Ring {
    window: AtomicU64,
    kept: Mutex<VecDeque<(SystemTime, Arc<Flow>)>>,
    left_out: IntCounter,
}

impl Ring {
    pub(super) fn new(left_out: IntCounter) -> Self {
        Self { window: AtomicU64::new(0), kept: Mutex::default(), left_out }
    }

    /// Takes a place in this second, or counts that there was none.
    pub(super) fn has_place(&self) -> bool {
        let second = clock::now_ns() / 1_000_000_000;
        // A counter that overflows would be the next second's: no agent fails so often.
        let mask = (1 << COUNT_BITS) - 1;
        let taken = self.window.fetch_update(Relaxed, Relaxed, |window| {
            if window >> COUNT_BITS != second {
                return Some((second << COUNT_BITS) | 1);
            }
            (window & mask < A_SECOND).then_some(window + 1)
        });
        if taken.is_err() {
            self.left_out.inc();
        }
        taken.is_ok()
    }

    pub(super) fn push(&self, start: SystemTime, flow: Arc<Flow>) {
        let flow = without_headers(flow);
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.len() >= SIZE {
            kept.pop_front();
        }
        kept.push_back((start, flow));
    }

    pub(super) fn list(&self, filter: &Filter, since: Option<SystemTime>, last: usize) -> Vec<Arc<Flow>> {
        // Judged when the lock is free again: a data path may be about to put something in.
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let wanted = kept
            .into_iter()
            .rev()
            .filter(|(start, flow)| since.is_none_or(|since| *start >= since) && filter.matches(flow));
        let mut flows: Vec<_> = wanted.take(last).map(|(_, flow)| flow).collect();
        flows.reverse();
        flows
    }
}

/// Headers are for those who tap while they do.
fn without_headers(flow: Arc<Flow>) -> Arc<Flow> {
    match &flow.l7 {
        Some(l7) if !l7.request_headers.is_empty() || !l7.response_headers.is_empty() => {
            let mut flow = Flow::clone(&flow);
            if let Some(l7) = &mut flow.l7 {
                l7.request_headers.clear();
                l7.response_headers.clear();
            }
            Arc::new(flow)
        }
        _ => flow,
    }
}

//! What an endpoint costs: requests in flight, and latency as a peak-sensitive moving average.
//!
//! Read by `balance`; written by the guard that every request or connection holds. Relaxed atomics shared by all
//! workers: a lost update makes one choice slightly worse. Peak EWMA as in Finagle and linkerd2 (tower::load): a rise
//! counts at once, a fall over some answers or [`DECAY_NS`].

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use crate::model::{Endpoint, LoadState};
use crate::objects::Warmup;

/// Time in which an old measurement loses 63 % of its weight (linkerd2: 10 s; shorter, because a choice by share has
/// to forget a hiccup sooner than a choice by rank).
pub(super) const DECAY_NS: f64 = 5e9;
/// Differences below this are the network's and the scheduler's, not the endpoints'.
pub(super) const NOISE_NS: f64 = 4e6;
/// What an older, higher value weighs at the most against a new measurement: after a hiccup some ten good answers, not
/// seconds of waiting, clear an endpoint's name.
const PEAK_WEIGHT: f64 = 0.7;
/// While it owes answers an endpoint is forgiven this much slower: one that hangs measures nothing, and would
/// otherwise look better the longer it hangs.
const BUSY_FORGETS_SLOWER: f64 = 4.0;
/// Assumed of an endpoint that has not yet answered its first request (linkerd2: 30 ms).
pub(super) const UNMEASURED_NS: f64 = 30e6;
/// What a failure counts as at the least. One that took longer counts as that: a refusal costs a request next to
/// nothing and is tried again within seconds, an address that swallows connects is left alone for half a minute.
pub(super) const FAILURE_NS: u64 = 20_000_000;

/// One request or connection that an endpoint is busy with, until dropped.
#[derive(Debug)]
pub struct InFlight {
    load: Arc<LoadState>,
}

impl InFlight {
    /// Counts one more.
    pub fn begin(load: &Arc<LoadState>) -> Self {
        load.in_flight.fetch_add(1, Relaxed);
        Self { load: load.clone() }
    }

    /// The endpoint took this long to answer. `now_ns` is `clock::now_ns`.
    pub fn observe(&self, latency_ns: u64, now_ns: u64) {
        let latency = (latency_ns as f64).max(1.0);
        let old = f64::from_bits(self.load.ewma_ns.load(Relaxed));
        let value = if latency >= old {
            latency
        } else {
            let weight = (-since(&self.load, now_ns) / DECAY_NS).exp().min(PEAK_WEIGHT);
            old * weight + latency * (1.0 - weight)
        };
        self.load.ewma_ns.store(value.to_bits(), Relaxed);
        self.load.ewma_at.store(now_ns, Relaxed);
    }

    /// The endpoint hasn't answered within this time, and nobody waits for it any longer. How long it would have taken is
    /// not known, so this never makes it look faster.
    pub fn at_least(&self, latency_ns: u64, now_ns: u64) {
        if latency_ns as f64 >= f64::from_bits(self.load.ewma_ns.load(Relaxed)) {
            self.observe(latency_ns, now_ns);
        }
    }

    /// The endpoint refused, vanished or let time run out after `wasted_ns`: for a while others are preferred, without it ever being
    /// shut out while it is the only one.
    pub fn fail(&self, wasted_ns: u64, now_ns: u64) {
        self.observe(wasted_ns.max(FAILURE_NS), now_ns);
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.load.in_flight.fetch_sub(1, Relaxed);
    }
}

/// Requests or connections under way.
pub(super) fn in_flight(endpoint: &Endpoint) -> u32 {
    endpoint.load.in_flight.load(Relaxed)
}

/// Expected wait in nanoseconds for one more request.
///
/// An endpoint without any measurement is free while idle and takes [`UNMEASURED_NS`] per request once busy: it is
/// tried at once, but by one request and not by a herd.
pub(super) fn cost(endpoint: &Endpoint, now_ns: u64) -> f64 {
    let busy = in_flight(endpoint);
    let measured = f64::from_bits(endpoint.load.ewma_ns.load(Relaxed));
    if measured == 0.0 {
        return if busy == 0 { 0.0 } else { UNMEASURED_NS * f64::from(busy + 1) };
    }
    let decay = if busy == 0 { DECAY_NS } else { DECAY_NS * BUSY_FORGETS_SLOWER };
    (measured * (-since(&endpoint.load, now_ns) / decay).exp() + NOISE_NS) * f64::from(busy + 1)
}

/// The share, 0 to 1, of its turns that an endpoint takes at `now_ns`: it rises over the warm-up (Envoy, "Slow start mode").
pub(super) fn warm(load: &LoadState, warmup: &Warmup, now_ns: u64) -> f64 {
    let born = load.born_ns.load(Relaxed);
    let age = now_ns.saturating_sub(born) as f64 / 1e9;
    let part = age / warmup.duration.as_secs_f64();
    if born == 0 || part >= 1.0 {
        return 1.0;
    }
    part.powf(1.0 / warmup.aggression).max(warmup.minimum).max(0.01)
}

/// Nanoseconds since the last measurement. Another worker's clock reading may be a little ahead.
fn since(load: &LoadState, now_ns: u64) -> f64 {
    now_ns.saturating_sub(load.ewma_at.load(Relaxed)) as f64
}

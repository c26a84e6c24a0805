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
/// While it owes answers an endpoint is forgiven this much slower, from the last request on that it was sent: one that
/// hangs measures nothing and would otherwise look better the longer it hangs, and one that was slow once is tried by one
/// request, not by all that come before that one's answer.
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
    /// Counts one more. `now_ns` is `clock::now_ns`.
    pub fn begin(load: &Arc<LoadState>, now_ns: u64) -> Self {
        load.in_flight.fetch_add(1, Relaxed);
        load.begun_at.store(now_ns, Relaxed);
        Self { load: load.clone() }
    }

    /// The endpoint took this long to answer. `now_ns` is `clock::now_ns`.
    pub fn observe(&self, latency_ns: u64, now_ns: u64) {
        let latency = (latency_ns as f64).max(1.0);
        let old = f64::from_bits(self.load.ewma_ns.load(Relaxed));
        let value = if latency >= old {
            latency
        } else {
            let age = since(self.load.ewma_at.load(Relaxed), now_ns);
            let weight = (-age / DECAY_NS).exp().min(PEAK_WEIGHT);
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

/// What one more request to an endpoint has to reckon with, in nanoseconds.
#[derive(Clone, Copy, Debug)]
pub(super) struct Expected {
    /// Until the endpoint answers, by what is remembered of it.
    pub latency: f64,
    /// The same with what it is busy with.
    pub cost: f64,
}

/// What to expect of `endpoint`.
///
/// One without any measurement is free while idle and takes [`UNMEASURED_NS`] per request once busy: it is tried at once,
/// but by one request and not by a herd.
pub(super) fn expect(endpoint: &Endpoint, now_ns: u64) -> Expected {
    let load = &endpoint.load;
    let busy = in_flight(endpoint);
    let measured = f64::from_bits(load.ewma_ns.load(Relaxed));
    let latency = match (busy, measured == 0.0) {
        (0, true) => return Expected { latency: 0.0, cost: 0.0 },
        (0, false) => measured * (-since(load.ewma_at.load(Relaxed), now_ns) / DECAY_NS).exp(),
        (_, unmeasured) => {
            let remembered = if unmeasured { UNMEASURED_NS } else { measured };
            let last = load.ewma_at.load(Relaxed).max(load.begun_at.load(Relaxed));
            remembered * (-since(last, now_ns) / (DECAY_NS * BUSY_FORGETS_SLOWER)).exp()
        }
    };
    Expected { latency, cost: (latency + NOISE_NS) * f64::from(busy + 1) }
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

/// Nanoseconds since `then_ns`. Another worker's clock reading may be a little ahead.
fn since(then_ns: u64, now_ns: u64) -> f64 {
    now_ns.saturating_sub(then_ns) as f64
}

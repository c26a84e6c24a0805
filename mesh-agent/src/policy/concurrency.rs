//! How many requests may be under way at a time: a fixed limit, and one that follows from latency.
//!
//! The adaptive limit is a gradient, as Envoy's adaptive concurrency: after each window the limit is multiplied by how much
//! slower requests have become than when the service has nothing to wait for, and room for a queue of its square root is
//! added. Envoy finds the unloaded latency by letting hardly anything through every minute. Here it is the least window
//! seen: the limit begins at the floor, where a service has nothing to wait for, and doubles until requests become slower.
//! The latency is learned anew when less than half of the limit is used, or when it has come down to the floor. So a
//! service that became slower for good costs one dip, and there is no probe every minute.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// The adaptive limit's bounds and pace.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdaptiveSettings {
    /// Never lower; at least 1.
    pub min: u32,
    /// Never higher.
    pub max: u32,
    /// Latency may be so many times the unloaded one before the limit falls; at least 1.
    pub tolerance: f64,
    /// The limit changes at most once in this time.
    pub window: Duration,
}

/// The limit of a service or route.
#[derive(Debug)]
pub struct Concurrency {
    max_requests: u32,
    adaptive: Option<Adaptive>,
    in_flight: AtomicU32,
}

/// A request under way. Leaves when it is dropped.
#[derive(Debug)]
pub struct Slot {
    concurrency: Arc<Concurrency>,
}

#[derive(Debug)]
struct Adaptive {
    settings: AdaptiveSettings,
    /// Bits of an f64.
    limit: AtomicU64,
    /// Unloaded latency in microseconds, bits of an f64; 0: not known yet.
    unloaded: AtomicU64,
    window_ends: AtomicU64,
    /// Sum of latencies in microseconds in the upper 44 bits, their number in the lower 20.
    samples: AtomicU64,
    /// Requests that were lost to overload: timed out or turned away.
    lost: AtomicU32,
    /// The most requests under way in this window.
    peak: AtomicU32,
    /// The limit doubles: requests haven't become slower since it was at the floor.
    doubling: AtomicBool,
}

/// So many latencies at least make a window.
const LEAST_SAMPLES: u64 = 10;
const COUNT_BITS: u32 = 20;
const COUNT_MAX: u64 = (1 << COUNT_BITS) - 1;
/// A limit moves this part of the way in one window.
const PACE: f64 = 0.2;
/// The unloaded latency follows higher ones this part of the way in one window.
const LEARNING: f64 = 0.1;
/// With no more than so many at a time a service has nothing to wait for: where a limit begins, and where a gradient of
/// one half brings it to rest.
const FLOOR: f64 = 4.0;

impl Concurrency {
    /// Nothing under way.
    pub fn new(max_requests: Option<u32>, adaptive: Option<AdaptiveSettings>) -> Self {
        let max_requests = max_requests.unwrap_or(u32::MAX);
        Self { max_requests, adaptive: adaptive.map(Adaptive::new), in_flight: AtomicU32::new(0) }
    }

    /// Lets a request in. None: too many are under way.
    pub fn enter(self: &Arc<Self>) -> Option<Slot> {
        let limit = self.limit();
        let before = self.in_flight.fetch_update(Relaxed, Relaxed, |n| (n < limit).then(|| n + 1)).ok()?;
        if let Some(adaptive) = &self.adaptive {
            adaptive.peak.fetch_max(before + 1, Relaxed);
        }
        Some(Slot { concurrency: self.clone() })
    }

    /// The most at a time, whatever adapts; None: no such limit.
    pub fn fixed_limit(&self) -> Option<u32> {
        (self.max_requests < u32::MAX).then_some(self.max_requests)
    }

    /// The bounds within which the limit adapts. None: it is fixed.
    pub fn adaptive(&self) -> Option<&AdaptiveSettings> {
        self.adaptive.as_ref().map(|adaptive| &adaptive.settings)
    }

    /// The limit now; u32::MAX for none.
    pub fn limit(&self) -> u32 {
        let adaptive = self.adaptive.as_ref().map_or(u32::MAX, |adaptive| adaptive.limit() as u32);
        adaptive.min(self.max_requests)
    }

    /// Requests under way.
    pub fn in_flight(&self) -> u32 {
        self.in_flight.load(Relaxed)
    }
}

impl Slot {
    /// The request was answered after `latency`; `lost` if it timed out or the service turned it away for overload. One
    /// whose client went away is just dropped.
    pub fn finish(self, latency: Duration, lost: bool, now_ns: u64) {
        if let Some(adaptive) = &self.concurrency.adaptive {
            adaptive.sample(latency, lost, self.concurrency.in_flight(), now_ns);
        }
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.concurrency.in_flight.fetch_sub(1, Relaxed);
    }
}

impl Adaptive {
    fn new(settings: AdaptiveSettings) -> Self {
        let first = FLOOR.min(settings.max.into()).max(settings.min.into());
        Self {
            settings,
            limit: AtomicU64::new(first.to_bits()),
            unloaded: AtomicU64::new(0),
            window_ends: AtomicU64::new(0),
            samples: AtomicU64::new(0),
            lost: AtomicU32::new(0),
            peak: AtomicU32::new(0),
            doubling: AtomicBool::new(true),
        }
    }

    fn limit(&self) -> f64 {
        f64::from_bits(self.limit.load(Relaxed))
    }

    fn sample(&self, latency: Duration, lost: bool, in_flight: u32, now_ns: u64) {
        // An hour is long enough: four thousand times that still fit.
        let micros = u64::try_from(latency.as_micros()).unwrap_or(u64::MAX).clamp(1, 3_600_000_000);
        let add = |word: u64| (word & COUNT_MAX < COUNT_MAX / 256).then(|| word + (micros << COUNT_BITS | 1));
        let _ = self.samples.fetch_update(Relaxed, Relaxed, add);
        if lost {
            self.lost.fetch_add(1, Relaxed);
        }
        let ends = self.window_ends.load(Relaxed);
        if now_ns < ends || self.samples.load(Relaxed) & COUNT_MAX < LEAST_SAMPLES {
            return;
        }
        let window = u64::try_from(self.settings.window.as_nanos()).unwrap_or(u64::MAX);
        // Who moves the end alone closes the window.
        if self.window_ends.compare_exchange(ends, now_ns.saturating_add(window), Relaxed, Relaxed).is_ok() {
            let samples = self.samples.swap(0, Relaxed);
            let mean = (samples >> COUNT_BITS) as f64 / (samples & COUNT_MAX).max(1) as f64;
            let (lost, peak) = (self.lost.swap(0, Relaxed), self.peak.swap(in_flight, Relaxed));
            self.close(mean, lost > 0, peak.max(in_flight).into());
        }
    }

    /// The end of a window in which requests took `mean` microseconds and at most `peak` were under way.
    fn close(&self, mean: f64, lost: bool, peak: f64) {
        let limit = self.limit();
        let (min, max) = (f64::from(self.settings.min), f64::from(self.settings.max));
        let idle = peak * 2.0 < limit;
        let at_floor = limit <= min.max(FLOOR) + 1.0;
        let mut unloaded = f64::from_bits(self.unloaded.load(Relaxed));
        if unloaded == 0.0 || mean < unloaded || at_floor {
            unloaded = mean;
        } else if idle {
            unloaded += (mean - unloaded) * LEARNING;
        }
        self.unloaded.store(unloaded.to_bits(), Relaxed);
        let gradient = (unloaded * self.settings.tolerance / mean).clamp(0.5, 1.0);
        let doubling = !lost && gradient == 1.0 && (at_floor || self.doubling.load(Relaxed));
        self.doubling.store(doubling, Relaxed);
        let next = if lost {
            limit * gradient.min(0.9)
        } else if doubling {
            limit * 2.0
        } else {
            limit + (limit * gradient + limit.sqrt() - limit) * PACE
        };
        // A limit that isn't reached says nothing about a higher one.
        if next <= limit || !idle {
            self.limit.store(next.clamp(min, max.max(min)).to_bits(), Relaxed);
        }
    }
}

#[cfg(test)]
mod tests;

//! Circuit breaker: a service that mostly fails, or is mostly slow, gets no requests for a while, then a few to try.
//!
//! Closed it counts; when a share of the requests of a window went wrong it opens and refuses. After `open_for` it is half
//! open: some requests go through as probes, and it closes when all of them succeed or opens again with the first that
//! doesn't. The state is one atomic word; every change of state is a new phase, and what was admitted in an earlier phase
//! says nothing in a later one.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use super::chance::Chance;
use super::window::Window;

/// When to open, for how long, and when to close again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BreakerSettings {
    /// Opens on failures.
    pub errors: Option<Trip>,
    /// Opens on requests that took longer than this.
    pub latency: Option<(Duration, Trip)>,
    /// How long it refuses before it probes.
    pub open_for: Duration,
    /// Probes, all of which must succeed; at least 1.
    pub probes: u32,
}

/// Which share of how many.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Trip {
    /// Opens from this share on.
    pub share: Chance,
    /// Not before so many requests in the window.
    pub minimum: u32,
    /// How far back.
    pub window: Duration,
}

/// The breaker of a service or route.
#[derive(Debug)]
pub struct Breaker {
    settings: BreakerSettings,
    errors: Option<(Trip, Window)>,
    latency: Option<(Duration, Trip, Window)>,
    word: AtomicU64,
}

/// What a breaker does at the moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Lets everything through and counts.
    Closed,
    /// Refuses, until this time.
    Open {
        /// In steps of about a millisecond, rounded up.
        until_ns: u64,
    },
    /// Lets probes through.
    HalfOpen {
        /// Probes on their way or done.
        admitted: u32,
        /// Probes that succeeded.
        succeeded: u32,
    },
}

/// A request that was let through. To be settled; dropped unsettled (the client went away) it says nothing.
#[derive(Debug)]
pub struct Pass {
    breaker: Arc<Breaker>,
    phase: u64,
    probe: bool,
    settled: bool,
}

/// State in the upper 2 bits, then the phase, then 40 bits: a time, or two counts.
const PHASE_BITS: u32 = 22;
const REST_BITS: u32 = 40;
const COUNT_BITS: u32 = 20;
/// Times are kept in units of 2^20 ns.
const TIME_SHIFT: u32 = 20;

impl Breaker {
    /// Closed.
    pub fn new(settings: BreakerSettings) -> Self {
        Self {
            settings,
            errors: settings.errors.map(|trip| (trip, Window::new(trip.window))),
            latency: settings.latency.map(|(threshold, trip)| (threshold, trip, Window::new(trip.window))),
            word: AtomicU64::new(pack(0, State::Closed)),
        }
    }

    /// Lets a request through, or says after how long another try makes sense.
    pub fn admit(self: &Arc<Self>, now_ns: u64) -> Result<Pass, Duration> {
        let mut word = self.word.load(Relaxed);
        loop {
            let (phase, state) = unpack(word);
            let next = match state {
                State::Closed => return Ok(self.pass(phase, false)),
                State::Open { until_ns } if now_ns < until_ns => {
                    return Err(Duration::from_nanos(until_ns - now_ns));
                }
                State::Open { .. } => pack(phase + 1, State::HalfOpen { admitted: 1, succeeded: 0 }),
                State::HalfOpen { admitted, .. } if admitted >= self.settings.probes => {
                    return Err(Duration::ZERO);
                }
                State::HalfOpen { admitted, succeeded } => {
                    pack(phase, State::HalfOpen { admitted: admitted + 1, succeeded })
                }
            };
            match self.word.compare_exchange_weak(word, next, Relaxed, Relaxed) {
                Ok(_) => return Ok(self.pass(unpack(next).0, true)),
                Err(other) => word = other,
            }
        }
    }

    /// As it was made.
    pub fn settings(&self) -> &BreakerSettings {
        &self.settings
    }

    /// What it does now.
    pub fn state(&self) -> State {
        unpack(self.word.load(Relaxed)).1
    }

    fn pass(self: &Arc<Self>, phase: u64, probe: bool) -> Pass {
        Pass { breaker: self.clone(), phase, probe, settled: false }
    }

    /// Counts a request of a closed breaker; true if it is time to open.
    fn counted(&self, failed: bool, latency: Duration, now_ns: u64) -> bool {
        let mut trips = false;
        if let Some((trip, window)) = &self.errors {
            trips |= count(trip, window, failed, now_ns);
        }
        if let Some((threshold, trip, window)) = &self.latency {
            trips |= count(trip, window, latency > *threshold, now_ns);
        }
        trips
    }

    fn is_slow(&self, latency: Duration) -> bool {
        self.latency.as_ref().is_some_and(|(threshold, ..)| latency > *threshold)
    }

    /// Goes from the phase of `of` to the next state that `change` names, unless the phase is over.
    fn change(&self, of: u64, change: impl Fn(State) -> Option<(u64, State)>) -> Option<State> {
        let update = |word| {
            let (phase, state) = unpack(word);
            if phase != of & ((1 << PHASE_BITS) - 1) {
                return None;
            }
            change(state).map(|(steps, next)| pack(phase + steps, next))
        };
        let before = self.word.fetch_update(Relaxed, Relaxed, update).ok()?;
        update(before).map(|word| unpack(word).1)
    }

    fn open(&self, of: u64, now_ns: u64) {
        let open_for = u64::try_from(self.settings.open_for.as_nanos()).unwrap_or(u64::MAX);
        let until_ns = now_ns.saturating_add(open_for);
        self.change(of, |_| Some((1, State::Open { until_ns })));
    }

    fn probed(&self, of: u64) {
        let probes = self.settings.probes;
        let after = self.change(of, |state| match state {
            State::HalfOpen { succeeded, .. } if succeeded + 1 >= probes => Some((1, State::Closed)),
            State::HalfOpen { admitted, succeeded } => {
                Some((0, State::HalfOpen { admitted, succeeded: succeeded + 1 }))
            }
            State::Closed | State::Open { .. } => None,
        });
        if after == Some(State::Closed) {
            let windows = self.errors.iter().map(|(_, w)| w).chain(self.latency.iter().map(|(_, _, w)| w));
            windows.for_each(Window::clear);
        }
    }
}

impl Pass {
    /// How it went: whether it failed, and how long its answer took.
    pub fn settle(mut self, failed: bool, latency: Duration, now_ns: u64) {
        self.settled = true;
        let breaker = &self.breaker;
        if !self.probe {
            if unpack(breaker.word.load(Relaxed)).0 == self.phase && breaker.counted(failed, latency, now_ns)
            {
                breaker.open(self.phase, now_ns);
            }
        } else if failed || breaker.is_slow(latency) {
            breaker.open(self.phase, now_ns);
        } else {
            breaker.probed(self.phase);
        }
    }

    /// True if it tries whether the service is well again.
    pub fn is_probe(&self) -> bool {
        self.probe
    }
}

impl Drop for Pass {
    fn drop(&mut self) {
        if self.probe && !self.settled {
            self.breaker.change(self.phase, |state| match state {
                State::HalfOpen { admitted, succeeded } => {
                    Some((0, State::HalfOpen { admitted: admitted.saturating_sub(1), succeeded }))
                }
                State::Closed | State::Open { .. } => None,
            });
        }
    }
}

fn count(trip: &Trip, window: &Window, bad: bool, now_ns: u64) -> bool {
    window.add(1, bad.into(), now_ns);
    // Only a bad one can raise the share.
    if !bad {
        return false;
    }
    let counts = window.counts(now_ns);
    counts.total >= trip.minimum.into() && trip.share.reached(counts.marked, counts.total)
}

fn pack(phase: u64, state: State) -> u64 {
    const REST: u64 = (1 << REST_BITS) - 1;
    const COUNT: u64 = (1 << COUNT_BITS) - 1;
    let (kind, rest) = match state {
        State::Closed => (0, 0),
        State::Open { until_ns } => (1, until_ns.div_ceil(1 << TIME_SHIFT).min(REST)),
        State::HalfOpen { admitted, succeeded } => {
            (2, u64::from(admitted).min(COUNT) << COUNT_BITS | u64::from(succeeded).min(COUNT))
        }
    };
    kind << (PHASE_BITS + REST_BITS) | (phase & ((1 << PHASE_BITS) - 1)) << REST_BITS | rest
}

fn unpack(word: u64) -> (u64, State) {
    let rest = word & ((1 << REST_BITS) - 1);
    let state = match word >> (PHASE_BITS + REST_BITS) {
        0 => State::Closed,
        1 => State::Open { until_ns: rest << TIME_SHIFT },
        _ => State::HalfOpen {
            admitted: (rest >> COUNT_BITS) as u32,
            succeeded: (rest & ((1 << COUNT_BITS) - 1)) as u32,
        },
    };
    (word >> REST_BITS & ((1 << PHASE_BITS) - 1), state)
}

#[cfg(test)]
mod tests;

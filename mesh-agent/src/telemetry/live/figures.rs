//! Figures of one edge or rule: at one moment, or over a while. Pure; how they are packed for `ring` is here too.

use std::collections::BTreeMap;

use crate::flags::Flag;
use crate::telemetry::histogram::{BUCKETS, quantile};

/// Counters, or their differences.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Figures {
    /// Requests by how long they took, in the buckets of the metrics.
    pub(in crate::telemetry) durations: [u64; BUCKETS],
    /// Failed ones.
    pub failures: u64,
    /// Tries after the first.
    pub retries: u64,
    /// Opaque connections opened.
    pub opened: u64,
    /// Opaque connections closed.
    pub closed: u64,
    /// Bytes from server to client.
    pub sent: u64,
    /// Bytes from client to server.
    pub received: u64,
    /// Requests and connections by their flag, without those that ended well.
    pub flags: BTreeMap<Flag, u64>,
    /// Opaque connections that are open now; not of the window.
    pub still_open: u64,
}

impl Figures {
    /// Requests.
    pub fn requests(&self) -> u64 {
        self.durations.iter().sum()
    }

    /// Requests that the upstream answered too late.
    pub fn timeouts(&self) -> u64 {
        self.flags.get(&Flag::UpstreamTimeout).copied().unwrap_or(0)
    }

    /// Share of requests that didn't fail.
    pub fn success(&self) -> Option<f64> {
        let requests = self.requests();
        (requests > 0).then(|| requests.saturating_sub(self.failures) as f64 / requests as f64)
    }

    /// Milliseconds that `share` of the requests took at most.
    pub fn quantile_ms(&self, share: f64) -> Option<f64> {
        quantile(&self.durations, share)
    }

    /// Requests by bucket of latency, without noughts at the end.
    pub fn latency(&self) -> Vec<u64> {
        let used = self.durations.iter().rposition(|n| *n > 0).map_or(0, |last| last + 1);
        self.durations.iter().copied().take(used).collect()
    }

    /// Opaque connections open, by totals.
    pub(super) fn open(&self) -> u64 {
        self.opened.saturating_sub(self.closed)
    }

    pub(super) fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Adds another while.
    pub(super) fn add(&mut self, other: &Self) {
        self.durations.iter_mut().zip(&other.durations).for_each(|(sum, more)| *sum += more);
        for (sum, more) in self.plain_mut().into_iter().zip(other.plain()) {
            *sum += more;
        }
        for (flag, more) in &other.flags {
            *self.flags.entry(*flag).or_default() += more;
        }
    }

    /// What was counted after `earlier`. Counters of one edge never fall.
    pub(super) fn since(&self, earlier: &Self) -> Self {
        let mut passed = self.clone();
        passed.durations.iter_mut().zip(&earlier.durations).for_each(|(n, was)| *n = n.saturating_sub(*was));
        for (n, was) in passed.plain_mut().into_iter().zip(earlier.plain()) {
            *n = n.saturating_sub(was);
        }
        for (flag, n) in &mut passed.flags {
            *n = n.saturating_sub(earlier.flags.get(flag).copied().unwrap_or(0));
        }
        passed.flags.retain(|_, n| *n > 0);
        passed
    }

    fn plain(&self) -> [u64; 6] {
        [self.failures, self.retries, self.opened, self.closed, self.sent, self.received]
    }

    fn plain_mut(&mut self) -> [&mut u64; 6] {
        let Self { failures, retries, opened, closed, sent, received, .. } = self;
        [failures, retries, opened, closed, sent, received]
    }

    /// Appends them in as few bytes as they need: what is nought takes a bit, what is small a byte.
    pub(super) fn pack(&self, out: &mut Vec<u8>) {
        let plain = self.plain();
        let values = || self.durations.iter().chain(&plain);
        let there = values().enumerate().filter(|(_, n)| **n > 0).fold(0, |bits, (i, _)| bits | 1 << i);
        push(out, there);
        values().filter(|n| **n > 0).for_each(|n| push(out, *n));
        push(out, self.flags.len() as u64);
        for (flag, n) in &self.flags {
            push(out, *flag as u64);
            push(out, *n);
        }
    }

    /// Takes from `bytes` what [`Self::pack`] has put there.
    pub(super) fn unpack(bytes: &mut &[u8]) -> Option<Self> {
        let mut figures = Self::default();
        let there = pull(bytes)?;
        for (i, n) in figures.durations.iter_mut().enumerate() {
            if there & 1 << i != 0 {
                *n = pull(bytes)?;
            }
        }
        for (i, n) in figures.plain_mut().into_iter().enumerate() {
            if there & 1 << (BUCKETS + i) != 0 {
                *n = pull(bytes)?;
            }
        }
        for _ in 0..pull(bytes)? {
            let flag = *Flag::ALL.get(usize::try_from(pull(bytes)?).ok()?)?;
            figures.flags.insert(flag, pull(bytes)?);
        }
        Some(figures)
    }
}

/// LEB128: seven bits a byte, the low ones first.
pub(super) fn push(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// Takes from `bytes` what [`push`] has put there.
pub(super) fn pull(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let (byte, rest) = bytes.split_first()?;
        *bytes = rest;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

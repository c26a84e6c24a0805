//! When each certificate is requested and renewed: a state machine without clock, chance or issuer of its own.
//!
//! `run` tells it what is wanted and what came of each request, and asks what to do now. Renewal begins before half of
//! the life that was left when a certificate came; after a failure it waits longer each time, and never so long that what
//! is left could pass without several tries. A certificate goes on serving while its renewal fails.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use super::authority::Life;
use super::id::SpiffeId;

/// Requests under way at the same time (as many as ztunnel's): an issuer isn't flooded when an agent starts.
pub const AT_ONCE: usize = 8;
/// After the first failure; doubled with each up to the most.
const RETRY: Duration = Duration::from_secs(1);
const RETRY_MOST: Duration = Duration::from_secs(60);
/// Of the life that is left, a wait takes at most this part.
const TRIES_LEFT: u32 = 4;
/// Renewal begins up to this part of the remaining life before its half.
const SPREAD: f64 = 0.1;

/// Every identity in use.
#[derive(Debug, Default)]
pub struct Renewals {
    entries: BTreeMap<SpiffeId, Entry>,
}

#[derive(Debug)]
struct Entry {
    /// When it is requested next.
    due: SystemTime,
    asking: bool,
    failures: u32,
    /// The certificate that serves, and when half of what was left of it is over.
    serving: Option<(Life, SystemTime)>,
    warned: bool,
}

/// How an identity stands, for people.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stand {
    /// When it is requested next. None: it is being requested.
    pub next: Option<SystemTime>,
    /// Failures since the last success.
    pub failures: u32,
    /// Half of the remaining life is over and no renewal succeeded.
    pub late: bool,
}

impl Renewals {
    /// Requests `id` as soon as there is room.
    pub fn want(&mut self, id: SpiffeId, now: SystemTime) {
        let entry = Entry { due: now, asking: false, failures: 0, serving: None, warned: false };
        self.entries.insert(id, entry);
    }

    /// Forgets every identity that isn't kept. A request of such a one that is under way is of no interest any more.
    pub fn retain(&mut self, keep: impl Fn(&SpiffeId) -> bool) {
        self.entries.retain(|id, _| keep(id));
    }

    /// Those to request now, which counts them as being requested: the ones without a certificate first, then those that
    /// expire first.
    pub fn start(&mut self, now: SystemTime) -> Vec<SpiffeId> {
        let room = AT_ONCE.saturating_sub(self.entries.values().filter(|entry| entry.asking).count());
        let mut due: Vec<_> = self.entries.iter_mut().filter(|(_, entry)| entry.is_due(now)).collect();
        due.sort_by_key(|(_, entry)| (entry.serving.map(|(life, _)| life.not_after), entry.due));
        due.truncate(room);
        let begin = |(id, entry): (&SpiffeId, &mut Entry)| {
            entry.asking = true;
            id.clone()
        };
        due.into_iter().map(begin).collect()
    }

    /// A certificate came. `chance` is in 0 to 1.
    pub fn issued(&mut self, id: &SpiffeId, life: Life, now: SystemTime, chance: f64) {
        let Some(entry) = self.entries.get_mut(id) else { return };
        let left = life.not_after.duration_since(now).unwrap_or_default();
        entry.due = now + left.mul_f64(0.5 - SPREAD * chance.clamp(0.0, 1.0));
        entry.serving = Some((life, now + left / 2));
        (entry.asking, entry.failures, entry.warned) = (false, 0, false);
    }

    /// None came. Returns for how long nothing is asked.
    pub fn failed(&mut self, id: &SpiffeId, now: SystemTime, chance: f64) -> Duration {
        let Some(entry) = self.entries.get_mut(id) else { return Duration::ZERO };
        let doubled = RETRY.saturating_mul(1 << entry.failures.min(16)).min(RETRY_MOST);
        let left = entry.serving.and_then(|(life, _)| life.not_after.duration_since(now).ok());
        let bound = left.map_or(RETRY_MOST, |left| (left / TRIES_LEFT).max(RETRY));
        // Half of it by chance, so that agents that failed together don't come back together.
        let wait = doubled.min(bound).mul_f64(0.5 + 0.5 * chance.clamp(0.0, 1.0));
        entry.due = now + wait;
        (entry.asking, entry.failures) = (false, entry.failures.saturating_add(1));
        wait
    }

    /// Requests all of them anew within `spread`, as `chance` has it for each: the issuer has changed.
    pub fn hurry(&mut self, now: SystemTime, spread: Duration, mut chance: impl FnMut() -> f64) {
        for entry in self.entries.values_mut() {
            let wait = if entry.serving.is_some() { spread.mul_f64(chance()) } else { Duration::ZERO };
            entry.due = entry.due.min(now + wait);
        }
    }

    /// Those whose renewal has failed beyond half of their remaining life since the last call: each is said once.
    pub fn newly_late(&mut self, now: SystemTime) -> Vec<SpiffeId> {
        let late = |(id, entry): (&SpiffeId, &mut Entry)| {
            let news = entry.is_late(now) && !entry.warned;
            entry.warned |= news;
            news.then(|| id.clone())
        };
        self.entries.iter_mut().filter_map(late).collect()
    }

    /// How `id` stands.
    pub fn stand(&self, id: &SpiffeId, now: SystemTime) -> Option<Stand> {
        let entry = self.entries.get(id)?;
        let next = (!entry.asking).then_some(entry.due);
        Some(Stand { next, failures: entry.failures, late: entry.is_late(now) })
    }

    /// How long nothing happens by itself. None: nothing will.
    pub fn idle_for(&self, now: SystemTime) -> Option<Duration> {
        let full = self.entries.values().filter(|entry| entry.asking).count() >= AT_ONCE;
        let next = |entry: &Entry| {
            let due = (!entry.asking && !full).then(|| entry.wait(now));
            let late = entry.serving.filter(|_| entry.failures > 0 && !entry.warned);
            let late = late.map(|(_, half)| half.duration_since(now).unwrap_or_default());
            due.into_iter().chain(late).min()
        };
        self.entries.values().filter_map(next).min()
    }
}

impl Entry {
    fn is_due(&self, now: SystemTime) -> bool {
        !self.asking && self.wait(now).is_zero()
    }

    /// A try that is further away than tries are ever put off means that the clock was set back: then it is now. A renewal
    /// is as far away as its certificate's end.
    fn wait(&self, now: SystemTime) -> Duration {
        let wait = self.due.duration_since(now).unwrap_or_default();
        let renews = self.failures == 0 && self.serving.is_some();
        if wait > RETRY_MOST && !renews { Duration::ZERO } else { wait }
    }

    fn is_late(&self, now: SystemTime) -> bool {
        self.failures > 0 && self.serving.is_some_and(|(_, half)| now >= half)
    }
}

#[cfg(test)]
mod tests;

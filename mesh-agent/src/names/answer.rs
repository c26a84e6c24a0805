//! What a name stands for, now and until a moment ago, and how often it was asked for.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use std::sync::atomic::{AtomicU64, AtomicUsize};
use std::time::Duration;

use tokio::time::Instant;

use super::resolver::Failure;

/// An application may go on using an answer that it got before ours for a while, whatever the TTL was.
const REMEMBERED: Duration = Duration::from_secs(600);
/// Names that stand for thousands of addresses by turns are not remembered without end.
const MOST: usize = 256;

/// What the thread of names found out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The name.
    pub name: String,
    /// Its addresses, or why there is no answer.
    pub result: Result<Addresses, String>,
}

/// The addresses of a name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Addresses {
    /// Of the newest answer, in its order. Connections go there.
    pub newest: Vec<IpAddr>,
    /// Of that and of those of the last while, sorted. What is dialled there is meant for the name.
    pub known: Vec<IpAddr>,
}

/// One name's answers.
#[derive(Debug, Default)]
pub(super) struct Memory {
    until: BTreeMap<IpAddr, Instant>,
    told: Option<Result<Addresses, String>>,
}

impl Memory {
    /// Takes a new answer up, which is good for `ttl`.
    pub(super) fn remember(&mut self, newest: Vec<IpAddr>, now: Instant, ttl: Duration) -> Addresses {
        self.until.retain(|_, until| *until > now);
        for ip in &newest {
            self.until.insert(*ip, now + ttl + REMEMBERED);
        }
        while self.until.len() > MOST.max(newest.len()) {
            let oldest = self.until.iter().min_by_key(|(_, until)| **until).map(|(ip, _)| *ip);
            oldest.and_then(|ip| self.until.remove(&ip));
        }
        Addresses { newest, known: self.until.keys().copied().collect() }
    }

    /// False if the same was said before.
    pub(super) fn is_news(&mut self, result: &Result<Addresses, String>) -> bool {
        let news = self.told.as_ref() != Some(result);
        if news {
            self.told = Some(result.clone());
        }
        news
    }
}

/// Counts for the metrics, and for who takes another agent's place.
#[derive(Debug, Default)]
pub struct Stats {
    resolved: AtomicU64,
    nothing: AtomicU64,
    failed: AtomicU64,
    unanswered: AtomicUsize,
}

impl Stats {
    /// Questions so far by what came of them.
    pub fn counts(&self) -> [(&'static str, u64); 3] {
        [
            ("resolved", self.resolved.load(Relaxed)),
            ("no_address", self.nothing.load(Relaxed)),
            ("failed", self.failed.load(Relaxed)),
        ]
    }

    /// Says how many names of the snapshot that is published next have had neither an answer nor a failure.
    pub fn set_unanswered(&self, names: usize) {
        self.unanswered.store(names, Release);
    }

    /// True if the newest snapshot lacks what is behind a name only because it wasn't asked for yet.
    pub fn are_awaited(&self) -> bool {
        self.unanswered.load(Acquire) > 0
    }

    pub(super) fn resolved(&self) {
        self.resolved.fetch_add(1, Relaxed);
    }

    pub(super) fn failed(&self, failure: &Failure) {
        let count = match failure {
            Failure::NoAddress => &self.nothing,
            Failure::Failed(_) | Failure::Configuration(_) => &self.failed,
        };
        count.fetch_add(1, Relaxed);
    }
}

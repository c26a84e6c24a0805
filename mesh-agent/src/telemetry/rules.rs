//! Requests by the rule of a route that they went by, for `routes` and `top`; not in the metrics, whose labels are Istio's.
//!
//! A rule finds its counters once for each Service that it is attached to, and counts with one relaxed addition. They
//! outlive the rule: one that is compiled again goes on where the old one was.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use super::edge::next_id;
use super::histogram::Histogram;
use super::live::Figures;
use super::{Metrics, RequestReport};
use crate::model::ObjectName;

/// Pairs of rule and Service that are counted; those beyond aren't.
const MOST: usize = 1024;

/// Which rule, and for requests to which Service.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct RuleAbout {
    /// `HTTPRoute` or `GRPCRoute`.
    pub kind: &'static str,
    /// The route.
    pub route: ObjectName,
    /// Its name, or else its place from 0.
    pub rule: String,
    /// The Service that was called.
    pub service: ObjectName,
}

/// Counters of one rule and Service.
#[derive(Debug)]
pub struct RuleSeries {
    pub(super) id: u64,
    pub(super) about: Arc<RuleAbout>,
    durations: Histogram,
    failures: AtomicU64,
}

impl RuleSeries {
    /// Counts one request.
    fn count(&self, report: &RequestReport) {
        let micros = u64::try_from(report.duration.as_micros()).unwrap_or(u64::MAX);
        self.durations.count_milli(micros);
        if report.is_failure() {
            self.failures.fetch_add(1, Relaxed);
        }
    }

    pub(super) fn figures(&self) -> Figures {
        Figures {
            durations: self.durations.buckets(),
            failures: self.failures.load(Relaxed),
            ..Figures::default()
        }
    }
}

/// A rule's counters, as the rule itself keeps them: a list that only grows, by the Services that it is attached to.
#[derive(Debug, Default)]
pub struct RuleCounters {
    first: OnceLock<Box<Node>>,
}

#[derive(Debug)]
struct Node {
    service: ObjectName,
    /// None where all the places were taken.
    series: Option<Arc<RuleSeries>>,
    next: OnceLock<Box<Node>>,
}

impl RuleCounters {
    /// Counts a request to `service`. `about` is asked, and a lock taken, for the first one alone.
    pub fn count(
        &self,
        service: &ObjectName,
        report: &RequestReport,
        metrics: &Metrics,
        about: impl Fn() -> RuleAbout,
    ) {
        let mut slot = &self.first;
        loop {
            let node = slot.get_or_init(|| {
                let series = metrics.rules().series(&about());
                Box::new(Node { service: service.clone(), series, next: OnceLock::new() })
            });
            if node.service == *service {
                return node.series.iter().for_each(|series| series.count(report));
            }
            slot = &node.next;
        }
    }
}

/// All counters of rules, shared by the rules that go by the same name one after the other.
#[derive(Debug, Default)]
pub struct Rules {
    series: Mutex<HashMap<Arc<RuleAbout>, Entry>>,
}

#[derive(Debug)]
struct Entry {
    series: Arc<RuleSeries>,
    /// Requests at the last sweep, and since when it is so many.
    seen: u64,
    since: Instant,
}

impl Rules {
    fn series(&self, about: &RuleAbout) -> Option<Arc<RuleSeries>> {
        let mut all = self.lock();
        if let Some(entry) = all.get(about) {
            return Some(entry.series.clone());
        }
        if all.len() >= MOST {
            return None;
        }
        let about = Arc::new(about.clone());
        let series = Arc::new(RuleSeries {
            id: next_id(),
            about: about.clone(),
            durations: Histogram::default(),
            failures: AtomicU64::new(0),
        });
        all.insert(about, Entry { series: series.clone(), seen: 0, since: Instant::now() });
        Some(series)
    }

    pub(super) fn list(&self) -> Vec<Arc<RuleSeries>> {
        self.lock().values().map(|entry| entry.series.clone()).collect()
    }

    /// Lets go of what no rule holds and nobody used for `idle`.
    pub(super) fn expire(&self, now: Instant, idle: Duration) {
        self.lock().retain(|_, entry| {
            let count = entry.series.durations.count();
            if Arc::strong_count(&entry.series) > 1 || count != entry.seen {
                (entry.seen, entry.since) = (count, now);
            }
            now.duration_since(entry.since) < idle
        });
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Arc<RuleAbout>, Entry>> {
        // Every change to the map is one call: a panic elsewhere can't leave it half done.
        self.series.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

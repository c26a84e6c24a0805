//! What passed in the last half hour, in buckets of ten seconds, for `stat`, `edges`, `routes`, `top` and the page.
//!
//! The control loop reads the counters that the data path keeps anyway and notes their differences: `metrics` hands over
//! edges, `rules` the rules of routes, `ring` keeps. What is asked between two buckets is read on demand, so that a
//! newcomer sees figures at once. The data path knows nothing of it.

mod figures;
mod ring;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

pub use figures::Figures;
use ring::Ring;

use super::edge::{Edge, EdgeAbout};
use super::rules::{RuleAbout, RuleSeries};

/// How long a bucket is.
pub const BUCKET: Duration = Duration::from_secs(10);
/// Full buckets that are kept: half an hour.
pub const BUCKETS: usize = 180;
/// What the buckets of all edges may take together; the oldest go where it is more. 4096 edges whose requests fall into a
/// few buckets of latency fit for the half hour.
pub const MOST_BYTES: usize = 16 << 20;

/// What an edge's figures are of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Carried {
    /// Requests of any version of HTTP.
    Http,
    /// gRPC.
    Grpc,
    /// Opaque connections.
    Tcp,
}

impl Carried {
    /// As `request_protocol` says it.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Grpc => "grpc",
            Self::Tcp => "tcp",
        }
    }
}

/// What is counted: whoever has the same name is the same.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Subject {
    /// An edge, by what it carries.
    Edge(Arc<EdgeAbout>, Carried),
    /// A rule of a route.
    Rule(Arc<RuleAbout>),
}

/// The differences of counters over the last while.
#[derive(Debug)]
pub struct Live {
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    ring: Ring,
    /// By the counter's own number, which is never given twice, and what it carries.
    known: HashMap<(u64, Option<Carried>), Known>,
    next: u32,
}

/// A counter that was seen.
#[derive(Debug)]
struct Known {
    /// Its number in the ring.
    row: u32,
    subject: Subject,
    /// What it said last.
    last: Figures,
    /// It was there at the last look.
    is_there: bool,
    /// When it last moved, as the ring numbers buckets.
    moved: u64,
}

/// Counters at one moment, as the ring is fed with them.
#[derive(Debug, Default)]
pub(super) struct Reading {
    pub(super) edges: Vec<Arc<Edge>>,
    pub(super) rules: Vec<Arc<RuleSeries>>,
}

/// Figures over a window, and what the window really is.
#[derive(Debug)]
pub struct Window {
    /// What was asked for, in whole buckets.
    pub wanted: Duration,
    /// What the figures are of; never less than a second.
    pub covered: Duration,
    /// Its end.
    pub at: SystemTime,
    /// By subject, in no order; with connections that are open now.
    pub rows: Vec<(Subject, Figures)>,
}

/// Figures bucket by bucket.
#[derive(Debug)]
pub struct Course {
    /// What was asked for, in whole buckets.
    pub wanted: Duration,
    /// Start of the first bucket.
    pub from: SystemTime,
    /// Its end.
    pub at: SystemTime,
    /// By subject, in no order; buckets oldest first, without empty ones.
    pub rows: Vec<(Subject, Vec<(SystemTime, Figures)>)>,
}

impl Live {
    pub(super) fn new(now: SystemTime) -> Self {
        let ring = Ring::new(BUCKET, BUCKETS, MOST_BYTES, millis(now));
        Self { state: Mutex::new(State { ring, known: HashMap::new(), next: 0 }) }
    }

    /// True once the newest bucket is full.
    pub(super) fn is_due(&self, now: SystemTime) -> bool {
        self.lock().ring.is_due(millis(now))
    }

    /// Notes what changed since the last time.
    pub(super) fn sample(&self, reading: &Reading, now: SystemTime) {
        self.lock().sample(reading, millis(now));
    }

    /// What passed within `window` and in the newest bucket.
    pub(super) fn window(&self, window: Duration, now: SystemTime) -> Window {
        let state = self.lock();
        let span = state.ring.span(window, millis(now));
        let mut rows: HashMap<&Subject, Figures> = HashMap::new();
        let subjects = state.subjects();
        state.ring.read(span.from, |_, row, figures| {
            if let Some(subject) = subjects.get(&row) {
                rows.entry(subject).or_default().add(figures);
            }
        });
        for known in state.known.values().filter(|known| known.is_there) {
            let open = known.last.open();
            if open > 0 {
                rows.entry(&known.subject).or_default().still_open += open;
            }
        }
        Window {
            wanted: span.wanted,
            covered: span.covered,
            at: now,
            rows: rows.into_iter().map(|(subject, figures)| (subject.clone(), figures)).collect(),
        }
    }

    /// What passed within `window` and in the newest bucket, by bucket.
    pub(super) fn course(&self, window: Duration, now: SystemTime) -> Course {
        let state = self.lock();
        let span = state.ring.span(window, millis(now));
        let mut rows: HashMap<&Subject, Vec<(u64, Figures)>> = HashMap::new();
        let subjects = state.subjects();
        state.ring.read(span.from, |start, row, figures| {
            let Some(subject) = subjects.get(&row) else { return };
            let buckets = rows.entry(subject).or_default();
            match buckets.last_mut().filter(|(at, _)| *at == start) {
                Some((_, sum)) => sum.add(figures),
                None => buckets.push((start, figures.clone())),
            }
        });
        let dated = |buckets: Vec<(u64, Figures)>| {
            buckets.into_iter().map(|(start, figures)| (time(start), figures)).collect()
        };
        Course {
            wanted: span.wanted,
            from: time(span.from),
            at: now,
            rows: rows.into_iter().map(|(subject, buckets)| (subject.clone(), dated(buckets))).collect(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Figures are all that a panic could leave half noted.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn sample(&mut self, reading: &Reading, now: u64) {
        self.known.values_mut().for_each(|known| known.is_there = false);
        for edge in &reading.edges {
            for (carried, figures) in edge.figures() {
                let subject = || Subject::Edge(edge.about.clone(), carried);
                self.note((edge.id, Some(carried)), subject, figures);
            }
        }
        for rule in &reading.rules {
            self.note((rule.id, None), || Subject::Rule(rule.about.clone()), rule.figures());
        }
        // Whatever passed since the last look is of the bucket in which that was.
        self.ring.advance(now);
        let oldest = self.ring.oldest();
        self.known.retain(|_, known| known.is_there || known.moved >= oldest);
    }

    fn note(&mut self, id: (u64, Option<Carried>), subject: impl Fn() -> Subject, figures: Figures) {
        let next = &mut self.next;
        let known = self.known.entry(id).or_insert_with(|| {
            let row = *next;
            *next = next.wrapping_add(1);
            Known { row, subject: subject(), last: Figures::default(), is_there: true, moved: 0 }
        });
        known.is_there = true;
        let passed = figures.since(&known.last);
        if !passed.is_empty() {
            known.moved = self.ring.newest();
            self.ring.add(known.row, &passed);
            known.last = figures;
        }
    }

    fn subjects(&self) -> HashMap<u32, &Subject> {
        self.known.values().map(|known| (known.row, &known.subject)).collect()
    }
}

fn millis(time: SystemTime) -> u64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

fn time(millis: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_millis(millis)
}

#[cfg(test)]
mod tests;

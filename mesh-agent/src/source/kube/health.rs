//! How the watches are: when each was last heard of, what failed how often. Written by them, read by metrics and `status`.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use crate::kube::Failure;

/// Of all watches of one source; empty where the source is a directory.
#[derive(Debug)]
pub struct Health {
    began: Instant,
    of: OnceLock<Watched>,
    errors: [AtomicU64; Failure::ALL.len()],
}

#[derive(Debug)]
struct Watched {
    server: String,
    cells: Vec<Cell>,
}

#[derive(Debug)]
struct Cell {
    name: &'static str,
    connected: AtomicBool,
    /// There is no such resource: what is known of it is what the last watch, of what there is, knows.
    missing: AtomicBool,
    /// Milliseconds since the beginning, and one; 0 for never.
    heard: AtomicU64,
    lists: AtomicU64,
    objects: AtomicU64,
}

/// How one watch is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResourceHealth {
    /// What is watched.
    pub name: &'static str,
    /// What changes is told at once.
    pub connected: bool,
    /// Since the API server last said anything; none if it never did.
    pub age: Option<Duration>,
    /// How often everything was read again.
    pub relists: u64,
    /// How many objects are known.
    pub objects: u64,
}

impl Default for Health {
    fn default() -> Self {
        Self { began: Instant::now(), of: OnceLock::new(), errors: Default::default() }
    }
}

impl Health {
    /// Names the API server and what is watched, once; the last is the watch of what there is.
    pub fn begin(&self, server: String, names: impl Iterator<Item = &'static str>) {
        let cell = |name| Cell {
            name,
            connected: AtomicBool::new(false),
            missing: AtomicBool::new(false),
            heard: AtomicU64::new(0),
            lists: AtomicU64::new(0),
            objects: AtomicU64::new(0),
        };
        // A second source of the same process would be told of in the first one's place.
        let _ = self.of.set(Watched { server, cells: names.map(cell).collect() });
    }

    /// URL of the API server; none where there is none.
    pub fn server(&self) -> Option<&str> {
        self.of.get().map(|watched| watched.server.as_str())
    }

    /// The API server said something to watch `at`.
    pub fn heard(&self, at: usize) {
        if let Some(cell) = self.cell(at) {
            cell.heard.store(self.now_ms() + 1, Relaxed);
        }
    }

    /// Watch `at` is told of what changes, or no more.
    pub fn set_connected(&self, at: usize, connected: bool) {
        if let Some(cell) = self.cell(at) {
            cell.connected.store(connected, Relaxed);
        }
    }

    /// There is nothing to watch for `at`.
    pub fn set_missing(&self, at: usize) {
        if let Some(cell) = self.cell(at) {
            cell.missing.store(true, Relaxed);
        }
    }

    /// Watch `at` has read everything.
    pub fn listed(&self, at: usize) {
        if let Some(cell) = self.cell(at) {
            cell.missing.store(false, Relaxed);
            cell.lists.fetch_add(1, Relaxed);
        }
    }

    /// Watch `at` knows so many objects.
    pub fn set_objects(&self, at: usize, objects: usize) {
        if let Some(cell) = self.cell(at) {
            cell.objects.store(objects as u64, Relaxed);
        }
    }

    /// A request came to this.
    pub fn failed(&self, failure: Failure) {
        if let Some(at) = Failure::ALL.iter().position(|known| *known == failure) {
            self.errors[at].fetch_add(1, Relaxed);
        }
    }

    /// How every watch is.
    pub fn resources(&self) -> Vec<ResourceHealth> {
        let now = self.now_ms();
        let Some(Watched { cells, .. }) = self.of.get() else { return Vec::new() };
        let view = |cell: &Cell| {
            let knows = cells.last().filter(|_| cell.missing.load(Relaxed)).unwrap_or(cell);
            let heard = knows.heard.load(Relaxed).checked_sub(1);
            ResourceHealth {
                name: cell.name,
                connected: knows.connected.load(Relaxed),
                age: heard.map(|at| Duration::from_millis(now.saturating_sub(at))),
                relists: cell.lists.load(Relaxed).saturating_sub(1),
                objects: cell.objects.load(Relaxed),
            }
        };
        cells.iter().map(view).collect()
    }

    /// How often requests came to what.
    pub fn errors(&self) -> impl Iterator<Item = (&'static str, u64)> {
        Failure::ALL.into_iter().map(Failure::label).zip(self.errors.iter().map(|count| count.load(Relaxed)))
    }

    fn cell(&self, at: usize) -> Option<&Cell> {
        self.of.get()?.cells.get(at)
    }

    fn now_ms(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_watch_is_as_old_as_what_was_last_heard_of_it() {
        let health = Health::default();
        assert!(health.server().is_none() && health.resources().is_empty());
        health.begin("https://api".to_owned(), ["pods", "nodes"].into_iter());
        health.heard(1);
        health.set_connected(1, true);
        (0..3).for_each(|_| health.listed(1));
        health.failed(Failure::Expired);
        let all = health.resources();
        assert_eq!((all[0].name, all[0].connected, all[0].age, all[0].relists), ("pods", false, None, 0));
        assert!(all[1].connected && all[1].age.is_some_and(|age| age < Duration::from_secs(60)));
        assert_eq!(all[1].relists, 2);
        health.set_missing(0);
        assert!(health.resources()[0].connected, "what isn't there is watched by looking for it");
        health.set_connected(1, false);
        assert!(!health.resources()[0].connected);
        health.listed(0);
        health.set_connected(0, true);
        assert!(health.resources()[0].connected);
        assert_eq!(health.errors().filter(|(_, count)| *count > 0).collect::<Vec<_>>(), [("expired", 1)]);
    }
}

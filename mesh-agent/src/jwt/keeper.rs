//! The thread that keeps key sets fresh: a task for each source, for as long as a rule has it. Never on a request's way.
//!
//! Told of sources by whoever publishes snapshots. `schedule` says when, `fetch` how, `remote` is where workers find what
//! came of it. A fetch that fails leaves the last good copy in force.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::task::{LocalSet, spawn_local};
use tokio::time::{Instant, sleep_until};

use super::fetch::{self, Fetched};
use super::reach::Reach;
use super::remote::{Remote, Store};
use super::schedule::{self, SHORTEST};
use crate::model::SnapshotHandle;

/// What fetches can come to: labels of `mesh_agent_jwks_fetches_total`.
pub const OUTCOMES: [&str; 11] = [
    "fetched",
    "unresolved",
    "forbidden_address",
    "unreachable",
    "tls",
    "broken",
    "timeout",
    "status",
    "redirect",
    "too_large",
    "invalid",
];

/// What the thread has done, for the metrics.
#[derive(Debug, Default)]
pub struct Stats {
    fetches: [AtomicU64; OUTCOMES.len()],
    remotes: Mutex<Vec<Weak<Remote>>>,
}

impl Stats {
    /// How often fetches came to what.
    pub fn fetches(&self) -> impl Iterator<Item = (&'static str, u64)> {
        OUTCOMES.into_iter().zip(self.fetches.iter().map(|count| count.load(Relaxed)))
    }

    /// Each source in use with the age of its copy; None without one.
    pub fn ages(&self) -> Vec<(String, Option<Duration>)> {
        let mut remotes = self.remotes.lock().unwrap_or_else(PoisonError::into_inner);
        remotes.retain(|remote| remote.strong_count() > 0);
        let living = remotes.iter().filter_map(Weak::upgrade);
        living.map(|remote| (remote.spec().source.to_string(), remote.age())).collect()
    }

    fn count(&self, outcome: &'static str) {
        if let Some(at) = OUTCOMES.iter().position(|known| *known == outcome) {
            self.fetches[at].fetch_add(1, Relaxed);
        }
    }
}

/// The owner's end of the thread, which ends with it.
#[derive(Debug)]
pub struct Keeper {
    reach: Reach,
    stats: Arc<Stats>,
    told: Option<UnboundedSender<Weak<Remote>>>,
}

impl Keeper {
    /// Starts no thread before there is a source. `snapshot` says where Services are.
    pub fn new(snapshot: SnapshotHandle, cluster_domain: String, stats: Arc<Stats>) -> Self {
        Self { reach: Reach::new(snapshot, cluster_domain), stats, told: None }
    }

    /// Keeps every source fresh that a rule has.
    ///
    /// # Errors
    /// If the thread can't be had; tried again with the next call.
    pub fn follow(&mut self, store: &Store) -> io::Result<()> {
        let all = store.all();
        if all.is_empty() {
            return Ok(());
        }
        let told = match &self.told {
            Some(told) => told,
            None => {
                let (send, receive) = unbounded_channel();
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
                let (reach, stats) = (self.reach.clone(), self.stats.clone());
                std::thread::Builder::new()
                    .name("jwks".into())
                    .spawn(move || LocalSet::new().block_on(&runtime, run(receive, &reach, &stats)))?;
                self.told.insert(send)
            }
        };
        for remote in all {
            if remote.take_up() {
                let remote = Arc::downgrade(&remote);
                self.stats.remotes.lock().unwrap_or_else(PoisonError::into_inner).push(remote.clone());
                // The thread ends with this end of the channel only.
                let _ = told.send(remote);
            }
        }
        Ok(())
    }
}

async fn run(mut told: UnboundedReceiver<Weak<Remote>>, reach: &Reach, stats: &Arc<Stats>) {
    while let Some(remote) = told.recv().await {
        spawn_local(keep(remote, reach.clone(), stats.clone()));
    }
}

/// Fetches one source's keys again and again until no rule has it any more.
async fn keep(remote: Weak<Remote>, reach: Reach, stats: Arc<Stats>) {
    let mut failures = 0;
    while let Some(current) = remote.upgrade() {
        let wait = match fetch::fetch(current.spec(), &reach).await {
            Ok(Fetched { keys, max_age }) => {
                stats.count("fetched");
                if failures > 0 || current.keys().is_none() {
                    tracing::info!(source = %current.spec().source, keys = keys.len(), "keys for tokens are fetched");
                }
                failures = 0;
                current.learn(keys);
                schedule::after_success(max_age)
            }
            Err(error) => {
                stats.count(error.label());
                failures += 1;
                let told = fetch::told(&error);
                if current.problem().as_deref() != Some(&*told) {
                    let former = current.keys().is_some();
                    tracing::warn!(source = %current.spec().source, error = told, former, "keys for tokens can't be fetched");
                }
                current.failed(told);
                schedule::after_failure(failures, fastrand::u8(..))
            }
        };
        let now = Instant::now();
        let (earliest, next) = (now + SHORTEST.min(wait), now + wait);
        drop(current);
        sleep_until(earliest).await;
        // Borrowed for the wait alone, or the source would outlive its rules by it.
        while Instant::now() < next && !hurried(&remote, next).await {}
    }
}

/// How long a source may be waited for before it is seen whether any rule still has it.
const LOOK: Duration = Duration::from_secs(60);

/// True once somebody asked for a fetch, or no rule has the source any more; false after a while.
async fn hurried(remote: &Weak<Remote>, until: Instant) -> bool {
    let Some(current) = remote.upgrade() else { return true };
    tokio::select! {
        () = current.hurried() => true,
        () = sleep_until(until.min(Instant::now() + LOOK)) => false,
    }
}

#[cfg(test)]
mod tests;

//! The history between the source's thread, which writes it, and the admin socket, which shows it and asks for rollbacks.
//!
//! The file follows at most once a second, and never takes more than a twentieth of the thread's time.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use super::{Entry, History, file};

/// Changes that come within this are written together.
const DEBOUNCE: Duration = Duration::from_secs(1);
/// A write that took long is followed by a pause of so many times its length.
const PAUSE: u32 = 20;
/// After a write that failed.
const RETRY: Duration = Duration::from_secs(30);

/// Asks the source's thread for a rollback (`Some` generation) or a release (`None`).
#[derive(Debug)]
pub struct Request {
    /// Which generation.
    pub generation: Option<u64>,
    /// Said once it is in force and written, or why not. A dropped answer means that the source ended.
    pub answer: oneshot::Sender<Result<(), String>>,
}

/// Takes requests; false if nobody does any more.
type Taker = Box<dyn Fn(Request) -> bool + Send>;

/// One history. Cloning shares it.
#[derive(Clone, Default)]
pub struct Shared {
    state: Arc<Mutex<State>>,
    taker: Arc<Mutex<Option<Taker>>>,
}

#[derive(Default)]
struct State {
    history: History,
    path: Option<PathBuf>,
    /// When the file shall be written; none while it says what the history says.
    due: Option<Instant>,
    not_before: Option<Instant>,
}

impl Shared {
    /// What an earlier agent left in the state directory, and where this one writes.
    pub fn open(state_dir: &Path) -> Self {
        let path = state_dir.join(file::NAME);
        let state = State { history: file::load(&path), path: Some(path), ..State::default() };
        Self { state: Arc::new(Mutex::new(state)), taker: Arc::default() }
    }

    /// The history at this moment.
    pub fn get(&self) -> History {
        self.lock().history.clone()
    }

    /// Reads without copying.
    pub fn with<T>(&self, read: impl FnOnce(&History) -> T) -> T {
        read(&self.lock().history)
    }

    /// Adds a generation.
    pub fn record(&self, entry: Entry) {
        let mut state = self.lock();
        state.history.record(entry);
        state.touch(Instant::now());
    }

    /// Brings the newest entry's figures up to date. Discovery alone is no reason to write.
    pub fn note(&self, warnings: usize, discovery: u64) {
        let mut state = self.lock();
        if state.history.note(warnings, discovery) {
            state.touch(Instant::now());
        }
    }

    /// From now on nothing is written: the file is a successor's.
    pub fn release(&self) {
        self.lock().path = None;
    }

    /// When [`Shared::save`] wants to be called.
    pub fn due(&self) -> Option<Instant> {
        self.lock().due
    }

    /// Writes the file if it is due at `now`.
    pub fn save(&self, now: Instant) {
        if self.due().is_some_and(|due| due <= now) {
            self.flush();
        }
    }

    /// Writes the file now if it doesn't say what the history says.
    pub fn flush(&self) {
        let (path, history) = {
            let mut state = self.lock();
            if state.due.take().is_none() {
                return;
            }
            let Some(path) = state.path.clone() else { return };
            (path, state.history.clone())
        };
        // Not under the lock: a slow disk doesn't hold up whoever asks.
        let started = Instant::now();
        let written = file::save(&path, &history);
        let mut state = self.lock();
        let now = Instant::now();
        state.not_before = Some(now + (now - started) * PAUSE);
        if let Err(error) = written {
            tracing::warn!(
                file = %path.display(),
                %error,
                "the history of configuration can't be written: it, and a rollback, won't survive a restart; trying again"
            );
            state.due = Some(now + RETRY);
        }
    }

    /// From now on `taker` gets what is asked for.
    pub fn serve(&self, taker: impl Fn(Request) -> bool + Send + 'static) {
        *self.taker.lock().unwrap_or_else(PoisonError::into_inner) = Some(Box::new(taker));
    }

    /// Asks for a rollback or a release; `None` if nobody answers.
    pub async fn ask(&self, generation: Option<u64>) -> Option<Result<(), String>> {
        let (answer, answered) = oneshot::channel();
        let taken = {
            let taker = self.taker.lock().unwrap_or_else(PoisonError::into_inner);
            taker.as_ref().is_some_and(|taker| taker(Request { generation, answer }))
        };
        if taken { answered.await.ok() } else { None }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn touch(&mut self, now: Instant) {
        let earliest = (now + DEBOUNCE).max(self.not_before.unwrap_or(now));
        self.due.get_or_insert(earliest);
    }
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared")
            .field("generations", &self.lock().history.entries.len())
            .finish_non_exhaustive()
    }
}

//! Where objects come from: a watched directory (a later version: the API server).
//!
//! A thread of its own reads, parses and builds, so that neither the data path nor the control runtime ever waits for
//! configuration. What comes out is one snapshot after the other in a [`SnapshotHandle`], and the current warnings.

mod coverage;
mod directory;
mod document;
mod file;
mod force;
mod parse;
mod split;
mod validate;
mod watch;

use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use arc_swap::ArcSwap;
use tokio::sync::watch::Sender;

pub use coverage::{Coverage, CoverageHandle};
pub use directory::{Directory, Touched};
pub use validate::{Report, validate};
pub use watch::SourceThread;

use crate::history;
use crate::jwt;
use crate::model::build::{BuildOptions, Builder};
use crate::model::{SnapshotHandle, Warning};
use crate::names;
use crate::objects::{Object, ObjectKey};

/// `--source`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// A directory of YAML files.
    Dir(PathBuf),
}

impl std::fmt::Display for Source {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Dir(path) => write!(f, "dir:{}", path.display()),
        }
    }
}

/// What changed between two looks at the source. An object is in at most one of the two.
#[derive(Debug, Default)]
pub struct Changes {
    /// New or different.
    pub upserts: Vec<Arc<Object>>,
    /// Gone.
    pub deletes: Vec<ObjectKey>,
}

impl Changes {
    /// True if nothing changed.
    pub fn is_empty(&self) -> bool {
        self.upserts.is_empty() && self.deletes.is_empty()
    }
}

/// What is wrong right now, sorted; replaced as a whole.
pub type WarningsHandle = Arc<ArcSwap<Vec<Warning>>>;

/// When the changes that were published were noticed, until the control loop has put them in force.
#[derive(Clone, Debug, Default)]
pub struct Noticed(Arc<Mutex<Vec<Instant>>>);

impl Noticed {
    /// More than this in a second means that nobody takes them.
    const MOST: usize = 1024;

    /// After the change was published: who sees its time then sees its snapshot too.
    fn put(&self, at: Instant) {
        let mut list = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if list.len() < Self::MOST {
            list.push(at);
        }
    }

    /// Those published since the last call.
    pub fn take(&self) -> Vec<Instant> {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Where the source publishes. Everybody else reads here and follows `changed`.
#[derive(Clone, Debug)]
pub struct Published {
    /// The newest snapshot.
    pub snapshot: SnapshotHandle,
    /// The current warnings.
    pub warnings: WarningsHandle,
    /// Generation of the newest snapshot; 0 until the source was read once.
    pub changed: Sender<u64>,
    /// How much of the source the snapshot stands for. Raised after the snapshot: to be asked before it.
    pub coverage: CoverageHandle,
    /// For the time that changes take.
    pub noticed: Noticed,
    /// How often names were asked for.
    pub names: Arc<names::Stats>,
    /// What became of fetches of keys for tokens.
    pub jwks: Arc<jwt::Stats>,
    /// Generations before the newest. In memory only unless it was opened with a directory.
    pub history: history::Shared,
}

impl Published {
    /// Before anything was read.
    pub fn new() -> Self {
        Self {
            snapshot: SnapshotHandle::default(),
            warnings: WarningsHandle::default(),
            changed: Sender::new(0),
            coverage: CoverageHandle::default(),
            noticed: Noticed::default(),
            names: Arc::default(),
            jwks: Arc::default(),
            history: history::Shared::default(),
        }
    }
}

impl Default for Published {
    fn default() -> Self {
        Self::new()
    }
}

/// Starts to follow `source`; ends when the guard is dropped. The first snapshot is published even if the source is empty or
/// missing; its generation is 1, or goes on from those that the history keeps.
///
/// # Errors
/// If the thread or the kernel's file notification can't be had.
pub fn start(source: Source, options: BuildOptions, published: Published) -> io::Result<SourceThread> {
    let Source::Dir(path) = source;
    SourceThread::spawn(path, Builder::new(options), published)
}

/// [`start`] for as long as the future lives.
///
/// # Errors
/// As [`start`].
pub async fn run(source: Source, options: BuildOptions, published: Published) -> io::Result<()> {
    let _guard = start(source, options, published)?;
    std::future::pending().await
}

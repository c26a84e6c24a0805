//! Where objects come from: a watched directory, or the API server.
//!
//! Whatever the source, what it brings is objects by key, valid by themselves, and warnings; everything after it is one code
//! path. A thread of its own reads, parses and builds, so that neither the data path nor the control runtime ever waits for
//! configuration. What comes out is one snapshot after the other in a [`SnapshotHandle`], and the current warnings.

mod course;
mod coverage;
mod directory;
mod document;
mod file;
mod force;
mod kube;
mod parse;
mod publish;
mod split;
mod validate;
mod watch;

use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Instant;

use arc_swap::ArcSwap;
use tokio::sync::watch::Sender;

use self::course::Backing;
pub use self::coverage::{Coverage, CoverageHandle};
pub use self::directory::{Directory, Touched};
pub use self::kube::{Health, ResourceHealth};
pub use self::validate::{Report, validate};
use crate::history;
use crate::jwt;
use crate::kube::KubeError;
use crate::model::build::{BuildOptions, Builder};
use crate::model::{SnapshotHandle, Warning};
use crate::names;
use crate::objects::{Object, ObjectKey};

/// `--source`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// A directory of YAML files.
    Dir(PathBuf),
    /// The API server that the environment names.
    Kube,
}

impl std::fmt::Display for Source {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Dir(path) => write!(f, "dir:{}", path.display()),
            Self::Kube => f.write_str("kube"),
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
    /// How the watches of an API server are; nothing with a directory.
    pub health: Arc<Health>,
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
            health: Arc::default(),
            history: history::Shared::default(),
        }
    }
}

impl Default for Published {
    fn default() -> Self {
        Self::new()
    }
}

/// Why a source can't be followed at all.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// No thread, no runtime, no file notification.
    #[error("the source can't be followed")]
    System(#[from] io::Error),
    /// It isn't known which API server, or as whom.
    #[error(transparent)]
    Kube(#[from] KubeError),
}

/// The thread that follows the source; stopped and joined on drop.
pub struct SourceThread {
    stop: Box<dyn Fn() + Send>,
    thread: Option<JoinHandle<()>>,
}

impl SourceThread {
    fn new(stop: impl Fn() + Send + 'static, thread: JoinHandle<()>) -> Self {
        Self { stop: Box::new(stop), thread: Some(thread) }
    }
}

impl std::fmt::Debug for SourceThread {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("SourceThread").field(&self.thread).finish()
    }
}

impl Drop for SourceThread {
    fn drop(&mut self) {
        (self.stop)();
        if let Some(thread) = self.thread.take() {
            // It may have ended by itself; there is nothing left to do then.
            let _ = thread.join();
        }
    }
}

/// Starts to follow `source`; ends when the guard is dropped. With a directory the first snapshot is published even if it is
/// empty or missing; with an API server as soon as all of it was read. Its generation is 1, or goes on from those that the
/// history keeps.
///
/// # Errors
/// If the thread or the kernel's file notification can't be had, or nothing says which API server. One that doesn't answer is
/// no error: it is waited for.
pub fn start(
    source: Source,
    options: BuildOptions,
    published: Published,
) -> Result<SourceThread, SourceError> {
    let builder = Builder::new(options);
    match source {
        Source::Dir(path) => Ok(watch::spawn(path, builder, published)?),
        Source::Kube => kube::spawn(builder, published),
    }
}

/// [`start`] for as long as the future lives.
///
/// # Errors
/// As [`start`].
pub async fn run(source: Source, options: BuildOptions, published: Published) -> Result<(), SourceError> {
    let _guard = start(source, options, published)?;
    std::future::pending().await
}

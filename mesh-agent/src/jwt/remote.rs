//! Keys that are fetched: the cell between the thread that fetches (`keeper`) and the workers that read, one for each source.
//!
//! `model::build` asks for one when it compiles a rule, which fetches nothing. The last good copy stays whatever happens to the
//! source. Reading is one atomic load.

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use http::Uri;
use tokio::sync::Notify;

use super::keys::KeySet;
use crate::clock;

/// Where keys are fetched, and how long that may take.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Spec {
    /// Where.
    pub source: Source,
    /// For a fetch as a whole, redirects and discovery included (`timeout`).
    pub timeout: Duration,
}

/// Where keys are.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Source {
    /// `jwksUri`: the key set itself.
    Keys(Uri),
    /// The issuer, whose OpenID configuration says where (OpenID Connect Discovery 1.0, 4).
    Issuer(Uri),
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Keys(uri) | Self::Issuer(uri) => uri.fmt(f),
        }
    }
}

/// One source's keys.
#[derive(Debug)]
pub struct Remote {
    spec: Spec,
    keys: ArcSwapOption<KeySet>,
    state: Mutex<State>,
    /// The keeper has a task for it.
    kept: AtomicBool,
    hurry: Notify,
}

#[derive(Debug, Default)]
struct State {
    /// Nanoseconds of the process's clock.
    fetched_at: Option<u64>,
    problem: Option<String>,
}

/// What keys can be fetched at: http or https, a host, no password.
pub fn url(text: &str) -> Option<Uri> {
    let uri: Uri = text.parse().ok()?;
    let authority = uri.authority().filter(|authority| !authority.host().is_empty());
    let named = authority.is_some_and(|authority| !authority.as_str().contains('@'));
    (matches!(uri.scheme_str(), Some("http" | "https")) && named).then_some(uri)
}

impl Remote {
    fn new(spec: Spec) -> Self {
        Self {
            spec,
            keys: ArcSwapOption::empty(),
            state: Mutex::default(),
            kept: AtomicBool::new(false),
            hurry: Notify::new(),
        }
    }

    /// Where the keys are fetched.
    pub fn spec(&self) -> &Spec {
        &self.spec
    }

    /// The last good copy. None: there was never one, and no token holds.
    pub fn keys(&self) -> Option<Arc<KeySet>> {
        self.keys.load_full()
    }

    /// Why the last fetch failed; None if it didn't.
    pub fn problem(&self) -> Option<String> {
        self.state().problem.clone()
    }

    /// How old the copy is; None without one.
    pub fn age(&self) -> Option<Duration> {
        let fetched_at = self.state().fetched_at?;
        Some(Duration::from_nanos(clock::now_ns().saturating_sub(fetched_at)))
    }

    /// Asks for a look at the source before its time; never waits. Not every call is followed by one.
    pub fn hurry(&self) {
        self.hurry.notify_one();
    }

    pub(super) async fn hurried(&self) {
        self.hurry.notified().await;
    }

    /// Puts a new copy in force.
    pub(super) fn learn(&self, keys: KeySet) {
        self.keys.store(Some(Arc::new(keys)));
        *self.state() = State { fetched_at: Some(clock::now_ns()), problem: None };
    }

    pub(super) fn failed(&self, problem: String) {
        self.state().problem = Some(problem);
    }

    /// True the first time.
    pub(super) fn take_up(&self) -> bool {
        !self.kept.swap(true, Relaxed)
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Every source in use, once: rules that name the same one share its keys.
#[derive(Debug, Default)]
pub struct Store(Mutex<HashMap<Spec, Weak<Remote>>>);

impl Store {
    /// The one for `spec`, new or known.
    pub fn get(&self, spec: Spec) -> Arc<Remote> {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(remote) = known.get(&spec).and_then(Weak::upgrade) {
            return remote;
        }
        let remote = Arc::new(Remote::new(spec.clone()));
        known.insert(spec, Arc::downgrade(&remote));
        remote
    }

    /// Those that some rule still has.
    pub fn all(&self) -> Vec<Arc<Remote>> {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.retain(|_, remote| remote.strong_count() > 0);
        known.values().filter_map(Weak::upgrade).collect()
    }
}

//! API servers that tests of one process share: starting one takes longer than most tests.
//!
//! They stay up until the process ends, and are taken down then by their keepers.

use std::ops::Deref;
use std::process::Stdio;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::{Cluster, kubeconfig, missing, script};

/// An API server that is one test's until this is dropped.
pub struct Turn {
    cluster: Arc<Cluster>,
    _turn: MutexGuard<'static, Option<Arc<Cluster>>>,
}

impl Deref for Turn {
    type Target = Cluster;
    fn deref(&self) -> &Cluster {
        &self.cluster
    }
}

impl Cluster {
    /// The one that tests use at the same time; or `None` with the reason printed.
    ///
    /// # Panics
    /// It doesn't come up.
    pub fn shared() -> Option<Arc<Self>> {
        static SHARED: Mutex<Option<Arc<Cluster>>> = Mutex::new(None);
        if is_missing(false) {
            return None;
        }
        let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
        let start = || match (script(), kubeconfig()) {
            (None, Some(kubeconfig)) => Arc::new(Self { kubeconfig, own: None }),
            _ => Arc::new(Self::start(&[], Stdio::null()).unwrap()),
        };
        Some(shared.get_or_insert_with(start).clone())
    }

    /// The one that tests have in turn. They may stop and start it and change its definitions, and leave it running; or `None` with
    /// the reason printed.
    ///
    /// # Panics
    /// It doesn't come up.
    pub fn in_turn() -> Option<Turn> {
        static TURN: Mutex<Option<Arc<Cluster>>> = Mutex::new(None);
        if is_missing(true) {
            return None;
        }
        let mut turn = TURN.lock().unwrap_or_else(|failed| {
            // Nobody knows how the test that failed left it.
            let mut turn = failed.into_inner();
            *turn = None;
            TURN.clear_poison();
            turn
        });
        let start = || Arc::new(Self::start(&[], Stdio::null()).unwrap());
        Some(Turn { cluster: turn.get_or_insert_with(start).clone(), _turn: turn })
    }

    /// One that a test has for itself for as long as it takes; or `None` with the reason printed.
    ///
    /// # Panics
    /// It doesn't come up.
    pub fn own() -> Option<Self> {
        (!is_missing(true)).then(|| Self::start(&[], Stdio::null()).unwrap())
    }
}

fn is_missing(disturbed: bool) -> bool {
    let why = missing(disturbed);
    if let Some(why) = why {
        println!("SKIPPED: {why}");
    }
    why.is_some()
}

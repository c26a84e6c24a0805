//! Drain: once begun, listeners close, idle connections close, busy ones finish what they do.
//!
//! One cell per worker; a connection asks `is_draining` between requests or waits for `begun` beside its reads.

use std::cell::Cell;
use std::rc::Rc;

use tokio::sync::Notify;

/// Shared by everything on one worker.
#[derive(Clone, Debug, Default)]
pub struct Drain {
    state: Rc<State>,
}

#[derive(Debug, Default)]
struct State {
    draining: Cell<bool>,
    notify: Notify,
}

impl Drain {
    /// Begins it; there is no way back.
    pub fn begin(&self) {
        self.state.draining.set(true);
        self.state.notify.notify_waiters();
    }

    /// True once begun.
    pub fn is_draining(&self) -> bool {
        self.state.draining.get()
    }

    /// Resolves once begun.
    pub async fn begun(&self) {
        let notified = self.state.notify.notified();
        if !self.is_draining() {
            notified.await;
        }
    }
}

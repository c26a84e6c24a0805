//! The heartbeat: a thread of its own writes the time into a kernel map while every worker shows life.
//!
//! When the process dies, hangs or drains, the writing stops and the hooks follow each pod's fail mode. Never on a
//! runtime, so that a busy worker can't delay it.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{Builder, JoinHandle};
use std::time::Duration;

use crate::clock;
use crate::kernel::{HeartbeatMap, monotonic_ns};

/// Several beats fit into the time after which the hooks call a heartbeat stale.
const PERIOD: Duration = Duration::from_millis(100);
/// A worker that showed no life for this long is wedged: its connections are better off with the fail mode.
const WEDGED: Duration = Duration::from_secs(3);

/// When the hooks may hand connections over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// From the beginning.
    Now,
    /// Once told by [`Heartbeat::begin`]: pods that a dead agent captured follow their fail mode until they have
    /// listeners again.
    Later,
    /// Once told; until then another agent beats.
    Beside,
}

/// The beating thread.
pub struct Heartbeat {
    stop: Arc<AtomicBool>,
    replaced: Arc<AtomicBool>,
    serving: Arc<AtomicBool>,
    thread: JoinHandle<()>,
}

impl Heartbeat {
    /// Starts the thread.
    pub fn start(mut map: HeartbeatMap, lives: Vec<Arc<AtomicU64>>, start: Start) -> io::Result<Self> {
        let (stop, replaced) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
        let serving = Arc::new(AtomicBool::new(start == Start::Now));
        let (told, left, served) = (stop.clone(), replaced.clone(), serving.clone());
        let thread = Builder::new().name("heartbeat".into()).spawn(move || {
            let mut wedged = false;
            // A dead predecessor's last beat may still be fresh.
            if start == Start::Later
                && let Err(error) = map.stop()
            {
                tracing::error!(error = %crate::report::chain(&error), "heartbeat can't be written");
            }
            while !told.load(Ordering::Relaxed) {
                let oldest = lives.iter().map(|life| life.load(Ordering::Relaxed)).min().unwrap_or(u64::MAX);
                let now_wedged = clock::now_ns().saturating_sub(oldest) > WEDGED.as_nanos() as u64;
                if now_wedged != wedged {
                    tracing::error!(
                        wedged = now_wedged,
                        "a data path thread shows no life; pods follow their fail mode meanwhile"
                    );
                    wedged = now_wedged;
                }
                let beats = served.load(Ordering::Relaxed) && !wedged;
                if beats && let Err(error) = map.beat(monotonic_ns()) {
                    tracing::error!(error = %crate::report::chain(&error), "heartbeat can't be written");
                }
                std::thread::park_timeout(PERIOD);
            }
            // Says "no agent" at once, instead of by growing stale.
            if !left.load(Ordering::Relaxed)
                && let Err(error) = map.stop()
            {
                tracing::error!(error = %crate::report::chain(&error), "the last heartbeat can't be written");
            }
        })?;
        Ok(Self { stop, replaced, serving, thread })
    }

    /// Every pod that is captured has its listeners: the hooks may hand connections over.
    pub fn begin(&self) {
        self.serving.store(true, Ordering::Relaxed);
        self.thread.thread().unpark();
    }

    /// Beats no more; another agent does.
    pub fn leave(self) {
        self.replaced.store(true, Ordering::Relaxed);
        self.stop();
    }

    /// Tells the hooks that no agent serves, from now on.
    pub fn stop(self) {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.thread().unpark();
        if self.thread.join().is_err() {
            tracing::error!("the heartbeat thread panicked");
        }
    }
}

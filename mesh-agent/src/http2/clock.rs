//! The coarse clock of one client connection: one timer for the deadlines of all its streams.
//!
//! Kept by `server`, read by `stall`. It ticks while there is something that may stand still, goes on for a moment so
//! that a busy connection doesn't set timers anew, and then waits for the end of the connection's idle time.

use std::pin::Pin;
use std::time::Duration;

use tokio::time::{Instant, Sleep, sleep};

use crate::proxy::Limits;

/// Ticks within the shortest deadline.
const TICKS: u32 = 4;
/// Ticks with nothing to watch after which it stops ticking.
pub(super) const IDLE_TICKS: u32 = 4;

pub(super) struct Clock {
    pub(super) sleep: Pin<Box<Sleep>>,
    tick: Duration,
    idle_after: Duration,
    /// Ticks that a header block may take.
    pub(super) head_ticks: u32,
    /// Ticks that a stream may stand still.
    pub(super) body_ticks: u32,
    /// Not ticking: the timer stands at the end of the idle time.
    pub(super) idle: bool,
    /// Ticks since there was something to watch.
    pub(super) quiet: u32,
    /// A deadline that ends the connection has passed.
    pub(super) over: bool,
    /// The header block that is incomplete.
    pub(super) block: Standing,
    /// Bytes written while the socket takes no more.
    pub(super) write: Standing,
}

impl Clock {
    pub(super) fn new(limits: &Limits) -> Self {
        let tick = limits.head_timeout.min(limits.body_idle_timeout) / TICKS;
        Self {
            sleep: Box::pin(sleep(tick)),
            tick,
            idle_after: limits.keepalive_idle,
            head_ticks: ticks(limits.head_timeout, tick),
            body_ticks: ticks(limits.body_idle_timeout, tick),
            idle: false,
            quiet: 0,
            over: false,
            block: Standing::default(),
            write: Standing::default(),
        }
    }

    /// Ticks again from now on.
    pub(super) fn restart(&mut self) {
        (self.idle, self.quiet) = (false, 0);
        self.sleep.as_mut().reset(Instant::now() + self.tick);
    }

    /// Sets the timer for what comes next.
    pub(super) fn next(&mut self) {
        self.idle = self.quiet >= IDLE_TICKS;
        let after = if self.idle { self.idle_after } else { self.tick };
        self.sleep.as_mut().reset(Instant::now() + after);
    }
}

/// Rounded up, and one more for the part of a tick that has passed when the waiting begins.
fn ticks(deadline: Duration, tick: Duration) -> u32 {
    let ticks = deadline.as_nanos().div_ceil(tick.as_nanos().max(1));
    u32::try_from(ticks).unwrap_or(u32::MAX).saturating_add(1)
}

/// Since when something is as it is.
#[derive(Debug, Default)]
pub(super) struct Standing {
    value: Option<u64>,
    since: u32,
}

impl Standing {
    /// For how many ticks the value has been this one; 0 for none.
    pub(super) fn stands(&mut self, value: Option<u64>, now: u32) -> u32 {
        if value != self.value || value.is_none() {
            self.value = value;
            self.since = now;
        }
        now.wrapping_sub(self.since)
    }
}

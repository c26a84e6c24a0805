//! One monotonic clock for load figures and deadlines, as plain nanoseconds so that it fits an atomic.

use std::sync::LazyLock;
use std::time::{Duration, Instant};

use nix::time::{ClockId, clock_gettime};

static START: LazyLock<Instant> = LazyLock::new(Instant::now);

/// Nanoseconds since the process first asked. Never 0.
pub fn now_ns() -> u64 {
    START.elapsed().as_nanos() as u64 + 1
}

/// CPU time that the calling thread has used; zero where the kernel doesn't say.
pub fn thread_cpu() -> Duration {
    clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).map(Duration::from).unwrap_or_default()
}

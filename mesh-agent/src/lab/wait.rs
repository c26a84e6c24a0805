//! Waiting for something to become true, with a deadline. Nothing in tests or demo sleeps anywhere else.

use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};

const PAUSE: Duration = Duration::from_millis(10);

/// Calls `probe` until it succeeds; after `deadline` fails with its last error.
pub fn eventually<T>(deadline: Duration, mut probe: impl FnMut() -> Result<T>) -> Result<T> {
    let end = Instant::now() + deadline;
    loop {
        let error = match probe() {
            Ok(value) => return Ok(value),
            Err(error) => error,
        };
        if Instant::now() >= end {
            return Err(error).with_context(|| format!("not so within {deadline:?}"));
        }
        sleep(PAUSE);
    }
}

/// Calls `probe` until it gives something; after `deadline` fails with `what`.
pub fn eventually_some<T>(deadline: Duration, what: &str, mut probe: impl FnMut() -> Option<T>) -> Result<T> {
    eventually(deadline, || probe().ok_or_else(|| anyhow!("{what}")))
}

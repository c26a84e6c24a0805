//! The thread that writes the log. Lines collect in one bounded block, so that a burst costs one write and one wake.

use std::io::{self, Write};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use prometheus::IntCounter;

/// Beyond this, lines are dropped: a reader that stands still must not fill the memory.
const LIMIT: usize = 1024 * 1024;
/// After the first line of a block, how long more are collected.
const GATHER: Duration = Duration::from_millis(10);
/// How long [`Writer::flush`] waits for a reader that stands still.
const FLUSH: Duration = Duration::from_secs(2);

/// Handle of the thread; writes what is left and ends it on drop.
#[derive(Debug)]
pub(super) struct Writer {
    shared: Arc<Shared>,
    dropped: IntCounter,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Shared {
    block: Mutex<Block>,
    /// The block is no longer empty, or the end has come.
    filled: Condvar,
    /// Everything taken is written.
    written: Condvar,
}

#[derive(Debug, Default)]
struct Block {
    lines: Vec<u8>,
    writing: bool,
    urgent: bool,
    closed: bool,
}

impl Writer {
    pub(super) fn start(out: Box<dyn Write + Send>, dropped: IntCounter) -> io::Result<Self> {
        let shared = Arc::<Shared>::default();
        let thread = thread::Builder::new().name("access-log".into()).spawn({
            let shared = shared.clone();
            move || shared.run(out)
        })?;
        Ok(Self { shared, dropped, thread: Some(thread) })
    }

    /// Adds one line, with its line feed.
    pub(super) fn append(&self, line: &[u8]) {
        let mut block = self.shared.lock();
        if block.lines.len() + line.len() > LIMIT {
            drop(block);
            self.dropped.inc();
            return;
        }
        let first = block.lines.is_empty();
        block.lines.extend_from_slice(line);
        drop(block);
        if first {
            self.shared.filled.notify_one();
        }
    }

    /// Returns when all is written, or after two seconds.
    pub(super) fn flush(&self) {
        let mut block = self.shared.lock();
        block.urgent = true;
        self.shared.filled.notify_one();
        let pending = |block: &mut Block| block.writing || !block.lines.is_empty();
        let waited = self.shared.written.wait_timeout_while(block, FLUSH, pending);
        waited.unwrap_or_else(PoisonError::into_inner).0.urgent = false;
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.flush();
        let stuck = {
            let mut block = self.shared.lock();
            block.closed = true;
            block.writing
        };
        self.shared.filled.notify_one();
        // A write that hangs on its reader would hang the agent's end too.
        if let Some(thread) = self.thread.take().filter(|_| !stuck) {
            drop(thread.join());
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Block> {
        self.block.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn run(&self, mut out: Box<dyn Write + Send>) {
        let mut lines = Vec::new();
        let mut complained = false;
        while self.take(&mut lines) {
            let result = out.write_all(&lines).and_then(|()| out.flush());
            lines.clear();
            if let Err(error) = result
                && !complained
            {
                complained = true;
                tracing::error!(%error, "the access log can't be written; lines are lost until it can");
            }
            self.lock().writing = false;
            self.written.notify_all();
        }
    }

    /// Waits for lines and swaps them with the empty `lines`. False: closed and nothing left.
    fn take(&self, lines: &mut Vec<u8>) -> bool {
        let idle = |block: &mut Block| block.lines.is_empty() && !block.closed;
        let block = self.filled.wait_while(self.lock(), idle).unwrap_or_else(PoisonError::into_inner);
        let calm = |block: &mut Block| !block.urgent && !block.closed;
        let gathered = self.filled.wait_timeout_while(block, GATHER, calm);
        let mut block = gathered.unwrap_or_else(PoisonError::into_inner).0;
        std::mem::swap(&mut block.lines, lines);
        block.writing = !lines.is_empty();
        block.writing
    }
}

//! The access log: one line a request or opaque connection, as text or JSON.
//!
//! Workers format into a buffer of their own and append it to one shared block; a thread writes that block out. A
//! worker never waits for the disk or the reader of a pipe: what doesn't fit is dropped and counted.

mod clock;
mod entry;
mod escape;
mod json;
mod mode;
pub mod redact;
mod text;
mod writer;

use std::cell::RefCell;
use std::io;

use prometheus::IntCounter;

pub use clock::utc;
pub use entry::{ConnectionEntry, Peers, RequestEntry};
pub use mode::{AccessLogMode, Format, Output, ParseModeError};
use writer::Writer;

/// Where finished requests and connections are written to.
#[derive(Debug)]
pub struct AccessLog {
    /// `None`: off.
    sink: Option<(Format, Writer)>,
}

thread_local! {
    /// Grows to the longest line and stays.
    static LINE: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

impl AccessLog {
    /// Opens the output and starts the writer.
    ///
    /// # Errors
    /// When the file can't be opened or the thread not started.
    pub(super) fn open(mode: &AccessLogMode, dropped: IntCounter) -> io::Result<Self> {
        let sink = match mode {
            AccessLogMode::Off => None,
            AccessLogMode::On(format, output) => Some((*format, Writer::start(output.open()?, dropped)?)),
        };
        Ok(Self { sink })
    }

    /// No log.
    pub(super) fn off() -> Self {
        Self { sink: None }
    }

    /// False where building an entry would be for nothing.
    pub fn enabled(&self) -> bool {
        self.sink.is_some()
    }

    /// Logs a finished request.
    pub fn request(&self, entry: &RequestEntry<'_>) {
        self.line(|format, line| match format {
            Format::Text => text::request(line, entry),
            Format::Json => json::request(line, entry),
        });
    }

    /// Logs a finished opaque connection, or one that was refused.
    pub fn connection(&self, entry: &ConnectionEntry<'_>) {
        self.line(|format, line| match format {
            Format::Text => text::connection(line, entry),
            Format::Json => json::connection(line, entry),
        });
    }

    /// Waits until every line so far is written: before the process ends.
    pub fn flush(&self) {
        if let Some((_, writer)) = &self.sink {
            writer.flush();
        }
    }

    fn line(&self, format: impl FnOnce(Format, &mut Vec<u8>)) {
        let Some((kind, writer)) = &self.sink else { return };
        LINE.with_borrow_mut(|line| {
            line.clear();
            format(*kind, line);
            line.push(b'\n');
            writer.append(line);
        });
    }
}

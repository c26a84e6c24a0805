//! The access log: one line a request or opaque connection, as text, JSON or a template says.
//!
//! Workers format into a buffer of their own and append it to one shared block; a thread writes that block out. A
//! worker never waits for the disk or the reader of a pipe: what doesn't fit is dropped and counted.

mod clock;
mod entry;
mod escape;
mod file;
mod filter;
mod json;
mod mode;
mod template;
mod text;
mod writer;

use std::cell::RefCell;
use std::io;
use std::time::Duration;

use prometheus::IntCounter;

pub use clock::{utc, utc_millis};
pub use entry::{ConnectionEntry, Peers, RequestEntry};
pub use file::{ParseRotationError, Rotation};
pub use filter::{Filter, ParseFilterError, ParseShareError, Share};
pub use mode::{AccessLogMode, Format, Output, ParseModeError};
pub use template::{Template, TemplateError};
use writer::Writer;

use crate::flags::Flag;

/// What there is to say of the log beside format and place.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct LogOptions {
    /// For [`Format::Template`].
    pub template: Option<Template>,
    /// Which entries become lines.
    pub filter: Filter,
    /// How much of what went well does.
    pub share: Share,
    /// When the file is moved away.
    pub rotation: Option<Rotation>,
}

/// Where finished requests and connections are written to.
#[derive(Debug)]
pub struct AccessLog {
    /// `None`: off.
    sink: Option<(Style, Writer)>,
    filter: Filter,
    share: Share,
}

/// What a line looks like, with what that takes.
#[derive(Debug)]
enum Style {
    Text,
    Json,
    Template(Template),
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
    pub(super) fn open(mode: &AccessLogMode, options: &LogOptions, dropped: IntCounter) -> io::Result<Self> {
        let sink = match mode {
            AccessLogMode::Off => None,
            AccessLogMode::On(format, output) => {
                let style = match (format, &options.template) {
                    (Format::Template, Some(template)) => Style::Template(template.clone()),
                    // Settings don't let that pass.
                    (Format::Template, None) => return Err(io::Error::other("there is no template")),
                    (Format::Text, _) => Style::Text,
                    (Format::Json, _) => Style::Json,
                };
                Some((style, Writer::start(output.open(options.rotation)?, dropped)?))
            }
        };
        Ok(Self { sink, filter: options.filter.clone(), share: options.share })
    }

    /// No log.
    pub(super) fn off() -> Self {
        Self { sink: None, filter: Filter::default(), share: Share::default() }
    }

    /// False where building an entry would be for nothing.
    pub fn enabled(&self) -> bool {
        self.sink.is_some()
    }

    /// Logs a finished request.
    pub fn request(&self, entry: &RequestEntry<'_>) {
        self.line(entry.status, entry.flag, entry.duration, |style, line| match style {
            Style::Text => text::request(line, entry),
            Style::Json => json::request(line, entry),
            Style::Template(template) => template::request(line, template, entry),
        });
    }

    /// Logs a finished opaque connection, or one that was refused.
    pub fn connection(&self, entry: &ConnectionEntry<'_>) {
        self.line(0, entry.flag, entry.duration, |style, line| match style {
            Style::Text => text::connection(line, entry),
            Style::Json => json::connection(line, entry),
            Style::Template(template) => template::connection(line, template, entry),
        });
    }

    /// Waits until every line so far is written: before the process ends.
    pub fn flush(&self) {
        if let Some((_, writer)) = &self.sink {
            writer.flush();
        }
    }

    fn line(&self, status: u16, flag: Flag, took: Duration, format: impl FnOnce(&Style, &mut Vec<u8>)) {
        let Some((style, writer)) = &self.sink else { return };
        if !self.filter.wants(status, flag, took) || !self.share.takes(status, flag, fastrand::f64) {
            return;
        }
        LINE.with_borrow_mut(|line| {
            line.clear();
            format(style, line);
            line.push(b'\n');
            writer.append(line);
        });
    }
}

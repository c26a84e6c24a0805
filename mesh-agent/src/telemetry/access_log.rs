//! The access log: one line a request or opaque connection, as text, JSON or a template says, or one log record of OTLP's.
//!
//! Workers format into a buffer of their own and append it to one shared block; a thread writes that block out, or sends it. A
//! worker never waits for the disk, the reader of a pipe or a collector: what doesn't fit is dropped and counted.

mod clock;
mod entry;
mod escape;
mod file;
mod filter;
mod json;
mod mode;
mod otlp;
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
use crate::trace::{Counters, Pipeline, Remote, Signal};

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
    /// For [`AccessLogMode::Otlp`].
    pub collector: Option<Remote>,
}

/// What the log counts.
#[derive(Clone, Debug)]
pub(super) struct LogCounters {
    /// Lines that the writer was too slow for.
    pub(super) dropped: IntCounter,
    /// Of what is sent to a collector.
    pub(super) records: Counters,
}

/// Where finished requests and connections are written to.
#[derive(Debug)]
pub struct AccessLog {
    /// `None`: off.
    sink: Option<Sink>,
    filter: Filter,
    share: Share,
}

/// Where entries go.
#[derive(Debug)]
enum Sink {
    Lines(Style, Writer),
    Records(Pipeline),
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
    /// Opens the output and starts the writer, or what sends records of pods of `cluster`.
    ///
    /// # Errors
    /// When the file can't be opened or the thread not started.
    pub(super) fn open(
        mode: &AccessLogMode,
        options: &LogOptions,
        cluster: &str,
        counters: LogCounters,
    ) -> io::Result<Self> {
        let sink = match (mode, &options.collector) {
            (AccessLogMode::Off, _) => None,
            (AccessLogMode::Otlp, Some(collector)) => {
                Some(Sink::Records(Pipeline::start(Signal::Logs, collector, cluster, counters.records)?))
            }
            // Settings don't let that pass.
            (AccessLogMode::Otlp, None) => return Err(io::Error::other("there is no collector")),
            (AccessLogMode::On(format, output), _) => {
                let style = match (format, &options.template) {
                    (Format::Template, Some(template)) => Style::Template(template.clone()),
                    // Nor that.
                    (Format::Template, None) => return Err(io::Error::other("there is no template")),
                    (Format::Text, _) => Style::Text,
                    (Format::Json, _) => Style::Json,
                };
                Some(Sink::Lines(style, Writer::start(output.open(options.rotation)?, counters.dropped)?))
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
        match self.takes(entry.status, entry.flag, entry.duration) {
            Some(Sink::Lines(style, writer)) => write(writer, |line| match style {
                Style::Text => text::request(line, entry),
                Style::Json => json::request(line, entry),
                Style::Template(template) => template::request(line, template, entry),
            }),
            Some(Sink::Records(pipeline)) => otlp::request(pipeline, entry),
            None => {}
        }
    }

    /// Logs a finished opaque connection, or one that was refused.
    pub fn connection(&self, entry: &ConnectionEntry<'_>) {
        match self.takes(0, entry.flag, entry.duration) {
            Some(Sink::Lines(style, writer)) => write(writer, |line| match style {
                Style::Text => text::connection(line, entry),
                Style::Json => json::connection(line, entry),
                Style::Template(template) => template::connection(line, template, entry),
            }),
            Some(Sink::Records(pipeline)) => otlp::connection(pipeline, entry),
            None => {}
        }
    }

    /// Waits until everything so far is written or sent: before the process ends.
    pub fn flush(&self) {
        match &self.sink {
            Some(Sink::Lines(_, writer)) => writer.flush(),
            Some(Sink::Records(pipeline)) => pipeline.flush(),
            None => {}
        }
    }

    /// Where an entry goes; None for one that isn't logged.
    fn takes(&self, status: u16, flag: Flag, took: Duration) -> Option<&Sink> {
        let wanted = |_: &&Sink| {
            self.filter.wants(status, flag, took) && self.share.takes(status, flag, fastrand::f64)
        };
        self.sink.as_ref().filter(wanted)
    }
}

fn write(writer: &Writer, format: impl FnOnce(&mut Vec<u8>)) {
    LINE.with_borrow_mut(|line| {
        line.clear();
        format(line);
        line.push(b'\n');
        writer.append(line);
    });
}

//! A span as OTLP has it (opentelemetry-proto, trace/v1/trace.proto), encoded into a buffer. Pure.
//!
//! `proxy::spans` says what is in it; `queue` takes the bytes.

use std::net::IpAddr;

use super::context::{SpanId, TraceId};
use super::wire;

/// OTLP's numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Where the request arrives.
    Server = 2,
    /// Where it is sent.
    Client = 3,
}

/// What every span has.
#[derive(Clone, Copy, Debug)]
pub struct Span<'a> {
    /// The trace.
    pub trace: TraceId,
    /// Its own id.
    pub id: SpanId,
    /// Whose work it is part of.
    pub parent: Option<SpanId>,
    /// The parent's id came with the request, rather than being another span of this agent's.
    pub parent_is_remote: bool,
    /// As in `traceparent`.
    pub flags: u8,
    /// `tracestate`, as it came.
    pub state: &'a [u8],
    /// For people; few values.
    pub name: &'a [u8],
    /// Which side.
    pub kind: Kind,
    /// Unix time in nanoseconds.
    pub start_ns: u64,
    /// Unix time in nanoseconds.
    pub end_ns: u64,
    /// It counts as failed.
    pub failed: bool,
}

const HAS_IS_REMOTE: u32 = 0x100;
const IS_REMOTE: u32 = 0x200;
const STATUS_ERROR: u64 = 2;

/// Writes a span. `attributes` and `events` add their own.
pub fn encode(
    out: &mut Vec<u8>,
    span: &Span<'_>,
    attributes: impl FnOnce(&mut Attributes<'_>),
    events: impl FnOnce(&mut Events<'_>),
) {
    wire::bytes(out, 1, &span.trace.0.to_be_bytes());
    wire::bytes(out, 2, &span.id.0.to_be_bytes());
    if !span.state.is_empty() {
        wire::text(out, 3, span.state);
    }
    if let Some(parent) = span.parent {
        wire::bytes(out, 4, &parent.0.to_be_bytes());
    }
    wire::text(out, 5, span.name);
    wire::number(out, 6, span.kind as u64);
    wire::fixed64(out, 7, span.start_ns);
    wire::fixed64(out, 8, span.end_ns);
    attributes(&mut Attributes { out, field: 9 });
    events(&mut Events(out));
    if span.failed {
        wire::message(out, 15, |out| wire::number(out, 3, STATUS_ERROR));
    }
    let remote = if span.parent_is_remote { IS_REMOTE } else { 0 };
    wire::fixed32(out, 16, u32::from(span.flags) | HAS_IS_REMOTE | remote);
}

/// Attributes of a span, an event or a log record.
pub struct Attributes<'o> {
    out: &'o mut Vec<u8>,
    field: u32,
}

impl<'o> Attributes<'o> {
    /// A log record's.
    pub(super) fn of_record(out: &'o mut Vec<u8>) -> Self {
        Self { out, field: 6 }
    }

    /// A text; none that is empty.
    pub fn text(&mut self, key: &str, value: impl AsRef<[u8]>) {
        let value = value.as_ref();
        if !value.is_empty() {
            self.add(key, |out| wire::text(out, 1, value));
        }
    }

    /// A list of one text, as recorded headers are; none that is empty.
    pub fn list(&mut self, key: &str, value: &[u8]) {
        if !value.is_empty() {
            let items = |out: &mut Vec<u8>| wire::message(out, 1, |out| wire::text(out, 1, value));
            self.add(key, |out| wire::message(out, 5, items));
        }
    }

    /// A number.
    pub fn number(&mut self, key: &str, value: u64) {
        // An int64, which zero is too: the field itself says that there is one.
        self.add(key, |out| match value {
            0 => out.extend_from_slice(&[3 << 3, 0]),
            value => wire::number(out, 3, value),
        });
    }

    /// An address in its usual spelling.
    pub fn address(&mut self, key: &str, value: IpAddr) {
        self.text(key, value.to_canonical().to_string());
    }

    fn add(&mut self, key: &str, value: impl FnOnce(&mut Vec<u8>)) {
        wire::message(self.out, self.field, |out| {
            wire::bytes(out, 1, key.as_bytes());
            wire::message(out, 2, value);
        });
    }
}

/// Events of a span.
pub struct Events<'o>(&'o mut Vec<u8>);

impl Events<'_> {
    /// One event, at a Unix time in nanoseconds.
    pub fn add(&mut self, at_ns: u64, name: &str, attributes: impl FnOnce(&mut Attributes<'_>)) {
        wire::message(self.0, 11, |out| {
            wire::fixed64(out, 1, at_ns);
            wire::bytes(out, 2, name.as_bytes());
            attributes(&mut Attributes { out, field: 3 });
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trace::testing::{self, read};

    #[test]
    fn a_span_is_read_as_it_was_written() {
        let span = Span {
            trace: TraceId(1),
            id: SpanId(2),
            parent: Some(SpanId(3)),
            parent_is_remote: true,
            flags: 1,
            state: b"a=b",
            name: b"GET",
            kind: Kind::Client,
            start_ns: 10,
            end_ns: 20,
            failed: true,
        };
        let mut out = Vec::new();
        let attributes = |attributes: &mut Attributes<'_>| {
            attributes.text("url.path", "/");
            attributes.text("nothing", "");
            attributes.number("http.response.status_code", 200);
            attributes.number("zero", 0);
            attributes.list("http.request.header.x-request-id", b"x");
            attributes.address("client.address", "::ffff:10.0.0.1".parse().unwrap_or(IpAddr::from([0; 4])));
        };
        let events = |events: &mut Events<'_>| {
            events.add(15, "retry", |attributes| attributes.text("why", "reset"));
            events.add(16, "hedge", |_| {});
        };
        encode(&mut out, &span, attributes, events);
        let read = read(&out);
        assert_eq!((read.trace_id.len(), read.span_id.len()), (16, 8));
        assert_eq!(read.ids(), (TraceId(1), SpanId(2), Some(SpanId(3))));
        assert_eq!((read.name.as_str(), read.kind, read.trace_state.as_str()), ("GET", 3, "a=b"));
        assert_eq!((read.start_time_unix_nano, read.end_time_unix_nano), (10, 20));
        assert_eq!(read.flags, 0x301);
        assert!(read.is_error());
        let want = [
            ("url.path", "/"),
            ("http.response.status_code", "200"),
            ("zero", "0"),
            ("http.request.header.x-request-id", "[x]"),
            ("client.address", "10.0.0.1"),
        ];
        assert_eq!(testing::shown(&read.attributes), want.map(|(key, value)| (key.into(), value.into())));
        let names: Vec<_> =
            read.events.iter().map(|event| (event.time_unix_nano, event.name.as_str())).collect();
        assert_eq!(names, [(15, "retry"), (16, "hedge")]);
        assert_eq!(testing::shown(&read.events[0].attributes), [("why".into(), "reset".into())]);
    }
}

//! A log record as OTLP has it (opentelemetry-proto, logs/v1/logs.proto), encoded into a buffer. Pure.
//!
//! `telemetry::access_log` says what is in it; `pipeline` takes the bytes.

use super::context::SpanContext;
use super::span::Attributes;
use super::wire;

/// What every record has.
#[derive(Clone, Copy, Debug)]
pub struct Record<'a> {
    /// Of what it tells: Unix time in nanoseconds.
    pub time_ns: u64,
    /// When it was written: Unix time in nanoseconds.
    pub observed_ns: u64,
    /// It tells of a failure.
    pub failed: bool,
    /// For people. It is as long as it is, unlike an attribute.
    pub body: &'a [u8],
    /// The span that tells of the same.
    pub span: Option<SpanContext>,
}

/// OTLP's `SeverityNumber` and what it is called.
const INFO: (u64, &str) = (9, "INFO");
const ERROR: (u64, &str) = (17, "ERROR");

/// Writes a record. `attributes` adds its own.
pub fn encode(out: &mut Vec<u8>, record: &Record<'_>, attributes: impl FnOnce(&mut Attributes<'_>)) {
    let (number, name) = if record.failed { ERROR } else { INFO };
    wire::fixed64(out, 1, record.time_ns);
    wire::number(out, 2, number);
    wire::bytes(out, 3, name.as_bytes());
    let body = String::from_utf8_lossy(record.body);
    wire::message(out, 5, |out| wire::bytes(out, 1, body.as_bytes()));
    attributes(&mut Attributes::of_record(out));
    if let Some(span) = record.span {
        wire::fixed32(out, 8, span.flags.into());
        wire::bytes(out, 9, &span.trace.0.to_be_bytes());
        wire::bytes(out, 10, &span.span.0.to_be_bytes());
    }
    wire::fixed64(out, 11, record.observed_ns);
}

#[cfg(test)]
mod tests {
    use super::super::context::{SpanId, TraceId};
    use super::*;
    use crate::trace::testing::{self, shown};

    #[test]
    fn a_record_is_read_as_it_was_written() {
        let long = vec![b'x'; 5000];
        let span = SpanContext { trace: TraceId(1), span: SpanId(2), flags: 1 };
        let record = Record { time_ns: 10, observed_ns: 20, failed: true, body: &long, span: Some(span) };
        let mut out = Vec::new();
        encode(&mut out, &record, |attributes| attributes.text("url.path", "/"));
        let read = testing::read_record(&out);
        assert_eq!((read.time_unix_nano, read.observed_time_unix_nano), (10, 20));
        assert_eq!((read.severity_number, read.severity_text.as_str()), (17, "ERROR"));
        assert_eq!(read.body().len(), long.len());
        assert_eq!(shown(&read.attributes), [("url.path".into(), "/".into())]);
        assert_eq!(read.trace_id, 1_u128.to_be_bytes());
        assert_eq!((read.span_id, read.flags), (2_u64.to_be_bytes().to_vec(), 1));
    }

    #[test]
    fn what_isnt_traced_has_no_ids_and_a_body_is_always_utf_8() {
        let record = Record { time_ns: 1, observed_ns: 2, failed: false, body: b"a\xff", span: None };
        let mut out = Vec::new();
        encode(&mut out, &record, |_| {});
        let read = testing::read_record(&out);
        assert_eq!((read.severity_number, read.severity_text.as_str()), (9, "INFO"));
        assert_eq!(read.body(), "a\u{fffd}");
        assert!(read.trace_id.is_empty() && read.span_id.is_empty());
    }
}

//! Spans and log records as a collector reads them, for unit tests. Fields are OTLP's.
#![allow(missing_docs)]

use prost::Message;

use super::context::{SpanId, TraceId};

/// `opentelemetry.proto.trace.v1.Span`.
#[derive(Clone, PartialEq, Message)]
pub struct ReadSpan {
    #[prost(bytes = "vec", tag = "1")]
    pub trace_id: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    pub span_id: Vec<u8>,
    #[prost(string, tag = "3")]
    pub trace_state: String,
    #[prost(bytes = "vec", tag = "4")]
    pub parent_span_id: Vec<u8>,
    #[prost(string, tag = "5")]
    pub name: String,
    #[prost(int32, tag = "6")]
    pub kind: i32,
    #[prost(fixed64, tag = "7")]
    pub start_time_unix_nano: u64,
    #[prost(fixed64, tag = "8")]
    pub end_time_unix_nano: u64,
    #[prost(message, repeated, tag = "9")]
    pub attributes: Vec<ReadAttribute>,
    #[prost(message, repeated, tag = "11")]
    pub events: Vec<ReadEvent>,
    #[prost(message, optional, tag = "15")]
    pub status: Option<ReadStatus>,
    #[prost(fixed32, tag = "16")]
    pub flags: u32,
}

/// `KeyValue`.
#[derive(Clone, PartialEq, Message)]
pub struct ReadAttribute {
    #[prost(string, tag = "1")]
    pub key: String,
    #[prost(message, optional, tag = "2")]
    pub value: Option<ReadValue>,
}

/// `AnyValue`.
#[derive(Clone, PartialEq, Message)]
pub struct ReadValue {
    #[prost(oneof = "AnyValue", tags = "1, 3, 5")]
    pub value: Option<AnyValue>,
}

/// The kinds that are written.
#[derive(Clone, PartialEq, prost::Oneof)]
pub enum AnyValue {
    #[prost(string, tag = "1")]
    Text(String),
    #[prost(int64, tag = "3")]
    Number(i64),
    #[prost(message, tag = "5")]
    List(ReadList),
}

/// `ArrayValue`.
#[derive(Clone, PartialEq, Message)]
pub struct ReadList {
    #[prost(message, repeated, tag = "1")]
    pub values: Vec<ReadValue>,
}

/// `Span.Event`.
#[derive(Clone, PartialEq, Message)]
pub struct ReadEvent {
    #[prost(fixed64, tag = "1")]
    pub time_unix_nano: u64,
    #[prost(string, tag = "2")]
    pub name: String,
    #[prost(message, repeated, tag = "3")]
    pub attributes: Vec<ReadAttribute>,
}

/// `Status`.
#[derive(Clone, PartialEq, Message)]
pub struct ReadStatus {
    #[prost(int32, tag = "3")]
    pub code: i32,
}

/// `opentelemetry.proto.logs.v1.LogRecord`.
#[derive(Clone, PartialEq, Message)]
pub struct ReadRecord {
    #[prost(fixed64, tag = "1")]
    pub time_unix_nano: u64,
    #[prost(int32, tag = "2")]
    pub severity_number: i32,
    #[prost(string, tag = "3")]
    pub severity_text: String,
    #[prost(message, optional, tag = "5")]
    pub body: Option<ReadValue>,
    #[prost(message, repeated, tag = "6")]
    pub attributes: Vec<ReadAttribute>,
    #[prost(fixed32, tag = "8")]
    pub flags: u32,
    #[prost(bytes = "vec", tag = "9")]
    pub trace_id: Vec<u8>,
    #[prost(bytes = "vec", tag = "10")]
    pub span_id: Vec<u8>,
    #[prost(fixed64, tag = "11")]
    pub observed_time_unix_nano: u64,
}

impl ReadRecord {
    /// As text.
    pub fn body(&self) -> String {
        self.body.as_ref().map(value).unwrap_or_default()
    }
}

/// A record of its bytes.
#[expect(clippy::unwrap_used, reason = "test support")]
pub fn read_record(bytes: &[u8]) -> ReadRecord {
    ReadRecord::decode(bytes).unwrap()
}

/// A span of its bytes.
#[expect(clippy::unwrap_used, reason = "test support")]
pub fn read(bytes: &[u8]) -> ReadSpan {
    ReadSpan::decode(bytes).unwrap()
}

impl ReadSpan {
    /// Trace, span, parent.
    #[expect(clippy::unwrap_used, reason = "test support")]
    pub fn ids(&self) -> (TraceId, SpanId, Option<SpanId>) {
        let span = |bytes: &[u8]| SpanId(u64::from_be_bytes(bytes.try_into().unwrap()));
        let trace = TraceId(u128::from_be_bytes(self.trace_id[..].try_into().unwrap()));
        (trace, span(&self.span_id), Some(&self.parent_span_id[..]).filter(|id| !id.is_empty()).map(span))
    }

    /// True if it counts as failed.
    pub fn is_error(&self) -> bool {
        self.status.as_ref().is_some_and(|status| status.code == 2)
    }

    /// An attribute's value as text.
    pub fn attribute(&self, key: &str) -> Option<String> {
        shown(&self.attributes).into_iter().find_map(|(name, value)| (name == key).then_some(value))
    }
}

/// Keys and values as text.
pub fn shown(attributes: &[ReadAttribute]) -> Vec<(String, String)> {
    attributes
        .iter()
        .map(|one| (one.key.clone(), one.value.as_ref().map(value).unwrap_or_default()))
        .collect()
}

fn value(read: &ReadValue) -> String {
    match &read.value {
        Some(AnyValue::Text(text)) => text.clone(),
        Some(AnyValue::Number(number)) => number.to_string(),
        Some(AnyValue::List(list)) => {
            format!("[{}]", list.values.iter().map(value).collect::<Vec<_>>().join(","))
        }
        None => String::new(),
    }
}

//! OTLP's request around spans or log records that are encoded already, and its answers (opentelemetry-proto, collector/trace/v1 and
//! collector/logs/v1).
//!
//! Written by hand: a few fields, and no generator is needed to build the agent. Both signals' messages are the same on the wire, but
//! for what is innermost: bytes stand where a message is that `span` or `record` made.

use std::time::Duration;

use bytes::Bytes;
use prost::Message;

const RETRY_INFO: &str = "type.googleapis.com/google.rpc.RetryInfo";

/// `ExportTraceServiceRequest`, `ExportLogsServiceRequest`.
#[derive(Clone, PartialEq, Message)]
pub struct Request {
    /// For each pod.
    #[prost(message, repeated, tag = "1")]
    pub resources: Vec<OfResource>,
}

/// `ResourceSpans`, `ResourceLogs`.
#[derive(Clone, PartialEq, Message)]
pub struct OfResource {
    /// The pod.
    #[prost(message, optional, tag = "1")]
    pub resource: Option<Resource>,
    /// What it has.
    #[prost(message, repeated, tag = "2")]
    pub scopes: Vec<OfScope>,
    /// Of the attributes' names.
    #[prost(string, tag = "3")]
    pub schema_url: String,
}

/// `Resource`.
#[derive(Clone, PartialEq, Message)]
pub struct Resource {
    /// What it is.
    #[prost(message, repeated, tag = "1")]
    pub attributes: Vec<KeyValue>,
}

/// `KeyValue`.
#[derive(Clone, PartialEq, Message)]
pub struct KeyValue {
    /// By OpenTelemetry's conventions.
    #[prost(string, tag = "1")]
    pub key: String,
    /// Always there.
    #[prost(message, optional, tag = "2")]
    pub value: Option<Value>,
}

/// `AnyValue`, of which text alone is used.
#[derive(Clone, PartialEq, Message)]
pub struct Value {
    /// `string_value`.
    #[prost(string, optional, tag = "1")]
    pub text: Option<String>,
}

/// `ScopeSpans`, `ScopeLogs`.
#[derive(Clone, PartialEq, Message)]
pub struct OfScope {
    /// Who made them.
    #[prost(message, optional, tag = "1")]
    pub scope: Option<Scope>,
    /// As `span` or `record` encodes them.
    #[prost(bytes = "bytes", repeated, tag = "2")]
    pub items: Vec<Bytes>,
}

/// `InstrumentationScope`.
#[derive(Clone, PartialEq, Message)]
pub struct Scope {
    /// The agent.
    #[prost(string, tag = "1")]
    pub name: String,
    /// Its version.
    #[prost(string, tag = "2")]
    pub version: String,
}

/// `ExportTraceServiceResponse`, `ExportLogsServiceResponse`.
#[derive(Clone, PartialEq, Message)]
pub struct Response {
    /// There if something is to be said.
    #[prost(message, optional, tag = "1")]
    pub partial_success: Option<PartialSuccess>,
}

/// `ExportTracePartialSuccess`, `ExportLogsPartialSuccess`.
#[derive(Clone, PartialEq, Message)]
pub struct PartialSuccess {
    /// Of those that were sent.
    #[prost(int64, tag = "1")]
    pub rejected: i64,
    /// Why; without rejected ones a warning.
    #[prost(string, tag = "2")]
    pub error_message: String,
}

/// `google.rpc.Status`.
#[derive(Clone, PartialEq, Message)]
pub struct RpcStatus {
    /// For people.
    #[prost(string, tag = "2")]
    pub message: String,
    /// Of any kind.
    #[prost(message, repeated, tag = "3")]
    pub details: Vec<Any>,
}

/// `google.protobuf.Any`.
#[derive(Clone, PartialEq, Message)]
pub struct Any {
    /// Which message.
    #[prost(string, tag = "1")]
    pub type_url: String,
    /// The message.
    #[prost(bytes = "vec", tag = "2")]
    pub value: Vec<u8>,
}

/// `google.rpc.RetryInfo`.
#[derive(Clone, PartialEq, Message)]
pub struct RetryInfo {
    /// What to wait for.
    #[prost(message, optional, tag = "1")]
    pub retry_delay: Option<Wait>,
}

/// `google.protobuf.Duration`.
#[derive(Clone, PartialEq, Message)]
pub struct Wait {
    /// Whole ones.
    #[prost(int64, tag = "1")]
    pub seconds: i64,
    /// Beside them.
    #[prost(int32, tag = "2")]
    pub nanos: i32,
}

/// An attribute.
pub fn attribute(key: &str, value: impl Into<String>) -> KeyValue {
    KeyValue { key: key.to_owned(), value: Some(Value { text: Some(value.into()) }) }
}

/// How long the details of a status ask to wait; None: they don't ask for another try.
pub fn retry_delay(details: &[u8]) -> Option<Duration> {
    let status = RpcStatus::decode(details).ok()?;
    let info = status.details.iter().find(|any| any.type_url == RETRY_INFO)?;
    let delay = RetryInfo::decode(&info.value[..]).ok()?.retry_delay.unwrap_or_default();
    let seconds = u64::try_from(delay.seconds).unwrap_or_default();
    Some(Duration::new(seconds, u32::try_from(delay.nanos).unwrap_or_default().min(999_999_999)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_says_when_to_try_again_or_nothing() {
        let info = RetryInfo { retry_delay: Some(Wait { seconds: 2, nanos: 500_000_000 }) };
        let any = Any { type_url: RETRY_INFO.into(), value: info.encode_to_vec() };
        let other = Any { type_url: "type.googleapis.com/google.rpc.Help".into(), value: vec![1] };
        let status = |details| RpcStatus { message: "busy".into(), details }.encode_to_vec();
        assert_eq!(retry_delay(&status(vec![other.clone(), any])), Some(Duration::from_millis(2500)));
        let at_once = Any { type_url: RETRY_INFO.into(), value: Vec::new() };
        assert_eq!(retry_delay(&status(vec![at_once])), Some(Duration::ZERO));
        let back = RetryInfo { retry_delay: Some(Wait { seconds: -5, nanos: -1 }) };
        let back = Any { type_url: RETRY_INFO.into(), value: back.encode_to_vec() };
        assert_eq!(retry_delay(&status(vec![back])), Some(Duration::ZERO));
        assert_eq!(retry_delay(&status(vec![other])), None);
        assert_eq!(retry_delay(b"\xff\xff"), None);
        assert_eq!(retry_delay(b""), None);
    }
}

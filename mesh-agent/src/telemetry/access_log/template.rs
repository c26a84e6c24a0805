//! A line in the operator's own words: text with Envoy's command operators, as in Envoy's "Access logging" page.
//!
//! Parsed once, when the agent starts; an operator that isn't known ends the start. `render` fills it in for each entry,
//! `time` formats %START_TIME%. A template that begins with `{` is taken for JSON, and what is filled in is escaped so
//! that it can't leave its string.

mod render;
mod time;

use std::fmt;
use std::str::FromStr;

use http::HeaderName;
use serde::{Serialize, Serializer};

use self::time::TimeFormat;
use crate::telemetry::redact::Redact;

pub(super) use self::render::{connection, request};

/// What lines look like.
#[derive(Clone, Debug, PartialEq)]
pub struct Template {
    text: String,
    parts: Vec<Part>,
    is_json: bool,
}

#[derive(Clone, Debug, PartialEq)]
enum Part {
    Text(String),
    /// At most so many characters of it.
    Field(Field, Option<usize>),
}

/// What an operator stands for.
#[derive(Clone, Debug, PartialEq)]
enum Field {
    StartTime(TimeFormat),
    Request(Header, Option<Header>),
    /// The target's path alone.
    RequestWithoutQuery(Header, Option<Header>),
    Response(HeaderName, Option<HeaderName>),
    Grpc(GrpcForm),
    Plain(Plain),
}

/// A header of a request, or what HTTP/2 has as one.
#[derive(Clone, Debug, PartialEq)]
enum Header {
    Method,
    Path,
    Authority,
    Named(HeaderName),
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum GrpcForm {
    Camel,
    Snake,
    Number,
}

macro_rules! plain {
    ($($name:ident = $operator:literal,)+) => {
        /// Operators without an argument.
        #[derive(Clone, Copy, Debug, PartialEq)]
        enum Plain { $($name),+ }

        /// How they are spelled.
        const PLAIN: &[(&str, Plain)] = &[$(($operator, Plain::$name)),+];
    };
}

plain! {
    BytesReceived = "BYTES_RECEIVED",
    BytesSent = "BYTES_SENT",
    ConnectionTerminationDetails = "CONNECTION_TERMINATION_DETAILS",
    DownstreamDirectRemote = "DOWNSTREAM_DIRECT_REMOTE_ADDRESS",
    DownstreamDirectRemoteIp = "DOWNSTREAM_DIRECT_REMOTE_ADDRESS_WITHOUT_PORT",
    DownstreamDirectRemotePort = "DOWNSTREAM_DIRECT_REMOTE_PORT",
    DownstreamLocal = "DOWNSTREAM_LOCAL_ADDRESS",
    DownstreamLocalIp = "DOWNSTREAM_LOCAL_ADDRESS_WITHOUT_PORT",
    DownstreamLocalPort = "DOWNSTREAM_LOCAL_PORT",
    DownstreamLocalUriSan = "DOWNSTREAM_LOCAL_URI_SAN",
    DownstreamPeerUriSan = "DOWNSTREAM_PEER_URI_SAN",
    DownstreamRemote = "DOWNSTREAM_REMOTE_ADDRESS",
    DownstreamRemoteIp = "DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT",
    DownstreamRemotePort = "DOWNSTREAM_REMOTE_PORT",
    Duration = "DURATION",
    GrpcStatusNumber = "GRPC_STATUS_NUMBER",
    Hostname = "HOSTNAME",
    MeshDestinationPod = "MESH_DESTINATION_POD",
    MeshReporter = "MESH_REPORTER",
    MeshService = "MESH_SERVICE",
    MeshSourcePod = "MESH_SOURCE_POD",
    Protocol = "PROTOCOL",
    RequestedServerName = "REQUESTED_SERVER_NAME",
    ResponseCode = "RESPONSE_CODE",
    ResponseCodeDetails = "RESPONSE_CODE_DETAILS",
    ResponseFlags = "RESPONSE_FLAGS",
    RouteName = "ROUTE_NAME",
    TraceId = "TRACE_ID",
    UpstreamCluster = "UPSTREAM_CLUSTER",
    UpstreamHost = "UPSTREAM_HOST",
    UpstreamLocalUriSan = "UPSTREAM_LOCAL_URI_SAN",
    UpstreamPeerUriSan = "UPSTREAM_PEER_URI_SAN",
    UpstreamRemote = "UPSTREAM_REMOTE_ADDRESS",
    UpstreamRemoteIp = "UPSTREAM_REMOTE_ADDRESS_WITHOUT_PORT",
    UpstreamRemotePort = "UPSTREAM_REMOTE_PORT",
    UpstreamAttempts = "UPSTREAM_REQUEST_ATTEMPT_COUNT",
}

/// Those with one.
const WITH_ARGUMENT: &[&str] =
    &["GRPC_STATUS(FORM)", "REQ(X?Y):Z", "REQ_WITHOUT_QUERY(X?Y):Z", "RESP(X?Y):Z", "START_TIME(FORMAT)"];

/// Why a text is no template.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TemplateError {
    /// There is nothing to write.
    #[error("an access-log template can't be empty")]
    Empty,
    /// One entry is one line.
    #[error(
        "an access-log template is one line: it may end with a line feed, and have no other control character"
    )]
    LineBreak,
    /// A percent sign that begins nothing.
    #[error("{0:?} of the access-log template is no operator: write %NAME%, or %% for a percent sign")]
    NoOperator(String),
    /// Neither Envoy's nor ours, or one of Envoy's that the agent has no value for.
    #[error("%{operator}% of the access-log template isn't known; there are {}", all())]
    Unknown {
        /// As written.
        operator: String,
    },
    /// What is in its brackets.
    #[error("%{operator}({argument})% of the access-log template: expected {expected}")]
    Argument {
        /// As written.
        operator: String,
        /// As written.
        argument: String,
        /// What would do.
        expected: String,
    },
    /// It would show what nobody may see.
    #[error(
        "%{operator}% of the access-log template: {header} is a secret and is never logged; leave it out"
    )]
    Secret {
        /// As written.
        operator: String,
        /// The header.
        header: String,
    },
}

fn all() -> String {
    let plain = PLAIN.iter().map(|(name, _)| *name);
    let mut names: Vec<_> = plain.chain(WITH_ARGUMENT.iter().copied()).collect();
    names.sort_unstable();
    names.join(", ")
}

impl Template {
    /// Headers of requests that it shows.
    pub(in crate::telemetry) fn request_headers(&self) -> Vec<HeaderName> {
        let both = self.fields().flat_map(|field| match field {
            Field::Request(one, other) | Field::RequestWithoutQuery(one, other) => {
                [Some(one), other.as_ref()]
            }
            _ => [None, None],
        });
        let named = both.flatten().filter_map(|header| match header {
            Header::Named(name) => Some(name.clone()),
            _ => None,
        });
        named.collect()
    }

    /// Headers of responses that it shows.
    pub(in crate::telemetry) fn response_headers(&self) -> Vec<HeaderName> {
        let both = self.fields().flat_map(|field| match field {
            Field::Response(one, other) => [Some(one), other.as_ref()],
            _ => [None, None],
        });
        both.flatten().cloned().collect()
    }

    fn fields(&self) -> impl Iterator<Item = &Field> {
        self.parts.iter().filter_map(|part| match part {
            Part::Field(field, _) => Some(field),
            Part::Text(_) => None,
        })
    }

    /// That none of the headers that it shows is a secret.
    ///
    /// # Errors
    /// Names the first that is.
    pub fn check(&self, redact: &Redact) -> Result<(), TemplateError> {
        let secret = |operator: &str, names: Vec<HeaderName>| {
            let found = names.into_iter().find(|name| redact.is_secret(name));
            found.map_or(Ok(()), |name| {
                let operator = format!("{operator}({})", name.as_str().to_ascii_uppercase());
                Err(TemplateError::Secret { operator, header: name.as_str().to_owned() })
            })
        };
        secret("REQ", self.request_headers())?;
        secret("RESP", self.response_headers())
    }
}

impl FromStr for Template {
    type Err = TemplateError;

    fn from_str(text: &str) -> Result<Self, TemplateError> {
        // Envoy's templates end with one, spelled either way.
        let line = text.strip_suffix('\n').or_else(|| text.strip_suffix("\\n")).unwrap_or(text);
        if line.is_empty() {
            return Err(TemplateError::Empty);
        }
        if line.chars().any(char::is_control) {
            return Err(TemplateError::LineBreak);
        }
        let (mut parts, mut rest, mut plain) = (Vec::new(), line, String::new());
        while let Some(at) = rest.find('%') {
            plain.push_str(&rest[..at]);
            let behind = &rest[at + 1..];
            if let Some(behind) = behind.strip_prefix('%') {
                plain.push('%');
                rest = behind;
                continue;
            }
            let (field, most, behind) = operator(behind)?;
            if !plain.is_empty() {
                parts.push(Part::Text(std::mem::take(&mut plain)));
            }
            parts.push(Part::Field(field, most));
            rest = behind;
        }
        plain.push_str(rest);
        if !plain.is_empty() {
            parts.push(Part::Text(plain));
        }
        let template = Self { text: text.to_owned(), parts, is_json: line.trim_start().starts_with('{') };
        template.check(&Redact::default())?;
        Ok(template)
    }
}

/// Reads `NAME(ARGUMENT):LENGTH%`, and gives what is behind it.
fn operator(text: &str) -> Result<(Field, Option<usize>, &str), TemplateError> {
    let none = || TemplateError::NoOperator(format!("%{}", text.chars().take(20).collect::<String>()));
    let is_name = |c: char| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_';
    let end = text.find(|c| !is_name(c)).filter(|end| *end > 0).ok_or_else(none)?;
    let (name, mut rest) = text.split_at(end);
    let mut argument = None;
    if let Some(behind) = rest.strip_prefix('(') {
        let (inner, behind) = behind.split_once(')').ok_or_else(none)?;
        (argument, rest) = (Some(inner), behind);
    }
    let mut most = None;
    if let Some(behind) = rest.strip_prefix(':') {
        let end = behind.find('%').ok_or_else(none)?;
        most = Some(behind[..end].parse().map_err(|_| none())?);
        rest = &behind[end..];
    }
    let rest = rest.strip_prefix('%').ok_or_else(none)?;
    Ok((field(name, argument)?, most, rest))
}

fn field(name: &str, argument: Option<&str>) -> Result<Field, TemplateError> {
    let bad = |expected: &str| TemplateError::Argument {
        operator: name.to_owned(),
        argument: argument.unwrap_or_default().to_owned(),
        expected: expected.to_owned(),
    };
    if let Some((_, plain)) = PLAIN.iter().find(|(operator, _)| *operator == name) {
        return match argument {
            None => Ok(Field::Plain(*plain)),
            Some(_) => Err(bad("no argument")),
        };
    }
    let header = |text: &str| match text.to_ascii_lowercase().as_str() {
        ":method" => Ok(Header::Method),
        ":path" => Ok(Header::Path),
        ":authority" | "host" => Ok(Header::Authority),
        lower => match HeaderName::from_bytes(lower.as_bytes()) {
            Ok(name) => Ok(Header::Named(name)),
            Err(_) => Err(bad("a header, :METHOD, :PATH or :AUTHORITY, and perhaps another one behind a ?")),
        },
    };
    let both = || {
        let text = argument.unwrap_or_default();
        match text.split_once('?') {
            Some((one, other)) => Ok((header(one)?, Some(header(other)?))),
            None => Ok((header(text)?, None)),
        }
    };
    let named = |header: Header| match header {
        Header::Named(name) => Ok(name),
        _ => Err(bad("a header")),
    };
    Ok(match name {
        "REQ" => {
            let (one, other) = both()?;
            Field::Request(one, other)
        }
        "REQ_WITHOUT_QUERY" => {
            let (one, other) = both()?;
            Field::RequestWithoutQuery(one, other)
        }
        "RESP" => {
            let (one, other) = both()?;
            Field::Response(named(one)?, other.map(named).transpose()?)
        }
        "GRPC_STATUS" => Field::Grpc(match argument.unwrap_or("CAMEL_STRING") {
            "CAMEL_STRING" => GrpcForm::Camel,
            "SNAKE_STRING" => GrpcForm::Snake,
            "NUMBER" => GrpcForm::Number,
            _ => return Err(bad("CAMEL_STRING, SNAKE_STRING or NUMBER")),
        }),
        "START_TIME" => {
            let format = argument.filter(|format| !format.is_empty());
            let parsed = format.map_or(Ok(TimeFormat::default()), str::parse);
            Field::StartTime(parsed.map_err(|expected: String| bad(&expected))?)
        }
        _ => return Err(TemplateError::Unknown { operator: name.to_owned() }),
    })
}

impl fmt::Display for Template {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl Serialize for Template {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(test)]
mod tests;

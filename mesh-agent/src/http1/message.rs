//! What a head means: framing, connection options, target and Host of a request, status of a response.
//!
//! Comes after `head`, before `forward`. Every rule that two parsers could disagree about is decided here, before a
//! byte is forwarded (RFC 9112, 6.3 for framing, 3.2 for targets; RFC 9110, 7.6.1 for what ends at this hop).

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Method, StatusCode, Uri, Version, request};

use super::head::{self, Field, HeadError, Known, RawHead};
use super::target;
use super::{body::Body, pool};
use crate::proxy::error::Hostile;
use crate::proxy::headers::X_REQUEST_ID;

/// A request whose head was accepted.
#[derive(Debug)]
pub struct RequestHead {
    /// As it was spelled.
    pub raw: RawHead,
    /// For everything that decides or changes something. Fields of this hop are left out.
    pub parts: request::Parts,
    /// How its body is delimited.
    pub body: Body,
    /// What its Connection field says.
    pub options: Options,
    /// It waits for `100 Continue` before it sends its body.
    pub expects_continue: bool,
    /// It offers to switch protocols.
    pub upgrade: bool,
    /// A route gave it another target than its first line has.
    pub retargeted: bool,
}

/// A response whose head was accepted.
#[derive(Debug)]
pub struct ResponseHead {
    /// As it was spelled.
    pub raw: RawHead,
    /// 1.0 or 1.1
    pub version: Version,
    /// Status.
    pub status: StatusCode,
    /// How its body is delimited.
    pub body: Body,
    /// What its Connection field says.
    pub options: Options,
}

/// Options of the Connection field.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// `close`
    pub close: bool,
    /// `keep-alive`
    pub keep_alive: bool,
    /// `upgrade`
    pub upgrade: bool,
}

impl Options {
    /// True if the sender of a message of this version means to keep the connection (RFC 9112, 9.3).
    pub fn persistent(self, version: Version) -> bool {
        !self.close && (self.keep_alive || version == Version::HTTP_11)
    }
}

/// What the request decides about its response's framing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Asked {
    /// HEAD: the response has no body whatever its head says.
    pub head: bool,
    /// CONNECT: a 2xx makes a tunnel.
    pub connect: bool,
}

#[derive(Default)]
struct Meaning {
    options: Options,
    length: Option<u64>,
    chunked: bool,
    host: Option<usize>,
    expects_continue: bool,
    upgrade: bool,
    /// The Connection field names others than the options that have a meaning of their own.
    names_fields: bool,
}

impl RequestHead {
    /// Checks and interprets a complete request head.
    pub fn parse(bytes: Bytes, max_fields: usize, max_uri: usize) -> Result<Self, HeadError> {
        let mut raw = RawHead::parse(bytes, max_fields)?;
        let (method, uri, version) = parse_request_line(&raw, max_uri)?;
        let meaning = Meaning::of(&mut raw, version, Repeated::Refused)?;
        let host = meaning.host.map(|at| raw.value(&raw.fields[at]));
        target::check(&method, &uri, version, host)?;
        if method == Method::CONNECT && (meaning.chunked || meaning.length.is_some_and(|length| length > 0)) {
            return Err(Hostile::BadLength.into());
        }
        let (mut parts, ()) = http::Request::new(()).into_parts();
        parts.headers = header_map(&raw)?;
        (parts.method, parts.uri, parts.version) = (method, uri, version);
        let body = match meaning.length {
            _ if meaning.chunked => Body::chunked(),
            Some(length) => Body::length(length),
            None => Body::Empty,
        };
        let (options, expects_continue) =
            (meaning.options, meaning.expects_continue && version == Version::HTTP_11);
        Ok(Self { raw, parts, body, options, expects_continue, upgrade: meaning.upgrade, retargeted: false })
    }

    /// What its response's framing hangs on.
    pub fn asked(&self) -> Asked {
        Asked { head: self.parts.method == Method::HEAD, connect: self.parts.method == Method::CONNECT }
    }
}

impl Drop for RequestHead {
    fn drop(&mut self) {
        pool::give_map(std::mem::take(&mut self.parts.headers));
    }
}

impl ResponseHead {
    /// Checks and interprets a complete response head.
    pub fn parse(bytes: Bytes, max_fields: usize, asked: Asked) -> Result<Self, HeadError> {
        let mut raw = RawHead::parse(bytes, max_fields)?;
        let (version, status) = parse_status_line(raw.first_line())?;
        let meaning = Meaning::of(&mut raw, version, Repeated::Folded)?;
        // Elsewhere it is only an offer, and of a connection that isn't the client's.
        if !matches!(status, StatusCode::SWITCHING_PROTOCOLS | StatusCode::UPGRADE_REQUIRED) {
            raw.fields
                .iter_mut()
                .filter(|field| field.known == Known::Upgrade)
                .for_each(|field| field.hop = true);
        }
        let no_body = asked.head
            || status.is_informational()
            || matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED)
            || asked.connect && status.is_success();
        let body = match meaning.length {
            _ if no_body => Body::Empty,
            _ if meaning.chunked => Body::chunked(),
            Some(length) => Body::length(length),
            None => Body::UntilClose,
        };
        Ok(Self { raw, version, status, body, options: meaning.options })
    }

    /// True if the connection carries something other than HTTP from here on.
    pub fn switches(&self, asked: Asked) -> bool {
        self.status == StatusCode::SWITCHING_PROTOCOLS || asked.connect && self.status.is_success()
    }
}

/// What to do with a Content-Length that is said twice with the same number.
#[derive(Clone, Copy, PartialEq)]
enum Repeated {
    Refused,
    Folded,
}

impl Meaning {
    fn of(raw: &mut RawHead, version: Version, repeated: Repeated) -> Result<Self, HeadError> {
        let mut meaning = Self::default();
        let mut offers_upgrade = false;
        let RawHead { bytes, fields, .. } = raw;
        for (at, field) in fields.iter_mut().enumerate() {
            let value = &bytes[field.value as usize..field.value_end as usize];
            match field.known {
                Known::Other => {}
                Known::Connection => {
                    field.hop = true;
                    meaning.names_fields |= meaning.options.add(value);
                }
                Known::KeepAlive | Known::Mark | Known::ProxyConnection | Known::Http2Settings => {
                    field.hop = true
                }
                Known::Te => field.hop = !value.eq_ignore_ascii_case(b"trailers"),
                Known::ContentLength => field.hop = meaning.add_length(value, repeated)?,
                Known::TransferEncoding => meaning.add_coding(value, version)?,
                Known::Host if meaning.host.is_some() => return Err(Hostile::ConflictingHost.into()),
                Known::Host => meaning.host = Some(at),
                Known::Expect => meaning.expects_continue = value.eq_ignore_ascii_case(b"100-continue"),
                // HTTP/2 would carry requests past us that nobody looks at; a server that isn't asked stays with 1.1.
                Known::Upgrade => {
                    let http2 =
                        value.split(|b| *b == b',').any(|p| p.trim_ascii().eq_ignore_ascii_case(b"h2c"));
                    field.hop = http2;
                    offers_upgrade |= !http2;
                }
            }
        }
        if meaning.chunked && meaning.length.is_some() {
            return Err(Hostile::LengthWithChunked.into());
        }
        meaning.upgrade = offers_upgrade && meaning.options.upgrade && version == Version::HTTP_11;
        if !meaning.upgrade {
            fields
                .iter_mut()
                .filter(|field| field.known == Known::Upgrade)
                .for_each(|field| field.hop = true);
        }
        if meaning.names_fields {
            end_named(raw);
        }
        Ok(meaning)
    }

    /// True if the line repeats what an earlier one said.
    fn add_length(&mut self, value: &[u8], repeated: Repeated) -> Result<bool, Hostile> {
        if value.contains(&b',') {
            return Err(Hostile::ConflictingLength);
        }
        let length = parse_length(value).ok_or(Hostile::BadLength)?;
        match self.length.replace(length) {
            None => Ok(false),
            Some(earlier) if earlier == length && repeated == Repeated::Folded => Ok(true),
            Some(_) => Err(Hostile::ConflictingLength),
        }
    }

    fn add_coding(&mut self, value: &[u8], version: Version) -> Result<(), Hostile> {
        if self.chunked || version != Version::HTTP_11 || !value.eq_ignore_ascii_case(b"chunked") {
            return Err(Hostile::BadTransferEncoding);
        }
        self.chunked = true;
        Ok(())
    }
}

impl Options {
    /// True if `value` names something else than these.
    fn add(&mut self, value: &[u8]) -> bool {
        let mut others = false;
        for option in value.split(|b| *b == b',').map(<[u8]>::trim_ascii) {
            match option.len() {
                5 if option.eq_ignore_ascii_case(b"close") => self.close = true,
                7 if option.eq_ignore_ascii_case(b"upgrade") => self.upgrade = true,
                10 if option.eq_ignore_ascii_case(b"keep-alive") => self.keep_alive = true,
                _ => others = true,
            }
        }
        others
    }
}

/// Marks what the Connection fields name as ending here.
fn end_named(raw: &mut RawHead) {
    let RawHead { bytes, fields, .. } = raw;
    let value = |field: &Field| bytes.slice(field.value as usize..field.value_end as usize);
    let lists: Vec<Bytes> = fields.iter().filter(|f| f.known == Known::Connection).map(value).collect();
    for field in fields.iter_mut().filter(|field| field.known == Known::Other) {
        let name = &bytes[field.start as usize..field.name_end as usize];
        let named =
            |list: &Bytes| list.split(|b| *b == b',').any(|o| o.trim_ascii().eq_ignore_ascii_case(name));
        field.hop |= may_be_named(name) && lists.iter().any(named);
    }
}

/// Identity and the announcement of trailers can't be taken out by naming them; framing and Host neither.
fn may_be_named(name: &[u8]) -> bool {
    !name.eq_ignore_ascii_case(X_REQUEST_ID.as_str().as_bytes()) && !name.eq_ignore_ascii_case(b"trailer")
}

fn parse_length(value: &[u8]) -> Option<u64> {
    if value.is_empty() || value.len() > 19 {
        return None;
    }
    value.iter().try_fold(0_u64, |sum, b| b.is_ascii_digit().then(|| sum * 10 + u64::from(b - b'0')))
}

fn parse_request_line(raw: &RawHead, max_uri: usize) -> Result<(Method, Uri, Version), HeadError> {
    let line = raw.first_line();
    let method_len = check_method(line)?.ok_or(Hostile::BadRequestLine)?;
    let rest = &line[method_len + 1..];
    let target_len = memchr::memchr(b' ', rest).ok_or_else(|| in_line(rest))?;
    let target = &rest[..target_len];
    if target.len() > max_uri {
        return Err(HeadError::UriTooLong);
    }
    let version =
        parse_version(&rest[target_len + 1..]).map_err(|other| other.unwrap_or_else(|| in_line(rest)))?;
    let method = Method::from_bytes(&line[..method_len]).map_err(|_| Hostile::BadRequestLine)?;
    // A fragment never belongs into a target; the parser would drop it while we would forward it.
    if target.contains(&b'#') {
        return Err(Hostile::BadTarget.into());
    }
    let at = method_len + 1;
    let uri = Uri::from_maybe_shared(raw.bytes.slice(at..at + target_len));
    let uri =
        uri.map_err(|_| target.iter().find_map(|b| head::control_byte(*b)).unwrap_or(Hostile::BadTarget))?;
    Ok((method, uri, version))
}

/// Checks as much of a request line as is there, so that what isn't HTTP is refused without waiting for its end.
/// Returns the method's length once it is complete.
pub fn check_method(line: &[u8]) -> Result<Option<usize>, Hostile> {
    let Some(len) = line.iter().position(|b| !head::is_token(*b)) else {
        return if line.len() <= MAX_METHOD { Ok(None) } else { Err(Hostile::BadRequestLine) };
    };
    if line[len] == b' ' && len > 0 { Ok(Some(len)) } else { Err(in_line(&line[len..=len])) }
}

/// Longer than any registered method (UPDATEREDIRECTREF has 17).
const MAX_METHOD: usize = 32;

fn in_line(part: &[u8]) -> Hostile {
    part.iter().find_map(|b| head::control_byte(*b)).unwrap_or(Hostile::BadRequestLine)
}

/// `Err(None)` if it isn't a version at all.
fn parse_version(text: &[u8]) -> Result<Version, Option<Hostile>> {
    match text {
        b"HTTP/1.1" => Ok(Version::HTTP_11),
        b"HTTP/1.0" => Ok(Version::HTTP_10),
        [b'H', b'T', b'T', b'P', b'/', major, b'.', minor]
            if major.is_ascii_digit() && minor.is_ascii_digit() =>
        {
            Err(Some(Hostile::BadVersion))
        }
        _ => Err(None),
    }
}

fn parse_status_line(line: &[u8]) -> Result<(Version, StatusCode), Hostile> {
    let bad = Hostile::BadStatusLine;
    let version = parse_version(line.get(..8).ok_or(bad)?).map_err(|other| other.unwrap_or(bad))?;
    let code = line.get(8..12).and_then(|text| text.strip_prefix(b" ")).ok_or(bad)?;
    let status = StatusCode::from_bytes(code).map_err(|_| bad)?;
    // The space before an absent reason is missing often enough (RFC 9112, 4 wants it).
    let reason = &line[12..];
    let well = status.as_u16() < 600
        && reason.first().is_none_or(|b| *b == b' ')
        && reason.iter().all(|b| head::is_value(*b));
    if well { Ok((version, status)) } else { Err(bad) }
}

fn header_map(raw: &RawHead) -> Result<http::HeaderMap, HeadError> {
    let mut map = pool::take_map();
    for field in raw.fields.iter().filter(|f| !f.hop && f.known != Known::TransferEncoding) {
        let name = HeaderName::from_bytes(raw.name(field)).map_err(|_| Hostile::BadHeaderName)?;
        let value = raw.bytes.slice(field.value as usize..field.value_end as usize);
        let value = HeaderValue::from_maybe_shared(value).map_err(|_| Hostile::BadHeaderValue)?;
        map.try_append(name, value).map_err(|_| HeadError::TooLarge)?;
    }
    Ok(map)
}

#[cfg(test)]
mod tests;

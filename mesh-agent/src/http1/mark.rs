//! What HTTP/2 has no words for of a message of HTTP/1: version, spelling and order of names, target and Host as they were
//! written, reason phrase, framing. Said by one agent to the other in a field of their own.
//!
//! The agent of the client says it (`over_http2`), that of the endpoint makes HTTP/1 of it again (`crate::http2::over_http1`), and the
//! other way round for the response. Pure. A mark is no more than words: what is made of it goes through the same parser, and is judged by
//! the same policies, as what comes in HTTP/1. From anybody but another agent it is dropped.
//!
//! A response's length stands in a second one: what HTTP/2 says of it has to hold (RFC 9113, 8.1.1), and an application may break off.
//!
//! `VERSION [n=NAMES] [t=TARGET] [h=HOST]`, `VERSION [n=NAMES] [u=UPGRADE] [r=REASON]` or, for trailers, `n=NAMES` or `e=END`; a space or percent sign in a
//! value is percent-encoded. Names repeat from request to request, so HPACK makes an index of one or two bytes of most marks.

use bytes::{BufMut, BytesMut};
use http::header::{CONNECTION, CONTENT_LENGTH, HOST, TRANSFER_ENCODING, UPGRADE};
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, StatusCode, Version, request};

use super::head::{HeadError, RawHead};
use super::message::{Asked, RequestHead, ResponseHead};
use super::over_http2;
use super::{pool, write};
use crate::proxy::Limits;
use crate::proxy::error::Hostile;
use crate::route::HeaderEdits;

/// The field. `head::Known::Mark` is its name where heads of HTTP/1 are parsed.
pub(crate) const MARK: HeaderName = HeaderName::from_static("mesh-agent-http1");

/// A request for another agent: as HTTP/2 says it, and what that leaves out.
pub(crate) fn request(request: &RequestHead) -> Request<()> {
    let mut head = over_http2::head(request);
    let mut lines = pool::take_buffer();
    write::put_request(request, &mut lines);
    let mut mark = Vec::with_capacity(192);
    put_version(request.parts.version, &mut mark);
    put_names(&lines, &mut mark);
    let line = &lines[..memchr::memchr(b'\r', &lines).unwrap_or(lines.len())];
    let target = line.split(|byte| *byte == b' ').nth(1).unwrap_or_default();
    if target_of(head.uri()).as_bytes() != target {
        put(b"t", target, &mut mark);
    }
    let host = request.parts.headers.get(HOST).filter(|_| !head.headers().contains_key(HOST));
    let authority = head.uri().authority().map(|authority| authority.as_str().as_bytes());
    if let Some(host) = host.filter(|host| Some(host.as_bytes()) != authority) {
        put(b"h", host.as_bytes(), &mut mark);
    }
    pool::give_buffer(lines);
    insert(head.headers_mut(), &mark);
    head
}

/// The request that another agent marked.
///
/// # Errors
/// If the mark is none, or what comes of it isn't a request that would be taken from a client of HTTP/1.
pub(crate) fn restore_request(
    parts: &request::Parts,
    mark: &HeaderValue,
    limits: &Limits,
) -> Result<RequestHead, HeadError> {
    let mark = Mark::parse(mark)?;
    let version = mark.version.ok_or(Hostile::BadFrame)?;
    let target = mark.target.unwrap_or_else(|| target_of(&parts.uri).as_bytes().to_vec());
    let mut out = BytesMut::with_capacity(1024);
    for part in [parts.method.as_str().as_bytes(), b" ", &target, b" ", version, b"\r\n"] {
        out.extend_from_slice(part);
    }
    let authority = || parts.uri.authority().map(|authority| authority.as_str().as_bytes().to_vec());
    let host = match (mark.host, parts.headers.get(HOST)) {
        (Some(host), _) => Some(host),
        (None, Some(_)) => None,
        (None, None) => authority(),
    };
    let special = |name: &HeaderName| match *name {
        HOST => host.clone(),
        TRANSFER_ENCODING => Some(b"chunked".to_vec()),
        _ => None,
    };
    put_lines(&mark.names, &parts.headers, special, &mut out)?;
    out.put_slice(b"\r\n");
    if out.len() > limits.max_head_bytes {
        return Err(HeadError::TooLarge);
    }
    RequestHead::parse(out.freeze(), limits.max_headers, limits.max_uri)
}

/// A response for another agent, after `edits`; None if h2 has no way to say it.
pub(crate) fn response<'e>(
    response: &ResponseHead,
    edits: impl Iterator<Item = &'e HeaderEdits> + Clone,
) -> Option<Response<()>> {
    let mut lines = BytesMut::with_capacity(response.raw.bytes.len() + 64);
    write::put_response(response, None, false, edits, &mut lines);
    let raw = RawHead::parse(lines.freeze(), usize::MAX).ok()?;
    let mut head = Response::new(());
    *head.status_mut() = response.status;
    let (mut mark, mut length) = (Vec::with_capacity(128), None);
    put_version(response.version, &mut mark);
    put_names(&raw.bytes, &mut mark);
    for field in &raw.fields {
        let name = HeaderName::from_bytes(raw.name(field)).ok()?;
        let value = raw.bytes.slice(field.value as usize..field.value_end as usize);
        match name {
            // Framing is each hop's own, and an offer to upgrade HTTP/2 doesn't know (RFC 9113, 8.2.2).
            TRANSFER_ENCODING | CONNECTION => {}
            UPGRADE => put(b"u", &value, &mut mark),
            CONTENT_LENGTH => length = HeaderValue::from_maybe_shared(value).ok(),
            name => {
                head.headers_mut().append(name, HeaderValue::from_maybe_shared(value).ok()?);
            }
        }
    }
    let reason = raw.first_line().get(13..).unwrap_or_default();
    if reason != response.status.canonical_reason().unwrap_or_default().as_bytes() {
        put(b"r", reason, &mut mark);
    }
    insert(head.headers_mut(), &mark);
    if let Some(mut length) = length {
        // Lengths differ from response to response: in HPACK's table they would only push marks out (RFC 7541, 6.2.3).
        length.set_sensitive(true);
        head.headers_mut().append(MARK, length);
    }
    Some(head)
}

/// What another agent said of a response.
pub(crate) struct Said {
    mark: HeaderValue,
    length: Option<HeaderValue>,
}

/// Takes out of a response's head what another agent said of it.
pub(crate) fn take(headers: &mut HeaderMap) -> Option<Said> {
    let length = headers.get_all(MARK).iter().nth(1).cloned();
    headers.remove(MARK).map(|mark| Said { mark, length })
}

/// The response that another agent marked.
///
/// # Errors
/// As [`restore_request`].
pub(crate) fn restore_response(
    status: StatusCode,
    headers: &HeaderMap,
    said: &Said,
    asked: Asked,
    limits: &Limits,
) -> Result<ResponseHead, HeadError> {
    let mark = Mark::parse(&said.mark)?;
    let version = mark.version.ok_or(Hostile::BadFrame)?;
    let canonical = || status.canonical_reason().unwrap_or_default().as_bytes().to_vec();
    let reason = mark.reason.unwrap_or_else(canonical);
    let mut out = BytesMut::with_capacity(1024);
    for part in [version, b" ", status.as_str().as_bytes(), b" ", &reason, b"\r\n"] {
        out.extend_from_slice(part);
    }
    let special = |name: &HeaderName| match *name {
        TRANSFER_ENCODING => Some(b"chunked".to_vec()),
        UPGRADE => mark.upgrade.clone(),
        CONTENT_LENGTH => said.length.as_ref().map(|length| length.as_bytes().to_vec()),
        _ => None,
    };
    put_lines(&mark.names, headers, special, &mut out)?;
    out.put_slice(if mark.upgrade.is_some() { b"Connection: Upgrade\r\n\r\n" } else { b"\r\n" });
    if out.len() > limits.max_head_bytes {
        return Err(HeadError::TooLarge);
    }
    ResponseHead::parse(out.freeze(), limits.max_headers, asked)
}

/// Trailers for another agent: as they are, and how their names were spelled. `last` is the chunk that they came in.
pub(crate) fn trailers(last: &[u8], trailers: &mut HeaderMap) {
    let mut mark = Vec::new();
    put_names(last, &mut mark);
    insert(trailers, mark.trim_ascii_start());
}

/// Puts trailer lines as they were spelled, and takes the mark out of them.
///
/// # Errors
/// If the mark is none.
pub(crate) fn restore_trailers(trailers: &mut HeaderMap, out: &mut BytesMut) -> Result<(), Hostile> {
    let mark = trailers.remove(MARK);
    let names = mark.as_ref().map(Mark::parse).transpose()?.unwrap_or_default().names;
    put_lines(&names, trailers, |_| None, out)
}

/// Trailers of a body that its application left unfinished, in place of a reset of the stream: that would overtake what was
/// said before, and HTTP/2 may drop it (RFC 9113, 5.4.2).
pub(crate) fn cut_short(how: Cut) -> HeaderMap {
    HeaderMap::from_iter([(MARK, HeaderValue::from_static(how.word()))])
}

/// How the application left a body unfinished, if these trailers of another agent say so.
pub(crate) fn is_cut_short(trailers: &HeaderMap) -> Option<Cut> {
    let said = trailers.get(MARK)?;
    [Cut::Closed, Cut::Reset].into_iter().find(|how| said == how.word())
}

/// How an application ended its connection within a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cut {
    /// In order, as far as TCP goes.
    Closed,
    /// By a reset, or by what isn't HTTP.
    Reset,
}

impl Cut {
    fn word(self) -> &'static str {
        match self {
            Self::Closed => "e=closed",
            Self::Reset => "e=reset",
        }
    }
}

/// The target of a request whose path says it all.
fn target_of(uri: &http::Uri) -> &str {
    uri.path_and_query().map_or("/", |target| target.as_str())
}

fn insert(headers: &mut HeaderMap, mark: &[u8]) {
    // It is made of what was found in fields, so it can stand in one.
    if let Ok(value) = HeaderValue::from_bytes(mark) {
        headers.insert(MARK, value);
    }
}

fn put_version(version: Version, out: &mut Vec<u8>) {
    out.extend_from_slice(if version == Version::HTTP_10 { b"1.0" } else { b"1.1" });
}

/// The names of a head's lines, the first line left out.
fn put_names(head: &[u8], out: &mut Vec<u8>) {
    let mut rest = head;
    let mut next = || {
        let end = memchr::memchr(b'\n', rest)?;
        let (line, behind) = rest.split_at(end + 1);
        rest = behind;
        Some(line)
    };
    next();
    let mut lead: &[u8] = b" n=";
    while let Some(line) = next() {
        let Some(end) = memchr::memchr(b':', line) else { return };
        out.extend_from_slice(lead);
        out.extend_from_slice(&line[..end]);
        lead = b",";
    }
}

fn put(key: &[u8], value: &[u8], out: &mut Vec<u8>) {
    out.push(b' ');
    out.extend_from_slice(key);
    out.push(b'=');
    for byte in value {
        match byte {
            b' ' => out.extend_from_slice(b"%20"),
            b'%' => out.extend_from_slice(b"%25"),
            byte => out.push(*byte),
        }
    }
}

/// A mark's parts.
#[derive(Debug, Default)]
struct Mark<'m> {
    version: Option<&'static [u8]>,
    names: Vec<&'m [u8]>,
    target: Option<Vec<u8>>,
    host: Option<Vec<u8>>,
    upgrade: Option<Vec<u8>>,
    reason: Option<Vec<u8>>,
}

impl<'m> Mark<'m> {
    fn parse(value: &'m HeaderValue) -> Result<Self, Hostile> {
        let mut mark = Self::default();
        for (at, part) in value.as_bytes().split(|byte| *byte == b' ').enumerate() {
            match part {
                b"1.1" if at == 0 => mark.version = Some(b"HTTP/1.1"),
                b"1.0" if at == 0 => mark.version = Some(b"HTTP/1.0"),
                [b'n', b'=', names @ ..] => {
                    mark.names = names.split(|byte| *byte == b',').collect();
                }
                [b't', b'=', target @ ..] => mark.target = Some(plain(target)?),
                [b'h', b'=', host @ ..] => mark.host = Some(plain(host)?),
                [b'u', b'=', upgrade @ ..] => mark.upgrade = Some(plain(upgrade)?),
                [b'r', b'=', reason @ ..] => mark.reason = Some(plain(reason)?),
                _ => return Err(Hostile::BadFrame),
            }
        }
        Ok(mark)
    }
}

/// Undoes [`put`].
fn plain(value: &[u8]) -> Result<Vec<u8>, Hostile> {
    let mut out = Vec::with_capacity(value.len());
    let mut rest = value;
    while let Some((byte, behind)) = rest.split_first() {
        rest = match (byte, behind) {
            (b'%', [b'2', b'0', behind @ ..]) => {
                out.push(b' ');
                behind
            }
            (b'%', [b'2', b'5', behind @ ..]) => {
                out.push(b'%');
                behind
            }
            (b'%', _) => return Err(Hostile::BadFrame),
            (byte, behind) => {
                out.push(*byte);
                behind
            }
        };
    }
    Ok(out)
}

/// Puts a line for each name, as it is spelled and in that order, with its next value; then what `headers` has beside those.
/// A name without a value left, in `headers` or by `special`, has no line.
fn put_lines(
    names: &[&[u8]],
    headers: &HeaderMap,
    special: impl Fn(&HeaderName) -> Option<Vec<u8>>,
    out: &mut BytesMut,
) -> Result<(), Hostile> {
    let earlier =
        |at: usize, name: &[u8]| names[..at].iter().filter(|other| other.eq_ignore_ascii_case(name)).count();
    let mut told = 0;
    for (at, name) in names.iter().enumerate() {
        // A colon or space would make another line of it than its name says.
        let known = HeaderName::from_bytes(name).map_err(|_| Hostile::BadHeaderName)?;
        if let Some(value) = headers.get_all(&known).iter().nth(earlier(at, name)) {
            put_line(name, value.as_bytes(), out);
            told += 1;
        } else if let Some(value) = special(&known).filter(|_| earlier(at, name) == 0) {
            put_line(name, &value, out);
        }
    }
    if told == headers.len() {
        return Ok(());
    }
    for name in headers.keys() {
        let told = earlier(names.len(), name.as_str().as_bytes());
        for value in headers.get_all(name).iter().skip(told) {
            put_line(name.as_str().as_bytes(), value.as_bytes(), out);
        }
    }
    Ok(())
}

fn put_line(name: &[u8], value: &[u8], out: &mut BytesMut) {
    out.reserve(name.len() + value.len() + 4);
    for part in [name, b": ", value, b"\r\n"] {
        out.extend_from_slice(part);
    }
}

#[cfg(test)]
mod tests;

//! Heads as they leave: every line as it was spelled and in its order, what ends at this hop left out, what was added put
//! behind.
//!
//! Lines that stay are copied in runs, so an untouched head is one copy. Comes after `message`, before `conn`'s writer.

use bytes::{BufMut, BytesMut};
use http::header::{HeaderMap, HeaderName, HeaderValue};
use http::{Version, request};

use super::head::{Field, Known, RawHead};
use super::message::{RequestHead, ResponseHead};
use crate::route::HeaderEdits;

/// Puts a request head for the upstream.
pub fn put_request(request: &RequestHead, out: &mut BytesMut) {
    put_request_as(request, &request.parts, request.retargeted, out);
}

/// Puts a request head for one endpoint, as it is for that one alone.
pub fn put_request_as(request: &RequestHead, parts: &request::Parts, retargeted: bool, out: &mut BytesMut) {
    if retargeted {
        put_request_line(parts, out);
    }
    let lines = Runs::of_request(request, retargeted);
    let start = out.len();
    let headers = &parts.headers;
    if !put_in_step(&request.raw, lines, headers, out) {
        out.truncate(start);
        put_by_name(&request.raw, lines, headers, out);
    }
    out.put_slice(if request.upgrade { b"Connection: Upgrade\r\n\r\n" } else { b"\r\n" });
}

/// The request line with the target that a route gave it, in origin form (RFC 9112, 3.2.1).
fn put_request_line(parts: &request::Parts, out: &mut BytesMut) {
    let target = parts.uri.path_and_query().map_or("/", |target| target.as_str());
    let version = if parts.version == Version::HTTP_10 { " HTTP/1.0\r\n" } else { " HTTP/1.1\r\n" };
    for part in [parts.method.as_str(), " ", target, version] {
        out.put_slice(part.as_bytes());
    }
}

/// Puts a response head for the client. `connection` is the value of its Connection field, if it needs one. With
/// `bare`, the client doesn't know chunks and gets none. `edits` are made in their order.
pub fn put_response<'e>(
    response: &ResponseHead,
    connection: Option<&str>,
    bare: bool,
    edits: impl Iterator<Item = &'e HeaderEdits> + Clone,
    out: &mut BytesMut,
) {
    let raw = &response.raw;
    let mut runs = Runs::new(raw);
    for field in &raw.fields {
        let framing = matches!(field.known, Known::TransferEncoding | Known::ContentLength);
        let replaced = || !framing && edits.clone().any(|edits| edits.replaces(raw.name(field)));
        if field.hop || bare && field.known == Known::TransferEncoding || replaced() {
            runs.skip(field, out);
        }
    }
    runs.finish(out);
    put_edits(edits, out);
    if let Some(connection) = connection {
        put_line(b"Connection", connection.as_bytes(), out);
    }
    out.put_slice(b"\r\n");
}

fn put_edits<'e>(mut edits: impl Iterator<Item = &'e HeaderEdits> + Clone, out: &mut BytesMut) {
    while let Some(edit) = edits.next() {
        for (name, value) in edit.lines() {
            let name = name.as_str().as_bytes();
            if !edits.clone().any(|later| later.replaces(name)) {
                put_line(name, value.as_bytes(), out);
            }
        }
    }
}

/// The map was made from the lines in their order, so walking both in step finds what is unchanged. False if they
/// fell out of step.
fn put_in_step(raw: &RawHead, mut runs: Runs<'_>, headers: &HeaderMap, out: &mut BytesMut) -> bool {
    let mut entries = headers.iter();
    for field in &raw.fields {
        if field.hop {
            runs.skip(field, out);
            continue;
        }
        if field.known == Known::TransferEncoding {
            continue;
        }
        match entries.next() {
            Some((name, value)) if is_same(raw, field, name, value) => {}
            // Its value was replaced, which leaves it in its place.
            Some((name, value)) if field.known != Known::ContentLength && is_named(raw, field, name) => {
                runs.skip(field, out);
                put_line(name.as_str().as_bytes(), value.as_bytes(), out);
            }
            _ => return false,
        }
    }
    runs.finish(out);
    for (name, value) in entries {
        put_line(name.as_str().as_bytes(), value.as_bytes(), out);
    }
    true
}

/// The general way: of equal lines as many stay as the map still has; the rest of the map comes behind.
fn put_by_name(raw: &RawHead, mut runs: Runs<'_>, headers: &HeaderMap, out: &mut BytesMut) {
    for (at, field) in raw.fields.iter().enumerate() {
        let framing = matches!(field.known, Known::TransferEncoding | Known::ContentLength);
        let kept = || {
            let Ok(name) = HeaderName::from_bytes(raw.name(field)) else { return false };
            let value = raw.value(field);
            let there = headers.get_all(&name).iter().filter(|other| other.as_bytes() == value).count();
            equal_lines(raw, &raw.fields[..at], &name, value) < there
        };
        if field.hop || !framing && !kept() {
            runs.skip(field, out);
        }
    }
    runs.finish(out);
    for name in headers.keys() {
        for (at, value) in headers.get_all(name).iter().enumerate() {
            let value = value.as_bytes();
            let earlier =
                headers.get_all(name).iter().take(at).filter(|other| other.as_bytes() == value).count();
            if earlier >= equal_lines(raw, &raw.fields, name, value) {
                put_line(name.as_str().as_bytes(), value, out);
            }
        }
    }
}

/// How many of `fields` that go on are this line.
fn equal_lines(raw: &RawHead, fields: &[Field], name: &HeaderName, value: &[u8]) -> usize {
    let same = |field: &&Field| {
        !field.hop
            && raw.value(field) == value
            && raw.name(field).eq_ignore_ascii_case(name.as_str().as_bytes())
    };
    fields.iter().filter(same).count()
}

fn is_same(raw: &RawHead, field: &Field, name: &HeaderName, value: &HeaderValue) -> bool {
    let line = raw.value(field);
    let same_value = std::ptr::eq(line, value.as_bytes()) || line == value.as_bytes();
    same_value && is_named(raw, field, name)
}

fn is_named(raw: &RawHead, field: &Field, name: &HeaderName) -> bool {
    raw.name(field).eq_ignore_ascii_case(name.as_str().as_bytes())
}

fn put_line(name: &[u8], value: &[u8], out: &mut BytesMut) {
    out.reserve(name.len() + value.len() + 4);
    for part in [name, b": ", value, b"\r\n"] {
        out.put_slice(part);
    }
}

/// Copies what lies between the lines that are left out.
#[derive(Clone, Copy)]
struct Runs<'a> {
    bytes: &'a [u8],
    from: usize,
}

impl<'a> Runs<'a> {
    fn new(raw: &'a RawHead) -> Self {
        // Without the empty line at the end.
        Self { bytes: &raw.bytes[..raw.bytes.len() - 2], from: 0 }
    }

    /// All of it, or all but the request line.
    fn of_request(request: &'a RequestHead, retargeted: bool) -> Self {
        let from = if retargeted { request.raw.line_end } else { 0 };
        Self { from, ..Self::new(&request.raw) }
    }

    fn skip(&mut self, field: &Field, out: &mut BytesMut) {
        out.extend_from_slice(&self.bytes[self.from..field.start as usize]);
        self.from = field.end as usize;
    }

    fn finish(self, out: &mut BytesMut) {
        out.extend_from_slice(&self.bytes[self.from..]);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use bytes::Bytes;

    use super::*;
    use crate::http1::message::Asked;

    fn request(input: &str) -> RequestHead {
        RequestHead::parse(Bytes::copy_from_slice(input.as_bytes()), 100, 1000).unwrap()
    }

    fn check(input: &str, change: impl Fn(&mut HeaderMap), expected: &str) {
        let mut request = request(input);
        change(&mut request.parts.headers);
        let mut out = BytesMut::new();
        put_request(&request, &mut out);
        assert_eq!(std::str::from_utf8(&out).unwrap(), expected);
    }

    #[test]
    fn spelling_and_order_stay() {
        let head = "GET /a?b HTTP/1.1\r\nhOST:  a \r\nX-B: 1\r\nx-a:\r\nX-b: 2\r\nx-c: 3\r\n\r\n";
        check(head, |_| {}, head);
        check(
            head,
            |map| drop(map.remove("x-b")),
            "GET /a?b HTTP/1.1\r\nhOST:  a \r\nx-a:\r\nx-c: 3\r\n\r\n",
        );
    }

    #[test]
    fn what_ends_here_is_left_out() {
        check(
            "GET / HTTP/1.1\r\nConnection: close, X-Gone\r\nHost: a\r\nx-gone: 1\r\nKeep-Alive: 5\r\nTE: gzip\r\nX: y\r\n\r\n",
            |_| {},
            "GET / HTTP/1.1\r\nHost: a\r\nX: y\r\n\r\n",
        );
        check(
            "GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: x\r\n\r\n",
            |_| {},
            "GET / HTTP/1.1\r\nHost: a\r\n\r\n",
        );
        check(
            "GET / HTTP/1.1\r\nHost: a\r\nConnection: keep-alive, Upgrade\r\nUpgrade: websocket\r\n\r\n",
            |_| {},
            "GET / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n",
        );
    }

    #[test]
    fn additions_come_behind_and_changes_count_as_such() {
        let head = "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nX-A: 1\r\n\r\n";
        let add = |map: &mut HeaderMap| drop(map.insert("x-request-id", HeaderValue::from_static("7")));
        let with =
            "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nX-A: 1\r\nx-request-id: 7\r\n\r\n";
        check(head, add, with);
        let change = |map: &mut HeaderMap| drop(map.insert("x-a", HeaderValue::from_static("2")));
        check(head, change, "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nx-a: 2\r\n\r\n");
    }

    #[test]
    fn lines_of_one_value_are_counted() {
        let head = "GET / HTTP/1.1\r\nX-A: 1\r\nHost: a\r\nx-a: 1\r\nX-B: 2\r\n\r\n";
        let one = HeaderValue::from_static("1");
        check(
            head,
            |map| drop(map.insert("x-a", one.clone())),
            "GET / HTTP/1.1\r\nX-A: 1\r\nHost: a\r\nX-B: 2\r\n\r\n",
        );
        check(
            head,
            |map| assert!(map.append("x-a", one.clone())),
            "GET / HTTP/1.1\r\nX-A: 1\r\nHost: a\r\nx-a: 1\r\nX-B: 2\r\nx-a: 1\r\n\r\n",
        );
        check(head, |map| drop(map.remove("x-a")), "GET / HTTP/1.1\r\nHost: a\r\nX-B: 2\r\n\r\n");
    }

    #[test]
    fn responses_get_the_connection_field_of_this_hop() {
        let head =
            "HTTP/1.1 200 Fine\r\nConnection: keep-alive\r\nTransfer-Encoding: chunked\r\nServer: x\r\n\r\n";
        let response =
            ResponseHead::parse(Bytes::copy_from_slice(head.as_bytes()), 10, Asked::default()).unwrap();
        let mut out = BytesMut::new();
        put_response(&response, Some("close"), true, std::iter::empty(), &mut out);
        assert_eq!(&out[..], b"HTTP/1.1 200 Fine\r\nServer: x\r\nConnection: close\r\n\r\n");
    }
}

//! Heads between the versions: a request's as HTTP/2 says it, a response's as HTTP/1 does (RFC 9113, 8).
//!
//! Host and `:authority` name one place, what belongs to one connection ends here (RFC 9113, 8.2.2), and framing is each
//! side's own. Names come lower-cased out of the header map. Comes before `upload` and `download`.

use bytes::{BufMut, BytesMut};
use http::header::{CONTENT_LENGTH, HOST, TE};
use http::uri::{Authority, Scheme};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, StatusCode, Uri, Version, request};

use crate::http1::body::Body;
use crate::http1::forward::Ask;
use crate::http1::message::RequestHead;
use crate::proxy::Picked;
use crate::proxy::error::Hostile;
use crate::proxy::headers::strip_hop_by_hop;

/// True if the request goes to this endpoint over HTTP/2. What leaves HTTP behind (Upgrade, CONNECT) needs a connection of
/// its own and stays what it is.
pub fn carries(request: &RequestHead, picked: &Picked) -> bool {
    let over = picked.is_over_http2() || picked.restores_http1();
    over && !request.upgrade && request.parts.method != Method::CONNECT
}

/// The request's head for an endpoint.
pub(super) fn request(parts: &request::Parts) -> Request<()> {
    let mut head = Request::new(());
    head.method_mut().clone_from(&parts.method);
    let uri = target(&parts.uri, parts.headers.get(HOST));
    // Copied one by one: taking one out of a map puts the last in its place.
    let stays = |name: &HeaderName| uri.is_none() || name != HOST;
    for (name, value) in parts.headers.iter().filter(|(name, _)| stays(name)) {
        head.headers_mut().append(name, value.clone());
    }
    strip_hop_by_hop(head.headers_mut(), false);
    if let Some(te) = head.headers_mut().get_mut(TE) {
        // It is this, in whatever case; the h2 crate wants lower case.
        *te = HeaderValue::from_static("trailers");
    }
    // HTTP/1.0 may name no host, and Host may be empty or odd: it stays a field, and `:authority` is left out
    // (RFC 9113, 8.3.1). The h2 crate takes that from a message of version 1 only.
    *head.version_mut() = if uri.is_some() { Version::HTTP_2 } else { Version::HTTP_11 };
    *head.uri_mut() = uri.unwrap_or_else(|| parts.uri.clone());
    head
}

/// The target with an authority: its own, since a server of HTTP/1 would go by that too (RFC 9112, 3.2.2), or Host's.
fn target(uri: &Uri, host: Option<&HeaderValue>) -> Option<Uri> {
    if uri.authority().is_some() {
        return Some(uri.clone());
    }
    let mut parts = uri.clone().into_parts();
    parts.authority = Some(Authority::try_from(host?.as_bytes()).ok()?);
    parts.scheme = Some(Scheme::HTTP);
    Uri::from_parts(parts).ok()
}

/// How the client will know where the response's body ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Framing {
    /// There is none, whatever the head says.
    Bodiless,
    /// By its length.
    Length(u64),
    /// By chunks.
    Chunked,
    /// By the end of the connection, for a client that doesn't know chunks.
    UntilClose,
}

impl Framing {
    /// Of a response whose stream ended with its head, or didn't.
    ///
    /// # Errors
    /// If its length is none.
    pub(super) fn of(
        status: StatusCode,
        headers: &HeaderMap,
        ended: bool,
        ask: &Ask,
    ) -> Result<Self, Hostile> {
        if ask.asked.head || matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED) {
            return Ok(Self::Bodiless);
        }
        let mut lengths = headers.get_all(CONTENT_LENGTH).iter();
        match (lengths.next(), lengths.next()) {
            (Some(_), Some(_)) => Err(Hostile::ConflictingLength),
            (Some(length), None) => {
                let length = length.to_str().ok().filter(|text| text.bytes().all(|b| b.is_ascii_digit()));
                length.and_then(|text| text.parse().ok()).map(Self::Length).ok_or(Hostile::BadLength)
            }
            (None, _) if ended => Ok(Self::Length(0)),
            (None, _) if ask.version == Version::HTTP_10 => Ok(Self::UntilClose),
            (None, _) => Ok(Self::Chunked),
        }
    }

    /// Of a response that an application said in HTTP/1, with a body of this kind.
    pub(super) fn of_said(body: &Body, ask: &Ask) -> Self {
        match body {
            Body::Empty => Self::Bodiless,
            Body::Length(length) => Self::Length(*length),
            Body::Chunked(_) if ask.version == Version::HTTP_11 => Self::Chunked,
            Body::Chunked(_) | Body::UntilClose => Self::UntilClose,
        }
    }

    /// True if another response can follow on the connection.
    pub(super) fn is_delimited(self) -> bool {
        self != Self::UntilClose
    }
}

/// Puts a final response's head. `connection` is the value of its Connection field, if it needs one.
pub(super) fn put_response(
    status: StatusCode,
    headers: &mut HeaderMap,
    framing: Framing,
    connection: Option<&str>,
    out: &mut BytesMut,
) {
    let declared = headers.get(CONTENT_LENGTH).cloned();
    put_status_and_fields(status, headers, out);
    match framing {
        Framing::Length(length) => put_line("content-length", HeaderValue::from(length).as_bytes(), out),
        Framing::Chunked => put_line("transfer-encoding", b"chunked", out),
        // What the body would be (RFC 9110, 8.6); 204 says nothing of one.
        Framing::Bodiless if status != StatusCode::NO_CONTENT => {
            declared.iter().for_each(|length| put_line("content-length", length.as_bytes(), out));
        }
        Framing::Bodiless | Framing::UntilClose => {}
    }
    if let Some(connection) = connection {
        put_line("connection", connection.as_bytes(), out);
    }
    out.put_slice(b"\r\n");
}

/// Puts an interim response's head.
pub(super) fn put_interim(status: StatusCode, headers: &mut HeaderMap, out: &mut BytesMut) {
    put_status_and_fields(status, headers, out);
    out.put_slice(b"\r\n");
}

/// All but the length, which is framing.
fn put_status_and_fields(status: StatusCode, headers: &mut HeaderMap, out: &mut BytesMut) {
    // The endpoint sends none of these, or h2 refuses it; a route's filter may.
    strip_hop_by_hop(headers, false);
    for part in ["HTTP/1.1 ", status.as_str(), " ", status.canonical_reason().unwrap_or_default(), "\r\n"] {
        out.put_slice(part.as_bytes());
    }
    for (name, value) in headers.iter().filter(|(name, _)| *name != CONTENT_LENGTH) {
        put_line(name.as_str(), value.as_bytes(), out);
    }
}

fn put_line(name: &str, value: &[u8], out: &mut BytesMut) {
    for part in [name.as_bytes(), b": ", value, b"\r\n"] {
        out.extend_from_slice(part);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use bytes::Bytes;

    use super::*;

    fn parse(text: &str) -> RequestHead {
        RequestHead::parse(Bytes::copy_from_slice(text.as_bytes()), 100, 1000).unwrap()
    }

    fn check(text: &str, uri: &str, fields: &[(&str, &str)]) {
        let head = request(&parse(text).parts);
        assert_eq!(head.uri().to_string(), uri, "{text}");
        let got: Vec<_> = head.headers().iter().map(|(n, v)| (n.as_str(), v.to_str().unwrap())).collect();
        assert_eq!(got, fields, "{text}");
    }

    #[test]
    fn a_requests_target_has_the_authority_that_host_named() {
        check("GET /a?b=%20 HTTP/1.1\r\nHOST: a:8080\r\n\r\n", "http://a:8080/a?b=%20", &[]);
        check("GET http://a/b HTTP/1.1\r\nHost: a:80\r\n\r\n", "http://a/b", &[]);
        check("OPTIONS * HTTP/1.1\r\nHost: [::1]:80\r\n\r\n", "http://[::1]:80*", &[]);
        // Neither is made up.
        check("GET /a HTTP/1.0\r\nX-A: 1\r\n\r\n", "/a", &[("x-a", "1")]);
        check("GET /a HTTP/1.1\r\nHost:\r\n\r\n", "/a", &[("host", "")]);
    }

    #[test]
    fn what_belongs_to_the_clients_connection_ends_here() {
        check(
            "POST / HTTP/1.1\r\nHost: a\r\nConnection: close, X-Gone\r\nX-Gone: 1\r\nKeep-Alive: 5\r\n\
             Proxy-Connection: x\r\nTransfer-Encoding: chunked\r\nTE: Trailers\r\nUpgrade: h2c\r\nX-STAYS: Y\r\n\r\n",
            "http://a/",
            &[("te", "trailers"), ("x-stays", "Y")],
        );
        check("GET / HTTP/1.1\r\nHost: a\r\nTE: gzip\r\n\r\n", "http://a/", &[]);
    }

    fn framing(
        method: &str,
        version: &str,
        status: u16,
        length: Option<&'static str>,
        ended: bool,
    ) -> Result<Framing, Hostile> {
        let ask = Ask::of(&parse(&format!("{method} / {version}\r\nHost: a\r\n\r\n")));
        let length = length.map(|text| (CONTENT_LENGTH, HeaderValue::from_static(text)));
        Framing::of(StatusCode::from_u16(status).unwrap(), &length.into_iter().collect(), ended, &ask)
    }

    #[test]
    fn a_response_ends_as_its_client_can_tell() {
        assert_eq!(framing("GET", "HTTP/1.1", 200, Some("5"), false), Ok(Framing::Length(5)));
        assert_eq!(framing("GET", "HTTP/1.1", 200, None, false), Ok(Framing::Chunked));
        assert_eq!(framing("GET", "HTTP/1.1", 200, None, true), Ok(Framing::Length(0)));
        assert_eq!(framing("GET", "HTTP/1.0", 200, None, false), Ok(Framing::UntilClose));
        assert_eq!(framing("HEAD", "HTTP/1.1", 200, Some("5"), true), Ok(Framing::Bodiless));
        assert_eq!(framing("GET", "HTTP/1.1", 204, None, false), Ok(Framing::Bodiless));
        assert_eq!(framing("GET", "HTTP/1.1", 304, Some("5"), true), Ok(Framing::Bodiless));
        assert_eq!(framing("GET", "HTTP/1.1", 200, Some("+5"), false), Err(Hostile::BadLength));
        assert_eq!(framing("GET", "HTTP/1.1", 200, Some(""), false), Err(Hostile::BadLength));
    }
}

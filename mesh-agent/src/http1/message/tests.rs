//! Heads into messages: framing and strictness, table by table.
#![allow(clippy::unwrap_used)]
use proptest::prelude::*;

use super::*;

fn parse(text: &str) -> Result<RequestHead, HeadError> {
    RequestHead::parse(Bytes::copy_from_slice(text.as_bytes()), 100, 100)
}

fn check(fields: &str, expected: Result<&str, Hostile>) {
    let parsed = parse(&format!("POST / HTTP/1.1\r\nHost: a\r\n{fields}\r\n"));
    let got = parsed.map(|head| match head.body {
        Body::Empty => "empty".to_owned(),
        Body::Length(length) => length.to_string(),
        Body::Chunked(_) => "chunked".to_owned(),
        Body::UntilClose => "close".to_owned(),
    });
    assert_eq!(got, expected.map(str::to_owned).map_err(HeadError::Hostile), "{fields:?}");
}

#[test]
fn request_framing() {
    check("", Ok("empty"));
    check("Content-Length: 0\r\n", Ok("empty"));
    check("Content-Length: 5\r\n", Ok("5"));
    check("content-length: 0005\r\n", Ok("5"));
    check("Transfer-Encoding: Chunked\r\n", Ok("chunked"));
    check("Transfer-Encoding: chunked\r\nContent-Length: 5\r\n", Err(Hostile::LengthWithChunked));
    check("Content-Length: 5\r\nTransfer-Encoding: chunked\r\n", Err(Hostile::LengthWithChunked));
    check("Content-Length: 5\r\nContent-Length: 6\r\n", Err(Hostile::ConflictingLength));
    check("Content-Length: 5\r\nContent-Length: 5\r\n", Err(Hostile::ConflictingLength));
    check("Content-Length: 5, 5\r\n", Err(Hostile::ConflictingLength));
    for bad in ["-1", "+1", "", "0x5", "5 5", "1e3", "99999999999999999999", "18446744073709551616"] {
        check(&format!("Content-Length: {bad}\r\n"), Err(Hostile::BadLength));
    }
    for bad in [
        "xchunked",
        "gzip",
        "chunked, gzip",
        "gzip, chunked",
        "chunked, chunked",
        "identity",
        "\"chunked\"",
        "chunked;q=1",
        "",
    ] {
        check(&format!("Transfer-Encoding: {bad}\r\n"), Err(Hostile::BadTransferEncoding));
    }
    check("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", Err(Hostile::BadTransferEncoding));
    check("Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n", Err(Hostile::BadTransferEncoding));
    check("Host: b\r\n", Err(Hostile::ConflictingHost));
    check("Host: a\r\n", Err(Hostile::ConflictingHost));
}

fn refused(line: &str, expected: impl Into<HeadError>) {
    let parsed = parse(&format!("{line}\r\nHost: a\r\n\r\n"));
    assert_eq!(parsed.map(drop), Err(expected.into()), "{line:?}");
}

#[test]
fn request_lines() {
    for line in [
        "GET / HTTP/1.1",
        "GET /?a=%20 HTTP/1.0",
        "PURGE /a HTTP/1.1",
        "OPTIONS * HTTP/1.1",
        "GET http://a/ HTTP/1.1",
    ] {
        assert!(parse(&format!("{line}\r\nHost: a\r\n\r\n")).is_ok(), "{line}");
    }
    for line in [
        "GET  / HTTP/1.1",
        "GET /  HTTP/1.1",
        "GET / HTTP/1.1 ",
        "GET /",
        "GET",
        "G(T / HTTP/1.1",
        " GET / HTTP/1.1",
        "GET / http/1.1",
        "GET / HTTP/11",
        "GET\t/ HTTP/1.1",
        "",
    ] {
        refused(line, Hostile::BadRequestLine);
    }
    for line in ["GET / HTTP/2.0", "PRI * HTTP/2.0", "GET / HTTP/0.9", "GET / HTTP/1.2"] {
        refused(line, Hostile::BadVersion);
    }
    for line in ["GET a HTTP/1.1", "GET /#a HTTP/1.1", "GET * HTTP/1.1", "GET /\x7f<> HTTP/1.1"] {
        refused(line, Hostile::BadTarget);
    }
    refused("GET /\0 HTTP/1.1", Hostile::NulByte);
    refused("GET /\r HTTP/1.1", Hostile::BareCarriageReturn);
    refused("GET / HTTP/1.1\r", Hostile::BareCarriageReturn);
    refused(&format!("GET /{} HTTP/1.1", "a".repeat(100)), HeadError::UriTooLong);
}

#[test]
fn version_decides_about_framing_and_keeping() {
    let old = parse("POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n");
    assert_eq!(old.map(drop), Err(Hostile::BadTransferEncoding.into()));
    for (version, connection, kept) in [
        ("1.1", "x", true),
        ("1.1", "close", false),
        ("1.1", "keep-alive, Close", false),
        ("1.0", "x", false),
        ("1.0", "Keep-Alive", true),
    ] {
        let head =
            parse(&format!("GET / HTTP/{version}\r\nHost: a\r\nConnection: {connection}\r\n\r\n")).unwrap();
        assert_eq!(head.options.persistent(head.parts.version), kept, "{version} {connection}");
    }
}

fn check_response(asked: Asked, head: &str, expected: Result<&str, Hostile>) {
    let parsed =
        ResponseHead::parse(Bytes::copy_from_slice(format!("{head}\r\n\r\n").as_bytes()), 100, asked);
    let got = parsed.map(|head| match head.body {
        Body::Empty => "empty".to_owned(),
        Body::Length(length) => length.to_string(),
        Body::Chunked(_) => "chunked".to_owned(),
        Body::UntilClose => "close".to_owned(),
    });
    assert_eq!(got, expected.map(str::to_owned).map_err(HeadError::Hostile), "{head:?}");
}

#[test]
fn response_framing() {
    let get = Asked::default();
    let head = Asked { head: true, ..get };
    let connect = Asked { connect: true, ..get };
    check_response(get, "HTTP/1.1 200 OK\r\nContent-Length: 5", Ok("5"));
    check_response(get, "HTTP/1.1 200\r\nContent-Length: 5\r\nContent-Length: 5", Ok("5"));
    check_response(get, "HTTP/1.0 200 OK", Ok("close"));
    check_response(get, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked", Ok("chunked"));
    check_response(head, "HTTP/1.1 200 OK\r\nContent-Length: 5", Ok("empty"));
    check_response(get, "HTTP/1.1 304 Not Modified\r\nContent-Length: 5", Ok("empty"));
    check_response(get, "HTTP/1.1 204 No Content\r\nTransfer-Encoding: chunked", Ok("empty"));
    check_response(get, "HTTP/1.1 100 Continue", Ok("empty"));
    check_response(connect, "HTTP/1.1 200 OK", Ok("empty"));
    check_response(connect, "HTTP/1.1 403 No\r\nContent-Length: 2", Ok("2"));
    check_response(
        get,
        "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked",
        Err(Hostile::LengthWithChunked),
    );
    check_response(
        get,
        "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6",
        Err(Hostile::ConflictingLength),
    );
    check_response(get, "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip", Err(Hostile::BadTransferEncoding));
    for line in [
        "HTTP/1.1 20",
        "HTTP/1.1 2000 OK",
        "HTTP/1.1 999 OK",
        "HTTP/1.1 abc OK",
        "ICY 200 OK",
        "HTTP/1.1  200 OK",
        "HTTP/1.1 200OK",
        "",
    ] {
        check_response(get, line, Err(Hostile::BadStatusLine));
    }
    check_response(get, "HTTP/2.0 200 OK", Err(Hostile::BadVersion));
}

#[test]
fn what_is_not_http_is_known_before_its_line_ends() {
    assert_eq!(check_method(b"GE"), Ok(None));
    assert_eq!(check_method(b"GET /"), Ok(Some(3)));
    assert_eq!(check_method(b"\x16\x03\x01"), Err(Hostile::BadRequestLine));
    assert_eq!(check_method(&[b'A'; 40]), Err(Hostile::BadRequestLine));
}

proptest! {
    #[test]
    fn any_bytes_are_parsed_or_refused_without_panic(text in prop::collection::vec(any::<u8>(), 0..200)) {
        let mut scanned = 0;
        if let Ok(Some(end)) = head::find_end(&text, &mut scanned) {
            let bytes = Bytes::copy_from_slice(&text[..end]);
            let _ = RequestHead::parse(bytes.clone(), 10, 100);
            let _ = ResponseHead::parse(bytes, 10, Asked::default());
        }
    }

    #[test]
    fn what_is_accepted_is_written_as_it_was(
        fields in prop::collection::vec(("[A-Za-z][A-Za-z0-9-]{0,8}", "[!-~]([ -~]{0,10}[!-~])?"), 0..10),
    ) {
        let lines: String = fields.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
        let text = format!("GET / HTTP/1.1\r\nHost: a\r\n{lines}\r\n");
        if let Ok(head) = parse(&text) {
            let hop = head.raw.fields.iter().any(|f| f.hop);
            let mut out = bytes::BytesMut::new();
            crate::http1::write::put_request(&head, &mut out);
            prop_assert!(hop || out == text.as_bytes());
        }
    }
}

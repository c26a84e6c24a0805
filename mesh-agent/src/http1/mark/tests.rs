//! What a mark says of a message, and that nothing but a message of HTTP/1 comes of one.
#![allow(clippy::unwrap_used)]

use bytes::Bytes;
use proptest::prelude::*;

use super::*;

fn parse(text: &str) -> RequestHead {
    RequestHead::parse(Bytes::copy_from_slice(text.as_bytes()), 100, 1000).unwrap()
}

fn written(request: &RequestHead) -> String {
    let mut out = BytesMut::new();
    write::put_request(request, &mut out);
    String::from_utf8(out.to_vec()).unwrap()
}

fn mark_of(headers: &HeaderMap) -> &str {
    headers[MARK].to_str().unwrap()
}

/// As another agent reads it; header blocks say each name's values one behind the other.
fn sent(head: Request<()>) -> (request::Parts, HeaderValue) {
    let (mut parts, ()) = head.into_parts();
    let mark = parts.headers.remove(MARK).unwrap();
    parts.headers = parts.headers.iter().map(|(name, value)| (name.clone(), value.clone())).collect();
    (parts, mark)
}

fn check(text: &str, mark: &str) {
    let original = parse(text);
    let head = request(&original);
    assert_eq!(mark_of(head.headers()), mark, "{text}");
    let (parts, mark) = sent(head);
    let restored = restore_request(&parts, &mark, &Limits::default()).unwrap();
    assert_eq!(written(&restored), written(&original), "{text}");
    assert_eq!((&restored.parts.method, &restored.parts.uri), (&original.parts.method, &original.parts.uri));
    assert_eq!(restored.parts.version, original.parts.version);
}

#[test]
fn a_request_comes_out_as_it_went_in() {
    check("GET /a?b=%20 HTTP/1.1\r\nHost: a:8080\r\nX-A: 1\r\n\r\n", "1.1 n=Host,X-A");
    check(
        "GET / HTTP/1.1\r\nx-a: 1\r\nhOST: a\r\nX-a: 2\r\nX-B: \r\nx-A: 3\r\n\r\n",
        "1.1 n=x-a,hOST,X-a,X-B,x-A",
    );
    check("GET http://a/b HTTP/1.1\r\nHost: A:80\r\n\r\n", "1.1 n=Host t=http://a/b h=A:80");
    check("GET http://a HTTP/1.1\r\nHost: a\r\n\r\n", "1.1 n=Host t=http://a");
    check("OPTIONS * HTTP/1.1\r\nHost: [::1]:80\r\n\r\n", "1.1 n=Host");
    check("OPTIONS http://a HTTP/1.1\r\nHost: a\r\n\r\n", "1.1 n=Host t=http://a");
    check("GET / HTTP/1.0\r\n\r\n", "1.0");
    check("GET /a HTTP/1.0\r\nX-A: 1\r\n\r\n", "1.0 n=X-A");
    check("GET / HTTP/1.1\r\nHost: \r\n\r\n", "1.1 n=Host");
    check(
        "POST / HTTP/1.1\r\nHost: a\r\nContent-LENGTH: 3\r\nExpect: 100-continue\r\n\r\n",
        "1.1 n=Host,Content-LENGTH,Expect",
    );
    check(
        "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\nHost: a\r\nTE: trailers\r\n\r\n",
        "1.1 n=Transfer-Encoding,Host,TE",
    );
    check(
        "M-SEARCH /x HTTP/1.1\r\nHost: a\r\ncookie: a=b; c\r\nCookie: d\r\n\r\n",
        "1.1 n=Host,cookie,Cookie",
    );
}

#[test]
fn what_belongs_to_the_clients_connection_and_marks_of_its_own_end_before() {
    let text = "GET / HTTP/1.1\r\nHost: a\r\nConnection: close, x-gone\r\nX-Gone: 1\r\nMesh-Agent-HTTP1: 1.0 t=/evil\r\nKeep-Alive: 5\r\n\r\n";
    check(text, "1.1 n=Host");
    assert_eq!(written(&parse(text)), "GET / HTTP/1.1\r\nHost: a\r\n\r\n");
}

#[test]
fn what_agents_add_on_the_way_comes_behind() {
    let (mut parts, mark) = sent(request(&parse("GET / HTTP/1.1\r\nHost: a\r\nX-A: 1\r\n\r\n")));
    parts.headers.append("x-a", "2".parse().unwrap());
    parts.headers.append("x-more", "3".parse().unwrap());
    let restored = restore_request(&parts, &mark, &Limits::default()).unwrap();
    assert_eq!(written(&restored), "GET / HTTP/1.1\r\nHost: a\r\nX-A: 1\r\nx-a: 2\r\nx-more: 3\r\n\r\n");
    parts.headers.remove("x-a");
    let restored = restore_request(&parts, &mark, &Limits::default()).unwrap();
    assert_eq!(written(&restored), "GET / HTTP/1.1\r\nHost: a\r\nx-more: 3\r\n\r\n");
}

/// What a request of HTTP/2 with this mark is refused for; None if it isn't.
fn refusal(mark: &str, fields: &[(&str, &str)]) -> Option<HeadError> {
    let mut builder = Request::get("http://a/path");
    for (name, value) in fields {
        builder = builder.header(*name, *value);
    }
    let (parts, ()) = builder.body(()).unwrap().into_parts();
    let mark = HeaderValue::from_bytes(mark.as_bytes()).unwrap();
    restore_request(&parts, &mark, &Limits::default()).err()
}

#[test]
fn a_mark_that_lies_is_refused_as_its_message_would_be() {
    let hostile = |hostile| Some(HeadError::Hostile(hostile));
    assert_eq!(refusal("1.1 n=Host", &[]), None);
    let length = [("content-length", "3")];
    assert_eq!(
        refusal("1.1 n=Host,Transfer-Encoding,Content-Length", &length),
        hostile(Hostile::LengthWithChunked)
    );
    assert_eq!(refusal("1.1 n=Host,Host", &[]), None, "the second has no value");
    assert_eq!(refusal("1.1", &[]), hostile(Hostile::MissingHost));
    assert_eq!(refusal("1.1 n=Host h=b t=http://a/", &[]), hostile(Hostile::ConflictingHost));
    assert_eq!(refusal("1.1 n=Host t=x", &[]), hostile(Hostile::BadTarget));
    assert_eq!(refusal("1.1 n=Host t=/%20HTTP/1.1", &[]), hostile(Hostile::BadRequestLine));
    assert_eq!(refusal("1.1 n=Host,X:y", &[("x", "1")]), hostile(Hostile::BadHeaderName));
    for bad in ["", "2.0", "1.1 x=1", "n=Host", "1.1  n=Host", "1.1 n=Host 1.0", "1.1 t=%0d%0a", "1.1 t=%"] {
        assert_eq!(refusal(bad, &[]), hostile(Hostile::BadFrame), "{bad:?}");
    }
    let limits = Limits { max_head_bytes: 64, ..Limits::default() };
    let (parts, mark) =
        sent(request(&parse(&format!("GET / HTTP/1.1\r\nHost: a\r\nX: {}\r\n\r\n", "y".repeat(60)))));
    assert!(matches!(restore_request(&parts, &mark, &limits), Err(HeadError::TooLarge)));
}

#[test]
fn what_is_judged_is_what_is_sent() {
    // `:path` says one thing and the mark another: both the policies and the application see the mark's.
    let (parts, ()) = Request::get("http://a/public").body(()).unwrap().into_parts();
    let mark = HeaderValue::from_static("1.1 n=Host t=/admin");
    let restored = restore_request(&parts, &mark, &Limits::default()).unwrap();
    assert_eq!(restored.parts.uri.path(), "/admin");
    assert_eq!(written(&restored), "GET /admin HTTP/1.1\r\nHost: a\r\n\r\n");
}

fn check_response(text: &str, asked: Asked, mark: &str, want: Option<&str>) {
    let parse =
        |text: &str| ResponseHead::parse(Bytes::copy_from_slice(text.as_bytes()), 100, asked).unwrap();
    let head = response(&parse(text), std::iter::empty()).unwrap();
    assert_eq!(mark_of(head.headers()), mark, "{text}");
    let (mut parts, ()) = head.into_parts();
    assert!(!parts.headers.contains_key(CONTENT_LENGTH), "h2 would hold the application to it");
    let said = take(&mut parts.headers).unwrap();
    let restored = restore_response(parts.status, &parts.headers, &said, asked, &Limits::default()).unwrap();
    let put = |head: &ResponseHead| {
        let mut out = BytesMut::new();
        write::put_response(head, None, false, std::iter::empty(), &mut out);
        String::from_utf8(out.to_vec()).unwrap()
    };
    let original = put(&parse(text));
    assert_eq!(put(&restored), want.unwrap_or(&original), "{text}");
    assert_eq!(format!("{:?}", restored.body), format!("{:?}", parse(text).body), "{text}");
}

#[test]
fn a_response_comes_out_as_it_went_in() {
    let get = Asked::default();
    let head = Asked { head: true, ..get };
    check_response(
        "HTTP/1.1 200 OK\r\nSERVER: x\r\nContent-Length: 2\r\n\r\n",
        get,
        "1.1 n=SERVER,Content-Length",
        None,
    );
    check_response(
        "HTTP/1.1 299 Very  Fine 100%\r\nA: 1\r\n\r\n",
        get,
        "1.1 n=A r=Very%20%20Fine%20100%25",
        None,
    );
    check_response("HTTP/1.1 200 \r\n\r\n", get, "1.1 r=", None);
    check_response("HTTP/1.1 200\r\n\r\n", get, "1.1 r=", Some("HTTP/1.1 200 \r\n\r\n"));
    check_response("HTTP/1.0 200 OK\r\nX: y\r\n\r\n", get, "1.0 n=X", None);
    check_response(
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X\r\n\r\n",
        get,
        "1.1 n=Transfer-Encoding,Trailer",
        None,
    );
    check_response("HTTP/1.1 204 No Content\r\nx-A: 1\r\n\r\n", get, "1.1 n=x-A", None);
    check_response(
        "HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n",
        get,
        "1.1 n=Content-Length",
        None,
    );
    check_response("HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n", head, "1.1 n=content-length", None);
    check_response(
        "HTTP/1.1 103 Early Hints\r\nLink: </a>; rel=preload\r\nlink: b\r\n\r\n",
        get,
        "1.1 n=Link,link",
        None,
    );
    check_response(
        "HTTP/1.1 200 OK\r\nSet-Cookie: a=b\r\nX: 1\r\nset-cookie: c=d\r\n\r\n",
        get,
        "1.1 n=Set-Cookie,X,set-cookie",
        None,
    );
    check_response(
        "HTTP/1.1 426 Upgrade Required\r\nUpgrade: TLS/1.0, HTTP/1.1\r\nConnection: Upgrade\r\n\r\n",
        get,
        "1.1 n=Upgrade u=TLS/1.0,%20HTTP/1.1",
        None,
    );
    check_response(
        "HTTP/1.1 200 OK\r\nmesh-agent-http1: 1.0\r\nConnection: close\r\n\r\n",
        get,
        "1.1",
        Some("HTTP/1.1 200 OK\r\n\r\n"),
    );
}

#[test]
fn trailers_keep_their_spelling() {
    let mut fields: HeaderMap = [("x-sum", "1"), ("y", "2"), ("x-sum", "3")]
        .map(|(n, v)| (n.parse().unwrap(), v.parse().unwrap()))
        .into_iter()
        .collect();
    trailers(b"0;ext\r\nX-Sum: 1\r\nY: 2\r\nx-sum: 3\r\n\r\n", &mut fields);
    assert_eq!(mark_of(&fields), "n=X-Sum,Y,x-sum");
    let mut out = BytesMut::new();
    restore_trailers(&mut fields, &mut out).unwrap();
    assert_eq!(&out[..], b"X-Sum: 1\r\nY: 2\r\nx-sum: 3\r\n");
}

#[test]
fn how_a_body_was_left_unfinished_is_told_in_trailers() {
    for how in [Cut::Closed, Cut::Reset] {
        assert_eq!(is_cut_short(&cut_short(how)), Some(how));
    }
    let mut of_the_application = HeaderMap::from_iter([(MARK, HeaderValue::from_static("e=reset"))]);
    trailers(b"0\r\nMesh-Agent-Http1: e=reset\r\n\r\n", &mut of_the_application);
    assert_eq!(is_cut_short(&of_the_application), None);
    assert_eq!(is_cut_short(&HeaderMap::new()), None);
}

fn any_name() -> impl Strategy<Value = String> {
    prop_oneof!["[A-Za-z][A-Za-z0-9!#$%&'*+.^_`|~-]{0,6}", "[xX]-[aA]", "[cC]ookie"]
}

proptest! {
    #[test]
    fn any_request_that_is_taken_comes_out_as_it_went_in(
        target in "/[a-z0-9%/.;=]{0,12}([?][a-z0-9=&%]{0,6})?",
        old in any::<bool>(),
        fields in prop::collection::vec((any_name(), "[ -~\u{e9}]{0,8}"), 0..8),
        host in 0_usize..8,
    ) {
        let mut text = format!("GET {target} HTTP/1.{}\r\n", u8::from(!old));
        for (at, (name, value)) in fields.iter().enumerate() {
            if at == host {
                text.push_str("hosT: a.b:80\r\n");
            }
            text.push_str(&format!("{name}: {}\r\n", value.trim()));
        }
        if host >= fields.len() {
            text.push_str("Host: a\r\n");
        }
        text.push_str("\r\n");
        let parsed = RequestHead::parse(Bytes::from(text.clone()), 100, 1000);
        prop_assume!(parsed.as_ref().is_ok_and(|head| !head.upgrade));
        let original = parsed.unwrap();
        let (parts, mark) = sent(request(&original));
        let restored = restore_request(&parts, &mark, &Limits::default()).unwrap();
        let bytes = |head: &RequestHead| {
            let mut out = BytesMut::new();
            write::put_request(head, &mut out);
            out.freeze()
        };
        prop_assert_eq!(bytes(&restored), bytes(&original));
    }

    #[test]
    fn no_mark_makes_anything_but_one_request(mark in "1\\.[01]( [nthur]=[ -~]{0,12}){0,3}", value in "[ -~]{0,8}") {
        let (parts, ()) = Request::get("http://a/b").header("x-a", value.trim()).body(()).unwrap().into_parts();
        let Ok(mark) = HeaderValue::from_bytes(mark.as_bytes()) else { return Ok(()) };
        if let Ok(restored) = restore_request(&parts, &mark, &Limits::default()) {
            let mut out = BytesMut::new();
            write::put_request(&restored, &mut out);
            let (line, _) = std::str::from_utf8(&out).unwrap().split_once("\r\n").unwrap();
            prop_assert_eq!(line.split(' ').count(), 3);
            prop_assert!(!restored.upgrade);
        }
    }
}

//! First bytes, heads of HTTP/1, what agents say of them to each other, and CONNECT of other agents.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use bytes::{Bytes, BytesMut};
use http::header::CONTENT_LENGTH;
use http::{HeaderValue, Request, request};

use super::{headers, parts};
use crate::addr::{ClientAddr, OrigDst};
use crate::http1::head::find_end;
use crate::http1::mark::{self, MARK};
use crate::http1::message::{Asked, RequestHead, ResponseHead};
use crate::http1::{over_http2, write};
use crate::http2::{client_of, destination, request as http2};
use crate::kernel::Ports;
use crate::proxy::Limits;
use crate::proxy::detect::{Verdict, classify, is_http2};

/// Longer ones tell nothing new, and every prefix of them is looked at.
const LONGEST_HELLO: usize = 1024;

/// Addresses of the pod at which an HBONE request arrives.
const OWN: [IpAddr; 2] =
    [IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1)), IpAddr::V6(Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 1))];

/// A detector may be asked after any number of bytes: what it has found stays what it is. Opaque becomes HTTP/1 where a
/// method that isn't known ends its line, which nobody asks about any more.
pub fn client_hello(data: &[u8]) {
    let data = &data[..data.len().min(LONGEST_HELLO)];
    let whole = classify(data);
    let declared = is_http2(data);
    let step = (data.len() / 64).max(1);
    for end in (0..data.len()).step_by(step) {
        let early = &data[..end];
        match classify(early) {
            Verdict::Unclear => {}
            Verdict::Opaque => assert!(
                matches!(whole, Verdict::Opaque)
                    || matches!(whole, Verdict::Http1) && !early.contains(&b'\n'),
                "opaque after {end} bytes, then {whole:?}"
            ),
            found => assert_eq!(found, whole, "after {end} bytes"),
        }
        if let Some(early) = is_http2(early) {
            assert_eq!(Some(early), declared, "after {end} bytes");
        }
    }
}

/// A head that is taken goes on as one that is taken, with the same meaning, and comes out of that unchanged.
pub fn http1_head(data: &[u8]) {
    let Some(head) = whole_head(data) else { return };
    if let Ok(request) = parse(head) {
        let sent = written(&request);
        let again = parse(&sent).expect("what is sent on would be taken");
        assert_eq!(written(&again), sent);
        same(&request, &again);
        let (names, others) = (request.parts.headers.len(), again.parts.headers.len());
        assert_eq!(names, others, "nothing is added or lost");
    }
    for asked in [Asked::default(), Asked { head: true, ..Asked::default() }] {
        let Ok(response) = ResponseHead::parse(Bytes::copy_from_slice(head), 100, asked) else { continue };
        let put = |response: &ResponseHead| {
            let mut out = BytesMut::new();
            let connection = response.options.upgrade.then_some("Upgrade");
            write::put_response(response, connection, false, std::iter::empty(), &mut out);
            out.freeze()
        };
        let sent = put(&response);
        let again = ResponseHead::parse(sent.clone(), 100, asked).expect("what is sent on would be taken");
        assert_eq!((put(&again), again.status, again.version), (sent, response.status, response.version));
        assert_eq!(format!("{:?}", again.body), format!("{:?}", response.body));
    }
}

/// A request that an agent marks is made the same again by the other; and whatever a mark says, one request comes of it
/// or none. A head of HTTP/1, or a NUL, a mark, and lines of fields.
pub fn mesh_mark(data: &[u8]) {
    if let [0, data @ ..] = data {
        return lying_mark(data);
    }
    let Some(original) = whole_head(data).and_then(|head| parse(head).ok()) else { return };
    // What leaves HTTP behind isn't carried so.
    if original.upgrade || original.asked().connect {
        return;
    }
    let (mut parts, ()) = mark::request(&original).into_parts();
    let mark = parts.headers.remove(MARK).expect("a mark");
    let restored = mark::restore_request(&parts, &mark, &Limits::default()).expect("it was taken before");
    assert_eq!(lines(&written(&restored)), lines(&written(&original)));
    same(&restored, &original);
}

fn lying_mark(data: &[u8]) {
    let [mark, target, fields] = parts(data, 0);
    let (Ok(mark), Ok(builder)) = (HeaderValue::from_bytes(mark), builder(target)) else { return };
    let mut head = builder;
    head.headers = headers(fields);
    let Ok(restored) = mark::restore_request(&head, &mark, &Limits::default()) else { return };
    let sent = written(&restored);
    assert_eq!(find_end(&sent, &mut 0), Ok(Some(sent.len())), "one head and nothing behind it");
    same(&parse(&sent).expect("what is sent on would be taken"), &restored);
    let (status, asked) = (http::StatusCode::OK, Asked::default());
    let mut answer = head.headers.clone();
    let length = answer.remove(CONTENT_LENGTH);
    for value in [Some(mark.clone()), length].into_iter().flatten() {
        answer.append(MARK, value);
    }
    let said = mark::take(&mut answer).expect("it was put there");
    if let Ok(response) = mark::restore_response(status, &answer, &said, asked, &Limits::default()) {
        assert_eq!(response.status, status);
    }
    let mut trailers = head.headers.clone();
    trailers.insert(MARK, mark);
    let mut out = BytesMut::new();
    if mark::restore_trailers(&mut trailers, &mut out).is_ok() {
        assert_eq!(out.windows(2).filter(|pair| pair == b"\r\n").count(), trailers.len());
    }
}

/// A head of HTTP/2 that is taken names one authority; who opened a tunnel is at the address that it comes from, whatever it
/// says; and by HBONE nobody gets to another pod or the agent. Method, target, and lines of fields, with NULs between.
pub fn connect_request(data: &[u8]) {
    let [method, target, fields] = parts(data, 0);
    let (Ok(method), Ok(mut head)) = (http::Method::from_bytes(method), builder(target)) else { return };
    head.method = method;
    head.headers = headers(fields);
    let peer = ClientAddr::from(SocketAddr::from(([10, 0, 0, 1], 5000)));
    assert_eq!(client_of(&head.headers, peer).ip(), peer.ip(), "only the port may be another");
    if let Some(authority) = head.uri.authority() {
        let (dialled, own) = (OrigDst::from(SocketAddr::from(([10, 0, 0, 9], 15008))), OWN);
        if let Some(to) = destination(authority.as_str(), dialled, &own, Ports::default()) {
            assert!(own.contains(&to.ip()) || to.ip() == dialled.ip(), "{authority}");
            assert!(![0, 15001, 15006, 15008].contains(&to.port()), "{authority}");
        }
    }
    if http2::check(&mut head, &Limits::default()).is_err() {
        return;
    }
    let authority = head.uri.authority().expect("who takes a head knows where it goes").as_str();
    assert!(!authority.contains('@'));
    for host in head.headers.get_all(http::header::HOST) {
        assert!(host.as_bytes().eq_ignore_ascii_case(authority.as_bytes()));
    }
    // Twice is as once.
    let before = head.uri.clone();
    assert!(http2::check(&mut head, &Limits::default()).is_ok());
    assert_eq!(head.uri, before);
}

/// A head at the start of `data`. It is found wherever the bytes are cut.
fn whole_head(data: &[u8]) -> Option<&[u8]> {
    let found = find_end(data, &mut 0);
    let (mut scanned, mut by_step) = (0, Ok(None));
    for end in (0..=data.len()).step_by(7).chain([data.len()]) {
        by_step = find_end(&data[..end], &mut scanned);
        if !matches!(by_step, Ok(None)) {
            break;
        }
    }
    assert_eq!(by_step, found);
    found.ok().flatten().map(|end| &data[..end])
}

fn parse(head: &[u8]) -> Result<RequestHead, crate::http1::head::HeadError> {
    RequestHead::parse(Bytes::copy_from_slice(head), 100, 8 * 1024)
}

fn written(request: &RequestHead) -> Bytes {
    let mut out = BytesMut::new();
    write::put_request(request, &mut out);
    out.freeze()
}

/// A head's lines without the space around values, and without the case of values that frame or stand for one hop: that isn't
/// carried.
fn lines(head: &[u8]) -> Vec<(Vec<u8>, Vec<u8>)> {
    let line = |line: &[u8]| {
        let [name, value] = parts(line, b':');
        let value = value.trim_ascii();
        let folds = name.eq_ignore_ascii_case(b"transfer-encoding") || name.eq_ignore_ascii_case(b"te");
        (name.to_vec(), if folds { value.to_ascii_lowercase() } else { value.to_vec() })
    };
    head.split(|byte| *byte == b'\n').map(line).collect()
}

fn same(one: &RequestHead, other: &RequestHead) {
    let of = |head: &RequestHead| {
        (head.parts.method.clone(), head.parts.uri.clone(), head.parts.version, format!("{:?}", head.body))
    };
    assert_eq!(of(one), of(other));
    assert_eq!(over_http2::head(one).headers(), over_http2::head(other).headers());
}

fn builder(target: &[u8]) -> Result<request::Parts, http::Error> {
    Ok(Request::builder().uri(target).body(())?.into_parts().0)
}

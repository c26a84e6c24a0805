//! Header rules that both HTTP versions share: what belongs to one hop only, and the request id.
//!
//! Nothing else of a message is changed. Callers: `crate::http1`, `crate::http2`, `exchange`.

use http::header::{
    CONNECTION, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, TE, TRANSFER_ENCODING, UPGRADE,
};

/// Envoy's name for the id that follows a request through the mesh.
pub const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// W3C Trace Context.
pub use crate::trace::TRACEPARENT;

const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");

/// Removes what RFC 9110, 7.6.1 confines to one hop: Connection, what it names, and the historical ones.
/// `Transfer-Encoding` goes too, framing being each hop's own. With `keep_upgrade`, Connection and Upgrade of a
/// protocol switch stay. `TE: trailers` stays, since trailers are carried.
pub fn strip_hop_by_hop(headers: &mut HeaderMap, keep_upgrade: bool) {
    if headers.contains_key(CONNECTION) {
        remove_named_by_connection(headers);
    }
    headers.remove(KEEP_ALIVE);
    headers.remove(PROXY_CONNECTION);
    headers.remove(TRANSFER_ENCODING);
    if !keep_upgrade {
        headers.remove(UPGRADE);
    }
    let only_trailers = |v: &HeaderValue| v.as_bytes().eq_ignore_ascii_case(b"trailers");
    if headers.get(TE).is_some_and(|v| !only_trailers(v)) {
        headers.remove(TE);
    }
    if keep_upgrade && headers.contains_key(UPGRADE) {
        headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
    }
}

/// Only plain connection options are honoured: framing, authority and identity can't be removed by naming them.
fn remove_named_by_connection(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> = headers
        .get_all(CONNECTION)
        .iter()
        .flat_map(|value| value.as_bytes().split(|b| *b == b','))
        .filter_map(|name| HeaderName::from_bytes(name.trim_ascii()).ok())
        .filter(|name| {
            !matches!(
                name.as_str(),
                "close" | "keep-alive" | "upgrade" | "te" | "host" | "content-length" | "trailer"
            ) && *name != X_REQUEST_ID
        })
        .collect();
    headers.remove(CONNECTION);
    for name in named {
        headers.remove(name);
    }
}

/// True for gRPC and its sub-types, not for gRPC-Web.
pub fn is_grpc(headers: &HeaderMap) -> bool {
    let Some(value) = headers.get(CONTENT_TYPE) else { return false };
    let value = value.as_bytes();
    value
        .strip_prefix(b"application/grpc")
        .is_some_and(|rest| matches!(rest.first(), None | Some(b'+' | b';' | b' ')))
}

/// Adds a random (version 4) UUID as request id where the client sent none.
pub fn ensure_request_id(headers: &mut HeaderMap) {
    if headers.contains_key(X_REQUEST_ID) {
        return;
    }
    let mut text = [0_u8; 36];
    format_uuid(fastrand::u128(..), &mut text);
    if let Ok(value) = HeaderValue::from_bytes(&text) {
        headers.insert(X_REQUEST_ID, value);
    }
}

fn format_uuid(random: u128, out: &mut [u8; 36]) {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    let id = (random & !(0xf << 76) & !(0x3 << 62)) | (0x4 << 76) | (0x2 << 62);
    let mut nibble = 32;
    for (at, byte) in out.iter_mut().enumerate() {
        if matches!(at, 8 | 13 | 18 | 23) {
            *byte = b'-';
        } else {
            nibble -= 1;
            *byte = HEX[(id >> (nibble * 4)) as usize & 0xf];
        }
    }
}

/// The trace id of a well-formed traceparent (W3C Trace Context, 3.2).
pub fn trace_id_of(traceparent: &str) -> Option<&str> {
    let id = traceparent.split('-').nth(1)?;
    (id.len() == 32 && id.bytes().all(|b| b.is_ascii_hexdigit())).then_some(id)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn check(input: &[(&str, &str)], keep_upgrade: bool, expected: &[&str]) {
        let mut headers = HeaderMap::new();
        for (name, value) in input {
            headers.append(HeaderName::from_bytes(name.as_bytes()).unwrap(), value.parse().unwrap());
        }
        strip_hop_by_hop(&mut headers, keep_upgrade);
        let mut left: Vec<&str> = headers.keys().map(HeaderName::as_str).collect();
        left.sort_unstable();
        assert_eq!(left, expected);
    }

    #[test]
    fn hop_by_hop_fields_go_and_others_stay() {
        check(&[("connection", "close, x-a"), ("x-a", "1"), ("x-b", "2")], false, &["x-b"]);
        check(
            &[("connection", "keep-alive"), ("keep-alive", "timeout=5"), ("te", "trailers")],
            false,
            &["te"],
        );
        check(&[("te", "gzip"), ("transfer-encoding", "chunked")], false, &[]);
        check(&[("connection", "Upgrade"), ("upgrade", "websocket")], true, &["connection", "upgrade"]);
        check(&[("connection", "Upgrade"), ("upgrade", "h2c")], false, &[]);
        check(
            &[("connection", "host, x-request-id"), ("host", "a"), ("x-request-id", "b")],
            false,
            &["host", "x-request-id"],
        );
    }

    #[test]
    fn request_id_is_a_version_4_uuid() {
        let mut text = [0; 36];
        format_uuid(u128::MAX, &mut text);
        assert_eq!(std::str::from_utf8(&text).unwrap(), "ffffffff-ffff-4fff-bfff-ffffffffffff");
        format_uuid(0, &mut text);
        assert_eq!(std::str::from_utf8(&text).unwrap(), "00000000-0000-4000-8000-000000000000");
    }

    #[test]
    fn grpc_is_told_from_grpc_web() {
        for (value, expected) in
            [("application/grpc", true), ("application/grpc+proto", true), ("application/grpc-web", false)]
        {
            let mut headers = HeaderMap::new();
            headers.insert(CONTENT_TYPE, value.parse().unwrap());
            assert_eq!(is_grpc(&headers), expected, "{value}");
        }
    }
}

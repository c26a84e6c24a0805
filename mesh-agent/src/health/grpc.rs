//! grpc.health.v1.Health/Check: the two messages and the one exchange, over HTTP/2 with prior knowledge or ALPN.
//!
//! The messages have one field each, so that no code generator earns its place: a request is `string service = 1`, a
//! response `enum status = 1` (github.com/grpc/grpc, doc/health-checking.md). Used by `ask`.

use bytes::{BufMut, Bytes, BytesMut};
use h2::{RecvStream, client};
use http::header::{CONTENT_TYPE, HeaderMap, TE, USER_AGENT};
use http::{Request, Response, StatusCode};

use super::ask::AGENT;
use crate::balance::health::Failure;
use crate::proxy::Stream;

/// `SERVING` of `HealthCheckResponse.ServingStatus`.
const SERVING: u64 = 1;
/// Field 1, length-delimited and varint.
const SERVICE_TAG: u8 = 1 << 3 | 2;
const STATUS_TAG: u64 = 1 << 3;
/// A message begins with whether it is compressed and its length in four bytes (gRPC over HTTP/2).
const PREFIX: usize = 5;
/// An answer that is longer isn't one.
const MOST_BYTES: usize = 4096;

/// Asks for `service` on a connection of its own; empty is the server as a whole.
pub(super) async fn check(stream: Stream, host: &str, service: &str) -> Result<(), Failure> {
    let scheme = if matches!(stream, Stream::Tls(_)) { "https" } else { "http" };
    let (mut client, connection) = client::handshake(stream).await.map_err(broken)?;
    let exchange = async {
        let request = Request::post(format!("{scheme}://{host}/grpc.health.v1.Health/Check"))
            .header(CONTENT_TYPE, "application/grpc")
            .header(TE, "trailers")
            .header(USER_AGENT, AGENT)
            .body(())
            .map_err(|_| Failure::Protocol)?;
        client = client.clone().ready().await.map_err(broken)?;
        let (response, mut body) = client.send_request(request, false).map_err(broken)?;
        body.send_data(request_message(service), true).map_err(broken)?;
        answer(response.await.map_err(broken)?).await
    };
    tokio::pin!(exchange);
    tokio::select! {
        biased;
        outcome = &mut exchange => outcome,
        // What came before the connection's end still counts.
        _ = connection => exchange.await,
    }
}

fn broken(error: h2::Error) -> Failure {
    match error.is_io() || error.is_go_away() || error.is_reset() {
        true => Failure::Closed,
        false => Failure::Protocol,
    }
}

async fn answer(response: Response<RecvStream>) -> Result<(), Failure> {
    let (head, mut body) = response.into_parts();
    if head.status != StatusCode::OK {
        return Err(Failure::Status(head.status.as_u16()));
    }
    // An answer without a message has its status in the head.
    if let Some(status) = grpc_status(&head.headers) {
        return Err(if status == 0 { Failure::Protocol } else { Failure::Grpc(status) });
    }
    let mut message = BytesMut::new();
    while let Some(data) = body.data().await {
        let data = data.map_err(broken)?;
        // A window that isn't given back only ends what is too long.
        let _ = body.flow_control().release_capacity(data.len());
        message.extend_from_slice(&data);
        if message.len() > MOST_BYTES {
            return Err(Failure::Protocol);
        }
    }
    let trailers = body.trailers().await.map_err(broken)?;
    match trailers.as_ref().and_then(grpc_status) {
        Some(0) => {}
        Some(status) => return Err(Failure::Grpc(status)),
        None => return Err(Failure::Protocol),
    }
    match serving_status(&message).ok_or(Failure::Protocol)? {
        SERVING => Ok(()),
        other => Err(Failure::NotServing(u16::try_from(other).unwrap_or(u16::MAX))),
    }
}

fn grpc_status(headers: &HeaderMap) -> Option<u16> {
    headers.get("grpc-status")?.to_str().ok()?.parse().ok()
}

/// `HealthCheckRequest`, with its prefix.
fn request_message(service: &str) -> Bytes {
    let mut message = BytesMut::with_capacity(PREFIX + 11 + service.len());
    if !service.is_empty() {
        message.put_u8(SERVICE_TAG);
        put_varint(&mut message, service.len() as u64);
        message.put_slice(service.as_bytes());
    }
    let mut framed = BytesMut::with_capacity(PREFIX + message.len());
    framed.put_u8(0);
    framed.put_u32(u32::try_from(message.len()).unwrap_or(u32::MAX));
    framed.unsplit(message);
    framed.freeze()
}

fn put_varint(into: &mut BytesMut, mut value: u64) {
    while value >= 0x80 {
        into.put_u8(value as u8 | 0x80);
        value >>= 7;
    }
    into.put_u8(value as u8);
}

/// The status of a `HealthCheckResponse` with its prefix; 0 where it isn't given, as for every field of proto3. None: it is
/// none. Fields that aren't known are passed over.
fn serving_status(framed: &[u8]) -> Option<u64> {
    let (prefix, mut message) = framed.split_at_checked(PREFIX)?;
    let [0, length @ ..] = prefix else { return None };
    if u32::from_be_bytes(length.try_into().ok()?) as usize != message.len() {
        return None;
    }
    let mut status = 0;
    while !message.is_empty() {
        let tag = varint(&mut message)?;
        match tag & 7 {
            0 => {
                let value = varint(&mut message)?;
                if tag == STATUS_TAG {
                    status = value;
                }
            }
            1 => message = message.get(8..)?,
            2 => {
                let length = usize::try_from(varint(&mut message)?).ok()?;
                message = message.get(length..)?;
            }
            5 => message = message.get(4..)?,
            _ => return None,
        }
    }
    Some(status)
}

/// A base-128 number, at most ten bytes.
fn varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0_u64;
    for shift in (0..64).step_by(7) {
        let (byte, rest) = bytes.split_first()?;
        *bytes = rest;
        value |= u64::from(byte & 0x7f).checked_shl(shift)?;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{any, prop_assert_eq, proptest};

    use super::*;

    /// With its prefix.
    fn framed(message: &[u8]) -> Vec<u8> {
        let length = u32::try_from(message.len()).unwrap_or(0).to_be_bytes();
        [&[0], &length[..], message].concat()
    }

    #[test]
    fn a_request_is_what_protoc_makes_of_it() {
        assert_eq!(request_message("").as_ref(), framed(b""));
        assert_eq!(request_message("shop.Cart").as_ref(), framed(b"\x0a\x09shop.Cart"));
        let long = "x".repeat(300);
        assert_eq!(request_message(&long).as_ref(), framed(&[b"\x0a\xac\x02", long.as_bytes()].concat()));
    }

    #[test]
    fn a_response_is_read_whatever_else_is_in_it() {
        fn check(message: &[u8], want: Option<u64>) {
            assert_eq!(serving_status(&framed(message)), want, "{message:?}");
        }
        check(b"", Some(0));
        check(b"\x08\x01", Some(SERVING));
        check(b"\x08\x02", Some(2));
        check(b"\x08\x02\x08\x01", Some(SERVING));
        check(b"\x12\x03abc\x08\x01", Some(SERVING));
        check(b"\x19\0\0\0\0\0\0\0\0\x08\x01\x25\0\0\0\0", Some(SERVING));
        check(b"\x10\x05\x08\x03", Some(3));
        check(b"\x08\x80\x01", Some(128));
        for broken in [
            &b"\x08"[..],
            b"\x08\x80",
            b"\x12\x05abc",
            b"\x0b",
            b"\x19\0",
            b"\x08\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01",
        ] {
            check(broken, None);
        }
    }

    #[test]
    fn a_response_that_isnt_framed_as_one_is_none() {
        for broken in [
            &b""[..],
            b"\0\0\0\0",
            b"\0\0\0\0\x03\x08\x01",
            b"\x01\0\0\0\x02\x08\x01",
            b"\0\0\0\0\x02\x08\x01\x08",
        ] {
            assert_eq!(serving_status(broken), None, "{broken:?}");
        }
    }

    proptest! {
        #[test]
        fn numbers_come_back_as_they_went(value: u64, rest in proptest::collection::vec(any::<u8>(), 0..4)) {
            let mut bytes = BytesMut::new();
            put_varint(&mut bytes, value);
            bytes.extend_from_slice(&rest);
            let mut left = &bytes[..];
            prop_assert_eq!(varint(&mut left), Some(value));
            prop_assert_eq!(left, &rest[..]);
        }

        #[test]
        fn no_bytes_are_too_odd_to_be_looked_at(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            serving_status(&bytes);
            serving_status(&framed(&bytes));
        }
    }
}

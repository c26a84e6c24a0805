//! What of gRPC a proxy has to know: message boundaries for counting, the status, and answers in its form.
//!
//! Used by `stream` and `answer`. After "gRPC over HTTP2" (grpc/grpc, doc/PROTOCOL-HTTP2.md). Never looks into a
//! message.

use std::time::Duration;

use http::header::{HeaderMap, HeaderName, HeaderValue};
use http::request;

/// Trailer (or header of a trailers-only answer) with the call's outcome.
pub(super) const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
/// Its text.
pub(super) const GRPC_MESSAGE: HeaderName = HeaderName::from_static("grpc-message");

/// How long the client waits.
pub(super) const GRPC_TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");

/// Units of `grpc-timeout` in nanoseconds, smallest first.
const UNITS: [(u8, u64); 6] = [
    (b'n', 1),
    (b'u', 1_000),
    (b'm', 1_000_000),
    (b'S', 1_000_000_000),
    (b'M', 60_000_000_000),
    (b'H', 3_600_000_000_000),
];
/// `TimeoutValue` has at most eight digits.
const MOST: u128 = 99_999_999;

/// Compressed flag and length.
const PREFIX: usize = 5;

/// Counts length-prefixed messages in a body, however it is cut.
#[derive(Debug, Default)]
pub(super) struct Messages {
    prefix: [u8; PREFIX],
    have: usize,
    left: usize,
}

impl Messages {
    /// How many messages begin (with a complete prefix) within the next bytes of the body.
    pub(super) fn begun_in(&mut self, mut bytes: &[u8]) -> u64 {
        let mut begun = 0;
        while !bytes.is_empty() {
            let skipped = self.left.min(bytes.len());
            self.left -= skipped;
            bytes = &bytes[skipped..];
            let taken = (PREFIX - self.have).min(bytes.len());
            self.prefix[self.have..self.have + taken].copy_from_slice(&bytes[..taken]);
            self.have += taken;
            bytes = &bytes[taken..];
            if self.have == PREFIX {
                let [_, length @ ..] = self.prefix;
                self.left = u32::from_be_bytes(length) as usize;
                self.have = 0;
                begun += 1;
            }
        }
        begun
    }
}

/// The status in trailers, or in the head of a trailers-only answer. What is no number is UNKNOWN.
pub(super) fn status_in(headers: &HeaderMap) -> Option<u16> {
    let value = headers.get(GRPC_STATUS)?;
    Some(value.to_str().ok().and_then(|text| text.parse().ok()).unwrap_or(2))
}

/// How long the client waits from when it sent `headers`. None: for ever, or what it says is no time.
pub fn timeout_in(headers: &HeaderMap) -> Option<Duration> {
    let (unit, digits) = headers.get(GRPC_TIMEOUT)?.as_bytes().split_last()?;
    if !(1..=8).contains(&digits.len()) || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let (_, nanos) = UNITS.iter().find(|(letter, _)| letter == unit)?;
    let value: u64 = str::from_utf8(digits).ok()?.parse().ok()?;
    Some(Duration::from_nanos(value.saturating_mul(*nanos)))
}

/// A copy of `head`, in which the client's timeout is what is `left` of it, where that differs.
pub(super) fn telling(head: &request::Parts, left: Option<Duration>) -> request::Parts {
    let mut head = head.clone();
    if let Some(left) = left.and_then(timeout_value) {
        head.headers.insert(GRPC_TIMEOUT, left);
    }
    head
}

/// `time` in the smallest unit that has room for it, rounded down.
pub(super) fn timeout_value(time: Duration) -> Option<HeaderValue> {
    let value = |(letter, nanos): &(u8, u64)| {
        let count = time.as_nanos() / u128::from(*nanos);
        (count <= MOST).then(|| format!("{count}{}", char::from(*letter)))
    };
    HeaderValue::try_from(UNITS.iter().find_map(value)?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timeouts_are_read_in_every_unit_and_nothing_else_is() {
        fn check(text: &'static str, nanos: Option<u64>) {
            let mut headers = HeaderMap::new();
            headers.insert(GRPC_TIMEOUT, HeaderValue::from_static(text));
            assert_eq!(timeout_in(&headers), nanos.map(Duration::from_nanos), "{text:?}");
        }
        check("1n", Some(1));
        check("20u", Some(20_000));
        check("99999999m", Some(99_999_999_000_000));
        check("3S", Some(3_000_000_000));
        check("2M", Some(120_000_000_000));
        check("1H", Some(3_600_000_000_000));
        check("0S", Some(0));
        check("99999999H", Some(u64::MAX));
        for bad in ["", "S", "5", "5s", "-1S", "+1S", "1.5S", "123456789m", "1 S"] {
            check(bad, None);
        }
        assert_eq!(timeout_in(&HeaderMap::new()), None);
    }

    proptest::proptest! {
        #[test]
        fn a_timeout_that_is_carried_on_is_never_longer_and_hardly_shorter(nanos in proptest::num::u64::ANY, shift in 0_u32..64) {
            let time = Duration::from_nanos(nanos >> shift);
            let mut headers = HeaderMap::new();
            headers.extend(timeout_value(time).map(|value| (GRPC_TIMEOUT, value)));
            let read = timeout_in(&headers).unwrap_or(Duration::MAX);
            proptest::prop_assert!(read <= time && (time - read) <= time / 10_000, "{:?} {:?}", time, read);
        }
    }

    proptest::proptest! {
        #[test]
        fn messages_are_counted_however_the_body_is_cut(
            sizes in proptest::collection::vec(0_usize..50, 0..10), cuts in proptest::collection::vec(1_usize..20, 0..50),
        ) {
            let mut body = Vec::new();
            for size in &sizes {
                body.push(0);
                body.extend((*size as u32).to_be_bytes());
                body.resize(body.len() + size, 7);
            }
            let mut messages = Messages::default();
            let mut rest = &body[..];
            let mut count = 0;
            for cut in cuts {
                let (now, later) = rest.split_at(cut.min(rest.len()));
                count += messages.begun_in(now);
                rest = later;
            }
            count += messages.begun_in(rest);
            proptest::prop_assert_eq!(count, sizes.len() as u64);
        }
    }

    #[test]
    fn status_is_read_from_trailers() {
        let mut headers = HeaderMap::new();
        assert_eq!(status_in(&headers), None);
        for (value, expected) in [("0", 0), ("14", 14), ("what", 2)] {
            headers.insert(GRPC_STATUS, http::HeaderValue::from_static(value));
            assert_eq!(status_in(&headers), Some(expected));
        }
    }
}

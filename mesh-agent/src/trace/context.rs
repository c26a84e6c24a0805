//! Whose trace a request belongs to: ids and decision, as every header form has them. Pure.
//!
//! `w3c`, `b3` and `grpc_bin` read and print the forms, `propagate` finds them among a request's headers.

use std::fmt;

/// 16 bytes, never all zero.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct TraceId(pub u128);

/// 8 bytes, never all zero.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct SpanId(pub u64);

/// What tells of a span from outside it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SpanContext {
    /// The trace.
    pub trace: TraceId,
    /// The span.
    pub span: SpanId,
    /// As in `traceparent`.
    pub flags: u8,
}

impl TraceId {
    /// A new one. Its bits are random, not secret.
    pub fn random() -> Self {
        Self(fastrand::u128(1..))
    }

    /// None for zero, which means nothing in every form.
    pub fn new(id: u128) -> Option<Self> {
        (id != 0).then_some(Self(id))
    }

    /// As logs and headers have it: 32 lower-case digits.
    pub fn hex(self) -> [u8; 32] {
        let mut out = [0; 32];
        push_hex(&mut out, self.0);
        out
    }
}

impl SpanId {
    /// A new one.
    pub fn random() -> Self {
        Self(fastrand::u64(1..))
    }

    /// None for zero, which means nothing in every form.
    pub fn new(id: u64) -> Option<Self> {
        (id != 0).then_some(Self(id))
    }

    /// 16 lower-case digits.
    pub fn hex(self) -> [u8; 16] {
        let mut out = [0; 16];
        push_hex(&mut out, self.0.into());
        out
    }

    /// Another one that follows from this: the two spans of a request that never leaves its node need no more randomness.
    pub fn sibling(self) -> Self {
        // SplitMix64's finalizer: a bijection, so that only one id leads to zero.
        let mut id = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        id = (id ^ (id >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        id = (id ^ (id >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        Self::new(id ^ (id >> 31)).unwrap_or(Self(1))
    }
}

impl fmt::Debug for TraceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl fmt::Debug for SpanId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// What whoever sent the request had to say about sampling.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Verdict {
    /// It is for us to decide.
    #[default]
    Open,
    /// Not recorded.
    No,
    /// Recorded.
    Yes,
    /// Recorded whatever it costs: B3's debug flag.
    Debug,
}

impl Verdict {
    /// Of a flag that leaves nothing open.
    pub fn of(sampled: bool) -> Self {
        if sampled { Self::Yes } else { Self::No }
    }
}

/// One header's word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Remote {
    /// The trace, and the span that sent the request; None where only the decision was sent on.
    pub ids: Option<(TraceId, SpanId)>,
    /// Whether it is recorded.
    pub verdict: Verdict,
    /// The trace id is a random number, says W3C's flag of that name.
    pub random: bool,
}

/// Writes the last digits of a number, as many as there is room for.
pub(super) fn push_hex(out: &mut [u8], mut value: u128) {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    for byte in out.iter_mut().rev() {
        *byte = HEX[(value & 0xf) as usize];
        value >>= 4;
    }
}

/// A number of so many hexadecimal digits, neither more nor less; in capitals only if `any_case`.
pub(super) fn hex(text: &[u8], any_case: bool) -> Option<u128> {
    let mut value = 0_u128;
    for byte in text {
        let digit = match byte {
            b'0'..=b'9' => byte - b'0',
            b'a'..=b'f' => byte - b'a' + 10,
            b'A'..=b'F' if any_case => byte - b'A' + 10,
            _ => return None,
        };
        value = (value << 4) | u128::from(digit);
    }
    (!text.is_empty() && text.len() <= 32).then_some(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn siblings_differ_and_are_the_same_each_time() {
        for id in [1, 2, u64::MAX, 0x61c8_8646_80b5_83eb] {
            let sibling = SpanId(id).sibling();
            assert!(sibling != SpanId(id) && sibling.0 != 0, "{id}");
            assert_eq!(sibling, SpanId(id).sibling());
        }
    }

    #[test]
    fn hexadecimal_is_strict() {
        assert_eq!(hex(b"00ff", false), Some(255));
        assert_eq!(hex(b"00FF", true), Some(255));
        for bad in [&b"00FF"[..], b"", b"0x1", b"+1", b" 1", b"000000000000000000000000000000001"] {
            assert_eq!(hex(bad, false), None, "{bad:?}");
        }
        assert_eq!(&TraceId(0xa0).hex(), b"000000000000000000000000000000a0");
        assert_eq!(&SpanId(u64::MAX).hex(), b"ffffffffffffffff");
    }
}

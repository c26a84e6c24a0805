//! `grpc-trace-bin`: OpenCensus's binary form, as gRPC metadata carries it (opencensus-specs, BinaryEncoding). Pure.
//!
//! A version byte of 0, then fields by number: 0 is the trace id, 1 the span id, 2 the options, of which one bit means sampled.

use data_encoding::{BASE64, BASE64_NOPAD};

use super::context::{Remote, SpanId, TraceId, Verdict};

const LENGTH: usize = 29;

/// What the header says; None for one that isn't valid. Metadata of this kind is base64, with or without padding.
pub fn parse(value: &[u8]) -> Option<Remote> {
    // Longer than anything that is known, and than what a later version could mean.
    if value.len() > 64 {
        return None;
    }
    let encoding = if value.ends_with(b"=") { &BASE64 } else { &BASE64_NOPAD };
    let mut bytes = [0; 48];
    let length = encoding.decode_len(value.len()).ok()?;
    let length = encoding.decode_mut(value, bytes.get_mut(..length)?).ok()?;
    let fields = bytes[..length].strip_prefix(&[0, 0])?;
    let (trace, fields) = fields.split_first_chunk::<16>()?;
    let (span, options) = fields.strip_prefix(&[1])?.split_first_chunk::<8>()?;
    let sampled = match options {
        [] => false,
        [2, options, ..] => options & 1 != 0,
        _ => return None,
    };
    let ids = (TraceId::new(u128::from_be_bytes(*trace))?, SpanId::new(u64::from_be_bytes(*span))?);
    Some(Remote { ids: Some(ids), verdict: Verdict::of(sampled), random: false })
}

/// The header's value.
pub fn print(trace: TraceId, span: SpanId, sampled: bool) -> String {
    let mut bytes = [0; LENGTH];
    bytes[2..18].copy_from_slice(&trace.0.to_be_bytes());
    bytes[18] = 1;
    bytes[19..27].copy_from_slice(&span.0.to_be_bytes());
    bytes[27..].copy_from_slice(&[2, u8::from(sampled)]);
    BASE64_NOPAD.encode(&bytes)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;

    use super::*;

    /// The example of the specification.
    const BYTES: [u8; LENGTH] = [
        0, 0, 64, 65, 66, 67, 68, 69, 70, 71, 72, 73, 74, 75, 76, 77, 78, 79, 1, 97, 98, 99, 100, 101, 102,
        103, 104, 2, 1,
    ];

    #[test]
    fn the_specifications_example_is_read_and_printed() {
        let ids = (TraceId(0x4041_4243_4445_4647_4849_4a4b_4c4d_4e4f), SpanId(0x6162_6364_6566_6768));
        let want = Some(Remote { ids: Some(ids), verdict: Verdict::Yes, random: false });
        assert_eq!(parse(BASE64.encode(&BYTES).as_bytes()), want);
        assert_eq!(parse(BASE64_NOPAD.encode(&BYTES).as_bytes()), want);
        assert_eq!(print(ids.0, ids.1, true), BASE64_NOPAD.encode(&BYTES));
    }

    #[test]
    fn what_is_not_valid_is_nobodys_context() {
        let coded = |change: &dyn Fn(&mut Vec<u8>)| {
            let mut bytes = BYTES.to_vec();
            change(&mut bytes);
            parse(BASE64_NOPAD.encode(&bytes).as_bytes())
        };
        assert_eq!(coded(&|bytes| bytes[28] = 0).unwrap().verdict, Verdict::No);
        assert_eq!(coded(&|bytes| bytes.truncate(27)).unwrap().verdict, Verdict::No);
        assert_eq!(coded(&|bytes| bytes[0] = 1), None);
        assert_eq!(coded(&|bytes| bytes[1] = 3), None);
        assert_eq!(coded(&|bytes| bytes[18] = 4), None);
        assert_eq!(coded(&|bytes| bytes[27] = 4), None);
        assert_eq!(coded(&|bytes| bytes.truncate(28)), None);
        assert_eq!(coded(&|bytes| bytes.truncate(20)), None);
        assert_eq!(coded(&|bytes| bytes[2..18].fill(0)), None);
        assert_eq!(coded(&|bytes| bytes[19..27].fill(0)), None);
        for bad in [&b""[..], b"=", b"AA", b"not base64!", &[b'A'; 65]] {
            assert_eq!(parse(bad), None);
        }
    }

    proptest! {
        #[test]
        fn what_is_printed_is_read_as_the_same(trace in 1_u128.., span in 1_u64.., sampled: bool) {
            let remote = parse(print(TraceId(trace), SpanId(span), sampled).as_bytes()).unwrap();
            prop_assert_eq!(remote.ids, Some((TraceId(trace), SpanId(span))));
            prop_assert_eq!(remote.verdict, Verdict::of(sampled));
        }

        #[test]
        fn any_bytes_are_judged(bytes in proptest::collection::vec(any::<u8>(), 0..80)) {
            let _ = parse(&bytes);
        }
    }
}

//! W3C Trace Context: `traceparent`, and what of `tracestate` is ours. Pure.
//!
//! `tracestate` of others passes as it came; the agent's own member is written only where it begins a trace.

use super::context::{Remote, SpanId, TraceId, Verdict, hex, push_hex};

/// Version 00: what is printed, and all that later versions are read for (4.1.1 of the second level).
const LENGTH: usize = 55;
const SAMPLED: u8 = 1;
const RANDOM: u8 = 2;

/// The agent's member of `tracestate`: this trace was begun by an agent that keeps what fails though it isn't sampled, and
/// other agents may as well.
pub const KEEP: &str = "mesh-agent=keep";

/// What a `traceparent` says; None for one that isn't valid.
pub fn parse(value: &[u8]) -> Option<Remote> {
    let (version, rest) = (value.get(..2)?, value.get(2..)?);
    let version = u8::try_from(hex(version, false)?).ok()?;
    let fits = match version {
        0 => value.len() == LENGTH,
        0xff => false,
        // What a later version adds comes behind another dash.
        _ => value.len() == LENGTH || value.get(LENGTH) == Some(&b'-'),
    };
    let dashes = fits && rest[0] == b'-' && rest[33] == b'-' && rest[50] == b'-';
    if !dashes {
        return None;
    }
    let trace = TraceId::new(hex(&rest[1..33], false)?)?;
    let span = SpanId::new(u64::try_from(hex(&rest[34..50], false)?).ok()?)?;
    let flags = u8::try_from(hex(&rest[51..53], false)?).ok()?;
    Some(Remote {
        ids: Some((trace, span)),
        verdict: Verdict::of(flags & SAMPLED != 0),
        random: flags & RANDOM != 0,
    })
}

/// A `traceparent` of version 00.
pub fn print(trace: TraceId, span: SpanId, sampled: bool, random: bool) -> [u8; LENGTH] {
    let mut out = [b'-'; LENGTH];
    out[..2].copy_from_slice(b"00");
    push_hex(&mut out[3..35], trace.0);
    push_hex(&mut out[36..52], span.0.into());
    push_hex(&mut out[53..], flags(sampled, random).into());
    out
}

/// The flags' byte, in which OTLP has them too.
pub fn flags(sampled: bool, random: bool) -> u8 {
    let flag = |is_set: bool, flag: u8| if is_set { flag } else { 0 };
    flag(sampled, SAMPLED) | flag(random, RANDOM)
}

/// True if a `tracestate` has the agent's member.
pub fn may_keep(tracestate: &[u8]) -> bool {
    tracestate.split(|byte| *byte == b',').any(|member| member.trim_ascii() == KEEP.as_bytes())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;

    use super::*;

    const GOOD: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    #[test]
    fn a_valid_traceparent_is_read_and_printed_as_it_was() {
        let remote = parse(GOOD.as_bytes()).unwrap();
        let (trace, span) = remote.ids.unwrap();
        assert_eq!(trace, TraceId(0x4bf9_2f35_77b3_4da6_a3ce_929d_0e0e_4736));
        assert_eq!(span, SpanId(0x00f0_67aa_0ba9_02b7));
        assert_eq!((remote.verdict, remote.random), (Verdict::Yes, false));
        assert_eq!(print(trace, span, true, false), GOOD.as_bytes());
        let at = |flags: &str| parse(GOOD.replace("-01", flags).as_bytes()).unwrap();
        assert_eq!(at("-00").verdict, Verdict::No);
        assert!(at("-03").random && at("-02").verdict == Verdict::No);
        // Flags that nobody knows yet are no decision.
        assert_eq!(at("-fe").verdict, Verdict::No);
    }

    #[test]
    fn a_later_version_is_read_for_what_is_known() {
        assert_eq!(parse(GOOD.replacen("00", "cc", 1).as_bytes()), parse(GOOD.as_bytes()));
        let longer = format!("{}-what-comes", GOOD.replacen("00", "01", 1));
        assert_eq!(parse(longer.as_bytes()), parse(GOOD.as_bytes()));
    }

    #[test]
    fn what_is_not_valid_is_nobodys_context() {
        for bad in [
            "",
            "00",
            "00-",
            &GOOD[..54],
            &format!("{GOOD}-"),
            &format!("{GOOD}0"),
            &format!("{}.x", GOOD.replacen("00", "01", 1)),
            &GOOD.replacen("00", "ff", 1),
            &GOOD.replacen("00", "0g", 1),
            &GOOD.replace("4b", "4B"),
            &GOOD.replace("4bf92f3577b34da6a3ce929d0e0e4736", "00000000000000000000000000000000"),
            &GOOD.replace("00f067aa0ba902b7", "0000000000000000"),
            &GOOD.replace("-00f067", "_00f067"),
            &GOOD.replace("-01", "-0x"),
        ] {
            assert_eq!(parse(bad.as_bytes()), None, "{bad}");
        }
    }

    #[test]
    fn the_agents_member_is_found_among_others() {
        assert!(may_keep(b"mesh-agent=keep"));
        assert!(may_keep(b"a=b, mesh-agent=keep ,c=d"));
        assert!(!may_keep(b"") && !may_keep(b"mesh-agent=keeper") && !may_keep(b"x=mesh-agent=keep"));
    }

    proptest! {
        #[test]
        fn what_is_printed_is_read_as_the_same(trace in 1_u128.., span in 1_u64.., sampled: bool, random: bool) {
            let remote = parse(&print(TraceId(trace), SpanId(span), sampled, random)).unwrap();
            prop_assert_eq!(remote.ids, Some((TraceId(trace), SpanId(span))));
            prop_assert_eq!((remote.verdict, remote.random), (Verdict::of(sampled), random));
        }

        #[test]
        fn any_bytes_are_judged(bytes in proptest::collection::vec(any::<u8>(), 0..80)) {
            let _ = parse(&bytes);
        }
    }
}

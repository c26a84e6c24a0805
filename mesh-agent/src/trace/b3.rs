//! B3, single header and several (openzipkin/b3-propagation). Pure.
//!
//! Ids of 64 bits are read as the lower half of a trace id, and printed short again where they came so.

use super::context::{Remote, SpanId, TraceId, Verdict, hex};

/// What is known of a trace, to be printed.
#[derive(Clone, Copy, Debug)]
pub struct Printed {
    /// The trace.
    pub trace: TraceId,
    /// Of 64 bits.
    pub short: bool,
    /// Whose span the receiver's is below.
    pub span: SpanId,
    /// And whose that is below.
    pub parent: Option<SpanId>,
    /// Recorded.
    pub sampled: bool,
    /// By B3's debug flag.
    pub debug: bool,
}

/// The header `b3`: `TRACE-SPAN`, `-DECISION` and `-PARENT` behind it, or a decision alone. The flag says that the id was short.
pub fn parse_single(value: &[u8]) -> Option<(Remote, bool)> {
    if let Some(verdict) = decision(value) {
        return Some((Remote { ids: None, verdict, random: false }, false));
    }
    let mut parts = value.split(|byte| *byte == b'-');
    let (trace, short) = trace_id(parts.next()?)?;
    let span = span_id(parts.next()?)?;
    let verdict = parts.next().map_or(Some(Verdict::Open), decision)?;
    // A parent, and nothing else.
    parts.next().map_or(Some(()), |parent| span_id(parent).map(drop))?;
    let remote = Remote { ids: Some((trace, span)), verdict, random: false };
    parts.next().is_none().then_some((remote, short))
}

/// `x-b3-traceid`, `x-b3-spanid`, `x-b3-sampled` and `x-b3-flags`, as far as they are there.
pub fn parse_multi(
    trace: Option<&[u8]>,
    span: Option<&[u8]>,
    sampled: Option<&[u8]>,
    flags: Option<&[u8]>,
) -> Option<(Remote, bool)> {
    let verdict = match (flags, sampled) {
        (Some(b"1"), _) => Verdict::Debug,
        (_, Some(b"1" | b"true")) => Verdict::Yes,
        (_, Some(b"0" | b"false")) => Verdict::No,
        (_, Some(_)) => return None,
        (_, None) => Verdict::Open,
    };
    match (trace, span) {
        (Some(trace), Some(span)) => {
            let (trace, short) = trace_id(trace)?;
            Some((Remote { ids: Some((trace, span_id(span)?)), verdict, random: false }, short))
        }
        (None, None) if verdict != Verdict::Open => {
            Some((Remote { ids: None, verdict, random: false }, false))
        }
        _ => None,
    }
}

/// The header `b3`.
pub fn print_single(printed: &Printed, out: &mut Vec<u8>) {
    push_trace(printed, out);
    out.push(b'-');
    out.extend_from_slice(&printed.span.hex());
    out.extend_from_slice(match (printed.debug, printed.sampled) {
        (true, _) => b"-d",
        (false, true) => b"-1",
        (false, false) => b"-0",
    });
    if let Some(parent) = printed.parent {
        out.push(b'-');
        out.extend_from_slice(&parent.hex());
    }
}

/// The trace id as it came.
pub fn push_trace(printed: &Printed, out: &mut Vec<u8>) {
    let digits = printed.trace.hex();
    let is_short = printed.short && printed.trace.0 >> 64 == 0;
    out.extend_from_slice(if is_short { &digits[16..] } else { &digits });
}

fn decision(text: &[u8]) -> Option<Verdict> {
    match text {
        b"0" => Some(Verdict::No),
        b"1" => Some(Verdict::Yes),
        b"d" => Some(Verdict::Debug),
        _ => None,
    }
}

fn trace_id(text: &[u8]) -> Option<(TraceId, bool)> {
    let fits = matches!(text.len(), 16 | 32);
    let id = TraceId::new(hex(text, true)?)?;
    fits.then_some((id, text.len() == 16))
}

fn span_id(text: &[u8]) -> Option<SpanId> {
    let id = SpanId::new(u64::try_from(hex(text, true)?).ok()?)?;
    (text.len() == 16).then_some(id)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const TRACE: &str = "80f198ee56343ba864fe8b2a57d3eff7";
    const SPAN: &str = "e457b5a2e4d86bd1";

    fn remote(verdict: Verdict) -> Remote {
        let ids = (TraceId(u128::from_str_radix(TRACE, 16).unwrap()), SpanId(0xe457_b5a2_e4d8_6bd1));
        Remote { ids: Some(ids), verdict, random: false }
    }

    #[test]
    fn the_single_header_is_read_in_every_form() {
        let check = |value: String, want: Option<(Remote, bool)>| {
            assert_eq!(parse_single(value.as_bytes()), want, "{value}");
        };
        check(format!("{TRACE}-{SPAN}"), Some((remote(Verdict::Open), false)));
        check(format!("{TRACE}-{SPAN}-1"), Some((remote(Verdict::Yes), false)));
        check(format!("{TRACE}-{SPAN}-0"), Some((remote(Verdict::No), false)));
        check(format!("{TRACE}-{SPAN}-d"), Some((remote(Verdict::Debug), false)));
        check(format!("{TRACE}-{SPAN}-1-05e3ac9a4f6e3b90"), Some((remote(Verdict::Yes), false)));
        check(TRACE.to_uppercase() + "-" + SPAN, Some((remote(Verdict::Open), false)));
        let alone = |verdict| Some((Remote { ids: None, verdict, random: false }, false));
        check("0".into(), alone(Verdict::No));
        check("1".into(), alone(Verdict::Yes));
        check("d".into(), alone(Verdict::Debug));
        let (short, is_short) = parse_single(format!("{}-{SPAN}", &TRACE[16..]).as_bytes()).unwrap();
        assert!(is_short && short.ids.unwrap().0.0 == 0x64fe_8b2a_57d3_eff7);
        for bad in [
            "",
            "2",
            "-",
            TRACE,
            &format!("{TRACE}-"),
            &format!("{TRACE}-{SPAN}-"),
            &format!("{TRACE}-{SPAN}-2"),
            &format!("{TRACE}-{SPAN}-1-"),
            &format!("{TRACE}-{SPAN}-1-05e3"),
            &format!("{TRACE}-{SPAN}-1-{SPAN}-1"),
            &format!("{}-{SPAN}", &TRACE[1..]),
            &format!("{TRACE}-{}", &SPAN[1..]),
            &format!("{}-{SPAN}", "0".repeat(32)),
            &format!("{TRACE}-{}", "0".repeat(16)),
            &format!("{TRACE}-{}", SPAN.replace('e', "g")),
        ] {
            check(bad.to_owned(), None);
        }
    }

    #[test]
    fn several_headers_are_read_together() {
        let check = |[trace, span, sampled, flags]: [&str; 4], want: Option<Remote>| {
            let given = |text: &'static str| Some(text.as_bytes()).filter(|text| !text.is_empty());
            let leak = |text: &str| -> &'static str { Box::leak(text.to_owned().into_boxed_str()) };
            let got =
                parse_multi(given(leak(trace)), given(leak(span)), given(leak(sampled)), given(leak(flags)));
            assert_eq!(got.map(|(remote, _)| remote), want, "{trace} {span} {sampled} {flags}");
        };
        check([TRACE, SPAN, "", ""], Some(remote(Verdict::Open)));
        check([TRACE, SPAN, "1", ""], Some(remote(Verdict::Yes)));
        check([TRACE, SPAN, "true", ""], Some(remote(Verdict::Yes)));
        check([TRACE, SPAN, "0", "0"], Some(remote(Verdict::No)));
        check([TRACE, SPAN, "0", "1"], Some(remote(Verdict::Debug)));
        let alone = |verdict| Some(Remote { ids: None, verdict, random: false });
        check(["", "", "0", ""], alone(Verdict::No));
        check(["", "", "", "1"], alone(Verdict::Debug));
        check(["", "", "", ""], None);
        check(["", "", "", "0"], None);
        check([TRACE, "", "1", ""], None);
        check(["", SPAN, "1", ""], None);
        check([TRACE, SPAN, "yes", ""], None);
        check([&TRACE[..20], SPAN, "1", ""], None);
    }

    #[test]
    fn the_single_header_is_printed_as_it_is_read() {
        let (read, _) = parse_single(format!("{TRACE}-{SPAN}").as_bytes()).unwrap();
        let (trace, span) = read.ids.unwrap();
        let printed = Printed { trace, short: false, span, parent: None, sampled: true, debug: false };
        let text = |printed: Printed| {
            let mut out = Vec::new();
            print_single(&printed, &mut out);
            String::from_utf8(out).unwrap()
        };
        assert_eq!(text(printed), format!("{TRACE}-{SPAN}-1"));
        assert_eq!(text(Printed { sampled: false, ..printed }), format!("{TRACE}-{SPAN}-0"));
        assert_eq!(text(Printed { debug: true, ..printed }), format!("{TRACE}-{SPAN}-d"));
        assert_eq!(text(Printed { parent: Some(span), ..printed }), format!("{TRACE}-{SPAN}-1-{SPAN}"));
        // It came short, and isn't any more if it can't be.
        assert_eq!(text(Printed { short: true, ..printed }), format!("{TRACE}-{SPAN}-1"));
        let low = Printed { short: true, trace: TraceId(trace.0 & u128::from(u64::MAX)), ..printed };
        assert_eq!(text(low), format!("{}-{SPAN}-1", &TRACE[16..]));
    }
}

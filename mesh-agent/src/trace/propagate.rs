//! A trace's context among a request's headers: found in whichever forms it came in, and written on in the same ones.
//!
//! Of several forms that are valid the first of W3C, B3 single, B3 multi and grpc-trace-bin decides; all that came are written
//! anew, so that whoever reads another one is told the same. Used by `begin`, once for a request.

use http::header::{HeaderMap, HeaderName, HeaderValue};

use super::context::{Remote, SpanId, Verdict};
use super::{b3, grpc_bin, w3c};
use crate::trace::b3::Printed;

/// W3C's context.
pub const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
/// W3C's context, the part that every system has its own member of.
pub const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");
const B3: HeaderName = HeaderName::from_static("b3");
const B3_TRACE: HeaderName = HeaderName::from_static("x-b3-traceid");
const B3_SPAN: HeaderName = HeaderName::from_static("x-b3-spanid");
const B3_PARENT: HeaderName = HeaderName::from_static("x-b3-parentspanid");
const B3_SAMPLED: HeaderName = HeaderName::from_static("x-b3-sampled");
const B3_FLAGS: HeaderName = HeaderName::from_static("x-b3-flags");
const GRPC_BIN: HeaderName = HeaderName::from_static("grpc-trace-bin");

/// Which forms a request came with, valid or not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Forms {
    /// `traceparent`.
    pub w3c: bool,
    /// `b3`.
    pub single: bool,
    /// `x-b3-…`.
    pub multi: bool,
    /// `grpc-trace-bin`.
    pub grpc_bin: bool,
}

/// What came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Incoming {
    /// The first form that is valid.
    pub remote: Option<Remote>,
    /// All that were there.
    pub forms: Forms,
    /// B3 with a trace id of 64 bits.
    pub short: bool,
    /// `tracestate` goes with the context, and says that an agent began it and keeps what fails.
    pub keeps: bool,
}

/// Reads the context of a request.
pub fn extract(headers: &HeaderMap) -> Incoming {
    let w3c = only(headers, &TRACEPARENT);
    let single = only(headers, &B3);
    let multi = [&B3_TRACE, &B3_SPAN, &B3_SAMPLED, &B3_FLAGS].map(|name| only(headers, name));
    let bin = only(headers, &GRPC_BIN);
    let forms = Forms {
        w3c: w3c.is_some(),
        single: single.is_some(),
        multi: multi.iter().any(Option::is_some),
        grpc_bin: bin.is_some(),
    };
    let by_w3c = w3c.and_then(w3c::parse);
    let keeps = by_w3c.is_some_and(|remote| remote.verdict == Verdict::No)
        && headers.get_all(TRACESTATE).iter().any(|value| w3c::may_keep(value.as_bytes()));
    let [trace, span, sampled, flags] = multi;
    let found = by_w3c
        .map(|remote| (remote, false))
        .or_else(|| b3::parse_single(single?))
        .or_else(|| b3::parse_multi(trace, span, sampled, flags))
        .or_else(|| Some((grpc_bin::parse(bin?)?, false)));
    let (remote, short) = found.unzip();
    Incoming { remote, forms, short: short.unwrap_or_default(), keeps }
}

/// The value of a field that is there once; of one that is there more often nothing is believed.
fn only<'h>(headers: &'h HeaderMap, name: &HeaderName) -> Option<&'h [u8]> {
    let mut values = headers.get_all(name).iter();
    let first = values.next()?;
    if values.next().is_some() { Some(b"") } else { Some(first.as_bytes()) }
}

/// What goes on with a request.
#[derive(Clone, Copy, Debug)]
pub struct Outgoing {
    /// Ids and decision.
    pub printed: Printed,
    /// W3C's flag.
    pub random: bool,
    /// The trace begins here: what `tracestate` said was about another one, or about none.
    pub begun: bool,
    /// What fails is kept all the same, and other agents are told so.
    pub keep: bool,
}

/// Writes the context in the forms that the request came with; in W3C's where it came with none.
pub fn inject(headers: &mut HeaderMap, forms: Forms, out: &Outgoing) {
    let Outgoing { printed, random, begun, keep } = out;
    let Printed { trace, span, parent, sampled, debug, .. } = *printed;
    let none = forms == Forms::default();
    if forms.w3c || none {
        set(headers, TRACEPARENT, &w3c::print(trace, span, sampled, *random));
    }
    if *begun {
        headers.remove(TRACESTATE);
        if *keep && !sampled {
            headers.insert(TRACESTATE, HeaderValue::from_static(w3c::KEEP));
        }
    }
    if forms.single {
        let mut value = Vec::with_capacity(68);
        b3::print_single(printed, &mut value);
        set(headers, B3, &value);
    }
    if forms.multi {
        multi(headers, printed, parent, debug);
    }
    if forms.grpc_bin {
        set(headers, GRPC_BIN, grpc_bin::print(trace, span, sampled).as_bytes());
    }
}

fn multi(headers: &mut HeaderMap, printed: &Printed, parent: Option<SpanId>, debug: bool) {
    let mut value = Vec::with_capacity(32);
    b3::push_trace(printed, &mut value);
    set(headers, B3_TRACE, &value);
    set(headers, B3_SPAN, &printed.span.hex());
    match parent {
        Some(parent) => set(headers, B3_PARENT, &parent.hex()),
        None => drop(headers.remove(B3_PARENT)),
    }
    if debug {
        headers.remove(B3_SAMPLED);
        headers.insert(B3_FLAGS, HeaderValue::from_static("1"));
    } else {
        headers.remove(B3_FLAGS);
        headers.insert(B3_SAMPLED, HeaderValue::from_static(if printed.sampled { "1" } else { "0" }));
    }
}

/// Digits and dashes are a value always.
fn set(headers: &mut HeaderMap, name: HeaderName, value: &[u8]) {
    if let Ok(value) = HeaderValue::from_bytes(value) {
        headers.insert(name, value);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::trace::context::TraceId;

    const W3C: (&str, &str) = ("traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01");
    const SINGLE: (&str, &str) = ("b3", "80f198ee56343ba864fe8b2a57d3eff7-e457b5a2e4d86bd1-0");
    const MULTI: [(&str, &str); 3] =
        [("x-b3-traceid", "64fe8b2a57d3eff7"), ("x-b3-spanid", "e457b5a2e4d86bd1"), ("x-b3-sampled", "1")];

    fn headers(lines: &[(&str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(HeaderName::from_bytes(name.as_bytes()).unwrap(), value.parse().unwrap());
        }
        headers
    }

    fn read(lines: &[(&str, &str)]) -> Incoming {
        extract(&headers(lines))
    }

    fn trace_of(incoming: &Incoming) -> Option<u128> {
        incoming.remote?.ids.map(|(trace, _)| trace.0)
    }

    #[test]
    fn the_first_valid_form_decides() {
        let w3c = Some(0x4bf9_2f35_77b3_4da6_a3ce_929d_0e0e_4736);
        let single = Some(0x80f1_98ee_5634_3ba8_64fe_8b2a_57d3_eff7);
        assert_eq!(trace_of(&read(&[SINGLE, W3C])), w3c);
        assert_eq!(trace_of(&read(&[SINGLE, ("traceparent", "00-bad")])), single);
        assert_eq!(trace_of(&read(&[MULTI[0], MULTI[1], SINGLE])), single);
        assert_eq!(trace_of(&read(&MULTI)), Some(0x64fe_8b2a_57d3_eff7));
        assert_eq!(read(&MULTI).remote.unwrap().verdict, Verdict::Yes);
        assert!(read(&MULTI).short);
        assert_eq!(read(&[]), Incoming { remote: None, forms: Forms::default(), short: false, keeps: false });
        // Two of them can't both be true (W3C Trace Context, 3.2).
        assert_eq!(read(&[W3C, W3C]).remote, None);
        assert!(read(&[W3C, W3C]).forms.w3c);
    }

    #[test]
    fn an_agents_mark_counts_only_beside_a_context_that_isnt_sampled() {
        let state = ("tracestate", "x=1,mesh-agent=keep");
        let unsampled = ("traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00");
        assert!(read(&[unsampled, ("tracestate", "y=2"), state]).keeps);
        assert!(!read(&[W3C, state]).keeps && !read(&[SINGLE, state]).keeps && !read(&[unsampled]).keeps);
    }

    fn written(lines: &[(&str, &str)], change: impl Fn(&mut Outgoing)) -> Vec<String> {
        let mut headers = headers(lines);
        let incoming = extract(&headers);
        let printed = Printed {
            trace: TraceId(1),
            short: incoming.short,
            span: SpanId(2),
            parent: Some(SpanId(3)),
            sampled: true,
            debug: false,
        };
        let mut out = Outgoing { printed, random: false, begun: false, keep: false };
        change(&mut out);
        inject(&mut headers, incoming.forms, &out);
        let mut lines: Vec<_> =
            headers.iter().map(|(name, value)| format!("{name}: {}", value.to_str().unwrap())).collect();
        lines.sort_unstable();
        lines
    }

    #[test]
    fn the_context_goes_on_in_the_forms_that_it_came_in() {
        let traceparent = "traceparent: 00-00000000000000000000000000000001-0000000000000002-01";
        let same = |_: &mut Outgoing| {};
        assert_eq!(written(&[], same), [traceparent]);
        let state = ("tracestate", "a=b");
        assert_eq!(written(&[W3C, state], same), [traceparent, "tracestate: a=b"]);
        let b3 = "b3: 00000000000000000000000000000001-0000000000000002-1-0000000000000003";
        assert_eq!(written(&[SINGLE], same), [b3]);
        assert_eq!(written(&[SINGLE, W3C], same), [b3, traceparent]);
        let many = [
            "x-b3-parentspanid: 0000000000000003",
            "x-b3-sampled: 1",
            "x-b3-spanid: 0000000000000002",
            "x-b3-traceid: 0000000000000001",
        ];
        assert_eq!(written(&MULTI, same), many);
        assert_eq!(
            written(&[MULTI[2]], |out| {
                out.printed.parent = None;
                out.printed.sampled = false;
            }),
            [
                "x-b3-sampled: 0",
                "x-b3-spanid: 0000000000000002",
                "x-b3-traceid: 00000000000000000000000000000001"
            ]
        );
        assert_eq!(written(&MULTI, |out| out.printed.debug = true)[0], "x-b3-flags: 1");
        let bin = written(&[("grpc-trace-bin", "AAAA")], same);
        assert_eq!(bin.len(), 1);
        assert!(grpc_bin::parse(bin[0].strip_prefix("grpc-trace-bin: ").unwrap().as_bytes()).is_some());
    }

    #[test]
    fn a_trace_that_begins_here_has_the_agents_state_alone() {
        let begun = |out: &mut Outgoing| {
            out.begun = true;
            out.keep = true;
            out.printed.sampled = false;
        };
        let traceparent = "traceparent: 00-00000000000000000000000000000001-0000000000000002-00";
        assert_eq!(written(&[("tracestate", "a=b")], begun), [traceparent, "tracestate: mesh-agent=keep"]);
        let sampled = |out: &mut Outgoing| (out.begun, out.keep) = (true, true);
        assert_eq!(written(&[("traceparent", "x"), ("tracestate", "a=b")], sampled).len(), 1);
    }
}

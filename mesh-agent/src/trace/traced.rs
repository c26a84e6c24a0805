//! A request's part in a trace: who is above it, what it is called, whether it is recorded, and what happened on its way.
//!
//! Begun with the request's head; `proxy::spans` makes spans of it when the request is over. A request that isn't recorded
//! has no memory of its own here.

use std::cell::RefCell;

use http::{HeaderMap, HeaderValue};

use super::b3::Printed;
use super::context::{SpanId, TraceId, Verdict};
use super::propagate::{self, Outgoing, TRACESTATE};
use super::sampling::{Decision, Ratio, Sampler};
use super::w3c;
use crate::addr::EndpointAddr;

/// Of one request or connection.
#[derive(Debug)]
pub struct Traced {
    /// The trace.
    pub trace: TraceId,
    /// What those that it is sent to have as their parent.
    pub span: SpanId,
    /// Who sent it, if that was said.
    pub parent: Option<SpanId>,
    decision: Decision,
    random: bool,
    notes: RefCell<Option<Box<Notes>>>,
}

/// What is told of it beside what its account has.
#[derive(Debug, Default)]
pub struct Notes {
    /// `tracestate`, as it came.
    pub state: Option<HeaderValue>,
    /// In their order.
    pub events: Vec<Event>,
}

/// Something that happened on the way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// Nanoseconds on the process's clock.
    pub at_ns: u64,
    /// What.
    pub what: What,
}

/// What can happen on the way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum What {
    /// It is sent once more.
    Retry {
        /// Which try, from 2.
        attempt: u32,
        /// How the one before ended.
        why: &'static str,
        /// Where that was.
        before: Option<EndpointAddr>,
    },
    /// It is sent to another endpoint as well.
    Hedge {
        /// Which try.
        attempt: u32,
    },
    /// Another service answers.
    Fallback {
        /// Why.
        why: &'static str,
    },
    /// An endpoint was ejected for how it ended.
    Ejection {
        /// Which.
        endpoint: EndpointAddr,
        /// By which threshold.
        why: &'static str,
    },
    /// A fault made it wait.
    Delay,
}

/// More than so many say nothing new.
const MOST_EVENTS: usize = 32;

impl Traced {
    /// Reads the context, decides, and writes what goes on.
    pub(super) fn begin(
        sampler: &Sampler,
        headers: &mut HeaderMap,
        service: Option<Ratio>,
        now_ns: u64,
    ) -> Self {
        let incoming = propagate::extract(headers);
        let verdict = incoming.remote.map_or(Verdict::Open, |remote| remote.verdict);
        let ids = incoming.remote.and_then(|remote| remote.ids);
        let (trace, parent) =
            ids.map_or_else(|| (TraceId::random(), None), |(trace, span)| (trace, Some(span)));
        let decision = sampler.decide(verdict, incoming.keeps, service, trace, now_ns);
        let begun = ids.is_none();
        let random = incoming.remote.is_some_and(|remote| remote.random);
        let span = SpanId::random();
        let sampled = decision == Decision::Sampled;
        let state = headers.get(TRACESTATE).filter(|_| sampled && !begun).cloned();
        let debug = verdict == Verdict::Debug;
        let printed = Printed { trace, short: incoming.short, span, parent, sampled, debug };
        // Nobody outside has decided not to record it.
        let keep = verdict == Verdict::Open && sampler.keeps();
        propagate::inject(headers, incoming.forms, &Outgoing { printed, random, begun, keep });
        let notes = sampled.then(|| Box::new(Notes { state, events: Vec::new() }));
        Self { trace, span, parent, decision, random, notes: RefCell::new(notes) }
    }

    /// True if it is recorded.
    pub fn is_sampled(&self) -> bool {
        self.decision == Decision::Sampled
    }

    /// True if it is recorded in case it fails or is slow.
    pub fn is_candidate(&self) -> bool {
        self.decision == Decision::Candidate
    }

    /// As in `traceparent`.
    pub fn flags(&self) -> u8 {
        w3c::flags(self.is_sampled(), self.random)
    }

    /// What the next one is told, where there is no head to write it into.
    pub fn traceparent(&self) -> Option<HeaderValue> {
        let text = w3c::print(self.trace, self.span, self.is_sampled(), self.random);
        HeaderValue::from_bytes(&text).ok()
    }

    /// Notes something that happened on the way.
    pub fn note(&self, at_ns: u64, what: What) {
        if self.decision == Decision::Dropped {
            return;
        }
        let mut notes = self.notes.borrow_mut();
        let events = &mut notes.get_or_insert_default().events;
        if events.len() < MOST_EVENTS {
            events.push(Event { at_ns, what });
        }
    }

    /// Everything that was noted.
    pub fn take_notes(&self) -> Notes {
        self.notes.take().map(|notes| *notes).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::time::Duration;

    use super::*;
    use crate::trace::Keep;

    const KEEP: Keep = Keep { errors: true, slow: Some(Duration::from_secs(1)) };

    fn begin(ratio: Ratio, keep: Keep, lines: &[(&'static str, &str)]) -> (Traced, HeaderMap) {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(*name, value.parse().unwrap());
        }
        let traced = Traced::begin(&Sampler::new(ratio, 0, keep), &mut headers, None, 1);
        (traced, headers)
    }

    fn text(headers: &HeaderMap, name: &str) -> String {
        headers.get(name).map(|value| value.to_str().unwrap().to_owned()).unwrap_or_default()
    }

    #[test]
    fn a_request_without_context_begins_a_trace() {
        let (traced, headers) = begin(Ratio::ALL, Keep::default(), &[]);
        assert!(traced.is_sampled() && traced.parent.is_none());
        let want = format!("00-{:?}-{:?}-01", traced.trace, traced.span);
        assert_eq!((text(&headers, "traceparent"), headers.len()), (want, 1));
        let (traced, headers) = begin(Ratio::NONE, Keep::default(), &[]);
        assert!(!traced.is_sampled() && !traced.is_candidate());
        assert!(text(&headers, "traceparent").ends_with("-00") && headers.len() == 1);
        let (traced, headers) = begin(Ratio::NONE, KEEP, &[]);
        assert!(traced.is_candidate() && text(&headers, "tracestate") == w3c::KEEP);
    }

    #[test]
    fn a_context_is_continued_and_its_decision_holds() {
        let yes = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-03";
        let (traced, headers) = begin(Ratio::NONE, KEEP, &[("traceparent", yes), ("tracestate", "a=b")]);
        assert!(traced.is_sampled());
        assert_eq!(traced.parent, Some(SpanId(0x00f0_67aa_0ba9_02b7)));
        let want = format!("00-4bf92f3577b34da6a3ce929d0e0e4736-{:?}-03", traced.span);
        assert_eq!((text(&headers, "traceparent"), text(&headers, "tracestate")), (want, "a=b".into()));
        assert_eq!(traced.take_notes().state.unwrap(), "a=b");
        let no = yes.replace("-03", "-00");
        let (traced, headers) = begin(Ratio::ALL, KEEP, &[("traceparent", &no)]);
        assert!(!traced.is_sampled() && !traced.is_candidate());
        assert!(text(&headers, "traceparent").ends_with("-00") && text(&headers, "tracestate").is_empty());
        // An agent's decision leaves it open whether it is kept.
        let (traced, headers) =
            begin(Ratio::ALL, KEEP, &[("traceparent", &no), ("tracestate", "mesh-agent=keep")]);
        assert!(traced.is_candidate() && text(&headers, "tracestate") == "mesh-agent=keep");
    }

    #[test]
    fn what_isnt_recorded_remembers_nothing() {
        let (traced, _) = begin(Ratio::NONE, Keep::default(), &[]);
        traced.note(1, What::Delay);
        assert!(traced.notes.borrow().is_none());
        let (traced, _) = begin(Ratio::NONE, KEEP, &[]);
        assert!(traced.notes.borrow().is_none());
        (0..100).for_each(|at| traced.note(at, What::Delay));
        assert_eq!(traced.take_notes().events.len(), MOST_EVENTS);
    }

    #[test]
    fn a_decision_alone_holds_for_the_trace_that_begins() {
        let (traced, headers) = begin(Ratio::ALL, KEEP, &[("b3", "0")]);
        assert!(!traced.is_sampled() && !traced.is_candidate() && traced.parent.is_none());
        assert_eq!(text(&headers, "b3"), format!("{:?}-{:?}-0", traced.trace, traced.span));
        assert_eq!(headers.len(), 1);
        let (traced, headers) = begin(Ratio::NONE, KEEP, &[("x-b3-flags", "1")]);
        assert!(traced.is_sampled() && text(&headers, "x-b3-flags") == "1");
    }
}

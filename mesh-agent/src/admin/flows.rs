//! `GET /v1/flows`: flows as JSON, one a line. First the last failures and denials that are wanted, then, with `follow`,
//! every flow that ends while somebody reads.
//!
//! | parameter | what |
//! |---|---|
//! | `last=N` | at most so many of what is kept; without `follow` 20 |
//! | `since=SECONDS` | of what is kept, what began since then |
//! | `follow=true` | goes on |
//! | `headers=true` | with headers, of requests that begin from now on |
//! | a term of `telemetry::flows::filter`, or one with `not-` before it | which flows |
//!
//! A reader that is behind is told of what it missed, `{"lost": N}`, where that is missing. While there is nothing to tell an
//! empty line comes from time to time, so that a reader that has gone is noticed.

use std::borrow::Cow;
use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::{Response, StatusCode};
use tokio::time::{Instant, Sleep};

use super::api::flow::{Flow, FlowLine};
use super::http::{self as answers, Answer, problem};
use crate::report;
use crate::telemetry::Flows;
use crate::telemetry::flows::filter::Filter;
use crate::telemetry::flows::{Batch, Observer};

/// How many of what is kept, unless it is said.
const LAST: usize = 20;
/// How often a reader hears something.
const SIGN_OF_LIFE: Duration = Duration::from_secs(15);
/// Lines are handed over in pieces of about this size.
const PIECE: usize = 32 * 1024;

/// Lines that come one after the other.
pub(crate) struct FlowStream {
    waiting: VecDeque<Arc<Flow>>,
    /// To be told behind what waits.
    lost: u64,
    observer: Option<Observer>,
    silence: Pin<Box<Sleep>>,
}

/// What is asked.
#[derive(Debug, Default)]
struct Question {
    filter: Filter,
    follow: bool,
    headers: bool,
    last: Option<usize>,
    since: Option<Duration>,
}

pub(super) fn answer(flows: &Arc<Flows>, query: Option<&str>) -> Response<Answer> {
    let question = match Question::parse(query.unwrap_or_default()) {
        Ok(question) => question,
        Err(error) => return problem(StatusCode::BAD_REQUEST, error),
    };
    // Before the ring is read: what fails in between is rather seen twice than not.
    let observer = match question.follow.then(|| flows.observe(question.filter.clone(), question.headers)) {
        Some(Err(error)) => return problem(StatusCode::TOO_MANY_REQUESTS, report::chain(&error).to_string()),
        Some(Ok(observer)) => Some(observer),
        None => None,
    };
    let since = question.since.and_then(|since| SystemTime::now().checked_sub(since));
    let last = question.last.unwrap_or(match (question.follow, since) {
        // As many as there are, of a time; none before what is to come.
        (_, Some(_)) => usize::MAX,
        (true, None) => 0,
        (false, None) => LAST,
    });
    let waiting = flows.failures(&question.filter, since, last).into();
    let silence = Box::pin(tokio::time::sleep(SIGN_OF_LIFE));
    answers::flows(FlowStream { waiting, lost: 0, observer, silence })
}

impl Question {
    fn parse(query: &str) -> Result<Self, String> {
        let (mut question, mut terms) = (Self::default(), Vec::new());
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let (name, value) = (decode(name)?, decode(value)?);
            let number = |what: &str| value.parse::<u64>().map_err(|_| format!("{name}: expected {what}"));
            let switch = || match &*value {
                "true" => Ok(true),
                "false" => Ok(false),
                _ => Err(format!("{name}: expected true or false")),
            };
            match &*name {
                "follow" => question.follow = switch()?,
                "headers" => question.headers = switch()?,
                "last" => {
                    question.last = Some(usize::try_from(number("a number of flows")?).unwrap_or(usize::MAX));
                }
                "since" => question.since = Some(Duration::from_secs(number("a number of seconds")?)),
                _ => terms.push((name.into_owned(), value.into_owned())),
            }
        }
        let terms = terms.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        question.filter = Filter::parse(terms).map_err(|error| report::chain(&error).to_string())?;
        Ok(question)
    }
}

fn decode(text: &str) -> Result<Cow<'_, str>, String> {
    if !text.contains('%') {
        return Ok(Cow::Borrowed(text));
    }
    let bad = || format!("{text:?} isn't percent-encoded");
    let (mut out, mut rest) = (Vec::with_capacity(text.len()), text.as_bytes());
    while let Some((byte, behind)) = rest.split_first() {
        rest = behind;
        if *byte != b'%' {
            out.push(*byte);
            continue;
        }
        let digits = behind.get(..2).and_then(|digits| std::str::from_utf8(digits).ok()).ok_or_else(bad)?;
        out.push(u8::from_str_radix(digits, 16).map_err(|_| bad())?);
        rest = &behind[2..];
    }
    String::from_utf8(out).map(Cow::Owned).map_err(|_| bad())
}

impl FlowStream {
    /// True of one that ends only with its reader.
    pub(super) fn is_endless(&self) -> bool {
        self.observer.is_some()
    }

    /// The next lines; None at the end.
    pub(super) fn poll_lines(&mut self, cx: &mut Context<'_>) -> Poll<Option<Bytes>> {
        if self.waiting.is_empty()
            && self.lost == 0
            && let Some(observer) = &self.observer
        {
            match observer.poll_take(cx) {
                Poll::Ready(Batch { flows, lost }) => (self.waiting, self.lost) = (flows, lost),
                Poll::Pending => {
                    if self.silence.as_mut().poll(cx).is_pending() {
                        return Poll::Pending;
                    }
                    self.heard();
                    return Poll::Ready(Some(Bytes::from_static(b"\n")));
                }
            }
        }
        let mut piece = Vec::new();
        while piece.len() < PIECE
            && let Some(flow) = self.waiting.pop_front()
        {
            self.push(&mut piece, &flow);
        }
        if self.waiting.is_empty() && self.lost > 0 {
            line(&mut piece, &FlowLine::Lost { lost: std::mem::take(&mut self.lost) });
        }
        self.heard();
        Poll::Ready(Some(Bytes::from(piece)).filter(|piece| !piece.is_empty()))
    }

    /// Who didn't ask for headers sees none, though they are there for somebody else.
    fn push(&self, piece: &mut Vec<u8>, flow: &Arc<Flow>) {
        let has_headers = flow.l7.as_ref().is_some_and(|l7| !l7.request_headers.is_empty());
        if !has_headers || self.observer.as_ref().is_some_and(Observer::wants_headers) {
            return line(piece, &**flow);
        }
        let mut flow = Flow::clone(flow);
        if let Some(l7) = &mut flow.l7 {
            l7.request_headers.clear();
            l7.response_headers.clear();
        }
        line(piece, &flow);
    }

    fn heard(&mut self) {
        self.silence.as_mut().reset(Instant::now() + SIGN_OF_LIFE);
    }
}

fn line(piece: &mut Vec<u8>, value: &impl serde::Serialize) {
    let start = piece.len();
    match serde_json::to_writer(&mut *piece, value) {
        Ok(()) => piece.push(b'\n'),
        // Nothing of a flow is without a form in JSON.
        Err(_) => piece.truncate(start),
    }
}

#[cfg(test)]
mod tests;

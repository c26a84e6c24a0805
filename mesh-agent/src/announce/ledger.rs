//! What is to be written about pods, and when; pure, time comes as an argument.
//!
//! Compares what became of a pod with what its object says, so that nothing is written twice, whoever wrote it. Remembers what
//! the object doesn't show yet, and failures for their back-off. Events are bounded in number.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use crate::kube::Failure;
use crate::model::ObjectName;
use crate::policy::gcra::{Bucket, Rate};

/// First wait after a failure, which doubles, and the longest.
const FIRST: Duration = Duration::from_secs(1);
const LONGEST: Duration = Duration::from_secs(120);
/// What stays as it is is told again after this.
const REPEAT: Duration = Duration::from_secs(600);
/// Events of an agent: so many at once, and so many a minute afterwards. A Deployment's worth of pods, and no storm.
const EVENTS_AT_ONCE: u32 = 50;
const EVENTS_A_MINUTE: u32 = 30;

/// One pod of this node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fact {
    /// Namespace and name.
    pub pod: ObjectName,
    /// `metadata.uid`.
    pub uid: String,
    /// Its object has the annotation.
    pub annotated: bool,
    /// What became of it.
    pub state: State,
}

/// What became of a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// It is captured.
    Captured,
    /// It will be, once it runs.
    Waiting,
    /// It should be, and can't.
    Failing(String),
    /// It needn't be.
    Left,
}

/// Something to write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Deed {
    /// Puts the annotation on, or takes it off.
    Annotate { pod: ObjectName, uid: String, on: bool },
    /// An Event.
    Tell { pod: ObjectName, uid: String, event: Event },
}

/// An Event, which is one with those of the same pod and text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Event {
    /// `MeshEnrolled` or `MeshEnrolFailed`.
    pub reason: &'static str,
    /// A warning.
    pub warning: bool,
    /// For people.
    pub note: String,
    /// For how many times it stands by now, as far as this agent knows.
    pub times: u32,
}

impl Deed {
    /// Label of metrics.
    pub fn what(&self) -> &'static str {
        match self {
            Self::Annotate { .. } => "annotation",
            Self::Tell { .. } => "event",
        }
    }

    /// Whose.
    pub fn pod(&self) -> &ObjectName {
        match self {
            Self::Annotate { pod, .. } | Self::Tell { pod, .. } => pod,
        }
    }

    fn uid(&self) -> &str {
        match self {
            Self::Annotate { uid, .. } | Self::Tell { uid, .. } => uid,
        }
    }
}

/// What was written and what couldn't be.
pub(super) struct Ledger {
    pods: HashMap<String, Entry>,
    events: Bucket,
    began: Instant,
    dropped: u64,
}

#[derive(Default)]
struct Entry {
    /// What was written and the object doesn't show yet; stays where it never will, since somebody else wrote it too.
    written: Option<bool>,
    /// The last failure that was told, how often and when.
    told: Option<(String, u32, Instant)>,
    /// It was captured, and nobody was told.
    news: Option<Event>,
    /// How often it was captured.
    enrolled: u32,
    wait: Duration,
    next: Option<Instant>,
}

impl Ledger {
    pub fn new(now: Instant) -> Self {
        Self { pods: HashMap::new(), events: Bucket::default(), began: now, dropped: 0 }
    }

    /// The next thing to write now, if there is any.
    pub fn next(&mut self, facts: &[Fact], now: Instant) -> Option<Deed> {
        self.pods.retain(|uid, _| facts.iter().any(|fact| fact.uid == *uid));
        facts.iter().find_map(|fact| self.deed(fact, now))
    }

    /// When there will be something to write, if nothing changes.
    pub fn next_time(&self, facts: &[Fact]) -> Option<Instant> {
        let repeat = |fact: &Fact| match (&fact.state, self.pods.get(&fact.uid)?) {
            (_, Entry { next: Some(next), .. }) => Some(*next),
            (State::Failing(_), Entry { told: Some((_, _, at)), .. }) => Some(*at + REPEAT),
            _ => None,
        };
        facts.iter().filter_map(repeat).min()
    }

    /// What became of it.
    pub fn settle(&mut self, deed: &Deed, done: Result<(), Failure>, now: Instant) {
        let Some(entry) = self.pods.get_mut(deed.uid()) else { return };
        // The pod is gone, or another has its name: the source will say so.
        let is_over = matches!(done, Ok(()) | Err(Failure::NotFound));
        if !is_over {
            entry.wait = (entry.wait * 2).clamp(FIRST, LONGEST);
            entry.next = Some(now + entry.wait);
            return;
        }
        (entry.wait, entry.next) = (Duration::ZERO, None);
        match deed {
            Deed::Annotate { on, .. } if done.is_err() => entry.written = Some(*on),
            Deed::Annotate { on, .. } => {
                entry.written = Some(*on);
                entry.enrolled += u32::from(*on);
                entry.news = on.then(|| enrolled(entry.enrolled));
            }
            Deed::Tell { event, .. } if event.warning => {
                entry.told = Some((event.note.clone(), event.times, now));
            }
            Deed::Tell { .. } => entry.news = None,
        }
    }

    /// Events that there were too many of, since this was last asked.
    pub fn take_dropped(&mut self) -> u64 {
        std::mem::take(&mut self.dropped)
    }

    fn deed(&mut self, fact: &Fact, now: Instant) -> Option<Deed> {
        let entry = self.pods.entry(fact.uid.clone()).or_default();
        let on = fact.state == State::Captured;
        if fact.annotated == on {
            entry.written = None;
        }
        if entry.next.is_some_and(|next| next > now) {
            return None;
        }
        entry.next = None;
        let (pod, uid) = (fact.pod.clone(), fact.uid.clone());
        if fact.annotated != on && entry.written != Some(on) && fact.state != State::Waiting {
            return Some(Deed::Annotate { pod, uid, on });
        }
        let event = match &fact.state {
            State::Failing(note) => entry.failing(note, now)?,
            _ => entry.news.clone()?,
        };
        let since = u64::try_from(now.duration_since(self.began).as_nanos()).unwrap_or(u64::MAX);
        let rate = Rate::new(EVENTS_A_MINUTE, Duration::from_secs(60), EVENTS_AT_ONCE);
        let deed = Deed::Tell { pod, uid, event };
        if self.events.take(rate, 0, since).passes() {
            return Some(deed);
        }
        self.dropped += 1;
        self.settle(&deed, Ok(()), now);
        None
    }
}

impl Entry {
    /// Told when it is another failure than the last, and now and then.
    fn failing(&self, note: &str, now: Instant) -> Option<Event> {
        let times = match &self.told {
            Some((told, _, at)) if told == note && now.duration_since(*at) < REPEAT => return None,
            Some((told, times, _)) if told == note => times + 1,
            _ => 1,
        };
        Some(Event { reason: "MeshEnrolFailed", warning: true, note: note.to_owned(), times })
    }
}

fn enrolled(times: u32) -> Event {
    let note = "captured: its traffic goes through the mesh".to_owned();
    Event { reason: "MeshEnrolled", warning: false, note, times }
}

#[cfg(test)]
mod tests;

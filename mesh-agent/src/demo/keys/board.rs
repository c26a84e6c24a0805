//! What each key does now, one thing at a time, and what is told of it. Pure: time is an argument.
//!
//! A key turns into an order; what is in force changes when `scene` has done it, so that one that failed can be tried again.

use std::time::{Duration, Instant};

use super::counts::Counts;
use crate::demo::load::Tally;

/// The demo's own, none of which `top` uses.
pub(super) const KEYS: [char; 6] = ['c', 'x', 'd', 'm', 'u', 'r'];

/// How a line is to be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tone {
    /// As it is.
    Plain,
    /// As it should be.
    Good,
    /// Not done yet.
    Waiting,
    /// Not as it should be.
    Bad,
}

/// Which versions of the cart are called.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Split {
    /// No route: all endpoints.
    #[default]
    None,
    /// An HTTPRoute with these weights of v1 and v2.
    By(u64, u64),
}

/// What a key does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Action {
    Split(Split),
    Kill,
    Start,
    Deny,
    Admit,
    Encrypt,
    Decrypt,
    Replace,
    Crash,
}

/// What keys have changed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct InForce {
    pub(super) split: Split,
    pub(super) is_killed: bool,
    pub(super) is_denied: bool,
    pub(super) is_encrypted: bool,
}

/// To be done, and what is in force after it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Order {
    pub(super) action: Action,
    pub(super) then: InForce,
}

impl Action {
    fn key(self) -> char {
        match self {
            Self::Split(_) => 'c',
            Self::Kill | Self::Start => 'x',
            Self::Deny | Self::Admit => 'd',
            Self::Encrypt | Self::Decrypt => 'm',
            Self::Replace => 'u',
            Self::Crash => 'r',
        }
    }

    /// Beside its key, short: all of them stand on one line of 80 columns.
    fn label(self) -> String {
        match self {
            Self::Split(Split::None) => "canary off".into(),
            Self::Split(Split::By(v1, v2)) => format!("canary {v1}/{v2}"),
            Self::Kill => "kill cart-2".into(),
            Self::Start => "start cart-2".into(),
            Self::Deny => "deny batch".into(),
            Self::Admit => "admit batch".into(),
            Self::Encrypt => "node mTLS".into(),
            Self::Decrypt => "mTLS off".into(),
            Self::Replace => "new agent".into(),
            Self::Crash => "crash".into(),
        }
    }

    /// What is so when it is done.
    fn done(self) -> String {
        match self {
            Self::Split(Split::None) => "no HTTPRoute: all three endpoints of cart are asked".into(),
            Self::Split(Split::By(v1, v2)) => {
                format!("HTTPRoute: {v1} % of cart's requests to v1, {v2} % to v2")
            }
            Self::Kill => "SIGKILL to cart-2: the two others serve".into(),
            Self::Start => "cart-2 is started: it gets its share again".into(),
            Self::Deny => "AuthorizationPolicy: batch may not call cart".into(),
            Self::Admit => "no AuthorizationPolicy: batch may call cart".into(),
            Self::Encrypt => "sameNode: mtls: mutual TLS within the first node too".into(),
            Self::Decrypt => "sameNode: direct: plain text within the first node".into(),
            Self::Replace => "another agent has taken the first node's agent's place".into(),
            Self::Crash => "SIGKILL to the first node's agent, and a new one is ready".into(),
        }
    }
}

impl InForce {
    /// What a key does now.
    fn action(self, key: char) -> Option<Action> {
        let either = |is: bool, on, off| if is { off } else { on };
        Some(match key {
            'c' => Action::Split(match self.split {
                Split::None => Split::By(90, 10),
                Split::By(90, _) => Split::By(50, 50),
                Split::By(..) => Split::None,
            }),
            'x' => either(self.is_killed, Action::Kill, Action::Start),
            'd' => either(self.is_denied, Action::Deny, Action::Admit),
            'm' => either(self.is_encrypted, Action::Encrypt, Action::Decrypt),
            'u' => Action::Replace,
            'r' => Action::Crash,
            _ => return None,
        })
    }

    fn after(mut self, action: Action) -> Self {
        match action {
            Action::Split(split) => self.split = split,
            Action::Kill | Action::Start => self.is_killed = action == Action::Kill,
            Action::Deny | Action::Admit => self.is_denied = action == Action::Deny,
            Action::Encrypt | Action::Decrypt => self.is_encrypted = action == Action::Encrypt,
            Action::Replace | Action::Crash => {}
        }
        self
    }
}

/// What is told of the last key.
#[derive(Debug, Default)]
enum Told {
    #[default]
    Nothing,
    UnderWay(Action, Instant),
    Done(Action, Duration),
    Failed(Action, String),
    Lost,
}

/// All of it.
#[derive(Debug, Default)]
pub(super) struct Board {
    now: InForce,
    counts: Counts,
    told: Told,
    failures: Vec<String>,
}

impl Board {
    /// What is to be done for a key; nothing while something is under way.
    pub(super) fn press(&mut self, key: char, now: Instant) -> Option<Order> {
        if matches!(self.told, Told::UnderWay(..) | Told::Lost) {
            return None;
        }
        let action = self.now.action(key)?;
        self.counts.press(key);
        self.told = Told::UnderWay(action, now);
        Some(Order { action, then: self.now.after(action) })
    }

    /// What came of it.
    pub(super) fn done(&mut self, action: Action, took: Duration, outcome: Result<(), String>) {
        self.told = match outcome {
            Ok(()) => {
                self.now = self.now.after(action);
                Told::Done(action, took)
            }
            Err(why) => {
                self.failures.push(format!("{}: {why}", action.label()));
                Told::Failed(action, why)
            }
        };
    }

    /// Nobody is there any more who would do anything.
    pub(super) fn lost(&mut self) {
        self.told = Told::Lost;
    }

    /// Adds what clients have seen.
    pub(super) fn count(&mut self, tally: &Tally) {
        self.counts.add(tally);
    }

    /// What went wrong, in full.
    pub(super) fn failures(&self) -> &[String] {
        &self.failures
    }

    /// Three lines: requests, keys, and what came of the last one.
    pub(super) fn lines(&self, now: Instant) -> Vec<(String, Tone)> {
        let counts = if self.counts.fails() { Tone::Bad } else { Tone::Good };
        let actions = KEYS.iter().filter_map(|key| self.now.action(*key));
        let keys: Vec<_> = actions.map(|action| format!("{} {}", action.key(), action.label())).collect();
        let told = match &self.told {
            Told::Nothing => ("press a key: what it does shows here and in the table".into(), Tone::Plain),
            Told::UnderWay(action, since) => {
                let seconds = now.saturating_duration_since(*since).as_secs_f64();
                (format!("{} {} ... {seconds:.1} s", action.key(), action.label()), Tone::Waiting)
            }
            Told::Done(action, took) => {
                (format!("{} took {} ms: {}", action.key(), took.as_millis(), action.done()), Tone::Plain)
            }
            Told::Failed(action, why) => {
                let why = why.lines().next().unwrap_or_default();
                (format!("{} {} failed: {why}", action.key(), action.label()), Tone::Bad)
            }
            Told::Lost => ("keys do nothing any more: press q".into(), Tone::Bad),
        };
        vec![(self.counts.line(), counts), (keys.join("  "), Tone::Plain), told]
    }
}

#[cfg(test)]
mod tests;

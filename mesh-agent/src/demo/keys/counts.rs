//! How many requests were sent, denied and failed, in all and since the last key. Pure.
//!
//! A denial is an answer (403 of a policy); everything else than 200 is a failure, and is put down to the key before it.

use std::collections::BTreeMap;

use crate::demo::load::Tally;

/// Answer of an agent whose policies say no.
const DENIED: &str = "status-403";

/// Requests, by what came of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Requests {
    sent: u64,
    denied: u64,
    failed: u64,
}

impl Requests {
    fn add(&mut self, tally: &Tally) {
        let denied = tally.failed.get(DENIED).copied().unwrap_or(0);
        self.sent += tally.ok() + tally.failures();
        self.denied += denied;
        self.failed += tally.failures() - denied;
    }
}

/// The counter on the screen.
#[derive(Debug, Default)]
pub(super) struct Counts {
    all: Requests,
    /// The last key, and what came since.
    since: Option<(char, Requests)>,
    /// By the key that came before; none before the first.
    blamed: BTreeMap<Option<char>, u64>,
}

impl Counts {
    /// Adds what clients have seen.
    pub(super) fn add(&mut self, tally: &Tally) {
        let before = self.all.failed;
        self.all.add(tally);
        let key = self.since.as_mut().map(|(key, since)| {
            since.add(tally);
            *key
        });
        if self.all.failed > before {
            *self.blamed.entry(key).or_default() += self.all.failed - before;
        }
    }

    /// A key: what comes from now on came since.
    pub(super) fn press(&mut self, key: char) {
        self.since = Some((key, Requests::default()));
    }

    /// True if something failed since the last key.
    pub(super) fn fails(&self) -> bool {
        self.since.map_or(self.all, |(_, since)| since).failed > 0
    }

    /// One line of figures.
    pub(super) fn line(&self) -> String {
        let Requests { sent, denied, failed } = self.all;
        let blamed: Vec<String> = self.blamed.iter().map(|(key, count)| blame(*key, *count)).collect();
        let blamed = if blamed.is_empty() { String::new() } else { format!(" ({})", blamed.join(", ")) };
        let all = format!("sent {sent}  denied {denied}  failed {failed}{blamed}");
        match self.since {
            None => all,
            Some((key, Requests { sent, denied, failed })) => {
                format!("{all}   since {key}: sent {sent}  denied {denied}  failed {failed}")
            }
        }
    }
}

fn blame(key: Option<char>, count: u64) -> String {
    match key {
        Some(key) => format!("{key} {count}"),
        None => format!("before {count}"),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use super::*;

    #[test]
    fn denials_are_no_failures_and_failures_are_put_down_to_the_key_before() {
        let mut counts = Counts::default();
        counts.add(&Tally::of("ok cart-1 v1 a b 9\nok cart-3 v2 a b 9\n"));
        assert_eq!((counts.line().as_str(), counts.fails()), ("sent 2  denied 0  failed 0", false));
        counts.press('d');
        counts.add(&Tally::of("fail status-403 - - - 9\nok cart-1 v1 a b 9\n"));
        let line = "sent 4  denied 1  failed 0   since d: sent 2  denied 1  failed 0";
        assert_eq!((counts.line().as_str(), counts.fails()), (line, false));
        counts.press('x');
        counts.add(&Tally::of("fail ECONNRESET - - - 9\nfail status-503 - - - 9\n"));
        assert!(counts.fails());
        counts.press('u');
        counts.add(&Tally::of("ok cart-1 v1 a b 9\n"));
        let line = "sent 7  denied 1  failed 2 (x 2)   since u: sent 1  denied 0  failed 0";
        assert_eq!((counts.line().as_str(), counts.fails()), (line, false));
    }

    #[test]
    fn what_fails_before_any_key_is_told() {
        let mut counts = Counts::default();
        counts.add(&Tally::of("fail ECONNREFUSED - - - 9\n"));
        assert_eq!((counts.line().as_str(), counts.fails()), ("sent 1  denied 0  failed 1 (before 1)", true));
    }
}

//! When an endpoint is checked next, and what a check's outcome makes of it. Pure: time and chance are arguments.
//!
//! Envoy's health checker ("Health checking"): so many failures in a row make an endpoint unhealthy, so many successes in a row
//! healthy again; the first check decides by itself. Unlike Envoy's, an HTTP status that isn't expected counts as one
//! failure like any other. Used by `run`.

use std::time::Duration;

use crate::balance::health::{Failure, Verdict};
use crate::policy::traffic::HealthCheck;

/// An interval is longer or shorter by up to this share of it, so that endpoints and agents don't keep step.
const JITTER: f64 = 0.1;

/// The checks of one endpoint under one policy.
#[derive(Debug)]
pub struct Machine {
    verdict: Verdict,
    /// Outcomes in a row that speak against the verdict.
    against: u32,
    decided: bool,
    due_ns: u64,
}

/// What an endpoint has become.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Transition {
    /// Before.
    pub from: Verdict,
    /// Now.
    pub to: Verdict,
}

impl Machine {
    /// No check yet; the first one is due at once. Until then `verdict` holds.
    pub fn new(verdict: Verdict, now_ns: u64) -> Self {
        Self { verdict, against: 0, decided: false, due_ns: now_ns }
    }

    /// What holds now.
    pub fn verdict(&self) -> Verdict {
        self.verdict
    }

    /// How long until the next check is due.
    pub fn wait(&self, now_ns: u64) -> Duration {
        Duration::from_nanos(self.due_ns.saturating_sub(now_ns))
    }

    /// A check is over; `chance` is any number. Says what that changes, if it does: a failure of another kind is no change.
    pub fn note(
        &mut self,
        check: &HealthCheck,
        outcome: Result<(), Failure>,
        now_ns: u64,
        chance: f64,
    ) -> Option<Transition> {
        let interval = check.interval.mul_f64(1.0 - JITTER + 2.0 * JITTER * chance);
        self.due_ns = now_ns.saturating_add(u64::try_from(interval.as_nanos()).unwrap_or(u64::MAX));
        let from = self.verdict;
        let (to, agrees, threshold) = match outcome {
            Ok(()) => (Verdict::Healthy, from == Verdict::Healthy, check.healthy_threshold),
            Err(failure) => {
                let unhealthy = matches!(from, Verdict::Unhealthy(_));
                (Verdict::Unhealthy(failure), unhealthy, check.unhealthy_threshold)
            }
        };
        let first = !std::mem::replace(&mut self.decided, true);
        if agrees {
            // Why it is unhealthy may be another now.
            self.verdict = to;
            self.against = 0;
            return None;
        }
        self.against += 1;
        if !first && self.against < threshold {
            return None;
        }
        self.against = 0;
        self.verdict = to;
        Some(Transition { from, to })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{any, prop_assert, prop_assert_eq, proptest};

    use super::*;
    use crate::policy::traffic::Probe;

    const SECOND: u64 = 1_000_000_000;

    fn check(healthy_threshold: u32, unhealthy_threshold: u32) -> HealthCheck {
        HealthCheck {
            probe: Probe::Tcp,
            interval: Duration::from_secs(10),
            timeout: Duration::from_secs(1),
            healthy_threshold,
            unhealthy_threshold,
            port: None,
        }
    }

    fn outcome(passed: bool) -> Result<(), Failure> {
        if passed { Ok(()) } else { Err(Failure::Connect) }
    }

    /// The verdicts (`h`, `u`) after each of these outcomes (`+`, `-`).
    fn run(check: &HealthCheck, before: Verdict, outcomes: &str) -> String {
        let mut machine = Machine::new(before, 0);
        let after = |passed: char| {
            machine.note(check, outcome(passed == '+'), 0, 0.5);
            if machine.verdict().is_avoided() { 'u' } else { 'h' }
        };
        outcomes.chars().map(after).collect()
    }

    #[test]
    fn thresholds_are_reached_in_a_row_and_the_first_check_decides() {
        let three_two = check(2, 3);
        for before in
            [Verdict::Unchecked, Verdict::Pending, Verdict::Healthy, Verdict::Unhealthy(Failure::Timeout)]
        {
            assert_eq!(run(&three_two, before, "-"), "u", "{before:?}");
            assert_eq!(run(&three_two, before, "+"), "h", "{before:?}");
        }
        assert_eq!(run(&three_two, Verdict::Unchecked, "+--+---+-++"), "hhhhhhuuuuh");
        assert_eq!(run(&three_two, Verdict::Pending, "-+-++--+--"), "uuuuhhhhhh");
        assert_eq!(run(&check(1, 1), Verdict::Unchecked, "+-+-"), "huhu");
    }

    #[test]
    fn a_transition_is_told_once_and_names_the_last_reason() {
        let check = check(1, 2);
        let mut machine = Machine::new(Verdict::Pending, 0);
        let mut note = |outcome| machine.note(&check, outcome, 0, 0.5);
        let passed = Transition { from: Verdict::Pending, to: Verdict::Healthy };
        assert_eq!(note(Ok(())), Some(passed));
        assert_eq!(note(Ok(())), None);
        assert_eq!(note(Err(Failure::Connect)), None);
        let unhealthy = Verdict::Unhealthy(Failure::Status(503));
        assert_eq!(
            note(Err(Failure::Status(503))),
            Some(Transition { from: Verdict::Healthy, to: unhealthy })
        );
        assert_eq!(note(Err(Failure::Timeout)), None);
        let now = Verdict::Unhealthy(Failure::Timeout);
        assert_eq!(note(Ok(())), Some(Transition { from: now, to: Verdict::Healthy }));
    }

    #[test]
    fn the_first_check_is_due_at_once_and_others_after_a_jittered_interval() {
        let check = check(1, 1);
        let mut machine = Machine::new(Verdict::Unchecked, 5 * SECOND);
        assert_eq!(machine.wait(5 * SECOND), Duration::ZERO);
        for (chance, millis) in [(0.0, 9000), (0.5, 10_000), (1.0, 11_000)] {
            machine.note(&check, Ok(()), 7 * SECOND, chance);
            assert_eq!(machine.wait(7 * SECOND).as_millis(), millis);
            assert_eq!(machine.wait(7 * SECOND + SECOND).as_millis(), millis - 1000);
            assert_eq!(machine.wait(100 * SECOND), Duration::ZERO);
        }
    }

    proptest! {
        #[test]
        fn a_verdict_turns_only_after_its_threshold_in_a_row(
            healthy in 1_u32..5, unhealthy in 1_u32..5, outcomes in proptest::collection::vec(any::<bool>(), 1..100),
        ) {
            let check = check(healthy, unhealthy);
            let mut machine = Machine::new(Verdict::Unchecked, 0);
            let (mut row, mut last, mut first) = (0, None, true);
            for passed in outcomes {
                row = if last == Some(passed) { row + 1 } else { 1 };
                last = Some(passed);
                let before = machine.verdict().is_avoided();
                let told = machine.note(&check, outcome(passed), 0, 0.5);
                let after = machine.verdict().is_avoided();
                let reached = row >= if passed { healthy } else { unhealthy };
                if first {
                    prop_assert_eq!(after, !passed);
                } else if before == after {
                    prop_assert!(told.is_none());
                    prop_assert!(after != passed || !reached, "{row} in a row and nothing turned");
                } else {
                    prop_assert!(told.is_some() && reached && after != passed);
                }
                first = false;
            }
        }
    }
}

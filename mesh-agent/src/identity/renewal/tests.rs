//! Tables of moments.
#![allow(clippy::unwrap_used)]
use std::time::UNIX_EPOCH;

use proptest::prelude::*;

use super::*;

fn at(seconds: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(1_000_000 + seconds)
}

fn life(from: u64, to: u64) -> Life {
    Life { not_before: at(from), not_after: at(to) }
}

fn id(name: &str) -> SpiffeId {
    SpiffeId::new("td", "ns", name)
}

/// One identity that got a certificate of this life at `now`.
fn issued(life: Life, now: SystemTime, chance: f64) -> Renewals {
    let mut renewals = Renewals::default();
    renewals.want(id("a"), now);
    assert_eq!(renewals.start(now), [id("a")]);
    renewals.issued(&id("a"), life, now, chance);
    renewals
}

#[test]
fn renewal_begins_before_half_of_what_is_left() {
    for (life, now, chance, due) in [
        (life(0, 1000), at(0), 0.0, at(500)),
        (life(0, 1000), at(0), 1.0, at(400)),
        (life(0, 1000), at(600), 0.0, at(800)),
        (life(0, 86400), at(0), 0.5, at(38880)),
        (life(0, 10), at(20), 0.0, at(20)),
    ] {
        let renewals = issued(life, now, chance);
        assert_eq!(renewals.stand(&id("a"), now).unwrap().next, Some(due), "{life:?} {chance}");
    }
}

#[test]
fn a_new_identity_is_requested_at_once_and_never_more_than_some_at_a_time() {
    let mut renewals = Renewals::default();
    for n in 0..20 {
        renewals.want(id(&format!("{n:02}")), at(0));
    }
    assert_eq!(renewals.idle_for(at(0)), Some(Duration::ZERO));
    let first = renewals.start(at(0));
    assert_eq!(first.len(), AT_ONCE);
    assert_eq!(renewals.start(at(0)), []);
    assert_eq!(renewals.idle_for(at(0)), None, "an answer comes first");
    renewals.failed(&first[0], at(0), 0.0);
    renewals.issued(&first[1], life(0, 1000), at(0), 0.0);
    assert_eq!(renewals.start(at(0)).len(), 2);
}

#[test]
fn whoever_has_nothing_comes_first_then_whoever_expires_first() {
    let mut renewals = Renewals::default();
    for (name, to) in [("late", 2000), ("soon", 1000)] {
        renewals.want(id(name), at(0));
        renewals.start(at(0));
        renewals.issued(&id(name), life(0, to), at(0), 0.0);
    }
    renewals.want(id("new"), at(1500));
    assert_eq!(renewals.start(at(1500)), [id("new"), id("soon"), id("late")]);
}

#[test]
fn waits_double_up_to_a_minute_and_never_eat_what_is_left() {
    let mut renewals = Renewals::default();
    renewals.want(id("a"), at(0));
    let waits = [1, 2, 4, 8, 16, 32, 60, 60].map(Duration::from_secs);
    for (tries, wait) in waits.into_iter().enumerate() {
        assert_eq!(renewals.failed(&id("a"), at(0), 1.0), wait, "try {tries}");
    }
    assert_eq!(renewals.failed(&id("a"), at(0), 0.0), Duration::from_secs(30));
    let mut renewals = issued(life(0, 80), at(0), 0.0);
    for (now, wait) in [(40, 1), (42, 2), (44, 4), (48, 8), (56, 6), (64, 4), (78, 1), (90, 60)] {
        renewals.start(at(now));
        assert_eq!(renewals.failed(&id("a"), at(now), 1.0), Duration::from_secs(wait), "at {now}");
    }
}

#[test]
fn it_is_said_once_when_half_is_over_and_renewal_fails() {
    let mut renewals = issued(life(0, 1000), at(0), 1.0);
    assert_eq!(renewals.start(at(400)), [id("a")]);
    renewals.failed(&id("a"), at(400), 1.0);
    assert_eq!(renewals.newly_late(at(499)), []);
    assert!(!renewals.stand(&id("a"), at(499)).unwrap().late);
    assert_eq!(renewals.newly_late(at(500)), [id("a")]);
    assert_eq!(renewals.newly_late(at(501)), []);
    assert!(renewals.stand(&id("a"), at(501)).unwrap().late);
    renewals.start(at(600));
    renewals.issued(&id("a"), life(600, 1600), at(600), 0.0);
    assert!(!renewals.stand(&id("a"), at(600)).unwrap().late);
    renewals.start(at(1100));
    renewals.failed(&id("a"), at(1100), 1.0);
    assert_eq!(renewals.newly_late(at(1100)), [id("a")], "the next time is another one");
}

#[test]
fn the_moment_of_the_warning_is_not_slept_through() {
    let mut renewals = issued(life(0, 1000), at(0), 1.0);
    renewals.start(at(400));
    for _ in 0..10 {
        renewals.failed(&id("a"), at(480), 1.0);
    }
    assert_eq!(renewals.idle_for(at(480)), Some(Duration::from_secs(20)));
}

#[test]
fn a_new_key_has_everything_requested_anew_within_a_while() {
    let mut renewals = issued(life(0, 1000), at(0), 0.0);
    renewals.want(id("b"), at(0));
    renewals.hurry(at(10), Duration::from_secs(10), || 0.5);
    assert_eq!(renewals.stand(&id("a"), at(10)).unwrap().next, Some(at(15)));
    assert_eq!(renewals.stand(&id("b"), at(10)).unwrap().next, Some(at(0)));
}

#[test]
fn a_clock_that_is_set_back_keeps_nobody_waiting() {
    let mut renewals = Renewals::default();
    renewals.want(id("a"), at(100_000));
    assert_eq!(renewals.start(at(0)), [id("a")]);
    renewals.failed(&id("a"), at(100_000), 1.0);
    assert_eq!(renewals.start(at(0)), [id("a")]);
}

#[test]
fn what_is_forgotten_is_never_requested_and_its_answer_means_nothing() {
    let mut renewals = Renewals::default();
    renewals.want(id("a"), at(0));
    renewals.start(at(0));
    renewals.retain(|_| false);
    renewals.issued(&id("a"), life(0, 10), at(0), 0.0);
    assert_eq!(renewals.stand(&id("a"), at(0)), None);
    assert_eq!(renewals.idle_for(at(0)), None);
}

proptest! {
    /// However an issuer fails, a certificate is asked for again before it ends, several times where there is time for it.
    #[test]
    fn there_are_always_tries_left_before_the_end(left in 20_u64..200_000, chances in prop::collection::vec(0.0..1.0_f64, 64)) {
        let mut renewals = issued(life(0, left), at(0), chances[0]);
        let (mut now, mut tries) = (at(0), 0);
        for chance in chances.iter().cycle() {
            now += renewals.idle_for(now).unwrap();
            if now >= at(left) { break; }
            renewals.newly_late(now);
            if !renewals.start(now).is_empty() {
                tries += 1;
                renewals.failed(&id("a"), now, *chance);
            }
        }
        prop_assert!(tries >= 5, "{tries} tries in {left} s");
    }
}

//! What opens a breaker, what it lets through while it is open, and what closes it.
#![allow(clippy::unwrap_used)]

use super::*;

const SECOND: u64 = 1_000_000_000;
const FAST: Duration = Duration::from_millis(1);
const SLOW: Duration = Duration::from_secs(2);

fn breaker() -> Arc<Breaker> {
    let trip =
        |percent| Trip { share: Chance::percent(percent), minimum: 10, window: Duration::from_secs(10) };
    Arc::new(Breaker::new(BreakerSettings {
        errors: Some(trip(50.0)),
        latency: Some((Duration::from_secs(1), trip(80.0))),
        open_for: Duration::from_secs(5),
        probes: 3,
    }))
}

fn run(breaker: &Arc<Breaker>, requests: &[(bool, Duration)], now_ns: u64) {
    for (failed, latency) in requests {
        breaker.admit(now_ns).unwrap().settle(*failed, *latency, now_ns);
    }
}

fn opened(now_ns: u64) -> Arc<Breaker> {
    let breaker = breaker();
    run(&breaker, &[(true, FAST); 10], now_ns);
    breaker
}

#[test]
fn it_opens_at_the_share_and_not_below_the_minimum() {
    fn check(good: usize, failed: usize, slow: usize, want: bool) {
        let breaker = breaker();
        let mut requests = vec![(false, FAST); good];
        requests.extend(vec![(false, SLOW); slow]);
        requests.extend(vec![(true, FAST); failed]);
        run(&breaker, &requests, SECOND);
        assert_eq!(breaker.state() != State::Closed, want, "{good} good, {failed} failed, {slow} slow");
    }
    check(0, 9, 0, false);
    check(0, 10, 0, true);
    check(5, 5, 0, true);
    check(6, 5, 0, false);
    check(2, 0, 8, true);
    check(3, 0, 8, false);
    check(100, 0, 0, false);
}

#[test]
fn failures_of_long_ago_dont_count() {
    let breaker = breaker();
    run(&breaker, &[(true, FAST); 9], SECOND);
    run(&breaker, &[(true, FAST); 9], 20 * SECOND);
    assert_eq!(breaker.state(), State::Closed);
}

#[test]
fn open_it_refuses_and_says_for_how_long() {
    let breaker = opened(SECOND);
    let wait = breaker.admit(2 * SECOND).unwrap_err();
    assert!(wait.abs_diff(Duration::from_secs(4)) < Duration::from_millis(2), "{wait:?}");
    assert!(breaker.admit(5 * SECOND).is_err());
}

#[test]
fn half_open_it_lets_the_probes_through_and_closes_when_all_succeed() {
    let breaker = opened(SECOND);
    let now = 7 * SECOND;
    let probes: Vec<_> = (0..3).map(|_| breaker.admit(now).unwrap()).collect();
    assert!(probes.iter().all(Pass::is_probe));
    assert!(breaker.admit(now).is_err());
    for probe in probes {
        assert_ne!(breaker.state(), State::Closed);
        probe.settle(false, FAST, now);
    }
    assert_eq!(breaker.state(), State::Closed);
    run(&breaker, &[(true, FAST); 9], now);
    assert_eq!(breaker.state(), State::Closed, "failures from before it opened are forgotten");
}

#[test]
fn the_first_probe_that_goes_wrong_opens_it_again() {
    for (failed, latency) in [(true, FAST), (false, SLOW)] {
        let breaker = opened(SECOND);
        let (one, other) = (breaker.admit(7 * SECOND).unwrap(), breaker.admit(7 * SECOND).unwrap());
        one.settle(failed, latency, 8 * SECOND);
        assert!(matches!(breaker.state(), State::Open { until_ns } if until_ns >= 13 * SECOND));
        other.settle(false, FAST, 8 * SECOND);
        assert!(breaker.admit(12 * SECOND).is_err());
        assert!(breaker.admit(14 * SECOND).is_ok());
    }
}

#[test]
fn a_probe_whose_client_went_away_makes_place_for_another() {
    let breaker = opened(SECOND);
    let probes: Vec<_> = (0..3).map(|_| breaker.admit(7 * SECOND).unwrap()).collect();
    assert!(breaker.admit(7 * SECOND).is_err());
    drop(probes);
    assert_eq!(breaker.state(), State::HalfOpen { admitted: 0, succeeded: 0 });
    assert!(breaker.admit(7 * SECOND).is_ok());
}

#[test]
fn what_was_admitted_before_it_opened_says_nothing_after() {
    let breaker = breaker();
    let early: Vec<_> = (0..20).map(|_| breaker.admit(SECOND).unwrap()).collect();
    run(&breaker, &[(true, FAST); 10], SECOND);
    let probes: Vec<_> = (0..2).map(|_| breaker.admit(7 * SECOND).unwrap()).collect();
    for (i, pass) in early.into_iter().enumerate() {
        pass.settle(i % 2 == 0, FAST, 7 * SECOND);
    }
    assert_eq!(breaker.state(), State::HalfOpen { admitted: 2, succeeded: 0 });
    drop(probes);
}

proptest::proptest! {
    #[test]
    fn never_more_probes_at_a_time_than_allowed(steps in proptest::collection::vec((0u64..4, 0u8..4), 0..300)) {
        let breaker = opened(SECOND);
        let (mut now, mut probes) = (SECOND, Vec::new());
        for (seconds, what) in steps {
            now += seconds * SECOND;
            match what {
                0 | 1 => probes.extend(breaker.admit(now).ok().filter(Pass::is_probe)),
                2 => drop(probes.pop()),
                _ => {
                    if let Some(probe) = probes.pop() {
                        probe.settle(seconds == 3, FAST, now);
                    }
                }
            }
            if let State::HalfOpen { admitted, succeeded } = breaker.state() {
                proptest::prop_assert!(admitted <= 3 && succeeded < 3 && succeeded <= admitted);
            } else {
                // What is left belongs to a phase that is over.
                probes.clear();
            }
        }
    }

    #[test]
    fn a_state_survives_its_word(phase in 0u64..1 << 22, admitted in 0u32..1 << 20, succeeded in 0u32..1 << 20, ms in 0u64..1 << 40) {
        for state in [State::Closed, State::HalfOpen { admitted, succeeded }, State::Open { until_ns: ms << 20 }] {
            proptest::prop_assert_eq!(unpack(pack(phase, state)), (phase, state));
        }
    }
}

//! When endpoints are ejected, for how long, and that the limits hold whatever happens.
#![allow(clippy::unwrap_used)]

use std::sync::Arc;

use proptest::prelude::{prop_assert, proptest};

use super::*;
use crate::balance::testing::set;

const SECOND: u64 = 1_000_000_000;

fn rules() -> OutlierDetection {
    OutlierDetection {
        consecutive_5xx: 5,
        consecutive_gateway: 0,
        consecutive_local_origin: 5,
        split: false,
        codes: Vec::new(),
        interval: Duration::from_secs(10),
        base_ejection: Duration::from_secs(30),
        max_ejection_percent: 10,
        min_health_percent: 0,
    }
}

fn policy(rules: OutlierDetection) -> ClusterPolicy {
    ClusterPolicy { outlier: Some(rules), ..ClusterPolicy::default() }
}

/// The ejection, if the last of `outcomes` brings one; none before may.
fn run(rules: OutlierDetection, outcomes: &[Outcome]) -> Option<Reason> {
    let (policy, set) = (policy(rules), set(3, 0));
    let mut last = None;
    for outcome in outcomes {
        assert_eq!(last, None, "ejected before the last of {outcomes:?}");
        last = report(&policy, &set, &set.available[0], *outcome, SECOND).map(|ejection| ejection.reason);
    }
    last
}

#[test]
fn a_threshold_of_errors_in_a_row_ejects_at_once() {
    use Outcome::{Connected, Grpc, LocalOrigin, Status};
    fn check(rules: OutlierDetection, outcomes: &[Outcome], want: Option<Reason>) {
        assert_eq!(run(rules, outcomes), want, "{outcomes:?}");
    }
    let gateway = || OutlierDetection { consecutive_gateway: 2, ..rules() };
    let split = || OutlierDetection { split: true, consecutive_local_origin: 2, ..rules() };
    let codes = || OutlierDetection { codes: vec![429], ..rules() };
    check(rules(), &[Status(500); 5], Some(Reason::Errors));
    check(rules(), &[Status(500); 4], None);
    check(rules(), &[Status(500), Status(500), Status(500), Status(500), Status(200), Status(500)], None);
    check(rules(), &[Status(404); 20], None);
    check(rules(), &[Grpc(14); 5], Some(Reason::Errors));
    check(rules(), &[Grpc(5); 20], None);
    check(rules(), &[LocalOrigin; 5], Some(Reason::Errors));
    check(rules(), &[LocalOrigin, LocalOrigin, LocalOrigin, LocalOrigin, Connected, LocalOrigin], None);
    check(OutlierDetection { consecutive_5xx: 0, ..rules() }, &[Status(500); 50], None);
    check(gateway(), &[Status(503); 2], Some(Reason::Gateway));
    check(gateway(), &[LocalOrigin; 2], Some(Reason::Gateway));
    check(gateway(), &[Status(503), Status(500), Status(503)], None);
    check(split(), &[LocalOrigin; 2], Some(Reason::LocalOrigin));
    check(split(), &[LocalOrigin, Connected, LocalOrigin], None);
    check(split(), &[LocalOrigin, Status(500), LocalOrigin], None);
    check(codes(), &[Status(429); 5], Some(Reason::Errors));
    check(codes(), &[Status(500); 20], None);
}

#[test]
fn ejections_in_a_row_last_longer_and_healthy_intervals_make_good_for_them() {
    let (policy, set) = (policy(OutlierDetection { consecutive_5xx: 1, ..rules() }), set(3, 0));
    let endpoint = &set.available[0];
    let eject = |at: u64| {
        report(&policy, &set, endpoint, Outcome::Status(500), at * SECOND)
            .map(|ejection| ejection.time.as_secs())
    };
    assert_eq!(eject(100), Some(30));
    assert_eq!(eject(110), None, "what was under way doesn't count");
    assert_eq!(eject(130), Some(60), "it is back and fails again");
    assert_eq!(eject(190), Some(90));
    assert_eq!(
        eject(280 + 20),
        Some(60),
        "of three ejections two healthy intervals made good for two, and this is one more"
    );
    let mut now = 1000;
    for _ in 0..20 {
        now += eject(now).unwrap();
    }
    assert_eq!(eject(now), Some(300), "and never more than the cap");
}

#[test]
fn two_endpoints_are_protected_and_one_of_them_is_left() {
    let (policy, set) = (policy(OutlierDetection { consecutive_5xx: 1, ..rules() }), set(2, 0));
    let fail = |at: usize| report(&policy, &set, &set.available[at], Outcome::Status(500), SECOND).is_some();
    assert!(fail(0));
    assert!(!fail(1), "10 % of two is none, but one may always be ejected, and one only");
}

proptest! {
    #[test]
    fn never_past_the_limit_and_whoever_is_ejected_comes_back(
        count in 1_u8..30, percent in 1_u32..=100,
        steps in proptest::collection::vec((0_usize..30, 0_u64..20, proptest::bool::weighted(0.8)), 1..300),
    ) {
        let policy = policy(OutlierDetection { consecutive_5xx: 2, max_ejection_percent: percent, ..rules() });
        let set = set(count, 0);
        let most = (usize::from(count) * percent as usize / 100).max(1);
        let mut now = SECOND;
        for (at, wait, fails) in steps {
            now += wait * SECOND;
            let endpoint = &set.available[at % set.available.len()];
            let outcome = Outcome::Status(if fails { 500 } else { 200 });
            let ejection = report(&policy, &set, endpoint, outcome, now);
            prop_assert!(ejected(&set, now) <= most);
            prop_assert!(ejection.is_none_or(|ejection| ejection.time <= LONGEST));
        }
        prop_assert!(ejected(&set, now + 300 * SECOND) == 0);
        prop_assert!(!set.ejections.any(now + 300 * SECOND));
    }
}

#[test]
fn workers_that_eject_at_the_same_time_keep_the_limit() {
    let policy = policy(OutlierDetection { consecutive_5xx: 1, max_ejection_percent: 50, ..rules() });
    let set = Arc::new(set(8, 0));
    std::thread::scope(|scope| {
        for endpoint in &set.available {
            let (policy, set) = (&policy, &set);
            scope.spawn(move || report(policy, set, endpoint, Outcome::Status(503), SECOND));
        }
    });
    assert_eq!(ejected(&set, SECOND), 4);
}

//! What active health checks do to the choice: unhealthy endpoints get nothing, unless too few would be left.

use proptest::prelude::{prop_assert, proptest};

use super::policies::{chosen, detecting, detection, eject, percent_in_a, zones};
use super::*;
use crate::balance::health::{Failure, Verdict};
use crate::policy::chance::Chance;
use crate::policy::{Localities, Locality};

fn sicken(set: &EndpointSet, at: usize) {
    set.health.check(true);
    set.available[at].load.health.set(Verdict::Unhealthy(Failure::Status(503)));
    set.health.count(&set.all);
}

fn heal(set: &EndpointSet, at: usize) {
    set.available[at].load.health.set(Verdict::Healthy);
    set.health.count(&set.all);
}

proptest! {
    #[test]
    fn unhealthy_endpoints_are_passed_over_by_every_policy(
        count in 1_u8..12, sick in proptest::collection::btree_set(0_usize..12, 0..12), policy in 0_usize..6,
        affinity: bool, seed: u64,
    ) {
        let (policy, set) = (under(POLICIES[policy], affinity.then_some(seed)), set(count, 0));
        let sick: Vec<_> = sick.into_iter().filter(|at| *at < usize::from(count)).collect();
        sick.iter().for_each(|at| sicken(&set, *at));
        let mut rng = Rng::with_seed(seed);
        for _ in 0..30 {
            let chosen = choose(&set, &policy, affinity.then_some(seed), &[], 2 * MS, &mut rng);
            prop_assert!(chosen.is_some() == (sick.len() < usize::from(count)));
            prop_assert!(chosen.is_none_or(|chosen| !chosen.load.health.verdict().is_avoided()));
        }
        let tried: Vec<_> = set.available.iter().take(count as usize / 2).map(|endpoint| endpoint.addr).collect();
        let other = choose(&set, &policy, None, &tried, 2 * MS, &mut rng);
        prop_assert!(has_other(&set, &policy, &tried, 2 * MS) == other.is_some());
        prop_assert!(awaits(&set, &policy, 2 * MS) == (sick.len() == usize::from(count)));
    }

    #[test]
    fn an_unhealthy_endpoint_gives_only_its_own_hashes_away(count in 2_u8..20, lost in 0_usize..20, maglev: bool) {
        let load_balancer = if maglev { LoadBalancer::Maglev } else { LoadBalancer::RingHash };
        let policy = ClusterPolicy { table_size: 8191, ..plain(load_balancer) };
        let set = set(count, 0);
        let lost = lost % usize::from(count);
        let before: Vec<_> = (0..500).map(|hash| chosen(&set, &policy, hash, MS)).collect();
        sicken(&set, lost);
        for (hash, old) in (0..500).zip(&before) {
            let new = chosen(&set, &policy, hash, MS);
            let moves = *old == Some(set.available[lost].addr);
            prop_assert!(new.is_some() && (new != *old) == moves);
        }
        heal(&set, lost);
        prop_assert!((0..500).all(|hash| chosen(&set, &policy, hash, MS) == before[hash as usize]));
    }
}

/// How many endpoints of four are used, and whether that is for panic.
fn used(set: &EndpointSet, policy: &ClusterPolicy) -> (usize, bool) {
    let mut rng = Rng::with_seed(1);
    let picks = (0..60).filter_map(|_| choose(set, policy, None, &[], 2 * MS, &mut rng));
    let used: std::collections::HashSet<_> = picks.map(|endpoint| endpoint.addr).collect();
    (used.len(), Avoid::of(set, policy, 2 * MS).panics)
}

#[test]
fn checks_and_ejection_together_count_for_the_panic_threshold() {
    let policy = detecting(LoadBalancer::Random);
    let set = set(4, 0);
    set.health.set_panic_threshold(Some(Chance::percent(50.0)));
    eject(&set, &policy, 0, MS);
    assert_eq!(used(&set, &policy), (3, false));
    sicken(&set, 0);
    assert_eq!(used(&set, &policy), (3, false), "one is both");
    sicken(&set, 1);
    assert_eq!(used(&set, &policy), (2, false), "half of them are healthy, half is wanted");
    sicken(&set, 2);
    assert_eq!(used(&set, &policy), (4, true), "a quarter is");
    assert!(has_other(&set, &policy, &[], 2 * MS) && healthy(&set, 2 * MS) == 1);
    set.health.set_panic_threshold(None);
    assert_eq!(used(&set, &policy), (1, false));
    sicken(&set, 3);
    assert_eq!(used(&set, &policy), (0, false), "without a threshold none is chosen");
    assert!(!has_other(&set, &policy, &[], 2 * MS) && awaits(&set, &policy, 2 * MS));
    set.health.set_panic_threshold(Some(Chance::percent(1.0)));
    assert_eq!(used(&set, &policy), (4, true));
    assert!(!awaits(&set, &policy, 2 * MS), "nobody waits where all are used");
    set.health.check(false);
    assert_eq!(used(&set, &policy), (3, false), "what checks found doesn't count once they end");
}

#[test]
fn a_traffic_policys_threshold_beats_a_destination_rules() {
    let check = |rule: u32, own: Option<f64>, panics: bool| {
        let policy = ClusterPolicy { outlier: Some(detection(rule)), ..plain(LoadBalancer::Random) };
        let set = set(4, 0);
        set.health.set_panic_threshold(own.map(Chance::percent));
        sicken(&set, 0);
        sicken(&set, 1);
        sicken(&set, 2);
        assert_eq!(used(&set, &policy), if panics { (4, true) } else { (1, false) }, "{rule} {own:?}");
    };
    check(0, None, false);
    check(50, None, true);
    check(50, Some(0.0), false);
    check(50, Some(25.0), false);
    check(0, Some(25.1), true);
}

#[test]
fn who_is_ejected_is_not_waited_for_as_who_is_unhealthy() {
    let (policy, set) = (detecting(LoadBalancer::Random), set(2, 0));
    eject(&set, &policy, 0, MS);
    sicken(&set, 1);
    assert!(
        !has_other(&set, &policy, &[], 2 * MS) && !awaits(&set, &policy, 2 * MS),
        "an ejection ends by itself"
    );
}

#[test]
fn the_next_zone_takes_what_unhealthy_endpoints_leave() {
    let from = Locality { region: "eu".into(), zone: "a".into(), subzone: String::new() };
    let (set, policy) = zones(Localities::Failover { from, to: None });
    for (sick, want) in [(0, 100), (1, 100), (2, 84), (3, 56), (4, 28), (5, 0)] {
        if sick > 0 {
            sicken(&set, sick - 1);
        }
        let got = percent_in_a(&set, &policy);
        assert!(got.abs_diff(want) <= 2, "{sick} unhealthy: {got} % instead of {want} %");
    }
}

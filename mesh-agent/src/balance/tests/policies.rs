//! What DestinationRules ask of the balancer: consistent hashing, nearness, warm-up, ejected endpoints.

use proptest::prelude::{prop_assert, proptest};

use super::*;
use crate::balance::outlier::{Outcome, report};
use crate::policy::{Localities, Locality, OutlierDetection, Pattern};

const HASHES: u64 = 2000;

pub(super) fn chosen(set: &EndpointSet, policy: &ClusterPolicy, hash: u64, now: u64) -> Option<EndpointAddr> {
    let mut rng = Rng::with_seed(hash);
    choose(set, policy, Some(crate::policy::hash::mix(hash)), &[], now, &mut rng)
        .map(|endpoint| endpoint.addr)
}

pub(super) fn detection(min_health_percent: u32) -> OutlierDetection {
    OutlierDetection {
        consecutive_5xx: 1,
        consecutive_gateway: 0,
        consecutive_local_origin: 0,
        split: false,
        codes: Vec::new(),
        interval: std::time::Duration::from_secs(10),
        base_ejection: std::time::Duration::from_secs(30),
        max_ejection_percent: 100,
        min_health_percent,
    }
}

pub(super) fn detecting(load_balancer: LoadBalancer) -> ClusterPolicy {
    ClusterPolicy { outlier: Some(detection(0)), ..plain(load_balancer) }
}

pub(super) fn eject(set: &EndpointSet, policy: &ClusterPolicy, at: usize, now: u64) {
    assert!(report(policy, set, &set.available[at], Outcome::Status(500), now).is_some());
}

proptest! {
    #[test]
    fn a_hash_keeps_its_endpoint_and_only_its_share_moves(count in 2_u8..20, lost in 0_usize..20, maglev: bool) {
        let load_balancer = if maglev { LoadBalancer::Maglev } else { LoadBalancer::RingHash };
        let table_size = if maglev { 65_537 } else { 1024 };
        let policy = ClusterPolicy { table_size, ..plain(load_balancer) };
        let before = set(count, 0);
        let mut after = set(count, 0);
        let gone = after.available.remove(lost % usize::from(count)).addr;
        let (mut moved, mut share) = (0, 0);
        for hash in 0..HASHES {
            let (old, new) = (chosen(&before, &policy, hash, 0), chosen(&after, &policy, hash, 0));
            prop_assert!(new != Some(gone));
            share += u64::from(old == Some(gone));
            moved += u64::from(old != new && old != Some(gone));
        }
        // A ring moves nothing else; Maglev a few, for an even table (Maglev, section 3.4).
        prop_assert!(moved <= if maglev { HASHES / 10 } else { 0 }, "{moved} moved besides the lost ones");
        let fair = HASHES / u64::from(count);
        prop_assert!(share <= fair * 3 / 2 + 30, "{share} of {HASHES} were at one of {count}");
    }

    #[test]
    fn an_ejected_endpoint_gives_only_its_own_hashes_away(count in 2_u8..20, lost in 0_usize..20, maglev: bool) {
        let load_balancer = if maglev { LoadBalancer::Maglev } else { LoadBalancer::RingHash };
        let policy = ClusterPolicy { table_size: 8191, ..detecting(load_balancer) };
        let set = set(count, 0);
        let lost = lost % usize::from(count);
        let before: Vec<_> = (0..500).map(|hash| chosen(&set, &policy, hash, MS)).collect();
        eject(&set, &policy, lost, MS);
        for (hash, old) in (0..500).zip(&before) {
            let new = chosen(&set, &policy, hash, 2 * MS);
            if *old == Some(set.available[lost].addr) {
                prop_assert!(new.is_some() && new != *old);
            } else {
                prop_assert!(new == *old);
            }
        }
        let back = (0..500).all(|hash| chosen(&set, &policy, hash, 31_000 * MS) == before[hash as usize]);
        prop_assert!(back, "after its time it has them again");
    }

    #[test]
    fn ejected_endpoints_are_passed_over_by_every_policy(
        count in 1_u8..12, ejected in proptest::collection::btree_set(0_usize..12, 0..12), policy in 0_usize..6, seed: u64,
    ) {
        let policy = detecting(POLICIES[policy]);
        let set = set(count, 0);
        let ejected: Vec<_> = ejected.into_iter().filter(|at| *at < usize::from(count)).collect();
        ejected.iter().for_each(|at| eject(&set, &policy, *at, MS));
        let mut rng = Rng::with_seed(seed);
        for _ in 0..30 {
            let chosen = choose(&set, &policy, None, &[], 2 * MS, &mut rng);
            prop_assert!(chosen.is_some() == (ejected.len() < usize::from(count)));
            prop_assert!(chosen.is_none_or(|chosen| !chosen.load.outlier.is_ejected(2 * MS)));
        }
    }
}

#[test]
fn below_the_panic_threshold_every_endpoint_is_used() {
    let policy = ClusterPolicy { outlier: Some(detection(50)), ..plain(LoadBalancer::RoundRobin) };
    let set = set(4, 0);
    let used = || -> usize {
        let mut rng = Rng::with_seed(1);
        let picks = (0..40).map(|_| choose(&set, &policy, None, &[], 2 * MS, &mut rng).unwrap().addr);
        picks.collect::<std::collections::HashSet<_>>().len()
    };
    eject(&set, &policy, 0, MS);
    eject(&set, &policy, 1, MS);
    assert_eq!(used(), 2);
    eject(&set, &policy, 2, MS);
    assert_eq!(used(), 4, "a quarter is healthy, half is wanted");
}

#[test]
fn the_share_of_an_ejected_endpoint_goes_to_all_others_alike() {
    for load_balancer in [LoadBalancer::RoundRobin, LoadBalancer::Random, LoadBalancer::LeastRequest] {
        let (policy, set) = (detecting(load_balancer), set(4, 0));
        eject(&set, &policy, 1, MS);
        let mut counts: HashMap<EndpointAddr, u32> = HashMap::new();
        let mut rng = Rng::with_seed(9);
        for _ in 0..6000 {
            *counts.entry(choose(&set, &policy, None, &[], 2 * MS, &mut rng).unwrap().addr).or_default() += 1;
        }
        assert!(
            counts.len() == 3 && counts.values().all(|count| (1800..2200).contains(count)),
            "{load_balancer:?} {counts:?}"
        );
    }
}

#[test]
fn an_endpoint_that_came_up_is_given_its_share_by_and_by() {
    let warmup = crate::objects::Warmup {
        duration: std::time::Duration::from_secs(100),
        minimum: 0.1,
        aggression: 1.0,
    };
    for load_balancer in [LoadBalancer::RoundRobin, LoadBalancer::LeastRequest, LoadBalancer::Random] {
        let policy = ClusterPolicy { warmup: Some(warmup), ..plain(load_balancer) };
        let set = set(4, 0);
        set.available[0].load.born_ns.store(1, Ordering::Relaxed);
        let share = |second: u64| {
            let mut rng = Rng::with_seed(3);
            let picks = (0..8000).filter(|_| {
                let chosen = choose(&set, &policy, None, &[], second * 1000 * MS, &mut rng).unwrap();
                Arc::ptr_eq(chosen, &set.available[0])
            });
            picks.count()
        };
        let (first, half, full) = (share(1), share(50), share(100));
        assert!((100..600).contains(&first), "{load_balancer:?} {first}");
        assert!((900..1500).contains(&half), "{load_balancer:?} {half}");
        assert!((1800..2200).contains(&full), "{load_balancer:?} {full}");
    }
}

/// Of ten endpoints the first five are in zone a, the others in zone b.
pub(super) fn zones(localities: Localities) -> (EndpointSet, ClusterPolicy) {
    let mut set = set(10, 0);
    let zone = |endpoint: &Endpoint| {
        let first = set.all[..5].iter().any(|other| other.addr == endpoint.addr);
        Locality { region: "eu".into(), zone: if first { "a" } else { "b" }.into(), subzone: String::new() }
    };
    let tiers = tiers::sort(&set.available, &localities, zone);
    set.tiers = tiers;
    (set, ClusterPolicy { localities: Some(localities), ..detecting(LoadBalancer::Random) })
}

/// Percent of choices in zone a.
pub(super) fn percent_in_a(set: &EndpointSet, policy: &ClusterPolicy) -> usize {
    let mut rng = Rng::with_seed(5);
    let in_a = |chosen: &Arc<Endpoint>| set.available[..5].iter().any(|other| Arc::ptr_eq(other, chosen));
    let picks = (0..10_000).filter(|_| in_a(choose(set, policy, None, &[], 2 * MS, &mut rng).unwrap()));
    (picks.count() + 50) / 100
}

#[test]
fn the_next_zone_takes_what_the_near_one_is_too_unhealthy_for() {
    let from = Locality { region: "eu".into(), zone: "a".into(), subzone: String::new() };
    let (set, policy) = zones(Localities::Failover { from, to: None });
    // Five endpoints, so each is 20 %, of which 140 % counts (Envoy, "Priority levels").
    for (ejected, want) in [(0, 100), (1, 100), (2, 84), (3, 56), (4, 28), (5, 0)] {
        if ejected > 0 {
            eject(&set, &policy, ejected - 1, MS);
        }
        let got = percent_in_a(&set, &policy);
        assert!(got.abs_diff(want) <= 2, "{ejected} ejected: {got} % instead of {want} %");
    }
    let tried: Vec<_> = set.available[5..].iter().map(|endpoint| endpoint.addr).collect();
    let mut rng = Rng::with_seed(1);
    assert!(
        choose(&set, &policy, None, &tried, 31_000 * MS, &mut rng).is_some(),
        "all of one zone was tried"
    );
}

#[test]
fn weights_decide_the_share_of_each_zone() {
    let shares = |a, b| vec![(Pattern::new("eu/a/*"), a), (Pattern::new("eu/b/*"), b)];
    for (a, b) in [(80, 20), (20, 80), (100, 0), (50, 50)] {
        let (set, policy) = zones(Localities::Distribute(shares(a, b)));
        let got = percent_in_a(&set, &policy);
        assert!(got.abs_diff(a as usize) <= 2, "{got} % instead of {a} %");
    }
}

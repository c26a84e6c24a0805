//! Properties of the balancer, and a small simulation of endpoints that are slow, new, failing or hung.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod health;
mod policies;
mod slow;

use std::collections::HashMap;
use std::net::IpAddr;

use proptest::prelude::{any, prop_assert, prop_assert_eq, proptest};

use super::load::{DECAY_NS, FAILURE_NS, NOISE_NS, UNMEASURED_NS};
use super::testing::{endpoint, set};
use super::*;
use crate::model::LoadState;

const MS: u64 = 1_000_000;
const POLICIES: [LoadBalancer; 6] = [
    LoadBalancer::PeakEwma,
    LoadBalancer::LeastRequest,
    LoadBalancer::RoundRobin,
    LoadBalancer::Random,
    LoadBalancer::RingHash,
    LoadBalancer::Maglev,
];

fn plain(load_balancer: LoadBalancer) -> ClusterPolicy {
    ClusterPolicy { load_balancer, table_size: 251, ..ClusterPolicy::default() }
}

/// With client affinity where there is something to hash.
fn under(load_balancer: LoadBalancer, affinity: Option<u64>) -> ClusterPolicy {
    let client_ip_affinity = affinity.map(|_| std::time::Duration::from_secs(1));
    ClusterPolicy { client_ip_affinity, ..plain(load_balancer) }
}

/// Sends `requests` one every `gap_ns`, each answered after its endpoint's latency; returns how many each got.
fn simulate(
    set: &EndpointSet,
    policy: LoadBalancer,
    requests: u64,
    gap_ns: u64,
    latency: impl Fn(u8) -> u64,
) -> [u64; 256] {
    let mut rng = Rng::with_seed(7);
    let mut count = [0; 256];
    let mut pending: Vec<(u64, u64, InFlight)> = Vec::new();
    for request in 1..=requests {
        let now = request * gap_ns;
        let (due, rest): (Vec<_>, Vec<_>) = pending.drain(..).partition(|(at, ..)| *at <= now);
        pending = rest;
        for (at, took, guard) in due {
            guard.observe(took, at);
        }
        let chosen = choose(set, &plain(policy), None, &[], now, &mut rng).unwrap();
        let IpAddr::V4(ip) = chosen.addr.ip() else { panic!("IPv4 only") };
        let number = ip.octets()[3];
        count[usize::from(number)] += 1;
        let took = latency(number);
        pending.push((now.saturating_add(took), took, InFlight::begin(&chosen.load, now)));
    }
    count
}

proptest! {
    #[test]
    fn always_an_available_untried_endpoint_if_there_is_one(
        available in 0_u8..20, unavailable in 0_u8..20, tried in proptest::collection::vec(0_u8..40, 0..6),
        policy in 0_usize..6, affinity in proptest::option::of(any::<u64>()), seed: u64, loads in proptest::collection::vec(0_u64..100, 40),
    ) {
        let set = set(available, unavailable);
        let mut guards = Vec::new();
        for (endpoint, load) in set.all.iter().zip(loads) {
            for _ in 0..load % 5 { guards.push(InFlight::begin(&endpoint.load, load)); }
            if load > 50 { InFlight::begin(&endpoint.load, load).observe(load * MS, load); }
        }
        let tried: Vec<_> = tried.into_iter().map(|number| endpoint(number).addr).collect();
        let expected = set.available.iter().any(|endpoint| !tried.contains(&endpoint.addr));
        let mut rng = Rng::with_seed(seed);
        for now in 0..20 {
            let chosen = choose(&set, &under(POLICIES[policy], affinity), affinity, &tried, now * MS, &mut rng);
            prop_assert_eq!(chosen.is_some(), expected);
            if let Some(chosen) = chosen {
                prop_assert!(!tried.contains(&chosen.addr));
                prop_assert!(set.available.iter().any(|endpoint| Arc::ptr_eq(endpoint, chosen)));
            }
        }
    }

    #[test]
    fn two_choices_are_different_whenever_two_are_left(
        available in 1_u8..12, tried in proptest::collection::hash_set(0_u8..12, 0..4), seed: u64,
    ) {
        let set = set(available, 0);
        let tried: Vec<_> = tried.into_iter().map(|number| endpoint(number).addr).collect();
        let rules = Rules { tried: &tried, now_ns: 0, avoid: Avoid::default(), warmup: None };
        let candidates = Candidates { endpoints: &set.available, next: &set.next, tables: &set.tables, rules };
        let left = candidates.iter().count();
        let two = candidates.two(&mut Rng::with_seed(seed));
        prop_assert_eq!(two.is_some(), left > 0);
        if let Some((a, b)) = two {
            prop_assert_eq!(Arc::ptr_eq(a, b), left == 1);
        }
    }

    #[test]
    fn in_flight_settles_at_zero(begins in 0_usize..50) {
        let load = Arc::new(LoadState::default());
        let guards: Vec<_> = (0..begins).map(|_| InFlight::begin(&load, 0)).collect();
        prop_assert_eq!(load.in_flight.load(Ordering::Relaxed) as usize, begins);
        drop(guards);
        prop_assert_eq!(load.in_flight.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn affinity_is_stable_and_only_the_clients_of_a_lost_endpoint_move(clients in proptest::collection::vec(any::<u64>(), 50), lost in 0_usize..8) {
        let before = set(8, 0);
        let mut after = set(8, 0);
        let gone = after.available.remove(lost).addr;
        let mut rng = Rng::with_seed(1);
        for client in clients {
            let first = choose(&before, &under(LoadBalancer::PeakEwma, Some(client)), Some(client), &[], 0, &mut rng).unwrap().addr;
            let again = choose(&before, &under(LoadBalancer::Random, Some(client)), Some(client), &[], 99, &mut rng).unwrap().addr;
            prop_assert_eq!(first, again);
            let moved = choose(&after, &under(LoadBalancer::PeakEwma, Some(client)), Some(client), &[], 0, &mut rng).unwrap().addr;
            prop_assert_eq!(first == gone, first != moved);
        }
    }
}

#[test]
fn round_robin_is_even_and_random_nearly_so() {
    let counts = simulate(&set(5, 0), LoadBalancer::RoundRobin, 1000, MS, |_| MS);
    assert!(counts[..5].iter().all(|&count| count == 200), "{:?}", &counts[..5]);
    let counts = simulate(&set(5, 0), LoadBalancer::Random, 10_000, MS, |_| MS);
    assert!(counts[..5].iter().all(|&count| (1800..2200).contains(&count)), "{:?}", &counts[..5]);
}

#[test]
fn affinity_spreads_clients() {
    let set = set(4, 0);
    let mut counts: HashMap<EndpointAddr, u32> = HashMap::new();
    for client in 0..4000 {
        let chosen = choose(
            &set,
            &under(LoadBalancer::PeakEwma, Some(client)),
            Some(client),
            &[],
            0,
            &mut Rng::with_seed(1),
        )
        .unwrap();
        *counts.entry(chosen.addr).or_default() += 1;
    }
    assert!(counts.values().all(|count| (850..1150).contains(count)), "{counts:?}");
}

#[test]
fn equal_endpoints_share_evenly() {
    for policy in [LoadBalancer::PeakEwma, LoadBalancer::LeastRequest] {
        let counts = simulate(&set(4, 0), policy, 20_000, MS / 2, |_| 10 * MS);
        assert!(
            counts[..4].iter().all(|&count| (4000..6000).contains(&count)),
            "{policy:?} {:?}",
            &counts[..4]
        );
    }
}

#[test]
fn a_slow_endpoint_gets_less() {
    let slow = |number| if number == 0 { 100 * MS } else { 5 * MS };
    let counts = simulate(&set(4, 0), LoadBalancer::PeakEwma, 20_000, MS, slow);
    assert!(counts[0] * 10 < counts[1], "{:?}", &counts[..4]);
    assert!(counts[0] > 0, "is still tried now and then");
    let counts = simulate(&set(4, 0), LoadBalancer::LeastRequest, 20_000, MS, slow);
    assert!(counts[0] * 2 < counts[1], "{:?}", &counts[..4]);
}

/// Each request that hangs adds `each` to the endpoint's cost and so lowers its chance to get the next one with the cube
/// of their number; it is among the two choices of every other request. After n requests it has k of them, where the sum
/// of (k * each / other)^3, about k^4 / 4 * (each / other)^3, is n / 2.
fn caught(requests: f64, each: f64, other: f64) -> f64 {
    (2.0 * requests * (other / each).powi(3)).powf(0.25)
}

#[test]
fn an_endpoint_that_hangs_gets_the_fourth_root_of_its_share() {
    const REQUESTS: u64 = 60_000;
    let hung = |number| if number == 0 { u64::MAX } else { 5 * MS };
    // One request a millisecond, each under way for five, spread over three.
    let other = (5e6 + NOISE_NS) * (1.0 + 5.0 / 3.0);
    let never_answered = set(4, 0);
    let answered_before = set(4, 0);
    InFlight::begin(&answered_before.available[0].load, 0).observe(5 * MS, 1);
    // What is forgotten in time is the measurement: noise is the least that a request in flight then counts.
    for (set, each) in [(never_answered, UNMEASURED_NS), (answered_before, NOISE_NS)] {
        let counts = simulate(&set, LoadBalancer::PeakEwma, REQUESTS, MS, hung);
        let most = caught(REQUESTS as f64, each, other) * 1.25;
        assert!(counts[0] > 0 && (counts[0] as f64) < most, "{:?}, at most {most}", &counts[..4]);
    }
}

#[test]
fn a_new_endpoint_is_tried_at_once_but_by_one_request() {
    let mut set = set(3, 0);
    simulate(&set, LoadBalancer::PeakEwma, 1000, MS, |_| MS);
    set.available.push(endpoint(3));
    let now = 1000 * MS;
    let mut rng = Rng::with_seed(3);
    let mut guards = Vec::new();
    for _ in 0..30 {
        let chosen = choose(&set, &plain(LoadBalancer::PeakEwma), None, &[], now, &mut rng).unwrap();
        if chosen.addr == set.available[3].addr {
            guards.push(InFlight::begin(&chosen.load, now));
        }
    }
    assert_eq!(guards.len(), 1);
}

/// How many of 1000 choices among `set` fall on its first endpoint. A choice is right if it is within four standard
/// deviations of what the costs say.
fn first_of_1000(set: &EndpointSet, now: u64) -> usize {
    let mut rng = Rng::with_seed(5);
    let choose =
        |rng: &mut Rng| choose(set, &plain(LoadBalancer::PeakEwma), None, &[], now, rng).unwrap().addr;
    (0..1000).filter(|_| choose(&mut rng) == set.available[0].addr).count()
}

fn is_about(count: usize, share: f64) {
    let deviation = (1000.0 * share * (1.0 - share)).sqrt();
    let off = (count as f64 - 1000.0 * share).abs();
    assert!(off <= 4.0 * deviation, "{count} of 1000 instead of {}", 1000.0 * share);
}

/// Of an endpoint that answers after `latency` and owes nothing.
fn idle(latency: f64) -> Expected {
    Expected { latency, cost: latency + NOISE_NS }
}

#[test]
fn a_failing_endpoint_is_avoided_and_comes_back() {
    let check = |wasted_ns: u64, after_ns: u64| {
        let set = set(2, 0);
        InFlight::begin(&set.available[0].load, 0).fail(wasted_ns, MS);
        let now = MS + after_ns;
        InFlight::begin(&set.available[1].load, now).observe(MS, now);
        let counted = wasted_ns.max(FAILURE_NS) as f64;
        let share = preference(idle(counted * (-(after_ns as f64) / DECAY_NS).exp()), idle(MS as f64));
        let count = first_of_1000(&set, now);
        is_about(count, share);
        count
    };
    const SECOND: u64 = 1000 * MS;
    // Refused at once: a try in a hundred right away, a good part within ten seconds, as good as any after twenty.
    assert!((1..30).contains(&check(MS / 10, 0)));
    assert!(check(MS / 10, 10 * SECOND) > 200);
    assert!(check(MS / 10, 20 * SECOND) > 400);
    // A connect that ran into its timeout: left alone for half a minute.
    assert_eq!(check(3 * SECOND, 10 * SECOND), 0);
    assert!(check(3 * SECOND, 20 * SECOND) < 20);
    assert!(check(3 * SECOND, 40 * SECOND) > 400);
}

#[test]
fn a_hiccup_of_milliseconds_starves_nobody() {
    let set = set(3, 0);
    for (number, endpoint) in set.available.iter().enumerate() {
        InFlight::begin(&endpoint.load, 0).observe(if number == 0 { 5 * MS } else { MS / 3 }, MS);
    }
    // Of three, each is among the two in two thirds of the choices.
    let share = 2.0 / 3.0 * preference(idle(5e6), idle(1e6 / 3.0));
    is_about(first_of_1000(&set, MS), share);
    assert!(share > 0.05);
}

#[test]
fn one_that_was_given_up_never_looks_faster() {
    let set = testing::set(1, 0);
    let load = InFlight::begin(&set.available[0].load, 0);
    let ewma = || f64::from_bits(set.available[0].load.ewma_ns.load(Ordering::Relaxed));
    load.observe(50_000_000, 1);
    load.at_least(1_000_000, 2);
    assert_eq!(ewma(), 50e6);
    load.at_least(80_000_000, 3);
    assert_eq!(ewma(), 80e6);
}

//! Clients that send one request after the other, as load generators and busy services do, to endpoints of which one is
//! slow: how many requests have to wait for that one.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use super::*;

const SECOND: u64 = 1000 * MS;
/// How long a fast endpoint works on a request; it has one processor.
const WORK: u64 = MS / 10;

struct Clients {
    set: EndpointSet,
    rng: Rng,
    /// When each fast endpoint is done with what it has.
    done: [u64; 3],
}

impl Clients {
    fn new() -> Self {
        Self { set: set(3, 0), rng: Rng::with_seed(11), done: [0; 3] }
    }

    /// So many clients for so long: requests in all, and those that went to the slow endpoint, the first one.
    fn run(&mut self, clients: usize, from: u64, span: u64) -> (u64, u64) {
        let mut answers: BinaryHeap<Reverse<(u64, u64, usize)>> =
            (0..clients).map(|client| Reverse((from, from, client))).collect();
        let mut under_way: Vec<Option<InFlight>> = (0..clients).map(|_| None).collect();
        let (mut all, mut slow) = (0, 0);
        while let Some(Reverse((now, sent, client))) = answers.pop() {
            if let Some(request) = under_way[client].take() {
                request.observe(now - sent, now);
            }
            if now >= from + span {
                continue;
            }
            let peak = plain(LoadBalancer::PeakEwma);
            let chosen = choose(&self.set, &peak, None, &[], now, &mut self.rng).unwrap();
            let number = self.set.available.iter().position(|one| Arc::ptr_eq(one, chosen)).unwrap();
            self.done[number] = self.done[number].max(now) + WORK;
            let late = if number == 0 { 50 * MS } else { 0 };
            under_way[client] = Some(InFlight::begin(&chosen.load, now));
            answers.push(Reverse((self.done[number] + late, now, client)));
            (all, slow) = (all + 1, slow + u64::from(number == 0));
        }
        (all, slow)
    }
}

#[test]
fn hardly_a_request_waits_for_an_endpoint_that_is_50_ms_slower() {
    let mut clients = Clients::new();
    let mut begin = SECOND;
    // Each time after a pause in which all that was measured is forgotten.
    for round in 0..5 {
        let (all, slow) = clients.run(32, begin, 3 * SECOND);
        assert!(all > 50_000, "{all} in all");
        // The first of a round, and one whenever it has been forgotten. In the first round nothing is known of anybody
        // when all clients begin in the same instant: a third of them has bad luck.
        let unlucky = if round == 0 { 32 / 3 + 2 } else { 0 };
        assert!((1..=unlucky + 4).contains(&slow), "round {round}: {slow} of {all}");
        begin += 60 * SECOND;
    }
}

#[test]
fn an_endpoint_that_is_slow_no_more_has_its_share_again_within_seconds() {
    let mut clients = Clients::new();
    clients.run(32, SECOND, SECOND);
    InFlight::begin(&clients.set.available[1].load, 2 * SECOND).observe(80 * MS, 2 * SECOND);
    clients.run(32, 2 * SECOND, 8 * SECOND);
    let before = clients.done;
    clients.run(32, 10 * SECOND, SECOND);
    let share = |number: usize| clients.done[number] - before[number];
    assert!(share(1) * 10 > share(2) * 8, "{} against {}", share(1), share(2));
}

//! Which endpoint of a set is next. Pure: time and chance are arguments, the figures are those of the endpoints.
//!
//! Comes after `proxy::backend` has found the set and before `proxy::upstream` reaches the endpoint. Never returns an
//! endpoint that isn't available or was tried already, and always one if there is any that is neither ejected nor unhealthy.
//! Constant time for every policy but client affinity, which looks at each endpoint, and while endpoints are left alone.

mod affinity;
mod avoid;
pub mod health;
mod load;
pub mod outlier;
pub mod queue;
pub mod table;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
pub mod tiers;
pub mod usage;

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use fastrand::Rng;

use self::load::Expected;
use self::table::Tables;
use self::tiers::Tier;
use crate::addr::EndpointAddr;
use crate::model::{Endpoint, EndpointSet, LoadBalancer};
use crate::objects::Warmup;
use crate::policy::ClusterPolicy;

pub use avoid::{Avoid, awaits, has_other, healthy};
pub use load::InFlight;

/// How often another endpoint is drawn in place of one that warms up or is left alone.
const REDRAWS: usize = 8;

/// Chooses among the available endpoints that aren't in `tried` and aren't left alone, `avoid` being [`Avoid::of`] this set;
/// `now_ns` is `clock::now_ns`.
///
/// `hash` is what the policy hashes (`policy::hash`), where it does: a client's address for `sessionAffinity: ClientIP`,
/// which keeps its endpoint for as long as that is available, whichever agent or worker asks, so that the timeout of the
/// Service's `sessionAffinityConfig` needs no table. Where there is nothing to hash chance decides.
pub fn choose_but<'a>(
    avoid: Avoid,
    set: &'a EndpointSet,
    policy: &ClusterPolicy,
    hash: Option<u64>,
    tried: &[EndpointAddr],
    now_ns: u64,
    rng: &mut Rng,
) -> Option<&'a Arc<Endpoint>> {
    let rules = Rules { tried, now_ns, avoid, warmup: policy.warmup };
    if policy.localities.is_none() {
        let all = Candidates { endpoints: &set.available, next: &set.next, tables: &set.tables, rules };
        return all.choose(policy, hash, rng);
    }
    let point = hash.map_or_else(|| rng.u64(..), crate::policy::hash::mix);
    let healthy = |tier: &Tier| match avoid.any() {
        true => tier.endpoints.iter().filter(|endpoint| !avoid.is_avoided(endpoint, now_ns)).count(),
        false => tier.endpoints.len(),
    };
    let first = tiers::pick(&set.tiers, point, healthy);
    // What the group can't serve any more, because all of it was tried, the nearest others do.
    let order = std::iter::once(first).chain((0..set.tiers.len()).filter(|tier| *tier != first));
    order.filter_map(|tier| set.tiers.get(tier)).find_map(|tier| {
        let group = Candidates { endpoints: &tier.endpoints, next: &tier.next, tables: &tier.tables, rules };
        group.choose(policy, hash, rng)
    })
}

/// [`choose_but`] with what is to be left alone now.
#[cfg(test)]
pub(crate) fn choose<'a>(
    set: &'a EndpointSet,
    policy: &ClusterPolicy,
    hash: Option<u64>,
    tried: &[EndpointAddr],
    now_ns: u64,
    rng: &mut Rng,
) -> Option<&'a Arc<Endpoint>> {
    choose_but(Avoid::of(set, policy, now_ns), set, policy, hash, tried, now_ns, rng)
}

/// An endpoint that answers so many times later than the other of two, and at least [`LEFT_ALONE_NS`] later, is left
/// alone until that is forgotten: a share of its turns, however small, would be the client's slowest requests.
const LEFT_ALONE: f64 = 4.0;
/// Well above the hiccups of a network or scheduler, for which nobody is to be starved.
const LEFT_ALONE_NS: f64 = 25e6;

/// The share of choices between two that goes to the one of which `own` is expected: by the cube of the costs, so that
/// equals are treated equally, a small difference tilts the choice and a tenfold one settles it. Always taking the cheaper
/// one would starve an endpoint for every hiccup of the network; never, a few requests in a thousand wait for one that is slow.
fn preference(own: Expected, other: Expected) -> f64 {
    let far_behind = |one: f64, other: f64| one >= other * LEFT_ALONE && one >= other + LEFT_ALONE_NS;
    if far_behind(own.latency, other.latency) {
        return 0.0;
    }
    if far_behind(other.latency, own.latency) {
        return 1.0;
    }
    let (own, other) = (own.cost.powi(3), other.cost.powi(3));
    if own + other == 0.0 { 0.5 } else { other / (own + other) }
}

/// What may be chosen now.
#[derive(Clone, Copy)]
struct Rules<'t> {
    tried: &'t [EndpointAddr],
    now_ns: u64,
    avoid: Avoid,
    warmup: Option<Warmup>,
}

impl Rules<'_> {
    fn may(&self, endpoint: &Endpoint) -> bool {
        !self.avoid.is_avoided(endpoint, self.now_ns) && !self.tried.contains(&endpoint.addr)
    }

    /// True if an endpoint that warms up gives its turn to another (Envoy, "Slow start mode").
    fn defers(&self, endpoint: &Endpoint, rng: &mut Rng) -> bool {
        self.warmup.is_some_and(|warmup| {
            let share = load::warm(&endpoint.load, &warmup, self.now_ns);
            share < 1.0 && rng.f64() >= share
        })
    }
}

/// A group of endpoints and what may be chosen of it.
struct Candidates<'a, 't> {
    endpoints: &'a [Arc<Endpoint>],
    next: &'a AtomicU32,
    tables: &'a Tables,
    rules: Rules<'t>,
}

impl<'a> Candidates<'a, '_> {
    fn choose(&self, policy: &ClusterPolicy, hash: Option<u64>, rng: &mut Rng) -> Option<&'a Arc<Endpoint>> {
        let may = |endpoint: &Endpoint| self.rules.may(endpoint);
        if let (Some(_), Some(hash)) = (policy.client_ip_affinity, hash) {
            return affinity::choose(self, hash);
        }
        let (first, second) = match policy.load_balancer {
            LoadBalancer::RingHash | LoadBalancer::Maglev => {
                let hash = hash.unwrap_or_else(|| rng.u64(..));
                return match policy.load_balancer {
                    LoadBalancer::Maglev => self.tables.maglev(self.endpoints, policy.table_size, hash, may),
                    _ => self.tables.ring(self.endpoints, policy.table_size, hash, may),
                };
            }
            LoadBalancer::RoundRobin => return self.in_turn(rng),
            LoadBalancer::Random => return self.random(rng).map(|(_, endpoint)| endpoint),
            LoadBalancer::LeastRequest | LoadBalancer::PeakEwma => self.two(rng)?,
        };
        let prefer_first = match policy.load_balancer {
            LoadBalancer::PeakEwma => {
                let now_ns = self.rules.now_ns;
                rng.f64() < preference(load::expect(first, now_ns), load::expect(second, now_ns))
            }
            _ => load::in_flight(first) <= load::in_flight(second),
        };
        Some(if prefer_first { first } else { second })
    }

    fn iter(&self) -> impl Iterator<Item = &'a Arc<Endpoint>> {
        self.endpoints.iter().filter(|endpoint| self.rules.may(endpoint))
    }

    /// The endpoint in this place, or the first one after it (round the end) that may be chosen.
    fn at_or_after(&self, place: usize) -> Option<(usize, &'a Arc<Endpoint>)> {
        let count = self.endpoints.len();
        (0..count)
            .map(|step| (place.wrapping_add(step)) % count)
            .map(|at| (at, &self.endpoints[at]))
            .find(|(_, endpoint)| self.rules.may(endpoint))
    }

    /// Whoever is next. One that may not be chosen loses its turn, so that its neighbour gets no more than the others.
    fn in_turn(&self, rng: &mut Rng) -> Option<&'a Arc<Endpoint>> {
        let turn = || self.next.fetch_add(1, Ordering::Relaxed) as usize;
        for _ in 0..self.endpoints.len().min(REDRAWS) {
            let endpoint = &self.endpoints[turn() % self.endpoints.len()];
            if self.rules.may(endpoint) && !self.rules.defers(endpoint, rng) {
                return Some(endpoint);
            }
        }
        self.at_or_after(turn()).map(|(_, endpoint)| endpoint)
    }

    fn random(&self, rng: &mut Rng) -> Option<(usize, &'a Arc<Endpoint>)> {
        if self.endpoints.is_empty() {
            return None;
        }
        let draws = if self.rules.avoid.any() || self.rules.warmup.is_some() { REDRAWS } else { 0 };
        for _ in 0..draws {
            let at = rng.usize(..self.endpoints.len());
            let endpoint = &self.endpoints[at];
            if self.rules.may(endpoint) && !self.rules.defers(endpoint, rng) {
                return Some((at, endpoint));
            }
        }
        self.at_or_after(rng.usize(..self.endpoints.len()))
    }

    /// Two different ones at random, or the same one twice if it is the only one.
    fn two(&self, rng: &mut Rng) -> Option<(&'a Arc<Endpoint>, &'a Arc<Endpoint>)> {
        let (at, first) = self.random(rng)?;
        let count = self.endpoints.len();
        if count == 1 {
            return Some((first, first));
        }
        if self.rules.avoid.any() || self.rules.warmup.is_some() {
            let (other, second) = self.random(rng)?;
            if other != at {
                return Some((first, second));
            }
        }
        let other = at + rng.usize(1..count);
        let (other, second) = self.at_or_after(other % count)?;
        if other != at {
            return Some((first, second));
        }
        // Everything from there up to the first one was tried; what is left begins after it.
        self.at_or_after(at + 1).map(|(_, second)| (first, second))
    }
}

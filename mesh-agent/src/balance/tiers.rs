//! Endpoints by nearness: which group of them a request goes to. Sorted when endpoints changed, weighed per request.
//!
//! Used by `balance` before it chooses within the group. As Envoy's priority levels and locality weights: a group gets
//! its share while it is healthy enough, and the next one what is over. Costs nothing where no policy asks for it.

use std::sync::Arc;
use std::sync::atomic::AtomicU32;

use super::table::Tables;
use crate::model::Endpoint;
use crate::policy::{Localities, Locality};

/// A group is taken for fully healthy while this percentage of its healthy share is above 100 (Envoy,
/// `overprovisioning_factor`).
const OVERPROVISIONING: u64 = 140;
/// Loads are in this many parts.
const WHOLE: u64 = 1_000_000;

/// Groups at the most, so that weighing them needs no allocation; a rule that makes more is refused.
pub const MOST_TIERS: usize = 32;

/// Endpoints that are equally near.
#[derive(Debug, Default)]
pub struct Tier {
    /// In the order of the set.
    pub endpoints: Vec<Arc<Endpoint>>,
    /// Turn of the round robin.
    pub next: AtomicU32,
    /// Percent of the traffic; None: as much as it is healthy enough for, nearer ones first.
    pub weight: Option<u32>,
    pub(super) tables: Tables,
}

/// Groups `available`, nearest first. Empty groups are left out.
pub fn sort(
    available: &[Arc<Endpoint>],
    localities: &Localities,
    locality: impl Fn(&Endpoint) -> Locality,
) -> Vec<Tier> {
    let mut tiers: Vec<Tier> = Vec::new();
    let mut places = Vec::new();
    let mut placed: Vec<_> = available
        .iter()
        .filter_map(|endpoint| Some((localities.place(endpoint, &locality(endpoint))?, endpoint)))
        .collect();
    // Stable: within a group the set's order stays.
    placed.sort_by_key(|(place, _)| *place);
    for (place, endpoint) in placed {
        if places.last() != Some(&place) {
            places.push(place);
            let weight = match localities {
                Localities::Distribute(shares) => Some(shares.get(place).map_or(0, |(_, weight)| *weight)),
                Localities::Failover { .. } | Localities::Labels(_) => None,
            };
            tiers.push(Tier { weight, ..Tier::default() });
        }
        if let Some(tier) = tiers.last_mut() {
            tier.endpoints.push(endpoint.clone());
        }
    }
    tiers.retain(|tier| tier.weight != Some(0));
    tiers
}

/// Which group gets the request whose number, below 2^64, is `point`. `healthy` counts the healthy ones of a group.
pub(super) fn pick(tiers: &[Tier], point: u64, healthy: impl Fn(&Tier) -> usize) -> usize {
    let health = |tier: &Tier| {
        let share =
            healthy(tier) as u64 * OVERPROVISIONING * (WHOLE / 100) / tier.endpoints.len().max(1) as u64;
        share.min(WHOLE)
    };
    let weighted = tiers.iter().any(|tier| tier.weight.is_some());
    let mut left = WHOLE;
    let load = |tier: &Tier| {
        if weighted {
            return health(tier) * u64::from(tier.weight.unwrap_or(0));
        }
        let load = health(tier).min(left);
        left -= load;
        load
    };
    tiers.iter().map(load).collect::<Loads>().find(point)
}

/// Loads of a few groups without allocating.
struct Loads {
    loads: [u64; MOST_TIERS],
    sum: u64,
}

impl FromIterator<u64> for Loads {
    fn from_iter<I: IntoIterator<Item = u64>>(iter: I) -> Self {
        let mut loads = [0; MOST_TIERS];
        let mut sum = 0;
        for (slot, load) in loads.iter_mut().zip(iter) {
            *slot = load;
            sum += load;
        }
        Self { loads, sum }
    }
}

impl Loads {
    /// The place whose share of the sum holds `point` of 2^64; the first if nobody has any.
    fn find(&self, point: u64) -> usize {
        let mut at = (u128::from(point) * u128::from(self.sum)) >> 64;
        for (place, load) in self.loads.iter().enumerate() {
            if at < u128::from(*load) {
                return place;
            }
            at -= u128::from(*load);
        }
        0
    }
}

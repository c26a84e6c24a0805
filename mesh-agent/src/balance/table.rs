//! Consistent hashing: a ring of points, or Maglev's table. Built when endpoints changed and first asked for.
//!
//! Used by `balance`. A hash keeps its endpoint for as long as that may be chosen; when one goes or is left alone, only its
//! own hashes move, and over all others. Points come from addresses alone, so that all agents build the same table.

use std::sync::{Arc, OnceLock};

use super::affinity::address_hash;
use crate::model::Endpoint;
use crate::policy::hash::mix;

/// Increment of SplitMix64: makes a sequence of independent numbers from one.
const STEP: u64 = 0x9e37_79b9_7f4a_7c15;
/// Other slots of Maglev's table that are asked before the neighbours.
const PROBES: u64 = 16;
/// Endpoints that have their full number of points on a ring.
const MANY: u64 = 64;
/// An empty slot of a table that is being filled.
const EMPTY: u32 = u32::MAX;

/// The tables of one set of endpoints, made when they are first needed.
#[derive(Debug, Default)]
pub struct Tables {
    ring: OnceLock<Ring>,
    maglev: OnceLock<Maglev>,
}

/// Points on a ring, each with the place of its endpoint, in order.
#[derive(Debug)]
struct Ring(Vec<(u64, u32)>);

/// Places of endpoints, by hash modulo the size.
#[derive(Debug)]
struct Maglev(Vec<u32>);

impl Tables {
    /// The first endpoint clockwise from `hash` that `may` be chosen (Envoy, "Ring hash"): at least `size` points in all.
    pub(super) fn ring<'a>(
        &self,
        endpoints: &'a [Arc<Endpoint>],
        size: u32,
        hash: u64,
        may: impl Fn(&Endpoint) -> bool,
    ) -> Option<&'a Arc<Endpoint>> {
        let points = &self.ring.get_or_init(|| Ring::new(endpoints, size)).0;
        let start = points.partition_point(|(point, _)| *point < hash);
        let round = points[start..].iter().chain(&points[..start]);
        round.filter_map(|(_, at)| endpoints.get(*at as usize)).find(|endpoint| may(endpoint))
    }

    /// The endpoint in the slot of `hash`, or of its next hash, that `may` be chosen (Maglev, Eisenbud and others 2016).
    pub(super) fn maglev<'a>(
        &self,
        endpoints: &'a [Arc<Endpoint>],
        size: u32,
        hash: u64,
        may: impl Fn(&Endpoint) -> bool,
    ) -> Option<&'a Arc<Endpoint>> {
        let slots = &self.maglev.get_or_init(|| Maglev::new(endpoints, size)).0;
        let size = slots.len() as u64;
        if size == 0 {
            return None;
        }
        let first = (hash % size) as usize;
        let others =
            (1..=PROBES).map(|probe| (mix(hash.wrapping_add(probe.wrapping_mul(STEP))) % size) as usize);
        let found =
            std::iter::once(first).chain(others).filter_map(|slot| endpoints.get(slots[slot] as usize));
        let by_hash = found.into_iter().find(|endpoint| may(endpoint));
        // Nearly all are left alone: whoever is left.
        by_hash.or_else(|| endpoints.iter().find(|endpoint| may(endpoint)))
    }
}

impl Ring {
    fn new(endpoints: &[Arc<Endpoint>], size: u32) -> Self {
        let each = points_each(endpoints.len(), size);
        let mut points = Vec::with_capacity(endpoints.len() * each as usize);
        for (at, endpoint) in (0_u32..).zip(endpoints) {
            let seed = address_hash(endpoint.addr);
            points.extend((1..=u64::from(each)).map(|n| (mix(seed.wrapping_add(n.wrapping_mul(STEP))), at)));
        }
        points.sort_unstable();
        Self(points)
    }
}

/// Points of one endpoint. Envoy divides the size by the number of endpoints, so that a change of the number moves the
/// points of all of them; half of the size makes a ring of it as soon as there are two, and moves nobody else's. Only of
/// many endpoints each has fewer, so that the ring doesn't grow further.
fn points_each(endpoints: usize, size: u32) -> u32 {
    let half = u64::from(size.div_ceil(2));
    let most = (half * MANY / (endpoints as u64).max(MANY)).max(1);
    u32::try_from(most).unwrap_or(u32::MAX)
}

impl Maglev {
    /// Endpoints take turns; each takes the next slot of its own order that is still empty.
    fn new(endpoints: &[Arc<Endpoint>], size: u32) -> Self {
        if endpoints.is_empty() || size < 2 {
            return Self(if endpoints.is_empty() { Vec::new() } else { vec![0] });
        }
        let size = u64::from(size);
        let mut orders: Vec<(u64, u64)> = endpoints
            .iter()
            .map(|endpoint| {
                let seed = address_hash(endpoint.addr);
                (
                    mix(seed.wrapping_add(STEP)) % size,
                    mix(seed.wrapping_add(STEP.wrapping_mul(2))) % (size - 1) + 1,
                )
            })
            .collect();
        let mut slots = vec![EMPTY; size as usize];
        let mut left = slots.len();
        'fill: loop {
            for (at, (next, skip)) in (0_u32..).zip(&mut orders) {
                // The size is prime, so that every order comes by every slot.
                while slots[*next as usize] != EMPTY {
                    *next = (*next + *skip) % size;
                }
                slots[*next as usize] = at;
                left -= 1;
                if left == 0 {
                    break 'fill;
                }
            }
        }
        Self(slots)
    }
}

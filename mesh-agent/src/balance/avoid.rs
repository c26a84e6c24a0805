//! Which endpoints of a set are left alone: ejected ones and unhealthy ones, unless too few would be left.
//!
//! Found once for a choice, before `balance` makes it, from a few atomics of the set; endpoints are counted only while some are
//! left alone. Envoy, "Panic threshold": with a smaller share of healthy endpoints than that, health says more about the
//! checks, or the network, than about endpoints, and all of them are used.

use super::outlier;
use crate::addr::EndpointAddr;
use crate::model::{Endpoint, EndpointSet};
use crate::policy::ClusterPolicy;
use crate::policy::chance::Chance;

/// What is left alone.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Avoid {
    ejected: bool,
    unhealthy: bool,
    /// Too few are healthy, so that none is left alone.
    pub panics: bool,
}

impl Avoid {
    /// What is left alone of `set` at `now_ns`. A TrafficPolicy's `panicThreshold` beats a DestinationRule's
    /// `minHealthPercent`: both are Envoy's panic threshold, the former of our own API.
    pub fn of(set: &EndpointSet, policy: &ClusterPolicy, now_ns: u64) -> Self {
        let rules = policy.outlier.as_ref();
        let ejected = rules.is_some() && set.ejections.any(now_ns);
        let avoid = Self { ejected, unhealthy: set.health.avoided() > 0, panics: false };
        if !avoid.any() {
            return avoid;
        }
        let of_rule = || rules.map(|rules| Chance::percent(f64::from(rules.min_health_percent)));
        let threshold = set.health.panic_threshold().or_else(of_rule).unwrap_or_default();
        if threshold == Chance::default() {
            return avoid;
        }
        let healthy = set.available.iter().filter(|endpoint| !avoid.is_avoided(endpoint, now_ns)).count();
        match threshold.reached(healthy as u64, set.available.len() as u64) {
            true => avoid,
            false => Self { panics: true, ..Self::default() },
        }
    }

    /// True if any may be left alone.
    pub(super) fn any(self) -> bool {
        self.ejected || self.unhealthy
    }

    /// True if this one is.
    pub(super) fn is_avoided(self, endpoint: &Endpoint, now_ns: u64) -> bool {
        self.ejected && endpoint.load.outlier.is_ejected(now_ns)
            || self.unhealthy && endpoint.load.health.is_avoided()
    }

    /// True if this one is left alone for what checks say of it.
    pub fn is_unhealthy(self, endpoint: &Endpoint) -> bool {
        self.unhealthy && endpoint.load.health.is_avoided()
    }
}

/// How many of `set` are healthy at `now_ns`, by checks and by outlier detection.
pub fn healthy(set: &EndpointSet, now_ns: u64) -> usize {
    let (checked, ejecting) = (set.health.avoided() > 0, outlier::ejected(set, now_ns) > 0);
    let avoid = Avoid { ejected: ejecting, unhealthy: checked, panics: false };
    set.available.iter().filter(|endpoint| !avoid.is_avoided(endpoint, now_ns)).count()
}

/// True if an endpoint of `set` that isn't in `tried` may be chosen at `now_ns`.
pub fn has_other(set: &EndpointSet, policy: &ClusterPolicy, tried: &[EndpointAddr], now_ns: u64) -> bool {
    let avoid = Avoid::of(set, policy, now_ns);
    let may = |endpoint: &Endpoint| !avoid.is_avoided(endpoint, now_ns) && !tried.contains(&endpoint.addr);
    set.available.iter().any(|endpoint| may(endpoint))
}

/// True if `set` has no endpoint, or none that its checks haven't found unhealthy: it takes a new one, or a check that passes,
/// and not just time. Never where none of them is chosen.
pub fn awaits(set: &EndpointSet, policy: &ClusterPolicy, now_ns: u64) -> bool {
    if !policy.chooses() {
        return false;
    }
    if set.available.is_empty() {
        return true;
    }
    let avoid = Avoid::of(set, policy, now_ns);
    avoid.unhealthy && set.available.iter().all(|endpoint| avoid.is_unhealthy(endpoint))
}

//! Where things are, and which endpoints are near: `localityLbSetting` and `trafficDistribution`, compiled.
//!
//! All clients of an agent are on its node, so their locality is one. `balance::tiers` sorts endpoints by what is said here.

use crate::model::Endpoint;

/// Region, zone and sub-zone; empty for unknown.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Locality {
    /// `topology.kubernetes.io/region` of the node.
    pub region: String,
    /// The slice's `zone`, or `topology.kubernetes.io/zone` of the node.
    pub zone: String,
    /// `topology.istio.io/subzone` of the node.
    pub subzone: String,
}

impl Locality {
    /// True if nothing is known.
    pub fn is_unknown(&self) -> bool {
        self.region.is_empty() && self.zone.is_empty()
    }
}

/// How nearness is used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Localities {
    /// Shares by locality: percent for the endpoints that match the pattern; those that match none get nothing.
    Distribute(Vec<(Pattern, u32)>),
    /// Nearest first; the next only for what the nearer ones are too unhealthy for.
    Failover {
        /// The clients'.
        from: Locality,
        /// The region that is next, before all others.
        to: Option<String>,
    },
    /// By labels: what matches more of them, from the first on, is nearer.
    Labels(Vec<Label>),
}

/// One label of `failoverPriority`, with the value that is near.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Label {
    /// The endpoint's region.
    Region(String),
    /// The endpoint's zone.
    Zone(String),
    /// The endpoint's sub-zone.
    Subzone(String),
    /// The endpoint's node.
    Node(String),
    /// A label of the endpoint's pod.
    Pod(String, String),
}

/// `region/zone/subzone`; what is None matches all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pattern([Option<String>; 3]);

impl Pattern {
    /// From Istio's spelling: shortened, or with `*` at the end.
    pub fn new(text: &str) -> Self {
        let mut parts = text.split('/').map(|part| (part != "*").then(|| part.to_owned()));
        Self(std::array::from_fn(|_| parts.next().flatten()))
    }

    /// How many of its parts are given.
    pub(super) fn precision(&self) -> usize {
        self.0.iter().flatten().count()
    }

    /// True if `locality` is meant.
    pub fn matches(&self, locality: &Locality) -> bool {
        let parts = [&locality.region, &locality.zone, &locality.subzone];
        self.0.iter().zip(parts).all(|(wanted, part)| wanted.as_ref().is_none_or(|wanted| wanted == part))
    }
}

impl Localities {
    /// Priority of an endpoint, 0 for the nearest; with `Distribute` the place of its share. None: it gets nothing.
    pub fn place(&self, endpoint: &Endpoint, at: &Locality) -> Option<usize> {
        match self {
            Self::Distribute(shares) => shares.iter().position(|(pattern, _)| pattern.matches(at)),
            Self::Failover { from, to } => Some(failover(from, to.as_deref(), at)),
            Self::Labels(labels) => {
                let near = labels.iter().take_while(|label| label.matches(endpoint, at)).count();
                Some(labels.len() - near)
            }
        }
    }
}

/// As Istio's `LbPriority`, then the region that stands in.
fn failover(from: &Locality, to: Option<&str>, at: &Locality) -> usize {
    if from.region != at.region {
        return if to.is_none_or(|to| to == at.region) { 3 } else { 4 };
    }
    if from.zone != at.zone {
        return 2;
    }
    usize::from(from.subzone != at.subzone)
}

impl Label {
    fn matches(&self, endpoint: &Endpoint, at: &Locality) -> bool {
        match self {
            Self::Region(region) => *region == at.region,
            Self::Zone(zone) => *zone == at.zone,
            Self::Subzone(subzone) => *subzone == at.subzone,
            Self::Node(node) => endpoint.node.as_ref() == Some(node),
            Self::Pod(key, value) => {
                endpoint.workload.as_ref().and_then(|workload| workload.labels.get(key)) == Some(value)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn locality(text: &str) -> Locality {
        let mut parts = text.split('/').map(str::to_owned);
        let mut next = || parts.next().unwrap_or_default();
        Locality { region: next(), zone: next(), subzone: next() }
    }

    #[test]
    fn patterns_match_what_they_leave_open() {
        fn check(pattern: &str, at: &str, want: bool) {
            assert_eq!(Pattern::new(pattern).matches(&locality(at)), want, "{pattern} {at}");
        }
        check("*", "eu/a/1", true);
        check("eu", "eu/a/1", true);
        check("eu/*", "eu/a", true);
        check("eu/a/*", "eu/a/1", true);
        check("eu/a/*", "eu/b/1", false);
        check("eu/a/1", "eu/a/2", false);
        check("us/*", "eu/a", false);
    }

    #[test]
    fn nearer_endpoints_have_a_lower_priority() {
        fn check(at: &str, to: Option<&str>, want: usize) {
            assert_eq!(failover(&locality("eu/a/1"), to, &locality(at)), want, "{at} {to:?}");
        }
        check("eu/a/1", None, 0);
        check("eu/a/2", None, 1);
        check("eu/b/1", None, 2);
        check("us/a/1", None, 3);
        check("us/a/1", Some("us"), 3);
        check("ap/a/1", Some("us"), 4);
    }
}

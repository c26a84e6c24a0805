//! A rule's backends and the choice among them by weight; the sums are made with the rule, not with the request.

use std::ops::Deref;

use super::rule::Backend;

/// Backends of a rule, in its order.
#[derive(Debug, Default)]
pub struct Backends {
    list: Vec<Backend>,
    /// The sum of the weights up to and including each one.
    sums: Vec<u64>,
}

impl From<Vec<Backend>> for Backends {
    fn from(list: Vec<Backend>) -> Self {
        let sums = list.iter().scan(0, |sum, backend| {
            *sum += u64::from(backend.weight);
            Some(*sum)
        });
        Self { sums: sums.collect(), list }
    }
}

impl Deref for Backends {
    type Target = [Backend];

    fn deref(&self) -> &[Backend] {
        &self.list
    }
}

impl Backends {
    /// The place of one of them, each as often as its weight says if `random` is uniform. None: there is none, or none has
    /// a weight, and the request is answered with 500 (HTTPRouteRule.backendRefs).
    pub fn pick(&self, random: u64) -> Option<usize> {
        match (self.list.len(), self.sums.last()) {
            (1, Some(1..)) => Some(0),
            (_, Some(&total @ 1..)) => {
                let point = (u128::from(random) * u128::from(total)) >> u64::BITS;
                Some(self.sums.partition_point(|sum| u128::from(*sum) <= point))
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::panic)]

    use proptest::prelude::*;

    use super::super::filter::Filters;
    use super::super::rule::BackendTarget;
    use super::*;

    const DRAWS: u32 = 10_000;

    fn backends(weights: &[u32]) -> Backends {
        let backend = |(index, &weight): (usize, &u32)| Backend {
            target: BackendTarget::Service(index),
            weight,
            filters: Filters::default(),
        };
        weights.iter().enumerate().map(backend).collect::<Vec<_>>().into()
    }

    #[test]
    fn only_what_has_a_weight_is_picked() {
        let check = |weights: &[u32], random: u64, expected: Option<usize>| {
            let backends = backends(weights);
            assert_eq!(backends.pick(random), expected, "{weights:?} {random}");
        };
        check(&[], 0, None);
        check(&[0], 0, None);
        check(&[0, 0], u64::MAX, None);
        check(&[1], 0, Some(0));
        check(&[7], u64::MAX, Some(0));
        check(&[0, 1, 0], 0, Some(1));
        check(&[0, 1, 0], u64::MAX, Some(1));
        check(&[1, 1], u64::MAX / 2, Some(0));
        check(&[1, 1], u64::MAX / 2 + 1, Some(1));
        check(&[u32::MAX, u32::MAX, u32::MAX], u64::MAX, Some(2));
    }

    proptest! {
        #[test]
        fn shares_converge_to_the_weights(weights in prop::collection::vec(0u32..1000, 1..6), seed: u64) {
            let backends = backends(&weights);
            let total: u32 = weights.iter().sum();
            let mut random = fastrand::Rng::with_seed(seed);
            let mut counts = vec![0u32; weights.len()];
            for picked in (0..DRAWS).filter_map(|_| backends.pick(random.u64(..))) {
                counts[picked] += 1;
            }
            prop_assert_eq!(counts.iter().sum::<u32>(), if total == 0 { 0 } else { DRAWS });
            for (count, weight) in counts.iter().zip(&weights) {
                let share = f64::from(*weight) / f64::from(total.max(1));
                prop_assert!((f64::from(*count) / f64::from(DRAWS) - share).abs() < 0.05);
                prop_assert!(*weight > 0 || *count == 0);
            }
        }
    }
}

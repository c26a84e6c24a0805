//! What a rule or a backend does to a request and its response.

use std::sync::Arc;

use super::cors::Cors;
use super::edit::HeaderEdits;
use super::redirect::{Redirect, Rewrite};

/// Filters of a rule, or of one of its backends.
#[derive(Clone, Debug, Default)]
pub struct Filters {
    /// RequestHeaderModifier.
    pub request: HeaderEdits,
    /// ResponseHeaderModifier.
    pub response: HeaderEdits,
    /// RequestRedirect: the request isn't forwarded.
    pub redirect: Option<Redirect>,
    /// URLRewrite.
    pub rewrite: Option<Rewrite>,
    /// RequestMirror, any number.
    pub mirrors: Vec<Mirror>,
    /// CORS.
    pub cors: Option<Arc<Cors>>,
}

/// RequestMirror: a copy goes there, its answer is thrown away.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mirror {
    /// Index into `Routes::targets`.
    pub target: usize,
    /// Share of requests: so many of `denominator`.
    pub numerator: u32,
    /// At least 1.
    pub denominator: u32,
}

impl Mirror {
    /// True for so large a share of requests, if `random` is uniform (HTTPRequestMirrorFilter.fraction, .percent).
    pub fn takes(&self, random: u32) -> bool {
        (u64::from(random) * u64::from(self.denominator)) >> u32::BITS < u64::from(self.numerator)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mirror_takes_its_share_of_the_requests() {
        const DRAWS: u32 = 10_000;
        let check = |numerator: u32, denominator: u32, expected: u32| {
            let mirror = Mirror { target: 0, numerator, denominator };
            let step = u32::MAX / DRAWS;
            let taken: u32 = (0..DRAWS).map(|draw| u32::from(mirror.takes(draw * step))).sum();
            assert!(taken.abs_diff(expected) <= 1, "{numerator}/{denominator}: {taken}");
            assert_eq!(mirror.takes(u32::MAX), numerator >= denominator, "{numerator}/{denominator}");
            assert_eq!(mirror.takes(0), numerator > 0, "{numerator}/{denominator}");
        };
        check(0, 100, 0);
        check(1, 100, 100);
        check(1, 3, 3334);
        check(99, 100, 9900);
        check(100, 100, 10_000);
        check(u32::MAX, u32::MAX, 10_000);
    }
}

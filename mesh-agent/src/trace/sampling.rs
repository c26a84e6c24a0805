//! Which requests are recorded. Pure: time and ids are arguments.
//!
//! A decision that came with the request holds. Without one the service's ratio, or the default, is held against the trace id, and
//! a rate bounds how many traces begin here. What isn't recorded may be kept at its end all the same, where no party outside
//! the mesh has decided.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use super::context::{TraceId, Verdict};
use crate::policy::gcra::{Bucket, Rate};

/// Bits of the trace id that decide (OpenTelemetry, "TraceState: Probability Sampling").
const BITS: u32 = 56;

/// A share of all traces.
///
/// As text, a number from 0 to 1.
#[derive(Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Ratio(u64);

impl Ratio {
    /// None of them.
    pub const NONE: Self = Self(0);
    /// All of them.
    pub const ALL: Self = Self(1 << BITS);

    /// True if the trace is among them. Whoever asks with the same ratio gets the same answer, and with a larger one no other
    /// that is smaller.
    pub fn takes(self, trace: TraceId) -> bool {
        let random = trace.0 as u64 & ((1 << BITS) - 1);
        random >= (1 << BITS) - self.0
    }
}

/// A text that is no ratio.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} isn't a ratio: expected a number from 0 to 1, such as 0.01")]
pub struct BadRatio(String);

impl FromStr for Ratio {
    type Err = BadRatio;

    fn from_str(text: &str) -> Result<Self, BadRatio> {
        let ratio: f64 = text.trim().parse().map_err(|_| BadRatio(text.to_owned()))?;
        if !(0.0..=1.0).contains(&ratio) {
            return Err(BadRatio(text.to_owned()));
        }
        Ok(Self((ratio * (1_u64 << BITS) as f64).round() as u64))
    }
}

impl TryFrom<String> for Ratio {
    type Error = BadRatio;

    fn try_from(text: String) -> Result<Self, BadRatio> {
        text.parse()
    }
}

impl From<Ratio> for String {
    fn from(ratio: Ratio) -> Self {
        ratio.to_string()
    }
}

impl fmt::Display for Ratio {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // As it was given, rather than as near as 56 bits come to it.
        const DIGITS: f64 = 1e12;
        ((self.0 as f64 / (1_u64 << BITS) as f64 * DIGITS).round() / DIGITS).fmt(f)
    }
}

impl fmt::Debug for Ratio {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// What is kept at its end though it isn't sampled.
///
/// As text, `off`, or `errors` and a duration, either or both with a comma between.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Keep {
    /// What failed.
    pub errors: bool,
    /// What took at least this long until its response began.
    pub slow: Option<Duration>,
}

impl Keep {
    /// False if nothing is.
    pub fn any(self) -> bool {
        self.errors || self.slow.is_some()
    }

    /// True for a request that ended like this.
    pub fn takes(self, failed: bool, took: Duration) -> bool {
        self.errors && failed || self.slow.is_some_and(|bound| took >= bound)
    }
}

impl fmt::Display for Keep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.errors, self.slow) {
            (false, None) => f.write_str("off"),
            (true, None) => f.write_str("errors"),
            (false, Some(slow)) => write!(f, "{}ms", slow.as_millis()),
            (true, Some(slow)) => write!(f, "errors,{}ms", slow.as_millis()),
        }
    }
}

/// What is decided when a request begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Recorded.
    Sampled,
    /// Not recorded, unless it fails or is slow.
    Candidate,
    /// Not recorded.
    Dropped,
}

/// Decides for all workers.
#[derive(Debug)]
pub struct Sampler {
    ratio: Ratio,
    keep: Keep,
    rate: Option<Rate>,
    begun: Bucket,
    kept: Bucket,
}

impl Sampler {
    /// `ratio` where the service has none; at most `limit` traces a second begin here, 0 for as many as like, and as many more are
    /// kept at their end.
    pub fn new(ratio: Ratio, limit: u32, keep: Keep) -> Self {
        let rate = (limit > 0).then(|| Rate::new(limit, Duration::from_secs(1), limit));
        Self { ratio, keep, rate, begun: Bucket::default(), kept: Bucket::default() }
    }

    /// True if anything is kept at its end.
    pub fn keeps(&self) -> bool {
        self.keep.any()
    }

    /// Decides about a request. `keeps`: the agent that decided not to record it keeps what fails.
    pub fn decide(
        &self,
        verdict: Verdict,
        keeps: bool,
        service: Option<Ratio>,
        trace: TraceId,
        now_ns: u64,
    ) -> Decision {
        let unsampled = || if self.keep.any() { Decision::Candidate } else { Decision::Dropped };
        match verdict {
            Verdict::Yes | Verdict::Debug => Decision::Sampled,
            Verdict::No if keeps => unsampled(),
            Verdict::No => Decision::Dropped,
            Verdict::Open if !service.unwrap_or(self.ratio).takes(trace) => unsampled(),
            Verdict::Open if self.has_room(&self.begun, now_ns) => Decision::Sampled,
            Verdict::Open => unsampled(),
        }
    }

    /// True if a candidate that ended like this is kept.
    pub fn keeps_at_end(&self, failed: bool, took: Duration, now_ns: u64) -> bool {
        self.keep.takes(failed, took) && self.has_room(&self.kept, now_ns)
    }

    fn has_room(&self, bucket: &Bucket, now_ns: u64) -> bool {
        self.rate.is_none_or(|rate| bucket.take(rate, 0, now_ns).passes())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;

    use super::*;

    const ALL: Keep = Keep { errors: true, slow: Some(Duration::from_secs(1)) };
    const SECOND: u64 = 1_000_000_000;

    #[test]
    fn ratios_are_read_strictly_and_shown_as_they_were() {
        for (text, want) in
            [("0", Ratio::NONE), ("1", Ratio::ALL), ("1.0", Ratio::ALL), (" 0.5 ", Ratio(1 << 55))]
        {
            assert_eq!(text.parse(), Ok(want), "{text}");
        }
        for text in ["0.01", "0.5", "0.000001", "1", "0"] {
            assert_eq!(text.parse::<Ratio>().unwrap().to_string(), text);
        }
        for text in ["", "-0.1", "1.1", "50%", "NaN", "inf", "all"] {
            assert!(text.parse::<Ratio>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_ratio_takes_its_share() {
        let mut rng = fastrand::Rng::with_seed(7);
        let tenth: Ratio = "0.1".parse().unwrap();
        let taken = (0..100_000).filter(|_| tenth.takes(TraceId(rng.u128(..)))).count();
        assert!((9_500..10_500).contains(&taken), "{taken}");
        let all = |ratio: Ratio| [0, 1, u128::MAX].map(|id| ratio.takes(TraceId(id)));
        assert_eq!((all(Ratio::ALL), all(Ratio::NONE)), ([true; 3], [false; 3]));
    }

    proptest! {
        #[test]
        fn what_a_ratio_takes_every_larger_one_takes(id: u128, a in 0.0..=1.0_f64, b in 0.0..=1.0_f64) {
            let [small, large] = [a.min(b), a.max(b)].map(|ratio| ratio.to_string().parse::<Ratio>().unwrap());
            prop_assert!(!small.takes(TraceId(id)) || large.takes(TraceId(id)));
        }
    }

    #[test]
    fn whoever_decided_before_is_believed() {
        let sampler = Sampler::new(Ratio::ALL, 0, ALL);
        let decide = |verdict, keeps| sampler.decide(verdict, keeps, None, TraceId(1), SECOND);
        assert_eq!(decide(Verdict::Yes, false), Decision::Sampled);
        assert_eq!(decide(Verdict::Debug, false), Decision::Sampled);
        assert_eq!(decide(Verdict::No, false), Decision::Dropped);
        // An agent did, which keeps what fails.
        assert_eq!(decide(Verdict::No, true), Decision::Candidate);
        assert_eq!(decide(Verdict::Open, false), Decision::Sampled);
        let without = Sampler::new(Ratio::NONE, 0, Keep::default());
        assert_eq!(without.decide(Verdict::No, true, None, TraceId(1), SECOND), Decision::Dropped);
        assert_eq!(without.decide(Verdict::Open, false, None, TraceId(1), SECOND), Decision::Dropped);
    }

    #[test]
    fn a_services_own_ratio_comes_first() {
        let sampler = Sampler::new(Ratio::NONE, 0, Keep::default());
        let decide = |service| sampler.decide(Verdict::Open, false, service, TraceId(1), SECOND);
        assert_eq!(decide(None), Decision::Dropped);
        assert_eq!(decide(Some(Ratio::ALL)), Decision::Sampled);
    }

    #[test]
    fn no_more_traces_begin_than_the_limit_allows() {
        let sampler = Sampler::new(Ratio::ALL, 10, ALL);
        let begun = |now| {
            let decide = || sampler.decide(Verdict::Open, false, None, TraceId(1), now);
            (0..100).filter(|_| decide() == Decision::Sampled).count()
        };
        assert_eq!((begun(SECOND), begun(SECOND + SECOND / 10), begun(3 * SECOND)), (10, 1, 10));
        // Those of others aren't counted, and what is kept has a limit of its own.
        assert_eq!(sampler.decide(Verdict::Yes, false, None, TraceId(1), SECOND), Decision::Sampled);
        let kept = (0..100).filter(|_| sampler.keeps_at_end(true, Duration::ZERO, SECOND)).count();
        assert_eq!(kept, 10);
    }

    #[test]
    fn what_failed_or_was_slow_is_kept() {
        let check = |keep: Keep, failed, seconds, want| {
            let sampler = Sampler::new(Ratio::NONE, 0, keep);
            assert_eq!(sampler.keeps_at_end(failed, Duration::from_secs(seconds), SECOND), want);
        };
        check(ALL, true, 0, true);
        check(ALL, false, 1, true);
        check(ALL, false, 0, false);
        check(Keep { slow: None, ..ALL }, false, 9, false);
        check(Keep { errors: false, ..ALL }, true, 0, false);
        check(Keep::default(), true, 9, false);
    }
}

//! A share of requests, decided by a random number that the caller brings.

/// A probability in steps of a millionth.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Chance(u32);

const ONE: u32 = 1_000_000;

impl Chance {
    /// Every request.
    pub const ALWAYS: Self = Self(ONE);

    /// From percent, 0 to 100; what is outside counts as the nearer end.
    pub fn percent(percent: f64) -> Self {
        // The cast saturates, and takes what isn't a number for 0.
        Self((percent.clamp(0.0, 100.0) * 10_000.0).round() as u32)
    }

    /// In percent.
    pub fn as_percent(self) -> f64 {
        f64::from(self.0) / 10_000.0
    }

    /// In millionths, for an atomic.
    pub const fn millionths(self) -> u32 {
        self.0
    }

    /// From millionths; what is more than all counts as all.
    pub fn of_millionths(millionths: u32) -> Self {
        Self(millionths.min(ONE))
    }

    /// True for this share of all `random` numbers.
    pub fn hits(self, random: u32) -> bool {
        (u64::from(random) * u64::from(ONE)) >> 32 < u64::from(self.0)
    }

    /// True if `part` is at least this share of `whole`.
    pub fn reached(self, part: u64, whole: u64) -> bool {
        u128::from(part) * u128::from(ONE) >= u128::from(whole) * u128::from(self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_of_all_numbers_hits() {
        fn check(percent: f64, want: usize) {
            let chance = Chance::percent(percent);
            let hits = (0..=u32::MAX).step_by(1 << 12).filter(|random| chance.hits(*random)).count();
            assert!(hits.abs_diff(want) <= 1, "{percent}: {hits}");
        }
        check(0.0, 0);
        check(-1.0, 0);
        check(f64::NAN, 0);
        check(0.1, 1049);
        check(50.0, 1 << 19);
        check(100.0, 1 << 20);
        check(1000.0, 1 << 20);
    }

    #[test]
    fn a_share_is_reached_from_its_very_value_on() {
        assert!(Chance::percent(50.0).reached(5, 10));
        assert!(!Chance::percent(50.0).reached(4, 10));
        assert!(!Chance::percent(33.4).reached(1, 3));
        assert!(Chance::percent(0.0).reached(0, 10));
    }
}

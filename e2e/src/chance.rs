//! Random moments and choices that can be repeated: all of them follow from one seed, which is printed.

use std::time::Duration;

/// The variable with the seed to use.
pub const SEED_VARIABLE: &str = "E2E_SEED";

/// A sequence of random numbers (`SplitMix64`: one word of state, and good enough to choose a moment).
#[derive(Clone, Debug)]
pub struct Chance(u64);

impl Chance {
    /// The sequence of this seed.
    pub fn of(seed: u64) -> Self {
        Self(seed)
    }

    /// Another sequence, which depends on this one alone.
    #[must_use]
    pub fn branch(&mut self) -> Self {
        Self(self.next())
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = self.0;
        word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        word ^ (word >> 31)
    }

    /// A number below `end`; 0 if there is none.
    pub fn below(&mut self, end: usize) -> usize {
        let end = u64::try_from(end).unwrap_or(u64::MAX).max(1);
        usize::try_from(self.next() % end).unwrap_or(0)
    }

    /// A time from `least` to `most`.
    pub fn between(&mut self, least: Duration, most: Duration) -> Duration {
        let span = most.saturating_sub(least).as_micros().try_into().unwrap_or(usize::MAX);
        least + Duration::from_micros(u64::try_from(self.below(span)).unwrap_or(0))
    }
}

/// The seed of [`SEED_VARIABLE`], else one from the clock.
pub fn seed() -> u64 {
    let given = std::env::var(SEED_VARIABLE).ok().and_then(|text| text.parse().ok());
    given.unwrap_or_else(|| {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        u64::from(now.map_or(1, |since| since.subsec_nanos()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_gives_the_same_choices_again_and_other_seeds_give_others() {
        let choices = |seed| {
            let mut chance = Chance::of(seed);
            (0..20).map(|_| chance.below(1000)).collect::<Vec<_>>()
        };
        assert_eq!(choices(1), choices(1));
        assert_ne!(choices(1), choices(2));
    }

    #[test]
    fn a_time_lies_between_its_bounds() {
        let (least, most) = (Duration::from_secs(1), Duration::from_secs(2));
        let mut chance = Chance::of(7);
        assert!((0..100).map(|_| chance.between(least, most)).all(|time| (least..most).contains(&time)));
        assert_eq!(chance.between(most, most), most);
    }
}

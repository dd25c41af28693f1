//! Where does chance come from? One seed, and nothing else: the same seed always gives the same run.

/// SplitMix64: small, fast, and the same for ever, which no library promises of its default generator.
#[derive(Clone, Debug)]
pub struct Rng(u64);

impl Rng {
    /// The sequence that belongs to a seed.
    pub fn new(seed: u64) -> Rng {
        Rng(seed.wrapping_mul(0xD6E8_FEB8_6659_FD93) ^ 0x706F_6F6C_6421)
    }

    /// The next 64 bits.
    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// Evenly one of `0..n`.
    pub fn below(&mut self, n: u64) -> u64 {
        assert!(n > 0, "there is nothing below zero");
        self.bits() % n
    }

    /// Evenly one of `low..=high`.
    pub fn between(&mut self, low: u64, high: u64) -> u64 {
        low + self.below(high - low + 1)
    }

    /// One of `low..=high`, every power of two as likely as the next: mostly short, now and then very long.
    pub fn spread(&mut self, low: u64, high: u64) -> u64 {
        let bits = 64 - (high / low.max(1)).leading_zeros();
        let top = low.max(1) << self.below(u64::from(bits) + 1);
        self.between(low, top.clamp(low, high))
    }

    /// True in so many of a hundred cases.
    pub fn chance(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }

    /// One of them; `None` of nothing.
    pub fn pick<'a, T>(&mut self, from: &'a [T]) -> Option<&'a T> {
        if from.is_empty() {
            None
        } else {
            from.get(self.below(from.len() as u64) as usize)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sequence_of_a_seed_never_changes() {
        let mut rng = Rng::new(1);
        assert_eq!(
            [rng.bits(), rng.bits()],
            [18_412_170_924_698_996_245, 1_850_069_797_317_114_170]
        );
    }

    #[test]
    fn bounds_hold() {
        let mut rng = Rng::new(7);
        for _ in 0..10_000 {
            assert!((3..=9).contains(&rng.between(3, 9)));
            assert!((3..=900).contains(&rng.spread(3, 900)));
        }
    }
}

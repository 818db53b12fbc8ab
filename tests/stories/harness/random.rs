//! Reproducible randomness.

/// Pseudo-random numbers from a seed (splitmix64).
#[derive(Debug, Clone)]
pub struct Random(u64);

impl Random {
    /// Takes the seed from `PILCROW_SEED` if it is set, else chooses a new one. Prints the seed.
    pub fn from_env() -> Self {
        let fresh = || std::time::UNIX_EPOCH.elapsed().map_or(1, |since| since.as_micros() % 1_000_000_000);
        let named = std::env::var("PILCROW_SEED").ok().map(|seed| seed.parse().expect("a seed is a number"));
        let seed = named.unwrap_or_else(|| u64::try_from(fresh()).unwrap());
        println!("PILCROW_SEED={seed}");
        Self(seed)
    }

    /// A separate generator for each part of a story. The draws of one part do not affect those of another.
    pub fn split(&mut self) -> Self {
        Self(self.next())
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    /// A number from 0 to below `limit`.
    pub fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }

    /// An index into a collection of this length.
    pub fn index(&mut self, length: usize) -> usize {
        usize::try_from(self.below(length as u64)).unwrap()
    }
}

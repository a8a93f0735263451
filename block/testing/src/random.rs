//! Numbers that look random, the same on every run.

/// A generator of them (xorshift64*).
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// The generator of a seed.
    pub fn new(seed: u64) -> Self {
        Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// The next number.
    pub fn number(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// One below `n`; 0 if there is none.
    pub fn below(&mut self, n: u64) -> u64 {
        (self.number() >> 11).checked_rem(n).unwrap_or(0)
    }

    /// Data that compresses well half of the time.
    pub fn data(&mut self, len: usize) -> Vec<u8> {
        if self.below(2) == 0 {
            let word = self.number().to_le_bytes();
            return (0..len).map(|i| word[i % 8] ^ (i / 64) as u8).collect();
        }
        let words = std::iter::repeat_with(|| self.number().to_le_bytes()).take(len.div_ceil(8));
        let mut data: Vec<u8> = words.flatten().collect();
        data.truncate(len);
        data
    }
}

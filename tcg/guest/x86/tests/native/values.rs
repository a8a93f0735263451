//! Random operands of vector instructions.

use crate::rng::Rng;

impl Rng {
    /// A binary32.
    pub(crate) fn single(&mut self) -> u32 {
        const EDGES: [u32; 14] = [
            0,
            0x8000_0000,
            1,
            0x8000_0001,
            0x007f_ffff,
            0x0080_0000,
            0x3f80_0000,
            0xbf80_0000,
            0x7f7f_ffff,
            0x7f80_0000,
            0xff80_0000,
            0x7fc0_1234,
            0xffa0_0001,
            0x4f00_0000,
        ];
        match self.below(4) {
            0 => EDGES[self.below(14) as usize],
            1 => (self.below(2000) as f32 - 1000.0).to_bits(),
            2 => (127 - 20 + self.below(40) as u32) << 23 | (self.next() as u32 & 0x807f_ffff),
            _ => self.next() as u32,
        }
    }

    /// A binary64.
    pub(crate) fn double(&mut self) -> u64 {
        const EDGES: [u64; 12] = [
            0,
            1 << 63,
            1,
            0x000f_ffff_ffff_ffff,
            0x3ff0_0000_0000_0000,
            0x7fef_ffff_ffff_ffff,
            0x7ff0_0000_0000_0000,
            0xfff0_0000_0000_0000,
            0x7ff8_0000_0000_1234,
            0xfff4_0000_0000_0001,
            0x41e0_0000_0000_0000,
            0x36a0_0000_0000_0000,
        ];
        match self.below(4) {
            0 => EDGES[self.below(12) as usize],
            1 => (self.below(2000) as f64 - 1000.0).to_bits(),
            2 => f64::from(f32::from_bits(self.single())).to_bits(),
            _ => self.next(),
        }
    }

    /// Eight bytes that mean something to one kind of lanes or another.
    pub(crate) fn value(&mut self) -> u64 {
        match self.below(4) {
            0 => u64::from(self.single()) | u64::from(self.single()) << 32,
            1 => self.double(),
            2 => (0..8).fold(0, |v, _| v << 8 | [0, 1, 0x7f, 0x80, 0xff][self.below(5) as usize]),
            _ => self.next() & [u64::MAX, 0xff, 0x1f][self.below(3) as usize],
        }
    }
}

//! Operands for the randomised tests: a fixed-seed generator that dwells where the rules change.

/// xorshift64*.
pub(crate) struct Rng(u64);

impl Rng {
    pub(crate) fn new(seed: u64) -> Rng {
        Rng(seed | 1)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    pub(crate) fn below(&mut self, n: u64) -> u64 {
        ((u128::from(self.next()) * u128::from(n)) >> 64) as u64
    }

    pub(crate) fn wide(&mut self) -> u128 {
        (u128::from(self.next()) << 64) | u128::from(self.next())
    }
}

/// Widths of a format.
#[derive(Clone, Copy)]
pub(crate) struct Shape {
    pub(crate) exp: u32,
    pub(crate) mant: u32,
    /// The mantissa field's top bit is the integer bit.
    pub(crate) explicit: bool,
}

impl Shape {
    pub(crate) const F16: Shape = Shape { exp: 5, mant: 10, explicit: false };
    pub(crate) const BF16: Shape = Shape { exp: 8, mant: 7, explicit: false };
    pub(crate) const F32: Shape = Shape { exp: 8, mant: 23, explicit: false };
    pub(crate) const F64: Shape = Shape { exp: 11, mant: 52, explicit: false };
    pub(crate) const X80: Shape = Shape { exp: 15, mant: 64, explicit: true };
    pub(crate) const F128: Shape = Shape { exp: 15, mant: 112, explicit: false };

    fn put(self, sign: u64, exp: u64, mant: u128) -> u128 {
        let mant = mant & ((1 << self.mant) - 1);
        let mant = match (self.explicit, exp) {
            (false, _) | (true, 0) => mant,
            (true, _) => mant | 1 << (self.mant - 1),
        };
        u128::from(sign & 1) << (self.exp + self.mant) | u128::from(exp) << self.mant | mant
    }

    /// A fraction with long runs: where ties, carries and exact results are.
    fn mantissa(self, r: &mut Rng) -> u128 {
        let field = self.mant - u32::from(self.explicit);
        let all = (1u128 << field) - 1;
        let run = |r: &mut Rng| all >> r.below(u64::from(field) + 1).min(127);
        match r.below(6) {
            0 => 0,
            1 => all & !run(r),
            2 => run(r),
            3 => (run(r) ^ run(r)) ^ (1u128 << r.below(u64::from(field))),
            4 => r.wide() & all & !(all >> r.below(u64::from(field)).min(30)),
            _ => r.wide() & all,
        }
    }

    /// One operand.
    pub(crate) fn any(self, r: &mut Rng) -> u128 {
        let max = (1u64 << self.exp) - 1;
        let bias = max >> 1;
        let sign = r.next() >> 63;
        let mant = self.mantissa(r);
        let exp = match r.below(16) {
            0 => return self.put(sign, 0, 0),
            1 => return self.put(sign, max, 0),
            2 => max,
            3 | 4 => 0,
            5 => 1 + r.below(3),
            6 => max - 1 - r.below(3),
            7 | 8 => bias - 1 + r.below(3),
            9 => bias + r.below(u64::from(self.mant) + 14).min(bias - 1),
            10 => (bias / 2).wrapping_add(r.below(8)),
            11 => (bias + bias / 2).wrapping_sub(r.below(8)),
            12 => (bias + r.below(2 * u64::from(self.mant))).saturating_sub(u64::from(self.mant)) & max,
            13 => r.below(u64::from(self.mant) + 4) & max,
            _ => r.below(max + 1),
        };
        self.put(sign, exp, mant)
    }

    /// An operand close to `a`: same exponent or a few away, fraction alike or not.
    pub(crate) fn near(self, a: u128, r: &mut Rng) -> u128 {
        let max = (1u64 << self.exp) - 1;
        let exp = (a >> self.mant) as u64 & max;
        let exp = match r.below(4) {
            0 => exp,
            1 => exp.saturating_add(r.below(3)).saturating_sub(1),
            2 => exp.saturating_add(r.below(u64::from(self.mant) + 4)),
            _ => exp.saturating_sub(r.below(u64::from(self.mant) + 4)),
        }
        .min(max);
        let mant = match r.below(3) {
            0 => a.wrapping_add(u128::from(r.below(5))).wrapping_sub(2),
            1 => a,
            _ => self.mantissa(r),
        };
        self.put(r.next() >> 63, exp, mant)
    }

    /// Two operands, related half of the time.
    pub(crate) fn pair(self, r: &mut Rng) -> (u128, u128) {
        let a = self.any(r);
        let b = if r.below(2) == 0 { self.any(r) } else { self.near(a, r) };
        (a, b)
    }
}

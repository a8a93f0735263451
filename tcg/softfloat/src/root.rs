//! Integer square roots without a division: a table, Newton's iteration for the reciprocal root, and one exact
//! correction.
//!
//! Every step errs downward (the iteration converges from below whatever it starts with, and truncation lowers),
//! so the estimate is the root or one less, and the exact remainder tells which.

/// `2^16 / sqrt(m)` at the middle of each interval of `m = 1 + i/128`, `m` in [1, 4): 9 bits right.
const TABLE: [u16; 384] = {
    let mut table = [0; 384];
    let mut i = 0;
    while i < 384 {
        table[i] = ((1 << 40) / (2 * i as u64 + 257)).isqrt() as u16;
        i += 1;
    }
    table
};

/// `2^63 / sqrt(n / 2^62)` for `n >= 2^62`, at most 2^-33 of itself too small.
#[inline]
fn reciprocal(n: u64) -> u64 {
    let r = u64::from(TABLE[((n >> 55) as usize).wrapping_sub(128) % 384]);
    // r * (3 - m * r^2) / 2, with m and r in fixed point: first to 17 bits, r scaled by 2^31 ...
    let t = (3u64 << 62).wrapping_sub((n >> 32).wrapping_mul(r * r));
    let r = r.wrapping_mul(t >> 32) >> 16;
    // ... then to 34, scaled by 2^63; one more is taken off because the product was truncated.
    let square = u128::from(r.wrapping_mul(r));
    let t = ((3u64 << 60) - 1).wrapping_sub(((square * u128::from(n)) >> 64) as u64);
    ((u128::from(r) * u128::from(t)) >> 29) as u64
}

/// Root and remainder of `n`, which is at least 2^62.
#[inline]
pub(crate) fn root64(n: u64) -> (u64, u64) {
    let s = ((u128::from(n) * u128::from(reciprocal(n))) >> 94) as u64;
    let rest = n.wrapping_sub(s.wrapping_mul(s));
    if rest > 2 * s { (s + 1, rest - 2 * s - 1) } else { (s, rest) }
}

/// Root and remainder of `n`, which is at least 2^126.
#[inline]
pub(crate) fn root128(n: u128) -> (u64, u128) {
    let high = (n >> 64) as u64;
    let r = u128::from(reciprocal(high));
    let s = (u128::from(high) * r) >> 62;
    // The rest over twice the root, by the same reciprocal, doubles the 33 bits.
    let rest = n.wrapping_sub(s * s);
    let s = s + (((rest >> 32) * r) >> 95);
    let rest = n.wrapping_sub(s * s);
    let (s, rest) = if rest > 2 * s { (s + 1, rest - 2 * s - 1) } else { (s, rest) };
    (s as u64, rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn roots_are_floors() {
        let mut x = 0x9e37_79b9_7f4a_7c15u64;
        for i in 0..2_000_000u64 {
            x ^= x << 13;
            x ^= x >> 7;
            x ^= x << 17;
            // Perfect squares and their neighbours, runs of ones, and anything.
            let s = x | 1 << 63;
            let square = u128::from(s) * u128::from(s);
            let wide = match i % 5 {
                0 => square,
                1 => square - 1,
                2 => square + (x as u128 % 3),
                3 => u128::MAX << (x % 128) | 1 << 126,
                _ => (u128::from(x) << 64 | u128::from(x.rotate_left(31))) | 1 << 126,
            };
            let (r, rest) = root128(wide);
            assert_eq!((u128::from(r), rest), (wide.isqrt(), wide - wide.isqrt().pow(2)), "{wide:#x}");
            let s = s >> 32;
            let n = match i % 4 {
                0 => s * s,
                1 => s * s - 1,
                2 => u64::MAX << (x % 64) | 1 << 62,
                _ => x | 1 << 62,
            }
            .max(1 << 62);
            assert_eq!(root64(n), (n.isqrt(), n - n.isqrt().pow(2)), "{n:#x}");
        }
        for i in 0..384u64 {
            // Ends of the table's intervals.
            for n in [(i + 128) << 55, ((i + 129) << 55).wrapping_sub(1)] {
                assert_eq!(root64(n), (n.isqrt(), n - n.isqrt().pow(2)), "{n:#x}");
                let wide = u128::from(n) << 64 | u128::from(u64::MAX);
                assert_eq!(u128::from(root128(wide).0), wide.isqrt(), "{wide:#x}");
            }
        }
    }
}

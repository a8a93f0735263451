//! The meaning of the vector functions whose results depend on all of a vector's lanes ([`Scope::All`](crate::Scope::All)).
//!
//! Source: Intel SDM volume 2, VPERM*, VPERMI2*, VPCOMPRESS*, VPEXPAND*, VPMOV*, VPCONFLICT*, VALIGN*.

use super::{Val, scalar};
use crate::VecFn;

/// The value of a function on vectors of `bytes` bytes.
pub(super) fn function(f: VecFn, bytes: usize, [a, b, c]: [&Val; 3], imm: u8) -> Val {
    let size = 1 << (imm & 3);
    let n = bytes / size;
    let mut r = Val::ZERO;
    match f {
        VecFn::Gather => (0..n).for_each(|i| r.set_lane(i, size, a.lane(b.lane(i, size) as usize % n, size))),
        VecFn::GatherTwo => {
            for i in 0..n {
                let from = b.lane(i, size) as usize % (2 * n);
                r.set_lane(i, size, if from < n { a.lane(from, size) } else { c.lane(from - n, size) });
            }
        }
        VecFn::Compress | VecFn::Expand => {
            let set = (0..n).filter(|i| b.lane(*i, size) >> (8 * size - 1) & 1 != 0);
            for (packed, i) in set.enumerate() {
                let (from, to) = if f == VecFn::Compress { (i, packed) } else { (packed, i) };
                r.set_lane(to, size, a.lane(from, size));
            }
        }
        VecFn::Narrow => {
            let to = (1 << (imm >> 2 & 3)).min(size);
            (0..n).for_each(|i| r.set_lane(i, to, narrow(a.lane(i, size), size, to, imm >> 4 & 3)));
        }
        VecFn::Conflict => {
            for i in 0..n {
                let same = (0..i).filter(|j| a.lane(*j, size) == a.lane(i, size));
                r.set_lane(i, size, same.fold(0, |all, j| all | 1 << j));
            }
        }
        _ => {
            let size = if imm & 16 != 0 { 8 } else { 4 };
            let n = bytes / size;
            for i in 0..n {
                let from = i + usize::from(imm & 15);
                let v = if from < n { b.lane(from, size) } else { a.lane((from - n).min(n - 1), size) };
                r.set_lane(i, size, v);
            }
        }
    }
    r
}

/// A lane of `from` bytes in `to` bytes.
fn narrow(v: u64, from: usize, to: usize, how: u8) -> u64 {
    let bits = 8 * to as u32;
    match how {
        1 => {
            let most = i64::MAX >> (64 - bits);
            (scalar::sext(v, 8 * from as u32)).clamp(!most, most) as u64
        }
        2 => v.min(scalar::low_mask(bits)),
        _ => v,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn val(words: [u64; 2]) -> Val {
        let mut v = Val::ZERO;
        v.0[..2].copy_from_slice(&words);
        v
    }

    #[test]
    fn lanes_are_compressed_and_expanded() {
        let (a, mask) = (
            val([0x0000_0002_0000_0001, 0x0000_0004_0000_0003]),
            val([0xffff_ffff_0000_0000, 0xffff_ffff_0000_0000]),
        );
        let r = function(VecFn::Compress, 16, [&a, &mask, &a], 2);
        assert_eq!(r.0[..2], [0x0000_0004_0000_0002, 0]);
        let r = function(VecFn::Expand, 16, [&a, &mask, &a], 2);
        assert_eq!(r.0[..2], [0x0000_0001_0000_0000, 0x0000_0002_0000_0000]);
    }

    #[test]
    fn lanes_are_saturated() {
        assert_eq!(narrow(0x8000, 2, 1, 1) as u8, 0x80);
        assert_eq!(narrow(0x0100, 2, 1, 1), 0x7f);
        assert_eq!(
            (narrow(0x8000, 2, 1, 2), narrow(0x7f, 2, 1, 2), narrow(0x1234, 2, 1, 0) as u8),
            (0xff, 0x7f, 0x34)
        );
    }

    #[test]
    fn equal_lanes_below_are_found() {
        let a = val([7, 7]);
        assert_eq!(function(VecFn::Conflict, 16, [&a, &a, &a], 3).0[..2], [0, 1]);
        assert_eq!(function(VecFn::Conflict, 16, [&a, &a, &a], 2).0[..2], [0, 0x0000_0002_0000_0001]);
    }
}

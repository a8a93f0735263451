//! Pure operations on values of at most 64 bits.
//!
//! Invariant: an integer is held zero-extended in a `u64`, a float as its bits; every result keeps it so.

use crate::{Cond, Inst, Op, Type};

/// The low `bits` bits of `v`, sign-extended. `bits` is 1 to 64.
#[inline]
#[must_use]
pub const fn sext(v: u64, bits: u32) -> i64 {
    let s = 64 - bits;
    ((v << s) as i64) >> s
}

/// The low `bits` bits; all of them from 64 on.
#[inline]
#[must_use]
pub const fn low_mask(bits: u32) -> u64 {
    if bits >= 64 { u64::MAX } else { (1 << bits) - 1 }
}

/// Does `a cond b` hold in integers of `bits` bits? Conditions of flag records never do.
#[inline]
#[must_use]
pub const fn compare(cond: Cond, bits: u32, a: u64, b: u64) -> bool {
    let (sa, sb) = (sext(a, bits), sext(b, bits));
    match cond {
        Cond::Eq => a == b,
        Cond::Ne => a != b,
        Cond::Lt => sa < sb,
        Cond::Ge => sa >= sb,
        Cond::Le => sa <= sb,
        Cond::Gt => sa > sb,
        Cond::Ltu => a < b,
        Cond::Geu => a >= b,
        Cond::Leu => a <= b,
        Cond::Gtu => a > b,
        Cond::TestZ => a & b == 0,
        Cond::TestNz => a & b != 0,
        Cond::Neg | Cond::Pos | Cond::Ov | Cond::NoOv | Cond::ParE | Cond::ParO => false,
    }
}

/// Position and length of `extract`, `sextract`, `deposit`, brought inside a width of `bits`.
#[inline]
pub(super) const fn field(imm: u64, bits: u32) -> (u32, u32) {
    let pos = (imm & 0xff) as u32 % bits;
    let len = (imm >> 8 & 0xff) as u32;
    let most = bits - pos;
    (pos, if len == 0 || len > most { most } else { len })
}

/// Carry-less product of 64-bit numbers.
const fn clmul(a: u64, b: u64) -> u128 {
    let (a, mut b, mut r) = (a as u128, b, 0u128);
    while b != 0 {
        r ^= a << b.trailing_zeros();
        b &= b - 1;
    }
    r
}

/// The value of a pure scalar operation whose operands and result have at most 64 bits; `None` for any other.
/// `aty` is the type of the first operand; operands that are not used are 0.
#[inline]
#[must_use]
pub fn scalar(inst: &Inst, aty: Type, a: u64, b: u64, c: u64) -> Option<u64> {
    let ty = inst.ty;
    let w = ty.bits();
    if w == 0 || w > 64 {
        return None;
    }
    let mask = low_mask(w);
    let r = match inst.op {
        Op::Const | Op::Pc => inst.imm,
        Op::Add => a.wrapping_add(b),
        Op::Sub => a.wrapping_sub(b),
        Op::And => a & b,
        Op::Or => a | b,
        Op::Xor => a ^ b,
        Op::Andc => a & !b,
        Op::Orc => a | !b,
        Op::Eqv => !(a ^ b),
        Op::Not => !a,
        Op::Neg => a.wrapping_neg(),
        Op::Shl => a << (b as u32 & (w - 1)),
        Op::Shr => a >> (b as u32 & (w - 1)),
        Op::Sar => (sext(a, w) >> (b as u32 & (w - 1))) as u64,
        Op::Rotl => rotl(a, b as u32 & (w - 1), w),
        Op::Rotr => rotl(a, (w - (b as u32 & (w - 1))) & (w - 1), w),
        Op::Setcc => u64::from(compare(Cond::from_bits(inst.sub), aty.bits(), a, b)),
        Op::Select => {
            if a != 0 {
                b
            } else {
                c
            }
        }
        Op::Trunc | Op::Zext | Op::Bitcast => a,
        Op::Sext => sext(a, aty.bits()) as u64,
        Op::Extract => {
            let (pos, len) = field(inst.imm, w);
            a >> pos & low_mask(len)
        }
        Op::Sextract => {
            let (pos, len) = field(inst.imm, w);
            sext(a >> pos, len) as u64
        }
        Op::Deposit => {
            let (pos, len) = field(inst.imm, w);
            let m = low_mask(len) << pos;
            a & !m | b << pos & m
        }
        Op::Mul => a.wrapping_mul(b),
        Op::Mulhu => ((u128::from(a) * u128::from(b)) >> w) as u64,
        Op::Mulhs => ((i128::from(sext(a, w)) * i128::from(sext(b, w))) >> w) as u64,
        Op::Mulhsu => ((i128::from(sext(a, w)) * i128::from(b)) >> w) as u64,
        Op::Divu => a.checked_div(b).unwrap_or(u64::MAX),
        Op::Remu => a.checked_rem(b).unwrap_or(a),
        Op::Divs => match sext(b, w) {
            0 => u64::MAX,
            d => sext(a, w).wrapping_div(d) as u64,
        },
        Op::Rems => match sext(b, w) {
            0 => a,
            d => sext(a, w).wrapping_rem(d) as u64,
        },
        Op::Clz => u64::from(a.leading_zeros() - (64 - w)),
        Op::Ctz => u64::from(a.trailing_zeros().min(w)),
        Op::Popcnt => u64::from(a.count_ones()),
        Op::Bswap => a.swap_bytes() >> (64 - w),
        Op::Clmul => clmul(a, b) as u64,
        Op::Clmulh => (clmul(a, b) >> w) as u64,
        Op::Fneg => a ^ sign(w),
        Op::Fabs => a & !sign(w),
        Op::Fsgnj => match inst.sub {
            0 => a & !sign(w) | b & sign(w),
            1 => a & !sign(w) | !b & sign(w),
            _ => a ^ b & sign(w),
        },
        Op::Fbox => a | !low_mask(aty.bits()),
        Op::Funbox => {
            if a | mask == u64::MAX {
                a
            } else {
                canonical_nan(ty)
            }
        }
        _ => return None,
    };
    Some(r & mask)
}

const fn sign(w: u32) -> u64 {
    1 << (w - 1)
}

const fn rotl(a: u64, n: u32, w: u32) -> u64 {
    if n == 0 { a } else { a << n | a >> (w - n) }
}

/// The positive quiet NaN with an empty payload.
#[must_use]
pub const fn canonical_nan(ty: Type) -> u64 {
    match ty {
        Type::F16 => 0x7e00,
        Type::F32 => 0x7fc0_0000,
        _ => 0x7ff8_0000_0000_0000,
    }
}

//! Pure operations with a 128-bit integer among operands or result, and those that only move bits of any width.

use super::{Val, scalar};
use crate::{Cond, Inst, Op, Type};

fn compare(cond: Cond, a: u128, b: u128) -> bool {
    let (sa, sb) = (a as i128, b as i128);
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
        _ => false,
    }
}

/// High half of the 256-bit product.
fn mulhu(a: u128, b: u128) -> u128 {
    const LOW: u128 = u64::MAX as u128;
    let (al, ah, bl, bh) = (a & LOW, a >> 64, b & LOW, b >> 64);
    let mid = ((al * bl) >> 64) + ((ah * bl) & LOW) + ((al * bh) & LOW);
    ah * bh + ((ah * bl) >> 64) + ((al * bh) >> 64) + (mid >> 64)
}

/// Both halves of the carry-less product, low first.
fn clmul(a: u128, b: u128) -> (u128, u128) {
    let (mut lo, mut hi, mut b) = (0, 0, b);
    while b != 0 {
        let n = b.trailing_zeros();
        lo ^= a << n;
        if n != 0 {
            hi ^= a >> (128 - n);
        }
        b &= b - 1;
    }
    (lo, hi)
}

fn mask(bits: u32) -> u128 {
    if bits >= 128 { u128::MAX } else { (1 << bits) - 1 }
}

fn sext(v: u128, bits: u32) -> u128 {
    let s = 128 - bits;
    (((v << s) as i128) >> s) as u128
}

/// The value of a pure operation on 128-bit integers (or between them and narrower ones); `None` if it is another.
pub(super) fn wide(inst: &Inst, types: [Type; 3], args: [&Val; 3]) -> Option<Val> {
    let [aty, ..] = types;
    if matches!(inst.op, Op::Select) {
        let cond = if aty.bytes() > 8 { args[0].u128() != 0 } else { args[0].0[0] != 0 };
        return Some(if cond { *args[1] } else { *args[2] });
    }
    if inst.op == Op::Bitcast {
        return Some(*args[0]);
    }
    let [a, b] = [arg(args[0], aty), arg(args[1], types[1])];
    if inst.op == Op::Setcc && aty == Type::I128 {
        return Some(Val::from_u64(u64::from(compare(Cond::from_bits(inst.sub), a, b))));
    }
    if inst.op == Op::Trunc {
        return Some(Val::from_u128(a & mask(inst.ty.bits())));
    }
    if inst.ty != Type::I128 {
        return None;
    }
    let n = b as u32 & 127;
    let r = match inst.op {
        Op::Const | Op::Pc => u128::from(inst.imm),
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
        Op::Shl => a << n,
        Op::Shr => a >> n,
        Op::Sar => ((a as i128) >> n) as u128,
        Op::Rotl => a.rotate_left(n),
        Op::Rotr => a.rotate_right(n),
        Op::Setcc => {
            return Some(Val::from_u64(u64::from(scalar::compare(
                Cond::from_bits(inst.sub),
                aty.bits().clamp(8, 64),
                a as u64,
                b as u64,
            ))));
        }
        Op::Zext => a,
        Op::Sext => sext(a, aty.bits().clamp(8, 128)),
        Op::Extract => {
            let (pos, len) = scalar::field(inst.imm, 128);
            a >> pos & mask(len)
        }
        Op::Sextract => {
            let (pos, len) = scalar::field(inst.imm, 128);
            sext(a >> pos, len)
        }
        Op::Deposit => {
            let (pos, len) = scalar::field(inst.imm, 128);
            let m = mask(len) << pos;
            a & !m | b << pos & m
        }
        Op::Concat => a & mask(64) | b << 64,
        Op::Mul => a.wrapping_mul(b),
        Op::Mulhu => mulhu(a, b),
        Op::Mulhs => {
            let r = mulhu(a, b);
            let r = if (a as i128) < 0 { r.wrapping_sub(b) } else { r };
            if (b as i128) < 0 { r.wrapping_sub(a) } else { r }
        }
        Op::Mulhsu => {
            let r = mulhu(a, b);
            if (a as i128) < 0 { r.wrapping_sub(b) } else { r }
        }
        Op::Divu => a.checked_div(b).unwrap_or(u128::MAX),
        Op::Remu => a.checked_rem(b).unwrap_or(a),
        Op::Divs if b == 0 => u128::MAX,
        Op::Divs => (a as i128).wrapping_div(b as i128) as u128,
        Op::Rems if b == 0 => a,
        Op::Rems => (a as i128).wrapping_rem(b as i128) as u128,
        Op::Clz => u128::from(a.leading_zeros()),
        Op::Ctz => u128::from(a.trailing_zeros()),
        Op::Popcnt => u128::from(a.count_ones()),
        Op::Bswap => a.swap_bytes(),
        Op::Clmul => clmul(a, b).0,
        Op::Clmulh => clmul(a, b).1,
        _ => return None,
    };
    Some(Val::from_u128(r))
}

fn arg(v: &Val, ty: Type) -> u128 {
    if ty.bytes() > 8 { v.u128() } else { u128::from(v.0[0]) }
}

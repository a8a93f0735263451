//! Integer arithmetic (chapter V, section 11), and the dispatch of all OPI and OPM instructions.

use super::{Check, Operand, Unit, check, fixed, form, mask, permute, reduce, sext, zext};

/// A function of `vs2`'s and the second source's element, both zero-extended, and their width; excess bits of the result
/// are dropped.
pub(super) type Op = fn(u64, u64, u32) -> u64;

/// OPIVV, OPIVX and OPIVI.
pub(super) fn opi(u: &mut Unit<'_>) -> Check<u64> {
    let bits = u.bits();
    let op: Op = match u.insn.funct6() {
        0x00 => |a, b, _| a.wrapping_add(b),
        0x02 => |a, b, _| a.wrapping_sub(b),
        0x03 => |a, b, _| b.wrapping_sub(a),
        0x04 => |a, b, _| a.min(b),
        0x05 => |a, b, n| if sext(a, n) < sext(b, n) { a } else { b },
        0x06 => |a, b, _| a.max(b),
        0x07 => |a, b, n| if sext(a, n) > sext(b, n) { a } else { b },
        0x09 => |a, b, _| a & b,
        0x0a => |a, b, _| a | b,
        0x0b => |a, b, _| a ^ b,
        0x25 => |a, b, n| a << (b & u64::from(n - 1)),
        0x28 => |a, b, n| a >> (b & u64::from(n - 1)),
        0x29 => |a, b, n| (sext(a, n) >> (b & u64::from(n - 1))) as u64,
        other => {
            opi_others(u, other)?;
            return Some(0);
        }
    };
    let shift = matches!(u.insn.funct6(), 0x25 | 0x28 | 0x29);
    let b = if shift { u.second_unsigned() } else { u.second() };
    u.map2(b, |a, b| op(a, b, bits))?;
    Some(0)
}

fn opi_others(u: &mut Unit<'_>, funct6: u32) -> Check {
    match funct6 {
        0x0c => permute::gather(u),
        0x0e if u.insn.funct3() == form::IVV => permute::gather16(u),
        0x0e => permute::slide_up(u),
        0x0f => permute::slide_down(u),
        0x10 => carry(u, |a, b, c| a.wrapping_add(b).wrapping_add(c)),
        0x11 => carry_out(u, |a, b, c, n| (u128::from(a) + u128::from(b) + u128::from(c)) >> n != 0),
        0x12 => carry(u, |a, b, c| a.wrapping_sub(b).wrapping_sub(c)),
        0x13 => carry_out(u, |a, b, c, _| u128::from(a) < u128::from(b) + u128::from(c)),
        0x17 => merge(u, u.second()),
        0x18 => compare(u, |a, b, _| a == b),
        0x19 => compare(u, |a, b, _| a != b),
        0x1a => compare(u, |a, b, _| a < b),
        0x1b => compare(u, |a, b, n| sext(a, n) < sext(b, n)),
        0x1c => compare(u, |a, b, _| a <= b),
        0x1d => compare(u, |a, b, n| sext(a, n) <= sext(b, n)),
        0x1e => compare(u, |a, b, _| a > b),
        0x1f => compare(u, |a, b, n| sext(a, n) > sext(b, n)),
        0x27 if u.insn.funct3() == form::IVI => permute::whole(u),
        0x20..=0x27 | 0x2a | 0x2b => fixed::opi(u, funct6),
        0x2c => narrow(u, |a, b, n| a >> (b & u64::from(2 * n - 1))),
        0x2d => narrow(u, |a, b, n| (sext(a, 2 * n) >> (b & u64::from(2 * n - 1))) as u64),
        0x2e | 0x2f => fixed::clip(u, funct6 & 1 != 0),
        0x30 | 0x31 => reduce::wide(u, funct6 & 1 != 0),
        _ => None,
    }
}

/// OPMVV and OPMVX; the value for an integer register.
pub(super) fn opm(u: &mut Unit<'_>) -> Check<u64> {
    let (funct6, vv) = (u.insn.funct6(), u.insn.funct3() == form::MVV);
    match funct6 {
        0x00..=0x07 => reduce::integer(u, funct6),
        0x08..=0x0b => fixed::average(u, funct6),
        0x0e => permute::slide1_up(u),
        0x0f => permute::slide1_down(u),
        0x10 if vv => return mask::to_scalar(u),
        0x10 => permute::scalar_in(u, u.scalar),
        0x12 => extend(u),
        0x14 => mask::unary(u),
        0x17 => permute::compress(u),
        0x18..=0x1f => mask::logical(u, funct6),
        0x20..=0x27 => multiply_divide(u, funct6),
        0x29 | 0x2b | 0x2d | 0x2f => multiply_add(u, funct6),
        0x30..=0x3f => widen(u, funct6),
        _ => None,
    }?;
    Some(0)
}

/// vadc, vsbc.
fn carry(u: &mut Unit<'_>, f: fn(u64, u64, u64) -> u64) -> Check {
    let (vd, vs2, sew, b) = (u.insn.vd(), u.insn.vs2(), u.sew, u.second());
    let dest = u.dest(vd, sew)?;
    u.sources_of_bits(dest, vs2, b)?;
    for i in u.vstart..u.vl {
        let v = f(u.get(vs2, i, sew), u.operand(b, i, sew), u.bit(0, i).into());
        u.set(vd, i, sew, v);
    }
    Some(())
}

/// vmadc, vmsbc: every body element gets its bit.
fn carry_out(u: &mut Unit<'_>, f: fn(u64, u64, u64, u32) -> bool) -> Check {
    let (vd, vs2, sew, b, bits) = (u.insn.vd(), u.insn.vs2(), u.sew, u.second(), u.bits());
    let dest = Unit::mask_group(vd);
    u.sources_of_bits(dest, vs2, b)?;
    for i in u.vstart..u.vl {
        let carry = !u.insn.vm() && u.bit(0, i);
        let v = f(u.get(vs2, i, sew), u.operand(b, i, sew), carry.into(), bits);
        u.set_bit(vd, i, v);
    }
    Some(())
}

/// vmerge; vmv.v where not masked.
pub(super) fn merge(u: &mut Unit<'_>, b: Operand) -> Check {
    let (vd, vs2, sew) = (u.insn.vd(), u.insn.vs2(), u.sew);
    let dest = u.dest(vd, sew)?;
    u.source(dest, vs2, sew)?;
    u.source1(dest, b, sew)?;
    for i in u.vstart..u.vl {
        let v = if u.active(i) { u.operand(b, i, sew) } else { u.get(vs2, i, sew) };
        u.set(vd, i, sew, v);
    }
    Some(())
}

/// Comparisons to a mask.
fn compare(u: &mut Unit<'_>, f: fn(u64, u64, u32) -> bool) -> Check {
    let (bits, b) = (u.bits(), u.second());
    to_mask(u, b, |a, b| f(a, b, bits))
}

/// Writes a bit `f(vs2[i], second[i])` for active elements.
pub(super) fn to_mask(u: &mut Unit<'_>, b: Operand, mut f: impl FnMut(u64, u64) -> bool) -> Check {
    let (vd, vs2, sew) = (u.insn.vd(), u.insn.vs2(), u.sew);
    let dest = Unit::mask_group(vd);
    u.sources_of_bits(dest, vs2, b)?;
    u.for_active(|u, i| {
        let v = f(u.get(vs2, i, sew), u.operand(b, i, sew));
        u.set_bit(vd, i, v);
    });
    Some(())
}

/// Narrowing: `vs2` is twice as wide.
pub(super) fn narrow(u: &mut Unit<'_>, mut f: impl FnMut(u64, u64, u32) -> u64) -> Check {
    let (vd, vs2, sew, bits, b) = (u.insn.vd(), u.insn.vs2(), u.sew, u.bits(), u.second_unsigned());
    let dest = u.dest(vd, sew)?;
    u.source(dest, vs2, sew + 1)?;
    u.apart((vs2, sew + 1), b, sew)?;
    u.source1(dest, b, sew)?;
    u.for_active(|u, i| {
        let v = f(u.get(vs2, i, sew + 1), u.operand(b, i, sew), bits);
        u.set(vd, i, sew, v);
    });
    Some(())
}

/// vzext, vsext.
fn extend(u: &mut Unit<'_>) -> Check {
    let (vd, vs2, sew) = (u.insn.vd(), u.insn.vs2(), u.sew);
    let kind = u.insn.vs1();
    let from = sew - (4 - (kind >> 1) as i32);
    let signed = kind & 1 != 0;
    let dest = u.dest(vd, sew)?;
    u.source(dest, vs2, from)?;
    u.for_active(|u, i| {
        let v = u.get(vs2, i, from);
        let v = if signed { sext(v, 8 << from) as u64 } else { v };
        u.set(vd, i, sew, v);
    });
    Some(())
}

fn multiply_divide(u: &mut Unit<'_>, funct6: u32) -> Check {
    let op: Op = match funct6 {
        0x20 => |a, b, _| a.checked_div(b).unwrap_or(u64::MAX),
        0x21 => |a, b, n| if b == 0 { u64::MAX } else { sext(a, n).wrapping_div(sext(b, n)) as u64 },
        0x22 => |a, b, _| a.checked_rem(b).unwrap_or(a),
        0x23 => |a, b, n| if b == 0 { a } else { sext(a, n).wrapping_rem(sext(b, n)) as u64 },
        0x24 => |a, b, n| ((u128::from(a) * u128::from(b)) >> n) as u64,
        0x25 => |a, b, _| a.wrapping_mul(b),
        0x26 => |a, b, n| ((i128::from(sext(a, n)) * i128::from(b)) >> n) as u64,
        _ => |a, b, n| ((i128::from(sext(a, n)) * i128::from(sext(b, n))) >> n) as u64,
    };
    let (bits, b) = (u.bits(), u.second());
    u.map2(b, |a, b| op(a, b, bits))
}

/// vmadd, vnmsub, vmacc, vnmsac.
fn multiply_add(u: &mut Unit<'_>, funct6: u32) -> Check {
    let (vd, vs2, sew, b) = (u.insn.vd(), u.insn.vs2(), u.sew, u.second());
    let dest = u.dest(vd, sew)?;
    u.source(dest, vs2, sew)?;
    u.source1(dest, b, sew)?;
    u.for_active(|u, i| {
        let (d, a, b) = (u.get(vd, i, sew), u.get(vs2, i, sew), u.operand(b, i, sew));
        let v = match funct6 {
            0x29 => b.wrapping_mul(d).wrapping_add(a),
            0x2b => a.wrapping_sub(b.wrapping_mul(d)),
            0x2d => b.wrapping_mul(a).wrapping_add(d),
            _ => d.wrapping_sub(b.wrapping_mul(a)),
        };
        u.set(vd, i, sew, v);
    });
    Some(())
}

/// Widening sums, differences, products and sums of products.
fn widen(u: &mut Unit<'_>, funct6: u32) -> Check {
    let (vd, vs2, sew, bits, b) = (u.insn.vd(), u.insn.vs2(), u.sew, u.bits(), u.second());
    // vs2 is wide already in the `.w` forms.
    let wide = matches!(funct6, 0x34..=0x37);
    let eew2 = if wide { sew + 1 } else { sew };
    // Which of vs2 and the second source are signed.
    let (signed2, signed1) = match funct6 {
        0x30 | 0x32 | 0x34 | 0x36 | 0x38 | 0x3c => (false, false),
        // vwmulsu and vwmaccus: the scalar or vs1 is the unsigned one.
        0x3a | 0x3e => (true, false),
        // vwmaccsu
        0x3f => (false, true),
        _ => (true, true),
    };
    check(!matches!(funct6, 0x39))?;
    let dest = u.dest(vd, sew + 1)?;
    u.source(dest, vs2, eew2)?;
    u.apart((vs2, eew2), b, sew)?;
    u.source1(dest, b, sew)?;
    if funct6 >= 0x3c {
        u.accumulates(dest, vs2, b)?;
    }
    let number = |v: u64, signed: bool, bits: u32| if signed { sext(v, bits) as u64 } else { zext(v, bits) };
    u.for_active(|u, i| {
        let a = number(u.get(vs2, i, eew2), signed2, 8 << eew2);
        let b = number(u.operand(b, i, sew), signed1, bits);
        let v = match funct6 {
            0x30 | 0x31 | 0x34 | 0x35 => a.wrapping_add(b),
            0x32 | 0x33 | 0x36 | 0x37 => a.wrapping_sub(b),
            0x38..=0x3b => a.wrapping_mul(b),
            _ => u.get(vd, i, sew + 1).wrapping_add(a.wrapping_mul(b)),
        };
        u.set(vd, i, sew + 1, v);
    });
    Some(())
}

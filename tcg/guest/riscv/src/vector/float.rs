//! Floating point (chapter V, section 13) and its reductions (14.3, 14.4): SEW is 32 or 64.

use softfloat::{Negate, RoundingMode, Status};
use tcg_engine::{Cx, Trap};

use super::{
    Check, Operand, Unit, accrue, check, finish, float_op as op, float_status, form, illegal, integer,
    permute, sext,
};
use crate::{guest::Riscv, state::status};

/// OPFVV and OPFVF; the value for a floating-point register, boxed.
pub(super) fn run(cx: &mut Cx<'_, Riscv>, [word, scalar, ..]: [u64; 4]) -> Result<u64, Trap> {
    let vlenb = cx.guest().cpu().vlenb;
    let on = cx.state.mstatus & status::FS != 0;
    let mut s = float_status(cx.state).filter(|_| on).ok_or(illegal(word))?;
    let result = Unit::new(cx.state, vlenb, word, scalar).and_then(|mut u| {
        let result = dispatch(&mut u, &mut s)?;
        finish(u.h);
        Some(result)
    });
    let result = result.ok_or(illegal(word))?;
    cx.state.mstatus |= status::FS;
    accrue(cx, s.flags);
    Ok(result)
}

/// A scalar of `eew`: a narrow one must be boxed, and is the canonical NaN if not.
fn unbox(v: u64, eew: i32) -> u64 {
    match eew {
        2 if v >> 32 != 0xffff_ffff => 0x7fc0_0000,
        2 => v & 0xffff_ffff,
        _ => v,
    }
}

fn dispatch(u: &mut Unit<'_>, s: &mut Status) -> Check<u64> {
    let (funct6, scalar) = (u.insn.funct6(), u.insn.funct3() == form::FVF);
    // Conversions have elements of other widths and check that themselves.
    if funct6 == 0x12 {
        convert(u, s)?;
        return Some(0);
    }
    check(u.sew >= 2)?;
    u.scalar = unbox(u.scalar, u.sew);
    let (b, sew) = (u.second(), u.sew);
    match (funct6, scalar) {
        (0x10, true) => permute::scalar_in(u, u.scalar),
        (0x10, false) => {
            let v = u.get(u.insn.vs2(), 0, sew);
            return Some(if sew == 2 { v | !0xffff_ffff } else { v });
        }
        (0x0e, true) => permute::slide1_up(u),
        (0x0f, true) => permute::slide1_down(u),
        (0x17, true) => integer::merge(u, b),
        (0x13, false) => unary(u, s),
        (0x01 | 0x03 | 0x05 | 0x07, false) => reduce(u, s, funct6),
        (0x31 | 0x33, false) => reduce_wide(u, s),
        (0x28..=0x2f, _) => multiply_add(u, s, funct6),
        (0x30 | 0x32 | 0x34 | 0x36 | 0x38 | 0x3c..=0x3f, _) => widen(u, s, funct6),
        (0x18..=0x1f, _) => {
            let test = op::comparison(funct6)?;
            integer::to_mask(u, b, |x, y| test(x, y, sew, s))
        }
        _ => {
            let f = op::binary(funct6)?;
            u.map2(b, |x, y| f(x, y, sew, s))
        }
    }?;
    Some(0)
}

/// vfsqrt, vfrsqrt7, vfrec7, vfclass.
fn unary(u: &mut Unit<'_>, s: &mut Status) -> Check {
    let (sew, kind) = (u.sew, u.insn.vs1());
    u.map2(Operand::Scalar(0), |a, _| match kind {
        0 => op::sqrt(a, sew, s),
        4 => op::rsqrt7(a, sew, s),
        5 => op::rec7(a, sew, s),
        _ => op::class(a, sew, s),
    })
}

/// Signs of product and addend, by the low bits of `funct6`: macc nmacc msac nmsac.
fn negate(funct6: u32) -> Negate {
    match funct6 & 3 {
        0 => Negate::NONE,
        1 => Negate::BOTH,
        2 => Negate::ADDEND,
        _ => Negate::PRODUCT,
    }
}

/// vfmadd to vfnmsac: the upper four of eight add to the destination, the lower four multiply it.
fn multiply_add(u: &mut Unit<'_>, s: &mut Status, funct6: u32) -> Check {
    let (vd, vs2, sew, b) = (u.insn.vd(), u.insn.vs2(), u.sew, u.second());
    let dest = u.dest(vd, sew)?;
    u.source(dest, vs2, sew)?;
    u.source1(dest, b, sew)?;
    let accumulates = funct6 & 4 != 0;
    u.for_active(|u, i| {
        let (d, a, b) = (u.get(vd, i, sew), u.get(vs2, i, sew), u.operand(b, i, sew));
        let (x, c) = if accumulates { (a, d) } else { (d, a) };
        let v = op::fma(b, x, c, negate(funct6), sew, s);
        u.set(vd, i, sew, v);
    });
    Some(())
}

/// The widening operations: operands become 64 bits wide, which is exact, and one operation of that width follows.
fn widen(u: &mut Unit<'_>, s: &mut Status, funct6: u32) -> Check {
    let (vd, vs2, b) = (u.insn.vd(), u.insn.vs2(), u.second());
    let wide = matches!(funct6, 0x34 | 0x36);
    let eew2 = if wide { 3 } else { 2 };
    check(u.sew == 2)?;
    let dest = u.dest(vd, 3)?;
    u.source(dest, vs2, eew2)?;
    u.apart((vs2, eew2), b, 2)?;
    u.source1(dest, b, 2)?;
    if funct6 >= 0x3c {
        u.accumulates(dest, vs2, b)?;
    }
    u.for_active(|u, i| {
        let a = u.get(vs2, i, eew2);
        let a = if wide { a } else { op::widen(a, s) };
        let b = op::widen(u.operand(b, i, 2), s);
        let v = match funct6 {
            0x3c..=0x3f => op::fma(a, b, u.get(vd, i, 3), negate(funct6), 3, s),
            0x38 => softfloat::f64::mul(a, b, s),
            0x32 | 0x36 => softfloat::f64::sub(a, b, s),
            _ => softfloat::f64::add(a, b, s),
        };
        u.set(vd, i, 3, v);
    });
    Some(())
}

/// The reductions; the unordered sum is done in order too.
fn reduce(u: &mut Unit<'_>, s: &mut Status, funct6: u32) -> Check {
    let f = op::binary(if funct6 < 4 { 0 } else { funct6 - 1 })?;
    let sew = u.sew;
    fold(u, sew, |sum, v| f(sum, v, sew, s))
}

/// vfwredusum, vfwredosum.
fn reduce_wide(u: &mut Unit<'_>, s: &mut Status) -> Check {
    check(u.sew == 2)?;
    fold(u, 3, |sum, v| {
        let v = op::widen(v, s);
        softfloat::f64::add(sum, v, s)
    })
}

fn fold(u: &mut Unit<'_>, eew: i32, mut f: impl FnMut(u64, u64) -> u64) -> Check {
    let (vd, vs2, vs1, sew) = (u.insn.vd(), u.insn.vs2(), u.insn.vs1(), u.sew);
    u.group(vs2, sew)?;
    check(u.vstart == 0)?;
    if u.vl == 0 {
        return Some(());
    }
    let mut sum = u.get(vs1, 0, eew);
    u.for_active(|u, i| sum = f(sum, u.get(vs2, i, sew)));
    u.set(vd, 0, eew, sum);
    Some(())
}

/// The conversions (sections 13.17 to 13.19). `vs1` says which: its upper two bits same width, widening or narrowing.
fn convert(u: &mut Unit<'_>, s: &mut Status) -> Check {
    let (vd, vs2, sew, kind) = (u.insn.vd(), u.insn.vs2(), u.sew, u.insn.vs1());
    let (from, to) = match kind >> 3 {
        0 => (sew, sew),
        1 => (sew, sew + 1),
        _ => (sew + 1, sew),
    };
    let what = kind & 7;
    // The floating-point side is 32 or 64 bits wide.
    let (float_in, float_out) = (!matches!(what, 2 | 3), matches!(what, 2..=5));
    check((!float_in || from >= 2) && (!float_out || to >= 2))?;
    let dest = u.dest(vd, to)?;
    u.source(dest, vs2, from)?;
    let dynamic = s.rounding;
    let bits = 8 << from;
    u.for_active(|u, i| {
        let a = u.get(vs2, i, from);
        let v = match what {
            0 | 1 => op::to_int(a, from, to, what == 1, dynamic, s),
            2 => op::from_int(a, false, to, s),
            3 => op::from_int(sext(a, bits) as u64, true, to, s),
            6 | 7 => op::to_int(a, from, to, what == 7, RoundingMode::TowardZero, s),
            _ if to > from => op::widen(a, s),
            4 => op::narrow(a, s),
            _ => {
                s.rounding = RoundingMode::Odd;
                let v = op::narrow(a, s);
                s.rounding = dynamic;
                v
            }
        };
        u.set(vd, i, to, v);
    });
    Some(())
}

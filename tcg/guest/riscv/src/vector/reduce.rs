//! Integer reductions (chapter V, section 14). The scalar source and the result are element 0 of one register each.

use super::{Check, Unit, check, sext};

/// Folds the active elements of `vs2`, widened by `widen`, into element 0 of `vs1`. Elements of both have `eew`.
fn fold(u: &mut Unit<'_>, eew: i32, widen: impl Fn(u64) -> u64, f: impl Fn(u64, u64) -> u64) -> Check {
    let (vd, vs2, vs1, sew) = (u.insn.vd(), u.insn.vs2(), u.insn.vs1(), u.sew);
    u.group(vs2, sew)?;
    check(u.vstart == 0 && eew <= 3)?;
    if u.vl == 0 {
        return Some(());
    }
    let mut sum = u.get(vs1, 0, eew);
    u.for_active(|u, i| sum = f(sum, widen(u.get(vs2, i, sew))));
    u.set(vd, 0, eew, sum);
    Some(())
}

/// vredsum to vredmax.
pub(super) fn integer(u: &mut Unit<'_>, funct6: u32) -> Check {
    let (sew, n) = (u.sew, u.bits());
    let same = |v| v;
    match funct6 {
        0 => fold(u, sew, same, u64::wrapping_add),
        1 => fold(u, sew, same, |a, b| a & b),
        2 => fold(u, sew, same, |a, b| a | b),
        3 => fold(u, sew, same, |a, b| a ^ b),
        4 => fold(u, sew, same, u64::min),
        5 => fold(u, sew, same, |a, b| if sext(a, n) < sext(b, n) { a } else { b }),
        6 => fold(u, sew, same, u64::max),
        _ => fold(u, sew, same, |a, b| if sext(a, n) > sext(b, n) { a } else { b }),
    }
}

/// vwredsumu, vwredsum.
pub(super) fn wide(u: &mut Unit<'_>, signed: bool) -> Check {
    let (sew, n) = (u.sew, u.bits());
    fold(u, sew + 1, |v| if signed { sext(v, n) as u64 } else { v }, u64::wrapping_add)
}

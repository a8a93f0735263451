//! Permutations (chapter V, section 16): moves of scalars, slides, gathers, compression, whole registers.

use super::{Check, Operand, Unit, check};

/// vmv.s.x, vfmv.s.f: element 0 alone, if `vl` is not 0.
pub(super) fn scalar_in(u: &mut Unit<'_>, value: u64) -> Check {
    if u.vstart < u.vl {
        u.set(u.insn.vd(), 0, u.sew, value);
    }
    Some(())
}

/// The groups of `vd` and `vs2`, which may not overlap.
fn disjoint(u: &Unit<'_>) -> Check<(u32, u32)> {
    let (vd, vs2) = (u.insn.vd(), u.insn.vs2());
    check(!u.dest(vd, u.sew)?.overlaps(u.input(vs2, u.sew)?))?;
    Some((vd, vs2))
}

fn amount(u: &Unit<'_>) -> u64 {
    match u.second_unsigned() {
        Operand::Scalar(v) => v,
        Operand::Reg(_) => 0,
    }
}

/// vslideup
pub(super) fn slide_up(u: &mut Unit<'_>) -> Check {
    let ((vd, vs2), sew, by) = (disjoint(u)?, u.sew, amount(u));
    u.for_active(|u, i| {
        if let Some(from) = (i as u64).checked_sub(by) {
            let v = u.get(vs2, from as usize, sew);
            u.set(vd, i, sew, v);
        }
    });
    Some(())
}

/// vslidedown: what comes from above VLMAX is zero.
pub(super) fn slide_down(u: &mut Unit<'_>) -> Check {
    let (vd, vs2, sew, by, vlmax) = (u.insn.vd(), u.insn.vs2(), u.sew, amount(u), u.vlmax() as u64);
    let dest = u.dest(vd, sew)?;
    u.source(dest, vs2, sew)?;
    u.for_active(|u, i| {
        let from = by.saturating_add(i as u64);
        let v = if from < vlmax { u.get(vs2, from as usize, sew) } else { 0 };
        u.set(vd, i, sew, v);
    });
    Some(())
}

/// vslide1up, vfslide1up
pub(super) fn slide1_up(u: &mut Unit<'_>) -> Check {
    let ((vd, vs2), sew, scalar) = (disjoint(u)?, u.sew, u.scalar);
    u.for_active(|u, i| {
        let v = i.checked_sub(1).map_or(scalar, |from| u.get(vs2, from, sew));
        u.set(vd, i, sew, v);
    });
    Some(())
}

/// vslide1down, vfslide1down
pub(super) fn slide1_down(u: &mut Unit<'_>) -> Check {
    let (vd, vs2, sew, scalar, last) = (u.insn.vd(), u.insn.vs2(), u.sew, u.scalar, u.vl.wrapping_sub(1));
    let dest = u.dest(vd, sew)?;
    u.source(dest, vs2, sew)?;
    u.for_active(|u, i| {
        let v = if i == last { scalar } else { u.get(vs2, i + 1, sew) };
        u.set(vd, i, sew, v);
    });
    Some(())
}

/// vrgather
pub(super) fn gather(u: &mut Unit<'_>) -> Check {
    let (sew, from) = (u.sew, u.second_unsigned());
    gather_by(u, from, sew)
}

/// vrgatherei16
pub(super) fn gather16(u: &mut Unit<'_>) -> Check {
    let from = u.second();
    gather_by(u, from, 1)
}

fn gather_by(u: &mut Unit<'_>, index: Operand, eew: i32) -> Check {
    let ((vd, vs2), sew, vlmax) = (disjoint(u)?, u.sew, u.vlmax() as u64);
    if let Operand::Reg(vs1) = index {
        check(!u.dest(vd, sew)?.overlaps(u.input(vs1, eew)?))?;
        u.apart((vs2, sew), index, eew)?;
    }
    u.for_active(|u, i| {
        let n = match index {
            Operand::Reg(vs1) => u.get(vs1, i, eew),
            // A scalar index is not cut to SEW.
            Operand::Scalar(n) => n,
        };
        let v = if n < vlmax { u.get(vs2, n as usize, sew) } else { 0 };
        u.set(vd, i, sew, v);
    });
    Some(())
}

/// vcompress
pub(super) fn compress(u: &mut Unit<'_>) -> Check {
    let ((vd, vs2), sew, vs1) = (disjoint(u)?, u.sew, u.insn.vs1());
    check(u.vstart == 0 && !u.group(vd, sew)?.overlaps(Unit::mask_group(vs1)))?;
    let mut to = 0;
    for i in 0..u.vl {
        if u.bit(vs1, i) {
            let v = u.get(vs2, i, sew);
            u.set(vd, to, sew, v);
            to += 1;
        }
    }
    Some(())
}

/// vmv1r to vmv8r: elements of SEW from `vstart` on, whatever `vl` is.
pub(super) fn whole(u: &mut Unit<'_>) -> Check {
    let (vd, vs2, sew, registers) = (u.insn.vd(), u.insn.vs2(), u.sew, u.insn.vs1() + 1);
    check((vd | vs2) & (registers - 1) == 0)?;
    for i in u.vstart..(registers as usize * u.vlenb) >> sew {
        let v = u.get(vs2, i, sew);
        u.set(vd, i, sew, v);
    }
    Some(())
}

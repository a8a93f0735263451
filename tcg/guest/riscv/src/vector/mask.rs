//! Mask instructions (chapter V, section 15), and what goes from vectors to integer registers.

use super::{Check, Unit, check, sext};

/// vmv.x.s, vcpop.m, vfirst.m.
pub(super) fn to_scalar(u: &mut Unit<'_>) -> Check<u64> {
    let (vs2, sew) = (u.insn.vs2(), u.sew);
    match u.insn.vs1() {
        0 => Some(sext(u.get(vs2, 0, sew), 8 << sew) as u64),
        kind => {
            check(u.vstart == 0)?;
            let mut set = (0..u.vl).filter(|i| u.active(*i) && u.bit(vs2, *i));
            match kind {
                16 => Some(set.count() as u64),
                _ => Some(set.next().map_or(u64::MAX, |i| i as u64)),
            }
        }
    }
}

/// vmand.mm and its like: bits of the body, never masked.
pub(super) fn logical(u: &mut Unit<'_>, funct6: u32) -> Check {
    let (vd, vs2, vs1) = (u.insn.vd(), u.insn.vs2(), u.insn.vs1());
    for i in u.vstart..u.vl {
        let (a, b) = (u.bit(vs2, i), u.bit(vs1, i));
        let v = match funct6 & 7 {
            0 => a & !b,
            1 => a & b,
            2 => a | b,
            3 => a ^ b,
            4 => a | !b,
            5 => !(a & b),
            6 => !(a | b),
            _ => a == b,
        };
        u.set_bit(vd, i, v);
    }
    Some(())
}

/// vmsbf, vmsof, vmsif, viota, vid.
pub(super) fn unary(u: &mut Unit<'_>) -> Check {
    let (vd, vs2, sew) = (u.insn.vd(), u.insn.vs2(), u.sew);
    match u.insn.vs1() {
        kind @ 1..=3 => {
            check(u.vstart == 0 && vd != vs2 && (u.insn.vm() || vd != 0))?;
            let mut found = false;
            u.for_active(|u, i| {
                let here = u.bit(vs2, i) && !found;
                found |= here;
                let v = match kind {
                    1 => !found,
                    2 => here,
                    _ => !found || here,
                };
                u.set_bit(vd, i, v);
            });
        }
        16 => {
            let dest = u.dest(vd, sew)?;
            check(u.vstart == 0 && !dest.overlaps(Unit::mask_group(vs2)))?;
            let mut count = 0;
            u.for_active(|u, i| {
                let v = count;
                count += u64::from(u.bit(vs2, i));
                u.set(vd, i, sew, v);
            });
        }
        _ => {
            u.dest(vd, sew)?;
            u.for_active(|u, i| u.set(vd, i, sew, i as u64));
        }
    }
    Some(())
}

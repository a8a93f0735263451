//! `vtype`, `vl` and the instructions that set them (chapter V, sections 3.4 to 6).

use tcg_engine::{Cx, Trap};

use super::{VL, VSTART, VTYPE, finish, illegal};
use crate::{guest::Riscv, state::status};

/// `vtype.vill`, at its place of RV64.
pub(crate) const VILL: u64 = 1 << 63;

/// log2 of SEW's bytes and log2 of LMUL in a valid `vtype`.
pub(crate) const fn shape(vtype: u64) -> (i32, i32) {
    let sew = (vtype >> 3 & 3) as i32;
    let lmul = (vtype & 7) as i32;
    (sew, if lmul < 4 { lmul } else { lmul - 8 })
}

/// True if `vtype` names a combination that exists: SEW up to 64, and at most LMUL times ELEN.
pub(crate) const fn legal(vtype: u64) -> bool {
    let (sew, lmul) = shape(vtype);
    vtype >> 8 == 0 && vtype >> 3 & 7 < 4 && lmul != -4 && sew <= lmul + 3
}

/// Elements of a register group under `vtype`; 0 if that is not valid.
pub(crate) const fn vlmax(vlenb: u32, vtype: u64) -> u64 {
    if !legal(vtype) {
        return 0;
    }
    let (sew, lmul) = shape(vtype);
    // vlenb is 16 at least, and LMUL over SEW's bytes 1/64 at least only where SEW is wide: this never shifts to 0.
    let elements = (vlenb as u64) << 3 >> (3 + sew);
    if lmul < 0 { elements >> -lmul } else { elements << lmul }
}

/// vsetvli, vsetivli and vsetvl; the new `vl`.
///
/// `avl` is `rs1` or the immediate, `vtype` the value asked for. With `rs1` = x0 the length is the maximum, or the
/// present one if `rd` = x0 too.
pub(super) fn set(cx: &mut Cx<'_, Riscv>, [word, avl, vtype, _]: [u64; 4]) -> Result<u64, Trap> {
    let vlenb = cx.guest().cpu().vlenb;
    let h = &mut *cx.state;
    if h.mstatus & status::VS == 0 {
        return Err(illegal(word));
    }
    let immediate = word >> 30 & 3 == 3;
    let (rd, rs1) = (word >> 7 & 31, word >> 15 & 31);
    let avl = match (immediate || rs1 != 0, rd != 0) {
        (true, _) => avl,
        (false, true) => u64::MAX,
        (false, false) => h.vcsrs[VL],
    };
    let vl = avl.min(vlmax(vlenb, vtype));
    h.vcsrs[VL] = vl;
    h.vcsrs[VTYPE] = if legal(vtype) { vtype } else { VILL };
    h.vcsrs[VSTART] = 0;
    finish(h);
    Ok(vl)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths() {
        assert_eq!(vlmax(16, 0), 16); // e8, m1
        assert_eq!(vlmax(16, 3), 128); // e8, m8
        assert_eq!(vlmax(16, 3 << 3), 2); // e64, m1
        assert_eq!(vlmax(16, 5), 2); // e8, mf8
        assert_eq!(vlmax(16, 2 << 3 | 7), 2); // e32, mf2
        assert!(!legal(3 << 3 | 7)); // e64, mf2
        assert!(!legal(4));
        assert!(!legal(4 << 3));
        assert!(!legal(1 << 8));
        assert!(legal(0xc0));
    }
}

//! V inline: unit-stride loads and stores and whole registers, without a mask.
//!
//! The access is split into pieces of a register, which must lie in one page together: there all elements fault or none
//! does, with `vstart` at the first. (Where a page is not of one kind, `vstart` says the first element of the piece.)
//! What crosses a page goes through the helper.

use tcg_ir::{Cond, Type, Value};

use super::Translator;
use crate::{helpers::id, mode::Known, state, vector};

impl Translator<'_, '_> {
    /// Translates a load or store. False if it has to go through its helper.
    pub(super) fn v_inline_memory(&mut self) -> bool {
        self.relied = true;
        self.v_memory_pieces().is_some()
    }

    fn v_memory_pieces(&mut self) -> Option<()> {
        let s = self.shape().filter(|s| s.full)?;
        let word = self.bits;
        let store = word & 0x7f == 0x27;
        let eew = match word >> 12 & 7 {
            0 => 0,
            n => n - 4,
        };
        let (fields, mop, kind) = (word >> 29, word >> 26 & 3, s.insn.vs2());
        if self.mode.triggers || mop != 0 || !s.insn.vm() {
            return None;
        }
        let vd = s.insn.vd();
        let (pieces, bytes) = match kind {
            0 if fields == 0 => s.group(vd, eew)?,
            8 if (fields + 1).is_power_of_two() && vd & fields == 0 => {
                ((fields as usize + 1) * self.cpu.vlenb as usize / s.bytes, s.bytes)
            }
            _ => return None,
        };
        self.set_vs_dirty();
        let base = self.x(s.insn.vs1() as i32);
        let total = if pieces > 1 { pieces * s.bytes } else { bytes };
        if total > 1 {
            let mask = self.imm(0xfff);
            let at = self.b.and(base, mask);
            let last = self.imm(0x1000 - total as i64);
            let fits = self.b.setcc(self.xt, Cond::Leu, at, last);
            let on = self.v_side(fits, |t| {
                let none = t.b.iconst(Type::I64, 0);
                t.v_access_call(base, none);
            });
            self.b.switch_to(on);
        }
        let per_piece = s.bytes >> eew;
        for n in 0..pieces {
            if n > 0 {
                self.v_set_vstart(n * per_piece);
            }
            let disp = (n * s.bytes) as i32;
            if bytes < s.bytes {
                self.v_access_part(&s, vd, bytes, base, store);
            } else if store {
                let v = self.vget(&s, vd, n);
                self.b.store(self.mem(s.bytes.trailing_zeros()), base, disp, v);
            } else {
                let v = self.b.load(s.piece, self.mem(s.bytes.trailing_zeros()), base, disp);
                self.vset(&s, vd, n, s.bytes, v);
            }
        }
        if pieces > 1 {
            self.v_set_vstart(0);
        }
        Some(())
    }

    /// Nothing is stored for it unless the unit is left between.
    fn v_set_vstart(&mut self, n: usize) {
        let n = self.b.iconst(Type::I64, n as u64);
        self.b.set(state::VSTART, n);
    }

    /// A group smaller than a piece.
    fn v_access_part(&mut self, s: &super::rvv_mode::Shape, vd: u32, bytes: usize, base: Value, store: bool) {
        use tcg_ir::Lane;
        let lane = match bytes {
            1 => Lane::I8,
            2 => Lane::I16,
            4 => Lane::I32,
            _ => Lane::I64,
        };
        let m = self.mem(lane.bytes().trailing_zeros());
        let ty = if lane == Lane::I64 { Type::I64 } else { Type::I32 };
        let old = self.vget(s, vd, 0);
        let mut v = old;
        for n in 0..bytes.div_ceil(8) {
            let disp = n as i32 * 8;
            if store {
                let x = self.vlane(old, lane, n);
                self.b.store(m, base, disp, x);
            } else {
                let x = self.b.load(ty, m, base, disp);
                v = self.vput(v, lane, n, x);
            }
        }
        if !store {
            self.vset(s, vd, 0, s.bytes, v);
        }
    }

    /// The helper of all accesses.
    pub(super) fn v_access_call(&mut self, base: Value, stride: Value) {
        let base = self.b.zext(Type::I64, base);
        let word = self.word();
        let mmu = self.b.iconst(Type::I64, self.mode.mmu as u64);
        self.b.call(id(vector::MEMORY), Type::Void, &[word, base, stride, mmu]);
    }

    /// Behind a load that may have made `vl` smaller: leaves if that makes a difference.
    pub(super) fn v_check_vl(&mut self) {
        let Some(s) = self.shape().filter(|s| s.full) else { return };
        let vl = self.get64(state::VL);
        let max = self.b.iconst(Type::I64, s.vlmax as u64);
        let same = self.b.setcc(Type::I64, Cond::Eq, vl, max);
        let less = Known { sew: s.sew, lmul: s.lmul, full: false }.pack();
        let on = self.v_side(same, |t| t.vector = less);
        self.b.switch_to(on);
    }
}

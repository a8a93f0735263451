//! V inline: integer arithmetic, moves and merges; what masks and `vl` leave untouched.

use tcg_ir::{Cond, Lane, Op, Type, Value};

use super::Translator;
use super::rvv_mode::Shape;
use crate::{
    state,
    vector::{Insn, form},
};

/// The second source.
#[derive(Debug, Clone, Copy)]
pub(super) enum Second {
    /// Elements of this group.
    Group(u32),
    /// A piece that has the scalar in every lane.
    Splat(Value),
}

/// Where the scalar of the instruction comes from.
fn immediate(word: u32) -> i64 {
    i64::from(word as i32) << 44 >> 59
}

impl Translator<'_, '_> {
    /// Translates an instruction of OPIVV to OPMVX. False if it has to go through its helper.
    pub(super) fn v_inline_int(&mut self) -> bool {
        self.relied = true;
        let Some(s) = self.shape() else { return false };
        if !s.full && !Self::v_maps(s.insn) {
            return false;
        }
        let done = match s.insn.funct3() {
            form::IVV | form::IVX | form::IVI => self.v_opi(&s),
            _ => self.v_opm(&s),
        };
        if done.is_some() {
            self.set_vs_dirty();
        }
        done.is_some()
    }

    /// The second source; the immediate as it is encoded if `unsigned`.
    pub(super) fn second(&mut self, s: &Shape, unsigned: bool) -> Second {
        let field = s.insn.vs1();
        let x = match s.insn.funct3() {
            form::IVV | form::MVV => return Second::Group(field),
            form::IVI if unsigned => self.b.iconst(Type::I64, u64::from(field)),
            form::IVI => self.b.iconst(Type::I64, immediate(self.bits) as u64),
            _ => self.x_wide(field as i32),
        };
        Second::Splat(self.vsplat(s, s.lane, x))
    }

    /// An integer register, sign-extended.
    pub(super) fn x_wide(&mut self, n: i32) -> Value {
        let x = self.x(n);
        self.b.sext(Type::I64, x)
    }

    pub(super) fn second_piece(&mut self, s: &Shape, b: Second, n: usize) -> Value {
        match b {
            Second::Group(reg) => self.vget(s, reg, n),
            Second::Splat(v) => v,
        }
    }

    /// True for instructions that are lane-wise, or do not look at `vl`.
    fn v_maps(insn: Insn) -> bool {
        match (insn.funct3(), insn.funct6()) {
            (form::IVV | form::IVX | form::IVI, n) => {
                matches!(n, 0..=0x0b | 0x17..=0x1f | 0x25 | 0x28 | 0x29 | 0x27)
            }
            (form::MVV, 0x10) => insn.vs1() == 0,
            (_, n) => matches!(n, 0x24..=0x2f),
        }
    }

    /// Word `w` of the mask of elements below `vl`.
    pub(super) fn v_tail_word(&mut self, w: usize) -> Value {
        while self.tails.len() <= w {
            // Elements in this word: the mask has as many ones, if there are fewer than 64.
            let first = self.tails.len() as i64 * 64;
            let vl = self.get64(state::VL);
            let count = self.b.addi(vl, -first);
            let one = self.b.iconst(Type::I64, 1);
            let bits = self.b.shl(one, count);
            let bits = self.b.addi(bits, -1);
            let (ones, zero) = (self.b.iconst(Type::I64, u64::MAX), self.b.iconst(Type::I64, 0));
            let all = self.b.iconst(Type::I64, 64);
            let whole = self.b.setcc(Type::I64, Cond::Ge, count, all);
            let bits = self.b.select(whole, ones, bits);
            let none = self.b.setcc(Type::I64, Cond::Le, count, zero);
            let bits = self.b.select(none, zero, bits);
            self.tails.push(bits);
        }
        self.tails[w]
    }

    /// Elements of piece `n` that are below `vl` as lanes, or `None` if all are.
    pub(super) fn v_body(&mut self, s: &Shape, n: usize) -> Option<Value> {
        (!s.full).then(|| {
            let bits = self.v_tail_bits(s, n);
            self.v_mask_lanes(s, bits)
        })
    }

    fn v_tail_bits(&mut self, s: &Shape, n: usize) -> Value {
        let at = n * s.per_piece();
        let word = self.v_tail_word(at / 64);
        if at.is_multiple_of(64) {
            return word;
        }
        let shift = self.b.iconst(Type::I64, at as u64 % 64);
        self.b.binary(Op::Shr, word, shift)
    }

    fn v_mask_lanes(&mut self, s: &Shape, bits: Value) -> Value {
        self.b.vector(Op::Vmask, s.piece, s.lane, 0, [bits, Value::NONE, Value::NONE], 0)
    }

    /// The mask of piece `n` as lanes, or `None` if the instruction is not masked.
    pub(super) fn v_lanes_mask(&mut self, s: &Shape, n: usize) -> Option<Value> {
        (!s.insn.vm()).then(|| {
            let bits = self.v_mask_bits(s, 0, n);
            self.v_mask_lanes(s, bits)
        })
    }

    /// Active elements of piece `n` as lanes, or `None` if all are.
    pub(super) fn v_active(&mut self, s: &Shape, n: usize) -> Option<Value> {
        if s.full || s.insn.vm() {
            return if s.full { self.v_lanes_mask(s, n) } else { self.v_body(s, n) };
        }
        let mask = self.v_mask_bits(s, 0, n);
        let mask = self.b.zext(Type::I64, mask);
        let body = self.v_tail_bits(s, n);
        let bits = self.b.and(mask, body);
        Some(self.v_mask_lanes(s, bits))
    }

    /// The bits of mask register `reg` for piece `n`, lowest first, in an i32 that may have others above.
    pub(super) fn v_mask_bits(&mut self, s: &Shape, reg: u32, n: usize) -> Value {
        let per = s.per_piece();
        let at = n * per;
        let (lane, width) = match per {
            32 => (Lane::I32, 32),
            16 => (Lane::I16, 16),
            _ => (Lane::I8, 8),
        };
        let in_piece = s.bytes * 8;
        let v = self.vget(s, reg, at / in_piece);
        let bits = self.vlane(v, lane, at % in_piece / width);
        let shift = at % width;
        if shift == 0 {
            return bits;
        }
        let shift = self.b.iconst(Type::I32, shift as u64);
        self.b.binary(Op::Shr, bits, shift)
    }

    /// Checks groups of SEW at `vd`, `vs2` and the second source, as `map2` of the helpers does: pieces, and bytes of the last.
    fn v_groups(&self, s: &Shape, b: Second) -> Option<(usize, usize)> {
        let (vd, vs2) = (s.insn.vd(), s.insn.vs2());
        let size = s.group(vd, s.sew)?;
        s.group(vs2, s.sew)?;
        let mut low = vd == 0 || vs2 == 0;
        if let Second::Group(reg) = b {
            s.group(reg, s.sew)?;
            low |= reg == 0;
        }
        (s.insn.vm() || !low).then_some(size)
    }

    /// Writes `f([vs2, second, vd], active)` to active elements.
    pub(super) fn v_map(
        &mut self,
        s: &Shape,
        b: Second,
        mut f: impl FnMut(&mut Self, [Value; 3], Option<Value>) -> Value,
    ) -> Option<()> {
        let (pieces, bytes) = self.v_groups(s, b)?;
        let (vd, vs2) = (s.insn.vd(), s.insn.vs2());
        for n in 0..pieces {
            let a = self.vget(s, vs2, n);
            let x = self.second_piece(s, b, n);
            let old = self.vget(s, vd, n);
            let mask = self.v_active(s, n);
            let mut v = f(self, [a, x, old], mask);
            if let Some(mask) = mask {
                v = self.b.vector(Op::Vselect, s.piece, Lane::I64, 0, [mask, v, old], 0);
            }
            self.vset(s, vd, n, bytes, v);
        }
        Some(())
    }

    fn v_simple(&mut self, s: &Shape, op: Op, swap: bool, unsigned: bool) -> Option<()> {
        let b = self.second(s, unsigned);
        let lane = s.lane;
        self.v_map(
            s,
            b,
            |t, [a, x, _], _| if swap { t.vop(s, op, lane, x, a) } else { t.vop(s, op, lane, a, x) },
        )
    }

    fn v_opi(&mut self, s: &Shape) -> Option<()> {
        let shift_by = u64::from(s.insn.vs1()) & ((8 << s.sew) - 1);
        let immediate = s.insn.funct3() == form::IVI;
        let op = match s.insn.funct6() {
            0x00 => Op::Vadd,
            0x02 => Op::Vsub,
            0x03 => return self.v_simple(s, Op::Vsub, true, false),
            0x04 => Op::Vminu,
            0x05 => Op::Vmin,
            0x06 => Op::Vmaxu,
            0x07 => Op::Vmax,
            0x09 => Op::Vand,
            0x0a => Op::Vor,
            0x0b => Op::Vxor,
            0x17 => return self.v_merge(s),
            0x18..=0x1f => return self.v_compare(s),
            n @ (0x25 | 0x28 | 0x29) if immediate => {
                let op = match n {
                    0x25 => Op::Vshli,
                    0x28 => Op::Vshri,
                    _ => Op::Vsari,
                };
                let none = Second::Splat(Value::NONE);
                return self.v_map(s, none, |t, [a, ..], _| {
                    t.b.vector(op, s.piece, s.lane, 0, [a, Value::NONE, Value::NONE], shift_by)
                });
            }
            0x25 => return self.v_simple(s, Op::Vshl, false, true),
            0x28 => return self.v_simple(s, Op::Vshr, false, true),
            0x29 => return self.v_simple(s, Op::Vsar, false, true),
            0x27 if immediate => return self.v_whole(s),
            n @ (0x2c | 0x2d) => return self.v_narrowing_shift(s, n & 1 != 0),
            n @ (0x30 | 0x31) => return self.v_wide_sum(s, n & 1 != 0),
            _ => return None,
        };
        self.v_simple(s, op, false, false)
    }

    fn v_opm(&mut self, s: &Shape) -> Option<()> {
        let vv = s.insn.funct3() == form::MVV;
        match s.insn.funct6() {
            n @ 0x00..=0x07 if vv => self.v_reduce(s, n),
            0x10 if vv => self.v_to_scalar(s),
            0x10 => {
                // vmv.s.x
                let x = self.x_wide(s.insn.vs1() as i32);
                let v = self.vget(s, s.insn.vd(), 0);
                let v = self.vput(v, s.lane, 0, x);
                self.vset(s, s.insn.vd(), 0, s.bytes, v);
                Some(())
            }
            0x12 if vv => self.v_extend(s),
            0x14 if vv => self.v_mask_unary(s),
            n @ 0x18..=0x1f if vv => self.v_mask_logical(s, n),
            0x24 => self.v_simple(s, Op::Vmulhu, false, false),
            0x25 => self.v_simple(s, Op::Vmul, false, false),
            0x27 => self.v_simple(s, Op::Vmulhs, false, false),
            n @ (0x29 | 0x2b | 0x2d | 0x2f) => {
                let b = self.second(s, false);
                let lane = s.lane;
                self.v_map(s, b, |t, [a, x, d], _| {
                    let (factor, addend) = if n & 4 == 0 { (d, a) } else { (a, d) };
                    let product = t.vop(s, Op::Vmul, lane, x, factor);
                    let op = if n & 2 == 0 { Op::Vadd } else { Op::Vsub };
                    t.vop(s, op, lane, addend, product)
                })
            }
            n @ (0x30..=0x38 | 0x3b | 0x3c | 0x3d) => self.v_widening(s, n),
            _ => None,
        }
    }

    /// `v`, with what is in `vd` from `vl` on.
    pub(super) fn v_keep_tail(&mut self, s: &Shape, vd: u32, n: usize, v: Value) -> Value {
        match self.v_body(s, n) {
            Some(body) => {
                let old = self.vget(s, vd, n);
                self.b.vector(Op::Vselect, s.piece, Lane::I64, 0, [body, v, old], 0)
            }
            None => v,
        }
    }

    /// vmerge, vmv.v
    fn v_merge(&mut self, s: &Shape) -> Option<()> {
        let b = self.second(s, false);
        // The first source is read where the mask is off, and is no operand of vmv.v.
        let (vd, vs2) = (s.insn.vd(), s.insn.vs2());
        let (pieces, bytes) = self.v_groups(s, b)?;
        for n in 0..pieces {
            let x = self.second_piece(s, b, n);
            let v = match self.v_lanes_mask(s, n) {
                Some(mask) => {
                    let a = self.vget(s, vs2, n);
                    self.b.vector(Op::Vselect, s.piece, Lane::I64, 0, [mask, x, a], 0)
                }
                None => x,
            };
            let v = self.v_keep_tail(s, vd, n, v);
            self.vset(s, vd, n, bytes, v);
        }
        Some(())
    }

    /// vmv1r to vmv8r.
    fn v_whole(&mut self, s: &Shape) -> Option<()> {
        let (vd, vs2, registers) = (s.insn.vd(), s.insn.vs2(), s.insn.vs1() + 1);
        if (vd | vs2) & (registers - 1) != 0 {
            return None;
        }
        for n in 0..registers as usize * self.cpu.vlenb as usize / s.bytes {
            let v = self.vget(s, vs2, n);
            self.vset(s, vd, n, s.bytes, v);
        }
        Some(())
    }

    /// vmv.x.s, vcpop, vfirst
    fn v_to_scalar(&mut self, s: &Shape) -> Option<()> {
        if s.insn.vs1() != 0 {
            return self.v_mask_to_scalar(s);
        }
        let v = self.vget(s, s.insn.vs2(), 0);
        let x = self.vlane(v, s.lane, 0);
        let x = match s.sew {
            3 => x,
            2 => self.b.sext(Type::I64, x),
            n => {
                let x = self.b.sextract(x, 0, 8 << n);
                self.b.sext(Type::I64, x)
            }
        };
        let x = self.b.trunc(self.xt, x);
        self.set_x(s.insn.vd() as i32, x);
        Some(())
    }

    /// Reads a slot of V's CSRs, for `csrr`.
    pub(super) fn v_csr(&mut self, csr: u16) -> Option<Value> {
        if !self.has(crate::cpu::Ext::V) || !self.mode.vs {
            return None;
        }
        match csr {
            0xc20 => {
                let vl = self.get64(state::VL);
                Some(self.b.trunc(self.xt, vl))
            }
            0xc22 => Some(self.imm(i64::from(self.cpu.vlenb))),
            _ => None,
        }
    }
}

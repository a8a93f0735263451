//! V inline: what the unit's key says of `vtype` and `vl`, and the instructions that set them.
//!
//! Where `vtype` is known and `vstart` 0, an instruction is a fixed number of IR vector operations on whole pieces of
//! registers. Where `vl` is less than VLMAX the elements below it are a mask, and only lane-wise arithmetic is inline. All else
//! goes through the helpers, as does any word that is not legal: they find out what is wrong. `vsetvli` goes on in the same unit
//! with the new `vtype`, provided that `avl` reaches VLMAX, which all but the last round of a strip-mined loop fulfils; what
//! is shorter leaves. A unit whose `vtype` is no longer that of its key leaves
//! through a lookup, since links go to units of the same key. If nothing in it relied on the key before the first
//! `vsetvli`, its own loop may go on inside nevertheless.

use tcg_ir::{BlockId, Cond, Hint, Lane, Op, SlotId, Type, Value};

use super::{Flow, Translator};
use crate::{
    decode::*,
    mode::Known,
    state::{self, status},
    vector::{self, Insn, legal, vlmax},
};

/// The operands of a vector instruction under a full `vtype`.
#[derive(Debug, Clone, Copy)]
pub(super) struct Shape {
    pub(super) insn: Insn,
    /// log2 of SEW's bytes.
    pub(super) sew: u32,
    /// log2 of LMUL.
    pub(super) lmul: i32,
    pub(super) lane: Lane,
    /// Elements.
    pub(super) vlmax: usize,
    /// Type of a piece of a register, and its bytes.
    pub(super) piece: Type,
    pub(super) bytes: usize,
    /// `vl` is VLMAX.
    pub(super) full: bool,
}

/// The integer lane of `1 << log2` bytes.
pub(super) const fn int_lane(log2: u32) -> Lane {
    match log2 {
        0 => Lane::I8,
        1 => Lane::I16,
        2 => Lane::I32,
        _ => Lane::I64,
    }
}

impl Shape {
    /// Elements of a piece.
    pub(super) const fn per_piece(&self) -> usize {
        self.bytes >> self.sew
    }

    /// A group of elements of `1 << eew` bytes: its pieces, and the bytes used of the last. `None` if there is no such group at
    /// `reg`.
    pub(super) fn group(&self, reg: u32, eew: u32) -> Option<(usize, usize)> {
        let emul = self.lmul + eew as i32 - self.sew as i32;
        let registers = 1 << emul.max(0);
        if eew > 3 || !(-3..=3).contains(&emul) || reg & (registers - 1) != 0 {
            return None;
        }
        let total = self.vlmax << eew;
        Some((total.div_ceil(self.bytes), if total < self.bytes { total } else { self.bytes }))
    }

    /// True if the groups of two registers of one width have a register in common. (They then are the same.)
    pub(super) fn registers(&self, eew: u32) -> u32 {
        1 << (self.lmul + eew as i32 - self.sew as i32).max(0)
    }

    /// May a group of `to` at `vd` be written while one of `from` at `vs` is read? (Section 5.2.)
    pub(super) fn may_overwrite(&self, (vd, to): (u32, u32), (vs, from): (u32, u32)) -> bool {
        let (n, m) = (self.registers(to), self.registers(from));
        if vd >= vs + m || vs >= vd + n || to == from {
            return true;
        }
        if to < from {
            return vd == vs;
        }
        self.lmul + from as i32 - self.sew as i32 >= 0 && vs + m == vd + n
    }
}

impl Translator<'_, '_> {
    /// The shape of the present instruction, if the state is known.
    pub(super) fn shape(&mut self) -> Option<Shape> {
        let Known { sew, lmul, full } = Known::unpack(self.vector)?;
        self.tails.clear();
        let vtype = u64::from(lmul as u32 & 7 | sew << 3);
        let bytes = (self.cpu.vlenb as usize).min(32);
        Some(Shape {
            insn: Insn(self.bits),
            sew,
            lmul,
            lane: int_lane(sew),
            vlmax: vlmax(self.cpu.vlenb, vtype) as usize,
            piece: if bytes == 16 { Type::V128 } else { Type::V256 },
            bytes,
            full,
        })
    }

    /// Slot of piece `n` of the group at `reg`.
    fn piece_slot(&self, s: &Shape, reg: u32, n: usize) -> SlotId {
        let per_register = self.cpu.vlenb as usize / s.bytes;
        state::piece(reg as usize * per_register + n)
    }

    /// Piece `n` of the group at `reg`.
    pub(super) fn vget(&mut self, s: &Shape, reg: u32, n: usize) -> Value {
        let slot = self.piece_slot(s, reg, n);
        self.b.get(slot, s.piece)
    }

    /// Writes the first `bytes` bytes of piece `n` of the group at `reg`.
    pub(super) fn vset(&mut self, s: &Shape, reg: u32, n: usize, bytes: usize, mut v: Value) {
        let slot = self.piece_slot(s, reg, n);
        if bytes < s.bytes {
            let old = self.b.get(slot, s.piece);
            let (lane, count) = match bytes {
                1 => (Lane::I8, 1),
                2 => (Lane::I16, 1),
                4 => (Lane::I32, 1),
                _ => (Lane::I64, bytes / 8),
            };
            let mut out = old;
            for i in 0..count {
                let x = self.vlane(v, lane, i);
                out = self.vput(out, lane, i, x);
            }
            v = out;
        }
        self.b.set(slot, v);
    }

    /// Lane `n` as an integer: i64 for quadwords, else i32.
    pub(super) fn vlane(&mut self, v: Value, lane: Lane, n: usize) -> Value {
        let ty = if lane.bytes() == 8 { Type::I64 } else { Type::I32 };
        self.b.vector(Op::Vextract, ty, lane, 0, [v, Value::NONE, Value::NONE], n as u64)
    }

    /// `v` with lane `n` replaced.
    pub(super) fn vput(&mut self, v: Value, lane: Lane, n: usize, x: Value) -> Value {
        let ty = self.b.ty(v);
        self.b.vector(Op::Vinsert, ty, lane, 0, [v, x, Value::NONE], n as u64)
    }

    /// An operation on whole pieces.
    pub(super) fn vop(&mut self, s: &Shape, op: Op, lane: Lane, a: Value, b: Value) -> Value {
        self.b.vector(op, s.piece, lane, 0, [a, b, Value::NONE], 0)
    }

    /// Every lane is scalar `x`.
    pub(super) fn vsplat(&mut self, s: &Shape, lane: Lane, x: Value) -> Value {
        self.b.vector(Op::Vsplat, s.piece, lane, 0, [x, Value::NONE, Value::NONE], 0)
    }

    /// Every lane is the constant `x`.
    pub(super) fn vconst(&mut self, s: &Shape, lane: Lane, x: u64) -> Value {
        let x = self.b.iconst(Type::I64, x);
        self.vsplat(s, lane, x)
    }

    /// What every vector instruction ends with.
    pub(super) fn set_vs_dirty(&mut self) {
        if !self.vs_dirty {
            self.vs_dirty = true;
            let old = self.get64(state::MSTATUS);
            let dirty = self.b.iconst(Type::I64, status::VS);
            let new = self.b.or(old, dirty);
            self.b.set(state::MSTATUS, new);
        }
    }

    /// True if units of the key are not made for the state as it is now.
    pub(super) fn moved(&self) -> bool {
        self.vector != self.mode.vector
    }

    /// True if the unit may go on at its head.
    pub(super) fn may_loop(&self) -> bool {
        !self.moved() || !self.relied
    }

    /// Ends the block: to the unit at `pc`.
    pub(super) fn leave(&mut self, pc: u64, hint: Hint) {
        if self.moved() {
            let pc = self.b.pc(self.xt, pc);
            self.b.set(state::PC, pc);
            self.b.lookup();
        } else {
            self.b.link(pc, hint);
        }
    }

    /// Ends the block: to the unit at a computed address.
    pub(super) fn leave_to(&mut self, pc: Value, hint: Hint) {
        if self.moved() {
            self.b.set(state::PC, pc);
            self.b.lookup();
        } else {
            self.b.indirect(pc, hint);
        }
    }

    fn set_config(&mut self, rd: i32, vl: Value, vtype: u64) {
        let vtype = self.b.iconst(Type::I64, vtype);
        let zero = self.b.iconst(Type::I64, 0);
        let wide = self.b.zext(Type::I64, vl);
        self.b.set(state::VL, wide);
        self.b.set(state::VTYPE, vtype);
        self.b.set(state::VSTART, zero);
        self.set_x(rd, vl);
    }

    /// A `vtype` that is known. `avl`: `Ok` a constant, `Err` a register.
    fn v_config(&mut self, rd: i32, avl: Result<u64, i32>, vtype: u64) -> bool {
        if !self.mode.vs || !legal(vtype) {
            return false;
        }
        let max = vlmax(self.cpu.vlenb, vtype);
        let (sew, lmul) = vector::shape(vtype);
        let known = |full: bool| Known { sew: sew as u32, lmul, full }.pack();
        let vl = match avl {
            Ok(n) => n,
            Err(0) if rd != 0 => u64::MAX,
            Err(0) => {
                // `vl` stays as far as it can.
                self.relied = true;
                match self.shape() {
                    Some(s) if s.full => s.vlmax as u64,
                    Some(s) if max >= s.vlmax as u64 => {
                        self.set_vs_dirty();
                        let vtype = self.b.iconst(Type::I64, vtype);
                        self.b.set(state::VTYPE, vtype);
                        self.vector = known(false);
                        return true;
                    }
                    _ => return false,
                }
            }
            Err(rs1) => {
                self.set_vs_dirty();
                let x = self.x(rs1);
                let limit = self.b.iconst(self.xt, max);
                let enough = self.b.setcc(self.xt, Cond::Geu, x, limit);
                let on = self.v_side(enough, |t| {
                    t.set_config(rd, x, vtype);
                    t.vector = known(false);
                });
                self.b.switch_to(on);
                u64::MAX
            }
        };
        self.set_vs_dirty();
        let value = self.imm(vl.min(max) as i64);
        self.set_config(rd, value, vtype);
        self.vector = known(vl >= max);
        true
    }

    /// Branches to a block that does something and leaves to the next instruction unless `good`; the other block.
    pub(super) fn v_side(&mut self, good: Value, f: impl FnOnce(&mut Self)) -> BlockId {
        let (on, side) = (self.b.new_block(), self.b.new_block());
        self.b.branch(good, on, side, true);
        self.b.switch_to(side);
        let vector = self.vector;
        f(self);
        self.leave(self.next, Hint::None);
        self.vector = vector;
        on
    }

    /// The helper, behind which nothing is known.
    fn v_config_call(&mut self, rd: i32, avl: Value, vtype: Value) -> bool {
        let word = self.word();
        let avl = self.b.zext(Type::I64, avl);
        let vtype = self.b.zext(Type::I64, vtype);
        let vl = self.b.call(crate::helpers::id(vector::CONFIG), Type::I64, &[word, avl, vtype]);
        let vl = self.b.trunc(self.xt, vl);
        self.set_x(rd, vl);
        self.end_lookup();
        self.flow = Flow::End;
        true
    }

    pub(crate) fn trans_vsetvli(&mut self, a: &ArgVsetvli) -> bool {
        if self.v_config(a.rd, Err(a.rs1), a.zimm as u64) {
            return true;
        }
        let (avl, vtype) = (self.x(a.rs1), self.imm(i64::from(a.zimm)));
        self.v_config_call(a.rd, avl, vtype)
    }

    pub(crate) fn trans_vsetivli(&mut self, a: &ArgVsetivli) -> bool {
        if self.v_config(a.rd, Ok(a.uimm as u64), a.zimm as u64) {
            return true;
        }
        let (avl, vtype) = (self.imm(i64::from(a.uimm)), self.imm(i64::from(a.zimm)));
        self.v_config_call(a.rd, avl, vtype)
    }

    pub(crate) fn trans_vsetvl(&mut self, a: &ArgVsetvl) -> bool {
        let (avl, vtype) = (self.x(a.rs1), self.x(a.rs2));
        self.v_config_call(a.rd, avl, vtype)
    }
}

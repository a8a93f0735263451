//! V inline: widening, narrowing and integer reductions, of `vl` at VLMAX.

use tcg_ir::{Lane, Op, RmwOp, Type, Value};

use super::Translator;
use super::rvv_int::Second;
use super::rvv_mode::{Shape, int_lane};
use crate::vector::form;

impl Translator<'_, '_> {
    /// One half of a piece, its lanes widened.
    pub(super) fn v_widen(&mut self, s: &Shape, to: u32, signed: bool, high: bool, v: Value) -> Value {
        let how = u16::from(signed) | u16::from(high) << 1;
        self.b.vector(Op::Vwiden, s.piece, int_lane(to), how, [v, Value::NONE, Value::NONE], 0)
    }

    /// vzext, vsext
    pub(super) fn v_extend(&mut self, s: &Shape) -> Option<()> {
        let (vd, vs2, kind) = (s.insn.vd(), s.insn.vs2(), s.insn.vs1());
        let steps = 4_u32.checked_sub(kind >> 1)?;
        let from = s.sew.checked_sub(steps)?;
        let (pieces, bytes) = s.group(vd, s.sew)?;
        s.group(vs2, from)?;
        let low = vd == 0 || vs2 == 0;
        if !s.insn.vm() && low || !s.may_overwrite((vd, s.sew), (vs2, from)) {
            return None;
        }
        for n in 0..pieces {
            let mut v = self.vget(s, vs2, n >> steps);
            for step in 0..steps {
                let high = n >> (steps - 1 - step) & 1 != 0;
                v = self.v_widen(s, from + step + 1, kind & 1 != 0, high, v);
            }
            if let Some(mask) = self.v_lanes_mask(s, n) {
                let old = self.vget(s, vd, n);
                v = self.b.vector(Op::Vselect, s.piece, Lane::I64, 0, [mask, v, old], 0);
            }
            self.vset(s, vd, n, bytes, v);
        }
        Some(())
    }

    /// vnsrl, vnsra, without a mask.
    pub(super) fn v_narrowing_shift(&mut self, s: &Shape, signed: bool) -> Option<()> {
        let (vd, vs2, wide) = (s.insn.vd(), s.insn.vs2(), s.sew + 1);
        let (pieces, bytes) = s.group(vd, s.sew)?;
        s.group(vs2, wide)?;
        // Counts in a register are of the narrow width: left to the helper.
        if !s.insn.vm() || s.insn.funct3() == form::IVV || !s.may_overwrite((vd, s.sew), (vs2, wide)) {
            return None;
        }
        let count = if s.insn.funct3() == form::IVI {
            self.b.iconst(Type::I64, u64::from(s.insn.vs1()))
        } else {
            self.x_wide(s.insn.vs1() as i32)
        };
        let lane = int_lane(wide);
        let count = self.vsplat(s, lane, count);
        let sources = s.group(vs2, wide)?.0;
        for n in 0..pieces {
            let mut half = [Value::NONE; 2];
            for (i, h) in half.iter_mut().enumerate() {
                // With a fractional group there is no second piece.
                let v = self.vget(s, vs2, (2 * n + i).min(sources - 1));
                *h = self.vop(s, if signed { Op::Vsar } else { Op::Vshr }, lane, v, count);
            }
            let v = self.vop(s, Op::Vnarrow, s.lane, half[0], half[1]);
            self.vset(s, vd, n, bytes, v);
        }
        Some(())
    }

    /// vwadd to vwmacc where both sources have one signedness, without a mask.
    pub(super) fn v_widening(&mut self, s: &Shape, funct6: u32) -> Option<()> {
        let (vd, vs2, wide) = (s.insn.vd(), s.insn.vs2(), s.sew + 1);
        let vs2_wide = matches!(funct6, 0x34..=0x37);
        let eew2 = if vs2_wide { wide } else { s.sew };
        let signed = match funct6 {
            0x38 | 0x3c => false,
            0x3b | 0x3d => true,
            n => n & 1 != 0,
        };
        let (pieces, bytes) = s.group(vd, wide)?;
        s.group(vs2, eew2)?;
        let accumulates = funct6 >= 0x3c;
        let overlaps = |vs: u32| vs < vd + s.registers(wide) && vd < vs + s.registers(s.sew);
        if !s.insn.vm() || !s.may_overwrite((vd, wide), (vs2, eew2)) || accumulates && overlaps(vs2) {
            return None;
        }
        let b = self.second(s, false);
        if let Second::Group(vs1) = b {
            s.group(vs1, s.sew)?;
            let meets = vs2_wide && vs1 < vs2 + s.registers(wide) && vs2 < vs1 + s.registers(s.sew);
            if !s.may_overwrite((vd, wide), (vs1, s.sew)) || meets || accumulates && overlaps(vs1) {
                return None;
            }
        }
        let lane = int_lane(wide);
        for n in 0..pieces {
            let high = n & 1 != 0;
            let x = self.second_piece(s, b, n / 2);
            let x = self.v_widen(s, wide, signed, high, x);
            let a = if vs2_wide {
                self.vget(s, vs2, n)
            } else {
                let a = self.vget(s, vs2, n / 2);
                self.v_widen(s, wide, signed, high, a)
            };
            let op = match funct6 {
                0x30 | 0x31 | 0x34 | 0x35 => Op::Vadd,
                0x32 | 0x33 | 0x36 | 0x37 => Op::Vsub,
                _ => Op::Vmul,
            };
            let mut v = self.vop(s, op, lane, a, x);
            if accumulates {
                let old = self.vget(s, vd, n);
                v = self.vop(s, Op::Vadd, lane, old, v);
            }
            self.vset(s, vd, n, bytes, v);
        }
        Some(())
    }

    /// Combines the lanes of `v` with element 0 of `vs1` into element 0 of `vd`.
    fn v_fold(&mut self, s: &Shape, lane: Lane, op: (RmwOp, Op), v: Value) {
        let ty = if lane.bytes() == 8 { Type::I64 } else { Type::I32 };
        let all = self.b.vector(Op::Vreduce, ty, lane, op.0 as u16, [v, Value::NONE, Value::NONE], 0);
        // In a lane of its own, so that the operation of the lanes does the last step too.
        let first = self.vget(s, s.insn.vs1(), 0);
        let all = self.vsplat(s, lane, all);
        let sum = self.vop(s, op.1, lane, all, first);
        let sum = self.vlane(sum, lane, 0);
        let old = self.vget(s, s.insn.vd(), 0);
        let v = self.vput(old, lane, 0, sum);
        self.vset(s, s.insn.vd(), 0, s.bytes, v);
    }

    /// vredsum to vredmax, of whole pieces and without a mask.
    pub(super) fn v_reduce(&mut self, s: &Shape, funct6: u32) -> Option<()> {
        let (pieces, bytes) = s.group(s.insn.vs2(), s.sew)?;
        if !s.insn.vm() || bytes != s.bytes {
            return None;
        }
        let op = match funct6 {
            0 => (RmwOp::Add, Op::Vadd),
            1 => (RmwOp::And, Op::Vand),
            2 => (RmwOp::Or, Op::Vor),
            3 => (RmwOp::Xor, Op::Vxor),
            4 => (RmwOp::Minu, Op::Vminu),
            5 => (RmwOp::Min, Op::Vmin),
            6 => (RmwOp::Maxu, Op::Vmaxu),
            _ => (RmwOp::Max, Op::Vmax),
        };
        let mut v = self.vget(s, s.insn.vs2(), 0);
        for n in 1..pieces {
            let x = self.vget(s, s.insn.vs2(), n);
            v = self.vop(s, op.1, s.lane, v, x);
        }
        self.v_fold(s, s.lane, op, v);
        Some(())
    }

    /// vwredsumu, vwredsum, likewise.
    pub(super) fn v_wide_sum(&mut self, s: &Shape, signed: bool) -> Option<()> {
        let (pieces, bytes) = s.group(s.insn.vs2(), s.sew)?;
        if !s.insn.vm() || bytes != s.bytes || s.sew == 3 {
            return None;
        }
        let lane = int_lane(s.sew + 1);
        let mut sum = None;
        for n in 0..pieces {
            let x = self.vget(s, s.insn.vs2(), n);
            for high in [false, true] {
                let x = self.v_widen(s, s.sew + 1, signed, high, x);
                sum = Some(match sum {
                    Some(v) => self.vop(s, Op::Vadd, lane, v, x),
                    None => x,
                });
            }
        }
        self.v_fold(s, lane, (RmwOp::Add, Op::Vadd), sum?);
        Some(())
    }
}

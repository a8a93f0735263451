//! V inline: floating point of 32 and 64 bits, in whole pieces. Elements that are not active raise nothing: their operands
//! are made zero, and divisors one.

use tcg_ir::{FCond, FpAttr, Lane, MinMax, Op, Type, Value};

use super::Translator;
use super::rvv_int::Second;
use super::rvv_mode::Shape;
use crate::{cpu::Ext, vector::form};

/// The most elements that a sum in order is written out for.
const MAX_ORDERED: usize = 16;

impl Translator<'_, '_> {
    /// Translates an instruction of OPFVV or OPFVF. False if it has to go through its helper.
    pub(super) fn v_inline_float(&mut self) -> bool {
        self.relied = true;
        let (Some(s), Some(attr)) = (self.shape(), self.rm(7)) else { return false };
        if s.sew < 2 || !self.fp_on(Ext::F) || s.lmul < 0 {
            return false;
        }
        let done = self.v_opf(&s, attr).is_some();
        if done {
            self.set_vs_dirty();
            self.set_fs_dirty();
        }
        done
    }

    fn v_float_lane(s: &Shape) -> (Lane, Type) {
        if s.sew == 2 { (Lane::F32, Type::F32) } else { (Lane::F64, Type::F64) }
    }

    /// The second source; a scalar as it is, unboxed.
    fn float_second(&mut self, s: &Shape) -> Second {
        let n = s.insn.vs1();
        if s.insn.funct3() != form::FVF {
            return Second::Group(n);
        }
        let (lane, ty) = Self::v_float_lane(s);
        let x = self.f(n as i32, ty);
        Second::Splat(self.vsplat(s, lane, x))
    }

    fn vfp(&mut self, s: &Shape, op: Op, attr: FpAttr, args: [Value; 3]) -> Value {
        let (lane, _) = Self::v_float_lane(s);
        self.b.vector(op, s.piece, lane, 0, args, u64::from(attr.0))
    }

    fn v_opf(&mut self, s: &Shape, attr: FpAttr) -> Option<()> {
        let vf = s.insn.funct3() == form::FVF;
        let funct6 = s.insn.funct6();
        let none = Value::NONE;
        match funct6 {
            0x10 => return self.v_float_scalar(s, vf),
            0x17 if vf => return self.v_float_merge(s),
            0x18..=0x1f => return self.v_float_compare(s, attr),
            _ => {}
        }
        let (op, swap) = match funct6 {
            0x00 => (Op::Vfadd, false),
            0x02 => (Op::Vfsub, false),
            0x04 => (Op::Vfmin, false),
            0x06 => (Op::Vfmax, false),
            0x20 => (Op::Vfdiv, false),
            0x21 if vf => (Op::Vfdiv, true),
            0x24 => (Op::Vfmul, false),
            0x27 if vf => (Op::Vfsub, true),
            0x08..=0x0a => return self.v_float_sign(s, funct6 & 3),
            0x28..=0x2f => return self.v_float_fma(s, attr, funct6),
            0x01 | 0x03 | 0x05 | 0x07 if !vf => return self.v_float_reduce(s, attr, funct6),
            0x12 if !vf => return self.v_float_convert(s, attr),
            0x13 if !vf && s.insn.vs1() == 0 => {
                let second = Second::Splat(none);
                return self.v_map(s, second, |t, [a, ..], mask| {
                    let a = t.clean(s, mask, a);
                    t.vfp(s, Op::Vfsqrt, attr, [a, none, none])
                });
            }
            _ => return None,
        };
        let attr = attr.with_variant(MinMax::Number as u16);
        let b = self.float_second(s);
        self.v_map(s, b, |t, [a, x, _], mask| {
            let (a, x) = if swap { (x, a) } else { (a, x) };
            let (a, mut x) = (t.clean(s, mask, a), t.clean(s, mask, x));
            if let (Op::Vfdiv, Some(mask)) = (op, mask) {
                let one = t.vconst(s, s.lane, if s.sew == 2 { 0x3f80_0000 } else { 0x3ff0_0000_0000_0000 });
                let one = t.vop(s, Op::Vandc, s.lane, one, mask);
                x = t.vop(s, Op::Vor, s.lane, x, one);
            }
            t.vfp(s, op, attr, [a, x, none])
        })
    }

    /// `v` with zeros in elements that are not active.
    fn clean(&mut self, s: &Shape, active: Option<Value>, v: Value) -> Value {
        match active {
            Some(mask) => self.vop(s, Op::Vand, s.lane, v, mask),
            None => v,
        }
    }

    /// vfmadd to vfnmsac
    fn v_float_fma(&mut self, s: &Shape, attr: FpAttr, funct6: u32) -> Option<()> {
        let (product, addend) =
            [(false, false), (true, true), (false, true), (true, false)][funct6 as usize & 3];
        let attr = attr.with_negate(product, addend);
        let b = self.float_second(s);
        self.v_map(s, b, |t, args, mask| {
            let [a, x, d] = args.map(|v| t.clean(s, mask, v));
            let (factor, c) = if funct6 & 4 != 0 { (a, d) } else { (d, a) };
            t.vfp(s, Op::Vfma, attr, [x, factor, c])
        })
    }

    /// vfsgnj, vfsgnjn, vfsgnjx
    fn v_float_sign(&mut self, s: &Shape, kind: u32) -> Option<()> {
        let sign = self.vconst(s, s.lane, 1 << ((8 << s.sew) - 1));
        let b = self.float_second(s);
        self.v_map(s, b, |t, [a, x, _], _| {
            let x = if kind == 1 {
                t.vop(s, Op::Vandc, s.lane, sign, x)
            } else {
                t.vop(s, Op::Vand, s.lane, x, sign)
            };
            if kind == 2 {
                return t.vop(s, Op::Vxor, s.lane, a, x);
            }
            let a = t.vop(s, Op::Vandc, s.lane, a, sign);
            t.vop(s, Op::Vor, s.lane, a, x)
        })
    }

    /// vmfeq to vmfge
    fn v_float_compare(&mut self, s: &Shape, attr: FpAttr) -> Option<()> {
        let (cond, signalling, swap) = match s.insn.funct6() {
            0x18 | 0x1c => (FCond::Eq, false, false),
            0x19 => (FCond::Le, true, false),
            0x1b => (FCond::Lt, true, false),
            0x1d => (FCond::Lt, true, true),
            0x1f => (FCond::Le, true, true),
            _ => return None,
        };
        let attr = attr.with_variant(cond as u16).with_flag(signalling);
        let group = (s.insn.funct3() != form::FVF).then_some(s.insn.vs1());
        if swap && group.is_some() {
            return None;
        }
        let pieces = self.v_mask_sources(s, group)?;
        let b = self.float_second(s);
        let mut words = self.v_gather(s, pieces, |t, n| {
            let a = t.vget(s, s.insn.vs2(), n);
            let x = match b {
                Second::Group(reg) => t.vget(s, reg, n),
                Second::Splat(v) => v,
            };
            let mask = t.v_active(s, n);
            let (a, x) = (t.clean(s, mask, a), t.clean(s, mask, x));
            let (a, x) = if swap { (x, a) } else { (a, x) };
            t.vfp(s, Op::Vfcmp, attr, [a, x, Value::NONE])
        });
        if s.insn.funct6() == 0x1c {
            for w in &mut words {
                *w = self.b.unary(Op::Not, *w);
            }
        }
        self.v_finish_mask(s, &words);
        Some(())
    }

    /// vfmerge, vfmv.v.f
    fn v_float_merge(&mut self, s: &Shape) -> Option<()> {
        let b = self.float_second(s);
        let (vd, vs2) = (s.insn.vd(), s.insn.vs2());
        let (pieces, bytes) = s.group(vd, s.sew)?;
        s.group(vs2, s.sew)?;
        let Second::Splat(x) = b else { return None };
        if !s.insn.vm() && (vd == 0 || vs2 == 0) {
            return None;
        }
        for n in 0..pieces {
            let mut v = x;
            if let Some(mask) = self.v_lanes_mask(s, n) {
                let a = self.vget(s, vs2, n);
                v = self.b.vector(Op::Vselect, s.piece, Lane::I64, 0, [mask, x, a], 0);
            }
            let v = self.v_keep_tail(s, vd, n, v);
            self.vset(s, vd, n, bytes, v);
        }
        Some(())
    }

    /// vfmv.s.f, vfmv.f.s
    fn v_float_scalar(&mut self, s: &Shape, in_: bool) -> Option<()> {
        let (lane, ty) = Self::v_float_lane(s);
        if in_ && !s.full {
            return None;
        }
        if in_ {
            let x = self.f(s.insn.vs1() as i32, ty);
            let old = self.vget(s, s.insn.vd(), 0);
            let v = self.vput(old, lane, 0, x);
            self.vset(s, s.insn.vd(), 0, s.bytes, v);
        } else {
            let v = self.vget(s, s.insn.vs2(), 0);
            let x = self.float_element(s, v, 0);
            self.set_f(s.insn.vd() as i32, x);
        }
        Some(())
    }

    fn float_element(&mut self, s: &Shape, v: Value, n: usize) -> Value {
        let (lane, ty) = Self::v_float_lane(s);
        self.b.vector(Op::Vextract, ty, lane, 0, [v, Value::NONE, Value::NONE], n as u64)
    }

    /// Sums in order, minimum and maximum, of few elements.
    fn v_float_reduce(&mut self, s: &Shape, attr: FpAttr, funct6: u32) -> Option<()> {
        if s.vlmax > MAX_ORDERED || !s.full || !s.insn.vm() {
            return None;
        }
        s.group(s.insn.vs2(), s.sew)?;
        let op = match funct6 {
            5 => Op::Fmin,
            7 => Op::Fmax,
            _ => Op::Fadd,
        };
        let attr = attr.with_variant(MinMax::Number as u16);
        let first = self.vget(s, s.insn.vs1(), 0);
        let mut sum = self.float_element(s, first, 0);
        for n in 0..s.vlmax {
            let v = self.vget(s, s.insn.vs2(), n / s.per_piece());
            let x = self.float_element(s, v, n % s.per_piece());
            sum = self.b.fp(op, attr, sum, x);
        }
        let (lane, _) = Self::v_float_lane(s);
        let old = self.vget(s, s.insn.vd(), 0);
        let v = self.vput(old, lane, 0, sum);
        self.vset(s, s.insn.vd(), 0, s.bytes, v);
        Some(())
    }

    /// Conversions between integers and floats of one width.
    fn v_float_convert(&mut self, s: &Shape, attr: FpAttr) -> Option<()> {
        let kind = s.insn.vs1();
        let (op, unsigned, attr) = match kind {
            0 | 1 => (Op::Vftoi, kind == 0, attr),
            6 | 7 => (Op::Vftoi, kind == 6, attr.with_rounding(tcg_ir::Rounding::Zero)),
            2 | 3 => (Op::Vitof, kind == 2, attr),
            _ => return None,
        };
        let attr = attr.with_flag(unsigned);
        let none = Value::NONE;
        self.v_map(s, Second::Splat(none), |t, [a, ..], mask| {
            let a = t.clean(s, mask, a);
            t.vfp(s, op, attr, [a, none, none])
        })
    }
}

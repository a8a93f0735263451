//! Vector recipes that move lanes: between scalars and vectors, between masks and bits, selections, reductions.

use tcg_ir::{Inst, Op, RmwOp, Value};

use super::alloc::{Class, NO_REG, ZEROS, class, fl};
use super::asm::V;
use super::lower_vec::{ANY, LOAD, Shape, p0f, p3a, p38};
use super::regs::*;
use super::{Gen, Too};

/// Broadcast of a lane.
const fn broadcast(log2: usize) -> V {
    p38([0x78, 0x79, 0x58, 0x59][log2])
}

impl Gen<'_> {
    /// The upper half of a 256-bit register.
    fn upper_half(&mut self, d: Xmm, a: Xmm) {
        self.asm.vex(p3a(0x39).l(true), a.0, 0, d);
        self.asm.b(1);
    }

    /// A scalar operand's low bits in the low lane of a vector register: its own, or `xmm15`.
    fn low_lane(&mut self, v: Value, log2: usize) -> Result<Xmm, Too> {
        if class(self.r.inst(v).ty) == Class::Xmm {
            return self.use_xmm(v);
        }
        let r = self.use_gpr(v)?;
        self.asm.gpr_to_xmm(log2 == 3, X15, r);
        Ok(X15)
    }

    pub(super) fn vsplat(&mut self, v: Value, inst: &Inst, s: Shape) -> Result<(), Too> {
        if let Some(imm) = self.imm(inst.a) {
            self.done(inst.a);
            let d = self.define_xmm(v, ANY, 0)?;
            let word = match s.log2 {
                0 => (imm & 0xff) * 0x0101_0101_0101_0101,
                1 => (imm & 0xffff) * 0x0001_0001_0001_0001,
                2 => (imm & 0xffff_ffff) * 0x0000_0001_0000_0001,
                _ => imm,
            };
            match word {
                0 => self.vxor(d),
                u64::MAX => self.vones(s, d),
                _ => self.asm.vop_const(LOAD.l(s.y), d, Xmm(0), [word; 4]),
            }
            return Ok(());
        }
        let x = self.low_lane(inst.a, s.log2)?;
        self.done(inst.a);
        let d = self.define_xmm(v, ANY, 0)?;
        self.asm.vop(broadcast(s.log2).l(s.y), d, Xmm(0), x);
        Ok(())
    }

    pub(super) fn vextract(&mut self, v: Value, inst: &Inst, s: Shape) -> Result<(), Too> {
        if inst.imm == 0 && class(inst.ty) == Class::Xmm {
            return self.same(v, inst.a);
        }
        let mut a = self.use_xmm(inst.a)?;
        let per_half = 16 >> s.log2;
        let mut n = inst.imm as u8;
        if n >= per_half {
            self.upper_half(X15, a);
            a = X15;
            n -= per_half;
        }
        self.done(inst.a);
        self.extract_lane(v, inst, s, a, n)
    }

    /// Lane `n` of 128 bits.
    pub(super) fn extract_lane(&mut self, v: Value, inst: &Inst, s: Shape, a: Xmm, n: u8) -> Result<(), Too> {
        if class(inst.ty) == Class::Xmm {
            let d = self.define_xmm(v, a, 0)?;
            match (s.log2, n) {
                (_, 0) => self.asm.vmov(false, d, a),
                (2, n) => self.asm.vop_imm(p0f(0x70), d, Xmm(0), a, n),
                _ => self.asm.vop_imm(p0f(0x70), d, Xmm(0), a, 0xee),
            }
            return Ok(());
        }
        let d = self.define_gpr(v, Gpr(NO_REG), 0)?;
        match s.log2 {
            0 | 1 => {
                self.asm.vex(p3a(0x14 + s.log2 as u8), a.0, 0, d);
                self.asm.b(n);
            }
            w if n == 0 => self.asm.xmm_to_gpr(w == 3, d, a),
            w => {
                self.asm.vex(p3a(0x16).w(w == 3), a.0, 0, d);
                self.asm.b(n);
            }
        }
        self.vals[v.index()].zx = s.bits() as u8;
        Ok(())
    }

    /// The lowest lane replaced, or one that has an instruction of its own.
    fn vinsert_simply(&mut self, v: Value, inst: &Inst, s: Shape) -> Result<bool, Too> {
        let n = inst.imm as u8;
        let scalar = self.r.inst(inst.b).ty;
        let in_xmm = class(scalar) == Class::Xmm;
        let (into, root) = (self.root(inst.a), self.root(inst.b));
        if n == 0
            && !s.y
            && in_xmm
            && self.vals[root as usize].upper == into
            && !self.vals[v.index()].is(fl::GLOBAL)
        {
            self.done(inst.a);
            self.same(v, inst.b)?;
            return Ok(true);
        }
        let def = self.r.inst(inst.a);
        let over_zeros = def.op == Op::Vsplat && self.r.as_const(def.a) == Some(0);
        if n == 0
            && !s.y
            && in_xmm
            && over_zeros
            && self.vals[root as usize].upper == ZEROS
            && !self.vals[v.index()].is(fl::GLOBAL)
        {
            self.done(inst.a);
            self.same(v, inst.b)?;
            return Ok(true);
        }
        if n == 0 && over_zeros && (s.log2 == 3 || !in_xmm) {
            self.done(inst.a);
            if in_xmm {
                let b = self.use_xmm(inst.b)?;
                self.done(inst.b);
                let d = self.define_xmm(v, b, 0)?;
                self.asm.vop(V::new(2, 1, 0x7e), d, Xmm(0), b);
            } else {
                let b = self.use_gpr(inst.b)?;
                self.done(inst.b);
                let d = self.define_xmm(v, ANY, 0)?;
                self.asm.gpr_to_xmm(s.log2 == 3, d, b);
            }
            return Ok(true);
        }
        if !in_xmm && !s.y {
            let a = self.use_xmm(inst.a)?;
            let b = self.use_gpr(inst.b)?;
            self.done(inst.a);
            self.done(inst.b);
            let d = self.define_xmm(v, a, 0)?;
            self.asm.vop_imm(p3a(0x22).w(s.log2 == 3), d, a, b, n);
            return Ok(true);
        }
        if !in_xmm || n != 0 && (s.y || s.log2 != 3) {
            return Ok(false);
        }
        let a = self.use_xmm(inst.a)?;
        let b = self.use_xmm(inst.b)?;
        self.done(inst.a);
        self.done(inst.b);
        let d = self.define_xmm(v, a, 0)?;
        match n {
            0 => self.asm.vop_imm(p3a(if s.log2 == 3 { 0x0d } else { 0x0c }).l(s.y), d, a, b, 1),
            _ => self.asm.vop(p0f(0x6c), d, a, b),
        }
        Ok(true)
    }

    pub(super) fn vinsert(&mut self, v: Value, inst: &Inst, s: Shape) -> Result<(), Too> {
        if s.log2 >= 2 && self.vinsert_simply(v, inst, s)? {
            return Ok(());
        }
        let a = self.use_xmm(inst.a)?;
        let n = inst.imm as u8;
        if s.log2 >= 2 {
            // Broadcast and blend: the same for both halves of a register.
            let b = self.low_lane(inst.b, s.log2)?;
            self.done(inst.a);
            self.done(inst.b);
            let d = self.define_xmm(v, a, 0)?;
            self.asm.vop(broadcast(s.log2).l(s.y), X15, Xmm(0), b);
            let lanes = if s.log2 == 2 { 1 << n } else { 3 << (2 * n) };
            self.asm.vop_imm(p3a(0x02).l(s.y), d, a, X15, lanes);
            return Ok(());
        }
        // Floats of 16 bits live in general registers, so the scalar is in one.
        let r = self.use_gpr(inst.b)?;
        self.done(inst.a);
        self.done(inst.b);
        let d = self.define_xmm(v, a, 0)?;
        let per_half = 16 >> s.log2;
        let op = if s.log2 == 0 { p3a(0x20) } else { p0f(0xc4) };
        if !s.y {
            self.asm.vop_imm(op, d, a, r, n);
            return Ok(());
        }
        let upper = n >= per_half;
        if upper {
            self.upper_half(X15, a);
        }
        self.asm.vop_imm(op, X15, if upper { X15 } else { a }, r, n % per_half);
        if upper {
            self.asm.vop_imm(p3a(0x38).l(true), d, a, X15, 1);
        } else {
            self.asm.vop_imm(p3a(0x02).l(true), d, a, X15, 0x0f);
        }
        Ok(())
    }

    /// Selection by bits; by bytes where the mask is known to be a comparison's.
    pub(super) fn vselect(&mut self, v: Value, inst: &Inst, s: Shape) -> Result<(), Too> {
        let mask = self.root(inst.a);
        let by_lanes =
            self.r.insts.get(mask as usize).is_some_and(|i| matches!(i.op, Op::Vcmp | Op::Vfcmp | Op::Vmask));
        let m = self.use_xmm(inst.a)?;
        let b = self.use_xmm(inst.b)?;
        let c = self.use_xmm(inst.c)?;
        self.done(inst.a);
        self.done(inst.b);
        self.done(inst.c);
        let d = self.define_xmm(v, c, 0)?;
        if by_lanes {
            self.asm.vop_imm(p3a(0x4c).l(s.y), d, c, b, m.0 << 4);
        } else {
            self.vp(s, p0f(0xdb), X15, m, b);
            self.vp(s, p0f(0xdf), X14, m, c);
            self.vp(s, p0f(0xeb), d, X14, X15);
        }
        Ok(())
    }

    pub(super) fn vbits(&mut self, v: Value, inst: &Inst, s: Shape) -> Result<(), Too> {
        let a = self.use_xmm(inst.a)?;
        self.done(inst.a);
        let d = self.define_gpr(v, Gpr(NO_REG), 0)?;
        let lanes = self.r.inst(inst.a).ty.bytes() >> s.log2;
        // How many bits the host's instruction gives.
        let given = match s.log2 {
            0 => {
                self.asm.vex(p0f(0xd7).l(s.y), d.0, 0, a);
                if s.y { 32 } else { 16 }
            }
            1 => {
                self.vp(s, p0f(0x63), X15, a, a);
                if s.y {
                    self.asm.vop_imm(p3a(0x00).w(true).l(true), X15, Xmm(0), X15, 0xd8);
                }
                self.asm.vex(p0f(0xd7), d.0, 0, X15);
                16
            }
            n => {
                self.asm.vex(V::new(if n == 2 { 0 } else { 1 }, 1, 0x50).l(s.y), d.0, 0, a);
                16 >> n << u8::from(s.y)
            }
        };
        if given != lanes {
            self.asm.alu_imm(false, super::asm::Alu::And, d, (1 << lanes) - 1);
        }
        self.vals[v.index()].zx = lanes as u8;
        Ok(())
    }

    pub(super) fn vmask(&mut self, v: Value, inst: &Inst, s: Shape) -> Result<(), Too> {
        let ty = self.r.inst(inst.a).ty;
        let r = self.use_gpr(inst.a)?;
        let lanes = inst.ty.bytes() >> s.log2;
        self.done(inst.a);
        let d = self.define_xmm(v, ANY, 0)?;
        self.asm.gpr_to_xmm(false, X15, r);
        if (ty.bits() as usize) < lanes {
            // Bits above the operand's width are zeros.
            let (l, r) = if ty.bits() == 8 { (24, 24) } else { (16, 16) };
            self.asm.vex(p0f(0x72), 6, X15.0, X15);
            self.asm.b(l);
            self.asm.vex(p0f(0x72), 2, X15.0, X15);
            self.asm.b(r);
        }
        let mut bits = [0u64; 4];
        match s.log2 {
            0 => {
                self.asm.vop(broadcast(2).l(s.y), X15, Xmm(0), X15);
                let byte = |n: u64| n * 0x0101_0101_0101_0101;
                self.asm.vop_const(p38(0x00).l(s.y), X15, X15, [byte(0), byte(1), byte(2), byte(3)]);
                bits = [0x8040_2010_0804_0201; 4];
            }
            n => {
                self.asm.vop(broadcast(n).l(s.y), X15, Xmm(0), X15);
                let width = s.bits() as usize;
                for i in 0..256 / width {
                    bits[i * width / 64] |= 1 << (i % width) << (i * width % 64);
                }
            }
        }
        let eq = if s.log2 == 3 { p38(0x29) } else { p0f(0x74 + s.log2 as u8) };
        self.asm.vop_const(p0f(0xdb).l(s.y), X15, X15, bits);
        self.asm.vop_const(eq.l(s.y), d, X15, bits);
        Ok(())
    }

    pub(super) fn vreduce(&mut self, v: Value, inst: &Inst, s: Shape) -> Result<(), Too> {
        let a = self.use_xmm(inst.a)?;
        let temps = (self.temp_xmm()?, self.temp_xmm()?);
        self.done(inst.a);
        let d = self.define_gpr(v, Gpr(NO_REG), 0)?;
        self.reduce_to(RmwOp::from_bits(inst.sub >> 8), inst, s, (d, v), a, temps);
        Ok(())
    }

    /// Emits `d = a op b` by lanes.
    pub(super) fn reduce_with(&mut self, op: RmwOp, inst: &Inst, s: Shape, d: Xmm, a: Xmm, b: Xmm) {
        let op = match op {
            RmwOp::Add => Op::Vadd,
            RmwOp::And => Op::Vand,
            RmwOp::Or => Op::Vor,
            RmwOp::Xor => Op::Vxor,
            RmwOp::Min => Op::Vmin,
            RmwOp::Max => Op::Vmax,
            RmwOp::Minu => Op::Vminu,
            _ => Op::Vmaxu,
        };
        self.vint(&Inst { op, ..*inst }, s, d, a, b, X15);
    }

    /// Halves `a` until one lane is left, which goes to `d`.
    pub(super) fn reduce_to(
        &mut self,
        op: RmwOp,
        inst: &Inst,
        s: Shape,
        (d, v): (Gpr, Value),
        a: Xmm,
        (sum, t): (Xmm, Xmm),
    ) {
        let low = Shape { y: false, ..s };
        let mut from = a;
        let fold = |g: &mut Self, from: &mut Xmm| {
            g.reduce_with(op, inst, low, sum, *from, t);
            *from = sum;
        };
        if s.y {
            self.upper_half(t, from);
            fold(self, &mut from);
        }
        if !s.half {
            self.asm.vop_imm(p0f(0x70), t, Xmm(0), from, 0xee);
            fold(self, &mut from);
        }
        if s.log2 <= 2 {
            self.asm.vop_imm(p0f(0x70), t, Xmm(0), from, 0x55);
            fold(self, &mut from);
        }
        if s.log2 <= 1 {
            self.vshift(low, 2, 2, t, from, 16);
            fold(self, &mut from);
        }
        if s.log2 == 0 {
            self.vshift(low, 1, 2, t, from, 8);
            fold(self, &mut from);
        }
        self.asm.xmm_to_gpr(s.log2 == 3, d, from);
        if s.log2 < 2 {
            self.asm.extend(false, s.bits(), false, d, d);
        }
        self.vals[v.index()].zx = s.bits() as u8;
    }
}

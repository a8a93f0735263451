//! Vector operations of 64 to 256 bits on AVX2 and of 512 on AVX-512: the choice of a recipe. What has none goes through the soft fallback.
//!
//! A 64-bit vector is the low half of a register whose upper half is garbage, which integer recipes compute along and
//! floating-point ones replace, since it would raise exceptions.

use tcg_ir::{Effect, FpAttr, Inst, Lane, Op, Type, Value};

use super::alloc::{Class, NO_REG, class};
use super::asm::V;
use super::regs::*;
use super::{Gen, Too};

/// No preferred register.
pub(super) const ANY: Xmm = Xmm(NO_REG - 16);

/// Lane width and register width of a recipe.
#[derive(Debug, Clone, Copy)]
pub(super) struct Shape {
    /// log2 of a lane's bytes.
    pub(super) log2: usize,
    /// 256 bits.
    pub(super) y: bool,
    /// 64 bits.
    pub(super) half: bool,
}

impl Shape {
    pub(super) const fn new(lane: Lane, ty: Type) -> Self {
        Self {
            log2: lane.bytes().trailing_zeros() as usize,
            y: matches!(ty, Type::V256),
            half: matches!(ty, Type::V64),
        }
    }

    /// Bits of a lane.
    pub(super) const fn bits(self) -> u32 {
        8 << self.log2
    }
}

/// Opcode of map 0F with prefix 66.
pub(super) const fn p0f(op: u8) -> V {
    V::new(1, 1, op)
}

/// Opcode of map 0F38 with prefix 66.
pub(super) const fn p38(op: u8) -> V {
    V::new(1, 2, op)
}

/// Opcode of map 0F3A with prefix 66.
pub(super) const fn p3a(op: u8) -> V {
    V::new(1, 3, op)
}

/// `vmovdqu`: constants are not aligned.
pub(super) const LOAD: V = V::new(2, 1, 0x6f);

/// Every 64-bit word of a constant alike.
pub(super) const fn all(word: u64) -> [u64; 4] {
    [word; 4]
}

impl Gen<'_> {
    /// Emits a vector operation. False if there is no recipe.
    pub(super) fn lower_vec(&mut self, v: Value) -> Result<bool, Too> {
        let inst = *self.r.inst(v);
        if (inst.op as u8) < Op::Vadd as u8 {
            return Ok(false);
        }
        match inst.op {
            Op::Vfn1 | Op::Vfn2 | Op::Vfn3 => return self.lower_vecfn(v, &inst),
            Op::Vjoin => return self.vjoin(v, &inst),
            Op::Vpart => return self.vpart(v, &inst),
            _ => {}
        }
        let from_vector = matches!(inst.op, Op::Vextract | Op::Vbits | Op::Vreduce);
        let ty = if from_vector { self.r.inst(inst.a).ty } else { inst.ty };
        if class(ty) != Class::Xmm {
            return Ok(false);
        }
        let s = Shape::new(Lane::from_bits(inst.sub & 0xff), ty);
        if ty == Type::V512 {
            return self.lower_vec_512(v, &inst, s);
        }
        if inst.op.info().effect == Effect::Fp {
            return self.lower_vec_fp(v, &inst, s, FpAttr(inst.imm as u16));
        }
        match inst.op {
            Op::Vsplat => self.vsplat(v, &inst, s)?,
            Op::Vextract => self.vextract(v, &inst, s)?,
            Op::Vinsert => self.vinsert(v, &inst, s)?,
            Op::Vbits => self.vbits(v, &inst, s)?,
            Op::Vmask => self.vmask(v, &inst, s)?,
            Op::Vreduce => self.vreduce(v, &inst, s)?,
            Op::Vselect => self.vselect(v, &inst, s)?,
            Op::Vmulhu | Op::Vmulhs if s.log2 == 3 => return Ok(false),
            _ => self.vlanes(v, &inst, s)?,
        }
        Ok(true)
    }

    /// An operation on one or two vectors.
    fn vlanes(&mut self, v: Value, inst: &Inst, s: Shape) -> Result<(), Too> {
        let two = inst.op.info().args == 2;
        let a = self.use_xmm(inst.a)?;
        let b = if two { self.use_xmm(inst.b)? } else { a };
        let t = if Self::needs_temp(inst.op, s) { self.temp_xmm()? } else { X15 };
        self.done(inst.a);
        if two {
            self.done(inst.b);
        }
        let d = self.define_xmm(v, a, 0)?;
        self.vint(inst, s, d, a, b, t);
        Ok(())
    }

    /// Emits `d = a op b`.
    pub(super) fn vp(&mut self, s: Shape, v: V, d: Xmm, a: Xmm, b: Xmm) {
        self.asm.vop(v.l(s.y), d, a, b);
    }

    /// Emits `d = a op constant`.
    pub(super) fn vpk(&mut self, s: Shape, v: V, d: Xmm, a: Xmm, word: u64) {
        self.asm.vop_const(v.l(s.y), d, a, all(word));
    }

    /// Shift of words (1), double words (2) or quadwords (3) by a constant; `ext` 2 right, 4 right with sign, 6 left.
    pub(super) fn vshift(&mut self, s: Shape, log2: usize, ext: u8, d: Xmm, a: Xmm, n: u8) {
        self.asm.vex(p0f(0x70 + log2 as u8).l(s.y), ext, d.0, a);
        self.asm.b(n);
    }

    /// All ones.
    pub(super) fn vones(&mut self, s: Shape, d: Xmm) {
        self.vp(s, p0f(0x76), d, d, d);
    }
}

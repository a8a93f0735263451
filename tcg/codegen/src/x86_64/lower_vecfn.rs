//! Vector functions, and vectors made of halves. Nearly every function is one instruction of the host; those of AES,
//! GF(2^8), carry-less products and SHA need their extensions.

use tcg_ir::{Inst, Op, Type, Value, VecFn};

use super::alloc::{Class, NONE, avx512, class};
use super::asm::V;
use super::lower_vec::{p0f, p3a, p38};
use super::regs::*;
use super::{Gen, Too};

/// What the host needs besides AVX2.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Needs {
    Nothing,
    /// The function stays soft.
    Never,
    Aes,
    Clmul,
    Gf,
    Sha,
}

impl Needs {
    /// True if the host has it for registers of 128 or of 256 bits; of 512 bits it has them with AVX-512.
    fn met(self, wide: bool) -> bool {
        match self {
            Self::Nothing => true,
            Self::Never => false,
            Self::Aes => is_x86_feature_detected!("aes") && (!wide || is_x86_feature_detected!("vaes")),
            Self::Clmul => {
                is_x86_feature_detected!("pclmulqdq") && (!wide || is_x86_feature_detected!("vpclmulqdq"))
            }
            Self::Sha => is_x86_feature_detected!("sha"),
            Self::Gf => is_x86_feature_detected!("gfni") && is_x86_feature_detected!("avx"),
        }
    }
}

/// How operands stand in an instruction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    /// `op d, a, b`
    Two,
    /// `op d, a, b, imm`
    TwoImm,
    /// `op d, b, a`
    Swapped,
    /// `op d, a`
    One,
    /// `op d, a, imm`
    OneImm,
    /// The operation is in ModRM.reg: `op d, a, imm`
    Shift(u8),
    /// Only of 128 bits: `op d, a`
    Narrow,
    /// Only of 128 bits: `op d, a, imm`
    NarrowImm,
    /// Only of 128 bits and without VEX: `op d, b`, the immediate in map 0F3A, `xmm0` as third operand
    Legacy,
}

/// The host's instruction.
const fn row(f: VecFn) -> (V, Form, Needs) {
    use Form::{Legacy, Narrow, NarrowImm, One, OneImm, Shift, Swapped, Two, TwoImm};
    use Needs::{Aes, Clmul, Gf, Never, Nothing, Sha};
    use VecFn as F;
    match f {
        F::Clz
        | F::Ones
        | F::Dot
        | F::Mul52
        | F::BytesAt
        | F::BitsAt
        | F::Class32
        | F::Class64
        | F::SadPicked
        | F::Gather
        | F::GatherTwo
        | F::Compress
        | F::Expand
        | F::Narrow
        | F::Conflict
        | F::AlignLanes => (p0f(0), Two, Never),
        F::AddS8 => (p0f(0xec), Two, Nothing),
        F::AddS16 => (p0f(0xed), Two, Nothing),
        F::AddU8 => (p0f(0xdc), Two, Nothing),
        F::AddU16 => (p0f(0xdd), Two, Nothing),
        F::SubS8 => (p0f(0xe8), Two, Nothing),
        F::SubS16 => (p0f(0xe9), Two, Nothing),
        F::SubU8 => (p0f(0xd8), Two, Nothing),
        F::SubU16 => (p0f(0xd9), Two, Nothing),
        F::Avg8 => (p0f(0xe0), Two, Nothing),
        F::Avg16 => (p0f(0xe3), Two, Nothing),
        F::Sign8 => (p38(0x08), Two, Nothing),
        F::Sign16 => (p38(0x09), Two, Nothing),
        F::Sign32 => (p38(0x0a), Two, Nothing),
        F::Abs8 => (p38(0x1c), One, Nothing),
        F::Abs16 => (p38(0x1d), One, Nothing),
        F::Abs32 => (p38(0x1e), One, Nothing),
        F::MulAdd16 => (p0f(0xf5), Two, Nothing),
        F::MulAdd8 => (p38(0x04), Two, Nothing),
        F::MulRound16 => (p38(0x0b), Two, Nothing),
        F::MulU32 => (p0f(0xf4), Two, Nothing),
        F::MulS32 => (p38(0x28), Two, Nothing),
        F::Sad8 => (p0f(0xf6), Two, Nothing),
        F::ShlV32 => (p38(0x47), Two, Nothing),
        F::ShlV64 => (p38(0x47).w(true), Two, Nothing),
        F::ShrV32 => (p38(0x45), Two, Nothing),
        F::ShrV64 => (p38(0x45).w(true), Two, Nothing),
        F::SarV32 => (p38(0x46), Two, Nothing),
        F::GfMul => (p38(0xcf), Two, Gf),
        F::GfAffine => (p3a(0xce).w(true), TwoImm, Gf),
        F::GfInverse => (p3a(0xcf).w(true), TwoImm, Gf),
        F::Shl16 => (p0f(0xf1), Two, Nothing),
        F::Shl32 => (p0f(0xf2), Two, Nothing),
        F::Shl64 => (p0f(0xf3), Two, Nothing),
        F::Shr16 => (p0f(0xd1), Two, Nothing),
        F::Shr32 => (p0f(0xd2), Two, Nothing),
        F::Shr64 => (p0f(0xd3), Two, Nothing),
        F::Sar16 => (p0f(0xe1), Two, Nothing),
        F::Sar32 => (p0f(0xe2), Two, Nothing),
        F::PackS16 => (p0f(0x63), Two, Nothing),
        F::PackS32 => (p0f(0x6b), Two, Nothing),
        F::PackU16 => (p0f(0x67), Two, Nothing),
        F::PackU32 => (p38(0x2b), Two, Nothing),
        F::ZipLow8 => (p0f(0x60), Two, Nothing),
        F::ZipLow16 => (p0f(0x61), Two, Nothing),
        F::ZipLow32 => (p0f(0x62), Two, Nothing),
        F::ZipLow64 => (p0f(0x6c), Two, Nothing),
        F::ZipHigh8 => (p0f(0x68), Two, Nothing),
        F::ZipHigh16 => (p0f(0x69), Two, Nothing),
        F::ZipHigh32 => (p0f(0x6a), Two, Nothing),
        F::ZipHigh64 => (p0f(0x6d), Two, Nothing),
        F::AddPairs16 => (p38(0x01), Two, Nothing),
        F::AddPairs32 => (p38(0x02), Two, Nothing),
        F::AddPairsS16 => (p38(0x03), Two, Nothing),
        F::SubPairs16 => (p38(0x05), Two, Nothing),
        F::SubPairs32 => (p38(0x06), Two, Nothing),
        F::SubPairsS16 => (p38(0x07), Two, Nothing),
        F::Bytes => (p38(0x00), Two, Nothing),
        F::Least16 => (p38(0x41), Narrow, Nothing),
        F::Pick32 => (p0f(0x70), OneImm, Nothing),
        F::PickLow16 => (V::new(3, 1, 0x70), OneImm, Nothing),
        F::PickHigh16 => (V::new(2, 1, 0x70), OneImm, Nothing),
        F::PickTwo32 => (V::new(0, 1, 0xc6), TwoImm, Nothing),
        F::PickTwo64 => (p0f(0xc6), TwoImm, Nothing),
        F::Pick64 => (p3a(0x05), OneImm, Nothing),
        F::PickV32 => (p38(0x0c), Two, Nothing),
        F::PickV64 => (p38(0x0d), Two, Nothing),
        F::Align => (p3a(0x0f), TwoImm, Nothing),
        F::ShlBytes => (p0f(0x73), Shift(7), Nothing),
        F::ShrBytes => (p0f(0x73), Shift(3), Nothing),
        F::Blend16 => (p3a(0x0e), TwoImm, Nothing),
        F::Blend32 => (p3a(0x02), TwoImm, Nothing),
        F::SadBlocks => (p3a(0x42), TwoImm, Nothing),
        F::Clmul => (p3a(0x44), TwoImm, Clmul),
        F::AesEnc => (p38(0xdc), Two, Aes),
        F::AesEncLast => (p38(0xdd), Two, Aes),
        F::AesDec => (p38(0xde), Two, Aes),
        F::AesDecLast => (p38(0xdf), Two, Aes),
        F::AesInvMix => (p38(0xdb), Narrow, Aes),
        F::Gather32 => (p38(0x36), Swapped, Nothing),
        F::Gather64 => (p3a(0x00).w(true), OneImm, Nothing),
        F::AesKey => (p3a(0xdf), NarrowImm, Aes),
        F::Sha1Rounds => (V::new(0, 3, 0xcc), Legacy, Sha),
        F::Sha1Next => (V::new(0, 2, 0xc8), Legacy, Sha),
        F::Sha1Msg1 => (V::new(0, 2, 0xc9), Legacy, Sha),
        F::Sha1Msg2 => (V::new(0, 2, 0xca), Legacy, Sha),
        F::Sha256Rounds => (V::new(0, 2, 0xcb), Legacy, Sha),
        F::Sha256Msg1 => (V::new(0, 2, 0xcc), Legacy, Sha),
        F::Sha256Msg2 => (V::new(0, 2, 0xcd), Legacy, Sha),
    }
}

/// The host's instruction for vectors of type `ty`, if it has one.
fn host(f: VecFn, ty: Type) -> Option<(V, Form)> {
    let (v, form, needs) = row(f);
    let wide = matches!(ty, Type::V256 | Type::V512);
    if !needs.met(wide) || wide && matches!(form, Form::Narrow | Form::NarrowImm | Form::Legacy) {
        return None;
    }
    match ty {
        Type::V512 if !avx512() || only_vex(f) => None,
        Type::V512 if of_quadwords(f) => Some((v.w(true).z(), form)),
        Type::V512 => Some((v.z(), form)),
        _ => Some((v.l(wide), form)),
    }
}

/// Functions whose instructions have no form with EVEX.
const fn only_vex(f: VecFn) -> bool {
    use VecFn as F;
    matches!(
        f,
        F::Sign8
            | F::Sign16
            | F::Sign32
            | F::AddPairs16
            | F::AddPairs32
            | F::AddPairsS16
            | F::SubPairs16
            | F::SubPairs32
            | F::SubPairsS16
            | F::Blend16
            | F::Blend32
            | F::SadBlocks
    )
}

/// Functions whose instructions have the bit W with EVEX, but need it not with VEX.
const fn of_quadwords(f: VecFn) -> bool {
    use VecFn as F;
    matches!(
        f,
        F::MulU32
            | F::MulS32
            | F::Shl64
            | F::Shr64
            | F::ZipLow64
            | F::ZipHigh64
            | F::PickTwo64
            | F::Pick64
            | F::PickV64
    )
}

/// True if a function needs no soft fallback.
#[cfg(test)]
pub(super) fn is_inline(f: VecFn, ty: Type) -> bool {
    host(f, ty).is_some()
}

impl Gen<'_> {
    /// A vector function. False if the host has none.
    pub(super) fn lower_vecfn(&mut self, v: Value, inst: &Inst) -> Result<bool, Too> {
        let f = VecFn::from_bits(inst.sub >> 8);
        let Some((op, form)) = host(f, inst.ty) else { return Ok(false) };
        if form == Form::Legacy {
            return self.sha(v, inst, op, f.args() == 3);
        }
        let two = f.args() == 2;
        let a = self.use_xmm(inst.a)?;
        let b = if two { self.use_xmm(inst.b)? } else { a };
        self.done(inst.a);
        if two {
            self.done(inst.b);
        }
        let d = self.define_xmm(v, a, 0)?;
        let imm = inst.imm as u8;
        match form {
            Form::Two => self.asm.vop(op, d, a, b),
            Form::Swapped => self.asm.vop(op, d, b, a),
            Form::TwoImm => self.asm.vop_imm(op, d, a, b, imm),
            Form::One | Form::Narrow | Form::Legacy => self.asm.vop(op, d, Xmm(0), a),
            Form::OneImm | Form::NarrowImm => self.asm.vop_imm(op, d, Xmm(0), a, imm),
            Form::Shift(kind) => {
                self.asm.vex(op, kind, d.0, a);
                self.asm.b(imm);
            }
        }
        Ok(true)
    }

    /// An instruction without VEX, built in `xmm15`; what `xmm0` holds waits in `xmm14` where it is a third operand.
    fn sha(&mut self, v: Value, inst: &Inst, op: V, three: bool) -> Result<bool, Too> {
        let a = self.use_xmm(inst.a)?;
        let mut b = self.use_xmm(inst.b)?;
        let c = if three { self.use_xmm(inst.c)? } else { a };
        self.done(inst.a);
        self.done(inst.b);
        if three {
            self.done(inst.c);
        }
        let d = self.define_xmm(v, a, 0)?;
        let first = Xmm(0);
        let held = self.st.regs[16];
        let bytes = if held == NONE { 16 } else { self.vals[held as usize].ty.bytes().max(16) };
        let swaps = three && c != first;
        self.asm.vmov(false, X15, a);
        if swaps {
            self.asm.vmov_bytes(bytes, X14, first);
            if b == first {
                b = X14;
            }
            self.asm.vmov(false, first, c);
        }
        self.asm.legacy(op.map, op.op, X15, b);
        if op.map == 3 {
            self.asm.b(inst.imm as u8);
        }
        if swaps {
            self.asm.vmov_bytes(bytes, first, X14);
        }
        self.asm.vmov(false, d, X15);
        Ok(true)
    }

    /// Two halves together.
    pub(super) fn vjoin(&mut self, v: Value, inst: &Inst) -> Result<bool, Too> {
        if class(inst.ty) != Class::Xmm {
            return Ok(false);
        }
        // Both halves of a vector that is still there.
        let (low, high) = (self.root(inst.a), self.root(inst.b));
        if self.vals[low as usize].ty == inst.ty
            && self.r.insts.get(high as usize).is_some_and(|i| {
                i.op == Op::Vpart && i.imm == 1 && i.ty == self.r.inst(inst.b).ty && self.root(i.a) == low
            })
        {
            self.done(inst.b);
            self.same(v, inst.a)?;
            return Ok(true);
        }
        let a = self.use_xmm(inst.a)?;
        let b = self.use_xmm(inst.b)?;
        self.done(inst.a);
        self.done(inst.b);
        let d = self.define_xmm(v, a, 0)?;
        match inst.ty {
            Type::V128 => self.asm.vop(p0f(0x6c), d, a, b),
            Type::V256 => self.asm.vop_imm(p3a(0x38).l(true), d, a, b, 1),
            _ => self.asm.vop_imm(p3a(0x3a).w(true).z(), d, a, b, 1),
        }
        Ok(true)
    }

    /// A part of a wider vector; the lowest is its own low bits.
    pub(super) fn vpart(&mut self, v: Value, inst: &Inst) -> Result<bool, Too> {
        let from = self.r.inst(inst.a).ty;
        if class(from) != Class::Xmm {
            return Ok(false);
        }
        if inst.imm == 0 {
            self.same(v, inst.a)?;
            return Ok(true);
        }
        let a = self.use_xmm(inst.a)?;
        self.done(inst.a);
        let d = self.define_xmm(v, a, 0)?;
        let n = inst.imm as u8;
        match (from, inst.ty) {
            (Type::V512, Type::V256) => {
                self.asm.vex(p3a(0x3b).w(true).z(), a.0, 0, d);
                self.asm.b(n);
                return Ok(true);
            }
            (Type::V512, _) => {
                let quarter = if inst.ty == Type::V64 { n / 2 } else { n };
                self.asm.vex(p3a(0x39).z(), a.0, 0, d);
                self.asm.b(quarter);
            }
            (Type::V256, _) => {
                let upper = if inst.ty == Type::V64 { n / 2 } else { n };
                self.asm.vex(p3a(0x39).l(true), a.0, 0, d);
                self.asm.b(upper);
            }
            _ => self.asm.vmov(false, d, a),
        }
        if inst.ty == Type::V64 && n % 2 == 1 {
            self.asm.vop(p0f(0x6d), d, d, d);
        }
        Ok(true)
    }
}

//! F: single precision, and what D and Zfh share with it.
//!
//! Registers are 64 bits wide; a narrower value is boxed. Rounding is static in every operation: dynamic rounding
//! takes `frm` from the unit's key. Exceptions are the IR's sticky ones, read by `zicsr.rs`. The first write of a
//! path sets `mstatus.FS` to dirty.

use tcg_ir::{FCond, FpAttr, Op, Type, Value};

use super::Translator;
use crate::{
    cpu::Ext,
    decode::*,
    helpers::{self, id},
    mode, state,
    state::status,
};

impl Translator<'_, '_> {
    /// True if floating point of `ext` may be used.
    pub(super) fn fp_on(&self, ext: Ext) -> bool {
        self.has(ext) && self.mode.fs
    }

    /// Attributes for instruction field `rm`; 7 is dynamic.
    pub(super) fn rm(&self, rm: i32) -> Option<FpAttr> {
        let rm = if rm == 7 { self.mode.frm } else { rm as u8 };
        Some(FpAttr::RISCV.with_rounding(mode::rounding(rm)?))
    }

    /// Register `n` as a value of `ty`: what is not boxed properly is the canonical NaN.
    pub(super) fn f(&mut self, n: i32, ty: Type) -> Value {
        let v = self.b.get(state::f(n as u16), Type::F64);
        if ty == Type::F64 { v } else { self.b.funbox(ty, v) }
    }

    /// The 64 bits of register `n`.
    pub(super) fn f_bits(&mut self, n: i32) -> Value {
        let v = self.b.get(state::f(n as u16), Type::F64);
        self.b.bitcast(Type::I64, v)
    }

    pub(super) fn set_f(&mut self, n: i32, v: Value) {
        let v = if self.b.ty(v) == Type::F64 { v } else { self.b.fbox(v) };
        self.b.set(state::f(n as u16), v);
        self.set_fs_dirty();
    }

    pub(super) fn set_fs_dirty(&mut self) {
        if !self.fs_dirty {
            self.fs_dirty = true;
            let old = self.get64(state::MSTATUS);
            let dirty = self.b.iconst(Type::I64, status::FS);
            let new = self.b.or(old, dirty);
            self.b.set(state::MSTATUS, new);
        }
    }

    // Families; `ty` is the format, `ext` the extension it belongs to.

    pub(super) fn fp_load(&mut self, a: &ArgI, ty: Type, log2: u32, ext: Ext) -> bool {
        if !self.fp_on(ext) {
            return false;
        }
        let (base, disp) = self.address(a.rs1, a.imm, false);
        let v = self.b.load(ty, self.mem(log2), base, disp);
        self.set_f(a.rd, v);
        true
    }

    pub(super) fn fp_store(&mut self, a: &ArgS, log2: u32, ext: Ext) -> bool {
        if !self.fp_on(ext) {
            return false;
        }
        let (base, disp) = self.address(a.rs1, a.imm, true);
        let v = self.f_bits(a.rs2);
        self.b.store(self.mem(log2), base, disp, v);
        true
    }

    pub(super) fn fp_binary(&mut self, a: &ArgF2, op: Op, ty: Type, ext: Ext) -> bool {
        let (true, Some(attr)) = (self.fp_on(ext), self.rm(a.rm)) else { return false };
        let (r1, r2) = (self.f(a.rs1, ty), self.f(a.rs2, ty));
        let v = self.b.fp(op, attr, r1, r2);
        self.set_f(a.rd, v);
        true
    }

    pub(super) fn fp_sqrt(&mut self, a: &ArgF1, ty: Type, ext: Ext) -> bool {
        let (true, Some(attr)) = (self.fp_on(ext), self.rm(a.rm)) else { return false };
        let r1 = self.f(a.rs1, ty);
        let v = self.b.fp(Op::Fsqrt, attr, r1, Value::NONE);
        self.set_f(a.rd, v);
        true
    }

    /// `±(rs1 * rs2) ± rs3`
    pub(super) fn fp_fma(&mut self, a: &ArgF3, product: bool, addend: bool, ty: Type, ext: Ext) -> bool {
        let (true, Some(attr)) = (self.fp_on(ext), self.rm(a.rm)) else { return false };
        let (r1, r2, r3) = (self.f(a.rs1, ty), self.f(a.rs2, ty), self.f(a.rs3, ty));
        let v = self.b.fma(attr.with_negate(product, addend), r1, r2, r3);
        self.set_f(a.rd, v);
        true
    }

    pub(super) fn fp_sign(&mut self, a: &ArgR, kind: u16, ty: Type, ext: Ext) -> bool {
        if !self.fp_on(ext) {
            return false;
        }
        let r1 = self.f(a.rs1, ty);
        let v = if a.rs1 == a.rs2 {
            match kind {
                0 => r1,
                1 => self.b.unary(Op::Fneg, r1),
                _ => self.b.unary(Op::Fabs, r1),
            }
        } else {
            let r2 = self.f(a.rs2, ty);
            self.b.fsgnj(kind, r1, r2)
        };
        self.set_f(a.rd, v);
        true
    }

    pub(super) fn fp_min_max(&mut self, a: &ArgR, op: Op, ty: Type, ext: Ext) -> bool {
        if !self.fp_on(ext) {
            return false;
        }
        let (r1, r2) = (self.f(a.rs1, ty), self.f(a.rs2, ty));
        let v = self.b.fp(op, FpAttr::RISCV, r1, r2);
        self.set_f(a.rd, v);
        true
    }

    /// Comparison; `flt` and `fle` signal on quiet NaNs too.
    pub(super) fn fp_compare(&mut self, a: &ArgR, cond: FCond, ty: Type, ext: Ext) -> bool {
        if !self.fp_on(ext) {
            return false;
        }
        let attr = FpAttr::RISCV.with_flag(cond != FCond::Eq);
        let (r1, r2) = (self.f(a.rs1, ty), self.f(a.rs2, ty));
        let v = self.b.fcmp(self.xt, attr, cond, r1, r2);
        self.set_x(a.rd, v);
        self.set_fs_dirty();
        true
    }

    pub(super) fn fp_class(&mut self, a: &ArgR2, ty: Type, ext: Ext) -> bool {
        if !self.fp_on(ext) {
            return false;
        }
        let r1 = self.f(a.rs1, ty);
        let int = int_of(ty);
        let bits = self.b.bitcast(int, r1);
        let bits = self.b.zext(Type::I64, bits);
        let width = self.b.iconst(Type::I64, u64::from(ty.bits()));
        let class = self.b.call(id(helpers::FCLASS), Type::I64, &[bits, width]);
        let class = self.b.trunc(self.xt, class);
        self.set_x(a.rd, class);
        true
    }

    /// To an integer of `int`; 32-bit results are sign-extended even when unsigned.
    pub(super) fn fp_to_int(&mut self, a: &ArgF1, int: Type, unsigned: bool, ty: Type, ext: Ext) -> bool {
        let (true, Some(attr)) = (self.fp_on(ext), self.rm(a.rm)) else { return false };
        if int == Type::I64 && !self.rv64() {
            return false;
        }
        let r1 = self.f(a.rs1, ty);
        let v = self.b.convert(Op::Ftoi, int, attr.with_flag(unsigned), r1);
        self.set_x32(a.rd, v);
        self.set_fs_dirty();
        true
    }

    pub(super) fn fp_from_int(&mut self, a: &ArgF1, int: Type, unsigned: bool, ty: Type, ext: Ext) -> bool {
        let (true, Some(attr)) = (self.fp_on(ext), self.rm(a.rm)) else { return false };
        if int == Type::I64 && !self.rv64() {
            return false;
        }
        let r1 = self.x(a.rs1);
        let r1 = self.b.trunc(int, r1);
        let v = self.b.convert(Op::Itof, ty, attr.with_flag(unsigned), r1);
        self.set_f(a.rd, v);
        true
    }

    /// Between formats.
    pub(super) fn fp_convert(&mut self, a: &ArgF1, to: Type, from: Type, ext: Ext) -> bool {
        let (true, Some(attr)) = (self.fp_on(ext), self.rm(a.rm)) else { return false };
        let r1 = self.f(a.rs1, from);
        let v = self.b.convert(Op::Fcvt, to, attr, r1);
        self.set_f(a.rd, v);
        true
    }

    /// The low bits of a register, as they are, sign-extended.
    pub(super) fn fp_move_to_x(&mut self, a: &ArgR2, ty: Type, ext: Ext) -> bool {
        if !self.fp_on(ext) {
            return false;
        }
        let bits = self.f_bits(a.rs1);
        let bits = self.b.trunc(int_of(ty), bits);
        self.set_x32(a.rd, bits);
        true
    }

    pub(super) fn fp_move_from_x(&mut self, a: &ArgR2, ty: Type, ext: Ext) -> bool {
        if !self.fp_on(ext) {
            return false;
        }
        let bits = self.x(a.rs1);
        let bits = self.b.trunc(int_of(ty), bits);
        let v = self.b.bitcast(ty, bits);
        self.set_f(a.rd, v);
        true
    }
}

/// The integer type of a float's size.
const fn int_of(ty: Type) -> Type {
    match ty {
        Type::F16 => Type::I16,
        Type::F32 => Type::I32,
        _ => Type::I64,
    }
}

/// Defines `trans_*` functions in terms of a family: `name ArgType => family(args)`.
macro_rules! fp_instructions {
    ($($name:ident $args:ident => $family:ident($($arg:expr),*);)*) => {
        impl Translator<'_, '_> {
            $(pub(crate) fn $name(&mut self, a: &$args) -> bool {
                self.$family(a, $($arg),*)
            })*
        }
    };
}
pub(super) use fp_instructions;

const S: Type = Type::F32;

fp_instructions! {
    trans_flw ArgI => fp_load(S, 2, Ext::F);
    trans_fsw ArgS => fp_store(2, Ext::F);
    trans_fmadd_s ArgF3 => fp_fma(false, false, S, Ext::F);
    trans_fmsub_s ArgF3 => fp_fma(false, true, S, Ext::F);
    trans_fnmsub_s ArgF3 => fp_fma(true, false, S, Ext::F);
    trans_fnmadd_s ArgF3 => fp_fma(true, true, S, Ext::F);
    trans_fadd_s ArgF2 => fp_binary(Op::Fadd, S, Ext::F);
    trans_fsub_s ArgF2 => fp_binary(Op::Fsub, S, Ext::F);
    trans_fmul_s ArgF2 => fp_binary(Op::Fmul, S, Ext::F);
    trans_fdiv_s ArgF2 => fp_binary(Op::Fdiv, S, Ext::F);
    trans_fsqrt_s ArgF1 => fp_sqrt(S, Ext::F);
    trans_fsgnj_s ArgR => fp_sign(0, S, Ext::F);
    trans_fsgnjn_s ArgR => fp_sign(1, S, Ext::F);
    trans_fsgnjx_s ArgR => fp_sign(2, S, Ext::F);
    trans_fmin_s ArgR => fp_min_max(Op::Fmin, S, Ext::F);
    trans_fmax_s ArgR => fp_min_max(Op::Fmax, S, Ext::F);
    trans_feq_s ArgR => fp_compare(FCond::Eq, S, Ext::F);
    trans_flt_s ArgR => fp_compare(FCond::Lt, S, Ext::F);
    trans_fle_s ArgR => fp_compare(FCond::Le, S, Ext::F);
    trans_fclass_s ArgR2 => fp_class(S, Ext::F);
    trans_fcvt_w_s ArgF1 => fp_to_int(Type::I32, false, S, Ext::F);
    trans_fcvt_wu_s ArgF1 => fp_to_int(Type::I32, true, S, Ext::F);
    trans_fcvt_l_s ArgF1 => fp_to_int(Type::I64, false, S, Ext::F);
    trans_fcvt_lu_s ArgF1 => fp_to_int(Type::I64, true, S, Ext::F);
    trans_fcvt_s_w ArgF1 => fp_from_int(Type::I32, false, S, Ext::F);
    trans_fcvt_s_wu ArgF1 => fp_from_int(Type::I32, true, S, Ext::F);
    trans_fcvt_s_l ArgF1 => fp_from_int(Type::I64, false, S, Ext::F);
    trans_fcvt_s_lu ArgF1 => fp_from_int(Type::I64, true, S, Ext::F);
    trans_fmv_x_w ArgR2 => fp_move_to_x(S, Ext::F);
    trans_fmv_w_x ArgR2 => fp_move_from_x(S, Ext::F);
}

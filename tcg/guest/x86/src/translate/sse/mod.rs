//! MMX, SSE to SSE4.1 (SDM volume 1, chapters 9 to 12).
//!
//! Integer instructions of MMX and SSE differ in their width alone: both are translated by the same functions, on `v64`
//! and `v128`. What the IR has no operation for (saturation, packing, horizontal sums) is written with the operations it
//! has; a shuffle is a byte table.

mod compare;
mod convert;
mod float;
mod integer;
mod moves;
mod shift;
mod shuffle;

use iced_x86::{Mnemonic, OpKind};
use tcg_ir::{FpAttr, Lane, NanPolicy, Op, Type, Value};

use super::Translator;
use crate::{
    exceptions::{self, vector},
    fpu::MmxEnter,
    state,
};

impl Translator<'_, '_> {
    /// Vector instructions without VEX.
    pub(super) fn sse(&mut self, m: Mnemonic) -> bool {
        self.sse_moves(m)
            || self.sse_integer(m)
            || self.sse_shift(m)
            || self.sse_shuffle(m)
            || self.sse_float(m)
            || self.sse_compare(m)
            || self.sse_convert(m)
    }

    /// Whether operand `n` is an MMX register.
    fn is_mm(&self, n: u32) -> bool {
        self.is_register(n) && self.insn.op_register(n).is_mm()
    }

    /// `v64` if the instruction works on MMX registers, else `v128`.
    fn vector_type(&self) -> Type {
        if (0..self.insn.op_count().min(2)).any(|n| self.is_mm(n)) { Type::V64 } else { Type::V128 }
    }

    /// Sees to it that vector registers of the instruction's kind may be used.
    fn vector_on(&mut self) -> bool {
        if self.vector_type() == Type::V64 { self.mmx_on() } else { self.sse_on() }
    }

    /// Raises #UD or #NM if MMX may not be used now; marks all x87 registers as used (SDM volume 1, 9.5.1).
    fn mmx_on(&mut self) -> bool {
        if self.mode.em {
            self.undefined();
            return false;
        }
        if !self.fpu_available() {
            return false;
        }
        let written = if self.is_mm(0) { self.insn.op_register(0).number() as u64 } else { 8 };
        let written = self.b.iconst(Type::I64, written);
        self.call::<MmxEnter>(&[written]);
        true
    }

    /// Vector operand `n`: a register, or memory, which must be aligned if it has 16 bytes.
    fn vector(&mut self, n: u32) -> Value {
        match self.vector_type() {
            Type::V64 if self.is_memory(n) => {
                let ea = self.ea_sized(8, false);
                self.load(Type::V64, &ea)
            }
            Type::V64 => {
                let r = self.insn.op_register(n).number();
                self.b.get(state::mm(r), Type::V64)
            }
            _ => self.read_v128(n),
        }
    }

    /// Writes the destination register.
    fn set_vector(&mut self, v: Value) {
        let r = self.insn.op_register(0);
        if r.is_mm() {
            self.b.set(state::mm(r.number()), v);
        } else {
            self.set_xmm(r.number(), v);
        }
    }

    /// An operation on lanes.
    fn lanes(&mut self, op: Op, lane: Lane, a: Value, b: Value) -> Value {
        let ty = self.b.ty(a);
        self.b.vector(op, ty, lane, 0, [a, b, Value::NONE], 0)
    }

    /// An operation on lanes with a constant.
    fn lanes_imm(&mut self, op: Op, lane: Lane, a: Value, imm: u64) -> Value {
        let ty = self.b.ty(a);
        self.b.vector(op, ty, lane, 0, [a, Value::NONE, Value::NONE], imm)
    }

    /// The same constant in every lane.
    fn splat(&mut self, ty: Type, lane: Lane, value: u64) -> Value {
        let v = self.b.iconst(Type::I64, value);
        self.b.vector(Op::Vsplat, ty, lane, 0, [v, Value::NONE, Value::NONE], 0)
    }

    /// A vector constant.
    fn bytes(&mut self, ty: Type, value: u128) -> Value {
        let v = self.splat(ty, Lane::I64, value as u64);
        if ty == Type::V64 || (value >> 64) as u64 == value as u64 {
            return v;
        }
        let high = self.b.iconst(Type::I64, (value >> 64) as u64);
        self.b.vector(Op::Vinsert, ty, Lane::I64, 0, [v, high, Value::NONE], 1)
    }

    /// Lane `n` as a scalar.
    fn lane(&mut self, ty: Type, lane: Lane, v: Value, n: u64) -> Value {
        self.b.vector(Op::Vextract, ty, lane, 0, [v, Value::NONE, Value::NONE], n)
    }

    /// The vector with lane `n` replaced.
    fn with_lane(&mut self, lane: Lane, v: Value, n: u64, scalar: Value) -> Value {
        let ty = self.b.ty(v);
        self.b.vector(Op::Vinsert, ty, lane, 0, [v, scalar, Value::NONE], n)
    }

    /// Bytes of `a` picked by a constant table; 0xff gives zero.
    fn pick(&mut self, a: Value, table: u128) -> Value {
        let ty = self.b.ty(a);
        let table = self.bytes(ty, table);
        self.lanes(Op::Vtbl, Lane::I8, a, table)
    }

    /// Bits of `a` where the mask has ones, of `b` elsewhere.
    fn merge(&mut self, mask: Value, a: Value, b: Value) -> Value {
        let ty = self.b.ty(a);
        self.b.vector(Op::Vselect, ty, Lane::I8, 0, [mask, a, b], 0)
    }

    /// The immediate.
    fn imm8(&self) -> u8 {
        let last = self.insn.op_count() - 1;
        if self.insn.op_kind(last) == OpKind::Immediate8 { self.insn.immediate8() } else { 0 }
    }

    /// Raises #UD or #NM if SSE may not be used now (SDM volume 3, 13.1); true if it may.
    pub(crate) fn sse_on(&mut self) -> bool {
        if self.mode.em || !self.mode.sse {
            self.undefined();
            return false;
        }
        self.fpu_available()
    }

    /// Raises #NM if another task's registers are in the unit; true if not.
    pub(crate) fn fpu_available(&mut self) -> bool {
        if self.mode.ts {
            self.raise(exceptions::plain(vector::NM));
            return false;
        }
        true
    }

    /// Attributes of floating-point operations under MXCSR as it is now: it is part of the unit's key.
    pub(crate) fn sse_attr(&self) -> FpAttr {
        let mut a = FpAttr::RISCV.with_nan(NanPolicy::X86).with_rounding(self.mode.rounding());
        if self.mode.mxcsr & 4 != 0 {
            a = FpAttr(a.0 | 1 << 7);
        }
        if self.mode.mxcsr & 8 != 0 {
            a = FpAttr(a.0 | 1 << 8);
        }
        a
    }

    /// Operand `n`: a vector register's low 128 bits, or 16 bytes of memory that must be aligned.
    pub(crate) fn read_v128(&mut self, n: u32) -> Value {
        if self.is_memory(n) {
            let ea = self.ea_sized(16, false);
            let m = self.mem_aligned(16);
            return self.load_op(Type::V128, m, &ea);
        }
        let r = self.insn.op_register(n).number();
        self.xmm(r)
    }
}

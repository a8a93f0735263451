//! MMX, SSE to SSE4.2, AES, SHA, and the instructions of AVX and AVX2 that are the same with VEX (SDM volume 1, chapters
//! 9 to 14).
//!
//! Instructions of MMX, SSE and AVX differ in their width alone: they are translated by the same functions, on `v64`,
//! `v128` and `v256`, with EVEX on `v512` as well. With VEX or EVEX the destination is no source: `source` numbers the
//! operands as those without have them. What a mask of AVX-512 changes is seen to where operands are read and results
//! written (`evex`).

mod compare;
mod convert;
mod crypto;
mod float;
mod integer;
mod moves;
mod shift;
mod shuffle;
mod text;

pub(super) use self::float::Shape;

use iced_x86::{EncodingKind, Mnemonic, OpKind};
use tcg_ir::{FpAttr, Lane, NanPolicy, Op, Type, Value, VecFn};

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
            || self.sse_crypto(m)
            || self.sse_text(m)
    }

    /// Whether the instruction has VEX or EVEX.
    pub(crate) fn is_vex(&self) -> bool {
        matches!(self.insn.encoding(), EncodingKind::VEX | EncodingKind::EVEX)
    }

    /// Whether the instruction has EVEX.
    pub(crate) fn is_evex(&self) -> bool {
        self.insn.encoding() == EncodingKind::EVEX
    }

    /// Number of operands that are registers or memory.
    pub(crate) fn places(&self) -> u32 {
        let place = |n: &u32| matches!(self.insn.op_kind(*n), OpKind::Register | OpKind::Memory);
        (0..self.insn.op_count()).filter(place).count() as u32
    }

    /// Number of the operand that is number `n` without VEX, for reading: 0 the destination's old value, 1 the source.
    pub(crate) fn source(&self, n: u32) -> u32 {
        match (self.is_vex(), self.places()) {
            (false, _) => n,
            (true, 0..=2) => 1,
            _ => n + 1,
        }
    }

    /// Whether operand `n` is an MMX register.
    fn is_mm(&self, n: u32) -> bool {
        self.is_register(n) && self.insn.op_register(n).is_mm()
    }

    /// Width of the instruction: `v64` if it works on MMX registers, `v256` if on YMM and `v512` if on ZMM registers.
    pub(crate) fn vector_type(&self) -> Type {
        let any = |count: u32, is: fn(iced_x86::Register) -> bool| {
            (0..self.insn.op_count().min(count)).any(|n| self.is_register(n) && is(self.insn.op_register(n)))
        };
        if any(2, iced_x86::Register::is_mm) {
            Type::V64
        } else if any(3, iced_x86::Register::is_zmm) {
            Type::V512
        } else if any(3, iced_x86::Register::is_ymm) {
            Type::V256
        } else {
            Type::V128
        }
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

    /// Vector source `n` in the instruction's width.
    pub(super) fn vector(&mut self, n: u32) -> Value {
        let (n, ty) = (self.source(n), self.vector_type());
        self.read_vector(n, ty)
    }

    /// Writes the destination register: with VEX all of it, with EVEX as its mask says.
    pub(super) fn set_vector(&mut self, v: Value) {
        let v = if self.is_evex() { self.masked(v) } else { v };
        self.put_vector(v);
    }

    /// Writes the destination register whatever the mask says.
    pub(super) fn put_vector(&mut self, v: Value) {
        let r = self.insn.op_register(0);
        if r.is_mm() {
            self.b.set(state::mm(r.number()), v);
        } else if self.is_vex() {
            self.set_wide(r.number(), v);
        } else {
            self.set_xmm(r.number(), v);
        }
    }

    /// Writes vector register `n`, zeros above the value.
    pub(crate) fn set_wide(&mut self, n: usize, v: Value) {
        let ty = self.b.ty(v);
        let (low, high) =
            if ty == Type::V128 { (v, self.zeros()) } else { (self.part(v, 0), self.part(v, 1)) };
        self.b.set(state::xmm(n), low);
        self.b.set(state::ymmh(n), high);
        if ty == Type::V512 {
            self.go_high();
            let top = self.part_of(Type::V256, v, 1);
            self.b.set(state::zmmh(n), top);
        } else if self.mode.high {
            let zero = self.splat(Type::V256, Lane::I64, 0);
            self.b.set(state::zmmh(n), zero);
        }
    }

    /// 128 bits of zeros: one value a block, so that upper halves share a register.
    pub(crate) fn zeros(&mut self) -> Value {
        let block = self.b.current();
        if let Some((at, v)) = self.zeros
            && at == block
        {
            return v;
        }
        let v = self.splat(Type::V128, Lane::I64, 0);
        self.zeros = Some((block, v));
        v
    }

    /// 128 bits number `n` of more.
    pub(crate) fn part(&mut self, v: Value, n: u64) -> Value {
        self.part_of(Type::V128, v, n)
    }

    /// Part number `n` of a type of the vector, or all of it.
    pub(crate) fn part_of(&mut self, ty: Type, v: Value, n: u64) -> Value {
        if self.b.ty(v) == ty {
            return v;
        }
        self.b.vector(Op::Vpart, ty, Lane::I8, 0, [v, Value::NONE, Value::NONE], n)
    }

    /// Two halves of a vector twice as wide.
    pub(crate) fn join(&mut self, low: Value, high: Value) -> Value {
        let ty = if self.b.ty(low) == Type::V256 { Type::V512 } else { Type::V256 };
        self.b.vector(Op::Vjoin, ty, Lane::I8, 0, [low, high, Value::NONE], 0)
    }

    /// The value in the low part of a type at least as wide, with anything above.
    pub(crate) fn padded(&mut self, ty: Type, v: Value) -> Value {
        let mut v = v;
        while self.b.ty(v).bytes() < ty.bytes() {
            v = self.join(v, v);
        }
        v
    }

    /// Vector register `n`.
    pub(crate) fn vector_register(&mut self, n: usize, ty: Type) -> Value {
        let low = self.xmm(n);
        if !matches!(ty, Type::V256 | Type::V512) {
            return low;
        }
        let high = self.b.get(state::ymmh(n), Type::V128);
        let low = self.join(low, high);
        if ty == Type::V256 {
            return low;
        }
        let high = self.b.get(state::zmmh(n), Type::V256);
        self.join(low, high)
    }

    /// A vector function of one operand.
    pub(crate) fn function1(&mut self, f: VecFn, a: Value, imm: u64) -> Value {
        let ty = self.b.ty(a);
        self.b.vector(Op::Vfn1, ty, Lane::I8, f as u16, [a, Value::NONE, Value::NONE], imm)
    }

    /// A vector function of two operands.
    pub(crate) fn function(&mut self, f: VecFn, a: Value, b: Value, imm: u64) -> Value {
        let ty = self.b.ty(a);
        self.b.vector(Op::Vfn2, ty, Lane::I8, f as u16, [a, b, Value::NONE], imm)
    }

    /// An operation on lanes.
    pub(crate) fn lanes(&mut self, op: Op, lane: Lane, a: Value, b: Value) -> Value {
        let ty = self.b.ty(a);
        self.b.vector(op, ty, lane, 0, [a, b, Value::NONE], 0)
    }

    /// An operation on lanes with a constant.
    pub(crate) fn lanes_imm(&mut self, op: Op, lane: Lane, a: Value, imm: u64) -> Value {
        let ty = self.b.ty(a);
        self.b.vector(op, ty, lane, 0, [a, Value::NONE, Value::NONE], imm)
    }

    /// The same constant in every lane.
    pub(crate) fn splat(&mut self, ty: Type, lane: Lane, value: u64) -> Value {
        let v = self.b.iconst(Type::I64, value);
        self.b.vector(Op::Vsplat, ty, lane, 0, [v, Value::NONE, Value::NONE], 0)
    }

    /// A vector constant; of more than 128 bits each 128.
    pub(crate) fn bytes(&mut self, ty: Type, value: u128) -> Value {
        let v = self.splat(ty, Lane::I64, value as u64);
        if ty == Type::V64 || (value >> 64) as u64 == value as u64 {
            return v;
        }
        if ty != Type::V128 {
            let part = self.bytes(Type::V128, value);
            return self.padded(ty, part);
        }
        let high = self.b.iconst(Type::I64, (value >> 64) as u64);
        self.b.vector(Op::Vinsert, ty, Lane::I64, 0, [v, high, Value::NONE], 1)
    }

    /// Lane `n` as a scalar.
    pub(crate) fn lane(&mut self, ty: Type, lane: Lane, v: Value, n: u64) -> Value {
        self.b.vector(Op::Vextract, ty, lane, 0, [v, Value::NONE, Value::NONE], n)
    }

    /// The vector with lane `n` replaced.
    pub(crate) fn with_lane(&mut self, lane: Lane, v: Value, n: u64, scalar: Value) -> Value {
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
    pub(crate) fn merge(&mut self, mask: Value, a: Value, b: Value) -> Value {
        let ty = self.b.ty(a);
        self.b.vector(Op::Vselect, ty, Lane::I8, 0, [mask, a, b], 0)
    }

    /// The immediate.
    pub(crate) fn imm8(&self) -> u8 {
        let last = self.insn.op_count() - 1;
        if self.insn.op_kind(last) == OpKind::Immediate8 { self.insn.immediate8() } else { 0 }
    }

    /// Raises #UD or #NM if SSE may not be used now (SDM volume 3, 13.1); true if it may.
    pub(crate) fn sse_on(&mut self) -> bool {
        if self.is_vex() {
            return self.avx_on();
        }
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
        if self.is_evex() {
            a = self.embedded(a);
        }
        if self.mode.mxcsr & 4 != 0 {
            a = FpAttr(a.0 | 1 << 7);
        }
        if self.mode.mxcsr & 8 != 0 {
            a = FpAttr(a.0 | 1 << 8);
        }
        a
    }

    /// Operand `n`: a vector register's low part, or memory, which must be aligned without VEX if it has 16 bytes.
    pub(crate) fn read_vector(&mut self, n: u32, ty: Type) -> Value {
        if self.is_memory(n) {
            if self.is_evex() {
                return self.memory_lanes(ty);
            }
            let ea = self.ea_sized(ty.bytes() as u64, false);
            let aligned = !self.is_vex() && ty != Type::V64;
            let m = if aligned { self.mem_aligned(ty.bytes()) } else { self.mem(ty.bytes()) };
            return self.load_op(ty, m, &ea);
        }
        let r = self.insn.op_register(n).number();
        if ty == Type::V64 { self.b.get(state::mm(r), Type::V64) } else { self.vector_register(r, ty) }
    }

    /// Operand `n` in 128 bits.
    pub(crate) fn read_v128(&mut self, n: u32) -> Value {
        self.read_vector(n, Type::V128)
    }
}

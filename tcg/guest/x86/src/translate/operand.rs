//! Operands: registers in all their widths, immediates, memory with its address and segment (SDM volume 1, 3.7).

use iced_x86::{MemorySize, OpKind, Register};
use tcg_ir::{Align, Atomicity, Cond, MemOp, Order, Type, Value};

use super::Translator;
use crate::{
    exceptions::{self, vector},
    helpers::Segmented,
    segment::Class,
    state::{self, seg},
};

/// A linear address: value plus displacement, which wrap in the value's width.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ea {
    pub(crate) addr: Value,
    pub(crate) disp: i32,
}

/// The integer type of a number of bytes.
pub(crate) const fn int(bytes: usize) -> Type {
    match bytes {
        1 => Type::I8,
        2 => Type::I16,
        4 => Type::I32,
        8 => Type::I64,
        _ => Type::I128,
    }
}

/// Number of a segment register.
pub(super) fn seg_number(r: Register) -> usize {
    match r {
        Register::ES => seg::ES,
        Register::CS => seg::CS,
        Register::SS => seg::SS,
        Register::FS => seg::FS,
        Register::GS => seg::GS,
        _ => seg::DS,
    }
}

impl Translator<'_, '_> {
    // What an operand is.

    pub(crate) fn is_memory(&self, n: u32) -> bool {
        n < self.insn.op_count() && self.insn.op_kind(n) == OpKind::Memory
    }

    pub(crate) fn is_register(&self, n: u32) -> bool {
        n < self.insn.op_count() && self.insn.op_kind(n) == OpKind::Register
    }

    /// Bytes of an integer operand; an immediate has the width of the first operand.
    pub(crate) fn size(&self, n: u32) -> usize {
        match self.insn.op_kind(n) {
            OpKind::Register => self.insn.op_register(n).size(),
            OpKind::Memory => self.insn.memory_size().size(),
            _ if n != 0 => self.size(0),
            _ => 8,
        }
    }

    /// Integer type of an operand.
    pub(crate) fn ty(&self, n: u32) -> Type {
        int(self.size(n))
    }

    // General registers.

    /// A general register in its own width.
    pub(crate) fn read_reg(&mut self, r: Register) -> Value {
        let full = self.b.get(state::reg(r.full_register().number()), Type::I64);
        match r {
            Register::AH | Register::BH | Register::CH | Register::DH => {
                let v = self.b.extract(full, 8, 8);
                self.b.trunc(Type::I8, v)
            }
            _ => self.b.trunc(int(r.size()), full),
        }
    }

    /// Writes a general register in its own width: 32 bits clear the upper half, less leaves the rest.
    pub(crate) fn write_reg(&mut self, r: Register, v: Value) {
        let slot = state::reg(r.full_register().number());
        let v = match r.size() {
            8 => v,
            4 => self.b.zext(Type::I64, v),
            n => {
                let old = self.b.get(slot, Type::I64);
                let v = self.b.zext(Type::I64, v);
                let high = matches!(r, Register::AH | Register::BH | Register::CH | Register::DH);
                self.b.deposit(old, v, if high { 8 } else { 0 }, n as u32 * 8)
            }
        };
        self.b.set(slot, v);
    }

    /// The low bits of general register `n`.
    pub(crate) fn gpr(&mut self, n: usize, ty: Type) -> Value {
        let v = self.b.get(state::reg(n), Type::I64);
        self.b.trunc(ty, v)
    }

    /// Writes general register `n` in the width of the value.
    pub(crate) fn set_gpr(&mut self, n: usize, v: Value) {
        let slot = state::reg(n);
        let bits = self.b.ty(v).bits();
        let v = match bits {
            64 => v,
            32 => self.b.zext(Type::I64, v),
            _ => {
                let old = self.b.get(slot, Type::I64);
                let v = self.b.zext(Type::I64, v);
                self.b.deposit(old, v, 0, bits)
            }
        };
        self.b.set(slot, v);
    }

    // Operands by number.

    /// An integer operand: general register, memory or immediate.
    pub(crate) fn read(&mut self, n: u32) -> Value {
        let ty = self.ty(n);
        self.read_as(n, ty)
    }

    /// The same; an immediate is of type `ty`.
    pub(crate) fn read_as(&mut self, n: u32, ty: Type) -> Value {
        match self.insn.op_kind(n) {
            OpKind::Register => {
                let r = self.insn.op_register(n);
                self.read_reg(r)
            }
            OpKind::Memory => {
                let ea = self.ea(false);
                let ty = self.ty(n);
                self.load(ty, &ea)
            }
            _ => {
                let imm = self.insn.immediate(n);
                self.b.iconst(ty, imm)
            }
        }
    }

    /// Writes an operand that is not read before.
    pub(crate) fn write(&mut self, n: u32, v: Value) {
        if self.is_memory(n) {
            let ea = self.ea(true);
            self.store(&ea, v);
        } else {
            let r = self.insn.op_register(n);
            self.write_reg(r, v);
        }
    }

    // Addresses.

    /// Bytes of the instruction's memory operand.
    fn memory_bytes(&self) -> u64 {
        match self.insn.memory_size() {
            MemorySize::Unknown => 1,
            m => m.size().max(1) as u64,
        }
    }

    /// Offset of the memory operand in its segment: i64 in 64-bit mode with 64-bit addresses, else i32.
    /// 16-bit addresses have wrapped.
    pub(crate) fn offset_value(&mut self) -> (Value, i32) {
        let i = self.insn;
        let (base, index) = (i.memory_base(), i.memory_index());
        let width = self.address_size();
        let ty = if width == 8 { Type::I64 } else { Type::I32 };
        let disp = i.memory_displacement64();
        if matches!(base, Register::RIP | Register::EIP) {
            // The displacement is the address; it is relative to this instruction.
            let at = if width == 8 { disp } else { disp & 0xffff_ffff };
            return (self.b.pc(ty, at), 0);
        }
        let part = |t: &mut Self, r: Register| -> Option<Value> {
            if r == Register::None || r.is_vector_register() {
                return None;
            }
            let v = t.b.get(state::reg(r.full_register().number()), Type::I64);
            // XLAT's index.
            let v = if r.size() == 1 { t.b.extract(v, 0, 8) } else { v };
            let v = t.b.trunc(if width == 2 { Type::I16 } else { ty }, v);
            Some(if width == 2 { t.b.zext(Type::I32, v) } else { v })
        };
        let b = part(self, base);
        let x = part(self, index).map(|x| match i.memory_index_scale() {
            1 => x,
            s => {
                let n = self.b.iconst(ty, u64::from(s.trailing_zeros()));
                self.b.shl(x, n)
            }
        });
        let sum = match (b, x) {
            (Some(b), Some(x)) => Some(self.b.add(b, x)),
            (Some(v), None) | (None, Some(v)) => Some(v),
            (None, None) => None,
        };
        if width == 2 {
            let v = match sum {
                Some(v) => self.b.addi(v, i64::from(disp as u16 as i16)),
                None => self.b.iconst(Type::I32, disp & 0xffff),
            };
            return (self.b.extract(v, 0, 16), 0);
        }
        match (sum, i32::try_from(disp as i64)) {
            (Some(v), Ok(d)) => (v, d),
            (Some(v), Err(_)) if width == 4 => (v, disp as u32 as i32),
            (Some(v), Err(_)) => (self.b.addi(v, disp as i64), 0),
            (None, _) => (self.b.iconst(ty, disp), 0),
        }
    }

    /// Bytes of an address: 2, 4 or 8.
    pub(crate) fn address_size(&self) -> usize {
        let i = &self.insn;
        for r in [i.memory_base(), i.memory_index()] {
            if r != Register::None && !r.is_vector_register() {
                return r.size();
            }
        }
        match i.memory_displ_size() {
            0 => usize::try_from(self.mode.bitness() / 8).unwrap_or(4),
            n => n as usize,
        }
    }

    /// Linear address of the memory operand.
    pub(crate) fn ea(&mut self, write: bool) -> Ea {
        let bytes = self.memory_bytes();
        self.ea_sized(bytes, write)
    }

    /// The same for an access of `bytes`.
    pub(crate) fn ea_sized(&mut self, bytes: u64, write: bool) -> Ea {
        let segment = seg_number(self.insn.memory_segment());
        let (v, disp) = self.offset_value();
        self.segmented(segment, v, disp, bytes, write)
    }

    /// Linear address of `bytes` at an offset of a segment.
    pub(crate) fn segmented(&mut self, n: usize, v: Value, disp: i32, bytes: u64, write: bool) -> Ea {
        let ea = self.segmented_unwatched(n, v, disp, bytes, write);
        if self.mode.debug { self.watch_data(ea, bytes, write) } else { ea }
    }

    fn segmented_unwatched(&mut self, n: usize, v: Value, disp: i32, bytes: u64, write: bool) -> Ea {
        if self.mode.code64 {
            if self.b.ty(v) == Type::I64 {
                if n < seg::FS {
                    return Ea { addr: v, disp };
                }
                let base = self.b.get(state::base(n), Type::I64);
                return Ea { addr: self.b.add(v, base), disp };
            }
            let v = self.b.addi(v, i64::from(disp));
            let v = self.b.zext(Type::I64, v);
            if n < seg::FS {
                return Ea { addr: v, disp: 0 };
            }
            let base = self.b.get(state::base(n), Type::I64);
            return Ea { addr: self.b.add(v, base), disp: 0 };
        }
        let class = if n == seg::CS { Class::Checked } else { self.mode.segs[n] };
        match class {
            Class::Flat => Ea { addr: v, disp },
            Class::Based => {
                let base = self.b.get(state::base(n), Type::I64);
                let base = self.b.trunc(Type::I32, base);
                Ea { addr: self.b.add(v, base), disp }
            }
            Class::Limited => {
                let v = self.b.addi(v, i64::from(disp));
                let wide = self.b.zext(Type::I64, v);
                let last = self.b.addi(wide, bytes as i64 - 1);
                let limit = self.b.get(state::limit(n), Type::I64);
                let outside = self.b.setcc(Type::I8, Cond::Gtu, last, limit);
                let fault = if n == seg::SS { vector::SS } else { vector::GP };
                self.raise_if(outside, exceptions::with_error(fault, 0));
                let base = self.b.get(state::base(n), Type::I64);
                let base = self.b.trunc(Type::I32, base);
                Ea { addr: self.b.add(v, base), disp: 0 }
            }
            Class::Checked => {
                let v = self.b.addi(v, i64::from(disp));
                let wide = self.b.zext(Type::I64, v);
                let how = self.b.iconst(Type::I64, n as u64 | u64::from(write) << 3 | bytes << 8);
                let at = self.call::<Segmented>(&[wide, how]);
                Ea { addr: self.b.trunc(Type::I32, at), disp: 0 }
            }
        }
    }

    /// An address `by` bytes further.
    pub(crate) fn ea_plus(&mut self, ea: &Ea, by: i32) -> Ea {
        match ea.disp.checked_add(by) {
            Some(disp) => Ea { addr: ea.addr, disp },
            None => {
                let addr = self.b.addi(ea.addr, i64::from(ea.disp));
                Ea { addr, disp: by }
            }
        }
    }

    /// The address as one i64.
    pub(crate) fn ea_value(&mut self, ea: &Ea) -> Value {
        let v = self.b.addi(ea.addr, i64::from(ea.disp));
        self.b.zext(Type::I64, v)
    }

    // Memory. Every access goes through here, so that the flags are in their slots when it faults.

    /// Attributes of an access of `bytes`.
    pub(crate) fn mem(&self, bytes: usize) -> MemOp {
        MemOp::new(bytes.trailing_zeros()).with_mmu(self.mode.mmu).with_order(Order::Tso)
    }

    /// The same for operands that must be aligned, as those of most legacy SSE instructions.
    pub(crate) fn mem_aligned(&self, bytes: usize) -> MemOp {
        self.mem(bytes).with_align(Align::Natural)
    }

    pub(crate) fn load(&mut self, ty: Type, ea: &Ea) -> Value {
        let m = self.mem(ty.bytes());
        self.load_op(ty, m, ea)
    }

    pub(crate) fn load_op(&mut self, ty: Type, m: MemOp, ea: &Ea) -> Value {
        self.flush_flags();
        self.b.load(ty, m, ea.addr, ea.disp)
    }

    pub(crate) fn store(&mut self, ea: &Ea, v: Value) {
        let m = self.mem(self.b.ty(v).bytes());
        self.store_op(m, ea, v);
    }

    pub(crate) fn store_op(&mut self, m: MemOp, ea: &Ea, v: Value) {
        self.flush_flags();
        self.b.store(m, ea.addr, ea.disp, v);
    }

    /// Attributes of a locked access.
    pub(crate) fn mem_locked(&self, bytes: usize) -> MemOp {
        self.mem(bytes).with_order(Order::SeqCst).with_atomicity(Atomicity::Whole)
    }

    // Vector registers.

    /// The low 128 bits of vector register `n`.
    pub(crate) fn xmm(&mut self, n: usize) -> Value {
        self.b.get(state::xmm(n), Type::V128)
    }

    /// Writes the low 128 bits of vector register `n`; the rest stays, as legacy SSE has it.
    pub(crate) fn set_xmm(&mut self, n: usize, v: Value) {
        self.b.set(state::xmm(n), v);
    }
}

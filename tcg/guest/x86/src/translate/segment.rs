//! Segment registers, far transfers, tables (SDM volume 1, 7.3.15; volume 3, 2.8.1 and 5.10).

use iced_x86::{Code, Mnemonic, OpKind, Register};
use tcg_ir::{Cond, FlagBits, Type, Value};

use super::{
    Flow, Translator,
    operand::{int, seg_number},
};
use crate::{
    far::{FarCall, FarJump, FarRet, Iret},
    state::{self, seg},
    system::{self, Examine, LoadSegment, LoadSystem, LoadTable, TableBase, TableLimit},
};

impl Translator<'_, '_> {
    /// Instructions of this family.
    pub(super) fn segment(&mut self, m: Mnemonic) -> bool {
        use Mnemonic as M;
        match m {
            M::Mov if self.is_register(0) && self.insn.op_register(0).is_segment_register() => {
                let n = seg_number(self.insn.op_register(0));
                if n == seg::CS {
                    self.undefined();
                    return true;
                }
                let v = if self.is_memory(1) {
                    let ea = self.ea_sized(2, false);
                    self.load(Type::I16, &ea)
                } else {
                    let r = self.insn.op_register(1);
                    let v = self.read_reg(r);
                    self.b.trunc(Type::I16, v)
                };
                self.load_segment(n, v);
            }
            M::Mov if self.is_register(1) && self.insn.op_register(1).is_segment_register() => {
                let n = seg_number(self.insn.op_register(1));
                let v = self.b.get(state::selector(n), Type::I64);
                self.store_selector(v);
            }
            M::Push => {
                let n = seg_number(self.insn.op_register(0));
                let v = self.b.get(state::selector(n), Type::I64);
                let v = self.b.trunc(int(self.stack_bytes()), v);
                self.push_value(v);
            }
            M::Pop => {
                let n = seg_number(self.insn.op_register(0));
                let (v, sp) = self.peek(int(self.stack_bytes()));
                let v = self.b.trunc(Type::I16, v);
                // The load may fault: the stack pointer moves behind it.
                self.load_segment(n, v);
                self.set_gpr(4, sp);
            }
            M::Lds => self.load_far_pointer(seg::DS),
            M::Les => self.load_far_pointer(seg::ES),
            M::Lfs => self.load_far_pointer(seg::FS),
            M::Lgs => self.load_far_pointer(seg::GS),
            M::Lss => self.load_far_pointer(seg::SS),
            M::Jmp => {
                let (selector, offset, log2) = self.far_target();
                // A task switch saves where the old task goes on.
                self.set_next_pc();
                self.call::<FarJump>(&[selector, offset, log2]);
                self.leave();
            }
            M::Call => {
                let (selector, offset, log2) = self.far_target();
                self.set_next_pc();
                self.call::<FarCall>(&[selector, offset, log2]);
                self.leave();
            }
            M::Retf => {
                let log2 = match self.insn.code() {
                    Code::Retfw | Code::Retfw_imm16 => 1,
                    Code::Retfd | Code::Retfd_imm16 => 2,
                    _ => 3,
                };
                let extra = if self.insn.op_count() == 1 { self.insn.immediate16() } else { 0 };
                let log2 = self.b.iconst(Type::I64, log2);
                let extra = self.b.iconst(Type::I64, u64::from(extra));
                self.call::<FarRet>(&[log2, extra]);
                self.leave();
            }
            M::Iret | M::Iretd | M::Iretq => {
                let log2 = match m {
                    M::Iret => 1,
                    M::Iretd => 2,
                    _ => 3,
                };
                let log2 = self.b.iconst(Type::I64, log2);
                self.set_next_pc();
                self.call::<Iret>(&[log2]);
                self.leave();
            }
            M::Lgdt | M::Lidt => self.load_table(if m == M::Lgdt { system::GDTR } else { system::IDTR }),
            M::Sgdt | M::Sidt => self.store_table(if m == M::Sgdt { system::GDTR } else { system::IDTR }),
            M::Lldt | M::Ltr => {
                if !self.need_protected() || !self.need_cpl0() {
                    return true;
                }
                let v = self.read_selector(0);
                let which = self.b.iconst(Type::I64, if m == M::Ltr { system::TR } else { system::LDTR });
                self.call::<LoadSystem>(&[which, v]);
            }
            M::Sldt | M::Str => {
                if !self.need_protected() || !self.user_may_look() {
                    return true;
                }
                let which = self.b.iconst(Type::I64, if m == M::Str { system::TR } else { system::LDTR });
                let v = self.call::<TableBase>(&[which]);
                self.store_selector(v);
            }
            M::Lar | M::Lsl | M::Verr | M::Verw => self.examine(m),
            M::Arpl => self.arpl(),
            _ => return false,
        }
        true
    }

    /// #UD in real and virtual-8086 mode.
    fn need_protected(&mut self) -> bool {
        if !self.mode.protected || self.mode.vm86 {
            self.undefined();
            return false;
        }
        true
    }

    /// Loads a segment register; the unit goes on where its key stays.
    fn load_segment(&mut self, n: usize, selector: Value) {
        let number = self.b.iconst(Type::I64, n as u64);
        let selector = self.b.zext(Type::I64, selector);
        self.call::<LoadSegment>(&[number, selector]);
        if n == seg::SS {
            self.shield = 2;
        }
        if !self.mode.code64 || n == seg::SS {
            self.flow = Flow::NewKey;
        }
    }

    /// Stores a selector: 16 bits to memory, zero-extended to a register.
    fn store_selector(&mut self, v: Value) {
        if self.is_memory(0) {
            let ea = self.ea_sized(2, true);
            let v = self.b.trunc(Type::I16, v);
            self.store(&ea, v);
        } else {
            let r = self.insn.op_register(0);
            let v = self.b.trunc(int(r.size()), v);
            self.write_reg(r, v);
        }
    }

    /// A selector operand as an i64.
    fn read_selector(&mut self, n: u32) -> Value {
        let v = if self.is_memory(n) {
            let ea = self.ea_sized(2, false);
            self.load(Type::I16, &ea)
        } else {
            let r = self.insn.op_register(n);
            let v = self.read_reg(r);
            self.b.trunc(Type::I16, v)
        };
        self.b.zext(Type::I64, v)
    }

    /// Offset and selector of a far pointer in memory.
    fn far_pointer(&mut self, bytes: usize) -> (Value, Value) {
        let ea = self.ea_sized(bytes as u64 + 2, false);
        let offset = self.load(int(bytes), &ea);
        let behind = self.ea_plus(&ea, bytes as i32);
        let selector = self.load(Type::I16, &behind);
        (offset, selector)
    }

    fn load_far_pointer(&mut self, n: usize) {
        let r: Register = self.insn.op_register(0);
        let (offset, selector) = self.far_pointer(r.size());
        self.load_segment(n, selector);
        self.write_reg(r, offset);
    }

    /// Selector, offset and log2 of the operand size of a far transfer, as i64.
    fn far_target(&mut self) -> (Value, Value, Value) {
        let (selector, offset, bytes) = match self.insn.op_kind(0) {
            OpKind::FarBranch16 | OpKind::FarBranch32 => {
                let wide = self.insn.op_kind(0) == OpKind::FarBranch32;
                let offset =
                    if wide { self.insn.far_branch32() } else { u32::from(self.insn.far_branch16()) };
                let selector = self.b.iconst(Type::I64, u64::from(self.insn.far_branch_selector()));
                let offset = self.b.iconst(Type::I64, u64::from(offset));
                (selector, offset, if wide { 4 } else { 2 })
            }
            _ => {
                let bytes = self.insn.memory_size().size().saturating_sub(2).max(2);
                let (offset, selector) = self.far_pointer(bytes);
                let selector = self.b.zext(Type::I64, selector);
                (selector, self.b.zext(Type::I64, offset), bytes)
            }
        };
        let log2 = self.b.iconst(Type::I64, u64::from(bytes.trailing_zeros()));
        (selector, offset, log2)
    }

    fn load_table(&mut self, which: u64) {
        if !self.need_cpl0() {
            return;
        }
        let base_bytes = if self.mode.code64 { 8 } else { 4 };
        let ea = self.ea_sized(base_bytes + 2, false);
        let limit = self.load(Type::I16, &ea);
        let behind = self.ea_plus(&ea, 2);
        let base = self.load(int(base_bytes as usize), &behind);
        let mut base = self.b.zext(Type::I64, base);
        if matches!(self.insn.code(), Code::Lgdt_m1632_16 | Code::Lidt_m1632_16) {
            base = self.b.extract(base, 0, 24);
        }
        let limit = self.b.zext(Type::I64, limit);
        let which = self.b.iconst(Type::I64, which);
        self.call::<LoadTable>(&[which, base, limit]);
    }

    fn store_table(&mut self, which: u64) {
        if !self.user_may_look() {
            return;
        }
        let base_bytes = if self.mode.code64 { 8 } else { 4 };
        let which = self.b.iconst(Type::I64, which);
        let base = self.call::<TableBase>(&[which]);
        let limit = self.call::<TableLimit>(&[which]);
        let ea = self.ea_sized(base_bytes + 2, true);
        let limit = self.b.trunc(Type::I16, limit);
        self.store(&ea, limit);
        let behind = self.ea_plus(&ea, 2);
        let base = self.b.trunc(int(base_bytes as usize), base);
        self.store(&behind, base);
    }

    fn examine(&mut self, m: Mnemonic) {
        if !self.need_protected() {
            return;
        }
        let (which, operand) = match m {
            Mnemonic::Lar => (0, 1),
            Mnemonic::Lsl => (1, 1),
            Mnemonic::Verr => (2, 0),
            _ => (3, 0),
        };
        let selector = self.read_selector(operand);
        let which = self.b.iconst(Type::I64, which);
        let v = self.call::<Examine>(&[which, selector]);
        let good = self.b.extract(v, 63, 1);
        if operand == 1 {
            let r = self.insn.op_register(0);
            let ty = int(r.size());
            let slot = state::reg(r.full_register().number());
            let old = self.b.get(slot, Type::I64);
            let low = self.b.extract(v, 0, 32);
            let low = self.b.trunc(ty, low);
            let wide = self.b.zext(Type::I64, low);
            let new = if ty == Type::I16 { self.b.deposit(old, wide, 0, 16) } else { wide };
            let new = self.b.select(good, new, old);
            self.b.set(slot, new);
        }
        let one = self.b.iconst(Type::I64, 1);
        let z = self.b.shl(good, one);
        self.merge_flags(FlagBits::Z, z);
    }

    fn arpl(&mut self) {
        if !self.need_protected() {
            return;
        }
        let src = self.insn.op_register(1);
        let src = self.read_reg(src);
        let src = self.b.trunc(Type::I16, src);
        let three = self.b.iconst(Type::I16, 3);
        let wanted = self.b.and(src, three);
        let ea = if self.is_memory(0) { Some(self.ea_sized(2, true)) } else { None };
        let old = match &ea {
            Some(ea) => self.load(Type::I16, ea),
            None => {
                let r = self.insn.op_register(0);
                let v = self.read_reg(r);
                self.b.trunc(Type::I16, v)
            }
        };
        let has = self.b.and(old, three);
        let raise = self.b.setcc(Type::I8, Cond::Ltu, has, wanted);
        let raised = self.b.deposit(old, wanted, 0, 2);
        let v = self.b.select(raise, raised, old);
        match ea {
            Some(ea) => self.store(&ea, v),
            None => {
                let n = self.insn.op_register(0).full_register().number();
                self.set_gpr(n, v);
            }
        }
        let z = self.b.zext(Type::I64, raise);
        let one = self.b.iconst(Type::I64, 1);
        let z = self.b.shl(z, one);
        self.merge_flags(FlagBits::Z, z);
    }
}

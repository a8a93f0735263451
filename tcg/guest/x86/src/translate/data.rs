//! Data movement (SDM volume 1, 7.3.1): MOV and its kin, the stack, exchanges, conversions, conditional moves.

use iced_x86::{ConditionCode, Mnemonic, Register};
use tcg_ir::{Cond, FlagBits, FlagKind, Op, RmwOp, Type, Value};

use super::{
    Flow, Translator,
    flags::cond_of,
    operand::{Ea, int},
};
use crate::{
    exceptions::{self, vector},
    flags,
    helpers::Look,
    state::{self, seg},
    wide::{Cmpxchg16b, Enter, PopAll, PushAll},
};

impl Translator<'_, '_> {
    /// Instructions of this family.
    pub(super) fn data(&mut self, m: Mnemonic) -> bool {
        use Mnemonic as M;
        match m {
            M::Mov => return self.mov(),
            M::Movzx => {
                let ty = self.ty(0);
                let v = self.read(1);
                let v = self.b.zext(ty, v);
                self.write(0, v);
            }
            M::Movsx | M::Movsxd => {
                let ty = self.ty(0);
                let v = self.read(1);
                let v = if self.b.ty(v) == ty { v } else { self.b.sext(ty, v) };
                self.write(0, v);
            }
            M::Movnti => {
                let v = self.read(1);
                self.write(0, v);
            }
            M::Movbe => {
                let v = self.read(1);
                let v = self.b.unary(Op::Bswap, v);
                self.write(0, v);
            }
            M::Lea => self.lea(),
            M::Push => return self.push_operand(),
            M::Pop => return self.pop_operand(),
            M::Pusha | M::Pushad => self.push_all(m == M::Pushad),
            M::Popa | M::Popad => self.pop_all(m == M::Popad),
            M::Pushf | M::Pushfd | M::Pushfq => self.pushf(),
            M::Popf | M::Popfd | M::Popfq => self.popf(),
            M::Enter => self.enter(),
            M::Leave => {
                let n = self.stack_bytes();
                let bp = self.gpr(5, self.stack_ty());
                let ea = self.stack_ea(bp, n as u64, false);
                let v = self.load(int(n), &ea);
                let sp = self.b.addi(bp, n as i64);
                self.set_gpr(4, sp);
                self.set_gpr(5, v);
            }
            M::Xchg => self.xchg(),
            M::Xadd => self.xadd(),
            M::Cmpxchg => self.cmpxchg(),
            M::Cmpxchg8b => self.cmpxchg8b(),
            M::Cmpxchg16b => self.cmpxchg16b(),
            M::Bswap => {
                let r = self.insn.op_register(0);
                let v = self.read_reg(r);
                // Of 16 bits: undefined; processors give zero.
                let v = if r.size() == 2 { self.zero(Type::I16) } else { self.b.unary(Op::Bswap, v) };
                self.write_reg(r, v);
            }
            M::Xlatb => {
                let (v, _) = self.offset_value();
                let segment = super::operand::seg_number(self.insn.memory_segment());
                let ea = self.segmented(segment, v, 0, 1, false);
                let v = self.load(Type::I8, &ea);
                self.set_gpr(0, v);
            }
            M::Lahf => {
                let f = self.rflags();
                let f = self.b.trunc(Type::I8, f);
                self.write_reg(Register::AH, f);
            }
            M::Sahf => {
                let v = self.read_reg(Register::AH);
                let v = self.b.zext(Type::I64, v);
                self.set_rflags(v, flags::ARITH & 0xff);
            }
            M::Cbw => self.convert(Type::I8, Type::I16),
            M::Cwde => self.convert(Type::I16, Type::I32),
            M::Cdqe => self.convert(Type::I32, Type::I64),
            M::Cwd => self.spread(Type::I16),
            M::Cdq => self.spread(Type::I32),
            M::Cqo => self.spread(Type::I64),
            M::Nop | M::Prefetchnta | M::Prefetcht0 | M::Prefetcht1 | M::Prefetcht2 | M::Prefetchw => {}
            M::Prefetch | M::Reservednop => {}
            _ => return self.conditional(m),
        }
        true
    }

    /// CMOVcc and SETcc.
    fn conditional(&mut self, m: Mnemonic) -> bool {
        let code = self.insn.condition_code();
        if code == ConditionCode::None || self.insn.is_jcc_short_or_near() || self.insn.op_count() == 0 {
            return false;
        }
        let cond = cond_of(code as u32 - 1);
        if self.insn.op_count() == 1 {
            let v = self.cond(cond);
            self.write(0, v);
            return true;
        }
        if !format_is_cmov(m) {
            return false;
        }
        let src = self.read(1);
        let r = self.insn.op_register(0);
        let old = self.read_reg(r);
        let c = self.cond(cond);
        let v = self.b.select(c, src, old);
        self.write_reg(r, v);
        true
    }

    fn mov(&mut self) -> bool {
        let special = |r: Register| r.is_segment_register() || r.is_cr() || r.is_dr() || r.is_tr();
        for n in 0..2 {
            if self.is_register(n) && special(self.insn.op_register(n)) {
                return false;
            }
        }
        let ty = self.ty(0);
        let v = self.read_as(1, ty);
        self.write(0, v);
        true
    }

    fn lea(&mut self) {
        let ty = self.ty(0);
        let (v, disp) = self.offset_value();
        let v = self.b.addi(v, i64::from(disp));
        let v = if self.b.ty(v).bits() < ty.bits() { self.b.zext(ty, v) } else { self.b.trunc(ty, v) };
        let r = self.insn.op_register(0);
        self.write_reg(r, v);
    }

    fn convert(&mut self, from: Type, to: Type) {
        let v = self.gpr(0, from);
        let v = self.b.sext(to, v);
        self.set_gpr(0, v);
    }

    /// The sign of the accumulator in DX.
    fn spread(&mut self, ty: Type) {
        let v = self.gpr(0, ty);
        let n = self.b.iconst(ty, u64::from(ty.bits() - 1));
        let v = self.b.sar(v, n);
        self.set_gpr(2, v);
    }

    // The stack.

    /// Bytes the instruction moves the stack pointer by.
    pub(super) fn stack_bytes(&self) -> usize {
        match self.insn.mnemonic() {
            // Its first operand is the frame's size.
            Mnemonic::Enter | Mnemonic::Leave => match self.insn.code() {
                iced_x86::Code::Enterw_imm16_imm8 | iced_x86::Code::Leavew => 2,
                iced_x86::Code::Enterd_imm16_imm8 | iced_x86::Code::Leaved => 4,
                _ => 8,
            },
            _ => self.insn.stack_pointer_increment().unsigned_abs() as usize,
        }
    }

    /// Type of the stack pointer.
    pub(super) fn stack_ty(&self) -> Type {
        match (self.mode.code64, self.mode.stack32) {
            (true, _) => Type::I64,
            (_, true) => Type::I32,
            _ => Type::I16,
        }
    }

    /// Address of `bytes` at stack offset `sp`.
    pub(super) fn stack_ea(&mut self, sp: Value, bytes: u64, write: bool) -> Ea {
        let v = if self.b.ty(sp) == Type::I16 { self.b.zext(Type::I32, sp) } else { sp };
        self.segmented(seg::SS, v, 0, bytes, write)
    }

    /// Pushes a value in its own width.
    pub(super) fn push_value(&mut self, v: Value) {
        let n = self.b.ty(v).bytes();
        let sp = self.gpr(4, self.stack_ty());
        let sp = self.b.addi(sp, -(n as i64));
        let ea = self.stack_ea(sp, n as u64, true);
        self.store(&ea, v);
        self.set_gpr(4, sp);
    }

    /// What lies on the stack, and the stack pointer behind it, which is not set yet.
    pub(super) fn peek(&mut self, ty: Type) -> (Value, Value) {
        let sp = self.gpr(4, self.stack_ty());
        let ea = self.stack_ea(sp, ty.bytes() as u64, false);
        let v = self.load(ty, &ea);
        let sp = self.b.addi(sp, ty.bytes() as i64);
        (v, sp)
    }

    fn push_operand(&mut self) -> bool {
        let ty = int(self.stack_bytes());
        if self.is_register(0) && self.insn.op_register(0).is_segment_register() {
            return false;
        }
        let v = if self.is_register(0) || self.is_memory(0) {
            self.read(0)
        } else {
            let imm = self.insn.immediate(0);
            self.b.iconst(ty, imm)
        };
        self.push_value(v);
        true
    }

    fn pop_operand(&mut self) -> bool {
        if self.is_register(0) && self.insn.op_register(0).is_segment_register() {
            return false;
        }
        let (v, sp) = self.peek(int(self.stack_bytes()));
        if self.is_memory(0) {
            // An address that uses the stack pointer uses it as it will be.
            let old = self.b.get(state::reg(4), Type::I64);
            self.set_gpr(4, sp);
            let (at, disp) = self.offset_value();
            self.b.set(state::reg(4), old);
            let segment = super::operand::seg_number(self.insn.memory_segment());
            let bytes = self.b.ty(v).bytes() as u64;
            let ea = self.segmented(segment, at, disp, bytes, true);
            self.store(&ea, v);
            self.set_gpr(4, sp);
        } else {
            self.set_gpr(4, sp);
            let r = self.insn.op_register(0);
            self.write_reg(r, v);
        }
        true
    }

    fn push_all(&mut self, wide: bool) {
        let wide = self.b.iconst(Type::I64, u64::from(wide));
        self.call::<PushAll>(&[wide]);
    }

    fn pop_all(&mut self, wide: bool) {
        let wide = self.b.iconst(Type::I64, u64::from(wide));
        self.call::<PopAll>(&[wide]);
    }

    fn enter(&mut self) {
        let bytes = self.b.iconst(Type::I64, self.stack_bytes() as u64);
        let size = self.b.iconst(Type::I64, u64::from(self.insn.immediate16()));
        let level = self.b.iconst(Type::I64, u64::from(self.insn.immediate8_2nd() & 31));
        self.call::<Enter>(&[bytes, size, level]);
    }

    fn pushf(&mut self) {
        if self.mode.vm86 && !self.mode.io_ok {
            self.raise(exceptions::with_error(vector::GP, 0));
            return;
        }
        let f = self.rflags();
        let f = self.b.trunc(int(self.stack_bytes()), f);
        self.push_value(f);
    }

    fn popf(&mut self) {
        if self.mode.vm86 && !self.mode.io_ok {
            self.raise(exceptions::with_error(vector::GP, 0));
            return;
        }
        let ty = int(self.stack_bytes());
        let (v, sp) = self.peek(ty);
        self.set_gpr(4, sp);
        let v = self.b.zext(Type::I64, v);
        self.set_rflags(v, flags::ARITH);
        let mut which = flags::TF | flags::DF | flags::NT;
        if ty != Type::I16 {
            which |= flags::AC | flags::ID | flags::RF;
        }
        if self.mode.io_ok {
            which |= flags::IF;
        }
        if self.mode.cpl == 0 {
            which |= flags::IOPL;
        }
        let old = self.b.get(state::SYS, Type::I64);
        let keep = self.b.iconst(Type::I64, !which);
        let old = self.b.and(old, keep);
        // RF becomes clear.
        let take = self.b.iconst(Type::I64, which & !flags::RF);
        let new = self.b.and(v, take);
        let sys = self.b.or(old, new);
        self.b.set(state::SYS, sys);
        self.call::<Look>(&[]);
        self.flow = Flow::NewKey;
    }

    // Exchanges.

    fn xchg(&mut self) {
        if self.is_memory(0) || self.is_memory(1) {
            let (m, r) = if self.is_memory(0) { (0, 1) } else { (1, 0) };
            let reg = self.insn.op_register(r);
            let ty = self.ty(m);
            let ea = self.ea(true);
            let v = self.read_reg(reg);
            let old = self.rmw(ty, RmwOp::Swap, &ea, v);
            self.write_reg(reg, old);
            return;
        }
        let (a, b) = (self.insn.op_register(0), self.insn.op_register(1));
        let (va, vb) = (self.read_reg(a), self.read_reg(b));
        self.write_reg(a, vb);
        self.write_reg(b, va);
    }

    /// A locked read-modify-write.
    pub(super) fn rmw(&mut self, ty: Type, op: RmwOp, ea: &Ea, v: Value) -> Value {
        self.flush_flags();
        let m = self.mem_locked(ty.bytes());
        let addr = self.b.addi(ea.addr, i64::from(ea.disp));
        self.b.rmw(ty, op, m, addr, v)
    }

    /// A locked compare and swap; the old value.
    pub(super) fn cas(&mut self, ty: Type, ea: &Ea, expected: Value, new: Value) -> Value {
        self.flush_flags();
        let m = self.mem_locked(ty.bytes());
        let addr = self.b.addi(ea.addr, i64::from(ea.disp));
        self.b.cas(ty, m, addr, expected, new)
    }

    fn xadd(&mut self) {
        let ty = self.ty(0);
        let reg = self.insn.op_register(1);
        let add = self.read_reg(reg);
        let old = if self.is_memory(0) {
            let ea = self.ea(true);
            if self.insn.has_lock_prefix() {
                self.rmw(ty, RmwOp::Add, &ea, add)
            } else {
                let old = self.load(ty, &ea);
                let sum = self.b.add(old, add);
                self.store(&ea, sum);
                old
            }
        } else {
            let dest = self.insn.op_register(0);
            self.read_reg(dest)
        };
        let sum = self.b.add(old, add);
        self.write_reg(reg, old);
        if !self.is_memory(0) {
            let dest = self.insn.op_register(0);
            self.write_reg(dest, sum);
        }
        self.set_flags(FlagKind::Add, [old, add, Value::NONE], sum);
    }

    fn cmpxchg(&mut self) {
        let ty = self.ty(0);
        let acc = self.gpr(0, ty);
        let src = self.insn.op_register(1);
        let src = self.read_reg(src);
        let (old, equal);
        if self.is_memory(0) {
            let ea = self.ea(true);
            if self.insn.has_lock_prefix() {
                old = self.cas(ty, &ea, acc, src);
                equal = self.b.setcc(Type::I8, Cond::Eq, acc, old);
            } else {
                old = self.load(ty, &ea);
                equal = self.b.setcc(Type::I8, Cond::Eq, acc, old);
                let v = self.b.select(equal, src, old);
                self.store(&ea, v);
            }
        } else {
            let dest = self.insn.op_register(0);
            old = self.read_reg(dest);
            equal = self.b.setcc(Type::I8, Cond::Eq, acc, old);
            if ty == Type::I32 {
                // A destination that differs is left alone, upper half included, as processors do.
                let slot = state::reg(dest.full_register().number());
                let full = self.b.get(slot, Type::I64);
                let wide = self.b.zext(Type::I64, src);
                let v = self.b.select(equal, wide, full);
                self.b.set(slot, v);
            } else {
                let v = self.b.select(equal, src, old);
                self.write_reg(dest, v);
            }
        }
        // The accumulator is written only if they differ: its upper half shows it.
        if ty == Type::I32 {
            let full = self.b.get(state::reg(0), Type::I64);
            let wide = self.b.zext(Type::I64, old);
            let v = self.b.select(equal, full, wide);
            let dest_is_acc =
                self.is_register(0) && self.insn.op_register(0).full_register() == Register::RAX;
            if !dest_is_acc {
                self.b.set(state::reg(0), v);
            }
        } else if !(self.is_register(0) && self.insn.op_register(0).full_register() == Register::RAX) {
            let v = self.b.select(equal, acc, old);
            self.set_gpr(0, v);
        }
        let diff = self.b.sub(acc, old);
        self.set_flags(FlagKind::Sub, [acc, old, Value::NONE], diff);
    }

    /// ZF is `equal`, an i8; the other flags stay.
    fn merge_zero(&mut self, equal: Value) {
        let z = self.b.zext(Type::I64, equal);
        let one = self.b.iconst(Type::I64, 1);
        let z = self.b.shl(z, one);
        self.merge_flags(FlagBits::Z, z);
    }

    fn cmpxchg8b(&mut self) {
        let pair = |t: &mut Self, low: usize, high: usize| {
            let l = t.gpr(low, Type::I32);
            let l = t.b.zext(Type::I64, l);
            let h = t.b.get(state::reg(high), Type::I64);
            let n = t.b.iconst(Type::I64, 32);
            let h = t.b.shl(h, n);
            t.b.or(l, h)
        };
        let ea = self.ea_sized(8, true);
        let expected = pair(self, 0, 2);
        let new = pair(self, 3, 1);
        let old = self.cas(Type::I64, &ea, expected, new);
        let equal = self.b.setcc(Type::I8, Cond::Eq, expected, old);
        let low = self.b.trunc(Type::I32, old);
        let low = self.b.zext(Type::I64, low);
        let n = self.b.iconst(Type::I64, 32);
        let high = self.b.shr(old, n);
        for (r, v) in [(0, low), (2, high)] {
            let keep = self.b.get(state::reg(r), Type::I64);
            let v = self.b.select(equal, keep, v);
            self.b.set(state::reg(r), v);
        }
        self.merge_zero(equal);
    }

    fn cmpxchg16b(&mut self) {
        let ea = self.ea_sized(16, true);
        let at = self.ea_value(&ea);
        let mmu = self.b.iconst(Type::I64, self.mode.mmu as u64);
        let equal = self.call::<Cmpxchg16b>(&[at, mmu]);
        let equal = self.b.trunc(Type::I8, equal);
        self.merge_zero(equal);
    }
}

/// True for CMOVcc; FCMOVcc and others have conditions too.
fn format_is_cmov(m: Mnemonic) -> bool {
    use Mnemonic as M;
    matches!(
        m,
        M::Cmovo
            | M::Cmovno
            | M::Cmovb
            | M::Cmovae
            | M::Cmove
            | M::Cmovne
            | M::Cmovbe
            | M::Cmova
            | M::Cmovs
            | M::Cmovns
            | M::Cmovp
            | M::Cmovnp
            | M::Cmovl
            | M::Cmovge
            | M::Cmovle
            | M::Cmovg
    )
}

//! Control transfer inside a segment, and software interrupts (SDM volume 1, 7.3.8).

use iced_x86::{Code, Mnemonic, OpKind};
use tcg_ir::{BlockId, Cond, Hint, Type, Value};

use super::{Flow, PAGE, Translator, flags::cond_of, operand::int};
use crate::{
    exceptions::{Int1, SoftInt, vector},
    wide::Bound,
};

impl Translator<'_, '_> {
    /// Instructions of this family.
    pub(super) fn control(&mut self, m: Mnemonic) -> bool {
        use Mnemonic as M;
        if self.insn.is_jcc_short_or_near() {
            let cond = cond_of(self.insn.condition_code() as u32 - 1);
            let c = self.cond(cond);
            self.branch(c);
            return true;
        }
        match m {
            M::Jmp => return self.jmp(),
            M::Call => return self.call_near(),
            M::Ret => self.ret(),
            M::Loop | M::Loope | M::Loopne => self.loop_count(m),
            M::Jcxz | M::Jecxz | M::Jrcxz => {
                let ty = match m {
                    M::Jcxz => Type::I16,
                    M::Jecxz => Type::I32,
                    _ => Type::I64,
                };
                let cx = self.gpr(1, ty);
                let zero = self.zero(ty);
                let c = self.b.setcc(Type::I8, Cond::Eq, cx, zero);
                self.branch(c);
            }
            M::Int => {
                let n = u64::from(self.insn.immediate8());
                self.soft_int(n, true);
            }
            M::Int3 => self.soft_int(u64::from(vector::BP), false),
            M::Int1 if self.guest.program.is_some() => self.soft_int(u64::from(vector::DB), false),
            M::Int1 => {
                self.set_next_pc();
                self.call::<Int1>(&[]);
                self.leave_untrapped();
            }
            M::Into => {
                let v = self.cond(Cond::Ov);
                self.flush_flags();
                let (trap, on) = (self.b.new_block(), self.b.new_block());
                self.b.branch(v, trap, on, false);
                self.b.switch_to(trap);
                self.soft_int(u64::from(vector::OF), false);
                self.b.switch_to(on);
                // What is known of the flags is still what the slots hold.
                self.flow = Flow::Next;
            }
            M::Bound => {
                let bytes = self.size(0);
                let ea = self.ea_sized(2 * bytes as u64, false);
                let at = self.ea_value(&ea);
                let index = self.read(0);
                let index = self.b.zext(Type::I64, index);
                let how = u64::from(bytes.trailing_zeros()) | (self.mode.mmu as u64) << 8;
                let how = self.b.iconst(Type::I64, how);
                self.call::<Bound>(&[index, at, how]);
            }
            M::Ud0 | M::Ud1 | M::Ud2 => self.undefined(),
            _ => return false,
        }
        true
    }

    /// INT n and its short forms.
    fn soft_int(&mut self, n: u64, general: bool) {
        if let Some(p) = &self.guest.program {
            match p.interrupt(n, general) {
                Ok(code) => self.program_exit(code),
                Err(trap) => self.raise(trap),
            }
            return;
        }
        self.set_next_pc();
        let n = self.b.iconst(Type::I64, n);
        let general = self.b.iconst(Type::I64, u64::from(general));
        self.call::<SoftInt>(&[n, general]);
        self.leave_untrapped();
    }

    /// Linear address of the near target.
    fn target(&self) -> u64 {
        self.linear(self.insn.near_branch_target())
    }

    /// True for operands that are a displacement.
    fn is_direct(&self) -> bool {
        matches!(self.insn.op_kind(0), OpKind::NearBranch16 | OpKind::NearBranch32 | OpKind::NearBranch64)
    }

    /// The unit goes on behind the branch; the taken side leaves it, or is the unit's own loop.
    fn branch(&mut self, taken: Value) {
        let target = self.target();
        self.flush_flags();
        let on = self.b.new_block();
        if target == self.head
            && let Some(head) = self.head_block
        {
            self.b.branch(taken, head, on, true);
        } else {
            let side: BlockId = self.b.new_block();
            // Backward branches are mostly loops and taken.
            self.b.branch(taken, side, on, target <= self.pc);
            self.sides.push((side, target));
        }
        self.b.switch_to(on);
        self.flow = if self.limits.straight { Flow::Cut } else { Flow::Next };
    }

    fn jmp(&mut self) -> bool {
        if self.is_direct() {
            let target = self.target();
            if target == self.head
                && let Some(head) = self.head_block
            {
                self.flush_flags();
                self.b.jump(head);
                self.flow = Flow::End;
            } else if target > self.pc && target / PAGE == self.pc / PAGE && !self.limits.straight {
                self.flow = Flow::Goto(target);
            } else {
                self.goto(target);
            }
            return true;
        }
        if matches!(self.insn.op_kind(0), OpKind::FarBranch16 | OpKind::FarBranch32)
            || self.insn.is_jmp_far_indirect()
        {
            return false;
        }
        let v = self.read(0);
        let pc = self.linear_value(v);
        self.goto_value(pc, Hint::None);
        true
    }

    /// Linear address of a computed offset in CS, an i64.
    pub(super) fn linear_value(&mut self, offset: Value) -> Value {
        let v = self.b.zext(Type::I64, offset);
        if self.mode.cs_base == 0 {
            return v;
        }
        let v = self.b.addi(v, i64::from(self.mode.cs_base));
        self.b.extract(v, 0, 32)
    }

    fn call_near(&mut self) -> bool {
        if matches!(self.insn.op_kind(0), OpKind::FarBranch16 | OpKind::FarBranch32)
            || self.insn.is_call_far_indirect()
        {
            return false;
        }
        let ty = int(self.stack_bytes());
        let back = self.next_offset();
        let back = match ty {
            _ if self.mode.cs_base != 0 => self.b.iconst(ty, back),
            // An address is of 32 or 64 bits.
            Type::I16 => {
                let pc = self.b.pc(Type::I32, back);
                self.b.trunc(ty, pc)
            }
            _ => self.b.pc(ty, back),
        };
        let hint = Hint::Call(self.next);
        if self.is_direct() {
            let target = self.target();
            self.push_value(back);
            self.goto_hint(target, hint);
        } else {
            let v = self.read(0);
            let pc = self.linear_value(v);
            self.push_value(back);
            self.goto_value(pc, hint);
        }
        true
    }

    fn ret(&mut self) {
        let bytes = match self.insn.code() {
            Code::Retnw | Code::Retnw_imm16 => 2,
            Code::Retnd | Code::Retnd_imm16 => 4,
            _ => 8,
        };
        let (v, sp) = self.peek(int(bytes));
        let extra = if self.insn.op_count() == 1 { self.insn.immediate16() } else { 0 };
        let sp = self.b.addi(sp, i64::from(extra));
        self.set_gpr(4, sp);
        let pc = self.linear_value(v);
        self.goto_value(pc, Hint::Return);
    }

    fn loop_count(&mut self, m: Mnemonic) {
        use Code as C;
        let ty = match self.insn.code() {
            C::Loop_rel8_16_CX
            | C::Loop_rel8_32_CX
            | C::Loope_rel8_16_CX
            | C::Loope_rel8_32_CX
            | C::Loopne_rel8_16_CX
            | C::Loopne_rel8_32_CX => Type::I16,
            C::Loop_rel8_64_RCX
            | C::Loop_rel8_16_RCX
            | C::Loope_rel8_64_RCX
            | C::Loope_rel8_16_RCX
            | C::Loopne_rel8_64_RCX
            | C::Loopne_rel8_16_RCX => Type::I64,
            _ => Type::I32,
        };
        let cx = self.gpr(1, ty);
        let cx = self.b.addi(cx, -1);
        let zero = self.zero(ty);
        let mut taken = self.b.setcc(Type::I8, Cond::Ne, cx, zero);
        if m != Mnemonic::Loop {
            let cond = if m == Mnemonic::Loope { Cond::Eq } else { Cond::Ne };
            let z = self.cond(cond);
            taken = self.b.and(taken, z);
        }
        self.set_gpr(1, cx);
        self.branch(taken);
    }
}

//! Control transfer (volume I, 2.5): how jumps and branches shape the unit.

use tcg_ir::{Cond, Hint, Type, Value};

use super::{Flow, PAGE, Translator};
use crate::{cpu::Ext, decode::*, exceptions::cause};

/// Registers that hold return addresses by convention (volume I, table of return-address prediction hints).
const fn is_link(reg: i32) -> bool {
    reg == 1 || reg == 5
}

impl Translator<'_, '_> {
    pub(crate) fn trans_jal(&mut self, a: &ArgJ) -> bool {
        let target = self.wrap(self.pc.wrapping_add(a.imm as i64 as u64));
        if !self.check_target(target) {
            return true;
        }
        if a.rd != 0 {
            let link = self.b.pc(self.xt, self.next);
            self.set_x(a.rd, link);
        }
        if is_link(a.rd) {
            self.leave(target, Hint::Call(self.next));
            self.flow = Flow::End;
        } else if target == self.head
            && self.may_loop()
            && let Some(head) = self.head_block
        {
            self.b.jump(head);
            self.flow = Flow::End;
        } else if target > self.pc && target / PAGE == self.pc / PAGE && !self.limits.straight {
            self.flow = Flow::Goto(target);
        } else {
            self.leave(target, Hint::None);
            self.flow = Flow::End;
        }
        true
    }

    pub(crate) fn trans_jalr(&mut self, a: &ArgI) -> bool {
        let base = self.x(a.rs1);
        let target = self.b.addi(base, i64::from(a.imm));
        let mask = self.imm(!1);
        let target = self.b.and(target, mask);
        if !self.has(Ext::C) {
            self.check_dynamic_target(target);
        }
        if a.rd != 0 {
            let link = self.b.pc(self.xt, self.next);
            self.set_x(a.rd, link);
        }
        let hint = match (is_link(a.rd), is_link(a.rs1)) {
            (true, _) => Hint::Call(self.next),
            (false, true) => Hint::Return,
            (false, false) => Hint::None,
        };
        self.leave_to(target, hint);
        self.flow = Flow::End;
        true
    }

    pub(crate) fn trans_beq(&mut self, a: &ArgB) -> bool {
        self.branch(a, Cond::Eq)
    }

    pub(crate) fn trans_bne(&mut self, a: &ArgB) -> bool {
        self.branch(a, Cond::Ne)
    }

    pub(crate) fn trans_blt(&mut self, a: &ArgB) -> bool {
        self.branch(a, Cond::Lt)
    }

    pub(crate) fn trans_bge(&mut self, a: &ArgB) -> bool {
        self.branch(a, Cond::Ge)
    }

    pub(crate) fn trans_bltu(&mut self, a: &ArgB) -> bool {
        self.branch(a, Cond::Ltu)
    }

    pub(crate) fn trans_bgeu(&mut self, a: &ArgB) -> bool {
        self.branch(a, Cond::Geu)
    }

    /// The unit goes on behind the branch; the taken side leaves it, or is the unit's own loop.
    fn branch(&mut self, a: &ArgB, cond: Cond) -> bool {
        let target = self.wrap(self.pc.wrapping_add(a.imm as i64 as u64));
        let (r1, r2) = (self.x(a.rs1), self.x(a.rs2));
        let taken = self.b.setcc(self.xt, cond, r1, r2);
        let on = self.b.new_block();
        if !self.has(Ext::C) && target & 3 != 0 {
            let side = self.b.new_block();
            self.b.branch(taken, side, on, false);
            self.b.switch_to(side);
            self.check_target(target);
        } else if target == self.head
            && self.may_loop()
            && let Some(head) = self.head_block
        {
            self.b.branch(taken, head, on, true);
        } else {
            let side = self.b.new_block();
            // Backward branches are mostly loops and taken.
            self.b.branch(taken, side, on, target <= self.pc);
            self.sides.push((side, target, self.vector));
        }
        self.b.switch_to(on);
        self.flow = Flow::Next;
        if self.limits.straight {
            self.leave(self.next, Hint::None);
            self.flow = Flow::End;
        }
        true
    }

    /// Raises if a known target is misaligned: without C instructions start at multiples of four.
    fn check_target(&mut self, target: u64) -> bool {
        let good = self.has(Ext::C) || target & 3 == 0;
        if !good {
            self.raise(cause::FETCH_MISALIGNED, target);
        }
        good
    }

    /// The same for a target that is computed.
    fn check_dynamic_target(&mut self, target: Value) {
        let two = self.imm(2);
        let bad = self.b.and(target, two);
        let (fault, on) = (self.b.new_block(), self.b.new_block());
        self.b.branch(bad, fault, on, false);
        self.b.switch_to(fault);
        let cause = self.b.iconst(Type::I64, cause::FETCH_MISALIGNED);
        let tval = self.b.zext(Type::I64, target);
        self.b.call(crate::helpers::id(crate::helpers::RAISE), Type::Void, &[cause, tval]);
        self.end_unreachable();
        self.b.switch_to(on);
    }
}

//! RV32I and RV64I (volume I, chapters 2 and 4), Zifencei, Zihintpause, Zicond; branches are in `branch.rs`.

use tcg_ir::{Cond, MemOp, Op, Type, Value};

use super::{Flow, Translator};
use crate::{
    cpu::Ext,
    decode::*,
    exceptions::cause,
    guest,
    state::{self, M, S},
};

impl Translator<'_, '_> {
    pub(crate) fn trans_lui(&mut self, a: &ArgU) -> bool {
        let v = self.imm(i64::from(a.imm));
        self.set_x(a.rd, v);
        true
    }

    pub(crate) fn trans_auipc(&mut self, a: &ArgU) -> bool {
        let v = self.b.pc(self.xt, self.pc.wrapping_add(a.imm as i64 as u64));
        self.set_x(a.rd, v);
        true
    }

    // Loads and stores.

    fn load(&mut self, a: &ArgI, m: MemOp) -> bool {
        let (base, disp) = self.address(a.rs1, a.imm, false);
        let v = self.b.load(self.xt, m, base, disp);
        self.set_x(a.rd, v);
        true
    }

    pub(crate) fn trans_lb(&mut self, a: &ArgI) -> bool {
        self.load(a, self.mem(0).with_sign())
    }

    pub(crate) fn trans_lh(&mut self, a: &ArgI) -> bool {
        self.load(a, self.mem(1).with_sign())
    }

    pub(crate) fn trans_lw(&mut self, a: &ArgI) -> bool {
        self.load(a, self.mem(2).with_sign())
    }

    pub(crate) fn trans_lbu(&mut self, a: &ArgI) -> bool {
        self.load(a, self.mem(0))
    }

    pub(crate) fn trans_lhu(&mut self, a: &ArgI) -> bool {
        self.load(a, self.mem(1))
    }

    pub(crate) fn trans_lwu(&mut self, a: &ArgI) -> bool {
        self.rv64() && self.load(a, self.mem(2))
    }

    pub(crate) fn trans_ld(&mut self, a: &ArgI) -> bool {
        self.rv64() && self.load(a, self.mem(3))
    }

    fn store(&mut self, a: &ArgS, log2: u32) -> bool {
        let (base, disp) = self.address(a.rs1, a.imm, true);
        let v = self.x(a.rs2);
        self.b.store(self.mem(log2), base, disp, v);
        true
    }

    pub(crate) fn trans_sb(&mut self, a: &ArgS) -> bool {
        self.store(a, 0)
    }

    pub(crate) fn trans_sh(&mut self, a: &ArgS) -> bool {
        self.store(a, 1)
    }

    pub(crate) fn trans_sw(&mut self, a: &ArgS) -> bool {
        self.store(a, 2)
    }

    pub(crate) fn trans_sd(&mut self, a: &ArgS) -> bool {
        self.rv64() && self.store(a, 3)
    }

    // Register with immediate.

    fn alu_imm(&mut self, a: &ArgI, op: Op) -> bool {
        let r1 = self.x(a.rs1);
        let imm = self.imm(i64::from(a.imm));
        let v = self.b.binary(op, r1, imm);
        self.set_x(a.rd, v);
        true
    }

    pub(crate) fn trans_addi(&mut self, a: &ArgI) -> bool {
        let v = if a.rs1 == 0 {
            self.imm(i64::from(a.imm))
        } else {
            let r1 = self.x(a.rs1);
            self.b.addi(r1, i64::from(a.imm))
        };
        self.set_x(a.rd, v);
        true
    }

    fn set_imm(&mut self, a: &ArgI, cond: Cond) -> bool {
        let r1 = self.x(a.rs1);
        let imm = self.imm(i64::from(a.imm));
        let v = self.b.setcc(self.xt, cond, r1, imm);
        self.set_x(a.rd, v);
        true
    }

    pub(crate) fn trans_slti(&mut self, a: &ArgI) -> bool {
        self.set_imm(a, Cond::Lt)
    }

    pub(crate) fn trans_sltiu(&mut self, a: &ArgI) -> bool {
        self.set_imm(a, Cond::Ltu)
    }

    pub(crate) fn trans_xori(&mut self, a: &ArgI) -> bool {
        self.alu_imm(a, Op::Xor)
    }

    pub(crate) fn trans_ori(&mut self, a: &ArgI) -> bool {
        self.alu_imm(a, Op::Or)
    }

    pub(crate) fn trans_andi(&mut self, a: &ArgI) -> bool {
        self.alu_imm(a, Op::And)
    }

    /// A shift or rotation by a constant; one that is not below XLEN is reserved.
    pub(super) fn shift_imm(&mut self, a: &ArgShift, op: Op) -> bool {
        if a.shamt as u32 >= self.cpu.xlen {
            return false;
        }
        let r1 = self.x(a.rs1);
        let shamt = self.imm(i64::from(a.shamt));
        let v = self.b.binary(op, r1, shamt);
        self.set_x(a.rd, v);
        true
    }

    pub(crate) fn trans_slli(&mut self, a: &ArgShift) -> bool {
        self.shift_imm(a, Op::Shl)
    }

    pub(crate) fn trans_srli(&mut self, a: &ArgShift) -> bool {
        self.shift_imm(a, Op::Shr)
    }

    pub(crate) fn trans_srai(&mut self, a: &ArgShift) -> bool {
        self.shift_imm(a, Op::Sar)
    }

    // Register with register.

    /// `rd = rs1 op rs2` in XLEN bits.
    pub(super) fn alu(&mut self, a: &ArgR, op: Op) -> bool {
        let (r1, r2) = (self.x(a.rs1), self.x(a.rs2));
        let v = self.b.binary(op, r1, r2);
        self.set_x(a.rd, v);
        true
    }

    /// `rd = rs1 op rs2` in 32 bits, sign-extended; RV64 only.
    pub(super) fn alu_w(&mut self, a: &ArgR, op: Op) -> bool {
        if !self.rv64() {
            return false;
        }
        let (r1, r2) = (self.x32(a.rs1), self.x32(a.rs2));
        let v = self.b.binary(op, r1, r2);
        self.set_x32(a.rd, v);
        true
    }

    fn set_less(&mut self, a: &ArgR, cond: Cond) -> bool {
        let (r1, r2) = (self.x(a.rs1), self.x(a.rs2));
        let v = self.b.setcc(self.xt, cond, r1, r2);
        self.set_x(a.rd, v);
        true
    }

    pub(crate) fn trans_add(&mut self, a: &ArgR) -> bool {
        if a.rs1 == 0 || a.rs2 == 0 {
            // c.mv and mv.
            let v = self.x(a.rs1 | a.rs2);
            self.set_x(a.rd, v);
            return true;
        }
        self.alu(a, Op::Add)
    }

    pub(crate) fn trans_sub(&mut self, a: &ArgR) -> bool {
        self.alu(a, Op::Sub)
    }

    pub(crate) fn trans_sll(&mut self, a: &ArgR) -> bool {
        self.alu(a, Op::Shl)
    }

    pub(crate) fn trans_slt(&mut self, a: &ArgR) -> bool {
        self.set_less(a, Cond::Lt)
    }

    pub(crate) fn trans_sltu(&mut self, a: &ArgR) -> bool {
        self.set_less(a, Cond::Ltu)
    }

    pub(crate) fn trans_xor(&mut self, a: &ArgR) -> bool {
        self.alu(a, Op::Xor)
    }

    pub(crate) fn trans_srl(&mut self, a: &ArgR) -> bool {
        self.alu(a, Op::Shr)
    }

    pub(crate) fn trans_sra(&mut self, a: &ArgR) -> bool {
        self.alu(a, Op::Sar)
    }

    pub(crate) fn trans_or(&mut self, a: &ArgR) -> bool {
        self.alu(a, Op::Or)
    }

    pub(crate) fn trans_and(&mut self, a: &ArgR) -> bool {
        self.alu(a, Op::And)
    }

    // RV64I.

    pub(crate) fn trans_addiw(&mut self, a: &ArgI) -> bool {
        if !self.rv64() {
            return false;
        }
        let r1 = self.x32(a.rs1);
        let v = self.b.addi(r1, i64::from(a.imm));
        self.set_x32(a.rd, v);
        true
    }

    pub(super) fn shift_imm_w(&mut self, a: &ArgShift, op: Op) -> bool {
        if !self.rv64() {
            return false;
        }
        let r1 = self.x32(a.rs1);
        let shamt = self.b.iconst(Type::I32, a.shamt as u64);
        let v = self.b.binary(op, r1, shamt);
        self.set_x32(a.rd, v);
        true
    }

    pub(crate) fn trans_slliw(&mut self, a: &ArgShift) -> bool {
        self.shift_imm_w(a, Op::Shl)
    }

    pub(crate) fn trans_srliw(&mut self, a: &ArgShift) -> bool {
        self.shift_imm_w(a, Op::Shr)
    }

    pub(crate) fn trans_sraiw(&mut self, a: &ArgShift) -> bool {
        self.shift_imm_w(a, Op::Sar)
    }

    pub(crate) fn trans_addw(&mut self, a: &ArgR) -> bool {
        self.alu_w(a, Op::Add)
    }

    pub(crate) fn trans_subw(&mut self, a: &ArgR) -> bool {
        self.alu_w(a, Op::Sub)
    }

    pub(crate) fn trans_sllw(&mut self, a: &ArgR) -> bool {
        self.alu_w(a, Op::Shl)
    }

    pub(crate) fn trans_srlw(&mut self, a: &ArgR) -> bool {
        self.alu_w(a, Op::Shr)
    }

    pub(crate) fn trans_sraw(&mut self, a: &ArgR) -> bool {
        self.alu_w(a, Op::Sar)
    }

    // Memory ordering (2.7): predecessor and successor sets are I, O, R, W from the top; devices count as memory.

    pub(crate) fn trans_fence(&mut self, a: &ArgFence) -> bool {
        let half = |set: i32| (set >> 1 | set >> 3) as u16 & 1 | ((set | set >> 2) as u16 & 1) << 1;
        if a.fm == 8 && a.pred == 3 && a.succ == 3 {
            // fence.tso: all but writes before later reads.
            self.b.fence(1 | 4 | 8);
            self.b.fence(2 | 8);
        } else {
            let set = half(a.pred) | half(a.succ) << 2;
            if set & 3 != 0 && set & 12 != 0 {
                self.b.fence(set);
            }
        }
        true
    }

    pub(crate) fn trans_pause(&mut self, _: &ArgEmpty) -> bool {
        self.has(Ext::ZIHINTPAUSE) || self.has(Ext::M)
    }

    /// Stores to code are seen at once; the unit ends because what follows in it may be among them.
    pub(crate) fn trans_fence_i(&mut self, _: &ArgEmpty) -> bool {
        if !self.has(Ext::ZIFENCEI) {
            return false;
        }
        if self.cpu.program {
            self.leave_program(guest::EXIT_FENCE_I);
        } else {
            self.end_lookup();
        }
        true
    }

    // Environment (2.8).

    /// Leaves behind the instruction to what stands in for the kernel. A reservation does not survive that.
    fn leave_program(&mut self, code: u32) {
        let none = self.b.iconst(Type::I64, state::NO_RESERVATION);
        self.b.set(state::RES_ADDR, none);
        let pc = self.b.pc(self.xt, self.next);
        self.b.set(state::PC, pc);
        self.b.exit(code);
        self.flow = Flow::End;
    }

    pub(crate) fn trans_ecall(&mut self, _: &ArgEmpty) -> bool {
        if self.cpu.program {
            self.leave_program(guest::EXIT_ECALL);
            return true;
        }
        let code = match self.mode.privilege {
            M => cause::ECALL_M,
            S => cause::ECALL_S,
            _ => cause::ECALL_U,
        };
        self.raise(code, 0);
        true
    }

    pub(crate) fn trans_ebreak(&mut self, _: &ArgEmpty) -> bool {
        self.raise(cause::BREAKPOINT, self.pc);
        true
    }

    /// Words that C reserves or declares illegal.
    pub(crate) fn trans_illegal(&mut self, _: &ArgEmpty) -> bool {
        self.illegal();
        self.flow = Flow::End;
        true
    }

    /// The same, on RV64 alone: RV32 uses the word for something else.
    pub(crate) fn trans_c64_illegal(&mut self, a: &ArgEmpty) -> bool {
        self.rv64() && self.trans_illegal(a)
    }

    // Zicond.

    fn conditional_zero(&mut self, a: &ArgR, zero_if_zero: bool) -> bool {
        if !self.has(Ext::ZICOND) {
            return false;
        }
        let (value, cond): (Value, Value) = (self.x(a.rs1), self.x(a.rs2));
        let zero = self.imm(0);
        let v =
            if zero_if_zero { self.b.select(cond, value, zero) } else { self.b.select(cond, zero, value) };
        self.set_x(a.rd, v);
        true
    }

    pub(crate) fn trans_czero_eqz(&mut self, a: &ArgR) -> bool {
        self.conditional_zero(a, true)
    }

    pub(crate) fn trans_czero_nez(&mut self, a: &ArgR) -> bool {
        self.conditional_zero(a, false)
    }
}

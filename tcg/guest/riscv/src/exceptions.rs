//! Exceptions and traps (volume II, 3.1.6 to 3.1.9 and 3.3.2): causes, delivery, return.

use crate::{
    cpu::{Cpu, Ext},
    state::{Hart, M, NO_RESERVATION, S, U, status},
};

/// Exception codes of `mcause` and `scause`.
pub mod cause {
    /// Instruction address misaligned.
    pub const FETCH_MISALIGNED: u64 = 0;
    /// Instruction access fault.
    pub const FETCH_ACCESS: u64 = 1;
    /// Illegal instruction.
    pub const ILLEGAL: u64 = 2;
    /// Breakpoint.
    pub const BREAKPOINT: u64 = 3;
    /// Load address misaligned.
    pub const LOAD_MISALIGNED: u64 = 4;
    /// Load access fault.
    pub const LOAD_ACCESS: u64 = 5;
    /// Store or AMO address misaligned.
    pub const STORE_MISALIGNED: u64 = 6;
    /// Store or AMO access fault.
    pub const STORE_ACCESS: u64 = 7;
    /// ecall from U.
    pub const ECALL_U: u64 = 8;
    /// ecall from S.
    pub const ECALL_S: u64 = 9;
    /// ecall from M.
    pub const ECALL_M: u64 = 11;
    /// Instruction page fault.
    pub const FETCH_PAGE: u64 = 12;
    /// Load page fault.
    pub const LOAD_PAGE: u64 = 13;
    /// Store or AMO page fault.
    pub const STORE_PAGE: u64 = 15;
}

/// Name of an exception code, for logs.
#[must_use]
pub const fn name(code: u64) -> &'static str {
    match code {
        cause::FETCH_MISALIGNED => "instruction address misaligned",
        cause::FETCH_ACCESS => "instruction access fault",
        cause::ILLEGAL => "illegal instruction",
        cause::BREAKPOINT => "breakpoint",
        cause::LOAD_MISALIGNED => "load address misaligned",
        cause::LOAD_ACCESS => "load access fault",
        cause::STORE_MISALIGNED => "store address misaligned",
        cause::STORE_ACCESS => "store access fault",
        cause::ECALL_U => "ecall from U",
        cause::ECALL_S => "ecall from S",
        cause::ECALL_M => "ecall from M",
        cause::FETCH_PAGE => "instruction page fault",
        cause::LOAD_PAGE => "load page fault",
        cause::STORE_PAGE => "store page fault",
        _ => "reserved",
    }
}

/// Enters the trap handler for exception or interrupt `code`.
pub fn enter(cpu: &Cpu, hart: &mut Hart, code: u64, interrupt: bool, tval: u64) {
    let delegated = if interrupt { hart.mideleg } else { hart.medeleg };
    let to_s = hart.privilege != M && delegated.checked_shr(code as u32).unwrap_or(0) & 1 != 0;
    let mask = if cpu.xlen == 32 { 0xffff_ffff } else { u64::MAX };
    let cause = code | u64::from(interrupt) << (cpu.xlen - 1);
    let tval = tval & mask;
    let tvec = if to_s {
        hart.scause = cause;
        hart.sepc = hart.pc;
        hart.stval = tval;
        move_bit(hart, status::SIE, status::SPIE);
        hart.mstatus &= !(status::SIE | status::SPP);
        hart.mstatus |= if hart.privilege == S { status::SPP } else { 0 };
        hart.privilege = S;
        hart.stvec
    } else {
        hart.mcause = cause;
        hart.mepc = hart.pc;
        hart.mtval = tval;
        move_bit(hart, status::MIE, status::MPIE);
        hart.mstatus &= !(status::MIE | status::MPP);
        hart.mstatus |= u64::from(hart.privilege) << 11;
        hart.privilege = M;
        hart.mtvec
    };
    let vector = if interrupt && tvec & 3 == 1 { 4 * code } else { 0 };
    hart.pc = (tvec & !3).wrapping_add(vector) & mask;
}

/// Copies bit `from` of mstatus to bit `to`.
fn move_bit(hart: &mut Hart, from: u64, to: u64) {
    if hart.mstatus & from != 0 {
        hart.mstatus |= to;
    } else {
        hart.mstatus &= !to;
    }
}

/// `mret`.
pub fn mret(cpu: &Cpu, hart: &mut Hart) {
    let previous = (hart.mstatus >> 11 & 3) as u8;
    move_bit(hart, status::MPIE, status::MIE);
    hart.mstatus |= status::MPIE;
    hart.mstatus &= !status::MPP;
    if !cpu.ext.has(Ext::U) {
        hart.mstatus |= status::MPP;
    }
    go_back(hart, previous, hart.mepc);
}

/// `sret`.
pub fn sret(hart: &mut Hart) {
    let previous = if hart.mstatus & status::SPP != 0 { S } else { U };
    move_bit(hart, status::SPIE, status::SIE);
    hart.mstatus |= status::SPIE;
    hart.mstatus &= !status::SPP;
    go_back(hart, previous, hart.sepc);
}

fn go_back(hart: &mut Hart, privilege: u8, pc: u64) {
    if privilege != M {
        hart.mstatus &= !status::MPRV;
    }
    hart.privilege = privilege;
    hart.pc = pc;
    // Another context must not complete an SC whose LR this one did.
    hart.res_addr = NO_RESERVATION;
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hart(cpu: &Cpu) -> Hart {
        let mut hart = Hart::new(cpu.xlen, 0, 0x8000_0000);
        hart.mtvec = 0x1001;
        hart.stvec = 0x2001;
        hart
    }

    #[test]
    fn exception_to_m_and_back() {
        let cpu = Cpu::new(64, "", &[]).unwrap();
        let mut h = hart(&cpu);
        h.privilege = U;
        h.mstatus |= status::MIE;
        enter(&cpu, &mut h, cause::ECALL_U, false, 0);
        assert_eq!((h.privilege, h.pc, h.mepc, h.mcause), (M, 0x1000, 0x8000_0000, 8));
        assert_eq!(h.mstatus & (status::MIE | status::MPIE | status::MPP), status::MPIE);
        mret(&cpu, &mut h);
        assert_eq!((h.privilege, h.pc), (U, 0x8000_0000));
        assert_ne!(h.mstatus & status::MIE, 0);
    }

    #[test]
    fn delegated_interrupt_is_vectored() {
        let cpu = Cpu::new(32, "", &[]).unwrap();
        let mut h = hart(&cpu);
        h.privilege = S;
        h.mideleg = 1 << 5;
        enter(&cpu, &mut h, 5, true, 0);
        assert_eq!((h.privilege, h.pc, h.scause), (S, 0x2014, 0x8000_0005));
        assert_ne!(h.mstatus & status::SPP, 0);
        // M never delegates its own traps.
        let mut h = hart(&cpu);
        h.medeleg = u64::MAX;
        enter(&cpu, &mut h, cause::ILLEGAL, false, 7);
        assert_eq!((h.privilege, h.mtval), (M, 7));
    }
}

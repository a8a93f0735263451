//! State of one hart: the structure that slots and helpers refer to, and its neutral form.
//!
//! Registers of RV32 take the low halves of their 64-bit places; the upper halves stay zero. `mstatus` keeps its
//! RV64 layout without SD on both widths: `mstatush`'s fields never exist here, and SD is computed when read.

use std::mem::offset_of;

use accel::arch::riscv as neutral;
use tcg_ir::{SlotId, SlotTable, Type};

use crate::{
    cpu::{Cpu, Ext},
    vector::MAX_VLENB,
};
pub use neutral::{PMP_ENTRIES, TRIGGERS, Trigger};

/// Privilege of user mode.
pub const U: u8 = 0;
/// Privilege of supervisor mode.
pub const S: u8 = 1;
/// Privilege of machine mode.
pub const M: u8 = 3;

/// Fields of `mstatus` (volume II, 3.1.6).
pub mod status {
    /// Supervisor interrupts enabled.
    pub const SIE: u64 = 1 << 1;
    /// Machine interrupts enabled.
    pub const MIE: u64 = 1 << 3;
    /// SIE before the trap.
    pub const SPIE: u64 = 1 << 5;
    /// MIE before the trap.
    pub const MPIE: u64 = 1 << 7;
    /// Privilege before a trap to S.
    pub const SPP: u64 = 1 << 8;
    /// Vector state.
    pub const VS: u64 = 3 << 9;
    /// Privilege before a trap to M.
    pub const MPP: u64 = 3 << 11;
    /// Floating-point state.
    pub const FS: u64 = 3 << 13;
    /// Loads and stores as in MPP's privilege.
    pub const MPRV: u64 = 1 << 17;
    /// S may access user pages.
    pub const SUM: u64 = 1 << 18;
    /// Executable pages are readable.
    pub const MXR: u64 = 1 << 19;
    /// satp and sfence.vma trap in S.
    pub const TVM: u64 = 1 << 20;
    /// wfi traps.
    pub const TW: u64 = 1 << 21;
    /// sret traps in S.
    pub const TSR: u64 = 1 << 22;
    /// User XLEN (RV64).
    pub const UXL: u64 = 3 << 32;
    /// Supervisor XLEN (RV64).
    pub const SXL: u64 = 3 << 34;
}

/// `res_addr` without a reservation; never the address of an aligned access.
pub const NO_RESERVATION: u64 = u64::MAX;

/// One hart. The start is laid out for generated code; see [`slots`].
#[derive(Debug, Clone)]
#[repr(C)]
pub struct Hart {
    /// Integer registers; `x[0]` is never written.
    pub x: [u64; 32],
    /// Floating-point registers, NaN-boxed.
    pub f: [u64; 32],
    /// Program counter.
    pub pc: u64,
    /// `mstatus` without SD.
    pub mstatus: u64,
    /// Address of the reservation or [`NO_RESERVATION`].
    pub res_addr: u64,
    /// Value that was loaded with it.
    pub res_val: u64,
    /// `frm`.
    pub frm: u64,
    /// `sscratch`.
    pub sscratch: u64,
    /// `mscratch`.
    pub mscratch: u64,
    /// `scause`.
    pub scause: u64,
    /// `stval`.
    pub stval: u64,
    /// `vstart`, `vcsr`, `vl`, `vtype` of V.
    pub vcsrs: [u64; 4],
    /// Present privilege.
    pub privilege: u8,
    /// In wfi.
    pub waiting: bool,
    /// Other threads of a program share its memory: reservations are watched (`monitor`).
    pub parallel: bool,
    /// Version that the monitor had at the reservation.
    pub res_version: u64,
    /// `mie`.
    pub mie: u64,
    /// `mip` as software wrote it: SSIP, STIP and SEIP.
    pub mip: u64,
    /// `mideleg`.
    pub mideleg: u64,
    /// `medeleg`.
    pub medeleg: u64,
    /// `mtvec`.
    pub mtvec: u64,
    /// `mepc`.
    pub mepc: u64,
    /// `mcause`.
    pub mcause: u64,
    /// `mtval`.
    pub mtval: u64,
    /// `mcounteren`.
    pub mcounteren: u64,
    /// `mcountinhibit`.
    pub mcountinhibit: u64,
    /// `menvcfg`.
    pub menvcfg: u64,
    /// `mseccfg`.
    pub mseccfg: u64,
    /// `stvec`.
    pub stvec: u64,
    /// `sepc`.
    pub sepc: u64,
    /// `scounteren`.
    pub scounteren: u64,
    /// `senvcfg`.
    pub senvcfg: u64,
    /// `satp`.
    pub satp: u64,
    /// `stimecmp`.
    pub stimecmp: u64,
    /// `mcycle` minus the count of cycles; its value while inhibited.
    pub cycle_base: u64,
    /// The same of `minstret`.
    pub instret_base: u64,
    /// `mhartid`.
    pub mhartid: u64,
    /// `pmpcfg` bytes.
    pub pmpcfg: [u8; PMP_ENTRIES],
    /// `pmpaddr`.
    pub pmpaddr: [u64; PMP_ENTRIES],
    /// `tselect`.
    pub tselect: u64,
    /// Triggers.
    pub triggers: [Trigger; TRIGGERS],
    /// Vector registers of V, `vlenb` bytes each, one behind the other from the start.
    pub v: [u8; 32 * MAX_VLENB],
}

impl Hart {
    /// State after reset (volume II, 3.4).
    #[must_use]
    pub fn new(xlen: u32, hartid: u64, reset_pc: u64) -> Self {
        let xl = if xlen == 64 { 2 << 32 | 2 << 34 } else { 0 };
        Self {
            x: [0; 32],
            f: [0; 32],
            pc: reset_pc,
            mstatus: xl,
            res_addr: NO_RESERVATION,
            res_val: 0,
            frm: 0,
            sscratch: 0,
            mscratch: 0,
            scause: 0,
            stval: 0,
            vcsrs: [0; 4],
            privilege: M,
            waiting: false,
            parallel: false,
            res_version: 0,
            mie: 0,
            mip: 0,
            mideleg: 0,
            medeleg: 0,
            mtvec: 0,
            mepc: 0,
            mcause: 0,
            mtval: 0,
            mcounteren: 0,
            mcountinhibit: 0,
            menvcfg: 0,
            mseccfg: 0,
            stvec: 0,
            sepc: 0,
            scounteren: 0,
            senvcfg: 0,
            satp: 0,
            stimecmp: u64::MAX,
            cycle_base: 0,
            instret_base: 0,
            mhartid: hartid,
            pmpcfg: [0; PMP_ENTRIES],
            pmpaddr: [0; PMP_ENTRIES],
            tselect: 0,
            triggers: [Trigger::default(); TRIGGERS],
            v: [0; 32 * MAX_VLENB],
        }
    }

    /// Privilege of loads and stores: MPP's in M under MPRV.
    #[must_use]
    pub const fn data_privilege(&self) -> u8 {
        if self.privilege == M && self.mstatus & status::MPRV != 0 {
            (self.mstatus >> 11 & 3) as u8
        } else {
            self.privilege
        }
    }
}

/// Slot of the program counter.
pub const PC: SlotId = SlotId(0);
/// Slot of `mstatus`.
pub const MSTATUS: SlotId = SlotId(64);
/// Slot of the reservation's address.
pub const RES_ADDR: SlotId = SlotId(65);
/// Slot of the reservation's value.
pub const RES_VAL: SlotId = SlotId(66);
/// Slot of `sscratch`.
pub const SSCRATCH: SlotId = SlotId(67);
/// Slot of `mscratch`.
pub const MSCRATCH: SlotId = SlotId(68);
/// Slot of `scause`.
pub const SCAUSE: SlotId = SlotId(69);
/// Slot of `stval`.
pub const STVAL: SlotId = SlotId(70);
/// Slot of `frm`.
pub const FRM: SlotId = SlotId(71);

/// Slot of `vstart`.
pub const VSTART: SlotId = SlotId(72);
/// Slot of `vcsr`.
pub const VCSR: SlotId = SlotId(73);
/// Slot of `vl`.
pub const VL: SlotId = SlotId(74);
/// Slot of `vtype`.
pub const VTYPE: SlotId = SlotId(75);

/// Slot of piece `n` of the vector registers, counted through all of them: a register of up to 256 bits, or 256 bits of one.
#[must_use]
pub const fn piece(n: usize) -> SlotId {
    SlotId(76 + n as u16)
}

/// Number of these pieces; none without V.
#[must_use]
pub fn pieces(cpu: &Cpu) -> usize {
    if cpu.ext.has(Ext::V) { 32 * cpu.vlenb.div_ceil(32) as usize } else { 0 }
}

/// Slot of integer register `n`, 1 to 31.
#[must_use]
pub const fn x(n: u16) -> SlotId {
    SlotId(n)
}

/// Slot of floating-point register `n`, 0 to 31.
#[must_use]
pub const fn f(n: u16) -> SlotId {
    SlotId(32 + n)
}

/// Names of the pieces of the vector registers in printed IR.
const PIECE_NAMES: [&str; 128] = [
    "v.0", "v.1", "v.2", "v.3", "v.4", "v.5", "v.6", "v.7", "v.8", "v.9", "v.10", "v.11", "v.12", "v.13",
    "v.14", "v.15", "v.16", "v.17", "v.18", "v.19", "v.20", "v.21", "v.22", "v.23", "v.24", "v.25", "v.26",
    "v.27", "v.28", "v.29", "v.30", "v.31", "v.32", "v.33", "v.34", "v.35", "v.36", "v.37", "v.38", "v.39",
    "v.40", "v.41", "v.42", "v.43", "v.44", "v.45", "v.46", "v.47", "v.48", "v.49", "v.50", "v.51", "v.52",
    "v.53", "v.54", "v.55", "v.56", "v.57", "v.58", "v.59", "v.60", "v.61", "v.62", "v.63", "v.64", "v.65",
    "v.66", "v.67", "v.68", "v.69", "v.70", "v.71", "v.72", "v.73", "v.74", "v.75", "v.76", "v.77", "v.78",
    "v.79", "v.80", "v.81", "v.82", "v.83", "v.84", "v.85", "v.86", "v.87", "v.88", "v.89", "v.90", "v.91",
    "v.92", "v.93", "v.94", "v.95", "v.96", "v.97", "v.98", "v.99", "v.100", "v.101", "v.102", "v.103",
    "v.104", "v.105", "v.106", "v.107", "v.108", "v.109", "v.110", "v.111", "v.112", "v.113", "v.114",
    "v.115", "v.116", "v.117", "v.118", "v.119", "v.120", "v.121", "v.122", "v.123", "v.124", "v.125",
    "v.126", "v.127",
];

/// ABI names of the integer registers.
pub const X_NAMES: [&str; 32] = [
    "zero", "ra", "sp", "gp", "tp", "t0", "t1", "t2", "s0", "s1", "a0", "a1", "a2", "a3", "a4", "a5", "a6",
    "a7", "s2", "s3", "s4", "s5", "s6", "s7", "s8", "s9", "s10", "s11", "t3", "t4", "t5", "t6",
];

/// ABI names of the floating-point registers.
pub const F_NAMES: [&str; 32] = [
    "ft0", "ft1", "ft2", "ft3", "ft4", "ft5", "ft6", "ft7", "fs0", "fs1", "fa0", "fa1", "fa2", "fa3", "fa4",
    "fa5", "fa6", "fa7", "fs2", "fs3", "fs4", "fs5", "fs6", "fs7", "fs8", "fs9", "fs10", "fs11", "ft8",
    "ft9", "ft10", "ft11",
];

/// The slot table of a CPU.
#[must_use]
pub fn slots(cpu: &Cpu) -> SlotTable {
    let xt = if cpu.xlen == 32 { Type::I32 } else { Type::I64 };
    let mut table = SlotTable::new();
    let pc = table.add("pc", offset_of!(Hart, pc), xt);
    table.set_pc(pc);
    for (n, name) in X_NAMES.iter().enumerate().skip(1) {
        table.add(name, offset_of!(Hart, x) + 8 * n, xt);
    }
    for (n, name) in F_NAMES.iter().enumerate() {
        table.add(name, offset_of!(Hart, f) + 8 * n, Type::F64);
    }
    table.add("mstatus", offset_of!(Hart, mstatus), Type::I64);
    table.add("res_addr", offset_of!(Hart, res_addr), Type::I64);
    table.add("res_val", offset_of!(Hart, res_val), Type::I64);
    table.add("sscratch", offset_of!(Hart, sscratch), xt);
    table.add("mscratch", offset_of!(Hart, mscratch), xt);
    table.add("scause", offset_of!(Hart, scause), xt);
    table.add("stval", offset_of!(Hart, stval), xt);
    table.add("frm", offset_of!(Hart, frm), Type::I64);
    for (n, name) in ["vstart", "vcsr", "vl", "vtype"].iter().enumerate() {
        table.add(name, offset_of!(Hart, vcsrs) + 8 * n, Type::I64);
    }
    let (ty, bytes) = if cpu.vlenb == 16 { (Type::V128, 16) } else { (Type::V256, 32) };
    for (n, name) in PIECE_NAMES.iter().enumerate().take(pieces(cpu)) {
        table.add(name, offset_of!(Hart, v) + bytes * n, ty);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slot_numbers_match_the_table() {
        for (xlen, vlen) in [(32, "128"), (64, "128"), (64, "256"), (64, "1024")] {
            let features = [("v", "on"), ("vlen", vlen)].map(|(k, v)| (k.to_owned(), v.to_owned()));
            let cpu = Cpu::new(xlen, "", &features).unwrap();
            let table = slots(&cpu);
            let name = |s: SlotId| table.get(s).name;
            assert_eq!(name(PC), "pc");
            assert_eq!(name(x(2)), "sp");
            assert_eq!(name(x(31)), "t6");
            assert_eq!(name(f(0)), "ft0");
            assert_eq!(name(f(31)), "ft11");
            assert_eq!(name(MSTATUS), "mstatus");
            assert_eq!(name(RES_ADDR), "res_addr");
            assert_eq!(name(STVAL), "stval");
            assert_eq!(name(VTYPE), "vtype");
            assert_eq!(name(piece(31)), "v.31");
            assert_eq!(table.len(), 76 + pieces(&cpu));
        }
    }
}

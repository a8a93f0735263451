//! RISC-V hart state.
//!
//! Names and layouts follow the RISC-V Instruction Set Manual, volumes I and II. Values are 64 bits wide for
//! both widths; on RV32 the upper halves of 32-bit registers are zero and `mstatus`, `menvcfg` and the
//! counters hold their `h` halves in the upper 32 bits.

use super::table::cpu_state;

/// Most PMP entries a hart can have.
pub const PMP_ENTRIES: usize = 64;
/// Most debug triggers a hart can have.
pub const TRIGGERS: usize = 8;

cpu_state! {
    /// A debug trigger (RISC-V Debug Specification, chapter Sdtrig).
    #[derive(Copy, Eq)]
    pub struct Trigger {
        /// `tdata1`.
        1 => pub data1: u64,
        /// `tdata2`.
        2 => pub data2: u64,
        /// `tdata3`.
        3 => pub data3: u64,
    }
}

cpu_state! {
    /// Everything a hart remembers.
    pub struct State {
        /// 32 or 64.
        1 => pub xlen: u32,
        /// Integer registers; `x[0]` is zero.
        2 => pub x: [u64; 32],
        /// Program counter.
        3 => pub pc: u64,
        /// Floating-point registers, NaN-boxed.
        4 => pub f: [u64; 32],
        /// Accrued exceptions and rounding mode as in `fcsr`.
        5 => pub fcsr: u64,
        /// Vector registers, VLEN bits each in little-endian bytes, register after register; empty without V.
        6 => pub v: Vec<u8>,
        /// `vstart`, `vcsr`, `vl`, `vtype` in this order.
        7 => pub vcsrs: [u64; 4],
        /// Privilege: 0 U, 1 S, 3 M.
        8 => pub privilege: u8,
        /// True if the hart stands in WFI.
        9 => pub waiting: bool,
        /// LR reservation: guest virtual address and value, if one is held.
        10 => pub reservation: Option<(u64, u64)>,
        /// `mstatus` (with `mstatush` above bit 31 on RV32).
        11 => pub mstatus: u64,
        /// `misa`.
        12 => pub misa: u64,
        /// `mie`.
        13 => pub mie: u64,
        /// `mip` as software wrote it, without the levels of wires.
        14 => pub mip: u64,
        /// Levels of the interrupt wires, one bit a cause.
        15 => pub irq_lines: u64,
        /// `mideleg`.
        16 => pub mideleg: u64,
        /// `medeleg`.
        17 => pub medeleg: u64,
        /// `mtvec`.
        18 => pub mtvec: u64,
        /// `mscratch`.
        19 => pub mscratch: u64,
        /// `mepc`.
        20 => pub mepc: u64,
        /// `mcause`.
        21 => pub mcause: u64,
        /// `mtval`.
        22 => pub mtval: u64,
        /// `mcounteren`.
        23 => pub mcounteren: u64,
        /// `mcountinhibit`.
        24 => pub mcountinhibit: u64,
        /// `menvcfg`.
        25 => pub menvcfg: u64,
        /// `mseccfg`.
        26 => pub mseccfg: u64,
        /// `stvec`.
        27 => pub stvec: u64,
        /// `sscratch`.
        28 => pub sscratch: u64,
        /// `sepc`.
        29 => pub sepc: u64,
        /// `scause`.
        30 => pub scause: u64,
        /// `stval`.
        31 => pub stval: u64,
        /// `scounteren`.
        32 => pub scounteren: u64,
        /// `senvcfg`.
        33 => pub senvcfg: u64,
        /// `satp`.
        34 => pub satp: u64,
        /// `stimecmp`.
        35 => pub stimecmp: u64,
        /// `mcycle` at the moment of saving.
        36 => pub mcycle: u64,
        /// `minstret` at the moment of saving.
        37 => pub minstret: u64,
        /// `mhartid`.
        38 => pub mhartid: u64,
        /// `pmpcfg` bytes, one an entry.
        39 => pub pmpcfg: [u8; PMP_ENTRIES],
        /// `pmpaddr`, one an entry.
        40 => pub pmpaddr: [u64; PMP_ENTRIES],
        /// `tselect`.
        41 => pub tselect: u64,
        /// Triggers.
        42 => pub triggers: [Trigger; TRIGGERS],
    }
}

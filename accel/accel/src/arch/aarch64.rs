//! 64-bit ARM vCPU state.
//!
//! Names and encodings follow the Arm Architecture Reference Manual for A-profile, parts C5 and D.

use super::table::{cpu_enum, cpu_state};

cpu_state! {
    /// A system register that has no field of its own.
    #[derive(Copy, Eq)]
    pub struct SysReg labelled by encoding {
        /// Encoding: op0 in bits 14 to 15, op1 in 11 to 13, CRn in 7 to 10, CRm in 3 to 6, op2 in 0 to 2.
        1 => pub encoding: u16,
        /// Value.
        2 => pub value: u64,
    }
}

cpu_enum! {
    /// What a vCPU is doing.
    pub enum RunState {
        /// Executes instructions.
        #[default]
        Running = 0,
        /// Powered off (PSCI CPU_OFF, or not yet started).
        Off = 1,
        /// Suspended by PSCI.
        Suspended = 2,
    }
}

cpu_state! {
    /// Everything a 64-bit ARM vCPU with exception levels 0 and 1 remembers.
    pub struct State {
        /// X0 to X30.
        1 => pub x: [u64; 31],
        /// SP_EL0.
        2 => pub sp_el0: u64,
        /// SP_EL1.
        3 => pub sp_el1: u64,
        /// Program counter.
        4 => pub pc: u64,
        /// PSTATE in the layout of SPSR_EL1.
        5 => pub pstate: u64,
        /// V0 to V31.
        6 => pub v: [u128; 32],
        /// FPSR.
        7 => pub fpsr: u32,
        /// FPCR.
        8 => pub fpcr: u32,
        /// ELR_EL1.
        9 => pub elr_el1: u64,
        /// SPSR of EL1, abort, undefined, IRQ, FIQ.
        10 => pub spsr: [u64; 5],
        /// SCTLR_EL1.
        11 => pub sctlr_el1: u64,
        /// ACTLR_EL1.
        12 => pub actlr_el1: u64,
        /// CPACR_EL1.
        13 => pub cpacr_el1: u64,
        /// TTBR0_EL1.
        14 => pub ttbr0_el1: u64,
        /// TTBR1_EL1.
        15 => pub ttbr1_el1: u64,
        /// TCR_EL1.
        16 => pub tcr_el1: u64,
        /// AFSR0_EL1.
        17 => pub afsr0_el1: u64,
        /// AFSR1_EL1.
        18 => pub afsr1_el1: u64,
        /// ESR_EL1.
        19 => pub esr_el1: u64,
        /// FAR_EL1.
        20 => pub far_el1: u64,
        /// PAR_EL1.
        21 => pub par_el1: u64,
        /// MAIR_EL1.
        22 => pub mair_el1: u64,
        /// AMAIR_EL1.
        23 => pub amair_el1: u64,
        /// VBAR_EL1.
        24 => pub vbar_el1: u64,
        /// CONTEXTIDR_EL1.
        25 => pub contextidr_el1: u64,
        /// TPIDR_EL0.
        26 => pub tpidr_el0: u64,
        /// TPIDRRO_EL0.
        27 => pub tpidrro_el0: u64,
        /// TPIDR_EL1.
        28 => pub tpidr_el1: u64,
        /// CNTKCTL_EL1.
        29 => pub cntkctl_el1: u64,
        /// CSSELR_EL1.
        30 => pub csselr_el1: u64,
        /// MDSCR_EL1.
        31 => pub mdscr_el1: u64,
        /// MPIDR_EL1.
        32 => pub mpidr_el1: u64,
        /// CNTV_CTL_EL0.
        33 => pub cntv_ctl: u64,
        /// CNTV_CVAL_EL0.
        34 => pub cntv_cval: u64,
        /// Virtual count (CNTVCT_EL0) at the moment of saving.
        35 => pub cntvct: u64,
        /// CNTP_CTL_EL0.
        36 => pub cntp_ctl: u64,
        /// CNTP_CVAL_EL0.
        37 => pub cntp_cval: u64,
        /// Physical count (CNTPCT_EL0) at the moment of saving.
        38 => pub cntpct: u64,
        /// System registers without a field of their own (ID registers, breakpoints, PMU), ascending.
        39 => pub sysregs: Vec<SysReg>,
        /// A virtual SError waits, with its syndrome if one was given.
        40 => pub serror_pending: bool,
        /// Syndrome of that SError.
        41 => pub serror_esr: Option<u64>,
        /// What the vCPU is doing.
        42 => pub run: RunState,
    }
}

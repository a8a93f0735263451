//! State of one vCPU: the structure that slots and helpers refer to.
//!
//! Source: Intel SDM, volume 1 chapter 3 (registers), volume 3 chapters 2 and 3 (system registers, segments).
//!
//! The program counter is the *linear* address of the instruction: offset in CS plus base. The arithmetic flags are a
//! producer record (`tcg_ir`'s flag record, as four words); all other bits of RFLAGS are in `sys`. Registers of modes
//! below 64 bit are the low parts of the wide ones.

use std::mem::offset_of;

use tcg_ir::{FlagBits, FlagKind, SlotId, SlotTable, Type};

use crate::flags;

/// Segment registers, in encoding order.
pub mod seg {
    /// ES.
    pub const ES: usize = 0;
    /// CS.
    pub const CS: usize = 1;
    /// SS.
    pub const SS: usize = 2;
    /// DS.
    pub const DS: usize = 3;
    /// FS.
    pub const FS: usize = 4;
    /// GS.
    pub const GS: usize = 5;
}

/// A system segment: TR or LDTR.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Segment {
    /// Visible selector.
    pub selector: u16,
    /// Attributes as in `accel::arch::x86_64::access`.
    pub access: u16,
    /// Limit in bytes.
    pub limit: u32,
    /// Base.
    pub base: u64,
}

/// GDTR or IDTR.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Table {
    /// Base.
    pub base: u64,
    /// Limit in bytes.
    pub limit: u16,
}

/// x87 registers and what goes with them. MMX registers are the significands of the physical registers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C, align(16))]
pub struct X87 {
    /// Physical registers: significand, then sign and exponent in the low 16 bits.
    pub regs: [[u64; 2]; 8],
    /// Control word.
    pub fcw: u64,
    /// Status word without TOP.
    pub fsw: u64,
    /// Physical number of ST(0).
    pub top: u64,
    /// One bit a physical register: not empty.
    pub ftw: u64,
    /// Last opcode.
    pub fop: u64,
    /// Last instruction pointer.
    pub fip: u64,
    /// Last data pointer.
    pub fdp: u64,
    /// Selector that goes with `fip`.
    pub fcs: u64,
    /// Selector that goes with `fdp`.
    pub fds: u64,
}

impl Default for X87 {
    fn default() -> Self {
        Self { regs: [[0; 2]; 8], fcw: 0x37f, fsw: 0, top: 0, ftw: 0, fop: 0, fip: 0, fdp: 0, fcs: 0, fds: 0 }
    }
}

/// What a vCPU is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Run {
    /// Executes.
    #[default]
    Running,
    /// In HLT.
    Halted,
    /// An application processor before INIT, or after it: waits for a start-up IPI.
    WaitForSipi,
    /// The same, but INIT has not come yet.
    Uninitialized,
    /// Stopped for good by a triple fault.
    Shutdown,
}

/// An event that is to be delivered before the next instruction, come what may.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Injected {
    /// An exception of the instruction at hand.
    Exception(tcg_engine::Trap),
    /// An interrupt that its controller has handed out.
    Interrupt(u8),
    /// An NMI, which holds further ones back already.
    Nmi,
}

/// Model-specific registers that have no better place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Msrs {
    /// IA32_EFER.
    pub efer: u64,
    /// IA32_STAR.
    pub star: u64,
    /// IA32_LSTAR.
    pub lstar: u64,
    /// IA32_CSTAR.
    pub cstar: u64,
    /// IA32_FMASK.
    pub fmask: u64,
    /// IA32_KERNEL_GS_BASE.
    pub kernel_gs_base: u64,
    /// IA32_SYSENTER_CS.
    pub sysenter_cs: u64,
    /// IA32_SYSENTER_ESP.
    pub sysenter_esp: u64,
    /// IA32_SYSENTER_EIP.
    pub sysenter_eip: u64,
    /// IA32_PAT.
    pub pat: u64,
    /// IA32_APIC_BASE.
    pub apic_base: u64,
    /// Frequency of the time stamp counter in kHz.
    pub tsc_khz: u64,
    /// IA32_TSC_AUX.
    pub tsc_aux: u64,
    /// IA32_TSC minus what the clock says.
    pub tsc_offset: u64,
    /// IA32_TSC_ADJUST.
    pub tsc_adjust: u64,
    /// IA32_MISC_ENABLE.
    pub misc_enable: u64,
    /// IA32_MTRR_DEF_TYPE.
    pub mtrr_def_type: u64,
    /// Fixed-range MTRRs in the order 250, 258, 259, 268 to 26F.
    pub mtrr_fixed: [u64; 11],
    /// Variable-range MTRRs: base, mask.
    pub mtrr_var: [u64; 16],
    /// IA32_MCG_STATUS.
    pub mcg_status: u64,
    /// IA32_DEBUGCTL.
    pub debugctl: u64,
    /// MSR_KVM_SYSTEM_TIME_NEW.
    pub kvm_system_time: u64,
    /// MSR_KVM_WALL_CLOCK_NEW.
    pub kvm_wall_clock: u64,
}

/// One vCPU. The start is laid out for generated code; see [`slots`].
#[derive(Debug, Clone)]
#[repr(C, align(16))]
pub struct Cpu {
    /// RAX, RCX, RDX, RBX, RSP, RBP, RSI, RDI, R8 to R15.
    pub regs: [u64; 16],
    /// Linear address of the instruction.
    pub pc: u64,
    /// Arithmetic flags: kind and type of the producer, and its operands.
    pub flags: [u64; 4],
    /// RFLAGS without the arithmetic flags.
    pub sys: u64,
    /// The next instruction is shielded from interrupts (STI: 1, MOV SS: 2).
    pub shadow: u64,
    /// Control bits of MXCSR; its flags are the engine's sticky exceptions.
    pub mxcsr: u64,
    /// Bases of the segment registers.
    pub seg_base: [u64; 6],
    /// Limits of the segment registers, in bytes.
    pub seg_limit: [u64; 6],
    /// Selectors.
    pub seg_sel: [u64; 6],
    /// Attributes as in `accel::arch::x86_64::access`; 0 for a null selector.
    pub seg_access: [u64; 6],
    /// XMM0 to XMM31: the low 128 bits.
    pub xmm: [[u64; 2]; 32],
    /// Bits 128 to 255 of YMM0 to YMM31.
    pub ymmh: [[u64; 2]; 32],
    /// Opmask registers.
    pub opmask: [u64; 8],
    /// x87 and MMX.
    pub x87: X87,
    /// Bits 256 to 511 of ZMM0 to ZMM31.
    pub zmmh: [[u64; 4]; 32],
    /// Operands of helpers that work on vectors; results come in the first.
    pub scratch: [[u64; 8]; 3],
    /// 1 if `zmmh` may hold something: else what writes narrower registers need not clear it.
    pub high: u64,
    /// CR0.
    pub cr0: u64,
    /// CR2.
    pub cr2: u64,
    /// CR3.
    pub cr3: u64,
    /// CR4.
    pub cr4: u64,
    /// CR8.
    pub cr8: u64,
    /// XCR0.
    pub xcr0: u64,
    /// PKRU.
    pub pkru: u64,
    /// DR0 to DR3.
    pub dr: [u64; 4],
    /// DR6.
    pub dr6: u64,
    /// DR7.
    pub dr7: u64,
    /// Page directory pointers of PAE paging, loaded with CR3.
    pub pdptr: [u64; 4],
    /// Task register.
    pub tr: Segment,
    /// Local descriptor table.
    pub ldt: Segment,
    /// Global descriptor table.
    pub gdt: Table,
    /// Interrupt descriptor table.
    pub idt: Table,
    /// Model-specific registers.
    pub msrs: Msrs,
    /// Present privilege level.
    pub cpl: u8,
    /// What the vCPU is doing.
    pub run: Run,
    /// NMIs are held back until IRET.
    pub nmi_masked: bool,
    /// An NMI waits.
    pub nmi_pending: bool,
    /// An exception or interrupt whose delivery another accelerator had begun.
    pub injected: Option<Injected>,
    /// Base of SMRAM.
    pub smbase: u64,
    /// In system management mode.
    pub smm: bool,
    /// That mode was entered with NMIs held back.
    pub smm_in_nmi: bool,
    /// A system management interrupt waits.
    pub smi_pending: bool,
    /// INIT came in system management mode.
    pub init_latched: bool,
    /// Secure virtual machines.
    pub svm: crate::svm::State,
    /// What has ended HLT has not been looked at yet.
    pub woken: bool,
    /// Physical address bits that count: without bit 20 while A20M# is active.
    pub a20: u64,
    /// Data breakpoints that the instruction at hand has hit.
    pub dr_hit: u64,
    /// Number of the vCPU.
    pub index: u32,
    /// Descriptors of a program's thread.
    pub tls: [u64; 3],
}

impl Cpu {
    /// General register `n` at a width of 32 bits.
    #[must_use]
    pub const fn reg32(&self, n: usize) -> u32 {
        self.regs[n] as u32
    }

    /// Offset of the instruction in CS.
    #[must_use]
    pub const fn rip(&self) -> u64 {
        if self.code64() { self.pc } else { self.pc.wrapping_sub(self.seg_base[seg::CS]) & 0xffff_ffff }
    }

    /// Sets the offset in CS.
    pub const fn set_rip(&mut self, rip: u64) {
        self.pc = if self.code64() { rip } else { self.seg_base[seg::CS].wrapping_add(rip) & 0xffff_ffff };
    }

    /// True in 64-bit mode.
    #[must_use]
    pub const fn code64(&self) -> bool {
        self.long_mode() && self.seg_access[seg::CS] & crate::segment::L != 0
    }

    /// True in long mode, compatibility mode included.
    #[must_use]
    pub const fn long_mode(&self) -> bool {
        self.msrs.efer & crate::msr::EFER_LMA != 0
    }

    /// True in protected mode, virtual-8086 mode included.
    #[must_use]
    pub const fn protected(&self) -> bool {
        self.cr0 & crate::control::CR0_PE != 0
    }

    /// True in virtual-8086 mode.
    #[must_use]
    pub const fn vm86(&self) -> bool {
        self.sys & flags::VM != 0
    }

    /// I/O privilege level.
    #[must_use]
    pub const fn iopl(&self) -> u8 {
        (self.sys >> 12 & 3) as u8
    }

    /// RFLAGS as software sees them.
    #[must_use]
    pub fn rflags(&self) -> u64 {
        self.sys | flags::from_bits(flags::record_bits(&self.flags)) | flags::FIXED
    }

    /// Sets RFLAGS.
    pub fn set_rflags(&mut self, rflags: u64) {
        self.flags = [FLAGS_BITS, flags::to_bits(rflags), 0, 0];
        self.sys = rflags & flags::SYSTEM;
    }

    /// Sees whether `zmmh` holds anything, after a change from outside of translated code.
    pub fn look_at_high(&mut self) {
        self.high = u64::from(self.zmmh != [[0; 4]; 32]);
    }

    /// Clears the zero flag or sets it, leaving the others.
    pub fn set_zf(&mut self, on: bool) {
        let bits = flags::record_bits(&self.flags) & !FlagBits::Z | if on { FlagBits::Z } else { 0 };
        self.flags = [FLAGS_BITS, bits, 0, 0];
    }
}

/// First word of a record that is a packed set.
pub const FLAGS_BITS: u64 = FlagKind::Bits as u64 | (Type::I64 as u64) << 8;

/// Slot of the program counter.
pub const PC: SlotId = SlotId(16);
/// Slot of the flag record's first word; the operands follow.
pub const FLAGS: u16 = 17;
/// Slot of the other flags.
pub const SYS: SlotId = SlotId(21);
/// Slot of the interrupt shadow.
pub const SHADOW: SlotId = SlotId(22);
/// Slot of MXCSR's control bits.
pub const MXCSR: SlotId = SlotId(23);
const BASE: u16 = 24;
const LIMIT: u16 = 30;
const SELECTOR: u16 = 36;
const XMM: u16 = 42;
const YMMH: u16 = 74;
const MM: u16 = 106;
const TOP: u16 = 114;
const ZMMH: u16 = 115;
const OPMASK: u16 = 147;
const SCRATCH: u16 = 155;

/// Slot of general register `n`.
#[must_use]
pub const fn reg(n: usize) -> SlotId {
    SlotId(n as u16)
}

/// Slot of the base of segment register `n`.
#[must_use]
pub const fn base(n: usize) -> SlotId {
    SlotId(BASE + n as u16)
}

/// Slot of the limit of segment register `n`.
#[must_use]
pub const fn limit(n: usize) -> SlotId {
    SlotId(LIMIT + n as u16)
}

/// Slot of the selector in segment register `n`.
#[must_use]
pub const fn selector(n: usize) -> SlotId {
    SlotId(SELECTOR + n as u16)
}

/// Slot of the low 128 bits of vector register `n`, a `v128`.
#[must_use]
pub const fn xmm(n: usize) -> SlotId {
    SlotId(XMM + n as u16)
}

/// Slot of bits 128 to 255 of vector register `n`, a `v128`.
#[must_use]
pub const fn ymmh(n: usize) -> SlotId {
    SlotId(YMMH + n as u16)
}

/// Slot of bits 256 to 511 of vector register `n`, a `v256`.
#[must_use]
pub const fn zmmh(n: usize) -> SlotId {
    SlotId(ZMMH + n as u16)
}

/// Slot of opmask register `n`.
#[must_use]
pub const fn opmask(n: usize) -> SlotId {
    SlotId(OPMASK + n as u16)
}

/// Slot of operand `n` of vector helpers, a `v512`.
#[must_use]
pub const fn scratch(n: usize) -> SlotId {
    SlotId(SCRATCH + n as u16)
}

/// Slot of "`zmmh` may hold something".
pub const HIGH: SlotId = SlotId(SCRATCH + 3);

/// Slot of MMX register `n`, a `v64`.
#[must_use]
pub const fn mm(n: usize) -> SlotId {
    SlotId(MM + n as u16)
}

/// Slot of the x87 stack's top.
pub const X87_TOP: SlotId = SlotId(TOP);

/// Names of the 64-bit general registers.
pub const REG_NAMES: [&str; 16] = [
    "rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi", "r8", "r9", "r10", "r11", "r12", "r13", "r14",
    "r15",
];

/// Names of the segment registers.
pub const SEG_NAMES: [&str; 6] = ["es", "cs", "ss", "ds", "fs", "gs"];

const BASE_NAMES: [&str; 6] = ["es_base", "cs_base", "ss_base", "ds_base", "fs_base", "gs_base"];
const LIMIT_NAMES: [&str; 6] = ["es_limit", "cs_limit", "ss_limit", "ds_limit", "fs_limit", "gs_limit"];
const XMM_NAMES: [&str; 32] = [
    "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9", "xmm10", "xmm11",
    "xmm12", "xmm13", "xmm14", "xmm15", "xmm16", "xmm17", "xmm18", "xmm19", "xmm20", "xmm21", "xmm22",
    "xmm23", "xmm24", "xmm25", "xmm26", "xmm27", "xmm28", "xmm29", "xmm30", "xmm31",
];
const YMMH_NAMES: [&str; 32] = [
    "ymmh0", "ymmh1", "ymmh2", "ymmh3", "ymmh4", "ymmh5", "ymmh6", "ymmh7", "ymmh8", "ymmh9", "ymmh10",
    "ymmh11", "ymmh12", "ymmh13", "ymmh14", "ymmh15", "ymmh16", "ymmh17", "ymmh18", "ymmh19", "ymmh20",
    "ymmh21", "ymmh22", "ymmh23", "ymmh24", "ymmh25", "ymmh26", "ymmh27", "ymmh28", "ymmh29", "ymmh30",
    "ymmh31",
];
const MM_NAMES: [&str; 8] = ["mm0", "mm1", "mm2", "mm3", "mm4", "mm5", "mm6", "mm7"];
const ZMMH_NAMES: [&str; 32] = [
    "zmmh0", "zmmh1", "zmmh2", "zmmh3", "zmmh4", "zmmh5", "zmmh6", "zmmh7", "zmmh8", "zmmh9", "zmmh10",
    "zmmh11", "zmmh12", "zmmh13", "zmmh14", "zmmh15", "zmmh16", "zmmh17", "zmmh18", "zmmh19", "zmmh20",
    "zmmh21", "zmmh22", "zmmh23", "zmmh24", "zmmh25", "zmmh26", "zmmh27", "zmmh28", "zmmh29", "zmmh30",
    "zmmh31",
];
const OPMASK_NAMES: [&str; 8] = ["k0", "k1", "k2", "k3", "k4", "k5", "k6", "k7"];
const SCRATCH_NAMES: [&str; 3] = ["scratch0", "scratch1", "scratch2"];

/// The slot table.
#[must_use]
pub fn slots() -> SlotTable {
    let mut t = SlotTable::new();
    let row = |t: &mut SlotTable, names: &[&'static str], at: usize, step: usize, ty: Type| {
        for (n, name) in names.iter().enumerate() {
            t.add(name, at + step * n, ty);
        }
    };
    row(&mut t, &REG_NAMES, offset_of!(Cpu, regs), 8, Type::I64);
    let pc = t.add("pc", offset_of!(Cpu, pc), Type::I64);
    t.set_pc(pc);
    row(&mut t, &["fl_kind", "fl_a", "fl_b", "fl_c"], offset_of!(Cpu, flags), 8, Type::I64);
    t.add("sys", offset_of!(Cpu, sys), Type::I64);
    t.add("shadow", offset_of!(Cpu, shadow), Type::I64);
    t.add("mxcsr", offset_of!(Cpu, mxcsr), Type::I64);
    row(&mut t, &BASE_NAMES, offset_of!(Cpu, seg_base), 8, Type::I64);
    row(&mut t, &LIMIT_NAMES, offset_of!(Cpu, seg_limit), 8, Type::I64);
    row(&mut t, &SEG_NAMES, offset_of!(Cpu, seg_sel), 8, Type::I64);
    row(&mut t, &XMM_NAMES, offset_of!(Cpu, xmm), 16, Type::V128);
    row(&mut t, &YMMH_NAMES, offset_of!(Cpu, ymmh), 16, Type::V128);
    let x87 = offset_of!(Cpu, x87);
    row(&mut t, &MM_NAMES, x87 + offset_of!(X87, regs), 16, Type::V64);
    t.add("x87_top", x87 + offset_of!(X87, top), Type::I64);
    row(&mut t, &ZMMH_NAMES, offset_of!(Cpu, zmmh), 32, Type::V256);
    row(&mut t, &OPMASK_NAMES, offset_of!(Cpu, opmask), 8, Type::I64);
    row(&mut t, &SCRATCH_NAMES, offset_of!(Cpu, scratch), 64, Type::V512);
    t.add("high", offset_of!(Cpu, high), Type::I64);
    t
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slot_numbers_match_the_table() {
        let t = slots();
        assert_eq!(t.find("pc"), Some(PC));
        assert_eq!(t.find("fl_kind"), Some(SlotId(FLAGS)));
        assert_eq!(t.find("sys"), Some(SYS));
        assert_eq!(t.find("shadow"), Some(SHADOW));
        assert_eq!(t.find("mxcsr"), Some(MXCSR));
        assert_eq!(t.find("gs_base"), Some(base(seg::GS)));
        assert_eq!(t.find("es_limit"), Some(limit(seg::ES)));
        assert_eq!(t.find("ss"), Some(selector(seg::SS)));
        assert_eq!(t.find("xmm31"), Some(xmm(31)));
        assert_eq!(t.find("ymmh0"), Some(ymmh(0)));
        assert_eq!(t.find("mm7"), Some(mm(7)));
        assert_eq!(t.find("x87_top"), Some(X87_TOP));
        assert_eq!((t.find("zmmh0"), t.find("zmmh31")), (Some(zmmh(0)), Some(zmmh(31))));
        assert_eq!((t.find("k0"), t.find("k7")), (Some(opmask(0)), Some(opmask(7))));
        assert_eq!((t.find("scratch2"), t.find("high")), (Some(scratch(2)), Some(HIGH)));
    }
}

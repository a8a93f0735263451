//! x86 vCPU state.
//!
//! Names and layouts follow the Intel 64 and IA-32 Architectures Software Developer's Manual: volume 1
//! chapters 3, 8 and 13 (registers, x87, XSAVE), volume 3 chapters 2, 3, 11 and 18 (system registers,
//! segments, local APIC, debug registers) and volume 4 (MSRs).

use super::table::{Vector, cpu_enum, cpu_state};

/// Registers in a local APIC page: 32 bits each, 16 bytes apart, from offset 0 to 0x3F0.
pub const LAPIC_REGISTERS: usize = 64;

/// Numbers of the registers of a program, beyond the general ones (0 to 15 in encoding order).
pub mod program {
    /// RFLAGS.
    pub const FLAGS: usize = 16;
    /// Selector of ES; CS, SS, DS, FS and GS follow. Setting one loads the segment.
    pub const SELECTOR: usize = 17;
    /// Base of ES; the others follow.
    pub const BASE: usize = 23;
    /// Descriptors of the thread's own segments, [`TLS_COUNT`] of them.
    pub const TLS: usize = 29;
    /// How many there are.
    pub const TLS_COUNT: usize = 3;
    /// Index of the first of them in the global descriptor table.
    pub const TLS_FIRST: u16 = 12;
    /// Descriptors of the local table, which all threads share; [`LDT_COUNT`] of them.
    pub const LDT: usize = 1 << 16;
    /// How many there are.
    pub const LDT_COUNT: usize = 8192;
    /// Selector of 32-bit code.
    pub const CODE32: u16 = 0x23;
    /// Selector of data.
    pub const DATA: u16 = 0x2b;
    /// Selector of 64-bit code.
    pub const CODE64: u16 = 0x33;
}

/// Bits of [`Segment::access`].
pub mod access {
    /// Mask of the type field.
    pub const TYPE: u16 = 0xF;
    /// Code or data (not a system segment).
    pub const S: u16 = 1 << 4;
    /// Lowest bit of the privilege level.
    pub const DPL_SHIFT: u32 = 5;
    /// Present. A segment register without it cannot be used.
    pub const P: u16 = 1 << 7;
    /// Available to software.
    pub const AVL: u16 = 1 << 8;
    /// 64-bit code.
    pub const L: u16 = 1 << 9;
    /// 32-bit default size.
    pub const DB: u16 = 1 << 10;
    /// Limit in units of 4 KiB.
    pub const G: u16 = 1 << 11;
}

cpu_state! {
    /// A segment register with its hidden part.
    #[derive(Copy, Eq)]
    pub struct Segment {
        /// Visible selector.
        1 => pub selector: u16,
        /// Base address.
        2 => pub base: u64,
        /// Limit in bytes (already scaled by G).
        3 => pub limit: u32,
        /// Attributes: descriptor bits 40 to 47 in bits 0 to 7, descriptor bits 52 to 55 in bits 8 to 11.
        4 => pub access: u16,
    }
}

cpu_state! {
    /// GDTR or IDTR.
    #[derive(Copy, Eq)]
    pub struct Table {
        /// Base address.
        1 => pub base: u64,
        /// Limit in bytes.
        2 => pub limit: u16,
    }
}

cpu_state! {
    /// A model-specific register.
    #[derive(Copy, Eq)]
    pub struct Msr labelled by index {
        /// Number as in ECX.
        1 => pub index: u32,
        /// Value.
        2 => pub value: u64,
    }
}

cpu_state! {
    /// The x87, SSE, AVX and AVX-512 registers, apart from any XSAVE layout.
    #[derive(Copy, Eq)]
    pub struct Fpu {
        /// Control word.
        1 => pub fcw: u16,
        /// Status word.
        2 => pub fsw: u16,
        /// Tag word, abridged: one bit a physical register, 1 = not empty.
        3 => pub ftw: u8,
        /// Last opcode, 11 bits.
        4 => pub fop: u16,
        /// Last instruction pointer.
        5 => pub fip: u64,
        /// Last data pointer.
        6 => pub fdp: u64,
        /// ST(0) to ST(7), 80 bits each.
        7 => pub st: [u128; 8],
        /// MXCSR.
        8 => pub mxcsr: u32,
        /// ZMM0 to ZMM31; XMM and YMM are their lower parts.
        9 => pub zmm: [Vector; 32],
        /// Opmask registers k0 to k7.
        10 => pub opmask: [u64; 8],
        /// Protection keys of user pages.
        11 => pub pkru: u32,
        /// XCR0.
        12 => pub xcr0: u64,
    }
}

cpu_enum! {
    /// What a vCPU is doing.
    pub enum RunState {
        /// Executes instructions.
        #[default]
        Running = 0,
        /// Stands in HLT.
        Halted = 1,
        /// An application processor that has not yet received INIT.
        Uninitialized = 2,
        /// Waits for a start-up IPI, after INIT.
        WaitForSipi = 3,
        /// Has received a start-up IPI and not yet acted on it.
        SipiReceived = 4,
    }
}

cpu_state! {
    /// Exceptions, interrupts and what holds them back.
    #[derive(Copy, Eq)]
    pub struct Events {
        /// Vector of an exception that is being delivered.
        1 => pub exception: Option<u8>,
        /// True if that exception has only been recognised; its side effects (CR2, DR6) are to come.
        2 => pub exception_pending: bool,
        /// Error code of the exception.
        3 => pub error_code: Option<u32>,
        /// Address or DR6 bits that the exception will store.
        4 => pub payload: Option<u64>,
        /// Vector of an interrupt that is being delivered.
        5 => pub interrupt: Option<u8>,
        /// True if that interrupt is a software interrupt.
        6 => pub interrupt_soft: bool,
        /// Interrupts held back by STI.
        7 => pub shadow_sti: bool,
        /// Interrupts held back by MOV SS or POP SS.
        8 => pub shadow_mov_ss: bool,
        /// An NMI is being delivered.
        9 => pub nmi_injected: bool,
        /// An NMI waits.
        10 => pub nmi_pending: bool,
        /// NMIs are held back until IRET.
        11 => pub nmi_masked: bool,
        /// Vector of the last start-up IPI.
        12 => pub sipi_vector: u32,
        /// In system management mode.
        13 => pub smm: bool,
        /// A system management interrupt waits.
        14 => pub smi_pending: bool,
        /// System management mode was entered from an NMI handler.
        15 => pub smm_inside_nmi: bool,
        /// INIT was received in system management mode.
        16 => pub init_latched: bool,
        /// Level of the INTR input, with a user-space interrupt controller.
        17 => pub intr: bool,
        /// A triple fault waits.
        18 => pub triple_fault: bool,
        /// Address bit 20 is masked (A20M#). Accelerators without that input ignore it.
        19 => pub a20_masked: bool,
    }
}

cpu_state! {
    /// Everything an x86 vCPU remembers.
    pub struct State {
        /// RAX.
        1 => pub rax: u64,
        /// RCX.
        2 => pub rcx: u64,
        /// RDX.
        3 => pub rdx: u64,
        /// RBX.
        4 => pub rbx: u64,
        /// RSP.
        5 => pub rsp: u64,
        /// RBP.
        6 => pub rbp: u64,
        /// RSI.
        7 => pub rsi: u64,
        /// RDI.
        8 => pub rdi: u64,
        /// R8.
        9 => pub r8: u64,
        /// R9.
        10 => pub r9: u64,
        /// R10.
        11 => pub r10: u64,
        /// R11.
        12 => pub r11: u64,
        /// R12.
        13 => pub r12: u64,
        /// R13.
        14 => pub r13: u64,
        /// R14.
        15 => pub r14: u64,
        /// R15.
        16 => pub r15: u64,
        /// Instruction pointer, an offset in CS.
        17 => pub rip: u64,
        /// Flags.
        18 => pub rflags: u64,
        /// Code segment.
        19 => pub cs: Segment,
        /// Data segment.
        20 => pub ds: Segment,
        /// Extra segment.
        21 => pub es: Segment,
        /// FS.
        22 => pub fs: Segment,
        /// GS.
        23 => pub gs: Segment,
        /// Stack segment.
        24 => pub ss: Segment,
        /// Task register.
        25 => pub tr: Segment,
        /// Local descriptor table.
        26 => pub ldt: Segment,
        /// Global descriptor table.
        27 => pub gdt: Table,
        /// Interrupt descriptor table.
        28 => pub idt: Table,
        /// CR0.
        29 => pub cr0: u64,
        /// CR2.
        30 => pub cr2: u64,
        /// CR3.
        31 => pub cr3: u64,
        /// CR4.
        32 => pub cr4: u64,
        /// CR8 (task priority).
        33 => pub cr8: u64,
        /// IA32_EFER.
        34 => pub efer: u64,
        /// IA32_APIC_BASE.
        35 => pub apic_base: u64,
        /// DR0 to DR3.
        36 => pub dr: [u64; 4],
        /// DR6.
        37 => pub dr6: u64,
        /// DR7.
        38 => pub dr7: u64,
        /// x87, SSE, AVX, AVX-512.
        39 => pub fpu: Fpu,
        /// Time stamp counter at the moment of saving.
        40 => pub tsc: u64,
        /// Frequency of the time stamp counter in kHz, 0 if unknown.
        41 => pub tsc_khz: u32,
        /// Model-specific registers that have no field of their own, ascending.
        42 => pub msrs: Vec<Msr>,
        /// Registers of the local APIC, if the accelerator holds it.
        43 => pub lapic: Option<[u32; LAPIC_REGISTERS]>,
        /// Pending events.
        44 => pub events: Events,
        /// What the vCPU is doing.
        45 => pub run: RunState,
    }
}

impl State {
    /// The general registers in encoding order (RAX, RCX, RDX, RBX, RSP, RBP, RSI, RDI, R8 to R15).
    #[must_use]
    pub fn gprs(&self) -> [u64; 16] {
        [
            self.rax, self.rcx, self.rdx, self.rbx, self.rsp, self.rbp, self.rsi, self.rdi, self.r8, self.r9,
            self.r10, self.r11, self.r12, self.r13, self.r14, self.r15,
        ]
    }

    /// Sets the general registers, in encoding order.
    pub fn set_gprs(&mut self, r: [u64; 16]) {
        [
            self.rax, self.rcx, self.rdx, self.rbx, self.rsp, self.rbp, self.rsi, self.rdi, self.r8, self.r9,
            self.r10, self.r11, self.r12, self.r13, self.r14, self.r15,
        ] = r;
    }

    /// Value of the model-specific register `index`, if it is in the list.
    #[must_use]
    pub fn msr(&self, index: u32) -> Option<u64> {
        self.msrs.iter().find(|m| m.index == index).map(|m| m.value)
    }

    /// Linear address of the instruction pointer.
    #[must_use]
    pub fn linear_pc(&self) -> u64 {
        self.cs.base.wrapping_add(self.rip)
    }

    /// Stands at `entry` in 32-bit protected mode with flat segments, no paging and interrupts off. Selectors are
    /// 8 (code) and 16 (data); the descriptor tables are left alone.
    pub fn start_flat(&mut self, entry: u64) {
        let flat = access::P | access::S | access::DB | access::G;
        let code = Segment { selector: 8, base: 0, limit: u32::MAX, access: flat | 0xB };
        let data = Segment { selector: 16, base: 0, limit: u32::MAX, access: flat | 0x3 };
        self.cs = code;
        (self.ds, self.es, self.fs, self.gs, self.ss) = (data, data, data, data, data);
        self.cr0 = 0x11;
        (self.cr4, self.efer) = (0, 0);
        (self.rip, self.rflags) = (entry, 2);
        self.run = RunState::Running;
    }

    /// Stands at `entry` in 64-bit mode with the page tables at `cr3` and interrupts off. Selectors are 0x10 (code)
    /// and 0x18 (data); the descriptor tables are left alone.
    pub fn start_long(&mut self, entry: u64, cr3: u64) {
        self.start_flat(entry);
        self.cs.selector = 0x10;
        self.cs.access = self.cs.access & !access::DB | access::L;
        for s in [&mut self.ds, &mut self.es, &mut self.fs, &mut self.gs, &mut self.ss] {
            s.selector = 0x18;
        }
        // Protection and paging, physical address extension, long mode enabled and active.
        (self.cr0, self.cr4, self.efer) = (0x8000_0011, 0x20, 0x500);
        self.cr3 = cr3;
    }

    /// The state after RESET (volume 3, table 10-1) for a bootstrap processor, with FPU and APIC enabled
    /// as real hardware has them and an empty MSR list.
    #[must_use]
    pub fn reset() -> Self {
        let data = Segment { selector: 0, base: 0, limit: 0xFFFF, access: access::P | access::S | 3 };
        let system = |kind: u16| Segment { selector: 0, base: 0, limit: 0xFFFF, access: access::P | kind };
        let mut s = Self {
            rdx: 0x600,
            rip: 0xFFF0,
            rflags: 2,
            cs: Segment { selector: 0xF000, base: 0xFFFF_0000, access: access::P | access::S | 0xB, ..data },
            ds: data,
            es: data,
            fs: data,
            gs: data,
            ss: data,
            tr: system(0xB),
            ldt: system(2),
            gdt: Table { base: 0, limit: 0xFFFF },
            idt: Table { base: 0, limit: 0xFFFF },
            cr0: 0x6000_0010,
            apic_base: 0xFEE0_0900,
            dr6: 0xFFFF_0FF0,
            dr7: 0x400,
            ..Self::default()
        };
        s.fpu.fcw = 0x37F;
        s.fpu.mxcsr = 0x1F80;
        s.fpu.xcr0 = 1;
        s
    }
}

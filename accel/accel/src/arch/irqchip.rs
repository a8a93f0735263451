//! State of interrupt controllers and timers that live in an accelerator: what
//! [`KernelIrqchip::save`](crate::KernelIrqchip::save) writes.
//!
//! x86: Intel 8259A, 82093AA and 8254 data sheets. ARM: GIC architecture specification (IHI 0069), register
//! addresses as in its programmers' model.

use super::table::cpu_state;

cpu_state! {
    /// One 8259A.
    #[derive(Copy, Eq)]
    pub struct Pic {
        /// Input levels seen last, for edge detection.
        1 => pub last_irr: u8,
        /// Interrupt requests.
        2 => pub irr: u8,
        /// Interrupt mask.
        3 => pub imr: u8,
        /// Interrupts in service.
        4 => pub isr: u8,
        /// Input of highest priority.
        5 => pub priority_add: u8,
        /// Vector of input 0.
        6 => pub irq_base: u8,
        /// The next read returns ISR instead of IRR.
        7 => pub read_isr: u8,
        /// Poll mode.
        8 => pub poll: u8,
        /// Special mask mode.
        9 => pub special_mask: u8,
        /// Position in the initialisation sequence.
        10 => pub init_state: u8,
        /// End of interrupt is automatic.
        11 => pub auto_eoi: u8,
        /// Priorities rotate at an automatic end of interrupt.
        12 => pub rotate_on_auto_eoi: u8,
        /// Special fully nested mode.
        13 => pub special_fully_nested: u8,
        /// The initialisation sequence has four words.
        14 => pub init4: u8,
        /// Edge/level control register.
        15 => pub elcr: u8,
        /// Writable bits of that register.
        16 => pub elcr_mask: u8,
    }
}

cpu_state! {
    /// One I/O APIC of 24 pins.
    #[derive(Copy, Eq)]
    pub struct Ioapic {
        /// Physical address of its registers.
        1 => pub base: u64,
        /// Register select.
        2 => pub select: u32,
        /// Identification.
        3 => pub id: u32,
        /// Interrupt requests, one bit a pin.
        4 => pub irr: u32,
        /// Redirection table.
        5 => pub redirection: [u64; 24],
    }
}

cpu_state! {
    /// One counter of an 8254.
    #[derive(Copy, Eq)]
    pub struct PitChannel {
        /// Initial count.
        1 => pub count: u32,
        /// Latched count.
        2 => pub latched_count: u16,
        /// How much of the latch is left to read.
        3 => pub count_latched: u8,
        /// The status is latched.
        4 => pub status_latched: u8,
        /// Latched status.
        5 => pub status: u8,
        /// Position in a two-byte read.
        6 => pub read_state: u8,
        /// Position in a two-byte write.
        7 => pub write_state: u8,
        /// First byte of a two-byte write.
        8 => pub write_latch: u8,
        /// Access mode.
        9 => pub access: u8,
        /// Counting mode.
        10 => pub mode: u8,
        /// Counts in BCD.
        11 => pub bcd: u8,
        /// Gate input.
        12 => pub gate: u8,
        /// Nanoseconds since it was loaded last.
        13 => pub since_load_ns: u64,
    }
}

cpu_state! {
    /// An 8254.
    #[derive(Copy, Eq)]
    pub struct Pit {
        /// Counters.
        1 => pub channels: [PitChannel; 3],
        /// Flags of the accelerator (HPET has taken over, speaker port state).
        2 => pub flags: u32,
    }
}

cpu_state! {
    /// The controllers of an x86 machine, as far as the accelerator holds them.
    #[derive(Eq)]
    pub struct X86Chips {
        /// Master and slave.
        1 => pub pics: Option<[Pic; 2]>,
        /// I/O APIC.
        2 => pub ioapic: Option<Ioapic>,
        /// Interval timer.
        3 => pub pit: Option<Pit>,
    }
}

cpu_state! {
    /// One GIC register.
    #[derive(Copy, Eq)]
    pub struct GicRegister {
        /// 0 distributor, 1 redistributor, 2 CPU interface.
        1 => pub frame: u8,
        /// vCPU of a banked register.
        2 => pub vcpu: u32,
        /// Offset in the frame, or the encoding of a system register.
        3 => pub offset: u32,
        /// Value.
        4 => pub value: u64,
    }
}

cpu_state! {
    /// A GIC.
    #[derive(Eq)]
    pub struct Gic {
        /// 2 or 3.
        1 => pub version: u8,
        /// Registers in the order in which they are to be written back.
        2 => pub registers: Vec<GicRegister>,
    }
}

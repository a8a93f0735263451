//! ACPI fixed hardware: event and control registers, the power management timer, a general-purpose event block.
//!
//! ACPI Specification 6.5, chapter 4.8. The sleep types are those the boards' DSDT announces: 0 is S5, 1 is S3.
//!
//! The block is part of a bridge or power management function, which says where its registers lie.

use device::{
    Access, Clock, IrqLine, ResetKind, StateError, SystemControl, SystemRequest, Timer, Wires, le_fill,
    le_value,
};

/// Frequency of the timer in Hz.
const TIMER_HZ: u64 = 3_579_545;
/// The timer's status follows this bit of its count.
const TIMER_PERIOD: u64 = 1 << 23;

const TIMER: u16 = 1 << 0;
const GLOBAL: u16 = 1 << 5;
const POWER_BUTTON: u16 = 1 << 8;
const RTC: u16 = 1 << 10;
const WAKE: u16 = 1 << 15;
/// What can be enabled.
const ENABLES: u16 = TIMER | GLOBAL | POWER_BUTTON | RTC;
/// What writing ones clears.
const STATUSES: u16 = ENABLES | 1 << 4 | 1 << 9 | WAKE;

const SCI_EN: u16 = 1 << 0;
const SLEEP_ENABLE: u16 = 1 << 13;
/// Control bits that are kept.
const CONTROL: u16 = 0x1c07;

/// Sleep type of S5.
const SOFT_OFF: u16 = 0;
/// Sleep type of S3.
const SUSPEND: u16 = 1;

/// Offsets of the registers.
mod reg {
    pub(super) const STATUS: u64 = 0;
    pub(super) const ENABLE: u64 = 2;
    pub(super) const CONTROL: u64 = 4;
    pub(super) const TIMER: u64 = 8;
}

/// Size of the fixed registers.
pub(crate) const PM1_SIZE: u64 = 12;

device::state! {
    /// Saved state of the block.
    pub(crate) struct AcpiState {
        1 => status: u16, 2 => enable: u16, 3 => control: u16, 4 => overflow: u64, 5 => gpe_status: u32,
        6 => gpe_enable: u32,
    }
}

/// The block.
pub(crate) struct Acpi {
    clock: Clock,
    timer: Timer,
    sci: IrqLine,
    system: SystemControl,
    s: AcpiState,
}

impl Acpi {
    /// A block that interrupts on output pin `sci` and uses timer `id`.
    pub(crate) fn new(wires: &Wires, id: usize) -> Self {
        let mut acpi = Acpi {
            clock: wires.clock(),
            timer: wires.timer(id),
            sci: wires.line("sci"),
            system: wires.system(),
            s: AcpiState::default(),
        };
        acpi.s.overflow = acpi.next_overflow();
        acpi
    }

    fn ticks(&self) -> u64 {
        self.clock.ticks(TIMER_HZ)
    }

    fn next_overflow(&self) -> u64 {
        (self.ticks() & !(TIMER_PERIOD - 1)).saturating_add(TIMER_PERIOD)
    }

    fn status(&self) -> u16 {
        let timer = if self.ticks() >= self.s.overflow { TIMER } else { 0 };
        self.s.status | timer
    }

    fn level(&self) -> bool {
        let fixed = self.status() & self.s.enable & ENABLES != 0;
        self.s.control & SCI_EN != 0 && (fixed || self.s.gpe_status & self.s.gpe_enable != 0)
    }

    fn deadline(&self) -> Option<u64> {
        let waits = self.s.enable & TIMER != 0 && self.status() & TIMER == 0;
        waits.then(|| Clock::ns_of_ticks(self.s.overflow, TIMER_HZ))
    }

    fn update(&mut self) {
        self.sci.set(self.level());
        self.timer.set(self.deadline());
    }

    /// The timer has expired.
    pub(crate) fn expired(&mut self) {
        self.update();
    }

    /// The power button was pressed.
    pub(crate) fn press(&mut self) {
        self.s.status |= POWER_BUTTON;
        self.update();
    }

    /// General-purpose event `bit` happens.
    pub(crate) fn raise_gpe(&mut self, bit: u32) {
        self.s.gpe_status |= 1 << (bit & 31);
        self.update();
    }

    /// Firmware hands the hardware to the operating system, or takes it back: what writes to the SMI command port mean.
    pub(crate) fn set_enabled(&mut self, on: bool) {
        self.s.control = if on { self.s.control | SCI_EN } else { self.s.control & !SCI_EN };
        self.update();
    }

    pub(crate) fn read(&self, offset: u64, data: &mut [u8]) -> Access {
        let value = match offset & !1 {
            reg::STATUS => self.status(),
            reg::ENABLE => self.s.enable,
            reg::CONTROL => self.s.control,
            reg::TIMER | 10 => {
                let count = self.ticks() as u32 >> (8 * (offset - reg::TIMER));
                le_fill(data, count.into());
                return Access::Ok;
            }
            _ => return Access::NoRegister,
        };
        // A wide access reads status and enable at once.
        let high = if offset == reg::STATUS { self.s.enable } else { 0 };
        let both = u32::from(high) << 16 | u32::from(value);
        le_fill(data, (both >> (8 * (offset & 1))).into());
        Access::Ok
    }

    pub(crate) fn write(&mut self, offset: u64, data: &[u8]) -> Access {
        let value = le_value(data);
        // A byte changes its half of the register.
        let merge = |old: u16| match (data.len(), offset & 1) {
            (1, 0) => old & 0xff00 | value as u16,
            (1, _) => old & 0x00ff | (value as u16) << 8,
            _ => value as u16,
        };
        match offset & !1 {
            reg::STATUS => {
                let ones = merge(0);
                if ones & TIMER != 0 && self.status() & TIMER != 0 {
                    self.s.overflow = self.next_overflow();
                }
                self.s.status &= !(ones & STATUSES);
                if data.len() == 4 {
                    self.s.enable = (value >> 16) as u16 & ENABLES;
                }
            }
            reg::ENABLE => self.s.enable = merge(self.s.enable) & ENABLES,
            reg::CONTROL => {
                let new = merge(self.s.control);
                self.s.control = new & CONTROL;
                if new & SLEEP_ENABLE != 0 {
                    self.sleep(new >> 10 & 7);
                }
            }
            _ => return Access::ReadOnly,
        }
        self.update();
        Access::Ok
    }

    fn sleep(&mut self, kind: u16) {
        match kind {
            SOFT_OFF => self.system.request(SystemRequest::Shutdown { code: None }),
            SUSPEND => self.system.request(SystemRequest::Suspend),
            _ => {}
        }
    }

    /// Reads the event block: `half` bytes of status, then as many of enable.
    pub(crate) fn read_gpe(&self, offset: u64, half: u64, data: &mut [u8]) {
        for (i, byte) in data.iter_mut().enumerate() {
            let at = offset + i as u64;
            let (word, at) = if at < half { (self.s.gpe_status, at) } else { (self.s.gpe_enable, at - half) };
            *byte = if at < 4 { (word >> (8 * at)) as u8 } else { 0 };
        }
    }

    pub(crate) fn write_gpe(&mut self, offset: u64, half: u64, data: &[u8]) {
        for (i, &byte) in data.iter().enumerate() {
            let at = offset + i as u64;
            let bits = |at: u64| if at < 4 { u32::from(byte) << (8 * at) } else { 0 };
            if at < half {
                self.s.gpe_status &= !bits(at);
            } else if at - half < 4 {
                let at = at - half;
                self.s.gpe_enable = self.s.gpe_enable & !(0xff << (8 * at)) | bits(at);
            }
        }
        self.update();
    }

    pub(crate) fn reset(&mut self, _kind: ResetKind) {
        self.s = AcpiState::default();
        self.s.overflow = self.next_overflow();
        self.update();
    }

    pub(crate) fn save(&self) -> AcpiState {
        self.s.clone()
    }

    pub(crate) fn check(s: &AcpiState) -> Result<(), StateError> {
        StateError::at_most("control", s.control, CONTROL).map(drop)
    }

    pub(crate) fn restore(&mut self, s: AcpiState) {
        self.s = s;
        self.sci.import(self.level());
        self.timer.set(self.deadline());
    }
}

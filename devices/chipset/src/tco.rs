//! The watchdog of the ICH9 (datasheet 316972-004, 13.9, "System management TCO registers"): a timer that the guest restarts, and
//! that resets the machine when it has run out twice, unless the NO_REBOOT bit of the chipset configuration registers says not to.
//!
//! The registers are 32 bytes of the power management block, from offset 0x60. A tick takes 0.6 seconds.

use device::{Access, Clock, StateError, SystemControl, SystemRequest, Timer, Wires, le_fill, le_value};

/// Nanoseconds of a tick.
const TICK_NS: u64 = 600_000_000;
/// Bits of the timer.
const TIMER: u16 = 0x3ff;

/// Offsets of the registers.
mod reg {
    pub(super) const RELOAD: u64 = 0x00;
    pub(super) const DATA_IN: u64 = 0x02;
    pub(super) const DATA_OUT: u64 = 0x03;
    pub(super) const STATUS1: u64 = 0x04;
    pub(super) const STATUS2: u64 = 0x06;
    pub(super) const CONTROL1: u64 = 0x08;
    pub(super) const CONTROL2: u64 = 0x0a;
    pub(super) const MESSAGE1: u64 = 0x0c;
    pub(super) const MESSAGE2: u64 = 0x0d;
    pub(super) const COUNT: u64 = 0x0e;
    pub(super) const SW_IRQ: u64 = 0x10;
    pub(super) const TIMER: u64 = 0x12;
}

/// Status 1: software wants an SMI, an interrupt; the timer has run out.
const SW_SMI: u16 = 1 << 1;
const SW_INT: u16 = 1 << 2;
const TIMEOUT: u16 = 1 << 3;
/// What writing ones clears in both.
const STATUS1: u16 = 0x3f8f;
const STATUS2: u16 = 0x0017;
/// Status 2: it has run out a second time; that has reset the machine.
const SECOND: u16 = 1 << 1;
const BOOT: u16 = 1 << 2;
/// Control 1: the timer stands; the SMI enable cannot be changed until the next reset.
const HALT: u16 = 1 << 11;
const LOCK: u16 = 1 << 12;
const CONTROL1: u16 = 0xfe00;
const CONTROL2: u16 = 0x003c;

device::state! {
    /// Saved state of the registers. The deadline is in virtual nanoseconds, 0 if the timer stands.
    pub(crate) struct TcoState {
        1 => initial: u16, 2 => data_in: u8, 3 => data_out: u8, 4 => status1: u16, 5 => status2: u16,
        6 => control1: u16, 7 => control2: u16, 8 => messages: [u8; 2], 9 => count: u8, 10 => sw_irq: u8,
        11 => timeouts: u8, 12 => deadline: u64,
    }
}

impl TcoState {
    fn fresh() -> Self {
        TcoState { initial: 4, control2: 8, sw_irq: 3, ..TcoState::default() }
    }
}

/// What a register access or the timer wants of the chipset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wants {
    /// Nothing.
    Nothing,
    /// A system management interrupt, if these are enabled.
    Smi,
}

/// The watchdog.
pub(crate) struct Tco {
    clock: Clock,
    timer: Timer,
    system: SystemControl,
    s: TcoState,
}

impl Tco {
    /// A watchdog that uses timer `id`.
    pub(crate) fn new(wires: &Wires, id: usize) -> Self {
        Tco { clock: wires.clock(), timer: wires.timer(id), system: wires.system(), s: TcoState::fresh() }
    }

    /// Whether enabling of its system management interrupt can be changed.
    pub(crate) fn is_locked(&self) -> bool {
        self.s.control1 & LOCK != 0
    }

    fn runs(&self) -> bool {
        self.s.control1 & HALT == 0
    }

    fn start(&mut self) {
        // Never none: it would run out all the time.
        let ticks = u64::from(self.s.initial.max(1));
        self.s.deadline = self.clock.now().saturating_add(ticks * TICK_NS).max(1);
        self.timer.set(Some(self.s.deadline));
    }

    fn stop(&mut self) {
        self.s.deadline = 0;
        self.timer.cancel();
    }

    /// Ticks that are left.
    fn left(&self) -> u16 {
        let ns = self.s.deadline.saturating_sub(self.clock.now());
        (ns.div_ceil(TICK_NS).min(TIMER.into()) as u16) & TIMER
    }

    /// The timer has run out. The second time resets the machine, if that is not forbidden.
    pub(crate) fn expired(&mut self, no_reboot: bool) -> Wants {
        self.s.status1 |= TIMEOUT;
        self.s.timeouts += 1;
        if self.s.timeouts >= 2 {
            self.s.status2 |= SECOND | BOOT;
            self.s.timeouts = 0;
            if !no_reboot {
                self.system.request(SystemRequest::Watchdog);
                self.stop();
                return Wants::Nothing;
            }
        }
        self.start();
        Wants::Smi
    }

    pub(crate) fn read(&self, offset: u64, data: &mut [u8]) -> Access {
        let word = |low: u8, high: u8| u16::from_le_bytes([low, high]);
        let value = match offset & !1 {
            reg::RELOAD if self.s.deadline != 0 => self.left(),
            reg::RELOAD => self.s.initial,
            reg::DATA_IN => word(self.s.data_in, self.s.data_out),
            reg::STATUS1 => self.s.status1,
            reg::STATUS2 => self.s.status2,
            reg::CONTROL1 => self.s.control1,
            reg::CONTROL2 => self.s.control2,
            reg::MESSAGE1 => word(self.s.messages[0], self.s.messages[1]),
            reg::COUNT => self.s.count.into(),
            reg::SW_IRQ => self.s.sw_irq.into(),
            reg::TIMER => self.s.initial,
            _ => 0,
        };
        le_fill(data, (value >> (8 * (offset & 1))).into());
        Access::Ok
    }

    pub(crate) fn write(&mut self, offset: u64, data: &[u8]) -> Wants {
        let value = le_value(data) as u16;
        let byte = value as u8;
        match offset {
            // Whatever is written: the guest lives.
            reg::RELOAD => {
                self.s.timeouts = 0;
                if self.runs() {
                    self.start();
                }
            }
            reg::DATA_IN => {
                self.s.data_in = byte;
                self.s.status1 |= SW_SMI;
                return Wants::Smi;
            }
            reg::DATA_OUT => {
                self.s.data_out = byte;
                self.s.status1 |= SW_INT;
            }
            reg::STATUS1 => self.s.status1 &= !(value & STATUS1),
            reg::STATUS2 => self.s.status2 &= !(value & STATUS2),
            reg::CONTROL1 => {
                let ran = self.s.deadline != 0;
                self.s.control1 = value & CONTROL1 | self.s.control1 & LOCK;
                if !self.runs() {
                    self.stop();
                } else if !ran {
                    self.start();
                }
            }
            reg::CONTROL2 => self.s.control2 = value & CONTROL2,
            reg::MESSAGE1 | reg::MESSAGE2 => self.s.messages[(offset - reg::MESSAGE1) as usize & 1] = byte,
            reg::COUNT => self.s.count = byte,
            reg::SW_IRQ => self.s.sw_irq = byte,
            reg::TIMER => self.s.initial = value & TIMER,
            _ => {}
        }
        Wants::Nothing
    }

    /// Starts over, as after power was off.
    pub(crate) fn reset(&mut self) {
        self.s = TcoState::fresh();
        self.timer.cancel();
    }

    pub(crate) fn save(&self) -> TcoState {
        self.s.clone()
    }

    pub(crate) fn check(s: &TcoState) -> Result<(), StateError> {
        StateError::at_most("timeouts", s.timeouts, 1u8)?;
        StateError::at_most("initial", s.initial, TIMER).map(drop)
    }

    pub(crate) fn restore(&mut self, s: TcoState) {
        self.s = s;
        self.timer.set((self.s.deadline != 0).then_some(self.s.deadline));
    }
}

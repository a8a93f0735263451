//! The watchdog of Intel's 6300ESB I/O controller hub (datasheet 300641, chapter 16): two stages, the first of which
//! interrupts, the second resets.
//!
//! Base address register 0 holds the registers. Each write to them has to be announced by two others.

use device::{
    Access, AccessRule, BuildError, Clock, Device, ResetKind, StateBlob, StateError, SystemControl,
    SystemRequest, Timer, Wires, device_config, le_fill, le_value,
};
use pci::config_space::touches;
use pci::{BarKind, ConfigSpace, Function, FunctionSpec, INTEL, PciConfig, PciDevice, class};

device_config! {
    /// Watchdog.
    #[derive(Clone, Debug, PartialEq, Eq)]
    pub struct I6300EsbConfig {}
}

/// Registers in configuration space, and their bits.
const CONFIG: usize = 0x60;
const INTERRUPT_KIND: u16 = 3;
const FAST: u16 = 1 << 2;
const NO_RESET: u16 = 1 << 5;
const LOCK: usize = 0x68;
const LOCKED: u8 = 1 << 0;
const ENABLED: u8 = 1 << 1;
const FREE_RUNNING: u8 = 1 << 2;

/// Registers in memory.
mod reg {
    pub(super) const FIRST: u64 = 0x00;
    pub(super) const SECOND: u64 = 0x04;
    pub(super) const INTERRUPT: u64 = 0x08;
    pub(super) const RELOAD: u64 = 0x0c;
}

const RELOAD: u16 = 1 << 8;
const TIMED_OUT: u16 = 1 << 9;
/// What announces a write.
const KEYS: [u64; 2] = [0x80, 0x86];
/// Counters have 20 bits.
const COUNT: u32 = 0xf_ffff;
/// A clock of 33 MHz.
const TICK_NS: u64 = 30;

impl PciConfig for I6300EsbConfig {
    const KIND: &'static str = "i6300esb";
    const HELP: &'static str = "Intel 6300ESB watchdog";

    fn spec(&self, _express: bool) -> FunctionSpec {
        FunctionSpec::new(INTEL, 0x25ab, class::SYSTEM).bar(0, 16, BarKind::Memory(AccessRule::UP_TO_4))
    }

    fn prepare(&self, space: &mut ConfigSpace) {
        space.allow(CONFIG, &(INTERRUPT_KIND | FAST | NO_RESET).to_le_bytes());
        space.allow(LOCK, &[LOCKED | ENABLED | FREE_RUNNING]);
    }

    fn build(self, function: Function, wires: &mut Wires) -> Result<Box<dyn PciDevice>, BuildError> {
        Ok(Box::new(I6300Esb {
            function,
            timer: wires.timer(0),
            clock: wires.clock(),
            system: wires.system(),
            s: fresh(false),
        }))
    }
}

device::state! {
    /// State of the watchdog, version 1.
    struct V1 {
        1 => first: u32, 2 => second: u32, 3 => in_second: bool, 4 => interrupt: bool, 5 => timed_out: bool,
        6 => keys: u8, 7 => lock: u8, 8 => deadline: Option<u64>,
    }
}

fn fresh(timed_out: bool) -> V1 {
    V1 { first: COUNT, second: COUNT, timed_out, ..V1::default() }
}

struct I6300Esb {
    function: Function,
    timer: Timer,
    clock: Clock,
    system: SystemControl,
    /// Registers; the deadline is the timer's.
    s: V1,
}

impl I6300Esb {
    fn is_enabled(&self) -> bool {
        self.s.lock & ENABLED != 0
    }

    fn begin(&mut self, second: bool) {
        self.s.in_second = second;
        let count = if second { self.s.second } else { self.s.first };
        let shift = if self.function.config_u16(CONFIG) & FAST != 0 { 5 } else { 15 };
        let ns = (u64::from(count) << shift) * TICK_NS;
        self.timer.arm(self.clock.now().saturating_add(ns.max(TICK_NS)));
    }

    fn set_interrupt(&mut self, level: bool) {
        self.s.interrupt = level;
        let pin = self.function.config_u16(CONFIG) & INTERRUPT_KIND == 0;
        self.function.interrupt(level && pin);
    }
}

impl Device for I6300Esb {
    fn read(&mut self, _region: usize, offset: u64, data: &mut [u8]) -> Access {
        let value = match offset & !3 {
            reg::FIRST => self.s.first,
            reg::SECOND => self.s.second,
            reg::INTERRUPT => self.s.interrupt.into(),
            _ => u32::from(self.s.timed_out) * u32::from(TIMED_OUT),
        };
        le_fill(data, u64::from(value) >> (8 * (offset & 3)));
        Access::Ok
    }

    fn write(&mut self, _region: usize, offset: u64, data: &[u8]) -> Access {
        let value = le_value(data);
        if offset == reg::RELOAD && self.s.keys < 2 {
            self.s.keys = match (self.s.keys, value) {
                (0, key) if key == KEYS[0] => 1,
                (1, key) if key == KEYS[1] => 2,
                _ => 0,
            };
            return Access::Ok;
        }
        if std::mem::take(&mut self.s.keys) < 2 {
            return Access::ReadOnly;
        }
        match offset {
            reg::FIRST => self.s.first = value as u32 & COUNT,
            reg::SECOND => self.s.second = value as u32 & COUNT,
            reg::INTERRUPT if value & 1 != 0 => self.set_interrupt(false),
            reg::RELOAD => {
                if value as u16 & TIMED_OUT != 0 {
                    self.s.timed_out = false;
                }
                if value as u16 & RELOAD != 0 && self.is_enabled() {
                    self.begin(false);
                }
            }
            _ => return Access::NoRegister,
        }
        Access::Ok
    }

    fn timer(&mut self, _id: usize) {
        if !self.s.in_second {
            self.set_interrupt(true);
            return self.begin(true);
        }
        if self.function.config_u16(CONFIG) & NO_RESET == 0 {
            self.s.timed_out = true;
            self.system.request(SystemRequest::Watchdog);
        }
        if self.s.lock & FREE_RUNNING != 0 {
            self.begin(false);
        }
    }

    fn reset(&mut self, kind: ResetKind) {
        self.timer.cancel();
        // That it was the watchdog is known after a reset, not after power was off.
        self.s = fresh(self.s.timed_out && kind == ResetKind::Warm);
    }

    fn save(&self) -> StateBlob {
        let state = V1 { deadline: self.timer.deadline(), ..self.s.clone() };
        StateBlob::new(I6300EsbConfig::KIND, 1, &state)
    }

    fn restore(&mut self, state: &StateBlob) -> Result<(), StateError> {
        let s: V1 = state.decode(I6300EsbConfig::KIND, 1)?;
        StateError::at_most("first", s.first, COUNT)?;
        StateError::at_most("second", s.second, COUNT)?;
        StateError::at_most("keys", s.keys, 2)?;
        self.timer.set(s.deadline);
        self.s = V1 { deadline: None, ..s };
        Ok(())
    }
}

impl PciDevice for I6300Esb {
    fn config_written(&mut self, at: usize, len: usize) {
        if !touches(at, len, LOCK, 1) {
            return;
        }
        // Once locked, only a reset changes it.
        if self.s.lock & LOCKED != 0 {
            let lock = self.s.lock;
            return self.function.with_config(|space| space.set_u8(LOCK, lock));
        }
        let before = std::mem::replace(&mut self.s.lock, self.function.config_u8(LOCK));
        match (before & ENABLED != 0, self.is_enabled()) {
            (false, true) => self.begin(false),
            (true, false) => self.timer.cancel(),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use device::test_bench::check;
    use pci::Pci;
    use pci::test_bench::PciBench;

    use super::*;

    fn set(b: &PciBench, register: u64, value: u64) {
        KEYS.into_iter().for_each(|key| b.bar_write(0, reg::RELOAD, 4, key));
        b.bar_write(0, register, 4, value);
    }

    #[test]
    fn two_stages() {
        let b = PciBench::new(I6300EsbConfig::default());
        b.enable();
        let second = (1 << 15) * TICK_NS * 1000;
        set(&b, reg::FIRST, 1000);
        set(&b, reg::SECOND, 2000);
        assert_ne!(b.try_write(b.region(0), reg::FIRST, 4, 7), Access::Ok, "not announced");
        b.config_write(LOCK, 1, u64::from(ENABLED));
        b.advance(second / 2);
        set(&b, reg::RELOAD, RELOAD.into());
        b.advance(second / 2 + 1);
        assert!(!b.line("intx"));
        b.advance(second / 2);
        assert!(b.line("intx"));
        set(&b, reg::INTERRUPT, 1);
        assert!(!b.line("intx"));
        b.advance(2 * second);
        assert_eq!(b.take_requests(), [SystemRequest::Watchdog]);
        assert_eq!(b.bar_read(0, reg::RELOAD, 4), u64::from(TIMED_OUT));
        b.cell().reset(ResetKind::Warm);
        b.enable();
        assert_eq!(b.bar_read(0, reg::RELOAD, 4), u64::from(TIMED_OUT));
        // Locked while it runs: it cannot be stopped.
        b.config_write(LOCK, 1, u64::from(ENABLED | LOCKED));
        b.config_write(LOCK, 1, 0);
        assert_eq!(b.config_read(LOCK, 1), u64::from(ENABLED | LOCKED));
        assert!(b.next_deadline().is_some());
    }

    #[test]
    fn passes_the_common_tests() {
        check(Pci::new(I6300EsbConfig::default()));
    }
}

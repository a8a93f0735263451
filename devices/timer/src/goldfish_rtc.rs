//! Goldfish real-time clock (Android emulator, "GOLDFISH-VIRTUAL-HARDWARE": RTC), used by RISC-V `virt`.
//!
//! Time is nanoseconds since 1970 in two 32-bit halves: reading the low half latches the high one, writing the
//! low half sets both.

use device::{
    Access, AccessRule, BuildError, Clock, Device, DeviceConfig, IrqLine, PinSpec, RegionSpec, ResetKind,
    StateBlob, StateError, Timer, WallClock, Wires, device_config, le_fill, le_value,
};

device_config! {
    /// Goldfish real-time clock.
    #[derive(Clone, Debug, PartialEq, Eq)]
    pub struct GoldfishRtcConfig {}
}

impl DeviceConfig for GoldfishRtcConfig {
    const KIND: &'static str = "goldfish_rtc";
    const HELP: &'static str = "Goldfish real-time clock";

    fn regions(&self) -> Vec<RegionSpec> {
        vec![RegionSpec::new("registers", 0x24, AccessRule::DWORD)]
    }

    fn outputs(&self) -> Vec<PinSpec> {
        vec![PinSpec::one("irq")]
    }

    fn build(self, wires: &mut Wires) -> Result<Box<dyn Device>, BuildError> {
        Ok(Box::new(GoldfishRtc {
            irq: wires.line("irq"),
            alarm_timer: wires.timer(0),
            clock: wires.clock(),
            wall: wires.wall_clock(),
            r: Registers::default(),
        }))
    }
}

const TIME_LOW: u64 = 0x00;
const TIME_HIGH: u64 = 0x04;
const ALARM_LOW: u64 = 0x08;
const ALARM_HIGH: u64 = 0x0c;
const IRQ_ENABLED: u64 = 0x10;
const CLEAR_ALARM: u64 = 0x14;
const ALARM_STATUS: u64 = 0x18;
const CLEAR_INTERRUPT: u64 = 0x1c;

#[derive(Clone, Debug, Default, PartialEq)]
struct Registers {
    /// Added to the time of day, in nanoseconds.
    shift: u64,
    /// Latched by a read of `TIME_LOW`.
    time_high: u32,
    /// Holds a write of `TIME_HIGH` until `TIME_LOW` is written.
    new_time_high: u32,
    alarm: u64,
    armed: bool,
    pending: bool,
    enabled: bool,
}

struct GoldfishRtc {
    irq: IrqLine,
    alarm_timer: Timer,
    clock: Clock,
    wall: WallClock,
    r: Registers,
}

impl GoldfishRtc {
    fn now(&self) -> u64 {
        (self.wall.unix_ns() as u64).wrapping_add(self.r.shift)
    }

    fn update(&self) {
        self.irq.set(self.r.pending && self.r.enabled);
    }

    /// When the armed alarm fires, on the virtual clock.
    fn deadline(&self) -> Option<u64> {
        // Signed, so that a deadline that has passed is the same whenever it is computed.
        let left = i128::from(self.r.alarm) - i128::from(self.now());
        let deadline = (i128::from(self.clock.now()) + left).clamp(0, u64::MAX.into());
        self.r.armed.then_some(deadline as u64)
    }
}

impl Device for GoldfishRtc {
    fn read(&mut self, _region: usize, offset: u64, data: &mut [u8]) -> Access {
        let value = match offset {
            TIME_LOW => {
                let now = self.now();
                self.r.time_high = (now >> 32) as u32;
                now as u32
            }
            TIME_HIGH => self.r.time_high,
            ALARM_LOW => self.r.alarm as u32,
            ALARM_HIGH => (self.r.alarm >> 32) as u32,
            IRQ_ENABLED => self.r.enabled.into(),
            ALARM_STATUS => self.r.armed.into(),
            CLEAR_ALARM | CLEAR_INTERRUPT => 0,
            _ => return Access::NoRegister,
        };
        le_fill(data, value.into());
        Access::Ok
    }

    fn write(&mut self, _region: usize, offset: u64, data: &[u8]) -> Access {
        let value = le_value(data) as u32;
        match offset {
            TIME_LOW => {
                let time = u64::from(self.r.new_time_high) << 32 | u64::from(value);
                self.r.shift = time.wrapping_sub(self.wall.unix_ns() as u64);
                self.alarm_timer.set(self.deadline());
            }
            TIME_HIGH => self.r.new_time_high = value,
            ALARM_LOW => {
                self.r.alarm = self.r.alarm >> 32 << 32 | u64::from(value);
                self.r.armed = true;
                if self.r.alarm <= self.now() {
                    self.timer(0);
                } else {
                    self.alarm_timer.set(self.deadline());
                }
            }
            ALARM_HIGH => {
                self.r.alarm = self.r.alarm & 0xffff_ffff | u64::from(value) << 32;
                self.alarm_timer.set(self.deadline());
            }
            IRQ_ENABLED => self.r.enabled = value & 1 != 0,
            CLEAR_ALARM => {
                self.r.armed = false;
                self.alarm_timer.cancel();
            }
            CLEAR_INTERRUPT => self.r.pending = false,
            ALARM_STATUS => return Access::ReadOnly,
            _ => return Access::NoRegister,
        }
        self.update();
        Access::Ok
    }

    fn timer(&mut self, _id: usize) {
        self.r.armed = false;
        self.r.pending = true;
        self.alarm_timer.cancel();
        self.update();
    }

    fn reset(&mut self, _kind: ResetKind) {
        self.r = Registers::default();
        self.alarm_timer.cancel();
        self.irq.set(false);
    }

    fn save(&self) -> StateBlob {
        let r = &self.r;
        let state = state::V1 {
            shift: r.shift,
            time_high: r.time_high,
            new_time_high: r.new_time_high,
            alarm: r.alarm,
            armed: r.armed,
            pending: r.pending,
            enabled: r.enabled,
        };
        StateBlob::new(GoldfishRtcConfig::KIND, 1, &state)
    }

    fn restore(&mut self, state: &StateBlob) -> Result<(), StateError> {
        let s: state::V1 = state.decode(GoldfishRtcConfig::KIND, 1)?;
        self.r = Registers {
            shift: s.shift,
            time_high: s.time_high,
            new_time_high: s.new_time_high,
            alarm: s.alarm,
            armed: s.armed,
            pending: s.pending,
            enabled: s.enabled,
        };
        self.alarm_timer.set(self.deadline());
        self.irq.import(s.pending && s.enabled);
        Ok(())
    }
}

mod state {
    device::state! {
        /// Saved state of a Goldfish RTC, version 1.
        pub(super) struct V1 {
            1 => shift: u64,
            2 => time_high: u32,
            3 => new_time_high: u32,
            4 => alarm: u64,
            5 => armed: bool,
            6 => pending: bool,
            7 => enabled: bool,
        }
    }
}

#[cfg(test)]
mod tests {
    use device::test_bench::{Bench, WALL_BASE, check};

    use super::*;

    fn time(b: &Bench) -> u64 {
        b.read(0, TIME_LOW, 4) | b.read(0, TIME_HIGH, 4) << 32
    }

    #[test]
    fn tells_and_takes_the_time() {
        let b = Bench::new(GoldfishRtcConfig::default());
        b.advance(5);
        assert_eq!(time(&b), WALL_BASE as u64 + 5);
        b.write(0, TIME_HIGH, 4, 7);
        b.write(0, TIME_LOW, 4, 1);
        b.advance(2);
        assert_eq!(time(&b), (7 << 32) + 3);
    }

    #[test]
    fn alarm_fires_once() {
        let b = Bench::new(GoldfishRtcConfig::default());
        let at = WALL_BASE as u64 + 1000;
        b.write(0, IRQ_ENABLED, 4, 1);
        b.write(0, ALARM_HIGH, 4, at >> 32);
        b.write(0, ALARM_LOW, 4, at & 0xffff_ffff);
        assert_eq!(b.read(0, ALARM_STATUS, 4), 1);
        b.advance(999);
        assert!(!b.line("irq"));
        b.advance(1);
        assert_eq!((b.line("irq"), b.read(0, ALARM_STATUS, 4)), (true, 0));
        b.write(0, CLEAR_INTERRUPT, 4, 1);
        assert!(!b.line("irq"));
        b.write(0, ALARM_LOW, 4, 0);
        assert!(b.line("irq"), "an alarm in the past fires at once");
    }

    #[test]
    fn passes_the_common_tests() {
        check(GoldfishRtcConfig::default());
    }
}

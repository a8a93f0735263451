//! High precision event timer: one counter of 64 bits at 100 MHz, three comparators.
//!
//! IA-PC HPET Specification 1.0a. Region 0 is the block of registers. The outputs `irq` are interrupts by their number; in legacy
//! replacement mode comparator 0 has interrupt 0 and comparator 1 interrupt 8, and what the 8254 and the real-time clock drive
//! (inputs `pit` and `rtc`) goes nowhere. Otherwise it is passed on to these two, so that nobody else need know of the mode.
//!
//! The counter is never stepped: it follows from the clock. A comparator has a timer, which is armed for the tick at which the
//! counter will be equal to it.

use device::{
    Access, AccessRule, BuildError, Clock, Device, DeviceConfig, IrqLine, MsiMessage, MsiTarget, PinSpec,
    RegionSpec, ResetKind, StateBlob, StateError, Timer, Wires, device_config, le_fill, le_value,
};

device_config! {
    /// High precision event timer.
    #[derive(Clone, Debug, PartialEq, Eq)]
    pub struct HpetConfig {
        /// Comparators can send messages.
        pub msi: bool = false,
        /// Interrupts that comparators can be routed to, a bit each.
        pub intcap: u32 = 0x00ff_0104,
    }
}

const FREQUENCY: u64 = 100_000_000;
/// The same in femtoseconds.
const PERIOD: u64 = 10_000_000;
const COMPARATORS: usize = 3;
const SIZE: u64 = 0x400;
const IRQS: usize = 32;
/// Interrupts that change hands in legacy replacement mode.
const PIT: usize = 0;
const RTC: usize = 8;
/// Shortest time between two interrupts of a periodic comparator, in ticks: no guest keeps the host busy with them.
const LEAST: u64 = 1000;

/// General registers.
mod reg {
    pub(super) const CAPABILITIES: u64 = 0;
    pub(super) const CONFIG: u64 = 0x10;
    pub(super) const STATUS: u64 = 0x20;
    pub(super) const COUNTER: u64 = 0xf0;
    pub(super) const FIRST: u64 = 0x100;
}

/// General configuration.
const ENABLE: u64 = 1 << 0;
const LEGACY: u64 = 1 << 1;

/// Configuration of a comparator.
mod conf {
    pub(super) const LEVEL: u64 = 1 << 1;
    pub(super) const ENABLE: u64 = 1 << 2;
    pub(super) const PERIODIC: u64 = 1 << 3;
    pub(super) const CAN_PERIODIC: u64 = 1 << 4;
    pub(super) const WIDE: u64 = 1 << 5;
    pub(super) const SET_VALUE: u64 = 1 << 6;
    pub(super) const NARROW: u64 = 1 << 8;
    pub(super) const ROUTE: u64 = 0x1f << 9;
    pub(super) const MESSAGE: u64 = 1 << 14;
    pub(super) const CAN_MESSAGE: u64 = 1 << 15;
    /// What a guest writes, but for messages.
    pub(super) const WRITABLE: u64 = LEVEL | ENABLE | PERIODIC | SET_VALUE | NARROW | ROUTE;
}

impl DeviceConfig for HpetConfig {
    const KIND: &'static str = "hpet";
    const HELP: &'static str = "high precision event timer";

    fn regions(&self) -> Vec<RegionSpec> {
        let rule = AccessRule { min: 4, max: 8, unaligned: false };
        vec![RegionSpec::new("registers", SIZE, rule)]
    }

    fn inputs(&self) -> Vec<PinSpec> {
        vec![PinSpec::one("pit"), PinSpec::one("rtc")]
    }

    fn outputs(&self) -> Vec<PinSpec> {
        vec![PinSpec::row("irq", IRQS)]
    }

    fn build(self, wires: &mut Wires) -> Result<Box<dyn Device>, BuildError> {
        Ok(Box::new(Hpet {
            irqs: wires.lines("irq", IRQS),
            msi: wires.msi().filter(|_| self.msi),
            timers: std::array::from_fn(|i| wires.timer(i)),
            clock: wires.clock(),
            intcap: self.intcap,
            inputs: [false; 2],
            r: Registers::default(),
        }))
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Comparator {
    config: u64,
    value: u64,
    /// What is added to the value each time, in periodic mode.
    period: u64,
    /// Data and address of its message.
    message: u64,
}

impl Default for Comparator {
    fn default() -> Self {
        Comparator { config: 0, value: u64::MAX, period: 0, message: 0 }
    }
}

impl Comparator {
    fn has(&self, bit: u64) -> bool {
        self.config & bit != 0
    }

    fn narrow(&self, value: u64) -> u64 {
        if self.has(conf::NARROW) { value & 0xffff_ffff } else { value }
    }

    /// Ticks until the counter is equal to the value again.
    fn until(&self, counter: u64) -> u64 {
        if self.has(conf::NARROW) {
            u64::from((self.value as u32).wrapping_sub(counter as u32).wrapping_sub(1)) + 1
        } else {
            self.value.wrapping_sub(counter).wrapping_sub(1).saturating_add(1)
        }
    }

    /// The value after it was reached: the next one beyond the counter in periodic mode.
    fn go_on(&mut self, counter: u64) {
        if !self.has(conf::PERIODIC) || self.period == 0 {
            return;
        }
        let late = self.narrow(counter.wrapping_sub(self.value));
        let times = late / self.period + 1;
        self.value = self.narrow(self.value.wrapping_add(times.wrapping_mul(self.period)));
    }
}

#[derive(Clone, Debug, Default, PartialEq)]
struct Registers {
    config: u64,
    status: u64,
    /// The counter while it stands; while it counts, what is added to the clock's ticks.
    base: u64,
    comparators: [Comparator; COMPARATORS],
}

struct Hpet {
    irqs: Vec<IrqLine>,
    msi: Option<MsiTarget>,
    timers: [Timer; COMPARATORS],
    clock: Clock,
    intcap: u32,
    /// Levels of `pit` and `rtc`.
    inputs: [bool; 2],
    r: Registers,
}

impl Hpet {
    fn counts(&self) -> bool {
        self.r.config & ENABLE != 0
    }

    fn legacy(&self) -> bool {
        self.r.config & LEGACY != 0
    }

    fn counter(&self) -> u64 {
        if self.counts() { self.clock.ticks(FREQUENCY).wrapping_add(self.r.base) } else { self.r.base }
    }

    fn set_counter(&mut self, value: u64) {
        let now = if self.counts() { self.clock.ticks(FREQUENCY) } else { 0 };
        self.r.base = value.wrapping_sub(now);
    }

    /// The interrupt of a comparator.
    fn route(&self, n: usize) -> usize {
        match n {
            0 if self.legacy() => PIT,
            1 if self.legacy() => RTC,
            _ => (self.r.comparators[n].config >> 9 & 0x1f) as usize,
        }
    }

    /// Whether an interrupt is asserted by level.
    fn level(&self, irq: usize) -> bool {
        let mine = (0..COMPARATORS).any(|n| {
            let c = &self.r.comparators[n];
            let on = c.has(conf::ENABLE) && c.has(conf::LEVEL) && !c.has(conf::MESSAGE);
            on && self.counts() && self.r.status >> n & 1 != 0 && self.route(n) == irq
        });
        let passed = match irq {
            PIT => self.inputs[0],
            RTC => self.inputs[1],
            _ => false,
        };
        mine || passed && !self.legacy()
    }

    fn drive(&self) {
        self.irqs.iter().enumerate().for_each(|(irq, line)| line.set(self.level(irq)));
    }

    /// Arms the timer of a comparator, or cancels it.
    fn arm(&self, n: usize) {
        let c = &self.r.comparators[n];
        if !self.counts() || !c.has(conf::ENABLE | conf::LEVEL) {
            return self.timers[n].cancel();
        }
        let mut ticks = c.until(self.counter());
        if c.has(conf::PERIODIC) {
            ticks = ticks.max(LEAST);
        }
        let at = self.clock.ticks(FREQUENCY).saturating_add(ticks);
        // What is beyond the clock's reach never comes.
        let deadline = Clock::ns_of_ticks(at, FREQUENCY);
        self.timers[n].set((deadline < u64::MAX / 2).then_some(deadline));
    }

    fn arm_all(&self) {
        (0..COMPARATORS).for_each(|n| self.arm(n));
    }

    fn interrupt(&mut self, n: usize) {
        let c = self.r.comparators[n];
        if c.has(conf::LEVEL) {
            self.r.status |= 1 << n;
            self.drive();
        }
        if !c.has(conf::ENABLE) {
            return;
        }
        if let Some(msi) = self.msi.as_ref().filter(|_| c.has(conf::MESSAGE)) {
            msi.signal(MsiMessage { address: c.message >> 32, data: c.message as u32, requester: 0 });
        } else if !c.has(conf::LEVEL)
            && let Some(line) = self.irqs.get(self.route(n)).filter(|line| !line.level())
        {
            line.pulse();
        }
    }

    fn read_register(&self, at: u64) -> u64 {
        match at {
            reg::CAPABILITIES => {
                // Revision 1, 64 bits, legacy replacement, Intel.
                PERIOD << 32 | 0x8086 << 16 | 1 << 15 | 1 << 13 | (COMPARATORS as u64 - 1) << 8 | 1
            }
            reg::CONFIG => self.r.config,
            reg::STATUS => self.r.status,
            reg::COUNTER => self.counter(),
            _ => {
                let Some((n, part)) = comparator(at) else { return 0 };
                let c = &self.r.comparators[n];
                match part {
                    0 => {
                        let message = if self.msi.is_some() { conf::CAN_MESSAGE } else { 0 };
                        let fixed = conf::CAN_PERIODIC | conf::WIDE | message;
                        c.config | fixed | u64::from(self.intcap) << 32
                    }
                    8 => c.value,
                    _ => c.message,
                }
            }
        }
    }

    fn write_config(&mut self, value: u64) {
        let value = value & (ENABLE | LEGACY);
        let counter = self.counter();
        self.r.config = value;
        self.set_counter(counter);
        self.drive();
        self.arm_all();
    }

    fn write_comparator(&mut self, n: usize, part: u64, value: u64) {
        let can_message = self.msi.is_some();
        let c = &mut self.r.comparators[n];
        match part {
            0 => {
                let writable = conf::WRITABLE | if can_message { conf::MESSAGE } else { 0 };
                c.config = value & writable;
                let route = c.config >> 9 & 0x1f;
                if self.intcap >> route & 1 == 0 {
                    c.config &= !conf::ROUTE;
                }
                (c.value, c.period) = (c.narrow(c.value), c.narrow(c.period));
                // Without levels there is no status.
                if !c.has(conf::LEVEL) {
                    self.r.status &= !(1 << n);
                }
                self.drive();
            }
            8 => {
                let value = c.narrow(value);
                if !c.has(conf::PERIODIC) || c.has(conf::SET_VALUE) {
                    c.value = value;
                }
                if c.has(conf::PERIODIC) {
                    c.period = value;
                }
                c.config &= !conf::SET_VALUE;
            }
            _ => c.message = value,
        }
        self.arm(n);
    }

    fn write_register(&mut self, at: u64, value: u64) {
        match at {
            reg::CONFIG => self.write_config(value),
            // Ones clear.
            reg::STATUS => {
                self.r.status &= !value;
                self.drive();
            }
            reg::COUNTER => {
                self.set_counter(value);
                self.arm_all();
            }
            _ => {
                if let Some((n, part)) = comparator(at) {
                    self.write_comparator(n, part, value);
                }
            }
        }
    }
}

/// Which comparator a register belongs to, and which of its three it is.
fn comparator(at: u64) -> Option<(usize, u64)> {
    let at = at.checked_sub(reg::FIRST)?;
    let (n, part) = ((at / 0x20) as usize, at % 0x20);
    (n < COMPARATORS && part < 0x18).then_some((n, part))
}

impl Device for Hpet {
    fn read(&mut self, _region: usize, offset: u64, data: &mut [u8]) -> Access {
        let value = self.read_register(offset & !7);
        le_fill(data, value >> (8 * (offset & 4)));
        Access::Ok
    }

    fn write(&mut self, _region: usize, offset: u64, data: &[u8]) -> Access {
        let at = offset & !7;
        let value = le_value(data);
        let value = match (offset & 4, data.len()) {
            (_, 8) => value,
            // Half a register; clearing by ones has no other half.
            (shift, _) => {
                let now = if at == reg::STATUS { 0 } else { self.read_register(at) };
                now & !(0xffff_ffff << (8 * shift)) | value << (8 * shift)
            }
        };
        self.write_register(at, value);
        Access::Ok
    }

    fn timer(&mut self, id: usize) {
        let counter = self.counter();
        if let Some(c) = self.r.comparators.get_mut(id) {
            c.go_on(counter);
            self.interrupt(id);
            self.arm(id);
        }
    }

    fn line_in(&mut self, pin: usize, level: bool) {
        if let Some(input) = self.inputs.get_mut(pin) {
            *input = level;
            self.drive();
        }
    }

    fn reset(&mut self, _kind: ResetKind) {
        self.r = Registers::default();
        self.inputs = [false; 2];
        self.timers.iter().for_each(Timer::cancel);
        self.drive();
    }

    fn save(&self) -> StateBlob {
        let part = |n: usize| {
            let c = &self.r.comparators[n];
            state::Comparator {
                config: c.config,
                value: c.value,
                period: c.period,
                message: c.message,
                deadline: self.timers[n].deadline(),
            }
        };
        let state = state::V1 {
            config: self.r.config,
            status: self.r.status,
            base: self.r.base,
            inputs: u8::from(self.inputs[0]) | u8::from(self.inputs[1]) << 1,
            comparators: (0..COMPARATORS).map(part).collect(),
        };
        StateBlob::new(HpetConfig::KIND, 1, &state)
    }

    fn restore(&mut self, state: &StateBlob) -> Result<(), StateError> {
        let s: state::V1 = state.decode(HpetConfig::KIND, 1)?;
        StateError::at_most("config", s.config, ENABLE | LEGACY)?;
        StateError::at_most("status", s.status, (1 << COMPARATORS) - 1)?;
        StateError::at_most("inputs", s.inputs, 3)?;
        if s.comparators.len() != COMPARATORS {
            return Err(StateError::new("comparators", format!("expected {COMPARATORS}")));
        }
        let writable = conf::WRITABLE | if self.msi.is_some() { conf::MESSAGE } else { 0 };
        for c in &s.comparators {
            if c.config & !writable != 0 {
                return Err(StateError::new("comparators", "expected a configuration that can be written"));
            }
        }
        self.r.config = s.config;
        self.r.status = s.status;
        self.r.base = s.base;
        self.inputs = [s.inputs & 1 != 0, s.inputs & 2 != 0];
        for (n, c) in s.comparators.into_iter().enumerate() {
            let (config, message) = (c.config, c.message);
            let mut to = Comparator { config, message, ..Comparator::default() };
            (to.value, to.period) = (to.narrow(c.value), to.narrow(c.period));
            self.r.comparators[n] = to;
            self.timers[n].set(c.deadline);
        }
        self.irqs.iter().enumerate().for_each(|(irq, line)| line.import(self.level(irq)));
        Ok(())
    }
}

mod state {
    device::state! {
        /// A comparator.
        pub(super) struct Comparator {
            1 => config: u64,
            2 => value: u64,
            3 => period: u64,
            4 => message: u64,
            5 => deadline: Option<u64>,
        }
    }
    device::state! {
        /// Saved state of an HPET, version 1.
        pub(super) struct V1 {
            1 => config: u64,
            2 => status: u64,
            3 => base: u64,
            4 => inputs: u8,
            5 => comparators: Vec<Comparator>,
        }
    }
}

#[cfg(test)]
mod tests {
    use device::test_bench::{Bench, check};

    use super::*;

    const US: u64 = 1000;

    /// Rising edges of interrupt outputs since the last call.
    fn rises(b: &Bench) -> Vec<usize> {
        b.take_edges().into_iter().filter(|e| e.level).map(|e| e.index).collect()
    }

    #[test]
    fn the_counter_counts_when_enabled() {
        let b = Bench::new(HpetConfig::default());
        assert_eq!(b.read(0, 0, 8), 0x0098_9680_8086_a201);
        b.advance(US);
        assert_eq!(b.read(0, 0xf0, 8), 0);
        b.write(0, 0xf4, 4, 1);
        b.write(0, 0x10, 4, 1);
        b.advance(US);
        assert_eq!(b.read(0, 0xf0, 8), 0x1_0000_0064);
        b.write(0, 0x10, 4, 0);
        b.advance(US);
        assert_eq!((b.read(0, 0xf0, 4), b.read(0, 0xf4, 4)), (0x64, 1));
    }

    #[test]
    fn one_shot_by_edge_and_by_level() {
        let b = Bench::new(HpetConfig::default());
        // Route 20, enabled; route 1 is none that there is.
        b.write(0, 0x140, 4, 20 << 9 | 4);
        b.write(0, 0x148, 8, 500);
        b.write(0, 0x120, 4, 1 << 9);
        assert_eq!(b.read(0, 0x120, 8), 0x00ff_0104_0000_0030);
        b.write(0, 0x10, 4, 1);
        b.advance(4 * US);
        assert!(rises(&b).is_empty());
        b.advance(US);
        assert_eq!(rises(&b), [20]);
        assert_eq!(b.read(0, 0x20, 4), 0, "edges leave no status");
        b.write(0, 0x140, 4, 20 << 9 | 6);
        b.write(0, 0x148, 4, 1000);
        b.write(0, 0x14c, 4, 0);
        b.advance(5 * US);
        assert_eq!((rises(&b), b.read(0, 0x20, 4)), (vec![20], 4));
        assert!(b.line_at("irq", 20));
        b.write(0, 0x20, 4, 4);
        assert!(!b.line_at("irq", 20));
    }

    #[test]
    fn periodic_in_legacy_replacement() {
        let b = Bench::new(HpetConfig::default());
        b.input("pit", 0, true);
        b.input("rtc", 0, true);
        assert_eq!(rises(&b), [0, 8], "passed on");
        b.write(0, 0x10, 4, 3);
        assert!(!b.line_at("irq", 0) && !b.line_at("irq", 8), "no more");
        b.write(0, 0x100, 4, 0x4c);
        b.write(0, 0x108, 8, 2000);
        b.write(0, 0x108, 8, 3000);
        b.advance(19 * US);
        assert!(rises(&b).is_empty());
        b.advance(US);
        assert_eq!(rises(&b), [0]);
        b.advance(90 * US);
        assert_eq!(rises(&b), [0, 0, 0]);
        assert_eq!(b.read(0, 0x108, 8), 14000);
        b.write(0, 0x10, 4, 0);
        assert!(b.line_at("irq", 0));
    }

    #[test]
    fn a_narrow_comparator_comes_again() {
        let b = Bench::new(HpetConfig::default());
        b.write(0, 0x140, 4, 2 << 9 | 0x104);
        b.write(0, 0x148, 8, 0x77_0000_0010);
        assert_eq!(b.read(0, 0x148, 8), 0x10);
        b.write(0, 0xf0, 8, 0x5_ffff_fff0);
        b.write(0, 0x10, 4, 1);
        b.advance(US);
        assert_eq!(rises(&b), [2]);
        b.advance(42_949_672_960);
        assert_eq!(rises(&b), [2]);
    }

    #[test]
    fn messages_if_it_may() {
        let b = Bench::new(HpetConfig { msi: true, ..HpetConfig::default() });
        b.write(0, 0x100, 4, 0x4004);
        b.write(0, 0x110, 8, 0xfee0_1000_0000_0042);
        b.write(0, 0x108, 8, 10);
        b.write(0, 0x10, 4, 1);
        b.advance(US);
        assert_eq!(b.take_messages(), [MsiMessage { address: 0xfee0_1000, data: 0x42, requester: 0 }]);
    }

    #[test]
    fn passes_the_common_tests() {
        check(HpetConfig::default());
        check(HpetConfig { msi: true, intcap: !0 });
    }
}

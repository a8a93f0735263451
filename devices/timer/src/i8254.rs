//! Intel 8254 programmable interval timer (datasheet 231164-005), as wired in a PC: counter 0 drives IRQ 0,
//! counter 2 the speaker through port 0x61, which this chip includes.
//!
//! Region 0 is the four ports from 0x40, region 1 port 0x61. A counter is never stepped: its value and output
//! follow from the clock and the moment it was loaded, and only counter 0's output has a timer behind it.

use device::{
    Access, AccessRule, BuildError, Clock, Device, DeviceConfig, IrqLine, PinSpec, RegionSpec, ResetKind,
    StateBlob, StateError, Timer, Wires, device_config, le_fill, le_value,
};

device_config! {
    /// PC interval timer.
    #[derive(Clone, Debug, PartialEq, Eq)]
    pub struct I8254Config {
        /// Input frequency in Hz.
        pub frequency: u32 = 1_193_182,
    }
}

impl DeviceConfig for I8254Config {
    const KIND: &'static str = "isa-pit";
    const HELP: &'static str = "8254 interval timer with the speaker port";

    fn regions(&self) -> Vec<RegionSpec> {
        vec![RegionSpec::new("counters", 4, AccessRule::BYTE), RegionSpec::new("port61", 1, AccessRule::BYTE)]
    }

    fn outputs(&self) -> Vec<PinSpec> {
        vec![PinSpec::one("irq")]
    }

    fn build(self, wires: &mut Wires) -> Result<Box<dyn Device>, BuildError> {
        if self.frequency == 0 {
            return Err(wires.bad_property("frequency", "expected at least 1"));
        }
        Ok(Box::new(I8254 {
            frequency: self.frequency.into(),
            irq: wires.line("irq"),
            timer: wires.timer(0),
            clock: wires.clock(),
            counters: fresh(),
            speaker: 0,
        }))
    }
}

/// How the next byte of a count is to be read or written.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Step {
    Low,
    High,
}

#[derive(Clone, Debug, PartialEq)]
struct Counter {
    /// 0 to 5.
    mode: u8,
    bcd: bool,
    /// Control word bits 4 and 5: 1 low byte, 2 high byte, 3 both.
    access: u8,
    gate: bool,
    /// Count as loaded, 1 to 65536 (10000 in BCD).
    reload: u32,
    /// The clock's tick at which counting (or the present cycle) began.
    start: u64,
    /// Counting stands: control word written, no count yet, or waiting for the gate.
    stopped: bool,
    /// Which byte of a new count comes next, and the low byte of it.
    write_step: Step,
    write_low: u8,
    read_step: Step,
    /// A latched count.
    latch: Option<u16>,
    /// A latched status byte.
    status: Option<u8>,
}

impl Counter {
    fn new(gate: bool) -> Self {
        Counter {
            mode: 3,
            bcd: false,
            access: 3,
            gate,
            reload: 0x1_0000,
            start: 0,
            stopped: true,
            write_step: Step::Low,
            write_low: 0,
            read_step: Step::Low,
            latch: None,
            status: None,
        }
    }

    fn modulus(&self) -> u32 {
        if self.bcd { 10_000 } else { 0x1_0000 }
    }

    /// Ticks since the start.
    fn elapsed(&self, now: u64) -> u64 {
        if self.stopped { 0 } else { now.saturating_sub(self.start) }
    }

    /// The counting element's value, 0 to 65535, not yet as BCD.
    fn value(&self, now: u64) -> u16 {
        let (reload, modulus) = (u64::from(self.reload), u64::from(self.modulus()));
        let elapsed = self.elapsed(now);
        let value = match self.mode {
            // Counts by two, twice a period.
            3 => {
                let (period, at) = (reload.max(1), elapsed % reload.max(1));
                let high = period.div_ceil(2);
                if at < high {
                    (period & !1) - 2 * at.min(period / 2)
                } else {
                    (period & !1) - 2 * (at - high)
                }
            }
            2 => reload - elapsed % reload.max(1),
            // One-shot: goes on below zero.
            _ => (reload + modulus - elapsed % modulus) % modulus,
        };
        (value % modulus) as u16
    }

    fn output(&self, now: u64) -> bool {
        let (elapsed, reload) = (self.elapsed(now), u64::from(self.reload));
        match self.mode {
            0 => !self.stopped && elapsed >= reload,
            1 => self.stopped || elapsed >= reload,
            2 => self.stopped || elapsed % reload.max(1) != reload - 1,
            3 => self.stopped || elapsed % reload.max(1) < reload.div_ceil(2),
            // A strobe of one tick at the end.
            _ => self.stopped || elapsed != reload,
        }
    }

    /// The next tick at which the output changes, if it does by itself.
    fn next_change(&self, now: u64) -> Option<u64> {
        if self.stopped {
            return None;
        }
        let (elapsed, reload) = (self.elapsed(now), u64::from(self.reload).max(1));
        let cycle = self.start + elapsed / reload * reload;
        let edges = match self.mode {
            0 | 1 => [self.start + reload; 3],
            2 => [cycle + reload - 1, cycle + reload, cycle + 2 * reload - 1],
            3 => [cycle + reload.div_ceil(2), cycle + reload, cycle + reload + reload.div_ceil(2)],
            _ => [self.start + reload, self.start + reload + 1, 0],
        };
        edges.into_iter().find(|&edge| edge > now)
    }

    fn as_read(&self, value: u16) -> u16 {
        if !self.bcd {
            return value;
        }
        [1000, 100, 10, 1].iter().fold(0, |bcd, digit| (bcd << 4) | (value / digit % 10))
    }

    /// A new count from the guest.
    fn load(&mut self, raw: u16, now: u64) {
        let value = if self.bcd {
            (0..4).rev().fold(0, |value, digit| value * 10 + u32::from(raw >> (4 * digit) & 0xf).min(9))
        } else {
            raw.into()
        };
        self.reload = if value == 0 { self.modulus() } else { value };
        // In mode 1 and 5 the gate starts the count. A periodic counter would finish its period first; guests
        // program the control word before, which stops it anyway.
        let triggered = matches!(self.mode, 1 | 5);
        if !triggered {
            self.start = now;
            self.stopped = !self.gate;
        }
    }

    fn set_gate(&mut self, gate: bool, now: u64) {
        let rises = gate && !self.gate;
        self.gate = gate;
        match self.mode {
            // The gate suspends: the count goes on from where it was.
            0 | 4 if !gate && !self.stopped => {
                let value = u32::from(self.value(now));
                self.reload = if value == 0 { self.modulus() } else { value };
                self.stopped = true;
            }
            0 | 4 if rises => {
                self.start = now;
                self.stopped = false;
            }
            1 | 5 if rises => {
                self.start = now;
                self.stopped = false;
            }
            2 | 3 if rises => {
                self.start = now;
                self.stopped = false;
            }
            2 | 3 if !gate => self.stopped = true,
            _ => {}
        }
    }

    fn read(&mut self, now: u64) -> u8 {
        if let Some(status) = self.status.take() {
            return status;
        }
        let value = self.latch.unwrap_or_else(|| self.as_read(self.value(now)));
        let [low, high] = value.to_le_bytes();
        let (byte, last) = match (self.access, self.read_step) {
            (1, _) => (low, true),
            (2, _) => (high, true),
            (_, Step::Low) => (low, false),
            (_, Step::High) => (high, true),
        };
        self.read_step = if last { Step::Low } else { Step::High };
        if last {
            self.latch = None;
        }
        byte
    }

    fn write(&mut self, byte: u8, now: u64) {
        match (self.access, self.write_step) {
            (1, _) => self.load(byte.into(), now),
            (2, _) => self.load(u16::from(byte) << 8, now),
            (_, Step::Low) => {
                self.write_low = byte;
                self.write_step = Step::High;
                // Half a count in mode 0 stops the counter.
                if self.mode == 0 {
                    self.stopped = true;
                }
            }
            (_, Step::High) => {
                self.write_step = Step::Low;
                self.load(u16::from_le_bytes([self.write_low, byte]), now);
            }
        }
    }

    fn control(&mut self, word: u8) {
        self.access = word >> 4 & 3;
        // 6 and 7 are 2 and 3: the top bit is not looked at.
        self.mode = match word >> 1 & 7 {
            mode @ 0..=5 => mode,
            mode => mode - 4,
        };
        self.bcd = word & 1 != 0;
        self.write_step = Step::Low;
        self.read_step = Step::Low;
        self.latch = None;
        self.status = None;
        self.stopped = true;
        self.reload = self.modulus();
    }

    fn latch_count(&mut self, now: u64) {
        if self.latch.is_none() {
            self.latch = Some(self.as_read(self.value(now)));
            self.read_step = Step::Low;
        }
    }

    fn latch_status(&mut self, now: u64) {
        let word = u8::from(self.output(now)) << 7
            | u8::from(self.stopped) << 6
            | self.access << 4
            | self.mode << 1
            | u8::from(self.bcd);
        self.status.get_or_insert(word);
    }
}

fn fresh() -> [Counter; 3] {
    [Counter::new(true), Counter::new(true), Counter::new(false)]
}

struct I8254 {
    frequency: u64,
    irq: IrqLine,
    timer: Timer,
    clock: Clock,
    counters: [Counter; 3],
    /// Port 0x61 as written: bit 0 gate of counter 2, bit 1 speaker data.
    speaker: u8,
}

impl I8254 {
    fn now(&self) -> u64 {
        self.clock.ticks(self.frequency)
    }

    fn deadline(&self, now: u64) -> Option<u64> {
        let tick = self.counters[0].next_change(now)?;
        Some(Clock::ns_of_ticks(tick, self.frequency))
    }

    fn update(&self) {
        let now = self.now();
        self.irq.set(self.counters[0].output(now));
        self.timer.set(self.deadline(now));
    }

    fn control(&mut self, word: u8) {
        let now = self.now();
        let selected = usize::from(word >> 6);
        if let Some(counter) = self.counters.get_mut(selected) {
            if word >> 4 & 3 == 0 {
                counter.latch_count(now);
            } else {
                counter.control(word);
            }
            return;
        }
        // Read-back; both latch bits are active low.
        for (i, counter) in self.counters.iter_mut().enumerate() {
            if word >> (i + 1) & 1 != 0 {
                if word & 0x20 == 0 {
                    counter.latch_count(now);
                }
                if word & 0x10 == 0 {
                    counter.latch_status(now);
                }
            }
        }
    }
}

impl Device for I8254 {
    fn read(&mut self, region: usize, offset: u64, data: &mut [u8]) -> Access {
        let now = self.now();
        let value = match (region, offset) {
            (1, _) => {
                // Bit 4 is the memory refresh, which toggles every 15 microseconds.
                let refresh = u8::from(self.clock.now() / 15_085 % 2 == 1) << 4;
                self.speaker | refresh | u8::from(self.counters[2].output(now)) << 5
            }
            (_, 0..3) => self.counters[offset as usize].read(now),
            // The control word cannot be read; the bus floats low.
            _ => 0,
        };
        le_fill(data, value.into());
        Access::Ok
    }

    fn write(&mut self, region: usize, offset: u64, data: &[u8]) -> Access {
        let (now, value) = (self.now(), le_value(data) as u8);
        match (region, offset) {
            (1, _) => {
                self.speaker = value & 3;
                self.counters[2].set_gate(value & 1 != 0, now);
            }
            (_, 0..3) => self.counters[offset as usize].write(value, now),
            _ => self.control(value),
        }
        self.update();
        Access::Ok
    }

    fn timer(&mut self, _id: usize) {
        let now = self.now();
        // If the host was late by whole periods, an edge must still be seen.
        if self.counters[0].output(now) && self.irq.level() {
            self.irq.set(false);
        }
        self.update();
    }

    fn reset(&mut self, _kind: ResetKind) {
        self.counters = fresh();
        self.speaker = 0;
        self.timer.cancel();
        self.irq.set(false);
    }

    fn save(&self) -> StateBlob {
        let state = I8254State {
            counters: self.counters.iter().map(Counter::save).collect(),
            speaker: self.speaker,
            irq: self.irq.level(),
            deadline: self.timer.deadline(),
        };
        state.to_blob()
    }

    fn restore(&mut self, state: &StateBlob) -> Result<(), StateError> {
        let s = I8254State::from_blob(state)?;
        self.counters = s.counters()?;
        self.speaker = s.speaker & 3;
        self.irq.import(s.irq);
        self.timer.set(s.deadline);
        Ok(())
    }
}

impl Counter {
    fn save(&self) -> I8254CounterState {
        I8254CounterState {
            mode: self.mode,
            bcd: self.bcd,
            access: self.access,
            gate: self.gate,
            reload: self.reload,
            start: self.start,
            stopped: self.stopped,
            write_high: self.write_step == Step::High,
            write_low: self.write_low,
            read_high: self.read_step == Step::High,
            latch: self.latch,
            status: self.status,
        }
    }

    fn restore(c: &I8254CounterState) -> Result<Self, StateError> {
        StateError::at_most("counters/mode", c.mode, 5)?;
        StateError::at_most("counters/access", c.access, 3)?;
        StateError::at_most("counters/reload", c.reload, 0x1_0000)?;
        // Sums of tick numbers must not overflow: no clock reaches this.
        StateError::at_most("counters/start", c.start, u64::MAX / 4)?;
        if c.reload == 0 {
            return Err(StateError::new("counters/reload", "expected at least 1, found 0"));
        }
        let step = |high| if high { Step::High } else { Step::Low };
        Ok(Counter {
            mode: c.mode,
            bcd: c.bcd,
            access: c.access,
            gate: c.gate,
            reload: c.reload,
            start: c.start,
            stopped: c.stopped,
            write_step: step(c.write_high),
            write_low: c.write_low,
            read_step: step(c.read_high),
            latch: c.latch,
            status: c.status,
        })
    }
}

device::state! {
    /// Saved state of a counter.
    pub struct I8254CounterState {
        1 => mode: u8,
        2 => bcd: bool,
        3 => access: u8,
        4 => gate: bool,
        5 => reload: u32,
        6 => start: u64,
        7 => stopped: bool,
        8 => write_high: bool,
        9 => write_low: u8,
        10 => read_high: bool,
        11 => latch: Option<u16>,
        12 => status: Option<u8>,
    }
}
device::state! {
    /// Saved state of an 8254, version 1.
    pub struct I8254State {
        1 => counters: Vec<I8254CounterState>,
        2 => speaker: u8,
        3 => irq: bool,
        4 => deadline: Option<u64>,
    }
}

impl I8254State {
    /// As a device saves it.
    #[must_use]
    pub fn to_blob(&self) -> StateBlob {
        StateBlob::new(I8254Config::KIND, 1, self)
    }

    /// From what a device has saved.
    pub fn from_blob(state: &StateBlob) -> Result<Self, StateError> {
        state.decode(I8254Config::KIND, 1)
    }

    /// Sets what follows from the counters at `now` (virtual nanoseconds, input of `frequency` Hz): the level of the
    /// interrupt and when it changes.
    pub fn settle(&mut self, now: u64, frequency: u32) -> Result<(), StateError> {
        let frequency = frequency.into();
        let tick = Clock::ticks_of_ns(now, frequency);
        let [counter, ..] = self.counters()?;
        self.irq = counter.output(tick);
        self.deadline = counter.next_change(tick).map(|tick| Clock::ns_of_ticks(tick, frequency));
        Ok(())
    }

    fn counters(&self) -> Result<[Counter; 3], StateError> {
        let [a, b, c] = &self.counters[..] else {
            let count = self.counters.len();
            return Err(StateError::new("counters", format!("expected 3 counters, found {count}")));
        };
        Ok([Counter::restore(a)?, Counter::restore(b)?, Counter::restore(c)?])
    }
}

#[cfg(test)]
mod tests {
    use device::NS_PER_SEC;
    use device::test_bench::{Bench, check};

    use super::*;

    /// One tick a microsecond.
    fn pit() -> Bench {
        Bench::new(I8254Config { frequency: 1_000_000 })
    }

    fn program(b: &Bench, word: u64, counter: u64, count: u64) {
        b.write(0, 3, 1, word);
        b.write(0, counter, 1, count & 0xff);
        b.write(0, counter, 1, count >> 8);
    }

    fn rises(b: &Bench) -> usize {
        b.take_edges().iter().filter(|e| e.level).count()
    }

    #[test]
    fn rate_generator_interrupts_at_its_rate() {
        let b = pit();
        program(&b, 0x34, 0, 10_000);
        b.take_edges();
        b.advance(NS_PER_SEC);
        assert_eq!(rises(&b), 100);
        b.advance(2_500_000);
        b.write(0, 3, 1, 0x00);
        assert_eq!((b.read(0, 0, 1), b.read(0, 0, 1)), (7500 & 0xff, 7500 >> 8));
    }

    #[test]
    fn square_wave_spends_half_the_time_high() {
        let b = pit();
        program(&b, 0x36, 0, 1000);
        b.take_edges();
        b.advance(499_000);
        assert!(b.line("irq"));
        b.advance(1_000);
        assert!(!b.line("irq"));
        b.advance(500_000);
        assert!(b.line("irq"));
        b.take_edges();
        b.advance(100_000_000);
        assert_eq!(rises(&b), 100);
    }

    #[test]
    fn one_shot_rises_once_and_counts_on() {
        let b = pit();
        program(&b, 0x30, 0, 100);
        assert!(!b.line("irq"));
        b.advance(99_999);
        assert!(!b.line("irq"));
        b.advance(1);
        assert!(b.line("irq"));
        b.advance(1000);
        b.write(0, 3, 1, 0xe2);
        assert_eq!(b.read(0, 0, 1), 0xb0, "status: output high, mode 0, both bytes");
        assert_eq!(b.read(0, 0, 1) | b.read(0, 0, 1) << 8, 0xffff, "one tick beyond zero");
    }

    #[test]
    fn speaker_port_gates_counter_2() {
        let b = pit();
        program(&b, 0xb0, 2, 50);
        b.advance(1_000_000);
        assert_eq!(b.read(1, 0, 1) & 0x20, 0, "gate low: stands");
        b.write(1, 0, 1, 1);
        b.advance(49_999);
        assert_eq!(b.read(1, 0, 1) & 0x21, 1);
        b.advance(1);
        assert_eq!(b.read(1, 0, 1) & 0x21, 0x21);
    }

    #[test]
    fn bcd_and_latches() {
        let b = pit();
        program(&b, 0x35, 0, 0x1234);
        b.advance(34_000);
        b.write(0, 3, 1, 0);
        b.advance(5_000);
        b.write(0, 3, 1, 0);
        assert_eq!((b.read(0, 0, 1), b.read(0, 0, 1)), (0x00, 0x12), "the first latch holds");
        assert_eq!((b.read(0, 0, 1), b.read(0, 0, 1)), (0x95, 0x11));
    }

    #[test]
    fn passes_the_common_tests() {
        check(I8254Config::default());
    }
}

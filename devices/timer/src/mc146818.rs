//! Motorola MC146818 real-time clock and CMOS memory (datasheet ADI-1018), as a PC has it: ports 0x70 (index) and
//! 0x71 (data), century in byte 0x32.
//!
//! The time of day comes from the machine's wall clock plus an offset that moves when the guest sets the time. The
//! date registers are computed when read. While the guest holds SET, they are plain memory.

use std::any::Any;

use device::{
    Access, AccessRule, BuildError, Bytes, Clock, Device, DeviceConfig, IrqLine, NS_PER_SEC, PinSpec,
    Properties, Property, PropertyError, RegionSpec, ResetKind, StateBlob, StateError, Timer, WallClock,
    Wires, device_config, le_fill, le_value,
};

device_config! {
    /// PC real-time clock.
    #[derive(Clone, Debug, PartialEq, Eq)]
    pub struct Mc146818Config {
        /// Years count from here: byte 9 holds the year modulo 100 since then.
        pub base_year: u32 = 0,
    }
}

impl DeviceConfig for Mc146818Config {
    const KIND: &'static str = "mc146818rtc";
    const HELP: &'static str = "real-time clock and CMOS memory";

    fn regions(&self) -> Vec<RegionSpec> {
        vec![RegionSpec::new("ports", 2, AccessRule::BYTE)]
    }

    fn outputs(&self) -> Vec<PinSpec> {
        vec![PinSpec::one("irq")]
    }

    fn build(self, wires: &mut Wires) -> Result<Box<dyn Device>, BuildError> {
        if self.base_year > 9000 {
            return Err(wires.bad_property("base_year", "expected at most 9000"));
        }
        let mut rtc = Mc146818 {
            base_year: self.base_year.into(),
            irq: wires.line("irq"),
            periodic: wires.timer(PERIODIC),
            update: wires.timer(UPDATE),
            clock: wires.clock(),
            wall: wires.wall_clock(),
            board: [0; SIZE],
            index: 0,
            shift: 0,
            memory: [0; SIZE],
        };
        rtc.power_on();
        Ok(Box::new(rtc))
    }
}

/// The clock with what the board has put into the CMOS memory for firmware.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CmosRtcConfig {
    /// The clock.
    pub rtc: Mc146818Config,
    /// Indices and values; those of the clock's own bytes are ignored.
    pub cmos: Vec<(u8, u8)>,
}

impl Properties for CmosRtcConfig {
    fn properties() -> Vec<Property> {
        Mc146818Config::properties()
    }

    fn set(&mut self, name: &str, value: &str) -> Result<(), PropertyError> {
        Properties::set(&mut self.rtc, name, value)
    }
}

impl DeviceConfig for CmosRtcConfig {
    const KIND: &'static str = Mc146818Config::KIND;
    const HELP: &'static str = Mc146818Config::HELP;

    fn regions(&self) -> Vec<RegionSpec> {
        DeviceConfig::regions(&self.rtc)
    }

    fn outputs(&self) -> Vec<PinSpec> {
        DeviceConfig::outputs(&self.rtc)
    }

    fn build(self, wires: &mut Wires) -> Result<Box<dyn Device>, BuildError> {
        let mut rtc = DeviceConfig::build(self.rtc, wires)?;
        if let Some(rtc) = rtc.as_any().and_then(|any| any.downcast_mut::<Mc146818>()) {
            self.cmos.iter().for_each(|(index, value)| rtc.set_cmos(*index, *value));
        }
        Ok(rtc)
    }
}

const SIZE: usize = 128;

/// Timer ids.
const PERIODIC: usize = 0;
const UPDATE: usize = 1;

const SECONDS: usize = 0x00;
const SECONDS_ALARM: usize = 0x01;
const MINUTES: usize = 0x02;
const MINUTES_ALARM: usize = 0x03;
const HOURS: usize = 0x04;
const HOURS_ALARM: usize = 0x05;
const WEEKDAY: usize = 0x06;
const DAY: usize = 0x07;
const MONTH: usize = 0x08;
const YEAR: usize = 0x09;
const A: usize = 0x0a;
const B: usize = 0x0b;
const C: usize = 0x0c;
const D: usize = 0x0d;
const CENTURY: usize = 0x32;

/// Register A: update in progress.
const A_UIP: u8 = 1 << 7;
/// Register B.
const B_SET: u8 = 1 << 7;
const B_BINARY: u8 = 1 << 2;
const B_24H: u8 = 1 << 1;
/// Interrupt enables in B and flags in C have the same places.
const PERIODIC_IRQ: u8 = 1 << 6;
const ALARM_IRQ: u8 = 1 << 5;
const UPDATE_IRQ: u8 = 1 << 4;
const C_IRQ: u8 = 1 << 7;
/// Register D: memory and time are valid.
const D_VALID: u8 = 1 << 7;

/// UIP is set this long before an update.
const UIP_NS: i64 = 244_000;
const SECOND: i64 = NS_PER_SEC as i64;

/// The real-time clock; reached through [`Device::as_any`] by boards that put their settings into CMOS.
pub struct Mc146818 {
    base_year: i64,
    irq: IrqLine,
    periodic: Timer,
    update: Timer,
    clock: Clock,
    wall: WallClock,
    /// What the board put into CMOS.
    board: [u8; SIZE],
    index: u8,
    /// Added to the wall clock, in nanoseconds.
    shift: i64,
    memory: [u8; SIZE],
}

/// A date, proleptic Gregorian.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Date {
    year: i64,
    /// 1 to 12.
    month: i64,
    /// 1 to 31.
    day: i64,
}

/// Days from 1970-01-01 to a date.
fn days_from_date(date: Date) -> i64 {
    // Years begin in March, so that the leap day is the last.
    let year = date.year - i64::from(date.month <= 2);
    let day_of_year = (153 * ((date.month + 9) % 12) + 2) / 5 + date.day - 1;
    let day_of_era =
        year.rem_euclid(400) * 365 + year.rem_euclid(400) / 4 - year.rem_euclid(400) / 100 + day_of_year;
    year.div_euclid(400) * 146_097 + day_of_era - 719_468
}

/// The date so many days from 1970-01-01.
fn date_from_days(days: i64) -> Date {
    let days = days + 719_468;
    let day_of_era = days.rem_euclid(146_097);
    let year = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year + year / 4 - year / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let month = (shifted + 2) % 12 + 1;
    Date {
        year: days.div_euclid(146_097) * 400 + year + i64::from(month <= 2),
        month,
        day: day_of_year - (153 * shifted + 2) / 5 + 1,
    }
}

impl Mc146818 {
    /// Sets a byte of CMOS to what it is after power-on and now. Bytes of the clock are not the board's.
    pub fn set_cmos(&mut self, index: u8, value: u8) {
        let index = usize::from(index) % SIZE;
        if index > D && index != CENTURY {
            self.board[index] = value;
            self.memory[index] = value;
        }
    }

    /// The time of day as the guest set it, in nanoseconds since 1970.
    fn now(&self) -> i64 {
        self.wall.unix_ns().saturating_add(self.shift)
    }

    fn encode(&self, value: i64) -> u8 {
        let value = value.rem_euclid(100) as u8;
        if self.memory[B] & B_BINARY != 0 { value } else { ((value / 10) << 4) | (value % 10) }
    }

    fn decode(&self, raw: u8) -> i64 {
        if self.memory[B] & B_BINARY != 0 {
            raw.into()
        } else {
            i64::from(raw >> 4) * 10 + i64::from(raw & 0xf)
        }
    }

    fn encode_hour(&self, hour: i64) -> u8 {
        if self.memory[B] & B_24H != 0 {
            return self.encode(hour);
        }
        let pm = if hour >= 12 { 0x80 } else { 0 };
        self.encode((hour + 11) % 12 + 1) | pm
    }

    fn decode_hour(&self, raw: u8) -> i64 {
        if self.memory[B] & B_24H != 0 {
            return self.decode(raw);
        }
        self.decode(raw & 0x7f) % 12 + if raw & 0x80 != 0 { 12 } else { 0 }
    }

    /// A register of the date at this moment.
    fn date_register(&self, index: usize) -> u8 {
        let seconds = self.now().div_euclid(SECOND);
        let (days, second) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400));
        let date = date_from_days(days);
        match index {
            SECONDS => self.encode(second % 60),
            MINUTES => self.encode(second / 60 % 60),
            HOURS => self.encode_hour(second / 3600),
            // Sunday is 1; 1970-01-01 was a Thursday.
            WEEKDAY => self.encode((days + 4).rem_euclid(7) + 1),
            DAY => self.encode(date.day),
            MONTH => self.encode(date.month),
            YEAR => self.encode(date.year - self.base_year),
            _ => self.encode(date.year.div_euclid(100)),
        }
    }

    /// Whether the date stands still: the guest sets it, or the divider chain is held in reset.
    fn stopped(&self) -> bool {
        self.memory[B] & B_SET != 0 || self.memory[A] & 0x70 > 0x20
    }

    fn is_date(index: usize) -> bool {
        matches!(index, SECONDS | MINUTES | HOURS | WEEKDAY | DAY | MONTH | YEAR | CENTURY)
    }

    /// Copies the running date into memory, to stand or to be changed there.
    fn freeze(&mut self) {
        for index in [SECONDS, MINUTES, HOURS, WEEKDAY, DAY, MONTH, YEAR, CENTURY] {
            self.memory[index] = self.date_register(index);
        }
    }

    /// Makes the date in memory the time of day from now on.
    fn thaw(&mut self) {
        let m = &self.memory;
        let year = if self.base_year != 0 {
            self.base_year + self.decode(m[YEAR])
        } else {
            self.decode(m[CENTURY]) * 100 + self.decode(m[YEAR])
        };
        let date =
            Date { year, month: self.decode(m[MONTH]).clamp(1, 12), day: self.decode(m[DAY]).clamp(1, 31) };
        let time = self.decode_hour(m[HOURS]) * 3600 + self.decode(m[MINUTES]) * 60 + self.decode(m[SECONDS]);
        let wanted = (days_from_date(date) * 86_400 + time).saturating_mul(SECOND);
        self.shift = wanted.saturating_sub(self.wall.unix_ns());
    }

    /// Period of the periodic interrupt in nanoseconds, if the rate selects one.
    fn period(&self) -> Option<u64> {
        let rate = u32::from(self.memory[A] & 0xf);
        // Rates 1 and 2 repeat 8 and 9 with the usual 32 kHz crystal.
        let shift = match rate {
            0 => return None,
            1 | 2 => rate + 6,
            _ => rate - 1,
        };
        Some((NS_PER_SEC << shift) / 32_768)
    }

    /// The next instant on the grid of the periodic interrupt.
    fn periodic_deadline(&self) -> Option<u64> {
        let period = self.period().filter(|_| self.memory[B] & PERIODIC_IRQ != 0)?;
        Some((self.clock.now() / period + 1).saturating_mul(period))
    }

    /// When the next second begins, on the virtual clock, if anybody waits for it.
    fn update_deadline(&self) -> Option<u64> {
        let wanted = self.memory[B] & (UPDATE_IRQ | ALARM_IRQ) != 0 && !self.stopped();
        let left = SECOND - self.now().rem_euclid(SECOND);
        wanted.then(|| self.clock.now().saturating_add(left as u64))
    }

    fn arm(&self) {
        self.periodic.set(self.periodic_deadline());
        self.update.set(self.update_deadline());
    }

    fn alarm_matches(&self) -> bool {
        [(SECONDS_ALARM, SECONDS), (MINUTES_ALARM, MINUTES), (HOURS_ALARM, HOURS)]
            .iter()
            // Two high bits mean "any".
            .all(|&(alarm, at)| self.memory[alarm] >= 0xc0 || self.memory[alarm] == self.date_register(at))
    }

    fn raise(&mut self, flag: u8) {
        self.memory[C] |= flag;
        self.update_irq();
    }

    fn update_irq(&mut self) {
        let raised = self.memory[C] & self.memory[B] & (PERIODIC_IRQ | ALARM_IRQ | UPDATE_IRQ) != 0;
        self.memory[C] = self.memory[C] & !C_IRQ | if raised { C_IRQ } else { 0 };
        self.irq.set(raised);
    }

    fn power_on(&mut self) {
        self.index = 0;
        self.shift = 0;
        self.memory = self.board;
        self.memory[A] = 0x26;
        self.memory[B] = B_24H;
        self.memory[D] = D_VALID;
    }

    fn read_data(&mut self) -> u8 {
        let index = usize::from(self.index);
        match index {
            A => {
                let soon = self.now().rem_euclid(SECOND) >= SECOND - UIP_NS;
                self.memory[A] | if soon && !self.stopped() { A_UIP } else { 0 }
            }
            C => {
                let value = self.memory[C];
                self.memory[C] = 0;
                self.irq.set(false);
                value
            }
            _ if Self::is_date(index) && !self.stopped() => self.date_register(index),
            _ => self.memory[index],
        }
    }

    fn write_data(&mut self, value: u8) -> Access {
        let index = usize::from(self.index);
        let was_stopped = self.stopped();
        match index {
            C | D => return Access::ReadOnly,
            A | B => {
                if !was_stopped {
                    self.freeze();
                }
                self.memory[index] = if index == A { value & !A_UIP } else { value };
                if self.memory[B] & B_SET != 0 {
                    self.memory[B] &= !UPDATE_IRQ;
                }
                if was_stopped && !self.stopped() {
                    self.thaw();
                }
                self.arm();
                self.update_irq();
            }
            _ if Self::is_date(index) && !was_stopped => {
                // Without SET the write takes effect at once.
                let within = self.now().rem_euclid(SECOND);
                self.freeze();
                self.memory[index] = value;
                self.thaw();
                self.shift = self.shift.saturating_add(within);
                self.arm();
            }
            _ => self.memory[index] = value,
        }
        Access::Ok
    }
}

impl Device for Mc146818 {
    fn read(&mut self, _region: usize, offset: u64, data: &mut [u8]) -> Access {
        // The index port cannot be read back.
        let value = if offset == 0 { 0xff } else { self.read_data() };
        le_fill(data, value.into());
        Access::Ok
    }

    fn write(&mut self, _region: usize, offset: u64, data: &[u8]) -> Access {
        let value = le_value(data) as u8;
        if offset == 0 {
            // Bit 7 masks the NMI elsewhere.
            self.index = value & 0x7f;
            return Access::Ok;
        }
        self.write_data(value)
    }

    fn timer(&mut self, id: usize) {
        if id == PERIODIC {
            self.periodic.set(self.periodic_deadline());
            self.raise(PERIODIC_IRQ);
        } else {
            self.update.set(self.update_deadline());
            let alarm = if self.alarm_matches() { ALARM_IRQ } else { 0 };
            self.raise(UPDATE_IRQ | alarm);
        }
    }

    fn reset(&mut self, kind: ResetKind) {
        match kind {
            ResetKind::Cold => self.power_on(),
            // The battery keeps the rest.
            ResetKind::Warm => {
                self.memory[B] &= !(PERIODIC_IRQ | ALARM_IRQ | UPDATE_IRQ);
                self.memory[C] = 0;
            }
        }
        self.arm();
        self.irq.set(false);
    }

    fn as_any(&mut self) -> Option<&mut dyn Any> {
        Some(self)
    }

    fn save(&self) -> StateBlob {
        let state = state::V1 {
            index: self.index,
            shift: self.shift,
            memory: Bytes(self.memory.to_vec()),
            periodic: self.periodic.deadline(),
            update: self.update.deadline(),
        };
        StateBlob::new(Mc146818Config::KIND, 1, &state)
    }

    fn restore(&mut self, state: &StateBlob) -> Result<(), StateError> {
        let s: state::V1 = state.decode(Mc146818Config::KIND, 1)?;
        StateError::at_most("index", s.index, 0x7f)?;
        let found = s.memory.0.len();
        let memory = s.memory.0.try_into();
        self.memory =
            memory.map_err(|_| StateError::new("memory", format!("expected 128 bytes, found {found}")))?;
        self.index = s.index;
        self.shift = s.shift;
        self.periodic.set(s.periodic);
        self.update.set(s.update);
        self.irq.import(self.memory[C] & C_IRQ != 0);
        Ok(())
    }
}

mod state {
    use device::Bytes;

    device::state! {
        /// Saved state of a real-time clock, version 1.
        pub(super) struct V1 {
            1 => index: u8,
            2 => shift: i64,
            3 => memory: Bytes,
            4 => periodic: Option<u64>,
            5 => update: Option<u64>,
        }
    }
}

#[cfg(test)]
mod tests {
    use device::test_bench::{Bench, check};

    use super::*;

    fn rtc() -> Bench {
        Bench::new(Mc146818Config::default())
    }

    fn get(b: &Bench, index: usize) -> u64 {
        b.write(0, 0, 1, index as u64);
        b.read(0, 1, 1)
    }

    fn set(b: &Bench, index: usize, value: u64) {
        b.write(0, 0, 1, index as u64);
        b.write(0, 1, 1, value);
    }

    fn date(b: &Bench) -> [u64; 8] {
        [CENTURY, YEAR, MONTH, DAY, WEEKDAY, HOURS, MINUTES, SECONDS].map(|i| get(b, i))
    }

    #[test]
    fn dates_convert_both_ways() {
        for (days, year, month, day) in [
            (0, 1970, 1, 1),
            (59, 1970, 3, 1),
            (19_782, 2024, 2, 29),
            (-1, 1969, 12, 31),
            (11_016, 2000, 2, 29),
        ] {
            assert_eq!(date_from_days(days), Date { year, month, day });
        }
        for days in (-1_000_000..3_000_000).step_by(97) {
            assert_eq!(days_from_date(date_from_days(days)), days);
        }
    }

    #[test]
    fn tells_the_time_over_a_leap_day() {
        let b = rtc();
        assert_eq!(date(&b), [0x20, 0x24, 0x02, 0x29, 0x05, 0x23, 0x59, 0x50]);
        b.advance(10 * NS_PER_SEC);
        assert_eq!(date(&b), [0x20, 0x24, 0x03, 0x01, 0x06, 0, 0, 0]);
        set(&b, B, 0);
        assert_eq!(get(&b, HOURS), 0x12, "12-hour mode: midnight");
        set(&b, B, u64::from(B_BINARY | B_24H));
        b.advance(13 * 3600 * NS_PER_SEC);
        assert_eq!(get(&b, HOURS), 13);
        set(&b, B, 0);
        assert_eq!(get(&b, HOURS), 0x81);
        assert_eq!(get(&b, D), 0x80);
    }

    #[test]
    fn the_guest_sets_the_time() {
        let b = rtc();
        set(&b, B, u64::from(B_SET | B_24H));
        for (index, value) in [(CENTURY, 0x19), (YEAR, 0x99), (MONTH, 0x12), (DAY, 0x31), (HOURS, 0x23)] {
            set(&b, index, value);
        }
        set(&b, MINUTES, 0x59);
        set(&b, SECONDS, 0x58);
        b.advance(100 * NS_PER_SEC);
        assert_eq!(get(&b, SECONDS), 0x58, "stands while SET");
        set(&b, B, u64::from(B_24H));
        b.advance(2 * NS_PER_SEC);
        assert_eq!(date(&b), [0x20, 0, 1, 1, 7, 0, 0, 0]);
    }

    #[test]
    fn interrupts() {
        let b = rtc();
        set(&b, A, 0x26);
        set(&b, B, u64::from(B_24H | PERIODIC_IRQ));
        b.take_edges();
        for _ in 0..1024 {
            b.advance(NS_PER_SEC / 1024);
            get(&b, C);
        }
        let rises = b.take_edges().iter().filter(|e| e.level).count();
        assert!((1023..=1024).contains(&rises), "{rises}");

        let b = rtc();
        set(&b, SECONDS_ALARM, 0x55);
        set(&b, MINUTES_ALARM, 0xff);
        set(&b, HOURS_ALARM, 0xff);
        set(&b, B, u64::from(B_24H | ALARM_IRQ));
        b.advance(5 * NS_PER_SEC - 1);
        assert!(!b.line("irq"));
        b.advance(1);
        assert!(b.line("irq"));
        assert_eq!(get(&b, C), u64::from(C_IRQ | ALARM_IRQ | UPDATE_IRQ));
        assert!(!b.line("irq"));
        b.advance(60 * NS_PER_SEC - 1);
        assert!(!b.line("irq"));
        b.advance(1);
        assert!(b.line("irq"));
    }

    #[test]
    fn board_settings_survive_reset_but_not_the_guests() {
        let b = rtc();
        b.cell().with(|d| d.as_any().unwrap().downcast_mut::<Mc146818>().unwrap().set_cmos(0x34, 7));
        set(&b, 0x35, 9);
        assert_eq!((get(&b, 0x34), get(&b, 0x35)), (7, 9));
        b.cell().reset(ResetKind::Warm);
        assert_eq!((get(&b, 0x34), get(&b, 0x35)), (7, 9));
        b.cell().reset(ResetKind::Cold);
        assert_eq!((get(&b, 0x34), get(&b, 0x35)), (7, 0));
    }

    #[test]
    fn passes_the_common_tests() {
        check(Mc146818Config::default());
        check(Mc146818Config { base_year: 1968 });
    }
}

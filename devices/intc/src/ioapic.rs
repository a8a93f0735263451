//! Intel 82093AA I/O APIC (datasheet 290566-001), with the EOI register of version 0x20.
//!
//! Interrupts leave as messages to the local APICs' address range, so the chip works with local APICs in user
//! space and with those of a kernel alike. A level-triggered pin is not sent again until its end of interrupt has
//! come back ([`InterruptController::end_of_interrupt`], or the EOI register).
//!
//! Pins are active when their wire is high; the polarity bit says how the board is soldered and changes nothing.

use device::{
    Access, AccessRule, BuildError, Device, DeviceConfig, InterruptController, MsiMessage, MsiTarget,
    PinSpec, RegionSpec, ResetKind, StateBlob, StateError, Wires, device_config, le_fill, le_value,
};

device_config! {
    /// I/O APIC.
    #[derive(Clone, Debug, PartialEq, Eq)]
    pub struct IoApicConfig {
        /// Version it reports: 0x11, or 0x20 with an EOI register.
        pub version: u8 = 0x20,
    }
}

impl DeviceConfig for IoApicConfig {
    const KIND: &'static str = "ioapic";
    const HELP: &'static str = "I/O APIC with 24 pins";

    fn regions(&self) -> Vec<RegionSpec> {
        vec![RegionSpec::new("registers", 0x1000, AccessRule::UP_TO_4)]
    }

    fn inputs(&self) -> Vec<PinSpec> {
        vec![PinSpec::row("irq", PINS)]
    }

    fn build(self, wires: &mut Wires) -> Result<Box<dyn Device>, BuildError> {
        if !matches!(self.version, 0x11 | 0x20) {
            return Err(wires.bad_property("version", "expected 0x11 or 0x20"));
        }
        let msi = wires.msi().ok_or_else(|| wires.missing("local APICs to send messages to"))?;
        Ok(Box::new(IoApic { version: self.version, msi, r: Registers::default() }))
    }
}

const PINS: usize = 24;

const SELECT: u64 = 0x00;
const WINDOW: u64 = 0x10;
const EOI: u64 = 0x40;

mod entry {
    pub(super) const VECTOR: u64 = 0xff;
    pub(super) const LOGICAL: u64 = 1 << 11;
    pub(super) const REMOTE_IRR: u64 = 1 << 14;
    pub(super) const LEVEL: u64 = 1 << 15;
    pub(super) const MASKED: u64 = 1 << 16;
    /// What the guest can write: all but delivery status, remote IRR and reserved bits.
    pub(super) const WRITABLE: u64 = 0xff00_0000_0001_afff;
}

#[derive(Clone, Debug, PartialEq)]
struct Registers {
    id: u8,
    select: u8,
    entries: [u64; PINS],
    /// Levels of the pins.
    level: u32,
}

impl Default for Registers {
    fn default() -> Self {
        Registers { id: 0, select: 0, entries: [entry::MASKED; PINS], level: 0 }
    }
}

struct IoApic {
    version: u8,
    msi: MsiTarget,
    r: Registers,
}

impl IoApic {
    fn send(&self, e: u64) {
        let logical = u64::from(e & entry::LOGICAL != 0) << 2;
        let trigger = e & entry::LEVEL;
        // Delivery mode and vector are where the message wants them; a level message asserts.
        let assert = if trigger != 0 { 1 << 14 } else { 0 };
        self.msi.signal(MsiMessage {
            address: 0xfee0_0000 | (e >> 56) << 12 | logical,
            data: (e & 0x7ff | trigger) as u32 | assert,
            requester: 0,
        });
    }

    /// Sends a level-triggered pin that is high and not being served.
    fn service_level(&mut self, pin: usize) {
        let e = self.r.entries[pin];
        let due = self.r.level >> pin & 1 != 0
            && e & (entry::LEVEL | entry::MASKED | entry::REMOTE_IRR) == entry::LEVEL;
        if due {
            self.r.entries[pin] |= entry::REMOTE_IRR;
            self.send(e);
        }
    }

    fn write_entry(&mut self, pin: usize, high: bool, value: u32) {
        let old = self.r.entries[pin];
        let (shift, keep) = if high { (32, 0xffff_ffff) } else { (0, 0xffff_ffff << 32) };
        let written = (old & keep | u64::from(value) << shift) & entry::WRITABLE;
        // An edge-triggered entry has no remote IRR: this is how drivers without EOI register clear it.
        let remote = if written & entry::LEVEL != 0 { old & entry::REMOTE_IRR } else { 0 };
        self.r.entries[pin] = written | remote;
        self.service_level(pin);
    }

    fn read_window(&self) -> Option<u32> {
        let index = self.r.select;
        Some(match index {
            0 | 2 => u32::from(self.r.id) << 24,
            1 => u32::from(self.version) | ((PINS as u32 - 1) << 16),
            0x10..0x40 => {
                (self.r.entries[usize::from(index - 0x10) / 2] >> (u32::from(index & 1) * 32)) as u32
            }
            _ => return None,
        })
    }
}

impl InterruptController for IoApic {
    /// An I/O APIC hands out no vectors.
    fn acknowledge(&mut self) -> u8 {
        0xff
    }

    fn end_of_interrupt(&mut self, vector: u8) {
        for pin in 0..PINS {
            let e = self.r.entries[pin];
            if e & entry::VECTOR == u64::from(vector) && e & entry::LEVEL != 0 {
                self.r.entries[pin] &= !entry::REMOTE_IRR;
                self.service_level(pin);
            }
        }
    }
}

impl Device for IoApic {
    fn read(&mut self, _region: usize, offset: u64, data: &mut [u8]) -> Access {
        let value = match offset {
            SELECT => Some(self.r.select.into()),
            WINDOW if data.len() != 4 => return Access::BadSize,
            WINDOW => self.read_window(),
            _ => None,
        };
        le_fill(data, value.unwrap_or(0).into());
        if value.is_some() { Access::Ok } else { Access::NoRegister }
    }

    fn write(&mut self, _region: usize, offset: u64, data: &[u8]) -> Access {
        let value = le_value(data) as u32;
        match offset {
            SELECT => self.r.select = value as u8,
            EOI if self.version >= 0x20 => self.end_of_interrupt(value as u8),
            WINDOW if data.len() != 4 => return Access::BadSize,
            WINDOW => match self.r.select {
                0 => self.r.id = (value >> 24) as u8 & 0x0f,
                1 | 2 => return Access::ReadOnly,
                index @ 0x10..0x40 => self.write_entry(usize::from(index - 0x10) / 2, index & 1 != 0, value),
                _ => return Access::NoRegister,
            },
            _ => return Access::NoRegister,
        }
        Access::Ok
    }

    fn line_in(&mut self, pin: usize, level: bool) {
        if pin >= PINS {
            return;
        }
        let bit = 1 << pin;
        let rises = level && self.r.level & bit == 0;
        self.r.level = self.r.level & !bit | if level { bit } else { 0 };
        let e = self.r.entries[pin];
        if e & entry::LEVEL != 0 {
            self.service_level(pin);
        } else if rises && e & entry::MASKED == 0 {
            // An edge while masked is lost, as on the chip.
            self.send(e);
        }
    }

    fn interrupt_controller(&mut self) -> Option<&mut dyn InterruptController> {
        Some(self)
    }

    fn reset(&mut self, _kind: ResetKind) {
        self.r = Registers::default();
    }

    fn save(&self) -> StateBlob {
        let state = IoApicState {
            id: self.r.id,
            select: self.r.select,
            entries: self.r.entries.to_vec(),
            level: self.r.level,
        };
        state.to_blob()
    }

    fn restore(&mut self, state: &StateBlob) -> Result<(), StateError> {
        let s = IoApicState::from_blob(state)?;
        StateError::at_most("id", s.id, 15)?;
        StateError::at_most("level", s.level, (1 << PINS) - 1)?;
        self.r = Registers {
            id: s.id,
            select: s.select,
            entries: s.entries()?.map(|e| e & (entry::WRITABLE | entry::REMOTE_IRR)),
            level: s.level,
        };
        Ok(())
    }
}

device::state! {
    /// Saved state of an I/O APIC, version 1.
    pub struct IoApicState {
        1 => id: u8,
        2 => select: u8,
        3 => entries: Vec<u64>,
        4 => level: u32,
    }
}

impl IoApicState {
    /// As a device saves it.
    #[must_use]
    pub fn to_blob(&self) -> StateBlob {
        StateBlob::new(IoApicConfig::KIND, 1, self)
    }

    /// From what a device has saved.
    pub fn from_blob(state: &StateBlob) -> Result<Self, StateError> {
        state.decode(IoApicConfig::KIND, 1)
    }

    /// The redirection table, one entry a pin.
    pub fn entries(&self) -> Result<[u64; PINS], StateError> {
        let found = self.entries.len();
        self.entries
            .as_slice()
            .try_into()
            .map_err(|_| StateError::new("entries", format!("expected {PINS} entries, found {found}")))
    }

    /// The pins that are level-triggered, one bit a pin.
    #[must_use]
    pub fn level_triggered(&self) -> u32 {
        let bit = |(pin, e): (usize, &u64)| if e & entry::LEVEL != 0 { 1 << pin } else { 0 };
        self.entries.iter().take(PINS).enumerate().map(bit).sum()
    }
}

#[cfg(test)]
mod tests {
    use device::test_bench::{Bench, check};

    use super::*;

    fn set(b: &Bench, index: u64, value: u64) {
        b.write(0, SELECT, 4, index);
        b.write(0, WINDOW, 4, value);
    }

    fn get(b: &Bench, index: u64) -> u64 {
        b.write(0, SELECT, 1, index);
        b.read(0, WINDOW, 4)
    }

    #[test]
    fn identity() {
        let b = Bench::new(IoApicConfig::default());
        assert_eq!((get(&b, 1), get(&b, 0x10)), (0x0017_0020, 0x1_0000));
        set(&b, 0, 0xff00_0000);
        assert_eq!(get(&b, 0), 0x0f00_0000);
        assert_eq!(b.try_read(0, 4, 4).0, Access::NoRegister);
    }

    #[test]
    fn edges_are_sent_once() {
        let b = Bench::new(IoApicConfig::default());
        b.input("irq", 4, true);
        assert_eq!(b.take_messages(), [], "masked");
        set(&b, 0x19, 0x0300_0000);
        set(&b, 0x18, 0x0841);
        assert_eq!(b.take_messages(), [], "the edge was lost");
        b.input("irq", 4, false);
        b.input("irq", 4, true);
        let message = MsiMessage { address: 0xfee0_3004, data: 0x0041, requester: 0 };
        assert_eq!(b.take_messages(), [message]);
        b.cell().end_of_interrupt(0x41);
        assert_eq!(b.take_messages(), []);
    }

    #[test]
    fn levels_are_sent_until_they_fall() {
        let b = Bench::new(IoApicConfig::default());
        set(&b, 0x10 + 2 * 10, 0x8030);
        b.input("irq", 10, true);
        let message = MsiMessage { address: 0xfee0_0000, data: 0xc030, requester: 0 };
        assert_eq!(b.take_messages(), [message]);
        assert_eq!(get(&b, 0x10 + 2 * 10), 0xc030, "remote IRR");
        b.input("irq", 10, false);
        b.input("irq", 10, true);
        assert_eq!(b.take_messages(), [], "being served");
        b.write(0, EOI, 4, 0x30);
        assert_eq!(b.take_messages(), [message]);
        b.input("irq", 10, false);
        b.cell().end_of_interrupt(0x30);
        assert_eq!((b.take_messages(), get(&b, 0x10 + 2 * 10)), (vec![], 0x8030));
        set(&b, 0x10 + 2 * 10, 0x1_8030);
        b.input("irq", 10, true);
        assert_eq!(b.take_messages(), []);
        set(&b, 0x10 + 2 * 10, 0x8030);
        assert_eq!(b.take_messages(), [message], "unmasked while high");
        set(&b, 0x10 + 2 * 10, 0x0030);
        assert_eq!(get(&b, 0x10 + 2 * 10), 0x0030, "edge mode clears remote IRR");
    }

    #[test]
    fn passes_the_common_tests() {
        check(IoApicConfig::default());
        check(IoApicConfig { version: 0x11 });
    }
}

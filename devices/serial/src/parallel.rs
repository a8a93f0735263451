//! The parallel port of a PC (IEEE 1284 in compatibility mode): a byte, a control and a status register, and a printer at the
//! other end that takes whatever it is given.
//!
//! Region 0 are eight ports, the first three of which are the registers. There is no hardware of the host's behind it, so EPP and
//! ECP have nobody to talk to: their registers read as ones.

use std::sync::Arc;

use device::{
    Access, AccessRule, BuildError, CharBackend, Device, DeviceConfig, IrqLine, PinSpec, RegionSpec,
    ResetKind, StateBlob, StateError, Wires, device_config, le_fill, le_value,
};

device_config! {
    /// A parallel port.
    #[derive(Clone, Debug, PartialEq, Eq)]
    pub struct ParallelConfig {}
}

const PORTS: u64 = 8;

mod reg {
    pub(super) const DATA: u64 = 0;
    pub(super) const STATUS: u64 = 1;
    pub(super) const CONTROL: u64 = 2;
}

mod status {
    /// High while the printer can take a byte.
    pub(super) const NOT_BUSY: u8 = 1 << 7;
    /// Low while it acknowledges one.
    pub(super) const NOT_ACK: u8 = 1 << 6;
    pub(super) const SELECTED: u8 = 1 << 4;
    pub(super) const NO_ERROR: u8 = 1 << 3;
    /// A printer that waits.
    pub(super) const READY: u8 = NOT_BUSY | NOT_ACK | SELECTED | NO_ERROR;
}

mod control {
    pub(super) const STROBE: u8 = 1 << 0;
    /// Low resets the printer.
    pub(super) const NOT_INIT: u8 = 1 << 2;
    pub(super) const SELECT: u8 = 1 << 3;
    /// An acknowledgement interrupts.
    pub(super) const INTERRUPT: u8 = 1 << 4;
    /// The port reads.
    pub(super) const INPUT: u8 = 1 << 5;
    /// Bits that nothing is behind.
    pub(super) const ONES: u8 = 0xc0;
}

impl DeviceConfig for ParallelConfig {
    const KIND: &'static str = "isa-parallel";
    const HELP: &'static str = "parallel port";

    fn regions(&self) -> Vec<RegionSpec> {
        vec![RegionSpec::new("registers", PORTS, AccessRule::BYTE)]
    }

    fn outputs(&self) -> Vec<PinSpec> {
        vec![PinSpec::one("irq")]
    }

    fn chardevs(&self) -> Vec<&'static str> {
        vec!["chardev"]
    }

    fn build(self, wires: &mut Wires) -> Result<Box<dyn Device>, BuildError> {
        let (irq, chars) = (wires.line("irq"), wires.chardev("chardev"));
        Ok(Box::new(Parallel { irq, chars, s: V1::fresh() }))
    }
}

device::state! {
    /// Saved state, version 1.
    struct V1 { 1 => data: u8, 2 => status: u8, 3 => control: u8, 4 => pending: bool }
}

impl V1 {
    fn fresh() -> Self {
        V1 {
            data: 0xff,
            status: status::READY,
            control: control::SELECT | control::NOT_INIT | control::ONES,
            pending: false,
        }
    }
}

struct Parallel {
    irq: IrqLine,
    chars: Arc<dyn CharBackend>,
    s: V1,
}

impl Parallel {
    fn set_control(&mut self, value: u8) {
        let value = value | control::ONES;
        let struck = |control: u8| control & control::STROBE != 0;
        if value & control::NOT_INIT == 0 {
            self.s.status = status::READY;
        } else if value & control::SELECT != 0 {
            if struck(value) {
                self.s.status &= !status::NOT_BUSY;
                if !struck(self.s.control) {
                    // A printer without end: what a slow host does not take is lost rather than stopping the guest.
                    self.chars.write(&[self.s.data]);
                }
            } else if value & control::INTERRUPT != 0 {
                self.s.pending = true;
            }
        }
        self.s.control = value;
    }

    /// The status, which moves on each time the guest looks: a byte is acknowledged, then the printer waits for the next.
    fn read_status(&mut self) -> u8 {
        let now = self.s.status;
        self.s.pending = false;
        if now & status::NOT_BUSY == 0 && self.s.control & control::STROBE == 0 {
            self.s.status ^= status::NOT_ACK;
            if now & status::NOT_ACK == 0 {
                self.s.status |= status::NOT_BUSY;
            }
        }
        now
    }
}

impl Device for Parallel {
    fn read(&mut self, _region: usize, offset: u64, data: &mut [u8]) -> Access {
        let value = match offset {
            // Nobody drives the wires towards the port.
            reg::DATA if self.s.control & control::INPUT != 0 => 0xff,
            reg::DATA => self.s.data,
            reg::STATUS => self.read_status(),
            reg::CONTROL => self.s.control,
            _ => 0xff,
        };
        self.irq.set(self.s.pending);
        le_fill(data, value.into());
        Access::Ok
    }

    fn write(&mut self, _region: usize, offset: u64, data: &[u8]) -> Access {
        let value = le_value(data) as u8;
        match offset {
            reg::DATA => self.s.data = value,
            reg::CONTROL => self.set_control(value),
            _ => {}
        }
        self.irq.set(self.s.pending);
        Access::Ok
    }

    fn reset(&mut self, _kind: ResetKind) {
        self.s = V1::fresh();
        self.irq.set(false);
    }

    fn save(&self) -> StateBlob {
        StateBlob::new(ParallelConfig::KIND, 1, &self.s)
    }

    fn restore(&mut self, state: &StateBlob) -> Result<(), StateError> {
        self.s = state.decode(ParallelConfig::KIND, 1)?;
        self.irq.import(self.s.pending);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use device::test_bench::{Bench, check};

    use super::*;

    #[test]
    fn bytes_are_printed_by_the_strobe() {
        let b = Bench::new(ParallelConfig::default());
        assert_eq!((b.read(0, 0, 1), b.read(0, 1, 1), b.read(0, 2, 1)), (0xff, 0xd8, 0xcc));
        for byte in *b"ok" {
            b.write(0, 0, 1, byte.into());
            b.write(0, 2, 1, 0x0d);
            b.write(0, 2, 1, 0x0d);
            b.write(0, 2, 1, 0x0c);
            let looks: Vec<u64> = (0..3).map(|_| b.read(0, 1, 1)).collect();
            assert_eq!(looks, [0x58, 0x18, 0xd8], "busy, acknowledged, ready");
        }
        assert_eq!(b.output(0), b"ok");
        assert_eq!(b.read(0, 3, 1), 0xff, "no EPP");
    }

    #[test]
    fn an_acknowledgement_interrupts_until_the_status_is_read() {
        let b = Bench::new(ParallelConfig::default());
        b.write(0, 2, 1, 0x1d);
        assert!(!b.line("irq"));
        b.write(0, 2, 1, 0x1c);
        assert!(b.line("irq"));
        b.read(0, 1, 1);
        assert!(!b.line("irq"));
        // An input port reads nothing but ones; a reset of the printer makes it ready.
        b.write(0, 0, 1, 0x55);
        b.write(0, 2, 1, 0x2d);
        assert_eq!((b.read(0, 0, 1), b.read(0, 1, 1) & 0x80), (0xff, 0));
        b.write(0, 2, 1, 0x08);
        assert_eq!((b.read(0, 0, 1), b.read(0, 1, 1)), (0x55, 0xd8));
    }

    #[test]
    fn passes_the_common_tests() {
        check(ParallelConfig::default());
    }
}

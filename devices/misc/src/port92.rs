//! System control port A of PS/2 and later PCs (port 0x92): fast A20 gate and fast reset.

use device::{
    Access, AccessRule, BuildError, Device, DeviceConfig, IrqLine, PinSpec, RegionSpec, ResetKind, StateBlob,
    StateError, SystemControl, SystemRequest, Wires, device_config, le_fill, le_value,
};

device_config! {
    /// System control port A.
    #[derive(Clone, Debug, PartialEq, Eq)]
    pub struct Port92Config {}
}

const RESET: u8 = 1 << 0;
const A20: u8 = 1 << 1;

impl DeviceConfig for Port92Config {
    const KIND: &'static str = "port92";
    const HELP: &'static str = "fast A20 gate and reset (port 0x92 of a PC)";

    fn regions(&self) -> Vec<RegionSpec> {
        vec![RegionSpec::new("port", 1, AccessRule::BYTE)]
    }

    fn outputs(&self) -> Vec<PinSpec> {
        vec![PinSpec::one("a20")]
    }

    fn build(self, wires: &mut Wires) -> Result<Box<dyn Device>, BuildError> {
        Ok(Box::new(Port92 { a20: wires.line("a20"), system: wires.system(), value: 0 }))
    }
}

struct Port92 {
    a20: IrqLine,
    system: SystemControl,
    value: u8,
}

impl Device for Port92 {
    fn read(&mut self, _region: usize, _offset: u64, data: &mut [u8]) -> Access {
        le_fill(data, self.value.into());
        Access::Ok
    }

    fn write(&mut self, _region: usize, _offset: u64, data: &[u8]) -> Access {
        let value = le_value(data) as u8;
        let rises = value & !self.value;
        self.value = value;
        self.a20.set(value & A20 != 0);
        if rises & RESET != 0 {
            self.system.request(SystemRequest::Reset);
        }
        Access::Ok
    }

    fn reset(&mut self, _kind: ResetKind) {
        self.value = 0;
        self.a20.set(false);
    }

    fn save(&self) -> StateBlob {
        StateBlob::new(Port92Config::KIND, 1, &state::V1 { value: self.value })
    }

    fn restore(&mut self, state: &StateBlob) -> Result<(), StateError> {
        let s: state::V1 = state.decode(Port92Config::KIND, 1)?;
        self.value = s.value;
        self.a20.import(s.value & A20 != 0);
        Ok(())
    }
}

mod state {
    device::state! {
        /// Saved state of port 0x92, version 1.
        pub(super) struct V1 { 1 => value: u8 }
    }
}

#[cfg(test)]
mod tests {
    use device::test_bench::{Bench, check};

    use super::*;

    #[test]
    fn resets_on_the_rising_bit_only() {
        let b = Bench::new(Port92Config::default());
        b.write(0, 0, 1, 2);
        assert!(b.line("a20"));
        b.write(0, 0, 1, 3);
        b.write(0, 0, 1, 1);
        assert!(!b.line("a20"));
        assert_eq!(b.take_requests(), [SystemRequest::Reset]);
    }

    #[test]
    fn passes_the_common_tests() {
        check(Port92Config::default());
    }
}

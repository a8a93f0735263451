//! A port whose write ends Rhea: exit code `value * 2 + 1`, so that it never looks like an orderly end.

use device::{
    Access, AccessRule, BuildError, Device, DeviceConfig, RegionSpec, ResetKind, StateBlob, StateError,
    SystemControl, SystemRequest, Wires, device_config, le_fill, le_value,
};

device_config! {
    /// Exit port for guest tests.
    #[derive(Clone, Debug, PartialEq, Eq)]
    pub struct IsaDebugExitConfig {
        /// Number of ports.
        pub iosize: u8 = 2,
    }
}

impl DeviceConfig for IsaDebugExitConfig {
    const KIND: &'static str = "isa-debug-exit";
    const HELP: &'static str = "port that ends the emulator with an exit code (port 0x501 by convention)";

    fn regions(&self) -> Vec<RegionSpec> {
        vec![RegionSpec::new("port", self.iosize.max(1).into(), AccessRule::UP_TO_4)]
    }

    fn build(self, wires: &mut Wires) -> Result<Box<dyn Device>, BuildError> {
        Ok(Box::new(IsaDebugExit { system: wires.system() }))
    }
}

struct IsaDebugExit {
    system: SystemControl,
}

impl Device for IsaDebugExit {
    fn read(&mut self, _region: usize, _offset: u64, data: &mut [u8]) -> Access {
        le_fill(data, 0);
        Access::Ok
    }

    fn write(&mut self, _region: usize, _offset: u64, data: &[u8]) -> Access {
        let code = (le_value(data) << 1 | 1) as u8;
        self.system.request(SystemRequest::Shutdown { code: Some(code) });
        Access::Ok
    }

    fn reset(&mut self, _kind: ResetKind) {}

    fn save(&self) -> StateBlob {
        StateBlob::none(IsaDebugExitConfig::KIND)
    }

    fn restore(&mut self, state: &StateBlob) -> Result<(), StateError> {
        state.expect_none(IsaDebugExitConfig::KIND)
    }
}

#[cfg(test)]
mod tests {
    use device::test_bench::{Bench, check};

    use super::*;

    #[test]
    fn exits_with_an_odd_code() {
        let b = Bench::new(IsaDebugExitConfig::default());
        b.write(0, 0, 1, 0x10);
        assert_eq!(b.take_requests(), [SystemRequest::Shutdown { code: Some(33) }]);
    }

    #[test]
    fn passes_the_common_tests() {
        check(IsaDebugExitConfig::default());
    }
}

//! SiFive's test finisher (`sifive,test0`, `sifive,test1`; also described to guests as a `syscon` for power-off
//! and reboot): a write of a magic number ends or resets the machine.

use device::{
    Access, AccessRule, BuildError, Device, DeviceConfig, RegionSpec, ResetKind, StateBlob, StateError,
    SystemControl, SystemRequest, Wires, device_config, le_fill, le_value,
};

device_config! {
    /// SiFive test finisher.
    #[derive(Clone, Debug, PartialEq, Eq)]
    pub struct SifiveTestConfig {}
}

const FAIL: u64 = 0x3333;
const PASS: u64 = 0x5555;
const RESET: u64 = 0x7777;

impl DeviceConfig for SifiveTestConfig {
    const KIND: &'static str = "sifive.test";
    const HELP: &'static str = "SiFive test finisher: power-off, reboot, exit code";

    fn regions(&self) -> Vec<RegionSpec> {
        vec![RegionSpec::new("registers", 0x1000, AccessRule { min: 2, max: 4, unaligned: false })]
    }

    fn build(self, wires: &mut Wires) -> Result<Box<dyn Device>, BuildError> {
        Ok(Box::new(SifiveTest { system: wires.system() }))
    }
}

struct SifiveTest {
    system: SystemControl,
}

impl Device for SifiveTest {
    fn read(&mut self, _region: usize, offset: u64, data: &mut [u8]) -> Access {
        le_fill(data, 0);
        if offset == 0 { Access::Ok } else { Access::NoRegister }
    }

    fn write(&mut self, _region: usize, offset: u64, data: &[u8]) -> Access {
        if offset != 0 {
            return Access::NoRegister;
        }
        let value = le_value(data);
        match value & 0xffff {
            // The host's exit codes have eight bits; a failure must not look like success.
            FAIL => {
                let code = match (value >> 16) as u8 {
                    0 => 1,
                    code => code,
                };
                self.system.request(SystemRequest::Shutdown { code: Some(code) });
            }
            PASS => self.system.request(SystemRequest::Shutdown { code: None }),
            RESET => self.system.request(SystemRequest::Reset),
            _ => return Access::NoRegister,
        }
        Access::Ok
    }

    fn reset(&mut self, _kind: ResetKind) {}

    fn save(&self) -> StateBlob {
        StateBlob::none(SifiveTestConfig::KIND)
    }

    fn restore(&mut self, state: &StateBlob) -> Result<(), StateError> {
        state.expect_none(SifiveTestConfig::KIND)
    }
}

#[cfg(test)]
mod tests {
    use device::test_bench::{Bench, check};

    use super::*;

    #[test]
    fn asks_for_the_right_thing() {
        let b = Bench::new(SifiveTestConfig::default());
        b.write(0, 0, 4, 0x5555);
        b.write(0, 0, 4, 0x7777);
        b.write(0, 0, 4, 0x0003_3333);
        b.write(0, 0, 2, 0x3333);
        assert_eq!(b.try_write(0, 0, 4, 1), Access::NoRegister);
        assert_eq!(b.try_write(0, 4, 4, 0x5555), Access::NoRegister);
        let wanted = [
            SystemRequest::Shutdown { code: None },
            SystemRequest::Reset,
            SystemRequest::Shutdown { code: Some(3) },
            SystemRequest::Shutdown { code: Some(1) },
        ];
        assert_eq!(b.take_requests(), wanted);
    }

    #[test]
    fn passes_the_common_tests() {
        check(SifiveTestConfig::default());
    }
}

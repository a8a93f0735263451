//! The debug console of Bochs and its followers: bytes written to one port appear on the host.
//!
//! A read gives 0xe9, by which a guest finds it.

use std::sync::Arc;

use device::{
    Access, AccessRule, BuildError, CharBackend, Device, DeviceConfig, RegionSpec, ResetKind, StateBlob,
    StateError, Wires, device_config, le_fill,
};

device_config! {
    /// A debug console port.
    #[derive(Clone, Debug, PartialEq, Eq)]
    pub struct DebugConConfig {
        /// Value that a read gives.
        pub readback: u8 = 0xe9,
    }
}

impl DeviceConfig for DebugConConfig {
    const KIND: &'static str = "isa-debugcon";
    const HELP: &'static str = "debug console (port 0xe9 of a PC)";

    fn regions(&self) -> Vec<RegionSpec> {
        vec![RegionSpec::new("port", 1, AccessRule::BYTE)]
    }

    fn chardevs(&self) -> Vec<&'static str> {
        vec!["chardev"]
    }

    fn build(self, wires: &mut Wires) -> Result<Box<dyn Device>, BuildError> {
        Ok(Box::new(DebugCon { readback: self.readback, chars: wires.chardev("chardev") }))
    }
}

struct DebugCon {
    readback: u8,
    chars: Arc<dyn CharBackend>,
}

impl Device for DebugCon {
    fn read(&mut self, _region: usize, _offset: u64, data: &mut [u8]) -> Access {
        le_fill(data, self.readback.into());
        Access::Ok
    }

    fn write(&mut self, _region: usize, _offset: u64, data: &[u8]) -> Access {
        // A debugging aid: what a slow host does not take is lost rather than stopping the guest.
        self.chars.write(data);
        Access::Ok
    }

    fn reset(&mut self, _kind: ResetKind) {}

    fn save(&self) -> StateBlob {
        StateBlob::none(DebugConConfig::KIND)
    }

    fn restore(&mut self, state: &StateBlob) -> Result<(), StateError> {
        state.expect_none(DebugConConfig::KIND)
    }
}

#[cfg(test)]
mod tests {
    use device::test_bench::{Bench, check};

    use super::*;

    #[test]
    fn prints_and_is_found() {
        let bench = Bench::new(DebugConConfig::default());
        bench.write(0, 0, 1, b'h'.into());
        bench.write(0, 0, 1, b'i'.into());
        assert_eq!((bench.output(0), bench.read(0, 0, 1)), (b"hi".to_vec(), 0xe9));
    }

    #[test]
    fn passes_the_common_tests() {
        check(DebugConConfig::default());
    }
}

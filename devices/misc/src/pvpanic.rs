//! pvpanic: a byte through which a guest kernel tells of its own end (QEMU `docs/specs/pvpanic`).
//!
//! Bit 0: panicked; bit 1: panicked, a crash kernel takes over; bit 2: shutting down. A read gives the bits that
//! are understood.

use device::{
    Access, AccessRule, BuildError, Device, DeviceConfig, RegionSpec, ResetKind, StateBlob, StateError,
    SystemControl, SystemRequest, Wires, device_config, le_fill, le_value,
};

device_config! {
    /// Panic notifier.
    #[derive(Clone, Debug, PartialEq, Eq)]
    pub struct PvpanicConfig {
        /// Events the guest is told it may signal.
        pub events: u8 = 7,
    }
}

const PANICKED: u64 = 1 << 0;
const CRASH_LOADED: u64 = 1 << 1;
const SHUTDOWN: u64 = 1 << 2;

impl DeviceConfig for PvpanicConfig {
    const KIND: &'static str = "pvpanic";
    const HELP: &'static str = "panic notifier (port 0x505 of a PC)";

    fn regions(&self) -> Vec<RegionSpec> {
        vec![RegionSpec::new("port", 1, AccessRule::BYTE)]
    }

    fn build(self, wires: &mut Wires) -> Result<Box<dyn Device>, BuildError> {
        Ok(Box::new(Pvpanic::new(self.events, wires.system())))
    }
}

pub(crate) struct Pvpanic {
    events: u8,
    system: SystemControl,
}

impl Pvpanic {
    pub(crate) fn new(events: u8, system: SystemControl) -> Self {
        Pvpanic { events, system }
    }
}

impl Device for Pvpanic {
    fn read(&mut self, _region: usize, _offset: u64, data: &mut [u8]) -> Access {
        le_fill(data, self.events.into());
        Access::Ok
    }

    fn write(&mut self, _region: usize, _offset: u64, data: &[u8]) -> Access {
        let events = le_value(data) & u64::from(self.events);
        let request = if events & PANICKED != 0 {
            SystemRequest::Panic
        } else if events & CRASH_LOADED != 0 {
            SystemRequest::CrashLoaded
        } else if events & SHUTDOWN != 0 {
            SystemRequest::GuestShutdown
        } else {
            return Access::Unimplemented;
        };
        self.system.request(request);
        Access::Ok
    }

    fn reset(&mut self, _kind: ResetKind) {}

    fn save(&self) -> StateBlob {
        StateBlob::none(PvpanicConfig::KIND)
    }

    fn restore(&mut self, state: &StateBlob) -> Result<(), StateError> {
        state.expect_none(PvpanicConfig::KIND)
    }
}

#[cfg(test)]
mod tests {
    use device::test_bench::{Bench, check};

    use super::*;

    #[test]
    fn tells_the_gravest_event() {
        let b = Bench::new(PvpanicConfig { events: 3 });
        assert_eq!(b.read(0, 0, 1), 3);
        b.write(0, 0, 1, 3);
        b.write(0, 0, 1, 2);
        assert_eq!(b.try_write(0, 0, 1, 4), Access::Unimplemented);
        assert_eq!(b.take_requests(), [SystemRequest::Panic, SystemRequest::CrashLoaded]);
    }

    #[test]
    fn passes_the_common_tests() {
        check(PvpanicConfig::default());
    }
}

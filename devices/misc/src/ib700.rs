//! The watchdog of the iBASE IB700 board: a write to one port starts or restarts it, a write to another stops it.
//!
//! Region 0 are the ports from 0x441. What it does when it is not restarted in time is a reset.

use device::{
    Access, AccessRule, BuildError, Clock, Device, DeviceConfig, NS_PER_SEC, RegionSpec, ResetKind,
    StateBlob, StateError, SystemControl, SystemRequest, Timer, Wires, device_config, le_value,
};

device_config! {
    /// Watchdog.
    #[derive(Clone, Debug, PartialEq, Eq)]
    pub struct Ib700Config {}
}

const DISABLE: u64 = 0;
const ENABLE: u64 = 2;

impl DeviceConfig for Ib700Config {
    const KIND: &'static str = "ib700";
    const HELP: &'static str = "iBASE 700 watchdog (ports 0x441 and 0x443 of a PC)";

    fn regions(&self) -> Vec<RegionSpec> {
        vec![RegionSpec::new("ports", 3, AccessRule::BYTE)]
    }

    fn build(self, wires: &mut Wires) -> Result<Box<dyn Device>, BuildError> {
        Ok(Box::new(Ib700 { timer: wires.timer(0), clock: wires.clock(), system: wires.system() }))
    }
}

struct Ib700 {
    timer: Timer,
    clock: Clock,
    system: SystemControl,
}

impl Device for Ib700 {
    fn read(&mut self, _region: usize, _offset: u64, _data: &mut [u8]) -> Access {
        Access::NoRegister
    }

    fn write(&mut self, _region: usize, offset: u64, data: &[u8]) -> Access {
        match offset {
            DISABLE => self.timer.cancel(),
            // 30 seconds down to none, in steps of two.
            ENABLE => {
                let seconds = 30 - 2 * (le_value(data) & 15);
                self.timer.arm(self.clock.now().saturating_add(seconds * NS_PER_SEC));
            }
            _ => return Access::NoRegister,
        }
        Access::Ok
    }

    fn timer(&mut self, _id: usize) {
        self.system.request(SystemRequest::Watchdog);
    }

    fn reset(&mut self, _kind: ResetKind) {
        self.timer.cancel();
    }

    fn save(&self) -> StateBlob {
        StateBlob::new(Ib700Config::KIND, 1, &state::V1 { deadline: self.timer.deadline() })
    }

    fn restore(&mut self, state: &StateBlob) -> Result<(), StateError> {
        let s: state::V1 = state.decode(Ib700Config::KIND, 1)?;
        self.timer.set(s.deadline);
        Ok(())
    }
}

mod state {
    device::state! {
        /// Saved state of the watchdog, version 1.
        pub(super) struct V1 { 1 => deadline: Option<u64> }
    }
}

#[cfg(test)]
mod tests {
    use device::test_bench::{Bench, check};

    use super::*;

    #[test]
    fn resets_unless_it_is_restarted() {
        let b = Bench::new(Ib700Config::default());
        b.write(0, 2, 1, 10);
        b.advance(9 * NS_PER_SEC);
        b.write(0, 2, 1, 10);
        b.advance(9 * NS_PER_SEC);
        assert_eq!(b.take_requests(), []);
        b.advance(NS_PER_SEC);
        assert_eq!(b.take_requests(), [SystemRequest::Watchdog]);
        b.write(0, 2, 1, 10);
        b.write(0, 0, 1, 0);
        b.advance(100 * NS_PER_SEC);
        assert_eq!(b.take_requests(), []);
    }

    #[test]
    fn passes_the_common_tests() {
        check(Ib700Config::default());
    }
}

//! What vCPUs reach of the machine while they run.

use std::sync::{Arc, OnceLock};

use accel::{IoResult, VcpuIo};
use device::DeviceCell;
use guest_memory::{AddressSpace, BusResult};

/// Dispatch of vCPU accesses.
pub(crate) struct MachineIo {
    pub(crate) memory: AddressSpace,
    pub(crate) ports: Option<AddressSpace>,
    /// The controller that answers acknowledge cycles, if one lives in Rhea.
    pub(crate) controller: OnceLock<Arc<DeviceCell>>,
    /// Those that are told the end of level interrupts of an in-kernel local controller.
    pub(crate) cells: Vec<Arc<DeviceCell>>,
}

fn result(r: BusResult) -> IoResult {
    match r {
        BusResult::Ok => IoResult::Ok,
        BusResult::DecodeError => IoResult::DecodeError,
        _ => IoResult::DeviceError,
    }
}

impl VcpuIo for MachineIo {
    fn mmio_read(&self, gpa: u64, data: &mut [u8]) -> IoResult {
        result(self.memory.read(gpa, data))
    }

    fn mmio_write(&self, gpa: u64, data: &[u8]) -> IoResult {
        result(self.memory.write(gpa, data))
    }

    fn pio_read(&self, port: u16, data: &mut [u8]) -> IoResult {
        match &self.ports {
            Some(p) => result(p.read(port.into(), data)),
            None => {
                data.fill(0xff);
                IoResult::DecodeError
            }
        }
    }

    fn pio_write(&self, port: u16, data: &[u8]) -> IoResult {
        self.ports.as_ref().map_or(IoResult::DecodeError, |p| result(p.write(port.into(), data)))
    }

    fn ack_irq(&self, _vcpu: u32) -> Option<u8> {
        self.controller.get()?.acknowledge()
    }

    fn eoi(&self, vector: u8) {
        self.cells.iter().for_each(|c| c.end_of_interrupt(vector));
    }
}

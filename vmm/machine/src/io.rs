//! What vCPUs reach of the machine while they run.

use std::sync::Arc;

use accel::{IoResult, LocalApics, VcpuIo};
use device::{Access, DeviceCell, LocalControllers, Taken};
use guest_memory::{AddressSpace, BusResult};

/// Size of the page at which a vCPU sees its local controller.
const LOCAL_PAGE: u64 = 0x1000;

/// Dispatch of vCPU accesses: what all vCPUs share.
pub(crate) struct MachineIo {
    pub(crate) memory: AddressSpace,
    pub(crate) ports: Option<AddressSpace>,
    /// The local controllers, if they live in Rhea.
    pub(crate) local: Option<Arc<dyn LocalControllers>>,
    /// The controllers that live in Rhea: the first answers acknowledge cycles, all hear of the ends of interrupts.
    pub(crate) controllers: Vec<Arc<DeviceCell>>,
}

/// Dispatch of one vCPU's accesses.
pub(crate) struct CpuIo {
    pub(crate) machine: Arc<MachineIo>,
    pub(crate) cpu: u32,
}

impl CpuIo {
    /// The local controllers and the offset in this vCPU's page, if the access of `len` bytes is there.
    fn local(&self, gpa: u64, len: usize) -> Option<(&dyn LocalControllers, u64)> {
        let local = self.machine.local.as_deref()?;
        let offset = gpa.checked_sub(local.page(self.cpu)?)?;
        (offset < LOCAL_PAGE && len as u64 <= LOCAL_PAGE - offset).then_some((local, offset))
    }
}

fn result(r: BusResult) -> IoResult {
    match r {
        BusResult::Ok => IoResult::Ok,
        BusResult::DecodeError => IoResult::DecodeError,
        _ => IoResult::DeviceError,
    }
}

impl VcpuIo for CpuIo {
    fn mmio_read(&self, gpa: u64, data: &mut [u8]) -> IoResult {
        if let Some((local, offset)) = self.local(gpa, data.len()) {
            if local.read(self.cpu, offset, data) != Access::Ok {
                data.fill(0);
            }
            return IoResult::Ok;
        }
        result(self.machine.memory.read(gpa, data))
    }

    fn mmio_write(&self, gpa: u64, data: &[u8]) -> IoResult {
        if let Some((local, offset)) = self.local(gpa, data.len()) {
            // A register that does not exist takes no notice.
            let _ = local.write(self.cpu, offset, data);
            return IoResult::Ok;
        }
        result(self.machine.memory.write(gpa, data))
    }

    fn pio_read(&self, port: u16, data: &mut [u8]) -> IoResult {
        match &self.machine.ports {
            Some(p) => result(p.read(port.into(), data)),
            None => {
                data.fill(0xff);
                IoResult::DecodeError
            }
        }
    }

    fn pio_write(&self, port: u16, data: &[u8]) -> IoResult {
        let ports = self.machine.ports.as_ref();
        ports.map_or(IoResult::DecodeError, |p| result(p.write(port.into(), data)))
    }

    fn ack_irq(&self, _vcpu: u32) -> Option<u8> {
        match self.machine.local.as_ref().map(|l| l.acknowledge(self.cpu)) {
            Some(Taken::Vector(vector)) => Some(vector),
            Some(Taken::Nothing) => None,
            Some(Taken::External) | None => self.machine.controllers.first()?.acknowledge(),
        }
    }

    fn eoi(&self, vector: u8) {
        self.machine.controllers.iter().for_each(|c| c.end_of_interrupt(vector));
    }

    fn local_apics(&self) -> Option<&dyn LocalApics> {
        self.machine.local.is_some().then_some(self)
    }
}

impl LocalApics for CpuIo {
    fn read_msr(&self, vcpu: u32, msr: u32) -> Option<u64> {
        self.machine.local.as_ref()?.read_msr(vcpu, msr)
    }

    fn write_msr(&self, vcpu: u32, msr: u32, value: u64) -> bool {
        self.machine.local.as_ref().is_some_and(|l| l.write_msr(vcpu, msr, value))
    }

    fn cr8(&self, vcpu: u32) -> u8 {
        self.machine.local.as_ref().map_or(0, |l| l.cr8(vcpu))
    }

    fn set_cr8(&self, vcpu: u32, value: u8) {
        if let Some(local) = &self.machine.local {
            local.set_cr8(vcpu, value);
        }
    }
}

//! The optional abilities: irqfd, ioeventfd, dirty log, clock, in-kernel interrupt controllers.

use std::os::raw::c_int;
use std::sync::Arc;

use accel::{AccelError, DirtyLog, IoEventFd, IrqFd, KernelIrqchip, MsiMessage, RoutingEntry, RoutingSource};
use kvm_bindings::{
    KVM_IRQ_ROUTING_IRQCHIP, KVM_IRQ_ROUTING_MSI, KVM_IRQFD_FLAG_DEASSIGN, KVM_MSI_VALID_DEVID,
    KvmIrqRouting, kvm_ioeventfd, kvm_ioeventfd_flag_nr_datamatch, kvm_ioeventfd_flag_nr_deassign,
    kvm_ioeventfd_flag_nr_pio, kvm_irq_routing_entry, kvm_irqfd, kvm_msi,
};
use kvm_ioctls::{Cap, VmFd};
use parking_lot::Mutex;

use super::{host, ioctl, refused, slots::Slots};
use crate::NAME;

/// irqfd, and ioeventfd.
pub(crate) struct Events(pub(crate) Arc<VmFd>);

impl IrqFd for Events {
    fn attach(&self, fd: c_int, gsi: u32) -> Result<(), AccelError> {
        let request = kvm_irqfd { fd: fd as u32, gsi, ..Default::default() };
        ioctl::irqfd(&self.0, &request).map_err(refused("attaching an event to an interrupt (KVM_IRQFD)"))
    }

    fn detach(&self, fd: c_int, gsi: u32) -> Result<(), AccelError> {
        let request = kvm_irqfd { fd: fd as u32, gsi, flags: KVM_IRQFD_FLAG_DEASSIGN, ..Default::default() };
        ioctl::irqfd(&self.0, &request).map_err(refused("detaching an event from an interrupt (KVM_IRQFD)"))
    }
}

impl Events {
    fn ioevent(
        &self,
        fd: c_int,
        gpa: u64,
        port: bool,
        len: u32,
        value: Option<u64>,
        remove: bool,
    ) -> Result<(), AccelError> {
        let flag = |on: bool, nr: u32| if on { 1 << nr } else { 0 };
        let request = kvm_ioeventfd {
            datamatch: value.unwrap_or(0),
            addr: gpa,
            len,
            fd,
            flags: flag(port, kvm_ioeventfd_flag_nr_pio)
                | flag(value.is_some(), kvm_ioeventfd_flag_nr_datamatch)
                | flag(remove, kvm_ioeventfd_flag_nr_deassign),
            ..Default::default()
        };
        ioctl::ioeventfd(&self.0, &request).map_err(refused("tying an event to an address (KVM_IOEVENTFD)"))
    }
}

impl IoEventFd for Events {
    fn attach(
        &self,
        fd: c_int,
        gpa: u64,
        port: bool,
        len: u32,
        value: Option<u64>,
    ) -> Result<(), AccelError> {
        self.ioevent(fd, gpa, port, len, value, false)
    }

    fn detach(
        &self,
        fd: c_int,
        gpa: u64,
        port: bool,
        len: u32,
        value: Option<u64>,
    ) -> Result<(), AccelError> {
        self.ioevent(fd, gpa, port, len, value, true)
    }
}

impl DirtyLog for Slots {
    fn enable(&self, on: bool) -> Result<(), AccelError> {
        self.set_log(on)
    }

    fn sync(&self) -> Result<(), AccelError> {
        self.sync_log()
    }
}

/// The controllers in the kernel.
pub(crate) struct Irqchip {
    vm: Arc<VmFd>,
    chips: host::Chips,
    routes: Mutex<Routes>,
}

/// What KVM's routing table is made from.
#[derive(Default)]
struct Routes {
    /// The owner's table.
    table: Vec<kvm_irq_routing_entry>,
    /// Messages of level-triggered interrupts, by global interrupt: without a route for them KVM would not report
    /// their end to an I/O APIC in Rhea.
    level: Vec<MsiMessage>,
    /// Where the next of those goes when all places are taken.
    next: usize,
}

/// Trigger mode bit in the data of a message.
const MSI_LEVEL: u32 = 1 << 15;

impl Irqchip {
    pub(crate) fn new(vm: Arc<VmFd>, chips: host::Chips) -> Self {
        Self { vm, chips, routes: Mutex::default() }
    }

    /// Gives KVM a route for a level-triggered message, if it has none yet.
    fn learn_level(&self, msi: MsiMessage) -> Result<(), AccelError> {
        let mut routes = self.routes.lock();
        if routes.level.contains(&msi) {
            return Ok(());
        }
        let places = host::LEVEL_ROUTES as usize;
        if routes.level.len() < places {
            routes.level.push(msi);
        } else if places > 0 {
            let at = routes.next % places;
            routes.level[at] = msi;
            routes.next = at + 1;
        }
        self.apply(&routes)
    }

    fn apply(&self, routes: &Routes) -> Result<(), AccelError> {
        let level = routes.level.iter().zip(0..);
        let learnt =
            level.map(|(msi, gsi)| self.entry(&RoutingEntry { gsi, source: RoutingSource::Msi(*msi) }));
        // A row of the owner's counts more than one that was learnt.
        let mut entries = routes.table.clone();
        entries.extend(learnt.filter(|e| !routes.table.iter().any(|t| t.gsi == e.gsi)));
        let n = entries.len();
        let routing = KvmIrqRouting::from_entries(&entries).map_err(|_| AccelError::Memory {
            accel: NAME,
            problem: format!("{n} interrupt routes are too many"),
        })?;
        self.vm.set_gsi_routing(&routing).map_err(refused("setting interrupt routes (KVM_SET_GSI_ROUTING)"))
    }

    fn entry(&self, row: &RoutingEntry) -> kvm_irq_routing_entry {
        let mut entry = kvm_irq_routing_entry { gsi: row.gsi, ..Default::default() };
        match row.source {
            RoutingSource::Pin { chip, pin } => {
                entry.type_ = KVM_IRQ_ROUTING_IRQCHIP;
                entry.u.irqchip.irqchip = chip;
                entry.u.irqchip.pin = pin;
            }
            RoutingSource::Msi(msi) => {
                entry.type_ = KVM_IRQ_ROUTING_MSI;
                entry.u.msi.address_lo = msi.address as u32;
                entry.u.msi.address_hi = (msi.address >> 32) as u32;
                entry.u.msi.data = msi.data;
                if self.has_device_id() {
                    entry.flags = KVM_MSI_VALID_DEVID;
                    entry.u.msi.__bindgen_anon_1.devid = msi.device_id;
                }
            }
        }
        entry
    }

    fn has_device_id(&self) -> bool {
        self.vm.check_extension(Cap::MsiDevid)
    }
}

impl KernelIrqchip for Irqchip {
    fn holds_address(&self, gpa: u64) -> bool {
        self.chips.holds_address(gpa)
    }

    fn holds_port(&self, port: u16) -> bool {
        self.chips.holds_port(port)
    }

    fn set_gsi(&self, gsi: u32, level: bool) -> Result<(), AccelError> {
        self.vm
            .set_irq_line(host::irq_line(gsi), level)
            .map_err(refused("setting an interrupt line (KVM_IRQ_LINE)"))
    }

    fn signal_msi(&self, msi: MsiMessage) -> Result<(), AccelError> {
        if msi.data & MSI_LEVEL != 0 && self.chips.reports_level_ends() {
            self.learn_level(msi)?;
        }
        let mut request = kvm_msi {
            address_lo: msi.address as u32,
            address_hi: (msi.address >> 32) as u32,
            data: msi.data,
            ..Default::default()
        };
        if self.has_device_id() {
            request.flags = KVM_MSI_VALID_DEVID;
            request.devid = msi.device_id;
        }
        // A guest that has masked the vector makes this return 0: delivered to nobody, as on hardware.
        self.vm.signal_msi(request).map(drop).map_err(refused("sending a message (KVM_SIGNAL_MSI)"))
    }

    fn set_routing(&self, table: &[RoutingEntry]) -> Result<(), AccelError> {
        let mut routes = self.routes.lock();
        let new = Routes { table: table.iter().map(|row| self.entry(row)).collect(), ..Default::default() };
        let new = Routes { level: routes.level.clone(), next: routes.next, ..new };
        self.apply(&new)?;
        *routes = new;
        Ok(())
    }

    fn save(&self) -> Result<Vec<u8>, AccelError> {
        self.chips.save(&self.vm)
    }

    fn restore(&self, state: &[u8]) -> Result<(), AccelError> {
        self.chips.restore(&self.vm, state)
    }
}

//! The machine as the second accelerator sees it: without what the first one answers itself.
//!
//! Interrupt controllers and timers inside the first accelerator are not on the machine's bus. An instruction that reaches for
//! one is noted here and gets no answer; it is then undone and left to the first.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use accel::{IoResult, KernelIrqchip, LocalApics, VcpuIo};

/// Size of a local APIC's page.
const PAGE: u64 = 0x1000;

/// A [`VcpuIo`] for one stretch, which never leaves its vCPU's thread.
pub(crate) struct Guard<'a> {
    io: &'a dyn VcpuIo,
    irqchip: Option<&'a dyn KernelIrqchip>,
    /// Address of the vCPU's local APIC, if the first accelerator has it.
    apic: Option<u64>,
    touched: AtomicBool,
}

impl<'a> Guard<'a> {
    pub(crate) fn new(io: &'a dyn VcpuIo, irqchip: Option<&'a dyn KernelIrqchip>, apic: Option<u64>) -> Self {
        Self { io, irqchip, apic, touched: AtomicBool::new(false) }
    }

    /// Whether something of the first accelerator's was reached for.
    pub(crate) fn touched(&self) -> bool {
        self.touched.load(Relaxed)
    }

    fn touch(&self) {
        self.touched.store(true, Relaxed);
    }

    fn holds(&self, gpa: u64) -> bool {
        let apic = self.apic.is_some_and(|apic| gpa.wrapping_sub(apic) < PAGE);
        apic || self.irqchip.is_some_and(|chip| chip.holds_address(gpa))
    }

    fn holds_port(&self, port: u16) -> bool {
        self.irqchip.is_some_and(|chip| chip.holds_port(port))
    }
}

impl VcpuIo for Guard<'_> {
    fn mmio_read(&self, gpa: u64, data: &mut [u8]) -> IoResult {
        if self.holds(gpa) {
            self.touch();
            data.fill(0xff);
            return IoResult::DecodeError;
        }
        self.io.mmio_read(gpa, data)
    }

    fn mmio_write(&self, gpa: u64, data: &[u8]) -> IoResult {
        if self.holds(gpa) {
            self.touch();
            return IoResult::DecodeError;
        }
        self.io.mmio_write(gpa, data)
    }

    fn pio_read(&self, port: u16, data: &mut [u8]) -> IoResult {
        if self.holds_port(port) {
            self.touch();
            data.fill(0xff);
            return IoResult::DecodeError;
        }
        self.io.pio_read(port, data)
    }

    fn pio_write(&self, port: u16, data: &[u8]) -> IoResult {
        if self.holds_port(port) {
            self.touch();
            return IoResult::DecodeError;
        }
        self.io.pio_write(port, data)
    }

    fn ack_irq(&self, _vcpu: u32) -> Option<u8> {
        // The first accelerator takes interrupts.
        None
    }

    fn eoi(&self, vector: u8) {
        self.io.eoi(vector);
    }

    fn local_apics(&self) -> Option<&dyn LocalApics> {
        if self.apic.is_some() { Some(self) } else { self.io.local_apics() }
    }
}

/// Registers of a local APIC in the first accelerator: none is answered for.
impl LocalApics for Guard<'_> {
    fn read_msr(&self, _vcpu: u32, _msr: u32) -> Option<u64> {
        self.touch();
        None
    }

    fn write_msr(&self, _vcpu: u32, _msr: u32, _value: u64) -> bool {
        self.touch();
        false
    }

    fn cr8(&self, _vcpu: u32) -> u8 {
        self.touch();
        0
    }

    fn set_cr8(&self, _vcpu: u32, _value: u8) {
        self.touch();
    }
}

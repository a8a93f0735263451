//! What all PCs have in common: interrupt controllers, which stand in the accelerator, or half of them, or none.
//!
//! With `kernel-irqchip=split` the I/O APIC, the 8259s and the 8254 are ours, with `off` the local APICs as well. The guest
//! sees the same machine.

use std::sync::Arc;

use accel::IrqchipMode;
use intc::{I8259Config, IoApicConfig, LapicsConfig};
use machine::{Board, Dest, MachineError, Node};
use timer::{HpetConfig, I8254Config};

use crate::{BoardConfig, x86_held};

/// Address of the I/O APIC.
pub(crate) const IOAPIC: u64 = 0xfec0_0000;
/// First address beyond 32 bits.
pub(crate) const FOUR_GIB: u64 = 1 << 32;
/// Address of the HPET.
pub(crate) const HPET: u64 = 0xfed0_0000;
/// Interrupts that comparators of the HPET can have: two that nobody else uses, and those beyond the 8259s' that are PCI's.
const HPET_ROUTES: u32 = 0x00ff_0104;
const PIT_IRQ: usize = 0;
const RTC_IRQ: usize = 8;
/// Inputs of the 8259s.
const LEGACY_IRQS: usize = 16;

/// The interrupt controllers of a board.
pub(crate) struct Controllers {
    /// Name of the board.
    pub(crate) board: &'static str,
    /// Where they are.
    pub(crate) irqchip: IrqchipMode,
    /// There are 8259s.
    pub(crate) pic: bool,
    /// There is an 8254.
    pub(crate) pit: bool,
    /// There is an HPET, which the interrupts of the 8254 and of the real-time clock go through.
    pub(crate) hpet: bool,
    /// Version the I/O APIC reports.
    pub(crate) ioapic_version: u8,
}

pub(crate) fn device_pin(device: &str, pin: &str, index: usize) -> Dest {
    Dest::Device { device: device.into(), pin: pin.into(), index }
}

impl Controllers {
    /// Wires an interrupt output to where interrupt `n` enters: the I/O APIC, and the 8259s for the first 16.
    pub(crate) fn wire(&self, node: &mut Node, pin: &str, n: usize) {
        self.wire_at(node, pin, 0, n);
    }

    /// The same for pin `index` of a row.
    pub(crate) fn wire_at(&self, node: &mut Node, pin: &str, index: usize, n: usize) {
        node.irq_at(pin, index, device_pin(x86_held::IOAPIC, "irq", n));
        if n < LEGACY_IRQS && self.pic {
            node.irq_at(pin, index, device_pin(x86_held::PIC, "irq", n));
        }
    }

    /// Wires the real-time clock's interrupt.
    pub(crate) fn wire_rtc(&self, node: &mut Node) {
        if self.hpet {
            node.irq("irq", device_pin("hpet", "rtc", 0));
        } else {
            self.wire(node, "irq", RTC_IRQ);
        }
    }

    fn add_hpet(&self, b: &mut Board) {
        let node = b.add("hpet", HpetConfig { intcap: HPET_ROUTES, ..HpetConfig::default() });
        node.mmio(0, HPET);
        let routed = (0..u32::BITS as usize).filter(|n| HPET_ROUTES >> n & 1 != 0 && *n != RTC_IRQ);
        for n in routed.chain([PIT_IRQ, RTC_IRQ]) {
            self.wire_at(node, "irq", n, n);
        }
    }

    /// Adds them. Those that the accelerator holds are there as well, for their state.
    pub(crate) fn add(&self, b: &mut Board, c: &BoardConfig) -> Result<(), MachineError> {
        let (all, local) = (self.irqchip == IrqchipMode::Kernel, self.irqchip != IrqchipMode::User);
        if all {
            for (name, there) in [("pic", self.pic), ("pit", self.pit)] {
                if !there {
                    return Err(MachineError::Board(format!(
                        "{}: {name}=off: the accelerator has made it; add kernel-irqchip=split or off",
                        self.board
                    )));
                }
            }
        }
        let hold = |node: &mut Node, held: bool, input| {
            if held {
                node.held(input);
            }
        };
        let intr = |cpu| Dest::Cpu { cpu, line: 0 };
        if self.pic {
            let node = b.add(x86_held::PIC, I8259Config::default());
            node.pio(0, 0x20).pio(1, 0xa0).pio(2, 0x4d0);
            // Through the local APICs' LINT0.
            node.irq("intr", device_pin(x86_held::APIC, "extint", 0));
            hold(node, all, x86_held::no_input);
        }
        let node = b.add(x86_held::IOAPIC, IoApicConfig { version: self.ioapic_version });
        hold(node.mmio(0, IOAPIC), all, x86_held::ioapic_input);
        let node = b.add(
            x86_held::APIC,
            LapicsConfig { cpus: c.vcpus, ids: c.apic_ids(), ..LapicsConfig::default() },
        );
        for cpu in 0..c.vcpus {
            let at = cpu as usize;
            node.irq_at("intr", at, intr(cpu));
            node.irq_at("nmi", at, Dest::Nmi(cpu)).irq_at("smi", at, Dest::Smi(cpu));
        }
        hold(node, local, x86_held::apic_input);
        if self.pit {
            let node = b.add(x86_held::PIT, I8254Config::default());
            node.pio(0, 0x40).pio(1, 0x61);
            if self.hpet {
                node.irq("irq", device_pin("hpet", "pit", 0));
            } else {
                self.wire(node, "irq", PIT_IRQ);
            }
            hold(node, all, x86_held::no_input);
        }
        if self.hpet {
            if all {
                return Err(MachineError::Board(format!(
                    "{}: hpet=on: the accelerator's 8254 cannot be replaced; add kernel-irqchip=split or off",
                    self.board
                )));
            }
            self.add_hpet(b);
        }
        if local {
            b.held_state(Arc::new(x86_held::X86Held { all, ioapic: IOAPIC, ids: c.apic_ids() }));
        }
        Ok(())
    }
}

/// A board property that is on or off.
pub(crate) fn switch(c: &BoardConfig, board: &str, name: &str, default: bool) -> Result<bool, MachineError> {
    match c.properties.iter().rev().find(|(k, _)| k == name).map(|(_, v)| v.as_str()) {
        None | Some("auto") => Ok(default),
        Some("on" | "true" | "yes") => Ok(true),
        Some("off" | "false" | "no") => Ok(false),
        Some(v) => Err(MachineError::Board(format!("{board}: {name}: expected on or off, got '{v}'"))),
    }
}

//! Saving and restoring the 8259As, the I/O APIC and the 8254 that live in KVM.

#![expect(unsafe_code, reason = "the controllers' state is a union; clock_gettime fills a structure")]

use accel::AccelError;
use accel::arch::irqchip::{Ioapic, Pic, Pit, PitChannel, X86Chips};
use kvm_bindings::{
    KVM_IRQCHIP_IOAPIC, KVM_IRQCHIP_PIC_MASTER, KVM_IRQCHIP_PIC_SLAVE, kvm_ioapic_state, kvm_irqchip,
    kvm_pic_state, kvm_pit_channel_state, kvm_pit_state2,
};
use kvm_ioctls::VmFd;

use super::super::refused;
use crate::NAME;

/// Where KVM puts its I/O APIC.
const IOAPIC_DEFAULT_BASE: u64 = 0xfec0_0000;

/// Which controllers are in the kernel, beside the local APICs.
pub(crate) struct Chips {
    pub(super) pic_and_ioapic: bool,
    pub(super) pit: bool,
}

fn bad(problem: String) -> AccelError {
    AccelError::Property { accel: NAME, key: "irqchip state".to_owned(), problem }
}

fn get_chip(vm: &VmFd, chip_id: u32) -> Result<kvm_irqchip, AccelError> {
    let mut chip = kvm_irqchip { chip_id, ..Default::default() };
    vm.get_irqchip(&mut chip).map_err(refused("reading an interrupt controller (KVM_GET_IRQCHIP)"))?;
    Ok(chip)
}

fn get_pic(vm: &VmFd, chip_id: u32) -> Result<Pic, AccelError> {
    let chip = get_chip(vm, chip_id)?;
    // SAFETY: plain integers; any bytes are valid.
    let k = unsafe { chip.chip.pic };
    Ok(Pic {
        last_irr: k.last_irr,
        irr: k.irr,
        imr: k.imr,
        isr: k.isr,
        priority_add: k.priority_add,
        irq_base: k.irq_base,
        read_isr: k.read_reg_select,
        poll: k.poll,
        special_mask: k.special_mask,
        init_state: k.init_state,
        auto_eoi: k.auto_eoi,
        rotate_on_auto_eoi: k.rotate_on_auto_eoi,
        special_fully_nested: k.special_fully_nested_mode,
        init4: k.init4,
        elcr: k.elcr,
        elcr_mask: k.elcr_mask,
    })
}

fn set_pic(vm: &VmFd, chip_id: u32, p: &Pic) -> Result<(), AccelError> {
    let mut chip = kvm_irqchip { chip_id, ..Default::default() };
    chip.chip.pic = kvm_pic_state {
        last_irr: p.last_irr,
        irr: p.irr,
        imr: p.imr,
        isr: p.isr,
        priority_add: p.priority_add,
        irq_base: p.irq_base,
        read_reg_select: p.read_isr,
        poll: p.poll,
        special_mask: p.special_mask,
        init_state: p.init_state,
        auto_eoi: p.auto_eoi,
        rotate_on_auto_eoi: p.rotate_on_auto_eoi,
        special_fully_nested_mode: p.special_fully_nested,
        init4: p.init4,
        elcr: p.elcr,
        elcr_mask: p.elcr_mask,
    };
    vm.set_irqchip(&chip).map_err(refused("setting an interrupt controller (KVM_SET_IRQCHIP)"))
}

fn get_ioapic(vm: &VmFd) -> Result<Ioapic, AccelError> {
    let chip = get_chip(vm, KVM_IRQCHIP_IOAPIC)?;
    // SAFETY: plain integers; any bytes are valid.
    let k = unsafe { chip.chip.ioapic };
    let mut redirection = [0; 24];
    for (r, e) in redirection.iter_mut().zip(&k.redirtbl) {
        // SAFETY: plain integers; any bytes are valid.
        *r = unsafe { e.bits };
    }
    Ok(Ioapic { base: k.base_address, select: k.ioregsel, id: k.id, irr: k.irr, redirection })
}

fn set_ioapic(vm: &VmFd, i: &Ioapic) -> Result<(), AccelError> {
    let mut chip = kvm_irqchip { chip_id: KVM_IRQCHIP_IOAPIC, ..Default::default() };
    let mut k = kvm_ioapic_state {
        base_address: i.base,
        ioregsel: i.select,
        id: i.id,
        irr: i.irr,
        ..Default::default()
    };
    for (e, r) in k.redirtbl.iter_mut().zip(&i.redirection) {
        e.bits = *r;
    }
    chip.chip.ioapic = k;
    vm.set_irqchip(&chip).map_err(refused("setting an interrupt controller (KVM_SET_IRQCHIP)"))
}

/// The kernel's clock by which the timer's loads are dated, in nanoseconds.
fn monotonic_ns() -> i64 {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `now` is a live structure of the type the call fills; the clock exists on every Linux.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut now) };
    now.tv_sec * 1_000_000_000 + now.tv_nsec
}

fn get_pit(vm: &VmFd) -> Result<Pit, AccelError> {
    let k = vm.get_pit2().map_err(refused("reading the interval timer (KVM_GET_PIT2)"))?;
    let now = monotonic_ns();
    let channel = |c: &kvm_pit_channel_state| PitChannel {
        count: c.count,
        latched_count: c.latched_count,
        count_latched: c.count_latched,
        status_latched: c.status_latched,
        status: c.status,
        read_state: c.read_state,
        write_state: c.write_state,
        write_latch: c.write_latch,
        access: c.rw_mode,
        mode: c.mode,
        bcd: c.bcd,
        gate: c.gate,
        since_load_ns: now.saturating_sub(c.count_load_time).max(0) as u64,
    };
    Ok(Pit { channels: k.channels.each_ref().map(channel), flags: k.flags })
}

fn set_pit(vm: &VmFd, p: &Pit) -> Result<(), AccelError> {
    let now = monotonic_ns();
    let channel = |c: &PitChannel| kvm_pit_channel_state {
        count: c.count,
        latched_count: c.latched_count,
        count_latched: c.count_latched,
        status_latched: c.status_latched,
        status: c.status,
        read_state: c.read_state,
        write_state: c.write_state,
        write_latch: c.write_latch,
        rw_mode: c.access,
        mode: c.mode,
        bcd: c.bcd,
        gate: c.gate,
        count_load_time: now.saturating_sub_unsigned(c.since_load_ns),
    };
    let k =
        kvm_pit_state2 { channels: p.channels.each_ref().map(channel), flags: p.flags, ..Default::default() };
    vm.set_pit2(&k).map_err(refused("setting the interval timer (KVM_SET_PIT2)"))
}

impl Chips {
    /// True if an I/O APIC in Rhea must hear of the end of its level-triggered interrupts.
    pub(crate) fn reports_level_ends(&self) -> bool {
        !self.pic_and_ioapic
    }

    /// Whether KVM answers for the address itself: the I/O APIC's page.
    pub(crate) fn holds_address(&self, gpa: u64) -> bool {
        self.pic_and_ioapic && gpa & !0xfff == IOAPIC_DEFAULT_BASE
    }

    /// Whether KVM answers for the port itself.
    pub(crate) fn holds_port(&self, port: u16) -> bool {
        match port {
            0x20 | 0x21 | 0xa0 | 0xa1 | 0x4d0 | 0x4d1 => self.pic_and_ioapic,
            0x40..=0x43 | 0x61 => self.pit,
            _ => false,
        }
    }

    /// Nothing is left to do once the vCPUs exist.
    #[expect(clippy::unnecessary_wraps, reason = "same shape on all hosts")]
    pub(crate) fn finish(self, _vm: &VmFd) -> Result<Self, AccelError> {
        Ok(self)
    }

    pub(crate) fn save(&self, vm: &VmFd) -> Result<Vec<u8>, AccelError> {
        Ok(self.get(vm)?.save())
    }

    fn get(&self, vm: &VmFd) -> Result<X86Chips, AccelError> {
        let mut chips = X86Chips::default();
        if self.pic_and_ioapic {
            chips.pics = Some([get_pic(vm, KVM_IRQCHIP_PIC_MASTER)?, get_pic(vm, KVM_IRQCHIP_PIC_SLAVE)?]);
            chips.ioapic = Some(get_ioapic(vm)?);
        }
        if self.pit {
            chips.pit = Some(get_pit(vm)?);
        }
        Ok(chips)
    }

    fn set(&self, vm: &VmFd, chips: &X86Chips) -> Result<(), AccelError> {
        if let Some([master, slave]) = &chips.pics {
            set_pic(vm, KVM_IRQCHIP_PIC_MASTER, master)?;
            set_pic(vm, KVM_IRQCHIP_PIC_SLAVE, slave)?;
        }
        if let Some(ioapic) = &chips.ioapic {
            set_ioapic(vm, ioapic)?;
        }
        chips.pit.as_ref().map_or(Ok(()), |pit| set_pit(vm, pit))
    }

    pub(crate) fn restore(&self, vm: &VmFd, state: &[u8]) -> Result<(), AccelError> {
        let new = X86Chips::restore(state).map_err(|e| bad(e.to_string()))?;
        let there = [new.pics.is_some(), new.ioapic.is_some(), new.pit.is_some()];
        if there != [self.pic_and_ioapic, self.pic_and_ioapic, self.pit] {
            return Err(bad("is of a machine with other controllers in the accelerator".to_owned()));
        }
        let before = self.get(vm)?;
        let done = self.set(vm, &new);
        if done.is_err() {
            self.set(vm, &before)?;
        }
        done
    }
}

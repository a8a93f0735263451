//! Breakpoints, watchpoints and single steps through `KVM_SET_GUEST_DEBUG`.
//!
//! The four debug registers go to watchpoints first, then to breakpoints; further breakpoints become INT3 in
//! guest memory. Intel SDM volume 3, chapter 18.

use accel::{DebugConfig, DebugEvent, VcpuError, WatchKind};
use guest_memory::AddressSpace;
use kvm_bindings::{
    KVM_GUESTDBG_ENABLE, KVM_GUESTDBG_INJECT_BP, KVM_GUESTDBG_INJECT_DB, KVM_GUESTDBG_SINGLESTEP,
    KVM_GUESTDBG_USE_HW_BP, KVM_GUESTDBG_USE_SW_BP, kvm_debug_exit_arch, kvm_guest_debug,
};
use kvm_ioctls::VcpuFd;

use super::super::planted::Planted;
use super::super::vcpu::get;
use super::translate;
use super::vcpu::VcpuArch;

const INT3: u8 = 0xCC;
const DB: u32 = 1;
const BP: u32 = 3;
const DR6_BS: u64 = 1 << 14;

/// What a debug register looks for.
#[derive(Debug, Clone, Copy)]
enum Hardware {
    Execute(u64),
    Data { gva: u64, len: u64, kind: WatchKind },
}

/// A breakpoint that stands in guest memory: where the guest sees it, and where it is.
#[derive(Debug, Clone, Copy)]
struct Place {
    gva: u64,
    gpa: u64,
}

/// The debug requests in force.
#[derive(Debug, Default)]
pub(super) struct Debug {
    hardware: Vec<Hardware>,
    planted: Vec<Place>,
    single_step: bool,
}

/// Cuts a range into aligned pieces of 8, 4, 2 and 1 bytes.
fn pieces(gva: u64, len: u64) -> Vec<(u64, u64)> {
    let mut out = Vec::new();
    let (mut at, mut left) = (gva, len.max(1));
    // More than four can't be had anyhow.
    while left > 0 && out.len() <= 4 {
        let size = [8u64, 4, 2, 1].into_iter().find(|&s| s <= left && at.is_multiple_of(s)).unwrap_or(1);
        out.push((at, size));
        at = at.wrapping_add(size);
        left -= size;
    }
    out
}

impl Debug {
    fn request(&self) -> kvm_guest_debug {
        let mut d = kvm_guest_debug::default();
        if self.hardware.is_empty() && self.planted.is_empty() && !self.single_step {
            return d;
        }
        d.control = KVM_GUESTDBG_ENABLE;
        if self.single_step {
            d.control |= KVM_GUESTDBG_SINGLESTEP;
        }
        if !self.planted.is_empty() {
            d.control |= KVM_GUESTDBG_USE_SW_BP;
        }
        if !self.hardware.is_empty() {
            d.control |= KVM_GUESTDBG_USE_HW_BP;
            // Bit 10 reads as one; LE and GE ask for exact data breakpoints.
            let mut dr7 = 1 << 10 | 3 << 8;
            for (i, h) in self.hardware.iter().enumerate() {
                let (address, condition, size) = match *h {
                    Hardware::Execute(gva) => (gva, 0u64, 0u64),
                    Hardware::Data { gva, len, kind } => {
                        // There is no condition for reads alone.
                        let condition = if kind == WatchKind::Write { 1 } else { 3 };
                        let size = match len {
                            1 => 0,
                            2 => 1,
                            8 => 2,
                            _ => 3,
                        };
                        (gva, condition, size)
                    }
                };
                d.arch.debugreg[i] = address;
                dr7 |= 2 << (2 * i) | condition << (16 + 4 * i) | size << (18 + 4 * i);
            }
            d.arch.debugreg[7] = dr7;
        }
        d
    }

    fn unplant(&mut self, all: &Planted, memory: &AddressSpace) {
        self.planted.drain(..).for_each(|p| all.release(memory, p.gpa));
    }

    fn plant(
        &mut self,
        fd: &VcpuFd,
        all: &Planted,
        memory: &AddressSpace,
        gva: u64,
    ) -> Result<(), VcpuError> {
        let gpa = translate(fd, memory, gva)
            .ok_or(VcpuError::Unsupported("a breakpoint at an address that is not mapped"))?;
        all.plant(memory, gpa, &[INT3])?;
        self.planted.push(Place { gva, gpa });
        Ok(())
    }
}

impl VcpuArch {
    pub(crate) fn set_debug(
        &mut self,
        fd: &VcpuFd,
        memory: &AddressSpace,
        config: &DebugConfig,
    ) -> Result<(), VcpuError> {
        self.debug.unplant(&self.vm.planted, memory);
        let mut debug = Debug { single_step: config.single_step, ..Debug::default() };
        for w in &config.watchpoints {
            debug.hardware.extend(pieces(w.gva, w.len).into_iter().map(|(gva, len)| Hardware::Data {
                gva,
                len,
                kind: w.kind,
            }));
        }
        if debug.hardware.len() > 4 {
            self.debug = Debug::default();
            get("clearing debug requests (KVM_SET_GUEST_DEBUG)", fd.set_guest_debug(&self.debug.request()))?;
            return Err(VcpuError::Unsupported(
                "a set of watchpoints that needs more than four debug registers",
            ));
        }
        for &gva in &config.breakpoints {
            if debug.hardware.len() < 4 {
                debug.hardware.push(Hardware::Execute(gva));
            } else if let Err(e) = debug.plant(fd, &self.vm.planted, memory, gva) {
                debug.unplant(&self.vm.planted, memory);
                self.debug = Debug::default();
                get(
                    "clearing debug requests (KVM_SET_GUEST_DEBUG)",
                    fd.set_guest_debug(&self.debug.request()),
                )?;
                return Err(e);
            }
        }
        self.debug = debug;
        get("setting debug requests (KVM_SET_GUEST_DEBUG)", fd.set_guest_debug(&self.debug.request()))
    }

    /// Takes planted breakpoints out of guest memory.
    pub(crate) fn remove_breakpoints(&mut self, memory: &AddressSpace) {
        self.debug.unplant(&self.vm.planted, memory);
    }

    /// The planted breakpoint that the vCPU stands at, if it does.
    pub(crate) fn planted_breakpoint(&self, fd: &VcpuFd) -> Option<u64> {
        if self.debug.planted.is_empty() {
            return None;
        }
        let pc = fd.get_sregs().ok()?.cs.base.wrapping_add(fd.get_regs().ok()?.rip);
        self.debug.planted.iter().any(|p| p.gva == pc).then_some(pc)
    }

    /// What a debug exit means; `None` if the event is the guest's own and was handed to it.
    pub(crate) fn debug_exit(
        &mut self,
        fd: &VcpuFd,
        exit: &kvm_debug_exit_arch,
    ) -> Result<Option<DebugEvent>, VcpuError> {
        let inject = match exit.exception {
            BP => {
                if self.debug.planted.iter().any(|p| p.gva == exit.pc) {
                    return Ok(Some(DebugEvent::Breakpoint { pc: exit.pc }));
                }
                KVM_GUESTDBG_INJECT_BP
            }
            DB => {
                let hit =
                    (0..4).find(|i| exit.dr6 & 1 << i != 0).and_then(|i: usize| self.debug.hardware.get(i));
                match hit {
                    Some(Hardware::Execute(_)) => return Ok(Some(DebugEvent::Breakpoint { pc: exit.pc })),
                    Some(&Hardware::Data { gva, kind, .. }) => {
                        return Ok(Some(DebugEvent::Watchpoint { gva, write: kind == WatchKind::Write }));
                    }
                    None if self.debug.single_step && exit.dr6 & DR6_BS != 0 => {
                        return Ok(Some(DebugEvent::SingleStep));
                    }
                    // Some hosts do not report why after a step.
                    None if self.debug.single_step && exit.dr6 & 0xF == 0 => {
                        return Ok(Some(DebugEvent::SingleStep));
                    }
                    None => KVM_GUESTDBG_INJECT_DB,
                }
            }
            _ => return Ok(None),
        };
        let mut request = self.debug.request();
        request.control |= KVM_GUESTDBG_ENABLE | inject;
        get("handing a debug exception to the guest (KVM_SET_GUEST_DEBUG)", fd.set_guest_debug(&request))?;
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_cut_into_what_a_debug_register_holds() {
        assert_eq!(pieces(0x1001, 7), [(0x1001, 1), (0x1002, 2), (0x1004, 4)]);
        assert_eq!(pieces(0x1000, 8), [(0x1000, 8)]);
        assert_eq!(pieces(u64::MAX, 2).len(), 2);
        assert!(pieces(0, u64::MAX).len() > 4);
    }

    #[test]
    fn dr7_follows_the_manual() {
        let d = Debug {
            hardware: vec![
                Hardware::Execute(0x1000),
                Hardware::Data { gva: 0x2000, len: 8, kind: WatchKind::Write },
            ],
            ..Debug::default()
        };
        let r = d.request();
        assert_eq!(r.arch.debugreg[7], 0x700 | 0b1010 | 0b1001 << 20);
        assert_eq!(r.arch.debugreg[1], 0x2000);
        assert_eq!(Debug::default().request().control, 0);
    }
}

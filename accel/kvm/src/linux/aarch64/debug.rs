//! Breakpoints, watchpoints and single steps through `KVM_SET_GUEST_DEBUG`.
//!
//! Arm Architecture Reference Manual, D2.8 to D2.10 (breakpoint and watchpoint exceptions) and D17.2 (ESR).

use accel::{DebugConfig, DebugEvent, VcpuError, WatchKind, Watchpoint};
use guest_memory::AddressSpace;
use kvm_bindings::{
    KVM_GUESTDBG_ENABLE, KVM_GUESTDBG_SINGLESTEP, KVM_GUESTDBG_USE_HW, KVM_GUESTDBG_USE_SW_BP,
    kvm_debug_exit_arch, kvm_guest_debug,
};
use kvm_ioctls::VcpuFd;

use super::super::planted::Planted;
use super::super::vcpu::get;
use super::vcpu::VcpuArch;
use super::{state, translate};

/// `brk #0`.
const BRK: [u8; 4] = [0x00, 0x00, 0x20, 0xD4];

/// Classes of exception in ESR.
const EC_BREAKPOINT: u32 = 0x30;
const EC_STEP: u32 = 0x32;
const EC_WATCHPOINT: u32 = 0x34;
const EC_BRK: u32 = 0x3C;
/// Write, not read, in the syndrome of a watchpoint.
const WNR: u32 = 1 << 6;

/// Enabled, for EL1 and EL0.
const ENABLE: u64 = 1 | 3 << 1;

/// The debug requests in force.
#[derive(Debug, Default)]
pub(super) struct Debug {
    most_breakpoints: usize,
    most_watchpoints: usize,
    breakpoints: Vec<u64>,
    /// Value and control of each watchpoint register.
    watchpoints: Vec<(u64, u64)>,
    /// Physical addresses of those that stand in guest memory.
    planted: Vec<u64>,
    single_step: bool,
}

/// Cuts a range into what watchpoint registers hold: bytes of one aligned doubleword each.
fn watch_registers(w: &Watchpoint) -> Vec<(u64, u64)> {
    let kind = match w.kind {
        WatchKind::Read => 1,
        WatchKind::Write => 2,
        WatchKind::Access => 3,
    };
    let mut out = Vec::new();
    let (mut at, mut left) = (w.gva, w.len.max(1));
    while left > 0 && out.len() <= 16 {
        let first = at % 8;
        let n = left.min(8 - first);
        let bytes = ((1u64 << n) - 1) << first;
        out.push((at - first, ENABLE | kind << 3 | bytes << 5));
        at = at.wrapping_add(n);
        left -= n;
    }
    out
}

impl Debug {
    pub(super) fn new(breakpoints: usize, watchpoints: usize) -> Self {
        Self {
            most_breakpoints: breakpoints.min(16),
            most_watchpoints: watchpoints.min(16),
            ..Self::default()
        }
    }

    fn clear(&mut self) {
        (self.breakpoints, self.watchpoints) = (Vec::new(), Vec::new());
        self.single_step = false;
    }

    fn request(&self) -> kvm_guest_debug {
        let mut d = kvm_guest_debug::default();
        let hardware = !self.breakpoints.is_empty() || !self.watchpoints.is_empty();
        if !hardware && self.planted.is_empty() && !self.single_step {
            return d;
        }
        d.control = KVM_GUESTDBG_ENABLE;
        if self.single_step {
            d.control |= KVM_GUESTDBG_SINGLESTEP;
        }
        if !self.planted.is_empty() {
            d.control |= KVM_GUESTDBG_USE_SW_BP;
        }
        if hardware {
            d.control |= KVM_GUESTDBG_USE_HW;
        }
        for (i, gva) in self.breakpoints.iter().enumerate() {
            d.arch.dbg_bvr[i] = *gva;
            d.arch.dbg_bcr[i] = ENABLE | 0xF << 5;
        }
        for (i, (value, control)) in self.watchpoints.iter().enumerate() {
            d.arch.dbg_wvr[i] = *value;
            d.arch.dbg_wcr[i] = *control;
        }
        d
    }

    fn unplant(&mut self, all: &Planted, memory: &AddressSpace) {
        self.planted.drain(..).for_each(|gpa| all.release(memory, gpa));
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
        all.plant(memory, gpa, &BRK)?;
        self.planted.push(gpa);
        Ok(())
    }

    fn fill(
        &mut self,
        fd: &VcpuFd,
        all: &Planted,
        memory: &AddressSpace,
        config: &DebugConfig,
    ) -> Result<(), VcpuError> {
        self.single_step = config.single_step;
        self.watchpoints = config.watchpoints.iter().flat_map(watch_registers).collect();
        if self.watchpoints.len() > self.most_watchpoints {
            return Err(VcpuError::Unsupported(
                "a set of watchpoints that needs more registers than the host has",
            ));
        }
        for &gva in &config.breakpoints {
            if self.breakpoints.len() < self.most_breakpoints {
                self.breakpoints.push(gva);
            } else {
                self.plant(fd, all, memory, gva)?;
            }
        }
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
        self.debug.clear();
        let filled = self.debug.fill(fd, &self.vm.planted, memory, config);
        if filled.is_err() {
            self.debug.unplant(&self.vm.planted, memory);
            self.debug.clear();
        }
        get("setting debug requests (KVM_SET_GUEST_DEBUG)", fd.set_guest_debug(&self.debug.request()))?;
        filled
    }

    /// Takes planted breakpoints out of guest memory.
    pub(crate) fn remove_breakpoints(&mut self, memory: &AddressSpace) {
        self.debug.unplant(&self.vm.planted, memory);
    }

    /// KVM on this architecture does not emulate instructions, so none of them can fail in its hands.
    #[expect(clippy::unused_self, reason = "same shape on all hosts")]
    pub(crate) fn planted_breakpoint(&self, _fd: &VcpuFd) -> Option<u64> {
        None
    }

    /// What a debug exit means.
    #[expect(clippy::unused_self, reason = "same shape on all hosts")]
    pub(crate) fn debug_exit(
        &mut self,
        fd: &VcpuFd,
        exit: &kvm_debug_exit_arch,
    ) -> Result<Option<DebugEvent>, VcpuError> {
        Ok(match exit.hsr >> 26 {
            EC_BREAKPOINT | EC_BRK => Some(DebugEvent::Breakpoint { pc: state::pc(fd)? }),
            EC_STEP => Some(DebugEvent::SingleStep),
            EC_WATCHPOINT => Some(DebugEvent::Watchpoint { gva: exit.far, write: exit.hsr & WNR != 0 }),
            _ => None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn watchpoints_cover_bytes_of_doublewords() {
        let w = Watchpoint { gva: 0x1006, len: 4, kind: WatchKind::Write };
        assert_eq!(watch_registers(&w), [(0x1000, 7 | 2 << 3 | 0xC0 << 5), (0x1008, 7 | 2 << 3 | 3 << 5)]);
    }
}

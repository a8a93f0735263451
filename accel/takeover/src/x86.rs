//! What of an x86 vCPU's state stays behind in the first accelerator, and which instructions are its own.
//!
//! Source: Intel SDM volume 2 (encodings).

use accel::Vcpu;
use accel::arch::CpuState;
use accel::arch::x86_64::RunState;
use guest_memory::AddressSpace;

/// IA32_APIC_BASE: the address, and the bits for "on" and "as MSRs instead".
const APIC_ADDRESS: u64 = 0xf_ffff_f000;
const APIC_ON: u64 = 1 << 11;
const APIC_X2: u64 = 1 << 10;

/// Takes out of `state` what stays behind: the local APIC, and the interrupt that waits. Returns the APIC's address, or an
/// address of nothing where it has no page.
pub(crate) fn leave_behind(state: &mut CpuState) -> Option<u64> {
    let CpuState::X86_64(s) = state else { return None };
    s.events.intr = false;
    s.events.nmi_pending = false;
    s.events.smi_pending = false;
    s.lapic.take()?;
    let paged = s.apic_base & (APIC_ON | APIC_X2) == APIC_ON;
    Some(if paged { s.apic_base & APIC_ADDRESS } else { u64::MAX })
}

/// Whether the vCPU executes instructions.
pub(crate) fn is_running(state: &CpuState) -> bool {
    !matches!(state, CpuState::X86_64(s) if s.run != RunState::Running || s.events.triple_fault)
}

/// Whether the next instruction is to be executed by the first accelerator: what asks who the processor is, model-specific
/// registers (the accelerators know different ones), HLT, calls of the hypervisor.
pub(crate) fn is_for_the_first(vcpu: &mut dyn Vcpu, state: &CpuState, memory: &AddressSpace) -> bool {
    let CpuState::X86_64(s) = state else { return false };
    let mut at = s.linear_pc();
    let mut next = || {
        let mut byte = [0];
        let gpa = vcpu.translate(at)?;
        at = at.wrapping_add(1);
        memory.view().peek(gpa, &mut byte).is_ok().then_some(byte[0])
    };
    for _ in 0..15 {
        match next() {
            // Prefixes: segments, sizes, LOCK, repetition, REX in 64-bit mode.
            Some(0x26 | 0x2e | 0x36 | 0x3e | 0x64..=0x67 | 0xf0 | 0xf2 | 0xf3) => {}
            Some(0x40..=0x4f) if s.cs.access & accel::arch::x86_64::access::L != 0 => {}
            Some(0xf4) => return true,
            Some(0x0f) => {
                return match next() {
                    // WRMSR, RDMSR, RDPMC, CPUID.
                    Some(0x30 | 0x32 | 0x33 | 0xa2) => true,
                    // VMCALL and VMMCALL.
                    Some(0x01) => matches!(next(), Some(0xc1 | 0xd9)),
                    _ => false,
                };
            }
            _ => return false,
        }
    }
    false
}

//! How fast this host runs a guest kernel, and whether it shows the guest the CPUID that was set.
//!
//! There are hosts with a /dev/kvm that emulates the guest's kernel mode instruction by instruction. A loop of
//! some hundred instructions in protected mode tells them from others: on a processor that runs it itself the
//! whole probe takes well under a millisecond.

use std::sync::Arc;
use std::time::Instant;

use guest_memory::RamBlock;
use kvm_bindings::{CpuId, kvm_cpuid_entry2, kvm_regs, kvm_userspace_memory_region};
use kvm_ioctls::{Kvm as KvmFd, VcpuExit, VcpuFd};

use super::super::ioctl;

/// Turns of the loop, of two instructions each.
const TURNS: u32 = 300;

/// What the probe found out.
#[derive(Debug, Clone, Copy)]
pub(super) struct Probe {
    /// Nanoseconds per instruction.
    pub(super) ns: u64,
    /// The guest's CPUID is what was set for it. Some hosts that emulate kernels mix the host's own in: their guests
    /// find features that are not there.
    pub(super) own_cpuid: bool,
}

/// A value for EBX of leaf 7 that no processor has.
const MARK: u32 = 0x4145_4852;

/// Measures, or nothing if the guest could not be run.
pub(super) fn measure(kvm: &KvmFd) -> Option<Probe> {
    let vm = kvm.create_vm().ok()?;
    let block: Arc<RamBlock> = RamBlock::anonymous("speed probe", 0x1000).ok()?;
    // dec ecx; jnz -3; cpuid; hlt. EAX is 7, ECX is 0 then.
    block.write(0, &[0x49, 0x75, 0xFD, 0x0F, 0xA2, 0xF4]).ok()?;
    vm.set_identity_map_address(super::IDENTITY_MAP_ADDRESS).ok()?;
    vm.set_tss_address(super::TSS_ADDRESS).ok()?;
    ioctl::set_memory(
        &vm,
        kvm_userspace_memory_region {
            memory_size: 0x1000,
            userspace_addr: block.host_ptr().as_ptr() as u64,
            ..Default::default()
        },
    )
    .ok()?;
    let mut vcpu = vm.create_vcpu(0).ok()?;
    let leaf = |function, eax, ebx| kvm_cpuid_entry2 { function, eax, ebx, ..Default::default() };
    let cpuid = CpuId::from_entries(&[leaf(0, 7, 0), leaf(1, 0x600, 0), leaf(7, 0, MARK)]).ok()?;
    vcpu.set_cpuid2(&cpuid).ok()?;
    // The first run pays for what is set up lazily.
    run(&mut vcpu, 1)?;
    let start = Instant::now();
    run(&mut vcpu, TURNS)?;
    let ns = u64::try_from(start.elapsed().as_nanos()).ok()?;
    let own_cpuid = vcpu.get_regs().ok()?.rbx == u64::from(MARK);
    // Dropped before the memory: `block` outlives `vm`, which holds the slot.
    drop(vcpu);
    drop(vm);
    drop(block);
    Some(Probe { ns: ns / u64::from(2 * TURNS), own_cpuid })
}

fn run(vcpu: &mut VcpuFd, turns: u32) -> Option<()> {
    let mut sregs = vcpu.get_sregs().ok()?;
    sregs.cr0 = 0x11;
    for (segment, kind) in [(&mut sregs.cs, 11), (&mut sregs.ds, 3), (&mut sregs.ss, 3)] {
        (segment.base, segment.limit, segment.type_) = (0, u32::MAX, kind);
        (segment.present, segment.s, segment.db, segment.g) = (1, 1, 1, 1);
    }
    vcpu.set_sregs(&sregs).ok()?;
    vcpu.set_regs(&kvm_regs { rax: 7, rcx: u64::from(turns), rflags: 2, ..Default::default() }).ok()?;
    loop {
        match vcpu.run() {
            Ok(VcpuExit::Hlt) => return Some(()),
            Err(e) if e.errno() == libc::EINTR => {}
            _ => return None,
        }
    }
}

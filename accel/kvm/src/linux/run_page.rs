//! Typed views of `struct kvm_run`: which member of its union is valid follows from `exit_reason`.

#![expect(unsafe_code, reason = "the exit data is a union that the kernel fills")]

use kvm_bindings::{kvm_debug_exit_arch, kvm_run};

/// A port access.
pub(crate) struct PortExit<'a> {
    pub(crate) write: bool,
    pub(crate) port: u16,
    /// Bytes of one element: 1, 2 or 4.
    pub(crate) size: usize,
    /// One or more elements (string instructions).
    pub(crate) data: &'a mut [u8],
}

/// A memory access.
pub(crate) struct MmioExit<'a> {
    pub(crate) write: bool,
    pub(crate) gpa: u64,
    pub(crate) data: &'a mut [u8],
}

/// The data of `KVM_EXIT_IO`. `mapped` is the size of the run page's mapping.
pub(crate) fn port(run: &mut kvm_run, mapped: usize) -> Option<PortExit<'_>> {
    // SAFETY: plain integers; any bytes are valid.
    let io = unsafe { run.__bindgen_anon_1.io };
    let size = usize::from(io.size);
    let len = size.checked_mul(io.count as usize)?;
    let offset = usize::try_from(io.data_offset).ok()?;
    if !matches!(size, 1 | 2 | 4) || offset.checked_add(len)? > mapped {
        return None;
    }
    let base = std::ptr::from_mut(run).cast::<u8>();
    // SAFETY: checked to lie inside of the mapping, which is borrowed for as long as the slice lives. The data
    // stands behind `struct kvm_run`, so the slice does not overlap what other code reads meanwhile.
    let data = unsafe { std::slice::from_raw_parts_mut(base.add(offset), len) };
    Some(PortExit { write: io.direction != 0, port: io.port, size, data })
}

/// The data of `KVM_EXIT_MMIO`.
pub(crate) fn mmio(run: &mut kvm_run) -> MmioExit<'_> {
    // SAFETY: plain integers; any bytes are valid.
    let mmio = unsafe { &mut run.__bindgen_anon_1.mmio };
    let len = (mmio.len as usize).min(mmio.data.len());
    MmioExit { write: mmio.is_write != 0, gpa: mmio.phys_addr, data: &mut mmio.data[..len] }
}

/// The data of `KVM_EXIT_DEBUG`.
pub(crate) fn debug(run: &kvm_run) -> kvm_debug_exit_arch {
    // SAFETY: plain integers; any bytes are valid.
    unsafe { run.__bindgen_anon_1.debug.arch }
}

/// The data of `KVM_EXIT_FAIL_ENTRY`: the hardware's reason and the host CPU.
pub(crate) fn fail_entry(run: &kvm_run) -> (u64, u32) {
    // SAFETY: plain integers; any bytes are valid.
    let f = unsafe { run.__bindgen_anon_1.fail_entry };
    (f.hardware_entry_failure_reason, f.cpu)
}

/// The data of `KVM_EXIT_INTERNAL_ERROR`: suberror and what comes with it.
pub(crate) fn internal(run: &kvm_run) -> (u32, Vec<u64>) {
    // SAFETY: plain integers; any bytes are valid.
    let e = unsafe { run.__bindgen_anon_1.internal };
    (e.suberror, e.data[..(e.ndata as usize).min(e.data.len())].to_vec())
}

/// The data of `KVM_EXIT_SYSTEM_EVENT`: its type.
pub(crate) fn system_event(run: &kvm_run) -> u32 {
    // SAFETY: plain integers; any bytes are valid.
    unsafe { run.__bindgen_anon_1.system_event.type_ }
}

/// The data of `KVM_EXIT_UNKNOWN`: the hardware's exit reason.
pub(crate) fn hardware_reason(run: &kvm_run) -> u64 {
    // SAFETY: plain integers; any bytes are valid.
    unsafe { run.__bindgen_anon_1.hw.hardware_exit_reason }
}

/// The data of `KVM_EXIT_MEMORY_FAULT`: guest physical address and size.
pub(crate) fn memory_fault(run: &kvm_run) -> (u64, u64) {
    // SAFETY: plain integers; any bytes are valid.
    let f = unsafe { run.__bindgen_anon_1.memory_fault };
    (f.gpa, f.size)
}

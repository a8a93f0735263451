//! What generated code, the interpreter and the engine agree on: the head of a vCPU's environment.
//!
//! An environment is one allocation: an [`EnvHeader`] followed, at [`STATE_OFFSET`], by the guest's state structure, to
//! which slot offsets refer. Generated code holds its address in a host register for as long as it runs and reaches
//! both through it. All fields belong to the vCPU's thread, except `exit_request`.

use std::sync::atomic::{AtomicU32, AtomicU64};

/// Byte offset of the guest's state structure in an environment.
pub const STATE_OFFSET: usize = 2048;
/// MMU indexes a guest can use.
pub const MMU_INDEXES: usize = 16;
/// Bits of a guest page number's low part that a translation covers: the smallest page is 4 KiB.
pub const PAGE_BITS: u32 = 12;
/// Words of scratch: 16 general registers, 16 vector registers of 64 bytes, 16 more.
pub const SCRATCH: usize = 160;
/// Indirect calls whose targets an environment remembers.
pub const CALL_TARGETS: usize = 32;

/// Where in [`EnvHeader::call_targets`] the indirect call at guest address `pc` notes its target. Wherever a page of code lies, that
/// is the same.
#[must_use]
pub const fn call_site(pc: u64) -> usize {
    let at = pc & 0xfff;
    ((at >> 1) ^ (at >> 6)) as usize % CALL_TARGETS
}

/// One softmmu translation; 32 bytes.
///
/// A comparator holds the page's guest virtual address with the flags in its low bits; an access hits if
/// `(gva & !(page - 1)) | misalignment` equals it, so any flag that is set sends the access to the slow path. An invalid
/// comparator is `u64::MAX`.
#[derive(Debug)]
#[repr(C)]
pub struct TlbEntry {
    /// Comparator of loads.
    pub read: AtomicU64,
    /// Comparator of stores.
    pub write: AtomicU64,
    /// Comparator of instruction fetches.
    pub exec: AtomicU64,
    /// Host address minus guest virtual address.
    pub addend: AtomicU64,
}

/// Comparator flags; any of them means: not on the fast path.
pub mod tlb_flag {
    /// No translation.
    pub const INVALID: u64 = 1;
    /// A device, or a page smaller than the smallest.
    pub const IO: u64 = 2;
    /// A page whose writes are recorded (it holds translated code, or is clean in a dirty bitmap).
    pub const NOT_DIRTY: u64 = 4;
    /// A page with a watchpoint.
    pub const WATCH: u64 = 8;
}

/// The part of a softmmu TLB that generated code sees for one MMU index.
#[derive(Debug, Clone, Copy, Default)]
#[repr(C)]
pub struct TlbDesc {
    /// `(entries - 1) * size_of::<TlbEntry>()`: the mask of a byte offset into the table.
    pub mask: u64,
    /// Address of the table.
    pub table: u64,
}

/// One entry of the indirect-jump cache; hits if all of `pc` and `key` match.
#[derive(Debug, Clone, Copy, Default)]
#[repr(C)]
pub struct JumpEntry {
    /// Guest virtual address.
    pub pc: u64,
    /// Unit key (mode bits) the code was translated for.
    pub key: u64,
    /// Host address to jump to; of a stub that misses if the entry is empty.
    pub code: u64,
    /// Keeps the size a power of two.
    pub unused: u64,
}

/// Head of an environment. Offsets are taken with `core::mem::offset_of!`.
#[derive(Debug)]
#[repr(C)]
pub struct EnvHeader {
    /// Not zero: leave at the next budget check. Written by any thread.
    pub exit_request: AtomicU32,
    /// Sticky exceptions collected so far ([`Exceptions`](crate::Exceptions)), without what the host's unit still holds.
    pub fpexc: u32,
    /// Instructions left before the unit must be left, when instructions are counted.
    pub budget: i64,
    /// Why the last slow path or helper failed; meaning private to the engine.
    pub status: u64,
    /// Host address of the exit or fault site (set on the way out).
    pub exit_site: u64,
    /// Address of the jump cache in use: it belongs to the address space, so a switch of page tables keeps it.
    pub jump_cache: u64,
    /// `(entries - 1) * size_of::<JumpEntry>()`.
    pub jump_mask: u64,
    /// The jump cache of what all address spaces share, looked at when the other misses, and its mask.
    pub shared_jumps: u64,
    /// `(entries - 1) * size_of::<JumpEntry>()`.
    pub shared_mask: u64,
    /// Where indirect calls went last, by [`call_site`]: a hint that nothing relies on.
    pub call_targets: [u64; CALL_TARGETS],
    /// TLBs by MMU index.
    pub tlb: [TlbDesc; MMU_INDEXES],
    /// MXCSR of the host's Rust code (x86_64 hosts), saved on entry.
    pub host_fpcr: u32,
    /// MXCSR under which units run now (x86_64 hosts).
    pub guest_fpcr: u32,
    /// Address of the engine's vCPU object; opaque to generated code, first argument of run-time calls.
    pub vcpu: u64,
    /// Host address of the page that holds helper entry points, in table order.
    pub helpers: u64,
    /// Scratch for generated code and its stubs: at a fault, words 0 to 15 hold the host's general registers and
    /// the rest 64 bytes for each vector register.
    pub scratch: [u64; SCRATCH],
    /// Host fault in generated code that reaches guest memory directly: address, and the engine's code of it (0: none).
    pub fault_address: u64,
    /// See [`EnvHeader::fault_address`].
    pub fault_code: u64,
}

/// Why generated code or the interpreter came back to the engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UnitExit {
    /// A link that is not patched yet, by its index in the unit; the pc slot is set. Generated code does neither: whoever
    /// called it finds the link by `exit_site`.
    Link {
        /// Index in the unit's link list.
        index: u32,
    },
    /// An indirect jump that missed the cache, or a `lookup`; the pc slot is set.
    Lookup,
    /// The budget is used up or an exit was requested; the pc slot is set, the instruction not executed.
    Budget,
    /// A memory access or helper reported a status; state is exact at the instruction that did.
    Fault,
    /// A helper asked to leave after it did its work; the pc slot is set.
    HelperExit,
    /// `Terminator::Exit`.
    Code(u32),
}

const _: () = assert!(size_of::<EnvHeader>() <= STATE_OFFSET);
const _: () = assert!(size_of::<TlbEntry>() == 32);
const _: () = assert!(size_of::<JumpEntry>() == 32);

//! The environment of a vCPU: the allocation that generated code works on.
#![expect(
    unsafe_code,
    reason = "the environment is shared with generated code and, one field of it, with other threads"
)]

use std::{
    cell::UnsafeCell,
    mem::{offset_of, size_of},
    ptr::NonNull,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
};

use tcg_ir::abi::{CALL_TARGETS, EnvHeader, MMU_INDEXES, SCRATCH, STATE_OFFSET, TlbDesc};
use tcg_plugin::COUNTERS;

const PAD: usize = STATE_OFFSET - size_of::<EnvHeader>();

/// Layout of an environment.
#[repr(C, align(64))]
struct Env<S> {
    header: EnvHeader,
    pad: [u8; PAD],
    state: S,
    /// What plugins count, in slots behind the guest's own.
    tallies: [u64; COUNTERS],
}

struct EnvCell<S>(UnsafeCell<Env<S>>);

// SAFETY: all of the environment but `exit_request` (an atomic) is only touched by the thread that owns the `EnvBox`, which
// is handed from thread to thread as a whole; `ExitRequest` reaches only the atomic.
unsafe impl<S: Send> Sync for EnvCell<S> {}
// SAFETY: as above; the header's raw addresses are plain numbers.
unsafe impl<S: Send> Send for EnvCell<S> {}

/// Owner of an environment.
pub(crate) struct EnvBox<S> {
    cell: Arc<EnvCell<S>>,
}

trait Alive: Send + Sync {}
impl<S: Send> Alive for EnvCell<S> {}

/// The one field of an environment that other threads write.
pub(crate) struct ExitRequest {
    field: NonNull<AtomicU32>,
    _alive: Arc<dyn Alive>,
}

// SAFETY: an atomic in memory that `_alive` keeps.
unsafe impl Send for ExitRequest {}
// SAFETY: as above.
unsafe impl Sync for ExitRequest {}

impl ExitRequest {
    /// Asks generated code to leave.
    pub(crate) fn raise(&self) {
        // SAFETY: points at the atomic inside the environment that `_alive` keeps allocated.
        unsafe { self.field.as_ref() }.store(1, Ordering::SeqCst);
    }
}

impl<S: Send + 'static> EnvBox<S> {
    pub(crate) fn new(state: S) -> Self {
        let header = EnvHeader {
            exit_request: AtomicU32::new(0),
            fpexc: 0,
            budget: i64::MAX,
            status: 0,
            exit_site: 0,
            jump_cache: 0,
            jump_mask: 0,
            shared_jumps: 0,
            shared_mask: 0,
            call_targets: [0; CALL_TARGETS],
            tlb: [TlbDesc::default(); MMU_INDEXES],
            host_fpcr: 0x1f80,
            guest_fpcr: 0x1f80,
            vcpu: 0,
            helpers: 0,
            scratch: [0; SCRATCH],
            fault_address: 0,
            fault_code: 0,
        };
        const { assert!(offset_of!(Env<u64>, state) == STATE_OFFSET) };
        Self {
            cell: Arc::new(EnvCell(UnsafeCell::new(Env {
                header,
                pad: [0; PAD],
                state,
                tallies: [0; COUNTERS],
            }))),
        }
    }

    pub(crate) fn exit_request(&self) -> ExitRequest {
        // SAFETY: taking the address of a field of a live allocation.
        let field = unsafe { NonNull::from(&(*self.cell.0.get()).header.exit_request) };
        ExitRequest { field, _alive: self.cell.clone() }
    }

    /// Address of the header, for generated code.
    pub(crate) fn header_ptr(&self) -> *mut EnvHeader {
        self.cell.0.get().cast()
    }

    /// Address of the guest's state.
    pub(crate) fn state_ptr(&self) -> *mut S {
        // SAFETY: address arithmetic inside the allocation.
        unsafe { &raw mut (*self.cell.0.get()).state }
    }

    pub(crate) fn state(&self) -> &S {
        // SAFETY: the owner's thread is the only one that touches the state, and it has lent `self`.
        unsafe { &*self.state_ptr() }
    }

    pub(crate) fn state_mut(&mut self) -> &mut S {
        // SAFETY: as above, exclusively.
        unsafe { &mut *self.state_ptr() }
    }

    /// Offset of the counters of plugins, as that of a slot.
    pub(crate) const fn tallies_offset() -> usize {
        offset_of!(Env<S>, tallies) - STATE_OFFSET
    }

    /// What has been counted.
    pub(crate) fn tallies(&self) -> [u64; COUNTERS] {
        // SAFETY: as in `state`.
        unsafe { (*self.cell.0.get()).tallies }
    }

    /// The guest's state as bytes.
    pub(crate) fn state_bytes(&mut self) -> &mut [u8] {
        &mut self.parts().1[..size_of::<S>()]
    }

    /// The header and everything that has slots as bytes, for the interpreter and exit maps.
    pub(crate) fn parts(&mut self) -> (&EnvHeader, &mut [u8]) {
        // SAFETY: two disjoint parts of the allocation, lent with `self`. Guest states are plain data with every bit pattern
        // valid in the fields slots name, which is all that is written through the bytes.
        unsafe {
            let len = Self::tallies_offset() + size_of::<[u64; COUNTERS]>();
            let state = std::slice::from_raw_parts_mut(self.state_ptr().cast::<u8>(), len);
            (&*self.header_ptr(), state)
        }
    }
}

//! Helpers: guest operations written in Rust that translated code calls.
//!
//! A helper is named in the IR by its index in the guest's table, never by an address. What it reads, writes and
//! may do is part of its description, so passes and back ends keep everything else in host registers across it.

use std::ffi::c_void;

use bitflags::bitflags;

use crate::{SlotId, Type};

/// Index into the guest's helper table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct HelperId(pub u16);

/// A set of state slots.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SlotSet {
    /// No slot.
    None,
    /// These slots.
    Only(&'static [SlotId]),
    /// Any slot.
    All,
}

impl SlotSet {
    /// True if `slot` is in the set.
    #[must_use]
    pub fn contains(self, slot: SlotId) -> bool {
        match self {
            Self::None => false,
            Self::Only(s) => s.contains(&slot),
            Self::All => true,
        }
    }
}

bitflags! {
    /// What a helper may do besides reading and writing slots.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
    pub struct Effects: u32 {
        /// May raise a guest exception: state must be exact at the call. A helper that raises needs
        /// `reads: SlotSet::None` only if delivery reads nothing but what the exit map restores.
        const RAISES = 1;
        /// May ask the unit to be left after the call (changed translation, mode or pending interrupt);
        /// state must be exact. The pc slot is taken from the state, so a front end sets it first.
        const EXITS = 2;
        /// Reads or writes the sticky floating-point exceptions, or computes with the host's FPU.
        const FP = 4;
        /// Reads or writes guest memory.
        const MEMORY = 8;
        /// Result depends on the arguments alone and nothing else happens: may be merged, moved, removed.
        const PURE = 16;
    }
}

/// What a helper returns to translated code, in two host registers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub struct HelperResult {
    /// The value; ignored if the description says `Type::Void`.
    pub value: u64,
    /// 0 to go on; anything else leaves the unit (an exception is pending or an exit was asked for).
    pub status: u64,
}

/// Address of a helper: `extern "C" fn(env, a0, a1, a2, a3) -> HelperResult`.
///
/// Kept as a typed pointer that safe code can neither forge nor call; the engine makes it and generated
/// code calls it.
pub type HelperFn = unsafe extern "C" fn(*mut c_void, u64, u64, u64, u64) -> HelperResult;

/// One row of a guest's helper table.
#[derive(Clone, Copy)]
pub struct HelperDesc {
    /// Name in printed IR.
    pub name: &'static str,
    /// Entry point.
    pub entry: HelperFn,
    /// Number of arguments, at most 4, each an integer or float of at most 64 bits (passed as its bits).
    pub args: u8,
    /// Type of the result.
    pub result: Type,
    /// Slots it reads.
    pub reads: SlotSet,
    /// Slots it writes.
    pub writes: SlotSet,
    /// What else it does.
    pub effects: Effects,
}

impl std::fmt::Debug for HelperDesc {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("HelperDesc")
            .field("name", &self.name)
            .field("args", &self.args)
            .finish_non_exhaustive()
    }
}

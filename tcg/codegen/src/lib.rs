//! Host code generation: from a region of IR to host machine code and back to guest state.
//!
//! - [`CodeSpace`]: the memory that holds code, mapped twice (writable, executable);
//! - [`Compiler`]: one thread's code generator; makes its common stubs once and then units from regions;
//! - [`CompiledUnit`]: a unit's entry, its patchable links and the exit maps by which a fault inside it finds the
//!   exact guest state ([`CompiledUnit::restore`]);
//! - [`patch_link`], [`unpatch_link`]: chaining.
//!
//! On a host without a back end, or a processor older than the back end needs, [`Compiler::new`] reports
//! [`CompileError::UnsupportedHost`] and the engine uses the interpreter.

#![cfg_attr(
    not(all(target_arch = "x86_64", unix)),
    expect(dead_code, reason = "what back ends share has no user on a host without one")
)]

mod buffer;
mod disasm;
mod maps;
pub mod perf;
#[cfg(all(target_arch = "x86_64", unix))]
mod x86_64;
#[cfg(all(target_arch = "x86_64", unix))]
use x86_64 as host;
#[cfg(not(all(target_arch = "x86_64", unix)))]
mod unsupported;
#[cfg(not(all(target_arch = "x86_64", unix)))]
use unsupported as host;

use std::ffi::c_void;

use tcg_ir::abi::{EnvHeader, UnitExit};
use tcg_ir::{HelperResult, Hint};

pub use buffer::{CodeCopy, CodeSpace};
pub use disasm::disassemble;
pub use host::{Compiler, environment};

/// Entry points of the engine that generated code calls. The first argument of each is [`EnvHeader::vcpu`]; `memop`
/// is the bits of a [`tcg_ir::MemOp`]; a status is 0 if all went well, else the unit is left with
/// [`UnitExit::Fault`].
#[derive(Debug, Clone, Copy)]
pub struct RuntimeFns {
    /// Loads up to 8 bytes; the value is extended to 64 bits as `memop` says.
    pub load: unsafe extern "C" fn(vcpu: *mut c_void, gva: u64, memop: u32) -> HelperResult,
    /// Stores up to 8 bytes; returns a status.
    pub store: unsafe extern "C" fn(vcpu: *mut c_void, gva: u64, memop: u32, value: u64) -> u64,
    /// Loads 16 to 64 bytes into a buffer of 64; returns a status.
    pub load_wide: unsafe extern "C" fn(vcpu: *mut c_void, gva: u64, memop: u32, buffer: *mut u8) -> u64,
    /// Stores 16 to 64 bytes from a buffer of 64; returns a status.
    pub store_wide: unsafe extern "C" fn(vcpu: *mut c_void, gva: u64, memop: u32, buffer: *mut u8) -> u64,
    /// Atomic read-modify-write; `op` is a [`tcg_ir::RmwOp`]; the old value, extended.
    pub rmw:
        unsafe extern "C" fn(vcpu: *mut c_void, gva: u64, memop: u32, op: u32, value: u64) -> HelperResult,
    /// Atomic compare and swap; the old value, extended.
    pub cas: unsafe extern "C" fn(
        vcpu: *mut c_void,
        gva: u64,
        memop: u32,
        expected: u64,
        new: u64,
    ) -> HelperResult,
    /// Host address of the unit for the pc and mode now in the state; 0 if there is none.
    pub lookup: unsafe extern "C" fn(vcpu: *mut c_void) -> u64,
}

/// What the engine chooses once.
#[derive(Debug, Clone, Copy, Default)]
pub struct Options {
    /// `budget` counts instructions, not only exit requests.
    pub count_insns: bool,
    /// Guest memory is reached without a TLB.
    pub direct: Option<Direct>,
}

/// Guest memory that is host memory: a guest address plus a constant is a host address, and an access that the host
/// refuses is a host signal. Its handler goes on at [`Compiler::fault_stub`] with [`fault_site`] of the instruction pushed
/// on the stack of generated code; the unit then leaves with [`UnitExit::Fault`] and the exit map of that access.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Direct {
    /// The constant is the base of the host's `gs` segment; otherwise it is zero.
    pub segment: bool,
}

/// Where the exit map of the access by the host instruction at `rip` is found. Not the instruction's own address, which may be
/// the return address of a call before it.
#[must_use]
pub const fn fault_site(rip: u64) -> u64 {
    rip.wrapping_add(1)
}

/// Why there is no code.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CompileError {
    /// The code space has no room for the unit: drop old units, [`CodeSpace::reset`], try again.
    #[error("code space is full")]
    Full,
    /// The region needs more frame or code than a unit may have: translate less at once.
    #[error("region is too large for one unit")]
    TooLarge,
    /// No back end for this host processor.
    #[error("no code generator for this host; it needs x86-64-v3 (AVX2, BMI2, FMA)")]
    UnsupportedHost,
}

/// How much work goes into a unit's code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tier {
    /// Small and made fast, for code that may never run again: accesses and indirect jumps are calls of code that all units
    /// share. Budgets are only counted: a unit of this tier does not look for exit requests, so whoever links units sees to
    /// it that no loop consists of them alone.
    First,
    /// Everything inline.
    Second,
}

/// How generated code is entered: `env` is an environment, `code` a [`CompiledUnit::entry`] of a unit made for its
/// slots; returns what [`Compiler::decode_exit`] understands.
pub type EnterFn = unsafe extern "C" fn(env: *mut EnvHeader, code: u64) -> u64;

/// A patchable jump to the unit at another guest address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LinkSite {
    /// Host address of the 4-byte displacement, a multiple of 4.
    pub site: u64,
    /// Host address of its exit stub, where it goes until it is patched.
    pub stub: u64,
    /// Guest address it goes to.
    pub pc: u64,
    /// What the front end knows about the jump.
    pub hint: Hint,
}

/// What must change in a unit's code when it is loaded at another host or guest address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RelocKind {
    /// 4-byte displacement to a common stub; the addend is the stub's number.
    Stub,
    /// 4-byte displacement to code made on demand; the addend describes it.
    Shared,
    /// 4-byte displacement to the slot of a helper in the common address table; the addend is the helper's number.
    Helper,
    /// 8 bytes: the guest address of the region plus the addend.
    Pc64,
    /// 4 bytes, zero-extended by the code: the guest address of the region plus the addend.
    Pc32,
    /// 4 bytes, sign-extended by the code: the guest address of the region plus the addend.
    PcS32,
}

/// One relocation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reloc {
    /// Offset of the field in the unit's code.
    pub offset: u32,
    /// What it holds.
    pub kind: RelocKind,
    /// Meaning by kind.
    pub addend: i64,
}

/// A unit's code as it was kept from one process to the next.
#[derive(Debug, Clone, Copy)]
pub struct KeptUnit<'a> {
    /// How it was made.
    pub tier: Tier,
    /// Its code.
    pub code: &'a [u8],
    /// Its exit maps.
    pub maps: &'a [u8],
    /// What is to be changed in the code.
    pub relocs: &'a [Reloc],
}

/// Code of one unit.
#[derive(Debug, Clone)]
pub struct CompiledUnit {
    /// Host address to jump to.
    pub entry: u64,
    /// Guest and host addresses of the region's side entries, which look for exit requests like a loop.
    pub sides: Vec<(u64, u64)>,
    /// Bytes of code, from `entry` on.
    pub len: u32,
    /// Bytes of exit maps, behind the code.
    pub maps_len: u32,
    /// Its links.
    pub links: Vec<LinkSite>,
    /// Relocations.
    pub relocs: Box<[Reloc]>,
}

impl CompiledUnit {
    /// Makes the guest state exact after [`UnitExit::Fault`]: writes every slot that generated code still held in host
    /// registers, and the pc slot. `exit_site` is [`EnvHeader::exit_site`]; `state` is the guest's state structure
    /// (the bytes from [`tcg_ir::abi::STATE_OFFSET`] on). Returns the guest address of the instruction that faulted; `None`
    /// if `exit_site` is not in this unit.
    pub fn restore(
        &self,
        space: &CodeSpace,
        exit_site: u64,
        env: &EnvHeader,
        state: &mut [u8],
    ) -> Option<u64> {
        restore_at(space, self.entry, (self.len, self.maps_len), exit_site, env, state)
    }

    /// Like [`CompiledUnit::restore`], without writing anything: the guest address of the instruction at `exit_site`.
    #[must_use]
    pub fn pc_at(&self, space: &CodeSpace, exit_site: u64) -> Option<u64> {
        let site = u32::try_from(exit_site.checked_sub(self.entry)?).ok()?;
        let maps = space.read(self.entry + u64::from(self.len), self.maps_len as usize)?;
        maps::pc_at(&maps, site)
    }

    /// The link through which a unit was left with `exit_site`: generated code gives no index.
    #[must_use]
    pub fn link_at(&self, exit_site: u64) -> Option<usize> {
        self.links.iter().position(|l| l.stub + LINK_STUB == exit_site)
    }

    /// True if host address `at` lies in the unit; return addresses of all its calls do.
    #[must_use]
    pub fn contains(&self, at: u64) -> bool {
        at.wrapping_sub(self.entry) < u64::from(self.len)
    }
}

/// Bytes from a link's stub to the exit site it leaves with.
pub const LINK_STUB: u64 = 5;

/// [`CompiledUnit::restore`] for a unit of which only its place is kept: entry, and bytes of code and of exit maps.
pub fn restore_at(
    space: &CodeSpace,
    entry: u64,
    (len, maps_len): (u32, u32),
    exit_site: u64,
    env: &EnvHeader,
    state: &mut [u8],
) -> Option<u64> {
    let site = u32::try_from(exit_site.checked_sub(entry)?).ok()?;
    let maps = space.read(entry + u64::from(len), maps_len as usize)?;
    maps::restore(&maps, site, &env.scratch, state)
}

/// Makes a link go to the unit at host address `dest`; running code sees the old or the new destination. False if
/// `dest` is too far away.
pub fn patch_link(space: &CodeSpace, link: &LinkSite, dest: u64) -> bool {
    patch_jump(space, link.site, dest)
}

/// Makes the jump whose displacement is at host address `site` go to `dest`.
pub fn patch_jump(space: &CodeSpace, site: u64, dest: u64) -> bool {
    let rel = (dest as i64).wrapping_sub(site as i64 + 4);
    match i32::try_from(rel) {
        Ok(rel) => space.patch_u32(site, rel as u32),
        Err(_) => false,
    }
}

/// Makes a link go to its exit stub again.
pub fn unpatch_link(space: &CodeSpace, link: &LinkSite) -> bool {
    patch_link(space, link, link.stub)
}

/// Exit codes as generated code returns them: kind in the low byte, index or code from bit 32 on.
pub(crate) mod raw_exit {
    pub(crate) const LINK: u64 = 1;
    pub(crate) const LOOKUP: u64 = 2;
    pub(crate) const BUDGET: u64 = 3;
    pub(crate) const FAULT: u64 = 4;
    pub(crate) const HELPER: u64 = 5;
    pub(crate) const CODE: u64 = 6;
}

/// The guest address of the access whose exit map is at `exit_site`, in the unit of `len` bytes at `entry`, from the registers
/// saved there: for a host fault that came without one. Relative to the segment base, if accesses are.
#[must_use]
pub fn access_address_at(
    space: &CodeSpace,
    entry: u64,
    len: u32,
    exit_site: u64,
    env: &EnvHeader,
) -> Option<u64> {
    let rip = exit_site.wrapping_sub(fault_site(0));
    let left = entry.checked_add(len.into())?.checked_sub(rip)?;
    disasm::memory_address(&space.read(rip, 15.min(left as usize))?, rip, &env.scratch)
}

/// What [`Compiler::decode_exit`] does.
pub(crate) fn decode_exit(raw: u64) -> UnitExit {
    let payload = (raw >> 32) as u32;
    match raw & 0xff {
        // Which one it was, its site tells.
        raw_exit::LINK => UnitExit::Link { index: 0 },
        raw_exit::BUDGET => UnitExit::Budget,
        raw_exit::FAULT => UnitExit::Fault,
        raw_exit::HELPER => UnitExit::HelperExit,
        raw_exit::CODE => UnitExit::Code(payload),
        _ => UnitExit::Lookup,
    }
}

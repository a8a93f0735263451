//! What a guest architecture provides to the engine.
//!
//! A guest crate implements [`Guest`] and writes its helpers as types that implement [`Helper`]; the engine makes
//! the entry points. Neither needs `unsafe`.

use std::ffi::c_void;

use accel::{
    AccelError, PartitionConfig, VcpuError,
    arch::{CpuState, GuestArch},
};
use tcg_ir::{Builder, Effects, FpMode, HelperDesc, HelperResult, Rounding, SlotSet, SlotTable, Type};

use crate::{Cx, vcpu::Vcpu};

/// What an access to memory is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Data read.
    Load,
    /// Data write.
    Store,
    /// Instruction fetch.
    Fetch,
}

/// A guest page table walk's answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mapping {
    /// Guest physical address that the walked address itself translates to.
    pub gpa: u64,
    /// Reads are allowed without another walk.
    pub read: bool,
    /// Writes are allowed without another walk (a page whose dirty bit is clear says no unless this walk was for a store).
    pub write: bool,
    /// Fetches are allowed without another walk.
    pub exec: bool,
    /// Every address space has this mapping, until a flush that accepts the tag `u64::MAX` (see [`Cx::flush_tlb`]).
    pub global: bool,
    /// log2 of the page's size. Below 12 (a protection boundary inside a page) nothing is cached.
    pub page_bits: u32,
}

/// A guest exception on its way: the number and the value are the architecture's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Trap {
    /// Cause (RISC-V `mcause` code, x86 vector, ...).
    pub code: u64,
    /// What goes with it (faulting address, error code, instruction bits).
    pub value: u64,
}

/// Why a memory access of a vCPU could not be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BusFault {
    /// Misaligned under the access's rule.
    Misaligned,
    /// Nothing there, or the device refused.
    Bus,
}

/// What changes the translation of a stretch of code, besides its bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Key {
    /// Guest virtual address.
    pub pc: u64,
    /// Mode bits, the guest's own encoding. The top bit belongs to the engine and must be clear.
    pub mode: u64,
}

/// What a front end may do in one unit.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Most guest instructions.
    pub max_insns: u32,
    /// End each unit at the first branch, and do not loop inside (debugging, instruction counting).
    pub straight: bool,
}

/// Guest code for a front end, fetched through the vCPU's MMU.
pub trait CodeReader {
    /// Two bytes at `pc`, little endian order of memory as a number. `Err` if the fetch faults: a front end that has
    /// already translated something ends the unit there; for the first instruction it returns the trap.
    fn fetch16(&mut self, pc: u64) -> Result<u16, Trap>;

    /// Bytes at `pc` for guests whose instructions have any length and start: fills `out` as far as the page of `pc`
    /// reaches and returns how many there were, at least one. `Err` as for [`fetch16`](Self::fetch16).
    fn fetch(&mut self, pc: u64, out: &mut [u8]) -> Result<usize, Trap>;
}

/// What [`Guest::run_exit`] makes of an exit code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExitAction {
    /// Go on.
    Continue,
    /// Sleep until [`Guest::has_work`] says otherwise.
    Wait,
    /// Leave to the machine: the vCPU is halted for good.
    Halt,
    /// Leave to the machine: reset the system.
    Reset,
    /// Leave to the machine: power off.
    Shutdown,
    /// An exception of the guest's.
    Raise(Trap),
    /// A breakpoint that belongs to the debugger.
    Breakpoint,
}

/// A guest architecture. One value serves all vCPUs of a partition; what differs between CPU models is in it.
pub trait Guest: Sized + Send + Sync + 'static {
    /// Architectural and derived state of one vCPU, laid out as the slot table says (`#[repr(C)]`).
    type State: Send + 'static;

    /// Architectures this crate implements.
    const ARCHS: &'static [GuestArch];

    /// Whether an access to nothing, or one that a device refuses, is an exception ([`Guest::fault`]). If not, a load
    /// yields what the bus fills in.
    const BUS_ERRORS: bool = true;

    /// Whether a store to code takes effect at the next instruction, without a fence.
    const CODE_COHERENT: bool = false;

    /// Bits of page-table entries that walks set and never take away, such as "accessed".
    const SET_BY_WALKS: u64 = 0;

    /// CPU models for `arch` with a line about each, the default first.
    fn cpu_models(arch: GuestArch) -> Vec<(String, String)>;
    /// The guest for a partition; refuses unknown CPU models and features by name.
    fn new(config: &PartitionConfig) -> Result<Self, AccelError>;
    /// State slots; offsets count from the start of `State`.
    fn slots(&self) -> &SlotTable;
    /// Helper table; `HelperId` indexes it.
    fn helpers(&self) -> &[HelperDesc];
    /// State of vCPU `index` after reset.
    fn reset(&self, index: u32) -> Self::State;
    /// Called once on the vCPU's thread before it first runs.
    fn start(&self, cx: &mut Cx<'_, Self>);

    /// Key of the unit at the present state.
    fn key(&self, state: &Self::State) -> Key;
    /// Rounding under which units of `key` run.
    fn rounding(&self, key: Key) -> Rounding;
    /// The same with what happens to denormal numbers.
    fn fp_mode(&self, key: Key) -> FpMode {
        self.rounding(key).into()
    }
    /// Translates from `key.pc` on. Ends with every block terminated and `Builder::set_extent` called. An instruction that
    /// does not exist is translated into code that raises; `Err` only if the very first fetch faults.
    fn translate(
        &self,
        key: Key,
        limits: Limits,
        code: &mut dyn CodeReader,
        b: &mut Builder<'_>,
    ) -> Result<(), Trap>;
    /// One line of disassembly and the instruction's length.
    fn disassemble(&self, pc: u64, bytes: &[u8]) -> (String, usize);

    /// Walks the guest's page tables for MMU index `mmu`, setting accessed and dirty bits as the architecture has it.
    fn walk(&self, cx: &mut Cx<'_, Self>, gva: u64, access: Access, mmu: usize) -> Result<Mapping, Trap>;
    /// MMU index of instruction fetches at the present state.
    fn fetch_mmu(&self, state: &Self::State) -> usize;
    /// The same walk for a debugger at the present privilege: no side effects.
    fn debug_walk(&self, cx: &mut Cx<'_, Self>, gva: u64) -> Option<u64>;
    /// The exception for an access that faults outside the page tables.
    fn fault(&self, fault: BusFault, gva: u64, access: Access) -> Trap;
    /// Delivers an exception: state stands exactly at the instruction that caused it.
    fn raise(&self, cx: &mut Cx<'_, Self>, trap: Trap);
    /// Delivers a pending interrupt if one is enabled; true if it did. Called between units after any change of the lines.
    fn interrupt(&self, cx: &mut Cx<'_, Self>) -> bool;
    /// True if a vCPU that waits has a reason to go on.
    fn has_work(&self, cx: &mut Cx<'_, Self>) -> bool;
    /// True if the vCPU stands in a wait (entered with it, or restored so).
    fn waiting(&self, state: &Self::State) -> bool;
    /// What a vCPU that waits has stopped for, if nothing can wake it any more (x86: a triple fault, or HLT with
    /// interrupts off).
    fn stopped(&self, _: &mut Cx<'_, Self>) -> Option<accel::Exit> {
        None
    }
    /// Ends the wait.
    fn wake(&self, state: &mut Self::State);
    /// Acts on a `Terminator::Exit` code.
    fn run_exit(&self, cx: &mut Cx<'_, Self>, code: u32) -> ExitAction;
    /// Delivers a signal (NMI, INIT, ...); unknown ones are ignored.
    fn signal(&self, cx: &mut Cx<'_, Self>, signal: accel::VcpuSignal);

    /// The program counter.
    fn pc(&self, state: &Self::State) -> u64;
    /// Sets the program counter.
    fn set_pc(&self, state: &mut Self::State, pc: u64);
    /// Neutral state.
    fn save(&self, cx: &mut Cx<'_, Self>) -> CpuState;
    /// Takes over neutral state; on error nothing has changed.
    fn load(&self, cx: &mut Cx<'_, Self>, state: &CpuState) -> Result<(), VcpuError>;
    /// Registers in readable form for logs.
    fn dump(&self, state: &Self::State) -> String;
}

/// A helper of guest `G`: an empty type with its description and its code.
pub trait Helper<G: Guest>: 'static {
    /// Name in printed IR.
    const NAME: &'static str;
    /// Number of arguments, at most 4.
    const ARGS: u8;
    /// Type of the result.
    const RESULT: Type;
    /// Slots it reads.
    const READS: SlotSet = SlotSet::None;
    /// Slots it writes.
    const WRITES: SlotSet = SlotSet::None;
    /// What else it does.
    const EFFECTS: Effects;

    /// Does it. `Err` raises the trap at the calling instruction (`Effects::RAISES`). To leave the unit afterwards
    /// (`Effects::EXITS`) call [`Cx::leave_unit`].
    fn call(cx: &mut Cx<'_, G>, args: [u64; 4]) -> Result<u64, Trap>;
}

/// Status of a helper or slow path that raised.
pub(crate) const STATUS_FAULT: u64 = 1;
/// Status of a helper that asked to leave.
pub(crate) const STATUS_EXIT: u64 = 2;

/// The table row of helper `H`.
#[must_use]
pub fn helper<G: Guest, H: Helper<G>>() -> HelperDesc {
    HelperDesc {
        name: H::NAME,
        entry: thunk::<G, H>,
        args: H::ARGS,
        result: H::RESULT,
        reads: H::READS,
        writes: H::WRITES,
        effects: H::EFFECTS,
    }
}

#[expect(unsafe_code, reason = "entry point of generated code: turns its vCPU pointer back into a reference")]
unsafe extern "C" fn thunk<G: Guest, H: Helper<G>>(
    env: *mut c_void,
    a0: u64,
    a1: u64,
    a2: u64,
    a3: u64,
) -> HelperResult {
    // SAFETY: generated code passes its environment, whose `vcpu` field the engine set to the address of the `Vcpu<G>`
    // whose thread this is; while generated code runs, no other reference to it is live (see `enter.rs`).
    let vcpu = unsafe { &mut *((*env.cast::<tcg_ir::abi::EnvHeader>()).vcpu as *mut Vcpu<G>) };
    vcpu.helper(|cx| H::call(cx, [a0, a1, a2, a3]))
}

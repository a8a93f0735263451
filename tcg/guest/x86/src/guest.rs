//! The guest architecture as the engine sees it.

use accel::{
    AccelError, Exit, PartitionConfig, VcpuError, VcpuSignal,
    arch::{CpuState, GuestArch},
};
use tcg_engine::{Access, BusFault, CodeReader, Cx, ExitAction, Guest, Key, Limits, Mapping, Trap};
use tcg_ir::{Builder, FpMode, HelperDesc, Rounding, SlotTable};

use crate::{
    control::CR4_PCIDE,
    cpu::{self, Model},
    debug, disas,
    exceptions::{self, vector},
    helpers, interrupts, mmu,
    mode::{MMU_KERNEL, MMU_USER, Mode},
    snapshot,
    state::{self, Cpu, Run},
    translate,
    user::Program,
};

/// `Terminator::Exit` code of HLT.
pub const EXIT_HLT: u32 = 1;
/// `Terminator::Exit` code of an instruction under single step, which has been executed.
pub const EXIT_STEP: u32 = 2;
/// The same with breakpoints in debug registers.
pub const EXIT_DEBUG: u32 = 3;
/// A system call of a program.
pub const EXIT_SYSCALL: u32 = 4;
/// A software interrupt of a program: this plus the vector, with the program counter behind it.
pub const EXIT_INT: u32 = 0x100;

/// x86, one CPU model.
#[derive(Debug)]
pub struct X86 {
    model: Model,
    slots: SlotTable,
    helpers: Vec<HelperDesc>,
    /// What takes the place of a kernel's tables, for programs.
    pub(crate) program: Option<Program>,
}

impl X86 {
    /// A guest with this CPU.
    #[must_use]
    pub fn with_model(model: Model) -> Self {
        Self { model, slots: state::slots(), helpers: helpers::all(), program: None }
    }

    /// A guest with this CPU that runs programs.
    #[must_use]
    pub fn for_program(model: Model, program: Program) -> Self {
        Self { program: Some(program), ..Self::with_model(model) }
    }

    /// The CPU model.
    #[must_use]
    pub const fn model(&self) -> &Model {
        &self.model
    }
}

/// Name of an address space for the TLB: the process-context identifier, or the page tables; in a guest of the guest's with
/// the number of its address spaces, which is not 0.
pub(crate) const fn space(s: &Cpu) -> u64 {
    let asid = s.svm.asid();
    if s.cr4 & CR4_PCIDE != 0 {
        s.cr3 & 0xfff | asid << 12
    } else {
        s.cr3 & !0xfff & !(1 << 63) | 1 << 63 | asid
    }
}

impl Guest for X86 {
    type State = Cpu;

    const ARCHS: &'static [GuestArch] = &[GuestArch::X86_64];

    const BUS_ERRORS: bool = false;

    const CODE_COHERENT: bool = true;

    const SET_BY_WALKS: u64 = mmu::A | mmu::D;

    fn cpu_models(arch: GuestArch) -> Vec<(String, String)> {
        if matches!(arch, GuestArch::X86_64 | GuestArch::I386) { cpu::models() } else { Vec::new() }
    }

    fn new(config: &PartitionConfig) -> Result<Self, AccelError> {
        if config.guest != GuestArch::X86_64 {
            return Err(AccelError::WrongGuest { accel: "tcg", guest: config.guest });
        }
        Model::new(&config.cpu, config.topology).map(Self::with_model)
    }

    fn slots(&self) -> &SlotTable {
        &self.slots
    }

    fn helpers(&self) -> &[HelperDesc] {
        &self.helpers
    }

    fn reset(&self, index: u32) -> Cpu {
        snapshot::reset(&self.model, index)
    }

    fn start(&self, cx: &mut Cx<'_, Self>) {
        let tag = space(cx.state);
        cx.set_space(tag);
    }

    fn key(&self, s: &Cpu) -> Key {
        Key { pc: s.pc, mode: Mode::of(s).bits() }
    }

    fn rounding(&self, key: Key) -> Rounding {
        Mode::from_bits(key.mode).rounding()
    }

    fn fp_mode(&self, key: Key) -> FpMode {
        let mode = Mode::from_bits(key.mode);
        FpMode { rounding: mode.rounding(), flush: mode.mxcsr & 4 != 0, daz: mode.mxcsr & 8 != 0 }
    }

    fn translate(
        &self,
        key: Key,
        limits: Limits,
        code: &mut dyn CodeReader,
        b: &mut Builder<'_>,
    ) -> Result<(), Trap> {
        translate::unit(self, key, limits, code, b)
    }

    fn disassemble(&self, pc: u64, bytes: &[u8]) -> (String, usize) {
        disas::line(64, pc, bytes)
    }

    fn walk(&self, cx: &mut Cx<'_, Self>, gva: u64, access: Access, mmu: usize) -> Result<Mapping, Trap> {
        mmu::walk(cx, gva, access, mmu, false)
    }

    fn fetch_mmu(&self, s: &Cpu) -> usize {
        if s.cpl == 3 { MMU_USER } else { MMU_KERNEL }
    }

    fn debug_walk(&self, cx: &mut Cx<'_, Self>, gva: u64) -> Option<u64> {
        mmu::walk(cx, gva, Access::Load, MMU_KERNEL, true).ok().map(|m| m.gpa)
    }

    fn fault(&self, fault: BusFault, _: u64, _: Access) -> Trap {
        match fault {
            // There are no bus errors: the bus answers with ones.
            BusFault::Bus => exceptions::plain(vector::MC),
            BusFault::Misaligned => exceptions::with_error(vector::GP, 0),
        }
    }

    fn raise(&self, cx: &mut Cx<'_, Self>, trap: Trap) {
        exceptions::raise(cx, trap);
    }

    fn interrupt(&self, cx: &mut Cx<'_, Self>) -> bool {
        interrupts::deliver(cx)
    }

    fn has_work(&self, cx: &mut Cx<'_, Self>) -> bool {
        interrupts::wakes(cx)
    }

    fn waiting(&self, s: &Cpu) -> bool {
        s.run != Run::Running
    }

    fn stopped(&self, cx: &mut Cx<'_, Self>) -> Option<Exit> {
        interrupts::stopped(cx)
    }

    fn wake(&self, s: &mut Cpu) {
        if s.run == Run::Halted {
            s.run = Run::Running;
            s.woken = true;
        }
    }

    fn run_exit(&self, cx: &mut Cx<'_, Self>, code: u32) -> ExitAction {
        match code {
            EXIT_HLT => {
                cx.state.run = Run::Halted;
                ExitAction::Wait
            }
            EXIT_STEP | EXIT_DEBUG => match debug::step_trap(cx.state, code == EXIT_STEP) {
                Some(trap) => ExitAction::Raise(trap),
                None => ExitAction::Continue,
            },
            _ => ExitAction::Continue,
        }
    }

    fn signal(&self, cx: &mut Cx<'_, Self>, signal: VcpuSignal) {
        interrupts::signal(cx, signal);
    }

    fn pc(&self, s: &Cpu) -> u64 {
        s.pc
    }

    fn set_pc(&self, s: &mut Cpu, pc: u64) {
        s.pc = pc;
    }

    fn save(&self, cx: &mut Cx<'_, Self>) -> CpuState {
        CpuState::X86_64(Box::new(snapshot::save(cx)))
    }

    fn load(&self, cx: &mut Cx<'_, Self>, state: &CpuState) -> Result<(), VcpuError> {
        match state {
            CpuState::X86_64(state) => snapshot::load(cx, state),
            _ => Err(VcpuError::WrongArch { expected: "x86_64", given: "another architecture" }),
        }
    }

    fn dump(&self, s: &Cpu) -> String {
        snapshot::dump(s)
    }
}

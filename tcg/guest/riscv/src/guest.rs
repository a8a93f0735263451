//! The guest architecture as the engine sees it.

use accel::{
    AccelError, PartitionConfig, VcpuError, VcpuSignal,
    arch::{CpuState, GuestArch},
};
use tcg_engine::{Access, BusFault, CodeReader, Cx, ExitAction, Guest, Key, Limits, Mapping, Trap};
use tcg_ir::{Builder, HelperDesc, Rounding, SlotTable};

use crate::{
    cpu::{self, Cpu, Ext},
    disas, exceptions,
    exceptions::cause,
    helpers, interrupts, mmu,
    mode::{self, Mode},
    monitor::Monitor,
    snapshot,
    state::{self, Hart, status},
    translate, vector,
};

/// `Terminator::Exit` code of wfi.
pub const EXIT_WFI: u32 = 1;
/// `Terminator::Exit` code of ecall in a program, the pc behind it.
pub const EXIT_ECALL: u32 = 2;
/// `Terminator::Exit` code of fence.i in a program.
pub const EXIT_FENCE_I: u32 = 3;

/// Where a hart starts unless the board says otherwise: the boot ROM of the virt board.
pub const RESET_PC: u64 = 0x1000;

/// RISC-V, one CPU model.
#[derive(Debug)]
pub struct Riscv {
    cpu: Cpu,
    slots: SlotTable,
    helpers: Vec<HelperDesc>,
    monitor: Monitor,
}

/// Bits of an instruction address that can be set.
pub(crate) const fn pc_mask(cpu: &Cpu) -> u64 {
    if cpu.ext.has(Ext::C) { !1 } else { !3 }
}

pub(crate) const fn xlen_of(arch: GuestArch) -> Option<u32> {
    match arch {
        GuestArch::Riscv32 => Some(32),
        GuestArch::Riscv64 => Some(64),
        _ => None,
    }
}

impl Riscv {
    /// A guest with this CPU.
    #[must_use]
    pub fn with_cpu(cpu: Cpu) -> Self {
        let slots = state::slots(&cpu);
        let helpers = helpers::table(state::pieces(&cpu));
        Self { cpu, slots, helpers, monitor: Monitor::new() }
    }

    /// What watches the reservations of threads.
    pub(crate) const fn monitor(&self) -> &Monitor {
        &self.monitor
    }

    /// The CPU model.
    #[must_use]
    pub const fn cpu(&self) -> &Cpu {
        &self.cpu
    }
}

impl Guest for Riscv {
    type State = Hart;

    const ARCHS: &'static [GuestArch] = &[GuestArch::Riscv64, GuestArch::Riscv32];

    fn cpu_models(arch: GuestArch) -> Vec<(String, String)> {
        xlen_of(arch).map(cpu::models).unwrap_or_default()
    }

    fn new(config: &PartitionConfig) -> Result<Self, AccelError> {
        let xlen =
            xlen_of(config.guest).ok_or(AccelError::WrongGuest { accel: "tcg", guest: config.guest })?;
        Cpu::new(xlen, &config.cpu.name, &config.cpu.features).map(Self::with_cpu).map_err(AccelError::Cpu)
    }

    fn slots(&self) -> &SlotTable {
        &self.slots
    }

    fn helpers(&self) -> &[HelperDesc] {
        &self.helpers
    }

    fn reset(&self, index: u32) -> Hart {
        let mut hart = Hart::new(self.cpu.xlen, u64::from(index), RESET_PC);
        // Fields of what the hart lacks: MPP can only be M, and there is no width of S or U.
        if !self.cpu.ext.has(Ext::U) {
            hart.mstatus |= status::MPP;
            hart.mstatus &= !status::UXL;
        }
        if !self.cpu.ext.has(Ext::S) {
            hart.mstatus &= !status::SXL;
        }
        if self.cpu.ext.has(Ext::V) {
            hart.vcsrs[vector::VTYPE] = vector::VILL;
        }
        hart
    }

    fn start(&self, cx: &mut Cx<'_, Self>) {
        let satp = cx.state.satp;
        cx.set_space(satp);
        interrupts::arm(cx);
    }

    fn key(&self, hart: &Hart) -> Key {
        Key { pc: hart.pc, mode: Mode::of(&self.cpu, hart).bits() }
    }

    fn rounding(&self, key: Key) -> Rounding {
        mode::rounding(Mode::from_bits(key.mode).frm).unwrap_or(Rounding::NearestEven)
    }

    fn translate(
        &self,
        key: Key,
        limits: Limits,
        code: &mut dyn CodeReader,
        b: &mut Builder<'_>,
    ) -> Result<(), Trap> {
        translate::unit(&self.cpu, key, limits, code, b)
    }

    fn disassemble(&self, pc: u64, bytes: &[u8]) -> (String, usize) {
        disas::line(&self.cpu, pc, bytes)
    }

    fn walk(&self, cx: &mut Cx<'_, Self>, gva: u64, access: Access, mmu: usize) -> Result<Mapping, Trap> {
        mmu::walk(cx, gva, access, mmu, false)
    }

    fn fetch_mmu(&self, hart: &Hart) -> usize {
        mode::mmu_index(hart.privilege, 0)
    }

    fn debug_walk(&self, cx: &mut Cx<'_, Self>, gva: u64) -> Option<u64> {
        let index = mode::mmu_index(cx.state.data_privilege(), cx.state.mstatus);
        mmu::walk(cx, gva, Access::Load, index, true).ok().map(|m| m.gpa)
    }

    fn fault(&self, fault: BusFault, gva: u64, access: Access) -> Trap {
        let code = match (fault, access) {
            (BusFault::Bus, access) => return mmu::access_fault(access, gva),
            (BusFault::Misaligned, Access::Load) => cause::LOAD_MISALIGNED,
            (BusFault::Misaligned, Access::Store) => cause::STORE_MISALIGNED,
            (BusFault::Misaligned, Access::Fetch) => cause::FETCH_MISALIGNED,
        };
        Trap { code, value: gva }
    }

    fn raise(&self, cx: &mut Cx<'_, Self>, trap: Trap) {
        if let Some(log) = cx.log(accel::LogItems::INT) {
            log.write(format_args!(
                "hart {}: {} (cause {}, value {:#x}) at {:#x}, privilege {}\n",
                cx.index(),
                exceptions::name(trap.code),
                trap.code,
                trap.value,
                cx.state.pc,
                cx.state.privilege
            ));
        }
        exceptions::enter(&self.cpu, cx.state, trap.code, false, trap.value);
    }

    fn interrupt(&self, cx: &mut Cx<'_, Self>) -> bool {
        interrupts::deliver(cx)
    }

    fn has_work(&self, cx: &mut Cx<'_, Self>) -> bool {
        interrupts::pending(cx) & cx.state.mie != 0
    }

    fn waiting(&self, hart: &Hart) -> bool {
        hart.waiting
    }

    fn wake(&self, hart: &mut Hart) {
        hart.waiting = false;
    }

    fn run_exit(&self, cx: &mut Cx<'_, Self>, code: u32) -> ExitAction {
        match code {
            EXIT_WFI => {
                cx.state.waiting = true;
                ExitAction::Wait
            }
            _ => ExitAction::Continue,
        }
    }

    /// The manual's resumable NMI is not implemented, so an NMI has nowhere to go.
    fn signal(&self, _: &mut Cx<'_, Self>, _: VcpuSignal) {}

    fn pc(&self, hart: &Hart) -> u64 {
        hart.pc
    }

    fn set_pc(&self, hart: &mut Hart, pc: u64) {
        hart.pc = if self.cpu.xlen == 32 { pc & 0xffff_ffff } else { pc };
    }

    fn save(&self, cx: &mut Cx<'_, Self>) -> CpuState {
        CpuState::Riscv(Box::new(snapshot::save(cx)))
    }

    fn load(&self, cx: &mut Cx<'_, Self>, state: &CpuState) -> Result<(), VcpuError> {
        match state {
            CpuState::Riscv(state) => snapshot::load(cx, state),
            _ => Err(VcpuError::WrongArch { expected: "riscv", given: "another architecture" }),
        }
    }

    fn dump(&self, hart: &Hart) -> String {
        snapshot::dump(&self.cpu, hart)
    }
}

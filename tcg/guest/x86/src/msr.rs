//! Model-specific registers (SDM volume 4; AMD APM volume 2 for SYSCALL's): one table serves RDMSR, WRMSR and the
//! neutral state.

use accel::arch::x86_64::Msr;
use tcg_engine::{Cx, Trap};

use crate::{
    control::CR0_PG,
    exceptions::{self, vector},
    guest::X86,
    kvm, mmu, smm,
    state::{Cpu, seg},
    svm,
};

/// SYSCALL enabled.
pub(crate) const EFER_SCE: u64 = 1;
/// Long mode enabled.
pub(crate) const EFER_LME: u64 = 1 << 8;
/// Long mode active.
pub(crate) const EFER_LMA: u64 = 1 << 10;
/// No-execute pages.
pub(crate) const EFER_NXE: u64 = 1 << 11;
/// Secure virtual machines enabled.
pub(crate) const EFER_SVME: u64 = 1 << 12;

/// Frequency of the time stamp counter after a reset, in kHz: a tick a nanosecond, as the local APIC counts. It becomes another
/// where a machine comes from an accelerator whose counter is faster: its guest has measured that one.
pub(crate) const TSC_KHZ: u64 = 1_000_000;

const TSC: u32 = 0x10;
const APIC_BASE: u32 = 0x1b;
const TSC_ADJUST: u32 = 0x3b;
/// IA32_SMBASE. Here it is only saved under that number: software sees it in the save map.
const SMBASE: u32 = 0x9e;
const TSC_DEADLINE: u32 = 0x6e0;
const MTRR_CAP: u32 = 0xfe;
const EFER: u32 = 0xc000_0080;
const VM_CR: u32 = 0xc001_0114;
/// Bit of VM_CR: EFER.SVME cannot be set. It stays while bit 3 locks it.
const SVMDIS: u64 = 1 << 4;
const HSAVE: u32 = 0xc001_0117;
/// Words of the extension's state are only saved under numbers from here on, and only where there is a guest or would be one.
const SVM_WORDS: u32 = 0xc001_01e0;
const FS_BASE: u32 = 0xc000_0100;
const GS_BASE: u32 = 0xc000_0101;

/// Fixed-range MTRRs by number.
const FIXED: [u32; 11] = [0x250, 0x258, 0x259, 0x268, 0x269, 0x26a, 0x26b, 0x26c, 0x26d, 0x26e, 0x26f];
const VARIABLE: u32 = 8;

/// Registers that hold what is written, by number.
fn plain(s: &mut Cpu, index: u32) -> Option<&mut u64> {
    let m = &mut s.msrs;
    Some(match index {
        0x174 => &mut m.sysenter_cs,
        0x175 => &mut m.sysenter_esp,
        0x176 => &mut m.sysenter_eip,
        0x17a => &mut m.mcg_status,
        0x1a0 => &mut m.misc_enable,
        0x1d9 => &mut m.debugctl,
        0x200..=0x20f => m.mtrr_var.get_mut((index - 0x200) as usize)?,
        0x277 => &mut m.pat,
        0x2ff => &mut m.mtrr_def_type,
        kvm::SYSTEM_TIME | kvm::SYSTEM_TIME_OLD => &mut m.kvm_system_time,
        kvm::WALL_CLOCK | kvm::WALL_CLOCK_OLD => &mut m.kvm_wall_clock,
        0xc000_0081 => &mut m.star,
        0xc000_0082 => &mut m.lstar,
        0xc000_0083 => &mut m.cstar,
        0xc000_0084 => &mut m.fmask,
        0xc000_0102 => &mut m.kernel_gs_base,
        0xc000_0103 => &mut m.tsc_aux,
        _ => m.mtrr_fixed.get_mut(FIXED.iter().position(|f| *f == index)?)?,
    })
}

/// All plain registers.
fn plain_numbers() -> impl Iterator<Item = u32> {
    [0x174, 0x175, 0x176, 0x17a, 0x1a0, 0x1d9]
        .into_iter()
        .chain(0x200..0x200 + 2 * VARIABLE)
        .chain(FIXED)
        .chain([kvm::SYSTEM_TIME, kvm::WALL_CLOCK])
        .chain([0x277, 0x2ff, 0xc000_0081, 0xc000_0082, 0xc000_0083, 0xc000_0084, 0xc000_0102, 0xc000_0103])
}

/// Registers whose value must be an address.
const fn is_address(index: u32) -> bool {
    matches!(index, 0x175 | 0x176 | 0xc000_0082 | 0xc000_0083 | FS_BASE | GS_BASE | 0xc000_0102)
}

/// Registers that system software looks at and that have a fixed value here.
const fn constant(index: u32) -> Option<u64> {
    match index {
        // Machine check: no banks. Microcode revision, platform identification, feature control (locked).
        0x0 | 0x1 | 0x17 | 0x179 => Some(0),
        0x8b => Some(1 << 32),
        0x3a => Some(1),
        MTRR_CAP => Some(VARIABLE as u64 | 1 << 8 | 1 << 10),
        // AMD's performance counters, which every processor has by its family: here they stand still, and events selected for them
        // are forgotten, by which software that looks sees that they are none.
        0xc001_0000..=0xc001_0007 => Some(0),
        // AMD: hardware configuration, SYSCFG, interrupt pending, patch level and what debuggers look for.
        0xc001_0010 | 0xc001_0015 | 0xc001_001f | 0xc001_0055 | 0xc001_1022 | 0xc001_1023 | 0xc001_1029 => {
            Some(0)
        }
        _ => None,
    }
}

fn gp() -> Trap {
    exceptions::with_error(vector::GP, 0)
}

/// Ticks of the time stamp counter in so many nanoseconds.
fn ticks_of_ns(ns: u64, khz: u64) -> u64 {
    if khz == TSC_KHZ { ns } else { (u128::from(ns) * u128::from(khz) / u128::from(TSC_KHZ)) as u64 }
}

/// The way back, rounded up.
fn ns_of_ticks(ticks: u64, khz: u64) -> u64 {
    if khz == TSC_KHZ {
        return ticks;
    }
    let ns = (u128::from(ticks) * u128::from(TSC_KHZ)).div_ceil(u128::from(khz.max(1)));
    u64::try_from(ns).unwrap_or(u64::MAX)
}

/// The time stamp counter.
pub(crate) fn tsc(cx: &Cx<'_, X86>) -> u64 {
    let m = &cx.state.msrs;
    ticks_of_ns(cx.now_ns(), m.tsc_khz).wrapping_add(m.tsc_offset)
}

/// A deadline in ticks without the offset, as the APIC takes it; one before the counter began has passed.
fn apic_deadline(ticks: u64, khz: u64) -> u64 {
    if (ticks as i64) < 0 { 1 } else { ns_of_ticks(ticks, khz).max(1) }
}

/// Sets the time stamp counter.
pub(crate) fn set_tsc(cx: &mut Cx<'_, X86>, value: u64) {
    let delta = value.wrapping_sub(tsc(cx));
    let m = &mut cx.state.msrs;
    m.tsc_offset = m.tsc_offset.wrapping_add(delta);
}

/// True for registers that a local APIC of the machine answers for.
const fn is_apic(index: u32) -> bool {
    matches!(index, APIC_BASE | TSC_DEADLINE | 0x800..=0x8ff)
}

/// RDMSR.
pub(crate) fn read(cx: &mut Cx<'_, X86>, index: u32) -> Result<u64, Trap> {
    if is_apic(index)
        && let Some(apics) = cx.local_apics()
    {
        let v = apics.read_msr(cx.index(), index).ok_or_else(gp)?;
        // The APIC counts nanoseconds, without the offset that software has put on the counter.
        let m = &cx.state.msrs;
        let deadline = index == TSC_DEADLINE && v != 0;
        return Ok(if deadline { ticks_of_ns(v, m.tsc_khz).wrapping_add(m.tsc_offset) } else { v });
    }
    match index {
        TSC => Ok(tsc(cx)),
        TSC_ADJUST => Ok(cx.state.msrs.tsc_adjust),
        APIC_BASE => Ok(cx.state.msrs.apic_base),
        EFER => Ok(cx.state.msrs.efer),
        VM_CR if cx.guest().model().has().svm => Ok(cx.state.svm.vm_cr),
        HSAVE if cx.guest().model().has().svm => Ok(cx.state.svm.hsave),
        FS_BASE => Ok(cx.state.seg_base[seg::FS]),
        GS_BASE => Ok(cx.state.seg_base[seg::GS]),
        _ => match plain(cx.state, index) {
            Some(v) => Ok(*v),
            None => constant(index).ok_or_else(gp),
        },
    }
}

/// WRMSR.
pub(crate) fn write(cx: &mut Cx<'_, X86>, index: u32, value: u64) -> Result<(), Trap> {
    if is_address(index) && !mmu::canonical(cx.state, value) {
        return Err(gp());
    }
    if is_apic(index)
        && let Some(apics) = cx.local_apics()
    {
        let deadline = index == TSC_DEADLINE && value != 0;
        let m = &cx.state.msrs;
        let told = if deadline { apic_deadline(value.wrapping_sub(m.tsc_offset), m.tsc_khz) } else { value };
        if !apics.write_msr(cx.index(), index, told) {
            return Err(gp());
        }
        if index == APIC_BASE {
            cx.state.msrs.apic_base = value;
        }
        return Ok(());
    }
    match index {
        kvm::SYSTEM_TIME | kvm::SYSTEM_TIME_OLD => kvm::set_system_time(cx, value),
        kvm::WALL_CLOCK | kvm::WALL_CLOCK_OLD => kvm::set_wall_clock(cx, value),
        TSC => set_tsc(cx, value),
        TSC_ADJUST => {
            let delta = value.wrapping_sub(cx.state.msrs.tsc_adjust);
            let m = &mut cx.state.msrs;
            m.tsc_adjust = value;
            m.tsc_offset = m.tsc_offset.wrapping_add(delta);
        }
        APIC_BASE => {
            // Where the local APIC is belongs to the board; x2APIC mode is not announced.
            let fixed = cx.state.msrs.apic_base & 0x100;
            if value & 0x400 != 0
                || value & 0x2ff != 0
                || value >> cx.guest().model().phys_bits != 0 && value & 0x100 != fixed
            {
                return Err(gp());
            }
            cx.state.msrs.apic_base = value & !0x100 | fixed;
        }
        EFER => return write_efer(cx, value),
        VM_CR if cx.guest().model().has().svm => {
            let v = &mut cx.state.svm.vm_cr;
            let locked = if *v & 8 != 0 { 0x18 } else { 0 };
            *v = value & 0x1f & !locked | *v & locked;
        }
        HSAVE if cx.guest().model().has().svm => {
            if value & 0xfff != 0 || value >> cx.guest().model().phys_bits != 0 {
                return Err(gp());
            }
            cx.state.svm.hsave = value;
        }
        FS_BASE => cx.state.seg_base[seg::FS] = value,
        GS_BASE => cx.state.seg_base[seg::GS] = value,
        0x277 if (0..8).any(|n| matches!(value >> (8 * n) & 0xff, 2 | 3 | 8..)) => return Err(gp()),
        _ => match plain(cx.state, index) {
            Some(v) => *v = value,
            None if constant(index).is_some() => {}
            None => return Err(gp()),
        },
    }
    Ok(())
}

/// Bits of EFER that the model has.
pub(crate) fn efer_mask(cx: &Cx<'_, X86>) -> u64 {
    let has = cx.guest().model().has();
    let bits =
        [(has.syscall, EFER_SCE), (has.lm, EFER_LME | EFER_LMA), (has.nx, EFER_NXE), (has.svm, EFER_SVME)];
    bits.iter().filter(|(on, _)| *on).fold(0, |m, (_, b)| m | b)
}

fn write_efer(cx: &mut Cx<'_, X86>, value: u64) -> Result<(), Trap> {
    let allowed = efer_mask(cx);
    let old = cx.state.msrs.efer;
    let lme_changes = (old ^ value) & EFER_LME != 0;
    let disabled = value & EFER_SVME != 0 && cx.state.svm.vm_cr & SVMDIS != 0;
    if value & !allowed != 0 || disabled || lme_changes && cx.state.cr0 & CR0_PG != 0 {
        return Err(gp());
    }
    cx.state.msrs.efer = value & !EFER_LMA | old & EFER_LMA;
    if (old ^ value) & (EFER_NXE | EFER_SVME) != 0 {
        cx.flush_tlb(None, |_| true);
    }
    Ok(())
}

/// The registers that have no field of their own in the neutral state, ascending.
pub(crate) fn save(cx: &mut Cx<'_, X86>) -> Vec<Msr> {
    let s = &*cx.state;
    let mut list = vec![Msr { index: TSC_ADJUST, value: s.msrs.tsc_adjust }];
    // Where it was never moved, an accelerator without system management mode can take the vCPU over.
    if s.smbase != smm::BASE {
        list.push(Msr { index: SMBASE, value: s.smbase });
    }
    let svm = cx.state.svm;
    if svm != svm::State::default() {
        list.extend((SVM_WORDS..).zip(svm.words()).map(|(index, value)| Msr { index, value }));
    }
    for index in plain_numbers() {
        if let Some(v) = plain(cx.state, index) {
            list.push(Msr { index, value: *v });
        }
    }
    list.sort_by_key(|m| m.index);
    list
}

/// Takes over a register of the neutral state. What the translator does not have is left out: other accelerators save
/// registers of their own.
pub(crate) fn restore(s: &mut Cpu, index: u32, value: u64) {
    if index == TSC_ADJUST {
        s.msrs.tsc_adjust = value;
    } else if index == SMBASE {
        s.smbase = value & 0xffff_ffff;
    } else if let Some(n) = index.checked_sub(SVM_WORDS).filter(|n| (*n as usize) < svm::WORDS) {
        s.svm.set_word(n as usize, value);
    } else if let Some(v) = plain(s, index) {
        *v = value;
    }
}

//! System instructions (SDM volume 3, 2.8): tables, rights of selectors, TLB, identification, random numbers.

use std::{collections::hash_map::RandomState, hash::BuildHasher};

use tcg_engine::{Cx, Trap};
use tcg_ir::{Effects, MemOp, SlotId, SlotSet};

use crate::{
    control::{self, CR4_DE, CR4_PCIDE, CR4_PKE, CR4_TSD, write_cr0},
    cpuid, debug,
    exceptions::{self, vector},
    guest::X86,
    helpers::{RAISES, RAISES_MEMORY, helpers},
    mmu, mode, msr,
    segment::{self, CODE, CONFORMING, RW, sys_store},
    state::{self, Table, seg},
    xsave,
};

fn gp<T>(selector: u16) -> Result<T, Trap> {
    Err(exceptions::with_error(vector::GP, selector & !3))
}

/// RAX, RBX, RCX, RDX.
const ABCD: &[SlotId] = &[state::reg(0), state::reg(1), state::reg(2), state::reg(3)];

/// Which system segment or table register.
pub(crate) const GDTR: u64 = 0;
/// Interrupt table.
pub(crate) const IDTR: u64 = 1;
/// Local table.
pub(crate) const LDTR: u64 = 2;
/// Task register.
pub(crate) const TR: u64 = 3;

/// LLDT and LTR.
fn load_system(cx: &mut Cx<'_, X86>, which: u64, selector: u16) -> Result<(), Trap> {
    if selector & !3 == 0 {
        if which == TR {
            return gp(0);
        }
        cx.state.ldt = state::Segment { selector, ..state::Segment::default() };
        return Ok(());
    }
    if selector & 4 != 0 {
        return gp(selector);
    }
    let d = segment::read_system(cx, selector, vector::GP)?;
    let long = cx.state.long_mode();
    let good = match (which, d.kind()) {
        (LDTR, 2) | (TR, 9) => true,
        (TR, 1) => !long,
        _ => false,
    };
    if d.is_segment() || !good {
        return gp(selector);
    }
    if !d.present() {
        return Err(exceptions::with_error(vector::NP, selector & !3));
    }
    let mut s = segment::system(selector, d);
    if which == TR {
        let word = (d.raw >> 32 | 2 << 8) & 0xffff_ffff;
        sys_store(cx, d.at, 2, word)?;
        s.access |= 2;
        cx.state.tr = s;
    } else {
        cx.state.ldt = s;
    }
    Ok(())
}

/// LAR, LSL, VERR, VERW: the answer with bit 63 set, or 0 if the selector does not do.
fn examine(cx: &mut Cx<'_, X86>, which: u64, selector: u16) -> Result<u64, Trap> {
    const GOOD: u64 = 1 << 63;
    if selector & !3 == 0 {
        return Ok(0);
    }
    // Only the reading of the table itself can fault, and only for its pages.
    let d = match segment::read_system(cx, selector, vector::GP) {
        Ok(d) => d,
        Err(t) if exceptions::vector_of(t) == vector::PF => return Err(t),
        Err(_) => return Ok(0),
    };
    let level = cx.state.cpl.max((selector & 3) as u8);
    let access = d.access();
    let conforming = access & (CODE | CONFORMING) == CODE | CONFORMING;
    if d.is_segment() {
        if !conforming && d.dpl() < level {
            return Ok(0);
        }
    } else if d.dpl() < level {
        return Ok(0);
    }
    let long = cx.state.long_mode();
    let ok = match (which, d.is_segment()) {
        (2, true) => access & CODE == 0 || access & RW != 0,
        (3, true) => access & (CODE | RW) == RW,
        (2 | 3, false) => false,
        (_, true) => true,
        (0, false) => match d.kind() {
            2 | 9 | 11 | 12 => true,
            1 | 3 | 4 | 5 => !long,
            _ => false,
        },
        (_, false) => match d.kind() {
            2 | 9 | 11 => true,
            1 | 3 => !long,
            _ => false,
        },
    };
    if !ok {
        return Ok(0);
    }
    Ok(GOOD | if which == 0 { d.raw >> 32 & 0x00ff_ff00 } else { u64::from(d.limit()) })
}

/// What all address spaces share, for `Cx::flush_tlb`.
const GLOBAL: u64 = u64::MAX;

fn invpcid(cx: &mut Cx<'_, X86>, kind: u64, at: u64) -> Result<(), Trap> {
    let m = MemOp::new(3).with_mmu(mode::data_mmu(cx.state));
    let low = cx.load(at, m)?;
    let high = cx.load(at.wrapping_add(8), m)?;
    let pcid = low & 0xfff;
    let enabled = cx.state.cr4 & CR4_PCIDE != 0;
    if kind > 3 || low >> 12 != 0 || kind < 2 && !enabled && pcid != 0 {
        return gp(0);
    }
    match kind {
        0 if !mmu::canonical(cx.state, high) => return gp(0),
        0 => cx.flush_tlb(Some(high), |t| t != GLOBAL && (t == pcid || !enabled)),
        1 => cx.flush_tlb(None, |t| t != GLOBAL && (t == pcid || !enabled)),
        2 => cx.flush_tlb(None, |_| true),
        _ => cx.flush_tlb(None, |t| t != GLOBAL),
    }
    Ok(())
}

/// Cached rights follow the protection keys.
fn keys_changed(cx: &mut Cx<'_, X86>, old: u64) {
    if cx.state.pkru != old && cx.state.cr4 & CR4_PKE != 0 {
        cx.flush_tlb(None, |_| true);
    }
}

fn read_dr(cx: &mut Cx<'_, X86>, n: u64) -> Result<u64, Trap> {
    check_dr(cx, n)?;
    Ok(match n {
        0..=3 => cx.state.dr[n as usize],
        4 | 6 => cx.state.dr6,
        _ => cx.state.dr7,
    })
}

fn check_dr(cx: &mut Cx<'_, X86>, n: u64) -> Result<(), Trap> {
    if matches!(n, 4 | 5) && cx.state.cr4 & CR4_DE != 0 {
        return Err(exceptions::plain(vector::UD));
    }
    // General detect: the registers are in use by a debugger of the hardware kind.
    if cx.state.dr7 & 1 << 13 != 0 {
        return Err(Trap { code: u64::from(vector::DB), value: 1 << 13 });
    }
    Ok(())
}

fn write_dr(cx: &mut Cx<'_, X86>, n: u64, value: u64) -> Result<(), Trap> {
    check_dr(cx, n)?;
    if n >= 4 && value >> 32 != 0 {
        return gp(0);
    }
    debug::write(cx.state, n as usize, value);
    Ok(())
}

/// Words of the floating-point units that instructions read and write.
pub(crate) mod fpu_word {
    /// x87 control word.
    pub(crate) const CONTROL: u64 = 0;
    /// x87 status word.
    pub(crate) const STATUS: u64 = 1;
    /// MXCSR.
    pub(crate) const MXCSR: u64 = 2;
    /// Initial state of x87.
    pub(crate) const INIT: u64 = 3;
    /// No x87 exceptions.
    pub(crate) const CLEAR: u64 = 4;
    /// Empty x87 registers.
    pub(crate) const EMPTY: u64 = 5;
    /// Pending x87 exceptions are raised.
    pub(crate) const WAIT: u64 = 6;
}

/// Exceptions in the status word that the control word does not mask are pending.
fn fpu_set(cx: &mut Cx<'_, X86>, word: u64, value: u64) -> Result<(), Trap> {
    let f = &mut cx.state.x87;
    match word {
        fpu_word::MXCSR => return xsave::set_mxcsr(cx, value as u32),
        fpu_word::CONTROL => f.fcw = value & 0x1f7f | 0x40,
        fpu_word::INIT => {
            (f.fcw, f.fsw, f.top, f.ftw) = (0x37f, 0, 0, 0);
            (f.fop, f.fip, f.fdp, f.fcs, f.fds) = (0, 0, 0, 0, 0);
        }
        fpu_word::CLEAR => f.fsw &= 0x7f00,
        fpu_word::EMPTY => (f.ftw, f.top) = (0, 0),
        _ if f.fsw & 0x80 != 0 => return Err(exceptions::plain(vector::MF)),
        _ => {}
    }
    // ES and B say that an exception is unmasked.
    let f = &mut cx.state.x87;
    let pending = f.fsw & !f.fcw & 0x3f != 0;
    f.fsw = f.fsw & !0x8080 | if pending { 0x8080 } else { 0 };
    Ok(())
}

helpers! {
    base control::FIRST + control::COUNT;

    /// MOV, POP or LxS to a segment register.
    LoadSegment "load_segment" (n, selector) -> Void
        reads SlotSet::All, writes SlotSet::All, effects RAISES_MEMORY;
        |cx| segment::load(cx, n as usize, selector as u16).map(|()| 0)

    /// LGDT and LIDT.
    LoadTable "load_table" (which, base, limit) -> Void
        reads SlotSet::None, writes SlotSet::None, effects RAISES;
        |cx| {
            let t = Table { base, limit: limit as u16 };
            if which == GDTR { cx.state.gdt = t } else { cx.state.idt = t }
            Ok(0)
        }

    /// Base or selector of a table register.
    TableBase "table_base" (which) -> I64
        reads SlotSet::None, writes SlotSet::None, effects RAISES;
        |cx| Ok(match which {
            GDTR => cx.state.gdt.base,
            IDTR => cx.state.idt.base,
            LDTR => u64::from(cx.state.ldt.selector),
            _ => u64::from(cx.state.tr.selector),
        })

    /// Limit of a table register.
    TableLimit "table_limit" (which) -> I64
        reads SlotSet::None, writes SlotSet::None, effects RAISES;
        |cx| Ok(u64::from(if which == GDTR { cx.state.gdt.limit } else { cx.state.idt.limit }))

    /// LLDT and LTR.
    LoadSystem "load_system" (which, selector) -> Void
        reads SlotSet::None, writes SlotSet::None, effects RAISES_MEMORY;
        |cx| load_system(cx, which, selector as u16).map(|()| 0)

    /// LAR, LSL, VERR, VERW.
    Examine "examine" (which, selector) -> I64
        reads SlotSet::None, writes SlotSet::None, effects RAISES_MEMORY;
        |cx| examine(cx, which, selector as u16)

    /// LMSW.
    Lmsw "lmsw" (value) -> Void
        reads SlotSet::All, writes SlotSet::None, effects RAISES_MEMORY;
        |cx| {
            // PE can be set and not cleared.
            let old = cx.state.cr0;
            write_cr0(cx, old & !14 | value & 15)?;
            Ok(0)
        }

    /// SWAPGS.
    Swapgs "swapgs" () -> Void
        reads SlotSet::Only(&[state::base(seg::GS)]), writes SlotSet::Only(&[state::base(seg::GS)]),
        effects Effects::empty();
        |cx| {
            let s = &mut *cx.state;
            std::mem::swap(&mut s.seg_base[seg::GS], &mut s.msrs.kernel_gs_base);
            Ok(0)
        }

    /// INVLPG.
    Invlpg "invlpg" (at) -> Void
        reads SlotSet::None, writes SlotSet::None, effects RAISES_MEMORY;
        |cx| {
            // A global page may be cached under any identifier.
            cx.flush_tlb(Some(at), |_| true);
            Ok(0)
        }

    /// INVPCID.
    Invpcid "invpcid" (kind, at) -> Void
        reads SlotSet::All, writes SlotSet::None, effects RAISES_MEMORY;
        |cx| invpcid(cx, kind, at).map(|()| 0)

    /// CPUID.
    Cpuid "cpuid" () -> Void
        reads SlotSet::All, writes SlotSet::Only(ABCD), effects Effects::empty();
        |cx| {
            let (leaf, subleaf) = (cx.state.reg32(0), cx.state.reg32(1));
            let [a, b, c, d] = cpuid::leaf(cx.guest().model(), cx.state, leaf, subleaf);
            for (r, v) in [(0, a), (3, b), (1, c), (2, d)] {
                cx.state.regs[r] = u64::from(v);
            }
            Ok(0)
        }

    /// RDTSC.
    Rdtsc "rdtsc" () -> I64
        reads SlotSet::None, writes SlotSet::None, effects RAISES;
        |cx| {
            if cx.state.cr4 & CR4_TSD != 0 && cx.state.cpl != 0 {
                return gp(0);
            }
            Ok(msr::tsc(cx))
        }

    /// IA32_TSC_AUX.
    TscAux "tsc_aux" () -> I64
        reads SlotSet::None, writes SlotSet::None, effects RAISES;
        |cx| Ok(cx.state.msrs.tsc_aux)

    /// RDRAND and RDSEED: the standard library's hash keys are random, and so is what they make of the time.
    Random "random" () -> I64
        reads SlotSet::None, writes SlotSet::None, effects RAISES;
        |cx| Ok(RandomState::new().hash_one((cx.now_ns(), std::time::SystemTime::now())))

    /// MOV from a debug register.
    ReadDr "read_dr" (n) -> I64
        reads SlotSet::None, writes SlotSet::None, effects RAISES;
        |cx| read_dr(cx, n)

    /// MOV to a debug register.
    WriteDr "write_dr" (n, value) -> Void
        reads SlotSet::None, writes SlotSet::None, effects RAISES;
        |cx| write_dr(cx, n, value).map(|()| 0)

    /// XGETBV.
    Xgetbv "xgetbv" (n) -> I64
        reads SlotSet::None, writes SlotSet::None, effects RAISES;
        |cx| match n & 0xffff_ffff {
            0 => Ok(cx.state.xcr0),
            // Which components are in use.
            1 => Ok(cx.state.xcr0 & xsave::in_use(cx.state)),
            _ => gp(0),
        }

    /// XSETBV.
    Xsetbv "xsetbv" (n, value) -> Void
        reads SlotSet::None, writes SlotSet::None, effects RAISES;
        |cx| {
            let mask = cpuid::xcr0_mask(cx.guest().model());
            let avx512 = value & 0xe0;
            let bad = value & 1 == 0
                || value & !mask != 0
                || value & 6 == 4
                || avx512 != 0 && (avx512 != 0xe0 || value & 6 != 6);
            if n & 0xffff_ffff != 0 || bad {
                return gp(0);
            }
            cx.state.xcr0 = value;
            Ok(0)
        }

    /// PAUSE of a guest with several vCPUs: it spins, and whom it waits for may need the host's processor.
    Pause "pause" () -> Void
        reads SlotSet::None, writes SlotSet::None, effects Effects::empty();
        |_cx| {
            std::thread::yield_now();
            Ok(0)
        }

    /// RDPKRU and WRPKRU: `write`, RCX, and what to write with RDX above it.
    Pkru "pkru" (write, rcx, value) -> I64
        reads SlotSet::None, writes SlotSet::None, effects RAISES;
        |cx| {
            if cx.state.cr4 & CR4_PKE == 0 {
                return Err(exceptions::plain(vector::UD));
            }
            if rcx & 0xffff_ffff != 0 || write != 0 && value >> 32 != 0 {
                return gp(0);
            }
            let old = cx.state.pkru;
            if write != 0 {
                cx.state.pkru = value;
                keys_changed(cx, old);
            }
            Ok(cx.state.pkru)
        }

    /// FXSAVE: the address, and "64-bit form".
    Fxsave "fxsave" (at, wide) -> Void
        reads SlotSet::All, writes SlotSet::None, effects RAISES_MEMORY.union(Effects::FP);
        |cx| xsave::fxsave(cx, at, wide != 0).map(|()| 0)

    /// FXRSTOR.
    Fxrstor "fxrstor" (at, wide) -> Void
        reads SlotSet::All, writes SlotSet::All, effects RAISES_MEMORY.union(Effects::FP);
        |cx| xsave::fxrstor(cx, at, wide != 0).map(|()| 0)

    /// XSAVE, XSAVEOPT and XSAVEC. `how`: "64-bit form", and which from bit 1 on.
    Xsave "xsave" (at, how) -> Void
        reads SlotSet::All, writes SlotSet::None, effects RAISES_MEMORY.union(Effects::FP);
        |cx| xsave::xsave(cx, at, how & 1 != 0, xsave::Form::from_bits(how >> 1)).map(|()| 0)

    /// XRSTOR.
    Xrstor "xrstor" (at, wide) -> Void
        reads SlotSet::All, writes SlotSet::All, effects RAISES_MEMORY.union(Effects::FP);
        |cx| {
            let pkru = cx.state.pkru;
            xsave::xrstor(cx, at, wide != 0)?;
            keys_changed(cx, pkru);
            Ok(0)
        }

    /// A word of the floating-point units.
    FpuGet "fpu_get" (word) -> I64
        reads SlotSet::All, writes SlotSet::None, effects Effects::FP;
        |cx| Ok(match word {
            fpu_word::CONTROL => cx.state.x87.fcw,
            fpu_word::STATUS => cx.state.x87.fsw & !0x3800 | (cx.state.x87.top & 7) << 11,
            _ => u64::from(xsave::mxcsr(cx)),
        })

    /// Sets a word of the floating-point units, or acts on them.
    FpuSet "fpu_set" (word, value) -> Void
        reads SlotSet::All, writes SlotSet::Only(&[state::MXCSR, state::X87_TOP]),
        effects RAISES.union(Effects::FP);
        |cx| fpu_set(cx, word, value).map(|()| 0)
}

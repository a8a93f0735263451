//! Exceptions and interrupts: vectors, and delivery through IVT and IDT (SDM volume 3, chapter 6).
//!
//! A [`Trap`]'s code is the vector in bits 0 to 7, "has an error code" in bit 8, and the error code from bit 16 on; its
//! value is what goes with it: CR2 of a page fault, new DR6 bits of a debug exception.

use accel::LogItems;
use tcg_engine::{Cx, Trap};
use tcg_ir::SlotSet;

use crate::{
    control::CR0_PE,
    flags,
    guest::X86,
    helpers::{self, RAISES_EXITS, helpers},
    interrupts,
    mode::{MMU_KERNEL, MMU_USER},
    segment::{self, CODE, CONFORMING, Descriptor, L, P, RW, S, sys_load},
    stack::Stack,
    state::{Run, seg},
    svm, task,
};

/// Vectors.
pub mod vector {
    /// Divide error.
    pub const DE: u8 = 0;
    /// Debug.
    pub const DB: u8 = 1;
    /// NMI.
    pub const NMI: u8 = 2;
    /// Breakpoint.
    pub const BP: u8 = 3;
    /// Overflow (INTO).
    pub const OF: u8 = 4;
    /// BOUND.
    pub const BR: u8 = 5;
    /// Undefined opcode.
    pub const UD: u8 = 6;
    /// No coprocessor.
    pub const NM: u8 = 7;
    /// Double fault.
    pub const DF: u8 = 8;
    /// Invalid TSS.
    pub const TS: u8 = 10;
    /// Segment not present.
    pub const NP: u8 = 11;
    /// Stack segment.
    pub const SS: u8 = 12;
    /// General protection.
    pub const GP: u8 = 13;
    /// Page fault.
    pub const PF: u8 = 14;
    /// x87 error.
    pub const MF: u8 = 16;
    /// Alignment check.
    pub const AC: u8 = 17;
    /// Machine check.
    pub const MC: u8 = 18;
    /// SIMD floating point.
    pub const XM: u8 = 19;
}

const HAS_ERROR: u64 = 1 << 8;

/// An exception without an error code.
#[must_use]
pub const fn plain(vector: u8) -> Trap {
    Trap { code: vector as u64, value: 0 }
}

/// An exception with an error code.
#[must_use]
pub const fn with_error(vector: u8, error: u16) -> Trap {
    Trap { code: vector as u64 | HAS_ERROR | (error as u64) << 16, value: 0 }
}

/// Debug exception bit in DR6: single step.
pub const DR6_BS: u64 = 1 << 14;

/// Vector of a trap.
#[must_use]
pub const fn vector_of(trap: Trap) -> u8 {
    trap.code as u8
}

/// Error code of a trap.
#[must_use]
pub const fn error_of(trap: Trap) -> Option<u16> {
    if trap.code & HAS_ERROR != 0 { Some((trap.code >> 16) as u16) } else { None }
}

/// What causes a delivery.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Source {
    /// The processor itself.
    Exception,
    /// INT n, INT3, INTO.
    Software,
    /// INTR, NMI.
    External,
}

/// Two exceptions that cannot be handled one after the other (SDM volume 3, table 6-5).
const fn makes_double_fault(first: u8, second: u8) -> bool {
    const fn contributory(v: u8) -> bool {
        matches!(v, vector::DE | vector::TS | vector::NP | vector::SS | vector::GP)
    }
    match first {
        vector::PF => second == vector::PF || contributory(second),
        _ => contributory(first) && contributory(second),
    }
}

/// Delivers an exception; state stands at the instruction that caused it. An exit from a guest comes this way, too.
pub(crate) fn raise(cx: &mut Cx<'_, X86>, trap: Trap) {
    raise_event(cx, trap, false);
}

/// The same of an exception that a host has injected, which it does not intercept itself.
pub(crate) fn raise_injected(cx: &mut Cx<'_, X86>, trap: Trap) {
    raise_event(cx, trap, true);
}

fn raise_event(cx: &mut Cx<'_, X86>, trap: Trap, injected: bool) {
    let (mut trap, mut injected) = (trap, injected);
    loop {
        if trap.code & svm::EXIT != 0 {
            return svm::exit(cx, trap);
        }
        if !std::mem::take(&mut injected) && svm::takes_exception(cx, trap) {
            return;
        }
        svm::delivering(cx.state, svm::Event::Exception(trap));
        let v = vector_of(trap);
        if let Some(log) = cx.log(LogItems::INT) {
            log.write(format_args!(
                "cpu {}: exception {v} (error {:x?}, value {:#x}) at {:#x}, level {}\n",
                cx.index(),
                error_of(trap),
                trap.value,
                cx.state.pc,
                cx.state.cpl
            ));
        }
        // What the instruction would have hit did not happen.
        cx.state.dr_hit = 0;
        let mut fault = true;
        match v {
            vector::PF => cx.state.cr2 = trap.value,
            vector::DB => {
                cx.state.dr6 |= trap.value;
                cx.state.dr7 &= !(1 << 13);
                fault = false;
            }
            vector::DF => fault = false,
            _ => {}
        }
        let real = !cx.state.protected();
        let error = error_of(trap).filter(|_| !real);
        let Err(second) = deliver(cx, v, Source::Exception, error, fault) else {
            cx.state.shadow = 0;
            svm::delivered(cx.state);
            return;
        };
        if second.code & svm::EXIT != 0 {
            return svm::exit(cx, second);
        }
        if v == vector::DF {
            if !svm::takes_shutdown(cx) {
                cx.state.run = Run::Shutdown;
            }
            return;
        }
        if vector_of(second) == vector::PF {
            cx.state.cr2 = second.value;
        }
        trap = if makes_double_fault(v, vector_of(second)) { with_error(vector::DF, 0) } else { second };
    }
}

/// Delivers an external interrupt.
pub(crate) fn external(cx: &mut Cx<'_, X86>, v: u8) {
    if let Some(log) = cx.log(LogItems::INT) {
        log.write(format_args!("cpu {}: interrupt {v} at {:#x}\n", cx.index(), cx.state.pc));
    }
    let event = if v == vector::NMI { svm::Event::Nmi } else { svm::Event::Interrupt(v) };
    svm::delivering(cx.state, event);
    match deliver(cx, v, Source::External, None, false) {
        Ok(()) => svm::delivered(cx.state),
        Err(trap) => raise(cx, trap),
    }
}

/// Goes through the table. On error nothing but memory below the stack has changed.
fn deliver(
    cx: &mut Cx<'_, X86>,
    vector: u8,
    source: Source,
    error: Option<u16>,
    fault: bool,
) -> Result<(), Trap> {
    if cx.state.cr0 & CR0_PE == 0 { real(cx, vector) } else { protected(cx, vector, source, error, fault) }
}

fn real(cx: &mut Cx<'_, X86>, vector: u8) -> Result<(), Trap> {
    let at = u64::from(vector) * 4;
    if at + 3 > u64::from(cx.state.idt.limit) {
        return Err(with_error(vector::GP, 0));
    }
    let entry = sys_load(cx, cx.state.idt.base.wrapping_add(at) & 0xffff_ffff, 2)?;
    let mut stack = Stack::current(cx.state);
    let (flags, cs, ip) = (cx.state.rflags(), cx.state.seg_sel[seg::CS], cx.state.rip());
    stack.push(cx, 1, flags)?;
    stack.push(cx, 1, cs)?;
    stack.push(cx, 1, ip)?;
    stack.commit(cx.state);
    cx.state.sys &= !(flags::IF | flags::TF | flags::AC | flags::RF);
    segment::put_real(cx.state, seg::CS, (entry >> 16) as u16);
    cx.state.set_rip(entry & 0xffff);
    Ok(())
}

/// A gate of the interrupt descriptor table.
fn gate(cx: &mut Cx<'_, X86>, v: u8, source: Source, ext: u16) -> Result<Descriptor, Trap> {
    let long = cx.state.long_mode();
    let size = if long { 16 } else { 8 };
    let offset = u64::from(v) * size;
    let error = u16::from(v) * 8 + 2 + ext;
    if offset + size - 1 > u64::from(cx.state.idt.limit) {
        return Err(with_error(vector::GP, error));
    }
    let at = segment::linear(cx.state, cx.state.idt.base.wrapping_add(offset));
    let raw = sys_load(cx, at, 3)?;
    let high = if long { sys_load(cx, at.wrapping_add(8), 3)? & 0xffff_ffff } else { 0 };
    let d = Descriptor { at: at.wrapping_add(4), raw, high };
    let good = match d.kind() {
        14 | 15 => true,
        5..=7 => !long,
        _ => false,
    };
    if !good || d.is_segment() || source == Source::Software && d.dpl() < cx.state.cpl {
        return Err(with_error(vector::GP, error));
    }
    if !d.present() {
        return Err(with_error(vector::NP, error));
    }
    Ok(d)
}

fn protected(
    cx: &mut Cx<'_, X86>,
    v: u8,
    source: Source,
    error: Option<u16>,
    fault: bool,
) -> Result<(), Trap> {
    let ext = u16::from(source != Source::Software);
    let gate = gate(cx, v, source, ext)?;
    if gate.kind() == 5 {
        return task::through_gate(cx, gate.gate_selector(), error, ext);
    }
    let long = cx.state.long_mode();
    let selector = gate.gate_selector();
    if selector & !3 == 0 {
        return Err(with_error(vector::GP, ext));
    }
    let code = segment::read(cx, selector, vector::GP).map_err(|t| with_ext(t, ext))?;
    let access = code.access();
    let bad_long = long && (access & L == 0 || access & segment::DB != 0);
    if !code.is_code() || code.dpl() > cx.state.cpl || bad_long {
        return Err(with_error(vector::GP, selector & !3 | ext));
    }
    if !code.present() {
        return Err(with_error(vector::NP, selector & !3 | ext));
    }
    let vm86 = cx.state.vm86();
    let inner = access & CONFORMING == 0 && code.dpl() < cx.state.cpl;
    if vm86 && (!inner || code.dpl() != 0) {
        return Err(with_error(vector::GP, selector & !3 | ext));
    }
    let cpl = if inner { code.dpl() } else { cx.state.cpl };
    let wide = gate.kind() & 8 != 0;
    let log2 = if long { 3 } else { 1 + u32::from(wide) };

    let mut rflags = cx.state.rflags();
    if fault {
        rflags |= flags::RF;
    }
    let ist = if long { gate.raw >> 32 & 7 } else { 0 };
    let mut stack = if inner || ist != 0 {
        new_stack(cx, cpl, ist, ext)?
    } else {
        let mut stack = Stack::current(cx.state);
        if long {
            stack.align16();
        }
        stack
    };
    let s = &*cx.state;
    let (ss, sp) = (s.seg_sel[seg::SS], s.regs[4]);
    let (cs, rip) = (s.seg_sel[seg::CS], s.rip());
    if vm86 {
        for n in [seg::GS, seg::FS, seg::DS, seg::ES] {
            let sel = cx.state.seg_sel[n];
            stack.push(cx, log2, sel)?;
        }
    }
    if inner || long {
        stack.push(cx, log2, ss)?;
        stack.push(cx, log2, sp)?;
    }
    stack.push(cx, log2, rflags)?;
    stack.push(cx, log2, cs)?;
    stack.push(cx, log2, rip)?;
    if let Some(error) = error {
        stack.push(cx, log2, u64::from(error))?;
    }
    let access = segment::mark_accessed(cx, code)?;

    // Nothing can fail any more.
    let s = &mut *cx.state;
    if vm86 {
        for n in [seg::ES, seg::DS, seg::FS, seg::GS] {
            (s.seg_sel[n], s.seg_base[n], s.seg_limit[n], s.seg_access[n]) = (0, 0, 0, 0);
        }
    }
    stack.commit(s);
    s.sys &= !(flags::TF | flags::VM | flags::RF | flags::NT);
    if gate.kind() & 1 == 0 {
        s.sys &= !flags::IF;
    }
    s.cpl = cpl;
    segment::put(s, seg::CS, selector & !3 | u16::from(cpl), code, access);
    let offset = match (long, wide) {
        (true, _) => gate.gate_offset(),
        (_, true) => gate.gate_offset() & 0xffff_ffff,
        _ => gate.gate_offset() & 0xffff,
    };
    s.set_rip(offset);
    Ok(())
}

/// A trap whose error code is a selector, with the EXT bit.
fn with_ext(t: Trap, ext: u16) -> Trap {
    if error_of(t).is_some() && vector_of(t) != vector::PF {
        Trap { code: t.code | u64::from(ext) << 16, ..t }
    } else {
        t
    }
}

/// The stack of an inner level from the task-state segment.
pub(crate) fn new_stack(cx: &mut Cx<'_, X86>, cpl: u8, ist: u64, ext: u16) -> Result<Stack, Trap> {
    let tr = cx.state.tr;
    let bad = with_error(vector::TS, tr.selector & !3 | ext);
    let mmu = if cpl == 3 { MMU_USER } else { MMU_KERNEL };
    if cx.state.long_mode() {
        let offset = if ist != 0 { 0x1c + 8 * ist } else { 4 + 8 * u64::from(cpl) };
        if offset + 7 > u64::from(tr.limit) {
            return Err(bad);
        }
        let sp = sys_load(cx, tr.base.wrapping_add(offset), 3)?;
        let mut stack = Stack::long(sp, mmu);
        stack.align16();
        // A null selector whose RPL is the new level; none if the level stays.
        stack.segment = (cpl != cx.state.cpl).then_some((
            u16::from(cpl),
            Descriptor { at: 0, raw: 0, high: 0 },
            P | S | RW | 1 | u64::from(cpl) << 5,
        ));
        return Ok(stack);
    }
    let wide = tr.access & 8 != 0;
    let offset = if wide { 4 + 8 * u64::from(cpl) } else { 2 + 4 * u64::from(cpl) };
    let size = if wide { 6 } else { 4 };
    if offset + size - 1 > u64::from(tr.limit) {
        return Err(bad);
    }
    let at = tr.base.wrapping_add(offset) & 0xffff_ffff;
    let log2 = 1 + u32::from(wide);
    let sp = sys_load(cx, at, log2)?;
    let ss = sys_load(cx, at.wrapping_add(1 << log2) & 0xffff_ffff, 1)? as u16;
    let bad = with_error(vector::TS, ss & !3 | ext);
    if ss & !3 == 0 {
        return Err(with_error(vector::TS, ext));
    }
    let d = segment::read(cx, ss, vector::TS).map_err(|t| with_ext(t, ext))?;
    let writable = d.access() & (S | CODE | RW) == S | RW;
    if (ss & 3) as u8 != cpl || d.dpl() != cpl || !writable {
        return Err(bad);
    }
    if !d.present() {
        return Err(with_error(vector::SS, ss & !3 | ext));
    }
    let access = segment::mark_accessed(cx, d)?;
    Ok(Stack::inner(sp, ss, d, access, mmu))
}

helpers! {
    base helpers::FIRST + helpers::COUNT;

    /// INT n, INT3 and INTO, with the program counter behind them: `vector`, and 1 if it is INT n.
    SoftInt "soft_int" (vector, n) -> Void
        reads SlotSet::All, writes SlotSet::All, effects RAISES_EXITS;
        |cx| {
            let vm86 = cx.state.vm86();
            if vm86 && n != 0 && cx.state.iopl() < 3 {
                return Err(with_error(vector::GP, 0));
            }
            deliver(cx, vector as u8, Source::Software, None, false)?;
            interrupts::look(cx);
            Ok(0)
        }

    /// INT1: a debug exception without condition.
    Int1 "int1" () -> Void
        reads SlotSet::All, writes SlotSet::All, effects RAISES_EXITS;
        |cx| {
            deliver(cx, vector::DB, Source::Exception, None, false)?;
            Ok(0)
        }
}

//! Far transfers: JMP, CALL, RET and IRET between segments and levels, call gates (SDM volume 3, 5.8; volume 2).
//!
//! Every function checks everything first and changes state last, so that a fault leaves the state as it was.

use tcg_engine::{Cx, Trap};
use tcg_ir::SlotSet;

use crate::{
    exceptions::{self, vector},
    flags,
    guest::X86,
    helpers::{RAISES_EXITS, helpers},
    interrupts,
    mode::{MMU_KERNEL, MMU_USER},
    segment::{self, CODE, CONFORMING, DB, Descriptor, L, P, RW, S},
    stack::Stack,
    state::{Cpu, seg},
    task,
};

fn gp<T>(selector: u16) -> Result<T, Trap> {
    Err(exceptions::with_error(vector::GP, selector & !3))
}

/// A code segment that a transfer may enter: `jump` says at which levels.
fn check_code(cx: &Cx<'_, X86>, selector: u16, d: Descriptor, rpl_counts: bool) -> Result<(), Trap> {
    let s = &*cx.state;
    let (cpl, dpl, rpl) = (s.cpl, d.dpl(), (selector & 3) as u8);
    if !d.is_code() {
        return gp(selector);
    }
    let conforming = d.access() & CONFORMING != 0;
    let level = if conforming { dpl <= cpl } else { dpl == cpl && (!rpl_counts || rpl <= cpl) };
    if !level || s.long_mode() && d.access() & (L | DB) == L | DB {
        return gp(selector);
    }
    if !d.present() {
        return Err(exceptions::with_error(vector::NP, selector & !3));
    }
    Ok(())
}

/// An offset in the width of an operand, inside the segment unless that is 64-bit code.
fn check_offset(s: &Cpu, d: Descriptor, offset: u64, log2: u32) -> Result<u64, Trap> {
    let offset = match log2 {
        1 => offset & 0xffff,
        2 => offset & 0xffff_ffff,
        _ => offset,
    };
    if s.long_mode() && d.access() & L != 0 {
        return if crate::mmu::canonical(s, offset) { Ok(offset) } else { gp(0) };
    }
    let offset = offset & 0xffff_ffff;
    if offset > u64::from(d.limit()) { gp(0) } else { Ok(offset) }
}

/// Puts code segment and instruction pointer in place at the present level.
fn enter(cx: &mut Cx<'_, X86>, selector: u16, d: Descriptor, offset: u64) -> Result<(), Trap> {
    let access = segment::mark_accessed(cx, d)?;
    let s = &mut *cx.state;
    segment::put(s, seg::CS, selector & !3 | u16::from(s.cpl), d, access);
    s.set_rip(offset);
    Ok(())
}

/// The code segment and offset behind a call gate.
fn through_gate(cx: &mut Cx<'_, X86>, selector: u16, gate: Descriptor) -> Result<(u16, Descriptor), Trap> {
    let rpl = (selector & 3) as u8;
    if gate.dpl() < cx.state.cpl.max(rpl) {
        return gp(selector);
    }
    if !gate.present() {
        return Err(exceptions::with_error(vector::NP, selector & !3));
    }
    let target = gate.gate_selector();
    if target & !3 == 0 {
        return gp(0);
    }
    let d = segment::read(cx, target, vector::GP)?;
    let long = cx.state.long_mode();
    if !d.is_code() || long && d.access() & (L | DB) != L {
        return gp(target);
    }
    Ok((target, d))
}

/// JMP to another segment.
fn jump(cx: &mut Cx<'_, X86>, selector: u16, offset: u64, log2: u32) -> Result<(), Trap> {
    if !cx.state.protected() || cx.state.vm86() {
        let offset = if log2 == 1 { offset & 0xffff } else { offset & 0xffff_ffff };
        segment::put_real(cx.state, seg::CS, selector);
        cx.state.set_rip(offset);
        return Ok(());
    }
    if selector & !3 == 0 {
        return gp(0);
    }
    let d = segment::read_system(cx, selector, vector::GP)?;
    if d.is_segment() {
        check_code(cx, selector, d, true)?;
        let offset = check_offset(cx.state, d, offset, log2)?;
        return enter(cx, selector, d, offset);
    }
    match (d.kind(), cx.state.long_mode()) {
        (12, _) | (4, false) => {
            let (target, code) = through_gate(cx, selector, d)?;
            check_code(cx, target, code, false)?;
            let log2 = if d.kind() == 12 { 3 } else { 1 };
            let offset = check_offset(cx.state, code, d.gate_offset(), log2)?;
            enter(cx, target, code, offset)
        }
        (1 | 3 | 5 | 9 | 11, false) => task::jump(cx, selector, d),
        _ => gp(selector),
    }
}

/// CALL to another segment. The program counter is behind the instruction.
fn call(cx: &mut Cx<'_, X86>, selector: u16, offset: u64, log2: u32) -> Result<(), Trap> {
    let (cs, rip) = (cx.state.seg_sel[seg::CS], cx.state.rip());
    let mut stack = Stack::current(cx.state);
    if !cx.state.protected() || cx.state.vm86() {
        stack.push(cx, log2, cs)?;
        stack.push(cx, log2, rip)?;
        stack.commit(cx.state);
        return jump(cx, selector, offset, log2);
    }
    if selector & !3 == 0 {
        return gp(0);
    }
    let d = segment::read_system(cx, selector, vector::GP)?;
    if d.is_segment() {
        check_code(cx, selector, d, true)?;
        let offset = check_offset(cx.state, d, offset, log2)?;
        stack.push(cx, log2, cs)?;
        stack.push(cx, log2, rip)?;
        enter(cx, selector, d, offset)?;
        stack.commit(cx.state);
        return Ok(());
    }
    match (d.kind(), cx.state.long_mode()) {
        (12, _) | (4, false) => call_gate(cx, selector, d),
        (1 | 3 | 5 | 9 | 11, false) => task::call(cx, selector, d),
        _ => gp(selector),
    }
}

fn call_gate(cx: &mut Cx<'_, X86>, selector: u16, gate: Descriptor) -> Result<(), Trap> {
    let (target, code) = through_gate(cx, selector, gate)?;
    let long = cx.state.long_mode();
    let (cs, rip) = (cx.state.seg_sel[seg::CS], cx.state.rip());
    let log2 = match (long, gate.kind()) {
        (true, _) => 3,
        (_, 12) => 2,
        _ => 1,
    };
    let offset = if log2 == 1 { gate.gate_offset() & 0xffff } else { gate.gate_offset() };
    let inner = code.access() & CONFORMING == 0 && code.dpl() < cx.state.cpl;
    if !inner {
        check_code(cx, target, code, false)?;
        let offset = check_offset(cx.state, code, offset, 3)?;
        let mut stack = Stack::current(cx.state);
        stack.push(cx, log2, cs)?;
        stack.push(cx, log2, rip)?;
        enter(cx, target, code, offset)?;
        stack.commit(cx.state);
        return Ok(());
    }
    if !code.present() {
        return Err(exceptions::with_error(vector::NP, target & !3));
    }
    let offset = check_offset(cx.state, code, offset, 3)?;
    let old = Stack::current(cx.state);
    let (ss, sp) = (cx.state.seg_sel[seg::SS], cx.state.regs[4]);
    let mut stack = exceptions::new_stack(cx, code.dpl(), 0, 0)?;
    stack.push(cx, log2, ss)?;
    stack.push(cx, log2, sp)?;
    if !long {
        let count = (gate.raw >> 32 & 31) as i64;
        for n in (0..count).rev() {
            let mut from = old;
            from.sp = old.moved(n << log2);
            let v = from.pop(cx, log2)?;
            stack.push(cx, log2, v)?;
        }
    }
    stack.push(cx, log2, cs)?;
    stack.push(cx, log2, rip)?;
    let access = segment::mark_accessed(cx, code)?;
    let s = &mut *cx.state;
    stack.commit(s);
    s.cpl = code.dpl();
    segment::put(s, seg::CS, target & !3 | u16::from(s.cpl), code, access);
    s.set_rip(offset);
    Ok(())
}

/// A stack segment that a return to level `rpl` finds on the stack.
fn check_ss(cx: &mut Cx<'_, X86>, ss: u16, rpl: u8, code64: bool) -> Result<(Descriptor, u64), Trap> {
    if ss & !3 == 0 {
        if code64 && rpl != 3 {
            let access = P | S | RW | 1 | u64::from(rpl) << 5;
            return Ok((Descriptor { at: 0, raw: 0, high: 0 }, access));
        }
        return gp(0);
    }
    let d = segment::read(cx, ss, vector::GP)?;
    let writable = d.access() & (S | CODE | RW) == S | RW;
    if (ss & 3) as u8 != rpl || d.dpl() != rpl || !writable {
        return gp(ss);
    }
    if !d.present() {
        return Err(exceptions::with_error(vector::SS, ss & !3));
    }
    let access = segment::mark_accessed(cx, d)?;
    Ok((d, access))
}

/// A code segment that a return finds on the stack.
fn check_return(cx: &mut Cx<'_, X86>, cs: u16) -> Result<Descriptor, Trap> {
    if cs & !3 == 0 {
        return gp(0);
    }
    let d = segment::read(cx, cs, vector::GP)?;
    let rpl = (cs & 3) as u8;
    let conforming = d.access() & CONFORMING != 0;
    let level = if conforming { d.dpl() <= rpl } else { d.dpl() == rpl };
    let long_bad = cx.state.long_mode() && d.access() & (L | DB) == L | DB;
    if !d.is_code() || rpl < cx.state.cpl || !level || long_bad {
        return gp(cs);
    }
    if !d.present() {
        return Err(exceptions::with_error(vector::NP, cs & !3));
    }
    Ok(d)
}

/// Empties the data segment registers that the new level may not use.
fn drop_inner_segments(s: &mut Cpu) {
    for n in [seg::ES, seg::DS, seg::FS, seg::GS] {
        let access = s.seg_access[n];
        let conforming = access & (CODE | CONFORMING) == CODE | CONFORMING;
        let dpl = (access >> 5 & 3) as u8;
        if !conforming && dpl < s.cpl && access & P != 0 {
            (s.seg_sel[n], s.seg_base[n], s.seg_limit[n], s.seg_access[n]) = (0, 0, 0, 0);
        }
    }
}

/// RET to another segment.
fn ret(cx: &mut Cx<'_, X86>, log2: u32, extra: u64) -> Result<(), Trap> {
    let mut stack = Stack::current(cx.state);
    let rip = stack.pop(cx, log2)?;
    let cs = stack.pop(cx, log2)? as u16;
    if !cx.state.protected() || cx.state.vm86() {
        stack.sp = stack.moved(extra as i64);
        stack.commit(cx.state);
        segment::put_real(cx.state, seg::CS, cs);
        cx.state.set_rip(rip);
        return Ok(());
    }
    let d = check_return(cx, cs)?;
    let rpl = (cs & 3) as u8;
    let rip = check_offset(cx.state, d, rip, log2)?;
    stack.sp = stack.moved(extra as i64);
    if rpl == cx.state.cpl {
        enter(cx, cs, d, rip)?;
        stack.commit(cx.state);
        return Ok(());
    }
    let sp = stack.pop(cx, log2)?;
    let ss = stack.pop(cx, log2)? as u16;
    let (sd, access) = check_ss(cx, ss, rpl, d.access() & L != 0)?;
    outer(cx, (cs, d, rip), (ss, sd, access, sp), extra)
}

/// The last step of a return to an outer level.
fn outer(
    cx: &mut Cx<'_, X86>,
    (cs, d, rip): (u16, Descriptor, u64),
    (ss, sd, access, sp): (u16, Descriptor, u64, u64),
    extra: u64,
) -> Result<(), Trap> {
    let code = segment::mark_accessed(cx, d)?;
    let s = &mut *cx.state;
    s.cpl = (cs & 3) as u8;
    segment::put(s, seg::CS, cs, d, code);
    s.set_rip(rip);
    let mmu = if s.cpl == 3 { MMU_USER } else { MMU_KERNEL };
    let mut stack = if s.code64() {
        let mut stack = Stack::long(sp, mmu);
        stack.segment = Some((ss, sd, access));
        stack
    } else {
        Stack::inner(sp, ss, sd, access, mmu)
    };
    stack.sp = stack.moved(extra as i64);
    stack.commit(s);
    drop_inner_segments(s);
    Ok(())
}

/// Flags that a return may change.
fn return_flags(s: &Cpu, new: u64, log2: u32) -> u64 {
    let mut which = flags::ARITH | flags::TF | flags::DF | flags::NT;
    if log2 > 1 {
        which |= flags::RF | flags::AC | flags::ID;
    }
    if s.cpl <= s.iopl() {
        which |= flags::IF;
    }
    if s.cpl == 0 {
        which |= flags::IOPL;
        if log2 > 1 {
            which |= flags::VIF | flags::VIP;
        }
    }
    let all = s.rflags() & !which | new & which;
    // RF shields from instruction breakpoints alone, and the next instruction clears it.
    if s.dr7 & 0xff == 0 { all & !flags::RF } else { all }
}

/// IRET.
fn iret(cx: &mut Cx<'_, X86>, log2: u32) -> Result<(), Trap> {
    let mut stack = Stack::current(cx.state);
    if !cx.state.protected() || cx.state.vm86() {
        if cx.state.vm86() && cx.state.iopl() < 3 {
            return gp(0);
        }
        let rip = stack.pop(cx, log2)?;
        let cs = stack.pop(cx, log2)? as u16;
        let new = stack.pop(cx, log2)?;
        let s = &mut *cx.state;
        let mut f = return_flags(s, new, log2);
        if s.vm86() {
            f = f & !flags::IOPL | s.sys & flags::IOPL;
        }
        stack.commit(s);
        s.set_rflags(f);
        segment::put_real(s, seg::CS, cs);
        s.set_rip(rip);
        s.nmi_masked = false;
        return Ok(());
    }
    if cx.state.sys & flags::NT != 0 {
        return if cx.state.long_mode() { gp(0) } else { task::back(cx) };
    }
    let rip = stack.pop(cx, log2)?;
    let cs = stack.pop(cx, log2)? as u16;
    let new = stack.pop(cx, log2)?;
    let long = cx.state.long_mode();
    if new & flags::VM != 0 && cx.state.cpl == 0 && !long && log2 == 2 {
        return to_vm86(cx, stack, rip, cs, new);
    }
    let d = check_return(cx, cs)?;
    let rpl = (cs & 3) as u8;
    let rip = check_offset(cx.state, d, rip, log2)?;
    let f = return_flags(cx.state, new, log2);
    if rpl == cx.state.cpl && !cx.state.code64() {
        enter(cx, cs, d, rip)?;
        stack.commit(cx.state);
    } else {
        let sp = stack.pop(cx, log2)?;
        let ss = stack.pop(cx, log2)? as u16;
        let (sd, access) = check_ss(cx, ss, rpl, d.access() & L != 0)?;
        outer(cx, (cs, d, rip), (ss, sd, access, sp), 0)?;
    }
    cx.state.set_rflags(f);
    cx.state.nmi_masked = false;
    Ok(())
}

fn to_vm86(cx: &mut Cx<'_, X86>, stack: Stack, rip: u64, cs: u16, new: u64) -> Result<(), Trap> {
    let mut stack = stack;
    let sp = stack.pop(cx, 2)?;
    let mut selectors = [(seg::SS, 0), (seg::ES, 0), (seg::DS, 0), (seg::FS, 0), (seg::GS, 0)];
    for (_, v) in &mut selectors {
        *v = stack.pop(cx, 2)? as u16;
    }
    let s = &mut *cx.state;
    s.set_rflags(new);
    s.cpl = 3;
    for (n, v) in selectors {
        segment::put_real(s, n, v);
    }
    segment::put_real(s, seg::CS, cs);
    s.regs[4] = sp;
    s.set_rip(rip & 0xffff);
    s.nmi_masked = false;
    Ok(())
}

/// A flat code or stack segment as SYSCALL and its kin make it.
fn put_flat(s: &mut Cpu, n: usize, selector: u16, cpl: u8, access: u64) {
    s.seg_sel[n] = u64::from(selector);
    s.seg_base[n] = 0;
    s.seg_limit[n] = 0xffff_ffff;
    s.seg_access[n] = access | P | S | segment::G | u64::from(cpl) << 5;
}

const CODE_ACCESS: u64 = 0xb;
const DATA_ACCESS: u64 = 3;

fn syscall(cx: &mut Cx<'_, X86>) -> Result<(), Trap> {
    let long = cx.state.long_mode();
    let was64 = cx.state.code64();
    let s = &mut *cx.state;
    if s.msrs.efer & crate::msr::EFER_SCE == 0 || !s.protected() {
        return Err(exceptions::plain(vector::UD));
    }
    let selector = (s.msrs.star >> 32) as u16 & !3;
    let back = s.rip();
    s.regs[1] = back;
    if long {
        let rflags = s.rflags();
        s.regs[11] = rflags & !flags::RF;
        s.set_rflags(rflags & !s.msrs.fmask & !flags::RF);
        put_flat(s, seg::CS, selector, 0, CODE_ACCESS | L);
    } else {
        s.sys &= !(flags::IF | flags::RF | flags::VM);
        put_flat(s, seg::CS, selector, 0, CODE_ACCESS | DB);
    }
    put_flat(s, seg::SS, selector + 8, 0, DATA_ACCESS | DB);
    s.cpl = 0;
    s.pc = match (long, was64) {
        (true, true) => s.msrs.lstar,
        (true, false) => s.msrs.cstar,
        _ => s.msrs.star & 0xffff_ffff,
    };
    Ok(())
}

fn sysret(cx: &mut Cx<'_, X86>, wide: bool) -> Result<(), Trap> {
    let s = &mut *cx.state;
    if s.msrs.efer & crate::msr::EFER_SCE == 0 || !s.protected() {
        return Err(exceptions::plain(vector::UD));
    }
    if s.cpl != 0 || wide && !crate::mmu::canonical(s, s.regs[1]) {
        return gp(0);
    }
    let selector = (s.msrs.star >> 48) as u16;
    if s.long_mode() {
        let f = s.regs[11] & 0x003c_7fd7;
        s.set_rflags(f);
    } else {
        s.sys |= flags::IF;
    }
    s.cpl = 3;
    if wide {
        put_flat(s, seg::CS, (selector + 16) | 3, 3, CODE_ACCESS | L);
        s.pc = s.regs[1];
    } else {
        put_flat(s, seg::CS, selector | 3, 3, CODE_ACCESS | DB);
        s.pc = s.regs[1] & 0xffff_ffff;
    }
    put_flat(s, seg::SS, (selector + 8) | 3, 3, DATA_ACCESS | DB);
    Ok(())
}

fn sysenter(cx: &mut Cx<'_, X86>) -> Result<(), Trap> {
    let s = &mut *cx.state;
    let selector = s.msrs.sysenter_cs as u16 & !3;
    if !s.protected() || selector == 0 {
        return gp(0);
    }
    let long = s.long_mode();
    s.sys &= !(flags::VM | flags::IF | flags::RF);
    s.cpl = 0;
    put_flat(s, seg::CS, selector, 0, CODE_ACCESS | if long { L } else { DB });
    put_flat(s, seg::SS, selector + 8, 0, DATA_ACCESS | DB);
    let mask = if long { u64::MAX } else { 0xffff_ffff };
    s.regs[4] = s.msrs.sysenter_esp & mask;
    s.pc = s.msrs.sysenter_eip & mask;
    Ok(())
}

fn sysexit(cx: &mut Cx<'_, X86>, wide: bool) -> Result<(), Trap> {
    let s = &mut *cx.state;
    let selector = s.msrs.sysenter_cs as u16 & !3;
    if !s.protected() || s.cpl != 0 || selector == 0 {
        return gp(0);
    }
    if wide && !(crate::mmu::canonical(s, s.regs[1]) && crate::mmu::canonical(s, s.regs[2])) {
        return gp(0);
    }
    s.cpl = 3;
    let (code, stack, bits) = if wide { (32, 40, L) } else { (16, 24, DB) };
    put_flat(s, seg::CS, (selector + code) | 3, 3, CODE_ACCESS | bits);
    put_flat(s, seg::SS, (selector + stack) | 3, 3, DATA_ACCESS | DB);
    let mask = if wide { u64::MAX } else { 0xffff_ffff };
    s.regs[4] = s.regs[1] & mask;
    s.pc = s.regs[2] & mask;
    Ok(())
}

helpers! {
    base exceptions::FIRST + exceptions::COUNT;

    /// Far JMP.
    FarJump "far_jump" (selector, offset, log2) -> Void
        reads SlotSet::All, writes SlotSet::All, effects RAISES_EXITS;
        |cx| jump(cx, selector as u16, offset, log2 as u32).map(|()| 0)

    /// Far CALL.
    FarCall "far_call" (selector, offset, log2) -> Void
        reads SlotSet::All, writes SlotSet::All, effects RAISES_EXITS;
        |cx| call(cx, selector as u16, offset, log2 as u32).map(|()| 0)

    /// Far RET.
    FarRet "far_ret" (log2, extra) -> Void
        reads SlotSet::All, writes SlotSet::All, effects RAISES_EXITS;
        |cx| ret(cx, log2 as u32, extra).map(|()| 0)

    /// IRET.
    Iret "iret" (log2) -> Void
        reads SlotSet::All, writes SlotSet::All, effects RAISES_EXITS;
        |cx| {
            iret(cx, log2 as u32)?;
            interrupts::look(cx);
            Ok(0)
        }

    /// SYSCALL.
    Syscall "syscall" () -> Void
        reads SlotSet::All, writes SlotSet::All, effects RAISES_EXITS;
        |cx| syscall(cx).map(|()| 0)

    /// SYSRET.
    Sysret "sysret" (wide) -> Void
        reads SlotSet::All, writes SlotSet::All, effects RAISES_EXITS;
        |cx| {
            sysret(cx, wide != 0)?;
            interrupts::look(cx);
            Ok(0)
        }

    /// SYSENTER.
    Sysenter "sysenter" () -> Void
        reads SlotSet::All, writes SlotSet::All, effects RAISES_EXITS;
        |cx| sysenter(cx).map(|()| 0)

    /// SYSEXIT.
    Sysexit "sysexit" (wide) -> Void
        reads SlotSet::All, writes SlotSet::All, effects RAISES_EXITS;
        |cx| sysexit(cx, wide != 0).map(|()| 0)
}

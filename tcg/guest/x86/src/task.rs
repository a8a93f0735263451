//! Task switches (SDM volume 3, chapter 8): 16-bit and 32-bit task-state segments.

use tcg_engine::{Access, Cx, Trap};

use crate::{
    control::{CR0_PG, CR0_TS, write_cr3},
    exceptions::{self, vector},
    flags,
    guest::X86,
    segment::{self, CODE, CONFORMING, Descriptor, P, RW, S, sys_load, sys_store},
    stack::Stack,
    state::{Segment, seg},
    svm,
};

/// How a task is entered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Cause {
    Jump,
    /// CALL, exception or interrupt: nests.
    Call,
    Iret,
}

const BUSY: u64 = 2;

fn bad(v: u8, selector: u16, ext: u16) -> Trap {
    exceptions::with_error(v, selector & !3 | ext)
}

/// The task-state segment behind a task gate, or the descriptor itself.
fn target(cx: &mut Cx<'_, X86>, selector: u16, d: Descriptor, ext: u16) -> Result<(u16, Descriptor), Trap> {
    if d.kind() != 5 {
        return Ok((selector, d));
    }
    let tss = d.gate_selector();
    if tss & 4 != 0 || tss & !3 == 0 {
        return Err(bad(vector::GP, tss, ext));
    }
    let t = segment::read(cx, tss, vector::GP)?;
    Ok((tss, t))
}

fn check_level(cx: &Cx<'_, X86>, selector: u16, d: Descriptor) -> Result<(), Trap> {
    let rpl = (selector & 3) as u8;
    if d.dpl() < cx.state.cpl.max(rpl) {
        return Err(bad(vector::GP, selector, 0));
    }
    if !d.present() {
        return Err(bad(vector::NP, selector, 0));
    }
    Ok(())
}

/// JMP to a task.
pub(crate) fn jump(cx: &mut Cx<'_, X86>, selector: u16, d: Descriptor) -> Result<(), Trap> {
    check_level(cx, selector, d)?;
    let (tss, t) = target(cx, selector, d, 0)?;
    switch(cx, tss, t, Cause::Jump, 0)
}

/// CALL to a task.
pub(crate) fn call(cx: &mut Cx<'_, X86>, selector: u16, d: Descriptor) -> Result<(), Trap> {
    check_level(cx, selector, d)?;
    let (tss, t) = target(cx, selector, d, 0)?;
    switch(cx, tss, t, Cause::Call, 0)
}

/// A task gate in the interrupt table.
pub(crate) fn through_gate(
    cx: &mut Cx<'_, X86>,
    selector: u16,
    error: Option<u16>,
    ext: u16,
) -> Result<(), Trap> {
    if selector & 4 != 0 || selector & !3 == 0 {
        return Err(bad(vector::GP, selector, ext));
    }
    let d = segment::read(cx, selector, vector::GP)?;
    switch(cx, selector, d, Cause::Call, ext)?;
    if let Some(error) = error {
        let log2 = if cx.state.tr.access & 8 != 0 { 2 } else { 1 };
        let mut stack = Stack::current(cx.state);
        stack.push(cx, log2, u64::from(error))?;
        stack.commit(cx.state);
    }
    Ok(())
}

/// IRET from a nested task.
pub(crate) fn back(cx: &mut Cx<'_, X86>) -> Result<(), Trap> {
    let at = cx.state.tr.base & 0xffff_ffff;
    let selector = sys_load(cx, at, 1)? as u16;
    if selector & 4 != 0 || selector & !3 == 0 {
        return Err(bad(vector::TS, selector, 0));
    }
    let d = segment::read(cx, selector, vector::TS)?;
    switch(cx, selector, d, Cause::Iret, 0)
}

/// Sets or clears the busy bit of a task's descriptor.
fn set_busy(cx: &mut Cx<'_, X86>, selector: u16, busy: bool) -> Result<(), Trap> {
    let d = segment::read(cx, selector, vector::TS)?;
    let mut word = d.raw >> 32 & !(BUSY << 8);
    if busy {
        word |= BUSY << 8;
    }
    sys_store(cx, d.at, 2, word & 0xffff_ffff)
}

/// Offsets in a task-state segment, and the log2 of its registers' size.
struct Layout {
    log2: u32,
    cr3: Option<u64>,
    ip: u64,
    flags: u64,
    regs: u64,
    segments: u64,
    /// Number of segment registers.
    count: usize,
    ldt: u64,
    last: u64,
}

const fn layout(wide: bool) -> Layout {
    if wide {
        Layout {
            log2: 2,
            cr3: Some(0x1c),
            ip: 0x20,
            flags: 0x24,
            regs: 0x28,
            segments: 0x48,
            count: 6,
            ldt: 0x60,
            last: 0x67,
        }
    } else {
        Layout {
            log2: 1,
            cr3: None,
            ip: 0xe,
            flags: 0x10,
            regs: 0x12,
            segments: 0x22,
            count: 4,
            ldt: 0x2a,
            last: 0x2b,
        }
    }
}

/// Order of the segment registers in a task-state segment.
const ORDER: [usize; 6] = [seg::ES, seg::CS, seg::SS, seg::DS, seg::FS, seg::GS];

fn switch(cx: &mut Cx<'_, X86>, selector: u16, d: Descriptor, cause: Cause, ext: u16) -> Result<(), Trap> {
    if cx.state.svm.intercepts(svm::code::TASK_SWITCH) {
        return Err(svm::task_trap(selector, cause == Cause::Iret, cause == Cause::Jump));
    }
    let fault = if cause == Cause::Iret { vector::TS } else { vector::GP };
    let busy = d.kind() & BUSY != 0;
    let is_tss = !d.is_segment() && matches!(d.kind(), 1 | 3 | 9 | 11);
    if !is_tss || busy != (cause == Cause::Iret) {
        return Err(bad(fault, selector, ext));
    }
    if !d.present() {
        return Err(bad(vector::NP, selector, ext));
    }
    let wide = d.kind() & 8 != 0;
    let new = layout(wide);
    if u64::from(d.limit()) < new.last {
        return Err(bad(vector::TS, selector, ext));
    }
    let base = d.base() & 0xffff_ffff;
    let lin = |base: u64, offset: u64| base.wrapping_add(offset) & 0xffff_ffff;

    // Everything of the new task is read, and the old one's segment is known to be writable, before anything changes.
    let cr3 = match new.cr3 {
        Some(at) => Some(sys_load(cx, lin(base, at), 2)?),
        None => None,
    };
    let ip = sys_load(cx, lin(base, new.ip), new.log2)?;
    let mut rflags = sys_load(cx, lin(base, new.flags), new.log2)?;
    let mut regs = [0; 8];
    for (n, r) in regs.iter_mut().enumerate() {
        *r = sys_load(cx, lin(base, new.regs + ((n as u64) << new.log2)), new.log2)?;
    }
    let mut selectors = [0_u16; 6];
    for (n, s) in selectors.iter_mut().enumerate().take(new.count) {
        *s = sys_load(cx, lin(base, new.segments + ((n as u64) << new.log2)), 1)? as u16;
    }
    let ldt = sys_load(cx, lin(base, new.ldt), 1)? as u16;

    let old_tr = cx.state.tr;
    let old = layout(old_tr.access & 8 != 0);
    let old_base = old_tr.base & 0xffff_ffff;
    let mmu = segment::sys_mmu(cx.state);
    cx.probe(old_base, old.last + 1, Access::Store, mmu)?;
    if cause != Cause::Call {
        set_busy(cx, old_tr.selector, false)?;
    }
    let mut saved = cx.state.rflags();
    if cause == Cause::Iret {
        saved &= !flags::NT;
    }
    let rip = cx.state.rip();
    sys_store(cx, lin(old_base, old.ip), old.log2, rip)?;
    sys_store(cx, lin(old_base, old.flags), old.log2, saved)?;
    for n in 0..8 {
        let v = cx.state.regs[n];
        sys_store(cx, lin(old_base, old.regs + ((n as u64) << old.log2)), old.log2, v)?;
    }
    for (n, r) in ORDER.into_iter().enumerate().take(old.count) {
        let v = cx.state.seg_sel[r];
        sys_store(cx, lin(old_base, old.segments + ((n as u64) << old.log2)), 1, v)?;
    }
    if cause == Cause::Call {
        sys_store(cx, base, 1, u64::from(old_tr.selector))?;
        rflags |= flags::NT;
    }
    if cause != Cause::Iret {
        set_busy(cx, selector, true)?;
    }

    // From here on faults belong to the new task.
    cx.state.tr = Segment { selector, access: (d.access() | BUSY) as u16, limit: d.limit(), base: d.base() };
    cx.state.cr0 |= CR0_TS;
    if let Some(cr3) = cr3
        && cx.state.cr0 & CR0_PG != 0
    {
        write_cr3(cx, cr3)?;
    }
    let s = &mut *cx.state;
    for (n, r) in regs.into_iter().enumerate() {
        s.regs[n] = if wide { r } else { r | 0xffff_0000 };
    }
    s.set_rflags(if wide { rflags } else { rflags & 0xffff });
    s.dr7 &= !0x55;
    s.ldt = Segment { selector: ldt, ..Segment::default() };
    if s.vm86() {
        s.cpl = 3;
        for (n, r) in ORDER.into_iter().enumerate() {
            segment::put_real(s, r, selectors[n]);
        }
        s.set_rip(ip & 0xffff);
        return Ok(());
    }
    // Unusable until loaded.
    for (n, r) in ORDER.into_iter().enumerate() {
        s.seg_sel[r] = u64::from(selectors[n]);
        s.seg_access[r] = 0;
    }
    s.cpl = (selectors[1] & 3) as u8;
    s.seg_base[seg::CS] = 0;
    s.set_rip(ip);
    load_all(cx, &selectors, ldt, ip)
}

/// Loads the segment registers of the new task; faults are #TS.
fn load_all(cx: &mut Cx<'_, X86>, selectors: &[u16; 6], ldt: u16, ip: u64) -> Result<(), Trap> {
    if ldt & !3 != 0 {
        let d = segment::read(cx, ldt, vector::TS)?;
        if ldt & 4 != 0 || d.is_segment() || d.kind() != 2 || !d.present() {
            return Err(bad(vector::TS, ldt, 0));
        }
        cx.state.ldt = segment::system(ldt, d);
    }
    let cpl = cx.state.cpl;
    let cs = selectors[1];
    if cs & !3 == 0 {
        return Err(bad(vector::TS, cs, 0));
    }
    let d = segment::read(cx, cs, vector::TS)?;
    let level = if d.access() & CONFORMING != 0 { d.dpl() <= cpl } else { d.dpl() == cpl };
    if !d.is_code() || !level {
        return Err(bad(vector::TS, cs, 0));
    }
    if !d.present() {
        return Err(bad(vector::NP, cs, 0));
    }
    let access = segment::mark_accessed(cx, d)?;
    segment::put(cx.state, seg::CS, cs, d, access);
    cx.state.set_rip(ip);
    let ss = selectors[2];
    let d = segment::read(cx, ss, vector::TS)?;
    let writable = d.access() & (S | CODE | RW) == S | RW;
    if ss & !3 == 0 || (ss & 3) as u8 != cpl || d.dpl() != cpl || !writable {
        return Err(bad(vector::TS, ss, 0));
    }
    if d.access() & P == 0 {
        return Err(bad(vector::SS, ss, 0));
    }
    let access = segment::mark_accessed(cx, d)?;
    segment::put(cx.state, seg::SS, ss, d, access);
    for (n, r) in ORDER.into_iter().enumerate() {
        if !matches!(r, seg::CS | seg::SS) {
            segment::load(cx, r, selectors[n]).map_err(|t| Trap {
                code: if exceptions::vector_of(t) == vector::GP {
                    t.code & !0xff | u64::from(vector::TS)
                } else {
                    t.code
                },
                ..t
            })?;
        }
    }
    Ok(())
}

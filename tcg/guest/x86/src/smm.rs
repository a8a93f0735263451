//! System management mode: entry, the state save map, RSM, the base of SMRAM (SDM volume 3, chapter 33; AMD APM volume
//! 2, chapter 10).
//!
//! A model with long mode has AMD's 64-bit save map, as emulated PCs have, any other the 32-bit one. One walk over a map
//! serves saving and restoring. In the mode the vCPU sees the secure regions of memory, which is where boards put SMRAM.

use tcg_engine::{Cx, Trap};
use tcg_ir::SlotSet;

use crate::{
    control::{CR0_EM, CR0_PE, CR0_PG, CR0_TS, CR4_PAE},
    exceptions::{self, vector},
    guest::X86,
    helpers::{RAISES_EXITS, helpers},
    interrupts,
    msr::{EFER_LMA, EFER_LME},
    segment::{P, S, sys_load, sys_store},
    snapshot, sse,
    state::{Cpu, Run, Segment, Table, seg},
};

/// Base of SMRAM after reset.
pub(crate) const BASE: u64 = 0x3_0000;
/// Where the save maps count from, and where execution begins.
const ENTRY: u64 = 0x8000;
/// Revision: SMBASE can be changed. The low half says which map it is.
const REVISION: u64 = 0x2_0000;
const LONG_MAP: u64 = 0x64;

/// One field of a map: offset from SMBASE + 0x8000, bytes, value. Saving reads the value, restoring sets it.
type Field<'a> = &'a mut dyn FnMut(u64, u32, &mut u64) -> Result<(), Trap>;

/// Order of the segment registers in the maps.
const ORDER: [usize; 6] = [seg::ES, seg::CS, seg::SS, seg::DS, seg::FS, seg::GS];

/// Attributes as descriptors have them, bits 40 to 55.
const fn packed(access: u64) -> u64 {
    access & 0xff | (access & 0xf00) << 4
}

const fn unpacked(raw: u64) -> u64 {
    raw & 0xff | raw >> 4 & 0xf00
}

/// A system segment through its fields.
fn system(s: &mut Segment, at: [u64; 4], wide: u32, f: Field<'_>) -> Result<(), Trap> {
    let mut v = [u64::from(s.selector), packed(u64::from(s.access)), u64::from(s.limit), s.base];
    for ((v, at), bytes) in v.iter_mut().zip(at).zip([2, 2, 4, wide]) {
        f(at, bytes, v)?;
    }
    *s = Segment { selector: v[0] as u16, access: unpacked(v[1]) as u16, limit: v[2] as u32, base: v[3] };
    Ok(())
}

fn table_register(t: &mut Table, limit: u64, base: u64, wide: u32, f: Field<'_>) -> Result<(), Trap> {
    let mut v = u64::from(t.limit);
    f(limit, 4, &mut v)?;
    t.limit = v as u16;
    f(base, wide, &mut t.base)
}

fn data_segment(s: &mut Cpu, n: usize, at: [u64; 4], wide: u32, f: Field<'_>) -> Result<(), Trap> {
    let mut access = packed(s.seg_access[n]);
    f(at[0], 2, &mut s.seg_sel[n])?;
    f(at[1], 2, &mut access)?;
    f(at[2], 4, &mut s.seg_limit[n])?;
    f(at[3], wide, &mut s.seg_base[n])?;
    s.seg_access[n] = unpacked(access);
    Ok(())
}

/// What both maps have, last: it depends on the code segment.
fn flags_and_pc(s: &mut Cpu, flags: u64, ip: u64, wide: u32, f: Field<'_>) -> Result<(), Trap> {
    let (mut rflags, mut rip) = (s.rflags(), s.rip());
    f(flags, wide, &mut rflags)?;
    f(ip, wide, &mut rip)?;
    s.set_rflags(rflags);
    s.set_rip(rip);
    Ok(())
}

/// AMD's map (APM volume 2, table 10-1).
fn long_map(s: &mut Cpu, f: Field<'_>) -> Result<(), Trap> {
    let places = |at: u64| [at, at + 2, at + 4, at + 8];
    for (i, n) in ORDER.into_iter().enumerate() {
        data_segment(s, n, places(0x7e00 + 16 * i as u64), 8, f)?;
    }
    table_register(&mut s.gdt, 0x7e64, 0x7e68, 8, f)?;
    table_register(&mut s.idt, 0x7e84, 0x7e88, 8, f)?;
    system(&mut s.ldt, places(0x7e70), 8, f)?;
    system(&mut s.tr, places(0x7e90), 8, f)?;
    f(0x7ed0, 8, &mut s.msrs.efer)?;
    f(0x7f00, 4, &mut s.smbase)?;
    for (at, v) in [(0x7f48, &mut s.cr4), (0x7f50, &mut s.cr3), (0x7f58, &mut s.cr0)] {
        f(at, 8, v)?;
    }
    f(0x7f60, 8, &mut s.dr7)?;
    f(0x7f68, 8, &mut s.dr6)?;
    for (n, r) in s.regs.iter_mut().enumerate() {
        // RAX last: the numbers of the middle ones are those of the encoding.
        f(0x7ff8 - 8 * n as u64, 8, r)?;
    }
    flags_and_pc(s, 0x7f70, 0x7f78, 8, f)
}

/// The 32-bit map (SDM volume 3, table 33-1; the fields it calls reserved are where the P6 family had them).
fn short_map(s: &mut Cpu, f: Field<'_>) -> Result<(), Trap> {
    let places = |selector: u64, rest: u64| [selector, rest, rest + 4, rest + 8];
    for (i, n) in ORDER.into_iter().enumerate() {
        let i = i as u64;
        let rest = if i < 3 { 0x7f84 + 12 * i } else { 0x7f2c + 12 * (i - 3) };
        data_segment(s, n, places(0x7fa8 + 4 * i, rest), 4, f)?;
    }
    system(&mut s.ldt, places(0x7fc0, 0x7f78), 4, f)?;
    system(&mut s.tr, places(0x7fc4, 0x7f5c), 4, f)?;
    table_register(&mut s.gdt, 0x7f70, 0x7f74, 4, f)?;
    table_register(&mut s.idt, 0x7f54, 0x7f58, 4, f)?;
    f(0x7ef8, 4, &mut s.smbase)?;
    for (at, v) in [(0x7f14, &mut s.cr4), (0x7ff8, &mut s.cr3), (0x7ffc, &mut s.cr0)] {
        f(at, 4, v)?;
    }
    f(0x7fc8, 4, &mut s.dr7)?;
    f(0x7fcc, 4, &mut s.dr6)?;
    for (n, r) in s.regs.iter_mut().enumerate().take(8) {
        f(0x7fd0 + 4 * n as u64, 4, r)?;
    }
    flags_and_pc(s, 0x7ff4, 0x7ff0, 4, f)
}

fn map(s: &mut Cpu, long: bool, f: Field<'_>) -> Result<(), Trap> {
    if long { long_map(s, f) } else { short_map(s, f) }
}

/// Places of the auto-halt flag (1 byte) in the maps.
const fn auto_halt(long: bool) -> u64 {
    if long { 0x7ec9 } else { 0x7f02 }
}

/// log2 of a field's size.
const fn log2(bytes: u32) -> u32 {
    bytes.trailing_zeros()
}

/// Enters the mode at an instruction boundary. `halted`: the boundary is a HLT that is not done.
pub(crate) fn enter(cx: &mut Cx<'_, X86>, halted: bool) {
    let long = cx.guest().model().has().lm;
    let mut saved = cx.state.clone();
    cx.set_secure(true);
    let s = &mut *cx.state;
    s.smm = true;
    s.smm_in_nmi = s.nmi_masked;
    s.nmi_masked = true;
    s.cr0 &= !(CR0_PE | CR0_EM | CR0_TS | CR0_PG);
    (s.cr4, s.msrs.efer, s.dr7) = (0, 0, 0x400);
    s.set_rflags(0);
    for n in ORDER {
        (s.seg_sel[n], s.seg_base[n]) = (0, 0);
        (s.seg_limit[n], s.seg_access[n]) = (0xffff_ffff, P | S | 3 | crate::segment::G);
    }
    let base = s.smbase;
    (s.seg_sel[seg::CS], s.seg_base[seg::CS]) = (base >> 4 & 0xffff, base);
    (s.cpl, s.shadow, s.dr_hit, s.run) = (0, 0, 0, Run::Running);
    s.set_rip(ENTRY);
    snapshot::enter_space(cx);

    // Linear addresses are physical ones now. Where there is no RAM the stores are lost, as on a bus.
    let area = base + ENTRY;
    let at = |offset: u64| area.wrapping_add(offset) & 0xffff_ffff;
    let _ = map(&mut saved, long, &mut |offset, bytes, v| sys_store(cx, at(offset), log2(bytes), *v));
    let revision = REVISION | if long { LONG_MAP } else { 0 };
    let _ = sys_store(cx, at(0x7efc), 2, revision);
    let _ = sys_store(cx, at(auto_halt(long)), 0, u64::from(halted));
    if long {
        let _ = sys_store(cx, at(0x7eca), 0, u64::from(saved.nmi_masked));
    }
}

/// Why a restored state cannot be run.
fn impossible(cx: &Cx<'_, X86>, s: &Cpu) -> bool {
    let (pe, pg) = (s.cr0 & CR0_PE != 0, s.cr0 & CR0_PG != 0);
    let lma = s.msrs.efer & EFER_LMA != 0;
    pg && !pe
        || s.cr0 >> 32 != 0
        || s.cr4 & !crate::control::cr4_mask(cx) != 0
        || lma != (pg && s.msrs.efer & EFER_LME != 0)
        || lma && s.cr4 & CR4_PAE == 0
        || s.msrs.efer & !crate::msr::efer_mask(cx) != 0
}

fn rsm(cx: &mut Cx<'_, X86>) -> Result<(), Trap> {
    if !cx.state.smm {
        return Err(exceptions::plain(vector::UD));
    }
    let long = cx.guest().model().has().lm;
    let area = cx.state.smbase + ENTRY;
    let at = |offset: u64| area.wrapping_add(offset) & 0xffff_ffff;
    let mut s = cx.state.clone();
    // The handler may run with paging: the map is found at linear addresses only without.
    let paging = cx.state.cr0 & CR0_PG != 0;
    if paging {
        cx.state.cr0 &= !CR0_PG;
        cx.state.msrs.efer &= !EFER_LMA;
        snapshot::enter_space(cx);
    }
    map(&mut s, long, &mut |offset, bytes, v| {
        *v = sys_load(cx, at(offset), log2(bytes))?;
        Ok(())
    })?;
    let halted = sys_load(cx, at(auto_halt(long)), 0)? & 1 != 0;
    for n in ORDER {
        if s.seg_access[n] & P == 0 {
            s.seg_access[n] = 0;
        }
    }
    if impossible(cx, &s) {
        cx.state.run = Run::Shutdown;
        cx.leave_unit();
        return Ok(());
    }
    // The privilege level is SS's; virtual-8086 mode has 3, real mode 0.
    s.cpl = match (s.protected(), s.vm86()) {
        (false, _) => 0,
        (_, true) => 3,
        _ => (s.seg_access[seg::SS] >> 5 & 3) as u8,
    };
    (s.smm, s.nmi_masked) = (false, s.smm_in_nmi);
    s.smbase &= 0xffff_ffff;
    s.run = if halted { Run::Halted } else { Run::Running };
    *cx.state = s;
    cx.set_secure(false);
    snapshot::enter_space(cx);
    crate::control::load_pdptrs(cx);
    if std::mem::take(&mut cx.state.init_latched) {
        interrupts::init(cx);
    }
    cx.leave_unit();
    cx.look_soon();
    Ok(())
}

helpers! {
    base sse::FIRST + sse::COUNT;

    /// RSM.
    Rsm "rsm" () -> Void
        reads SlotSet::All, writes SlotSet::All, effects RAISES_EXITS;
        |cx| rsm(cx).map(|()| 0)
}

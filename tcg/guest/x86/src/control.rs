//! Control registers (SDM volume 3, 2.5): bits, and what writing them entails.

use tcg_engine::{Cx, Trap};
use tcg_ir::{Effects, SlotSet};

use crate::{
    exceptions::{self, vector},
    far,
    guest::{X86, space},
    helpers::{RAISES, RAISES_MEMORY, helpers},
    interrupts, mmu, msr,
    msr::{EFER_LMA, EFER_LME},
    segment,
    state::seg,
    svm,
};

/// Protected mode.
pub(crate) const CR0_PE: u64 = 1;
/// WAIT heeds TS.
pub(crate) const CR0_MP: u64 = 1 << 1;
/// No x87.
pub(crate) const CR0_EM: u64 = 1 << 2;
/// Task switched.
pub(crate) const CR0_TS: u64 = 1 << 3;
/// Extension type, always one.
pub(crate) const CR0_ET: u64 = 1 << 4;
/// x87 errors are exceptions.
pub(crate) const CR0_NE: u64 = 1 << 5;
/// Supervisor stores heed read-only pages.
pub(crate) const CR0_WP: u64 = 1 << 16;
/// Alignment checks.
pub(crate) const CR0_AM: u64 = 1 << 18;
/// Not write-through.
pub(crate) const CR0_NW: u64 = 1 << 29;
/// Cache disabled.
pub(crate) const CR0_CD: u64 = 1 << 30;
/// Paging.
pub(crate) const CR0_PG: u64 = 1 << 31;

/// Virtual-8086 extensions.
pub(crate) const CR4_VME: u64 = 1;
/// Protected-mode virtual interrupts.
pub(crate) const CR4_PVI: u64 = 1 << 1;
/// RDTSC only at level 0.
pub(crate) const CR4_TSD: u64 = 1 << 2;
/// Debug extensions.
pub(crate) const CR4_DE: u64 = 1 << 3;
/// Pages of 4 MiB.
pub(crate) const CR4_PSE: u64 = 1 << 4;
/// Physical address extension.
pub(crate) const CR4_PAE: u64 = 1 << 5;
/// Machine checks.
pub(crate) const CR4_MCE: u64 = 1 << 6;
/// Global pages.
pub(crate) const CR4_PGE: u64 = 1 << 7;
/// RDPMC everywhere.
pub(crate) const CR4_PCE: u64 = 1 << 8;
/// SSE on.
pub(crate) const CR4_OSFXSR: u64 = 1 << 9;
/// SIMD exceptions are #XM.
pub(crate) const CR4_OSXMMEXCPT: u64 = 1 << 10;
/// SGDT and others only at level 0.
pub(crate) const CR4_UMIP: u64 = 1 << 11;
/// Five-level paging.
pub(crate) const CR4_LA57: u64 = 1 << 12;
/// RDFSBASE and others on.
pub(crate) const CR4_FSGSBASE: u64 = 1 << 16;
/// Process-context identifiers.
pub(crate) const CR4_PCIDE: u64 = 1 << 17;
/// XSAVE on.
pub(crate) const CR4_OSXSAVE: u64 = 1 << 18;
/// Supervisor does not execute user pages.
pub(crate) const CR4_SMEP: u64 = 1 << 20;
/// Supervisor does not access user pages.
pub(crate) const CR4_SMAP: u64 = 1 << 21;
/// Protection keys of user pages.
pub(crate) const CR4_PKE: u64 = 1 << 22;

fn gp<T>() -> Result<T, Trap> {
    Err(exceptions::with_error(vector::GP, 0))
}

/// Reads the page directory pointers that PAE paging keeps in registers; false if one has reserved bits.
pub(crate) fn load_pdptrs(cx: &mut Cx<'_, X86>) -> bool {
    let s = &*cx.state;
    if s.cr0 & CR0_PG == 0 || s.cr4 & CR4_PAE == 0 || s.msrs.efer & EFER_LMA != 0 {
        return true;
    }
    let table = s.cr3 & 0xffff_ffe0;
    let too_high = !((1_u64 << cx.guest().model().phys_bits) - 1);
    let mut new = [0; 4];
    for (n, p) in new.iter_mut().enumerate() {
        // What a nested fault would say is lost: an entry that is not there is not present.
        *p = svm::nested::place(cx, table + 8 * n as u64, false)
            .ok()
            .and_then(|at| cx.phys_read(at, 8))
            .unwrap_or(0);
        if *p & 1 != 0 && *p & (too_high | 0x1e6) != 0 {
            return false;
        }
    }
    cx.state.pdptr = new;
    true
}

/// Bits of CR4 that the model has.
pub(crate) fn cr4_mask(cx: &Cx<'_, X86>) -> u64 {
    let h = cx.guest().model().has();
    let bits = [
        (h.vme, CR4_VME | CR4_PVI),
        (true, CR4_TSD | CR4_PCE),
        (h.de, CR4_DE),
        (h.pse, CR4_PSE),
        (h.pae, CR4_PAE),
        (h.mce, CR4_MCE),
        (h.pge, CR4_PGE),
        (h.fxsr, CR4_OSFXSR),
        (h.sse, CR4_OSXMMEXCPT),
        (h.umip, CR4_UMIP),
        (h.la57, CR4_LA57),
        (h.fsgsbase, CR4_FSGSBASE),
        (h.pcid, CR4_PCIDE),
        (h.xsave, CR4_OSXSAVE),
        (h.smep, CR4_SMEP),
        (h.smap, CR4_SMAP),
        (h.pku, CR4_PKE),
    ];
    bits.iter().filter(|(on, _)| *on).fold(0, |m, (_, b)| m | b)
}

/// MOV to CR0.
pub(crate) fn write_cr0(cx: &mut Cx<'_, X86>, value: u64) -> Result<(), Trap> {
    const KNOWN: u64 =
        CR0_PE | CR0_MP | CR0_EM | CR0_TS | CR0_ET | CR0_NE | CR0_WP | CR0_AM | CR0_NW | CR0_CD | CR0_PG;
    if value >> 32 != 0 || value & (CR0_PG | CR0_PE) == CR0_PG || value & (CR0_NW | CR0_CD) == CR0_NW {
        return gp();
    }
    let old = cx.state.cr0;
    let new = value & KNOWN | CR0_ET;
    let on = !old & new;
    let off = old & !new;
    let efer = cx.state.msrs.efer;
    if on & CR0_PG != 0 && efer & EFER_LME != 0 {
        let long_code = cx.state.seg_access[seg::CS] & segment::L != 0;
        if cx.state.cr4 & CR4_PAE == 0 || long_code {
            return gp();
        }
        cx.state.msrs.efer |= EFER_LMA;
    }
    if off & CR0_PG != 0 && efer & EFER_LMA != 0 {
        if cx.state.code64() || cx.state.cr4 & CR4_PCIDE != 0 {
            return gp();
        }
        cx.state.msrs.efer &= !EFER_LMA;
    }
    cx.state.cr0 = new;
    if (old ^ new) & (CR0_PG | CR0_CD | CR0_NW) != 0 && !load_pdptrs(cx) {
        cx.state.cr0 = old;
        cx.state.msrs.efer = efer;
        return gp();
    }
    if (old ^ new) & (CR0_PG | CR0_WP | CR0_PE) != 0 {
        cx.flush_tlb(None, |_| true);
    }
    Ok(())
}

/// MOV to CR3.
pub(crate) fn write_cr3(cx: &mut Cx<'_, X86>, value: u64) -> Result<(), Trap> {
    let pcid = cx.state.cr4 & CR4_PCIDE != 0;
    let keep = pcid && value >> 63 != 0;
    let value = if pcid { value & !(1 << 63) } else { value };
    if cx.state.long_mode() && value >> cx.guest().model().phys_bits != 0 {
        return gp();
    }
    let old = cx.state.cr3;
    cx.state.cr3 = value;
    if !load_pdptrs(cx) {
        cx.state.cr3 = old;
        return gp();
    }
    let tag = space(cx.state);
    if keep {
        cx.set_space(tag);
    } else {
        cx.reload_space(tag, mmu::root(cx.state));
    }
    Ok(())
}

/// MOV to CR4.
pub(crate) fn write_cr4(cx: &mut Cx<'_, X86>, value: u64) -> Result<(), Trap> {
    let (old, long) = (cx.state.cr4, cx.state.long_mode());
    let changed = old ^ value;
    let pcid_on = changed & value & CR4_PCIDE != 0;
    if value & !cr4_mask(cx) != 0
        || long && (value & CR4_PAE == 0 || changed & CR4_LA57 != 0)
        || pcid_on && (!long || cx.state.cr3 & 0xfff != 0)
    {
        return gp();
    }
    cx.state.cr4 = value;
    let paging = CR4_PSE | CR4_PAE | CR4_PGE | CR4_SMEP | CR4_SMAP | CR4_PKE | CR4_LA57 | CR4_PCIDE;
    if changed & (CR4_PAE | CR4_PSE | CR4_PGE | CR4_SMEP) != 0 && !load_pdptrs(cx) {
        cx.state.cr4 = old;
        return gp();
    }
    if changed & paging != 0 {
        cx.flush_tlb(None, |_| true);
        let tag = space(cx.state);
        cx.set_space(tag);
    }
    Ok(())
}

helpers! {
    base far::FIRST + far::COUNT;

    /// MOV from a control register.
    ReadCr "read_cr" (n) -> I64
        reads SlotSet::None, writes SlotSet::None, effects RAISES;
        |cx| Ok(match n {
            0 => cx.state.cr0,
            2 => cx.state.cr2,
            3 => cx.state.cr3,
            4 => cx.state.cr4,
            _ if let Some(v) = svm::virtual_tpr(cx.state) => *v & 15,
            _ => match cx.local_apics() {
                Some(apics) => u64::from(apics.cr8(cx.index())),
                None => cx.state.cr8,
            },
        })

    /// MOV to a control register.
    WriteCr "write_cr" (n, value) -> Void
        reads SlotSet::All, writes SlotSet::None, effects RAISES_MEMORY;
        |cx| {
            match n {
                0 => write_cr0(cx, value)?,
                2 => cx.state.cr2 = value,
                3 => write_cr3(cx, value)?,
                4 => write_cr4(cx, value)?,
                _ if value & !15 != 0 => return gp(),
                _ if let Some(v) = svm::virtual_tpr(cx.state) => *v = *v & !0xff | value,
                _ => {
                    cx.state.cr8 = value;
                    if let Some(apics) = cx.local_apics() {
                        apics.set_cr8(cx.index(), value as u8);
                    }
                }
            }
            interrupts::look(cx);
            Ok(0)
        }

    /// CLTS.
    Clts "clts" () -> Void
        reads SlotSet::None, writes SlotSet::None, effects Effects::empty();
        |cx| {
            cx.state.cr0 &= !CR0_TS;
            Ok(0)
        }

    /// RDMSR.
    ReadMsr "read_msr" (index) -> I64
        reads SlotSet::All, writes SlotSet::None, effects RAISES;
        |cx| msr::read(cx, index as u32)

    /// WRMSR.
    WriteMsr "write_msr" (index, value) -> Void
        reads SlotSet::All, writes SlotSet::All, effects RAISES_MEMORY;
        |cx| {
            msr::write(cx, index as u32, value)?;
            Ok(0)
        }
}

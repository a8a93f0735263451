//! Address translation (volume II, "Supervisor-Level ISA"): Sv32, Sv39, Sv48, Sv57, with Svnapot, Svpbmt, Svadu and
//! Svade, and the PMP check of the result.

use tcg_engine::{Access, Cx, Mapping, Trap};

use crate::{
    cpu::{Cpu, Ext, Paging},
    exceptions::cause,
    guest::Riscv,
    mode::mmu_rights,
    pmp,
    state::{Hart, M, S, U},
};

const V: u64 = 1;
const R: u64 = 2;
const W: u64 = 4;
const X: u64 = 8;
const USER: u64 = 16;
const G: u64 = 32;
const A: u64 = 64;
const D: u64 = 128;
/// Svnapot: the page is one of 64 KiB.
const N: u64 = 1 << 63;
/// Svpbmt's memory type.
const PBMT: u64 = 3 << 61;
/// Bits of a 64-bit entry that are always reserved.
const RESERVED: u64 = 0x1fc0_0000_0000_0000;
/// `menvcfg.ADUE`: the walker sets A and D.
pub const ADUE: u64 = 1 << 61;
/// `menvcfg.PBMTE`: memory types are in force.
pub const PBMTE: u64 = 1 << 62;

/// Shape of the page tables that `satp` selects.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Scheme {
    levels: u32,
    /// Index bits a level.
    index_bits: u32,
    pte_bytes: usize,
}

/// The scheme in force, `None` for bare.
fn scheme(cpu: &Cpu, satp: u64) -> Option<Scheme> {
    if cpu.xlen == 32 {
        return (satp >> 31 & 1 != 0).then_some(Scheme { levels: 2, index_bits: 10, pte_bytes: 4 });
    }
    let levels = match satp >> 60 {
        8 => 3,
        9 => 4,
        10 => 5,
        _ => return None,
    };
    Some(Scheme { levels, index_bits: 9, pte_bytes: 8 })
}

/// True if `satp` may be written with this value's mode.
#[must_use]
pub fn mode_exists(cpu: &Cpu, satp: u64) -> bool {
    if cpu.xlen == 32 {
        return satp >> 31 & 1 == 0 || cpu.paging >= Paging::Sv32;
    }
    match satp >> 60 {
        0 => true,
        8 => cpu.paging >= Paging::Sv39,
        9 => cpu.paging >= Paging::Sv48,
        10 => cpu.paging >= Paging::Sv57,
        _ => false,
    }
}

/// ASID of a `satp` value.
#[must_use]
pub const fn asid(xlen: u32, satp: u64) -> u64 {
    if xlen == 32 { satp >> 22 & 0x1ff } else { satp >> 44 & 0xffff }
}

const fn page_fault(access: Access, gva: u64) -> Trap {
    let code = match access {
        Access::Load => cause::LOAD_PAGE,
        Access::Store => cause::STORE_PAGE,
        Access::Fetch => cause::FETCH_PAGE,
    };
    Trap { code, value: gva }
}

/// The access fault of an access.
#[must_use]
pub const fn access_fault(access: Access, gva: u64) -> Trap {
    let code = match access {
        Access::Load => cause::LOAD_ACCESS,
        Access::Store => cause::STORE_ACCESS,
        Access::Fetch => cause::FETCH_ACCESS,
    };
    Trap { code, value: gva }
}

/// A leaf that was found.
struct Leaf {
    pte: u64,
    gpa: u64,
    page_bits: u32,
}

/// Translates `gva`; `probe` changes nothing and ignores missing rights.
pub fn walk(
    cx: &mut Cx<'_, Riscv>,
    gva: u64,
    access: Access,
    mmu: usize,
    probe: bool,
) -> Result<Mapping, Trap> {
    let cpu = cx.guest().cpu();
    let gva = if cpu.xlen == 32 { gva & 0xffff_ffff } else { gva };
    let (privilege, sum, mxr) = mmu_rights(mmu);
    let scheme = if privilege == M { None } else { scheme(cpu, cx.state.satp) };
    let Some(scheme) = scheme else {
        return protect(
            cpu,
            cx.state,
            gva,
            access,
            privilege,
            probe,
            Mapping { gpa: gva, read: true, write: true, exec: true, global: false, page_bits: 12 },
        )
        .ok_or(access_fault(access, gva));
    };
    let leaf = find(cx, cpu, scheme, gva, access, probe, |pte| {
        let user = pte & USER != 0;
        let reachable = match privilege {
            U => user,
            _ => !user || sum && access != Access::Fetch,
        };
        let right = match access {
            Access::Load => pte & R != 0 || mxr && pte & X != 0,
            Access::Store => pte & W != 0,
            Access::Fetch => pte & X != 0,
        };
        reachable && right
    })?;
    let pte = leaf.pte;
    let fetchable = privilege == U || pte & USER == 0;
    let mapping = Mapping {
        gpa: leaf.gpa,
        read: pte & R != 0 || mxr && pte & X != 0,
        write: pte & W != 0 && pte & D != 0,
        exec: pte & X != 0 && fetchable,
        global: pte & G != 0,
        page_bits: leaf.page_bits,
    };
    protect(cpu, cx.state, gva, access, privilege, probe, mapping).ok_or(access_fault(access, gva))
}

/// Walks the tables, checks `allowed` on the leaf and sets A and D.
fn find(
    cx: &mut Cx<'_, Riscv>,
    cpu: &Cpu,
    scheme: Scheme,
    gva: u64,
    access: Access,
    probe: bool,
    allowed: impl Fn(u64) -> bool,
) -> Result<Leaf, Trap> {
    let fault = page_fault(access, gva);
    let va_bits = 12 + scheme.levels * scheme.index_bits;
    if va_bits < 64 && scheme.pte_bytes == 8 {
        // All bits above the address must equal its top bit.
        let shift = 64 - va_bits;
        if ((gva << shift) as i64 >> shift) as u64 != gva {
            return Err(fault);
        }
    }
    let wide = scheme.pte_bytes == 8;
    let ppn_mask = if wide { (1 << 44) - 1 } else { (1 << 22) - 1 };
    let mut table = (cx.state.satp & ppn_mask) << 12;
    let mut level = scheme.levels;
    while level > 0 {
        level -= 1;
        let shift = 12 + level * scheme.index_bits;
        let index = gva >> shift & ((1 << scheme.index_bits) - 1);
        let at = table + index * scheme.pte_bytes as u64;
        let size = scheme.pte_bytes as u64;
        if !pmp::rights(cpu, cx.state, at, size, at, S).read && !probe {
            return Err(access_fault(access, gva));
        }
        let Some(pte) = cx.phys_read(at, scheme.pte_bytes) else { return Err(access_fault(access, gva)) };
        if !valid(cpu, cx.state, pte, wide) {
            return Err(fault);
        }
        let ppn = pte >> 10 & ppn_mask;
        if pte & (R | X) == 0 {
            if pte & (A | D | USER | if wide { N | PBMT } else { 0 }) != 0 {
                return Err(fault);
            }
            table = ppn << 12;
            continue;
        }
        let low = (1_u64 << (shift - 12)) - 1;
        if ppn & low != 0 || !probe && !allowed(pte) {
            return Err(fault);
        }
        let mut page_bits = shift;
        let mut base = ppn << 12;
        if wide && pte & N != 0 {
            if level != 0 || ppn & 15 != 8 {
                return Err(fault);
            }
            page_bits = 16;
            base = (ppn & !15) << 12;
        }
        let wanted = A | if access == Access::Store { D } else { 0 };
        let mut pte = pte;
        if pte & wanted != wanted && !probe {
            if !cpu.ext.has(Ext::SVADU) || cx.state.menvcfg & ADUE == 0 {
                return Err(fault);
            }
            if !pmp::rights(cpu, cx.state, at, size, at, S).write {
                return Err(access_fault(access, gva));
            }
            match cx.phys_cas(at, scheme.pte_bytes, pte, pte | wanted) {
                Some(true) => pte |= wanted,
                // Somebody else changed the entry: look at it again.
                Some(false) => {
                    level += 1;
                    continue;
                }
                None => return Err(access_fault(access, gva)),
            }
        }
        let gpa = base | gva & ((1 << page_bits) - 1);
        return Ok(Leaf { pte, gpa, page_bits });
    }
    Err(fault)
}

/// True if no reserved combination or bit is set.
fn valid(cpu: &Cpu, hart: &Hart, pte: u64, wide: bool) -> bool {
    if pte & V == 0 || pte & (R | W) == W {
        return false;
    }
    if !wide {
        return true;
    }
    let types = cpu.ext.has(Ext::SVPBMT) && hart.menvcfg & PBMTE != 0;
    let memory_type = pte & PBMT;
    pte & RESERVED == 0
        && (memory_type == 0 || types && memory_type != PBMT)
        && (pte & N == 0 || cpu.ext.has(Ext::SVNAPOT))
}

/// Applies PMP; `None` if `access` is denied. A protection boundary inside the page makes the mapping uncachable.
fn protect(
    cpu: &Cpu,
    hart: &Hart,
    gva: u64,
    access: Access,
    privilege: u8,
    probe: bool,
    mut m: Mapping,
) -> Option<Mapping> {
    debug_assert!(m.page_bits >= 12, "page at {gva:#x}");
    let ask = |bits: u32| {
        let len = 1_u64 << bits;
        pmp::rights(cpu, hart, m.gpa & !(len - 1), len, m.gpa, privilege)
    };
    let mut rights = ask(m.page_bits);
    if !rights.uniform && m.page_bits > 12 {
        m.page_bits = 12;
        rights = ask(12);
    }
    // The largest block with one answer: an access must not leave the entry it matches.
    while !rights.uniform && m.page_bits > 2 {
        m.page_bits -= 1;
        rights = ask(m.page_bits);
    }
    m.read &= rights.read;
    m.write &= rights.write;
    m.exec &= rights.exec;
    (probe || rights.allow(access)).then_some(m)
}

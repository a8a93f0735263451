//! Paging (SDM volume 3, chapter 4): none, 32-bit, PAE, 4-level and 5-level, with all rights.

use tcg_engine::{Access, Cx, Mapping, Trap};

use crate::{
    control::{CR0_PG, CR0_WP, CR4_LA57, CR4_PAE, CR4_PGE, CR4_PKE, CR4_PSE, CR4_SMEP},
    exceptions::{self, vector},
    guest::X86,
    mode::{MMU_SMAP, MMU_USER},
    msr::{EFER_NXE, EFER_SVME},
    state::Cpu,
    svm::nested,
};

pub(crate) const P: u64 = 1;
pub(crate) const W: u64 = 1 << 1;
pub(crate) const U: u64 = 1 << 2;
pub(crate) const A: u64 = 1 << 5;
pub(crate) const D: u64 = 1 << 6;
pub(crate) const PS: u64 = 1 << 7;
const G: u64 = 1 << 8;
pub(crate) const NX: u64 = 1 << 63;
/// Bits of an entry that hold an address.
pub(crate) const ADDRESS: u64 = 0x000f_ffff_ffff_f000;

/// Bits of a page fault's error code.
mod error {
    pub(super) const PRESENT: u16 = 1;
    pub(super) const WRITE: u16 = 1 << 1;
    pub(super) const USER: u16 = 1 << 2;
    pub(super) const RESERVED: u16 = 1 << 3;
    pub(super) const FETCH: u16 = 1 << 4;
    pub(super) const KEY: u16 = 1 << 5;
}

/// Everything a walk looks at.
struct Walk {
    access: Access,
    user: bool,
    smap: bool,
    nx: bool,
    gva: u64,
    probe: bool,
    /// Physical address bits that must be clear.
    too_high: u64,
}

impl Walk {
    fn fault(&self, s: &Cpu, bits: u16) -> Trap {
        let mut code = bits;
        if self.access == Access::Store {
            code |= error::WRITE;
        }
        if self.user {
            code |= error::USER;
        }
        if self.access == Access::Fetch && (self.nx || s.cr4 & CR4_SMEP != 0) {
            code |= error::FETCH;
        }
        let mut trap = exceptions::with_error(vector::PF, code);
        trap.value = self.gva;
        trap
    }
}

/// True if all bits above the address equal its top bit.
pub(crate) const fn canonical(s: &Cpu, gva: u64) -> bool {
    let shift = if s.cr4 & CR4_LA57 != 0 { 7 } else { 16 };
    ((gva << shift) as i64 >> shift) as u64 == gva
}

/// What names the tables that are walked.
pub(crate) const fn root(s: &Cpu) -> u64 {
    s.cr3 & ADDRESS | (s.cr3 & 0xfe0)
}

/// Walks the page tables. `probe` checks nothing and changes nothing.
pub(crate) fn walk(
    cx: &mut Cx<'_, X86>,
    gva: u64,
    access: Access,
    mmu: usize,
    probe: bool,
) -> Result<Mapping, Trap> {
    let m = walk_tables(cx, gva, access, mmu, probe)?;
    let m = nested::through(cx, m, access, probe)?;
    Ok(Mapping { gpa: m.gpa & cx.state.a20, ..m })
}

fn walk_tables(
    cx: &mut Cx<'_, X86>,
    gva: u64,
    access: Access,
    mmu: usize,
    probe: bool,
) -> Result<Mapping, Trap> {
    let s = &*cx.state;
    let max = 1_u64 << cx.guest().model().phys_bits;
    if s.cr0 & CR0_PG == 0 {
        let gpa = gva & 0xffff_ffff;
        return Ok(Mapping { gpa, read: true, write: true, exec: true, global: false, page_bits: 12 });
    }
    let w = Walk {
        access,
        user: mmu == MMU_USER,
        smap: mmu == MMU_SMAP,
        nx: s.msrs.efer & EFER_NXE != 0,
        gva,
        probe,
        too_high: !(max - 1) & ADDRESS,
    };
    let (legacy_tables, root, in_guest) = (s.cr4 & CR4_PAE == 0, root(s), s.svm.guest);
    // In a guest of the guest's there are more tables than these.
    if !in_guest {
        cx.walk_begins(root);
    }
    if legacy_tables {
        return legacy(cx, &w);
    }
    let s = &*cx.state;
    if s.long_mode() {
        if !canonical(s, gva) {
            return Err(exceptions::with_error(vector::GP, 0));
        }
        let levels = if s.cr4 & CR4_LA57 != 0 { 5 } else { 4 };
        let root = s.cr3 & ADDRESS;
        return long(cx, &w, root, levels, U | W);
    }
    let pdpte = s.pdptr[(gva >> 30 & 3) as usize];
    if pdpte & P == 0 {
        return Err(w.fault(s, 0));
    }
    // Loads of CR3 read it again.
    cx.walked((root & 0xffff_ffe0) + (gva >> 30 & 3) * 8, 8, pdpte);
    long(cx, &w, pdpte & ADDRESS, 2, U | W)
}

/// 4-level and 5-level paging, and the lower two levels of PAE.
fn long(cx: &mut Cx<'_, X86>, w: &Walk, root: u64, levels: u32, rights: u64) -> Result<Mapping, Trap> {
    let mut table = root;
    let mut level = levels;
    let mut rights = rights;
    let mut nx = false;
    while level > 0 {
        level -= 1;
        let shift = 12 + 9 * level;
        let at = (table + (w.gva >> shift & 511) * 8) & cx.state.a20;
        let at = nested::place(cx, at, w.probe)?;
        let Some(mut pte) = cx.phys_read(at, 8) else { return Err(w.fault(cx.state, 0)) };
        loop {
            if pte & P == 0 {
                return Err(w.fault(cx.state, 0));
            }
            let mut reserved = w.too_high | if w.nx { 0 } else { NX };
            if !cx.state.long_mode() {
                reserved |= 0x7ff0_0000_0000_0000;
            }
            let leaf = level == 0 || pte & PS != 0;
            if pte & PS != 0 && level > 0 {
                if level > 2 || level == 2 && !cx.guest().model().has().gb_pages {
                    reserved |= PS;
                }
                reserved |= ((1 << shift) - 1) & !0x1fff;
            }
            if pte & reserved != 0 {
                return Err(w.fault(cx.state, error::PRESENT | error::RESERVED));
            }
            if !leaf {
                if update(cx, at, 8, &mut pte, A, w)? {
                    break;
                }
                continue;
            }
            let all = rights & pte & (U | W);
            let m = check(cx.state, w, all, nx || pte & NX != 0, pte, shift)?;
            let wanted = A | if w.access == Access::Store { D } else { 0 };
            if !update(cx, at, 8, &mut pte, wanted, w)? {
                continue;
            }
            cx.walked(at, 8, pte);
            let mask = (1_u64 << shift) - 1;
            let gpa = pte & ADDRESS & !mask | w.gva & mask;
            return Ok(Mapping { gpa, write: m.write && pte & D != 0, ..m });
        }
        cx.walked(at, 8, pte);
        rights &= pte;
        nx |= pte & NX != 0;
        table = pte & ADDRESS;
    }
    Err(w.fault(cx.state, 0))
}

/// 32-bit paging.
fn legacy(cx: &mut Cx<'_, X86>, w: &Walk) -> Result<Mapping, Trap> {
    let dir = ((cx.state.cr3 & 0xffff_f000) + (w.gva >> 22 & 0x3ff) * 4) & cx.state.a20;
    let dir = nested::place(cx, dir, w.probe)?;
    let Some(mut pde) = cx.phys_read(dir, 4) else { return Err(w.fault(cx.state, 0)) };
    loop {
        if pde & P == 0 {
            return Err(w.fault(cx.state, 0));
        }
        if pde & PS != 0 && cx.state.cr4 & CR4_PSE != 0 {
            if pde & 1 << 21 != 0 {
                return Err(w.fault(cx.state, error::PRESENT | error::RESERVED));
            }
            let m = check(cx.state, w, pde & (U | W), false, pde & G, 22)?;
            let wanted = A | if w.access == Access::Store { D } else { 0 };
            if !update(cx, dir, 4, &mut pde, wanted, w)? {
                continue;
            }
            cx.walked(dir, 4, pde);
            // PSE-36: bits 13 to 20 are bits 32 to 39 of the address.
            let high = if cx.guest().model().has().pse36 { (pde >> 13 & 0xff) << 32 } else { 0 };
            let gpa = pde & 0xffc0_0000 | high | w.gva & 0x3f_ffff;
            return Ok(Mapping { gpa, write: m.write && pde & D != 0, ..m });
        }
        if update(cx, dir, 4, &mut pde, A, w)? {
            break;
        }
    }
    cx.walked(dir, 4, pde);
    let at = ((pde & 0xffff_f000) + (w.gva >> 12 & 0x3ff) * 4) & cx.state.a20;
    let at = nested::place(cx, at, w.probe)?;
    let Some(mut pte) = cx.phys_read(at, 4) else { return Err(w.fault(cx.state, 0)) };
    loop {
        if pte & P == 0 {
            return Err(w.fault(cx.state, 0));
        }
        let m = check(cx.state, w, pde & pte & (U | W), false, pte & G, 12)?;
        let wanted = A | if w.access == Access::Store { D } else { 0 };
        if update(cx, at, 4, &mut pte, wanted, w)? {
            cx.walked(at, 4, pte);
            let gpa = pte & 0xffff_f000 | w.gva & 0xfff;
            return Ok(Mapping { gpa, write: m.write && pte & D != 0, ..m });
        }
    }
}

/// Sets bits of an entry; `false` if somebody else changed it, which is then in `pte`.
fn update(
    cx: &mut Cx<'_, X86>,
    at: u64,
    bytes: usize,
    pte: &mut u64,
    bits: u64,
    w: &Walk,
) -> Result<bool, Trap> {
    if *pte & bits == bits || w.probe {
        return Ok(true);
    }
    match cx.phys_cas(at, bytes, *pte, *pte | bits) {
        Some(true) => {
            *pte |= bits;
            Ok(true)
        }
        Some(false) => {
            let Some(now) = cx.phys_read(at, bytes) else { return Err(w.fault(cx.state, 0)) };
            *pte = now;
            Ok(false)
        }
        // Tables in ROM keep their bits as they are.
        None => Ok(true),
    }
}

/// Rights of a leaf (4.6): `rights` is what U and W of all levels come to, `pte` has its protection key and G.
fn check(s: &Cpu, w: &Walk, rights: u64, nx: bool, pte: u64, shift: u32) -> Result<Mapping, Trap> {
    let user_page = rights & U != 0;
    let writable = rights & W != 0;
    let nx = w.nx && nx;
    // A walk that sees other memory than its space's others is of no use to them.
    let global = pte & G != 0 && s.cr4 & CR4_PGE != 0 && !s.smm && s.msrs.efer & EFER_SVME == 0;
    let mut m = if w.user {
        Mapping {
            gpa: 0,
            read: user_page,
            write: user_page && writable,
            exec: user_page && !nx,
            global,
            page_bits: shift,
        }
    } else {
        let reach = !user_page || !w.smap;
        Mapping {
            gpa: 0,
            read: reach,
            write: reach && (writable || s.cr0 & CR0_WP == 0),
            exec: !nx && (!user_page || s.cr4 & CR4_SMEP == 0),
            global,
            page_bits: shift,
        }
    };
    let mut bits = error::PRESENT;
    if user_page && s.cr4 & CR4_PKE != 0 && s.long_mode() {
        let key = s.pkru >> (2 * (pte >> 59 & 15)) & 3;
        let (no_access, no_write) = (key & 1 != 0, key & 2 != 0);
        let (read, write) = (m.read, m.write);
        m.read &= !no_access;
        m.write &= !no_access && !(no_write && (w.user || s.cr0 & CR0_WP != 0));
        let by_key = match w.access {
            Access::Load => read && !m.read,
            Access::Store => write && !m.write,
            Access::Fetch => false,
        };
        if by_key {
            bits |= error::KEY;
        }
    }
    let ok = match w.access {
        Access::Load => m.read,
        Access::Store => m.write,
        Access::Fetch => m.exec,
    };
    if ok || w.probe { Ok(m) } else { Err(w.fault(s, bits)) }
}

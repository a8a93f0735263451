//! Nested paging (APM volume 2, 15.25): the walk from a guest's physical addresses to the host's.

use tcg_engine::{Access, Cx, Mapping, Trap};

use super::{EXIT, byte, code, nested_levels};
use crate::{
    guest::X86,
    mmu::{self, A, ADDRESS, D, NX, P, PS, U, W},
    mode::{MMU_KERNEL, MMU_USER},
    state::seg,
};

/// The exit for a fault; `bits` are those of a page fault's error code.
fn fault(gpa: u64, access: Access, bits: u64, table: bool) -> Trap {
    let access = match access {
        Access::Load => 0,
        Access::Store => 2,
        Access::Fetch => 16,
    };
    // Every access of a guest is one of a user.
    let bits = bits | access | 4;
    Trap { code: EXIT | code::NPF | bits << 16 | u64::from(table) << 32, value: gpa }
}

/// Walks for the guest physical address `gpa`; `table`: it is that of a table of the guest.
pub(crate) fn translate(
    cx: &mut Cx<'_, X86>,
    gpa: u64,
    access: Access,
    table: bool,
    probe: bool,
) -> Result<Mapping, Trap> {
    let control = cx.state.svm.control;
    let (levels, forbids) = nested_levels(&control);
    let too_high = !((1_u64 << cx.guest().model().phys_bits) - 1) & ADDRESS;
    let mut next = control.ncr3 & ADDRESS;
    let (mut rights, mut nx) = (W | U, false);
    let mut level = levels;
    while level > 0 {
        level -= 1;
        let shift = 12 + 9 * level;
        let at = next + (gpa >> shift & 511) * 8;
        let Some(mut pte) = cx.phys_read(at, 8) else { return Err(fault(gpa, access, 0, table)) };
        loop {
            if pte & P == 0 {
                return Err(fault(gpa, access, 0, table));
            }
            let large = pte & PS != 0 && level > 0;
            let mut reserved = too_high | if forbids { 0 } else { NX };
            if large {
                reserved |= if level > 2 { PS } else { ((1 << shift) - 1) & !0x1fff };
            }
            if pte & reserved != 0 {
                return Err(fault(gpa, access, 9, table));
            }
            let leaf = large || level == 0;
            let (all, never) = (rights & pte & (U | W), nx || pte & NX != 0);
            if leaf {
                let (read, write) = (all & U != 0, all == U | W);
                let exec = read && !never;
                let good = match access {
                    Access::Load => read,
                    Access::Store => write,
                    Access::Fetch => exec,
                };
                if !good && !probe {
                    return Err(fault(gpa, access, 1, table));
                }
                let wanted = A | if access == Access::Store { D } else { 0 };
                if !mark(cx, at, &mut pte, wanted, probe) {
                    continue;
                }
                let mask = (1_u64 << shift) - 1;
                return Ok(Mapping {
                    gpa: pte & ADDRESS & !mask | gpa & mask,
                    read,
                    write: write && pte & D != 0,
                    exec,
                    global: false,
                    page_bits: shift,
                });
            }
            if mark(cx, at, &mut pte, A, probe) {
                (rights, nx, next) = (all, never, pte & ADDRESS);
                break;
            }
        }
    }
    Err(fault(gpa, access, 0, table))
}

/// Sets bits of an entry; `false` if somebody else changed it, which is then in `pte`.
fn mark(cx: &mut Cx<'_, X86>, at: u64, pte: &mut u64, bits: u64, probe: bool) -> bool {
    if probe || *pte & bits == bits {
        return true;
    }
    if cx.phys_cas(at, 8, *pte, *pte | bits) == Some(false) {
        *pte = cx.phys_read(at, 8).unwrap_or(0);
        return false;
    }
    *pte |= bits;
    true
}

/// The host's address of an entry of a guest's table, which counts as written.
pub(crate) fn place(cx: &mut Cx<'_, X86>, gpa: u64, probe: bool) -> Result<u64, Trap> {
    if !cx.state.svm.nested() {
        return Ok(gpa);
    }
    translate(cx, gpa, Access::Store, true, probe).map(|m| m.gpa)
}

/// A guest's mapping, led on through the host's tables.
pub(crate) fn through(
    cx: &mut Cx<'_, X86>,
    m: Mapping,
    access: Access,
    probe: bool,
) -> Result<Mapping, Trap> {
    if !cx.state.svm.nested() {
        return Ok(m);
    }
    let n = translate(cx, m.gpa, access, false, probe)?;
    Ok(Mapping {
        gpa: n.gpa,
        read: m.read && n.read,
        write: m.write && n.write,
        exec: m.exec && n.exec,
        global: false,
        page_bits: m.page_bits.min(n.page_bits),
    })
}

/// The bytes at the guest's program counter, as far as they can be read (15.8.4).
pub(super) fn instruction(cx: &mut Cx<'_, X86>) -> Vec<u8> {
    let mmu = if cx.state.cpl == 3 { MMU_USER } else { MMU_KERNEL };
    let start =
        if cx.state.code64() { cx.state.pc } else { cx.state.seg_base[seg::CS].wrapping_add(cx.state.rip()) };
    let mut bytes = Vec::new();
    let mut page = None;
    for n in 0..15 {
        let at = start.wrapping_add(n);
        if page.is_none() || at & 0xfff == 0 {
            page = mmu::walk(cx, at, Access::Fetch, mmu, true).ok().map(|m| m.gpa.wrapping_sub(at));
        }
        let Some(byte) = page.and_then(|p| byte(cx, at.wrapping_add(p))) else { break };
        bytes.push(byte);
    }
    bytes
}

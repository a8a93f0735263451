//! Vector loads and stores (chapter V, section 7).
//!
//! Elements are accessed in order. One that faults leaves its number in `vstart`, so that the instruction goes on there
//! when it is restarted; accesses of the same element's earlier fields are then repeated.

use tcg_engine::{Cx, Trap};
use tcg_ir::MemOp;

use super::{Check, Group, Unit, VL, VSTART, check, finish, illegal};
use crate::{
    guest::Riscv,
    state::{Hart, status},
    triggers,
};

const PAGE: u64 = 1 << tcg_ir::abi::PAGE_BITS;

/// Where elements lie.
#[derive(Debug, Clone, Copy)]
enum Place {
    /// This many bytes from one to the next.
    Stride(u64),
    /// At the unsigned offsets of this width in this group.
    Index(u32, i32),
}

/// A load or store, checked.
struct Plan {
    store: bool,
    vd: u32,
    /// log2 of an element's bytes.
    eew: i32,
    /// Fields of a segment.
    fields: u32,
    /// Registers from one field's group to the next.
    step: u32,
    place: Place,
    /// Elements.
    count: usize,
    /// Faults behind the first element only shorten `vl`.
    first_only: bool,
    vm: bool,
}

/// Load or store `word` at `base`; `stride` is `rs2`'s value.
pub(super) fn run(cx: &mut Cx<'_, Riscv>, [word, base, stride, mmu]: [u64; 4]) -> Result<u64, Trap> {
    let (vlenb, xlen) = (cx.guest().cpu().vlenb, cx.guest().cpu().xlen);
    let plan = plan(cx.state, vlenb, xlen, word, stride).ok_or(illegal(word))?;
    cx.state.mstatus |= status::VS;
    let vstart = cx.state.vcsrs[VSTART] as usize;
    if vstart < plan.count {
        if triggers::armed(cx.guest().cpu(), cx.state) {
            triggers::data(cx.state, base, plan.store)?;
        }
        let access = Access { plan: &plan, base, vlenb: vlenb as usize, xlen, mmu: mmu as usize };
        access.all(cx, vstart)?;
    }
    finish(cx.state);
    Ok(0)
}

/// Decodes and checks.
fn plan(h: &mut Hart, vlenb: u32, xlen: u32, word: u64, stride: u64) -> Check<Plan> {
    let store = word & 0x7f == 0x27;
    let eew = match word >> 12 & 7 {
        0 => 0,
        n => n as i32 - 4,
    };
    let fields = (word >> 29 & 7) as u32 + 1;
    let (mop, kind) = (word >> 26 & 3, word >> 20 & 31);
    let bytes = vlenb as usize;
    if mop == 0 && kind == 8 {
        // Whole registers: neither vtype nor vl matters.
        let vd = (word >> 7 & 31) as u32;
        check(h.mstatus & status::VS != 0 && fields.is_power_of_two() && vd & (fields - 1) == 0)?;
        return Some(Plan {
            store,
            vd,
            eew,
            fields: 1,
            step: 0,
            place: Place::Stride(1 << eew),
            count: (fields as usize * bytes) >> eew,
            first_only: false,
            vm: true,
        });
    }
    let u = Unit::new(h, vlenb, word, 0)?;
    let vd = u.insn.vd();
    let indexed = mop & 1 != 0;
    let mut plan = Plan {
        store,
        vd,
        eew: if indexed { u.sew } else { eew },
        fields,
        step: 1,
        place: Place::Stride(u64::from(fields) << eew),
        count: u.vl,
        first_only: mop == 0 && kind == 16,
        vm: u.insn.vm(),
    };
    if mop == 0 && kind == 11 {
        plan.count = u.vl.div_ceil(8);
        return Some(plan);
    }
    check(store || plan.vm || vd != 0)?;
    let data = u.group(vd, plan.eew)?;
    plan.step = 1 << data.emul.max(0);
    check(fields * plan.step <= 8 && vd + fields * plan.step <= 32)?;
    if mop == 2 {
        plan.place = Place::Stride(stride);
    }
    if indexed {
        check(eew < 3 || xlen == 64)?;
        let index = u.input(u.insn.vs2(), eew)?;
        if store {
            // Index, data and mask are sources: no register of two widths. (Further fields may overlap, as in QEMU.)
            check((plan.vm || vd != 0) && (data.eew == index.eew || !data.overlaps(index)))?;
        } else if fields == 1 {
            check(data.may_overwrite(index))?;
        } else {
            for field in 0..fields {
                check(!Group { reg: vd + field * plan.step, ..data }.overlaps(index))?;
            }
        }
        plan.place = Place::Index(index.reg, eew);
    }
    Some(plan)
}

struct Access<'a> {
    plan: &'a Plan,
    base: u64,
    vlenb: usize,
    xlen: u32,
    mmu: usize,
}

impl Access<'_> {
    fn all(&self, cx: &mut Cx<'_, Riscv>, vstart: usize) -> Result<(), Trap> {
        let p = self.plan;
        let mut i = vstart;
        while i < p.count {
            if !p.vm && cx.state.v[i >> 3] >> (i & 7) & 1 == 0 {
                i += 1;
                continue;
            }
            let done = match self.run_of(i) {
                Some(log2) => self.together(cx, i, log2).map(|()| 1 << (log2 - p.eew as u32)),
                None => self.element(cx, i).map(|()| 1),
            };
            match done {
                Ok(n) => i += n,
                Err(_) if p.first_only && i != 0 => {
                    cx.state.vcsrs[VL] = i as u64;
                    break;
                }
                Err(trap) => {
                    cx.state.vcsrs[VSTART] = i as u64;
                    return Err(trap);
                }
            }
        }
        Ok(())
    }

    fn wrap(&self, gva: u64) -> u64 {
        if self.xlen == 32 { gva & 0xffff_ffff } else { gva }
    }

    /// log2 of the bytes from element `i` on that one access covers: 2 elements or more, without masks and gaps, in one page.
    /// Such an access faults as a whole, so its first element is the one that faults.
    fn run_of(&self, i: usize) -> Option<u32> {
        let p = self.plan;
        let dense = p.vm && p.fields == 1 && matches!(p.place, Place::Stride(s) if s == 1 << p.eew);
        let gva = self.base.wrapping_add((i as u64) << p.eew);
        let room = (PAGE - (gva & (PAGE - 1))).min(64) as usize;
        let log2 = room.min((p.count - i) << p.eew).checked_ilog2()?;
        (dense && log2 > p.eew as u32).then_some(log2)
    }

    /// The elements of [`run_of`](Self::run_of).
    fn together(&self, cx: &mut Cx<'_, Riscv>, i: usize, log2: u32) -> Result<(), Trap> {
        let p = self.plan;
        let gva = self.wrap(self.base.wrapping_add((i as u64) << p.eew));
        let at = p.vd as usize * self.vlenb + (i << p.eew);
        if log2 <= 3 {
            return self.one(cx, gva, at, log2);
        }
        let m = MemOp::new(log2).with_mmu(self.mmu);
        let n = 1 << log2;
        if p.store {
            let mut bytes = [0; 64];
            bytes[..n].copy_from_slice(&cx.state.v[at..at + n]);
            cx.store_wide(gva, m, &bytes)
        } else {
            let bytes = cx.load_wide(gva, m)?;
            cx.state.v[at..at + n].copy_from_slice(&bytes[..n]);
            Ok(())
        }
    }

    /// One element, all fields.
    fn element(&self, cx: &mut Cx<'_, Riscv>, i: usize) -> Result<(), Trap> {
        let p = self.plan;
        let offset = match p.place {
            Place::Stride(stride) => stride.wrapping_mul(i as u64),
            Place::Index(reg, eew) => {
                let at = reg as usize * self.vlenb + (i << eew);
                let mut bytes = [0; 8];
                bytes[..1 << eew].copy_from_slice(&cx.state.v[at..at + (1 << eew)]);
                u64::from_le_bytes(bytes)
            }
        };
        for field in 0..p.fields {
            let gva = self.base.wrapping_add(offset).wrapping_add(u64::from(field) << p.eew);
            let at = (p.vd + field * p.step) as usize * self.vlenb + (i << p.eew);
            self.one(cx, self.wrap(gva), at, p.eew as u32)?;
        }
        Ok(())
    }

    /// `1 << log2` bytes between `gva` and byte `at` of the registers.
    fn one(&self, cx: &mut Cx<'_, Riscv>, gva: u64, at: usize, log2: u32) -> Result<(), Trap> {
        let m = MemOp::new(log2).with_mmu(self.mmu);
        let n = 1 << log2;
        if self.plan.store {
            let mut bytes = [0; 8];
            bytes[..n].copy_from_slice(&cx.state.v[at..at + n]);
            cx.store(gva, m, u64::from_le_bytes(bytes))
        } else {
            let v = cx.load(gva, m)?;
            cx.state.v[at..at + n].copy_from_slice(&v.to_le_bytes()[..n]);
            Ok(())
        }
    }
}

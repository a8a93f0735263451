//! Virtual interrupts: CR4.VME in virtual-8086 mode, and CR4.PVI at level 3 (SDM volume 3, 21.3 and 21.4). VIF stands for IF where IOPL
//! does not reach, and a bitmap of the task-state segment says which software interrupts the 8086 program handles itself.

use tcg_engine::{Cx, Trap};
use tcg_ir::MemOp;

use crate::{
    control::{CR4_PVI, CR4_VME},
    exceptions::{self, vector},
    flags,
    guest::X86,
    mode::MMU_USER,
    segment::{self, linear, sys_load},
    stack::Stack,
    state::{Cpu, seg},
};

/// Bytes of the bitmap of interrupts, which ends where that of ports begins.
const BITMAP: u64 = 32;

/// Whether VIF takes the place of IF where the privilege level is beyond IOPL.
pub(crate) const fn on(s: &Cpu) -> bool {
    if s.vm86() { s.cr4 & CR4_VME != 0 } else { s.protected() && s.cpl == 3 && s.cr4 & CR4_PVI != 0 }
}

/// FLAGS as a virtual-8086 program sees them: VIF is its IF, and its IOPL is 3.
pub(crate) const fn seen(rflags: u64) -> u64 {
    let virt = if rflags & flags::VIF != 0 { flags::IF } else { 0 };
    rflags & !flags::IF | virt | flags::IOPL
}

/// RFLAGS for FLAGS that such a program returns to.
///
/// # Errors
/// #GP for single steps, and for enabling interrupts while one is pending.
pub(crate) fn taken(s: &Cpu, new: u64) -> Result<u64, Trap> {
    let wants = new & flags::IF != 0;
    if new & flags::TF != 0 || wants && s.sys & flags::VIP != 0 {
        return Err(exceptions::with_error(vector::GP, 0));
    }
    let which = flags::ARITH | flags::DF | flags::NT;
    let virt = if wants { flags::VIF } else { 0 };
    Ok(s.rflags() & !(which | flags::TF | flags::RF | flags::VIF) | new & which | virt)
}

/// Whether the program handles software interrupt `n` itself: its bit is clear.
fn is_its_own(cx: &mut Cx<'_, X86>, n: u8) -> Result<bool, Trap> {
    let gp = exceptions::with_error(vector::GP, 0);
    let tr = cx.state.tr;
    if tr.access & 8 == 0 || tr.limit < 103 {
        return Err(gp);
    }
    let at = linear(cx.state, tr.base.wrapping_add(102));
    let ports = sys_load(cx, at, 1)?;
    let Some(offset) = (ports + u64::from(n >> 3)).checked_sub(BITMAP).filter(|o| *o <= u64::from(tr.limit))
    else {
        return Err(gp);
    };
    let at = linear(cx.state, tr.base.wrapping_add(offset));
    Ok(sys_load(cx, at, 0)? >> (n & 7) & 1 == 0)
}

/// INT n in virtual-8086 mode, with the program counter behind it: true if the program's own handler was entered.
pub(crate) fn soft_int(cx: &mut Cx<'_, X86>, n: u8) -> Result<bool, Trap> {
    if cx.state.cr4 & CR4_VME == 0 || !is_its_own(cx, n)? {
        return Ok(false);
    }
    let m = MemOp::new(1).with_mmu(MMU_USER);
    let ip = cx.load(4 * u64::from(n), m)?;
    let cs = cx.load(4 * u64::from(n) + 2, m)? as u16;
    let s = &*cx.state;
    let (own_if, image) = match s.iopl() {
        3 => (flags::IF, s.rflags()),
        _ => (flags::VIF, seen(s.rflags())),
    };
    let (old_cs, old_ip) = (s.seg_sel[seg::CS], s.rip());
    let mut stack = Stack::current(s);
    for v in [image, old_cs, old_ip] {
        stack.push(cx, 1, v)?;
    }
    let s = &mut *cx.state;
    stack.commit(s);
    s.sys &= !(flags::TF | own_if);
    segment::put_real(s, seg::CS, cs);
    s.set_rip(ip);
    Ok(true)
}

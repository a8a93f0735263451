//! Interrupts (volume II, 3.1.9) and the timers of Sstc.

use tcg_engine::Cx;

use crate::{
    cpu::Ext,
    exceptions,
    guest::Riscv,
    state::{Hart, M, S, status},
};

/// Supervisor software interrupt.
pub const SSI: u64 = 1 << 1;
/// Machine software interrupt.
pub const MSI: u64 = 1 << 3;
/// Supervisor timer interrupt.
pub const STI: u64 = 1 << 5;
/// Machine timer interrupt.
pub const MTI: u64 = 1 << 7;
/// Supervisor external interrupt.
pub const SEI: u64 = 1 << 9;
/// Machine external interrupt.
pub const MEI: u64 = 1 << 11;

/// All interrupts of S.
pub const OF_S: u64 = SSI | STI | SEI;
/// All interrupts.
pub const ALL: u64 = OF_S | MSI | MTI | MEI;
/// `menvcfg.STCE`: stimecmp decides STIP.
pub const STCE: u64 = 1 << 63;

/// From the highest priority down.
const PRIORITY: [u64; 6] = [11, 3, 7, 9, 1, 5];

/// The guest's `time`.
#[must_use]
pub fn time(cx: &Cx<'_, Riscv>) -> u64 {
    (u128::from(cx.now_ns()) * u128::from(cx.timebase_hz()) / 1_000_000_000) as u64
}

/// True if stimecmp is in force.
fn sstc(cx: &Cx<'_, Riscv>) -> bool {
    cx.guest().cpu().ext.has(Ext::SSTC) && cx.state.menvcfg & STCE != 0
}

/// `mip`: wires, what software set, and the supervisor timer.
#[must_use]
pub fn pending(cx: &Cx<'_, Riscv>) -> u64 {
    let mut mip = (cx.lines() | cx.state.mip) & ALL;
    if sstc(cx) {
        mip &= !STI;
        if time(cx) >= cx.state.stimecmp {
            mip |= STI;
        }
    }
    mip
}

/// The interrupt to take now, if there is one.
#[must_use]
pub fn choose(hart: &Hart, mip: u64) -> Option<u64> {
    let ready = mip & hart.mie;
    if ready == 0 {
        return None;
    }
    let for_m = hart.privilege < M || hart.mstatus & status::MIE != 0;
    let for_s = hart.privilege < S || hart.privilege == S && hart.mstatus & status::SIE != 0;
    let of_m = if for_m { ready & !hart.mideleg } else { 0 };
    let of_s = if for_s { ready & hart.mideleg } else { 0 };
    // Interrupts of M come before all of S.
    let set = if of_m != 0 { of_m } else { of_s };
    PRIORITY.into_iter().find(|n| set >> n & 1 != 0)
}

/// Asks the engine to look at the interrupts before the next unit, if one is due.
pub fn leave_if_due(cx: &mut Cx<'_, Riscv>) {
    if choose(cx.state, pending(cx)).is_some() {
        cx.leave_unit();
    }
}

/// Takes an interrupt if one is pending and enabled.
pub fn deliver(cx: &mut Cx<'_, Riscv>) -> bool {
    let mip = pending(cx);
    let Some(code) = choose(cx.state, mip) else { return false };
    let cpu = cx.guest().cpu();
    if let Some(log) = cx.log(accel::LogItems::INT) {
        log.write(format_args!("hart {}: interrupt {code} at {:#x}\n", cx.index(), cx.state.pc));
    }
    exceptions::enter(cpu, cx.state, code, true, 0);
    true
}

/// Arms the engine's timer for stimecmp, or takes it back.
pub fn arm(cx: &mut Cx<'_, Riscv>) {
    let at = cx.state.stimecmp;
    let hz = u128::from(cx.timebase_hz().max(1));
    let ns = (u128::from(at) * 1_000_000_000).div_ceil(hz);
    let deadline = u64::try_from(ns).ok().filter(|_| sstc(cx));
    cx.arm_timer(deadline);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::Cpu;

    #[test]
    fn priorities_and_enables() {
        let cpu = Cpu::new(64, "", &[]).unwrap();
        let mut h = Hart::new(cpu.xlen, 0, 0);
        h.mie = ALL;
        assert_eq!(choose(&h, ALL), None, "MIE is clear in M");
        h.mstatus |= status::MIE;
        assert_eq!(choose(&h, ALL), Some(11));
        assert_eq!(choose(&h, MTI | SEI), Some(7));
        h.mideleg = OF_S;
        assert_eq!(choose(&h, OF_S), None, "delegated ones never interrupt M");
        h.privilege = S;
        assert_eq!(choose(&h, OF_S), None);
        h.mstatus |= status::SIE;
        assert_eq!(choose(&h, OF_S), Some(9));
        h.privilege = crate::state::U;
        h.mstatus = 0;
        assert_eq!(choose(&h, STI | SSI), Some(1));
        h.mie = STI;
        assert_eq!(choose(&h, ALL), Some(5));
    }
}

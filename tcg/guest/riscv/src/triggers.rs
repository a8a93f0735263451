//! Debug triggers: `mcontrol6` of the RISC-V Debug Specification (chapter Sdtrig), as gdb and Linux use it: exact
//! address match on execution, load or store, raising a breakpoint exception.

use tcg_engine::Trap;

use crate::{
    cpu::{Cpu, Ext},
    exceptions::cause,
    state::{Hart, M, S, TRIGGERS, Trigger, U},
};

/// Triggers a hart has.
pub const COUNT: usize = 4;
const _: () = assert!(COUNT <= TRIGGERS);

/// Type of an `mcontrol6` trigger.
const MCONTROL6: u64 = 6;
/// Type of a trigger that is off.
const DISABLED: u64 = 15;

const LOAD: u64 = 1;
const STORE: u64 = 1 << 1;
const EXECUTE: u64 = 1 << 2;
const FOR_U: u64 = 1 << 3;
const FOR_S: u64 = 1 << 4;
const FOR_M: u64 = 1 << 6;
/// Hit bit: set when the trigger fires.
const HIT0: u64 = 1 << 22;
const WRITABLE: u64 = LOAD | STORE | EXECUTE | FOR_U | FOR_S | FOR_M | HIT0;

/// True if any trigger may fire, so that translation must check.
#[must_use]
pub fn armed(cpu: &Cpu, hart: &Hart) -> bool {
    cpu.ext.has(Ext::SDTRIG) && hart.triggers[..COUNT].iter().any(|t| t.data1 & (LOAD | STORE | EXECUTE) != 0)
}

/// `tdata1` as it reads: type 6, or 15 if the trigger is off.
#[must_use]
pub fn read_data1(cpu: &Cpu, t: &Trigger) -> u64 {
    let ty = if t.data1 & (LOAD | STORE | EXECUTE) != 0 { MCONTROL6 } else { DISABLED };
    ty << (cpu.xlen - 4) | t.data1 & WRITABLE
}

/// Writes `tdata1`; a type or match that does not exist turns the trigger off.
pub fn write_data1(cpu: &Cpu, t: &mut Trigger, value: u64) {
    let match_field = value >> 7 & 15;
    let good = value >> (cpu.xlen - 4) & 15 == MCONTROL6 && match_field == 0;
    t.data1 = if good { value & WRITABLE } else { 0 };
}

/// Fires a trigger of `kind` for `addr`.
fn check(hart: &mut Hart, kind: u64, addr: u64) -> Result<(), Trap> {
    let privilege = match hart.privilege {
        M => FOR_M,
        S => FOR_S,
        U => FOR_U,
        _ => return Ok(()),
    };
    // A trap handler in M that is hit by its own trigger would never end (Sdtrig, 5.4).
    let reentrant = hart.privilege == M && hart.mstatus & crate::state::status::MIE == 0;
    for t in &mut hart.triggers[..COUNT] {
        if t.data1 & kind != 0 && t.data1 & privilege != 0 && t.data2 == addr && !reentrant {
            t.data1 |= HIT0;
            return Err(Trap { code: cause::BREAKPOINT, value: addr });
        }
    }
    Ok(())
}

/// Checks the instruction at `pc`.
pub fn execute(hart: &mut Hart, pc: u64) -> Result<(), Trap> {
    check(hart, EXECUTE, pc)
}

/// Checks a load or store at `addr`.
pub fn data(hart: &mut Hart, addr: u64, store: bool) -> Result<(), Trap> {
    check(hart, if store { STORE } else { LOAD }, addr)
}

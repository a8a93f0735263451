//! Debug triggers (the RISC-V Debug Specification, chapter Sdtrig): `mcontrol` and `mcontrol6`, which compare addresses of
//! execution, loads and stores, and `icount`, which counts instructions. All raise a breakpoint exception.
//!
//! A trigger's `data1` is kept in one form for all widths: the type is in bits 60 to 63, the rest as `tdata1` has it. Type
//! 0 is `mcontrol6`, as saved states of before had no type.

use tcg_engine::Trap;

use crate::{
    cpu::{Cpu, Ext},
    exceptions::cause,
    state::{Hart, M, S, TRIGGERS, Trigger, U, status},
};

/// Triggers a hart has.
pub const COUNT: usize = 4;
const _: () = assert!(COUNT <= TRIGGERS);

/// Types.
const MCONTROL: u64 = 2;
const ICOUNT: u64 = 3;
const MCONTROL6: u64 = 6;
/// A trigger that is off.
const DISABLED: u64 = 15;
const TYPE: u32 = 60;

/// `tinfo`: version 1 of Sdtrig and the types that exist.
pub const INFO: u64 = 1 << 24 | 1 << MCONTROL | 1 << ICOUNT | 1 << MCONTROL6 | 1 << DISABLED;

// Fields of mcontrol and mcontrol6.
const LOAD: u64 = 1;
const STORE: u64 = 1 << 1;
const EXECUTE: u64 = 1 << 2;
const FOR_U: u64 = 1 << 3;
const FOR_S: u64 = 1 << 4;
const FOR_M: u64 = 1 << 6;
const MATCH: u64 = 15 << 7;
/// `hit` of mcontrol and `hit0` of mcontrol6: set when the trigger fires.
const HIT: u64 = 1 << 20;
const HIT0: u64 = 1 << 22;
const ADDRESS: u64 = LOAD | STORE | EXECUTE | FOR_U | FOR_S | FOR_M | MATCH;

// Fields of icount.
const COUNT_U: u64 = 1 << 6;
const COUNT_S: u64 = 1 << 7;
/// The count has run out: fires before the next instruction.
const PENDING: u64 = 1 << 8;
const COUNT_M: u64 = 1 << 9;
const COUNTER: u64 = 0x3fff << 10;
const ONE: u64 = 1 << 10;
const COUNT_HIT: u64 = 1 << 24;
const COUNTING: u64 = COUNT_U | COUNT_S | PENDING | COUNT_M | COUNTER | COUNT_HIT;

const fn kind(t: &Trigger) -> u64 {
    match t.data1 >> TYPE {
        0 => MCONTROL6,
        n => n,
    }
}

/// True if the trigger may fire.
const fn active(t: &Trigger) -> bool {
    match kind(t) {
        ICOUNT => t.data1 & (COUNTER | PENDING) != 0 && t.data1 & (COUNT_U | COUNT_S | COUNT_M) != 0,
        MCONTROL | MCONTROL6 => t.data1 & (LOAD | STORE | EXECUTE) != 0,
        _ => false,
    }
}

/// True if any trigger may fire, so that translation must check.
#[must_use]
pub fn armed(cpu: &Cpu, hart: &Hart) -> bool {
    cpu.ext.has(Ext::SDTRIG) && hart.triggers[..COUNT].iter().any(active)
}

/// `tdata1` as it reads: type 15 if nothing is set.
#[must_use]
pub fn read_data1(cpu: &Cpu, t: &Trigger) -> u64 {
    let low = t.data1 & ((1 << TYPE) - 1);
    let ty = if low == 0 { DISABLED } else { kind(t) };
    ty << (cpu.xlen - 4) | low
}

/// Writes `tdata1`. A type or match that does not exist, an action other than the exception and chains turn the trigger
/// off.
pub fn write_data1(cpu: &Cpu, t: &mut Trigger, value: u64) {
    let ty = value >> (cpu.xlen - 4) & 15;
    // Data values (bit 19 of mcontrol, 21 of mcontrol6) cannot be compared.
    let (writable, refused) = match ty {
        MCONTROL => (ADDRESS | HIT, 1 << 11 | 15 << 12 | 1 << 19),
        MCONTROL6 => (ADDRESS | HIT0, 1 << 11 | 15 << 12 | 1 << 21),
        ICOUNT => (COUNTING, 63),
        _ => (0, 0),
    };
    let match_exists = ty == ICOUNT || (value & MATCH) >> 7 < 4;
    let kept = if value & refused == 0 && match_exists { value & writable } else { 0 };
    t.data1 = if kept == 0 { 0 } else { kept | ty << TYPE };
}

/// A trap handler in M that is hit by its own trigger would never end ("Native Triggers").
const fn reentrant(hart: &Hart) -> bool {
    hart.privilege == M && hart.mstatus & status::MIE == 0
}

/// Compares `addr` as `match` says: equal, the same up to the lowest zero of the value, not below, below.
const fn matches(t: &Trigger, addr: u64) -> bool {
    match (t.data1 & MATCH) >> 7 {
        0 => addr == t.data2,
        1 => {
            let same = !(t.data2 ^ (t.data2.wrapping_add(1)));
            addr & same == t.data2 & same
        }
        2 => addr >= t.data2,
        _ => addr < t.data2,
    }
}

/// Fires a trigger of `access` for `addr`.
fn check(hart: &mut Hart, access: u64, addr: u64) -> Result<(), Trap> {
    let privilege = match hart.privilege {
        M => FOR_M,
        S => FOR_S,
        U => FOR_U,
        _ => return Ok(()),
    };
    if reentrant(hart) {
        return Ok(());
    }
    for t in &mut hart.triggers[..COUNT] {
        let hit = match kind(t) {
            MCONTROL => HIT,
            MCONTROL6 => HIT0,
            _ => continue,
        };
        if t.data1 & access != 0 && t.data1 & privilege != 0 && matches(t, addr) {
            t.data1 |= hit;
            return Err(Trap { code: cause::BREAKPOINT, value: addr });
        }
    }
    Ok(())
}

/// Counts the instruction at `pc`, or fires if the count ran out before it.
fn count(hart: &mut Hart, pc: u64) -> Result<(), Trap> {
    let privilege = match hart.privilege {
        M => COUNT_M,
        S => COUNT_S,
        _ => COUNT_U,
    };
    if reentrant(hart) {
        return Ok(());
    }
    for t in &mut hart.triggers[..COUNT] {
        if kind(t) != ICOUNT || t.data1 & privilege == 0 {
            continue;
        }
        if t.data1 & PENDING != 0 {
            t.data1 = t.data1 & !PENDING | COUNT_HIT;
            return Err(Trap { code: cause::BREAKPOINT, value: pc });
        }
        if t.data1 & COUNTER != 0 {
            t.data1 -= ONE;
            if t.data1 & COUNTER == 0 {
                t.data1 |= PENDING;
            }
        }
    }
    Ok(())
}

/// Checks the instruction at `pc`.
pub fn execute(hart: &mut Hart, pc: u64) -> Result<(), Trap> {
    check(hart, EXECUTE, pc)?;
    count(hart, pc)
}

/// Checks a load or store at `addr`.
pub fn data(hart: &mut Hart, addr: u64, store: bool) -> Result<(), Trap> {
    check(hart, if store { STORE } else { LOAD }, addr)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn setup(data1: u64, data2: u64) -> (Cpu, Hart) {
        let cpu = Cpu::new(64, "", &[]).unwrap();
        let mut hart = Hart::new(64, 0, 0);
        hart.privilege = U;
        write_data1(&cpu, &mut hart.triggers[1], data1);
        hart.triggers[1].data2 = data2;
        (cpu, hart)
    }

    #[test]
    fn addresses_match_by_kind() {
        let mcontrol = |kind: u64, bits: u64| kind << 60 | bits | FOR_U;
        for kind in [MCONTROL, MCONTROL6] {
            let (cpu, mut h) = setup(mcontrol(kind, LOAD), 0x1000);
            assert!(armed(&cpu, &h));
            assert!(data(&mut h, 0x1001, false).is_ok() && data(&mut h, 0x1000, true).is_ok());
            assert_eq!(data(&mut h, 0x1000, false), Err(Trap { code: 3, value: 0x1000 }));
            let hit = if kind == MCONTROL { HIT } else { HIT0 };
            assert_eq!(read_data1(&cpu, &h.triggers[1]), mcontrol(kind, LOAD | hit));
            h.privilege = S;
            assert!(data(&mut h, 0x1000, false).is_ok(), "not for S");
            // NAPOT of 16 bytes, at least, below.
            let hits = |how: u64, addr: u64| {
                let (_, mut h) = setup(mcontrol(kind, EXECUTE | how << 7), 0x1007);
                execute(&mut h, addr).is_err()
            };
            assert!(hits(1, 0x1000) && hits(1, 0x100f) && !hits(1, 0x1010) && !hits(1, 0xfff));
            assert!(hits(2, 0x1007) && !hits(2, 0x1006) && hits(3, 0x1006) && !hits(3, 0x1007));
        }
    }

    #[test]
    fn what_does_not_exist_is_off() {
        for bad in [
            7 << 60,
            6 << 60 | 9 << 7 | LOAD,
            2 << 60 | 1 << 12 | LOAD,
            6 << 60 | 1 << 21 | LOAD,
            3 << 60 | 1,
        ] {
            let (cpu, h) = setup(bad, 0);
            assert!(!armed(&cpu, &h), "{bad:#x}");
            assert_eq!(read_data1(&cpu, &h.triggers[1]) >> 60, DISABLED);
        }
    }

    #[test]
    fn instructions_are_counted() {
        let (cpu, mut h) = setup(ICOUNT << 60 | COUNT_U | (2 * ONE), 0);
        assert!(execute(&mut h, 0x10).is_ok() && execute(&mut h, 0x14).is_ok());
        h.privilege = M;
        assert!(execute(&mut h, 0x18).is_ok(), "M is not counted");
        h.privilege = U;
        assert_eq!(execute(&mut h, 0x18), Err(Trap { code: 3, value: 0x18 }));
        assert!(!armed(&cpu, &h) && execute(&mut h, 0x18).is_ok());
        assert_eq!(read_data1(&cpu, &h.triggers[1]), ICOUNT << 60 | COUNT_U | COUNT_HIT);
    }
}

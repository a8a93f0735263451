//! Debug registers (SDM volume 3, chapter 18).

use tcg_engine::Trap;
use tcg_ir::{Effects, SlotSet};

use crate::{
    exceptions::{DR6_BS, vector},
    flags,
    helpers::{RAISES, SYS, helpers},
    state::Cpu,
    wide,
};

/// Condition of a breakpoint: execution.
const EXECUTE: u64 = 0;
/// Writes.
const WRITE: u64 = 1;
/// Port accesses.
const IO: u64 = 2;

/// Enabled breakpoints whose condition `wanted` accepts and which overlap `len` bytes at `at`.
fn hits(s: &Cpu, at: u64, len: u64, wanted: impl Fn(u64) -> bool) -> u64 {
    let mut hit = 0;
    for n in 0..4 {
        let enabled = s.dr7 >> (2 * n) & 3 != 0;
        let condition = s.dr7 >> (16 + 4 * n) & 3;
        // Lengths 1, 2, 8, 4 bytes.
        let size = [1, 2, 8, 4][(s.dr7 >> (18 + 4 * n) & 3) as usize];
        let from = s.dr[n] & !(size - 1);
        if enabled && wanted(condition) && at < from.wrapping_add(size) && from < at.wrapping_add(len) {
            hit |= 1 << n;
        }
    }
    hit
}

/// Data breakpoints that an access of `len` bytes at `at` hits.
pub(crate) fn data_hits(s: &Cpu, at: u64, len: u64, write: bool) -> u64 {
    hits(s, at, len, |c| c == 3 || write && c == WRITE)
}

/// What is reported behind an instruction: a single step if TF was set before it, and data breakpoints it has hit.
pub(crate) fn step_trap(s: &mut Cpu, single_step: bool) -> Option<Trap> {
    let value = std::mem::take(&mut s.dr_hit) | if single_step { DR6_BS } else { 0 };
    (value != 0).then_some(Trap { code: u64::from(vector::DB), value })
}

/// MOV to DR6 or DR7 keeps the bits that are fixed.
pub(crate) fn write(s: &mut Cpu, n: usize, value: u64) {
    match n {
        0..=3 => s.dr[n] = value,
        4 | 6 => s.dr6 = value & 0xe00f | 0xffff_0ff0,
        _ => s.dr7 = value & 0xffff_2bff | 0x400,
    }
}

helpers! {
    base wide::FIRST + wide::COUNT;

    /// Instruction breakpoints at `pc`; RF shields one instruction.
    FetchBreak "debug_fetch" (pc) -> Void
        reads SYS, writes SYS, effects RAISES;
        |cx| {
            let s = &mut *cx.state;
            if s.sys & flags::RF != 0 {
                s.sys &= !flags::RF;
                return Ok(0);
            }
            match hits(s, pc, 1, |c| c == EXECUTE) {
                0 => Ok(0),
                value => Err(Trap { code: u64::from(vector::DB), value }),
            }
        }

    /// Data breakpoints: `how` is bytes and "is a write".
    DataWatch "debug_data" (at, how) -> Void
        reads SlotSet::None, writes SlotSet::None, effects Effects::empty();
        |cx| {
            let write = how & 1 != 0;
            let hit = data_hits(cx.state, at, how >> 1, write);
            cx.state.dr_hit |= hit;
            Ok(0)
        }

    /// Port breakpoints: `how` is bytes.
    PortAccess "debug_port" (port, how) -> Void
        reads SlotSet::None, writes SlotSet::None, effects Effects::empty();
        |cx| {
            let hit = hits(cx.state, port, how, |c| c == IO);
            cx.state.dr_hit |= hit;
            Ok(0)
        }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn breakpoints_overlap() {
        let model = crate::Model::new(&accel::CpuModel::default(), Default::default()).unwrap();
        let mut s = crate::snapshot::reset(&model, 0);
        s.dr = [0x1004, 0x2000, 0, 0];
        // 0: write, 4 bytes, local; 1: execution.
        write(&mut s, 7, 1 | 1 << 2 | 0b1101 << 16);
        assert_eq!(hits(&s, 0x1007, 1, |c| c == WRITE), 1);
        assert_eq!(hits(&s, 0x1000, 4, |c| c == WRITE), 0);
        assert_eq!(hits(&s, 0x2000, 1, |c| c == EXECUTE), 2);
        assert_eq!(step_trap(&mut s, false), None);
        assert_eq!(s.dr7, 0x000d_0405);
    }
}

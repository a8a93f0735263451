//! Unprivileged CSRs: floating point (inline in translation, here for debuggers) and counters.

use tcg_ir::Exceptions;

use super::{C, Row, When, ignore, row, zero};
use crate::{
    cpu::Ext,
    interrupts,
    state::{M, U, status},
};

const F: When = When::With(Ext::F);

pub(super) const ROWS: &[Row] = &[
    row(0x001, "fflags", F, |c, _| fflags(c), |c, _, v| set_fflags(c, v)).open(fs_on),
    row(0x002, "frm", F, |c, _| c.state.frm, |c, _, v| c.state.frm = v & 7).open(fs_on),
    row(
        0x003,
        "fcsr",
        F,
        |c, _| fflags(c) | c.state.frm << 5,
        |c, _, v| {
            set_fflags(c, v);
            c.state.frm = v >> 5 & 7;
        },
    )
    .open(fs_on),
    row(0xc00, "cycle", When::With(Ext::ZICNTR), |c, _| cycle(c), ignore).open(|c, _| counter_open(c, 0)),
    row(0xc01, "time", When::With(Ext::ZICNTR), |c, _| interrupts::time(c), ignore)
        .open(|c, _| counter_open(c, 1)),
    row(0xc02, "instret", When::With(Ext::ZICNTR), |c, _| instret(c), ignore).open(|c, _| counter_open(c, 2)),
    row(0xc03, "hpmcounter*", When::With(Ext::ZIHPM), zero, ignore)
        .many(29)
        .open(|c, n| counter_open(c, n + 3)),
    row(0xc80, "cycleh", When::High(Ext::ZICNTR), |c, _| cycle(c) >> 32, ignore)
        .open(|c, _| counter_open(c, 0)),
    row(0xc81, "timeh", When::High(Ext::ZICNTR), |c, _| interrupts::time(c) >> 32, ignore)
        .open(|c, _| counter_open(c, 1)),
    row(0xc82, "instreth", When::High(Ext::ZICNTR), |c, _| instret(c) >> 32, ignore)
        .open(|c, _| counter_open(c, 2)),
    row(0xc83, "hpmcounter*h", When::High(Ext::ZIHPM), zero, ignore)
        .many(29)
        .open(|c, n| counter_open(c, n + 3)),
];

fn fs_on(c: C<'_, '_>, _: usize) -> bool {
    c.state.mstatus & status::FS != 0
}

/// True if the levels above let this one read counter `n`.
fn counter_open(c: C<'_, '_>, n: usize) -> bool {
    let s = c.guest().cpu().ext.has(Ext::S);
    match c.state.privilege {
        M => true,
        U if s => c.state.mcounteren >> n & c.state.scounteren >> n & 1 != 0,
        _ => c.state.mcounteren >> n & 1 != 0,
    }
}

/// `fflags` from the sticky exceptions.
pub(crate) fn fflags_from(e: Exceptions) -> u64 {
    let bit = |x: Exceptions, to: u32| u64::from(e.contains(x)) << to;
    bit(Exceptions::INEXACT, 0)
        | bit(Exceptions::UNDERFLOW, 1)
        | bit(Exceptions::OVERFLOW, 2)
        | bit(Exceptions::DIV_BY_ZERO, 3)
        | bit(Exceptions::INVALID, 4)
}

/// The sticky exceptions of an `fflags` value.
pub(crate) fn fflags_to(v: u64) -> Exceptions {
    let mut e = Exceptions::empty();
    e.set(Exceptions::INEXACT, v & 1 != 0);
    e.set(Exceptions::UNDERFLOW, v & 2 != 0);
    e.set(Exceptions::OVERFLOW, v & 4 != 0);
    e.set(Exceptions::DIV_BY_ZERO, v & 8 != 0);
    e.set(Exceptions::INVALID, v & 16 != 0);
    e
}

fn fflags(c: C<'_, '_>) -> u64 {
    fflags_from(c.exceptions())
}

fn set_fflags(c: C<'_, '_>, v: u64) {
    c.set_exceptions(fflags_to(v));
}

/// What the free-running counters count: nanoseconds of the machine's clock, a hart of 1 GHz and one instruction a
/// cycle.
fn ticks(c: C<'_, '_>) -> u64 {
    c.now_ns()
}

/// `mcycle`.
pub(super) fn cycle(c: C<'_, '_>) -> u64 {
    let run = if c.state.mcountinhibit & 1 == 0 { ticks(c) } else { 0 };
    c.state.cycle_base.wrapping_add(run)
}

/// `minstret`.
pub(super) fn instret(c: C<'_, '_>) -> u64 {
    let run = if c.state.mcountinhibit & 4 == 0 { ticks(c) } else { 0 };
    c.state.instret_base.wrapping_add(run)
}

pub(super) fn set_cycle(c: C<'_, '_>, v: u64) {
    let run = if c.state.mcountinhibit & 1 == 0 { ticks(c) } else { 0 };
    c.state.cycle_base = v.wrapping_sub(run);
}

pub(super) fn set_instret(c: C<'_, '_>, v: u64) {
    let run = if c.state.mcountinhibit & 4 == 0 { ticks(c) } else { 0 };
    c.state.instret_base = v.wrapping_sub(run);
}

/// `mcycle` and `minstret` for saving.
pub(crate) fn counters(c: C<'_, '_>) -> (u64, u64) {
    (cycle(c), instret(c))
}

/// Restores both.
pub(crate) fn set_counters(c: C<'_, '_>, mcycle: u64, minstret: u64) {
    set_cycle(c, mcycle);
    set_instret(c, minstret);
}

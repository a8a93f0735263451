//! Machine CSRs, PMP and debug triggers.

use super::{C, Row, When, field, ignore, row, user, with_sd, zero};
use crate::{
    cpu::Ext,
    guest, interrupts, mmu, pmp,
    state::{S, status},
    triggers,
};

const M: When = When::Always;
const SDTRIG: When = When::With(Ext::SDTRIG);
const HIGH: When = When::High(Ext::NONE);
pub(super) const MIP: u16 = 0x344;

/// Exceptions that can be delegated: all but ecall from M.
const MEDELEG: u64 = 0xb3ff;
/// ADUE, PBMTE, STCE; the rest is [`super::envcfg`].
const MENVCFG: u64 = mmu::ADUE | mmu::PBMTE | interrupts::STCE;

pub(super) const ROWS: &[Row] = &[
    row(0x300, "mstatus", M, |c, _| with_sd(c.guest().cpu(), c.state, c.state.mstatus), set_mstatus),
    row(0x301, "misa", M, |c, _| c.guest().cpu().misa(), ignore),
    row(
        0x302,
        "medeleg",
        When::With(Ext::S),
        |c, _| c.state.medeleg,
        |c, _, v| c.state.medeleg = v & MEDELEG,
    ),
    row(
        0x303,
        "mideleg",
        When::With(Ext::S),
        |c, _| c.state.mideleg,
        |c, _, v| {
            c.state.mideleg = v & interrupts::OF_S;
        },
    ),
    row(0x304, "mie", M, |c, _| c.state.mie, |c, _, v| c.state.mie = v & interrupts(c)),
    row(0x305, "mtvec", M, |c, _| c.state.mtvec, |c, _, v| c.state.mtvec = v & !2),
    row(
        0x306,
        "mcounteren",
        When::With(Ext::U),
        |c, _| c.state.mcounteren,
        |c, _, v| {
            c.state.mcounteren = v & 0xffff_ffff;
        },
    ),
    row(
        0x30a,
        "menvcfg",
        When::With(Ext::U),
        |c, _| c.state.menvcfg,
        |c, _, v| {
            let keep = if c.guest().cpu().xlen == 32 { c.state.menvcfg & !0xffff_ffff } else { 0 };
            set_menvcfg(c, keep | v);
        },
    ),
    row(0x310, "mstatush", HIGH, zero, ignore),
    row(0x312, "medelegh", When::High(Ext::S), zero, ignore),
    row(
        0x31a,
        "menvcfgh",
        When::High(Ext::U),
        |c, _| c.state.menvcfg >> 32,
        |c, _, v| {
            let low = c.state.menvcfg & 0xffff_ffff;
            set_menvcfg(c, low | v << 32);
        },
    ),
    row(
        0x320,
        "mcountinhibit",
        M,
        |c, _| c.state.mcountinhibit,
        |c, _, v| {
            let (cycle, instret) = user::counters(c);
            c.state.mcountinhibit = v & 5;
            user::set_counters(c, cycle, instret);
        },
    ),
    row(0x323, "mhpmevent*", M, zero, ignore).many(29),
    field!(0x340, "mscratch", M, mscratch, u64::MAX),
    row(0x341, "mepc", M, |c, _| c.state.mepc, |c, _, v| c.state.mepc = v & guest::pc_mask(c.guest().cpu())),
    field!(0x342, "mcause", M, mcause, u64::MAX),
    field!(0x343, "mtval", M, mtval, u64::MAX),
    row(
        MIP,
        "mip",
        M,
        |c, _| interrupts::pending(c),
        |c, _, v| {
            let sstc = c.guest().cpu().ext.has(Ext::SSTC) && c.state.menvcfg & interrupts::STCE != 0;
            let mask =
                if sstc { interrupts::SSI | interrupts::SEI } else { interrupts::OF_S } & interrupts(c);
            c.state.mip = c.state.mip & !mask | v & mask;
        },
    ),
    row(0x3a0, "pmpcfg*", M, pmpcfg, set_pmpcfg).many(16).open(|c, n| {
        let cpu = c.guest().cpu();
        n * 4 < cpu.pmp && (cpu.xlen == 32 || n % 2 == 0)
    }),
    row(
        0x3b0,
        "pmpaddr*",
        M,
        |c, n| c.state.pmpaddr[n],
        |c, n, v| {
            pmp::write_addr(c.state, n, v);
            c.flush_tlb(None, |_| true);
        },
    )
    .many(64)
    .open(|c, n| n < c.guest().cpu().pmp),
    field!(0x7a0, "tselect", SDTRIG, tselect, 3),
    row(
        0x7a1,
        "tdata1",
        SDTRIG,
        |c, _| triggers::read_data1(c.guest().cpu(), &c.state.triggers[selected(c)]),
        |c, _, v| {
            let n = selected(c);
            triggers::write_data1(c.guest().cpu(), &mut c.state.triggers[n], v);
        },
    ),
    row(
        0x7a2,
        "tdata2",
        SDTRIG,
        |c, _| c.state.triggers[selected(c)].data2,
        |c, _, v| {
            let n = selected(c);
            c.state.triggers[n].data2 = v;
        },
    ),
    row(0x7a3, "tdata3", SDTRIG, zero, ignore),
    row(0x7a4, "tinfo", SDTRIG, |_, _| triggers::INFO, ignore),
    row(
        0xb00,
        "mcycle",
        M,
        |c, _| user::cycle(c),
        |c, _, v| {
            let v = low(c, v, user::cycle);
            user::set_cycle(c, v);
        },
    ),
    row(
        0xb02,
        "minstret",
        M,
        |c, _| user::instret(c),
        |c, _, v| {
            let v = low(c, v, user::instret);
            user::set_instret(c, v);
        },
    ),
    row(0xb03, "mhpmcounter*", M, zero, ignore).many(29),
    row(
        0xb80,
        "mcycleh",
        HIGH,
        |c, _| user::cycle(c) >> 32,
        |c, _, v| {
            let low = user::cycle(c) & 0xffff_ffff;
            user::set_cycle(c, v << 32 | low);
        },
    ),
    row(
        0xb82,
        "minstreth",
        HIGH,
        |c, _| user::instret(c) >> 32,
        |c, _, v| {
            let low = user::instret(c) & 0xffff_ffff;
            user::set_instret(c, v << 32 | low);
        },
    ),
    row(0xb83, "mhpmcounter*h", HIGH, zero, ignore).many(29),
    row(0xf11, "mvendorid", M, zero, ignore),
    row(0xf12, "marchid", M, zero, ignore),
    row(0xf13, "mimpid", M, zero, ignore),
    row(0xf14, "mhartid", M, |c, _| c.state.mhartid, ignore),
    row(0xf15, "mconfigptr", M, zero, ignore),
];

/// The interrupts that this hart has.
fn interrupts(c: C<'_, '_>) -> u64 {
    if c.guest().cpu().ext.has(Ext::S) { interrupts::ALL } else { interrupts::ALL & !interrupts::OF_S }
}

/// A write of the low half on RV32, of all on RV64.
fn low(c: C<'_, '_>, v: u64, read: fn(C<'_, '_>) -> u64) -> u64 {
    if c.guest().cpu().xlen == 32 { read(c) & !0xffff_ffff | v } else { v }
}

fn selected(c: C<'_, '_>) -> usize {
    (c.state.tselect as usize) % triggers::COUNT
}

/// `mstatus`: fields of what the hart lacks stay zero; MPP keeps its value when given one that does not exist.
pub(super) fn set_mstatus(c: C<'_, '_>, _: usize, v: u64) {
    let ext = c.guest().cpu().ext;
    let mut mask = status::MIE | status::MPIE;
    if ext.has(Ext::U) {
        mask |= status::MPRV | status::TW;
    }
    if ext.has(Ext::S) {
        mask |=
            status::SIE | status::SPIE | status::SPP | status::SUM | status::MXR | status::TVM | status::TSR;
    }
    if ext.has(Ext::F) || ext.has(Ext::S) {
        mask |= status::FS;
    }
    if ext.has(Ext::V) {
        mask |= status::VS;
    }
    let mpp = (v >> 11 & 3) as u8;
    let exists = match mpp {
        0 => ext.has(Ext::U),
        S => ext.has(Ext::S),
        3 => true,
        _ => false,
    };
    if exists {
        mask |= status::MPP;
    }
    c.state.mstatus = c.state.mstatus & !mask | v & mask;
}

fn set_menvcfg(c: C<'_, '_>, v: u64) {
    let ext = c.guest().cpu().ext;
    let mut mask = MENVCFG | super::envcfg(ext);
    for (bit, needs) in [(mmu::ADUE, Ext::SVADU), (mmu::PBMTE, Ext::SVPBMT), (interrupts::STCE, Ext::SSTC)] {
        if !ext.has(needs) {
            mask &= !bit;
        }
    }
    let changed = (c.state.menvcfg ^ v) & mask;
    c.state.menvcfg = v & mask;
    if changed & (mmu::ADUE | mmu::PBMTE) != 0 {
        c.flush_tlb(None, |_| true);
    }
    interrupts::arm(c);
}

fn pmpcfg(c: C<'_, '_>, n: usize) -> u64 {
    let bytes = (c.guest().cpu().xlen / 8) as usize;
    (0..bytes).map(|i| u64::from(c.state.pmpcfg[n * 4 + i]) << (8 * i)).fold(0, |a, b| a | b)
}

fn set_pmpcfg(c: C<'_, '_>, n: usize, v: u64) {
    let bytes = (c.guest().cpu().xlen / 8) as usize;
    for i in 0..bytes {
        pmp::write_cfg(c.state, n * 4 + i, (v >> (8 * i)) as u8);
    }
    c.flush_tlb(None, |_| true);
}

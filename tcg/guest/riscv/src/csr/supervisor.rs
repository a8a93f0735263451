//! Supervisor CSRs.

use super::{C, Row, When, field, row, with_sd};
use crate::{
    cpu::Ext,
    guest, interrupts, mmu,
    state::{M, S, status},
};

const SUP: When = When::With(Ext::S);
pub(super) const SIP: u16 = 0x144;

pub(super) const ROWS: &[Row] = &[
    row(0x100, "sstatus", SUP, |c, _| sstatus(c), |c, _, v| set_sstatus(c, v)),
    row(
        0x104,
        "sie",
        SUP,
        |c, _| c.state.mie & c.state.mideleg,
        |c, _, v| {
            let mask = c.state.mideleg & interrupts::OF_S;
            c.state.mie = c.state.mie & !mask | v & mask;
        },
    ),
    row(0x105, "stvec", SUP, |c, _| c.state.stvec, |c, _, v| c.state.stvec = v & !2),
    row(0x106, "scounteren", SUP, |c, _| c.state.scounteren, |c, _, v| c.state.scounteren = v & 0xffff_ffff),
    row(
        0x10a,
        "senvcfg",
        SUP,
        |c, _| c.state.senvcfg,
        |c, _, v| c.state.senvcfg = v & super::envcfg(c.guest().cpu().ext),
    ),
    field!(0x140, "sscratch", SUP, sscratch, u64::MAX),
    row(
        0x141,
        "sepc",
        SUP,
        |c, _| c.state.sepc,
        |c, _, v| c.state.sepc = v & guest::pc_mask(c.guest().cpu()),
    ),
    field!(0x142, "scause", SUP, scause, u64::MAX),
    field!(0x143, "stval", SUP, stval, u64::MAX),
    row(
        SIP,
        "sip",
        SUP,
        |c, _| interrupts::pending(c) & c.state.mideleg,
        |c, _, v| {
            let mask = c.state.mideleg & interrupts::SSI;
            c.state.mip = c.state.mip & !mask | v & mask;
        },
    ),
    row(
        0x14d,
        "stimecmp",
        When::With(Ext::SSTC),
        |c, _| c.state.stimecmp,
        |c, _, v| {
            let high = if c.guest().cpu().xlen == 32 { c.state.stimecmp & !0xffff_ffff } else { 0 };
            c.state.stimecmp = high | v;
            interrupts::arm(c);
        },
    )
    .open(stimecmp_open),
    row(
        0x15d,
        "stimecmph",
        When::High(Ext::SSTC),
        |c, _| c.state.stimecmp >> 32,
        |c, _, v| {
            c.state.stimecmp = c.state.stimecmp & 0xffff_ffff | v << 32;
            interrupts::arm(c);
        },
    )
    .open(stimecmp_open),
    row(0x180, "satp", SUP, |c, _| c.state.satp, |c, _, v| set_satp(c, v))
        .open(|c, _| c.state.privilege == M || c.state.mstatus & status::TVM == 0),
];

/// Fields of mstatus that S sees.
const SSTATUS: u64 = status::SIE
    | status::SPIE
    | status::SPP
    | status::VS
    | status::FS
    | status::SUM
    | status::MXR
    | status::UXL;

fn sstatus(c: C<'_, '_>) -> u64 {
    with_sd(c.guest().cpu(), c.state, c.state.mstatus & SSTATUS)
}

fn set_sstatus(c: C<'_, '_>, v: u64) {
    let merged = c.state.mstatus & !SSTATUS | v & SSTATUS;
    super::machine::set_mstatus(c, 0, merged);
}

fn stimecmp_open(c: C<'_, '_>, _: usize) -> bool {
    c.state.privilege == M
        || c.state.privilege == S && c.state.menvcfg & interrupts::STCE != 0 && c.state.mcounteren & 2 != 0
}

/// A value whose mode does not exist changes nothing. The engine keeps translations by the whole of satp, so none is
/// stale by a switch alone, but for those all spaces share, which other modes do not have.
fn set_satp(c: C<'_, '_>, v: u64) {
    let cpu = c.guest().cpu();
    if mmu::mode_exists(cpu, v) {
        let mode = if cpu.xlen == 32 { 31 } else { 60 };
        if (c.state.satp ^ v) >> mode != 0 {
            c.flush_tlb(None, |tag| tag == u64::MAX);
        }
        c.state.satp = v;
        c.set_space(v);
    }
}

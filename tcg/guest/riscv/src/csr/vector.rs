//! CSRs of V (volume I, chapter "V", section 3). All are open while `mstatus.VS` is not off.

use super::{C, Row, When, ignore, row};
use crate::{
    cpu::Ext,
    state::status,
    vector::{VCSR, VILL, VL, VSTART, VTYPE},
};

const V: When = When::With(Ext::V);

pub(super) const ROWS: &[Row] = &[
    row(0x008, "vstart", V, |c, _| c.state.vcsrs[VSTART], set_vstart).open(vs_on),
    row(0x009, "vxsat", V, |c, _| c.state.vcsrs[VCSR] & 1, |c, _, v| set_vcsr(c, 1, v)).open(vs_on),
    row(0x00a, "vxrm", V, |c, _| c.state.vcsrs[VCSR] >> 1, |c, _, v| set_vcsr(c, 6, v << 1)).open(vs_on),
    row(0x00f, "vcsr", V, |c, _| c.state.vcsrs[VCSR], |c, _, v| set_vcsr(c, 7, v)).open(vs_on),
    row(0xc20, "vl", V, |c, _| c.state.vcsrs[VL], ignore).open(vs_on),
    row(0xc21, "vtype", V, |c, _| vtype(c), ignore).open(vs_on),
    row(0xc22, "vlenb", V, |c, _| c.guest().cpu().vlenb.into(), ignore).open(vs_on),
];

fn vs_on(c: C<'_, '_>, _: usize) -> bool {
    c.state.mstatus & status::VS != 0
}

/// vill is the top bit of either width.
fn vtype(c: C<'_, '_>) -> u64 {
    match c.state.vcsrs[VTYPE] {
        v if v & VILL != 0 => 1 << (c.guest().cpu().xlen - 1),
        v => v,
    }
}

/// As wide as the largest element number.
fn set_vstart(c: C<'_, '_>, _: usize, v: u64) {
    c.state.vcsrs[VSTART] = v & (u64::from(c.guest().cpu().vlenb) * 8 - 1);
    c.state.mstatus |= status::VS;
}

fn set_vcsr(c: C<'_, '_>, mask: u64, v: u64) {
    let old = c.state.vcsrs[VCSR];
    c.state.vcsrs[VCSR] = old & !mask | v & mask;
    c.state.mstatus |= status::VS;
}

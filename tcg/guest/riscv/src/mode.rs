//! The mode bits of a unit's key: all state, besides the code, that translation looks at.
//!
//! Bits: 0-1 privilege, 2 FS is not off, 3-5 frm, 6-9 MMU index of loads and stores, 10 triggers are armed, 11 VS is not
//! off, 12-18 a [`Known`] vector state, or 0, 19 reservations are watched.

use tcg_ir::Rounding;

use crate::{
    cpu::{Cpu, Ext},
    state::{Hart, M, S, U, status},
    triggers, vector,
};

/// MMU index of accesses without translation.
pub const MMU_BARE: usize = 3;

/// MMU index of accesses at `privilege`: 0 U, 1 S, 2 S with SUM, 3 M; plus 4 with MXR.
#[must_use]
pub const fn mmu_index(privilege: u8, mstatus: u64) -> usize {
    let base = match privilege {
        U => 0,
        M => return MMU_BARE,
        _ if mstatus & status::SUM != 0 => 2,
        _ => 1,
    };
    if mstatus & status::MXR != 0 { base + 4 } else { base }
}

/// Privilege, SUM and MXR of an MMU index.
#[must_use]
pub const fn mmu_rights(index: usize) -> (u8, bool, bool) {
    match index & 3 {
        0 => (U, false, index & 4 != 0),
        1 => (S, false, index & 4 != 0),
        2 => (S, true, index & 4 != 0),
        _ => (M, false, false),
    }
}

/// A vector state with a valid `vtype`, `vstart` 0 and VS not off. Nothing is known of any other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Known {
    /// log2 of SEW's bytes.
    pub sew: u32,
    /// log2 of LMUL, -3 to 3.
    pub lmul: i32,
    /// `vl` is VLMAX. It is less otherwise.
    pub full: bool,
}

impl Known {
    /// Packed in 7 bits; not 0.
    #[must_use]
    pub const fn pack(self) -> u8 {
        (if self.full { 0x60 } else { 0x20 }) | (self.sew as u8 & 3) << 3 | self.lmul as u8 & 7
    }

    /// Unpacked; `None` for 0.
    #[must_use]
    pub const fn unpack(bits: u8) -> Option<Self> {
        if bits & 0x20 == 0 {
            return None;
        }
        let lmul = (bits & 7) as i32;
        let lmul = if lmul < 4 { lmul } else { lmul - 8 };
        Some(Self { sew: (bits >> 3 & 3) as u32, lmul, full: bits & 0x40 != 0 })
    }

    /// The state of a hart, packed; 0 if it is another.
    fn of(cpu: &Cpu, hart: &Hart) -> u8 {
        let vtype = hart.vcsrs[vector::VTYPE];
        if hart.vcsrs[vector::VSTART] != 0 || !vector::legal(vtype) {
            return 0;
        }
        let (sew, lmul) = vector::shape(vtype);
        let full = hart.vcsrs[vector::VL] == vector::vlmax(cpu.vlenb, vtype);
        Self { sew: sew as u32, lmul, full }.pack()
    }
}

/// Decoded mode bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mode {
    /// Privilege.
    pub privilege: u8,
    /// Floating point is on.
    pub fs: bool,
    /// `frm`.
    pub frm: u8,
    /// MMU index of loads and stores.
    pub mmu: usize,
    /// Debug triggers must be checked.
    pub triggers: bool,
    /// Vectors are on.
    pub vs: bool,
    /// A packed [`Known`] vector state, or 0.
    pub vector: u8,
    /// Reservations are watched (`monitor`).
    pub parallel: bool,
}

impl Mode {
    /// The mode of a hart.
    #[must_use]
    pub fn of(cpu: &Cpu, hart: &Hart) -> Self {
        let vs = cpu.ext.has(Ext::V) && hart.mstatus & status::VS != 0;
        Self {
            privilege: hart.privilege,
            fs: hart.mstatus & status::FS != 0,
            frm: (hart.frm & 7) as u8,
            mmu: mmu_index(hart.data_privilege(), hart.mstatus),
            triggers: triggers::armed(cpu, hart),
            vs,
            vector: if vs { Known::of(cpu, hart) } else { 0 },
            parallel: hart.parallel,
        }
    }

    /// Packed.
    #[must_use]
    pub const fn bits(self) -> u64 {
        self.privilege as u64
            | (self.fs as u64) << 2
            | (self.frm as u64) << 3
            | (self.mmu as u64) << 6
            | (self.triggers as u64) << 10
            | (self.vs as u64) << 11
            | (self.vector as u64) << 12
            | (self.parallel as u64) << 19
    }

    /// Unpacked.
    #[must_use]
    pub const fn from_bits(bits: u64) -> Self {
        Self {
            privilege: (bits & 3) as u8,
            fs: bits >> 2 & 1 != 0,
            frm: (bits >> 3 & 7) as u8,
            mmu: (bits >> 6 & 15) as usize,
            triggers: bits >> 10 & 1 != 0,
            vs: bits >> 11 & 1 != 0,
            vector: (bits >> 12 & 0x7f) as u8,
            parallel: bits >> 19 & 1 != 0,
        }
    }
}

/// The IR's rounding for `rm` or `frm`; `None` for the reserved values.
#[must_use]
pub const fn rounding(rm: u8) -> Option<Rounding> {
    match rm {
        0 => Some(Rounding::NearestEven),
        1 => Some(Rounding::Zero),
        2 => Some(Rounding::Down),
        3 => Some(Rounding::Up),
        4 => Some(Rounding::NearestAway),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bits_round_trip() {
        let state = Known { sew: 3, lmul: -3, full: true };
        let vector = state.pack();
        assert_eq!(Known::unpack(vector), Some(state));
        assert_eq!(Known::unpack(0), None);
        let mode =
            Mode { privilege: 1, fs: true, frm: 4, mmu: 6, triggers: true, vs: true, vector, parallel: true };
        assert_eq!(Mode::from_bits(mode.bits()), mode);
        assert_eq!(mmu_rights(mmu_index(S, status::SUM | status::MXR)), (S, true, true));
        assert_eq!(mmu_index(M, status::MXR), MMU_BARE);
    }
}

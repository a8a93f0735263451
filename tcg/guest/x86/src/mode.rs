//! The mode bits of a unit's key: all state, besides the code, that translation looks at.
//!
//! Below 64-bit mode the base of CS is part of the key, so that every instruction pointer is a constant. A base that
//! real mode can have takes 16 bits; any other one takes the room of the classes of the data segments, which then
//! count as segments with every check.

use tcg_ir::Rounding;

use crate::{
    control::{CR0_EM, CR0_MP, CR0_TS, CR4_OSFXSR, CR4_OSXSAVE, CR4_SMAP},
    flags,
    segment::{self, Class},
    state::{Cpu, seg},
};

/// MMU index of user accesses.
pub const MMU_USER: usize = 0;
/// MMU index of supervisor accesses that may reach user pages.
pub const MMU_KERNEL: usize = 1;
/// MMU index of supervisor accesses under SMAP.
pub const MMU_SMAP: usize = 2;

/// Decoded mode bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mode {
    /// 64-bit mode.
    pub code64: bool,
    /// CS.D: operands and addresses are 32 bits wide by default.
    pub code32: bool,
    /// SS.B: ESP, not SP.
    pub stack32: bool,
    /// Protected mode, virtual-8086 mode included.
    pub protected: bool,
    /// Virtual-8086 mode.
    pub vm86: bool,
    /// Privilege level.
    pub cpl: u8,
    /// The privilege level is within IOPL.
    pub io_ok: bool,
    /// MMU index of loads and stores.
    pub mmu: usize,
    /// Trap behind each instruction.
    pub tf: bool,
    /// The first instruction is shielded from interrupts.
    pub shadow: bool,
    /// Breakpoints in debug registers are on.
    pub debug: bool,
    /// CR0.EM.
    pub em: bool,
    /// CR0.TS.
    pub ts: bool,
    /// CR0.MP.
    pub mp: bool,
    /// SSE is on (CR4.OSFXSR).
    pub sse: bool,
    /// AVX is on (CR4.OSXSAVE and XCR0).
    pub avx: bool,
    /// AVX-512 is on (CR4.OSXSAVE and XCR0).
    pub avx512: bool,
    /// Some vector register may hold something above bit 255.
    pub high: bool,
    /// In a guest of the guest's own: instructions may be intercepted.
    pub guest: bool,
    /// XSAVE and XGETBV are on.
    pub osxsave: bool,
    /// MXCSR bits 13-15 and 6 (RC, FZ, DAZ): RC in bits 0-1, FZ 2, DAZ 3.
    pub mxcsr: u8,
    /// Some exception of MXCSR is unmasked.
    pub unmasked: bool,
    /// Classes of the data segments; all flat in 64-bit mode, where they do not matter.
    pub segs: [Class; 6],
    /// Base of CS; 0 in 64-bit mode.
    pub cs_base: u32,
}

const ODD: u64 = 1 << 26;

impl Mode {
    /// The mode of a vCPU.
    #[must_use]
    pub fn of(s: &Cpu) -> Self {
        let code64 = s.code64();
        let cs = s.seg_access[seg::CS];
        let (rc, fz, daz) = (s.mxcsr >> 13 & 3, s.mxcsr >> 15 & 1, s.mxcsr >> 6 & 1);
        let mut segs = [Class::Flat; 6];
        let mut cs_base = 0;
        if !code64 {
            for (n, c) in segs.iter_mut().enumerate() {
                *c = segment::class(s, n);
            }
            cs_base = s.seg_base[seg::CS] as u32;
            if cs_base & !0xf_fff0 != 0 {
                for n in [seg::ES, seg::SS, seg::DS, seg::FS, seg::GS] {
                    segs[n] = Class::Checked;
                }
            }
        }
        Self {
            code64,
            code32: !code64 && cs & segment::DB != 0,
            stack32: code64 || s.seg_access[seg::SS] & segment::DB != 0,
            protected: s.protected(),
            vm86: s.vm86(),
            cpl: s.cpl,
            io_ok: s.cpl <= s.iopl(),
            mmu: data_mmu(s),
            tf: s.sys & flags::TF != 0,
            shadow: s.shadow != 0,
            debug: s.dr7 & 0xff != 0,
            em: s.cr0 & CR0_EM != 0,
            ts: s.cr0 & CR0_TS != 0,
            mp: s.cr0 & CR0_MP != 0,
            sse: s.cr4 & CR4_OSFXSR != 0,
            avx: s.cr4 & CR4_OSXSAVE != 0 && s.xcr0 & 6 == 6,
            avx512: s.cr4 & CR4_OSXSAVE != 0 && s.xcr0 & 0xe6 == 0xe6,
            high: s.high != 0,
            guest: s.svm.guest,
            osxsave: s.cr4 & CR4_OSXSAVE != 0,
            mxcsr: (rc | fz << 2 | daz << 3) as u8,
            unmasked: s.mxcsr & 0x1f80 != 0x1f80,
            segs,
            cs_base,
        }
    }

    /// Packed.
    #[must_use]
    pub const fn bits(self) -> u64 {
        let common = self.code64 as u64
            | (self.code32 as u64) << 1
            | (self.stack32 as u64) << 2
            | (self.protected as u64) << 3
            | (self.vm86 as u64) << 4
            | (self.cpl as u64) << 5
            | (self.io_ok as u64) << 7
            | (self.mmu as u64) << 8
            | (self.tf as u64) << 10
            | (self.shadow as u64) << 11
            | (self.debug as u64) << 12
            | (self.em as u64) << 13
            | (self.ts as u64) << 14
            | (self.mp as u64) << 15
            | (self.sse as u64) << 16
            | (self.avx as u64) << 17
            | (self.osxsave as u64) << 18
            | (self.mxcsr as u64) << 19
            | (self.unmasked as u64) << 23
            | (self.segs[seg::CS] as u64) << 24
            | (self.avx512 as u64) << 59
            | (self.high as u64) << 60
            | (self.guest as u64) << 61;
        if self.cs_base & !0xf_fff0 != 0 {
            return common | ODD | (self.cs_base as u64) << 27;
        }
        let s = &self.segs;
        common
            | (s[seg::ES] as u64) << 27
            | (s[seg::SS] as u64) << 29
            | (s[seg::DS] as u64) << 31
            | (s[seg::FS] as u64) << 33
            | (s[seg::GS] as u64) << 35
            | ((self.cs_base >> 4) as u64) << 37
    }

    /// Unpacked.
    #[must_use]
    pub fn from_bits(bits: u64) -> Self {
        let bit = |n: u32| bits >> n & 1 != 0;
        let class = |n: u32| Class::from_bits((bits >> n) as u8);
        let odd = bits & ODD != 0;
        let data = |n: u32| if odd { Class::Checked } else { Class::from_bits((bits >> n) as u8) };
        Self {
            code64: bit(0),
            code32: bit(1),
            stack32: bit(2),
            protected: bit(3),
            vm86: bit(4),
            cpl: (bits >> 5 & 3) as u8,
            io_ok: bit(7),
            mmu: (bits >> 8 & 3) as usize,
            tf: bit(10),
            shadow: bit(11),
            debug: bit(12),
            em: bit(13),
            ts: bit(14),
            mp: bit(15),
            sse: bit(16),
            avx: bit(17),
            avx512: bit(59),
            high: bit(60),
            guest: bit(61),
            osxsave: bit(18),
            mxcsr: (bits >> 19 & 15) as u8,
            unmasked: bit(23),
            segs: [data(27), class(24), data(29), data(31), data(33), data(35)],
            cs_base: if odd { (bits >> 27) as u32 } else { (bits >> 37 & 0xffff) as u32 * 16 },
        }
    }

    /// SSE rounding, which is what units run under.
    #[must_use]
    pub const fn rounding(self) -> Rounding {
        match self.mxcsr & 3 {
            1 => Rounding::Down,
            2 => Rounding::Up,
            3 => Rounding::Zero,
            _ => Rounding::NearestEven,
        }
    }

    /// Width of the code segment.
    #[must_use]
    pub const fn bitness(self) -> u32 {
        match (self.code64, self.code32) {
            (true, _) => 64,
            (_, true) => 32,
            _ => 16,
        }
    }
}

/// MMU index of loads and stores.
#[must_use]
pub const fn data_mmu(s: &Cpu) -> usize {
    if s.cpl == 3 {
        MMU_USER
    } else if s.cr4 & CR4_SMAP != 0 && s.sys & flags::AC == 0 {
        MMU_SMAP
    } else {
        MMU_KERNEL
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bits_round_trip() {
        let base = Mode::from_bits(0);
        let mut mode = Mode {
            protected: true,
            cpl: 2,
            mmu: 2,
            mxcsr: 9,
            unmasked: true,
            avx512: true,
            cs_base: 0xf_fff0,
            ..base
        };
        mode.segs = [Class::Based, Class::Checked, Class::Limited, Class::Flat, Class::Checked, Class::Based];
        assert_eq!(Mode::from_bits(mode.bits()), mode);
        mode.cs_base = 0xffff_0000;
        mode.segs = [Class::Checked; 6];
        assert_eq!(Mode::from_bits(mode.bits()), mode);
        assert_eq!(mode.bits() >> 63, 0);
    }
}

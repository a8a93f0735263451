//! Units that were made by an earlier process of the same build, for the same guest addresses: their code is put in place and
//! its relocations to what all units share are applied.

use super::{Compiler, Stub, outline, stubs};
use crate::{CodeSpace, CompileError, KeptUnit, RelocKind, Tier};

impl Compiler {
    /// Puts a kept unit's code and exit maps where they can run; host address of its entry. Its links leave.
    ///
    /// # Errors
    /// The space is full, or the unit is none ([`CompileError::TooLarge`]).
    pub fn install(&mut self, unit: &KeptUnit<'_>, key: u64, space: &CodeSpace) -> Result<u64, CompileError> {
        let jump = outline::jump();
        let fits = |offset: u32| (offset as usize).checked_add(4).is_some_and(|end| end <= unit.code.len());
        for r in unit.relocs {
            let known = match r.kind {
                RelocKind::Stub => (0..stubs::STUBS as i64).contains(&r.addend),
                RelocKind::Shared => outline::What(r.addend) == jump,
                RelocKind::Helper => (0..self.fx.helpers.len() as i64).contains(&r.addend),
                // The guest address is the same.
                RelocKind::Pc64 | RelocKind::Pc32 | RelocKind::PcS32 => true,
            };
            if !known || !fits(r.offset) {
                return Err(CompileError::TooLarge);
            }
        }
        let shared = if unit.relocs.iter().any(|r| r.kind == RelocKind::Shared) {
            self.shared.make(jump, key, &self.fx.stubs, space)?
        } else {
            self.fx.stubs.at[Stub::Miss as usize]
        };
        let align = if unit.tier == Tier::First { 8 } else { 32 };
        let len = unit.code.len();
        let offset = space.alloc(len + unit.maps.len(), align).ok_or(CompileError::Full)?;
        let entry = space.rx_base() + offset as u64;
        let code = &mut self.work.asm.buf;
        code.clear();
        code.extend_from_slice(unit.code);
        for r in unit.relocs {
            let target = match r.kind {
                RelocKind::Stub => self.fx.stubs.at[r.addend as usize],
                RelocKind::Shared => shared,
                RelocKind::Helper => self.fx.stubs.helpers + r.addend as u64 * 8,
                RelocKind::Pc64 | RelocKind::Pc32 | RelocKind::PcS32 => continue,
            };
            let at = r.offset as usize;
            let rel = target.wrapping_sub(entry + u64::from(r.offset) + 4) as u32;
            code[at..at + 4].copy_from_slice(&rel.to_le_bytes());
        }
        space.write(offset, code);
        space.write(offset + len, unit.maps);
        Ok(entry)
    }

    /// What of this host's processor decides about the code that is made.
    #[must_use]
    pub fn host_features() -> u64 {
        let all = [
            is_x86_feature_detected!("avx512f"),
            is_x86_feature_detected!("avx512bw"),
            is_x86_feature_detected!("avx512dq"),
            is_x86_feature_detected!("aes"),
            is_x86_feature_detected!("vaes"),
            is_x86_feature_detected!("pclmulqdq"),
            is_x86_feature_detected!("vpclmulqdq"),
            is_x86_feature_detected!("sha"),
            is_x86_feature_detected!("gfni"),
            super::alloc::avx512(),
        ];
        all.iter().enumerate().fold(0, |bits, (n, has)| bits | u64::from(*has) << n)
    }
}

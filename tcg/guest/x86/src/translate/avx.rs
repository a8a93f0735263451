//! AVX, AVX2, FMA, F16C (SDM volume 1, chapter 14).

use iced_x86::Mnemonic;

use super::Translator;

impl Translator<'_, '_> {
    /// Vector instructions with VEX.
    pub(super) fn avx(&mut self, _: Mnemonic) -> bool {
        false
    }
}

//! Bit and byte instructions, BMI (SDM volume 1, 7.3.7).

use iced_x86::Mnemonic;

use super::Translator;

impl Translator<'_, '_> {
    /// Instructions of this family.
    pub(super) fn bit(&mut self, _: Mnemonic) -> bool {
        false
    }
}

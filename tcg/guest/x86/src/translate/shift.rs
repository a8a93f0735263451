//! Shifts and rotations (SDM volume 1, 7.3.6).

use iced_x86::Mnemonic;

use super::Translator;

impl Translator<'_, '_> {
    /// Instructions of this family.
    pub(super) fn shift(&mut self, _: Mnemonic) -> bool {
        false
    }
}

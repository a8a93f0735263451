//! Control transfer (SDM volume 1, 7.3.8).

use iced_x86::Mnemonic;

use super::Translator;

impl Translator<'_, '_> {
    /// Instructions of this family.
    pub(super) fn control(&mut self, _: Mnemonic) -> bool {
        false
    }
}

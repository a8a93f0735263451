//! System instructions (SDM volume 3, 2.8).

use iced_x86::Mnemonic;

use super::Translator;

impl Translator<'_, '_> {
    /// Instructions of this family.
    pub(super) fn system(&mut self, _: Mnemonic) -> bool {
        false
    }
}

//! Binary and decimal arithmetic (SDM volume 1, 7.3.2 and 7.3.3).

use iced_x86::Mnemonic;

use super::Translator;

impl Translator<'_, '_> {
    /// Instructions of this family.
    pub(super) fn arith(&mut self, _: Mnemonic) -> bool {
        false
    }
}

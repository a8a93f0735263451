//! String operations and port string operations (SDM volume 1, 7.3.9).

use iced_x86::Mnemonic;

use super::Translator;

impl Translator<'_, '_> {
    /// Instructions of this family.
    pub(super) fn string(&mut self, _: Mnemonic) -> bool {
        false
    }
}

//! x87 (SDM volume 1, chapter 8).

use iced_x86::Mnemonic;

use super::Translator;

impl Translator<'_, '_> {
    /// x87 instructions.
    pub(super) fn x87(&mut self, _: Mnemonic) -> bool {
        false
    }
}

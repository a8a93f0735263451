//! Segment registers and far transfers (SDM volume 1, 7.3.15).

use iced_x86::Mnemonic;

use super::Translator;

impl Translator<'_, '_> {
    /// Instructions of this family.
    pub(super) fn segment(&mut self, _: Mnemonic) -> bool {
        false
    }
}

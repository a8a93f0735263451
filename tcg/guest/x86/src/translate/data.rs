//! Data movement: MOV to LEA, stack operations, exchanges (SDM volume 1, 7.3.1).

use iced_x86::Mnemonic;

use super::Translator;

impl Translator<'_, '_> {
    /// Instructions of this family.
    pub(super) fn data(&mut self, _: Mnemonic) -> bool {
        false
    }
}

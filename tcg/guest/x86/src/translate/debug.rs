//! Debug registers: checks that code carries while breakpoints are on. Units hold one instruction then.

use tcg_ir::{Type, Value};

use super::{Ea, Translator};
use crate::debug::{DataWatch, FetchBreak};

impl Translator<'_, '_> {
    /// Instruction breakpoints, before the instruction does anything.
    pub(super) fn check_instruction_breakpoints(&mut self) {
        let pc = self.b.pc(Type::I64, self.pc);
        self.call::<FetchBreak>(&[pc]);
    }

    /// Data breakpoints: a hit is a trap behind the instruction.
    pub(super) fn watch_data(&mut self, ea: Ea, bytes: u64, write: bool) -> Ea {
        let addr: Value = self.ea_value(&ea);
        let how = self.b.iconst(Type::I64, bytes << 1 | u64::from(write));
        self.call::<DataWatch>(&[addr, how]);
        Ea { addr, disp: 0 }
    }
}

//! SSE4.2's comparisons of strings (SDM volume 2, 4.1).

use iced_x86::Mnemonic;
use tcg_ir::{Lane, Type};

use super::super::Translator;
use crate::text::{CompareText, EXPLICIT, INDEX, VEX, WIDE};

impl Translator<'_, '_> {
    /// Instructions of this family.
    pub(super) fn sse_text(&mut self, m: Mnemonic) -> bool {
        use Mnemonic as M;
        let how = match m {
            M::Pcmpistri => INDEX,
            M::Pcmpistrm => 0,
            M::Pcmpestri => INDEX | EXPLICIT,
            M::Pcmpestrm => EXPLICIT,
            M::Pcmpestri64 => INDEX | EXPLICIT | WIDE,
            M::Pcmpestrm64 => EXPLICIT | WIDE,
            _ => return false,
        };
        if !self.sse_on() {
            return true;
        }
        let how = how | if self.is_vex() { VEX } else { 0 } | u64::from(self.insn.immediate8());
        // Of these only, memory need not be aligned.
        let b = if self.is_memory(1) {
            let ea = self.ea_sized(16, false);
            self.load(Type::V128, &ea)
        } else {
            self.read_v128(1)
        };
        let low = self.lane(Type::I64, Lane::I64, b, 0);
        let high = self.lane(Type::I64, Lane::I64, b, 1);
        let a = self.insn.op_register(0).number() as u64;
        let how = self.b.iconst(Type::I64, how | a << 16);
        let flags = self.call::<CompareText>(&[how, low, high]);
        self.set_flags_bits(flags);
        true
    }
}

//! SSE4A (AMD APM volume 4): fields of bits in the low half of a vector register, and scalar stores past the caches.

use iced_x86::Mnemonic;
use tcg_ir::{Lane, Type, Value};

use super::super::Translator;
use crate::sse::{ExtractField, InsertField};

impl Translator<'_, '_> {
    /// Instructions of this family.
    pub(super) fn sse_amd(&mut self, m: Mnemonic) -> bool {
        match m {
            Mnemonic::Extrq | Mnemonic::Insertq => {
                if self.sse_on() {
                    self.field(m == Mnemonic::Insertq);
                }
            }
            Mnemonic::Movntss => self.move_scalar(Lane::F32),
            Mnemonic::Movntsd => self.move_scalar(Lane::F64),
            _ => return false,
        }
        true
    }

    /// A word of vector register operand `n`.
    fn word(&mut self, n: u32, which: u64) -> Value {
        let v = self.xmm(self.insn.op_register(n).number());
        self.lane(Type::I64, Lane::I64, v, which)
    }

    /// Length and place of the field are immediates, or bytes of the source: of its low word, or of the high one where the low one is
    /// what is inserted.
    fn field(&mut self, insert: bool) {
        let operands = self.insn.op_count();
        let place = if operands > 2 {
            let place = u64::from(self.insn.immediate8()) | u64::from(self.insn.immediate8_2nd()) << 8;
            self.b.iconst(Type::I64, place)
        } else {
            self.word(1, insert.into())
        };
        let old = self.word(0, 0);
        let new = if insert {
            let field = self.word(1, 0);
            self.call::<InsertField>(&[old, field, place])
        } else {
            self.call::<ExtractField>(&[old, place])
        };
        let n = self.insn.op_register(0).number();
        let v = self.xmm(n);
        let v = self.with_lane(Lane::I64, v, 0, new);
        self.set_xmm(n, v);
    }
}

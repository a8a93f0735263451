//! Control of x87 and SSE: initialisation, control and status words (SDM volume 1, 8.1 and 10.2.3).

use iced_x86::Mnemonic;
use tcg_ir::{Type, Value};

use super::{Flow, Translator};
use crate::{
    exceptions::{self, vector},
    system::{FpuGet, FpuSet, fpu_word},
};

impl Translator<'_, '_> {
    /// Instructions of this family.
    pub(super) fn fpu_env(&mut self, m: Mnemonic) -> bool {
        use Mnemonic as M;
        match m {
            M::Fninit | M::Fnclex | M::Emms | M::Fnstcw | M::Fldcw | M::Fnstsw | M::Wait => {
                let wait = m == M::Wait;
                if self.mode.em && m == M::Emms {
                    self.undefined();
                    return true;
                }
                let off = if wait { self.mode.ts && self.mode.mp } else { self.mode.em || self.mode.ts };
                if off {
                    self.raise(exceptions::plain(vector::NM));
                    return true;
                }
            }
            M::Ldmxcsr | M::Stmxcsr => {
                if !self.sse_on() {
                    return true;
                }
            }
            _ => return false,
        }
        match m {
            M::Fninit => self.fpu_set(fpu_word::INIT, None),
            M::Fnclex => self.fpu_set(fpu_word::CLEAR, None),
            M::Emms => self.fpu_set(fpu_word::EMPTY, None),
            M::Wait => self.fpu_set(fpu_word::WAIT, None),
            M::Fnstcw => self.fpu_store(fpu_word::CONTROL, Type::I16),
            M::Fnstsw => self.fpu_store(fpu_word::STATUS, Type::I16),
            M::Stmxcsr => self.fpu_store(fpu_word::MXCSR, Type::I32),
            M::Fldcw => {
                let ea = self.ea_sized(2, false);
                let v = self.load(Type::I16, &ea);
                self.fpu_set(fpu_word::CONTROL, Some(v));
            }
            _ => {
                let ea = self.ea_sized(4, false);
                let v = self.load(Type::I32, &ea);
                self.fpu_set(fpu_word::MXCSR, Some(v));
                self.flow = Flow::NewKey;
            }
        }
        true
    }

    fn fpu_set(&mut self, word: u64, v: Option<Value>) {
        let word = self.b.iconst(Type::I64, word);
        let v = match v {
            Some(v) => self.b.zext(Type::I64, v),
            None => self.b.iconst(Type::I64, 0),
        };
        self.call::<FpuSet>(&[word, v]);
    }

    fn fpu_store(&mut self, word: u64, ty: Type) {
        let word = self.b.iconst(Type::I64, word);
        let v = self.call::<FpuGet>(&[word]);
        let v = self.b.trunc(ty, v);
        if self.is_memory(0) {
            let ea = self.ea_sized(ty.bytes() as u64, true);
            self.store(&ea, v);
        } else {
            self.set_gpr(0, v);
        }
    }
}

//! Whole lines of memory and stores past the caches (SDM volume 2, MOVDIRI, MOVDIR64B, SERIALIZE; AMD APM volume 3, CLZERO).

use iced_x86::{Code, Mnemonic, Register};
use tcg_ir::{Type, Value};

use super::{
    Flow, Translator,
    operand::{int, seg_number},
};
use crate::{
    state::seg,
    wide::{CopyLine, ZeroLine},
};

/// Bytes of a line.
const LINE: u64 = 64;

impl Translator<'_, '_> {
    /// Instructions of this family.
    pub(super) fn direct(&mut self, m: Mnemonic) -> bool {
        match m {
            Mnemonic::Movdiri => {
                let v = self.read(1);
                self.write(0, v);
            }
            Mnemonic::Movdir64b => {
                let ea = self.ea_sized(LINE, false);
                let from = self.ea_value(&ea);
                // The register is an offset in ES, whatever prefixes say.
                let to = self.insn.op_register(0);
                let to = self.read_reg(to);
                self.line(from, to);
            }
            Mnemonic::Clzero => {
                let bytes = match self.insn.code() {
                    Code::Clzerow => 2,
                    Code::Clzerod => 4,
                    _ => 8,
                };
                let at = self.gpr(0, int(bytes));
                let at = self.b.zext(Type::I64, at);
                let low = self.b.iconst(Type::I64, !(LINE - 1));
                let at = self.b.and(at, low);
                let at = if bytes == 8 { at } else { self.b.trunc(Type::I32, at) };
                let segment = match self.insn.segment_prefix() {
                    Register::None => seg::DS,
                    r => seg_number(r),
                };
                let ea = self.segmented(segment, at, 0, LINE, true);
                let at = self.ea_value(&ea);
                self.call::<ZeroLine>(&[at]);
            }
            Mnemonic::Serialize => {
                self.b.fence(15);
                self.flow = Flow::Cut;
            }
            _ => return false,
        }
        true
    }

    /// Copies a line to an offset in ES.
    fn line(&mut self, from: Value, to: Value) {
        let to = if self.b.ty(to) == Type::I16 { self.b.zext(Type::I32, to) } else { to };
        let ea = self.segmented(seg::ES, to, 0, LINE, true);
        let to = self.ea_value(&ea);
        self.call::<CopyLine>(&[from, to]);
    }
}

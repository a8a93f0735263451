//! M: multiplication and division. The IR's division by zero and overflow are RISC-V's.

use tcg_ir::Op;

use super::Translator;
use crate::{cpu::Ext, decode::*};

macro_rules! m_instructions {
    ($($name:ident $with:ident $op:ident;)*) => {
        impl Translator<'_, '_> {
            $(pub(crate) fn $name(&mut self, a: &ArgR) -> bool {
                self.has(Ext::M) && self.$with(a, Op::$op)
            })*
        }
    };
}

m_instructions! {
    trans_mul alu Mul;
    trans_mulh alu Mulhs;
    trans_mulhsu alu Mulhsu;
    trans_mulhu alu Mulhu;
    trans_div alu Divs;
    trans_divu alu Divu;
    trans_rem alu Rems;
    trans_remu alu Remu;
    trans_mulw alu_w Mul;
    trans_divw alu_w Divs;
    trans_divuw alu_w Divu;
    trans_remw alu_w Rems;
    trans_remuw alu_w Remu;
}

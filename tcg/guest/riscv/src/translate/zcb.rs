//! Zcb: further 16-bit forms. Each needs the extension of the instruction it stands for.

use tcg_ir::Op;

use super::Translator;
use crate::{cpu::Ext, decode::*};

impl Translator<'_, '_> {
    pub(crate) fn trans_zcb_lbu(&mut self, a: &ArgI) -> bool {
        self.has(Ext::ZCB) && self.trans_lbu(a)
    }

    pub(crate) fn trans_zcb_lhu(&mut self, a: &ArgI) -> bool {
        self.has(Ext::ZCB) && self.trans_lhu(a)
    }

    pub(crate) fn trans_zcb_lh(&mut self, a: &ArgI) -> bool {
        self.has(Ext::ZCB) && self.trans_lh(a)
    }

    pub(crate) fn trans_zcb_sb(&mut self, a: &ArgS) -> bool {
        self.has(Ext::ZCB) && self.trans_sb(a)
    }

    pub(crate) fn trans_zcb_sh(&mut self, a: &ArgS) -> bool {
        self.has(Ext::ZCB) && self.trans_sh(a)
    }

    pub(crate) fn trans_zcb_zext_b(&mut self, a: &ArgR2) -> bool {
        self.has(Ext::ZCB) && self.extend(a, 8, false)
    }

    pub(crate) fn trans_zcb_sext_b(&mut self, a: &ArgR2) -> bool {
        self.has(Ext::ZCB) && self.trans_sext_b(a)
    }

    pub(crate) fn trans_zcb_zext_h(&mut self, a: &ArgR2) -> bool {
        self.has(Ext::ZCB.with(Ext::ZBB)) && self.extend(a, 16, false)
    }

    pub(crate) fn trans_zcb_sext_h(&mut self, a: &ArgR2) -> bool {
        self.has(Ext::ZCB) && self.trans_sext_h(a)
    }

    pub(crate) fn trans_zcb_zext_w(&mut self, a: &ArgR2) -> bool {
        self.rv64() && self.has(Ext::ZCB.with(Ext::ZBA)) && self.zext_w(a)
    }

    pub(crate) fn trans_zcb_mul(&mut self, a: &ArgR) -> bool {
        self.has(Ext::ZCB) && self.trans_mul(a)
    }

    pub(crate) fn trans_zcb_not(&mut self, a: &ArgR2) -> bool {
        if !self.has(Ext::ZCB) {
            return false;
        }
        let r1 = self.x(a.rs1);
        let v = self.b.unary(Op::Not, r1);
        self.set_x(a.rd, v);
        true
    }
}

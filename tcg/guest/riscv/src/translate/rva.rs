//! A: atomic operations, and Zawrs.
//!
//! A reservation is the address and the value that LR saw. SC succeeds if memory still holds that value, by one
//! compare-and-swap of the host. What the manual asks for and this does not give: an SC after another hart's stores that
//! brought the same value back (the ABA problem) succeeds here and would fail on a hart that watches its line. Threads of a
//! program have their stores-conditional watched (`monitor`): there a value that changed and came back is told.

use tcg_ir::{Align, Atomicity, Cond, MemOp, Order, RmwOp, Type, Value};

use super::Translator;
use crate::{
    cpu::Ext,
    decode::*,
    exceptions::cause,
    helpers::{self, id},
    state::{self, NO_RESERVATION},
};

/// Operand width of an atomic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Width {
    W,
    D,
}

impl Translator<'_, '_> {
    /// Attributes of an atomic: aligned, whole, ordered by aq and rl.
    fn atomic(&self, width: Width, aq: bool, rl: bool) -> MemOp {
        let order = match (aq, rl) {
            (false, false) => Order::Relaxed,
            (true, false) => Order::Acquire,
            (false, true) => Order::Release,
            (true, true) => Order::SeqCst,
        };
        let log2 = if width == Width::W { 2 } else { 3 };
        self.mem(log2).with_align(Align::Natural).with_atomicity(Atomicity::Whole).with_order(order)
    }

    fn can(&self, width: Width) -> bool {
        self.has(Ext::A) && (width == Width::W || self.rv64())
    }

    /// Register `n` in the operand's type.
    fn operand(&mut self, n: i32, width: Width) -> Value {
        if width == Width::W { self.x32(n) } else { self.x(n) }
    }

    fn set_operand(&mut self, n: i32, v: Value) {
        self.set_x32(n, v);
    }

    fn lr(&mut self, a: &ArgLr, width: Width) -> bool {
        if !self.can(width) {
            return false;
        }
        let (addr, _) = self.address(a.rs1, 0, false);
        let ty = if width == Width::W { Type::I32 } else { Type::I64 };
        // lr.rl alone orders nothing before it that a plain load would not.
        let m = self.atomic(width, a.aq, a.aq && a.rl);
        if self.mode.parallel {
            let addr = self.b.zext(Type::I64, addr);
            let memop = self.b.iconst(Type::I64, u64::from(m.0));
            let v = self.b.call(id(helpers::LR), Type::I64, &[addr, memop]);
            let v = self.b.trunc(ty, v);
            self.set_operand(a.rd, v);
            return true;
        }
        let v = self.b.load(ty, m, addr, 0);
        let wide = self.b.zext(Type::I64, v);
        let addr = self.b.zext(Type::I64, addr);
        self.b.set(state::RES_ADDR, addr);
        self.b.set(state::RES_VAL, wide);
        self.set_operand(a.rd, v);
        true
    }

    fn sc(&mut self, a: &ArgAmo, width: Width) -> bool {
        if !self.can(width) {
            return false;
        }
        let (addr, _) = self.address(a.rs1, 0, true);
        let new = self.operand(a.rs2, width);
        let ty = self.b.ty(new);
        if self.mode.parallel {
            let addr = self.b.zext(Type::I64, addr);
            let memop = self.b.iconst(Type::I64, u64::from(self.atomic(width, a.aq, a.rl).0));
            let new = self.b.zext(Type::I64, new);
            let failed = self.b.call(id(helpers::SC), Type::I64, &[addr, memop, new]);
            let failed = self.b.trunc(self.xt, failed);
            self.set_x(a.rd, failed);
            return true;
        }
        let reserved = self.get64(state::RES_ADDR);
        let wide = self.b.zext(Type::I64, addr);
        let held = self.b.setcc(self.xt, Cond::Eq, wide, reserved);
        let (swap, fail, on) = (self.b.new_block(), self.b.new_block(), self.b.new_block());
        self.b.branch(held, swap, fail, true);

        self.b.switch_to(swap);
        let seen = self.get64(state::RES_VAL);
        let seen = self.b.trunc(ty, seen);
        let old = self.b.cas(ty, self.atomic(width, a.aq, a.rl), addr, seen, new);
        let failed = self.b.setcc(self.xt, Cond::Ne, old, seen);
        self.drop_reservation();
        self.set_x(a.rd, failed);
        self.b.jump(on);

        // A misaligned address is never reserved, but must fault.
        self.b.switch_to(fail);
        let low = self.imm(if width == Width::W { 3 } else { 7 });
        let low = self.b.and(addr, low);
        let (misaligned, lost) = (self.b.new_block(), self.b.new_block());
        self.b.branch(low, misaligned, lost, false);

        self.b.switch_to(misaligned);
        let cause = self.b.iconst(Type::I64, cause::STORE_MISALIGNED);
        let tval = self.b.zext(Type::I64, addr);
        self.b.call(id(helpers::RAISE), Type::Void, &[cause, tval]);
        self.b.jump(lost);

        self.b.switch_to(lost);
        let one = self.imm(1);
        self.drop_reservation();
        self.set_x(a.rd, one);
        self.b.jump(on);

        self.b.switch_to(on);
        true
    }

    fn drop_reservation(&mut self) {
        let none = self.b.iconst(Type::I64, NO_RESERVATION);
        self.b.set(state::RES_ADDR, none);
    }

    fn amo(&mut self, a: &ArgAmo, op: RmwOp, width: Width) -> bool {
        if !self.can(width) {
            return false;
        }
        let (addr, _) = self.address(a.rs1, 0, true);
        let v = self.operand(a.rs2, width);
        let ty = self.b.ty(v);
        let old = self.b.rmw(ty, op, self.atomic(width, a.aq, a.rl), addr, v);
        self.set_operand(a.rd, old);
        true
    }

    pub(crate) fn trans_lr_w(&mut self, a: &ArgLr) -> bool {
        self.lr(a, Width::W)
    }

    pub(crate) fn trans_lr_d(&mut self, a: &ArgLr) -> bool {
        self.lr(a, Width::D)
    }

    pub(crate) fn trans_sc_w(&mut self, a: &ArgAmo) -> bool {
        self.sc(a, Width::W)
    }

    pub(crate) fn trans_sc_d(&mut self, a: &ArgAmo) -> bool {
        self.sc(a, Width::D)
    }

    fn wrs(&mut self, long: bool) -> bool {
        if !self.has(Ext::ZAWRS) {
            return false;
        }
        // A wait on a reservation may end at once; only wrs.nto is subject to mstatus.TW.
        if long {
            self.call_bits(helpers::WRS, Type::Void, &[]);
        }
        self.end_lookup();
        true
    }

    pub(crate) fn trans_wrs_nto(&mut self, _: &ArgEmpty) -> bool {
        self.wrs(true)
    }

    pub(crate) fn trans_wrs_sto(&mut self, _: &ArgEmpty) -> bool {
        self.wrs(false)
    }

    // Zicbom and Zicboz: caches are always coherent, so only the permission and the zeroing remain.

    fn cbo(&mut self, a: &ArgCbo, kind: u64) -> bool {
        let ext = if kind == helpers::CBO_ZERO { Ext::ZICBOZ } else { Ext::ZICBOM };
        if !self.has(ext) {
            return false;
        }
        let (addr, _) = self.address(a.rs1, 0, true);
        let addr = self.b.zext(Type::I64, addr);
        let kind = self.b.iconst(Type::I64, kind | (self.mode.mmu as u64) << 8);
        let bits = self.b.iconst(Type::I64, u64::from(self.bits));
        self.b.call(id(helpers::CBO), Type::Void, &[addr, kind, bits]);
        true
    }

    pub(crate) fn trans_cbo_inval(&mut self, a: &ArgCbo) -> bool {
        self.cbo(a, helpers::CBO_INVAL)
    }

    pub(crate) fn trans_cbo_clean(&mut self, a: &ArgCbo) -> bool {
        self.cbo(a, helpers::CBO_CLEAN)
    }

    pub(crate) fn trans_cbo_flush(&mut self, a: &ArgCbo) -> bool {
        self.cbo(a, helpers::CBO_CLEAN)
    }

    pub(crate) fn trans_cbo_zero(&mut self, a: &ArgCbo) -> bool {
        self.cbo(a, helpers::CBO_ZERO)
    }
}

macro_rules! amo_instructions {
    ($($name:ident $op:ident $width:ident;)*) => {
        impl Translator<'_, '_> {
            $(pub(crate) fn $name(&mut self, a: &ArgAmo) -> bool {
                self.amo(a, RmwOp::$op, Width::$width)
            })*
        }
    };
}

amo_instructions! {
    trans_amoswap_w Swap W;
    trans_amoadd_w Add W;
    trans_amoxor_w Xor W;
    trans_amoand_w And W;
    trans_amoor_w Or W;
    trans_amomin_w Min W;
    trans_amomax_w Max W;
    trans_amominu_w Minu W;
    trans_amomaxu_w Maxu W;
    trans_amoswap_d Swap D;
    trans_amoadd_d Add D;
    trans_amoxor_d Xor D;
    trans_amoand_d And D;
    trans_amoor_d Or D;
    trans_amomin_d Min D;
    trans_amomax_d Max D;
    trans_amominu_d Minu D;
    trans_amomaxu_d Maxu D;
}

//! Zba, Zbb, Zbc, Zbs: bit manipulation.

use tcg_ir::{Cond, Op, Type, Value};

use super::Translator;
use crate::{cpu::Ext, decode::*};

impl Translator<'_, '_> {
    // Zba.

    /// `rd = rs2 + (rs1 << n)`, with `uw` of rs1's low 32 bits.
    fn sh_add(&mut self, a: &ArgR, n: i64, uw: bool) -> bool {
        if !self.has(Ext::ZBA) || uw && !self.rv64() {
            return false;
        }
        let mut r1 = self.x(a.rs1);
        if uw {
            r1 = self.b.extract(r1, 0, 32);
        }
        if n != 0 {
            let count = self.imm(n);
            r1 = self.b.shl(r1, count);
        }
        let r2 = self.x(a.rs2);
        let v = self.b.add(r1, r2);
        self.set_x(a.rd, v);
        true
    }

    pub(crate) fn trans_sh1add(&mut self, a: &ArgR) -> bool {
        self.sh_add(a, 1, false)
    }

    pub(crate) fn trans_sh2add(&mut self, a: &ArgR) -> bool {
        self.sh_add(a, 2, false)
    }

    pub(crate) fn trans_sh3add(&mut self, a: &ArgR) -> bool {
        self.sh_add(a, 3, false)
    }

    pub(crate) fn trans_add_uw(&mut self, a: &ArgR) -> bool {
        self.sh_add(a, 0, true)
    }

    pub(crate) fn trans_sh1add_uw(&mut self, a: &ArgR) -> bool {
        self.sh_add(a, 1, true)
    }

    pub(crate) fn trans_sh2add_uw(&mut self, a: &ArgR) -> bool {
        self.sh_add(a, 2, true)
    }

    pub(crate) fn trans_sh3add_uw(&mut self, a: &ArgR) -> bool {
        self.sh_add(a, 3, true)
    }

    pub(crate) fn trans_slli_uw(&mut self, a: &ArgShift) -> bool {
        if !self.has(Ext::ZBA) || !self.rv64() {
            return false;
        }
        let r1 = self.x(a.rs1);
        let r1 = self.b.extract(r1, 0, 32);
        let count = self.imm(i64::from(a.shamt));
        let v = self.b.shl(r1, count);
        self.set_x(a.rd, v);
        true
    }

    // Zbb.

    fn unary(&mut self, a: &ArgR2, op: Op) -> bool {
        if !self.has(Ext::ZBB) {
            return false;
        }
        let r1 = self.x(a.rs1);
        let v = self.b.unary(op, r1);
        self.set_x(a.rd, v);
        true
    }

    fn unary_w(&mut self, a: &ArgR2, op: Op) -> bool {
        if !self.has(Ext::ZBB) || !self.rv64() {
            return false;
        }
        let r1 = self.x32(a.rs1);
        let v = self.b.unary(op, r1);
        self.set_x32(a.rd, v);
        true
    }

    pub(crate) fn trans_clz(&mut self, a: &ArgR2) -> bool {
        self.unary(a, Op::Clz)
    }

    pub(crate) fn trans_ctz(&mut self, a: &ArgR2) -> bool {
        self.unary(a, Op::Ctz)
    }

    pub(crate) fn trans_cpop(&mut self, a: &ArgR2) -> bool {
        self.unary(a, Op::Popcnt)
    }

    pub(crate) fn trans_clzw(&mut self, a: &ArgR2) -> bool {
        self.unary_w(a, Op::Clz)
    }

    pub(crate) fn trans_ctzw(&mut self, a: &ArgR2) -> bool {
        self.unary_w(a, Op::Ctz)
    }

    pub(crate) fn trans_cpopw(&mut self, a: &ArgR2) -> bool {
        self.unary_w(a, Op::Popcnt)
    }

    /// The low `bits` of rs1, extended.
    pub(super) fn extend(&mut self, a: &ArgR2, bits: u32, signed: bool) -> bool {
        let r1 = self.x(a.rs1);
        let v = if signed { self.b.sextract(r1, 0, bits) } else { self.b.extract(r1, 0, bits) };
        self.set_x(a.rd, v);
        true
    }

    pub(crate) fn trans_sext_b(&mut self, a: &ArgR2) -> bool {
        self.has(Ext::ZBB) && self.extend(a, 8, true)
    }

    pub(crate) fn trans_sext_h(&mut self, a: &ArgR2) -> bool {
        self.has(Ext::ZBB) && self.extend(a, 16, true)
    }

    pub(crate) fn trans_zext_h_32(&mut self, a: &ArgR2) -> bool {
        self.has(Ext::ZBB) && !self.rv64() && self.extend(a, 16, false)
    }

    pub(crate) fn trans_zext_h_64(&mut self, a: &ArgR2) -> bool {
        self.has(Ext::ZBB) && self.rv64() && self.extend(a, 16, false)
    }

    pub(crate) fn trans_andn(&mut self, a: &ArgR) -> bool {
        self.has(Ext::ZBB) && self.alu(a, Op::Andc)
    }

    pub(crate) fn trans_orn(&mut self, a: &ArgR) -> bool {
        self.has(Ext::ZBB) && self.alu(a, Op::Orc)
    }

    pub(crate) fn trans_xnor(&mut self, a: &ArgR) -> bool {
        self.has(Ext::ZBB) && self.alu(a, Op::Eqv)
    }

    fn min_max(&mut self, a: &ArgR, first_if: Cond) -> bool {
        if !self.has(Ext::ZBB) {
            return false;
        }
        let (r1, r2) = (self.x(a.rs1), self.x(a.rs2));
        let cond = self.b.setcc(self.xt, first_if, r1, r2);
        let v = self.b.select(cond, r1, r2);
        self.set_x(a.rd, v);
        true
    }

    pub(crate) fn trans_max(&mut self, a: &ArgR) -> bool {
        self.min_max(a, Cond::Gt)
    }

    pub(crate) fn trans_maxu(&mut self, a: &ArgR) -> bool {
        self.min_max(a, Cond::Gtu)
    }

    pub(crate) fn trans_min(&mut self, a: &ArgR) -> bool {
        self.min_max(a, Cond::Lt)
    }

    pub(crate) fn trans_minu(&mut self, a: &ArgR) -> bool {
        self.min_max(a, Cond::Ltu)
    }

    pub(crate) fn trans_rol(&mut self, a: &ArgR) -> bool {
        self.has(Ext::ZBB) && self.alu(a, Op::Rotl)
    }

    pub(crate) fn trans_ror(&mut self, a: &ArgR) -> bool {
        self.has(Ext::ZBB) && self.alu(a, Op::Rotr)
    }

    pub(crate) fn trans_rori(&mut self, a: &ArgShift) -> bool {
        self.has(Ext::ZBB) && self.shift_imm(a, Op::Rotr)
    }

    pub(crate) fn trans_rolw(&mut self, a: &ArgR) -> bool {
        self.has(Ext::ZBB) && self.alu_w(a, Op::Rotl)
    }

    pub(crate) fn trans_rorw(&mut self, a: &ArgR) -> bool {
        self.has(Ext::ZBB) && self.alu_w(a, Op::Rotr)
    }

    pub(crate) fn trans_roriw(&mut self, a: &ArgShift) -> bool {
        self.has(Ext::ZBB) && self.shift_imm_w(a, Op::Rotr)
    }

    /// Each byte that is not zero becomes 0xff: its top bit is found by carries that stay inside the byte.
    pub(crate) fn trans_orc_b(&mut self, a: &ArgR2) -> bool {
        if !self.has(Ext::ZBB) {
            return false;
        }
        let r1 = self.x(a.rs1);
        let low = self.imm(0x7f7f_7f7f_7f7f_7f7f);
        let sum = self.b.and(r1, low);
        let sum = self.b.add(sum, low);
        let any = self.b.or(sum, r1);
        let any = self.b.binary(Op::Andc, any, low);
        let seven = self.imm(7);
        let ones = self.b.shr(any, seven);
        let byte = self.imm(0xff);
        let v = self.b.binary(Op::Mul, ones, byte);
        self.set_x(a.rd, v);
        true
    }

    pub(crate) fn trans_rev8_32(&mut self, a: &ArgR2) -> bool {
        !self.rv64() && self.unary(a, Op::Bswap)
    }

    pub(crate) fn trans_rev8_64(&mut self, a: &ArgR2) -> bool {
        self.rv64() && self.unary(a, Op::Bswap)
    }

    // Zbc.

    pub(crate) fn trans_clmul(&mut self, a: &ArgR) -> bool {
        self.has(Ext::ZBC) && self.alu(a, Op::Clmul)
    }

    pub(crate) fn trans_clmulh(&mut self, a: &ArgR) -> bool {
        self.has(Ext::ZBC) && self.alu(a, Op::Clmulh)
    }

    /// Bits XLEN-1 and up of the product.
    pub(crate) fn trans_clmulr(&mut self, a: &ArgR) -> bool {
        if !self.has(Ext::ZBC) {
            return false;
        }
        let (r1, r2) = (self.x(a.rs1), self.x(a.rs2));
        let low = self.b.binary(Op::Clmul, r1, r2);
        let high = self.b.binary(Op::Clmulh, r1, r2);
        let (one, top) = (self.imm(1), self.imm(i64::from(self.cpu.xlen) - 1));
        let high = self.b.shl(high, one);
        let low = self.b.shr(low, top);
        let v = self.b.or(high, low);
        self.set_x(a.rd, v);
        true
    }

    // Zbs. The bit's number is taken modulo XLEN, as the IR's shifts do.

    fn bit(&mut self, number: Value) -> Value {
        let one = self.imm(1);
        self.b.shl(one, number)
    }

    fn bit_op(&mut self, a: &ArgR, op: Op) -> bool {
        if !self.has(Ext::ZBS) {
            return false;
        }
        let (r1, r2) = (self.x(a.rs1), self.x(a.rs2));
        let bit = self.bit(r2);
        let v = self.b.binary(op, r1, bit);
        self.set_x(a.rd, v);
        true
    }

    fn bit_op_imm(&mut self, a: &ArgShift, op: Op) -> bool {
        if !self.has(Ext::ZBS) || a.shamt as u32 >= self.cpu.xlen {
            return false;
        }
        let r1 = self.x(a.rs1);
        let bit = self.imm((1_u64 << a.shamt) as i64);
        let v = self.b.binary(op, r1, bit);
        self.set_x(a.rd, v);
        true
    }

    pub(crate) fn trans_bclr(&mut self, a: &ArgR) -> bool {
        self.bit_op(a, Op::Andc)
    }

    pub(crate) fn trans_bclri(&mut self, a: &ArgShift) -> bool {
        self.bit_op_imm(a, Op::Andc)
    }

    pub(crate) fn trans_binv(&mut self, a: &ArgR) -> bool {
        self.bit_op(a, Op::Xor)
    }

    pub(crate) fn trans_binvi(&mut self, a: &ArgShift) -> bool {
        self.bit_op_imm(a, Op::Xor)
    }

    pub(crate) fn trans_bset(&mut self, a: &ArgR) -> bool {
        self.bit_op(a, Op::Or)
    }

    pub(crate) fn trans_bseti(&mut self, a: &ArgShift) -> bool {
        self.bit_op_imm(a, Op::Or)
    }

    pub(crate) fn trans_bext(&mut self, a: &ArgR) -> bool {
        if !self.has(Ext::ZBS) {
            return false;
        }
        let (r1, r2) = (self.x(a.rs1), self.x(a.rs2));
        let v = self.b.shr(r1, r2);
        let v = self.b.extract(v, 0, 1);
        self.set_x(a.rd, v);
        true
    }

    pub(crate) fn trans_bexti(&mut self, a: &ArgShift) -> bool {
        if !self.has(Ext::ZBS) || a.shamt as u32 >= self.cpu.xlen {
            return false;
        }
        let r1 = self.x(a.rs1);
        let v = self.b.extract(r1, a.shamt as u32, 1);
        self.set_x(a.rd, v);
        true
    }

    /// zext.w, which is add.uw with x0: for Zcb.
    pub(super) fn zext_w(&mut self, a: &ArgR2) -> bool {
        debug_assert!(self.xt == Type::I64);
        self.extend(a, 32, false)
    }
}

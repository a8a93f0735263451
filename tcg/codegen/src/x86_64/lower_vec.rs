//! Vector operations of 64 to 256 bits on AVX2. The rest go through the soft fallback.

use tcg_ir::{Lane, Op, Type, Value};

use super::asm::V;
use super::{Gen, Too};

impl Gen<'_> {
    /// Emits a vector operation. False if there is no recipe.
    pub(super) fn lower_vec(&mut self, v: Value) -> Result<bool, Too> {
        let inst = *self.r.inst(v);
        if !matches!(inst.ty, Type::V64 | Type::V128 | Type::V256) {
            return Ok(false);
        }
        // Opcodes of the four integer lanes are not in sequence for 64 bits.
        let by_lane = |ops: [u8; 4]| match Lane::from_bits(inst.sub & 0xff) {
            Lane::I8 => Some(ops[0]),
            Lane::I16 => Some(ops[1]),
            Lane::I32 => Some(ops[2]),
            Lane::I64 => Some(ops[3]),
            Lane::F32 | Lane::F64 => None,
        };
        let op = match inst.op {
            Op::Vand => Some(0xdb),
            Op::Vor => Some(0xeb),
            Op::Vxor => Some(0xef),
            Op::Vandc => Some(0xdf),
            Op::Vadd => by_lane([0xfc, 0xfd, 0xfe, 0xd4]),
            Op::Vsub => by_lane([0xf8, 0xf9, 0xfa, 0xfb]),
            _ => None,
        };
        let Some(op) = op else { return Ok(false) };
        // `vpandn` complements its first source.
        let (a, b) = if inst.op == Op::Vandc { (inst.b, inst.a) } else { (inst.a, inst.b) };
        let xa = self.use_xmm(a)?;
        let xb = self.use_xmm(b)?;
        self.done(a);
        self.done(b);
        let d = self.define_xmm(v, xa, 0)?;
        self.asm.vop(V::new(1, 1, op).l(inst.ty == Type::V256), d, xa, xb);
        Ok(true)
    }
}

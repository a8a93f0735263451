//! Moves between registers and memory (SDM volume 1, 5.4.1, 5.5.1, 5.6.1, 5.7.2, 5.10).

use iced_x86::{Mnemonic, OpKind};
use tcg_ir::{Lane, Op, Type, Value};

use super::super::{Translator, operand::seg_number};
use crate::{sse::MaskStore, state};

impl Translator<'_, '_> {
    /// Instructions of this family.
    pub(super) fn sse_moves(&mut self, m: Mnemonic) -> bool {
        use Mnemonic as M;
        match m {
            M::Movaps | M::Movapd | M::Movdqa | M::Movntps | M::Movntpd | M::Movntdq | M::Movntdqa => {
                self.move_whole(true)
            }
            M::Movups | M::Movupd | M::Movdqu | M::Lddqu => self.move_whole(false),
            M::Movq if self.vector_type() == Type::V64 => self.move_mm(),
            M::Movntq => self.move_mm(),
            M::Movsd if !self.insn.is_string_instruction() => self.move_scalar(Lane::F64),
            M::Movss => self.move_scalar(Lane::F32),
            M::Movd | M::Movq => self.move_integer(),
            M::Movlps | M::Movlpd => self.move_half(0),
            M::Movhps | M::Movhpd => self.move_half(1),
            M::Movhlps => self.between_halves(1, 0),
            M::Movlhps => self.between_halves(0, 1),
            M::Movq2dq | M::Movdq2q => {
                if !self.sse_on() || !self.mmx_on() {
                    return true;
                }
                let from = self.insn.op_register(1).number();
                if m == M::Movq2dq {
                    let v = self.b.get(state::mm(from), Type::V64);
                    let v = self.lane(Type::I64, Lane::I64, v, 0);
                    let wide = self.widen(Type::I64, v);
                    self.set_vector(wide);
                } else {
                    let v = self.xmm(from);
                    let v = self.lane(Type::I64, Lane::I64, v, 0);
                    let v =
                        self.b.vector(Op::Vsplat, Type::V64, Lane::I64, 0, [v, Value::NONE, Value::NONE], 0);
                    self.set_vector(v);
                }
            }
            M::Movmskps | M::Movmskpd => {
                if !self.sse_on() {
                    return true;
                }
                let lane = if m == M::Movmskps { Lane::I32 } else { Lane::I64 };
                self.signs_of_lanes(lane);
            }
            M::Pmovmskb => {
                if self.vector_on() {
                    self.signs_of_lanes(Lane::I8);
                }
            }
            M::Maskmovq | M::Maskmovdqu => self.masked_store(),
            _ => return false,
        }
        true
    }

    /// The signs of the source's lanes, to the general register that is the destination.
    fn signs_of_lanes(&mut self, lane: Lane) {
        let v = self.vector(1);
        let bits = self.b.vector(Op::Vbits, Type::I32, lane, 0, [v, Value::NONE, Value::NONE], 0);
        let bits = self.b.zext(Type::I64, bits);
        self.write_mask(bits);
    }

    /// A scalar in lane 0, zeros above.
    pub(super) fn widen(&mut self, ty: Type, scalar: Value) -> Value {
        let lane = match ty {
            Type::F32 => Lane::F32,
            Type::F64 => Lane::F64,
            Type::I32 => Lane::I32,
            _ => Lane::I64,
        };
        let zero = self.zeros();
        self.with_lane(lane, zero, 0, scalar)
    }

    fn move_whole(&mut self, aligned: bool) {
        if !self.sse_on() {
            return;
        }
        let ty = self.vector_type();
        let bytes = ty.bytes();
        let m = if aligned { self.mem_aligned(bytes) } else { self.mem(bytes) };
        if self.is_memory(0) {
            let v = self.read_vector(1, ty);
            let ea = self.ea_sized(bytes as u64, true);
            self.store_op(m, &ea, v);
        } else {
            let v = if self.is_memory(1) {
                let ea = self.ea_sized(bytes as u64, false);
                self.load_op(ty, m, &ea)
            } else {
                self.read_vector(1, ty)
            };
            self.set_vector(v);
        }
    }

    fn move_mm(&mut self) {
        if self.is_integer_move() {
            return self.move_integer();
        }
        if !self.mmx_on() {
            return;
        }
        if self.is_memory(0) {
            let v = self.vector(1);
            let ea = self.ea_sized(8, true);
            self.store(&ea, v);
        } else {
            let v = self.vector(1);
            self.set_vector(v);
        }
    }

    /// Whether one operand is a general register.
    fn is_integer_move(&self) -> bool {
        (0..2).any(|n| self.is_register(n) && self.insn.op_register(n).is_gpr())
    }

    /// MOVSS and MOVSD: a load clears the rest of the register, a move between registers leaves it.
    fn move_scalar(&mut self, lane: Lane) {
        if !self.sse_on() {
            return;
        }
        let (ty, bytes) = if lane == Lane::F32 { (Type::F32, 4) } else { (Type::F64, 8) };
        if self.is_memory(0) {
            let r = self.insn.op_register(1).number();
            let v = self.xmm(r);
            let v = self.lane(ty, lane, v, 0);
            let ea = self.ea_sized(bytes, true);
            self.store(&ea, v);
        } else if self.is_memory(1) {
            let ea = self.ea_sized(bytes, false);
            let v = self.load(ty, &ea);
            let v = self.widen(ty, v);
            self.set_vector(v);
        } else {
            let v = self.vector(1);
            let v = self.lane(ty, lane, v, 0);
            let old = self.vector(0);
            let v = self.with_lane(lane, old, 0, v);
            self.set_vector(v);
        }
    }

    /// MOVD and MOVQ in all their forms but between MMX registers and memory.
    fn move_integer(&mut self) {
        if !self.vector_on() {
            return;
        }
        // The width is that of what is no vector register; between two of them it is 64 bits.
        let bytes = (0..2)
            .filter(|n| self.is_memory(*n) || self.insn.op_register(*n).is_gpr())
            .map(|n| self.size(n))
            .next()
            .unwrap_or(8);
        let (ty, lane) = if bytes == 4 { (Type::I32, Lane::I32) } else { (Type::I64, Lane::I64) };
        let is_vector = |t: &Self, n: u32| t.is_register(n) && !t.insn.op_register(n).is_gpr();
        let v = if is_vector(self, 1) {
            let v = self.vector(1);
            self.lane(ty, lane, v, 0)
        } else if self.is_memory(1) {
            let ea = self.ea_sized(bytes as u64, false);
            self.load(ty, &ea)
        } else {
            self.read(1)
        };
        if is_vector(self, 0) {
            let whole = self.vector_type();
            let zero = if whole == Type::V128 { self.zeros() } else { self.splat(whole, Lane::I64, 0) };
            let v = self.with_lane(lane, zero, 0, v);
            self.set_vector(v);
        } else if self.is_memory(0) {
            let ea = self.ea_sized(bytes as u64, true);
            self.store(&ea, v);
        } else {
            let r = self.insn.op_register(0);
            self.write_reg(r, v);
        }
    }

    /// MOVLPS, MOVHPS and their double forms: half a register from or to memory.
    fn move_half(&mut self, half: u64) {
        if !self.sse_on() {
            return;
        }
        if self.is_memory(0) {
            let r = self.insn.op_register(1).number();
            let v = self.xmm(r);
            let v = self.lane(Type::I64, Lane::I64, v, half);
            let ea = self.ea_sized(8, true);
            self.store(&ea, v);
        } else {
            let ea = self.ea_sized(8, false);
            let v = self.load(Type::I64, &ea);
            let old = self.vector(0);
            let v = self.with_lane(Lane::I64, old, half, v);
            self.set_vector(v);
        }
    }

    fn between_halves(&mut self, from: u64, to: u64) {
        if !self.sse_on() {
            return;
        }
        let v = self.vector(1);
        let v = self.lane(Type::I64, Lane::I64, v, from);
        let old = self.vector(0);
        let v = self.with_lane(Lane::I64, old, to, v);
        self.set_vector(v);
    }

    /// The top bits of eight bytes: multiplied so that each ends up in the product's highest byte.
    fn mask_of_bytes(&mut self, v: Value, half: u64) -> Value {
        let v = self.lane(Type::I64, Lane::I64, v, half);
        let seven = self.b.iconst(Type::I64, 7);
        let v = self.b.shr(v, seven);
        let ones = self.b.iconst(Type::I64, 0x0101_0101_0101_0101);
        let v = self.b.and(v, ones);
        let gather = self.b.iconst(Type::I64, 0x0102_0408_1020_4080);
        let v = self.b.binary(Op::Mul, v, gather);
        let n = self.b.iconst(Type::I64, 56);
        self.b.shr(v, n)
    }

    /// Writes a mask to the general register that is the destination, all of it.
    pub(super) fn write_mask(&mut self, v: Value) {
        let n = self.insn.op_register(0).full_register().number();
        self.b.set(state::reg(n), v);
    }

    /// MASKMOVDQU and MASKMOVQ: bytes whose mask has its top bit, to DS:rDI.
    fn masked_store(&mut self) {
        if !self.vector_on() {
            return;
        }
        let bytes = self.vector_type().bytes() as u64;
        let ty = self.vector_type();
        let (v, mask) = (self.read_vector(1, ty), self.read_vector(2, ty));
        // The operand has no base register: it is rDI, in the address size.
        let width = match self.insn.op_kind(0) {
            OpKind::MemorySegDI => 2,
            OpKind::MemorySegEDI => 4,
            _ => 8,
        };
        let ty = if width == 8 { Type::I64 } else { Type::I32 };
        let at = self.gpr(7, ty);
        let at = if width == 2 { self.b.extract(at, 0, 16) } else { at };
        let segment = seg_number(self.insn.memory_segment());
        let ea = self.segmented(segment, at, 0, bytes, true);
        let at = self.ea_value(&ea);
        for half in 0..bytes / 8 {
            let bits = self.mask_of_bytes(mask, half);
            let data = self.lane(Type::I64, Lane::I64, v, half);
            let by = self.b.iconst(Type::I64, half * 8);
            let at = self.b.add(at, by);
            self.call::<MaskStore>(&[at, data, bits]);
        }
    }
}

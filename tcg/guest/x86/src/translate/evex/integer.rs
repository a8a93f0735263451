//! Integer arithmetic, logic and shifts that AVX2 does not have (SDM volume 2, VP*).

use iced_x86::{Mnemonic, OpKind, RoundingControl};
use tcg_ir::{Cond, Lane, Op, Type, Value, VecFn};

use super::super::Translator;

impl Translator<'_, '_> {
    /// Instructions of this family.
    pub(super) fn evex_integer(&mut self, m: Mnemonic) -> bool {
        use Lane::{I8, I16, I32, I64};
        use Mnemonic as M;
        match m {
            M::Vpmaxsq => self.evex_two(|t, a, b| t.lanes(Op::Vmax, I64, a, b)),
            M::Vpmaxuq => self.evex_two(|t, a, b| t.lanes(Op::Vmaxu, I64, a, b)),
            M::Vpminsq => self.evex_two(|t, a, b| t.lanes(Op::Vmin, I64, a, b)),
            M::Vpminuq => self.evex_two(|t, a, b| t.lanes(Op::Vminu, I64, a, b)),
            M::Vpmullq => self.evex_two(|t, a, b| t.lanes(Op::Vmul, I64, a, b)),
            M::Vpabsq => self.evex_one(|t, v| {
                let negated = t.lanes(Op::Vneg, I64, v, Value::NONE);
                t.lanes(Op::Vmax, I64, v, negated)
            }),
            M::Vpternlogd | M::Vpternlogq => self.ternary_logic(),
            M::Vpsllvw => self.evex_two(|t, a, b| t.shifted(Op::Vshl, I16, a, b)),
            M::Vpsrlvw => self.evex_two(|t, a, b| t.shifted(Op::Vshr, I16, a, b)),
            M::Vpsravw => self.evex_two(|t, a, b| t.shifted(Op::Vsar, I16, a, b)),
            M::Vpsravq => self.evex_two(|t, a, b| t.shifted(Op::Vsar, I64, a, b)),
            M::Vpsraq => self.shift_quadwords(),
            M::Vprolvd => self.evex_two(|t, a, b| t.rotated(I32, a, b)),
            M::Vprolvq => self.evex_two(|t, a, b| t.rotated(I64, a, b)),
            M::Vprorvd => self.evex_two(|t, a, b| t.rotated_right(I32, a, b)),
            M::Vprorvq => self.evex_two(|t, a, b| t.rotated_right(I64, a, b)),
            M::Vprold => self.rotate_by(I32, true),
            M::Vprolq => self.rotate_by(I64, true),
            M::Vprord => self.rotate_by(I32, false),
            M::Vprorq => self.rotate_by(I64, false),
            M::Vpshldw => self.funnel_by(I16, true),
            M::Vpshldd => self.funnel_by(I32, true),
            M::Vpshldq => self.funnel_by(I64, true),
            M::Vpshrdw => self.funnel_by(I16, false),
            M::Vpshrdd => self.funnel_by(I32, false),
            M::Vpshrdq => self.funnel_by(I64, false),
            M::Vpshldvw => self.evex_three(|t, old, a, n| t.funnel(I16, old, a, n)),
            M::Vpshldvd => self.evex_three(|t, old, a, n| t.funnel(I32, old, a, n)),
            M::Vpshldvq => self.evex_three(|t, old, a, n| t.funnel(I64, old, a, n)),
            M::Vpshrdvw => self.evex_three(|t, old, a, n| t.funnel_right(I16, old, a, n)),
            M::Vpshrdvd => self.evex_three(|t, old, a, n| t.funnel_right(I32, old, a, n)),
            M::Vpshrdvq => self.evex_three(|t, old, a, n| t.funnel_right(I64, old, a, n)),
            M::Vplzcntd => self.evex_one(|t, v| t.function1(VecFn::Clz, v, 2)),
            M::Vplzcntq => self.evex_one(|t, v| t.function1(VecFn::Clz, v, 3)),
            M::Vpopcntb => self.evex_one(|t, v| t.function1(VecFn::Ones, v, 0)),
            M::Vpopcntw => self.evex_one(|t, v| t.function1(VecFn::Ones, v, 1)),
            M::Vpopcntd => self.evex_one(|t, v| t.function1(VecFn::Ones, v, 2)),
            M::Vpopcntq => self.evex_one(|t, v| t.function1(VecFn::Ones, v, 3)),
            M::Vpconflictd => self.evex_one(|t, v| t.function1(VecFn::Conflict, v, 2)),
            M::Vpconflictq => self.evex_one(|t, v| t.function1(VecFn::Conflict, v, 3)),
            M::Vpdpbusd => self.evex_three(|t, old, a, b| t.function3(VecFn::Dot, [old, a, b], 0)),
            M::Vpdpwssd => self.evex_three(|t, old, a, b| t.function3(VecFn::Dot, [old, a, b], 1)),
            M::Vpdpbusds => self.evex_three(|t, old, a, b| t.function3(VecFn::Dot, [old, a, b], 2)),
            M::Vpdpwssds => self.evex_three(|t, old, a, b| t.function3(VecFn::Dot, [old, a, b], 3)),
            M::Vpmadd52luq => self.evex_three(|t, old, a, b| t.function3(VecFn::Mul52, [old, a, b], 0)),
            M::Vpmadd52huq => self.evex_three(|t, old, a, b| t.function3(VecFn::Mul52, [old, a, b], 1)),
            M::Vpmultishiftqb => self.evex_two(|t, a, b| t.function(VecFn::BytesAt, a, b, 0)),
            M::Vdbpsadbw => self.evex_two(|t, a, b| {
                let imm = t.imm8().into();
                t.function(VecFn::SadPicked, a, b, imm)
            }),
            M::Vpblendmb => self.blend_by_mask(I8),
            M::Vpblendmw => self.blend_by_mask(I16),
            M::Vpblendmd | M::Vblendmps => self.blend_by_mask(I32),
            M::Vpblendmq | M::Vblendmpd => self.blend_by_mask(I64),
            _ => return false,
        }
        true
    }

    /// Width of the instruction, from its encoding: registers may be narrower.
    pub(super) fn evex_type(&self) -> Type {
        let i = &self.insn;
        // The field rounds, or means nothing, where registers alone are read without exceptions.
        let whole = i.rounding_control() != RoundingControl::None || i.suppress_all_exceptions();
        match if whole { 2 } else { self.evex_length } {
            0 => Type::V128,
            1 => Type::V256,
            _ => Type::V512,
        }
    }

    /// The result of one source.
    pub(super) fn evex_one(&mut self, make: impl FnOnce(&mut Self, Value) -> Value) {
        if self.avx_on() {
            let v = self.vector(1);
            let r = make(self, v);
            self.set_vector(r);
        }
    }

    /// The result of two sources.
    pub(super) fn evex_two(&mut self, make: impl FnOnce(&mut Self, Value, Value) -> Value) {
        if self.avx_on() {
            let (b, a) = (self.vector(1), self.vector(0));
            let r = make(self, a, b);
            self.set_vector(r);
        }
    }

    /// The result of the destination's old value and two sources.
    pub(super) fn evex_three(&mut self, make: impl FnOnce(&mut Self, Value, Value, Value) -> Value) {
        if self.avx_on() {
            let ty = self.vector_type();
            let [b, a, old] = [2, 1, 0].map(|n| self.read_vector(n, ty));
            let r = make(self, old, a, b);
            self.set_vector(r);
        }
    }

    /// A vector function of three operands.
    pub(super) fn function3(&mut self, f: VecFn, args: [Value; 3], imm: u64) -> Value {
        let ty = self.b.ty(args[0]);
        self.b.vector(Op::Vfn3, ty, Lane::I8, f as u16, args, imm)
    }

    /// Bit 4 of the table's index is the destination's old bit: it chooses between two functions of the sources.
    fn ternary_logic(&mut self) {
        let imm = self.imm8();
        self.evex_three(|t, old, a, b| {
            let (clear, set) = (imm & 15, imm >> 4);
            let no = t.of_two_bits(clear, a, b);
            if clear == set {
                return no;
            }
            let yes = t.of_two_bits(set, a, b);
            t.merge(old, yes, no)
        });
    }

    /// A function of two bits: bit `2 * a + b` of the table.
    fn of_two_bits(&mut self, table: u8, a: Value, b: Value) -> Value {
        let ty = self.b.ty(a);
        let direct = match table {
            0 | 15 => return self.splat(ty, Lane::I64, if table == 0 { 0 } else { u64::MAX }),
            0b1100 => return a,
            0b1010 => return b,
            0b1000 | 0b0111 => self.lanes(Op::Vand, Lane::I8, a, b),
            0b1110 | 0b0001 => self.lanes(Op::Vor, Lane::I8, a, b),
            0b0110 | 0b1001 => self.lanes(Op::Vxor, Lane::I8, a, b),
            0b0100 | 0b1011 => self.lanes(Op::Vandc, Lane::I8, a, b),
            0b0010 | 0b1101 => self.lanes(Op::Vandc, Lane::I8, b, a),
            0b0011 => a,
            _ => b,
        };
        if matches!(table, 0b1000 | 0b1110 | 0b0110 | 0b0100 | 0b0010) {
            return direct;
        }
        self.lanes(Op::Vnot, Lane::I8, direct, Value::NONE)
    }

    /// Lanes shifted by those of `n`: by the width or more gives zeros or signs.
    fn shifted(&mut self, op: Op, lane: Lane, v: Value, n: Value) -> Value {
        let ty = self.b.ty(v);
        let width = lane.bytes() as u64 * 8;
        if op == Op::Vsar {
            let most = self.splat(ty, lane, width - 1);
            let n = self.lanes(Op::Vminu, lane, n, most);
            return self.lanes(op, lane, v, n);
        }
        let r = self.lanes(op, lane, v, n);
        let width = self.splat(ty, lane, width);
        let inside = self.compared(Cond::Ltu, lane, n, width);
        self.lanes(Op::Vand, lane, r, inside)
    }

    /// VPSRAQ by an immediate, or by the low quadword of a register or of memory.
    fn shift_quadwords(&mut self) {
        if !self.avx_on() {
            return;
        }
        let last = self.insn.op_count() - 1;
        if self.insn.op_kind(last) == OpKind::Immediate8 {
            let n = u64::from(self.imm8()).min(63);
            return self.evex_one(|t, v| t.lanes_imm(Op::Vsari, Lane::I64, v, n));
        }
        let count = self.shift_count(2, Type::V128);
        let n = self.lane(Type::I64, Lane::I64, count, 0);
        let v = self.vector(0);
        let ty = self.b.ty(v);
        let n = self.b.vector(Op::Vsplat, ty, Lane::I64, 0, [n, Value::NONE, Value::NONE], 0);
        let r = self.shifted(Op::Vsar, Lane::I64, v, n);
        self.set_vector(r);
    }

    fn rotated(&mut self, lane: Lane, v: Value, n: Value) -> Value {
        let back = self.lanes(Op::Vneg, lane, n, Value::NONE);
        let (left, right) = (self.lanes(Op::Vshl, lane, v, n), self.lanes(Op::Vshr, lane, v, back));
        self.lanes(Op::Vor, lane, left, right)
    }

    fn rotated_right(&mut self, lane: Lane, v: Value, n: Value) -> Value {
        let n = self.lanes(Op::Vneg, lane, n, Value::NONE);
        self.rotated(lane, v, n)
    }

    fn rotate_by(&mut self, lane: Lane, left: bool) {
        let width = lane.bytes() as u64 * 8;
        let n = u64::from(self.imm8()) % width;
        let n = if left { n } else { (width - n) % width };
        self.evex_one(|t, v| {
            if n == 0 {
                return v;
            }
            let (left, right) =
                (t.lanes_imm(Op::Vshli, lane, v, n), t.lanes_imm(Op::Vshri, lane, v, width - n));
            t.lanes(Op::Vor, lane, left, right)
        });
    }

    /// The upper half of `a` above `b` shifted to the left.
    fn funnel(&mut self, lane: Lane, a: Value, b: Value, n: Value) -> Value {
        let left = self.lanes(Op::Vshl, lane, a, n);
        // By one and by the rest of the width less one: a count of zero leaves nothing of it.
        let b = self.lanes_imm(Op::Vshri, lane, b, 1);
        let rest = self.lanes(Op::Vnot, lane, n, Value::NONE);
        let right = self.lanes(Op::Vshr, lane, b, rest);
        self.lanes(Op::Vor, lane, left, right)
    }

    /// The lower half of `b` above `a` shifted to the right.
    fn funnel_right(&mut self, lane: Lane, a: Value, b: Value, n: Value) -> Value {
        let right = self.lanes(Op::Vshr, lane, a, n);
        let b = self.lanes_imm(Op::Vshli, lane, b, 1);
        let rest = self.lanes(Op::Vnot, lane, n, Value::NONE);
        let left = self.lanes(Op::Vshl, lane, b, rest);
        self.lanes(Op::Vor, lane, left, right)
    }

    fn funnel_by(&mut self, lane: Lane, left: bool) {
        let n = u64::from(self.imm8());
        self.evex_two(|t, a, b| {
            let ty = t.b.ty(a);
            let n = t.splat(ty, lane, n);
            if left { t.funnel(lane, a, b, n) } else { t.funnel_right(lane, a, b, n) }
        });
    }

    /// The second source where the mask has ones, elsewhere the first, or zero.
    fn blend_by_mask(&mut self, lane: Lane) {
        if !self.avx_on() {
            return;
        }
        let ty = self.vector_type();
        let b = self.read_vector(2, ty);
        if !self.has_mask() {
            return self.put_vector(b);
        }
        let a =
            if self.insn.zeroing_masking() { self.splat(ty, Lane::I64, 0) } else { self.read_vector(1, ty) };
        let k = self.mask();
        let mask = self.lanes_from(ty, lane, k);
        let r = self.merge(mask, b, a);
        self.put_vector(r);
    }
}

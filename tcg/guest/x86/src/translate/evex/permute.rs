//! Permutations, compression and expansion, wider and narrower lanes (SDM volume 2, VPERM*, VPCOMPRESS*, VPEXPAND*, VPMOV*,
//! PMOVSX, PMOVZX, VALIGN*).

use iced_x86::{Mnemonic, OpKind};
use tcg_ir::{Lane, Op, Type, Value, VecFn};

use super::{
    super::{Translator, names::ByName, operand::int},
    int_lane, log2,
};

/// A change of the lanes' size, in bytes.
#[derive(Debug, Clone, Copy)]
enum Resize {
    /// VPMOVZX and VPMOVSX.
    Wider { from: usize, to: usize, signed: bool },
    /// VPMOV; `how`: 0 cuts, 1 and 2 saturate with and without a sign.
    Narrower { from: usize, to: usize, how: u64 },
}

impl Resize {
    /// From the manual's name: its last letters are the lanes of the source and of the destination.
    fn named(name: &str) -> Option<Self> {
        let rest = name.strip_prefix("vpmov")?;
        let size = |c: u8| match c {
            b'b' => Some(1),
            b'w' => Some(2),
            b'd' => Some(4),
            b'q' => Some(8),
            _ => None,
        };
        let [.., from, to] = name.as_bytes() else { return None };
        let (from, to) = (size(*from)?, size(*to)?);
        if from < to && (rest.starts_with("zx") || rest.starts_with("sx")) {
            return Some(Self::Wider { from, to, signed: rest.starts_with('s') });
        }
        let how = match rest.len() {
            2 => 0,
            3 if rest.starts_with('s') => 1,
            4 if rest.starts_with("us") => 2,
            _ => return None,
        };
        (from > to).then_some(Self::Narrower { from, to, how })
    }
}

static RESIZES: ByName<Option<Resize>> = ByName::new(Resize::named);

impl Translator<'_, '_> {
    /// Instructions of this family.
    pub(super) fn evex_permute(&mut self, m: Mnemonic) -> bool {
        use Mnemonic as M;
        let by_immediate = self.insn.op_kind(self.insn.op_count().saturating_sub(1)) == OpKind::Immediate8;
        match m {
            M::Vpermb => self.pick_lanes(1),
            M::Vpermw => self.pick_lanes(2),
            M::Vpermd | M::Vpermps => self.pick_lanes(4),
            M::Vpermq | M::Vpermpd if !by_immediate => self.pick_lanes(8),
            M::Vpermi2b => self.pick_of_two(1, true),
            M::Vpermi2w => self.pick_of_two(2, true),
            M::Vpermi2d | M::Vpermi2ps => self.pick_of_two(4, true),
            M::Vpermi2q | M::Vpermi2pd => self.pick_of_two(8, true),
            M::Vpermt2b => self.pick_of_two(1, false),
            M::Vpermt2w => self.pick_of_two(2, false),
            M::Vpermt2d | M::Vpermt2ps => self.pick_of_two(4, false),
            M::Vpermt2q | M::Vpermt2pd => self.pick_of_two(8, false),
            M::Valignd | M::Valignq => {
                let wide = m == M::Valignq;
                self.evex_two(|t, a, b| {
                    let lanes = (t.b.ty(a).bytes() / if wide { 8 } else { 4 }) as u64;
                    let imm = u64::from(t.imm8()) & (lanes - 1) | u64::from(wide) << 4;
                    t.function(VecFn::AlignLanes, a, b, imm)
                });
            }
            M::Vpcompressb => self.compress(1),
            M::Vpcompressw => self.compress(2),
            M::Vpcompressd | M::Vcompressps => self.compress(4),
            M::Vpcompressq | M::Vcompresspd => self.compress(8),
            M::Vpexpandb => self.expand(1),
            M::Vpexpandw => self.expand(2),
            M::Vpexpandd | M::Vexpandps => self.expand(4),
            M::Vpexpandq | M::Vexpandpd => self.expand(8),
            _ => return self.evex_resize(m),
        }
        true
    }

    /// Lanes of the second source picked by those of the first.
    fn pick_lanes(&mut self, bytes: usize) {
        self.evex_two(|t, indices, data| t.function(VecFn::Gather, data, indices, log2(bytes)));
    }

    /// Lanes of two tables; the indices are the destination's old value, or stand between the tables.
    fn pick_of_two(&mut self, bytes: usize, indices_first: bool) {
        self.evex_three(|t, old, a, b| {
            let args = if indices_first { [a, old, b] } else { [old, a, b] };
            t.function3(VecFn::GatherTwo, args, log2(bytes))
        });
    }

    /// As many ones as `mask` has among its `lanes` lowest bits.
    fn ones_of(&mut self, mask: Value) -> Value {
        let n = self.b.unary(Op::Popcnt, mask);
        let one = self.b.iconst(Type::I64, 1);
        // In two steps, as 64 of them are more than a shift can do.
        let half = self.b.shr(n, one);
        let rest = self.b.sub(n, half);
        let v = self.b.shl(one, half);
        let v = self.b.shl(v, rest);
        self.b.addi(v, -1)
    }

    /// The mask's lanes, all of them without one.
    fn mask_or_all(&mut self, lanes: u64) -> Value {
        if self.has_mask() {
            return self.mask_of(lanes);
        }
        let all = self.b.iconst(Type::I64, u64::MAX);
        self.low_bits(all, lanes)
    }

    fn compress(&mut self, bytes: usize) {
        if !self.avx_on() {
            return;
        }
        let ty = self.evex_type();
        let lanes = (ty.bytes() / bytes) as u64;
        let v = self.read_vector(1, ty);
        let mask = self.mask_or_all(lanes);
        let ones = self.ones_of(mask);
        let which = self.lanes_from(ty, int_lane(bytes), mask);
        let r = self.function(VecFn::Compress, v, which, log2(bytes));
        if self.is_memory(0) {
            let ea = self.ea_sized(bytes as u64, true);
            self.store_lanes(&ea, r, ones, bytes);
        } else {
            let r = self.merged(r, ones, lanes);
            self.put_vector(r);
        }
    }

    fn expand(&mut self, bytes: usize) {
        if !self.avx_on() {
            return;
        }
        let ty = self.evex_type();
        let lanes = (ty.bytes() / bytes) as u64;
        let mask = self.mask_or_all(lanes);
        let v = if self.is_memory(1) {
            let ones = self.ones_of(mask);
            let ea = self.ea_sized(bytes as u64, false);
            self.load_lanes(ty, &ea, ones, bytes)
        } else {
            self.read_vector(1, ty)
        };
        let which = self.lanes_from(ty, int_lane(bytes), mask);
        let r = self.function(VecFn::Expand, v, which, log2(bytes));
        self.set_vector(r);
    }

    fn evex_resize(&mut self, m: Mnemonic) -> bool {
        match RESIZES.get(m) {
            Some(Resize::Wider { from, to, signed }) => self.widen_lanes(from, to, signed),
            Some(Resize::Narrower { from, to, how }) => self.narrow_lanes(from, to, how),
            None => return false,
        }
        true
    }

    fn widen_lanes(&mut self, from: usize, to: usize, signed: bool) {
        if !self.avx_on() {
            return;
        }
        let ty = self.vector_type();
        let lanes = ty.bytes() / to;
        let v = self.narrow_source(lanes, from);
        let mut v = self.padded(ty, v);
        let mut now = from;
        while now < to {
            now *= 2;
            v = self.b.vector(Op::Vwiden, ty, int_lane(now), signed.into(), [v, Value::NONE, Value::NONE], 0);
        }
        self.set_vector(v);
    }

    /// Source 1, `lanes` lanes of `bytes` bytes in the low part of a vector, each for a lane of the mask.
    pub(super) fn narrow_source(&mut self, lanes: usize, bytes: usize) -> Value {
        let size = lanes * bytes;
        let ty = match size {
            32 => Type::V256,
            64 => Type::V512,
            _ => Type::V128,
        };
        if !self.is_memory(1) {
            return self.read_vector(1, ty);
        }
        if self.insn.is_broadcast() {
            let v = self.element(bytes, lanes as u64);
            return self.b.vector(Op::Vsplat, ty, int_lane(bytes), 0, [v, Value::NONE, Value::NONE], 0);
        }
        let ea = self.ea_sized(size as u64, false);
        if self.has_mask() {
            let mask = self.mask_of(lanes as u64);
            return self.load_lanes(ty, &ea, mask, bytes);
        }
        if size >= 16 {
            return self.load(ty, &ea);
        }
        let v = self.load(int(size), &ea);
        let v = self.b.zext(Type::I64, v);
        let zero = self.zeros();
        self.with_lane(Lane::I64, zero, 0, v)
    }

    fn narrow_lanes(&mut self, from: usize, to: usize, how: u64) {
        if !self.avx_on() {
            return;
        }
        let ty = self.evex_type();
        let lanes = ty.bytes() / from;
        let v = self.read_vector(1, ty);
        let r = self.function1(VecFn::Narrow, v, log2(from) | log2(to) << 2 | how << 4);
        self.store_narrow(r, lanes, to);
    }

    /// Writes a result of `lanes` lanes of `bytes` bytes, the low part of a vector with zeros above, to a register or memory.
    pub(super) fn store_narrow(&mut self, v: Value, lanes: usize, bytes: usize) {
        let size = lanes * bytes;
        let v = self.part_of(if size >= 32 { Type::V256 } else { Type::V128 }, v, 0);
        if !self.is_memory(0) {
            return self.set_vector_lanes(v, lanes as u64);
        }
        let ea = self.ea_sized(size as u64, true);
        if self.has_mask() {
            let mask = self.mask_of(lanes as u64);
            self.store_lanes(&ea, v, mask, bytes);
        } else if size >= 16 {
            self.store(&ea, v);
        } else {
            let v = self.lane(int(size), int_lane(size), v, 0);
            self.store(&ea, v);
        }
    }
}

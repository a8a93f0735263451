//! AVX-512 (SDM volume 1, chapter 15; volume 2, 2.7): what EVEX adds to the instructions of `sse` and `avx`, and those that are
//! new.
//!
//! An instruction is an operation on whole vectors and a mask policy. The policy is applied where operands come from and
//! results go: memory is read and broadcast by `memory_lanes`, which leaves lanes alone that the mask excludes;
//! floating-point operands get 1.0 in such lanes (`active_lanes`), which raises nothing anywhere; `masked` merges the result
//! with the old one or with zeros. What a lane is to the mask follows from the instruction's name (`Policy`).

mod broadcast;
mod compare;
mod convert;
mod float;
mod indexed;
mod integer;
mod moves;
mod opmask;
mod permute;

use iced_x86::{Mnemonic, Register, RoundingControl};
use tcg_ir::{FpAttr, Lane, Op, Rounding, Type, Value};

use super::{
    Translator,
    names::ByName,
    operand::{Ea, int},
};
use crate::{
    avx512::{LoadIf, LoadLanes, StoreLanes},
    state,
};

/// What the mask of an instruction counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Policy {
    /// Lanes of the destination.
    lane: Lane,
    /// The lowest alone.
    scalar: bool,
    /// Lanes of a source are not those of the destination: memory is read whole (exception types E4NF, E5NF, E6NF).
    whole: bool,
}

/// Names of instructions that read memory whole begin so.
const WHOLE: &[&str] = &[
    "vpack",
    "vpunpck",
    "vpshuf",
    "vshuf",
    "vunpck",
    "vperm",
    "valign",
    "vpalignr",
    "vdbpsad",
    "vpmultishift",
    "vmovddup",
    "vmovsh",
    "vmovsl",
    "vpmaddubsw",
    "vpmaddwd",
    "vgf2p8affine",
    "vpconflict",
    "vinsert",
];

impl Policy {
    /// From the manual's name of an instruction.
    fn named(name: &str) -> Self {
        let (lane, scalar) = lanes_of(name);
        Self { lane, scalar, whole: WHOLE.iter().any(|w| name.starts_with(w)) }
    }
}

/// The lanes an instruction writes, and whether it is one alone.
fn lanes_of(name: &str) -> (Lane, bool) {
    let ends = |with: &str| name.ends_with(with);
    let packed = |lane| (lane, false);
    // Conversions are named after what comes out, shuffles of blocks after their lanes.
    let name = name.rsplit_once('2').filter(|_| name.starts_with("vcvt")).map_or(name, |(_, to)| to);
    if name.contains("32x") || ends("dqa32") || ends("dqu32") {
        return packed(Lane::I32);
    }
    if name.contains("64x") || ends("dqa64") || ends("dqu64") || ends("movddup") {
        return packed(Lane::I64);
    }
    match name {
        "ps" | "dq" | "udq" => return packed(Lane::I32),
        "pd" | "qq" | "uqq" => return packed(Lane::I64),
        "vmovshdup" | "vmovsldup" => return packed(Lane::I32),
        "ph" | "vmovdqu16" | "vpunpcklwd" | "vpunpckhwd" => return packed(Lane::I16),
        "vpunpckldq" | "vpunpckhdq" => return packed(Lane::I32),
        "vmovdqu8" | "vpunpcklbw" | "vpunpckhbw" | "vpalignr" => return packed(Lane::I8),
        _ => {}
    }
    let integer = name.starts_with("vp") || name.starts_with("valign") || name.starts_with("vgf2");
    let name = name.strip_suffix('s').filter(|n| n.starts_with("vpdp")).unwrap_or(name);
    let end = if name.starts_with("vpcmp") { name.len() - 1 } else { name.len().saturating_sub(2) };
    match (&name[end..], integer) {
        ("ps", _) => packed(Lane::I32),
        ("pd", _) => packed(Lane::I64),
        ("ss", false) => (Lane::I32, !name.starts_with("vbroadcast")),
        ("sd", false) => (Lane::I64, !name.starts_with("vbroadcast")),
        (end, _) => packed(match end.as_bytes().last() {
            Some(b'w') => Lane::I16,
            Some(b'd') => Lane::I32,
            Some(b'q') => Lane::I64,
            _ => Lane::I8,
        }),
    }
}

static POLICIES: ByName<Policy> = ByName::new(Policy::named);

/// The integer lane of a size.
pub(super) const fn int_lane(bytes: usize) -> Lane {
    match bytes {
        1 => Lane::I8,
        2 => Lane::I16,
        4 => Lane::I32,
        _ => Lane::I64,
    }
}

const fn log2(bytes: usize) -> u64 {
    bytes.trailing_zeros() as u64
}

impl Translator<'_, '_> {
    /// Instructions with EVEX that are not those of `sse` and `avx`.
    pub(super) fn evex(&mut self, m: Mnemonic) -> bool {
        self.evex_moves(m)
            || self.evex_broadcast(m)
            || self.evex_integer(m)
            || self.evex_compare(m)
            || self.evex_permute(m)
            || self.evex_convert(m)
            || self.evex_float(m)
            || self.evex_indexed(m)
    }

    fn policy(&self) -> Policy {
        POLICIES.get(self.insn.mnemonic())
    }

    /// What the instruction has a mask for it has one.
    pub(super) fn has_mask(&self) -> bool {
        self.is_evex() && self.insn.op_mask() != Register::None
    }

    /// The mask register.
    fn mask(&mut self) -> Value {
        let k = self.insn.op_mask().number();
        self.b.get(state::opmask(k), Type::I64)
    }

    /// Its low bits, `count` of them.
    fn mask_of(&mut self, count: u64) -> Value {
        let k = self.mask();
        self.low_bits(k, count)
    }

    /// The low bits of an i64.
    fn low_bits(&mut self, v: Value, count: u64) -> Value {
        if count >= 64 {
            return v;
        }
        let ones = self.b.iconst(Type::I64, (1 << count) - 1);
        self.b.and(v, ones)
    }

    /// All ones in lanes of the bits of an i64.
    fn lanes_from(&mut self, ty: Type, lane: Lane, bits: Value) -> Value {
        let lane = int_lane(lane.bytes());
        self.b.vector(Op::Vmask, ty, lane, 0, [bits, Value::NONE, Value::NONE], 0)
    }

    /// The top bits of lanes as an i64.
    fn bits_of(&mut self, lane: Lane, v: Value) -> Value {
        let lane = int_lane(lane.bytes());
        self.b.vector(Op::Vbits, Type::I64, lane, 0, [v, Value::NONE, Value::NONE], 0)
    }

    // Results.

    /// The result where the mask has ones; elsewhere the destination's old value, or zero.
    pub(super) fn masked(&mut self, v: Value) -> Value {
        let p = self.policy();
        let lanes = (self.b.ty(v).bytes() / p.lane.bytes()) as u64;
        self.masked_lanes(v, if p.scalar { 1 } else { lanes })
    }

    /// The same for the lowest `count` lanes; those above are the result's.
    fn masked_lanes(&mut self, v: Value, count: u64) -> Value {
        if !self.has_mask() {
            return v;
        }
        let k = self.mask();
        self.merged(v, k, count)
    }

    /// The same with another mask.
    fn merged(&mut self, v: Value, bits: Value, count: u64) -> Value {
        let (ty, lane) = (self.b.ty(v), self.policy().lane);
        let mut bits = bits;
        if count < (ty.bytes() / lane.bytes()) as u64 {
            let above = self.b.iconst(Type::I64, u64::MAX << count);
            bits = self.b.or(bits, above);
        }
        let old = if self.insn.zeroing_masking() {
            self.splat(ty, Lane::I64, 0)
        } else {
            let r = self.insn.op_register(0).number();
            self.vector_register(r, ty)
        };
        let mask = self.lanes_from(ty, lane, bits);
        self.merge(mask, v, old)
    }

    /// Writes the destination register whose result has `count` lanes.
    fn set_vector_lanes(&mut self, v: Value, count: u64) {
        let v = self.masked_lanes(v, count);
        self.put_vector(v);
    }

    /// The registers' upper parts are in use from here on; see `Mode::high`.
    pub(super) fn go_high(&mut self) {
        if self.mode.high {
            return;
        }
        let on = self.b.iconst(Type::I64, 1);
        self.b.set(state::HIGH, on);
        self.mode.high = true;
        self.went_high = true;
        // The unit's head was translated for registers that have nothing there.
        self.head_block = None;
    }

    // Floating point.

    /// Attributes with the rounding that the instruction has for itself.
    pub(super) fn embedded(&self, attr: FpAttr) -> FpAttr {
        let rounding = match self.insn.rounding_control() {
            RoundingControl::RoundToNearest => Rounding::NearestEven,
            RoundingControl::RoundDown => Rounding::Down,
            RoundingControl::RoundUp => Rounding::Up,
            RoundingControl::RoundTowardZero => Rounding::Zero,
            RoundingControl::None if self.insn.suppress_all_exceptions() => return attr.with_quiet(),
            RoundingControl::None => return attr,
        };
        attr.with_rounding(rounding).with_quiet()
    }

    /// 1.0 in the width of a lane.
    fn one_bits(&mut self, bytes: usize) -> Value {
        let bits = if bytes == 4 { 1f32.to_bits().into() } else { 1f64.to_bits() };
        self.b.iconst(int(bytes), bits)
    }

    /// Float operand `n` with 1.0 in lanes that the mask excludes, which raises nothing.
    pub(super) fn active_vector(&mut self, n: u32, lane: Lane) -> Value {
        let v = self.vector(n);
        self.active_lanes(lane, v)
    }

    /// The same of a value.
    pub(super) fn active_lanes(&mut self, lane: Lane, v: Value) -> Value {
        if !self.has_mask() {
            return v;
        }
        let ty = self.b.ty(v);
        let one = self.one_bits(lane.bytes());
        let ones =
            self.b.vector(Op::Vsplat, ty, int_lane(lane.bytes()), 0, [one, Value::NONE, Value::NONE], 0);
        let k = self.mask();
        let mask = self.lanes_from(ty, lane, k);
        self.merge(mask, v, ones)
    }

    /// The same of the lowest lane.
    pub(super) fn active_scalar(&mut self, v: Value) -> Value {
        if !self.has_mask() {
            return v;
        }
        let ty = self.b.ty(v);
        let one = self.one_bits(ty.bytes());
        let one = self.b.bitcast(ty, one);
        let on = self.mask_of(1);
        self.b.select(on, v, one)
    }

    // Memory.

    /// The memory operand as a vector: whole, by lanes of the mask, or one element for all lanes.
    pub(super) fn memory_lanes(&mut self, ty: Type) -> Value {
        let p = self.policy();
        if !self.insn.is_broadcast() {
            return self.memory_elements(ty, (ty.bytes() / p.lane.bytes()) as u64);
        }
        let bytes = self.insn.memory_size().size();
        let v = self.element(bytes, (ty.bytes() / p.lane.bytes()) as u64);
        self.b.vector(Op::Vsplat, ty, int_lane(bytes), 0, [v, Value::NONE, Value::NONE], 0)
    }

    /// Memory of type `ty` that has `count` elements, each for a lane of the mask.
    fn memory_elements(&mut self, ty: Type, count: u64) -> Value {
        let ea = self.ea_sized(ty.bytes() as u64, false);
        if !self.has_mask() || self.policy().whole {
            return self.load(ty, &ea);
        }
        let mask = self.mask_of(count);
        self.load_lanes(ty, &ea, mask, ty.bytes() / count as usize)
    }

    /// One element of `bytes` bytes of memory for `count` lanes; not looked at if the mask has none of them.
    fn element(&mut self, bytes: usize, count: u64) -> Value {
        let ea = self.ea_sized(bytes as u64, false);
        if !self.has_mask() || self.policy().whole {
            return self.load(int(bytes), &ea);
        }
        let on = self.mask_of(count);
        self.load_if(&ea, on, bytes)
    }

    fn load_if(&mut self, ea: &Ea, on: Value, bytes: usize) -> Value {
        let at = self.ea_value(ea);
        let size = self.b.iconst(Type::I64, log2(bytes));
        let v = self.call::<LoadIf>(&[at, on, size]);
        self.b.trunc(int(bytes), v)
    }

    /// The memory operand as a scalar, which the lowest bit of the mask lets be read.
    pub(super) fn memory_scalar(&mut self, ty: Type) -> Value {
        let v = self.element(ty.bytes(), 1);
        self.b.bitcast(ty, v)
    }

    /// Lanes of `bytes` bytes of memory where `mask` has ones, zeros elsewhere.
    fn load_lanes(&mut self, ty: Type, ea: &Ea, mask: Value, bytes: usize) -> Value {
        let at = self.ea_value(ea);
        let size = self.b.iconst(Type::I64, log2(bytes));
        self.call::<LoadLanes>(&[at, mask, size]);
        let v = self.b.get(state::scratch(0), Type::V512);
        self.part_of(ty, v, 0)
    }

    /// Stores lanes of `bytes` bytes where `mask` has ones.
    fn store_lanes(&mut self, ea: &Ea, v: Value, mask: Value, bytes: usize) {
        let v = self.padded(Type::V512, v);
        self.b.set(state::scratch(0), v);
        let at = self.ea_value(ea);
        let size = self.b.iconst(Type::I64, log2(bytes));
        self.call::<StoreLanes>(&[at, mask, size]);
    }

    /// Stores to the memory operand: all of it, or the lanes of the mask.
    fn store_masked(&mut self, v: Value) {
        let ty = self.b.ty(v);
        let ea = self.ea_sized(ty.bytes() as u64, true);
        if !self.has_mask() {
            self.store(&ea, v);
            return;
        }
        let bytes = self.policy().lane.bytes();
        let mask = self.mask_of((ty.bytes() / bytes) as u64);
        self.store_lanes(&ea, v, mask, bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_say_what_a_lane_is() {
        let lane = |name| (Policy::named(name).lane, Policy::named(name).scalar);
        assert_eq!((lane("vaddss"), lane("vaddpd")), ((Lane::I32, true), (Lane::I64, false)));
        assert_eq!((lane("vpabsd"), lane("vpdpwssds")), ((Lane::I32, false), (Lane::I32, false)));
        assert_eq!((lane("vpmaxsd"), lane("vbroadcastsd")), ((Lane::I32, false), (Lane::I64, false)));
        assert_eq!((lane("vcvtpd2udq"), lane("vcvtsd2ss")), ((Lane::I32, false), (Lane::I32, true)));
        assert_eq!((lane("vpackssdw"), lane("vpunpcklbw")), ((Lane::I16, false), (Lane::I8, false)));
        assert_eq!((lane("vinserti32x8"), lane("vmovdqu8")), ((Lane::I32, false), (Lane::I8, false)));
        assert_eq!((lane("vpmadd52luq"), lane("vpermi2ps")), ((Lane::I64, false), (Lane::I32, false)));
        assert_eq!((lane("vcvtps2ph"), lane("vgf2p8affineqb")), ((Lane::I16, false), (Lane::I8, false)));
        assert_eq!((lane("valignq"), lane("vpmovswb")), ((Lane::I64, false), (Lane::I8, false)));
        assert_eq!((lane("vpandnq"), lane("vrndscaless")), ((Lane::I64, false), (Lane::I32, true)));
        assert_eq!((lane("vpcmpd"), lane("vpcmpuw")), ((Lane::I32, false), (Lane::I16, false)));
        assert!(Policy::named("vpermw").whole && !Policy::named("vpaddw").whole);
    }
}

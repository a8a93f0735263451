//! Lane-wise operations.

use super::{Val, float, scalar, vecfn};
use crate::{Cond, Effect, Exceptions, FpAttr, Inst, Lane, Op, RmwOp, Type, VecFn};

impl Val {
    /// Lane `i` of `bytes` bytes, zero-extended; lane 0 is the least significant.
    #[inline]
    #[must_use]
    pub fn lane(&self, i: usize, bytes: usize) -> u64 {
        let bit = i * bytes * 8;
        self.0[(bit / 64) & 7] >> (bit % 64) & scalar::low_mask(bytes as u32 * 8)
    }

    /// Replaces lane `i` of `bytes` bytes by the low bits of `v`.
    #[inline]
    pub fn set_lane(&mut self, i: usize, bytes: usize, v: u64) {
        let bit = i * bytes * 8;
        let m = scalar::low_mask(bytes as u32 * 8) << (bit % 64);
        let w = &mut self.0[(bit / 64) & 7];
        *w = *w & !m | v << (bit % 64) & m;
    }
}

/// The lane type a vector operation of float lanes computes in.
fn float_type(lane: Lane) -> Type {
    if lane.bytes() == 8 { Type::F64 } else { Type::F32 }
}

/// The value of a vector operation; `None` if it is none.
pub(super) fn vector(inst: &Inst, types: [Type; 3], args: [&Val; 3], exc: &mut Exceptions) -> Option<Val> {
    let lane = Lane::from_bits(inst.sub & 0xff);
    let l = lane.bytes();
    let bits = l as u32 * 8;
    let [a, b, c] = args;
    let mut r = Val::ZERO;
    if inst.op == Op::Vextract {
        let count = types[0].bytes() / l;
        let i = if count == 0 { 0 } else { inst.imm as usize % count };
        return Some(Val::from_u64(a.lane(i, l)));
    }
    match inst.op {
        Op::Vbits => {
            let lanes = types[0].bytes() / l;
            let bit = |i: usize| (a.lane(i, l) >> (bits - 1) & 1) << i;
            return Some(Val::from_u64((0..lanes).map(bit).fold(0, |x, y| x | y)));
        }
        Op::Vreduce => {
            let (lanes, op) = (types[0].bytes() / l, RmwOp::from_bits(inst.sub >> 8));
            let all =
                (1..lanes).fold(u128::from(a.lane(0, l)), |x, i| super::rmw(op, l, x, a.lane(i, l).into()));
            return Some(Val::from_u64(all as u64 & scalar::low_mask(bits)));
        }
        _ => {}
    }
    let words = inst.ty.bytes().div_ceil(8);
    let count = inst.ty.bytes() / l;
    let mut each = |f: &mut dyn FnMut(u64, u64) -> u64| {
        for i in 0..count {
            r.set_lane(i, l, f(a.lane(i, l), b.lane(i, l)));
        }
    };
    let sx = |v| scalar::sext(v, bits);
    let pick = |take_a: bool, x: u64, y: u64| if take_a { x } else { y };
    match inst.op {
        Op::Vadd => each(&mut |x, y| x.wrapping_add(y)),
        Op::Vsub => each(&mut |x, y| x.wrapping_sub(y)),
        Op::Vmul => each(&mut |x, y| x.wrapping_mul(y)),
        Op::Vmulhu => each(&mut |x, y| ((u128::from(x) * u128::from(y)) >> bits) as u64),
        Op::Vmulhs => each(&mut |x, y| ((i128::from(sx(x)) * i128::from(sx(y))) >> bits) as u64),
        Op::Vneg => each(&mut |x, _| x.wrapping_neg()),
        Op::Vmin => each(&mut |x, y| pick(sx(x) < sx(y), x, y)),
        Op::Vmax => each(&mut |x, y| pick(sx(x) > sx(y), x, y)),
        Op::Vminu => each(&mut |x, y| x.min(y)),
        Op::Vmaxu => each(&mut |x, y| x.max(y)),
        Op::Vshli => each(&mut |x, _| x << (inst.imm as u32 & (bits - 1))),
        Op::Vshri => each(&mut |x, _| x >> (inst.imm as u32 & (bits - 1))),
        Op::Vsari => each(&mut |x, _| (sx(x) >> (inst.imm as u32 & (bits - 1))) as u64),
        Op::Vshl => each(&mut |x, y| x << (y as u32 & (bits - 1))),
        Op::Vshr => each(&mut |x, y| x >> (y as u32 & (bits - 1))),
        Op::Vsar => each(&mut |x, y| (sx(x) >> (y as u32 & (bits - 1))) as u64),
        Op::Vcmp => {
            let cond = Cond::from_bits(inst.sub >> 8);
            each(&mut |x, y| if scalar::compare(cond, bits, x, y) { u64::MAX } else { 0 });
        }
        Op::Vand => (0..words).for_each(|i| r.0[i] = a.0[i] & b.0[i]),
        Op::Vor => (0..words).for_each(|i| r.0[i] = a.0[i] | b.0[i]),
        Op::Vxor => (0..words).for_each(|i| r.0[i] = a.0[i] ^ b.0[i]),
        Op::Vandc => (0..words).for_each(|i| r.0[i] = a.0[i] & !b.0[i]),
        Op::Vnot => (0..words).for_each(|i| r.0[i] = !a.0[i]),
        Op::Vselect => (0..words).for_each(|i| r.0[i] = a.0[i] & b.0[i] | !a.0[i] & c.0[i]),
        Op::Vsplat => (0..count).for_each(|i| r.set_lane(i, l, a.0[0])),
        Op::Vinsert => {
            r.0[..words].copy_from_slice(&a.0[..words]);
            if count != 0 {
                r.set_lane(inst.imm as usize % count, l, b.0[0]);
            }
        }
        Op::Vtbl => {
            let n = inst.ty.bytes();
            for i in 0..n {
                let j = b.lane(i, 1) as usize;
                r.set_lane(i, 1, if j < n { a.lane(j, 1) } else { 0 });
            }
        }
        Op::Vmask => (0..count).for_each(|i| r.set_lane(i, l, 0u64.wrapping_sub(a.0[0] >> i & 1))),
        Op::Vwiden => {
            let (from, n) = (l / 2, bits / 2);
            let first = if inst.sub >> 9 & 1 != 0 { count } else { 0 };
            for i in 0..count {
                let v = a.lane(first + i, from);
                r.set_lane(i, l, if inst.sub >> 8 & 1 != 0 { scalar::sext(v, n) as u64 } else { v });
            }
        }
        Op::Vnarrow => {
            for i in 0..count {
                let from = if i < count / 2 { a } else { b };
                r.set_lane(i, l, from.lane(i % (count / 2), 2 * l));
            }
        }
        Op::Vjoin => {
            let half = words / 2;
            r.0[..half].copy_from_slice(&a.0[..half]);
            r.0[half..words].copy_from_slice(&b.0[..half]);
        }
        Op::Vpart => {
            let at = inst.imm as usize * words;
            r.0[..words].copy_from_slice(a.0.get(at..at + words)?);
        }
        Op::Vfn1 | Op::Vfn2 | Op::Vfn3 => {
            let f = VecFn::from_bits(inst.sub >> 8);
            r = vecfn::function(f, inst.ty.bytes(), args, inst.imm as u8);
        }
        op if op.info().effect == Effect::Fp => {
            let op = match inst.op {
                Op::Vfadd => Op::Fadd,
                Op::Vfsub => Op::Fsub,
                Op::Vfmul => Op::Fmul,
                Op::Vfdiv => Op::Fdiv,
                Op::Vfsqrt => Op::Fsqrt,
                Op::Vfmin => Op::Fmin,
                Op::Vfmax => Op::Fmax,
                Op::Vfcmp => Op::Fcmp,
                Op::Vfrint => Op::Frint,
                Op::Vftoi => Op::Ftoi,
                Op::Vitof => Op::Itof,
                _ => Op::Fma,
            };
            let (ty, attr) = (float_type(lane), FpAttr(inst.imm as u16));
            let int = if l == 8 { Type::I64 } else { Type::I32 };
            let to = if op == Op::Ftoi { int } else { ty };
            let from = if op == Op::Itof { int } else { ty };
            for i in 0..count {
                let v = float::float(op, attr, to, from, [a.lane(i, l), b.lane(i, l), c.lane(i, l)], exc);
                let v = v.unwrap_or(0);
                r.set_lane(i, l, if op == Op::Fcmp { 0u64.wrapping_sub(v) } else { v });
            }
        }
        _ => return None,
    }
    Some(r)
}

//! Lowering: operations a host lacks, written with those it has.
//!
//! A back end says what it has in [`Capabilities`]; [`Lowering::run`] expands the rest in front of it and leaves what has
//! no expansion (a back end calls its run time for those). Runs after the passes, which know the whole operations.
//! Expansions are made of operations that are expanded in turn, down to add, sub, and, or, xor, shifts, setcc,
//! extensions and bit casts, which every host has.

use crate::interp::{canonical_nan, low_mask};
use crate::{Cond, Inst, Lane, Op, Region, Type, Value};

/// A set of operations.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OpSet([u64; 2]);

const _: () = assert!(Op::ALL.len() <= 128);

impl OpSet {
    /// Every operation.
    pub const ALL: Self = Self([u64::MAX; 2]);

    /// True if `op` is in the set.
    #[must_use]
    pub const fn contains(self, op: Op) -> bool {
        self.0[op as usize >> 6] >> (op as usize & 63) & 1 != 0
    }

    /// Without these.
    #[must_use]
    pub const fn without(mut self, ops: &[Op]) -> Self {
        let mut i = 0;
        while i < ops.len() {
            self.0[ops[i] as usize >> 6] &= !(1 << (ops[i] as usize & 63));
            i += 1;
        }
        self
    }
}

/// What a host has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Capabilities {
    /// Operations, at the types below.
    pub ops: OpSet,
    /// Arithmetic on i8 and i16. Without it those are computed in i32 (moves, memory, slots and extensions aside).
    pub narrow: bool,
}

/// Buffers of the lowering, kept from region to region.
#[derive(Debug, Default)]
pub struct Lowering {
    out: Vec<Value>,
}

impl Lowering {
    /// Expands what `caps` lacks. Values keep their numbers; constants and steps between are new ones.
    pub fn run(&mut self, r: &mut Region, caps: &Capabilities) {
        for b in 0..r.blocks.len() {
            let params = r.blocks[b].params as usize;
            self.out.clear();
            self.out.extend_from_slice(&r.blocks[b].insts[..params]);
            for k in params..r.blocks[b].insts.len() {
                let v = r.blocks[b].insts[k];
                let mut x = Expander { r, out: &mut self.out, caps };
                let new = x.expand(*x.r.inst(v));
                r.insts[v.index()] = new;
                self.out.push(v);
            }
            std::mem::swap(&mut r.blocks[b].insts, &mut self.out);
        }
    }
}

struct Expander<'a> {
    r: &'a mut Region,
    out: &'a mut Vec<Value>,
    caps: &'a Capabilities,
}

const NONE: Value = Value::NONE;

const fn with(op: Op, ty: Type, a: Value, b: Value) -> Inst {
    Inst { op, ty, sub: 0, a, b, c: NONE, imm: 0 }
}

/// The integer type with the size of `ty`.
const fn int_of(ty: Type) -> Type {
    match ty.bytes() {
        1 => Type::I8,
        2 => Type::I16,
        4 => Type::I32,
        _ => Type::I64,
    }
}

/// 64 bits in fields of `field` bits, the low half of each set.
fn stripes(field: u32) -> u64 {
    (0..64).step_by(field as usize).fold(0, |m, at| m | low_mask(field / 2) << at)
}

impl Expander<'_> {
    fn expand(&mut self, mut i: Inst) -> Inst {
        // Each step leads to simpler operations; the bound is far above the longest chain.
        for _ in 0..8 {
            let next = match self.narrow(&i) {
                None if self.caps.ops.contains(i.op) => None,
                None => self.step(&i),
                wide => wide,
            };
            match next {
                Some(n) => i = n,
                None => break,
            }
        }
        i
    }

    fn ty(&self, v: Value) -> Type {
        self.r.inst(v).ty
    }

    fn push(&mut self, i: Inst) -> Value {
        let i = self.expand(i);
        let v = Value(self.r.insts.len() as u32);
        self.r.insts.push(i);
        self.out.push(v);
        v
    }

    fn int(&mut self, ty: Type, n: u64) -> Value {
        self.push(Inst { imm: n & ty.mask(), ..with(Op::Const, ty, NONE, NONE) })
    }

    fn op(&mut self, op: Op, a: Value, b: Value) -> Value {
        let ty = self.ty(a);
        self.push(with(op, ty, a, b))
    }

    fn with_int(&mut self, op: Op, a: Value, n: u64) -> Value {
        let ty = self.ty(a);
        let c = self.int(ty, n);
        self.op(op, a, c)
    }

    fn to(&mut self, op: Op, ty: Type, a: Value) -> Value {
        self.push(with(op, ty, a, NONE))
    }

    /// `a` as bits.
    fn bits(&mut self, a: Value) -> Value {
        let ty = self.ty(a);
        self.to(Op::Bitcast, int_of(ty), a)
    }

    /// One step of the expansion of an operation the host lacks; `None` if there is none.
    #[expect(clippy::too_many_lines, reason = "one arm an operation")]
    fn step(&mut self, i: &Inst) -> Option<Inst> {
        let (ty, w, a, b) = (i.ty, i.ty.bits(), i.a, i.b);
        if ty.is_vector() {
            return self.vector(i);
        }
        let small = w <= 64;
        Some(match i.op {
            Op::Andc | Op::Orc => {
                let not = self.op(Op::Not, b, NONE);
                with(if i.op == Op::Andc { Op::And } else { Op::Or }, ty, a, not)
            }
            Op::Eqv => {
                let x = self.op(Op::Xor, a, b);
                with(Op::Not, ty, x, NONE)
            }
            Op::Not if small => {
                let ones = self.int(ty, u64::MAX);
                with(Op::Xor, ty, a, ones)
            }
            Op::Neg => {
                let zero = self.int(ty, 0);
                with(Op::Sub, ty, zero, a)
            }
            Op::Rotr => {
                let n = self.op(Op::Neg, b, NONE);
                with(Op::Rotl, ty, a, n)
            }
            Op::Rotl => {
                // Counts are modulo the width, so `-b` is `w - b`, and a count of 0 ors `a` with itself.
                let n = self.op(Op::Neg, b, NONE);
                let (hi, lo) = (self.op(Op::Shl, a, b), self.op(Op::Shr, a, n));
                with(Op::Or, ty, hi, lo)
            }
            Op::Popcnt if small => {
                let half = self.with_int(Op::Shr, a, 1);
                let half = self.with_int(Op::And, half, stripes(2));
                let x = self.op(Op::Sub, a, half);
                let (lo, hi) = (self.with_int(Op::And, x, stripes(4)), self.with_int(Op::Shr, x, 2));
                let hi = self.with_int(Op::And, hi, stripes(4));
                let x = self.op(Op::Add, lo, hi);
                let hi = self.with_int(Op::Shr, x, 4);
                let x = self.op(Op::Add, x, hi);
                let mut x = self.with_int(Op::And, x, stripes(8));
                // Sums of neighbours; a byte holds every sum.
                let mut n = 8;
                while n < w {
                    let hi = self.with_int(Op::Shr, x, u64::from(n));
                    x = self.op(Op::Add, x, hi);
                    n *= 2;
                }
                let mask = self.int(ty, 0x7f);
                with(Op::And, ty, x, mask)
            }
            Op::Clz if small => {
                let (mut x, mut n) = (a, 1);
                while n < w {
                    let y = self.with_int(Op::Shr, x, u64::from(n));
                    x = self.op(Op::Or, x, y);
                    n *= 2;
                }
                let not = self.op(Op::Not, x, NONE);
                with(Op::Popcnt, ty, not, NONE)
            }
            Op::Ctz if small => {
                let less = self.with_int(Op::Sub, a, 1);
                let below = self.op(Op::Andc, less, a);
                with(Op::Popcnt, ty, below, NONE)
            }
            Op::Bswap if w == 8 => with(Op::Or, ty, a, a),
            Op::Bswap if small => {
                let (mut x, mut n) = (a, 8);
                loop {
                    let up = self.with_int(Op::Shl, x, u64::from(n));
                    let down = self.with_int(Op::Shr, x, u64::from(n));
                    if n * 2 == w {
                        break with(Op::Or, ty, up, down);
                    }
                    let up = self.with_int(Op::And, up, !stripes(2 * n));
                    let down = self.with_int(Op::And, down, stripes(2 * n));
                    x = self.op(Op::Or, up, down);
                    n *= 2;
                }
            }
            Op::Mulhu if w < 64 => {
                let (x, y) = (self.to(Op::Zext, Type::I64, a), self.to(Op::Zext, Type::I64, b));
                let p = self.op(Op::Mul, x, y);
                let p = self.with_int(Op::Shr, p, u64::from(w));
                with(Op::Trunc, ty, p, NONE)
            }
            Op::Mulhu if w == 64 => {
                let lo = |x: &mut Self, v| x.with_int(Op::And, v, 0xffff_ffff);
                let hi = |x: &mut Self, v| x.with_int(Op::Shr, v, 32);
                let (al, ah, bl, bh) = (lo(self, a), hi(self, a), lo(self, b), hi(self, b));
                let low = self.op(Op::Mul, al, bl);
                let low = hi(self, low);
                let m = self.op(Op::Mul, ah, bl);
                let m = self.op(Op::Add, m, low);
                let (m_low, m_high) = (lo(self, m), hi(self, m));
                let n = self.op(Op::Mul, al, bh);
                let n = self.op(Op::Add, n, m_low);
                let n = hi(self, n);
                let top = self.op(Op::Mul, ah, bh);
                let top = self.op(Op::Add, top, m_high);
                with(Op::Add, ty, top, n)
            }
            Op::Mulhs | Op::Mulhsu if small => {
                let top = self.op(Op::Mulhu, a, b);
                let sign = self.with_int(Op::Sar, a, u64::from(w) - 1);
                let off = self.op(Op::And, sign, b);
                if i.op == Op::Mulhsu {
                    return Some(with(Op::Sub, ty, top, off));
                }
                let top = self.op(Op::Sub, top, off);
                let sign = self.with_int(Op::Sar, b, u64::from(w) - 1);
                let off = self.op(Op::And, sign, a);
                with(Op::Sub, ty, top, off)
            }
            Op::Extract | Op::Sextract => {
                let (pos, len) = ((i.imm & 0xff) as u32, (i.imm >> 8 & 0xff) as u32);
                let up = self.with_int(Op::Shl, a, u64::from(w - pos - len));
                let n = self.int(ty, u64::from(w - len));
                with(if i.op == Op::Extract { Op::Shr } else { Op::Sar }, ty, up, n)
            }
            Op::Deposit if small => {
                let (pos, len) = ((i.imm & 0xff) as u32, (i.imm >> 8 & 0xff) as u32);
                let m = low_mask(len) << pos;
                let rest = self.with_int(Op::And, a, !m);
                let put = self.with_int(Op::Shl, b, u64::from(pos));
                let put = self.with_int(Op::And, put, m);
                with(Op::Or, ty, rest, put)
            }
            Op::Select if ty.is_int() && small && self.ty(a).bits() <= 64 => {
                let cond = self.ty(a);
                let zero = self.int(cond, 0);
                let yes = self.push(Inst { sub: Cond::Ne as u16, ..with(Op::Setcc, ty, a, zero) });
                let mask = self.op(Op::Neg, yes, NONE);
                let (x, y) = (self.op(Op::And, b, mask), self.op(Op::Andc, i.c, mask));
                with(Op::Or, ty, x, y)
            }
            Op::Fneg | Op::Fabs => {
                let x = self.bits(a);
                let sign = 1 << (w - 1);
                let x = match i.op {
                    Op::Fneg => self.with_int(Op::Xor, x, sign),
                    _ => self.with_int(Op::And, x, !sign),
                };
                with(Op::Bitcast, ty, x, NONE)
            }
            Op::Fsgnj => {
                let (x, mut y) = (self.bits(a), self.bits(b));
                let sign = 1 << (w - 1);
                if i.sub == 1 {
                    y = self.op(Op::Not, y, NONE);
                }
                let y = self.with_int(Op::And, y, sign);
                let r = if i.sub == 2 {
                    self.op(Op::Xor, x, y)
                } else {
                    let x = self.with_int(Op::And, x, !sign);
                    self.op(Op::Or, x, y)
                };
                with(Op::Bitcast, ty, r, NONE)
            }
            Op::Fbox => {
                let x = self.bits(a);
                let high = !low_mask(self.ty(a).bits());
                let x = self.to(Op::Zext, Type::I64, x);
                let x = self.with_int(Op::Or, x, high);
                with(Op::Bitcast, ty, x, NONE)
            }
            Op::Funbox => {
                let x = self.bits(a);
                let high = self.int(Type::I64, !low_mask(w));
                let boxed = self.push(Inst { sub: Cond::Geu as u16, ..with(Op::Setcc, Type::I32, x, high) });
                let low = self.to(Op::Trunc, int_of(ty), x);
                let nan = self.int(int_of(ty), canonical_nan(ty));
                let r = self.push(Inst { c: nan, ..with(Op::Select, int_of(ty), boxed, low) });
                with(Op::Bitcast, ty, r, NONE)
            }
            _ => return None,
        })
    }

    fn vector(&mut self, i: &Inst) -> Option<Inst> {
        let (ty, a, b, c) = (i.ty, i.a, i.b, i.c);
        let any = Lane::I64 as u16;
        let lane = Lane::from_bits(i.sub & 0xff);
        let splat = |x: &mut Self, n: u64| {
            let n = x.int(Type::I64, n);
            x.push(Inst { sub: lane as u16, ..with(Op::Vsplat, ty, n, NONE) })
        };
        let choose = |x: &mut Self, cond: Cond| {
            let m = x.push(Inst { sub: lane as u16 | (cond as u16) << 8, ..with(Op::Vcmp, ty, a, b) });
            Inst { op: Op::Vselect, ty, sub: any, a: m, b: a, c: b, imm: 0 }
        };
        Some(match i.op {
            Op::Vnot => {
                let ones = splat(self, u64::MAX);
                Inst { sub: any, ..with(Op::Vxor, ty, a, ones) }
            }
            Op::Vandc => {
                let not = self.push(Inst { sub: any, ..with(Op::Vnot, ty, b, NONE) });
                Inst { sub: any, ..with(Op::Vand, ty, a, not) }
            }
            Op::Vneg => {
                let zero = splat(self, 0);
                Inst { sub: i.sub, ..with(Op::Vsub, ty, zero, a) }
            }
            Op::Vmin => choose(self, Cond::Lt),
            Op::Vmax => choose(self, Cond::Gt),
            Op::Vminu => choose(self, Cond::Ltu),
            Op::Vmaxu => choose(self, Cond::Gtu),
            Op::Vselect => {
                let x = self.push(Inst { sub: any, ..with(Op::Vand, ty, b, a) });
                let y = self.push(Inst { sub: any, ..with(Op::Vandc, ty, c, a) });
                Inst { sub: any, ..with(Op::Vor, ty, x, y) }
            }
            Op::Vshli | Op::Vshri | Op::Vsari => {
                let n = splat(self, i.imm);
                let op = match i.op {
                    Op::Vshli => Op::Vshl,
                    Op::Vshri => Op::Vshr,
                    _ => Op::Vsar,
                };
                Inst { sub: i.sub, ..with(op, ty, a, n) }
            }
            _ => return None,
        })
    }

    /// Arithmetic on i8 and i16, in i32.
    fn narrow(&mut self, i: &Inst) -> Option<Inst> {
        let is = |t: Type| matches!(t, Type::I8 | Type::I16);
        if self.caps.narrow {
            return None;
        }
        if i.op == Op::Setcc && is(self.ty(i.a)) {
            let signed = matches!(Cond::from_bits(i.sub), Cond::Lt | Cond::Ge | Cond::Le | Cond::Gt);
            let op = if signed { Op::Sext } else { Op::Zext };
            let (a, b) = (self.to(op, Type::I32, i.a), self.to(op, Type::I32, i.b));
            return Some(Inst { a, b, ..*i });
        }
        if !is(i.ty) {
            return None;
        }
        let (ty, w) = (i.ty, u64::from(i.ty.bits()));
        let wide = Type::I32;
        let r = match i.op {
            Op::Add
            | Op::Sub
            | Op::Mul
            | Op::And
            | Op::Or
            | Op::Xor
            | Op::Andc
            | Op::Orc
            | Op::Eqv
            | Op::Divu
            | Op::Remu
            | Op::Clmul => {
                let (a, b) = (self.to(Op::Zext, wide, i.a), self.to(Op::Zext, wide, i.b));
                self.op(i.op, a, b)
            }
            Op::Divs | Op::Rems => {
                let (a, b) = (self.to(Op::Sext, wide, i.a), self.to(Op::Sext, wide, i.b));
                self.op(i.op, a, b)
            }
            Op::Mulhu | Op::Mulhs | Op::Mulhsu | Op::Clmulh => {
                let (x, y, op) = match i.op {
                    Op::Mulhu => (Op::Zext, Op::Zext, Op::Mul),
                    Op::Mulhs => (Op::Sext, Op::Sext, Op::Mul),
                    Op::Mulhsu => (Op::Sext, Op::Zext, Op::Mul),
                    _ => (Op::Zext, Op::Zext, Op::Clmul),
                };
                let (a, b) = (self.to(x, wide, i.a), self.to(y, wide, i.b));
                let p = self.op(op, a, b);
                self.with_int(Op::Shr, p, w)
            }
            Op::Shl | Op::Shr | Op::Sar => {
                let ext = if i.op == Op::Sar { Op::Sext } else { Op::Zext };
                let (a, b) = (self.to(ext, wide, i.a), self.to(Op::Zext, wide, i.b));
                let b = self.with_int(Op::And, b, w - 1);
                self.op(i.op, a, b)
            }
            Op::Rotl | Op::Rotr => {
                // Both halves of the value doubled: a rotation is a shift of it.
                let a = self.to(Op::Zext, wide, i.a);
                let b = self.to(Op::Zext, wide, i.b);
                let b = if i.op == Op::Rotl { self.op(Op::Neg, b, NONE) } else { b };
                let b = self.with_int(Op::And, b, w - 1);
                let up = self.with_int(Op::Shl, a, w);
                let twice = self.op(Op::Or, a, up);
                self.op(Op::Shr, twice, b)
            }
            Op::Not | Op::Neg | Op::Popcnt => {
                let a = self.to(Op::Zext, wide, i.a);
                self.op(i.op, a, NONE)
            }
            Op::Clz => {
                let a = self.to(Op::Zext, wide, i.a);
                let n = self.op(Op::Clz, a, NONE);
                self.with_int(Op::Sub, n, 32 - w)
            }
            Op::Ctz => {
                let a = self.to(Op::Zext, wide, i.a);
                let a = self.with_int(Op::Or, a, 1 << w);
                self.op(Op::Ctz, a, NONE)
            }
            Op::Bswap => {
                let a = self.to(Op::Zext, wide, i.a);
                let a = self.op(Op::Bswap, a, NONE);
                self.with_int(Op::Shr, a, 32 - w)
            }
            Op::Extract | Op::Sextract => {
                let a = self.to(Op::Zext, wide, i.a);
                self.push(Inst { imm: i.imm, ..with(i.op, wide, a, NONE) })
            }
            Op::Deposit => {
                let (a, b) = (self.to(Op::Zext, wide, i.a), self.to(Op::Zext, wide, i.b));
                self.push(Inst { imm: i.imm, ..with(i.op, wide, a, b) })
            }
            Op::Select => {
                let (x, y) = (self.to(Op::Zext, wide, i.b), self.to(Op::Zext, wide, i.c));
                self.push(Inst { c: y, ..with(Op::Select, wide, i.a, x) })
            }
            Op::Setcc => self.push(Inst { ty: wide, ..*i }),
            _ => return None,
        };
        Some(with(Op::Trunc, ty, r, NONE))
    }
}
